#!/usr/bin/python3
"""Clients of the control socket without manners (G35): the others are answered
within 2 seconds, guests are served, and descriptors and memory come back.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import os
import random
import select
import socket
import struct
import threading
import time

from locallib import *

SIZE = 16 << 20
QMP = b'{"execute": "qmp_capabilities"}'
MAP = b'{"execute": "query-allocation-map", "arguments": ' \
      b'{"max-regions": 4000, "states": true}}'


class Case:
    """A server whose map has thousands of regions; one well-behaved client of
    each kind is at work."""

    def __init__(self, d, files=8192, name=""):
        self.d = d
        make_golden(d("golden"), SIZE, [(0, SIZE)])
        with open(d("golden"), "r+b") as f:  # data, so that none of it is
            for at in range(0, SIZE, 8192):  # local as known zeros
                f.seek(at)
                f.write(sector(1, at))
                f.seek(at + 4096)
                f.write(sector(1, at))
        self.source = Source(d, d("golden"), ("delay",), ("rdelay=20ms",))
        try:  # where a sync costs nothing, as each command makes some
            store = os.path.join(d.mount("fast", "-t", "tmpfs", "tmpfs"),
                                 "disk")
        except Skip:
            store = d("disk")
        self.s = Server(d, store, "backing=" + self.source.uri,
                        "name=" + name, files=files)
        h = self.s.nbd()
        for at in range(0, SIZE, 8192):
            h.pwrite(sector(2, at) * 8, at)
        h.shutdown()
        self.ask_all()
        self.fds, self.threads = self.s.fds(), self.s.threads()
        self.rss = self.s.rss()
        self.times = {"old": [], "new": [], "guest": []}
        self.errors = []
        self.over = False
        self.workers = [threading.Thread(target=self.work, args=(what,),
                                         daemon=True)
                        for what in (self.old, self.new, self.guest)]
        for t in self.workers:
            t.start()

    def ask_all(self):
        with self.s.qmp() as q:
            assert len(q.ask("query-allocation-map", states=True,
                             max_regions=4000)["regions"]) > 3000
            return q.ask("query-disks")

    def work(self, what):
        try:
            what()
        except Exception as e:
            self.errors.append("%s: %r" % (what.__name__, e))

    def timed(self, name, begin):
        self.times[name].append(time.monotonic() - begin)

    def old(self):
        """On one connection."""
        q = self.s.qmp()
        while not self.over:
            begin = time.monotonic()
            [o] = q.ask("query-disks")
            self.timed("old", begin)
            assert o["local"] + o["absent"] == SIZE
            q.events.clear()
            time.sleep(0.02)
        q.close()

    def new(self):
        """On a new one each time."""
        while not self.over:
            begin = time.monotonic()
            with self.s.qmp() as q:
                assert q.ask("query-version")["qemu"]
            self.timed("new", begin)
            time.sleep(0.05)

    def guest(self):
        h = self.s.nbd()
        tag = 10
        while not self.over:
            at = random.randrange(0, SIZE // 8192) * 8192
            begin = time.monotonic()
            h.pwrite(pattern(tag, at, 4096), at)
            same(h.pread(4096, at), pattern(tag, at, 4096), at)
            self.timed("guest", begin)
            tag += 1
            time.sleep(0.005)
        h.shutdown()

    def end(self):
        wait_for("the others are answered", lambda: self.errors or all(
            len(t) > 20 for t in self.times.values()))
        self.over = True
        for t in self.workers:
            t.join(LONG)
        assert not self.errors, self.errors
        # A busy machine may hold up one of them: what waits for a rude client
        # waits much longer, or always.
        for what, took in self.times.items():
            took.sort()
            usual, worst = took[len(took) * 95 // 100], took[-1]
            assert usual < 2 and worst < 25, "%s: %.1f s, at worst %.1f s" % (
                what, usual, worst)
        wait_for("descriptors come back: %d" % self.fds,
                 lambda: self.s.fds() <= self.fds + 1)
        assert self.s.threads() <= self.threads + 1
        grown = self.s.rss() - self.rss
        assert grown < 48 << 20, "memory: %d MiB more" % (grown >> 20)
        self.ask_all()
        self.s.stop()


def client(c, data=b"", negotiate=True):
    q = Control(c.s.control)
    q.message()
    if negotiate:
        q.ask("qmp_capabilities")
    if data:
        q.send(data)
    return q


def is_open(q):
    """Without reading: has the server left it?"""
    p = select.poll()
    p.register(q.s, select.POLLHUP)
    return not p.poll(0)


def test_garbage_is_answered_with_an_error(d):
    c = Case(d)
    for junk in (b"hello\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                 b"\x16\x03\x01\x02\x00\x01\n", b"\xff\xfe\x00\n", b"}\n",
                 b"]]]]\n", b'"text"\n', b"12\n", b"null\n", b"{]\n",
                 b"{'a': 1}\n", b'{"execute": }\n', b'{"a": 1, "a": 2}\n',
                 b"[]\n", b"[1, 2]\n", b"{}\n", b'{"execute": 1}\n',
                 b'{"execute": "query-disks", "arguments": []}\n',
                 b'{"execute": "query-disks", "surprise": 1}\n',
                 b'{"execute": "query-disks", "arguments": {"x": 1}}\n',
                 b'{"execute": "no-such-command"}\n',
                 b'{"execute": "qmp_capabilities"}\n',
                 b'{"execute": "block-job-cancel"}\n',
                 b'{"execute": "block-job-set-speed", "arguments": '
                 b'{"device": "", "speed": -1}}\n',
                 b'{"execute": "block-job-set-speed", "arguments": '
                 b'{"device": "", "speed": 1e400}}\n',
                 b'{"execute": "block-allocate", "arguments": '
                 b'{"offset": 99999999999999999999}}\n',
                 b'{"execute": "block-allocate", "arguments": '
                 b'{"length": 9223372036854775807}}\n',
                 b'{"execute": "query-disks", "arguments": '
                 b'{"device": "' + b"x" * 5000 + b'"}}\n',
                 b'{"execute": "\xc3\x28"}\n', b'{"execute": "\x00"}\n',
                 b'{"execute": "\\ud800"}\n'):
        with client(c, junk) as q:
            m = q.answer()
            assert m["error"]["class"] and m["error"]["desc"], (junk, m)
            assert len(json.dumps(m)) < 2000, "too much of it comes back"
            # And the client is as good as before.
            q.send(b"\xff\n")
            q.send(b'{"execute": "query-version", "id": "me"}')
            while m.get("id") != "me":
                m = q.answer()
            assert m["return"]["qemu"], (junk, m)
    rng = random.Random(4)
    for i in range(60):
        q = client(c, negotiate=i % 2)
        try:
            for _ in range(rng.randrange(1, 5)):
                q.send(rng.randbytes(rng.randrange(1, 20000)))
        except OSError:
            pass
        q.close()
    c.end()


def test_a_message_over_1_mib_is_refused_and_not_kept(d):
    c = Case(d)
    with client(c, b'{"execute": "' + b"x" * (2 << 20) + b'"}\n') as q:
        m = q.answer()
        assert "1 MiB" in m["error"]["desc"], m
        assert "qemu" in q.ask("query-version")
    # The largest that is allowed is not.
    head, tail = b'{"execute": "query-version", "id": "', b'"}'
    with client(c, head + b"i" * ((1 << 20) - len(head + tail)) + tail) as q:
        m = q.answer()
        assert "'id'" in m["error"]["desc"], m
        assert "qemu" in q.ask("query-version")
    # Without an end.
    clients = [client(c) for _ in range(8)]
    block = b"y" * (1 << 20)
    for q in clients:
        q.send(b'{"execute": "')
    for i in range(30):
        for q in clients:
            try:
                q.send(block)
            except OSError:
                pass
    grown = c.s.rss() - c.rss
    assert grown < 64 << 20, "memory: %d MiB more" % (grown >> 20)
    for q in clients:
        q.close()
    # Many of almost 1 MiB.
    clients = [client(c) for _ in range(100)]
    for q in clients:
        q.send(b'{"execute": "' + b"z" * ((1 << 20) - 100))
    grown = c.s.rss() - c.rss
    assert grown < 320 << 20, "memory: %d MiB more" % (grown >> 20)
    for q in clients:
        q.close()
    c.end()


def test_a_deep_message_is_refused(d):
    c = Case(d)
    for depth in (33, 100, 5000, 500000):
        for a, b in ((b"[", b"]"), (b'{"a":', b"}")):
            text = a * depth + (b"1" if a != b"[" else b"") + b * depth
            if len(text) > 3 << 20:
                continue
            with client(c, text + b"\n") as q:
                m = q.answer()
                assert "32 deep" in m["error"]["desc"], m
                assert "qemu" in q.ask("query-version")
    with client(c, b'{"execute": "query-version", "id": ' + b"[" * 31
                + b"]" * 31 + b"}") as q:
        assert q.answer()["return"]["qemu"]
    c.end()


def test_answers_are_sent_in_full_to_a_client_that_only_stops_sending(d):
    c = Case(d)
    q = client(c)
    for i in range(20):
        q.send(MAP)
    q.s.shutdown(socket.SHUT_WR)
    for i in range(20):
        assert len(q.answer()["return"]["regions"]) > 3000
    try:
        q.message()
        raise AssertionError("more than was asked for")
    except EOFError:
        pass
    q.close()
    c.end()


def test_clients_that_go_away_in_the_middle_of_anything(d):
    c = Case(d)
    rng = random.Random(5)
    for i in range(400):
        q = Control(c.s.control)
        if i % 5:
            q.send(QMP)
        for _ in range(rng.randrange(0, 6)):
            q.send(rng.choice((MAP, MAP, b'{"execute": "query-disks"}',
                               b'{"execute": "disk-flush"}', b'{"execute": ',
                               b'{"execute": "block-job-pause", "arguments":'
                               b'{"device": ""}}')))
        if i % 3 == 0:
            q.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                           struct.pack("ii", 1, 0))
        if i % 7 == 0:
            q.message()
        q.close()
    c.end()


def test_a_storm_of_connections_leaves_nothing_behind(d):
    c = Case(d)
    errors = []

    def storm(seed):
        rng = random.Random(seed)
        try:
            for i in range(600):
                s = socket.socket(socket.AF_UNIX)
                s.settimeout(LONG)
                while True:
                    try:
                        s.connect(c.s.control)
                        break
                    except BlockingIOError:
                        time.sleep(0.001)
                if rng.randrange(2):
                    s.send(QMP)
                if rng.randrange(3) == 0:
                    s.recv(100)
                s.close()
        except Exception as e:
            errors.append(e)
    threads = [threading.Thread(target=storm, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(LONG)
    assert not errors, errors
    c.end()


def test_1000_clients_100_of_garbage_100_never_reading(d):
    """And those that say half a thing, or nothing, are let go in time: after
    30 s."""
    c = Case(d)
    rng = random.Random(6)
    begin = time.monotonic()
    gone = {"half a message": [client(c, b'{"execute": "query-') for _ in
                               range(20)],
            "half a string, slowly": [client(c, b'{"execute": "') for _ in
                                      range(5)],
            "no negotiation": [client(c, negotiate=False) for _ in range(20)],
            "errors for ever": [client(c, b'{"execute": "query-disks"}', False)
                                for _ in range(5)]}
    never = []
    for i in range(100):
        q = client(c)
        q.s.setblocking(False)
        try:
            for _ in range(2000):
                q.s.send(MAP)
        except BlockingIOError:
            pass
        never.append(q)
    gone["answers that are not read"] = never
    idle = [client(c) for _ in range(700)]
    garbage = [client(c, negotiate=False) for _ in range(100)]
    assert len(idle) + len(never) + len(garbage) + 50 < c.s.fds() - c.fds + 60
    grown = c.s.rss() - c.rss
    assert grown < 256 << 20, "memory: %d MiB more" % (grown >> 20)
    # Garbage comes all the while, and events go to all.
    with c.s.qmp() as q:
        q.ask("block-allocate", speed=1)
        last = 0
        while time.monotonic() < begin + LONG:
            for g in garbage:
                try:
                    g.s.setblocking(False)
                    g.s.send(rng.randbytes(200))
                    g.s.recv(65536)
                except OSError:
                    pass
            for g in gone["half a string, slowly"]:
                try:
                    g.send(b"x")
                except OSError:
                    pass
            if time.monotonic() > last + 0.5:
                last = time.monotonic()
                q.ask("block-job-pause", device="")
                q.ask("block-job-resume", device="")
                q.events.clear()
                if all(not is_open(x) for xs in gone.values() for x in xs):
                    break
            time.sleep(0.05)
        q.ask("block-job-cancel", device="")
    for what, clients in gone.items():
        still = sum(is_open(x) for x in clients)
        assert not still, "%d of %d are still there: %s" % (
            still, len(clients), what)
    # Those that are only silent, or slow to read events, stay.
    for q in idle:
        assert is_open(q)
    for q in idle[:50]:
        assert q.ask("query-version")
        assert q.events, "it was to have the events"
    for q in idle + garbage + [x for xs in gone.values() for x in xs]:
        q.close()
    c.end()


def test_events_that_are_not_read_do_not_pile_up(d):
    c = Case(d, name="n" * 250)  # so that fewer of them make a megabyte
    deaf = [client(c) for _ in range(20)]
    with c.s.qmp() as q:
        q.ask("block-allocate", speed=1)
        nr = 0
        while any(map(is_open, deaf)):
            q.ask("block-job-pause", device="n" * 250)
            q.ask("block-job-resume", device="n" * 250)
            q.events.clear()
            nr += 1
            assert nr < 30000, "never let go"
        say("   (%d times)" % nr)
        grown = c.s.rss() - c.rss
        assert grown < 128 << 20, "memory: %d MiB more" % (grown >> 20)
        q.ask("block-job-cancel", device="n" * 250)
    # What was sent to them is whole, without a hole in it.
    text = b""
    while True:
        piece = deaf[0].s.recv(65536)
        if not piece:
            break
        text += piece
    lines = [json.loads(l) for l in text.split(b"\r\n")[:-1]]
    status = [l["data"]["status"] for l in lines if l["event"]
              == "JOB_STATUS_CHANGE"]
    assert len(status) > 100
    start = status.index("paused")
    assert all(a != b for a, b in zip(status[start:], status[start + 1:])), \
        "an event is missing"
    for q in deaf:
        q.close()
    c.end()


def test_more_clients_than_descriptors_do_not_keep_others_out(d):
    c = Case(d, files=256)
    crowd = []
    for i in range(600):
        q = Control(c.s.control)
        try:
            if i % 2:
                q.send(QMP)
        except OSError:
            pass
        crowd.append(q)
    # Now that they sit there: a client has its answer, and a guest its disk.
    # (One may have to be silent for a second before it gives way.)
    begin = time.monotonic()
    with c.s.qmp() as q:
        assert q.ask("query-disks")
    h = c.s.nbd()
    h.pread(512, 0)
    h.shutdown()
    assert time.monotonic() - begin < 25
    for q in crowd:
        q.close()
    # In the crush ours may have been among those that gave way.
    for e in c.errors:
        assert e.startswith(("old: EOF", "old: Broken", "old: Connection",
                             "new: EOF", "new: Broken", "new: Connection")), e
    c.errors.clear()
    c.times["old"] = c.times["new"] = [0.0] * 21
    c.end()


if __name__ == "__main__":
    main(globals(), mounts=True)
