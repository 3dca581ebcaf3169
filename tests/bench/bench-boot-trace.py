#!/usr/bin/python3
# A guest's boot (boot.csv) with a trace that one earlier boot of its image has
# recorded, against the same without a trace: how long its reads stall, and how
# much is fetched.  Then guests that the trace does not fit.
# SPDX-License-Identifier: LGPL-2.1-or-later
import csv
import gc
import os
import random
import re
import shutil
import time

from benchlib import (MiB, Backfill, Server, drop_volume, folder, import_nbd,
                      median, pairs, random_file, ratios, report, scaled,
                      title)

nbd = import_nbd()
HERE = os.path.dirname(os.path.abspath(__file__))
CHUNK = 4 * MiB

with open(os.path.join(HERE, 'boot.csv')) as f:
    boot = [(r['op'], int(r['offset']), int(r['length']), int(r['think_us']))
            for r in csv.DictReader(f)]

work = folder()
image, store = os.path.join(work, 'image'), os.path.join(work, 'store')
log, traces = os.path.join(work, 'log'), os.path.join(work, 'traces')
END = max(o + n for _, o, n, _ in boot)
random_file(image, (END + CHUNK - 1) // CHUNK * CHUNK)
SIZE = os.path.getsize(image)


def serve(delay, *rate):
    return Server('--filter=log', *(['--filter=rate'] if rate else []),
                  '--filter=delay', '--filter=noextents', 'file', image,
                  'logfile=' + log, 'delay-read=' + delay,
                  'delay-extents=' + delay, *rate)


def fetched():
    with open(log) as f:
        return sum(int(re.search(r'count=(0x[0-9a-f]+)', line).group(1), 16)
                   for line in f if ' Read ' in line)


def guest(server, ops, think):
    h = nbd.NBD()
    h.connect_uri(server.uri)
    stall = 0.
    gc.disable()
    for op, offset, length, us in ops:
        if think:
            time.sleep(us / 1e6)
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


def run(source, ops, *keys, think=False):
    drop_volume(store)
    os.truncate(log, 0)
    server = Backfill(store, 'backing=' + source.uri, *keys)
    stall = guest(server, ops, think)
    server.stop()
    return stall, fetched()


def record(source, ops):
    """The trace of one boot, whatever was there."""
    shutil.rmtree(traces, ignore_errors=True)
    os.mkdir(traces, 0o700)
    run(source, ops, 'trace-dir=' + traces)
    [name] = os.listdir(traces)
    shutil.copy(os.path.join(traces, name), os.path.join(work, 'kept'))
    return os.path.join(traces, name)


def compare(source, ops, name, n, **kw):
    """n pairs: with the trace, as it was recorded, and without one."""
    def traced():
        # What the last one has added is not to count.
        shutil.copy(os.path.join(work, 'kept'), name)
        os.chmod(name, 0o600)
        return run(source, ops, 'trace-dir=' + traces, **kw)
    return pairs(n, traced, lambda: run(source, ops, **kw))


def elsewhere(share, run_length, seed):
    """The boot, but that share of its reads, in runs, at other places."""
    r, out = random.Random(seed), []
    for i in range(0, len(boot), run_length):
        other, shift = r.random() < share, r.randrange(0, SIZE - 64 * MiB)
        for op, o, n, us in boot[i:i + run_length]:
            if other and op == 'read':
                o = (shift // 4096 * 4096 + o % (32 * MiB)) % (SIZE - n)
                o = o // 512 * 512
            out.append((op, o, n, us))
    return out


def seconds(xs):
    return median([x for x, _ in xs])


def show(what, a, b, stall, most=None):
    report(what + ', stall', ratios([x for x, _ in a], [x for x, _ in b]), '<=',
           stall, 'medians %.2f and %.2f s' % (seconds(a), seconds(b)))
    report(what + ', bytes fetched',
           ratios([x for _, x in a], [x for _, x in b]), '<=', most or 1.0,
           'medians %.0f and %.0f MiB' % (median([x for _, x in a]) / MiB,
                                          median([x for _, x in b]) / MiB))


title('the same boot, with a trace and without, at 10 ms (target 0.3 s, 80 MiB)')
source = serve('10ms')
name = record(source, boot)
show('no thinking', *compare(source, boot, name, scaled(5)), 0.3, 0.7)
# Each read wakes threads that have slept: what that costs is what a server of
# the image itself takes.
reads = [x for x in boot if x[0] == 'read']
plain = Server('file', image)
shutil.copy(os.path.join(work, 'kept'), name)
a, b = pairs(scaled(2), lambda: run(source, reads, 'trace-dir=' + traces,
                                    think=True)[0],
             lambda: guest(plain, reads, True))
plain.stop()
report('thinking as recorded, against all of it local', ratios(a, b), '<=', 1.1,
       'medians %.2f and %.2f s' % (median(a), median(b)))

title('guests that differ from it')
a, b = [], []
for seed in range(scaled(3)):
    x, y = compare(source, elsewhere(1 / 3, 50, seed), name, 1)
    a, b = a + x, b + y
show('a third of the reads elsewhere, in runs', a, b, 0.85)
a, b = [], []
for seed in range(scaled(2)):
    x, y = compare(source, elsewhere(1 / 3, 1, seed), name, 1)
    a, b = a + x, b + y
show('a third of the reads elsewhere, singly', a, b, 0.85)
name = record(source, elsewhere(1, 50, 99))
a, b = compare(source, boot, name, scaled(5))
show('nothing shared', a, b, 1.05, 1.2)
source.stop()

for delay, rate, target in (('50ms', (), 1.3),
                            ('1ms', ('rate=1G', 'burstiness=0.05'), 0.7)):
    title('with %s and %s (target %.1f s)'
          % (delay, ' '.join(rate) or 'no limit', target))
    source = serve(delay, *rate)
    name = record(source, boot)
    show('no thinking', *compare(source, boot, name, scaled(3)),
         0.5 if not rate else 0.7, 0.7)
    source.stop()
