"""proc.py - processes that a test starts.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import ctypes
import os
import signal

libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    """For preexec_fn: the kernel kills the child when the thread that started
    it ends, however that ends."""
    libc.prctl(1, signal.SIGKILL)


def state_of(pid, thread=None):
    """The letter that /proc has for a process, or for one of its threads: R,
    S, D, T, Z."""
    task = "" if thread is None else "task/%s/" % thread
    with open("/proc/%d/%sstat" % (pid, task), encoding="utf-8") as f:
        return f.read().rpartition(")")[2].split()[0]


def has_stopped(pid):
    """Each of its threads has seen SIGSTOP."""
    return all(state_of(pid, t) == "T" for t in os.listdir("/proc/%d/task" % pid))
