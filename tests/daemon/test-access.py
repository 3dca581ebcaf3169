#!/usr/bin/python3
"""Which files backfilld opens, and for whom.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import random
import subprocess
import threading
import time

from daemonlib import (LONG, MiB, Place, as_user, check, main, stop)

# Run by another user: ask, and print the answer's error name or "ok".
ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from daemonlib import Control
try:
    c = Control(sys.argv[2])
    r = c.call(sys.argv[3], **json.loads(sys.argv[4]))
    print(r.get("errno-name", "ok") if isinstance(r, dict) else "ok")
except OSError as e:
    print("refused")
"""


def ask_as(uid, p, command, **arguments):
    import json
    return subprocess.run(
        as_user(uid, "/usr/bin/python3", "-c", ASK, os.path.dirname(
            os.path.abspath(__file__)), p.path("run", "backfilld.sock"),
            command, json.dumps(arguments)), stdout=subprocess.PIPE, text=True,
        timeout=LONG).stdout.strip()


def test_confined():
    """Nothing outside the folders is opened, whatever the path says."""
    with Place() as p:
        p.daemon()
        with open(p.path("other", "secret.img"), "wb") as f:
            f.write(b"secret" * 1000)
        before = os.stat(p.path("other", "secret.img"))
        os.symlink(p.path("other", "secret.img"), p.vol("link.img"))
        os.symlink(p.path("other"), p.vol("dir"))
        os.mkdir(p.vol("sub"))
        # What the neighbour's name has more than ours is a folder in ours.
        os.mkdir(p.vol("2"))
        os.mkdir(p.path("vols2"))
        for folder in (p.vol("2"), p.path("vols2")):
            with open(folder + "/a.img", "wb") as f:
                f.write(b"secret" * 1000)
        c = p.control()
        for path in (p.path("other", "secret.img"),
                     p.vol("link.img"),
                     p.vol("dir", ) + "/secret.img",
                     p.vol("..") + "/other/secret.img",
                     p.vol("sub") + "/../../other/secret.img",
                     p.vol("sub") + "//../x.img",
                     p.dir + "/volsx/a.img",
                     p.dir + "/vols2/a.img", p.dir + "/vols2/new.img",
                     "vols/a.img", "a.img", "", "/", p.vol("."),
                     p.path("vols"), "/proc/self/root/etc/passwd",
                     "/proc/1/mem", "/etc/passwd"):
            for command in ("query-disks", "block-allocate", "disk-release",
                            "disk-take", "disk-create"):
                more = {"size": 4096} if command == "disk-create" else {}
                r = c.call(command, device=path, **more)
                if not (isinstance(r, dict) and r.get("errno-name") in
                        ("EPERM", "ELOOP", "EINVAL", "ENOENT", "EEXIST", "EISDIR",
                         "ENOTDIR")):
                    check("%s of '%s' is refused" % (command, path), False, r)
        check("all were refused", True)
        check("nothing was made", sorted(os.listdir(p.path("other")))
              == ["secret.img"] and not os.path.exists(p.path("x.img"))
              and sorted(os.listdir(p.path("vols")))
              == ["2", "dir", "link.img", "sub"]
              and os.listdir(p.vol("2")) == ["a.img"]
              and os.listdir(p.path("vols2")) == ["a.img"],
              os.listdir(p.path("vols")))
        after = os.stat(p.path("other", "secret.img"))
        check("nothing was changed", before.st_mtime_ns == after.st_mtime_ns
              and before.st_ctime_ns == after.st_ctime_ns)


def test_renamed_meanwhile():
    """A folder that turns into a link, back and forth, while volumes are
    made and opened in it: nothing appears where the link leads."""
    with Place() as p:
        p.daemon("--idle=0", "--max-volumes=1000")
        inside, outside = p.vol("sub"), p.path("other")
        os.mkdir(inside)
        os.symlink(outside, p.vol("evil"))
        ended = threading.Event()

        def swap():
            # Each state lasts long enough, now and then, for all of a call,
            # and mostly less.
            rng = random.Random(1)
            while not ended.is_set():
                os.rename(inside, p.vol("away"))
                os.rename(p.vol("evil"), inside)
                time.sleep(rng.choice((0, 0, 0.0005, 0.005)))
                os.rename(inside, p.vol("evil"))
                os.rename(p.vol("away"), inside)
                time.sleep(rng.choice((0, 0, 0.0005, 0.02, 0.2)))

        t = threading.Thread(target=swap)
        t.start()
        made = i = 0
        c = p.control()
        end = time.monotonic() + 4
        # A slow machine is given the time that it needs.
        while time.monotonic() < end or (made == 0
                                         and time.monotonic() < end + LONG):
            i += 1
            path = inside + "/%d.img" % i
            r = c.call("disk-create", device=path, size=65536)
            made += r == {}
            c.call("query-disks", device=path)
        ended.set()
        t.join()
        check("some were made", made > 0, made)
        check("none of them outside", os.listdir(outside) == [],
              os.listdir(outside))


def test_other_users():
    """Others are refused, or with an open socket get what they own."""
    if os.geteuid() != 0:
        print("(not root: other users cannot be tried)")
        return
    with Place() as p:
        d = p.daemon()
        p.create("root.img")
        check("the socket is closed to others",
              ask_as(65534, p, "query-disks") == "refused")
        os.chmod(p.path("run", "backfilld.sock"), 0o666)
        check("also when the file would let them in",
              ask_as(65534, p, "query-disks") == "refused")
        stop(d)
        d = p.daemon("--socket-mode=0666", "--idle=600")
        with open(p.vol("own.img"), "wb") as f:
            f.truncate(MiB)
        os.chown(p.vol("own.img"), 65534, 65534)
        for command in ("query-disks", "block-allocate", "disk-release",
                        "disk-take", "disk-detach", "query-allocation-map"):
            check("%s of another's volume is refused" % command,
                  ask_as(65534, p, command, device=p.vol("root.img"))
                  == "EPERM")
        check("making is refused", ask_as(
            65534, p, "disk-create", device=p.vol("n.img"), size=4096)
            == "EPERM")
        check("one's own may be allocated", ask_as(
            65534, p, "block-allocate", device=p.vol("own.img")) == "ok")
        check("its sidecar is its owner's too",
              os.stat(p.vol("own.img.backfill")).st_uid == 65534)
        p.control().call("disk-flush", device=p.vol("root.img"))
        listed = subprocess.run(
            as_user(65534, "backfill", "-c", p.path("run", "backfilld.sock"),
                    "list"),
            stdout=subprocess.PIPE, text=True, timeout=LONG).stdout
        check("the list shows only one's own", "own.img" in listed
              and "root.img" not in listed, listed)
        # One that was given away while it was open is its new owner's.
        os.chown(p.vol("own.img"), 0, 0)
        p.control().call("disk-flush", device=p.vol("own.img"))
        os.chown(p.vol("own.img"), 65534, 65534)
        check("its new owner may use what was given to him", ask_as(
            65534, p, "disk-flush", device=p.vol("own.img")) == "ok")
        # Another file in the place of an open one gives no right to that.
        p.control().call("disk-flush", device=p.vol("root.img"))
        os.rename(p.vol("root.img"), p.vol("moved.img"))
        os.rename(p.vol("own.img"), p.vol("root.img"))
        for command in ("query-disks", "disk-release"):
            check("%s of what is open is refused" % command, ask_as(
                65534, p, command, device=p.vol("root.img")) == "EPERM")
        check("it goes on", stop(d) == 0)


def test_sidecar_of_another():
    """A sidecar that another user laid beside a store is not believed."""
    if os.geteuid() != 0:
        print("(not root: other users cannot be tried)")
        return
    with Place() as p:
        d = p.daemon("--idle=1")
        p.create("a.img")
        stop(d)
        os.chown(p.vol("a.img.backfill"), 65534, 65534)
        d = p.daemon("--idle=1")
        r = p.control().call("query-disks", device=p.vol("a.img"))
        check("it is refused", isinstance(r, dict)
              and r.get("errno-name") == "EPERM"
              and "a.img.backfill" in r["desc"], r)
        os.chown(p.vol("a.img"), 65534, 65534)
        r = p.control().call("query-disks", device=p.vol("a.img"))
        check("that of the store's owner is fine", isinstance(r, list), r)


def test_commands_in_sidecars():
    """A backing store that is a command is not run, unless that is allowed."""
    with Place() as p:
        mark = p.path("mark")
        backing = "[ sh -c 'touch %s; exec nbdkit null 1M' ]" % mark
        d = p.daemon("--idle=1")
        r = p.create("a.img", backing=backing)
        check("making one is refused", r.get("errno-name") == "EPERM", r)
        guest = p.plugin(p.vol("a.img"), "backing=" + backing)
        stop(guest)
        os.unlink(mark)
        r = p.control().call("query-disks", device=p.vol("a.img"))
        check("opening one is refused", isinstance(r, dict)
              and "command" in r["desc"], r)
        check("nothing was run", not os.path.exists(mark))
        stop(d)
        p.daemon("--commands")
        r = p.control().call("query-disks", device=p.vol("a.img"))
        check("--commands allows it", isinstance(r, list), r)


def test_wrong_options():
    """Each with a message and status 2, or 1 where the machine refuses."""
    with Place() as p:
        for args, status, text in (
                ([], 2, "name the folders"),
                (["--max-jobs=x", p.dir], 2, "--max-jobs=x"),
                (["--max-volumes=0", p.dir], 2, "--max-volumes=0"),
                (["--speed=1X", p.dir], 2, "--speed=1X"),
                (["--idle=-1", p.dir], 2, "--idle=-1"),
                (["--grace=soon", p.dir], 2, "--grace=soon"),
                (["--socket-mode=999", p.dir], 2, "--socket-mode=999"),
                (["--socket-user=no-such", p.dir], 2, "no such user"),
                (["--no-such"], 2, "no-such"),
                (["--runtime-dir=" + p.path("run"), p.path("none")], 1,
                 "none"),
                (["--runtime-dir=" + p.path("run"),
                  "--state-dir=" + p.path("golden"), p.dir], 1, "state-dir")):
            r = subprocess.run(["backfilld", *args], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True,
                               timeout=LONG)
            check("backfilld %s" % " ".join(args[:1]),
                  r.returncode == status and text in r.stdout, r)
        with open(p.path("state", "jobs.json"), "w") as f:
            f.write("{ half")
        d = p.daemon()
        check("a ledger that makes no sense stops it, with its name",
              d.wait(LONG) == 1 and "jobs.json" in p.log("daemon.log"),
              p.log("daemon.log"))
        os.unlink(p.path("state", "jobs.json"))
        d = p.daemon()
        second = p.daemon()
        check("a second one is refused", second.wait(LONG) == 1
              and "being served by process %d" % d.pid
              in p.log("daemon.log"), p.log("daemon.log"))


main(globals().copy())
