"""locallib.py - what the tests of local files, clients and races share.

A test file defines functions test_*(d): d is a Dir, a folder of the test's
own, whose processes and mounts end with it.  `main (globals ())` runs them.

The disk's content: every sector says where it is and who wrote it, so that
one which is lost, stale, in the wrong place or mixed of two is seen.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import ctypes
import errno
import hashlib
import os
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time

import nbd

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "../lib"))
import proc
import runner
from folder import Dir
from proc import cli, die_with_parent, freeze
from qmp import Qmp as Control, QmpError
from runner import Skip
from wait import LONG, wait_for

SECTOR = 512

NBDKIT = os.environ.get("NBDKIT") or "nbdkit"
PLUGIN = os.environ.get("BACKFILL_PLUGIN", "")
SANITIZER = os.environ.get("SANITIZER", "no")
REPORT = re.compile("(ERROR: (Address|Leak)Sanitizer|runtime error:"
                    "|WARNING: ThreadSanitizer|ThreadSanitizer:DEADLYSIGNAL)")
libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """The server did not start; .text is what it said."""

    def __init__(self, text, code):
        Exception.__init__(self, text)
        self.text = text
        self.code = code


def say(*words):
    print(*words, flush=True)


# --- content ---------------------------------------------------------------

def sector(tag, n):
    return struct.pack("<QQ", tag, n) * (SECTOR // 16)


def pattern(tag, offset, length):
    """What writer `tag` puts there; any alignment."""
    first = offset // SECTOR
    last = (offset + length + SECTOR - 1) // SECTOR
    whole = b"".join(sector(tag, n) for n in range(first, last))
    skip = offset - first * SECTOR
    return whole[skip:skip + length]


def make_golden(path, size, holes=()):
    """The backing store's image; holes are (offset, length)."""
    data = bytearray(pattern(1, 0, size))
    for offset, length in holes:
        data[offset:offset + length] = bytes(length)
    with open(path, "wb") as f:
        f.truncate(size)
        at = 0
        while at < size:
            piece = bytes(data[at:at + 65536])
            if piece.strip(b"\0"):
                f.seek(at)
                f.write(piece)
            at += 65536
    return bytes(data)


def same(got, want, where=0, what="the disk"):
    """Like assert got == want, but says what and where."""
    if got == want:
        return
    assert len(got) == len(want), "%s: %d bytes, not %d" % (what, len(got),
                                                            len(want))
    for i in range(0, len(want), SECTOR):
        g, w = got[i:i + SECTOR], want[i:i + SECTOR]
        if g != w:
            def name(s):
                if not s.strip(b"\0"):
                    return "zeros"
                return "tag %d of sector %d, ..." % struct.unpack("<QQ", s[:16]) \
                    if len(s) >= 16 else repr(s)
            raise AssertionError("%s at %d: is %s, should be %s"
                                 % (what, where + i, name(g), name(w)))


# --- processes -------------------------------------------------------------

class Process(proc.Process):
    """A child whose standard error goes to a file; killed at the latest with
    the test."""

    def __init__(self, d, argv, name, env=None, files=None):
        def prepare():
            if files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        super().__init__(name, argv, d(name + ".err"), env, prepare, d.path)
        if os.path.exists(self.log):
            self.begin = os.path.getsize(self.log)
        self.start()
        d.processes.append(self)

    def stop(self):
        """An orderly end."""
        self.term()
        self.ended()

    def ended(self):
        """It was told to."""
        if SANITIZER != "no":
            # A preloaded runtime begins inside a library's newlocale (), whose
            # lock is wrong from then on: once %m was used, nbdkit's exit ()
            # hangs there.  It has ended when its threads have (the thread
            # sanitizer has one of its own).
            own = 2 if "thread" in SANITIZER else 1
            wait_for("%s ends" % self.name, lambda: not self.alive()
                     or self.threads() <= own)
            time.sleep(0.5)
            if self.alive():
                self.process.kill()
                self.process.wait(LONG)
                return
        code = self.process.wait(LONG)
        assert code == 0, "%s: exit code %s after SIGTERM: %s" \
            % (self.name, code, self.text())

    def threads(self):
        try:
            return len(os.listdir("/proc/%d/task" % self.pid))
        except FileNotFoundError:
            return 0

    def check(self):
        m = REPORT.search(self.text())
        if m:
            raise AssertionError("%s: the sanitizer reports:\n%s"
                                 % (self.name, self.text()[m.start():][:12000]))


def sanitizer_env():
    """nbdkit has no sanitizer in it: the runtime is loaded first."""
    name = "libasan.so" if "address" in SANITIZER else \
        "libtsan.so" if "thread" in SANITIZER else None
    if name is None:
        return {}
    suppressions = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "tsan-suppressions")
    path = subprocess.run([os.environ.get("CC", "gcc"),
                           "-print-file-name=" + name],
                          stdout=subprocess.PIPE, text=True).stdout.strip()
    return {"LD_PRELOAD": path, "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "TSAN_OPTIONS": "second_deadlock_stack=1:history_size=4"
                            ":suppressions=" + suppressions}


class Source(Process):
    """The backing store: nbdkit's file plugin on the golden image.  (With one
    thread a connection: with several this nbdkit may fail an assertion of its
    own, "sock >= 0", when a client is killed that has requests in flight.)"""

    def __init__(self, d, image, filters=(), args=()):
        self.socket = os.path.join(d.path, "source.sock")
        pid = os.path.join(d.path, "source.pid")
        for path in (self.socket, pid):
            if os.path.exists(path):
                os.unlink(path)
        Process.__init__(self, d, [NBDKIT, "-f", "-r", "-t", "1", "-U",
                                   self.socket, "-P", pid]
                         + ["--filter=" + f for f in filters]
                         + ["file", image, *args], "source")
        self.uri = "nbd+unix:///?socket=" + self.socket
        wait_for("the source starts", lambda: os.path.exists(pid)
                 and os.path.getsize(pid) > 0)


class Server(Process):
    """nbdkit with the plugin.  Raises Refused if it does not start."""
    nr = 0

    def __init__(self, d, *args, options=(), run=None, wrap=(), env=None,
                 plugin=None, name=None, control=True, files=None):
        Server.nr += 1
        self.d = d
        name = name or "server%d" % Server.nr
        self.socket = os.path.join(d.path, name + ".sock")
        self.control = os.path.join(d.path, name + ".ctl")
        pid = os.path.join(d.path, name + ".pid")
        if os.path.exists(pid):
            os.unlink(pid)
        keys = ["runtime-dir=" + (run or d.run)]
        if control:
            keys.append("control=" + self.control)
        Process.__init__(self, d, [*wrap, NBDKIT, "-f", "-U", self.socket,
                                   "-P", pid, *options, plugin or PLUGIN,
                                   *map(str, args), *keys],
                         name, env={**sanitizer_env(), **(env or {})},
                         files=files)
        self.handles = []

        def up():
            return not self.alive() or (os.path.exists(pid)
                                        and os.path.getsize(pid) > 0)
        wait_for("the server starts or ends", up)
        # One whose threads cannot be started has written that file too.
        if self.alive() and control:
            try:
                Control(self.control).close()
            except OSError:
                wait_for("it ends", lambda: not self.alive())
        if not self.alive():
            self.check()
            text = self.text()
            d.processes.remove(self)
            raise Refused(text, self.process.returncode)

    def nbd(self, export="", extents=False):
        h = nbd.NBD()
        h.set_export_name(export)
        # Requests out of range are to be sent as they are.
        h.set_strict_mode(0)
        if extents:
            h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        h.connect_unix(self.socket)
        self.handles.append(h)
        return h

    def qmp(self):
        return Control(self.control).negotiate()

    def ask(self, command, **args):
        q = self.qmp()
        try:
            return q.ask(command, **args)
        finally:
            q.close()

    def info(self):
        return self.ask("query-disks")[0]

    def stop(self):
        # nbdkit waits for its clients.
        for h in self.handles:
            try:
                h.shutdown()
            except nbd.Error:
                pass
        Process.stop(self)
        self.check()

    def kill(self, sig=signal.SIGKILL):
        code = Process.kill(self, sig)
        self.check()
        return code

    def fds(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))

    def rss(self):
        with open("/proc/%d/status" % self.pid) as f:
            for line in f:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) << 10
        return 0


def wait_job(server, *states, device=""):
    """Until the job is in one of the states; the job object."""
    def look():
        jobs = server.ask("query-block-jobs", device=device)
        return jobs[0] if jobs and jobs[0]["status"] in states else None
    return wait_for("a job that is %s" % " or ".join(states), look)


def nbd_errno(call, *args, **kw):
    """The error's name, or None if the call succeeded."""
    try:
        call(*args, **kw)
    except nbd.Error as e:
        return e.errno
    return None


# --- what is on disk --------------------------------------------------------

def snapshot(*paths):
    """What is on disk: names, and content of files; to be compared."""
    seen = {}
    for top in paths:
        for path in [top] + [os.path.join(r, n) for r, ds, fs in os.walk(top)
                             for n in ds + fs]:
            try:
                st = os.lstat(path)
            except FileNotFoundError:
                seen[path] = None
                continue
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    digest = hashlib.sha256(f.read()).hexdigest()
                seen[path] = (st.st_mode, st.st_size, digest)
            else:
                seen[path] = (st.st_mode,)
    return seen


def in_run(run, suffix):
    """The files of that kind in the runtime directory: in the directories of
    its processes."""
    return [os.path.join(run, p, f) for p in os.listdir(run)
            if os.path.isdir(os.path.join(run, p))
            for f in os.listdir(os.path.join(run, p)) if f.endswith(suffix)]


def refused(d, *args, words=(), files=(), **kw):
    """The server refuses with one message that has all the words in it, and
    leaves the files, and the working maps, as they are."""
    run = kw.get("run") or d.run
    def look():
        return snapshot(*files, *(in_run(run, ".work")
                                  if os.path.isdir(run) else []))
    before = look()
    try:
        server = Server(d, *args, **kw)
    except Refused as e:
        text, code = e.text, e.code
    else:
        server.kill()
        raise AssertionError("not refused: %s" % (args,))
    assert code == 1, "ended with %s: %s" % (code, text)
    lines = [l for l in text.splitlines() if "error:" in l]
    for word in words:
        assert any(str(word) in l for l in lines), \
            "the message does not say %r: %s" % (word, text)
    after = look()
    assert before == after, "refused, but something was changed: %s" \
        % {k: (before.get(k), after.get(k))
           for k in set(before) | set(after) if before.get(k) != after.get(k)}
    return text


def need_root():
    if os.geteuid() != 0:
        raise Skip("needs root")


def as_user(uid):
    """What to put before a command so that another user runs it."""
    need_root()
    if shutil.which("setpriv") is None:
        raise Skip("no setpriv")
    return proc.as_user(uid)


def as_nobody():
    return as_user(65534)


def built(path):
    """A program of the build tree's test folders."""
    path = os.path.join(os.environ.get("TOP_BUILDDIR", "."), "tests", path)
    if not os.access(path, os.X_OK):
        raise Skip("%s was not built" % path)
    return path


# --- running ---------------------------------------------------------------

def main(_names=None, mounts=False):
    """Run the test_* functions, or those named as arguments."""
    runner.main(Dir, mounts=mounts, verbose=True)
