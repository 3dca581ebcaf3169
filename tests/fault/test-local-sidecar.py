#!/usr/bin/python3
"""Damage to the sidecar, anywhere: it is refused, or a range of the disk is
EIO and named, or it is harmless.  What can be read is right, always.

The volume: granule 512, so that a small disk has several sectors of S; parts
of it are the guest's, copied, and absent; a job that has ended.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import random
import shutil
import struct

from locallib import *

GRANULE = 512
SPAN = 3968 * GRANULE  # of the disk, one sector of S
SIZE = 3 * SPAN + 100 * GRANULE + 100
NR = 4
HEADER = 16384
JOB = 32768
MAP = 65536
HOLES = [(SPAN + (1 << 20), 512 << 10)]

CRC = []


def crc32c(data):
    if not CRC:
        for n in range(256):
            for _ in range(8):
                n = n >> 1 ^ (0x82f63b78 if n & 1 else 0)
            CRC.append(n)
    c = 0xffffffff
    for b in data:
        c = c >> 8 ^ CRC[(c ^ b) & 255]
    return c ^ 0xffffffff


class Volume:
    """Closed in order; .want is what it shows, .meta its sidecar."""

    def __init__(self, d):
        self.golden = make_golden(d("golden"), SIZE, HOLES)
        self.source = Source(d, d("golden"))
        self.path = d("disk")
        s = Server(d, self.path, "backing=" + self.source.uri, "granule=512")
        h = s.nbd()
        want = bytearray(self.golden)
        rng = random.Random(5)
        for i in range(40):  # some in each sector of S but the third
            at = rng.randrange(0, SIZE - 40000)
            if at // SPAN == 2 or (at + 40000) // SPAN == 2:
                continue
            n = rng.randrange(1, 40000)
            h.pwrite(pattern(2 + i, at, n), at)
            want[at:at + n] = pattern(2 + i, at, n)
        h.zero(30000, SPAN - 10000)
        want[SPAN - 10000:SPAN + 20000] = bytes(30000)
        h.flush()
        s.ask("block-allocate", offset=SPAN // 2, length=SPAN // 4)
        assert wait_job(s, "concluded")["result"] == "completed"
        h.shutdown()
        s.stop()
        self.want = bytes(want)
        with open(self.path + ".backfill", "rb") as f:
            self.meta = f.read()
        assert len(self.meta) == MAP + NR * 512

    def put(self, meta):
        with open(self.path + ".backfill", "r+b") as f:
            f.truncate(len(meta))
            f.write(meta)

    def header(self, change, both=True):
        """The sidecar with fields of the header changed, and a right CRC.
        change: {offset: bytes}."""
        meta = bytearray(self.meta)
        for copy in (0, HEADER)[:1 + both]:
            for at, data in change.items():
                meta[copy + at:copy + at + len(data)] = data
            n = struct.unpack_from("<I", meta, copy + 12)[0]
            struct.pack_into("<I", meta, copy + n - 4,
                             crc32c(meta[copy:copy + n - 4]))
        return bytes(meta)


def flip(meta, *bits):
    meta = bytearray(meta)
    for bit in bits:
        meta[bit // 8] ^= 1 << bit % 8
    return bytes(meta)


def look(server, volume, damaged=(), export="", what=""):
    """Read all of it: right, or EIO if and only if in a damaged sector of S.
    """
    h = server.nbd(export)
    for i in range(NR):
        at, n = i * SPAN, min(SPAN, SIZE - i * SPAN)
        try:
            got = h.pread(n, at)
        except nbd.Error as e:
            assert e.errno == "EIO" and i in damaged, (what, i, e)
            # All of the sector's range, and no more.
            for o in (at, at + n // 2, at + n - 1):
                assert nbd_errno(h.pread, 1, o) == "EIO", (what, o)
        else:
            assert i not in damaged, "%s: sector %d was read" % (what, i)
            same(got, volume.want[at:at + n], at, what or "the disk")
    h.shutdown()


def is_named(server, damaged, device=""):
    """In `info`."""
    [o] = server.ask("query-disks", device=device)
    assert o["local"] + o["absent"] == SIZE, o
    if not damaged:
        assert "damaged" not in o, o
        return
    assert o["damaged"]["sectors"] == len(damaged), o
    first = [i for i in damaged if i * SPAN == o["damaged"]["offset"]]
    assert first and o["damaged"]["length"] == min(SPAN,
                                                   SIZE - first[0] * SPAN), o


def checked(path, *words):
    """`backfill check` says that there is damage, and what."""
    r = cli("check", path)
    assert r.returncode == 1, (r, words)
    for word in words:
        assert str(word) in r.stdout + r.stderr, (r, word)


def many(d, volume, metas, damaged=lambda i: ()):
    """Each of the sidecars in a disk of its own, all in one process, opened
    read-only so that they can share the store."""
    args = []
    top = d.make("many")
    for i, meta in enumerate(metas):
        os.mkdir(os.path.join(top, str(i)))
        store = os.path.join(top, str(i), "disk")
        os.link(volume.path, store)
        with open(store + ".backfill", "wb") as f:
            f.write(meta)
        args += ["name=d%d" % i, "store=" + store, "readonly=on",
                 "connections=1"]
    # Each disk has a handful of descriptors.
    s = Server(d, *args, files=16 * len(metas) + 1000)
    for i, meta in enumerate(metas):
        look(s, volume, damaged(i), "d%d" % i, "sidecar %d" % i)
        is_named(s, damaged(i), "d%d" % i)
        with open(os.path.join(top, str(i), "disk.backfill"), "rb") as f:
            assert f.read() == meta
    s.stop()
    shutil.rmtree(top)


def test_undamaged_it_is_right(d):
    v = Volume(d)
    many(d, v, [v.meta])
    r = cli("check", v.path)
    assert r.returncode == 0 and "no damage" in r.stdout, r
    s = Server(d, v.path)
    look(s, v)
    is_named(s, ())
    s.stop()


def test_cut_short_it_is_refused(d):
    v = Volume(d)
    lengths = [0, 1, 8, 511, 512, 4096, HEADER - 1, HEADER, HEADER + 1,
               JOB - 1, JOB, JOB + 1, JOB + 4096, JOB + 8191, JOB + 8192,
               MAP - 1, MAP, MAP + 1, MAP + 511, MAP + 512, MAP + 1024,
               MAP + NR * 512 - 1]
    for n in lengths:
        v.put(v.meta[:n])
        refused(d, v.path, words=[v.path + ".backfill", "cut short"],
                files=[v.path, v.path + ".backfill"])
        checked(v.path, v.path + ".backfill", "cut short")
    # Longer than it need be is no damage.
    v.put(v.meta + b"rest" * 1000)
    s = Server(d, v.path)
    look(s, v)
    s.stop()


def test_garbage_it_is_refused(d):
    v = Volume(d)
    rng = random.Random(6)
    for meta in (bytes(len(v.meta)), rng.randbytes(len(v.meta)),
                 b"\xff" * len(v.meta), v.meta[1:] + b"\0",
                 v.meta[512:] + v.meta[:512]):
        v.put(meta)
        refused(d, v.path, words=[v.path + ".backfill", "not a sidecar"],
                files=[v.path, v.path + ".backfill"])
        checked(v.path, "not a sidecar")


def test_of_another_version_it_is_refused(d):
    v = Volume(d)
    u32, u64 = struct.Struct("<I").pack, struct.Struct("<Q").pack
    areas = struct.unpack_from("<I", v.meta, 184)[0]
    assert areas == 3
    for change, words in (
            ({8: u32(2)}, ["version 2", "version 1"]),
            ({8: u32(0)}, ["version 0"]),
            ({8: u32(0xffffffff)}, ["version 4294967295"]),
            # Known, but then there is a role.
            ({32: u64(1)}, ["role", "makes no sense"]),
            ({32: u64(2)}, ["incompat 0x2"]),
            ({32: u64(1 << 63)}, ["incompat 0x8000000000000000"]),
            ({24: u64(4)}, ["ro-compat 0x4"]),
            # The map's area, by a kind from the future that must be known.
            ({192: u32(77)}, ["kind 77"])):
        v.put(v.header(change))
        words = [v.path + ".backfill", *words]
        files = [v.path, v.path + ".backfill"]
        refused(d, v.path, words=words, files=files)
        refused(d, v.path, "readonly=on", words=words, files=files)
        checked(v.path, *words)
    # What a newer program may add without harm: a compat feature, and a
    # field.
    fields = struct.unpack_from("<I", v.meta, 188)[0]
    n = struct.unpack_from("<I", v.meta, 12)[0]
    v.put(v.header({16: u64(5), 188: u32(fields + 1), 12: u32(n + 12),
                    n - 4: u32(4711) + u32(4) + b"new!"}))
    s = Server(d, v.path)
    look(s, v)
    s.stop()


def test_a_header_that_makes_no_sense_is_refused(d):
    v = Volume(d)
    u32, u64 = struct.Struct("<I").pack, struct.Struct("<Q").pack
    areas = {struct.unpack_from("<I", v.meta, 192 + 24 * i)[0]: 192 + 24 * i
             for i in range(3)}
    field = 192 + 72
    for what, change in {
            "size": {64: u64(SIZE + 512)}, "smaller": {64: u64(SIZE - 1)},
            "huge": {64: u64(1 << 63)}, "empty": {64: u64(0)},
            "granule 0": {72: u32(0)}, "granule 3": {72: u32(513)},
            "granule large": {72: u32(1 << 17)}, "identity": {96: u32(9)},
            "no areas": {184: u32(0)}, "many areas": {184: u32(0xffffffff)},
            "areas over the end": {184: u32(63)},
            "map beyond": {areas[1] + 8: u64(1 << 40)},
            "map far beyond": {areas[1] + 8: u64(1 << 63)},
            "map too short": {areas[1] + 16: u64(512)},
            "map too long": {areas[1] + 16: u64(1 << 62)},
            "job too short": {areas[2] + 16: u64(4096)},
            "job beyond": {areas[2] + 8: u64((1 << 63) - 4096)},
            "count too short": {areas[3] + 16: u64(512)},
            "count over the job": {areas[3] + 8: u64(36864)},
            "count beyond": {areas[3] + 8: u64(1 << 40)},
            "many fields": {188: u32(0xffffffff)},
            "a long field": {field + 4: u32(0xffffffff)},
            "a field over the end": {field + 4: u32(16000)},
    }.items():
        v.put(v.header(change))
        try:
            refused(d, v.path, words=[v.path + ".backfill"],
                    files=[v.path, v.path + ".backfill"])
            checked_or_other_size = cli("check", v.path)
            assert checked_or_other_size.returncode in (0, 1)
        except AssertionError as e:
            raise AssertionError("%s: %s" % (what, e))


def test_a_bit_flipped_in_one_header_copy_is_harmless_and_mended(d):
    v = Volume(d)
    rng = random.Random(7)
    n = struct.unpack_from("<I", v.meta, 12)[0]
    # Every 8-byte word of what is used, and some of the padding.
    at = [*range(0, n, 8), n - 1, *(rng.randrange(n, HEADER)
                                    for _ in range(6))]
    bits = [8 * (copy + a) + rng.randrange(8) for a in at
            for copy in (0, HEADER)]
    many(d, v, [flip(v.meta, b) for b in bits])
    for bit in rng.sample([b for b in bits if b // 8 % HEADER < n], 12):
        v.put(flip(v.meta, bit))
        copy = "AB"[bit // 8 // HEADER]
        checked(v.path, "header copy %s is damaged" % copy)
        s = Server(d, v.path)
        look(s, v, what="bit %d" % bit)
        s.stop()
        assert "copy %s is damaged" % copy in s.text(), s.text()
        r = cli("check", v.path)
        assert r.returncode == 0 and "no damage" in r.stdout, r


def test_a_bit_flipped_in_both_header_copies_is_refused(d):
    v = Volume(d)
    rng = random.Random(8)
    n = struct.unpack_from("<I", v.meta, 12)[0]
    # Magic, version, length, features, uuid, size, state, session, boot id,
    # areas, fields, CRC, and here and there.
    at = [0, 7, 8, 12, 13, 16, 32, 40, 56, 64, 72, 76, 80, 144, 152, 160, 184,
          188, 192, 196, 200, 208, 216, 240, 244, 260, n - 4, n - 1]
    at += [rng.randrange(0, n) for _ in range(8)]
    for a in at:
        bit = 8 * a + rng.randrange(8)
        other = 8 * rng.choice(at) + rng.randrange(8)
        for meta in (flip(v.meta, bit, bit + 8 * HEADER),
                     flip(v.meta, bit, other + 8 * HEADER))[:1 + (a % 5 == 0)]:
            v.put(meta)
            refused(d, v.path, words=[v.path + ".backfill"],
                    files=[v.path, v.path + ".backfill"])
            checked(v.path, v.path + ".backfill")
    # Past the end of both there is nothing.
    v.put(flip(v.meta, 8 * n, 8 * n + 8 * HEADER, 8 * HEADER - 1))
    s = Server(d, v.path)
    look(s, v)
    s.stop()


def test_a_bit_flipped_in_the_map_makes_its_range_eio_and_is_named(d):
    v = Volume(d)
    rng = random.Random(9)
    bits = []
    for i in range(NR):
        first = 8 * (MAP + 512 * i)
        # Bits of granules, uuid, index, CRC; what is set and what is not.
        bits += [first + b for b in (0, 7, 3967, 3968, 4031, 4032, 4063, 4064,
                                     4095)]
        bits += [first + rng.randrange(0, 4096) for _ in range(21)]
    many(d, v, [flip(v.meta, b) for b in bits],
         lambda k: ((bits[k] // 8 - MAP) // 512,))
    for bit in rng.sample(bits, 8):
        i = (bit // 8 - MAP) // 512
        v.put(flip(v.meta, bit))
        checked(v.path, "map sector %d is damaged" % i,
                "%d+%d" % (i * SPAN, min(SPAN, SIZE - i * SPAN)))


def test_sectors_of_the_map_that_belong_elsewhere_are_damage(d):
    v = Volume(d)
    other = d.make("other")
    w = [MAP + 512 * i for i in range(NR + 1)]
    s = [v.meta[w[i]:w[i + 1]] for i in range(NR)]
    base = v.meta[:MAP]
    metas = [base + s[0] + s[2] + s[1] + s[3],  # misdirected
             base + s[0] + s[0] + s[2] + s[3],
             base + bytes(512) + s[1] + s[2] + s[3],  # lost
             base + s[0] + s[1] + s[2] + b"\xff" * 512,
             base + s[0][:256] + s[1][256:] + s[1] + s[2] + s[3]]  # torn
    # Another volume's, of the same shape.
    x = Server(d, os.path.join(other, "disk"), "backing=" + v.source.uri,
               "granule=512")
    x.nbd().pwrite(pattern(3, 0, 1 << 20), 0)
    x.stop()
    with open(os.path.join(other, "disk.backfill"), "rb") as f:
        foreign = f.read()
    metas.append(base + foreign[w[0]:w[1]] + b"".join(s[1:]))
    metas.append(base + foreign[MAP:])
    bad = [(1, 2), (1,), (0,), (3,), (0,), (0,), (0, 1, 2, 3)]
    many(d, v, metas, lambda k: bad[k])
    for meta, sectors in zip(metas, bad):
        v.put(meta)
        checked(v.path, *("map sector %d is damaged" % i for i in sectors))


def test_a_damaged_range_takes_no_writes_and_stays_so(d):
    v = Volume(d)
    damaged = flip(v.meta, 8 * (MAP + 512) + 1234)
    v.put(damaged)
    s = Server(d, v.path)
    h = s.nbd(extents=True)
    data = pattern(99, 0, 1 << 20)
    inside = SPAN + 8192
    for call, args in ((h.pread, (4096, inside)), (h.pwrite, (data[:4096],
                                                              inside)),
                       (h.pwrite, (data[:100], inside + 7)),
                       (h.zero, (4096, inside)), (h.zero, (10, inside)),
                       (h.trim, (8192, inside)), (h.cache, (8192, inside)),
                       (h.block_status, (8192, inside, lambda *_: 0)),
                       # Over its border, either side.
                       (h.pread, (2000, SPAN - 1000)),
                       (h.pwrite, (data[:2000], SPAN - 1000)),
                       (h.pread, (2000, 2 * SPAN - 1000))):
        e = nbd_errno(call, *args)
        assert e == "EIO", (call.__name__, args, e)
    for flags in (0, nbd.CMD_FLAG_FUA):
        assert nbd_errno(h.pwrite, data[:512], inside, flags) == "EIO"
    # Elsewhere all goes on.
    want = bytearray(v.want)
    h.pwrite(data[:5000], 1234)
    want[1234:6234] = data[:5000]
    h.flush()
    v.want = bytes(want)
    look(s, v, (1,))
    is_named(s, (1,))
    r = cli("-c", s.control, "info")
    assert str(SPAN) in r.stdout.replace(",", "") or "damage" in r.stdout, r
    # Nothing makes it complete, and a job says where it failed.
    s.ask("block-allocate")
    job = wait_job(s, "concluded")
    assert job["result"] == "failed" and job["errno-name"] == "EIO", job
    assert job["failed-offset"] == SPAN, job
    s.ask("block-job-dismiss", device="")
    s.ask("block-allocate", offset=2 * SPAN)
    assert wait_job(s, "concluded")["result"] == "completed"
    assert not s.info()["complete"]
    try:
        s.ask("disk-detach")
        raise AssertionError("detached, with a part that is not known")
    except QmpError as e:
        assert e.name == "EBUSY", e.name
    try:
        s.ask("query-allocation-map")
        raise AssertionError("a map that cannot be known")
    except QmpError as e:
        assert e.name == "EIO" and "damaged" in str(e), e
    assert s.ask("query-allocation-map", offset=2 * SPAN)["regions"]
    h.shutdown()
    s.stop()
    with open(v.path + ".backfill", "rb") as f:
        now = f.read()
    assert now[MAP + 512:MAP + 1024] == damaged[MAP + 512:MAP + 1024], \
        "the damaged sector was written"
    # And after SIGKILL, with writes that no flush covered.
    s = Server(d, v.path)
    look(s, v, (1,))
    h = s.nbd()
    h.pwrite(data[:700], 2 * SPAN + 50)
    assert nbd_errno(h.pwrite, data[:700], inside) == "EIO"
    v.want = v.want[:2 * SPAN + 50] + data[:700] + v.want[2 * SPAN + 750:]
    s.kill()
    s = Server(d, v.path)
    look(s, v, (1,))
    s.stop()
    # A backup of the sector brings it back, as it was: the writes that failed
    # have changed nothing.
    with open(v.path + ".backfill", "r+b") as f:
        f.seek(MAP + 512)
        f.write(v.meta[MAP + 512:MAP + 1024])
    s = Server(d, v.path)
    look(s, v)
    s.stop()


def test_a_damaged_job_record_is_the_record_before_or_no_job(d):
    v = Volume(d)
    rng = random.Random(10)
    with_job = {"concluded"}
    for copy in (0, 1):
        for at in [0, 8, 16, 20, 24, 32, 40, 48, 64, 112, 640, 643] \
                + [rng.randrange(0, 644) for _ in range(2)]:
            v.put(flip(v.meta, 8 * (JOB + 4096 * copy + at) + rng.randrange(8)))
            s = Server(d, v.path)
            job = s.info()["job"]
            if job:
                with_job.add(job["status"])
                assert job["range-offset"] == SPAN // 2, job
                assert job["total"] == job["processed"] + job["remaining"], job
            if at % 4 == 0:
                look(s, v, what="record %d, %d" % (copy, at))
            s.kill()
            s = None
    assert with_job <= {"concluded", "running", "created"}, with_job
    for garbage in (b"\xff" * 8192, rng.randbytes(8192)):
        v.put(v.meta[:JOB] + garbage + v.meta[JOB + 8192:])
        checked(v.path, "job record is damaged")
        s = Server(d, v.path)
        assert s.info()["job"] is None
        assert "job record is damaged" in s.text()
        look(s, v)
        s.ask("block-allocate")
        assert wait_job(s, "concluded")["result"] == "completed"
        s.stop()


def test_what_nobody_uses_may_be_anything(d):
    v = Volume(d)
    rng = random.Random(11)
    gap = JOB + 8192
    metas = [flip(v.meta, 8 * rng.randrange(gap, MAP) + 3) for _ in range(5)]
    metas.append(v.meta[:gap] + rng.randbytes(MAP - gap) + v.meta[MAP:])
    many(d, v, metas)


def test_complete_the_map_is_not_looked_at(d):
    v = Volume(d)
    s = Server(d, v.path)
    s.ask("block-allocate")
    assert wait_job(s, "concluded")["result"] == "completed"
    s.stop()
    with open(v.path + ".backfill", "rb") as f:
        meta = f.read()
    v.source.kill()
    v.put(meta[:MAP] + b"\xee" * NR * 512)
    s = Server(d, v.path)
    look(s, v)
    is_named(s, ())
    assert s.info()["complete"]
    s.stop()
    r = cli("check", v.path)
    assert r.returncode == 0, r


if __name__ == "__main__":
    main(globals())
