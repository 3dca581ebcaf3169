#!/usr/bin/python3
"""SIGKILL while several connections overwrite the same few granules, with a
runtime directory that is nearly full: the volume opens on the same boot, and
each block shows what was acknowledged last or was in flight.

ROUNDS=n SEED=s: more of it, or the same again.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import random
import threading
import time

from locallib import *

SIZE = (2 << 20) + 1536
HOLES = [(1 << 20, 256 << 10)]
ROUNDS = int(os.environ.get("ROUNDS", 6))
SEED = int(os.environ.get("SEED", 1))


class Writer(threading.Thread):
    """Owns every .of-th sector of the hot ranges from .nr on, and so shares
    granules with the others.  .may: what each of its sectors may show."""

    def __init__(self, server, nr, of, seed, hot, state, tag):
        threading.Thread.__init__(self)
        self.h = server.nbd()
        self.rng = random.Random("%d/%d" % (seed, nr))
        self.runs = [r for i, r in enumerate(hot) if i % of == nr]
        self.state = state
        self.tag = tag
        self.error = None

    def one(self):
        first, n = self.rng.choice(self.runs)
        n = self.rng.randint(1, n)
        self.tag += 1
        data = pattern(self.tag, first * SECTOR, n * SECTOR)
        kind = self.rng.random()
        zeros = kind > 0.6
        for i in range(n):
            s = bytes(SECTOR) if zeros else \
                data[i * SECTOR:(i + 1) * SECTOR]
            self.state[first + i].append(s)
        flags = nbd.CMD_FLAG_FUA if self.rng.random() < 0.1 else 0
        if not zeros:
            self.h.pwrite(data, first * SECTOR, flags)
        elif kind < 0.9:
            self.h.zero(n * SECTOR, first * SECTOR, flags)
        else:
            self.h.trim(n * SECTOR, first * SECTOR, flags)
            return  # part of a granule that is absent stays as it is
        for i in range(n):
            del self.state[first + i][:-1]
        if self.rng.random() < 0.02:
            self.h.flush()

    def run(self):
        try:
            while True:
                self.one()
        except nbd.Error as e:
            self.error = e


def rounds(d, granule, room, seed):
    rng = random.Random(seed)
    make_golden(d("golden"), SIZE, HOLES)
    source = Source(d, d("golden"))
    run = d.mount("small", "-t", "tmpfs", "-o", "size=%d,mode=0755" % room,
                  "tmpfs")
    with open(d("golden"), "rb") as f:
        data = f.read()
    state = [[data[i:i + SECTOR]] for i in range(0, SIZE, SECTOR)]
    # Runs of 1 to 6 sectors, one beside the other.
    hot = []
    for begin in (600, 2040, 2600, SIZE // SECTOR - 40):
        at, end = begin, min(begin + 120, SIZE // SECTOR)
        while at < end:
            n = min(rng.randint(1, 6), end - at)
            hot.append((at, n))
            at += n
    rng.shuffle(hot)
    s = Server(d, d("disk"), "granule=%d" % granule, "backing=" + source.uri,
               run=run)
    filler = os.path.join(run, "filler")
    for r in range(ROUNDS):
        of = rng.randint(2, 4)
        writers = [Writer(s, i, of, seed * 1000 + r, hot, state,
                          (r * 8 + i + 1) << 32) for i in range(of)]
        for w in writers:
            w.start()
        copy = s.nbd()
        try:
            copy.cache(SIZE // 4, rng.randrange(0, SIZE // 2, SECTOR))
        except nbd.Error:
            pass
        # Now the directory is full, and now it is not.
        for _ in range(rng.randint(0, 3)):
            try:
                with open(filler, "wb") as f:
                    f.write(bytes(room))
            except OSError:
                pass
            time.sleep(rng.random() / 10)
            if rng.random() < 0.7:
                os.unlink(filler)
        time.sleep(rng.random() / 5)
        s.kill()
        for w in writers:
            w.join(LONG)
            assert not w.is_alive()
        if os.path.exists(filler):
            os.unlink(filler)
        try:
            s = Server(d, d("disk"), "backing=" + source.uri, run=run)
        except Refused as e:
            raise AssertionError("seed %d, round %d: refused: %s"
                                 % (seed, r, e.text))
        got = bytes(s.nbd().pread(SIZE, 0))
        for i, may in enumerate(state):
            is_ = got[i * SECTOR:(i + 1) * SECTOR]
            assert is_ in may, "seed %d, round %d, sector %d: %r, not one of " \
                "%r" % (seed, r, i, is_[:16], [m[:16] for m in may])
            state[i] = [is_]
    s.stop()


def test_granules_of_a_sector(d):
    rounds(d, 512, 128 << 10, SEED)


def test_granules_of_a_page(d):
    rounds(d, 4096, 160 << 10, SEED + 1)


def test_large_granules(d):
    rounds(d, 65536, 100 << 10, SEED + 2)


main(globals(), mounts=True)
