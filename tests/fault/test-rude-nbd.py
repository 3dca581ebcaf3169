#!/usr/bin/python3
"""NBD clients without manners (G34), writes whose client has died (G9), and
the end of the server while clients sit there (G15).

nbdkit 1.32.5 itself may abort when a client vanishes with several answers on
their way ("sock >= 0").  That is told, and then nothing may be lost.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import random
import socket
import struct
import threading
import time

from locallib import *

SIZE = (8 << 20) + 1536
HOLES = [(1 << 20, 256 << 10)]
MINE = 64 << 10  # the first bytes are the good client's
IHAVEOPT = 0x49484156454F5054
REQUEST = 0x25609513
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)


class Raw:
    """A client that says what it is told to say."""

    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(LONG)
        self.s.connect(path)

    def get(self, n):
        data = b""
        while len(data) < n:
            piece = self.s.recv(n - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def send(self, data):
        self.s.sendall(data)

    def greet(self, flags=3):
        hello = self.get(18)
        assert hello[:16] == struct.pack(">QQ", 0x4E42444D41474943, IHAVEOPT)
        self.send(struct.pack(">I", flags))
        return self

    def option(self, number, data=b"", length=None):
        self.send(struct.pack(">QII", IHAVEOPT, number,
                              len(data) if length is None else length) + data)

    def go(self, export=b""):
        """NBD_OPT_EXPORT_NAME: the oldest way in."""
        self.greet()
        self.option(1, export)
        self.get(10)
        return self

    def ask(self, command, offset, count, flags=0, cookie=1, data=b"",
            magic=REQUEST):
        self.send(struct.pack(">IHHQQI", magic, flags, command, cookie,
                              offset, count) + data)

    def reply(self):
        """errno, cookie of a simple reply."""
        magic, err, cookie = struct.unpack(">IIQ", self.get(16))
        assert magic == 0x67446698, hex(magic)
        return err, cookie

    def reset(self):
        """Gone, with what was not read."""
        self.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                          struct.pack("ii", 1, 0))
        self.s.close()

    def close(self):
        self.s.close()


class Good(threading.Thread):
    """Works on its own sectors all the while, and looks at the clock."""

    def __init__(self, server):
        threading.Thread.__init__(self, daemon=True)
        self.h = server.nbd()
        self.want = self.next = self.h.pread(MINE, 0)
        self.slowest = 0.0
        self.rounds = 0
        self.error = None
        self.stop = False
        self.start()

    def run(self):
        rng = random.Random(1)
        try:
            while not self.stop:
                at = rng.randrange(0, MINE - 8192)
                n = rng.randrange(1, 8192)
                data = pattern(1000 + self.rounds, at, n)
                begin = time.monotonic()
                self.next = self.want[:at] + data + self.want[at + n:]
                self.h.pwrite(data, at)
                self.want = self.next
                same(self.h.pread(MINE, 0), self.want)
                if self.rounds % 8 == 0:
                    self.h.flush()
                self.slowest = max(self.slowest, time.monotonic() - begin)
                self.rounds += 1
                time.sleep(0.002)
        except Exception as e:
            self.error = e

    def end(self, server):
        """True if it was never disturbed; False if nbdkit died."""
        self.stop = True
        self.join(LONG)
        if not server.alive() or self.error:
            wait_for("the server ends or not", lambda: True)
            if nbdkit_died(server):
                return False
            raise self.error or AssertionError("the server is gone: "
                                               + server.text())
        assert self.rounds > 0
        # What waits for a rude client waits for ever.
        assert self.slowest < 20, "a round took %.1f s" % self.slowest
        return True


def nbdkit_died(server):
    try:
        server.process.wait(5)
    except Exception:
        return False
    text = server.text()
    if server.process.returncode == -6 and "Assertion" in text \
            and "connections.c" in text:
        say("   (nbdkit's own assertion: %s)"
            % text[text.index("Assertion"):].splitlines()[0])
        return True
    return False


class Case:
    def __init__(self, d, *args, filters=(), filter_args=()):
        self.d = d
        self.data = make_golden(d("golden"), SIZE, HOLES)
        self.source = Source(d, d("golden"), filters, filter_args)
        self.args = (d("disk"), "backing=" + self.source.uri, *args)
        self.start()
        h = self.s.nbd()
        h.pwrite(self.data[:MINE], 0)
        h.shutdown()
        # When that client's threads have ended.
        self.threads, still = self.s.threads(), 0
        while still < 5:
            time.sleep(0.05)
            still = still + 1 if self.s.threads() == self.threads else 0
            self.threads = self.s.threads()
        self.fds = self.s.fds()

    def start(self):
        self.s = Server(self.d, *self.args)

    def settled(self):
        """Descriptors and threads came back."""
        wait_for("descriptors come back: %d" % self.fds,
                 lambda: self.s.fds() <= self.fds + 2)
        wait_for("threads come back: %d" % self.threads,
                 lambda: self.s.threads() <= self.threads + 2)

    def look(self, good):
        h = self.s.nbd()
        got = h.pread(MINE, 0)
        for i in range(0, MINE, SECTOR):  # one write may have had no answer
            if got[i:i + SECTOR] != good.next[i:i + SECTOR]:
                same(got[i:i + SECTOR], good.want[i:i + SECTOR], i)
        got = h.pread(SIZE - MINE, MINE)
        same(got, self.data[MINE:], MINE)
        h.shutdown()

    def end(self, good):
        if good.end(self.s):
            good.h.shutdown()
            self.settled()
        else:
            self.start()
        self.look(good)
        self.s.stop()
        self.start()
        self.look(good)
        self.s.stop()


def test_handshakes_that_stop_half_way_disturb_nobody(d):
    c = Case(d)
    good = Good(c.s)
    stuck = []
    for i in range(80):
        r = Raw(c.s.socket)
        stuck.append(r)
        kind = i % 8
        if kind >= 1:
            r.get(18)
        if kind == 2:
            r.send(b"\0\0")
        if kind >= 3:
            r.send(struct.pack(">I", 3))
        if kind == 4:
            r.send(struct.pack(">Q", IHAVEOPT))
        if kind == 5:
            r.option(7, b"\0\0", 4000)  # GO, announced longer than it is
        if kind == 6:
            r.option(3)  # LIST, whose answer nobody reads
            r.option(3)
        if kind == 7:
            r.option(1, b"", 4096)
    time.sleep(1)
    # A client that comes now is served at once.
    begin = time.monotonic()
    h = c.s.nbd()
    same(h.pread(4096, 2 << 20), c.data[2 << 20:(2 << 20) + 4096])
    assert time.monotonic() - begin < 20
    h.shutdown()
    for i, r in enumerate(stuck):
        r.reset() if i % 2 else r.close()
    c.end(good)


def test_garbage_in_a_handshake_disturbs_nobody(d):
    c = Case(d)
    good = Good(c.s)
    rng = random.Random(2)
    for i in range(60):
        r = Raw(c.s.socket)
        try:
            r.get(18)
            kind = i % 8
            if kind == 0:
                r.send(rng.randbytes(4000))
            elif kind == 1:
                r.send(struct.pack(">I", 0xffffffff))
            else:
                r.send(struct.pack(">I", 3))
                if kind == 2:
                    r.option(rng.randrange(20, 1 << 32), b"x" * 100)
                elif kind == 3:
                    r.option(7, b"", 0xffffffff)
                elif kind == 4:
                    r.option(1, rng.randbytes(300))
                elif kind == 5:
                    r.option(1, b"../../etc/passwd")
                elif kind == 6:
                    r.option(7, struct.pack(">I", 0xfffffff0) + b"a" * 60)
                else:
                    r.send(struct.pack(">QII", ~IHAVEOPT & (1 << 64) - 1, 7, 0))
            r.s.settimeout(0.05)
            while r.s.recv(4096):
                pass
        except (OSError, EOFError):
            pass
        r.close()
    c.end(good)


def test_requests_that_make_no_sense_are_errors_and_change_nothing(d):
    c = Case(d)
    good = Good(c.s)
    top = 1 << 64
    r = Raw(c.s.socket).go()
    data = b"\xee" * 4096
    for what, args, payload in (
            ("read past the end", (READ, SIZE - 100, 101), b""),
            ("read far past it", (READ, 1 << 62, 512), b""),
            ("read that wraps", (READ, top - 100, 200), b""),
            ("read of nothing", (READ, 0, 0), b""),
            ("write past the end", (WRITE, SIZE - 100, 4096), data),
            ("write far past it", (WRITE, top - 4096, 4096), data),
            ("write of nothing", (WRITE, MINE, 0), b""),
            ("zero past the end", (ZERO, SIZE - 1, 2), b""),
            ("zero that wraps", (ZERO, 1, 0xffffffff), b""),
            ("trim past the end", (TRIM, SIZE, 1), b""),
            ("trim that wraps", (TRIM, top - 1, 4096), b""),
            ("cache past the end", (CACHE, SIZE - 1, 4096), b""),
            ("status without structured replies", (STATUS, 0, 4096), b""),
            ("unknown command", (77, 0, 512), b""),
            ("another", (0xffff, MINE, 512), b""),
            ("unknown flags", (READ, 0, 512, 0x8000), b""),
            ("flags of others", (READ, 0, 512, 0x10), b""),
            ("huge read", (READ, 0, 0xffffffff), b"")):
        r.ask(*args[:4], cookie=4711, data=payload)
        err, cookie = r.reply()
        assert err in (22, 28, 12, 5, 75) and cookie == 4711, (what, err)
    # The connection is as good as before.
    r.ask(READ, MINE, 512)
    assert r.reply()[0] == 0
    same(r.get(512), c.data[MINE:MINE + 512])
    # One that loses the thread is let go.
    r.ask(READ, 0, 512, magic=0x12345678)
    try:
        assert r.get(16) is None
    except (EOFError, OSError):
        pass
    r.close()
    c.end(good)


def vanish(d, kinds, several):
    """Clients that go away in the middle of something."""
    c = Case(d, filters=("delay",), filter_args=("rdelay=100ms",))
    good = Good(c.s)
    rng = random.Random(3)
    for i in range(60):
        try:
            r = Raw(c.s.socket).go()
            kind = kinds[i % len(kinds)]
            at = rng.randrange(MINE, SIZE - 300000) // 4096 * 4096
            same_there = c.data[at + 10:at + 110]
            if kind == "half a request":
                r.send(struct.pack(">IHHQ", REQUEST, 0, READ, 1))
            elif kind == "half a payload":
                r.ask(WRITE, at, 65536, data=bytes(30000))
            elif kind == "reads":
                for k in range(12 if several else 1):
                    r.ask(READ, at + k * 4096, 4096, cookie=k)
            elif kind == "answers that nobody takes":
                for k in range(8 if several else 1):
                    r.ask(READ, 0, MINE, cookie=k)
            elif kind == "writes":
                for k in range(5 if several else 1):
                    r.ask(WRITE, at + 10, 100, cookie=k, data=same_there)
            elif kind == "cache":
                r.ask(CACHE, at, 200000)
            else:
                assert kind == "flush"
                r.ask(FLUSH, 0, 0)
            if i % 3:
                time.sleep(rng.random() * 0.1)
        except (OSError, EOFError):
            if several and nbdkit_died(c.s):
                break
            raise
        r.reset() if i % 2 else r.close()
    c.end(good)


def test_clients_that_vanish_in_flight_disturb_nobody(d):
    vanish(d, ("half a request", "half a payload", "reads", "writes", "cache",
               "flush", "answers that nobody takes"), False)


def test_clients_that_vanish_with_much_in_flight_lose_nothing(d):
    vanish(d, ("reads", "writes", "answers that nobody takes"), True)


def stuck_write(c, offset, length, tag, command=WRITE, flags=0):
    """A client that is gone before its write was answered; its bytes are in
    the server, which waits for the source."""
    before = c.s.info()["stats"]["guest-writes"]
    r = Raw(c.s.socket).go()
    r.ask(command, offset, length, flags,
          data=pattern(tag, offset, length) if command == WRITE else b"")
    wait_for("the write is in the server", lambda: c.s.info()
             ["stats"]["guest-writes"] > before)
    return r


def zombies(d, job):
    c = Case(d, "timeout=60")
    h = c.s.nbd()
    base = 1 << 20  # past the good client's: here each granule is absent
    want = bytearray(c.data)
    want[:MINE] = h.pread(MINE, 0)
    g = [(2 << 20) + i * 65536 for i in range(12)]
    c.source.hang()
    if job:
        c.s.ask("block-allocate")
    dead = []
    for i, at in enumerate(g):
        for k in range(2):
            dead.append(stuck_write(c, at + 1000, 700 + k, 50 + 2 * i + k,
                                    command=ZERO if i % 4 == 3 else WRITE))
    for r in dead:
        r.reset()
    # Whoever writes now is later.  Whole granules do not wait at all.
    begin = time.monotonic()
    for i, at in enumerate(g[:4]):
        data = pattern(900 + i, at, 4096)
        h.pwrite(data, at, nbd.CMD_FLAG_FUA if i % 2 else 0)
        want[at:at + 4096] = data
    h.zero(4096, g[4])
    want[g[4]:g[4] + 4096] = bytes(4096)
    h.zero(12288, g[5] - 4096)
    want[g[5] - 4096:g[5] + 8192] = bytes(12288)
    h.trim(4096, g[6])
    h.flush()
    took = time.monotonic() - begin
    assert took < 20, "waited for a source that hangs: %.1f s" % took
    # Pieces wait in their turn.
    pieces = []
    for i, at in enumerate(g[7:], 7):
        data = pattern(900 + i, at + 900, 1000)
        pieces.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)),
                                   at + 900))
        want[at + 900:at + 1900] = data
    for _ in range(20):
        h.poll(10)
    assert not any(h.aio_command_completed(p) for p in pieces)
    c.source.resume()
    end = time.monotonic() + LONG
    while not all(h.aio_command_completed(p) for p in pieces[:]) \
            and time.monotonic() < end:
        h.poll(100)
        pieces = [p for p in pieces if not h.aio_command_completed(p)]
        if not pieces:
            break
    # Trimmed: what the source has, zeros, or a write that was before it.
    at = g[6]
    got = h.pread(4096, at)
    for k in range(0, 4096, 4):
        assert got[k:k + 4] in (bytes(4), want[at + k:at + k + 4],
                                pattern(62, at + k, 4), pattern(63, at + k, 4))
    want[at:at + 4096] = got

    def right():
        same(h.pread(SIZE, 0), bytes(want))
    right()
    # When nothing of the dead is left in the server, and after that.
    h2 = c.s.nbd()
    h2.shutdown()
    wait_for("the dead clients' threads end",
             lambda: c.s.threads() <= c.threads + 20)
    if job:
        assert wait_job(c.s, "concluded")["result"] == "completed"
    time.sleep(0.5)
    right()
    c.s.kill()
    c.start()
    same(c.s.nbd().pread(SIZE, 0), bytes(want))
    c.s.stop()


def test_a_dead_clients_write_is_never_applied_after_a_later_one(d):
    zombies(d, False)


def test_nor_when_a_job_copies_what_it_waited_for(d):
    zombies(d, True)


def test_a_dead_clients_write_that_fails_changes_nothing(d):
    c = Case(d, "timeout=1")
    c.source.hang()
    at = 4 << 20
    for i in range(4):
        stuck_write(c, at + i * 8192 + 100, 200, 60 + i).reset()
    # One that has not failed yet may still be done.
    wait_for("they fail", lambda: c.s.threads() <= c.threads)
    c.source.resume()
    h = c.s.nbd()

    def back():
        return nbd_errno(h.pread, 1, at) is None
    wait_for("the source is back", back)
    same(h.pread(65536, at), c.data[at:at + 65536], at)
    c.s.stop()


def free_for_the_next(c, limit):
    """A second server on the volume of one that was told to end."""
    begin = time.monotonic()

    def try_it():
        try:
            return Server(c.d, *c.args)
        except Refused as e:
            assert "in use" in e.text, e.text
            return None
    s = wait_for("the volume is free", try_it)
    took = time.monotonic() - begin
    assert took < limit, "the volume was let go after %.1f s" % took
    return s


def test_sigterm_with_idle_clients_frees_the_volume(d):
    c = Case(d)
    idle = [c.s.nbd() for _ in range(5)]
    want = bytearray(c.data)
    for i, h in enumerate(idle):
        at = (2 << 20) + i * 5000
        h.pwrite(pattern(80 + i, at, 5000), at)
        want[at:at + 5000] = pattern(80 + i, at, 5000)
    half = Raw(c.s.socket)
    old = c.s
    old.term()
    new = free_for_the_next(c, 40)
    assert old.alive(), "nbdkit did not wait for its clients: no test"
    h = new.nbd()
    same(h.pread(SIZE, 0), bytes(want))
    h.pwrite(pattern(99, 2 << 20, 25000), 2 << 20)
    want[2 << 20:(2 << 20) + 25000] = pattern(99, 2 << 20, 25000)
    # Whoever stayed is told, and changes nothing.
    for i, o in enumerate(idle):
        e = nbd_errno(o.pwrite, bytes(5000), (2 << 20) + i * 5000) \
            if i % 2 else nbd_errno(o.pread, 512, 0)
        assert e in ("ESHUTDOWN", "ENOTCONN", "EPIPE"), e
    same(h.pread(SIZE, 0), bytes(want))
    half.close()
    for o in idle:
        try:
            o.shutdown()
        except nbd.Error:
            pass
    assert old.process.wait(LONG) == 0, old.text()
    h.flush()
    new.kill()
    c.start()
    same(c.s.nbd().pread(SIZE, 0), bytes(want))


def test_sigterm_with_a_hung_source_frees_the_volume(d):
    c = Case(d, "timeout=60")
    h = c.s.nbd()
    at = 3 << 20
    h.pwrite(pattern(70, at, 70000), at)
    c.s.ask("block-allocate", speed=1 << 20)
    c.source.hang()
    # Reads, a write of a part of a granule, a job: all wait.
    waiting = []
    for i in range(6):
        r = Raw(c.s.socket).go()
        r.ask(READ, (5 << 20) + i * 300000, 4096)
        waiting.append(r)
    part = stuck_write(c, (6 << 20) + 100, 1000, 71)
    old = c.s
    old.term()
    # The next one opens without its source.
    new = free_for_the_next(c, 40)
    c.source.resume()
    for r in waiting + [part]:
        try:
            err, _ = r.reply()
            assert err in (108, 5), err  # ESHUTDOWN
        except (EOFError, OSError):
            pass
        r.close()
    want = c.data[:at] + pattern(70, at, 70000) + c.data[at + 70000:]
    h2 = new.nbd()
    same(h2.pread(SIZE, 0), want)
    try:
        h.shutdown()
    except nbd.Error:
        pass
    assert old.process.wait(LONG) == 0, old.text()
    # The job goes on with the next, unless the guest's reads were its end.
    try:
        new.ask("block-job-set-speed", device="", speed=0)
    except QmpError:
        pass
    assert wait_job(new, "concluded")["result"] == "completed"
    same(h2.pread(SIZE, 0), want)
    new.stop()


def test_quit_on_the_control_socket_does_the_same(d):
    c = Case(d)
    h = c.s.nbd()
    h.pwrite(pattern(5, 4 << 20, 3000), 4 << 20)
    c.s.ask("quit")
    new = free_for_the_next(c, 40)
    same(new.nbd().pread(3000, 4 << 20), pattern(5, 4 << 20, 3000))
    h.shutdown() if nbd_errno(h.pread, 1, 0) is None else None
    del h
    c.s.handles.clear()
    assert c.s.process.wait(LONG) == 0
    new.stop()


if __name__ == "__main__":
    main(globals())
