#!/usr/bin/python3
# A map of a million regions, fetched and printed.
# SPDX-License-Identifier: LGPL-2.1-or-later
import os
import subprocess

from benchlib import (BACKFILL, Backfill, Server, folder, median, need, report, say,
                      scaled, timed, title)

REGIONS = 1000000
GRANULE = 512

need('fio')
title('a map of a million regions')
work = folder()
image, store = os.path.join(work, 'image'), os.path.join(work, 'store')
with open(image, 'wb') as f:
    f.truncate(REGIONS * GRANULE)
source = Server('--filter=noextents', 'file', image)
plugin = Backfill(store, 'backing=' + source.uri, 'granule=%d' % GRANULE)
# Every other granule is written.
subprocess.run(['fio', '--name=x', '--ioengine=nbd', '--uri=' + plugin.uri,
                '--rw=write:%d' % GRANULE, '--bs=%d' % GRANULE,
                '--iodepth=32', '--size=%d' % (REGIONS * GRANULE)],
               check=True, stdout=subprocess.DEVNULL)
out = os.path.join(work, 'out')
for what, args in (('printed', ['map']), ('as JSON', ['--json', 'map'])):
    t = []
    for _ in range(scaled(5)):
        with open(out, 'wb') as f:
            t.append(timed(lambda: plugin.cli(*args, stdout=f)))
    report(what, median(t), '<', 2.0, 'median of %d' % len(t), ' s')
    with open(out) as f:
        text = f.read()
    nr = text.count('absent') + text.count('local') + text.count('zero')
    if nr < REGIONS:
        say('only %d regions' % nr)
t = [timed(lambda: subprocess.run(['nbdinfo', '--map', plugin.export('/map')],
                                  check=True, stdout=subprocess.DEVNULL))
     for _ in range(scaled(3))]
say('nbdinfo --map of /map: %.3f s' % median(t))
