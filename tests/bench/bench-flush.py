#!/usr/bin/python3
# A flush after 1, 8 and 64 scattered first writes of 4 KiB, against that of
# `nbdkit file` on a sparse file after the same writes; and one with nothing
# new in the map: after writes to granules that are durably local, and after
# none at all.
# SPDX-License-Identifier: LGPL-2.1-or-later
import gc
import os

from benchlib import (GiB, MiB, Backfill, Server, folder, import_nbd, median,
                      pairs, ratios, report, scaled, timed, title)

nbd = import_nbd()
SIZE = 32 * GiB
# No two of one flush fall into one sector of the map (15.5 MiB), where there
# are as many.
STRIDE = 16 * MiB + 4096
PAIRS = scaled(60)

title('flush, time as a multiple of nbdkit file\'s')
work = folder()
image, store, plain = (os.path.join(work, f) for f in ('i', 's', 'p'))
for f in (image, plain):
    with open(f, 'wb') as fp:
        fp.truncate(SIZE)
source = Server('--filter=noextents', 'file', image)
ours = Backfill(store, 'backing=' + source.uri)
theirs = Server('file', plain)
handles = []
for s in (ours, theirs):
    h = nbd.NBD()
    h.connect_uri(s.uri)
    handles.append(h)
buf = os.urandom(4096)
at = [0, 0]


def first_writes(side, n):
    for _ in range(n):
        handles[side].pwrite(buf, at[side] % (SIZE // 4096 * 4096))
        at[side] += STRIDE


def flush_after(side, writes):
    writes()
    return timed(handles[side].flush)


def compare(what, target, a, b):
    gc.collect()
    x, y = pairs(PAIRS, lambda: flush_after(0, a), lambda: flush_after(1, b))
    report(what, ratios(x, y), '<=', target, 'medians %.2f and %.2f ms'
           % (median(x) * 1e3, median(y) * 1e3))


# The first use of each file is its own.
for side in (0, 1):
    first_writes(side, 4)
    handles[side].flush()
for n in (1, 8, 64):
    compare('after %d first writes' % n, 1.5,
            lambda: first_writes(0, n), lambda: first_writes(1, n))


def again(side):
    for i in range(8):
        handles[side].pwrite(buf, i * STRIDE)


# Equal is what cannot be told apart here.
compare('after 8 writes to durably local granules', 1.05,
        lambda: again(0), lambda: again(1))
compare('with nothing written', 1.05, lambda: None, lambda: None)
for h in handles:
    h.shutdown()
