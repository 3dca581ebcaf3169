#!/usr/bin/python3
"""A local disk that fails: an error, never zeros or the backing store's bytes
in the place of what is there (G23); and what can be fetched is served (G22).

The store is on lossyfs, which fails what it is told to.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import random

from locallib import *

GRANULE = 512
SPAN = 3968 * GRANULE
SIZE = 2 * SPAN + 1000
HOLES = [(SPAN + 65536, 65536)]
LOCAL = 1 << 20  # what is before is the guest's


class Disk:
    def __init__(self, d, *args):
        if os.environ.get("PRIVATE_MOUNTS") != "1":
            raise Skip("no private mount namespace to be had")
        program = built("crash/lossyfs")
        if not os.access("/dev/fuse", os.R_OK):
            raise Skip("no /dev/fuse")
        self.mnt = d.make("mnt")
        self.fs = Process(d, [program, d.make("in"), d("out"), self.mnt],
                          "lossyfs")
        self.control = os.path.join(self.mnt, ".lossyfs")
        wait_for("lossyfs", lambda: os.path.exists(self.control)
                 or not self.fs.alive())
        if not self.fs.alive():
            raise Skip("a FUSE file system cannot be mounted: "
                       + self.fs.text())
        d.mounts.append(self.mnt)
        self.data = make_golden(d("golden"), SIZE, HOLES)
        self.source = Source(d, d("golden"))
        self.path = os.path.join(self.mnt, "disk")
        self.args = (self.path, "backing=" + self.source.uri,
                     "granule=%d" % GRANULE, "fetch=4k", *args)
        self.d = d
        self.start()
        self.want = pattern(2, 0, LOCAL) + self.data[LOCAL:]
        self.h.pwrite(self.want[:LOCAL], 0)
        self.h.flush()

    def start(self, *args):
        self.s = Server(self.d, *self.args, *args)
        self.h = self.s.nbd()

    def fs_do(self, *commands):
        with open(self.control, "w") as f:
            f.write("".join(c + "\n" for c in commands))

    def whole(self):
        same(self.h.pread(SIZE, 0), self.want)


def test_a_read_error_is_an_error_and_not_zeros_or_the_source(d):
    x = Disk(d)
    x.fs_do("fail read disk 1 EIO all")
    for at, n in ((0, 512), (4096, 4096), (1000, 3), (0, LOCAL),
                  (LOCAL - 512, 512), (LOCAL - 512, 1024)):
        assert nbd_errno(x.h.pread, n, at) == "EIO", (at, n)
    # What is absent is fetched, again and again if it must be.
    x.fs_do("fail write disk 1 EIO all")
    for i in range(3):
        same(x.h.pread(4096, SPAN), x.data[SPAN:SPAN + 4096], SPAN)
    # Nothing of it is sticky.
    x.fs_do("clear")
    x.whole()
    x.s.stop()
    x.start()
    x.whole()
    x.s.stop()


def test_one_bad_place_is_an_error_there_only(d):
    x = Disk(d)
    errors = 0
    rng = random.Random(3)
    for i in range(40):
        x.fs_do("clear", "fail read disk %d EIO" % rng.randrange(1, 4))
        for k in range(4):
            at = rng.randrange(0, SIZE - 9000)
            n = rng.randrange(1, 9000)
            try:
                same(x.h.pread(n, at), x.want[at:at + n], at)
            except nbd.Error as e:
                assert e.errno == "EIO", e
                errors += 1
                x.fs_do("clear")
                same(x.h.pread(n, at), x.want[at:at + n], at)
    assert errors > 10, "the test tests nothing"


def test_a_write_error_is_reported_and_reads_go_on(d):
    x = Disk(d)
    old = bytearray(x.want)
    x.fs_do("fail write disk 1 EIO all", "fail fallocate disk 1 EIO all")
    new = pattern(7, 0, SIZE)
    for at, n in ((0, 4096), (100, 50), (SPAN, 4096), (SPAN + 100, 50),
                  (LOCAL - 1000, 3000), (SIZE - 10, 10)):
        for flags in (0, nbd.CMD_FLAG_FUA):
            assert nbd_errno(x.h.pwrite, new[at:at + n], at, flags) == "EIO"
        assert nbd_errno(x.h.zero, n, at) == "EIO"
    for at in range(0, SIZE, 65536):
        n = min(65536, SIZE - at)
        got = x.h.pread(n, at)
        for i in range(n):
            if i % 64 and got[i:i + 64] == old[at + i:at + i + 64]:
                continue
            assert got[i] in (old[at + i], new[at + i], 0), at + i
        x.want = x.want[:at] + got + x.want[at + n:]
    # Outside of what was written nothing has changed.
    same(x.want[4096:LOCAL - 1000], bytes(old[4096:LOCAL - 1000]), 4096)
    same(x.want[LOCAL + 2000:SPAN], bytes(old[LOCAL + 2000:SPAN]))
    same(x.want[SPAN + 4096:SIZE - 10], bytes(old[SPAN + 4096:SIZE - 10]))
    x.fs_do("clear")
    x.whole()
    x.h.pwrite(new[:3000], 50)
    x.want = x.want[:50] + new[:3000] + x.want[3050:]
    x.whole()


def test_a_job_whose_writes_fail_ends_with_their_error(d):
    x = Disk(d)
    x.fs_do("fail write disk 1 EIO all")
    q = x.s.qmp()
    q.ask("block-allocate")
    e = q.wait_event("BLOCK_JOB_ERROR")
    assert e["operation"] == "write" and e["action"] == "report", e
    job = wait_job(x.s, "concluded")
    assert job["result"] == "failed" and job["errno-name"] == "EIO", job
    assert "store" in job["error"], job
    assert job["total"] == job["processed"] + job["remaining"], job
    assert LOCAL <= job["processed"] < SIZE, job
    assert job["failed-offset"] >= LOCAL, job
    x.fs_do("clear")
    x.whole()
    q.ask("block-allocate")
    assert wait_job(x.s, "concluded")["result"] == "completed"
    x.whole()


def test_a_sidecar_that_cannot_be_read_is_an_error_and_not_absent(d):
    x = Disk(d)
    x.s.stop()
    x.start()
    x.fs_do("fail read disk.backfill 1 EIO all")
    for at in (0, SPAN):
        assert nbd_errno(x.h.pread, 512, at) == "EIO"
        assert nbd_errno(x.h.pwrite, bytes(512), at) == "EIO"
        assert nbd_errno(x.h.pwrite, bytes(5), at) == "EIO"
        assert nbd_errno(x.h.zero, 4096, at) == "EIO"
    x.fs_do("clear")
    x.whole()
    x.s.stop()
    x.fs_do("fail read disk.backfill 1 EIO all")
    refused(d, *x.args, words=[x.path + ".backfill", "Input/output error"])
    x.fs_do("clear")
    x.start()
    x.whole()
    x.s.stop()


def test_a_sidecar_that_cannot_be_written_fails_the_flush(d):
    x = Disk(d)
    x.fs_do("fail write disk.backfill 1 EIO all")
    at = SPAN + 1000
    x.h.pwrite(pattern(5, at, 5000), at)
    x.want = x.want[:at] + pattern(5, at, 5000) + x.want[at + 5000:]
    assert nbd_errno(x.h.flush) == "EIO"
    assert nbd_errno(x.h.pwrite, x.want[at:at + 9], at,
                     nbd.CMD_FLAG_FUA) == "EIO"
    try:
        x.s.ask("block-allocate")
        raise AssertionError("a job without a record")
    except QmpError as e:
        assert e.name == "EIO", e
    assert x.s.info()["job"] is None
    x.whole()
    # Not sticky: no sync has failed.
    x.fs_do("clear")
    x.h.flush()
    x.s.kill()
    x.start()
    x.whole()
    x.s.stop()


def test_what_failed_before_a_kill_is_no_surprise_after_it(d):
    x = Disk(d)
    rng = random.Random(12)
    may = [{x.want[i:i + SECTOR]} for i in range(0, SIZE, SECTOR)]
    failed = 0
    for i in range(120):
        if i % 3 == 0:
            op = rng.choice(("write disk", "fallocate disk",
                             "write disk.backfill"))
            x.fs_do("clear", "fail %s %d EIO" % (op, rng.randrange(1, 6)))
        at = rng.randrange(0, SIZE - 6000) // SECTOR * SECTOR
        n = rng.randrange(1, 10) * SECTOR
        zero = rng.randrange(4) == 0
        data = bytes(n) if zero else pattern(100 + i, at, n)
        flags = nbd.CMD_FLAG_FUA if rng.randrange(4) == 0 else 0
        err = nbd_errno(x.h.zero, n, at, flags) if zero else \
            nbd_errno(x.h.pwrite, data, at, flags)
        assert err in (None, "EIO"), err
        failed += err is not None
        for k in range(n // SECTOR):
            new = {data[k * SECTOR:(k + 1) * SECTOR]}
            may[at // SECTOR + k] = new if err is None \
                else may[at // SECTOR + k] | new
    assert failed > 5, "the test tests nothing"
    x.fs_do("clear")
    for restart in (False, True, True):
        if restart:
            x.s.kill()
            x.start()
        got = x.h.pread(SIZE, 0)
        for k in range(len(may)):
            s = bytes(got[k * SECTOR:(k + 1) * SECTOR])
            assert s in may[k], (restart, k * SECTOR, s[:16])
            may[k] = {s}
    x.s.stop()


if __name__ == "__main__":
    main(globals(), mounts=True)
