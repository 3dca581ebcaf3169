#!/usr/bin/python3
# Making a whole disk local, against `nbdcopy --flush` from the same server
# into a file on the same file system; at its end each is durable.  The data is
# random, so that nothing is a hole.
# SPDX-License-Identifier: LGPL-2.1-or-later
import os
import subprocess

from benchlib import (MiB, Backfill, Server, drop_volume, folder, median, need,
                      pairs, random_file, report, scaled, ratios, timed, title)

# Latency of each answer in ms, size of the image, pairs.
CASES = [(0, 1024 * MiB, 7), (1, 768 * MiB, 7), (10, 512 * MiB, 7),
         (50, 256 * MiB, 7)]

need('nbdcopy')
title('allocating a whole disk, time as a multiple of nbdcopy --flush\'s')
work = folder()
image = os.path.join(work, 'image')
store = os.path.join(work, 'store')
copy = os.path.join(work, 'copy')
random_file(image, max(size for _, size, _ in CASES))

for latency, size, n in CASES:
    os.truncate(image, size)
    source = Server('--filter=delay', 'file', image,
                    'delay-read=%dms' % latency,
                    'delay-extents=%dms' % latency)

    def ours():
        drop_volume(store)
        os.sync()
        plugin = Backfill(store, 'backing=' + source.uri)
        t = timed(plugin.cli, 'allocate', '--wait', '--quiet')
        plugin.stop()
        drop_volume(store)
        return t

    def theirs():
        os.sync()
        t = timed(lambda: subprocess.run(
            ['nbdcopy', '--flush', source.uri, copy], check=True))
        os.unlink(copy)
        return t

    a, b = pairs(scaled(n), ours, theirs)
    report('source at %d ms, %d MiB' % (latency, size // MiB), ratios(a, b),
           '<=', 1.0, 'MiB/s: %.0f, nbdcopy %.0f'
           % (size / MiB / median(a), size / MiB / median(b)))
    source.stop()
