#!/usr/bin/python3
"""The working map: after SIGKILL it is believed if it is this session's, whole
and ours; else the volume is refused and nothing is changed.  A runtime
directory that is full turns writes into commits, and loses nothing.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import random

from locallib import *

SIZE = (6 << 20) + 1536
HOLES = [(1 << 20, 256 << 10)]


class Killed:
    """A volume whose server was killed: .flushed is what it shows after a
    power cut, .want what it must show now, .work its working map."""

    def __init__(self, d, name="disk", granule=4096, run=None):
        self.d = d
        self.path = d(name)
        if not os.path.exists(d("golden")):
            self.data = make_golden(d("golden"), SIZE, HOLES)
            self.source = Source(d, d("golden"))
        else:
            with open(d("golden"), "rb") as f:
                self.data = f.read()
            self.source = None
        before = in_run(run or d.run, ".work")
        s = Server(d, self.path, "granule=%d" % granule,
                   "backing=nbd+unix:///?socket=" + d("source.sock"), run=run)
        h = s.nbd()
        want = bytearray(self.data)
        for i in range(8):
            at, n = i * 300000 + 7, 9000 + i
            h.pwrite(pattern(2 + i, at, n), at)
            want[at:at + n] = pattern(2 + i, at, n)
        h.flush()
        self.flushed = bytes(want)
        for i in range(8, 16):
            at, n = i * 300000 + 70, 9000 + i
            h.pwrite(pattern(2 + i, at, n), at)
            want[at:at + n] = pattern(2 + i, at, n)
        h.zero(100000, 5 << 20)
        want[5 << 20:(5 << 20) + 100000] = bytes(100000)
        s.kill()
        self.want = bytes(want)
        [self.work] = [f for f in in_run(run or d.run, ".work")
                       if f not in before]
        with open(self.work, "rb") as f:
            self.bytes = f.read()
        self.files = [self.path, self.path + ".backfill"]

    def refused(self, *words, args=(), **kw):
        refused(self.d, self.path, *args,
                words=[self.path, self.work, "discard-unflushed=yes", *words],
                files=self.files, **kw)

    def shows(self, want, *args, **kw):
        s = Server(self.d, self.path, *args, **kw)
        same(s.nbd().pread(SIZE, 0), want)
        return s


def rewrite(path, data):
    """In place: the inode, owner and holes may stay."""
    with open(path, "r+b") as f:
        f.truncate(0)
        f.write(data)


def test_missing_it_is_refused_and_brought_back_it_is_right(d):
    v = Killed(d)
    os.rename(v.work, d("away"))
    v.refused("is gone")
    v.refused("is gone", args=["readonly=on"])
    v.refused("is gone", args=["backing=nbd+unix:///?socket="
                               + d("source.sock")], run=d.make("run2"))
    os.makedirs(os.path.dirname(v.work), exist_ok=True)
    os.rename(d("away"), v.work)
    s = v.shows(v.want)
    s.stop()
    v.shows(v.want).stop()


def test_another_runtime_directory_does_not_lose_it(d):
    v = Killed(d)
    s = v.shows(v.want, run=d.make("run2"))
    assert not os.path.exists(v.work)
    s.kill()
    s = v.shows(v.want)
    s.stop()


def test_cut_short_or_damaged_it_is_refused(d):
    v = Killed(d)
    rng = random.Random(1)
    cut = [v.bytes[:n] for n in (0, 1, 8, 63, 64, 104, 108, 112, 115, 116, 4095,
                                 4096, 4100, len(v.bytes) - 1)]
    # Magic, uuid, nonce, size, granule, sectors, CRC, state.
    flips = []
    for at in [0, 7, 8, 23, 24, 39, 48, 56, 60, 104, 107, 112, 115]:
        b = bytearray(v.bytes)
        b[at] ^= 1 << rng.randrange(8) if at != 112 else 0x80
        flips.append(bytes(b))
    for b in [*cut, *flips, bytes(len(v.bytes)), rng.randbytes(len(v.bytes)),
              b"\xff" * len(v.bytes)]:
        rewrite(v.work, b)
        v.refused("is not this volume's")
    rewrite(v.work, v.bytes)
    v.shows(v.want).stop()


def test_what_is_no_file_of_ours_in_its_place_is_refused(d):
    need_root()
    v = Killed(d)
    os.rename(v.work, d("away"))
    os.symlink(d("away"), v.work)
    v.refused("cannot be read")
    os.unlink(v.work)
    os.mkdir(v.work)
    v.refused("cannot be read")
    os.rmdir(v.work)
    os.mkfifo(v.work)
    v.refused("is not this volume's")
    os.unlink(v.work)
    os.rename(d("away"), v.work)
    os.chown(v.work, 12345, 12345)
    v.refused("another user")
    os.chown(v.work, 0, 0)
    v.shows(v.want).stop()


def test_another_volumes_or_an_earlier_sessions_is_refused(d):
    v = Killed(d)
    other = Killed(d, "other")
    rewrite(v.work, other.bytes)
    v.refused("is not this volume's")
    # An earlier session's, under the name that is looked for.
    rewrite(v.work, v.bytes)
    s = v.shows(v.want)
    h = s.nbd()
    h.pwrite(pattern(50, 4 << 20, 8192), 4 << 20)
    want = bytearray(v.want)
    want[4 << 20:(4 << 20) + 8192] = pattern(50, 4 << 20, 8192)
    s.kill()
    [now] = [f for f in in_run(d.run, ".work") if f != other.work]
    assert now != v.work
    with open(now, "rb") as f:
        right = f.read()
    rewrite(now, v.bytes)
    v.work = now
    v.refused("is not this volume's")
    rewrite(now, right)
    v.shows(bytes(want)).stop()
    other.shows(other.want).stop()


def test_discard_unflushed_goes_on_with_what_was_flushed(d):
    for what in ("missing", "garbage", "another's"):
        for f in in_run(d.run, ".work"):
            os.unlink(f)
        v = Killed(d, what)
        if what == "missing":
            os.unlink(v.work)
        elif what == "garbage":
            rewrite(v.work, b"garbage" * 1000)
        else:
            other = Killed(d, "other")
            rewrite(v.work, other.bytes)
            os.unlink(other.work)
        s = Server(d, v.path, "discard-unflushed=yes")
        assert v.work in s.text() and "given up" in s.text(), s.text()
        h = s.nbd()
        got = h.pread(SIZE, 0)
        # As after a power cut: in each sector what was flushed, or what was
        # written after that.
        for i in range(0, SIZE, SECTOR):
            assert got[i:i + SECTOR] in (v.flushed[i:i + SECTOR],
                                         v.want[i:i + SECTOR]), (what, i)
        assert got != v.want, "the test tests nothing"
        s.kill()
        s = v.shows(got)
        h = s.nbd()
        h.shutdown()
        s.stop()
        # It is no harm where it is not needed.
        v.shows(got, "discard-unflushed=yes").stop()
        assert "given up" not in s.text()


def test_with_a_good_one_discard_unflushed_loses_nothing(d):
    v = Killed(d)
    v.shows(v.want, "discard-unflushed=yes").stop()


def test_after_an_orderly_end_what_lies_there_is_ignored(d):
    v = Killed(d)
    s = v.shows(v.want)
    s.stop()
    assert not in_run(d.run, ".work"), "an orderly end leaves a working map"
    os.makedirs(os.path.dirname(v.work), exist_ok=True)
    with open(v.work, "wb") as f:
        f.write(b"garbage" * 3000)
    v.shows(v.want).stop()
    with open(v.work, "wb") as f:
        f.write(v.bytes)
    v.shows(v.want).stop()


def test_opened_read_only_it_is_read_and_left(d):
    v = Killed(d)
    before = snapshot(*v.files, v.work)
    for i in range(2):
        s = v.shows(v.want, "readonly=on")
        s.stop()
    assert snapshot(*v.files, v.work) == before
    v.shows(v.want).stop()


def test_one_that_says_syncing_is_recovered_with_nothing_lost(d):
    v = Killed(d)
    b = bytearray(v.bytes)
    b[112] = 2
    rewrite(v.work, b)
    v.shows(v.want).stop()
    v.shows(v.want).stop()


def full_runtime_dir(d, size="192k"):
    return d.mount("small", "-t", "tmpfs", "-o", "size=" + size, "tmpfs")


def fill(path):
    """Until nothing more fits."""
    with open(path, "wb", buffering=0) as f:
        while True:
            try:
                if f.write(bytes(4096)) < 4096:
                    return
            except OSError:
                return


# A page of the working map stands for 15.5 MiB at granule 512: of these there
# must be several.
LARGE = (50 << 20) + 700
HOLES_LARGE = [((8 * i << 20) + 65536, (8 << 20) - 65536) for i in range(6)]


def random_writes(h, want, rng, tag, nr):
    """All acknowledged; want is what they make."""
    for i in range(nr):
        at = rng.randrange(0, len(want) - 20000)
        kind = rng.randrange(4)
        n = rng.choice((100, 512, 4096, 12288, 20000))
        if kind < 3:
            data = pattern(tag + i, at, n)
            h.pwrite(data, at)
        else:
            data = bytes(n)
            h.zero(n, at)
        want[at:at + n] = data


def read(h):
    """All of it, in requests that are not too large."""
    return b"".join(h.pread(min(32 << 20, LARGE - at), at)
                    for at in range(0, LARGE, 32 << 20))


def test_with_a_full_runtime_directory_writes_become_commits(d):
    for seed in (1, 2):
        rng = random.Random(seed)
        run = full_runtime_dir(d)
        if seed == 1:
            data = make_golden(d("golden"), LARGE, HOLES_LARGE)
            source = Source(d, d("golden"))
        path = d("disk%d" % seed)
        s = Server(d, path, "backing=" + source.uri, "granule=512", run=run)
        h = s.nbd()
        want = bytearray(data)
        random_writes(h, want, rng, 100, rng.randrange(0, 4))
        fill(os.path.join(run, "ballast"))
        commits = s.info()["stats"]["commits"]
        random_writes(h, want, rng, 200, 25)
        now = s.info()["stats"]["commits"]
        assert now > commits, (commits, now)
        assert "durable one by one" in s.text(), s.text()
        same(read(h), bytes(want))
        if seed == 2:  # room again: it is caught up with
            os.unlink(os.path.join(run, "ballast"))
            random_writes(h, want, rng, 300, 10)
        s.kill()
        if seed != 2:
            os.unlink(os.path.join(run, "ballast"))
        s = Server(d, path, run=run)
        same(read(s.nbd()), bytes(want))
        s.stop()
        s = Server(d, path, run=run)
        same(read(s.nbd()), bytes(want))
        s.kill()
        d.umount(run)


def test_commits_of_a_full_runtime_directory_survive_without_it(d):
    """They are commits indeed: the working map is not needed for them."""
    run = full_runtime_dir(d)
    data = make_golden(d("golden"), LARGE, HOLES_LARGE)
    source = Source(d, d("golden"))
    s = Server(d, d("disk"), "backing=" + source.uri, "granule=512", run=run)
    h = s.nbd()
    want = bytearray(data)
    fill(os.path.join(run, "ballast"))
    random_writes(h, want, random.Random(4), 200, 25)
    s.kill()
    d.umount(run)
    s = Server(d, d("disk"), "discard-unflushed=yes")
    same(read(s.nbd()), bytes(want))


def test_an_unusable_runtime_directory_is_refused_and_named(d):
    data = make_golden(d("golden"), SIZE, HOLES)
    source = Source(d, d("golden"))
    with open(d("file"), "w") as f:
        f.write("x")
    b = "backing=" + source.uri
    refused(d, d("disk"), b, run=d("file"), words=[d("file")])
    refused(d, d("disk"), b, run=d("no/where"), words=[d("no/where")])
    assert not os.path.exists(d("disk"))
    run = full_runtime_dir(d, "64k")
    v = Killed(d, "killed")
    fill(os.path.join(run, "ballast"))
    # One that exists, of which W has acknowledged writes.
    refused(d, v.path, run=run, words=[run, "No space left", "runtime-dir="])
    v.shows(v.want).stop()


if __name__ == "__main__":
    main(globals(), mounts=True)
