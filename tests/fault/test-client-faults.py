#!/usr/bin/python3
"""The command and the library against a control server that misbehaves.

Whatever a server says or does not say, `backfill` ends by itself with status
1 and one clear message, never by a signal, and never says what is not true.
Also the good side that needs a server which can be told how a job ends.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.dom.minidom

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../lib"))
from proc import cli as run
from wait import LONG

failures = []


class Fake:
    def __init__(self, directory, mode, *options):
        self.socket = os.path.join(directory, "c-%s.sock" % mode)
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "fake-control.py"),
             self.socket, mode, *options], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def check(what, condition, result=None):
    if condition:
        print("ok: " + what)
    else:
        print("FAILED: %s %s" % (what, result))
        failures.append(what)


def one_message(r):
    """One line on stderr that begins as all messages do."""
    lines = r.stderr.splitlines()
    return len(lines) == 1 and lines[0].startswith("backfill: ")


def test_modes(d):
    commands = {
        "garbage": ["list"], "drop": ["info"], "half-drop": ["list"],
        "huge": ["list"], "deep": ["list"], "wrong-id": ["list"],
        "no-return": ["info"], "wrong-types": ["info"],
        "bad-sum": ["info"], "map-loop": ["map"], "map-order": ["map"],
        "no-qmp": ["list"], "garbage-first": ["list"],
    }
    for mode, args in commands.items():
        with Fake(d, mode) as f:
            r = run("-c", f.socket, *args)
            check("%s: status 1 and one message" % mode,
                  r.returncode == 1 and one_message(r) and r.stdout == "", r)
    for args in (["map"], ["allocate", "--wait"], ["watch", ""]):
        with Fake(d, "wrong-types") as f:
            r = run("-c", f.socket, *args)
            check("wrong-types, %s: fails" % args[0],
                  r.returncode == 1 and one_message(r), r)


def test_flood(d):
    with Fake(d, "flood") as f:
        r = run("-c", f.socket, "allocate", "--wait")
        check("events without end are no news",
              r.returncode == 1 and one_message(r)
              and "without end" in r.stderr, r)


def test_lost(d):
    with Fake(d, "stop-JOB") as f:
        r = run("-c", f.socket, "allocate", "--wait")
        check("server ends in the middle of a job: said, status 1",
              r.returncode == 1 and "the job goes on while" in r.stderr, r)
    with Fake(d, "good") as f:
        f.process.kill()
        f.process.wait()
        r = run("-c", f.socket, "list")
        check("dead socket: named", r.returncode == 1 and f.socket in r.stderr,
              r)
    r = run("-c", os.path.join(d, "nothing"), "list")
    check("missing socket: named",
          r.returncode == 1 and "nothing" in r.stderr and one_message(r), r)


def test_ends(d):
    with Fake(d, "good", "--end", "fail") as f:
        r = run("-c", f.socket, "allocate", "--wait")
        check("failed job: 3, its error and what is local",
              r.returncode == 3 and "Input/output error" in r.stderr
              and "is local" in r.stderr, r)
        r = run("-c", f.socket, "allocate", "--wait", "--json")
        check("failed job with --json: the job object",
              r.returncode == 3
              and json.loads(r.stdout)["job-type"] == "failed", r)
    with Fake(d, "good", "--end", "abort") as f:
        r = run("-c", f.socket, "allocate", "--wait")
        check("aborted job: 3", r.returncode == 3 and "aborted" in r.stderr, r)
    with Fake(d, "dismissed") as f:
        r = run("-c", f.socket, "allocate", "--wait")
        check("record gone at once: still known to be completed",
              r.returncode == 0 and "completed" in r.stdout, r)
    with Fake(d, "dismissed", "--end", "fail") as f:
        r = run("-c", f.socket, "allocate", "--wait")
        check("record gone at once: still known to have failed",
              r.returncode == 3 and "Input/output" in r.stderr, r)
    with Fake(d, "good", "--job-ms", "3000") as f:
        r, w = os.pipe()
        p = subprocess.Popen(["backfill", "-c", f.socket, "allocate",
                              "--progress=%d" % w, "--quiet"], pass_fds=[w])
        os.close(w)
        with os.fdopen(r) as lines:
            steps = [l for l in lines]
        check("--progress=FD: N/100 lines up to 100/100",
              p.wait(LONG) == 0 and steps[-1] == "100/100\n"
              and all(l.endswith("/100\n") for l in steps)
              and [int(l[:-5]) for l in steps]
              == sorted({int(l[:-5]) for l in steps}), steps)


def test_interrupt(d):
    with Fake(d, "good", "--job-ms", "100000000") as f:
        def default():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        p = subprocess.Popen(["backfill", "-c", f.socket, "allocate",
                              "--wait"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True,
                             preexec_fn=default)
        p.stdout.readline()  # it waits
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=LONG)
        check("Ctrl-C: 130, says that the job goes on",
              p.returncode == 130 and "the job goes on" in err, err)
        job = json.loads(run("-c", f.socket, "info", "--json").stdout)["job"]
        check("Ctrl-C: it does", job["status"] == "running", job)
        r = run("-c", f.socket, "allocate")
        check("second job: 1, named", r.returncode == 1 and "has a job"
              in r.stderr, r)
        r = run("-c", f.socket, "abort")
        check("abort: 0", r.returncode == 0 and "aborted" in r.stdout, r)
        r = run("-c", f.socket, "abort")
        check("abort without a job: 1", r.returncode == 1 and one_message(r),
              r)


def test_hang(d):
    """SIGSTOP and silence: the time limit is the library's, 60 s; here only
    that a hung server does not keep the others from being found."""
    registry = os.path.join(d, "run")
    stores = [os.path.join(d, "%s.img" % n) for n in "ab"]
    for s in stores:
        with open(s, "w") as f:
            f.truncate(1 << 20)
    env = {"BACKFILL_RUNTIME_DIR": registry}
    with Fake(d, "silent", "--register", registry, "--disk",
              "a=" + stores[0]), \
            Fake(d, "good", "--register", registry, "--disk",
                 "b=" + stores[1]):
        r = run("info", "b", env=env)
        check("hung owner: the other is found", r.returncode == 0, r)
        r = run("info", stores[1], env=env)
        check("by path: the hung one is not even asked",
              r.returncode == 0, r)


def test_registry(d):
    registry = os.path.join(d, "run2")
    stores = {n: os.path.join(d, n + ".store") for n in ("x", "y", "none")}
    for s in stores.values():
        with open(s, "w") as f:
            f.truncate(1 << 20)
    env = {"BACKFILL_RUNTIME_DIR": registry}
    r = run("list", env=env)
    check("nothing there: says where it looked, and -c",
          r.returncode == 1 and registry in r.stderr and "-c" in r.stderr
          and one_message(r), r)
    with Fake(d, "good", "--register", registry, "--disk",
              "x=" + stores["x"]) as one:
        r = run("info", env=env)
        check("one owner, no DISK", r.returncode == 0, r)
        r = run("info", stores["none"], env=env)
        check("a store that nobody serves: named, with its entry and -c",
              r.returncode == 1 and stores["none"] in r.stderr
              and ".volume" in r.stderr and "-c" in r.stderr, r)
        os.symlink(stores["x"], os.path.join(d, "link"))
        os.link(stores["x"], os.path.join(d, "hard"))
        for name in ("link", "hard"):
            r = run("info", os.path.join(d, name), env=env)
            check("by a %s: the same disk" % name, r.returncode == 0, r)
        r = run("info", "x.store", env=env, cwd=d)
        check("a file of this folder, without /", r.returncode == 0, r)
        with Fake(d, "dismissed", "--register", registry, "--disk",
                  "x=" + stores["y"]):
            r = run("info", "x", env=env)
            check("one name on two servers: refused, both named",
                  r.returncode == 1 and r.stderr.count(".sock") == 2, r)
            r = run("info", env=env)
            check("two owners, no DISK: refused",
                  r.returncode == 1 and "name the disk" in r.stderr, r)
            r = run("list", "--json", env=env)
            check("list shows those of both",
                  len(json.loads(r.stdout)) == 2, r)
            r = run("info", stores["y"], env=env)
            check("by path it is clear", r.returncode == 0, r)
        r = run("info", stores["y"], env=env)
        check("an entry whose owner is dead: said",
              r.returncode == 1 and "has gone" in r.stderr, r)
        r = run("info", "x", env=env)
        check("and does not disturb the others", r.returncode == 0, r)
    if os.geteuid() != 0:
        return
    # A stranger's entry for our store is no entry.
    with Fake(d, "good", "--register", registry, "--disk",
              "x=" + stores["x"]):
        st = os.stat(stores["x"])
        entries = [os.path.join(base, f) for base, _, files
                   in os.walk(registry) for f in files
                   if f == "%x-%x.volume" % (st.st_dev, st.st_ino)]
        for entry in entries:
            os.chown(entry, 12345, 12345)
        r = run("info", stores["x"], env=env)
        check("a stranger's entry is not believed", r.returncode == 1, r)
        for entry in entries:
            os.chown(os.path.dirname(entry), 12345, 12345)
        os.chown(stores["x"], 12345, 12345)
        # Root may have made the socket for him, as systemd does: it is that
        # process, by its greeting.
        r = run("info", stores["x"], env=env)
        check("the store's owner's is, where root has made his socket",
              r.returncode == 0, r)
        for i, entry in enumerate(entries):
            own = os.path.dirname(entry)
            os.rename(own, os.path.join(os.path.dirname(own), "p-1111%04d" % i))
        r = run("info", stores["x"], env=env)
        check("nor where another process answers", r.returncode == 1, r)
    with Fake(d, "good", "--register", registry, "--disk",
              "x=" + stores["x"], "--as", "12346"):
        for folder, _, files in os.walk(registry):
            for f in files:
                if f == "%x-%x.volume" % (st.st_dev, st.st_ino):
                    os.chown(folder, 12345, 12345)
                    os.chown(os.path.join(folder, f), 12345, 12345)
        r = run("info", stores["x"], env=env)
        check("nor where another user does", r.returncode == 1, r)


def test_maps(d):
    with Fake(d, "good", "--regions", "20000", "--size", str(1 << 30)) as f:
        r = run("-c", f.socket, "map", "--json")
        regions = json.loads(r.stdout)
        check("a map of many pages covers the disk without gaps",
              regions[0]["offset"] == 0
              and all(a["offset"] + a["length"] == b["offset"]
                      for a, b in zip(regions, regions[1:]))
              and regions[-1]["offset"] + regions[-1]["length"] == 1 << 30
              and len(regions) >= 19999, len(regions))
        svg = os.path.join(d, "map.svg")
        r = run("-c", f.socket, "map", "--svg", svg)
        check("--svg writes XML", r.returncode == 0
              and xml.dom.minidom.parse(svg).documentElement.tagName == "svg")
        r = run("-c", f.socket, "map", "--svg", "/nonexistent/x.svg")
        check("--svg to nowhere: 1, named", r.returncode == 1
              and "/nonexistent/x.svg" in r.stderr, r)
        r = run("-c", f.socket, "map", "--ascii", env={"COLUMNS": "60"})
        check("--ascii: one line of the terminal's width",
              r.stdout.count("\n") == 1 and len(r.stdout) <= 61
              and "\033" not in r.stdout, r)
    for size in ("0", "1", "513"):
        with Fake(d, "good", "--size", size) as f:
            r = run("-c", f.socket, "map", "--svg", svg)
            check("--svg of a disk of %s bytes" % size, r.returncode == 0
                  and xml.dom.minidom.parse(svg) is not None, r)
            r = run("-c", f.socket, "map", "--ascii")
            check("--ascii of one", r.returncode == 0, r)


def test_watch(d):
    with Fake(d, "good", "--job-ms", "200") as f:
        p = subprocess.Popen(["backfill", "-c", f.socket, "watch", "--json"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True)
        # Known to listen when the first of these comes through.
        events = []
        deadline = time.monotonic() + LONG
        os.set_blocking(p.stdout.fileno(), False)
        text = ""
        while ("BLOCK_JOB_COMPLETED" not in text
               and time.monotonic() < deadline):
            run("-c", f.socket, "allocate", "--wait", "--quiet")
            try:
                text += os.read(p.stdout.fileno(), 1 << 16).decode()
            except BlockingIOError:
                pass
        f.process.kill()
        f.process.wait()
        os.set_blocking(p.stdout.fileno(), True)
        rest, err = p.communicate(timeout=LONG)
        events = [json.loads(l) for l in (text + (rest or "")).splitlines()]
        check("watch: whole events, then says that the server has gone",
              p.returncode == 1
              and json.loads(err)["error"]["class"] == "unreachable"
              and {"JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED"}
              <= {e["event"] for e in events}, (p.returncode, err))


def test_usage(d):
    for args in (["frob"], ["info", "--frob"], ["info", "a", "b"],
                 ["speed", "a", "1", "b"], ["speed", "1.5G"], ["allocate", "--offset", "-1"],
                 ["allocate", "--length", "3x"], ["allocate", "--length", ""],
                 ["allocate", "--offset", "9E"], ["map", "--offset", "1kk"],
                 ["allocate", "--on-error", "x"], ["list", "x"], [],
                 ["allocate", "--progress=77"], ["map", "--svg"],
                 ["map", "--ascii", "--json"], ["allocate", "--retry", "1k"]):
        r = run(*args)
        check("usage %s: 2 and a message" % args,
              r.returncode == 2 and r.stderr and not r.stdout, r)
    r = run("speed", "1.5G")
    check("1.5G: says what to write", "1536M" in r.stderr, r)
    for c in run("--list-commands").stdout.split():
        r = run(c, "--help")
        check("%s --help" % c, r.returncode == 0
              and r.stdout.startswith("Usage: ") and not r.stderr, r)
    with Fake(d, "good", "--job-ms", "1000000") as f:
        for text, n in (("1", 1), ("2b", 2), ("1s", 512), ("3k", 3 << 10),
                        ("3K", 3 << 10), ("2m", 2 << 20), ("2M", 2 << 20),
                        ("1g", 1 << 30), ("1T", 1 << 40), ("1p", 1 << 50),
                        ("1E", 1 << 60), ("none", 0)):
            if text == "1":
                run("-c", f.socket, "allocate")
            r = run("-c", f.socket, "speed", text, "--json")
            check("size %s" % text, json.loads(r.stdout)["speed"] == n, r)
        r = run("-c", f.socket, "list", stdin=subprocess.DEVNULL)
        check("no escape codes but on a terminal", "\033" not in r.stdout, r)
        with open("/dev/full", "w") as full:
            p = subprocess.run(["backfill", "-c", f.socket, "info"],
                               stdout=full, stderr=subprocess.PIPE, text=True,
                               timeout=LONG)
        check("output that cannot be written is a failure",
              p.returncode == 1 and "standard output" in p.stderr, p)


def main():
    for test in (test_usage, test_modes, test_flood, test_lost, test_ends,
                 test_interrupt, test_registry, test_maps, test_watch,
                 test_hang):
        with tempfile.TemporaryDirectory(prefix="bf") as d:
            print("== " + test.__name__)
            test(d)
    print("%d failed" % len(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
