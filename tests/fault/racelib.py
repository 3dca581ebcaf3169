"""racelib.py - a guest with many requests in flight, and a model that knows
what each byte may be.

The disk is seen as cells of 256 bytes, so that requests are aligned to
neither sectors nor granules.  Each write, zero or trim has a number; a cell
keeps the numbers of those whose result it may show:

  issued      it may be seen from now on
  succeeded   what had been acknowledged before it was issued is over (but
              not by a trim, which may leave what was there)
  failed      it may have been done or not
  a read with nothing in flight there settles which of them it was

A read, and "zero" in block status, must be one of those of the time between
its request and its answer.

Two such guests, in processes of their own, share granules: half of the disk
belongs to them in turns of 1280 bytes, the rest, in chunks, to one each.  They
work in a window that moves on, so that there is always something absent.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import random
import select
import struct
import time

import nbd

CELL = 256
STRIPE = 5
CHUNK = 2048  # cells: of four, two are shared, one is the first guest's
WINDOW = 4 * CHUNK
STEP = 4  # cells that the window moves with each request
GOLDEN = 1 << 62  # in no cell zeros
ZEROS = bytes(CELL)
GONE = ("ESHUTDOWN", "ENOTCONN", "EPIPE", "ECONNRESET")


def content(number, cell):
    return struct.pack("<QQ", number, cell) * (CELL // 16)


def golden_image(size, holes):
    """holes: of (first cell, end)."""
    cells = [content(GOLDEN, c) for c in range(size // CELL)]
    for first, end in holes:
        cells[first:end] = [ZEROS] * (end - first)
    return b"".join(cells)


class Wrong(Exception):
    """What was seen cannot be."""


class Op:
    __slots__ = ("kind", "first", "end", "number", "handle", "cookie", "buf",
                 "old", "allowed", "was_busy", "extra", "extents")


class Guest:
    def __init__(self, me, size, holes, seed):
        self.me = me
        self.nr = size // CELL
        self.rng = random.Random(seed * 2 + me)
        # Numbers of zeroes and trims; that of holes in the golden image.
        self.hole = 1
        self.zero = {self.hole}
        self.next = 2 + me
        self.may = [(GOLDEN,)] * self.nr
        for first, end in holes:
            self.may[first:end] = [(self.hole,)] * (end - first)
        self.busy = {}  # cell -> numbers in flight
        self.reads = set()
        self.ops = {}  # (handle's index, cookie) -> op
        self.handles = []
        self.gone = False
        self.stats = {}
        self.requests = 0

    def mine(self, cell):
        kind = cell // CHUNK % 4
        if kind < 2:
            return cell // STRIPE % 2 == self.me
        return kind == 2 + self.me

    # --- connections ---

    def connect(self, socket, nr=3):
        self.gone = False
        for _ in range(nr):
            h = nbd.NBD()
            h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
            h.connect_unix(socket)
            self.handles.append(h)

    def lost(self):
        """The server is gone, or going: what was in flight is old or new."""
        for op in list(self.ops.values()):
            self.end(op, "lost")
        self.ops.clear()
        self.disconnect()
        assert not self.busy and not self.reads

    def disconnect(self):
        for h in self.handles:
            try:
                h.shutdown()
            except nbd.Error:
                pass
        self.handles.clear()

    # --- the model ---

    def issue(self, op):
        for c in range(op.first, op.end):
            if not self.mine(c):
                continue
            may, busy = self.may[c], self.busy.setdefault(c, set())
            op.old[c] = [n for n in may if n not in busy]
            self.may[c] = may + (op.number,)
            busy.add(op.number)
        for r in self.reads:
            for c in range(max(op.first, r.first), min(op.end, r.end)):
                r.extra.setdefault(c, set()).add(op.number)

    def change_ended(self, op, ok):
        for c, old in op.old.items():
            if ok and op.kind != "trim":
                self.may[c] = tuple(n for n in self.may[c] if n not in old)
            busy = self.busy[c]
            busy.discard(op.number)
            if not busy:
                del self.busy[c]

    def issue_read(self, op):
        op.allowed = self.may[op.first:op.end]
        op.was_busy = {c for c in range(op.first, op.end) if c in self.busy}
        op.extra = {}
        self.reads.add(op)

    def seen(self, cell, data, candidates):
        """The numbers that this may be; empty: it is wrong."""
        if data == ZEROS:
            return [n for n in candidates if n in self.zero]
        n = struct.unpack("<Q", data[:8])[0]
        return [n] if n in candidates and data == content(n, cell) else []

    def torn(self, cell, data, candidates):
        """Nobody promises that a read sees all or nothing of a change that is
        being made meanwhile; but each piece is of one of them."""
        zero = any(n in self.zero for n in candidates)
        return all((n, c) == (0, 0) and zero or n in candidates and c == cell
                   for n, c in struct.iter_unpack("<QQ", data))

    def read_ended(self, op, data):
        want = []
        for c, may in zip(range(op.first, op.end), op.allowed):
            want.append(ZEROS if may[0] in self.zero else content(may[0], c))
        if data == b"".join(want) and not op.extra:
            hard = [c for c in range(op.first, op.end)
                    if len(op.allowed[c - op.first]) > 1]
        else:
            hard = range(op.first, op.end)
        for c in hard:
            if not self.mine(c):
                continue
            at = (c - op.first) * CELL
            cell = bytes(data[at:at + CELL])
            may = op.allowed[c - op.first]
            extra = op.extra.get(c, ())
            fits = self.seen(c, cell, set(may) | set(extra))
            if not fits and (extra or c in op.was_busy) \
                    and self.torn(c, cell, set(may) | set(extra)):
                continue
            if not fits:
                raise Wrong(
                    "guest %d: cell %d (offset %d) reads as %s: may be %s%s; "
                    "%d zeros of %s" % (
                        self.me, c, c * CELL,
                        "zeros" if cell == ZEROS else "number %d of cell %d, "
                        "%s" % (*struct.unpack("<QQ", cell[:16]),
                                "whole" if cell == cell[:16] * 16
                                else "mixed: %s" % [
                                    n for n, in struct.iter_unpack(
                                        "<Q8x", cell)]),
                        list(may), "" if not extra else " or %s"
                        % sorted(extra), len(self.zero & set(may)), op.kind))
            # Nothing was going on there: now it is known.
            if not extra and c not in op.was_busy and c not in self.busy \
                    and len(may) > 1 and self.may[c] == may:
                self.may[c] = tuple(n for n in may if n in fits)

    def status_ended(self, op):
        at = op.first * CELL
        for length, flags in zip(op.extents[::2], op.extents[1::2]):
            if flags & 2:
                for c in range(-(-at // CELL), (at + length) // CELL):
                    if not op.first <= c < op.end or not self.mine(c):
                        continue
                    may = set(op.allowed[c - op.first]) \
                        | set(op.extra.get(c, ()))
                    if not may & self.zero:
                        raise Wrong("guest %d: cell %d is said to be zero, "
                                    "and may be %s" % (self.me, c, may))
            at += length

    def end(self, op, error):
        """error: None, its name, or "lost"."""
        kind = op.kind
        self.stats[kind] = self.stats.get(kind, 0) + 1
        if kind in ("write", "zero", "trim"):
            self.change_ended(op, error is None)
        elif kind in ("read", "status"):
            self.reads.discard(op)
            if error is None and kind == "read":
                self.read_ended(op, op.buf.to_bytearray())
            elif error is None:
                self.status_ended(op)
        if error not in (None, "lost", *GONE):
            raise Wrong("guest %d: %s of %d+%d: %s" % (
                self.me, kind, op.first * CELL, (op.end - op.first) * CELL,
                error))

    # --- requests ---

    def pick(self, kind):
        """A range of cells that we may change, or look at."""
        rng = self.rng
        self.requests += 1
        base = self.requests * STEP % max(self.nr - WINDOW, 1)
        at = rng.randrange(base, min(base + WINDOW, self.nr))
        if kind in ("read", "status", "cache"):
            return at, min(at + rng.choice((1, 2, 5, 16, 17, 64, 300)), self.nr)
        if at // CHUNK % 4 >= 2:
            end = (at // CHUNK + 1) * CHUNK
            if not self.mine(at):  # the next chunk is, or the one before
                other = CHUNK if self.me else -CHUNK
                at, end = at + other, end + other
            if rng.randrange(2):
                at = at // 16 * 16
            n = rng.choice((1, 3, 15, 16, 16, 32, 33, 64, 256, 300))
            if at < min(end, self.nr):
                return at, min(at + n, end, self.nr)
            at = base // STRIPE * STRIPE
        # A stripe, or a part of one.
        while not self.mine(at):
            at = at + STRIPE if at + STRIPE < self.nr else 0
        end = at
        while end < self.nr and end < at + rng.randrange(1, STRIPE + 1) \
                and end // STRIPE == at // STRIPE and self.mine(end):
            end += 1
        return at, max(end, at + 1)

    def request(self, index, kinds):
        rng, h = self.rng, self.handles[index]
        op = Op()
        op.kind = kind = rng.choice(kinds)
        op.first, op.end = self.pick(kind)
        op.old = {}
        n, at = (op.end - op.first) * CELL, op.first * CELL
        flags = 0
        if kind in ("write", "zero", "trim"):
            op.number = self.next
            self.next += 2
            if kind != "write":
                self.zero.add(op.number)
            if rng.randrange(5) == 0:
                flags = nbd.CMD_FLAG_FUA
            if kind == "zero" and rng.randrange(2):
                flags |= nbd.CMD_FLAG_NO_HOLE
            self.issue(op)
        try:
            if kind == "write":
                data = b"".join(content(op.number, c)
                                for c in range(op.first, op.end))
                op.buf = nbd.Buffer.from_bytearray(bytearray(data))
                op.cookie = h.aio_pwrite(op.buf, at, flags=flags)
            elif kind == "zero":
                op.cookie = h.aio_zero(n, at, flags=flags)
            elif kind == "trim":
                op.cookie = h.aio_trim(n, at, flags=flags)
            elif kind == "read":
                self.issue_read(op)
                op.buf = nbd.Buffer(n)
                op.cookie = h.aio_pread(op.buf, at)
            elif kind == "status":
                self.issue_read(op)
                op.extents = []
                extents = op.extents
                op.cookie = h.aio_block_status(
                    n, at, lambda c, o, e, err: extents.extend(e))
            elif kind == "cache":
                op.cookie = h.aio_cache(n, at)
            else:
                op.cookie = h.aio_flush()
        except nbd.Error:
            self.end(op, "lost")
            raise
        self.ops[(index, op.cookie)] = op

    KINDS = (["write"] * 6 + ["read"] * 6 + ["zero"] * 2
             + ["trim", "flush", "cache", "status"])

    def work(self, seconds, depth=8, kinds=KINDS):
        """False: the server went away.  No request is left behind: nbdkit
        1.32.5 may abort if a client goes that is owed several answers."""
        end = time.monotonic() + seconds
        give_up = end + 120
        over = False
        while self.ops or not over:
            over = over or self.gone or time.monotonic() >= end
            try:
                for i in range(len(self.handles) if not over else 0):
                    while sum(k[0] == i for k in self.ops) < depth:
                        self.request(i, kinds)
                self.wait()
            except nbd.Error:
                if all(h.aio_is_ready() for h in self.handles):
                    raise
                self.gone = True
                break
            if time.monotonic() > give_up:
                raise Wrong("guest %d: no answer: %s" % (self.me, [
                    (o.kind, o.first, o.end) for o in self.ops.values()]))
        if self.gone:
            self.lost()
            return False
        return True

    def wait(self):
        p = select.poll()
        for h in self.handles:
            d = h.aio_get_direction()
            p.register(h.aio_get_fd(),
                       (select.POLLIN if d & nbd.AIO_DIRECTION_READ else 0)
                       | (select.POLLOUT if d & nbd.AIO_DIRECTION_WRITE
                          else 0))
        ready = dict(p.poll(1000))
        for i, h in enumerate(self.handles):
            events = ready.get(h.aio_get_fd(), 0)
            d = h.aio_get_direction()
            if d & nbd.AIO_DIRECTION_READ \
                    and events & (select.POLLIN | select.POLLHUP):
                h.aio_notify_read()
            elif d & nbd.AIO_DIRECTION_WRITE and events & select.POLLOUT:
                h.aio_notify_write()
            self.collect(i, h)

    def collect(self, i, h):
        """What has been answered on one connection."""
        while any(k[0] == i for k in self.ops):
            cookie = h.aio_peek_command_completed()
            if not cookie:
                return
            error = None
            try:
                h.aio_command_completed(cookie)
            except nbd.Error as e:
                error = e.errno
            self.gone = self.gone or error in GONE
            self.end(self.ops.pop((i, cookie)), error)

    # --- at rest ---

    def look(self, read):
        """All that is ours; read (length, offset)."""
        for first in range(0, self.nr, 1024):
            op = Op()
            op.kind = "read"
            op.first, op.end = first, min(first + 1024, self.nr)
            self.issue_read(op)
            self.reads.discard(op)
            self.read_ended(op, read((op.end - op.first) * CELL,
                                     first * CELL))
