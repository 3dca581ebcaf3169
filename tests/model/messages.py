#!/usr/bin/python3
"""The cut-over's messages as an adversary sees them: a search over all states.

S has the guest, D shall have it.  Every message that was ever sent may come at
any time and any number of times: so messages are lost, late, repeated and out
of order.  Either side may die at each step and then loses what it has in memory
only: S its freeze and its lease, D nothing that counts.  S freezes, D prepares,
S gives, D owns; D may give back, or abort when it is asked, and join a second
migration.

  messages.py                          both rules matter, and none is missing
  messages.py RULE|ok [F V K]          one of them, with the trace; at most F
                                       freezes, V guest writes, K deaths a side
  messages.py --quick                  small bounds

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import sys
from collections import deque, namedtuple

# The rules that can be left out.
RULES = {
    "freeze-never-again": "a freeze is never called as an earlier one was",
    "lease-checked": "S gives only under a freeze that still holds",
}
# Not a rule: S may take back what was given under another freeze, the
# migration's number is enough.
HARMLESS = "back-names-freeze"

QUICK = (2, 2, 1)
WHOLE = (3, 2, 2)

State = namedtuple(
    "State",
    # S: role ('S' sending, 'G' given), migration, given under which freeze,
    # version of the disk, up, frozen, under which freeze, freezes, deaths
    "s_role s_mid s_given s_version s_up s_frozen s_freeze s_freezes s_deaths "
    # D: role ('I' incoming, 'P' prepared, 'O' owner, 'A' aborted, 'B' gave
    # back), migration, prepared for which freeze and with which version,
    # writes since, up, deaths
    "d_role d_mid d_freeze d_version d_writes d_up d_deaths " "messages",
)
START = State(
    "S", 1, 0, 0, True, False, 0, 0, 0, "I", 1, 0, 0, 0, True, 0, frozenset()
)


def s_serves(s):
    return s.s_up and s.s_role == "S" and not s.s_frozen


def d_serves(s):
    return s.d_up and s.d_role == "O"


def check(s):
    if s_serves(s) and d_serves(s):
        return "two owners serve"
    if s.d_role == "O" and s.s_role == "S":
        return "two durable owners"
    if s.d_role == "O" and s.d_version != s.s_version:
        return "lost write: D owns version %d, S had %d" % (
            s.d_version,
            s.s_version,
        )
    return None


def source_steps(s, rule, freezes, versions, deaths):
    def send(*message, **change):
        return s._replace(messages=s.messages | {message}, **change)

    if s_serves(s) and s.s_version < versions:
        yield "S: the guest writes", s._replace(s_version=s.s_version + 1)
    if s.s_up and s.s_deaths < deaths:
        again = 0 if rule == "freeze-never-again" else s.s_freezes
        yield "S dies", s._replace(
            s_up=False,
            s_frozen=False,
            s_freeze=0,
            s_freezes=again,
            s_deaths=s.s_deaths + 1,
        )
    if not s.s_up:
        yield "S is back", s._replace(s_up=True)
        return
    if s.s_role == "S" and s.s_frozen:
        yield "the lease ends", s._replace(s_frozen=False)
    elif s.s_role == "S" and s.s_freezes < freezes:
        f = s.s_freezes + 1
        yield "freeze %d" % f, send(
            "frozen",
            s.s_mid,
            f,
            s.s_version,
            s_frozen=True,
            s_freeze=f,
            s_freezes=f,
        )
    if s.s_role == "G":
        yield "S asks", send("ask", s.s_mid, s.s_given)
    for m in s.messages:
        if m[1] != s.s_mid:
            continue
        if m[0] == "give":
            holds = s.s_frozen or rule == "lease-checked"
            if s.s_role == "G" and s.s_given == m[2]:
                yield "given again", send("given", s.s_mid, m[2])
            elif s.s_role == "S" and holds and s.s_freeze == m[2]:
                yield "GIVEN %d" % m[2], send(
                    "given",
                    s.s_mid,
                    m[2],
                    s_role="G",
                    s_given=m[2],
                    s_frozen=False,
                )
            else:
                yield "STALE %d" % m[2], send("stale", m[1], m[2])
        if m[0] in ("back", "aborted") and s.s_role == "G":
            if m[2] == s.s_given or rule == HARMLESS:
                yield "S takes back", s._replace(
                    s_role="S", s_mid=s.s_mid + 1, s_given=0
                )


def destination_steps(s, rule, deaths):
    def send(*message, **change):
        return s._replace(messages=s.messages | {message}, **change)

    if d_serves(s) and s.d_writes < 1:
        yield "D: the guest writes", s._replace(d_writes=1)
    if s.d_up and s.d_deaths < deaths:
        yield "D dies", s._replace(d_up=False, d_deaths=s.d_deaths + 1)
    if not s.d_up:
        yield "D is back", s._replace(d_up=True)
        return
    for m in s.messages:
        if m[1] != s.d_mid:
            continue
        newer = m[2] > s.d_freeze or rule == "freeze-never-again"
        if m[0] == "frozen" and (
            s.d_role == "I" or (s.d_role == "P" and newer)
        ):
            yield "PREPARED %d" % m[2], s._replace(
                d_role="P", d_freeze=m[2], d_version=m[3]
            )
        if m[0] == "given" and s.d_role == "P" and m[2] == s.d_freeze:
            yield "OWNER", s._replace(d_role="O", d_writes=0)
        if m[0] == "stale" and s.d_role == "P" and m[2] == s.d_freeze:
            yield "D is not prepared", s._replace(d_role="I")
        if m[0] == "ask" and s.d_role in "IP":
            yield "ABORTED", send("aborted", m[1], m[2], d_role="A")
    if s.d_role == "P":
        yield "D: give %d" % s.d_freeze, send("give", s.d_mid, s.d_freeze)
    if s.d_role == "O" and s.d_writes == 0:
        yield "D gives back", send("back", s.d_mid, s.d_freeze, d_role="B")
    if s.d_role in "AB" and s.d_mid < 2:
        yield "D joins another migration", s._replace(
            d_role="I", d_mid=s.d_mid + 1, d_freeze=0, d_version=0, d_writes=0
        )


def explore(rule, bounds):
    """What is violated (or None), the shortest way there, how many states."""
    freezes, versions, deaths = bounds
    seen = {START: None}
    queue = deque([START])
    number = 0
    while queue:
        s = queue.popleft()
        number += 1
        bad = check(s)
        if bad:
            trace = []
            while seen[s]:
                trace.append(seen[s][0])
                s = seen[s][1]
            return bad, trace[::-1], number
        for steps in (
            source_steps(s, rule, freezes, versions, deaths),
            destination_steps(s, rule, deaths),
        ):
            for name, t in steps:
                if t not in seen:
                    seen[t] = (name, s)
                    queue.append(t)
    return None, [], number


def run(rule, bounds):
    bad, trace, number = explore(rule, bounds)
    print(
        "%-20s %s %8d states: %s" % (rule, bounds, number, bad or "holds"),
        flush=True,
    )
    if bad:
        print("    " + " > ".join(trace))
    return bad


def main(args):
    if args and args[0] != "--quick":
        assert args[0] in ("ok", HARMLESS) or args[0] in RULES, args[0]
        run(args[0], tuple(int(x) for x in args[1:4]) or QUICK)
        return 0
    bounds = QUICK if args else WHOLE
    wrong = ["ok"] if run("ok", bounds) else []
    if run(HARMLESS, bounds):
        wrong.append(HARMLESS)
    wrong += [rule for rule in RULES if not run(rule, WHOLE)]
    if wrong:
        print("WRONG: " + ", ".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
