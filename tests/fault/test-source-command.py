#!/usr/bin/python3
"""Backing stores that are commands: where they run, what they say, and that
nothing is left of them.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import resource
import signal
import subprocess
import sys

import faultlib
from faultlib import NBDKIT, PLUGIN, Client, can_connect, check, wait_for

M = 1 << 20


def children(pid):
    """(pid, state, name) of each."""
    found = []
    for p in os.listdir("/proc"):
        if not p.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % p) as f:
                stat = f.read()
        except OSError:
            continue
        state, parent = stat[stat.rindex(")") + 2:].split()[:2]
        if int(parent) == pid:
            found.append((int(p), state, stat[stat.index("(") + 1:
                                              stat.rindex(")")]))
    return found


class Daemon:
    """nbdkit in the background, in a folder of its own."""

    def __init__(self, t, folder, *keys):
        self.socket, pid = t("d.sock"), t("d.pid")
        for f in (self.socket, pid):
            if os.path.exists(f):
                os.unlink(f)
        subprocess.run([NBDKIT, "-U", self.socket, "-P", pid, PLUGIN, *keys,
                        "control=" + t("d.control")], check=True,
                       cwd=folder, stdin=subprocess.DEVNULL,
                       env={**os.environ,
                            "BACKFILL_RUNTIME_DIR": t("run")})
        wait_for("it serves",
                 lambda: can_connect(self.socket) and os.path.exists(pid)
                 and os.path.getsize(pid) > 0)
        with open(pid) as f:
            self.pid = int(f.read())

    def end(self):
        os.kill(self.pid, signal.SIGTERM)
        wait_for("its end", lambda: not os.path.exists("/proc/%d" % self.pid))


def test_relative_paths(t):
    """They are those of the folder in which nbdkit was started with them."""
    folder = t("images")
    os.mkdir(folder)
    golden, data = t.image("images/golden.img", 4 * M)
    del golden
    d = Daemon(t, folder, t("disk.img"),
               "backing=[ nbdkit file golden.img ]", "fetch=4096")
    c = Client(d.socket)
    check(c.read(0, 4096) == data[:4096], "at first")
    # The server is in / now: it is there that the command is run again.
    for pid, _, _ in children(d.pid):
        os.kill(pid, signal.SIGKILL)
    check(c.read(M, 4096) == data[M:M + 4096], "run again")
    c.close()
    d.end()
    # And the next server, started elsewhere without being told.
    d = Daemon(t, "/", t("disk.img"))
    c = Client(d.socket)
    check(c.read(2 * M, 4096) == data[2 * M:2 * M + 4096], "after a restart")
    c.close()
    d.end()
    # A folder that has gone is named.
    os.rename(folder, t("moved"))
    p = t.plugin(t("disk.img"))
    wait_for("the reason names the folder",
             lambda: "images" in p.control().disk().get("source-reason", ""),
             state=lambda: p.control().disk())
    os.rename(t("moved"), folder)
    wait_for("and is back",
             lambda: p.control().disk()["source"] == "connected")
    p.end()


def test_what_it_says(t):
    """Its standard error goes to the log, and the last line of a command that
    fails into the message."""
    golden, _ = t.image("golden.img", M)
    p = t.plugin(t("disk.img"), "backing=[ sh -c 'echo hello there >&2; "
                 "printf \"a\\033b\" >&2; exec nbdkit file %s' ]" % golden)
    wait_for("it is heard", lambda: "]: hello there\n" in p.text())
    check("a?bnbdkit" not in p.text() and "\033" not in p.text(), "clean")
    p.end()
    bad = faultlib.Plugin(t, "bad", t("bad.img"),
                          "backing=[ sh -c 'echo one >&2; echo no such image "
                          ">&2; exit 3' ]")
    said = bad.fails()
    check("ended with status 3: no such image" in said, "the reason", said)
    # Of one that goes on without end nothing is kept but the end.
    p = t.plugin(t("loud.img"), "backing=[ sh -c '(seq 20000; echo last) "
                 ">&2; exec nbdkit file %s' ]" % golden)
    wait_for("all of it", lambda: "]: last\n" in p.text())
    p.end()


def test_no_zombies(t):
    """A command that ends while what it started serves on."""
    golden, data = t.image("golden.img", M)
    script = t("fork.py")
    with open(script, "w") as f:
        f.write("import os, time\n"
                "if os.fork() == 0:\n"
                "    os.environ['LISTEN_PID'] = str(os.getpid())\n"
                "    os.execvp('nbdkit', ['nbdkit', '-f', '--filter=exitlast',"
                " 'file', '%s'])\n"
                "time.sleep(1)\n" % golden)
    p = t.plugin(t("disk.img"),
                 "backing=[ %s %s ]" % (sys.executable, script), "identity=size")
    wait_for("it runs", lambda: children(p.pid))
    wait_for("it was waited for", lambda: not children(p.pid),
             state=lambda: children(p.pid))
    c = p.client()
    check(c.read(0, 4096) == data[:4096], "what it started serves")
    c.close()
    p.end()


def test_limits(t):
    """It has the limit of open files that nbdkit was started with."""
    golden, _ = t.image("golden.img", M)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (333, hard))
    p = t.plugin(t("disk.img"), "backing=[ sh -c 'echo files: $(ulimit -n)"
                 " >&2; exec nbdkit file %s' ]" % golden)
    wait_for("it says it", lambda: "]: files: " in p.text())
    check("files: 333\n" in p.text(), "the limit", p.text())
    p.end()


if __name__ == "__main__":
    faultlib.main()
