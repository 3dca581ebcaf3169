#!/usr/bin/python3
# Local data: the plugin against `nbdkit file`, both on the same image file,
# in the same fio run.  Twice: a volume of which a part is absent still (the
# map is asked for each operation), and one that is complete.
# SPDX-License-Identifier: LGPL-2.1-or-later
import json
import os
import subprocess

from benchlib import (MiB, Backfill, Server, folder, median, need, random_file,
                      ratios, report, say, scaled, title, warm)

SIZE = 256 * MiB
PAIRS = scaled(24)
LOADS = [
    ('4 KiB random read', 'randread', '4k', 16),
    ('4 KiB random write', 'randwrite', '4k', 16),
    ('1 MiB sequential read', 'read', '1m', 4),
    ('1 MiB sequential write', 'write', '1m', 4),
]
TARGET = 0.97


def fio(work, rw, bs, depth, sides):
    """Both sides in turn; for each the list of bytes/s, and bytes in all."""
    job = os.path.join(work, 'fio.job')
    with open(job, 'w') as f:
        f.write('[global]\nioengine=nbd\nthread\ntime_based\n'
                'runtime=250ms\nramp_time=50ms\nrandrepeat=0\n'
                'size=%d\nrw=%s\nbs=%s\niodepth=%d\nstonewall\n'
                % (SIZE, rw, bs, depth))
        for i in range(PAIRS):
            for j, s in enumerate(sides):
                f.write('[s%d-%d]\nuri=%s\n' % (j, i, s.uri))
    out = subprocess.run(['fio', '--output-format=json', job], check=True,
                         stdout=subprocess.PIPE).stdout.decode()
    jobs = json.loads(out[out.index('{'):])['jobs']
    kind = 'read' if 'read' in rw else 'write'
    rates, total = ([], []), [0, 0]
    for j in jobs:
        if j['error']:
            raise RuntimeError('fio: error %d' % j['error'])
        side = int(j['jobname'][1])
        rates[side].append(j[kind]['bw_bytes'])
        total[side] += j[kind]['io_bytes']
    return rates, total


def compare(name, work, plugin, store):
    plain = Server('file', store)
    warm(store)
    for what, rw, bs, depth in LOADS:
        cpu = [s.cpu() for s in (plugin, plain)]
        (a, b), total = fio(work, rw, bs, depth, (plugin, plain))
        cpu = [s.cpu() - c for s, c in zip((plugin, plain), cpu)]
        per = [c / t for c, t in zip(cpu, total)]
        report('%s, %s' % (name, what), ratios(a, b), '>=', TARGET,
               'nbdkit file: %.0f MiB/s; server time a byte: %.2f of its'
               % (median(b) / MiB, per[0] / per[1]))
    plain.stop()


need('fio')
title('local data, throughput as a part of nbdkit file\'s')
work = folder()

image, store = os.path.join(work, 'image'), os.path.join(work, 'store')
random_file(image, SIZE + 64 * MiB)
source = Server('file', image)
plugin = Backfill(store, 'backing=' + source.uri)
plugin.cli('allocate', '--length', str(SIZE), '--wait', '--quiet')
compare('part absent', work, plugin, store)
plugin.stop()
source.stop()

os.unlink(store + '.backfill')
plugin = Backfill(store, 'adopt=local')
if not plugin.info()['local'] == SIZE + 64 * MiB:
    say('the volume is not complete')
compare('complete', work, plugin, store)
