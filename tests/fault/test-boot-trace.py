#!/usr/bin/python3
"""Boot traces: what one guest reads first is there for the next one before it
asks; and no trace, whoever wrote it, can do more than have the source read in
another order.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import stat

from locallib import *

MIB = 1 << 20
SIZE = 192 * MIB
UNIT = 65536


def golden(d, tag=1, name="golden"):
    with open(d(name), "wb") as f:
        for at in range(0, SIZE, MIB):
            f.write(pattern(tag, at, MIB))
    return Source(d, d(name))


def places(seed, n=40):
    """Where a guest reads: no two in one unit, none beside another."""
    return [(i * 37 + seed) % (SIZE // UNIT // 2) * 2 * UNIT + 512
            for i in range(n)]


def boot(d, source, at, *keys, tag=1, store="disk", wait=None, then=None):
    """A new volume, and, after wait, its guest reads there; its info at the
    end, after then."""
    for name in store, store + ".backfill":
        if os.path.exists(d(name)):
            os.unlink(d(name))
    s = Server(d, d(store), "backing=" + source.uri, *keys)
    if wait:
        wait_for("the replay", lambda: wait(s.info()))
    h = s.nbd()
    for offset in at:
        same(bytes(h.pread(4096, offset)), pattern(tag, offset, 4096), offset)
    if then:
        wait_for("what is to come", lambda: then(s.info()))
    i = s.info()
    s.stop()
    return i, s.text()


def traces(d):
    return [os.path.join(d("traces"), n) for n in os.listdir(d("traces"))]


def folder(d):
    path = d.make("traces")
    os.chmod(path, 0o700)
    return "trace-dir=" + path


def test_next_guest_finds_it_there(d):
    source, key = golden(d), folder(d)
    i, _ = boot(d, source, places(3), key)
    assert i["trace"]["recording"] and not i["trace"]["used"], i["trace"]
    [path] = traces(d)
    assert os.stat(path).st_mode & 0o777 == 0o600
    # It is all there before anything is asked for.
    i, _ = boot(d, source, places(3), key, store="second",
                wait=lambda i: i["local"] == 40 * UNIT)
    assert i["stats"]["demand-fetches"] == 0, i["stats"]
    assert i["trace"]["used"] == i["trace"]["hit"] == 40 * UNIT, i["trace"]
    assert i["stats"]["bytes-fetched"] == 40 * UNIT, i["stats"]
    # And recorded all the same, though everything was local.
    with open(path, "rb") as f:
        head = f.read().split(b"\n\n")[0].decode()
    assert "boots 2\n" in head, head


def test_off_unless_asked_for(d):
    source = golden(d)
    i, _ = boot(d, source, places(3))
    assert "trace" not in i, i
    i, _ = boot(d, source, places(3), "trace=off", store="second")
    assert "trace" not in i, i


def test_a_file_of_its_own(d):
    source = golden(d)
    boot(d, source, places(3), "trace=" + d("mine"))
    i, _ = boot(d, source, places(3), "trace=" + d("mine"),
                wait=lambda i: i["trace"]["used"] == 40 * UNIT)
    assert i["trace"]["file"] == d("mine"), i


def test_a_file_of_something_else_stays(d):
    """trace= with another file's name costs that file nothing."""
    source = golden(d)
    big = b"precious" * (1 << 18)
    for what in b"precious", big:
        with open(d("mine"), "wb") as f:
            f.write(what)
        _, said = boot(d, source, places(3), "trace=" + d("mine"))
        assert "boot trace not used" in said, said
        with open(d("mine"), "rb") as f:
            assert f.read() == what
    os.unlink(d("mine"))
    os.mkfifo(d("mine"))
    boot(d, source, places(3), "trace=" + d("mine"))
    assert stat.S_ISFIFO(os.lstat(d("mine")).st_mode)
    os.unlink(d("mine"))
    os.symlink(d("golden"), d("mine"))
    boot(d, source, places(3), "trace=" + d("mine"))
    assert os.path.islink(d("mine"))
    # One that mktemp has made, and a trace that is damaged, are ours.
    os.unlink(d("mine"))
    for what in b"", b"backfill-trace 1\nsize":
        with open(d("mine"), "wb") as f:
            f.write(what)
        boot(d, source, places(3), "trace=" + d("mine"))
        assert os.stat(d("mine")).st_size > 100


def test_full_is_saved_at_once(d):
    """A guest that has read as much as a trace holds is still there."""
    key = folder(d)
    with open(d("large"), "wb") as f:
        f.write(pattern(1, 0, MIB))
        f.truncate(300 * MIB)
    source = Source(d, d("large"))
    s = Server(d, d("disk"), "backing=" + source.uri, key)
    h = s.nbd()
    for at in range(0, 4100 * UNIT, 4 * MIB):
        h.pread(4 * MIB, at)
    wait_for("the trace", lambda: [p for p in traces(d) if ".new-" not in p])
    assert not s.info()["trace"]["recording"]
    s.stop()


def test_ends_with_the_recording(d):
    """A replay that waits for the guest does not once nobody notes reads."""
    key = folder(d)
    with open(d("large"), "wb") as f:
        f.write(pattern(1, 0, MIB))
        f.seek(599 * MIB)
        f.write(pattern(1, 599 * MIB, MIB))
    source = Source(d, d("large"))
    s = Server(d, d("disk"), "backing=" + source.uri, key)
    h = s.nbd()
    for at in range(0, 256 * MIB, 4 * MIB):
        h.pread(4 * MIB, at)
    s.stop()
    assert len(traces(d)) == 1
    # What the replay comes to last, and then as much as it forgives.
    s = Server(d, d("second"), "backing=" + source.uri, key)
    h = s.nbd()
    for at in range(255, 167, -4):
        h.pread(4 * MIB, (at - 3) * MIB)
    for at in range(260, 432, 4):
        h.pread(4 * MIB, at * MIB)
    wait_for("the end", lambda: not s.info()["trace"]["recording"])
    wait_for("the replay's end", lambda: not s.info()["trace"]["replaying"])
    s.stop()


def test_elsewhere_little_is_wasted(d):
    source, key = golden(d), folder(d)
    boot(d, source, [i * UNIT for i in range(0, 1500)], key)
    i, _ = boot(d, source, [(1600 + i) * UNIT for i in range(0, 1200)], key,
                then=lambda i: not i["trace"]["replaying"])
    t = i["trace"]
    assert not t["hit"], t
    assert t["used"] <= 24 * MIB, t


def test_another_image(d):
    source = golden(d)
    boot(d, source, places(3), "trace=" + d("mine"))
    with open(d("mine"), "rb") as f:
        before = f.read()
    other = golden(d, 2, "other")
    i, said = boot(d, other, places(3), "trace=" + d("mine"), tag=2)
    assert not i["trace"]["used"], i
    assert "of another image" in said, said
    with open(d("mine"), "rb") as f:
        assert f.read() == before


def test_damaged(d):
    source, key = golden(d), folder(d)
    boot(d, source, places(3), key)
    [path] = traces(d)
    with open(path, "rb") as f:
        good = f.read()
    for bad in (b"", good[:100], good[:-1], good + b"x", b"\0" * len(good),
                good[:-30] + b"\xff" * 30, good.replace(b"ranges", b"Ranges"),
                b"x" * (1 << 20)):
        with open(path, "wb") as f:
            f.write(bad)
        i, said = boot(d, source, places(5, 3), key)
        assert not i["trace"]["used"], i
        assert "boot trace not used: " + path in said, said
        with open(path, "rb") as f:
            assert f.read() != bad, "it is not made anew"
    os.unlink(path)
    os.mkdir(path)
    i, said = boot(d, source, places(5, 3), key)
    assert "boot trace not" in said, said


def test_hostile(d):
    """Of another user, or open to others: neither read nor replaced."""
    need_root()
    source, key = golden(d), folder(d)
    boot(d, source, places(3), key)
    [path] = traces(d)
    for change in (lambda: os.chmod(path, 0o666),
                   lambda: (os.chmod(path, 0o600), os.chown(path, 4321, 4321))):
        change()
        with open(path, "rb") as f:
            before = f.read()
        i, said = boot(d, source, places(3), key)
        assert not i["trace"]["used"], i
        assert "another user" in said, said
        with open(path, "rb") as f:
            assert f.read() == before
    os.unlink(path)
    os.symlink("/etc/passwd", path)
    i, said = boot(d, source, places(3), key)
    assert not i["trace"]["used"], i
    for mode, owner in ((0o777, 0), (0o700, 4321)):
        os.chmod(d("traces"), mode)
        os.chown(d("traces"), owner, owner)
        i, said = boot(d, source, places(3), key)
        assert "trace" not in i, i
        assert "no boot traces: others than root" in said, said


def test_killed(d):
    """SIGKILL loses the recording, and nothing else; a replay goes on."""
    source, key = golden(d), folder(d)
    boot(d, source, places(3), key)
    [path] = traces(d)
    with open(path, "rb") as f:
        before = f.read()
    for _ in range(3):
        s = Server(d, d("killed"), "backing=" + source.uri, key)
        h = s.nbd()
        h.pread(4096, places(3)[0])
        h.pwrite(pattern(9, 512, 4096), 512)
        s.kill()
    with open(path, "rb") as f:
        assert f.read() == before
    s = Server(d, d("killed"), "backing=" + source.uri, key)
    wait_for("the replay", lambda: s.info()["local"] >= 40 * UNIT)
    h = s.nbd()
    for at in places(3):
        same(bytes(h.pread(4096, at)), pattern(1, at, 4096), at)
    same(bytes(h.pread(4096, 512)), pattern(9, 512, 4096), 512)
    s.stop()


def test_source_lost_meanwhile(d):
    """The replay waits for it, the disk's end does not wait for the replay."""
    source, key = golden(d), folder(d)
    boot(d, source, [i * UNIT for i in range(0, 1000)], key)
    s = Server(d, d("second"), "backing=" + source.uri, key, "timeout=2s")
    source.kill()
    begin = time.monotonic()
    s.stop()
    assert time.monotonic() - begin < 60


def test_directory_that_hangs(d):
    """Its trace is lost, after a second, and nothing else."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) \
            or os.environ.get("PRIVATE_MOUNTS") != "1":
        raise Skip("no FUSE, or no private mount namespace")
    source, mnt = golden(d), d.make("mnt")
    fs = Process(d, [built("crash/oddfs"), "-", d.make("below"), mnt], "fs")
    wait_for("the file system", lambda: os.path.ismount(mnt))
    d.mounts.append(mnt)
    os.chmod(mnt, 0o700)
    s = Server(d, d("disk"), "backing=" + source.uri, "trace-dir=" + mnt)
    h = s.nbd()
    h.pwrite(pattern(9, 512, 4096), 512)
    h.pread(4096, 10 * MIB)
    fs.hang()
    try:
        begin = time.monotonic()
        s.stop()
        assert time.monotonic() - begin < 60
        assert "does not answer: not saved" in s.text(), s.text()
    finally:
        fs.resume()
    # It has ended like any other: nothing is to be recovered.
    s = Server(d, d("disk"), "backing=" + source.uri)
    same(bytes(s.nbd().pread(4096, 512)), pattern(9, 512, 4096), 512)
    s.stop()
    assert "recover" not in s.text(), s.text()


def test_no_digest(d):
    source, key = golden(d), folder(d)
    i, _ = boot(d, source, places(3), key, "identity=size")
    assert "trace" not in i, i
    assert not traces(d)


def test_keys(d):
    source = golden(d)
    try:
        Server(d, d("disk"), "backing=" + source.uri, "trace=off",
               "trace-dir=" + d("."))
        assert False, "it starts"
    except Refused as e:
        assert "give one of them" in str(e), e


if __name__ == "__main__":
    main(globals(), mounts=True)
