#!/usr/bin/python3
"""Local files that never answer: SIGTERM ends the server all the same, in
bounded time (G15); disks beside are closed as ever; and what was acknowledged
is there when the files answer again.

The files are on lossyfs, which is stopped (SIGSTOP).

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import signal
import time

from locallib import *

SIZE = 24 << 20
G = 4096
# 10 s are promised, on a machine that has nothing else to do.
ENDS = 60


class Slow:
    """A file system that can be stopped."""

    def __init__(self, d):
        if os.environ.get("PRIVATE_MOUNTS") != "1":
            raise Skip("no private mount namespace to be had")
        program = built("crash/lossyfs")
        if not os.access("/dev/fuse", os.R_OK):
            raise Skip("no /dev/fuse")
        self.mnt = d.make("mnt")
        self.fs = Process(d, [program, d.make("in"), d("out"), self.mnt],
                          "lossyfs")
        wait_for("lossyfs", lambda: os.path.exists(self("/.lossyfs"))
                 or not self.fs.alive())
        if not self.fs.alive():
            raise Skip("a FUSE file system cannot be mounted: "
                       + self.fs.text())
        d.mounts.append(self.mnt)

    def __call__(self, name):
        return os.path.join(self.mnt, name.lstrip("/"))


def is_closed(path):
    r = cli("check", path + ".backfill")
    assert r.returncode == 0, r.stderr
    return "open or not closed" not in r.stdout


def has_ended(server):
    """Or does nothing but end: the kernel closes its files, and one of a file
    system that does not answer keeps what is left of the process."""
    if not server.alive():
        return True
    with open("/proc/%d/stat" % server.pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return fields[0] == "Z" or int(fields[6]) & 4  # PF_EXITING


def ends(server):
    server.term()
    wait_for("the server ends", lambda: has_ended(server), ENDS)


def test_a_store_that_hangs(d):
    """The job's threads, the housekeeper, the last commit and a guest's write
    wait for it, for which nbdkit waits in turn; and there is another disk."""
    slow = Slow(d)
    data = make_golden(d("golden"), SIZE)
    source = Source(d, d("golden"))
    s = Server(d, "name=slow", "store=" + slow("disk"),
               "backing=" + source.uri, "allocate=on", "speed=1M",
               "name=well", "store=" + d("well"), "backing=" + source.uri)
    h, well = s.nbd("slow"), s.nbd("well")
    h.pwrite(pattern(3, 0, 5 * G), 0)
    h.flush()
    h.pwrite(pattern(4, 0, 2 * G), 0)
    well.pwrite(pattern(5, G, G), G)
    job = wait_job(s, "running", device="slow")
    wait_for("some is local", lambda: s.ask("query-block-jobs", device="slow")
             [0]["processed"] > job["processed"])
    slow.fs.hang()
    last = pattern(6, 8 * G, G)
    h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(last)), 8 * G)
    while h.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
        h.poll(100)
    time.sleep(1)  # until all of its threads are in there
    ends(s)
    text = s.text()
    assert "answer" in text and slow("disk") in text, text
    # The other one has not waited for it, nor been left.
    assert is_closed(d("well"))
    other = Server(d, "store=" + d("well"))
    same(other.nbd().pread(G, G), pattern(5, G, G))
    other.stop()
    slow.fs.resume()
    s.process.wait(LONG)
    s = Server(d, "name=slow", "store=" + slow("disk"),
               "name=well", "store=" + d("well"))
    h, well = s.nbd("slow"), s.nbd("well")
    same(h.pread(5 * G, 0), pattern(4, 0, 2 * G) + pattern(3, 2 * G, 3 * G))
    got = bytes(h.pread(G, 8 * G))
    assert got in (data[8 * G:9 * G], last), got[:16]
    same(h.pread(3 * G, 5 * G), data[5 * G:8 * G], 5 * G)
    same(h.pread(SIZE - 9 * G, 9 * G), data[9 * G:], 9 * G)
    same(well.pread(G, G), pattern(5, G, G))
    # The job goes on.
    assert wait_job(s, "running", "concluded", device="slow")
    s.stop()


def test_a_sync_that_hangs(d):
    slow = Slow(d)
    s = Server(d, "store=" + slow("disk"), "size=%d" % SIZE)
    h = s.nbd()
    h.pwrite(pattern(3, 0, 5 * G), 0)
    with open(slow(".lossyfs"), "w") as f:
        f.write("stall fsync disk 1\n")
    # Its control socket goes first: who comes next may want the same.
    s.term()
    wait_for("its socket goes", lambda: not os.path.exists(s.control))
    assert not has_ended(s)
    wait_for("the server ends", lambda: has_ended(s), ENDS)
    with open(slow(".lossyfs"), "w") as f:
        f.write("clear\nrelease\n")
    s.process.wait(LONG)
    s = Server(d, "store=" + slow("disk"))
    same(s.nbd().pread(5 * G, 0), pattern(3, 0, 5 * G))
    s.stop()


if __name__ == "__main__":
    main(globals(), mounts=True)
