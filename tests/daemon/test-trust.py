#!/usr/bin/python3
"""Who is believed, with two users who mean harm and one who is root: what M
leaves where all users may write, or says on her sockets, does nothing to
others' stores, servers and commands.  backfill-security(7) is the rule.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

from daemonlib import (LONG, Control, MiB, Place, as_user, check, cli, freeze,
                       main, wait_for)

M, U = 12345, 12346

if os.geteuid() != 0:
    print("root is needed, to be several users")
    sys.exit(77)
if not shutil.which("setpriv"):
    print("setpriv is missing")
    sys.exit(77)


class World(Place):
    """Folders of M and U, a runtime directory for all, and a plugin that all
    can load."""

    def __init__(self, **kw):
        super().__init__(size=4 * MiB, **kw)
        os.chmod(self.path("run"), 0o1777)
        self.plugin_path = shutil.copy(os.environ["BACKFILL_PLUGIN"],
                                       self.path("plugin.so"))
        os.chmod(self.plugin_path, 0o755)
        os.chmod(self.path("g.sock"), 0o777)
        for name, uid in (("M", M), ("U", U)):
            os.mkdir(self.path(name))
            os.chown(self.path(name), uid, uid)

    def serve(self, uid, name, *keys, store=None, expect=True):
        """A server of that user, with its sockets in his folder."""
        folder = {M: "M", U: "U", 0: "vols"}[uid]
        sock = self.path(folder, name + ".sock")
        pid = self.path(folder, name + ".pid")
        for path in (sock, pid):
            if os.path.exists(path):
                os.unlink(path)
        p = self.start(as_user(
            uid, os.environ.get("NBDKIT", "nbdkit"), "-f", "-U", sock, "-P",
            pid, self.plugin_path,
            store or self.path(folder, name + ".img"), *keys), name + ".log")
        wait_for("the server of " + name, lambda: p.poll() is not None
                 or os.path.exists(pid) and os.path.getsize(pid))
        check("the server of %s starts" % name,
              (p.poll() is None) == expect, self.log(name + ".log")[-500:])
        p.sock = sock
        return p

    def entry(self, path):
        st = os.stat(path)
        [found] = glob.glob(self.path("run", "p-*", "%x-%x.volume" % (
            st.st_dev, st.st_ino)))
        return found

    def control_of(self, path):
        with open(self.entry(path)) as f:
            [line] = [l for l in f if l.startswith("control ")]
        return line.split(" ", 1)[1].rstrip("\n")

    def plant(self, uid, name, store, control, listen=None, about=None,
              pid=1, in_dir=None, disk="planted"):
        """An entry of that user's, for the store `about` (or store)."""
        where = in_dir or self.path("run", name)
        st = os.stat(about or store)
        os.makedirs(where, exist_ok=True)
        path = os.path.join(where, "%x-%x.volume" % (st.st_dev, st.st_ino))
        with open(path, "w") as f:
            f.write("store %s\ncontrol %s\npid %d\nname %s\n"
                    % (store, control, pid, disk))
            if listen:
                st = os.stat(listen)
                f.write("listen %x-%x %s\n" % (st.st_dev, st.st_ino, listen))
        os.chmod(path, 0o644)
        if not in_dir:
            os.chown(path, uid, uid)
            os.chmod(where, 0o755)
            os.chown(where, uid, uid)
        return path


def status(control, store):
    jobs = Control(control).call("query-block-jobs", device=store)
    return jobs[0]["status"] if jobs else None


def ended(p):
    wait_for("it ends", lambda: p.poll() is not None)


def test_an_entry_never_carries_a_command_to_another_store():
    with World() as w:
        a = w.path("U", "a.img")
        s = w.serve(U, "a", "backing=" + w.backing)
        control = w.control_of(a)
        mine = w.path("M", "x.img")
        with open(mine, "wb") as f:
            f.truncate(MiB)
        os.chown(mine, M, M)
        # Of M's store, U's socket and U's store.
        w.plant(M, "p-m1", a, control, about=mine)
        r = cli("allocate", a, "--speed", "1", "--quiet")
        check("U's own job", r.returncode == 0, r)
        wait_for("runs", lambda: status(control, a) == "running")
        for command in ("abort", "pause", "dismiss", "flush", "detach"):
            r = cli(command, mine)
            check("%s on M's store does not reach U's" % command,
                  r.returncode == 1 and status(control, a) == "running", r)
        # What root's dead process left: an inode that was used again.
        b = w.path("vols", "b.img")
        with open(b, "wb") as f:
            f.truncate(MiB)
        w.plant(0, "p-dead", a, control, about=b)
        r = cli("abort", b)
        check("an entry of a dead one of root's does not either",
              r.returncode == 1 and status(control, a) == "running", r)
        # And if the very process had entered it: it knows better.
        path = w.plant(U, "", a, control, about=b,
                       in_dir=os.path.dirname(w.entry(a)))
        os.chown(path, U, U)
        os.chown(b, U, U)
        r = cli("abort", b)
        check("nor its own that is wrong", r.returncode == 1
              and "another file" in r.stderr
              and status(control, a) == "running", r)
        r = cli("-c", control, "abort", a)
        check("but what is meant does", r.returncode == 0, r)
        # Over the socket: an error of its own class.
        st = os.stat(a)
        q = Control(control)
        r = q.call("block-allocate", device=a, file="1-2")
        check("its class", r["class"] == "FileMismatch"
              and r["errno-name"] == "ESTALE", r)
        r = q.call("block-allocate", device=a, file="x")
        check("nonsense is another", r["class"] == "GenericError", r)
        right = "%x-%x" % (st.st_dev, st.st_ino)
        r = q.call("query-disks", device=a, file=right)
        check("the right one", r[0]["file"] == right, r)
        s.terminate()
        ended(s)


def test_nbd_sockets_lead_to_their_own_server_only():
    with World() as w:
        victim = w.serve(U, "v", "size=1M")
        control = w.control_of(w.path("U", "v.img"))
        hers = w.serve(M, "m", "size=1M")
        # M's NBD socket, U's control socket.
        own = os.path.dirname(w.entry(w.path("M", "m.img")))
        # (It is written again when the server listens.)
        wait_for("her entry is whole", lambda: "listen" in open(
            w.entry(w.path("M", "m.img"))).read())
        w.plant(M, "p-m1", w.path("M", "m.img"), control, listen=hers.sock)
        for path in glob.glob(own + "/*.volume"):
            os.unlink(path)
        r = cli("-c", "nbd:" + hers.sock, "quit")
        check("quit of M's does not reach U's", r.returncode == 1
              and victim.poll() is None, r)
        # U's NBD socket, M's control socket: M is not asked.
        w.plant(M, "p-m2", w.path("M", "m.img"), own + "/control",
                listen=victim.sock)
        r = cli("-c", "nbd:" + victim.sock, "quit")
        check("quit of U's reaches U's", r.returncode == 0, r)
        ended(victim)
        check("and not M's", hers.poll() is None)


def test_servers_start_beside_squatters():
    """Whatever M puts into the runtime directory."""
    with World() as w:
        def squat(name, kind):
            path = w.path("run", name)
            if kind == "socket":
                w.start(as_user(M, "/usr/bin/python3", "-c",
                                "import socket, sys, time\n"
                                "s = socket.socket(socket.AF_UNIX)\n"
                                "s.bind(sys.argv[1]); s.listen(9)\n"
                                "time.sleep(1000)", path), "squat.log")
                wait_for("it listens", lambda: os.path.exists(path))
            elif kind == "dead socket":
                s = socket.socket(socket.AF_UNIX)
                s.bind(path)
                s.close()
            elif kind == "folder":
                os.mkdir(path)
                with open(path + "/x", "w"):
                    pass
            elif kind == "file":
                with open(path, "w"):
                    pass
            elif kind == "fifo":
                os.mkfifo(path)
            else:
                os.symlink(w.path("U", "nothing"), path)
            os.lchown(path, M, M)
        def start_daemon():
            sock = w.path("run", "backfilld.sock")
            d = w.start(["backfilld", "--runtime-dir=" + w.path("run"),
                         "--state-dir=" + w.path("state"), w.path("vols")],
                        "daemon.log")
            wait_for("backfilld listens", lambda: d.poll() is not None
                     or os.path.lexists(sock) and os.lstat(sock).st_uid == 0)
            wait_for("and answers", w.answers)
            return d
        for kind in ("socket", "dead socket", "folder", "file", "fifo",
                     "link"):
            for name in ("lock", "control", "p-00000000"):
                if not os.path.lexists(w.path("run", name)):
                    squat(name, kind)
            squat("backfilld.sock", kind)
            # Clients first: nobody waits for M.
            store = w.path("vols", "free.img")
            with open(store, "wb") as f:
                f.truncate(MiB)
            start = time.monotonic()
            r = cli("allocate", store)
            check("%s: there is no backfilld, at once" % kind,
                  r.returncode == 1 and "backfilld" in r.stderr
                  and time.monotonic() - start < 30, r)
            d = start_daemon()
            check("%s: root's backfilld starts" % kind, d.poll() is None,
                  w.log("daemon.log")[-300:])
            r = cli("list")
            check("%s: and answers" % kind, "Traceback" not in r.stderr, r)
            d.terminate()
            ended(d)
            if kind in ("socket", "folder"):
                s = w.serve(U, "s" + kind[0], "size=64K")
                r = cli("info", w.path("U", "s%s.img" % kind[0]))
                check("%s: U's server is found" % kind, r.returncode == 0, r)
                s.terminate()
                ended(s)
            os.unlink(store)
            for f in os.listdir(w.path("run")):
                if f not in ("lock", "control", "p-00000000"):
                    path = w.path("run", f)
                    if os.path.isdir(path) and not os.path.islink(path):
                        shutil.rmtree(path)
                    else:
                        os.unlink(path)


def test_what_a_killed_root_leaves_is_in_nobodys_way():
    with World() as w:
        img = w.path("U", "x.img")
        r = w.serve(0, "root", "size=64K", store=img)
        r.kill()
        ended(r)
        for n in (".backfill", ""):
            os.chown(img + n, U, U)
        os.unlink(img + ".backfill")
        os.unlink(img)
        s = w.serve(U, "x", "size=64K")
        r = cli("info", img)
        check("found", r.returncode == 0, r)
        s.kill()
        ended(s)
        r = w.serve(0, "root", "size=64K")
        check("and what U's left is cleaned by root",
              len(glob.glob(w.path("run", "p-*/*.volume"))) == 1,
              os.listdir(w.path("run")))
        r.terminate()
        ended(r)


def test_one_bad_server_costs_its_own_rows():
    with World() as w:
        good = w.serve(U, "good", "size=1M", "name=good")
        frozen = w.serve(U, "frozen", "size=1M", "name=frozen")
        hers = w.serve(M, "hers", "size=1M", "name=hers")
        freeze(frozen.pid)
        freeze(hers.pid)
        # Says anything at all, and is M's own.
        with open(w.path("M", "chaos.img"), "w") as f:
            f.truncate(65536)
        os.chown(w.path("M", "chaos.img"), M, M)
        fake = w.start(as_user(M, "/usr/bin/python3", "-c", FORGER,
                               w.path("run"), w.path("M", "chaos.img"),
                               w.path("U", "good.img")), "fake.log")
        wait_for("the forger", lambda: os.path.exists(
            w.path("run", "p-forger", "control")))
        start = time.monotonic()
        r = cli("list")
        took = time.monotonic() - start
        lines = {l.split()[0]: l for l in r.stdout.splitlines()}
        check("list: in time, the status tells", took < 30
              and r.returncode == 4, (took, r))
        check("the good one is shown", "100%" in lines.get("good", "")
              or "1 MiB" in lines.get("good", ""), r)
        check("the frozen ones are, too", "not answering" in
              lines.get("frozen", "") and "not answering" in
              lines.get("hers", ""), r)
        check("a note says why", "does not answer" in r.stderr, r)
        check("what M says of U's store is not shown",
              "forged" not in r.stdout and r.stdout.count("good") == 2, r)
        check("nothing drives the terminal", not any(
            c < " " and c != "\n" or "\x7f" <= c <= "\x9f"
            for c in r.stdout + r.stderr), r)
        r = cli("list", "--json")
        rows = {d["name"]: d for d in json.loads(r.stdout)}
        check("--json", r.returncode == 4 and "unanswered" in rows["frozen"]
              and "unanswered" not in rows["good"]
              and rows["frozen"]["store"] == w.path("U", "frozen.img"), r)
        check("--json has no control characters", not any(
            c < " " and c != "\n" or "\x7f" <= c <= "\x9f"
            for c in r.stdout), r)
        r = cli("info", "good")
        check("by name", r.returncode == 0, r)
        r = cli("info", "frozen")
        check("a frozen one by name: it does not answer", r.returncode == 1
              and "does not answer" in r.stderr, r)
        r = cli("info", w.path("U", "frozen.img"))
        check("and by path", r.returncode == 1
              and "does not answer" in r.stderr, r)
        r = cli("info", "nobody")
        check("one that nobody has", r.returncode == 1
              and "no disk is named" in r.stderr, r)
        r = cli("map", "--ascii")
        check("maps of those that answer", r.returncode == 4
              and "good" in r.stdout, r)
        # watch: of those that answer, and of those that come and go.
        with open(w.path("watch.out"), "wb") as out:
            watch = subprocess.Popen(["backfill", "watch"], stdout=out,
                                     stderr=out, stdin=subprocess.DEVNULL)
        def seen():
            return w.log("watch.out")
        wait_for("watch tells of the mute", lambda: "does not answer"
                 in seen())
        late = w.serve(U, "late", "backing=" + w.backing, "name=late")
        wait_for("watch finds the late", lambda: "server found" in seen())
        cli("allocate", "late", "--quiet")
        wait_for("and its events", lambda: "late  job completed" in seen())
        late.terminate()
        wait_for("and its end", lambda: "server gone" in seen())
        watch.terminate()
        watch.wait()
        for p in (frozen, hers):
            p.send_signal(signal.SIGCONT)
        for p in (fake, good, frozen, hers):
            p.terminate()
            ended(p)


# M's own server: one disk of hers, and U's in her words.
FORGER = r"""
import json, os, socket, sys, threading
run, store, other = sys.argv[1:]
own = run + "/p-forger"
os.mkdir(own, 0o755)
st = os.stat(store)
s = socket.socket(socket.AF_UNIX)
s.bind(own + "/control.new")
s.listen(64)
with open(own + "/%x-%x.volume" % (st.st_dev, st.st_ino), "w") as f:
    f.write("store %s\ncontrol %s/control\npid %d\nname hers2\n"
            % (store, own, os.getpid()))
os.rename(own + "/control.new", own + "/control")
def disk(name, store):
    return {"name": name, "store": store, "metadata": "m", "backing": None,
            "size": 65536, "granule": 4096, "local": 65536, "absent": 0,
            "source": "none", "complete": True, "detached": False,
            "read-only": False, "stats": {}, "job": None}
def serve(c):
    f = c.makefile("rw")
    def say(o):
        f.write(json.dumps(o) + "\r\n")
        f.flush()
    say({"QMP": {"version": {}, "capabilities": [], "process": "p-forger"}})
    for line in f:
        m = json.loads(line)
        r = {}
        if m["execute"] == "query-disks":
            r = [disk("forged", other),
                 disk("her\u009b31mbad\n\x1b[2Jdisk", store)]
        say({"return": r, "id": m.get("id")})
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
"""


def test_a_sidecar_reaches_what_its_owner_may_reach():
    """M's sidecar names an NBD socket that only U may use: root does not copy
    U's disk into M's store."""
    with World() as w:
        for name in ("M", "U"):
            os.chmod(w.path(name), 0o700)
        os.chmod(w.path("vols"), 0o1777)
        nbdkit = os.environ.get("NBDKIT", "nbdkit")

        def source(uid, name, text):
            sock = w.path("MU"[uid - M], name)
            s = w.start(as_user(uid, nbdkit, "-f", "-U", sock, "-P",
                                sock + ".pid", "-r", "data", text), "nbd.log")
            wait_for("the source of " + name, lambda: os.path.exists(
                sock + ".pid") and os.path.getsize(sock + ".pid"))
            return s, sock

        def local(img):
            r = cli("info", "--json", img)
            return r.returncode == 0 and json.loads(r.stdout)["local"]

        theirs, secret = source(U, "s.sock", '"secret"*4096')
        mine, sock = source(M, "m.sock", '"public"*4096')
        os.symlink(sock, w.path("M", "link"))
        os.lchown(w.path("M", "link"), M, M)
        imgs = [w.path("vols", "%d.img" % i) for i in (1, 2)]
        for i, img in enumerate(imgs):
            s = w.serve(M, "v%d" % i, "identity=size", store=img,
                        *["backing=nbd+unix:///?socket=" + w.path("M", "link")])
            s.terminate()
            ended(s)
        os.unlink(w.path("M", "link"))
        os.symlink(secret, w.path("M", "link"))
        os.lchown(w.path("M", "link"), M, M)
        d = w.daemon("--socket-mode=0666")
        subprocess.run(as_user(M, "backfill", "allocate", "--quiet", imgs[0]),
                       timeout=LONG)
        p = w.serve(0, "root", store=imgs[1])
        r = cli("allocate", "--quiet", imgs[1])
        check("jobs have started", r.returncode == 0, r)
        for log in ("daemon.log", "root.log"):
            wait_for(log + " tells", lambda: "user %d" % M in w.log(log))
            check(log + " says why", "Permission denied (as user %d" % M
                  in w.log(log), w.log(log))
        time.sleep(1)
        check("nothing came", [local(i) for i in imgs] == [0, 0])
        for img in imgs:
            with open(img, "rb") as f:
                check("nor is it there", b"secret" not in f.read())
        # Her own, in a folder that is hers alone.
        os.unlink(w.path("M", "link"))
        os.symlink(sock, w.path("M", "link"))
        os.lchown(w.path("M", "link"), M, M)
        for img in imgs:
            wait_for("her own is copied", lambda: local(img) == 24576)
            with open(img, "rb") as f:
                check("that it is", f.read(6) == b"public")
        for q in (p, d, theirs, mine):
            q.terminate()
            ended(q)
        # Root's own word is for root's rights.
        theirs, secret = source(U, "s2.sock", '"secret"*4096')
        s = w.serve(0, "own", "backing=nbd+unix:///?socket=" + secret)
        img = w.path("vols", "own.img")
        s.terminate()
        ended(s)
        for n in ("", ".backfill"):
            os.chown(img + n, M, M)
        s = w.serve(0, "own", "allocate=yes",
                    "backing=nbd+unix:///?socket=" + secret)
        wait_for("with backing= it is copied", lambda: local(img) == 24576)
        for q in (s, theirs):
            q.terminate()
            ended(q)


def test_a_socket_that_root_has_made_for_another():
    """As systemd does for a backfilld that has a User=: the registry names the
    user, and root is at the other end."""
    with World() as w:
        os.chown(w.path("state"), U, U)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(w.path("run", "backfilld.sock"))
        listener.listen(64)
        daemon = as_user(U, shutil.which("backfilld"), "--runtime-dir="
                         + w.path("run"), "--state-dir=" + w.path("state"),
                         w.path("U"))
        with open(w.path("daemon.log"), "ab") as log:
            d = subprocess.Popen(
                ["sh", "-c", 'exec 3<&%d; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
                 % listener.fileno(), "sh", *daemon], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()])
        w.procs.append(d)
        listener.close()
        img = w.path("U", "x.img")
        r = cli("create", img, "--size", "1M")
        check("it makes a volume", r.returncode == 0, r)
        r = cli("flush", img)
        check("has it open", r.returncode == 0, r)
        r = cli("list")
        check("and is found", r.returncode == 0 and img in r.stdout, r)
        # M's entry leads to it, too: it is another process.
        mine = w.path("M", "x.img")
        with open(mine, "wb") as f:
            f.truncate(MiB)
        os.chown(mine, M, M)
        w.plant(M, "p-m1", mine, w.path("run", "backfilld.sock"))
        r = cli("list")
        check("but not as M's", r.returncode == 0 and "planted" not in r.stdout,
              r)
        d.terminate()
        ended(d)


def test_what_others_may_write_to_is_nobodys_word():
    with World() as w:
        mark = w.path("mark")
        img = w.path("vols", "c.img")
        backing = "backing=[ sh -c 'touch %s; exec nbdkit null 1M' ]" % mark
        s = w.serve(0, "c", backing)
        s.terminate()
        ended(s)
        os.unlink(mark)
        os.chmod(img + ".backfill", 0o660)
        w.serve(0, "c", expect=False)
        check("the command of root's sidecar that a group may write to is not "
              "run", not os.path.exists(mark) and "others may write"
              in w.log("c.log"), w.log("c.log"))
        os.chmod(img + ".backfill", 0o600)
        s = w.serve(0, "c")
        wait_for("else it is", lambda: os.path.exists(mark))
        s.terminate()
        ended(s)


# Many servers of one user, who answer or do not.
CROWD = r"""
import json, os, socket, sys, threading
run, folder, prefix, n, speaks = sys.argv[1:]
socks = []
for i in range(int(n)):
    own = run + "/p-%s%d" % (prefix, i)
    store = folder + "/%s%d.img" % (prefix, i)
    open(store, "w").close()
    os.mkdir(own, 0o755)
    s = socket.socket(socket.AF_UNIX)
    s.bind(own + "/control")
    s.listen(16)
    socks.append((s, "p-%s%d" % (prefix, i), store))
    st = os.stat(store)
    with open(own + "/%x-%x.volume" % (st.st_dev, st.st_ino), "w") as f:
        f.write("store %s\ncontrol %s/control\npid %d\nname %s%d\n"
                % (store, own, os.getpid(), prefix, i))
def serve(s, process, store):
    while True:
        c, _ = s.accept()
        f = c.makefile("rw")
        def say(o):
            f.write(json.dumps(o) + "\r\n")
            f.flush()
        say({"QMP": {"version": {}, "capabilities": [], "process": process}})
        for line in f:
            say({"return": [] if "query-disks" not in line else [
                {"name": process, "store": store, "metadata": "m",
                 "backing": None, "size": 65536, "granule": 4096,
                 "local": 65536, "absent": 0, "source": "none",
                 "complete": True, "detached": False, "read-only": False,
                 "stats": {}, "job": None}], "id": json.loads(line)["id"]})
if speaks == "yes":
    for args in socks:
        threading.Thread(target=serve, args=args, daemon=True).start()
open(folder + "/ready", "w").close()
threading.Event().wait()
"""


def test_all_guests_of_one_user_are_found():
    """However many there are; and beside as many of M's that are mute."""
    with World() as w:
        def crowd(uid, folder, n, speaks):
            p = w.start(as_user(uid, "/usr/bin/python3", "-c", CROWD,
                                w.path("run"), w.path(folder),
                                folder.lower(), str(n), speaks), "crowd.log")
            wait_for("the crowd", lambda: p.poll() is not None
                     or os.path.exists(w.path(folder, "ready")))
            return p

        us = crowd(U, "U", 150, "yes")
        r = cli("list")
        check("150 of one user's", r.returncode == 0
              and r.stdout.count("p-u") == 150, r)
        r = subprocess.run(["sh", "-c", "ulimit -Sn 100; exec backfill list"],
                           stdout=subprocess.PIPE, text=True, timeout=LONG)
        check("also with few files", r.stdout.count("p-u") == 150, r)
        ms = crowd(M, "M", 400, "no")
        start = time.monotonic()
        r = cli("list")
        check("also beside mute ones", r.returncode == 4
              and r.stdout.count("p-u") == 150, r)
        check("in time", time.monotonic() - start < 40)
        for p in (us, ms):
            p.terminate()
            ended(p)


def test_names_and_paths_forge_nothing():
    """In entries, logs, and what the command prints."""
    with World() as w:
        name = "x\ncontrol /evil\x1b[31m\u009b1m\n2026-01-01 forged"
        img = w.path("U", name.replace("/", "_") + ".img")
        s = w.serve(U, "odd", "size=64K", "name=a\nb\x1b[31m\u009b1m",
                    store=img)
        r = cli("info", img)
        check("found by its path", r.returncode == 0, r)
        texts = [r.stdout, cli("list").stdout, *[
                     json.dumps(json.loads(cli(*args).stdout)) + "".join(
                         c for c in cli(*args).stdout if c == "\x7f"
                         or "\x80" <= c <= "\x9f")
                     for args in (("list", "--json"),
                                  ("info", "--json", img))],
                 cli("map", img).stdout, cli("map", "--ascii").stdout,
                 cli("info", img + "no").stderr,
                 cli("info", "no\x1b[31m\u009b1m").stderr,
                 cli("abort", img).stderr, cli("check", img).stdout,
                 cli("allocate", "--offset", "9G", img).stderr,
                 cli("check", img + "x").stderr]
        for i, t in enumerate(texts):
            check("text %d has no control characters" % i, t and not any(
                c < " " and c != "\n" or "\x7f" <= c <= "\x9f" for c in t)
                  and "\n2026" not in t, t)
        second = w.start(as_user(
            U, os.environ.get("NBDKIT", "nbdkit"), "-f", "-U",
            w.path("U", "2.sock"), w.plugin_path, img), "second.log")
        ended(second)
        s.kill()
        ended(s)
        s = w.serve(U, "odd", store=img)
        s.terminate()
        ended(s)
        for log in ("odd.log", "second.log"):
            t = w.log(log)
            check(log + " is not forged", not any(
                l.startswith(("control /evil", "2026-01-01"))
                for l in t.splitlines()) and "\x1b" not in t
                and "\x9b" not in t, t)


main(globals().copy())
