"""gdb.py - commands for gdb that show what a disk is doing.

  gdb -p PID -x scripts/gdb.py

  bf-claims D    its claims: who has, or waits for, which granules
  bf-fetches D   its fetches: what is asked of the source, or waits for the store
  bf-commit D    the commit that runs, the one that forms, and the syncs
  bf-job D       its job

D is an expression for a struct disk *, such as d in the frame of a disk_*
function.  They only read memory: a core file will do.  The debugging
information of the plugin, or of backfilld, is needed.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import gdb


def members(first):
    """The entries of a linked list."""
    while first:
        yield first.dereference()
        first = first["next"]


def queue(head, link="link"):
    """The entries of a TAILQ (sys/queue.h)."""
    entry = head["tqh_first"]
    while entry:
        yield entry.dereference()
        entry = entry[link]["tqe_next"]


def yes(names, entry):
    """Those of the flags that are set."""
    return "".join(" " + n for n in names if entry[n])


class DiskCommand(gdb.Command):
    """Show a part of a disk's state: NAME D, a struct disk *."""

    def __init__(self, name, show):
        super().__init__(name, gdb.COMMAND_DATA, gdb.COMPLETE_EXPRESSION)
        self.name, self.show = name, show

    def invoke(self, argument, from_tty):
        if not argument:
            raise gdb.GdbError("%s D: a struct disk * is needed" % self.name)
        d = gdb.parse_and_eval(argument)
        try:
            d = d.cast(gdb.lookup_type("struct disk").pointer())
        except gdb.error as e:
            raise gdb.GdbError("%s: %s" % (self.name, e)) from None
        if not d:
            raise gdb.GdbError("%s: %s is NULL" % (self.name, argument))
        for line in self.show(d.dereference()):
            gdb.write(line + "\n")


def claims(d):
    held = []
    for c in queue(d["claims"]["list"]):
        begin, end = int(c["g"]), int(c["end"])
        waits = any(b < end and begin < e for b, e in held)
        held.append((begin, end))
        yield "granules %d to %d%s" % (begin, end,
                                       ": waits" if waits else "")
    yield "%d claims, %d wait" % (len(held), int(d["claims"]["waiting"]))


def fetches(d):
    nr = 0
    for f in queue(d["fetch"]["list"]):
        nr += 1
        yield "bytes %d to %d: %s, error %d, refs %d, job %d%s" % (
            int(f["offset"]), int(f["end"]), f["state"], int(f["error"]),
            int(f["refs"]), int(f["job"]),
            yes(("zero", "demand", "discard", "promote", "passing"), f))
    yield "%d fetches, %d bytes of buffers" % (nr, int(d["fetch"]["backlog"]))


def commit(d):
    c = d["commit"]
    waiters = len(list(members(c["forming"])))
    yield "%s; %d wait for the next, flags 0x%x; error %d" % (
        "one runs" if c["running"] else "none runs", waiters,
        int(c["flags"]), int(c["sticky"]))
    for s in queue(c["under_way"]):
        yield "sync %d is under way" % int(s["nr"])
    yield "%d syncs, %d commits" % (int(c["syncs"]), int(d["commits"]))


def job(d):
    j = d["job"]
    if not j:
        yield "no job, ever"
        return
    j = j.dereference()
    yield "job %d: %s, %s%s" % (int(j["number"]), j["status"], j["result"],
                                yes(("pumping", "stop", "abort", "failing"),
                                    j))
    yield "bytes %d to %d; %d requests of %d bytes in flight, %d failed" % (
        int(j["offset"]), int(j["end"]), int(j["in_flight"]),
        int(j["bytes_in_flight"]), int(j["nr_failed"]))


for name, show in (("bf-claims", claims), ("bf-fetches", fetches),
                   ("bf-commit", commit), ("bf-job", job)):
    DiskCommand(name, show)
