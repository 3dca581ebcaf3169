#!/usr/bin/python3
# Making a whole disk local from a file of the same host (backing=PATH), against
# `nbdcopy --flush` from a server of that file; at its end each is durable.  The
# data is random, so that nothing is a hole.
# SPDX-License-Identifier: LGPL-2.1-or-later
import os
import subprocess

from benchlib import (MiB, Backfill, Server, drop_volume, folder, median, need,
                      pairs, random_file, report, scaled, ratios, timed, title)

SIZE = 1024 * MiB

need('nbdcopy')
title('allocating from a local file, time as a multiple of nbdcopy --flush\'s')
work = folder()
image = os.path.join(work, 'image')
store = os.path.join(work, 'store')
copy = os.path.join(work, 'copy')
random_file(image, SIZE)
server = Server('file', image)


def ours():
    drop_volume(store)
    os.sync()
    plugin = Backfill(store, 'backing=' + image)
    t = timed(plugin.cli, 'allocate', '--wait', '--quiet')
    plugin.stop()
    drop_volume(store)
    return t


def theirs():
    os.sync()
    t = timed(lambda: subprocess.run(
        ['nbdcopy', '--flush', server.uri, copy], check=True))
    os.unlink(copy)
    return t


a, b = pairs(scaled(5), ours, theirs)
report('file of %d MiB' % (SIZE // MiB), ratios(a, b), '<=', 0.55,
       'MiB/s: %.0f, nbdcopy %.0f'
       % (SIZE / MiB / median(a), SIZE / MiB / median(b)))
server.stop()
