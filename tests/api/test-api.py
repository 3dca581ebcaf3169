#!/usr/bin/python3
"""libbackfill with real servers: ranges, jobs, maps of a million regions,
threads, callers that die, and servers that hang, die and come back.

The scenes are in api.c; this starts the servers that they need.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "../lib"))
from proc import has_stopped
import wait

BUILD = os.environ["TOP_BUILDDIR"]
PLUGIN = os.environ["BACKFILL_PLUGIN"]
NBDKIT = os.environ.get("NBDKIT") or shutil.which("nbdkit")
API = os.path.join(BUILD, "tests/api/api")
LONG = 400
MIB = 1 << 20

failures = []
begun = time.monotonic()


def check(what, ok, detail=None):
    print("%6.1f %s%s" % (time.monotonic() - begun,
                          "ok: " if ok else "NOT OK: ", what), flush=True)
    if not ok:
        failures.append(what)
        if detail is not None:
            print("    %s" % (detail,), flush=True)


def run(*args):
    return subprocess.run(args, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=LONG, check=False)


def scene(what, *args):
    r = run(API, *[str(a) for a in args])
    check(what, r.returncode == 0 and r.stdout.endswith("ok\n"), r.stdout)
    if r.stdout.startswith("("):
        print("       " + r.stdout.splitlines()[0], flush=True)


def wait_for(what, condition):
    return wait.wait_for(what, condition, LONG)


class Server:
    """An nbdkit with the plugin, that can be asked when this returns."""

    def __init__(self, socket, *args, ask=True):
        self.socket, self.args = socket, args
        if os.path.exists(socket):
            os.unlink(socket)
        self.log = open(socket + ".log", "a", encoding="utf-8")
        self.process = subprocess.Popen(
            [NBDKIT, "-f", "-U", socket] + list(args),
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            wait_for(socket, lambda: self.lives() and os.path.exists(socket)
                     and (not ask or self.tool("list").returncode == 0))
        except BaseException:
            self.end()
            raise

    def lives(self):
        if self.process.poll() is not None:
            with open(self.log.name, encoding="utf-8") as f:
                raise RuntimeError("nbdkit ended: " + f.read())
        return True

    def tool(self, *args):
        return run("backfill", "-c", "nbd:" + self.socket, *args)

    def job(self):
        return json.loads(self.tool("info", "--json").stdout)["job"]

    def send(self, sig):
        self.process.send_signal(sig)
        if sig == signal.SIGSTOP:
            wait_for("it stops", lambda: has_stopped(self.process.pid))

    def end(self, sig=signal.SIGTERM):
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(sig)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def crc32c_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


def crc32c(data, table=crc32c_table()):
    crc = 0xFFFFFFFF
    for b in data:
        crc = crc >> 8 ^ table[(crc ^ b) & 0xFF]
    return crc ^ 0xFFFFFFFF


def every_other_granule(sidecar):
    """Make S say so: as backfill-format(5) has it, of a closed volume."""
    assert crc32c(b"123456789") == 0xE3069283
    with open(sidecar, "r+b") as f:
        header = f.read(16384)
        (areas,) = struct.unpack_from("<I", header, 184)
        for i in range(areas):
            kind, _, offset, length = struct.unpack_from("<IIQQ", header,
                                                         192 + 24 * i)
            if kind != 1:
                continue
            for n in range(length // 512):
                sector = (b"\x55" * 496 + header[40:48] + struct.pack("<I", n))
                f.seek(offset + n * 512)
                f.write(sector + struct.pack("<I", crc32c(sector)))


def test_addresses(d, store, backing):
    control = d + "/c.control"
    os.symlink(store, d + "/link.img")
    with Server(d + "/a.sock", PLUGIN, "name=addressed", "store=" + store,
                backing, "control=" + control) as server, \
            Server(d + "/plain.sock", "null", ask=False):
        os.symlink(server.socket, d + "/link.sock")
        os.chdir(d)
        scene("every way to name a disk", "addresses", store, "addressed",
              control, server.socket, d + "/link.img")
        os.chdir("/")
        # The path is somebody else's now: the entry of the first must not
        # count for it, though it names that path.
        os.unlink(server.socket)
        with Server(server.socket, "null", ask=False):
            r = server.tool("list")
            check("another server at the same path is not taken for it",
                  r.returncode == 1 and server.socket in r.stdout, r.stdout)


def test_scenes(d, backing):
    for name, size, granule in (("r1", 3 * MIB + 1000, 4096),
                                ("r2", 3 * MIB, 512)):
        golden = "%s/%s.golden" % (d, name)
        with open(golden, "wb") as f:
            f.write(os.urandom(size))
        with Server(d + "/g.sock", "file", golden, ask=False):
            uri = "backing=nbd+unix:///?socket=%s/g.sock" % d
            store = "%s/%s.img" % (d, name)
            with Server(d + "/r.sock", PLUGIN, store, uri,
                        "granule=%d" % granule):
                scene("ranges, %d bytes in granules of %d" % (size, granule),
                      "ranges", store, size, granule)
            with open(store, "rb") as a, open(golden, "rb") as b:
                check("which is the golden image", a.read() == b.read())
    with Server(d + "/j.sock", PLUGIN, d + "/j.img", backing):
        scene("jobs, waiting, callbacks, events", "jobs", d + "/j.img")
    with Server(d + "/s.sock", PLUGIN, d + "/s.img", backing):
        scene("structs of other versions", "structs", d + "/s.img")
    for name in ("n1", "n2"):
        with open("%s/%s.img" % (d, name), "wb"):
            pass
    with Server(d + "/t.sock", PLUGIN, "name=a", "store=%s/t1.img" % d,
                backing, "name=b", "store=%s/t2.img" % d, backing,
                "total-speed=64k") as server:
        p = subprocess.Popen(
            [API, "threads"] + ["%s/%s.img" % (d, n)
                                for n in ("t1", "t2", "n1", "n2")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        first = p.stdout.readline()
        server.tool("speed", "--total", "none")
        rest = p.communicate(timeout=LONG)[0]
        check("4 handles with 5 threads each, and two jobs",
              p.returncode == 0, first + rest)


def test_large_map(d):
    size, granule = 1 << 30, 512
    store = d + "/large.img"
    args = [PLUGIN, store, "size=%d" % size, "granule=%d" % granule]
    with Server(d + "/l.sock", *args):
        pass
    every_other_granule(store + ".backfill")
    with Server(d + "/l.sock", *args):
        scene("a map of a million regions", "large-map", store, size, granule)


def test_hung(d, backing):
    store = d + "/h.img"
    with Server(d + "/h.sock", PLUGIN, "name=h", "store=" + store,
                backing) as server:
        p = subprocess.Popen([API, "hung", store, "nbd:" + server.socket],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)
        out = p.stdout.readline()
        server.send(signal.SIGSTOP)
        p.stdin.write("go\n")
        p.stdin.flush()
        out += p.stdout.readline()
        server.send(signal.SIGCONT)
        rest = p.communicate("go\n", timeout=LONG)[0]
        check("no call waits longer than it may, and all is well afterwards",
              p.returncode == 0, out + rest)


def test_callers(d, backing):
    """Whoever waits may die, and so may whom he waits for."""
    store = d + "/w.img"
    args = [PLUGIN, "store=" + store, backing, "total-speed=64k"]
    server = Server(d + "/w.sock", *args)

    def start(number):
        p = subprocess.Popen([API, "blocking", store, str(number)],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             text=True)
        return p, p.stdout.readline() == "ready\n"

    try:
        p, ready = start(0)
        before = server.job()
        p.kill()
        p.wait()
        p.stdout.close()
        job = server.job()
        check("the caller is killed, the job goes on", ready
              and before["status"] == job["status"] == "running"
              and before["job-type"] == job["job-type"] == "bounded", job)
        wait_for("progress", lambda: server.job()["processed"]
                 > before["processed"])
        server.tool("abort")

        p, ready = start(errno.ETIMEDOUT)
        server.send(signal.SIGSTOP)
        out = p.communicate(timeout=LONG)[0]
        check("the server is stopped: whoever waits is told",
              ready and p.returncode == 0, out)
        server.send(signal.SIGCONT)
        check("and the job goes on", server.job()["job-type"] == "bounded")
        server.tool("abort")

        p, ready = start(errno.ECONNRESET)
        server.process.kill()
        server.process.wait()
        out = p.communicate(timeout=LONG)[0]
        check("the server is killed: whoever waits is told",
              ready and p.returncode == 0, out)
        server.log.close()
        server = Server(d + "/w.sock", *args)
        job = server.job()
        check("and the next server goes on with the job",
              job is not None and job["job-type"] == "bounded", job)
        p = subprocess.Popen(["backfill", "-c", "nbd:" + server.socket,
                              "watch"], stdout=subprocess.PIPE)
        server.tool("speed", "--total", "none")
        r = run(API, "blocking", store, "0")
        # It ends either way: the one that was resumed, or one of our own.
        p.kill()
        p.communicate()
        wait_for("the end", lambda: server.job()["job-type"] != "bounded")
        check("to its end", server.job()["job-type"] == "completed",
              r.stdout)
    finally:
        server.end()


def main():
    if not NBDKIT:
        print("nbdkit is missing")
        return 77
    with tempfile.TemporaryDirectory(prefix="api-", dir="/tmp") as d:
        os.environ["BACKFILL_RUNTIME_DIR"] = d + "/run"
        with open(d + "/golden.img", "wb") as f:
            f.write(os.urandom(4 * MIB))
        with Server(d + "/golden.sock", "file", d + "/golden.img",
                    ask=False) as golden, \
                Server(d + "/mute.sock", PLUGIN, d + "/mute.img", "size=1M",
                       "control=%s/mute.control" % d,
                       "runtime-dir=%s/elsewhere" % d, ask=False) as mute:
            backing = "backing=nbd+unix:///?socket=" + golden.socket
            # This one takes a minute: it does so beside the others.
            wait_for("control socket", lambda: mute.lives() and run(
                "backfill", "-c", d + "/mute.control", "list").returncode == 0)
            mute.send(signal.SIGSTOP)
            connecting = subprocess.Popen(
                [API, "connect-hung", d + "/mute.control"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            try:
                test_addresses(d, d + "/addressed.img", backing)
                test_scenes(d, backing)
                test_large_map(d)
                test_callers(d, backing)
                test_hung(d, backing)
                out = connecting.communicate(timeout=LONG)[0]
                check("to connect takes no longer than a minute",
                      connecting.returncode == 0, out)
            finally:
                connecting.kill()
                connecting.communicate()
    print("%d failed" % len(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
