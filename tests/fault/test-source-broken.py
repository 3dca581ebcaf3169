#!/usr/bin/python3
"""Backing stores that speak NBD wrongly (G27), or that can do little.

Each case is a disk with a scripted server (fakesource.py) of its own; all
disks of a test are in one plugin, so a bad server must not disturb the
others either.  CASES="name ..." runs only some.

A case goes: good server; then it does wrong, while reads, parts of writes,
block status and a job need it: nothing may be answered wrongly, what is local
must be served, the plugin must live.  Then a good nbdkit takes the socket
over, and all must come right by itself.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import random
import shutil
import struct
import time

import faultlib
import fakesource
from fakesource import Drop, FakeSource
from faultlib import (K, M, SOON, ControlError, Server, check, nbd, wait_for,
                      within)

G = 4096
SIZE = 2 * M
# The last granules are zeros, and their server may say so.
ZEROS = SIZE - 64 * K
DATA = random.Random(3).randbytes(ZEROS) + bytes(64 * K)
CASES = os.environ.get("CASES", "").split()


def is_sample(r):
    """What the plugin reads to know the source by."""
    return r.type == fakesource.READ and r.length == G and any(
        r.offset == ((SIZE - 1) // 15 * i if i < 15 else SIZE - 1) // G * G
        for i in range(16))


class Case:
    def __init__(self, t, name):
        self.t, self.name = t, name
        self.source = FakeSource(t(name + ".sock"), DATA)
        self.store = t(name + ".img")
        self.model = bytearray(DATA)
        self.hits = 0

    def keys(self, *more):
        return ["name=" + self.name, "store=" + self.store,
                "backing=" + self.source.uri, "fetch=4K", *more]

    def on_reads(self, wrong, times=None, samples=False):
        """Reads are answered by wrong(conn, request)."""
        def fault(conn, r):
            if r.type != fakesource.READ or (is_sample(r) and not samples) \
                    or (times is not None and self.hits >= times):
                return False
            self.hits += 1
            wrong(conn, r)
            return True
        self.source.fault = fault

    def on_status(self, wrong):
        def fault(conn, r):
            if r.type != fakesource.STATUS:
                return False
            self.hits += 1
            wrong(conn, r)
            return True
        self.source.fault = fault

    def on_handshake(self, greet=None, option=None):
        """From the next connection on."""
        def hit(function):
            def call(*args):
                self.hits += 1
                if function(*args) is False:
                    self.hits -= 1
                    return False
                return True
            return function and call
        self.source.greet, self.source.option = hit(greet), hit(option)
        self.source.drop_all()

    def make_local(self, p):
        c = p.client(self.name)
        check(c.read(0, 64 * K) == DATA[:64 * K], self.name)
        c.close()

    # While it does wrong.

    def ask(self):
        c = self.client
        self.reads = [(at, c.start_read(at, length))
                      for at, length in ((256 * K, G), (300 * K + 1, 30000),
                                         (512 * K, 128 * K), (M, 513))]
        self.write = c.start_write(M + 90 * K, self.name.encode())
        self.status = c.start_extents(M + 512 * K, 512 * K)

    def answers(self, works):
        """What was asked for: all right, or EIO, as it must be.  works None:
        both may be."""
        def finish(what, pending):
            try:
                result = self.client.finish(pending)
            except OSError as e:
                check(faultlib.errno.errorcode[e.errno] == "EIO",
                      "%s: %s: %s" % (self.name, what, e))
                check(works is not True, "%s: %s fails" % (self.name, what))
                return None
            check(works is not False,
                  "%s: %s works" % (self.name, what))
            return result
        for at, x in self.reads:
            got = finish("read at %d" % at, x)
            check(got is None or got == DATA[at:at + len(got)],
                  "%s: WRONG DATA at %d" % (self.name, at))
        try:
            self.client.finish(self.write)
            check(works is not False, "%s: part of a write works" % self.name)
            at = M + 90 * K
            self.model[at:at + len(self.name)] = self.name.encode()
        except OSError:
            check(works is not True, "%s: part of a write fails" % self.name)
        self.check_status(self.client.finish(self.status))

    def check_status(self, entries):
        at = M + 512 * K
        check(entries, "%s: no block status" % self.name)
        for length, flags in entries:
            check(length > 0, "%s: empty extent" % self.name)
            if flags & nbd.STATE_ZERO:
                check(not any(DATA[at:at + length]),
                      "%s: data at %d is called zero" % (self.name, at))
            at += length

    def local(self):
        """What does not need the source."""
        c = self.client
        check(c.read(0, 64 * K) == self.model[:64 * K], self.name)
        c.write(10000, b"local")
        self.model[10000:10005] = b"local"
        c.write(M + 128 * K, b"w" * G)
        self.model[M + 128 * K:M + 128 * K + G] = b"w" * G
        c.zero(M + 132 * K, G)
        self.model[M + 132 * K:M + 136 * K] = bytes(G)
        c.flush()

    # Afterwards.

    def take_over(self, image):
        self.source.stop()
        Server(self.t, self.name, "file", image).start()

    def recovers(self, ctl):
        def reads():
            try:
                return self.client.read(M + 256 * K, 5000) \
                    == DATA[M + 256 * K:][:5000] or "wrong"
            except OSError:
                return None
        check(wait_for(self.name + " recovers", reads) is True,
              "%s: WRONG DATA after it" % self.name)
        job = ctl.job(self.name)
        if job and job["status"] == "concluded" \
                and job["result"] == "failed":
            # A read that failed five times.
            check(job["errno-name"] == "EIO" and "failed-offset" in job,
                  "why the job failed", job)
            ctl("block-allocate", device=self.name)
        wait_for(self.name + "'s job ends",
                 lambda: ctl.job(self.name)["status"] == "concluded",
                 state=lambda: (ctl.disk(self.name), self.source.requests[-9:]))
        job = ctl.job(self.name)
        check(job["result"] == "completed", self.name, job)
        check(self.client.read(0, SIZE) == self.model, self.name + ": disk")

    def close(self):
        self.client.close()

    def equals(self):
        check(self.t.read(self.name + ".img") == self.model,
              self.name + ": store")
        check(all(r.type in (fakesource.READ, fakesource.STATUS)
                  for r in self.source.requests), "only reads",
              self.source.requests)


def run(t, table, works, default, timeout="2s", same_server=False,
        early=False, wrong=True):
    """table: name -> function(case) that makes it do wrong; early: before
    the plugin asks for anything.  works: what comes of reads, by name or by
    default: all right (True), EIO (False), or either (None).  same_server:
    it is not exchanged, but was wrong for a while only.  Returns the cases."""
    cases = [Case(t, n) for n in table if not CASES or n in CASES]
    if not cases:
        return []
    with open(t("golden"), "wb") as f:
        f.write(DATA)
    # To make them, a slow machine may take its time.
    p = t.plugin(*[k for c in cases for k in c.keys("timeout=60s")],
                 name="first")
    for c in cases:
        c.make_local(p)
    p.end()
    for c in cases:
        c.source.accepted = 0
        if early:
            table[c.name](c)
    p = t.plugin(*[k for c in cases for k in c.keys("timeout=" + timeout)])
    ctl = p.control()
    for c in cases:
        c.client = p.client(c.name)
    if not early:
        for c in cases:
            table[c.name](c)
    for c in cases:
        c.ask()
    with within(SOON, "local work of all"):
        for c in cases:
            c.local()
    for c in cases:
        c.answers(works.get(c.name, default))
        check(p.alive(), "the plugin lives")
        check(c.hits > 0 or not wrong, c.name + ": nothing was done wrong")
    for c in cases:
        ctl("block-allocate", device=c.name)
    time.sleep(0.3)
    if not same_server:
        for c in cases:
            c.take_over(t("golden"))
    for c in cases:
        c.recovers(ctl)
    for c in cases:
        c.close()
    p.end()
    for c in cases:
        c.equals()
    return cases


# Answers to reads.

def half(r):
    return r.length // 2


def close_mid_reply(conn, r):
    conn.send(struct.pack(">IHHQIQ", fakesource.STRUCTURED, 1,
                          fakesource.CHUNK_DATA, r.cookie, r.length + 8,
                          r.offset) + conn.data(r)[:half(r)])
    raise Drop


def close_at_once(conn, r):
    raise Drop


def wrong_magic(conn, r):
    conn.send(struct.pack(">IHHQIQ", 0x668E33EE, 1, fakesource.CHUNK_DATA,
                          r.cookie, r.length + 8, r.offset) + conn.data(r))


def wrong_cookie(conn, r):
    conn.send_data(r._replace(cookie=r.cookie + 1000), r.offset, conn.data(r))


def garbage(conn, r):
    conn.send(random.Random(r.offset).randbytes(100000))


def simple_reply(conn, r):
    conn.send_simple(r, 0, conn.data(r))


def oversize_chunk(conn, r):
    conn.send_data(r, r.offset, conn.data(r) + b"x" * G)


def endless_chunk(conn, r):
    conn.send(struct.pack(">IHHQIQ", fakesource.STRUCTURED, 1,
                          fakesource.CHUNK_DATA, r.cookie, 0xFFFFFFFF,
                          r.offset) + conn.data(r))
    conn.hang()


def tiny_chunk(conn, r):
    """Shorter than its own offset."""
    conn.send_chunk(r, fakesource.CHUNK_DATA, b"1234")


def outside(conn, r):
    conn.send_data(r, r.offset + r.length, conn.data(r))


def before(conn, r):
    conn.send_data(r, r.offset - 512, conn.data(r))


def hole_outside(conn, r):
    conn.send_chunk(r, fakesource.CHUNK_HOLE,
                    struct.pack(">QI", r.offset, r.length + 512))


def unknown_chunk(conn, r):
    conn.send_chunk(r, 77, b"what is this")


def status_chunk(conn, r):
    """An answer, but to another question."""
    conn.send_status(r, [(r.length, 0)])


def answered_twice(conn, r):
    conn.send_data(r, r.offset, conn.data(r))
    conn.send_data(r, r.offset, conn.data(r))


def hang(conn, r):
    conn.hang()


def hang_mid_reply(conn, r):
    conn.send(struct.pack(">IHHQIQ", fakesource.STRUCTURED, 1,
                          fakesource.CHUNK_DATA, r.cookie, r.length + 8,
                          r.offset) + conn.data(r)[:half(r)])
    conn.hang()


def never_done(conn, r):
    conn.send_data(r, r.offset, conn.data(r), flags=0)
    conn.hang()


def error_not_done(conn, r):
    """It may be that more comes: until the connection ends it is no answer."""
    conn.send_chunk(r, fakesource.CHUNK_ERROR, struct.pack(">IH", 5, 0),
                    flags=0)
    conn.hang()


def short(conn, r):
    conn.send_data(r, r.offset, conn.data(r)[:half(r)])


def hole_in_it(conn, r):
    """First and last third."""
    third, data = r.length // 3, conn.data(r)
    conn.send_data(r, r.offset, data[:third], flags=0)
    conn.send_data(r, r.offset + 2 * third, data[2 * third:])


def same_half_twice(conn, r):
    """As many bytes as were asked for, but not these."""
    conn.send_data(r, r.offset, conn.data(r)[:half(r)], flags=0)
    conn.send_data(r, r.offset, conn.data(r)[:r.length - half(r)])


def last_half_twice(conn, r):
    for flags in (0, fakesource.DONE):
        conn.send_data(r, r.offset + half(r), conn.data(r)[half(r):],
                       flags=flags)


def overlapping(conn, r):
    conn.send_data(r, r.offset, conn.data(r)[:half(r) + 512], flags=0)
    conn.send_data(r, r.offset + half(r), conn.data(r)[half(r):])


def no_data(conn, r):
    conn.send_chunk(r, fakesource.CHUNK_NONE)


def error_chunk(conn, r):
    conn.send_error(r, 5)


def error_after_data(conn, r):
    conn.send_data(r, r.offset, b"\0" * half(r), flags=0)
    conn.send_chunk(r, fakesource.CHUNK_ERROR_OFFSET,
                    struct.pack(">IHQ", 5, 0, r.offset + half(r)))


def error_of_unknown_kind(conn, r):
    conn.send_chunk(r, 32999, struct.pack(">IH", 5, 0))


def error_number_0(conn, r):
    conn.send_chunk(r, fakesource.CHUNK_ERROR, struct.pack(">IH", 0, 0))


def error_with_a_huge_text(conn, r):
    conn.send_chunk(r, fakesource.CHUNK_ERROR,
                    struct.pack(">IH", 5, 60000) + b"e" * 60000)


# No answers, or none that can be believed: asked again, on this connection or
# another, as libnbd sees it.
CONNECTION = [close_at_once, close_mid_reply, wrong_magic, wrong_cookie,
              garbage, simple_reply, oversize_chunk, endless_chunk,
              tiny_chunk, outside, before, hole_outside, unknown_chunk,
              status_chunk, answered_twice, hang, hang_mid_reply, never_done,
              error_not_done,
              short, hole_in_it, same_half_twice, last_half_twice,
              overlapping, no_data]
# These are answers, and say or mean that it cannot be read.
ANSWER = [error_chunk, error_after_data, error_of_unknown_kind,
          error_number_0, error_with_a_huge_text]


# Answers to block status.

def status(*entries):
    return lambda conn, r: conn.send_status(r, entries)


def lies_beyond(conn, r):
    """Zero from the zeros on, and far past the end of all."""
    conn.send_status(r, [(ZEROS - r.offset, 0), (0xFFFFF000, 3)])


def many_small(conn, r):
    conn.send_status(r, [(512, 0)] * min(r.length // 512, 20000))


def one_small(conn, r):
    """As for NBD_CMD_FLAG_REQ_ONE, and no more than 64 KiB."""
    zero = r.offset >= ZEROS
    end = min(r.length, 64 * K if zero else min(64 * K, ZEROS - r.offset))
    conn.send_status(r, [(end, 3 if zero else 0)])


def other_context(conn, r):
    conn.send_chunk(r, fakesource.CHUNK_STATUS,
                    struct.pack(">III", 7, r.length, 3))


def half_an_entry(conn, r):
    conn.send_chunk(r, fakesource.CHUNK_STATUS,
                    struct.pack(">IIH", 1, r.length, 0))


def only_a_context(conn, r):
    conn.send_chunk(r, fakesource.CHUNK_STATUS, struct.pack(">I", 1))


def data_for_status(conn, r):
    conn.send_data(r, r.offset, b"x" * 4096)


def unknown_flags(conn, r):
    conn.send_status(r, [(ZEROS - r.offset, 0xFFFFFFFC), (SIZE - ZEROS, 3)]
                     if r.offset < ZEROS else [(r.length, 3)])


# Handshakes.

def greeting_then_close(conn):
    conn.greeting()
    raise Drop


def no_greeting(conn):
    raise Drop


def half_a_greeting(conn):
    conn.send(b"NBDMAGIC" + b"IHA")
    raise Drop


def mute(conn):
    conn.hang()


def hang_in_the_greeting(conn):
    conn.send(b"NBDMA")
    conn.hang()


def other_protocol(conn):
    conn.send(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n" + b"x" * 1000)
    conn.hang()


def garbage_greeting(conn):
    conn.send(random.Random(4).randbytes(10000))
    conn.hang()


def no_fixed_newstyle(conn):
    """Flags are 0: only NBD_OPT_EXPORT_NAME could be used."""
    conn.send(b"NBDMAGIC" + struct.pack(">QH", fakesource.IHAVEOPT, 0))
    conn.hang()


def old_style(size):
    def greet(conn):
        conn.send(b"NBDMAGIC" + struct.pack(">QQI", 0x00420281861253, size, 3)
                  + bytes(124))
        conn.hang()
    return greet


def hang_after_option(conn, opt, data):
    conn.hang()


def close_after_option(conn, opt, data):
    raise Drop


def on_go(function):
    def option(conn, opt, data):
        if opt != fakesource.OPT_GO:
            return False
        function(conn, opt)
        return True
    return option


def export_info(size, flags=3):
    def function(conn, opt):
        conn.send_option(opt, fakesource.REP_INFO, struct.pack(
            ">HQH", fakesource.INFO_EXPORT, size, flags))
        conn.send_option(opt, fakesource.REP_ACK)
        conn.requests()
    return on_go(function)


def replies(*frames):
    """Whole option replies, as bytes, to NBD_OPT_GO."""
    def function(conn, opt):
        for f in frames:
            conn.send(f)
        conn.hang()
    return on_go(function)


def frame(reply, data=b"", magic=fakesource.OPT_REPLY, opt=fakesource.OPT_GO,
          length=None):
    return struct.pack(">QIII", magic, opt, reply,
                       len(data) if length is None else length) + data


ACK, INFO = fakesource.REP_ACK, fakesource.REP_INFO
HANDSHAKES = {
    "no_greeting": (no_greeting, None),
    "half_a_greeting": (half_a_greeting, None),
    "greeting_then_close": (greeting_then_close, None),
    "mute": (mute, None),
    "hang_in_the_greeting": (hang_in_the_greeting, None),
    "other_protocol": (other_protocol, None),
    "garbage_greeting": (garbage_greeting, None),
    "no_fixed_newstyle": (no_fixed_newstyle, None),
    "old_style_of_no_size": (old_style(0xFFFFFFFFFFFFFFFF), None),
    "hang_after_option": (None, hang_after_option),
    "close_after_option": (None, close_after_option),
    "size_0": (None, export_info(0)),
    "size_is_less": (None, export_info(SIZE - G)),
    "size_is_more": (None, export_info(SIZE + G)),
    "size_beyond_63_bits": (None, export_info(1 << 63)),
    "size_is_all_ones": (None, export_info((1 << 64) - 1)),
    "wrong_option_magic": (None, replies(frame(ACK, magic=0x3E889045565A8))),
    "ack_of_another_option": (None, replies(frame(ACK, opt=1))),
    "ack_without_info": (None, replies(frame(ACK))),
    "info_too_short": (None, replies(frame(INFO, b"\0\0\1\2"), frame(ACK))),
    "endless_option": (None, replies(frame(INFO, length=0xFFFFFFFF)
                                     + b"x" * 100000)),
    "export_is_unknown": (None, replies(
        frame(fakesource.REP_ERR_UNKNOWN, b"no such export"))),
    "not_allowed": (None, replies(
        frame(fakesource.REP_ERR_POLICY, b"tls first"))),
    "unknown_error": (None, replies(frame(0xFFFFFFFF))),
}


def test_broken_replies_never_become_data(t):
    run(t, {w.__name__: lambda c, w=w: c.on_reads(w)
            for w in CONNECTION + ANSWER},
        {"answered_twice": None}, default=False)


def test_broken_connections_are_not_seen_by_the_guest(t):
    """Only at first: it is asked again, and all that is seen is a delay."""
    run(t, {w.__name__: lambda c, w=w: c.on_reads(w, times=1)
            for w in CONNECTION}, {}, default=True, timeout="15s")


def test_broken_answers_do_not_stick(t):
    """The first one is an error, for whoever asked: or for nobody, as the
    plugin may ask again.  Afterwards all is well with the same server."""
    run(t, {w.__name__: lambda c, w=w: c.on_reads(w, times=1)
            for w in ANSWER}, {}, default=None, same_server=True)


def test_broken_identity_samples(t):
    """Each connection dies of the first reads on it."""
    def wrong(c, w):
        c.on_reads(w, samples=True)
        c.source.drop_all()
    run(t, {w.__name__: lambda c, w=w: wrong(c, w)
            for w in (close_mid_reply, wrong_cookie, hang, hang_mid_reply,
                      short, same_half_twice, no_data, error_chunk)},
        {}, default=False)


def test_broken_block_status_is_not_believed(t):
    def wrong(c, w):
        c.on_status(w)
        # What it knew from this server is asked again: a new connection does
        # not do that, so it must not have asked before.
    run(t, {
        "zero_length": lambda c: wrong(c, status((0, 3))),
        "zero_lengths": lambda c: wrong(c, status(*[(0, 3)] * 1000, (4096, 0),
                                                  *[(0, 0)] * 1000)),
        "zero_then_more": lambda c: wrong(c, status((0, 3), (SIZE, 0))),
        "empty_lists": lambda c: wrong(c, only_a_context),
        "lies_beyond": lambda c: wrong(c, lies_beyond),
        "many_small": lambda c: wrong(c, many_small),
        "one_small": lambda c: wrong(c, one_small),
        "other_context": lambda c: wrong(c, other_context),
        "half_an_entry": lambda c: wrong(c, half_an_entry),
        "data_for_status": lambda c: wrong(c, data_for_status),
        "unknown_flags": lambda c: wrong(c, unknown_flags),
        "status_error": lambda c: wrong(c, error_chunk),
        "status_none": lambda c: wrong(c, no_data),
        "status_hang": lambda c: wrong(c, hang),
        "status_close": lambda c: wrong(c, close_at_once),
        "status_garbage": lambda c: wrong(c, garbage),
    }, {}, default=None, early=True)


def test_broken_handshakes_are_not_believed(t):
    run(t, {n: lambda c, f=f: c.on_handshake(*f)
            for n, f in HANDSHAKES.items()}, {}, default=False)


def test_server_that_breaks_each_time_is_not_hammered(t):
    """Neither it, nor the log, nor those who wait for events."""
    c = Case(t, "broken")
    p = t.plugin(*c.keys("timeout=60s"))
    c.make_local(p)
    c.client = p.client(c.name)
    c.on_reads(wrong_magic)
    before, start = c.source.accepted, time.monotonic()
    pending = c.client.start_read(256 * K, G)
    time.sleep(4)
    wait_for("it is tried again", lambda: c.hits >= 3)
    accepted = c.source.accepted - before
    most = 6 + 1.1 * (time.monotonic() - start)
    check(accepted < most, "connections", accepted)
    c.source.fault = None
    check(c.client.finish(pending) == DATA[256 * K:][:G], "the data")
    c.close()
    p.end()


# Not wrong.

def in_reverse(conn, r):
    """Chunks may come in any order."""
    for at in reversed(range(0, r.length, 1000)):
        conn.send_data(r, r.offset + at, conn.data(r)[at:at + 1000],
                       flags=0 if at else 1)


def by_halves(conn, r):
    n = r.length // 2
    conn.send_data(r, r.offset + n, conn.data(r)[n:], flags=0)
    conn.send_data(r, r.offset, conn.data(r)[:n], flags=0)
    conn.send_chunk(r, fakesource.CHUNK_NONE)


def in_sectors(conn, r):
    for at in range(0, r.length, 512):
        conn.send_data(r, r.offset + at, conn.data(r)[at:at + 512],
                       flags=0)
    conn.send_chunk(r, fakesource.CHUNK_NONE)


def with_holes(conn, r):
    for at in range(0, r.length, 512):
        part = conn.data(r)[at:at + 512]
        if any(part):
            conn.send_data(r, r.offset + at, part, flags=0)
        else:
            conn.send_chunk(r, fakesource.CHUNK_HOLE, struct.pack(
                ">QI", r.offset + at, len(part)), flags=0)
    conn.send_chunk(r, fakesource.CHUNK_NONE)


def first_byte_apart(conn, r):
    conn.send_data(r, r.offset, conn.data(r)[:1], flags=0)
    conn.send_data(r, r.offset + 1, conn.data(r)[1:])


def set_source(**values):
    def change(c):
        for name, value in values.items():
            setattr(c.source, name, value)
    return change


def only_export_name(conn, opt, data):
    if opt in (fakesource.OPT_EXPORT_NAME, fakesource.OPT_ABORT):
        return False
    conn.send_option(opt, fakesource.REP_ERR_UNSUP)
    return True


def test_what_a_server_cannot_do_is_not_asked_of_it(t):
    cases = run(t, {
        "no_structured": set_source(structured=False),
        "no_status": set_source(status=False),
        "export_name": set_source(option=only_export_name),
        "blocks_4k_64k": set_source(block=(4096, 4096, 64 * K)),
        "blocks_64k_64k": set_source(block=(64 * K, 64 * K, 64 * K)),
        "blocks_512_1m": set_source(block=(512, 4096, M)),
        "one_client": set_source(multi_conn=False),
        **{w.__name__: lambda c, w=w: c.on_reads(w, samples=True)
           for w in (in_reverse, by_halves, in_sectors, with_holes,
                     first_byte_apart)},
    }, {}, default=True, timeout="60s", same_server=True, early=True,
        wrong=False)
    for c in cases:
        check(not c.source.violations, c.name + ": block sizes",
              c.source.violations)
        if c.name == "one_client":
            # The one that it was opened with.
            check(c.source.accepted == 1, "connections", c.source.accepted)


def serves_one(t, s, data):
    p = t.plugin(t("disk"), "backing=" + s.uri, "fetch=4K",
                 "timeout=60s")
    c = p.client()
    check(c.read(0, G) == data[:G], "data")
    ctl = p.control()   # events from now on
    ctl("block-allocate", device="", speed=4 * M)
    for at in range(7 * M, 8 * M, 100 * K):
        check(c.read(at, G) == data[at:at + G], "demand meanwhile")
    ctl("block-job-set-speed", device="", speed=0)
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    check(ctl.saw("SOURCE_LOST") == 0, "it was never lost")
    c.close()
    p.end()
    check(t.read("disk") == data, "the store")


def test_server_for_one_client(t):
    """It says multi-conn, and refuses a second connection all the same."""
    image, data = t.image("golden", 8 * M)
    serves_one(t, t.serve("source", "--filter=limit", "file", image,
                          "limit=1"), data)


def test_server_that_lets_the_second_client_wait(t):
    """As qemu-nbd does: it connects, and nothing is said."""
    qemu_nbd = shutil.which("qemu-nbd")
    if not qemu_nbd:
        print("qemu-nbd is missing: not tested")
        return
    image, data = t.image("golden", 8 * M)
    s = Server(t, "source")
    s.argv = [qemu_nbd, "-t", "-r", "-f", "raw", "-k", s.socket, image]
    faultlib.Process.start(s)
    wait_for("qemu-nbd starts", s.is_up)
    serves_one(t, s, data)


if __name__ == "__main__":
    faultlib.main()
