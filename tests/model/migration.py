#!/usr/bin/python3
"""Migration as an adversary sees it: each scenario is searched over all states.

S serves the guest, D shall have the disk.  Every control message may be lost,
late, repeated or out of order.  Either side may be killed or lose power at each
step; a power cut takes back any part of what was not synced.

  rounds  planes, claims, take, rounds, LOST, failed syncs, freeze, give with a
          header write that fails, OWNER (pre-copy)
  post    post-copy by a new map, flush before GIVEN, W, fetches asked before
          the freeze, the latch, undo
  first   cutover=first-write: who may still run when D's first write moves it
  group   two disks and a leader, headers written one by one, taking back
  follow  the same with one rule in place of two: the leader's header decides
  header  two header copies, the second written later
  digest  which digest proves a region
  hold    held writes of clients that have gone
  ask     who may forget what
  force   epochs of forced owners

  migration.py                      all scenarios hold, and leaving out any rule
                                    is seen: then it exits with 0
  migration.py --quick              the same with smaller bounds for what holds
  migration.py SCENARIO [RULE]      one of them, with RULE left out, and how it
                                    comes to that

LEFT_OUT says of each rule what it is.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import sys
from collections import deque, namedtuple
from itertools import product


def explore(sc, cap=3000000):
    init = sc.init()
    seen = {init: None}
    q = deque([init])
    n = 0
    while q:
        s = q.popleft()
        n += 1
        bad = sc.check(s)
        if bad:
            tr, x = [], s
            while seen[x]:
                tr.append(seen[x][0])
                x = seen[x][1]
            return bad, list(reversed(tr)), n, False
        for a, t in sc.succ(s):
            t = sc.norm(t)
            if t not in seen:
                seen[t] = (a, s)
                q.append(t)
        if n >= cap:
            return None, [], n, True
    # From everywhere somebody can come to serve, if nothing more dies.
    if sc.wedge:
        ok = {s for s in seen if sc.good(s)}
        back = {}
        for s in seen:
            for a, t in sc.succ(s):
                if not a.startswith("!"):
                    back.setdefault(sc.norm(t), []).append(s)
        q = deque(ok)
        while q:
            for p in back.get(q.popleft(), ()):
                if p not in ok:
                    ok.add(p)
                    q.append(p)
        for s in seen:
            if s not in ok:
                tr, x = [], s
                while seen[x]:
                    tr.append(seen[x][0])
                    x = seen[x][1]
                return (
                    "WEDGED: nobody can ever serve",
                    list(reversed(tr)),
                    n,
                    False,
                )
    return None, [], n, False


class Scenario:
    wedge = False

    def norm(self, s):
        return s


def put(t, i, v):
    return t[:i] + (v,) + t[i + 1 :]


def olds(new, old):
    """What a power cut may leave."""
    return product(*({a, b} for a, b in zip(new, old)))


# rounds
R = namedtuple(
    "R",
    "sR sD sU gen c d op L Lm Fn Fm Ff frz nF fail "
    "dR dU rg rn cur lf pf x y ms k e gf",
)


class Rounds(Scenario):
    """Rounds, to OWNER.

    sR, sD: S's role in memory and on disk ('S' sending, 'G' given, 'U'
    undecided, '?' unknown); c, d: S's bytes as seen and as durable; op: the
    guest's write in flight (granule, phase, plane); L the live plane, F the
    frozen one, Ff the freeze under which F was flipped; rg, rn: D's durable
    round; cur: its round in progress (generation, number, todo, freeze); lf:
    its last round's freeze; x, y: D's bytes as seen and as durable; e: what the
    guest at S has been told; k: how many more writes, kills of S, power cuts of
    S, failed syncs, failed header writes, kills of D, power cuts of D, freezes.
    """

    wedge = False
    MUT = {  # the rule left out: the budgets that show it
        "grace": (2, 0, 0, 0, 0, 0, 0, 1),
        "mark-first": (1, 1, 0, 0, 0, 0, 0, 1),
        "numbered": (1, 0, 0, 0, 0, 1, 0, 1),
        "marks-durable": (1, 1, 0, 0, 0, 0, 0, 1),
        "lost-after-power": (1, 0, 1, 0, 0, 0, 0, 1),
        "lost-if-missing": (1, 1, 0, 0, 0, 0, 0, 1),
        "gone-is-lost": (2, 0, 0, 0, 0, 0, 1, 1),
        "sync-then-record": (1, 0, 0, 0, 0, 0, 1, 1),
        "no-late-copier": (1, 0, 0, 0, 0, 0, 0, 1),
        "no-join": (1, 0, 0, 0, 0, 0, 0, 1),
        "last-names-freeze": (1, 0, 0, 0, 0, 0, 0, 1),
        "lease": (1, 0, 0, 0, 0, 0, 0, 1),
        "freeze-unique": (1, 1, 0, 0, 0, 0, 0, 2),
        "given-durable": (1, 1, 0, 0, 0, 0, 0, 1),
        "unsure-holds": (1, 1, 0, 0, 1, 0, 0, 1),
        "failed-sync-is-lost": (1, 1, 0, 1, 0, 0, 0, 1),
        "failed-sync-refuses": (1, 0, 0, 1, 0, 0, 0, 1),
        "map-granule": (1, 0, 0, 0, 0, 0, 0, 1),
    }
    OK = [
        (2, 0, 0, 0, 0, 0, 0, 2),
        (2, 1, 0, 0, 1, 0, 0, 2),
        (2, 1, 0, 0, 0, 1, 0, 1),
        (2, 0, 1, 0, 0, 0, 0, 1),
        (1, 0, 1, 0, 0, 0, 1, 1),
        (1, 1, 0, 1, 0, 0, 0, 1),
        (1, 1, 1, 0, 0, 1, 0, 1),
    ]
    QUICK = [
        (2, 0, 0, 0, 0, 0, 0, 1),
        (1, 1, 0, 0, 1, 0, 0, 2),
        (1, 1, 0, 0, 0, 1, 0, 1),
        (1, 0, 1, 0, 0, 0, 0, 1),
        (1, 0, 0, 0, 0, 0, 1, 1),
        (1, 1, 0, 1, 0, 0, 0, 1),
    ]
    N = 3  # rounds a generation

    def __init__(self, mut="", k=None, g=2):
        self.m, self.k, self.G = (
            mut,
            k or (self.MUT[mut] if mut else self.OK[0]),
            g,
        )
        self.all = (1 << g) - 1

    def init(self):
        z = (0,) * self.G
        return R(
            "S",
            "S",
            True,
            1,
            z,
            z,
            None,
            1,
            0,
            0,
            0,
            0,
            0,
            0,
            False,
            "I",
            True,
            0,
            0,
            None,
            0,
            0,
            z,
            z,
            frozenset(),
            self.k,
            z,
            0,
        )

    def norm(self, s):
        if s.sR == "S" and s.e != s.c:
            s = s._replace(e=s.c)
        if self.m in ("no-late-copier", "no-join", "gone-is-lost", "numbered"):
            return s
        # Without what nobody will ever look at again.
        cur = s.cur[:2] if s.cur else None
        ms = frozenset(
            q
            for q in s.ms
            if not (
                q[0] in ("plane", "take")
                and q[1] == s.rg
                and q[2] <= s.rn
                or q[0] == "lost"
                and q[1] == s.rg
                or q[0] == "data"
                and q[1:3] != cur
                or q[0] == "stale"
                and s.pf
                and q[1] < s.pf
            )
        )
        return s if ms == s.ms else s._replace(ms=ms)

    def check(self, s):
        if s.dR == "O":
            if s.sR == "S":
                return "TWO OWNERS"
            if s.y != s.e:
                return "LOST OR STALE: D owns %s, the guest at S had %s" % (
                    s.y,
                    s.e,
                )

    def prune(self, ms, rg, rn):
        if self.m in ("no-late-copier", "no-join", "gone-is-lost", "numbered"):
            return ms
        return frozenset(
            q
            for q in ms
            if not (
                q[0] in ("plane", "take", "data") and q[1] == rg and q[2] <= rn
            )
        )

    def succ(self, s):
        m, G, k = self.m, self.G, s.k

        def use(i):
            return put(k, i, k[i] - 1)

        if s.dR == "O":
            return
        # the guest at S
        if s.sU and s.sR == "S" and not s.frz and s.op is None and k[0]:
            for g in range(G):
                yield "guest claims %d in plane %d" % (g, s.L), s._replace(
                    op=(g, 0, s.L), k=use(0)
                )
        if s.sU and s.op and s.sR == "S":
            g, ph, n = s.op
            mark = (
                lambda: {"Lm": s.Lm | 1 << g}
                if n == s.L
                else {"Fm": s.Fm | 1 << g}
                if n == s.Fn
                else {}
            )
            if m == "mark-first":
                if ph == 0:
                    yield "store %d" % g, s._replace(
                        c=put(s.c, g, s.c[g] + 1), op=(g, 1, n)
                    )
                else:
                    yield "mark", s._replace(op=None, **mark())
            elif ph == 0:
                yield "mark %d in %d" % (g, n), s._replace(
                    op=(g, 1, n), **mark()
                )
            else:
                yield "store %d, reply" % g, s._replace(
                    c=put(s.c, g, s.c[g] + 1), op=None
                )
        if s.sU and not s.fail and s.d != s.c:
            yield "S syncs", s._replace(d=s.c)
        if s.sU and k[3] and not s.fail and s.d != s.c:
            yield "a sync of S fails", s._replace(
                fail=True,
                k=use(3),
                gen=s.gen + (m == "failed-sync-refuses"),
                **(
                    dict(L=1, Lm=0, Fn=0, Fm=0, Ff=0)
                    if m == "failed-sync-refuses"
                    else {}
                )
            )
        if s.fail and s.sU and s.op is None:
            for g in range(G):
                if s.c[g] != s.d[g]:
                    yield "the kernel forgets %d" % g, s._replace(
                        c=put(s.c, g, s.d[g])
                    )
        # S dies
        new = dict(L=1, Lm=0, Fn=0, Fm=0, Ff=0)

        def after(r):
            for sd in ("S", "G") if r.sD == "?" else (r.sD,):
                yield r._replace(
                    sU=False,
                    sR=sd,
                    sD=sd,
                    op=None,
                    frz=0,
                    nF=0 if m == "freeze-unique" else r.nF,
                )

        if s.sU and k[1]:
            r = s._replace(k=use(1))
            if s.fail:
                # Reopened: what is seen is settled and durable again, planes
                # are worth nothing.
                for c in olds(s.c, s.d):
                    for t in after(
                        r._replace(
                            c=c,
                            d=c,
                            fail=False,
                            **(
                                {}
                                if m == "failed-sync-is-lost"
                                else dict(gen=s.gen + 1, **new)
                            )
                        )
                    ):
                        yield "S is killed and reopens", t
            else:
                lose = (
                    dict(Lm=0)
                    if m == "marks-durable"
                    else dict(Lm=0, Fm=0, L=s.L, Fn=s.Fn)
                    if m == "lost-if-missing"
                    else {}
                )
                for t in after(r._replace(**lose)):
                    yield "S is killed", t
        if s.sU and k[2]:
            for c in olds(s.c, s.d):
                for t in after(
                    s._replace(
                        k=use(2),
                        c=c,
                        d=c,
                        fail=False,
                        gen=s.gen + (m != "lost-after-power"),
                        **(new if m != "lost-after-power" else dict(Lm=0, Fm=0))
                    )
                ):
                    yield "S loses power: %s" % (c,), t
        if not s.sU:
            yield "S is back", s._replace(sU=True)
        # S answers
        if s.sU and s.sR == "S":
            if s.frz:
                yield "lease ends", s._replace(frz=0)
            elif (
                k[7]
                and (s.op is None)
                and (
                    not s.fail
                    or m == "failed-sync-is-lost"
                    or m == "failed-sync-refuses"
                )
            ):
                yield "freeze %d" % (s.nF + 1), s._replace(
                    frz=s.nF + 1, nF=s.nF + 1, k=use(7)
                )
        if s.sU and s.sR in "SG":
            for q in s.ms:
                if (
                    q[0] == "take"
                    and s.sR == "S"
                    and not (
                        s.fail
                        and m
                        not in ("failed-sync-is-lost", "failed-sync-refuses")
                    )
                ):
                    _, b, n = q
                    if b != s.gen:
                        yield "LOST %d" % s.gen, s._replace(
                            ms=s.ms | {("lost", s.gen)}
                        )
                    elif m == "numbered":
                        yield "take and clear", s._replace(
                            Lm=0, ms=s.ms | {("plane", b, n, s.Lm, s.frz)}
                        )
                    elif n == s.Fn:
                        if m == "grace" or not (s.op and s.op[2] == n):
                            yield "plane %d: %s" % (n, bin(s.Fm)), s._replace(
                                ms=s.ms | {("plane", b, n, s.Fm, s.Ff)}
                            )
                    elif n == s.L and not (s.op and s.op[2] == s.Fn):
                        yield "flip to %d" % (n + 1), s._replace(
                            Fn=n, Fm=s.Lm, Ff=s.frz, L=n + 1, Lm=0
                        )
                    elif n < s.Fn:
                        if m == "gone-is-lost":
                            yield "plane %d is gone: empty" % n, s._replace(
                                ms=s.ms | {("plane", b, n, 0, 0)}
                            )
                if q[0] == "give":
                    f = q[1]
                    if s.sR == "G":
                        if f == s.gf:
                            yield "given again", s._replace(
                                ms=s.ms | {("given", f)}
                            )
                    elif (s.frz == f or (m == "lease" and s.nF == f)) and (
                        not s.fail or m == "failed-sync-refuses"
                    ):
                        yield "GIVEN %d" % f, s._replace(
                            sR="G",
                            sD="G" if m != "given-durable" else "S",
                            gf=f,
                            frz=0,
                            ms=s.ms | {("given", f)},
                        )
                        if k[4]:
                            r = s._replace(k=use(4), sD="?", gf=f, frz=0)
                            yield "GIVEN fails, not known how", r._replace(
                                sR="S" if m == "unsure-holds" else "U"
                            )
                    elif s.sR == "S":
                        yield "STALE %d" % f, s._replace(
                            ms=s.ms | {("stale", f)}
                        )
        if s.sU and s.sR == "U":
            yield "header is written again as GIVEN", s._replace(
                sR="G", sD="G", ms=s.ms | {("given", s.gf)}
            )
            yield "header is written again as SENDING", s._replace(
                sR="S", sD="S"
            )
        # D dies
        clean = frozenset(q for q in s.ms if q[0] != "data")
        if s.dU and k[5]:
            yield "D is killed", s._replace(
                dU=False, cur=None, lf=0, ms=clean, k=use(5)
            )
        if s.dU and k[6]:
            for x in olds(s.x, s.y):
                yield "D loses power", s._replace(
                    dU=False, cur=None, lf=0, ms=clean, x=x, y=x, k=use(6)
                )
        if not s.dU:
            yield "D is back", s._replace(dU=True)
        if not s.dU:
            return
        # D
        if (
            s.dR == "I"
            and s.cur is None
            and (s.rn < self.N or s.lf or s.rg != s.gen)
        ):
            t = ("take", s.rg, s.rn + 1)
            if t not in s.ms and not s.lf and s.rn < self.N:
                yield "D: take %d" % t[2], s._replace(ms=s.ms | {t})
            for q in s.ms:
                if q[0] == "lost" and q[1] != s.rg and not s.lf:
                    yield "D begins anew", s._replace(
                        cur=(q[1], 0, self.all, 0), rg=0
                    )
                if (
                    q[0] == "plane"
                    and q[1] == s.rg
                    and q[2] == s.rn + 1
                    and not s.lf
                ):
                    yield "round %d" % q[2], s._replace(
                        cur=(
                            q[1],
                            q[2],
                            q[3],
                            s.frz if m == "last-names-freeze" else q[4],
                        )
                    )
            if s.lf:
                yield "PREPARED %d" % s.lf, s._replace(dR="P", pf=s.lf, lf=0)
        if s.cur and s.dR == "I":
            b, n, todo, ff = s.cur
            for g in range(G):
                if not todo >> g & 1:
                    continue
                if s.sU and (
                    m in ("no-late-copier", "no-join")
                    or not any(
                        q[0] == "data" and q[:4] == ("data", b, n, g)
                        for q in s.ms
                    )
                ):
                    yield "D reads %d" % g, s._replace(
                        ms=s.ms | {("data", b, n, g, s.c[g])}
                    )
                if (
                    s.sU
                    and not ff
                    and s.gen == b
                    and s.L == n + 1
                    and s.Lm >> g & 1
                ):
                    yield "skip %d" % g, s._replace(
                        cur=(b, n, todo & ~(1 << g), ff)
                    )
            for q in s.ms:
                if q[0] != "data":
                    continue
                g = q[3]
                if (
                    q[1:3] == (b, n)
                    and todo >> g & 1
                    or (m == "no-join" and q[1] == b and todo >> g & 1)
                ):
                    x = put(s.x, g, q[4])
                    r = dict(cur=(b, n, todo & ~(1 << g), ff))
                    # One granule of a plane fills a larger one of the map.
                    if m == "map-granule":
                        x = (q[4],) * G
                    if m not in ("no-late-copier", "no-join"):
                        r["ms"] = s.ms - {q}
                    yield "D stores %d" % g, s._replace(x=x, **r)
                elif m == "no-late-copier" and q[1] == b and q[2] < n:
                    yield "late copier %d" % g, s._replace(
                        x=put(s.x, g, q[4]), ms=s.ms - {q}
                    )
            if todo == 0:
                r = s._replace(
                    rg=b, rn=n, cur=None, lf=ff, ms=self.prune(s.ms, b, n)
                )
                if m == "sync-then-record":
                    yield "sync", s._replace(y=s.x)
                else:
                    r = r._replace(y=s.x)
                yield "round %d is durable" % n, r
                if m == "gone-is-lost" and n:
                    yield "done before durable", s._replace(
                        cur=None, ms=s.ms | {("take", b, n + 1)}
                    )
        if s.dR == "P":
            if ("give", s.pf) not in s.ms:
                yield "D: give %d" % s.pf, s._replace(
                    ms=s.ms | {("give", s.pf)}
                )
            for q in s.ms:
                if q == ("given", s.pf):
                    yield "OWNER", s._replace(dR="O")
                if q == ("stale", s.pf):
                    yield "D: not prepared", s._replace(dR="I")


# post
P = namedtuple(
    "P", "sR sU c d nd dR dU live dur x y wold fl fetch latch ldur e f gd und k"
)


class Post(Scenario):
    """After a post-copy's freeze.

    S's bytes are c, durable d.  D has granule 0 from a durable round, and of
    granule 1 an old version, which its old map calls local.  After GIVEN a
    guest lives at D: e what it was told, f what it flushed, gd whether it is
    alive.  k: kills of S, power cuts of S, kills of D, power cuts of D, writes.
    """

    wedge = False
    MUT = {
        "flush-before-given": (0, 1, 0, 0, 0),
        "s2-minus-plane": (0, 0, 0, 0, 0),
        "s2-minus-unfinished": (0, 0, 0, 0, 0),
        "w-empty": (0, 0, 1, 0, 0),
        "asked-after-freeze": (0, 0, 0, 0, 0),
        "absent-only": (0, 0, 0, 0, 1),
        "data-before-area": (0, 0, 0, 1, 0),
        "latch-durable": (0, 0, 0, 1, 1),
        "latch-first": (0, 0, 0, 1, 1),
        "undo-needs-no-latch": (0, 0, 0, 0, 1),
        "owner-keeps-feature-bit": (0, 0, 0, 0, 1),
        "undo-asks-s": (0, 0, 0, 0, 0),
    }
    OK = [(1, 1, 1, 1, 1), (0, 1, 0, 1, 2)]

    def __init__(self, mut="", k=None):
        self.m, self.k = mut, k or (self.MUT[mut] if mut else self.OK[0])

    def init(self):
        s2 = {"s2-minus-plane": 0b11, "s2-minus-unfinished": 0b11}.get(
            self.m, 0b01
        )
        y = (0, 0) if self.m == "data-before-area" else (1, 0)
        return P(
            "S",
            True,
            (1, 1),
            (0, 0),
            False,
            "P",
            True,
            s2,
            s2,
            (1, 0),
            y,
            0b10 if self.m == "w-empty" else 0,
            (),
            frozenset({(1, 0, "old")}),
            False,
            False,
            (1, 1),
            (0, 0),
            False,
            False,
            self.k,
        )

    def vis(self, s, g):
        if s.live >> g & 1:
            return {s.x[g]}
        v = {s.c[g]} if s.sU and not s.nd else set()
        if self.m == "asked-after-freeze":
            v |= {t[1] for t in s.fetch if t[0] == g}
        return v

    def check(self, s):
        if s.dR == "O" and s.sR == "O":
            return "TWO OWNERS"
        if s.dR == "O" and s.gd:
            for g in (0, 1):
                for v in self.vis(s, g):
                    if v != s.e[g]:
                        return (
                            "THE GUEST READS VERSION %d OF %d, IT KNOWS %d"
                            % (v, g, s.e[g])
                        )
        if s.sR == "O" and s.c != s.e:
            return "LOST WRITE BY UNDO: S serves %s, the guest was told %s" % (
                s.c,
                s.e,
            )
        if s.dR == "O" and not s.gd and s.dU:
            for g in (0, 1):
                for v in self.vis(s, g):
                    if v < s.f[g]:
                        return "FLUSHED WRITE LOST: %d of %d" % (v, g)
        if s.dR == "B" and s.nd:
            return "WEDGED: given back to a source that is gone"

    def succ(self, s):
        m, k = self.m, s.k

        def use(i):
            return put(k, i, k[i] - 1)

        if s.sR == "O":
            return
        if s.sU and s.sR == "S":
            yield "GIVEN", s._replace(
                sR="G", d=s.d if m == "flush-before-given" else s.c
            )
        if s.sU and s.sR == "G":
            if k[0]:
                yield "S is killed", s._replace(sU=False, k=use(0))
            if k[1]:
                for c in olds(s.c, s.d):
                    yield "S loses power: %s" % (c,), s._replace(
                        sU=False, c=c, d=c, k=use(1)
                    )
            if m == "undo-asks-s" and s.dR == "O" and s.live == 3 and not s.nd:
                yield "the operator removes S", s._replace(nd=True)
        if not s.sU:
            yield "S is back", s._replace(sU=True)
        if s.dR == "P" and s.sR == "G":
            yield "OWNER", s._replace(
                dR="O",
                gd=True,
                f=(1, 1),  # all was flushed at the pause
                fetch=s.fetch if m == "asked-after-freeze" else frozenset(),
            )
        if s.dR == "O" and s.dU:
            if k[2]:
                yield "D is killed", s._replace(
                    dU=False,
                    fetch=frozenset(),
                    live=s.live | s.wold,
                    latch=s.ldur,
                    k=use(2),
                )
            if k[3]:
                for x in olds(s.x, s.y):
                    yield "D loses power", s._replace(
                        dU=False,
                        gd=False,
                        fetch=frozenset(),
                        live=s.dur,
                        x=x,
                        y=x,
                        latch=s.ldur,
                        wold=0,
                        k=use(3),
                    )
            for g in (0, 1):
                if (
                    s.gd
                    and k[4]
                    and (
                        s.latch
                        or m
                        in (
                            "owner-keeps-feature-bit",
                            "undo-needs-no-latch",
                            "latch-first",
                        )
                    )
                ):
                    yield "guest writes %d" % g, s._replace(
                        x=put(s.x, g, s.e[g] + 1),
                        live=s.live | 1 << g,
                        e=put(s.e, g, s.e[g] + 1),
                        k=use(4),
                    )
                if (
                    not s.live >> g & 1
                    and s.sU
                    and not any(t[0] == g for t in s.fetch)
                ):
                    yield "D asks for %d" % g, s._replace(
                        fetch=s.fetch | {(g, s.c[g], "new")}
                    )
            for t in s.fetch:
                r = s._replace(fetch=s.fetch - {t})
                if not s.live >> t[0] & 1 or m == "absent-only":
                    yield "D keeps %d" % t[0], r._replace(
                        x=put(s.x, t[0], t[1]), live=s.live | 1 << t[0]
                    )
                else:
                    yield "local by now", r
            if s.y != s.x or s.dur != s.live:
                yield "commit", s._replace(
                    y=tuple(
                        s.x[g] if s.live >> g & 1 else s.y[g] for g in (0, 1)
                    ),
                    dur=s.live,
                    f=s.e if s.gd else s.f,
                )
            if s.gd and not s.latch and k[4]:
                yield "latch", s._replace(
                    latch=True, ldur=m not in ("latch-durable",)
                )
            if (
                (not s.latch or m == "undo-needs-no-latch")
                and s.sU
                and not (m != "undo-asks-s" and s.nd)
            ):
                yield "D gives back", s._replace(dR="B")
        if s.dR == "O" and not s.dU:
            yield "D is back", s._replace(dU=True, e=s.e if s.gd else s.e)
        if s.dR == "B" and s.sU and not s.nd:
            yield "S takes back", s._replace(sR="O")


# first
Q = namedtuple("Q", "gS conn gD c p want held dR stray")


class First(Scenario):
    """D's first write asks for the disk.

    gS: S's guest runs, is paused or gone; conn: its connection is open; gD: D's
    is incoming or runs; c: the disk's version, p: the one that D's guest came
    with; want: D has told S that somebody lives at D, S counts changes since.
    """

    wedge = False
    MUT = {"source-has-left": 0, "nobody-wrote-since": 0}
    OK = [0]

    def __init__(self, mut="", k=None):
        self.m = mut

    def init(self):
        return Q("run", True, "inc", 0, 0, -1, False, "I", False)

    def check(self, s):
        if s.dR == "O" and s.gS == "run":
            return "A RUNNING GUEST IS ROBBED OF ITS DISK"
        if s.dR == "O" and s.gD == "run" and s.p != s.c:
            return "D'S GUEST RUNS ON A DISK THAT CHANGED UNDER IT"

    def succ(self, s):
        if s.dR == "O":
            return
        if s.gS == "run" and s.c < 2:
            yield "guest at S writes", s._replace(c=s.c + 1)
        if s.gS == "run" and s.gD == "inc":
            yield "RAM is over: S paused, D runs", s._replace(
                gS="paused", gD="run", p=s.c
            )
        if s.gS == "paused":
            yield "Confirm: QEMU at S ends", s._replace(gS="gone", conn=False)
        # The reply of Finish is lost: libvirt lets S run on.  (D's guest has
        # done some I/O by then: want.)
        if s.gS == "paused" and s.want >= 0:
            yield "Finish is lost: S runs on", s._replace(gS="run")
        if s.gS == "run" and s.gD == "run":
            yield "the operator kills QEMU at S", s._replace(
                gS="gone", conn=False
            )
        if s.gD == "inc" and not s.stray:
            yield "somebody else writes to D", s._replace(
                stray=True, held=True, want=s.c
            )
        if s.gD == "run" and s.want < 0:
            yield "D's guest reads: S is told", s._replace(want=s.c)
        if s.gD == "run" and not s.held:
            yield "D's guest writes: held", s._replace(
                held=True, want=s.c if s.want < 0 else s.want
            )
        if (
            s.held
            and (not s.conn or self.m == "source-has-left")
            and (s.c == s.want or self.m == "nobody-wrote-since")
        ):
            yield "cut-over", s._replace(dR="O")


# group
T = namedtuple("T", "a b mem mid dA dB ms cr torn")


class Group(Scenario):
    """Two headers, and a role for the time between them.

    a: the leader's, b: the other's: 'S', 'V1' (giving in migration 1) or 'G1'.
    """

    wedge = True
    MUT = {"take-back-in-order": 2, "giving-names-mid": 2}
    OK = [2]

    def __init__(self, mut="", k=None):
        self.m, self.k = mut, 2

    def init(self):
        return T("S", "S", "S", 1, "I", "I", frozenset(), self.k, "")

    def res(self, s):
        if s.b[0] == "V":
            return (
                "G"
                if s.a[0] == "G"
                and (s.a[1:] == s.b[1:] or self.m == "giving-names-mid")
                else "S"
            )
        return s.b[0]

    def good(self, s):
        return s.dA == "O" or s.a in ("S", "G2") and self.res(s) == "S"

    def check(self, s):
        if s.torn:
            return s.torn
        if s.dA == "O" and s.a != "G1":
            return "TWO OWNERS"

    def succ(self, s):
        if s.dA == "O" and s.b == "G1" and s.dB == "O":
            return
        if s.cr:  # S dies, and reads its headers again
            t = ""
            if (s.a[0] == "G") != (self.res(s) == "G") and s.mid == 1:
                t = "GROUP TORN: leader %s, other %s" % (s.a, s.b)
            if (
                self.m == "giving-names-mid"
                and s.mid == 2
                and s.a == "G2"
                and s.b == "V1"
                and self.res(s) == "G"
            ):
                t = "A DISK THAT STAYED IS NOT SERVED"
            yield "!S dies", s._replace(
                cr=s.cr - 1, torn=t, mem="S" if s.a[0] == "S" else "G"
            )
        if s.mid == 1:
            if s.a == "S" and s.b == "S" and s.dA == "I":
                yield "D: PREPARED in both", s._replace(dA="P", dB="P")
            if s.a == "S" and s.dA == "P":
                if s.b == "S":
                    yield "other: GIVING", s._replace(b="V1")
                if s.b == "V1":
                    yield "leader: GIVEN", s._replace(
                        a="G1", ms=s.ms | {"given"}
                    )
            if s.a == "G1":
                yield "given again", s._replace(ms=s.ms | {"given"})
                if s.b == "V1" and "aborted" not in s.ms:
                    yield "other: GIVEN", s._replace(b="G1")
            if s.dA == "P":
                if "given" in s.ms:
                    yield "D leader: OWNER", s._replace(dA="O")
                if s.a == "G1":
                    yield "D aborts", s._replace(dA="X", ms=s.ms | {"aborted"})
            if s.dA == "O" and s.dB == "P":
                yield "D other: OWNER", s._replace(dB="O")
            if "aborted" in s.ms and s.a == "G1":
                if s.b == "G1" and self.m != "take-back-in-order":
                    yield "other back to GIVING", s._replace(b="V1")
                elif self.m == "take-back-in-order" and s.b == "G1":
                    yield "leader takes back", s._replace(a="S")
                else:
                    yield "leader takes back", s._replace(a="S")
            if s.a == "S" and s.dA == "X" and s.b != "S":
                yield "other takes back", s._replace(b="S")
            if (
                s.a == "S"
                and s.dA == "X"
                and (s.b == "S" or self.m == "giving-names-mid")
            ):
                yield "leader migrates alone", s._replace(mid=2)
        elif s.a == "S":
            yield "leader: GIVEN 2", s._replace(a="G2")


class Follow(Group):
    """A follower has no role of its own: one header, nothing to order."""

    MUT = {}

    def res(self, s):
        return s.a[0]

    def succ(self, s):
        if s.cr:
            yield "!S dies", s._replace(
                cr=s.cr - 1,
                torn=""
                if (s.a[0] == "G") == (self.res(s) == "G")
                else "GROUP TORN",
            )
        if s.a == "S" and s.dA == "I":
            yield "D: PREPARED (leader, after the data of all)", s._replace(
                dA="P"
            )
        if s.a == "S" and s.dA == "P":
            yield "GIVEN", s._replace(a="G1", ms=s.ms | {"given"})
        if s.a == "G1":
            yield "given again", s._replace(ms=s.ms | {"given"})
        if s.dA == "P" and "given" in s.ms:
            yield "OWNER", s._replace(dA="O")
        if s.dA == "P" and s.a == "G1":
            yield "D aborts", s._replace(dA="X", ms=s.ms | {"aborted"})
        if s.a == "G1" and "aborted" in s.ms:
            yield "S takes back", s._replace(a="S", mid=2)


# header
H = namedtuple("H", "copy late todo said cr shown")


class Header(Scenario):
    """Two copies (sequence, role); None is a torn one.

    A decision is told after its first copy, the second follows.
    """

    wedge = False
    MUT = {"second-before-next": 2, "both-before-acting": 2}
    OK = [2]

    def __init__(self, mut="", k=None):
        self.m = mut

    def init(self):
        return H(((1, "S"), (1, "S")), None, None, False, 2, "S")

    def best(self, s):
        return max(x for x in s.copy if x)

    def check(self, s):
        if s.said and s.shown == "S":
            return "GIVEN WAS TOLD, AND THE HEADER SAYS SENDING AGAIN"

    def succ(self, s):
        seq, _ = self.best(s)
        if (
            s.todo is None
            and (s.late is None or self.m == "second-before-next")
            and seq < 4
        ):
            # The first one gives; in later ones, of sessions, the role stays.
            yield "write copy A", s._replace(
                todo=(seq + 1, "G"), copy=(None, s.copy[1])
            )
        if s.todo:
            yield "copy A is durable: told", s._replace(
                copy=(s.todo, s.copy[1]),
                late=s.todo,
                todo=None,
                said=True,
                shown="G",
            )
        if s.late and s.todo is None:
            yield "write copy B", s._replace(
                copy=(s.copy[0], s.late), late=None
            )
        if s.cr and any(s.copy):
            t = s._replace(todo=None, late=None, cr=s.cr - 1)
            b = self.best(t)
            t = t._replace(shown=b[1])
            if self.m != "both-before-acting":
                t = t._replace(copy=(b, b))
            yield "power loss, reopened", t


# hold, ask
K = namedtuple("K", "q nxt disk told mid live")


class Hold(Scenario):
    """Writes 1 and 2 to the same bytes are held.

    The client of 1 has gone, 2 is of its successor.  At D a held write belongs
    to the migration under which it came: the guest that sent it may never have
    been.
    """

    MUT = {"held-in-order": 0, "held-ends-with-mid": 0}
    OK = [0]

    def __init__(self, mut="", k=None):
        self.m = mut

    def init(self):
        return K((), 1, 0, 0, 1, False)

    def check(self, s):
        if s.told and s.disk != s.told:
            return "ZOMBIE: %d over %d, which was acknowledged" % (
                s.disk,
                s.told,
            )
        if s.live and s.disk == -1:
            return "A WRITE OF AN ABORTED MIGRATION LANDED"

    def succ(self, s):
        if s.nxt < 3:
            yield "write %d is held" % s.nxt, s._replace(
                q=s.q + (s.nxt,), nxt=s.nxt + 1
            )
        if s.mid == 1 and s.q:
            yield "mid 1 is aborted", s._replace(
                mid=2,
                nxt=3,
                told=0,
                q=tuple(-1 for _ in s.q)
                if self.m == "held-ends-with-mid"
                else (),
            )
        if s.mid == 2 or s.nxt == 3:
            for i in (
                range(len(s.q))
                if self.m == "held-in-order"
                else range(min(1, len(s.q)))
            ):
                w = s.q[i]
                yield "write %d is let go" % w, s._replace(
                    q=s.q[:i] + s.q[i + 1 :],
                    disk=w,
                    told=w if w == 2 else s.told,
                    live=True,
                )


A = namedtuple("A", "S D dmid ms")


class Ask(Scenario):
    """S is GIVEN and has not heard.

    D may finish and forget, or give up and take part in another migration.
    """

    wedge = True
    MUT = {"ignorance-is-no-answer": 0, "remember-until-heard": 0}
    OK = [0]

    def __init__(self, mut="", k=None):
        self.m = mut

    def init(self):
        return A("G", "P", 1, frozenset({"given"}))

    def good(self, s):
        return s.S == "S" or s.D in "OZ" and s.dmid == 1

    def check(self, s):
        if s.S == "S" and s.D in "OZ" and s.dmid == 1:
            return "TWO OWNERS"

    def succ(self, s):
        if s.D == "P" and "given" in s.ms:
            yield "OWNER", s._replace(D="O", ms=s.ms | {"taken"})
        if s.D == "O" and "heard" in s.ms:
            yield "D: done, detached, forgotten", s._replace(D="Z")
        if s.D == "O" and self.m == "ignorance-is-no-answer":
            yield "D: done, detached, forgotten", s._replace(D="Z")
        if s.S == "G":
            if "taken" in s.ms:
                yield "S has heard", s._replace(ms=s.ms | {"heard"})
            yield "S asks", s._replace(ms=s.ms | {"ask"})
            if "aborted" in s.ms:
                yield "S takes back", s._replace(S="S", ms=s.ms | {"heard"})
            if "unknown" in s.ms and self.m == "ignorance-is-no-answer":
                yield "S takes back", s._replace(S="S")
        if "ask" in s.ms:
            if s.D == "P":
                yield "D: ABORTED", s._replace(
                    D="X",
                    ms=s.ms | {"aborted"}
                    if self.m != "remember-until-heard"
                    else s.ms,
                )
            if s.D == "X" and s.dmid == 1:
                yield "D says aborted again", s._replace(ms=s.ms | {"aborted"})
            if s.D == "Z":
                yield "D: no such disk", s._replace(ms=s.ms | {"unknown"})
        if (
            s.D == "X"
            and s.dmid == 1
            and ("heard" in s.ms or self.m == "remember-until-heard")
        ):
            yield "D: another migration", s._replace(D="I", dmid=2)


E = namedtuple("E", "S D T met")


class Force(Scenario):
    """D was forced while S was only cut off, and S gives to T.

    Of each its epoch, and whether it serves.
    """

    MUT = {"epochs-differ": 0}
    OK = [0]

    def __init__(self, mut="", k=None):
        self.m = mut

    def init(self):
        return E((1, True), (0, False), (0, False), False)

    def check(self, s):
        if s.met and sum(x[1] for x in (s.S, s.D, s.T)) > 1:
            return "OWNERS MET, AND BOTH GO ON"

    def succ(self, s):
        if not s.D[0]:
            # 2.5: a number and a random part.
            yield "D is forced", s._replace(D=(2 if self.m else 2.5, True))
        if s.S[1] and not s.T[0]:
            yield "S gives to T", s._replace(S=(1, False), T=(2, True))
        if s.D[1] + s.S[1] + s.T[1] > 1:
            top = max(x[0] for x in (s.S, s.D, s.T) if x[1])
            yield "they meet", E(
                *[(e, v and e == top) for e, v in (s.S, s.D, s.T)], True
            )


D_ = namedtuple("D_", "c x L F n proved ms w bad")


class Digest(Scenario):
    """A region of two granules.

    One copied granule may be spoilt on its way or in D's store (-1).
    """

    MUT = {
        "plane-voids-digest": 0,
        "digest-names-round": 0,
        "of-what-was-read-back": 0,
    }
    OK = [0]

    def __init__(self, mut="", k=None):
        self.m = mut

    def init(self):
        return D_((0, 0), (0, 0), 0, 0, 0, True, frozenset(), 2, 1)

    def check(self, s):
        if s.n < 0 and s.x != s.c:
            return "PREPARED WITH %s, S HAS %s, AND CALLED EQUAL" % (s.x, s.c)

    def succ(self, s):
        if s.n < 0:
            return
        if s.w:
            for g in (0, 1):
                yield "guest writes %d" % g, s._replace(
                    c=put(s.c, g, s.c[g] + 1), L=s.L | 1 << g, w=s.w - 1
                )
        if not s.F and s.L and s.n < 3:
            yield "take %d" % (s.n + 1), s._replace(
                F=s.L,
                L=0,
                n=s.n + 1,
                proved=s.proved and self.m == "plane-voids-digest",
            )
        for g in (0, 1):
            if s.F >> g & 1:
                yield "D copies %d" % g, s._replace(
                    x=put(s.x, g, s.c[g]), F=s.F & ~(1 << g)
                )
                if s.bad:
                    yield "D copies %d, spoilt" % g, s._replace(
                        x=put(s.x, g, -1), F=s.F & ~(1 << g), bad=0
                    )
        if len(s.ms) < 2:
            yield "S: digest in round %d" % s.n, s._replace(
                ms=s.ms | {(s.n, s.c)}
            )
        for n, v in s.ms:
            if n != s.n and self.m != "digest-names-round":
                continue
            if s.F and self.m != "digest-names-round":
                continue
            # v: the buffer that came, not the store.
            seen = v if self.m == "of-what-was-read-back" else s.x
            if seen == v:
                yield "equal", s._replace(proved=True, ms=s.ms - {(n, v)})
            else:
                yield "differs: copied again", s._replace(
                    F=3, ms=s.ms - {(n, v)}, proved=False
                )
        if not s.F and not s.L and s.proved:
            yield "frozen, PREPARED", s._replace(n=-1)


SCENARIOS = {
    "rounds": Rounds,
    "post": Post,
    "first": First,
    "group": Group,
    "follow": Follow,
    "header": Header,
    "digest": Digest,
    "hold": Hold,
    "ask": Ask,
    "force": Force,
}
LEFT_OUT = {
    "grace": "take waits for claims of older numbers",
    "mark-first": "the mark before the store",
    "numbered": "take is numbered and repeatable",
    "marks-durable": "marks are in the file, also of 64 MiB as a whole",
    "lost-after-power": "LOST after another boot",
    "lost-if-missing": "LOST if the file is missing or not ours",
    "gone-is-lost": "LOST if plane n is gone (and D says done too early)",
    "sync-then-record": "a round is synced before its record",
    "no-late-copier": "nothing of an earlier round is written later",
    "no-join": "nothing asked before take(n) counts for round n",
    "last-names-freeze": "only a plane flipped in the freeze is the last",
    "lease": "give needs a live lease",
    "freeze-unique": "a freeze is never called as another",
    "given-durable": "GIVEN durable before it is told",
    "unsure-holds": "a failed header write: nobody is served",
    "failed-sync-is-lost": "LOST after a failed sync",
    "failed-sync-refuses": "no take, freeze, give while a failed sync stands",
    "map-granule": "copies are widened to the map granule",
    "flush-before-given": "post-copy: S commits before GIVEN",
    "s2-minus-plane": "S2 is without the last plane",
    "s2-minus-unfinished": "S2 is without unfinished rounds",
    "w-empty": "W is empty at PREPARED",
    "asked-after-freeze": "OWNER forgets what was asked before the freeze",
    "absent-only": "a copy writes only what is absent (I3)",
    "data-before-area": "data durable before S2 counts (I1)",
    "latch-durable": "the latch survives a power loss",
    "latch-first": "the latch before the change",
    "undo-needs-no-latch": "no undo after a guest change",
    "owner-keeps-feature-bit": "older programs refuse until the end",
    "undo-asks-s": "D gives back only to an S that asks",
    "source-has-left": "first-write: no guest connection at S",
    "nobody-wrote-since": "first-write: no change since D was read",
    "take-back-in-order": "the others before the leader",
    "giving-names-mid": "a follower compares the mid",
    "second-before-next": "no header write before the second copy",
    "both-before-acting": "open makes both copies alike",
    "plane-voids-digest": "a later plane voids a digest",
    "digest-names-round": "a late digest is dropped",
    "of-what-was-read-back": "D reads back its store",
    "held-in-order": "held operations keep their order",
    "held-ends-with-mid": "held operations end with their mid",
    "ignorance-is-no-answer": "unknown is not aborted",
    "remember-until-heard": "ABORTED is kept until S has it",
    "epochs-differ": "a random part in epochs",
}


def run(name, rule="", k=None):
    scenario = SCENARIOS[name](rule, k)
    bad, trace, number, cut = explore(scenario)
    what = "%s: %s" % (name, "without " + rule if rule else "all rules")
    if hasattr(scenario, "k"):
        what += " %s" % (scenario.k,)
    print(
        "%-60s %8d states: %s"
        % (what, number, bad or ("holds, as far as looked" if cut else "holds"))
    )
    if rule:
        print("    left out: " + LEFT_OUT[rule])
    if bad:
        print("    " + " > ".join(trace))
    sys.stdout.flush()
    return bad or ("NOT EXHAUSTIVE" if cut and not rule else None)


def main(args):
    quick = args == ["--quick"]
    wrong = []
    if args and not quick:
        scenario = SCENARIOS[args[0]]
        for k in [None] if len(args) > 1 else scenario.OK:
            run(args[0], args[1] if len(args) > 1 else "", k)
        return 0
    for name, scenario in SCENARIOS.items():
        for k in (
            getattr(scenario, "QUICK", scenario.OK) if quick else scenario.OK
        ):
            if run(name, "", k):
                wrong.append(name)
        for rule in scenario.MUT:
            if not run(name, rule):
                wrong.append("%s without %s" % (name, rule))
    named = {rule for scenario in SCENARIOS.values() for rule in scenario.MUT}
    wrong += sorted(named ^ set(LEFT_OUT))
    print("WRONG: " + ", ".join(wrong) if wrong else "all hold, all are seen")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
