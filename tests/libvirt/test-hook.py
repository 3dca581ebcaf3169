#!/usr/bin/python3
"""The hook as root, with what others may put in its way: paths that a domain
names, files beside its sockets, commands in a volume's sidecar.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import common
from common import check, run

HOOK = os.path.join(common.TOP, "scripts/libvirt-hook")
USER, OTHER = "libvirt-qemu", 12345
FOLDER = "/run/backfill-libvirt"


def xml(socket_path, store, **keys):
    more = " ".join("%s='%s'" % pair for pair in keys.items())
    return ("<domain><uuid>u-1</uuid><metadata><b:disks xmlns:b="
            "'urn:backfill:1.0'><b:disk target='vda' store='%s' %s/></b:disks>"
            "</metadata><devices><disk type='network'><target dev='vda'/>"
            "<source protocol='nbd' name='d'><host transport='unix' "
            "socket='%s'/></source></disk></devices></domain>"
            % (store, more, socket_path))


def hook(what, when, text, timeout=60):
    """None if it does not end."""
    try:
        return subprocess.run([sys.executable, HOOK, "g", what, when, "-"],
                              input=text, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=timeout,
                              check=False)
    except subprocess.TimeoutExpired:
        return None


def refused(what, r, *words):
    check("refused: " + what, r is not None and r.returncode == 1
          and all(w in r.stderr for w in words), r)


def test_folders(store):
    """Root makes nothing where a domain says so."""
    os.mkdir("/run/roots")
    for path in ("/run/roots/new/x.sock", "/etc/new/x.sock",
                 FOLDER + "/../roots/new2/x.sock", "x.sock", "-",
                 "/run/roots//y.sock"):
        refused("a socket at " + path, hook("prepare", "begin",
                                            xml(path, store, size="1M")))
    check("no folder was made", os.listdir("/run/roots") == []
          and not os.path.exists("/etc/new"), os.listdir("/run/roots"))
    check("no store either", not os.path.exists(store))
    # One that QEMU's user may make.
    sock = FOLDER + "/deep/x.sock"
    r = hook("prepare", "begin", xml(sock, store, size="1M"))
    check("a folder below its own is made", r is not None
          and r.returncode == 0 and os.stat(os.path.dirname(sock)).st_uid
          == pwd.getpwnam(USER).pw_uid, r)
    r = hook("release", "end", xml(sock, store))
    check("and the server ended", r is not None and r.returncode == 0
          and not os.path.exists(sock), r)


def test_planted_files(d, store):
    """What lies beside a socket is not waited for, followed, or believed."""
    sock = FOLDER + "/x.sock"
    mark = sock + ".domain"
    secret = d + "/secret"
    with open(secret, "w", encoding="utf-8") as f:
        f.write("u-1")
    os.chmod(secret, 0o600)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(sock)
        s.listen()
        os.chmod(sock, 0o777)
        for what in ("fifo", "link", "other"):
            if what == "fifo":
                os.mkfifo(mark)
            elif what == "link":
                os.symlink(secret, mark)
            else:
                with open(mark, "w", encoding="utf-8") as f:
                    f.write("u-1")
                os.chown(mark, OTHER, OTHER)
            r = hook("release", "end", xml(sock, store), timeout=20)
            check("a %s is passed over" % what, r is not None
                  and r.returncode == 0 and r.stderr == "", r)
            os.unlink(mark)
        r = hook("prepare", "begin", xml(sock, store, size="1M"))
        refused("a socket of another", r, "listens there already")
    os.unlink(sock)


def test_started_again(store):
    """Of a guest's two servers one has crashed: the hook, called by hand, starts
    that one, and leaves the other alone."""
    socks = [FOLDER + "/two-%d.sock" % i for i in range(2)]
    text = ("<domain><uuid>u-2</uuid><metadata><b:disks xmlns:b="
            "'urn:backfill:1.0'>%s</b:disks></metadata><devices>%s</devices>"
            "</domain>" % tuple("".join(part % (i, x) for i, x in
                                        enumerate(values)) for part, values in (
        ("<b:disk target='vd%d' store='%s' size='1M'/>",
         [store + ".0", store + ".1"]),
        ("<disk type='network'><target dev='vd%d'/><source protocol='nbd' "
         "name='d'><host transport='unix' socket='%s'/></source></disk>",
         socks))))

    def pid(sock):
        with open(sock + ".pid", encoding="utf-8") as f:
            return int(f.read())

    def listens(sock):
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(sock) == 0

    r = hook("prepare", "begin", text)
    check("two servers", r is not None and r.returncode == 0, r)
    pids = [pid(s) for s in socks]
    os.kill(pids[1], signal.SIGKILL)
    common.wait_for("it is gone", lambda: not listens(socks[1]))
    r = hook("prepare", "begin", text)
    check("the hook by hand", r is not None and r.returncode == 0, r)
    check("the other is as it was", pid(socks[0]) == pids[0]
          and listens(socks[0]))
    check("that one is back", pid(socks[1]) != pids[1]
          and listens(socks[1]))
    r = hook("release", "end", text)
    check("both are ended", r is not None and r.returncode == 0
          and not any(os.path.exists(s) for s in socks), r)


def test_commands(d, store):
    """A command in a sidecar is not run, whoever wrote that: a volume may be
    uploaded, and is root's then."""
    mark = d + "/mark"
    script = d + "/script"
    with open(script, "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\ntouch %s\nexec %s memory 1M\n"
                % (mark, common.NBDKIT))
    os.chmod(script, 0o755)
    sock = d + "/m.sock"
    with common.Nbdkit(sock, common.PLUGIN, "store=" + store,
                       "backing=[ %s ]" % script):
        pass
    check("it is a volume with a command", os.path.exists(mark))
    os.unlink(mark)
    for owner in (pwd.getpwnam(USER).pw_uid, 0):
        os.chown(store, pwd.getpwnam(USER).pw_uid, -1)
        os.chown(store + ".backfill", owner, -1)
        os.chmod(store + ".backfill", 0o666)
        r = hook("prepare", "begin", xml(FOLDER + "/c.sock", store))
        refused("a sidecar with a command, of user %d" % owner, r, "command")
        check("it was not run", not os.path.exists(mark))
        hook("release", "end", xml(FOLDER + "/c.sock", store))
    refused("switching that off", hook("prepare", "begin", xml(
        FOLDER + "/c.sock", store, commands="on")), "'commands'")


def inside(d):
    for path in ("/run", "/etc/libvirt"):
        os.makedirs(path, exist_ok=True)
        r = run("mount", "-t", "tmpfs", "-o", "mode=755", "none", path)
        if r.returncode != 0:
            raise RuntimeError(r.stderr)
    os.mkdir("/run/backfill")
    os.chmod("/run/backfill", 0o1777)
    plugin = os.path.join(d, os.path.basename(common.PLUGIN))
    shutil.copy(common.PLUGIN, plugin)
    with open("/etc/libvirt/backfill-hook.conf", "w", encoding="utf-8") as f:
        f.write("plugin=%s\nnbdkit=%s\nbackfill=%s\ntimeout=10\n"
                % (plugin, common.NBDKIT, shutil.which("backfill")))
    os.mkdir(d + "/pool")
    shutil.chown(d + "/pool", USER, "kvm")
    hook("prepare", "begin", xml(FOLDER + "/first.sock", d + "/pool/f.img",
                                 size="1M"))
    hook("release", "end", xml(FOLDER + "/first.sock", d + "/pool/f.img"))
    test_folders(d + "/pool/a.img")
    test_planted_files(d, d + "/pool/b.img")
    test_commands(d, d + "/pool/c.img")
    test_started_again(d + "/pool/d.img")
    return common.finish()


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "inside":
        return inside(sys.argv[2])
    common.need("backfill", "unshare", "mkfifo")
    if os.geteuid() != 0:
        common.skip("it needs root")
    try:
        pwd.getpwnam(USER)
    except KeyError:
        common.skip("there is no user " + USER)
    separate = ["unshare", "--mount", "--pid", "--fork", "--kill-child",
                "--mount-proc"]
    r = run(*separate, "mount", "-t", "tmpfs", "none", "/run")
    if r.returncode != 0:
        common.skip("no namespaces here: " + r.stderr.strip())
    with tempfile.TemporaryDirectory(prefix="hook-", dir="/tmp") as d:
        os.chmod(d, 0o755)
        env = {k: v for k, v in os.environ.items()
               if k != "BACKFILL_RUNTIME_DIR"}
        return subprocess.run(separate + [sys.executable, __file__, "inside",
                                          d], env=env,
                              check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
