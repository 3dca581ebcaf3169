#!/usr/bin/python3
# 64 disks in one nbdkit, each with a job: all of them together against one
# disk with as much data; and how soon the control socket answers meanwhile.
# SPDX-License-Identifier: LGPL-2.1-or-later
import concurrent.futures
import multiprocessing
import os
import time

from benchlib import (GiB, MiB, Backfill, Control, Server, drop_volume, folder,
                      median, pairs, quantile, random_file, ratios, report,
                      scaled, timed, title)

DISKS = 64
DATA = 2 * GiB

title('64 disks with a job each, throughput as a part of one job\'s')
work = folder()
images = os.path.join(work, 'images')
os.mkdir(images)
random_file(os.path.join(images, 'all'), DATA)
random_file(os.path.join(images, 'part'), DATA // DISKS)


def probe(path, device, end, result):
    """A process of its own: its times are the server's, not Python's."""
    c = Control(path)
    times = []
    while not end.is_set():
        times.append(timed(lambda: c.ask('query-block-jobs', device=device)))
        time.sleep(0.002)
    result.send(times)


def start_all(server, nr):
    """As many programs would, not one after the other."""
    def start(i):
        c = Control(server.control)
        c.ask('block-allocate', device='d%d' % i)
        c.close()

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(start, range(nr)))


def run(nr, image):
    """Bytes per second of the jobs; the times the control socket took."""
    stores = [os.path.join(work, 's%d' % i) for i in range(nr)]
    args = []
    for i, store in enumerate(stores):
        drop_volume(store)
        args += ['name=d%d' % i, 'store=' + store,
                 'backing=' + source.export(image)]
    os.sync()
    server = Backfill(*args)
    c = Control(server.control)
    end = multiprocessing.Event()
    result, theirs = multiprocessing.Pipe(False)
    p = multiprocessing.Process(target=probe, daemon=True,
                                args=(server.control, 'd0', end, theirs))
    p.start()
    time.sleep(0.3)
    start = time.perf_counter()
    start_all(server, nr)
    while True:
        jobs = c.ask('query-block-jobs')
        if all(j['status'] == 'concluded' for j in jobs):
            break
        time.sleep(0.02)
    t = time.perf_counter() - start
    end.set()
    times = result.recv()
    p.join()
    for j in jobs:
        if j['result'] != 'completed':
            raise RuntimeError(str(j))
    server.stop()
    for store in stores:
        drop_volume(store)
    return DATA / t, times


for latency, n in ((0, 4), (10, 4)):
    source = Server('--filter=delay', 'file', 'dir=' + images,
                    'delay-read=%dms' % latency,
                    'delay-extents=%dms' % latency)
    a, b = pairs(scaled(n), lambda: run(DISKS, 'part'), lambda: run(1, 'all'))
    x, y = [r for r, _ in a], [r for r, _ in b]
    report('source at %d ms' % latency, ratios(x, y), '>=', 0.9,
           'MiB/s: %.0f, one job %.0f' % (median(x) / MiB, median(y) / MiB))
    times = sum((t for _, t in a), [])
    other = sum((t for _, t in b), [])
    report('  control answers, p99', quantile(times, .99) * 1e3, '<', 10,
           '%d answers; with one job %.1f ms' % (
               len(times), quantile(other, .99) * 1e3), ' ms')
    source.stop()
