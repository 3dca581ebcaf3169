#!/usr/bin/python3
"""Many control clients at once on several disks: each command is done or
refused, each job that was started ends once and says so, and the server ends
in order whatever is going on.

In a sanitizer build any report of it fails the test.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import os
import random
import socket
import threading
import time

from locallib import *

SIZE = (6 << 20) + 512
DISKS = ("a", "b", "c")
SECONDS = 3 if SANITIZER == "no" else 5
MAY = ("EBUSY", "ESRCH", "EALREADY", "ESHUTDOWN")


class Crowd:
    def __init__(self, d, server):
        self.d = d
        self.s = server
        self.over = False
        self.enough = False  # of jobs
        self.ending = False
        self.errors = []
        self.lock = threading.Lock()
        self.started = dict.fromkeys(DISKS, 0)
        self.events = []
        self.listening = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(f, i),
                                         daemon=True)
                        for i, f in enumerate([self.verbs] * 5
                                              + [self.listener, self.queries,
                                                 self.comers, self.guest])]
        for t in self.threads:
            t.start()
        assert self.listening.wait(LONG)

    def run(self, what, seed):
        try:
            what(random.Random(seed))
        except (OSError, EOFError, nbd.Error) as e:
            if not self.ending:
                self.errors.append("%s: %r" % (what.__name__, e))
        except Exception as e:
            self.errors.append("%s: %r" % (what.__name__, e))

    def verbs(self, rng):
        self.listening.wait(LONG)
        q = self.s.qmp()
        while not self.over and not self.enough:
            disk = rng.choice(DISKS)
            command, args = rng.choice((
                ("block-allocate", {"speed": rng.choice((0, 300000))}),
                ("block-allocate", {"offset": rng.randrange(0, SIZE),
                                    "sparse": False}),
                ("block-job-cancel", {}), ("block-job-cancel", {}),
                ("block-job-pause", {}), ("block-job-resume", {}),
                ("block-job-set-speed", {"speed": 10 ** rng.randrange(4, 8)}),
                ("block-job-dismiss", {}), ("disk-flush", {}),
                ("query-allocation-map", {"states": True})))
            try:
                q.ask(command, device=disk, **args)
                if command == "block-allocate":
                    with self.lock:
                        self.started[disk] += 1
            except QmpError as e:
                if e.name == "ESHUTDOWN" and self.ending:
                    break
                assert e.name in MAY, (command, e, e.name)
            q.events.clear()
        q.close()

    def listener(self, rng):
        q = self.s.qmp()
        self.listening.set()
        q.s.settimeout(0.5)
        while not self.over:
            try:
                m = q.message()
            except TimeoutError:
                continue
            assert m["timestamp"]["seconds"] > 0
            self.events.append((m["event"], m["data"]))
        # What was sent before.
        q.s.settimeout(LONG)
        q.send(b'{"execute": "query-version"}')
        q.answer()
        self.events += [(m["event"], m["data"]) for m in q.events]
        q.close()

    def queries(self, rng):
        q = self.s.qmp()
        local = dict.fromkeys(DISKS, 0)
        while not self.over:
            for o in q.ask("query-disks"):
                assert o["local"] + o["absent"] == SIZE, o
                assert o["local"] >= local[o["name"]], o
                local[o["name"]] = o["local"]
                job = o["job"]
                if job:
                    assert job["total"] == job["processed"] \
                        + job["remaining"], job
                    assert (job["status"] == "concluded") \
                        == (job["result"] != "none"), job
            q.events.clear()
            time.sleep(0.002)
        q.close()

    def comers(self, rng):
        """They come, ask, and go without waiting."""
        while not self.over:
            q = Control(self.s.control)
            q.send(b'{"execute": "qmp_capabilities"}')
            for _ in range(rng.randrange(4)):
                q.send(rng.choice((
                    b'{"execute": "query-disks"}', b"garbage\n", b'{"half',
                    b'{"execute": "disk-flush", "arguments": {"device": "a"}}',
                    b'{"execute": "query-allocation-map", "arguments": '
                    b'{"device": "b", "states": true}}')))
            if rng.randrange(2):
                q.message()
            q.close()

    def guest(self, rng):
        hs = [self.s.nbd(disk) for disk in DISKS]
        while not self.over:
            i = rng.randrange(3)
            at = rng.randrange(0, SIZE - 70000)
            n = rng.randrange(1, 70000)
            if rng.randrange(2):  # what is there already
                data = self.d.golden[at:at + n]
                hs[i].pwrite(data, at)
            else:
                same(hs[i].pread(n, at), self.d.golden[at:at + n], at)

    def end(self):
        self.over = True
        for t in self.threads:
            t.join(LONG)
            assert not t.is_alive(), "a client hangs"
        assert not self.errors, self.errors


def start(d, *more):
    args = []
    for disk in DISKS:
        args += ["name=" + disk, "store=" + d(disk),
                 "backing=" + d.source.uri, *more]
    return Server(d, *args)


def volumes(d):
    d.golden = make_golden(d("golden"), SIZE, [(1 << 20, 1 << 20)])
    d.source = Source(d, d("golden"), ("delay",), ("rdelay=5ms",))


def right(d, s):
    for disk in DISKS:
        h = s.nbd(disk)
        same(h.pread(SIZE, 0), d.golden)
        h.shutdown()


def in_order(disk, events):
    """Of one job after the other: created, ..., concluded, its end."""
    alive, at_end = False, False
    for i, (e, status) in enumerate(events):
        near = events[max(0, i - 12):i + 6]
        if status == "created":
            assert not alive and not at_end, (disk, i, near)
            alive = True
        elif status == "concluded":
            assert alive, (disk, i, near)
            alive, at_end = False, True
        elif e in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"):
            assert at_end, (disk, i, near)
            at_end = False
        elif e == "JOB_STATUS_CHANGE" and status != "null":
            assert alive, (disk, i, near)


def test_race_each_job_ends_once_and_says_so(d):
    volumes(d)
    s = start(d)
    c = Crowd(d, s)
    time.sleep(SECONDS)
    # Also while the source hangs.
    d.source.hang()
    time.sleep(0.7)
    d.source.resume()
    time.sleep(SECONDS / 2)
    c.enough = True
    for t in c.threads[:5]:
        t.join(LONG)
    for disk in DISKS:
        try:
            s.ask("block-job-cancel", device=disk)
        except QmpError as e:
            assert e.name == "ESRCH", e
        wait_for("its job ends", lambda: not any(
            j["device"] == disk and j["status"] != "concluded"
            for j in s.ask("query-block-jobs")))
    # The events come after the record, and that after the state.
    wait_for("each job's end is told", lambda: c.errors or sum(
        e in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")
        for e, _ in c.events) == sum(c.started.values()))
    c.end()
    for disk in DISKS:
        in_order(disk, [(e, data.get("status")) for e, data in c.events
                        if data["device"] == disk])
        ends = [e for e, data in c.events if data["device"] == disk
                and e in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")]
        concluded = [e for e, data in c.events if data["device"] == disk
                     and e == "JOB_STATUS_CHANGE"
                     and data["status"] == "concluded"]
        created = [e for e, data in c.events if data["device"] == disk
                   and e == "JOB_STATUS_CHANGE"
                   and data["status"] == "created"]
        assert len(ends) == len(concluded) == len(created) \
            == c.started[disk], (disk, len(ends), len(concluded),
                                 len(created), c.started)
    say("   jobs started: %s; events: %d" % (c.started, len(c.events)))
    right(d, s)
    s.stop()
    s = start(d)
    right(d, s)
    s.stop()


def ended_in_the_middle(d, how, *args):
    volumes(d)
    for i in range(2):
        s = start(d, *args)
        c = Crowd(d, s)
        time.sleep(SECONDS / 3)
        c.ending = True
        how(s, c)
        for h in s.handles:
            try:
                h.shutdown()
            except nbd.Error:
                pass
        s.ended()
        s.check()
        c.end()
    s = start(d, *args)
    right(d, s)
    for disk in DISKS:
        r = s.ask("query-disks", device=disk)
        assert "sync-error" not in r[0], r
    s.stop()


def test_race_sigterm_in_the_middle_of_commands(d):
    def how(s, c):
        s.term()
        time.sleep(0.3)
        c.over = True
        for t in c.threads[-1:]:  # the guest's
            t.join(LONG)
    ended_in_the_middle(d, how)


def test_race_quit_and_detach_in_the_middle_of_commands(d):
    def how(s, c):
        qs = [s.qmp() for _ in range(6)]
        for i, q in enumerate(qs):
            q.send(json.dumps({"execute": ("disk-detach", "block-allocate",
                                           "disk-flush")[i % 3],
                               "arguments": {"device": DISKS[i % 3]}})
                   .encode())
        qs[0].send(b'{"execute": "quit"}')
        time.sleep(0.3)
        c.over = True
        for t in c.threads[-1:]:
            t.join(LONG)
        for q in qs:
            q.close()
    # One that was let go is a plain image now.
    ended_in_the_middle(d, how, "adopt=local")


if __name__ == "__main__":
    main(globals())
