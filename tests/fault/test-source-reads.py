#!/usr/bin/python3
"""What the backing store is asked for: it is never written (G31), nothing is
read twice (G32), and known zeros are not read at all.

nbdkit's log filter notes what the backing store sees.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import random

import faultlib
import fakesource
from fakesource import FakeSource
from faultlib import K, M, check, nbd, wait_for

G = 4096
SAMPLES = 16        # reads at the start of each connection: the identity


def serve(t, image, *args, filters=()):
    return t.serve("source", *["--filter=" + f for f in filters],
                   "--filter=log", "file", image,
                   "logfile=" + t("requests"), *args)


def reads(t):
    """[(offset, end)] without those for the identity, which each connection
    begins with."""
    found, seen = [], {}
    for r in t.requests("requests"):
        if r.action != "Read":
            continue
        seen[r.connection] = seen.get(r.connection, 0) + 1
        if seen[r.connection] > SAMPLES:
            found.append((r.offset, r.offset + r.count))
        else:
            check(r.count <= G, "a sample", r)
    return found


def check_once(found, size, all_of_it=True):
    """Each byte was read once."""
    at = 0
    for start, end in sorted(found):
        check(start >= at, "read twice: %d to %d" % (start, at))
        check(start == at or not all_of_it, "not read: %d to %d" % (at, start))
        at = end
    check(at == size or not all_of_it, "not read: from %d" % at)


def data_extents(path):
    """[(offset, end)] of a file."""
    found, size = [], os.path.getsize(path)
    with open(path, "rb") as f:
        at = 0
        while at < size:
            try:
                start = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:     # none after it
                break
            at = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            found.append((start, at))
    return found


def test_source_is_never_written(t):
    image, data = t.image("golden", 8 * M)
    before = os.stat(image)
    s = serve(t, image)
    p = t.plugin(t("disk"), "backing=" + s.uri)
    c, ctl, model = p.client(), p.control(), bytearray(data)
    r = random.Random(5)
    for i in range(200):
        at = r.randrange(len(data) - 20000)
        n = r.choice((1, 512, 4096, 10000))
        if i % 4 == 0:
            check(c.read(at, n) == model[at:at + n], "data")
        elif i % 4 == 1:
            c.write(at, bytes([i]) * n,
                    flags=nbd.CMD_FLAG_FUA if i % 8 == 1 else 0)
            model[at:at + n] = bytes([i]) * n
        elif i % 4 == 2:
            c.zero(at, n, flags=nbd.CMD_FLAG_NO_HOLE if i % 8 == 2 else 0)
            model[at:at + n] = bytes(n)
        else:
            at = at // G * G
            c.trim(at, G)
            model[at:at + G] = c.read(at, G)
    c.flush()
    c.cache(0, M)
    c.extents(0, 8 * M)
    ctl("block-allocate", device="", length=4 * M)
    ctl.wait_event("BLOCK_JOB_COMPLETED")
    ctl("disk-flush", device="")
    c.close()
    p.end()
    p.start()
    c, ctl = p.client(), p.control()
    ctl("block-allocate", device="", sparse=False)
    ctl.wait_event("BLOCK_JOB_COMPLETED")
    c.write(0, b"the last")
    model[:8] = b"the last"
    c.flush()
    wait_for("it is let go", lambda: ctl.disk()["source"] == "none")
    ctl("disk-detach", device="")
    c.close()
    p.end()
    s.end()

    requests = t.requests("requests")
    connects = [x for x in requests if x.action == "Connect"]
    check(connects and all("write=1" in x.line for x in connects),
          "it could have been written")
    actions = {x.action for x in requests}
    check(actions <= {"Preconnect", "Connect", "Disconnect", "Read",
                      "Extents"}, "only reads", actions)
    check({"Read", "Extents"} <= actions, "the log works", actions)
    after = os.stat(image)
    check(t.read("golden") == data and before.st_mtime_ns == after.st_mtime_ns,
          "it is as it was")
    check(t.read("disk") == model, "the store")


def readers(t, nr, *keys, job):
    """They all read all, at the same time, each in its own order."""
    image, data = t.image("golden", 8 * M)
    s = serve(t, image, "delay-read=20ms", filters=["delay"])
    p = t.plugin(t("disk"), "backing=" + s.uri, *keys)
    ctl = p.control()
    clients = [p.client() for _ in range(nr)]
    r = random.Random(6)
    orders = []
    for c in clients:
        ranges = []
        at = 0
        while at < len(data):
            n = min(r.choice((512, 4096, 20000, 65536, 300000)),
                    len(data) - at)
            ranges.append((at, n))
            at += n
        # Neighbours ask for the same at the same time.
        random.Random(7).shuffle(ranges)
        orders.append(ranges)
    if job:
        ctl("block-allocate", device="")
    while any(orders):
        batch = [(c, o, x, c.start_read(*x)) for c, o in zip(clients, orders)
                 for x in [o.pop() for _ in range(min(8, len(o)))]]
        for c, _, (at, n), pending in batch:
            check(c.finish(pending) == data[at:at + n], "data at %d" % at)
    if job:
        ctl.wait_status("concluded")
    for c in clients:
        c.close()
    stats = ctl.disk()["stats"]
    check(stats["bytes-fetched"] == len(data), "bytes fetched", stats)
    p.end()
    check(t.read("disk") == data, "the store")
    check_once(reads(t), len(data))


def test_nothing_is_read_twice_by_32_readers(t):
    readers(t, 32, job=False)


def test_nothing_is_read_twice_by_32_readers_and_a_job(t):
    readers(t, 32, job=True)


def test_nothing_is_read_twice_without_read_ahead(t):
    readers(t, 32, "fetch=4K", job=True)


def test_reading_what_is_written_is_not_needed(t):
    """Whole granules are not fetched; the rest of each is, once."""
    image, data = t.image("golden", 4 * M)
    s = serve(t, image)
    p = t.plugin(t("disk"), "backing=" + s.uri, "fetch=4K")
    c, model = p.client(), bytearray(data)
    for at in range(0, M, G):
        c.write(at, b"w" * G)
    model[:M] = b"w" * M
    c.zero(M, M)
    model[M:2 * M] = bytes(M)
    check(reads(t) == [], "nothing was read", reads(t))
    parts = [c.start_write(2 * M + i * 100, b"p" * 50) for i in range(40)]
    model[2 * M:2 * M + 4000] = b"".join(
        b"p" * 50 + data[2 * M + i * 100 + 50:2 * M + i * 100 + 100]
        for i in range(40))
    for x in parts:
        c.finish(x)
    check(c.read(0, 4 * M) == model, "the disk")
    c.close()
    p.end()
    check_once(reads(t), 4 * M, all_of_it=False)
    check(min(reads(t))[0] == 2 * M, "what was written is not read",
          min(reads(t)))


def sparse_image(t):
    """64 MiB, with some data, of which some is zeros."""
    r = random.Random(8)
    with open(t("golden"), "wb") as f:
        f.truncate(64 * M)
        for at, n in ((0, G), (M + 3 * G, 5 * G), (9 * M, 2 * M),
                      (30 * M + G, G), (64 * M - 3 * G, 3 * G)):
            f.seek(at)
            f.write(r.randbytes(n))
        # Zeros that are there.
        f.seek(20 * M)
        f.write(bytes(4 * M))
        os.fsync(f.fileno())
    return t("golden"), t.read("golden")


def inside(found, extents, granule):
    """All that was read lies in granules that hold data."""
    for start, end in found:
        at = start
        while at < end:
            e = [x for x in extents
                 if x[0] // granule * granule <= at
                 < -(-x[1] // granule) * granule]
            check(e, "zeros were read at %d" % at, found)
            at = -(-e[0][1] // granule) * granule


def allocated(path):
    return os.stat(path).st_blocks * 512


def job_of_sparse(t, granule, *keys):
    image, data = sparse_image(t)
    s = serve(t, image)
    p = t.plugin(t("disk"), "backing=" + s.uri, "granule=%d" % granule,
                 *keys)
    c, ctl = p.client(), p.control()
    # From now on it is known what is zero.
    c.extents(0, 64 * M)
    check(c.read(40 * M, M) == bytes(M), "zeros")
    check(c.read(0, 64 * K) == data[:64 * K], "both")
    ctl("block-allocate", device="")
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    check(c.read(0, 32 * M) + c.read(32 * M, 32 * M) == data, "the disk")
    c.close()
    p.end()
    check(t.read("disk") == data, "the store")
    return image, data


def test_zeros_are_not_read_and_stay_holes(t):
    image, _ = job_of_sparse(t, 4 * K)
    extents = data_extents(image)
    found = reads(t)
    inside(found, extents, 4 * K)
    check_once(found, 64 * M, all_of_it=False)
    # Not even the 4 MiB of zeros that the source has blocks for.
    check(allocated(t("disk")) <= allocated(image) - 4 * M + 256 * K,
          "it is as sparse as can be",
          (allocated(t("disk")), allocated(image)))


def test_zeros_stay_holes_with_large_granules(t):
    image, _ = job_of_sparse(t, 64 * K)
    inside(reads(t), data_extents(image), 64 * K)
    check(allocated(t("disk")) <= allocated(image) - 4 * M + M,
          "it is sparse", allocated(t("disk")))


def test_demand_does_not_read_known_zeros(t):
    image, data = sparse_image(t)
    s = serve(t, image)
    p = t.plugin(t("disk"), "backing=" + s.uri, "fetch=4K")
    c = p.client()
    c.extents(0, 64 * M)        # from now on it is known
    before = allocated(t("disk"))
    for at in (2 * M, 25 * M, 40 * M, 60 * M + 17):
        check(c.read(at, 5000) == bytes(5000), "zeros")
    check(reads(t) == [], "nothing is read", reads(t))
    # A part of a granule of zeros needs no reading either.
    c.write(50 * M + 10, b"part")
    check(c.read(50 * M, G) == bytes(10) + b"part" + bytes(G - 14), "merged")
    check(reads(t) == [], "nothing is read", reads(t))
    check(allocated(t("disk")) <= before + 64 * K, "still holes",
          allocated(t("disk")) - before)
    # Block status is the source's, and then the store's.
    model = data[:50 * M + 10] + b"part" + data[50 * M + 14:]
    for _ in range(2):
        at = zeros = 0
        for n, flags in c.extents(0, 64 * M):
            if flags & nbd.STATE_ZERO:
                zeros += n
                check(not any(model[at:at + n]), "data is called zero", at)
            at += n
        check(zeros >= 48 * M, "zeros are told", zeros)
        check(c.read(9 * M, M) == data[9 * M:10 * M], "data")
    c.close()
    p.end()


def flags_count(t, flags, is_read):
    """A scripted server, to say what no file system says."""
    data = random.Random(9).randbytes(M) + bytes(2 * M) \
        + random.Random(10).randbytes(M)
    s = FakeSource(t("source.sock"), data)

    def extents(offset, length):
        end, found = offset + length, []
        for stop, f in ((M, 0), (3 * M, flags), (4 * M, 0)):
            if offset < stop and offset < end:
                found.append((min(stop, end) - offset, f))
                offset = min(stop, end)
        return found
    s.extents = extents
    p = t.plugin(t("disk"), "backing=" + s.uri)
    ctl = p.control()
    # After the identity.
    wait_for("connected", lambda: ctl.disk()["source"] == "connected")
    first = len(s.requests)
    ctl("block-allocate", device="")
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    p.end()
    check(t.read("disk") == data, "the store")
    asked = [r for r in s.requests[first:] if r.type == fakesource.READ
             and r.length > G and r.offset < 3 * M
             and M < r.offset + r.length]
    check(bool(asked) == is_read, "zeros are read: %s" % is_read, asked)
    check(allocated(t("disk")) <= 2 * M + 256 * K, "sparse",
          allocated(t("disk")))


def test_zeros_that_are_no_holes_are_not_read(t):
    flags_count(t, nbd.STATE_ZERO, False)


def test_holes_that_need_not_be_zeros_are_read(t):
    flags_count(t, nbd.STATE_HOLE, True)


def test_full_allocation_writes_no_zeros_it_read(t):
    image, data = sparse_image(t)
    s = serve(t, image)
    p = t.plugin(t("disk"), "backing=" + s.uri)
    ctl = p.control()
    ctl("block-allocate", device="", sparse=False)
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    p.end()
    inside(reads(t), data_extents(image), 4 * K)
    check(t.read("disk") == data, "the store")
    check(allocated(t("disk")) >= 64 * M, "all is allocated",
          allocated(t("disk")))


if __name__ == "__main__":
    faultlib.main()
