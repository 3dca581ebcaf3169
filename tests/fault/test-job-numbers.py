#!/usr/bin/python3
"""Jobs have numbers: who started one, or waits for one, is told about that.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import ctypes
import os
import re
import threading
import time

import faultlib
from faultlib import ControlError, check, wait_for

M = 1 << 20
LIB = os.path.join(os.environ.get("TOP_BUILDDIR", "."),
                   "lib/.libs/libbackfill.so.0")


def refused(ctl, command, **arguments):
    try:
        ctl(command, **arguments)
    except ControlError:
        return
    check(False, command + " is refused", arguments)


class Library:
    """Blocking calls of libbackfill."""

    def __init__(self, path):
        self.lib = ctypes.CDLL(LIB)
        u64, ptr, text = ctypes.c_uint64, ctypes.c_void_p, ctypes.c_char_p
        self.lib.backfill_connect.restype = ptr
        self.lib.backfill_get_error.restype = text
        self.lib.backfill_block_allocate.argtypes = [ptr, text, u64, u64,
                                                     ctypes.c_uint]
        self.lib.backfill_job_wait.argtypes = [ptr, text, u64, ctypes.c_uint,
                                               ptr, ptr]
        self.lib.backfill_close.argtypes = [ptr]
        self.h = self.lib.backfill_connect(path.encode())
        check(self.h, "the library connects")

    def result(self, r):
        return "" if r == 0 else self.lib.backfill_get_error().decode()

    def allocate(self, offset, length):
        return self.result(self.lib.backfill_block_allocate(
            self.h, b"", offset, length, 2))

    def wait(self, number):
        return self.result(self.lib.backfill_job_wait(
            self.h, b"", number, 60000, None, None))


def test_a_call_is_about_its_own_job(t):
    """Another job is started and aborted the moment that it has ended."""
    t.image("golden.img", 64 * M)
    golden = t.serve("golden", "file", t("golden.img"))
    disk = t.plugin(t("disk.img"), "backing=" + golden.uri)
    ctl = disk.control()
    lib = Library(disk.control_path)
    answers = []
    for i in range(20):
        call = threading.Thread(
            target=lambda i=i: answers.append(lib.allocate(i * M, M)))
        ready = ctl.job()
        call.start()
        wait_for("the call has begun", lambda: (ctl.job() or {}).get("number")
                                       != (ready or {}).get("number"))
        while True:
            try:
                number = ctl("block-allocate", device="", offset=32 * M,
                             speed=65536)["number"]
                break
            except ControlError as e:
                check("already has a job" in str(e), "busy", e)
        time.sleep(0.05)
        ctl("block-job-cancel", device="", number=number)
        call.join(60)
    check(answers == [""] * 20, "each call has its own result", answers)


def test_numbers_go_on(t):
    t.image("golden.img", 4 * M)
    golden = t.serve("golden", "file", t("golden.img"))
    disk = t.plugin(t("disk.img"), "backing=" + golden.uri)
    ctl = disk.control()
    lib = Library(disk.control_path)

    check(ctl.job() is None, "no job yet")
    refused(ctl, "query-block-jobs", device="", number=1)
    check(ctl("block-allocate", device="", length=M)["number"] == 1, "first")
    check(lib.wait(1) == "", "the first completes")
    check(ctl("block-allocate", device="", speed=1000)["number"] == 2, "second")

    # The first is not the disk's job any more, the third not yet.
    for verb in ("block-job-pause", "block-job-resume", "block-job-cancel",
                 "block-job-dismiss"):
        refused(ctl, verb, device="", number=1)
        refused(ctl, verb, device="", number=3)
    refused(ctl, "block-job-set-speed", device="", number=1,
          speed=1)
    check(ctl.job()["status"] in ("created", "running"), "untouched", ctl.job())
    check(ctl.job()["speed"] == 1000, "its speed, too")
    # But what became of it is still known.
    first = ctl("query-block-jobs", device="", number=1)
    check([(j["number"], j["result"]) for j in first] == [(1, "completed")],
          "the first by its number", first)
    check(lib.wait(1) == "", "a waiter has it, too")

    ctl("block-job-pause", device="", number=2)
    check(ctl.job()["status"] == "paused", "the second is paused")
    ctl("block-job-cancel", device="", number=2)
    check(wait_for("ended", lambda: ctl.job()["result"] == "cancelled"), "end")
    ctl("block-job-dismiss", device="", number=2)
    check(ctl.job() is None, "forgotten")
    check("aborted" in lib.wait(2), "but known to who asks for it", lib.wait(2))

    # Over a restart, and when the last was forgotten.
    disk.end()
    disk.start()
    ctl = disk.control()
    check(ctl("block-allocate", device="", speed=1000)["number"] == 3, "third")
    disk.kill()
    disk.start()
    ctl = disk.control()
    check(ctl.job()["number"] == 3, "it goes on with its number")
    ctl("block-job-cancel", device="", number=3)
    data = ctl.wait_event("BLOCK_JOB_CANCELLED")
    check(data["number"] == 3, "events have it", data)
    check(ctl("block-allocate", device="")["number"] == 4, "fourth")


def test_time_left_after_a_pause(t):
    """A pause is not taken for slowness."""
    t.image("golden.img", 64 * M)
    golden = t.serve("golden", "file", t("golden.img"))
    disk = t.plugin(t("disk.img"), "backing=" + golden.uri)
    ctl = disk.control()
    speed = 512 << 10
    ctl("block-allocate", device="", speed=speed)

    def left():
        j = ctl.job()
        return j["time-remaining"], j["remaining"] / speed * 1000

    wait_for("the time left is known", lambda: left()[0] > 0)
    time.sleep(1)
    ctl("block-job-pause", device="")
    check(left()[0] == 0, "not known in a pause")
    time.sleep(4)
    ctl("block-job-resume", device="")
    known = 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        ms, true = left()
        check(ms == 0 or true / 3 < ms < true * 3, "about right, or not known",
              (ms, true))
        known += ms > 0
        time.sleep(0.05)
    check(known > 0, "it is known again")
    ctl("block-job-cancel", device="")


def test_time_left_under_a_tiny_limit(t):
    """A request every five seconds is not a standstill between two."""
    t.image("golden.img", M)
    golden = t.serve("golden", "file", t("golden.img"))
    disk = t.plugin(t("disk.img"), "backing=" + golden.uri, "granule=512")
    ctl = disk.control()
    ctl("block-allocate", device="", speed=100)
    end = time.monotonic() + 7
    while time.monotonic() < end:
        j = ctl.job()
        ms, true = j["time-remaining"], j["remaining"] / 100 * 1000
        check(ms == 0 or true / 3 < ms < true * 3, "about right, or not known",
              (ms, true))
        time.sleep(0.1)
    ctl("block-job-cancel", device="")


def test_what_the_log_says(t):
    """Each start, pause and end of a job is one line, and each outage."""
    t.image("golden.img", 4 * M)
    golden = t.serve("golden", "file", t("golden.img"))
    disk = t.plugin(t("disk.img"), "backing=" + golden.uri)
    ctl = disk.control()
    ctl("block-allocate", device="", length=M)
    ctl.wait_event("BLOCK_JOB_COMPLETED")
    ctl("block-allocate", device="", speed=1000)
    ctl("block-job-pause", device="")
    ctl("block-job-resume", device="")
    ctl("block-job-cancel", device="")
    ctl.wait_event("BLOCK_JOB_CANCELLED")
    golden.kill()
    ctl.wait_event("SOURCE_LOST")
    ctl("block-allocate", device="", retry=0)
    ctl.wait_event("BLOCK_JOB_COMPLETED")
    golden.start()
    ctl.wait_event("SOURCE_BACK")
    ctl("block-allocate", device="", speed=1000)
    disk.kill()
    disk.start()
    ctl = disk.control()
    store = t("disk.img") + ": "
    found = [re.sub("[0-9]+[.][0-9]+ seconds", "N seconds", line)
             .replace(store, "")
             for line in disk.text().splitlines()
             if store + "job" in line or "the backing store is" in line]
    expected = [
        "nbdkit: backfill: job 1 has started: allocate 0+1048576",
        "nbdkit: backfill: job 1 has completed after N seconds: 1048576 of"
        " 1048576 bytes are local, 1048576 were read from the backing store",
        "nbdkit: backfill: job 2 has started: allocate 0+4194304",
        "nbdkit: backfill: job 2 is paused, as asked",
        "nbdkit: backfill: job 2 is resumed, as asked",
        "nbdkit: backfill: job 2 was aborted after N seconds: ",
        "nbdkit: error: the backing store is lost: ",
        "nbdkit: backfill: job 3 has started: ",
        "nbdkit: error: job 3 has failed after N seconds: the backing store is"
        " lost: ",
        "nbdkit: backfill: the backing store is back, after N seconds",
        "nbdkit: backfill: job 4 has started: ",
        "nbdkit: backfill: job 4 goes on where it was"]
    check(len(found) == len(expected)
          and all(f.startswith(e)
                  for f, e in zip(found, expected)), "the lines", found)


if __name__ == "__main__":
    faultlib.main()
