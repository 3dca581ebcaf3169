#!/usr/bin/python3
"""A file system that never answers, and what else hangs: it costs the volumes
that are on it, and nobody else.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time

from daemonlib import (LONG, MiB, Place, check, end_on_signals, finish,
                       freeze, stop, wait_for)

LIBC = ctypes.CDLL(None, use_errno=True)
SOON = 25  # what waits for something that hangs waits longer, or for ever


class Dead:
    """A FUSE mount that nobody serves: whoever looks waits until its end."""

    def __init__(self, path):
        self.path = path.encode()
        os.makedirs(path, exist_ok=True)
        self.fd = os.open("/dev/fuse", os.O_RDWR)
        options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % self.fd
        if LIBC.mount(b"dead", self.path, b"fuse", 6, options) != 0:
            raise OSError(ctypes.get_errno(), "mount")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)
        LIBC.umount2(self.path, 2)


def timed(what, limit, call):
    began = time.monotonic()
    r = call()
    took = time.monotonic() - began
    check("%s within %d s" % (what, limit), took < limit, (took, r))
    return r


def asker(p, path, answers):
    def ask():
        try:
            answers.append(p.control().call("query-disks", device=path))
        except OSError as e:
            answers.append(e)

    t = threading.Thread(target=ask, daemon=True)
    t.start()
    return t


def test_dead_mount():
    """Clients ask for volumes on it, the ledger has some, and all else goes on;
    the end is in time."""
    with Place(size=MiB) as p:
        with Dead(p.vol("dead")):
            dead = [p.vol("dead", ) + "/%d.img" % i for i in range(40)]
            with open(p.path("state", "jobs.json"), "w",
                      encoding="utf-8") as f:
                json.dump({"version": 1, "volumes": dead[:20]}, f)
            d = p.daemon("--idle=1", "--grace=1")
            answers = []
            threads = [asker(p, path, answers) for path in dead[:30] * 2]
            time.sleep(0.5)
            c = p.control()
            r = timed("a volume is made", SOON, lambda: p.create("a.img"))
            check("it is", r == {}, r)
            r = timed("a job is started", SOON, lambda: c.call(
                "block-allocate", device=p.vol("a.img")))
            check("it is", "desc" not in r, r)
            wait_for("it ends", lambda: (c.job(p.vol("a.img")) or {}).get(
                "result") == "completed")
            r = timed("a list", SOON, lambda: c.call("query-disks"))
            check("has it", [o["store"] for o in r] == [p.vol("a.img")], r)
            r = timed("the list of all", SOON,
                      lambda: c.call("query-disks", all=True))
            silent = [o for o in r if o["store"] in dead]
            check("has those that do not answer, too", len(silent) == 20
                  and all("does not answer" in o["unanswered"] and not o["open"]
                          for o in silent), r)
            r = timed("a volume is let go", SOON, lambda: c.call(
                "disk-release", device=p.vol("a.img")))
            check("it is", r == {}, r)
            check("nobody has been answered what cannot be known", not any(
                isinstance(a, list) for a in answers), answers)
            timed("the end", 60, lambda: stop(d))
            for t in threads:
                t.join(LONG)


def test_unanswered():
    """Whoever asks for one is told so, in time."""
    with Place(size=MiB) as p, Dead(p.vol("dead")):
        p.daemon()
        r = timed("the answer", 60, lambda: p.control().call(
            "query-disks", device=p.vol("dead") + "/a.img"))
        check("says what is wrong", r.get("errno-name") == "ETIMEDOUT"
              and "does not answer" in r["desc"], r)


def test_source_that_hangs():
    """Many volumes whose backing store does not answer are opened at once, and
    the others meanwhile."""
    with Place(size=MiB) as p:
        d = p.daemon("--idle=1")
        p.create("first.img")
        wait_for("it is closed",
                 lambda: p.control().call("query-disks") == [])
        stop(d)
        names = ["%d.img" % i for i in range(60)]
        for name in names:
            for end in ("", ".backfill"):
                subprocess.run(["cp", "--preserve=all", "--sparse=always",
                                p.vol("first.img" + end), p.vol(name + end)],
                               check=True)
        with open(p.path("state", "jobs.json"), "w", encoding="utf-8") as f:
            json.dump({"version": 1, "volumes": [p.vol(n) for n in names]}, f)
        freeze(p.source.pid)
        try:
            d = p.daemon("--idle=600")
            c = p.control()
            r = timed("another volume is made", SOON, lambda: c.call(
                "disk-create", device=p.vol("z.img"), size=MiB))
            check("it is", r == {}, r)
            timed("all are open", 60, lambda: wait_for(
                "they are", lambda: p.log("daemon.log").count(": opened")
                >= 60))
        finally:
            p.source.send_signal(signal.SIGCONT)
        check("the end", stop(d) == 0)


class Frozen:
    """A file system of its own, whose writers wait while it is frozen."""

    def __init__(self, p, name):
        self.path = p.vol(name)
        os.mkdir(self.path)
        with open(p.path(name), "wb") as f:
            f.truncate(64 * MiB)
        subprocess.run(["mkfs.ext4", "-q", p.path(name)], check=True)
        subprocess.run(["mount", "-o", "loop", p.path(name), self.path],
                       check=True)

    def __enter__(self):
        return self

    def freeze(self):
        subprocess.run(["fsfreeze", "-f", self.path], check=True)

    def thaw(self):
        subprocess.run(["fsfreeze", "-u", self.path], check=False,
                       stderr=subprocess.DEVNULL)

    def __exit__(self, *_):
        self.thaw()
        LIBC.umount2(self.path.encode(), 2)


def test_made_too_late():
    """Whoever makes a volume has gone when it is there at last: it is not held
    for him."""
    with contextlib.ExitStack() as stack:
        p = stack.enter_context(Place(size=MiB))
        try:
            cold = stack.enter_context(Frozen(p, "cold"))
        except (OSError, subprocess.CalledProcessError) as e:
            print("skipped: no file system to freeze: %s" % e)
            return
        p.daemon("--idle=600")
        path = cold.path + "/a.img"
        cold.freeze()
        r = p.control().call("disk-create", device=path, size=MiB)
        check("he is told", r.get("errno-name") == "ETIMEDOUT", r)
        cold.thaw()
        wait_for("it is open", lambda: [
            o["store"] for o in p.control().call("query-disks")] == [path])
        r = p.control().call("disk-release", device=path)
        check("it is let go all the same", r == {}, r)


def main():
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        print("skipped: it needs root and /dev/fuse")
        sys.exit(77)
    if len(sys.argv) == 1:
        sys.exit(subprocess.run(["unshare", "--mount", sys.executable,
                                 __file__, "inside"], check=False).returncode)
    try:
        with Dead("/tmp/bd-dead-%d" % os.getpid()):
            pass
        os.rmdir("/tmp/bd-dead-%d" % os.getpid())
    except OSError as e:
        print("skipped: no FUSE mounts here: %s" % e)
        sys.exit(77)
    end_on_signals()
    # (It takes the half minute that such a client waits.)
    slow = [threading.Thread(target=t)
            for t in (test_unanswered, test_made_too_late)]
    for t in slow:
        t.start()
    test_dead_mount()
    test_source_that_hangs()
    for t in slow:
        t.join()
    sys.exit(finish())


main()
