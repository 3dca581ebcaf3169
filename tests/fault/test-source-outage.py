#!/usr/bin/python3
"""The backing store is gone, or hangs, and comes back (G28, G33, I4).

Where something must not wait for it, timeout= is five minutes, so that what
does wait is seen to.  "Hangs" is SIGSTOP: connections stay open, and nothing
is answered.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import shutil
import subprocess
import time

import faultlib
from faultlib import (K, LONG, M, SOON, ControlError, Plugin,
                      check, fails, remove, wait_for, within)

G = 4096


def source(t, size=8 * M, delay=0):
    image, data = t.image("golden", size)
    return t.serve("source", "--filter=delay", "file", image,
                   "delay-read=%dms" % delay), data


def volume(t, s, *keys, name="plugin"):
    """fetch=4K: a read makes local what it covers, and no more."""
    return t.plugin(t("disk"), "backing=" + s.uri, "fetch=4K", *keys,
                    name=name)


def copy_slowly(ctl, **arguments):
    """A job that has begun, and does not come to its end for half a minute,
    however slow the machine is; what it has copied by now, at least."""
    some = 256 * K
    ctl("block-allocate", device="", speed=some, **arguments)
    wait_for("some is local", lambda: ctl.job()["processed"] >= some)
    return some


def disappear(s, how):
    s.kill() if how == "killed" else s.hang()


def come_back(s, how):
    s.start() if how == "killed" else s.resume()


def equals(t, model):
    """The store, byte for byte; only where it is known to be all local."""
    store = t.read("disk")
    check(len(store) == len(model), "the store's size", len(store))
    for at in range(0, len(model), G):
        check(store[at:at + G] == model[at:at + G], "differs at %d" % at)


def local_goes_on(t, how):
    s, data = source(t)
    p = volume(t, s, "timeout=" + LONG)
    ctl, model = p.control(), bytearray(data)
    one, other = p.client(), p.client()
    check(one.read(0, 64 * K) == data[:64 * K], "data")
    disappear(s, how)

    # Eight of a connection's sixteen workers wait.
    stuck = [one.start_read(M + i * 64 * K, 5000) for i in range(8)]
    part = one.start_write(2 * M + 100, b"part" * 100)
    model[2 * M + 100:2 * M + 500] = b"part" * 100

    at = 3 * M
    for c in (one, other):
        with within(SOON, "local work"):
            check(c.read(0, 64 * K) == model[:64 * K], "local data")
            c.write(5000, b"local, and not aligned")
            model[5000:5022] = b"local, and not aligned"
            # Absent, and whole granules.
            c.write(at, b"w" * 2 * G)
            model[at:at + 2 * G] = b"w" * 2 * G
            c.zero(at + 4 * G, 3 * G)
            model[at + 4 * G:at + 7 * G] = bytes(3 * G)
            c.trim(at + 8 * G, 2 * G)
            c.flush()
            c.write(at + 12 * G, b"f" * G, flags=faultlib.nbd.CMD_FLAG_FUA)
            model[at + 12 * G:at + 13 * G] = b"f" * G
            check(c.read(at, 2 * G) == b"w" * 2 * G, "what was written")
            check(c.read(at + 4 * G, 3 * G) == bytes(3 * G), "zeroed")
        trimmed = c.read(at + 8 * G, 2 * G)
        check(trimmed == bytes(2 * G), "trimmed, never seen before")
        model[at + 8 * G:at + 10 * G] = trimmed
        with within(SOON, "block status"):
            check(all(not flags & faultlib.nbd.STATE_ZERO
                      for _, flags in c.extents(5 * M, M)),
                  "what is not known is data")
        at += 64 * K
    # All of them: now that connection waits, and the others do not.
    stuck += [one.start_read(M + i * 64 * K, 5000) for i in range(8, 15)]
    with within(SOON, "the other connection"):
        check(other.read(0, 64 * K) == model[:64 * K], "local data")
        other.write(0, b"x" * 3 * G)
        other.flush()
    model[:3 * G] = b"x" * 3 * G

    reason = ctl.wait_event("SOURCE_LOST")["reason"]
    check(s.uri in reason, "the reason names it", reason)
    check(ctl.disk()["source"] == "lost", "source is lost")
    check(not any(one.is_done(x) for x in stuck + [part]),
          "what needs the source waits")

    come_back(s, how)
    with within(SOON, "after it is back"):
        for i, x in enumerate(stuck):
            check(one.finish(x) == data[M + i * 64 * K:][:5000], "data")
        one.finish(part)
    ctl.wait_event("SOURCE_BACK")
    check(ctl.disk()["source"] == "connected", "source is back")
    check(p.alive(), "alive")

    ctl("block-allocate", device="")
    ctl.wait_event("BLOCK_JOB_COMPLETED")
    check(one.read(0, len(model)) == model, "the disk")
    one.close(), other.close()
    p.end()
    equals(t, model)


def test_killed_source_stops_only_who_needs_it(t):
    local_goes_on(t, "killed")


def test_hung_source_stops_only_who_needs_it(t):
    local_goes_on(t, "hung")


def test_256_reads_that_wait_hold_up_nothing_local(t):
    """On one connection: with a worker for each that its client may send."""
    s, data = source(t, 20 * M)
    p = volume(t, s, "timeout=" + LONG, "-t272")
    c, model = p.client(), bytearray(data)
    other = p.client()
    check(c.read(0, 64 * K) == data[:64 * K], "data")
    s.hang()
    stuck = [c.start_read(M + i * 64 * K, 5000) for i in range(256)]
    reads = p.control().disk()["stats"]["guest-reads"]
    wait_for("all of them are in the server",
             lambda: p.control().disk()["stats"]["guest-reads"] > 256,
             state=lambda: reads)
    for who in (c, other):
        with within(SOON, "local work"):
            for i in range(50):
                check(who.read(i * 1000, 8000) == model[i * 1000:][:8000],
                      "local data")
            who.write(5000, b"local, and not aligned")
            model[5000:5022] = b"local, and not aligned"
            who.write(17 * M + 8 * G, b"w" * G)
            model[17 * M + 8 * G:17 * M + 9 * G] = b"w" * G
            who.zero(17 * M + 12 * G, G)
            model[17 * M + 12 * G:17 * M + 13 * G] = bytes(G)
            who.flush()
    check(not any(c.is_done(x) for x in stuck), "what needs the source waits")
    s.resume()
    for i, x in enumerate(stuck):
        check(c.finish(x) == data[M + i * 64 * K:][:5000], "data")
    check(c.read(0, len(model)) == model, "the disk")
    c.close(), other.close()
    p.end()


def test_whole_write_overtakes_a_part_that_waits(t):
    s, data = source(t)
    p = volume(t, s, "timeout=" + LONG)
    one, other, ctl = p.client(), p.client(), p.control()
    s.hang()
    for i, change in enumerate((lambda at: other.write(at, b"n" * G),
                                lambda at: other.zero(at, G),
                                lambda at: other.trim(at, G))):
        at = M + i * M
        writes = ctl.disk()["stats"]["guest-writes"]
        old = one.start_write(at + 10, b"old")
        wait_for("it is there first", lambda: ctl.disk()["stats"]
                 ["guest-writes"] > writes)
        time.sleep(0.2)     # and waits
        with within(SOON, "whole change"):
            change(at)
        with within(SOON, "the part that waited"):
            one.finish(old)
        check(one.read(at, G) == (b"n" * G if i == 0 else bytes(G)),
              "the later change stays")
    s.resume()
    check(other.read(M, G) == b"n" * G, "also when the source is back")
    check(other.read(M + G, G) == data[M + G:M + 2 * G], "the next granule")
    one.close(), other.close()
    p.end()


def job_waits(t, how):
    s, data = source(t)
    p = volume(t, s, "timeout=3s")
    ctl, c, model = p.control(), p.client(), bytearray(data)
    # So that it does not begin with waiting.
    wait_for("connected", lambda: ctl.disk()["source"] == "connected")
    c.write(7 * M, b"guest" * G)
    model[7 * M:7 * M + 5 * G] = b"guest" * G
    copy_slowly(ctl)
    disappear(s, how)
    check(ctl.wait_event("SOURCE_LOST")["device"] == "", "device")
    job = ctl.wait_status("waiting")
    check(job["job-type"] == "bounded" and not job["errno"], "job", job)
    check(job["total"] == job["processed"] + job["remaining"], "sum", job)
    with within(SOON, "local data meanwhile"):
        check(c.read(7 * M, 5 * G) == model[7 * M:7 * M + 5 * G], "data")
        c.write(6 * M, b"m" * G)
        c.flush()
    model[6 * M:6 * M + G] = b"m" * G
    local = ctl.disk()["local"]
    time.sleep(1)
    check(ctl.disk()["local"] == local, "nothing becomes local")
    ctl("block-job-set-speed", device="", speed=0)

    come_back(s, how)
    with within(SOON, "the job goes on"):
        ctl.wait_event("SOURCE_BACK")
        ctl.wait_status("running", "concluded")
    end = ctl.wait_event("BLOCK_JOB_COMPLETED")
    check("error" not in end, "no error", end)
    job = ctl.wait_status("concluded")
    check(job["result"] == "completed" and job["remaining"] == 0, "job", job)
    statuses = [e["data"]["status"] for e in ctl.events
                if e["event"] == "JOB_STATUS_CHANGE"]
    for before, after in (("created", "running"), ("running", "waiting"),
                          ("waiting", "running"), ("running", "concluded")):
        check((before, after) in zip(statuses, statuses[1:]),
              "%s, then %s" % (before, after), statuses)
    check(c.read(0, len(model)) == model, "the disk")
    c.close()
    p.end()
    equals(t, model)


def test_job_waits_for_a_killed_source(t):
    job_waits(t, "killed")


def test_job_waits_for_a_hung_source(t):
    job_waits(t, "hung")


def needs_it_no_more(t, how, length):
    """The guest writes what is left of a job's range, while it waits."""
    s, data = source(t)
    p = volume(t, s, "timeout=3s")
    ctl, c, model = p.control(), p.client(), bytearray(data)
    check(c.read(0, G) == data[:G], "data")
    copy_slowly(ctl, length=length)
    disappear(s, how)
    ctl("block-job-set-speed", device="", speed=0)
    ctl.wait_status("waiting")
    for at in range(0, length, M):
        c.write(at, b"w" * M)
    model[:length] = b"w" * length
    with within(SOON, "the job ends, although the source is away"):
        end = ctl.wait_event("BLOCK_JOB_COMPLETED")
    check("error" not in end, "completed", end)
    job = ctl.job()
    check(job["result"] == "completed" and job["remaining"] == 0, "job", job)
    if length == len(data):
        wait_for("the event", lambda: ctl.saw("DISK_LOCAL"))
    else:
        check(ctl.disk()["absent"] == len(data) - length, "no more than that",
              ctl.disk())
        come_back(s, how)
        ctl("block-allocate", device="")
        check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "all")
    c.close()
    p.end()
    equals(t, model)


def test_job_ends_without_its_source_when_all_is_local_killed(t):
    needs_it_no_more(t, "killed", 8 * M)


def test_job_ends_without_its_source_when_all_is_local_hung(t):
    needs_it_no_more(t, "hung", 8 * M)


def test_job_ends_without_its_source_when_its_range_is_local_killed(t):
    needs_it_no_more(t, "killed", 4 * M)


def test_job_ends_without_its_source_when_its_range_is_local_hung(t):
    needs_it_no_more(t, "hung", 4 * M)


def comes_and_goes(t, how):
    """Demand and a job, several outages in a row, with much in flight."""
    s, data = source(t, delay=100)
    p = volume(t, s, "timeout=60s" if how == "killed" else "timeout=15s")
    ctl, c = p.control(), p.client()
    ctl("block-allocate", device="", speed=4 * M)
    for i in range(3):
        reads = [c.start_read(8 * M - (8 * i + j + 1) * 64 * K, 64 * K)
                 for j in range(8)]
        disappear(s, how)
        if how == "killed":
            wait_for("lost", lambda: ctl.disk()["source"] == "lost")
        else:
            time.sleep(0.5)     # within its patience, and not always
        come_back(s, how)
        for j, x in enumerate(reads):
            at = 8 * M - (8 * i + j + 1) * 64 * K
            check(c.finish(x) == data[at:at + 64 * K], "data")
    ctl("block-job-set-speed", device="", speed=0)
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    c.close()
    p.end()
    equals(t, data)


def test_outages_in_a_row_killed(t):
    comes_and_goes(t, "killed")


def test_outages_in_a_row_hung(t):
    comes_and_goes(t, "hung")


def demand_times_out(t, how):
    s, data = source(t)
    p = volume(t, s, "timeout=4s")
    c, ctl = p.client(), p.control()
    check(c.read(0, G) == data[:G], "data")
    disappear(s, how)
    start = time.monotonic()
    with within(SOON, "a read, a part of a write, a cache"):
        read = c.start_read(M, 3 * G)
        write = c.start_write(2 * M + 1, b"lost")
        cache = c.start_cache(3 * M, G)
        # Both local and absent: no half answers.
        both = c.start_read(0, 2 * G)
        for x in (read, write, cache, both):
            fails("EIO", c.finish, x)
    check(time.monotonic() - start > 3.9, "it waited for timeout=")
    check(c.read(0, G) == data[:G], "local data")
    c.write(4 * M, b"w" * G)
    come_back(s, how)
    wait_for("it is back", lambda: ctl.disk()["source"] == "connected")
    # Nothing sticks.
    check(c.read(M, 3 * G) == data[M:M + 3 * G], "data")
    check(c.read(2 * M, G) == data[2 * M:2 * M + G],
          "the write that failed changed nothing")
    c.write(2 * M + 1, b"won")
    check(c.read(2 * M, G) == data[2 * M:][:1] + b"won"
          + data[2 * M + 4:2 * M + G], "the write works now")
    c.cache(3 * M, G)
    check(c.read(3 * M, G) == data[3 * M:3 * M + G], "data")
    check(c.read(0, 2 * G) == data[:2 * G], "data")
    c.close()
    p.end()


def test_timeout_is_eio_and_does_not_stick_killed(t):
    demand_times_out(t, "killed")


def test_timeout_is_eio_and_does_not_stick_hung(t):
    demand_times_out(t, "hung")


def test_retry_ends_a_job_and_its_record_stays(t):
    s, data = source(t)
    p = volume(t, s, "timeout=3s")
    ctl = p.control()
    some = copy_slowly(ctl, retry=500)
    s.kill()
    end = ctl.wait_event("BLOCK_JOB_COMPLETED")
    check("error" in end and end["offset"] < end["len"], "it failed", end)
    errors = [e["data"] for e in ctl.events if e["event"] == "BLOCK_JOB_ERROR"]
    check([(e["operation"], e["action"]) for e in errors]
          == [("read", "report")], "events", errors)

    def is_right(job):
        check(job["status"] == "concluded" and job["result"] == "failed"
              and job["job-type"] == "failed", "it failed", job)
        check(job["errno-name"] == "ETIMEDOUT" and "lost" in job["error"]
              and s.uri in job["error"], "the error says why", job)
        check(some <= job["processed"] < 8 * M
              and job["processed"] == ctl.disk()["local"]
              and job["total"] == job["processed"] + job["remaining"],
              "it says how much is local", job)
        return job
    job = is_right(ctl.job())
    p.end()
    p.start()
    ctl = p.control()
    check(is_right(ctl.job()) == job, "the record is the same after a restart",
          ctl.job())
    # What is local and what is not.
    c, local = p.client(), 0
    for r in ctl("query-allocation-map", device="")["regions"]:
        check(c.read(r["offset"], r["length"])
              == data[r["offset"]:r["offset"] + r["length"]], "local data")
        local += r["length"]
    check(local == job["processed"], "the map agrees", local)
    s.start()
    wait_for("it is back", lambda: ctl.disk()["source"] == "connected")
    ctl("block-allocate", device="")
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    c.close()
    p.end()
    equals(t, data)


def test_retry_of_the_command_line(t):
    def command(*args):
        subprocess.run(["backfill", "-c", p.control_path, "allocate", "--quiet",
                        *args], check=True, stdin=subprocess.DEVNULL)

    s, data = source(t, 2 * M)
    volume(t, s).end()
    s.kill()
    for retry in ("0", "700ms"):
        p = volume(t, s, "allocate=on", "retry=" + retry, name="p" + retry)
        ctl = p.control()
        job = ctl.wait_status("concluded")
        check(job["result"] == "failed" and job["processed"] == 0, "job", job)
        ctl("block-job-dismiss", device="")
        check(ctl.job() is None, "dismissed")
        p.end()
    # For ever is the default, for both ways to start one; 0 is no time at all,
    # for both, too, and for the command.
    p = volume(t, s, "allocate=on")
    ctl = p.control()
    ctl.wait_status("waiting")
    time.sleep(1.5)
    check(ctl.job()["status"] == "waiting", "it waits", ctl.job())
    ctl("block-job-cancel", device="")
    for start in (lambda: ctl("block-allocate", device="", retry=0),
                  lambda: command("--retry", "0"),
                  lambda: command("--retry", "300ms")):
        start()
        job = ctl.wait_status("concluded")
        check(job["result"] == "failed", "it does not wait", job)
    command("--retry", "forever")
    time.sleep(1)
    check(ctl.job()["status"] == "waiting", "for ever by word", ctl.job())
    s.start()
    number = ctl.job()["number"]
    while (end := ctl.wait_event("BLOCK_JOB_COMPLETED"))["number"] != number:
        pass
    check("error" not in end, "completed", end)
    p.end()
    equals(t, data)


def starts_without(t, how):
    s, data = source(t)
    p = volume(t, s, "timeout=" + LONG)
    c, model = p.client(), bytearray(data)
    c.read(0, M)
    c.write(M, b"unflushed" * G)
    model[M:M + 9 * G] = b"unflushed" * G
    # The answer to a read does not wait until it is local.
    ctl = p.control()
    wait_for("local data", lambda: ctl.disk()["local"] >= M + 9 * G)
    p.kill()
    disappear(s, how)

    # Only the store is named: all else is in the sidecar.
    p = Plugin(t, "again", t("disk"))
    with within(SOON, "start without it"):
        p.start()
    c, ctl = p.client(), p.control()
    with within(SOON, "local data"):
        check(c.read(0, M + 9 * G) == model[:M + 9 * G], "data")
        c.write(2 * M, b"new" * G)
        c.flush()
    model[2 * M:2 * M + 3 * G] = b"new" * G
    check(ctl.disk()["source"] == "lost" or how == "hung", "source is lost")
    with within(SOON, "block status, of which nobody knows"):
        check(all(not flags & faultlib.nbd.STATE_ZERO
                  for _, flags in c.extents(4 * M, M)), "it counts as data")
    stuck = c.start_read(3 * M, 10000)
    time.sleep(0.5)
    check(not c.is_done(stuck), "absent data is waited for")
    come_back(s, how)
    with within(SOON, "it is picked up"):
        check(c.finish(stuck) == data[3 * M:3 * M + 10000], "data")
    check(ctl.disk()["source"] == "connected", "connected")
    check(c.read(0, len(model)) == model, "the disk")
    c.close()
    p.end()


def test_starts_with_its_source_down(t):
    starts_without(t, "killed")


def test_starts_with_its_source_hung(t):
    starts_without(t, "hung")


def test_new_volume_needs_its_source_and_leaves_nothing(t):
    s, _ = source(t, M)
    p = Plugin(t, "plugin", t("disk"), "backing=" + s.uri, "timeout=1s")
    left = sorted(os.listdir(t.path) + ["plugin.log"])
    for how in ("hung", "killed"):
        disappear(s, how)
        if how == "killed":
            left.remove("source.sock")
            remove(s.socket)
        with within(SOON, "the error"):
            said = p.fails()
        check(s.uri in said and "backing=" in said, "it names it", said)
        check(sorted(os.listdir(t.path)) == left, "nothing is left",
              os.listdir(t.path))
        check(os.listdir(t("run")) == [], "nothing is left",
              os.listdir(t("run")))
        if how == "hung":
            s.resume()
    s.start()
    p.start().end()


def test_abort_while_the_source_hangs(t):
    s, data = source(t)
    p = volume(t, s, "timeout=" + LONG)
    ctl, c = p.control(), p.client()
    copy_slowly(ctl, length=6 * M)
    s.hang()
    ctl("block-job-set-speed", device="", speed=0)
    # Until its requests are all out.
    local = [0]

    def quiet():
        local.append(ctl.disk()["local"])
        time.sleep(0.3)
        return local[-1] == ctl.disk()["local"]
    wait_for("nothing comes any more", quiet)
    check(ctl.job()["status"] == "running", "it runs", ctl.job())
    with within(SOON, "abort (2 s on a quiet machine)"):
        ctl("block-job-cancel", device="")
    job = ctl.wait_status("concluded")
    check(job["result"] == "cancelled" and job["errno-name"] == "ECANCELED",
          "cancelled", job)
    check(job["processed"] == local[-1]
          and job["total"] == job["processed"] + job["remaining"],
          "what was copied stays", job)
    ctl.wait_event("BLOCK_JOB_CANCELLED")
    # Now the answers come, to nobody.
    s.resume()
    check(c.read(7 * M, G) == data[7 * M:][:G], "demand goes on")
    wait_for("that is kept", lambda: ctl.disk()["local"] >= local[-1] + G)
    time.sleep(1)
    check(ctl.disk()["local"] == local[-1] + G, "nothing more is kept",
          (ctl.disk()["local"], local[-1]))
    # No job, so no abort; a new one may begin.
    try:
        ctl("block-job-cancel", device="")
        check(False, "there is no job to abort")
    except ControlError:
        pass
    ctl("block-allocate", device="")
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    c.close()
    p.end()
    equals(t, data)


def ends_while_hung(t, how_it_ends):
    s, data = source(t)
    p = volume(t, s, "timeout=" + LONG)
    ctl, c, idle, model = p.control(), p.client(), p.client(), bytearray(data)
    c.read(0, 64 * K)
    copy_slowly(ctl)
    s.hang()
    stuck = [c.start_read(6 * M + i * M // 4, 3 * G) for i in range(4)]
    stuck.append(c.start_write(7 * M + 5, b"needs the rest"))
    c.write(5 * M, b"acknowledged" * G)
    model[5 * M:5 * M + 12 * G] = b"acknowledged" * G
    job = ctl.job()

    p.process.terminate()
    with within(SOON, "the volume is let go (10 s on a quiet machine)"):
        for x in stuck:
            fails("ESHUTDOWN", c.finish, x)
        wait_for("it is let go",
                 lambda: not any(f.endswith((".volume", ".work"))
                                 for _, _, fs in os.walk(t("run"))
                                 for f in fs))
    check(p.alive(), "nbdkit waits for its clients")
    fails("ESHUTDOWN", idle.write, 0, b"x" * G)
    if how_it_ends == "clients leave":
        c.close(), idle.close()
        check(p.wait() == 0, "exit status", p.process.returncode)
    else:
        p.kill()
    shutil.rmtree(t("run"))
    os.mkdir(t("run"))
    # A volume that is not clean would be refused without its working map.
    p = volume(t, s, name="again")
    c, ctl = p.client(), p.control()
    check(c.read(5 * M, 12 * G) == b"acknowledged" * G, "what was written")
    again = ctl.job()
    check(again["status"] != "concluded"
          and again["processed"] >= job["processed"]
          and again["time-elapsed"] >= job["time-elapsed"]
          and again["range-length"] == job["range-length"],
          "the job is still there", (job, again))
    # Not go_on: this nbdkit fails an assertion when it finds clients gone.
    s.kill()
    s.start()
    ctl("block-job-set-speed", device="", speed=0)
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    check(c.read(0, len(model)) == model, "the disk")
    c.close()
    p.end()
    equals(t, model)


def test_sigterm_while_the_source_hangs(t):
    ends_while_hung(t, "clients leave")


def test_sigkill_after_the_gate_is_clean(t):
    ends_while_hung(t, "SIGKILL")


def test_quit_while_the_source_is_down(t):
    """As test_sigterm_..., over the control socket, with nobody there."""
    s, data = source(t, 2 * M)
    p = volume(t, s, "timeout=" + LONG, "allocate=on", "speed=256K")
    ctl, c = p.control(), p.client()
    c.write(M, b"w" * G)
    s.kill()
    stuck = c.start_read(M + G, G)
    ctl.wait_event("SOURCE_LOST")
    with within(SOON, "quit"):
        ctl("quit")
        fails("ESHUTDOWN", c.finish, stuck)
        c.close()
        check(p.wait() == 0, "exit status", p.process.returncode)
    s.start()
    p = volume(t, s, "speed=0", name="again")
    ctl = p.control()
    ctl("block-job-set-speed", device="", speed=0)
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    p.end()
    equals(t, data[:M] + b"w" * G + data[M + G:])


if __name__ == "__main__":
    faultlib.main()
