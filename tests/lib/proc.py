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
