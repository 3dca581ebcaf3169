#!/usr/bin/python3
"""A local disk that is full: writes fail with ENOSPC and are old or new in
each sector, absent data is read from the source all the same, flushes and the
sidecar need no space, a job pauses; and all goes on when there is room.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import random
import shutil
import subprocess

from locallib import *

SIZE = (12 << 20) + 1536
HOLES = [(3 << 20, 512 << 10)]
CELL = 256


class Guest:
    """Keeps, for each sector, what it may be."""

    def __init__(self, data):
        self.may = [{data[i:i + SECTOR]} for i in range(0, len(data), SECTOR)]
        self.full = 0

    def change(self, call, data, at, *args):
        """data: what the range becomes.  False: ENOSPC."""
        failed = nbd_errno(call, *args)
        assert failed in (None, "ENOSPC"), failed
        self.full += failed is not None
        for n in range(at // SECTOR, (at + len(data) + SECTOR - 1) // SECTOR):
            a, b = max(at, n * SECTOR), min(at + len(data), (n + 1) * SECTOR)
            new = {old[:a - n * SECTOR] + data[a - at:b - at]
                   + old[b - n * SECTOR:] for old in self.may[n]}
            self.may[n] = new if failed is None else self.may[n] | new
        return failed is None

    def write(self, h, tag, at, n, flags=0):
        data = pattern(tag, at, n)
        return self.change(h.pwrite, data, at, data, at, flags)

    def zero(self, h, at, n, flags=0):
        return self.change(h.zero, bytes(n), at, n, at, flags)

    def look(self, h, what=""):
        """All of it; from then on it is what it was."""
        at = 0
        while at < SIZE:
            n = min(1 << 20, SIZE - at)
            got = h.pread(n, at)
            for i in range(0, n, SECTOR):
                s = bytes(got[i:i + SECTOR])
                may = self.may[(at + i) // SECTOR]
                assert s in may, "%s: at %d: %r, not one of %r" % (
                    what, at + i, s[:16], [m[:16] for m in may])
                self.may[(at + i) // SECTOR] = {s}
            at += n

    def image(self):
        return b"".join(list(m)[0] for m in self.may)


def left(path):
    st = os.statvfs(path)
    return st.f_bavail * st.f_frsize


def leave(path, room):
    """Fill the file system up, but for about this much."""
    with open(os.path.join(path, "ballast"), "ab", buffering=0) as f:
        while left(path) > room:
            try:
                os.posix_fallocate(f.fileno(), os.fstat(f.fileno()).st_size,
                                   min(left(path) - room, 1 << 20))
            except OSError:
                return


def file_system(d, kind):
    if kind == "tmpfs":
        return d.mount("small", "-t", "tmpfs", "-o", "size=24m", "tmpfs")
    need_root()
    image = d("image")
    with open(image, "wb") as f:
        f.truncate(40 << 20)
    r = subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-F", image],
                       stderr=subprocess.PIPE)
    if r.returncode != 0:
        raise Skip("mkfs.ext4: %s" % r.stderr)
    return d.mount("small", "-o", "loop", image)


def on_a_full_disk(d, kind):
    rng = random.Random(kind)
    mnt = file_system(d, kind)
    data = make_golden(d("golden"), SIZE, HOLES)
    source = Source(d, d("golden"))
    path = os.path.join(mnt, "disk")
    s = Server(d, path, "backing=" + source.uri)
    h = s.nbd()
    g = Guest(data)
    for i in range(6):
        assert g.write(h, 10 + i, i * 500000 + 33, 20000)
    h.flush()
    leave(mnt, 2 << 20)
    # G22: all of it is read, though not all of it can be kept.
    g.look(h, "while it becomes full")
    g.look(h, "full")
    # G21, G3: what finds no space fails; zeroes and overwrites need none.
    for i in range(150):
        at = rng.randrange(0, SIZE - 70000)
        n = rng.choice((1, 511, 512, 4096, 4608, 65536, 70000))
        flags = rng.choice((0, 0, nbd.CMD_FLAG_FUA))
        if i % 5 == 4:
            g.zero(h, at, n, flags)
        else:
            g.write(h, 100 + i, at, n, flags)
        if i % 10 == 9:
            h.flush()
        if g.full > 30:
            break
    assert g.full > 3, "the disk never was full: the test tests nothing"
    g.look(h, "after failed writes")
    for i in range(6):
        assert g.write(h, 60 + i, i * 500000 + 33, 20000), \
            "an overwrite needs no space"
    h.flush()
    assert "sync-error" not in s.info()
    g.look(h, "after overwrites")
    return mnt, path, source, s, h, g


def no_space_writes(d, kind):
    mnt, path, source, s, h, g = on_a_full_disk(d, kind)
    # The sidecar takes all bits without space: after SIGKILL, and without
    # the working map.  (Whole granules as holes are what can still be had.)
    for i in range(6):
        assert g.zero(h, (2 << 20) * i, 4096, nbd.CMD_FLAG_FUA), "a hole"
    s.kill()
    s = Server(d, path)
    h = s.nbd()
    g.look(h, "after SIGKILL")
    h.flush()
    s.kill()
    shutil.rmtree(d.run)
    os.mkdir(d.run)
    s = Server(d, path, "discard-unflushed=yes")
    h = s.nbd()
    g.look(h, "without the working map")
    # An orderly end needs no space either.
    h.shutdown()
    s.stop()
    s = Server(d, path)
    h = s.nbd()
    g.look(h, "after an orderly end")
    # Room again: all works, and nothing remembers.
    os.unlink(os.path.join(mnt, "ballast"))
    for i in range(40):
        assert g.write(h, 1000 + i, i * 250000 + 77, 70000), "ENOSPC with room"
    h.flush()
    g.look(h, "with room")
    h.shutdown()
    s.stop()


def test_tmpfs_full_writes_fail_and_nothing_is_lost(d):
    no_space_writes(d, "tmpfs")


def test_ext4_full_writes_fail_and_nothing_is_lost(d):
    no_space_writes(d, "ext4")


def no_space_job(d, kind, sparse):
    mnt, path, source, s, h, g = on_a_full_disk(d, kind)
    q = s.qmp()
    q.ask("block-allocate", sparse=sparse)
    e = q.wait_event("BLOCK_JOB_ERROR")
    assert e["operation"] == "write" and e["action"] == "stop", e
    job = wait_job(s, "paused")
    assert job["pause-reason"] == "nospace" and job["io-status"] == "nospace", \
        job
    assert job["total"] == SIZE == job["processed"] + job["remaining"], job
    assert job["remaining"] > 0 and job["result"] == "none", job
    r = cli("-c", s.control, "info")
    assert "full" in r.stdout or "space" in r.stdout, r.stdout
    # A guest is served meanwhile.
    g.look(h, "while the job is paused")
    # Without room it comes to the same again.
    q.events.clear()
    q.ask("block-job-resume", device="")
    q.wait_event("BLOCK_JOB_ERROR")
    wait_job(s, "paused")
    # Nor does a restart forget it.
    s.kill()
    s = Server(d, path)
    h = s.nbd()
    q = s.qmp()
    wait_job(s, "paused")
    g.look(h, "after SIGKILL")
    os.unlink(os.path.join(mnt, "ballast"))
    q.ask("block-job-resume", device="")
    job = wait_job(s, "concluded")
    assert job["result"] == "completed" and job["processed"] == SIZE, job
    assert g.write(h, 999, 12345, 70000)
    g.look(h, "at the end")
    q.ask("disk-detach")
    h.shutdown()
    s.stop()
    assert not os.path.exists(path + ".backfill")
    with open(path, "rb") as f:
        same(f.read(), g.image(), what="the raw image")
    if not sparse:
        assert os.stat(path).st_blocks * 512 >= SIZE - 4096


def test_tmpfs_full_a_job_pauses_and_completes_with_room(d):
    no_space_job(d, "tmpfs", True)


def test_ext4_full_a_job_pauses_and_completes_with_room(d):
    no_space_job(d, "ext4", True)


def test_ext4_full_a_full_allocation_pauses_and_completes_with_room(d):
    no_space_job(d, "ext4", False)


def test_without_room_for_a_sidecar_no_volume_is_made(d):
    mnt = file_system(d, "tmpfs")
    data = make_golden(d("golden"), SIZE, HOLES)
    source = Source(d, d("golden"))
    leave(mnt, 16384)
    refused(d, os.path.join(mnt, "disk"), "backing=" + source.uri,
            words=[os.path.join(mnt, "disk.backfill"), "No space left"])
    assert os.listdir(mnt) == ["ballast"], os.listdir(mnt)
    os.unlink(os.path.join(mnt, "ballast"))
    s = Server(d, os.path.join(mnt, "disk"), "backing=" + source.uri)
    same(s.nbd().pread(SIZE, 0), data)
    s.stop()


def test_over_the_file_size_limit_writes_fail_with_enospc(d):
    """RLIMIT_FSIZE: EFBIG is told as ENOSPC, and SIGXFSZ does not kill."""
    data = make_golden(d("golden"), SIZE, HOLES)
    source = Source(d, d("golden"))
    s = Server(d, d("disk"), "backing=" + source.uri)
    s.nbd().pwrite(pattern(2, 0, 4096), 0)
    s.stop()
    s = Server(d, d("disk"), wrap=("prlimit", "--fsize=%d" % (8 << 20)))
    h = s.nbd()
    g = Guest(pattern(2, 0, 4096) + data[4096:])
    g.look(h)
    assert not g.write(h, 3, 9 << 20, 8192)
    assert g.write(h, 4, 4 << 20, 8192)
    h.flush()
    g.look(h)
    s.stop()


if __name__ == "__main__":
    main(globals(), mounts=True)
