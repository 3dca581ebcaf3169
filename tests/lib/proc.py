"""proc.py - processes that a test starts.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import ctypes
import os
import signal
import subprocess
import sys

from wait import LONG, wait_for

libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    """For preexec_fn: the kernel kills the child when the thread that started
    it ends, however that ends."""
    libc.prctl(1, signal.SIGKILL)


def spawn(argv, log, env=None, prepare=None, **kw):
    """A server, which dies with the thread that starts it (unless it becomes
    another user).  What it says is added to the file `log`; env is added to
    ours; the child calls prepare before it becomes argv."""
    def before():
        die_with_parent()
        if prepare:
            prepare()

    with open(log, "ab") as f:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=f,
                                stderr=f, env={**os.environ, **(env or {})},
                                preexec_fn=before, **kw)


def end_on_signals():
    """A test that is told to end does what it does at its end."""
    def end(*_):
        sys.exit(1)
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, end)


def state_of(pid, thread=None):
    """The letter that /proc has for a process, or for one of its threads: R,
    S, D, T, Z."""
    task = "" if thread is None else "task/%s/" % thread
    with open("/proc/%d/%sstat" % (pid, task), encoding="utf-8") as f:
        return f.read().rpartition(")")[2].split()[0]


def has_stopped(pid):
    """Each of its threads has seen SIGSTOP, or there is none any more."""
    try:
        return all(state_of(pid, t) in "TZ"
                   for t in os.listdir("/proc/%d/task" % pid))
    except FileNotFoundError:   # one that has just ended
        return False


def freeze(pid):
    """SIGSTOP, and no thread answers anything any more."""
    os.kill(pid, signal.SIGSTOP)
    wait_for("process %d stops" % pid, lambda: has_stopped(pid))


class Process:
    """A server.  What it says is in the file `log`."""

    def __init__(self, name, argv, log, env=None, prepare=None, cwd=None):
        self.name, self.argv, self.log, self.env = name, argv, log, env
        self.prepare, self.cwd = prepare, cwd
        self.begin = 0      # where in the file text() begins
        self.process = None

    def start(self):
        self.process = spawn(self.argv, self.log, self.env, self.prepare,
                             cwd=self.cwd)
        return self

    @property
    def pid(self):
        return self.process.pid

    def text(self):
        with open(self.log, errors="replace", encoding="utf-8") as f:
            f.seek(self.begin)
            return f.read()

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def hang(self):
        """No answers, and all connections stay open."""
        freeze(self.pid)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def wait(self, limit=LONG):
        """Its exit status; -N for a signal."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError("%s does not end" % self.name) from None

    def kill(self, sig=signal.SIGKILL):
        if self.alive():
            self.resume()
            self.process.send_signal(sig)
        return self.wait()

    def term(self):
        self.process.terminate()

    def end(self, limit=LONG):
        self.term()
        return self.wait(limit)


class Nbdkit(Process):
    """nbdkit in the foreground, on a unix socket.  It listens, or has ended,
    when start() returns."""

    def __init__(self, name, socket, log, args, wrap=(), **kw):
        self.socket, self.pidfile = socket, socket + ".pid"
        super().__init__(name, [*wrap, os.environ.get("NBDKIT") or "nbdkit",
                                "-f", "-U", socket, "-P", self.pidfile, *args],
                         log, **kw)

    @property
    def uri(self):
        return "nbd+unix:///?socket=" + self.socket

    def start(self):
        for path in (self.socket, self.pidfile):
            if os.path.exists(path):
                os.unlink(path)
        super().start()
        wait_for(self.name + " starts or ends", self.is_decided)
        return self

    def is_decided(self):
        return not self.alive() or (os.path.exists(self.pidfile)
                                    and os.path.getsize(self.pidfile) > 0)


def as_user(uid, *argv):
    """That command, as that user and nothing else."""
    return ["setpriv", "--reuid=%d" % uid, "--regid=%d" % uid,
            "--clear-groups", *argv]


def cli(*args, limit=LONG, env=None, **kw):
    """What `backfill` says and returns."""
    return subprocess.run(["backfill", *args],
                          **{"stdin": subprocess.DEVNULL, **kw},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=limit,
                          env={**os.environ, **(env or {})})
