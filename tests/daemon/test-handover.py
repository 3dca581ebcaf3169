#!/usr/bin/python3
"""One volume, many owners: a job goes on from backfilld to the plugin of a
guest and back, also when either dies at any moment, and nothing is lost.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import fcntl
import json
import os
import random
import signal
import threading
import time

import nbd

from daemonlib import (LONG, MiB, Place, check, cli, connect, freeze,
                       job_of, main, stop, wait_for)


def progress(path):
    job = job_of(path)
    return job["offset"] if job else 0


def test_there_and_back():
    """A job is started offline, a guest starts in the middle of it, writes,
    and stops: it is the same job all the time, and whoever waits for it
    follows it."""
    with Place() as p:
        path = p.vol("a.img")
        d = p.daemon("--grace=1", "--idle=1")
        p.create("a.img")
        waiter = p.start(["backfill", "allocate", path, "--wait",
                          "--speed", "1M"], "waiter.log")
        wait_for("it is on its way", lambda: progress(path) > 2 * MiB)
        before = job_of(path)

        began = time.monotonic()
        guest = p.plugin(path)
        took = time.monotonic() - began
        check("the plugin has the volume", guest is not None,
              p.log("nbdkit.log"))
        check("and had it at once", took < 20, took)
        during = wait_for("its job is seen", lambda: job_of(path))
        check("the same job goes on",
              during["offset"] >= before["offset"]
              and during["status"] in ("running", "created", "waiting")
              and during["len"] == before["len"]
              and during["time-elapsed"] >= before["time-elapsed"]
              and during["bytes-read"] >= before["bytes-read"],
              (before, during))
        h = connect(p.path("p.sock"))
        h.pwrite(b"guest" * 100, 20 * MiB + 77)
        check("a read is right", h.pread(4096, MiB)
              == p.golden[MiB:MiB + 4096])
        h.shutdown()
        check("the plugin ends well", stop(guest) == 0)

        wait_for("backfilld has it back", lambda: p.control().job(path))
        check("still the same", progress(path) >= during["offset"]
              and job_of(path)["time-elapsed"] >= during["time-elapsed"])
        cli("speed", path, "0")
        check("who waited is told the end", waiter.wait(LONG) == 0,
              p.log("waiter.log"))
        want = bytearray(p.golden)
        want[20 * MiB + 77:20 * MiB + 577] = b"guest" * 100
        check("the image is right", p.read_store("a.img") == want)
        job = job_of(path)
        check("its record tells of all of it", job["result"] == "completed"
              and job["local-at-start"] == 0
              and job["offset"] == len(p.golden), job)
        check("backfilld ends well", stop(d) == 0, p.log("daemon.log"))


def test_daemon_restart():
    """Jobs survive a restart of backfilld, clean or not, and go on without
    being asked."""
    with Place() as p:
        d = p.daemon()
        for name in ("a.img", "b.img"):
            p.create(name)
            p.control().call("block-allocate", device=p.vol(name),
                             speed=2 * MiB)
        for sig in (signal.SIGTERM, signal.SIGKILL):
            wait_for("both are on their way", lambda: min(
                progress(p.vol("a.img")), progress(p.vol("b.img"))) > MiB)
            before = progress(p.vol("a.img"))
            stop(d, sig)
            d = p.daemon()
            check("jobs go on after signal %d" % sig, wait_for(
                "jobs", lambda: progress(p.vol("a.img")) >= before
                and progress(p.vol("b.img")) > 0))
        for name in ("a.img", "b.img"):
            cli("speed", p.vol(name), "0")
        for name in ("a.img", "b.img"):
            wait_for("the end", lambda: job_of(p.vol(name))["result"]
                     == "completed")
            check("%s is right" % name, p.read_store(name) == p.golden)


def test_guest_killed():
    """A plugin that is killed: what it acknowledged is there, and the job
    goes on with backfilld after the grace period, not before; that begins when
    it dies, however long it has had the volume."""
    with Place() as p:
        path = p.vol("a.img")
        p.daemon("--grace=2", "--idle=1")
        p.create("a.img")
        p.control().call("block-allocate", device=path, speed=MiB)
        wait_for("it is on its way", lambda: progress(path) > MiB)
        guest = p.plugin(path)
        h = connect(p.path("p.sock"))
        h.pwrite(b"x" * 512, 30 * MiB + 512)
        time.sleep(2.5)
        killed = time.monotonic()
        stop(guest, signal.SIGKILL)
        wait_for("backfilld takes it back",
                 lambda: "going on with its job" in p.log("daemon.log"))
        check("not before the grace period",
              time.monotonic() - killed >= 1.9, time.monotonic() - killed)
        cli("speed", path, "0")
        wait_for("the end", lambda: (job_of(path) or {}).get("result")
                 == "completed")
        want = bytearray(p.golden)
        want[30 * MiB + 512:30 * MiB + 1024] = b"x" * 512
        check("nothing is lost", p.read_store("a.img") == want)


def test_guest_back_in_time():
    """A hypervisor's server that comes back within the grace period has the
    volume again, though someone asks backfilld for it meanwhile."""
    with Place() as p:
        path = p.vol("a.img")
        p.daemon("--grace=600", "--idle=1")
        p.create("a.img")
        p.control().call("block-allocate", device=path, speed=MiB)
        guest = p.plugin(path)
        stop(guest)
        again = p.plugin(path)
        check("the plugin has it again", again is not None,
              p.log("nbdkit.log"))
        wait_for("its job runs there",
                 lambda: (job_of(path) or {}).get("status") == "running")
        check("and not in backfilld", "going on" not in p.log("daemon.log"))
        stop(again)


def test_other_owner():
    """A guest's volume is no one else's: another plugin is refused, with the
    owner's name, and backfilld too."""
    with Place() as p:
        path = p.vol("a.img")
        p.daemon()
        p.create("a.img")
        first = p.plugin(path)
        check("the second one is refused", p.plugin(path, sock="q.sock")
              is None)
        check("and told who has it",
              "is in use by process %d" % first.pid in p.log("nbdkit.log"),
              p.log("nbdkit.log"))
        r = p.control().call("block-allocate", device=path)
        check("backfilld is refused", r.get("errno-name") == "EBUSY"
              and str(first.pid) in r["desc"], r)
        h = connect(p.path("p.sock"))
        check("the first goes on", h.pread(512, 0) == p.golden[:512])


def test_job_of_the_guests_server():
    """A job that the guest's own server has begun goes on in a backfilld that
    never had the volume before: it is offered when that server ends."""
    with Place() as p:
        path = p.vol("a.img")
        p.daemon("--idle=0", "--grace=0")
        p.create("a.img")
        guest = p.plugin(path)
        cli("allocate", path, "--speed", "1M")
        wait_for("it is on its way", lambda: progress(path) > MiB)
        check("the plugin ends well", stop(guest) == 0)
        # A question would have it opened, and found.
        with open(p.path("state", "jobs.json")) as f:
            check("backfilld has it", path in f.read())
        cli("speed", path, "0")
        wait_for("the end", lambda: job_of(path)["result"] == "completed")
        check("the image is right", p.read_store("a.img") == p.golden)


def test_killed_in_between():
    """Either side is killed at any point of a hand-over: the volume has one
    owner or none, opens again, and holds what was acknowledged."""
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    print("SEED=%d" % seed)
    rng = random.Random(seed)
    rounds = int(os.environ.get("ROUNDS", 12))
    with Place(size=16 * MiB, delay="1ms") as p:
        path = p.vol("a.img")
        d = p.daemon("--grace=0", "--idle=1")
        p.create("a.img")
        p.control().call("block-allocate", device=path, speed=MiB // 2)
        want = bytearray(p.golden)
        for i in range(rounds):
            wait_for("backfilld has it",
                     lambda: not isinstance(p.control().call(
                         "query-disks", device=path), dict))
            sock = p.path("p.sock")
            for name in (sock, sock + ".pid"):
                if os.path.exists(name):
                    os.unlink(name)
            guest = p.start([os.environ.get("NBDKIT", "nbdkit"), "-f", "-U",
                             sock, os.environ["BACKFILL_PLUGIN"], path],
                            "nbdkit.log")
            time.sleep(rng.uniform(0, 0.15))
            who = rng.choice(("guest", "daemon", "both"))
            if who in ("daemon", "both"):
                stop(d, signal.SIGKILL)
            if who in ("guest", "both"):
                stop(guest, signal.SIGKILL)
            if d.poll() is not None:
                # Without a daemon the guest has it, or it has ended.
                if guest.poll() is None:
                    time.sleep(0.5)
            if guest.poll() is None and os.path.exists(sock):
                h = None
                try:
                    h = connect(sock)
                    data = bytes([i + 1]) * 700
                    at = rng.randrange(len(want) - 700)
                    h.pwrite(data, at)
                    want[at:at + 700] = data
                except nbd.Error as e:  # it may be ending
                    print("(no write in round %d: %s)" % (i, e))
                # (nbdkit does not end before its clients.)
                del h
            if guest.poll() is None:
                stop(guest, rng.choice((signal.SIGKILL, signal.SIGTERM)))
            if d.poll() is not None:
                d = p.daemon("--grace=0", "--idle=1")
        cli("speed", path, "0")
        wait_for("the end", lambda: (job_of(path) or {}).get("result")
                 == "completed")
        check("nothing is lost in %d rounds (SEED=%d)" % (rounds, seed),
              p.read_store("a.img") == want)


def test_killed_while_asked():
    """Backfilld dies while a guest's server asks it for the volume: the server
    has it all the same."""
    with Place(size=8 * MiB) as p:
        path = p.vol("a.img")
        d = p.daemon()
        p.create("a.img")
        p.control().call("block-allocate", device=path, speed=MiB)
        wait_for("it is on its way", lambda: progress(path) > 0)
        freeze(d.pid)
        sock = p.path("p.sock")
        guest = p.start([os.environ.get("NBDKIT", "nbdkit"), "-f", "-U", sock,
                         os.environ["BACKFILL_PLUGIN"], path], "nbdkit.log")
        time.sleep(1)
        stop(d, signal.SIGKILL)
        wait_for("the server serves, or has ended",
                 lambda: os.path.exists(sock) or guest.poll() is not None)
        check("the server has the volume", guest.poll() is None,
              p.log("nbdkit.log"))
        if guest.poll() is None:
            stop(guest)


def test_grace():
    """The grace period is as long as it says, and the volume's state can be
    had meanwhile, though nobody has it open."""
    with Place(size=8 * MiB) as p:
        path = p.vol("a.img")
        d = p.daemon("--grace=600", "--idle=1")
        p.create("a.img")
        c = p.control()
        c.call("block-allocate", device=path, speed=MiB // 8)
        wait_for("it is on its way", lambda: progress(path) > 0)
        r = c.call("disk-release", device=path)
        check("it is let go", r == {}, r)
        r = c.call("query-disks", device=path)
        check("its state can be had", isinstance(r, list)
              and r[0]["open"] is False and r[0]["local"] > 0
              and r[0]["job"]["number"] == 1
              and r[0]["job"]["offset"] == r[0]["local"], r)
        r = cli("info", path)
        check("by the command, too", r.returncode == 0, r)
        r = c.call("block-allocate", device=path)
        check("a job is refused", r.get("errno-name") == "EBUSY"
              and "a moment ago" in r["desc"], r)
        c.close()
        stop(d)
        p.daemon("--grace=3", "--idle=1")
        c = p.control()
        wait_for("it runs again", lambda: (c.job(path) or {}).get("status")
                 == "running")

        def times():
            return p.log("daemon.log").count("going on with its job")

        before, began = times(), time.monotonic()
        r = c.call("disk-release", device=path)
        check("it is let go again", r == {}, r)
        wait_for("it is taken back", lambda: times() > before)
        took = time.monotonic() - began
        # It is looked for in turns of seconds.
        check("after the grace period, and soon after", 2.5 < took < 30, took)


def test_asked_for_in_use():
    """One that a command is at work on is not let go: who wants it is told, and
    it stays as it was."""
    slowsync = os.path.join(os.environ["TOP_BUILDDIR"], "tests", "crash",
                            ".libs", "slowsync.so")
    if not os.path.exists(slowsync):
        print("(there is no slowsync.so: not tried)")
        return
    with Place(size=MiB) as p:
        path, hold = p.vol("a.img"), p.path("hold")
        os.environ.update(LD_PRELOAD=slowsync, SLOWSYNC_FILE=path,
                          SLOWSYNC_HOLD=hold)
        try:
            p.daemon("--idle=60")
        finally:
            for name in ("LD_PRELOAD", "SLOWSYNC_FILE", "SLOWSYNC_HOLD"):
                del os.environ[name]
        p.create("a.img")
        answers = []

        def flush():
            answers.append(p.control().call("disk-flush", device=path))

        t = threading.Thread(target=flush)
        with open(hold, "w"):
            t.start()
        wait_for("a command is at work", lambda: os.path.exists(hold + ".held"))
        r = p.control().call("disk-release", device=path)
        check("it is not let go", r.get("errno-name") == "EBUSY"
              and "does not end" in r["desc"], r)
        os.unlink(hold + ".held")
        t.join()
        check("the command ends well", answers == [{}], answers)
        r = p.control().call("query-disks")
        check("it is still open", [o["store"] for o in r] == [path], r)
        r = p.control().call("disk-release", device=path)
        check("then it is let go", r == {}
              and p.control().call("query-disks") == [], r)


def test_offer_while_asked():
    """An offer counts while a client's question has the volume half open."""
    with Place(MiB) as p:
        d = p.daemon("--idle=1", "--grace=600")
        names = ["o%d.img" % i for i in range(12)]
        for name in names:
            p.create(name)
        stop(d)
        # Their owner, which is about to end.
        held = [open(p.vol(name), "r+b") for name in names]
        for f in held:
            fcntl.lockf(f, fcntl.LOCK_EX)
        d = p.daemon("--idle=1", "--grace=600")
        now, ended = [names[0]], threading.Event()

        def ask():
            c = p.control()
            while not ended.is_set():
                c.call("query-disks", device=p.vol(now[0]))
            c.close()

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for t in threads:
            t.start()
        c = p.control()
        answers = []
        for name in names:
            now[0] = name
            time.sleep(0.1)
            answers.append(c.call("disk-take", device=p.vol(name)))
        ended.set()
        for t in threads:
            t.join()
        check("all offers are taken", answers == [{}] * len(names), answers)
        with open(p.path("state", "jobs.json")) as f:
            kept = json.load(f)["volumes"]
        check("and written down", sorted(kept)
              == sorted(p.vol(name) for name in names), kept)
        for f in held:
            f.close()
        stop(d)


main(globals().copy())
