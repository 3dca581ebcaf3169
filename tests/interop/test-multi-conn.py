#!/usr/bin/python3
"""Several connections to one disk, as nbdcopy and QEMU make them (multi-conn):
what one has been told is written, all see; and a flush on any of them covers
what was acknowledged on all.

That the flush covers it is seen by taking away, after SIGKILL, what the
machine would forget in a power cut: the working map.  What was flushed is
there after that.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import glob
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

try:
    import nbd
except ImportError:
    print("skipped: no python3-libnbd")
    sys.exit(77)

NBDKIT = os.environ["NBDKIT"]
PLUGIN = os.environ["BACKFILL_PLUGIN"]
SIZE = 32 << 20
GRANULE = 4096


class Server:
    running = []

    def __init__(self, directory, name, *args):
        self.socket = os.path.join(directory, name + ".sock")
        pid = os.path.join(directory, name + ".pid")
        for f in (self.socket, pid):
            if os.path.exists(f):
                os.unlink(f)
        self.log = open(os.path.join(directory, name + ".err"), "a")
        self.process = subprocess.Popen(
            [NBDKIT, "-f", "-U", self.socket, "-P", pid, *args],
            stderr=self.log)
        Server.running.append(self)
        deadline = time.monotonic() + 120
        while not (os.path.exists(pid) and os.path.getsize(pid)):
            assert self.process.poll() is None, "nbdkit did not start"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def connect(self):
        h = nbd.NBD()
        h.connect_unix(self.socket)
        return h

    def end(self, how):
        self.process.send_signal(how)
        status = self.process.wait(120)
        assert how == signal.SIGKILL or status == 0, status
        Server.running.remove(self)
        self.log.close()


class Disk:
    def __init__(self, directory, source):
        self.directory = directory
        self.store = os.path.join(directory, "store")
        self.run = os.path.join(directory, "run")
        self.source = source

    def start(self, *keys):
        self.server = Server(
            self.directory, "disk", PLUGIN, self.store,
            "backing=nbd+unix:///?socket=" + self.source.socket,
            "runtime-dir=" + self.run, "control=off", *keys)
        return self.server

    def remove(self):
        for f in glob.glob(self.store + "*"):
            os.unlink(f)
        shutil.rmtree(self.run, ignore_errors=True)


def all_see(disk):
    """A write that one was told of is there for all, at once."""
    server = disk.start()
    handles = [server.connect() for _ in range(6)]
    assert all(h.can_multi_conn() for h in handles)
    rng = random.Random(1)
    for i in range(400):
        n = rng.choice((1, 511, 4096, 5000, 70000))
        at = rng.randrange(SIZE - n)
        what = rng.randrange(3)
        h = rng.choice(handles)
        if what == 0:
            data = rng.randbytes(n)
            h.pwrite(data, at)
        elif what == 1:
            data = bytes(n)
            h.zero(n, at)
        else:
            # A trim is old or zero, but the same for all.
            h.trim(n, at)
            data = rng.choice(handles).pread(n, at)
        for other in rng.sample(handles, 3):
            assert other.pread(n, at) == data
    for h in handles:
        h.shutdown()
    server.end(signal.SIGTERM)
    disk.remove()
    print("what one was told, all see")


def flush_covers(disk, golden):
    """Written on some, flushed on another, killed."""
    rng = random.Random(2)
    for how in ("kill", "forget", "kill", "forget"):
        server = disk.start()
        writers = [server.connect() for _ in range(3)]
        flusher = server.connect()
        truth = bytearray(golden)
        unsure = set()

        def write(allowed):
            n = rng.choice((1, 4096, 3000, 20000))
            at = rng.randrange(allowed, SIZE - n)
            h = rng.choice(writers)
            if rng.randrange(4) == 0:
                data = bytes(n)
                h.zero(n, at)
            else:
                data = rng.randbytes(n)
                h.pwrite(data, at)
            truth[at:at + n] = data
            return at, n

        for i in range(60):
            write(0)
            if i % 20 == 7:
                flusher.flush()
        flusher.flush()
        # FUA is durable on its own, on whatever connection.
        writers[0].pwrite(b"fua", 12345, nbd.CMD_FLAG_FUA)
        truth[12345:12348] = b"fua"
        flushed = bytes(truth)
        for i in range(20):
            at, n = write(SIZE // 2)
            unsure.update(range(at // GRANULE, (at + n - 1) // GRANULE + 1))
        server.end(signal.SIGKILL)
        if how == "forget":
            for f in os.listdir(disk.run):
                shutil.rmtree(os.path.join(disk.run, f))
            server = disk.start("discard-unflushed=yes")
        else:
            server = disk.start()
        h = server.connect()
        got = b"".join(h.pread(1 << 20, at) for at in range(0, SIZE, 1 << 20))
        h.shutdown()
        server.end(signal.SIGTERM)
        disk.remove()
        for g in range(SIZE // GRANULE):
            a, b = g * GRANULE, (g + 1) * GRANULE
            if got[a:b] == truth[a:b]:
                continue
            # Not flushed, and forgotten: as it was before, or the image's.
            assert how == "forget" and g in unsure, \
                "granule %d was flushed and is lost (%s)" % (g, how)
            for i in range(a, b):
                assert got[i] in (truth[i], flushed[i], golden[i])
    print("a flush on one covers all: SIGKILL, and the map lost with it")


def together(disk, golden):
    """Threads that write side by side in the same granules, each with its own
    connection, one that flushes, and a kill at the end."""
    server = disk.start()
    pieces = 4096
    truth = bytearray(golden)
    failures = []

    def writer(k):
        try:
            h = server.connect()
            rng = random.Random(100 + k)
            for i in range(pieces // 8):
                # Each granule has eight parts, one for each of them.
                at = rng.randrange(64) * GRANULE + k * 512
                data = rng.randbytes(512)
                h.pwrite(data, at)
                truth[at:at + 512] = data
                assert h.pread(512, at) == data
            h.flush()
        except (nbd.Error, AssertionError) as e:
            failures.append(e)

    threads = [threading.Thread(target=writer, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures
    server.end(signal.SIGKILL)
    server = disk.start()
    h = server.connect()
    assert h.pread(64 * GRANULE, 0) == truth[:64 * GRANULE]
    h.shutdown()
    server.end(signal.SIGTERM)
    disk.remove()
    print("side by side in the same granules")


def main():
    # So that nothing is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    directory = tempfile.mkdtemp(prefix="bfi-", dir="/tmp")
    try:
        golden = random.Random(0).randbytes(SIZE)
        image = os.path.join(directory, "golden")
        with open(image, "wb") as f:
            f.write(golden)
        source = Server(directory, "source", "-r", "file", image)
        disk = Disk(directory, source)
        all_see(disk)
        flush_covers(disk, golden)
        together(disk, golden)
    finally:
        for s in list(Server.running):
            s.end(signal.SIGKILL)
        shutil.rmtree(directory)


main()
