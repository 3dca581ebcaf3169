#!/usr/bin/python3
# A guest's reads of 4 KiB while a full copy runs at full speed: the 99th
# percentile of their latency with the job running, against the same with the
# job paused, in turns on one disk; of local data and of absent data.
# SPDX-License-Identifier: LGPL-2.1-or-later
import gc
import os
import random
import time

from benchlib import (GiB, MiB, Backfill, Control, Server, drop_volume, folder,
                      import_nbd, median, quantile, ratios, report, scaled,
                      title)

nbd = import_nbd()
SIZE = 16 * GiB           # no copy of it comes to the end
LOCAL = 64 * MiB          # at the front
AWAY = SIZE - 2 * GiB     # absent: what the copy does not reach meanwhile

title('p99 of a guest\'s reads during a full copy, as a multiple of without')
work = folder()
store = os.path.join(work, 'store')
random.seed(1)


def window(h, seconds, place):
    """p99 of the reads of that time."""
    times = []
    end = time.perf_counter() + seconds
    while True:
        offset = place()
        t = time.perf_counter()
        h.pread(4096, offset)
        now = time.perf_counter()
        times.append(now - t)
        if now > end:
            return quantile(times, .99)


def local():
    return random.randrange(LOCAL // 4096) * 4096


def absent():
    # Far apart, so that none finds what was fetched for another.
    return AWAY + random.randrange((SIZE - AWAY) // 4096) * 4096


def compare(latency, what, place, target, n, seconds):
    drop_volume(store)
    plugin = Backfill(store, 'backing=' + source.uri)
    plugin.cli('allocate', '--length', str(LOCAL), '--wait', '--quiet')
    c = Control(plugin.control)
    h = nbd.NBD()
    h.connect_uri(plugin.uri)
    c.ask('block-allocate')
    c.ask('block-job-pause', device='')
    window(h, 0.5, place)
    with_copy, without, copied = [], [], 0
    gc.disable()
    for _ in range(scaled(n)):
        without.append(window(h, seconds, place))
        before = c.ask('query-block-jobs')[0]['offset']
        c.ask('block-job-resume', device='')
        time.sleep(0.1)
        with_copy.append(window(h, seconds, place))
        c.ask('block-job-pause', device='')
        copied += c.ask('query-block-jobs')[0]['offset'] - before
        time.sleep(0.3)
    gc.enable()
    report('source at %d ms, %s data' % (latency, what),
           ratios(with_copy, without), '<=', target,
           'medians %.2f and %.2f ms; meanwhile copied at %.0f MiB/s'
           % (median(with_copy) * 1e3, median(without) * 1e3,
              copied / MiB / len(with_copy) / (seconds + .1)))
    c.close()
    h.shutdown()
    plugin.stop()


for latency in (1, 10):
    source = Server('--filter=delay', 'pattern', str(SIZE),
                    'delay-read=%dms' % latency)
    compare(latency, 'local', local, 1.5, 12, 1)
    compare(latency, 'absent', absent, 2.0, 8, 1.5 if latency == 1 else 3)
    source.stop()
