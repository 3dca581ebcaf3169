#!/usr/bin/python3
"""A backing store that answers reads with errors (G26, G5).

Some errors come from a scripted server, which fails exact ranges with any
error number, some from nbdkit's error filter.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import errno
import os
import threading
import time

import faultlib
import fakesource
from fakesource import FakeSource
from faultlib import K, LONG, M, SOON, check, fails, nbd, wait_for, within

ERRORS = ["EIO", "EPERM", "ENOMEM", "EINVAL", "ENOSPC", "EOVERFLOW",
          "ENOTSUP"]


class Bad:
    """A scripted server with ranges that cannot be read."""

    def __init__(self, t, size=8 * M, latency=0):
        self.latency = latency
        _, self.data = t.image("golden", size)
        self.server = FakeSource(t("source.sock"), self.data)
        self.server.fault = self.fault
        self.uri = self.server.uri
        self.ranges = []    # (offset, end, error)

    def fault(self, conn, r):
        if r.type != fakesource.READ:
            return False
        time.sleep(self.latency)
        for start, end, error in self.ranges:
            if start < r.offset + r.length and r.offset < end:
                conn.send_error(r, getattr(errno, error))
                return True
        return False


def only_who_needs_them(t, g, *keys):
    """Ranges of four granules g, one for each error, far apart; reads of
    others, also right beside them, do not see it."""
    bad = Bad(t)
    data, model = bad.data, bytearray(bad.data)
    starts = {e: M + i * 768 * K for i, e in enumerate(ERRORS)}
    p = t.plugin(t("disk"), "backing=" + bad.uri, "timeout=" + LONG,
                 "granule=%d" % g, *keys)
    c = p.client()
    # The source is known once this is read.
    check(c.read(0, g) == data[:g], "data")
    bad.ranges = [(at, at + 4 * g, e) for e, at in starts.items()]
    with within(SOON, "all errors"):
        for e, at in starts.items():
            end = at + 4 * g
            for _ in range(2):
                fails("EIO", c.read, at, 4 * g)
                fails("EIO", c.read, at + g, 1)
            check(c.read(at - g, g) == data[at - g:at], "before it")
            check(c.read(end, g) == data[end:end + g], "after it")
            fails("EIO", c.read, at - 10, 20)
            fails("EIO", c.read, end - 10, 20)
            fails("EIO", c.cache, at, g)
            check(not any(f & nbd.STATE_ZERO
                          for _, f in c.extents(at, 4 * g)), "it is data")

            # A part of a granule needs the rest.
            fails("EIO", c.write, at + 100, b"part")
            fails("EIO", c.write, at + g - 4, b"two granules")
            fails("EIO", c.write, at, b"x" * (g - 1))
            fails("EIO", c.write, at + 1, b"x" * (g - 1))
            fails("EIO", c.write, at + 5, b"x",
                  flags=nbd.CMD_FLAG_FUA)
            fails("EIO", c.zero, at + 512, 100)
            fails("ENOTSUP", c.zero, at + 512, 100,
                  flags=nbd.CMD_FLAG_FAST_ZERO)
            # What is whole in it may be done or not: a failed write.
            fails("EIO", c.write, at - g, b"w" * (g + 10))
            # A trim leaves what it does not cover.
            c.trim(at + 100, 100)
            # None of it was done: they are still absent.
            for b in range(4):
                fails("EIO", c.read, at + b * g, g)

            # Whole granules need nothing.
            c.write(at + g, b"w" * g)
            c.zero(at + 2 * g, g)
            check(c.read(at + g, 2 * g) == b"w" * g + bytes(g),
                  "written over it")
            c.write(at + 2 * g + 1, b"part of a local one")
            model[at + g:at + 3 * g] = b"w" * g + bytes(g)
            model[at + 2 * g + 1:at + 2 * g + 20] = b"part of a local one"
            # Edges that can be read, with all that cannot inside.
            c.write(at - 5, b"e" * (4 * g + 10))
            model[at - 5:end + 5] = b"e" * (4 * g + 10)
            before = c.read(at - g, g)
            check(before[:-5] in (data[at - g:at - 5], b"w" * (g - 5))
                  and before[-5:] == b"e" * 5, "old or new")
            model[at - g:at] = before
            check(c.read(at - g, 6 * g) == model[at - g:at + 5 * g], "all")
    bad.ranges = []
    check(c.read(0, len(data)) == model, "the disk, once all can be read")
    c.flush()
    c.close()
    p.end()


def test_errors_of_granules_4k(t):
    only_who_needs_them(t, 4 * K, "fetch=4K")


def test_errors_beside_what_is_read_ahead(t):
    only_who_needs_them(t, 4 * K, "fetch=1M")


def test_errors_of_granules_64k(t):
    only_who_needs_them(t, 64 * K, "fetch=64K")


def test_errors_of_granules_512(t):
    only_who_needs_them(t, 512)


def test_errors_do_not_spread_to_those_who_joined(t):
    """A read that finds its bytes on their way with others that are bad."""
    bad = Bad(t, latency=0.02)
    p = t.plugin(t("disk"), "backing=" + bad.uri)
    c, ctl, g = p.client(), p.control(), 4 * K
    check(c.read(0, g) == bad.data[:g], "data")
    lost = [M + 256 * K, 5 * M + 300 * K]
    bad.ranges = [(at, at + 1, "EIO") for at in lost]
    before = ctl.disk()["stats"]
    for start in (M, 5 * M):
        for at in range(start, start + M, 128 * K):
            # The first is a miss, and the others are in what it widens to.
            reads = [(x, c.start_read(x, g))
                     for x in range(at, at + 128 * K, 8 * K)]
            for x, pending in reads:
                if x in lost:
                    fails("EIO", c.finish, pending)
                else:
                    check(c.finish(pending) == bad.data[x:x + g], "data at %d"
                          % x)
    check(ctl.disk()["stats"]["ahead-fetches"] > before["ahead-fetches"],
          "it was read ahead")
    c.close()
    p.end()


def test_part_of_a_write_that_fails_changes_nothing(t):
    """Also at the disk's end, and with several at once."""
    bad = Bad(t, 2 * M + 1000)
    data, g, size = bad.data, 4 * K, 2 * M + 1000
    p = t.plugin(t("disk"), "backing=" + bad.uri, "fetch=4K")
    c = p.client()
    check(c.read(0, g) == data[:g], "data")
    bad.ranges = [(M, M + g, "EIO"), (2 * M, size, "EIO")]
    several = [c.start_write(M + i * 100, b"n" * 100) for i in range(8)]
    several.append(c.start_zero(M + 1000, 100))
    for x in several:
        fails("EIO", c.finish, x)
    fails("EIO", c.write, size - 10, b"0123456789")
    fails("EIO", c.zero, 2 * M + 1, 999)
    store = t.read("disk")
    check(not any(store[M:M + g]) and not any(store[2 * M:]),
          "the store holds nothing of it")
    check(c.read(M - g, g) == data[M - g:M], "beside it")
    bad.ranges = []
    check(c.read(M, g) == data[M:M + g], "the granule is as it was")
    check(c.read(2 * M, 1000) == data[2 * M:], "the last is as it was")
    c.write(size - 10, b"0123456789")
    bad.ranges = [(0, size, "EIO")]
    # The last granule is whole if what there is of it is written.
    check(c.read(2 * M, 1000) == data[2 * M:-10] + b"0123456789", "the last")
    c.close()
    p.end()


def test_last_granule_is_whole_without_its_tail(t):
    bad = Bad(t, M + 1000)
    p = t.plugin(t("disk"), "backing=" + bad.uri, "fetch=4K")
    c = p.client()
    check(c.read(0, 4 * K) == bad.data[:4 * K], "data")
    bad.ranges = [(M - 4 * K, M + 1000, "EIO")]
    c.write(M, b"t" * 1000)
    check(c.read(M, 1000) == b"t" * 1000, "the last one")
    fails("EIO", c.read, M - 1, 2)
    c.close()
    p.end()


def test_error_filter(t):
    """nbdkit's own errors, switched on and off by a file."""
    image, data = t.image("golden", 4 * M)
    trigger = t("trigger")
    for i, e in enumerate(("EIO", "EPERM", "ENOMEM", "EINVAL", "ENOSPC")):
        s = t.serve(e, "--filter=error", "file", image,
                    "error=" + e, "error-pread-rate=100%",
                    "error-extents-rate=100%",
                    "error-file=" + trigger)
        p = t.plugin(t(e + ".img"), "backing=" + s.uri, "fetch=4K",
                     name="p" + e)
        c, ctl = p.client(), p.control()
        check(c.read(0, 64 * K) == data[:64 * K], "data")
        with open(trigger, "w"):
            pass
        for _ in range(3):
            fails("EIO", c.read, M, 10000)
            fails("EIO", c.write, M + 1, b"part")
        check(c.read(0, 64 * K) == data[:64 * K], "local data")
        c.write(2 * M, b"w" * 4 * K)
        c.zero(2 * M + 4 * K, 4 * K)
        check(c.read(2 * M, 8 * K) == b"w" * 4 * K + bytes(4 * K), "written")
        check(all(not f & nbd.STATE_ZERO for _, f in c.extents(3 * M, M)),
              "what it cannot tell is data")
        os.unlink(trigger)
        check(c.read(M, 10000) == data[M:M + 10000], "at once")
        c.write(M + 1, b"part")
        check(ctl.disk()["source"] == "connected"
              and ctl.saw("SOURCE_LOST") == 0, "it was never lost")
        c.close()
        p.end()
        s.end()


def test_server_that_says_it_is_shutting_down(t):
    """That is the connection's end, not the read's: it is asked again."""
    image, data = t.image("golden", 4 * M)
    trigger = t("trigger")
    s = t.serve("source", "--filter=error", "file", image, "error=ESHUTDOWN",
                "error-pread-rate=100%", "error-file=" + trigger)
    p = t.plugin(t("disk"), "backing=" + s.uri, "fetch=4K", "timeout=2s")
    c, ctl = p.client(), p.control()
    check(c.read(0, 4 * K) == data[:4 * K], "data")
    with open(trigger, "w"):
        pass
    fails("EIO", c.read, M, 4 * K)
    check(ctl.wait_event("SOURCE_LOST")["reason"].endswith("shutting down"),
          "the reason", ctl.events)
    c.write(0, b"w" * 4 * K)
    os.unlink(trigger)
    ctl.wait_event("SOURCE_BACK")
    check(c.read(M, 4 * K) == data[M:M + 4 * K], "data")
    c.close()
    p.end()


def test_errors_that_pass_do_not_end_a_job(t):
    """Twice for each 256 KiB; the guest sees them, the job tries again."""
    bad = Bad(t)
    count = {}

    def fault(conn, r):
        zone = r.offset // (256 * K)
        if r.type != fakesource.READ or count.get(zone, 0) >= 2:
            return False
        count[zone] = count.get(zone, 0) + 1
        conn.send_error(r, errno.EIO)
        return True
    p = t.plugin(t("disk"), "backing=" + bad.uri, "fetch=4K")
    c, ctl = p.client(), p.control()
    bad.server.fault = fault
    for _ in range(2):
        fails("EIO", c.read, 7 * M, 4 * K)
    check(c.read(7 * M, 4 * K) == bad.data[7 * M:][:4 * K], "the third time")
    ctl("block-allocate", device="")
    end = ctl.wait_event("BLOCK_JOB_COMPLETED")
    check("error" not in end, "completed", end)
    check(ctl.saw("BLOCK_JOB_ERROR") == 0, "no error is told of")
    check(sum(count.values()) >= 16, "there were errors", count)
    c.close()
    p.end()
    check(t.read("disk") == bad.data, "the store")


def test_job_reports_the_first_failed_offset(t):
    bad = Bad(t)
    at = 5 * M + 12 * K
    bad.ranges = [(at + 100, at + 101, "EIO"), (7 * M, 7 * M + 1, "EPERM")]
    p = t.plugin(t("disk"), "backing=" + bad.uri)
    c, ctl = p.client(), p.control()
    ctl("block-allocate", device="")
    end = ctl.wait_event("BLOCK_JOB_COMPLETED")
    check("Input/output error" in end["error"], "the error", end)
    errors = [e["data"] for e in ctl.events if e["event"] == "BLOCK_JOB_ERROR"]
    check(errors == [{"device": "", "operation": "read", "action": "report",
                      "number": 1}],
          "events", errors)

    def is_right(job):
        check(job["result"] == "failed" and job["errno-name"] == "EIO"
              and job["failed-offset"] == at and str(at) in job["error"]
              and job["io-status"] == "failed", "the job", job)
        check(job["processed"] + job["remaining"] == job["total"] == 8 * M
              and job["processed"] == ctl.disk()["local"] >= at,
              "how much is local", job)
        return job
    job = is_right(ctl.job())
    # All before it is there; it is not the guest's trouble.
    regions = ctl("query-allocation-map", device="")["regions"]
    check(regions[0] == {"offset": 0, "length": at}, "the map", regions)
    fails("EIO", c.read, at, 1)
    check(c.read(at + 4 * K, 4 * K) == bad.data[at + 4 * K:][:4 * K],
          "the next one")
    c.close()
    p.end()
    p.start()
    ctl, c = p.control(), p.client()
    again = ctl.job()
    check({k: again[k] for k in again if k not in ("offset", "processed",
                                                   "remaining")}
          == {k: job[k] for k in job if k not in ("offset", "processed",
                                                  "remaining")},
          "the record stays", again)
    # What the guest writes over, a job does not need to read.
    c.write(at, b"w" * 4 * K)
    bad.ranges = bad.ranges[1:]
    ctl("block-allocate", device="")
    ctl.wait_event("BLOCK_JOB_COMPLETED")
    check(ctl.job()["failed-offset"] == 7 * M, "the next one", ctl.job())
    bad.ranges = []
    ctl("block-allocate", device="")
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    c.close()
    p.end()
    check(t.read("disk") == bad.data[:at] + b"w" * 4 * K
          + bad.data[at + 4 * K:], "the store")


def test_job_gives_up_where_answers_take_time(t):
    """All that is tried again is sent before the first error comes."""
    bad = Bad(t, latency=0.02)
    p = t.plugin(t("disk"), "backing=" + bad.uri)
    c, ctl = p.client(), p.control()
    check(c.read(0, 4 * K) == bad.data[:4 * K], "data")
    bad.ranges = [(at, at + 1, "EIO") for at in (2 * M, 3 * M + 8 * K)]
    for on_error in ("report", "skip"):
        at = bad.ranges[0][0]
        ctl("block-allocate", device="", on_error=on_error)
        check("error" in ctl.wait_event("BLOCK_JOB_COMPLETED"), "it failed")
        job = ctl.job()
        check(job["failed-offset"] == at and job["errno-name"] == "EIO",
              "the job", job)
        bad.ranges = bad.ranges[1:]
    check(job["remaining"] == 4 * K, "all else is local", job)
    c.close()
    p.end()


def test_job_skips_what_cannot_be_read(t):
    bad = Bad(t)
    g = 4 * K
    lost = [M, 3 * M + 5 * g, 3 * M + 6 * g, 3 * M + 7 * g, 8 * M - g]
    p = t.plugin(t("disk"), "backing=" + bad.uri)
    c, ctl = p.client(), p.control()
    check(c.read(0, g) == bad.data[:g], "data")
    bad.ranges = [(at, at + g, "EIO") for at in lost]
    ctl("block-allocate", device="", on_error="skip", speed=4 * M)
    # The guest writes over one that was given up.
    ctl.wait_event("BLOCK_JOB_ERROR")
    check(ctl.job()["failed-ranges"] >= 1, "one is skipped")
    c.write(M, b"w" * g)
    ctl("block-job-set-speed", device="", speed=0)
    end = ctl.wait_event("BLOCK_JOB_COMPLETED")
    check("error" in end, "it failed", end)
    errors = [e["data"]["action"] for e in ctl.events
              if e["event"] == "BLOCK_JOB_ERROR"]
    check(errors == ["ignore"] * 5, "events", errors)
    job = ctl.job()
    check(job["result"] == "failed" and job["errno-name"] == "EIO"
          and job["failed-ranges"] == 4 and job["failed-offset"] == lost[1]
          and job["on-error"] == "skip", "the job", job)
    check(job["remaining"] == 4 * g, "all else is local", job)
    regions = ctl("query-allocation-map", device="", states=True)["regions"]
    absent = [(r["offset"], r["length"]) for r in regions
              if r["state"] == "absent"]
    check(absent == [(lost[1], 3 * g), (lost[4], g)], "the map", absent)
    fails("EIO", c.read, lost[1], g)
    check(c.read(0, lost[1]) == bad.data[:M] + b"w" * g
          + bad.data[M + g:lost[1]], "before it")
    # Again, and now they can be read.
    bad.ranges = []
    ctl("block-allocate", device="", on_error="skip")
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    check(ctl.job()["failed-ranges"] == 0, "none failed")
    c.close()
    p.end()
    check(t.read("disk") == bad.data[:M] + b"w" * g + bad.data[M + g:],
          "the store")


def test_what_is_behind_a_skipped_range_is_waited_for(t):
    """A guest's read is on its way there when the job has asked for all:
    only what was skipped may be absent at its end."""
    bad = Bad(t, 2 * M)
    lost, held = M, threading.Event()
    asked = threading.Event()

    def fault(conn, r):
        if r.type == fakesource.READ and r.length == 16 * K \
                and r.offset == lost + 4 * K:
            asked.set()
            threading.Thread(target=later, args=(conn, r), daemon=True).start()
            return True
        return bad.fault(conn, r)

    def later(conn, r):
        held.wait(faultlib.LIMIT)
        conn.answer(r)
    p = t.plugin(t("disk"), "backing=" + bad.uri, "fetch=4K")
    c, ctl = p.client(), p.control()
    check(c.read(0, 4 * K) == bad.data[:4 * K], "data")
    bad.ranges = [(lost, lost + 1, "EIO")]
    bad.server.fault = fault
    reading = c.start_read(lost + 4 * K, 16 * K)
    check(asked.wait(faultlib.LIMIT), "it is on its way")
    ctl("block-allocate", device="", on_error="skip")
    event = ctl.wait_event("BLOCK_JOB_ERROR")
    check(event["action"] == "ignore", "skipped", event)
    wait_for("all else is local", lambda: ctl.job()["remaining"] == 20 * K)
    time.sleep(0.3)
    check(ctl.saw("BLOCK_JOB_COMPLETED") == 0, "it waits", ctl.job())
    held.set()
    check(c.finish(reading) == bad.data[lost + 4 * K:lost + 20 * K], "data")
    ctl.wait_event("BLOCK_JOB_COMPLETED")
    job = ctl.job()
    check(job["failed-ranges"] == 1 and job["remaining"] == 4 * K, "the job",
          job)
    c.close()
    p.end()


def test_job_of_the_command_line_skips(t):
    bad = Bad(t, 2 * M)
    p = t.plugin(t("disk"), "backing=" + bad.uri)
    p.end()
    bad.ranges = [(M, M + 8 * K, "EIO")]
    p = t.plugin(t("disk"), "allocate=512K+1M", "on-error=skip")
    ctl = p.control()
    job = ctl.wait_status("concluded")
    check(job["total"] == M and job["remaining"] == 8 * K
          and job["failed-ranges"] == 2 and job["failed-offset"] == M,
          "the job", job)
    check(ctl.disk()["local"] == M - 8 * K, "no more than the range")
    p.end()


if __name__ == "__main__":
    faultlib.main()
