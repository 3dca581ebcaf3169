#!/usr/bin/python3
"""Jobs of volumes that no guest has open: limits, the queue, plain images.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import threading
import time

from daemonlib import (LONG, MiB, Place, check, cli, job_of, main, stop,
                       wait_for)

F_OFD_GETLK = 36  # Python has it from 3.13 on


def test_queue():
    """With --max-jobs=1 jobs run one after the other, in order; one that is
    paused lets the next run."""
    with Place(size=8 * MiB) as p:
        p.daemon("--max-jobs=1")
        names = ["a.img", "b.img", "c.img"]
        for name in names:
            p.create(name)
        c = p.control()
        for name in names:
            c.call("block-allocate", device=p.vol(name), speed=MiB // 16)

        def status(name):
            return c.job(p.vol(name))["status"]

        wait_for("the first runs", lambda: status("a.img") == "running")
        time.sleep(0.5)
        check("the others wait", [status(n) for n in names]
              == ["running", "created", "created"],
              [status(n) for n in names])
        check("and nothing of them is copied",
              c.job(p.vol("b.img"))["offset"] == 0)
        c.call("block-job-pause", device=p.vol("a.img"))
        wait_for("the second runs", lambda: status("b.img") == "running")
        check("the third waits", status("c.img") == "created")
        c.call("block-job-resume", device=p.vol("a.img"))
        wait_for("the first waits again", lambda: status("a.img") == "created")
        r = c.call("block-job-cancel", device=p.vol("c.img"))
        check("one that waits can be aborted", r == {}
              and c.job(p.vol("c.img"))["result"] == "cancelled", r)
        c.call("block-job-set-speed", device=p.vol("b.img"), speed=0)
        wait_for("the second ends", lambda: status("b.img") == "concluded")
        wait_for("the first goes on", lambda: status("a.img") == "running")
        c.call("block-job-set-speed", device=p.vol("a.img"), speed=0)
        wait_for("the first ends", lambda: status("a.img") == "concluded")
        check("both are right", p.read_store("a.img") == p.golden
              and p.read_store("b.img") == p.golden)


def test_one_limit():
    """--speed holds for all jobs together."""
    with Place(size=16 * MiB) as p:
        p.daemon("--speed=4M")
        c = p.control()
        for name in ("a.img", "b.img", "c.img"):
            p.create(name)
        began = time.monotonic()
        for name in ("a.img", "b.img", "c.img"):
            c.call("block-allocate", device=p.vol(name))

        def done():
            return sum(c.job(p.vol(n))["offset"]
                       for n in ("a.img", "b.img", "c.img"))

        time.sleep(3)
        rate = done() / (time.monotonic() - began)
        # One request more than the limit, in a window of three seconds.
        check("the limit holds", rate < 5 * MiB, rate)
        r = cli("-c", p.path("run", "backfilld.sock"), "speed", "--total", "0")
        check("it can be lifted", r.returncode == 0, r)
        wait_for("the end", lambda: done() == 48 * MiB)


def is_locked(path):
    """As QEMU and others would find it."""
    with open(path, "rb") as f:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
        got = fcntl.fcntl(f, F_OFD_GETLK, lock)
        return struct.unpack("hhqqi4x", got)[0] != fcntl.F_UNLCK


def test_create_prints_the_new_disk():
    with Place(size=MiB) as p:
        p.daemon()
        r = cli("create", p.vol("n.img"), "--size", "1M", "--json")
        check("create --json", r.returncode == 0
              and json.loads(r.stdout)["store"] == p.vol("n.img"), r)


def test_questions_do_not_take_a_volume():
    with Place(size=8 * MiB) as p:
        p.daemon("--idle=1")
        p.create("v.img")
        path = p.vol("v.img")
        cli("allocate", path, "--offset", "1M", "--length", "2M", "--wait")
        wait_for("it is closed", lambda: not is_locked(path))
        for args in (("info", path), ("info", path, "--json"),
                     ("map", path)):
            r = cli(*args)
            check("%s is answered" % args[0], r.returncode == 0, r)
            check("and does not take it", not is_locked(path))
        r = cli("info", path, "--json")
        info = json.loads(r.stdout)
        check("rightly", info["local"] == 2 * MiB and info["absent"]
              == 6 * MiB and info["job"]["result"] == "completed", info)
        r = cli("map", path, "--json")
        check("and the map, too", [
            (e["offset"], e["length"], e["state"]) for e in json.loads(
                r.stdout)] == [(0, MiB, "absent"), (MiB, 2 * MiB, "local"),
                               (3 * MiB, 5 * MiB, "absent")], r)
        if shutil.which("qemu-io"):
            r = subprocess.run(["qemu-io", "-f", "raw", "-c", "read 1M 4k",
                                path], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True,
                               timeout=LONG)
            check("qemu-io can have it", r.returncode == 0, r)


def test_plain_image():
    """A raw image without a sidecar: all local; allocating fills its holes
    and changes nothing; nothing is left behind but the record of a job."""
    with Place() as p:
        p.daemon("--idle=1")
        path = p.vol("plain.img")
        data = os.urandom(MiB)
        with open(path, "wb") as f:
            f.write(data)
            f.truncate(8 * MiB + 512)
        for args in (("map", path, "--totals"), ("info", path), ("info",
                     path, "--json"), ("list",)):
            r = cli(*args)
            check("%s: asking for it" % args[0],
                  r.returncode == 0 or args == ("list",), r)
            check("does not take it", os.listdir(p.path("vols"))
                  == ["plain.img"] and not is_locked(path))
        r = cli("map", path, "--json")
        check("its map: data and a hole", [
            (e["length"], e["state"]) for e in json.loads(r.stdout)]
            == [(MiB, "local"), (7 * MiB + 512, "zero")], r)
        wait_for("it is closed, and nothing is left",
                 lambda: os.listdir(p.path("vols")) == ["plain.img"])
        r = cli("allocate", path, "--full", "--wait")
        check("it is allocated", r.returncode == 0
              and os.stat(path).st_blocks * 512 >= 8 * MiB, r)
        check("and reads as before", p.read_store("plain.img")
              == data + bytes(7 * MiB + 512))
        time.sleep(2.5)
        check("its job is remembered",
              (job_of(path) or {}).get("result") == "completed")
        r = cli("detach", path)
        check("it can be let go", r.returncode == 0, r)
        wait_for("nothing is left",
                 lambda: os.listdir(p.path("vols")) == ["plain.img"])

        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2",
                        p.vol("q.img"), "1M"], check=True)
        r = cli("allocate", p.vol("q.img"))
        check("a qcow2 image is refused", r.returncode == 1
              and "qcow2" in r.stderr, r)
        # A volume whose sidecar is gone must not be taken for all local.
        p.create("v.img")
        p.control().call("disk-release", device=p.vol("v.img"))
        os.rename(p.vol("v.img.backfill"), p.path("v.backfill"))
        if b"user.backfill.uuid" in b" ".join(
                x.encode() for x in os.listxattr(p.vol("v.img"))):
            time.sleep(0.1)
            r = wait_for("the refusal", lambda: (lambda x: x if "moment ago"
                         not in x.stderr else None)(
                             cli("allocate", p.vol("v.img"))))
            check("nor is a volume without its sidecar", r.returncode == 1
                  and "sidecar" in r.stderr, r)
        r = cli("allocate", p.vol("none.img"))
        check("one that is not there is an error", r.returncode == 1
              and "none.img" in r.stderr, r)


def test_create():
    """create, in the words of the command."""
    with Place() as p:
        p.daemon("--idle=1")
        r = cli("create", p.vol("a.img"), "--backing", p.backing)
        check("a volume is made", r.returncode == 0
              and os.path.getsize(p.vol("a.img")) == len(p.golden)
              and os.path.exists(p.vol("a.img.backfill")), r)
        data = p.read_store("a.img")
        for more in ((), ("--size", str(len(p.golden))),
                     ("--granule", "4k")):
            r = cli("create", p.vol("a.img"), "--backing", p.backing, *more)
            check("again %s: it is there already" % (more,),
                  r.returncode == 0 and "there already" in r.stdout, r)
        check("and as it was", p.read_store("a.img") == data)
        r = cli("create", p.vol("a.img"), "--backing", p.backing, "--json")
        check("--json: the disk", json.loads(r.stdout)["store"]
              == p.vol("a.img"), r)
        for more in (("--backing", p.backing + "x"), ("--size", "1M"),
                     ("--backing", p.backing, "--size", "1M"),
                     ("--backing", p.backing, "--granule", "8k")):
            r = cli("create", p.vol("a.img"), *more)
            check("but not another one: %s" % (more,), r.returncode == 1
                  and "there already" in r.stderr, r)
        with open(p.vol("plain.img"), "wb") as f:
            f.truncate(MiB)
        r = cli("create", p.vol("plain.img"), "--size", "1M")
        check("nor an image that somebody else has made", r.returncode == 1
              and "there already" in r.stderr
              and os.listdir(p.path("vols")).count("plain.img.backfill") == 0,
              r)
        r = cli("create", p.vol("z.img"), "--size", "1M", "--granule", "64K")
        check("zeros", r.returncode == 0
              and p.read_store("z.img") == bytes(MiB), r)
        r = cli("create", p.vol("b.img"), "--backing", p.backing, "--size",
                "1M")
        check("a wrong size is refused, and nothing is left",
              r.returncode == 1 and not os.path.exists(p.vol("b.img"))
              and not os.path.exists(p.vol("b.img.backfill")), r)
        r = cli("create", p.vol("c.img"), "--backing",
                "nbd+unix:///?socket=" + p.path("none.sock"))
        check("a backing store that is not there is refused",
              r.returncode == 1 and not os.path.exists(p.vol("c.img")), r)
        with open(p.path("local.img"), "wb") as f:
            f.write(p.golden)
        for i in range(2):
            r = cli("create", p.vol("f.img"), "--backing",
                    os.path.relpath(p.path("local.img")))
            check("a file, by a relative path, and again", r.returncode == 0, r)
        r = cli("info", "--json", p.vol("f.img"))
        check("is remembered by an absolute one", os.path.isabs(
            json.loads(r.stdout)["backing"]), r)
        r = cli("allocate", "--wait", "--quiet", p.vol("f.img"))
        check("and is copied", r.returncode == 0
              and p.read_store("f.img") == p.golden, r)
        r = cli("create", p.vol("d.img"))
        check("backing or size is needed", r.returncode == 2, r)


def test_range_and_abort():
    """A range, down to a byte; abort; what was copied is told."""
    with Place() as p:
        p.daemon()
        p.create("a.img")
        path = p.vol("a.img")
        r = cli("allocate", path, "--offset", "5000000", "--length", "1",
                "--wait")
        check("one byte", r.returncode == 0, r)
        job = job_of(path)
        check("is one granule", job["len"] == 4096 == job["offset"], job)
        cli("allocate", path, "--speed", "512K")
        wait_for("it is on its way",
                 lambda: job_of(path)["offset"] > MiB // 2)
        r = cli("abort", path)
        check("abort", r.returncode == 0, r)
        job = job_of(path)
        check("its record says how far it came", job["result"] == "cancelled"
              and MiB // 2 < job["offset"] < len(p.golden), job)


def test_side_by_side():
    """Volumes are made, filled and asked for by many clients at once."""
    with Place(size=MiB) as p:
        p.daemon("--idle=0", "--max-volumes=64")
        bad = []

        def client(n):
            c = p.control()
            for i in range(6):
                name = "%d-%d.img" % (n, i)
                r = p.create(name)
                if r == {}:
                    r = c.call("block-allocate", device=p.vol(name))
                if "desc" not in r:
                    wait_for("its job ends", lambda: c.job(
                        p.vol(name))["status"] == "concluded")
                if "desc" in r or p.read_store(name) != p.golden:
                    bad.append((name, r))
                c.call("query-disks")
            c.close()

        threads = [threading.Thread(target=client, args=(n,))
                   for n in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        check("all are right", not bad, bad)


def entries(p):
    return [n for _, _, names in os.walk(p.path("run")) for n in names
            if n.endswith(".volume")]


def test_idle_and_many():
    """Volumes are closed when idle, and no more are open than allowed."""
    with Place(size=MiB) as p:
        d = p.daemon("--idle=1", "--max-volumes=3", "--max-jobs=0")
        for i in range(6):
            r = p.create("%d.img" % i)
            check("volume %d" % i, r == {}, r)
        c = p.control()
        check("no more than three are open",
              len(c.call("query-disks")) <= 3)
        for i in range(3):
            c.call("block-allocate", device=p.vol("%d.img" % i), speed=1024)
        r = c.call("disk-flush", device=p.vol("5.img"))
        check("one more is an error that says what to do",
              isinstance(r, dict) and "--max-volumes" in r["desc"], r)
        for i in range(3):
            c.call("block-job-cancel", device=p.vol("%d.img" % i))
        wait_for("all are closed", lambda: c.call("query-disks") == [])
        # One that is still being closed is listed no more.
        wait_for("all are let go", lambda: not entries(p))
        fds = os.listdir("/proc/%d/fd" % d.pid)
        check("descriptors come back", len(fds) < 40, len(fds))
        check("the registry is empty", not entries(p))


def test_a_job_is_not_idle():
    """A volume that nobody asks for is closed, and one with a job is not."""
    with Place(size=MiB) as p:
        p.daemon("--idle=0", "--grace=0")
        for name in ("job.img", "none.img"):
            p.create(name)
        c = p.control()
        r = c.call("block-allocate", device=p.vol("job.img"), speed=4096)
        check("a job is started", "desc" not in r, r)
        wait_for("the other one is closed", lambda: [
            o["store"] for o in c.call("query-disks")] == [p.vol("job.img")])
        time.sleep(1.5)
        r = c.call("query-disks")
        check("that with the job is not", len(r) == 1
              and p.log("daemon.log").count("going on with its job") == 0,
              (r, p.log("daemon.log")))


def test_ended_jobs_stay():
    """A job that has ended is told of when its volume is closed, and after a
    restart, until it is dismissed."""
    with Place(size=MiB) as p:
        d = p.daemon("--idle=1")
        for name in ("done.img", "aborted.img", "never.img"):
            p.create(name)
        c = p.control()
        c.call("block-allocate", device=p.vol("done.img"))
        c.call("block-allocate", device=p.vol("aborted.img"), speed=4096)
        c.call("block-job-cancel", device=p.vol("aborted.img"))
        wait_for("the job ends", lambda: (c.job(p.vol("done.img")) or {}).get(
            "result") == "completed")

        def results():
            return {os.path.basename(o["store"]): o["job"]["result"]
                    for o in p.control().call("query-disks", all=True)
                    if o["job"] and o.get("open") is False}

        want = {"done.img": "completed", "aborted.img": "cancelled"}
        wait_for("all are closed", lambda: c.call("query-disks") == [])
        check("they are told of", results() == want, results())
        r = cli("list", "--all")
        check("by the command, too", r.returncode == 0
              and "done.img" in r.stdout and "completed" in r.stdout
              and "aborted.img" in r.stdout and "never.img" not in r.stdout, r)
        r = cli("list", "--all", "--json")
        check("and as JSON", r.returncode == 0 and r.stdout.count("open") == 2,
              r)
        c.close()
        for sig in (signal.SIGTERM, signal.SIGKILL):
            stop(d, sig)
            d = p.daemon("--idle=1")
            check("also after signal %d" % sig, results() == want, results())
        r = p.control().call("block-job-dismiss", device=p.vol("done.img"))
        check("dismissed", r == {}, r)
        wait_for("it is closed",
                 lambda: p.control().call("query-disks") == [])
        check("and forgotten", results() == {"aborted.img": "cancelled"},
              results())
        os.unlink(p.vol("aborted.img"))
        r = p.control().call("block-job-dismiss", device=p.vol("aborted.img"))
        check("so is one whose store is gone", r == {} and p.control().call(
            "query-disks", all=True) == [], r)


def test_not_there():
    """A store that is not there when the daemon starts, as its file system is
    not mounted: its job waits for it."""
    with Place(size=8 * MiB) as p:
        os.mkdir(p.vol("mnt"))
        d = p.daemon("--idle=1")
        p.create("mnt/a.img")
        c = p.control()
        c.call("block-allocate", device=p.vol("mnt/a.img"),
               speed=MiB // 16)
        stop(d)
        for folder in (True, False):
            os.rename(p.vol("mnt"), p.path("elsewhere"))
            if folder:
                os.mkdir(p.vol("mnt"))
            before = len(p.log("daemon.log"))
            d = p.daemon("--idle=1", "--grace=1")
            wait_for("that is said", lambda: "a.img is not there"
                     in p.log("daemon.log")[before:])
            time.sleep(2)
            check("once", p.log("daemon.log")[before:].count("is not there")
                  == 1)
            if folder:
                stop(d)
                os.rmdir(p.vol("mnt"))
                os.rename(p.path("elsewhere"), p.vol("mnt"))
        os.rename(p.path("elsewhere"), p.vol("mnt"))
        wait_for("it goes on", lambda: "going on with its job"
                 in p.log("daemon.log")[before:])


def test_total_speed_stays():
    """The limit of all jobs holds over a restart, until it is started with
    another."""
    with Place(size=MiB) as p:
        def speed():
            return p.control().call("query-total-speed")["speed"]

        d = p.daemon("--speed=1M")
        p.control().call("set-total-speed", speed=77777)
        for sig in (signal.SIGTERM, signal.SIGKILL):
            stop(d, sig)
            d = p.daemon("--speed=1M")
            check("it is the same after signal %d" % sig, speed() == 77777,
                  speed())
        stop(d)
        d = p.daemon("--speed=2M")
        check("another option counts", speed() == 2 * MiB, speed())


def test_one_state_directory():
    """A second daemon with the same state directory is refused."""
    with Place(size=MiB) as p:
        d = p.daemon()
        r = subprocess.run(
            ["backfilld", "--state-dir=" + p.path("state"), "--socket="
             + p.path("other.sock"), "--runtime-dir=" + p.path("run"),
             p.path("vols")], stderr=subprocess.PIPE, text=True, timeout=LONG)
        check("it is refused, and who has it named", r.returncode == 1
              and str(d.pid) in r.stderr and p.path("state") in r.stderr, r)


main(globals().copy())
