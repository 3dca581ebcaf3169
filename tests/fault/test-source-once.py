#!/usr/bin/python3
"""Backing stores that serve one client, once: the connection that a volume is
opened with is the one that it works with.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import shutil
import signal
import subprocess

import faultlib
from faultlib import NBDKIT, PLUGIN, Client, Process, can_connect, check, wait_for

M = 1 << 20
OFF = "control=off"


class Once(Process):
    """A server that ends when its only client leaves.  It must not be looked
    at: that would be the client."""

    def __init__(self, t, kind, golden):
        self.socket = t("once.sock")
        self.uri = "nbd+unix:///?socket=" + self.socket
        args = {
            "exitlast": [NBDKIT, "-f", "-r", "-U", self.socket,
                         "--filter=exitlast", "file", golden],
            "limit": [NBDKIT, "-f", "-r", "-U", self.socket, "--filter=limit",
                      "--filter=exitlast", "file", golden, "limit=1"],
            "qemu": ["qemu-nbd", "-r", "-f", "raw", "-k", self.socket, golden],
            "qemu-1": ["qemu-nbd", "-r", "-f", "raw", "-e", "1", "-k",
                       self.socket, golden],
        }[kind]
        super().__init__("once", args, t("once.log"))
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.start()
        wait_for("the server is there", self.listens)

    def listens(self):
        with open("/proc/net/unix") as f:
            return any(line.split()[-1] == self.socket
                       and line.split()[3] == "00010000" for line in f)


def kinds():
    return ["exitlast", "limit"] + (["qemu", "qemu-1"]
                                    if shutil.which("qemu-nbd") else [])


def test_in_the_foreground(t):
    golden, data = t.image("golden.img", 8 * M)
    for kind in kinds():
        once = Once(t, kind, golden)
        p = t.plugin(t(kind + ".img"), "backing=" + once.uri)
        c = p.client()
        check(c.read(M, M) == data[M:2 * M], kind + ": it is read")
        ctl = p.control()
        check(ctl.disk()["source"] == "connected", kind, ctl.disk())
        ctl("block-allocate", device="")
        check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), kind)
        # Nothing is needed of it any more.
        check(once.wait() == 0, kind + ": it is let go", once.text())
        check("is lost" not in p.text(), "nothing was lost", p.text())
        c.close()
        ctl.close()
        p.end()
        check(t.read(kind + ".img") == data, kind + ": all of it")


def test_in_the_background(t):
    """The connection is made before the fork."""
    golden, data = t.image("golden.img", 8 * M)
    for kind in kinds():
        once = Once(t, kind, golden)
        s, pid = t(kind + ".sock"), t(kind + ".pid")
        subprocess.run([NBDKIT, "-U", s, "-P", pid, PLUGIN,
                        t(kind + ".img"), "backing=" + once.uri, OFF],
                       check=True, stdin=subprocess.DEVNULL,
                       env={**os.environ,
                            "BACKFILL_RUNTIME_DIR": t("run")})
        wait_for("it serves", lambda: can_connect(s))
        c = Client(s)
        check(c.read(5 * M, M) == data[5 * M:6 * M], kind + ": it is read")
        c.close()
        with open(pid) as f:
            os.kill(int(f.read()), signal.SIGTERM)
        check(once.wait() == 0, kind + ": it ends with its client", once.text())


def test_tls_in_the_background(t):
    """What TLS knows of the connection crosses the fork, too."""
    if not shutil.which("psktool"):
        print("psktool is missing")
        return
    golden, data = t.image("golden.img", 2 * M)
    psk, s = t("psk"), t("once.sock")
    subprocess.run(["psktool", "-u", "guest", "-p", psk], check=True,
                   stdout=subprocess.DEVNULL)
    once = Process("once", [NBDKIT, "-f", "-r", "-U", s, "--tls=require",
                            "--tls-psk=" + psk, "--filter=exitlast", "file",
                            golden], t("once.log"))
    once.socket = s
    once.start()
    wait_for("the server is there", lambda: Once.listens(once))
    subprocess.run([NBDKIT, "-U", t("d.sock"), "-P", t("d.pid"),
                    PLUGIN, t("d.img"), OFF,
                    "backing=nbds+unix://guest@/?socket=%s&tls-psk-file=%s"
                    % (s, psk)], check=True, stdin=subprocess.DEVNULL,
                   env={**os.environ, "BACKFILL_RUNTIME_DIR": t("run")})
    wait_for("it serves", lambda: can_connect(t("d.sock"))
                          and os.path.exists(t("d.pid")))
    c = Client(t("d.sock"))
    check(c.read(0, 2 * M) == data, "it is read")
    check(once.alive(), "over the one connection")
    c.close()
    with open(t("d.pid")) as f:
        os.kill(int(f.read()), signal.SIGTERM)
    once.wait()


def test_with_a_command_of_nbdkits(t):
    """nbdkit --run is a parent that holds the connection, too."""
    golden, data = t.image("golden.img", 2 * M)
    once = Once(t, "exitlast", golden)
    r = subprocess.run([NBDKIT, "-U", "-", PLUGIN, t("disk.img"),
                        "backing=" + once.uri, OFF, "--run",
                        "nbdcopy \"$uri\" " + t("copy.img")],
                       stdin=subprocess.DEVNULL, timeout=60, check=False,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       env={**os.environ,
                            "BACKFILL_RUNTIME_DIR": t("run")})
    check(r.returncode == 0, "the copy", r.stdout)
    check(t.read("copy.img") == data, "its bytes")
    once.wait()


def test_with_backfilld(t):
    """A volume that is made, and filled in, without a guest."""
    golden, data = t.image("golden.img", 2 * M)
    once = Once(t, "exitlast", golden)
    for folder in ("vols", "state"):
        os.mkdir(t(folder))
    s, store = t("d.control"), t("vols/a.img")
    d = Process("backfilld", ["backfilld", "--socket=" + s,
                              "--runtime-dir=" + t("run"),
                              "--state-dir=" + t("state"), t("vols")],
                t("backfilld.log"))
    d.start()
    wait_for("backfilld listens", lambda: can_connect(s))
    for command in (["create", store, "--backing", once.uri],
                    ["allocate", store, "--wait", "--quiet"]):
        r = subprocess.run(["backfill", "-c", s, *command], text=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=60, check=False)
        check(r.returncode == 0, command[0], r.stdout)
    once.wait()
    check(t.read("vols/a.img") == data, "all of it")
    check("job 1 has completed after" in d.text(), "its log says so", d.text())
    d.end()


def test_commands_that_serve_once(t):
    """They are run again, as they are ours to run."""
    golden, data = t.image("golden.img", 2 * M)
    commands = ["nbdkit -f -r --filter=exitlast file " + golden,
                "nbdkit -r -s file " + golden]
    if shutil.which("qemu-nbd"):
        commands.append("qemu-nbd -r -f raw " + golden)
    for i, command in enumerate(commands):
        name = "c%d.img" % i
        p = t.plugin(t(name), "backing=[ %s ]" % command, "allocate=on")
        ctl = p.control()
        wait_for(command,
                 lambda: ctl.job() and ctl.job()["status"] == "concluded")
        check(ctl.job()["result"] == "completed", command, ctl.job())
        ctl.close()
        p.end()
        check(t.read(name) == data, command)


if __name__ == "__main__":
    faultlib.main()
