#!/usr/bin/python3
"""Stores and sidecars that are not what they should be, and stores that are
in use: a message that names the thing, and nothing is changed.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import shutil
import signal
import socket
import subprocess

from locallib import *

SIZE = (3 << 20) + 1536
HOLES = [(1 << 20, 256 << 10)]


def golden(d):
    data = make_golden(d("golden"), SIZE, HOLES)
    return Source(d, d("golden")), data


def refused_store(d, path, *words, args=(), files=()):
    return refused(d, path, "size=1M", *args, words=[path, *words],
                   files=files)


def test_what_is_no_file_or_device_is_refused_as_store(d):
    os.mkdir(d("folder"))
    os.mkfifo(d("fifo"))
    s = socket.socket(socket.AF_UNIX)
    s.bind(d("socket"))
    os.symlink(d("loop"), d("loop"))
    for name, word in (("folder", "s a directory"), ("fifo", "regular file"),
                       ("socket", "neither a regular file"), ("loop", "symbolic")):
        before = snapshot(d(name))
        refused_store(d, d(name), word)
        assert snapshot(d(name)) == before
        assert not os.path.exists(d(name + ".backfill"))
    refused(d, "/dev/null", "size=1M", words=["/dev/null", "regular file"])
    s.close()


def test_readonly_what_is_no_file_or_device_is_refused_too(d):
    os.mkdir(d("folder"))
    os.mkfifo(d("fifo"))
    for name in ("folder", "fifo"):
        refused(d, d(name), "readonly=on", words=[d(name), "regular file"])


def test_a_store_in_a_missing_folder_is_refused(d):
    refused_store(d, d("no/where/disk"), "No such file")
    assert not os.path.exists(d("no"))


def test_a_store_that_cannot_be_made_from_anything_is_refused(d):
    refused(d, d("disk"), words=[d("disk"), "backing=", "size="])
    refused(d, d("disk"), "readonly=on", words=[d("disk")])
    assert not os.path.exists(d("disk"))
    assert not os.path.exists(d("disk.backfill"))


def test_an_unreadable_store_or_sidecar_is_refused(d):
    nobody = as_nobody()
    shutil.copy(PLUGIN, d("plugin.so"))
    run = d.make("nobody-run")
    os.chown(run, 65534, 65534)
    os.chmod(d.path, 0o777)
    try:
        ok = Server(d, d("probe"), "size=1M", wrap=nobody, run=run,
                    plugin=d("plugin.so"))
    except Refused as e:
        raise Skip("nobody cannot run it: " + e.text)
    ok.kill()
    s = Server(d, d("disk"), "size=1M")
    s.stop()
    for path in (d("disk"), d("disk.backfill")):
        other = d("disk.backfill") if path == d("disk") else d("disk")
        os.chmod(path, 0o600)
        os.chmod(other, 0o666)
        refused(d, d("disk"), words=[path, "Permission denied"], wrap=nobody,
                run=run, plugin=d("plugin.so"),
                files=[d("disk"), d("disk.backfill")])


def test_what_is_no_file_is_refused_as_sidecar(d):
    os.mkdir(d("folder"))
    os.mkfifo(d("fifo"))
    open(d("empty"), "w").close()
    with open(d("text"), "w") as f:
        f.write("Nobody expects a text file.\n" * 3000)
    with open(d("disk"), "wb") as f:
        f.write(pattern(3, 0, 1 << 20))
    for name, word in (("folder", "s a directory"), ("fifo", "regular file"),
                       ("empty", "cut short"), ("text", "not a sidecar"),
                       ("no/where", "No such file"),
                       ("text/file", "Not a directory")):
        files = [d("disk")] + [d(name)] * os.path.isfile(d(name))
        refused(d, d("disk"), "size=1M", "adopt=absent", "metadata=" + d(name),
                words=[d(name), word], files=files)


def test_another_size_or_granule_than_it_was_made_with_is_refused(d):
    source, data = golden(d)
    refused(d, d("disk"), "backing=" + source.uri, "size=1M",
            words=["size=1048576", source.uri, SIZE])
    assert not os.path.exists(d("disk"))
    s = Server(d, d("disk"), "backing=" + source.uri, "granule=8k")
    s.nbd().pwrite(pattern(2, 0, 4096), 0)
    s.stop()
    files = [d("disk"), d("disk.backfill")]
    refused(d, d("disk"), "size=1M", words=["size=1048576", d("disk"), SIZE],
            files=files)
    refused(d, d("disk"), "granule=4k", words=["granule=4096", d("disk"), 8192],
            files=files)
    # What is right may be said.
    s = Server(d, d("disk"), "size=%d" % SIZE, "granule=8k")
    h = s.nbd()
    same(h.pread(SIZE, 0), pattern(2, 0, 4096) + data[4096:])


def test_a_store_that_was_cut_or_made_longer_is_refused(d):
    source, data = golden(d)
    Server(d, d("disk"), "backing=" + source.uri).stop()
    for size in (0, SIZE - 1, SIZE + 1, 2 * SIZE):
        os.truncate(d("disk"), size)
        refused(d, d("disk"), words=[d("disk"), size, SIZE,
                                     d("disk.backfill")],
                files=[d("disk"), d("disk.backfill")])
    os.truncate(d("disk"), SIZE)
    s = Server(d, d("disk"))
    same(s.nbd().pread(SIZE, 0), data)


def test_a_sidecar_whose_store_is_gone_is_refused(d):
    source, data = golden(d)
    s = Server(d, d("disk"), "backing=" + source.uri)
    s.nbd().pwrite(pattern(2, 0, 4096), 0)
    s.stop()
    os.rename(d("disk"), d("away"))
    refused(d, d("disk"), "backing=" + source.uri,
            words=[d("disk"), "is gone", d("disk.backfill")],
            files=[d("disk.backfill"), d("away")])
    assert not os.path.exists(d("disk"))
    os.rename(d("away"), d("disk"))
    s = Server(d, d("disk"))
    same(s.nbd().pread(SIZE, 0), pattern(2, 0, 4096) + data[4096:])


def test_the_sidecar_of_another_store_is_refused(d):
    source, data = golden(d)
    for name in ("a", "b"):
        s = Server(d, d(name), "backing=" + source.uri)
        s.nbd().pwrite(pattern(ord(name), 0, 8192), 0)
        s.stop()
    shutil.copyfile(d("a.backfill"), d("mixed"))
    refused(d, d("b"), "metadata=" + d("mixed"), words=[d("mixed"), d("a"),
                                                        d("b")],
            files=[d("a"), d("b"), d("mixed"), d("b.backfill")])
    # One of the same name, elsewhere: told apart where files can carry the
    # volume's uuid.
    os.mkdir(d("other"))
    s = Server(d, d("other/a"), "backing=" + source.uri)
    s.nbd().pwrite(pattern(7, 0, 8192), 0)
    s.stop()
    try:
        os.getxattr(d("other/a"), "user.backfill.uuid")
    except OSError:
        return
    refused(d, d("other/a"), "metadata=" + d("mixed"),
            words=[d("mixed"), d("other/a")],
            files=[d("a"), d("other/a"), d("mixed")])


def test_a_store_without_a_sidecar_is_refused_unless_told_what_it_holds(d):
    source, data = golden(d)
    old = pattern(9, 0, SIZE)
    with open(d("disk"), "wb") as f:
        f.write(old)
    refused(d, d("disk"), "backing=" + source.uri,
            words=[d("disk"), d("disk.backfill"), "adopt=local",
                   "adopt=absent"], files=[d("disk")])
    assert not os.path.exists(d("disk.backfill"))
    refused(d, d("disk"), "backing=" + source.uri, "adopt=moved",
            words=[d("disk"), "adopt=local"], files=[d("disk")])
    refused(d, d("disk"), "backing=" + source.uri, "adopt=perhaps",
            words=["adopt=perhaps", "local"], files=[d("disk")])


def test_adopted_as_local_the_store_is_the_truth_and_needs_no_source(d):
    old = pattern(9, 0, SIZE)
    with open(d("disk"), "wb") as f:
        f.write(old)
    refused(d, d("disk"), "adopt=local", "size=1M",
            words=["size=1048576", d("disk"), SIZE], files=[d("disk")])
    # A source that nobody can reach is not needed.
    s = Server(d, d("disk"), "adopt=local",
               "backing=nbd+unix:///?socket=" + d("nobody"))
    h = s.nbd()
    same(h.pread(SIZE, 0), old)
    h.pwrite(pattern(2, 1000, 5000), 1000)
    i = s.info()
    assert i["complete"] and i["local"] == SIZE and i["source"] == "none", i
    h.shutdown()
    s.stop()
    want = old[:1000] + pattern(2, 1000, 5000) + old[6000:]
    with open(d("disk"), "rb") as f:
        same(f.read(), want, what="the raw image")
    # The same command line works again, and without adopt= too.
    for args in (["adopt=local"], []):
        s = Server(d, d("disk"), *args)
        same(s.nbd().pread(SIZE, 0), want)
        s.kill()


def test_adopted_as_absent_nothing_of_the_store_is_ever_seen(d):
    source, data = golden(d)
    with open(d("disk"), "wb") as f:
        f.write(pattern(9, 0, SIZE + 512))
    refused(d, d("disk"), "backing=" + source.uri, "adopt=absent",
            words=[d("disk"), SIZE + 512, SIZE], files=[d("disk")])
    assert not os.path.exists(d("disk.backfill"))
    os.truncate(d("disk"), SIZE - 4096)  # a shorter one is made longer
    s = Server(d, d("disk"), "backing=" + source.uri, "adopt=absent")
    h = s.nbd()
    want = bytearray(data)
    # Zeroes, trims and parts of granules over what is left there.
    h.zero(10000, 5000)
    want[5000:15000] = bytes(10000)
    h.pwrite(pattern(2, 20000, 700), 20000)
    want[20000:20700] = pattern(2, 20000, 700)
    h.trim(65536, 131072)
    h.cache(65536, 1 << 20)
    trimmed = h.pread(65536, 131072)
    for i in range(0, 65536, SECTOR):
        assert trimmed[i:i + SECTOR] in (bytes(SECTOR),
                                         data[131072 + i:131072 + i + SECTOR])
    want[131072:196608] = trimmed
    same(h.pread(SIZE, 0), bytes(want))
    s.ask("block-allocate")
    assert wait_job(s, "concluded")["result"] == "completed"
    h.shutdown()
    s.stop()
    with open(d("disk"), "rb") as f:
        same(f.read(), bytes(want), what="the raw image")
    # Where there is a sidecar adopt= does nothing.
    for adopt in ("absent", "local"):
        s = Server(d, d("disk"), "backing=" + source.uri, "adopt=" + adopt)
        same(s.nbd().pread(SIZE, 0), bytes(want))
        s.kill()


def test_a_store_in_use_is_refused_and_its_owner_is_named(d):
    source, data = golden(d)
    os.mkdir(d("elsewhere"))
    os.symlink(d("disk"), d("link"))
    os.symlink(d.path, d("folder"))
    s = Server(d, d("disk"), "backing=" + source.uri)
    os.link(d("disk"), d("elsewhere/hard"))
    h = s.nbd()
    h.pwrite(pattern(2, 0, 4096), 0)
    owner = ["is in use", s.pid, s.control]
    b = "backing=" + source.uri
    for what, args in {
            "the same path": [d("disk"), b],
            "from the sidecar": [d("disk")],
            "another path": [d("elsewhere/../disk"), b],
            "a folder's link": [d("folder/disk"), b],
            "a symbolic link": [d("link"), b],
            "a hard link": [d("elsewhere/hard"), b],
            "another sidecar": [d("disk"), b, "metadata=" + d("meta")],
            "to adopt it": [d("disk"), b, "metadata=" + d("meta"),
                            "adopt=absent"],
            "read-only": [d("disk"), "readonly=on"],
    }.items():
        try:
            refused(d, *args, words=owner)
        except AssertionError as e:
            raise AssertionError("%s: %s" % (what, e))
    assert not os.path.exists(d("meta"))
    assert not os.path.exists(d("elsewhere/hard.backfill"))
    # Two disks of one process that are one file.
    refused(d, "name=a", "store=" + d("new"), "size=1M", "name=b",
            "store=" + d("new"), "size=1M", words=[d("new")])
    h.pwrite(pattern(3, 0, 512), 0)
    same(h.pread(SIZE, 0), pattern(3, 0, 512) + pattern(2, 512, 3584)
         + data[4096:])


def test_of_several_disks_one_is_refused_and_the_others_are_left_closed(d):
    source, data = golden(d)
    os.mkdir(d("folder"))
    refused(d, "name=a", "store=" + d("a"), "backing=" + source.uri, "name=b",
            "store=" + d("folder"), "size=1M", words=[d("folder")])
    r = cli("check", d("a"))
    assert r.returncode == 0 and "not closed" not in r.stdout, r
    s = Server(d, d("a"))
    same(s.nbd().pread(SIZE, 0), data)
    s.stop()


def test_the_raw_file_in_use_is_refused_to_qemu(d):
    if shutil.which("qemu-io") is None:
        raise Skip("no qemu-io")
    s = Server(d, d("disk"), "size=1M")
    r = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 4096",
                        d("disk")], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=LONG)
    assert r.returncode != 0 and "lock" in r.stdout, r
    same(s.nbd().pread(1 << 20, 0), bytes(1 << 20))


def test_a_killed_owner_leaves_no_lock(d):
    source, data = golden(d)
    for i in range(3):
        s = Server(d, d("disk"), "backing=" + source.uri)
        h = s.nbd()
        h.pwrite(pattern(2 + i, i * 4096, 4096), i * 4096)
        s.kill()
    s = Server(d, d("disk"))
    same(s.nbd().pread(SIZE, 0), b"".join(
        pattern(2 + i, i * 4096, 4096) for i in range(3)) + data[12288:])


def test_openers_at_the_same_moment_are_one_owner(d):
    source, data = golden(d)
    argv = [NBDKIT, "-f", PLUGIN, d("disk"), "backing=" + source.uri,
            "control=off", "runtime-dir=" + d.run]
    servers = [Process(d, argv[:2] + ["-U", d("s%d" % i)] + argv[2:],
                       "s%d" % i, env=sanitizer_env()) for i in range(6)]
    # All but one end.
    wait_for("one owner", lambda: sum(p.alive() for p in servers) == 1)
    [one] = [p for p in servers if p.alive()]
    for p in servers:
        assert p is one or "in use" in p.text() or "exists" in p.text(), \
            p.text()
    h = nbd.NBD()
    wait_for("its socket", lambda: os.path.exists(d(one.name)))
    h.connect_unix(d(one.name))
    same(h.pread(SIZE, 0), data)
    one.kill()
    s = Server(d, d("disk"))
    same(s.nbd().pread(SIZE, 0), data)


if __name__ == "__main__":
    main(globals())
