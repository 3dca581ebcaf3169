#!/usr/bin/python3
"""Everything at once on one small disk: two guests with many requests in
flight on several connections each, jobs that start, pause and are aborted,
queries, connections that come and go, SIGTERM, SIGKILL, and a detach at the
end; against a model that knows what each byte may be (G1 to G6, G8, G11, G13).

In a sanitizer build any report of it fails the test.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import multiprocessing
import os
import queue
import random
import signal
import threading
import time

from locallib import *
import racelib

CELL = racelib.CELL
SECONDS = 2.0 if SANITIZER == "no" else 3.0


def guest(me, size, holes, seed, orders, answers):
    """A guest's process: does what it is told to, one order at a time."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent()
    g = racelib.Guest(me, size, holes, seed)
    while True:
        order = orders.get()
        try:
            if order[0] == "end":
                answers.put(("ok", g.stats))
                return
            if order[0] == "connect":
                g.connect(order[1])
                result = True
            elif order[0] == "work":
                result = g.work(order[1])
            elif order[0] == "leave":
                g.disconnect()
                result = True
            elif order[0] == "look":
                g.look(g.handles[0].pread)
                result = True
            elif order[0] == "file":
                with open(order[1], "rb") as f:
                    g.look(lambda n, at: os.pread(f.fileno(), n, at))
                result = True
            answers.put(("ok", result))
        except Exception as e:
            answers.put(("failed", "%s: %s: %s" % (order[0], type(e).__name__,
                                                   e)))
            return


class Guests:
    def __init__(self, size, holes, seed):
        self.queues = []
        self.processes = []
        for me in range(2):
            q = (multiprocessing.Queue(), multiprocessing.Queue())
            p = multiprocessing.Process(target=guest, daemon=True, args=(
                me, size, holes, seed, *q))
            p.start()
            self.queues.append(q)
            self.processes.append(p)

    def tell(self, *order):
        for orders, _ in self.queues:
            orders.put(order)

    def hear(self, limit=300):
        results = []
        for (_, answers), p in zip(self.queues, self.processes):
            end = time.monotonic() + limit
            while True:
                try:
                    what, result = answers.get(timeout=1)
                    break
                except queue.Empty:
                    assert p.is_alive(), "a guest died: %s" % p.exitcode
                    assert time.monotonic() < end, "a guest hangs"
            assert what == "ok", result
            results.append(result)
        return results

    def do(self, *order):
        self.tell(*order)
        return self.hear()

    def close(self):
        for p in self.processes:
            p.kill()
            p.join()


class Churn:
    """Control clients and short-lived NBD clients, each on a thread."""

    def __init__(self, size):
        self.size = size
        self.server = None
        self.over = False
        self.errors = []
        self.done = {}
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(f, i),
                                         daemon=True)
                        for i, f in enumerate((self.jobs, self.jobs,
                                               self.looks, self.visits))]
        for t in self.threads:
            t.start()

    def run(self, what, seed):
        rng = random.Random(seed)
        while not self.over:
            server = self.server
            if server is None:
                time.sleep(0.01)
                continue
            try:
                what(server, rng)
            except (OSError, EOFError, nbd.Error, ValueError) as e:
                # The server may have been ended under it.
                if self.server is server and server.alive() \
                        and not isinstance(e, EOFError):
                    self.errors.append("%s: %r" % (what.__name__, e))
                time.sleep(0.01)
            except QmpError as e:
                if e.name != "ESHUTDOWN" or self.server is server:
                    self.errors.append("%s: %r" % (what.__name__, e))
            except Exception as e:
                self.errors.append("%s: %r" % (what.__name__, e))
                return

    def jobs(self, server, rng):
        with server.qmp() as q:
            for _ in range(20):
                if self.server is not server:
                    return
                command, args = rng.choice((
                    ("block-allocate", {}),
                    ("block-allocate", {"speed": 500000}),
                    ("block-allocate", {"sparse": False}),
                    ("block-allocate",
                     {"offset": rng.randrange(0, self.size // 2),
                      "length": rng.randrange(1, self.size // 2),
                      "on-error": "skip"}),
                    ("block-job-cancel", {"device": ""}),
                    ("block-job-cancel", {"device": ""}),
                    ("block-job-pause", {"device": ""}),
                    ("block-job-resume", {"device": ""}),
                    ("block-job-set-speed",
                     {"device": "", "speed": rng.choice((0, 100000))}),
                    ("block-job-dismiss", {"device": ""}),
                    ("set-total-speed", {"speed": rng.choice((1 << 20, 4 << 20))}),
                    ("disk-flush", {})))
                try:
                    q.ask(command, **args)
                    with self.lock:
                        self.done[command] = self.done.get(command, 0) + 1
                except QmpError as e:
                    assert e.name in ("EBUSY", "ESRCH", "EALREADY",
                                      "ESHUTDOWN"), (command, e, e.name)
                q.events.clear()
                time.sleep(rng.random() * 0.02)

    def looks(self, server, rng):
        local = 0
        with server.qmp() as q:
            while self.server is server and not self.over:
                [o] = q.ask("query-disks")
                assert o["local"] + o["absent"] == self.size, o
                assert o["local"] >= local, (o["local"], local)
                assert "sync-error" not in o and "damaged" not in o, o
                local = o["local"]
                for job in q.ask("query-block-jobs"):
                    assert job["total"] == job["processed"] \
                        + job["remaining"], job
                r = q.ask("query-allocation-map", states=True)["regions"]
                at = 0
                for region in r:
                    assert region["offset"] == at, r
                    at += region["length"]
                q.events.clear()
                time.sleep(0.005)

    def visits(self, server, rng):
        h = nbd.NBD()
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        h.set_export_name(rng.choice(("", "/map")))
        h.connect_unix(server.socket)
        seen = []
        h.block_status(self.size, 0, lambda c, o, e, err: seen.extend(e))
        assert seen
        h.pread(4096, rng.randrange(0, self.size - 4096))
        h.shutdown()
        time.sleep(0.01)

    def end(self):
        self.server = None
        self.over = True
        for t in self.threads:
            t.join(LONG)
        assert not self.errors, self.errors


def race(d, seed, granule, size, *args, ends=("TERM", "KILL")):
    rng = random.Random(seed)
    cells = size // CELL
    holes = [(at, min(at + rng.randrange(100, 3000), cells))
             for at in range(rng.randrange(2000), cells, 9000)]
    guests = Guests(size, holes, seed)
    churn = None
    absent = []
    try:
        with open(d("golden"), "wb") as f:
            f.write(racelib.golden_image(size, holes))
        source = Source(d, d("golden"), ("delay",), ("rdelay=%dms"
                                                     % rng.choice((3, 15)),))
        churn = Churn(size)

        def start():
            s = Server(d, d("disk"), "backing=" + source.uri,
                       "granule=%d" % granule, *args)
            guests.do("connect", s.socket)
            s.ask("set-total-speed", speed=2 << 20)
            churn.server = s
            return s
        s = start()
        for how in ends:
            guests.tell("work", SECONDS + 60)
            time.sleep(SECONDS)
            absent.append(s.info()["absent"] >> 10)
            churn.server = None
            if how == "KILL":
                s.kill()
                assert guests.hear() == [False, False]
            else:
                s.term()
                assert guests.hear() == [False, False]
                s.ended()
                s.check()
            assert not churn.errors, churn.errors
            s = start()
            guests.do("look")
        # To the end: all local, and let go while guests write.
        guests.tell("work", SECONDS)
        time.sleep(SECONDS / 2)
        churn.end()
        try:
            s.ask("block-job-cancel", device="")
        except QmpError as e:
            assert e.name == "ESRCH", e
        s.ask("set-total-speed", speed=0)
        wait_for("the job ends", lambda: not s.info()["job"] or s.info()
                 ["job"]["status"] == "concluded")
        s.ask("block-allocate")
        job = wait_job(s, "concluded")
        assert job["result"] == "completed", job
        s.ask("disk-detach")
        assert guests.hear() == [True, True]
        guests.do("look")
        guests.do("work", SECONDS / 2)
        guests.do("look")
        guests.do("leave")
        s.stop()
        assert not os.path.exists(d("disk.backfill"))
        guests.do("file", d("disk"))
        stats = guests.do("end")
        say("   absent, KiB: %s; %s; %s" % (absent, stats, churn.done))
        source.kill()
    finally:
        if churn:
            churn.over = True
        guests.close()


def test_race_granule_4096(d):
    race(d, 1, 4096, (24 << 20) + 1536)


def test_race_granule_512_small_fetches(d):
    race(d, 2, 512, (16 << 20) + 512, "fetch=4k", ends=("KILL", "TERM"))


def test_race_granule_65536_one_connection(d):
    race(d, 3, 65536, (32 << 20) + 2560, "connections=1", ends=("TERM",))


if __name__ == "__main__":
    main(globals())
