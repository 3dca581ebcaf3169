#!/usr/bin/python3
"""What a user who may connect, and who may write to a folder that he shares,
can do to others: nothing.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import os
import signal
import subprocess
import sys
import time

import daemonlib
from daemonlib import (LONG, MiB, Place, check, freeze, main, stop, wait_for)

HERE = os.path.dirname(os.path.abspath(__file__))
M, U = 12345, 12346

ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from daemonlib import Control
c = Control(sys.argv[2])
for line in json.loads(sys.argv[3]):
    r = c.call(line[0], **line[1])
    print(r.get("errno-name", "ok") if isinstance(r, dict) else "ok",
          flush=True)
"""

EXCHANGE = """
import ctypes, sys
libc = ctypes.CDLL(None)
a, b = sys.argv[1].encode(), sys.argv[2].encode()
print("begun", flush=True)
while True:
    libc.renameat2(-100, a, -100, b, 2)
"""

# Each path twice, all at once, by connections of their own.
FLOOD = """
import json, socket, sys
held = []
for path in json.loads(sys.argv[2]) * 2:
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    s.sendall(json.dumps({"execute": "qmp_capabilities"}).encode()
              + json.dumps({"execute": "block-allocate", "arguments":
                            {"device": path}}).encode())
    held.append(s)
print(len(held), flush=True)
sys.stdin.read()
"""

# As many connections as he can get, held; then the number.
CROWD = """
import socket, sys, time
held = []
for i in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    try:
        s.connect(sys.argv[1])
        if not s.recv(10):
            break
    except OSError:
        break
    # In the middle of something, so that it is not idle.
    s.sendall(b'{"execute": "qmp_capabilities"} {"execute"')
    held.append(s)
print(len(held), flush=True)
sys.stdin.read()
"""


def as_user(uid, *argv, **kwargs):
    return subprocess.Popen(
        daemonlib.as_user(uid, "prlimit", "--nofile=4096", "/usr/bin/python3",
                          "-c", *argv),
        stdout=subprocess.PIPE, text=True, **kwargs)


def ask(uid, p, *lines):
    t = as_user(uid, ASK, HERE, p.path("run", "backfilld.sock"),
                json.dumps(lines))
    return t.communicate(timeout=LONG)[0].split()


def shared(p, name, uid, size=MiB, mode=0o600):
    path = p.vol(name)
    with open(path, "wb") as f:
        f.truncate(size)
    os.chmod(path, mode)
    os.chown(path, uid, uid)
    return path


def test_not_his_business():
    """What is the daemon's, and others' volumes."""
    with Place(size=MiB) as p:
        d = p.daemon("--socket-mode=0666")
        his = shared(p, "u.img", U)
        mine = shared(p, "m.img", M)
        got = ask(M, p, ("quit", {}), ("set-total-speed", {"speed": 1}),
                  ("query-total-speed", {}),
                  ("block-allocate", {"device": his}),
                  ("disk-take", {"device": his}),
                  ("disk-release", {"device": his}),
                  ("block-job-dismiss", {"device": his}),
                  ("disk-take", {"device": mine}),
                  ("block-allocate", {"device": mine}))
        check("he is refused what is not his", got == [
            "EPERM", "EPERM", "ok", "EPERM", "EPERM", "EPERM", "EPERM",
            "EINVAL", "ok"], got)
        check("there is no limit", p.control().call("query-total-speed")
              == {"speed": 0})
        check("nothing was made beside the other's",
              not os.path.exists(his + ".backfill"))
        with open(p.path("state", "jobs.json"), encoding="utf-8") as f:
            kept = json.load(f)
        check("the ledger has what is a volume", [his] != kept["volumes"]
              and set(kept["volumes"] + kept["ended"]) == {mine}, kept)
        check("it runs", d.poll() is None)


def test_exchanged():
    """His file and a link to another's change places all the time; and a hard
    link to another's is that one's."""
    with Place(size=MiB) as p:
        p.daemon("--socket-mode=0666", "--idle=0")
        # (The kernel follows no link of another in a sticky folder.)
        os.mkdir(p.vol("m"))
        os.chown(p.vol("m"), M, M)
        his = shared(p, "v.img", U)
        before = os.stat(his)
        mine, link = shared(p, "m/t.img", M), p.vol("m/link")
        # It is refused once it was opened, so that it is opened often.
        with open(mine, "r+b") as f:
            f.write(b"QFI\xfb")
        os.symlink(his, link)
        os.lchown(link, M, M)
        os.link(his, p.vol("hard.img"))
        swap = as_user(M, EXCHANGE, mine, link)
        swap.stdout.readline()
        try:
            end = time.monotonic() + 5
            asked = []
            while time.monotonic() < end:
                asked += ask(M, p, *[("query-disks", {"device": mine})] * 500)
        finally:
            swap.kill()
            swap.wait()
        got = ask(M, p, ("query-disks", {"device": p.vol("hard.img")}),
                  ("block-allocate", {"device": p.vol("hard.img")}))
        check("a hard link to it is refused", got == ["EPERM", "EPERM"], got)
        wait_for("all is closed", lambda: p.control().call("query-disks")
                 == [])
        after = os.stat(his)
        left = [n for n in os.listdir(p.path("vols")) if n.startswith(
            ("v.img.", "hard.img."))]
        check("the other's file was not touched (of %d times it was "
              "asked %d got as far as its content)"
              % (len(asked), asked.count("EINVAL")), not left
              and os.listxattr(his) == []
              and after.st_mtime_ns == before.st_mtime_ns,
              (left, os.listxattr(his)))
        log = p.log("daemon.log")
        check("nor opened by its name", his + ": opened" not in log,
              log[-2000:])


def test_slow_opens():
    """As many opens as he likes, of a backing store that does not answer: a
    guest's server has its volume at once, and root makes one."""
    with Place(size=MiB) as p:
        d = p.daemon("--idle=1")
        p.create("first.img")
        p.create("guest.img")
        wait_for("they are closed",
                 lambda: p.control().call("query-disks") == [])
        stop(d)
        names = [p.vol("%d.img" % i) for i in range(100)]
        for name in names:
            for end in ("", ".backfill"):
                subprocess.run(["cp", "--preserve=all", "--sparse=always",
                                p.vol("first.img" + end), name + end],
                               check=True)
                os.chown(name + end, M, M)
        d = p.daemon("--socket-mode=0666", "--idle=600", "--max-volumes=64")
        p.control().call("query-disks", device=p.vol("guest.img"))
        freeze(p.source.pid)
        try:
            flood = as_user(M, FLOOD, p.path("run", "backfilld.sock"),
                            json.dumps(names), stdin=subprocess.PIPE)
            check("all are asked for", flood.stdout.readline() == "200\n")
            time.sleep(1)
            c = p.control()
            began = time.monotonic()
            r = c.call("disk-release", device=p.vol("guest.img"))
            check("a volume is let go", r == {}, r)
            r = c.call("disk-create", device=p.vol("z.img"), size=MiB)
            check("one is made", r == {}, r)
            c.call("query-disks")
            took = time.monotonic() - began
            check("at once", took < 20, took)
            mine = [o for o in c.call("query-disks")
                    if o["store"] in names]
            check("he has no more than his share open", len(mine) <= 16,
                  len(mine))
        finally:
            p.source.send_signal(signal.SIGCONT)
        flood.communicate(timeout=LONG)
        check("it ends", stop(d) == 0)


def test_crowd():
    """He has a share of the connections, and root gets one."""
    with Place(size=MiB) as p:
        d = p.daemon("--socket-mode=0666")
        limit = 0
        with open("/proc/%d/limits" % d.pid, encoding="utf-8") as f:
            for line in f:
                if line.startswith("Max open files"):
                    limit = min(4096, int(line.split()[3]) // 2)
        crowd = as_user(M, CROWD, p.path("run", "backfilld.sock"), "1200",
                        stdin=subprocess.PIPE)
        got = int(crowd.stdout.readline())
        check("he has a quarter at most", got <= max(limit // 4, 1), got)
        r = p.control().call("query-version")
        check("root is served", "backfill" in r, r)
        got = ask(U, p, ("query-version", {}))
        check("and so is a third", got == ["ok"], got)
        crowd.communicate(timeout=LONG)


if os.geteuid() != 0:
    print("skipped: not root: other users cannot be tried")
    sys.exit(77)
main(globals().copy())
