"""What the tests of backfilld share: a folder, servers in it, and clients.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time

import nbd

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "../lib"))
import wait
from checks import check, finish
from proc import Nbdkit, as_user, cli, end_on_signals, freeze, spawn
from qmp import Qmp
from wait import LONG

REPORT = re.compile("(Thread|Address|Leak|UndefinedBehavior)Sanitizer"
                    "|runtime error:")
MiB = 1 << 20


def wait_for(what, condition, limit=LONG):
    """The value of condition () once it is true; a failed check if never."""
    try:
        return wait.wait_for(what, condition, limit, pause=0.05)
    except wait.TooLate as e:
        check("in time: " + what, False, e.seen)
        return e.seen


def main(names):
    """Run the test_* functions, or those named as arguments."""
    end_on_signals()
    for name, test in sorted(names.items()):
        if name.startswith("test_") and name in (sys.argv[1:] or [name]):
            print("== " + name)
            test()
    sys.exit(finish())


class Place:
    """A folder with a golden image, its server, and a runtime directory."""

    def __init__(self, size=32 * MiB, delay="0"):
        self.dir = os.path.realpath(tempfile.mkdtemp(prefix="bd-", dir="/tmp"))
        os.chmod(self.dir, 0o755)
        for name in ("run", "vols", "state", "other"):
            os.mkdir(self.path(name))
        os.environ["BACKFILL_RUNTIME_DIR"] = self.path("run")
        self.procs = []
        self.golden = os.urandom(size)
        with open(self.path("golden"), "wb") as f:
            f.write(self.golden)
        self.backing = "nbd+unix:///?socket=" + self.path("g.sock")
        self.delay = delay
        self.ended = threading.Event()
        self.start_source()
        self.watcher = threading.Thread(target=self.watch_source)
        self.watcher.start()

    def start_source(self):
        self.source = self.nbdkit(
            "g.sock", "-r", "--filter=delay", "file", self.path("golden"),
            "rdelay=" + self.delay)

    def watch_source(self):
        """nbdkit 1.32 may abort when a client is killed with answers in
        flight: as a unit would, start it again."""
        while not self.ended.wait(0.2):
            if self.source is None or self.source.poll() is not None:
                print("(the source is started again)")
                self.start_source()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.watcher.join()
        for p in reversed(self.procs):
            if p.poll() is None:
                p.kill()
            p.wait()
        if os.path.exists(self.path("daemon.log")):
            log = self.log("daemon.log")
            m = REPORT.search(log)
            if m:
                check("no sanitizer reports", False, log[m.start():][:12000])
        # What a killed server had started may be at work for a moment.
        for _ in range(50):
            shutil.rmtree(self.dir, ignore_errors=True)
            if not os.path.exists(self.dir):
                return
            time.sleep(0.1)

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def vol(self, name):
        return self.path("vols", name)

    def start(self, argv, log):
        p = spawn(argv, self.path(log))
        self.procs.append(p)
        return p

    def log(self, name):
        with open(self.path(name), errors="replace") as f:
            return f.read()

    def nbdkit(self, sock, *args):
        """Started; it listens when this returns.  None if it ended."""
        n = Nbdkit("nbdkit", self.path(sock), self.path("nbdkit.log"), args)
        try:
            n.start()
        except wait.TooLate as e:
            check("in time: nbdkit starts", False, e.seen)
        finally:
            if n.process:
                self.procs.append(n.process)
        return n.process if n.alive() else None

    def plugin(self, store, *keys, sock="p.sock"):
        return self.nbdkit(sock, os.environ["BACKFILL_PLUGIN"], store, *keys)

    def daemon(self, *options):
        p = self.start(["backfilld", "-v", "--runtime-dir=" + self.path("run"),
                        "--state-dir=" + self.path("state"), *options,
                        self.path("vols")], "daemon.log")
        wait_for("backfilld listens", lambda: p.poll() is not None
                 or self.answers())
        return p

    def answers(self):
        try:
            Control(self.path("run", "backfilld.sock")).close()
            return True
        except OSError:
            return False

    def create(self, name, **kw):
        return self.control().call("disk-create", device=self.vol(name),
                                   **{"backing": self.backing, **kw})

    def control(self):
        return Control(self.path("run", "backfilld.sock"))

    def read_store(self, name):
        with open(self.vol(name), "rb") as f:
            return f.read()


class Control(Qmp):
    """A client of a control socket."""
    again = ()

    def __init__(self, path):
        super().__init__(path)
        try:
            self.negotiate()
        except BaseException:
            self.close()
            raise

    def call(self, command, **arguments):
        """What is returned, or the error's object."""
        m = self.command(command, **arguments)
        return m["return"] if "return" in m else m["error"]

    def job(self, path):
        jobs = self.call("query-block-jobs", device=path)
        return jobs[0] if isinstance(jobs, list) and jobs else None


def job_of(path):
    """By the path, whoever has it; None when nobody answers."""
    r = cli("info", path, "--json")
    if r.returncode != 0:
        return None
    return json.loads(r.stdout)["job"]


def connect(sock):
    h = nbd.NBD()
    h.connect_uri("nbd+unix:///?socket=" + sock)
    return h


def stop(process, sig=signal.SIGTERM):
    process.send_signal(sig)
    return process.wait(LONG)
