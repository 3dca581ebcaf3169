#!/usr/bin/python3
"""A backing store that is a file of this host (backing=PATH): it is read
without a server, never written, locked as QEMU's readers do, and known by its
size and content as any other.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import fcntl
import os
import random
import struct
import threading

import faultlib
from faultlib import (K, LONG, M, SOON, Plugin, check, fails, nbd, wait_for,
                      within)

G = 4096
SIZE = 4 * M


def lock(path, kind, *bytes_, write=False):
    """OFD locks on these bytes; the file is to be kept."""
    f = open(path, "r+b" if write else "rb")
    for b in bytes_:
        fcntl.fcntl(f, fcntl.F_OFD_SETLK,
                    struct.pack("hhqqi4x", kind, os.SEEK_SET, b, 1, 0))
    return f


def test_read_and_copied(t):
    """Guests read and write while a job copies; the file stays as it is, and
    the store is the disk."""
    golden, data = t.image("golden", SIZE + 1536)
    os.chmod(golden, 0o444)
    before = os.stat(golden)
    p = t.plugin(t.path("disk"), "backing=" + golden, "fetch=4K")
    ctl, model = p.control(), bytearray(data)
    check(ctl.disk()["backing"] == golden, "its path", ctl.disk())
    rng = random.Random(1)
    c = p.client()
    c.write(10, b"w" * 100)
    model[10:110] = b"w" * 100
    failed = []

    def reads():
        own = p.client()
        for _ in range(200):
            at = rng.randrange(M, SIZE)
            n = min(rng.choice((1, 700, G, 100000)), len(data) - at)
            if own.read(at, n) != data[at:at + n]:
                failed.append((at, n))
        own.close()
    threads = [threading.Thread(target=reads) for _ in range(4)]
    for one in threads:
        one.start()
    ctl("block-allocate", device="")
    for one in threads:
        one.join()
    check(not failed, "what was read", failed)
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    check(c.read(0, len(model)) == model, "the disk")
    check(ctl.disk()["complete"], "complete", ctl.disk())
    c.close()
    p.end()
    check(t.read("disk") == model, "the store")
    check(t.read("golden") == data, "the file is as it was")
    after = os.stat(golden)
    check((after.st_mtime_ns, after.st_ctime_ns, after.st_blocks)
          == (before.st_mtime_ns, before.st_ctime_ns, before.st_blocks),
          "nothing of it has changed")


def test_holes_stay_holes(t):
    """Where the file system's word on holes is believed."""
    golden = t.path("golden")
    with open(golden, "wb") as f:
        f.truncate(64 * M)
        f.seek(5 * M)
        f.write(b"x" * M)
    p = t.plugin(t.path("disk"), "backing=" + golden)
    c, ctl = p.client(), p.control()
    told = c.extents(8 * M, 8 * M)
    ctl("block-allocate", device="")
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    check(c.read(4 * M, 3 * M) == bytes(M) + b"x" * M + bytes(M), "data")
    c.close()
    p.end()
    print("block status of a hole: %r" % told)
    check(os.stat(t.path("disk")).st_blocks * 512 < 8 * M,
          "no room for zeros", os.stat(t.path("disk")).st_blocks)


def test_relative_path_is_remembered_whole(t):
    _, data = t.image("golden", SIZE)
    relative = os.path.relpath(t.path("golden"))
    p = t.plugin(t.path("disk"), "backing=" + relative)
    path = p.control().disk()["backing"]
    check(os.path.isabs(path) and os.path.samefile(path, t.path("golden")),
          "an absolute path", path)
    p.end()
    # By the sidecar alone.
    p = Plugin(t, "again", t.path("disk")).start()
    check(p.control().disk()["backing"] == path, "the same", p.control().disk())
    check(p.client().read(M, G) == data[M:M + G], "data")
    p.end()


def test_writers_stay_out_and_readers_get_in(t):
    golden, data = t.image("golden", SIZE)
    # QEMU, and a volume whose store it is, write.
    for kind, at in ((fcntl.F_RDLCK, 101), (fcntl.F_RDLCK, 103),
                     (fcntl.F_RDLCK, 200), (fcntl.F_WRLCK, 100),
                     (fcntl.F_WRLCK, 201)):
        with lock(golden, kind, at, write=True):
            said = Plugin(t, "no", t.path("disk"), "backing=" + golden).fails()
        check("open for writing" in said and golden in said, at, said)
        check(not os.path.exists(t.path("disk")), "nothing was made")
    # Another reader.
    with lock(golden, fcntl.F_RDLCK, 100, 201, 203):
        p = t.plugin(t.path("disk"), "backing=" + golden)
        wait_for("connected",
                 lambda: p.control().disk()["source"] == "connected")
    check(p.client().read(0, G) == data[:G], "data")
    # What a writer asks for, as QEMU does: is 201, or 203, taken?
    with open(golden, "r+b") as f:
        for at, taken in ((201, True), (203, True), (100, True), (101, False),
                          (200, False)):
            got = fcntl.fcntl(f, fcntl.F_OFD_GETLK,
                              struct.pack("hhqqi4x", fcntl.F_WRLCK,
                                          os.SEEK_SET, at, 1, 0))
            kind = struct.unpack("hhqqi4x", got)[0]
            check((kind == fcntl.F_RDLCK) == taken, "lock", (at, kind))
    second = Plugin(t, "second", t.path("disk2"), "backing=" + golden).start()
    check(second.client().read(M, G) == data[M:M + G], "two volumes of it")
    second.end()
    p.end()
    # Nobody has it any more.
    lock(golden, fcntl.F_WRLCK, 100, 201, 203, write=True).close()


def test_what_is_no_raw_image_is_refused_with_a_hint(t):
    os.mkdir(t.path("folder"))
    os.mkfifo(t.path("fifo"))
    with open(t.path("image"), "wb") as f:
        f.write(b"QFI\xfb" + bytes(M))
    for name, words in (("folder", "it is a directory"),
                        ("fifo", "neither a regular file nor a block device"),
                        ("gone", "there is no such file"),
                        ("image", "qemu-nbd -r -t -f qcow2")):
        with within(SOON, name):
            said = Plugin(t, "no", t.path("disk"),
                          "backing=" + t.path(name)).fails()
        check(words in said and t.path(name) in said, name, said)
        check(not os.path.exists(t.path("disk")), "nothing was made")


def test_part_of_a_volume_is_refused(t):
    """A store that is not complete has zeros where its own source has data."""
    golden, data = t.image("golden", SIZE)
    p = t.plugin(t.path("first"), "backing=" + golden, "fetch=4K")
    p.client().read(0, G)
    said = Plugin(t, "live", t.path("disk"), "backing=" + t.path("first")).fails()
    check("open for writing" in said, "while it is open", said)
    p.end()
    said = Plugin(t, "no", t.path("disk"), "backing=" + t.path("first")).fails()
    check("not all is local" in said, "and after", said)
    p.start()
    ctl = p.control()
    ctl("block-allocate", device="")
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    check(ctl.disk()["complete"], "complete", ctl.disk())
    p.end()
    p = Plugin(t, "whole", t.path("disk"), "backing=" + t.path("first")).start()
    check(p.client().read(M, SIZE - M) == data[M:], "complete it will do")
    p.end()


def cut(path):
    os.truncate(path, SIZE - G)


def exchange(t):
    """It is cut short while it is open, and there is another, or none."""
    cut(t.path("golden"))
    os.rename(t.path("golden"), t.path("away"))


def test_gone_it_is_lost_and_comes_back(t):
    golden, data = t.image("golden", SIZE)
    _, other = t.image("other", SIZE, seed=2)
    p = t.plugin(t.path("disk"), "backing=" + golden, "fetch=4K",
                 "timeout=2s")
    c, ctl = p.client(), p.control()
    check(c.read(0, G) == data[:G], "data")
    exchange(t)
    with within(SOON, "a read ends"):
        fails("EIO", c.read, SIZE - G, G)
    check(ctl.disk()["source"] == "lost", "lost", ctl.disk())
    check("no such file" in ctl.disk()["source-reason"], "why", ctl.disk())
    check(c.read(0, G) == data[:G], "what is local is there")
    # Another of the same name is not taken.
    for content, words in ((other, "its content differs"),
                           (data + bytes(G), "its size is %d bytes, not %d"
                            % (SIZE + G, SIZE))):
        with open(t.path("new"), "wb") as f:
            f.write(content)
        os.rename(t.path("new"), golden)
        wait_for("refused", lambda: words in ctl.disk()["source-reason"],
                 state=ctl.disk)
        with within(SOON, "a read ends"):
            fails("EIO", c.read, 2 * M, G)
        check(ctl.disk()["source"] == "lost", "not used", ctl.disk())
    # The right one is, by a read that waits for it.
    c.close()
    p.end()
    os.unlink(golden)
    p = Plugin(t, "again", t.path("disk"), "timeout=" + LONG).start()
    c, ctl = p.client(), p.control()
    check(c.read(0, G) == data[:G], "what is local needs no file")
    waiting = c.start_read(M, 2 * G)
    with open(t.path("new"), "wb") as f:
        f.write(data)
    os.rename(t.path("new"), golden)
    with within(SOON, "it is back"):
        check(c.finish(waiting) == data[M:M + 2 * G], "data")
    wait_for("connected", lambda: ctl.disk()["source"] == "connected")
    c.close()
    p.end()


def test_beyond_a_cut_there_are_no_zeros(t):
    """The file system calls it a hole there.  (With identity=size it may change,
    so that its mtime says nothing.)"""
    golden, data = t.image("golden", SIZE)
    p = t.plugin(t.path("disk"), "backing=" + golden, "fetch=4K",
                 "timeout=1s", "identity=size")
    c, ctl = p.client(), p.control()
    wait_for("connected", lambda: ctl.disk()["source"] == "connected")
    os.truncate(golden, 2 * M)
    check(not any(f & (nbd.STATE_ZERO | nbd.STATE_HOLE)
                  for _, f in c.extents(3 * M, M)), "block status")
    ctl("block-allocate", device="", offset=3 * M, length=M)
    wait_for("the job waits", lambda: ctl.job()["status"] == "waiting",
             state=ctl.job)
    fails("EIO", c.read, 3 * M, G)
    check(ctl.disk()["local"] == 0, "nothing became local", ctl.disk())
    c.close()
    p.end()


def test_written_over_it_is_another(t):
    """In its place, while it is open: as cp does it."""
    golden, data = t.image("golden", SIZE)
    p = t.plugin(t.path("disk"), "backing=" + golden, "fetch=4K",
                 "timeout=1s")
    c, ctl = p.client(), p.control()
    check(c.read(0, G) == data[:G], "data")
    _, other = t.image("other", SIZE, seed=2)
    with open(golden, "r+b") as f:
        f.write(other)
    fails("EIO", c.read, M, G)
    wait_for("refused",
             lambda: "its content differs" in ctl.disk()["source-reason"])
    check(ctl.disk()["local"] == G, "nothing of it became local", ctl.disk())
    # Only its time is another.
    with open(golden, "r+b") as f:
        f.write(data)
    wait_for("connected", lambda: ctl.disk()["source"] == "connected")
    os.utime(golden)
    check(c.read(M, G) == data[M:M + G], "data")
    check(ctl.disk()["source"] == "connected", "it is the same", ctl.disk())
    c.close()
    p.end()


def test_deleted_it_goes_on_while_it_is_open(t):
    golden, data = t.image("golden", SIZE)
    p = t.plugin(t.path("disk"), "backing=" + golden, "fetch=4K")
    ctl = p.control()
    wait_for("connected", lambda: ctl.disk()["source"] == "connected")
    os.unlink(golden)
    t.image("golden", SIZE, seed=3)
    ctl("block-allocate", device="")
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    p.end()
    check(t.read("disk") == data, "the one that was opened")


def test_other_content_is_refused_on_restart(t):
    golden, data = t.image("golden", SIZE)
    p = t.plugin(t.path("disk"), "backing=" + golden)
    p.end()
    t.image("golden", SIZE, seed=2)
    said = Plugin(t, "no", t.path("disk")).fails()
    check("other content" in said and golden in said, "refused", said)
    cut(golden)
    said = Plugin(t, "no", t.path("disk")).fails()
    check(str(SIZE - G) in said, "refused", said)


def test_end_while_it_is_away(t):
    golden, _ = t.image("golden", SIZE)
    p = t.plugin(t.path("disk"), "backing=" + golden, "fetch=4K",
                 "timeout=" + LONG)
    c, ctl = p.client(), p.control()
    wait_for("connected", lambda: ctl.disk()["source"] == "connected")
    ctl("block-allocate", device="", speed=4 * K)
    exchange(t)
    c.start_read(SIZE - G, G)
    wait_for("lost", lambda: ctl.disk()["source"] == "lost", state=ctl.disk)
    p.process.terminate()
    # nbdkit itself waits for its clients.
    c.h = None
    with within(SOON, "the end"):
        check(p.wait() == 0, "exit status", p.process.returncode)


if __name__ == "__main__":
    faultlib.main()
