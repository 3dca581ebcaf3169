#!/usr/bin/python3
# Making a dense disk local from a source that is far away: its reads are
# delayed, or reads and block status; against nbdcopy with its best options for
# that.
# SPDX-License-Identifier: LGPL-2.1-or-later
import os
import subprocess

from benchlib import (MiB, Backfill, Server, drop_volume, folder, median, need,
                      pairs, random_file, ratios, report, scaled, timed, title)

SIZE = 1024 * MiB
BEST = ['--connections=16', '--requests=64', '--request-size=%d' % MiB]

need('nbdcopy')
title('allocating a dense disk from far away, against nbdcopy ' + ' '.join(BEST))
work = folder()
image = os.path.join(work, 'image')
store = os.path.join(work, 'store')
copy = os.path.join(work, 'copy')
random_file(image, SIZE)

for latency in 50, 100:
    for what in ('delay-read',), ('delay-read', 'delay-extents'):
        source = Server('--filter=delay', 'file', image,
                        *('%s=%dms' % (w, latency) for w in what))

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
                ['nbdcopy', '--flush', *BEST, source.uri, copy], check=True))
            os.unlink(copy)
            return t

        a, b = pairs(scaled(3), ours, theirs)
        report('%d ms, %s' % (latency, ' and '.join(what)), ratios(a, b), '<=',
               1.0, 'MiB/s: %.0f, nbdcopy %.0f'
               % (SIZE / MiB / median(a), SIZE / MiB / median(b)))
        source.stop()
