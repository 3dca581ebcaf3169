#!/usr/bin/python3
# A guest's boot (boot.csv: op, offset, length, time to think), replayed without
# thinking against a source at 10 ms, nothing local at first: how long its
# reads stall, and how much is fetched; against nbdkit's cow filter with
# cow-on-read and blocks of 1 MiB on the same source.
# SPDX-License-Identifier: LGPL-2.1-or-later
import csv
import gc
import os
import re
import time

from benchlib import (MiB, Backfill, Server, drop_volume, folder, import_nbd,
                      median, pairs, random_file, ratios, report, scaled,
                      title)

nbd = import_nbd()
HERE = os.path.dirname(os.path.abspath(__file__))
CHUNK = 4 * MiB

with open(os.path.join(HERE, 'boot.csv')) as f:
    trace = [(r['op'], int(r['offset']), int(r['length']))
             for r in csv.DictReader(f)]

title('boot from a source at 10 ms, against nbdkit\'s cow filter')
work = folder()
image, store = os.path.join(work, 'image'), os.path.join(work, 'store')
log = os.path.join(work, 'log')

# Data wherever the guest looks and around; the rest are holes, of which the
# source tells nobody.
for chunk in sorted({o // CHUNK for _, o, n in trace if n}):
    random_file(image, CHUNK, chunk * CHUNK)
source = Server('--filter=log', '--filter=delay', '--filter=noextents', 'file',
                image, 'logfile=' + log, 'delay-read=10ms',
                'delay-extents=10ms')


def fetched():
    with open(log) as f:
        return sum(int(re.search(r'count=(0x[0-9a-f]+)', line).group(1), 16)
                   for line in f if ' Read ' in line)


def replay(server):
    h = nbd.NBD()
    h.connect_uri(server.uri)
    # What is asked when a connection is made counts, too.
    stall = 0.
    gc.disable()
    for op, offset, length in trace:
        if op == 'read':
            t = time.perf_counter()
            h.pread(length, offset)
            stall += time.perf_counter() - t
        elif op == 'write':
            h.pwrite(bytes(length), offset)
        elif op == 'trim':
            h.trim(length, offset)
        else:
            h.flush()
    gc.enable()
    h.shutdown()
    return stall


def run(start):
    os.truncate(log, 0)
    server = start()
    stall = replay(server)
    server.stop()
    return stall, fetched()


def ours():
    drop_volume(store)
    return run(lambda: Backfill(store, 'backing=' + source.uri))


def theirs():
    return run(lambda: Server('--filter=cow', 'nbd', 'uri=' + source.uri,
                              'cow-on-read=true', 'cow-block-size=1M'))


a, b = pairs(scaled(9), ours, theirs)
report('total stall of its reads', ratios([x for x, _ in a], [x for x, _ in b]),
       '<=', 0.6, 'medians %.2f and %.2f s'
       % (median([x for x, _ in a]), median([x for x, _ in b])))
report('bytes fetched', ratios([x for _, x in a], [x for _, x in b]), '<=', 1.0,
       'medians %.0f and %.0f MiB'
       % (median([x for _, x in a]) / MiB, median([x for _, x in b]) / MiB))
