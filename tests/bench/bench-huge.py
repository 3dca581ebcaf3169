#!/usr/bin/python3
# A sparse disk of 8 TiB with 1 GiB of data in it: opening, memory, the whole
# map, and allocation against the same data in a disk of 8 GiB.
# SPDX-License-Identifier: LGPL-2.1-or-later
import os
import random
import subprocess

from benchlib import (BACKFILL, GiB, MiB, Backfill, Server, drop_volume, folder,
                      import_nbd, median, need, pairs, ratios, report, scaled,
                      timed, title)

nbd = import_nbd()
need('nbdinfo')
TiB = 1024 * GiB
DATA = 1024               # pieces of 1 MiB
OPENS = scaled(9)
PAIRS = scaled(4)

title('8 TiB with 1 GiB of data')
work = folder()


def make_image(path, size):
    random.seed(1)
    piece = os.urandom(MiB)
    with open(path, 'wb') as f:
        f.truncate(size)
        for i in sorted(random.sample(range(size // (2 * MiB)), DATA)):
            f.seek(i * 2 * MiB)
            f.write(piece)


def first_answer(store, *args):
    """From the start of nbdkit to its first answer to a client's read; and
    the server."""
    s = Backfill(store, *args)
    h = nbd.NBD()
    h.connect_uri(s.uri)
    h.pread(512, 0)
    t = s.since_start()
    h.shutdown()
    return t, s


def plain_answer(image):
    s = Server('file', image)
    h = nbd.NBD()
    h.connect_uri(s.uri)
    h.pread(512, 0)
    t = s.since_start()
    h.shutdown()
    s.stop()
    return t


big, small, store = (os.path.join(work, f) for f in ('big', 'small', 'store'))
make_image(big, 8 * TiB)
make_image(small, 8 * GiB)
source = {f: Server('file', f) for f in (big, small)}

new, existing, plain = [], [], []
for i in range(OPENS):
    drop_volume(store)
    t, s = first_answer(store, 'backing=' + source[big].uri)
    new.append(t)
    s.stop()
    t, s = first_answer(store)
    existing.append(t)
    s.stop()
    plain.append(plain_answer(big))
note = 'median of %d; nbdkit file on the image: %.3f s' % (OPENS, median(plain))
report('open an existing volume', median(existing), '<', 0.2, note, ' s')
report('open a new volume', median(new), '<', 1.5, note, ' s')


def maps(server, when):
    null = dict(stdout=subprocess.DEVNULL, check=True)
    for what, argv in (
            ('backfill map', [BACKFILL, '-c', server.control, 'map']),
            ('nbdinfo --map', ['nbdinfo', '--map', server.uri]),
            ('nbdinfo --map of /map', ['nbdinfo', '--map',
                                       server.export('/map')])):
        t = [timed(lambda: subprocess.run(argv, **null))
             for _ in range(scaled(5))]
        report('%s, %s' % (what, when), median(t), '<', 1.0,
               'median of %d' % len(t), ' s')


def allocate(image, more=None):
    drop_volume(store)
    s = Backfill(store, 'backing=' + source[image].uri)
    t = timed(s.cli, 'allocate', '--wait', '--quiet')
    if more:
        more(s)
    s.stop()
    drop_volume(store)
    return t


drop_volume(store)
s = Backfill(store, 'backing=' + source[big].uri)
maps(s, 'all absent')
s.cli('allocate', '--length', str(4 * TiB), '--wait', '--quiet')
maps(s, 'half local')
s.stop()

peak = []
a, b = pairs(PAIRS, lambda: allocate(big, lambda s: (
    maps(s, 'all local') if not peak else None,
    peak.append(s.status('VmHWM')))), lambda: allocate(small))
report('most memory of the server (RSS)', max(peak) / MiB, '<', 64,
       'with the job and the maps', ' MiB')
report('allocation, time as a multiple of 8 GiB\'s', ratios(a, b), '<=', 1.2,
       'medians %.2f and %.2f s' % (median(a), median(b)))
