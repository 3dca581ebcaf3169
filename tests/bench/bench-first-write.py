#!/usr/bin/python3
# The latency of a 4 KiB guest write to an absent granule, against one to a
# local granule at the same time; with a near source, one at 1 s, and one that
# is down.  And: does any of them read the source?
# SPDX-License-Identifier: LGPL-2.1-or-later
import gc
import os
import random
import time

from benchlib import (GiB, MiB, Backfill, Server, folder, import_nbd, median,
                      random_file, ratios, report, scaled, timed, title)

nbd = import_nbd()
SIZE = 2 * GiB
LOCAL = 64 * MiB
WRITES = scaled(2000)

title('4 KiB write to an absent granule, latency as a multiple of a local '
      'one\'s')
work = folder()
image, store = os.path.join(work, 'image'), os.path.join(work, 'store')
log = os.path.join(work, 'log')
random_file(image, LOCAL)
os.truncate(image, SIZE)
granules = list(range(LOCAL // 4096, SIZE // 4096))
random.seed(1)
random.shuffle(granules)
buf = os.urandom(4096)


def reads():
    with open(log) as f:
        return sum(' Read ' in line for line in f)


def measure(what, h):
    n = reads()
    near, far = [], []
    gc.disable()
    for i in range(WRITES):
        local = random.randrange(LOCAL // 4096) * 4096
        # In turns the one or the other first: the second finds all awake.
        if i % 2:
            near.append(timed(h.pwrite, buf, local))
        far.append(timed(h.pwrite, buf, granules.pop() * 4096))
        if i % 2 == 0:
            near.append(timed(h.pwrite, buf, local))
    gc.enable()
    report(what, ratios(far, near), '<', 2.0,
           'medians %.0f and %.0f us' % (median(far) * 1e6, median(near) * 1e6))
    n = reads() - n
    report(what + ': source reads', n, '<=', 0)


def serve(latency):
    global source, plugin
    # The log is nearest to the client: a read is in it before it waits.
    source = Server('--filter=log', '--filter=delay', 'file', image,
                    'logfile=' + log, 'delay-read=%dms' % latency, sock=sock)


sock = os.path.join(work, 's')
serve(0)
plugin = Backfill(store, 'backing=' + source.uri, threads=16)
plugin.cli('allocate', '--length', str(LOCAL), '--wait', '--quiet')
h = nbd.NBD()
h.connect_uri(plugin.uri)
measure('source near', h)
source.stop()
while plugin.info()['source'] == 'connected':
    time.sleep(0.01)
measure('source down', h)
os.unlink(log)
serve(1000)
while plugin.info()['source'] != 'connected':
    time.sleep(0.1)
measure('source at 1 s', h)
h.shutdown()
