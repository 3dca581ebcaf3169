#!/usr/bin/python3
"""Sparse files: compare them, look at their holes, fill them.

  same A B              the same size and content; holes read as zeros
  within A B [GRANULE]  A has a hole wherever B has one of whole granules
  data A                bytes that are not holes
  tree FOLDER MIB       copy files, whose names are on standard input and end
                        in NUL, until there is about that much
  scatter A BYTES SEED  pieces of data all over A, of many sizes
  zeros A OFFSET LENGTH exit with 0 if that is all zeros

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import errno
import os
import random
import shutil
import sys

STEP = 1 << 20


def extents(fd, size):
    """What is not a hole, as (start, end)."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:
                return
            raise
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < at:
            yield start, at


def opened(path):
    fd = os.open(path, os.O_RDONLY)
    return fd, os.lseek(fd, 0, os.SEEK_END)


def union(lists):
    merged = []
    for start, end in sorted(e for one in lists for e in one):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged


def same(a, b):
    (fa, sa), (fb, sb) = opened(a), opened(b)
    if sa != sb:
        print("%s has %d bytes, %s %d" % (a, sa, b, sb))
        return 1
    for start, end in union((extents(fa, sa), extents(fb, sb))):
        for at in range(start, end, STEP):
            n = min(STEP, end - at)
            x, y = os.pread(fa, n, at), os.pread(fb, n, at)
            if x != y:
                i = next(i for i in range(n) if x[i] != y[i])
                print("%s and %s differ at %d: %s and %s"
                      % (a, b, at + i, x[i:i + 16].hex(), y[i:i + 16].hex()))
                return 1
    return 0


def within(a, b, granule="4096"):
    g = int(granule)
    (fa, sa), (fb, sb) = opened(a), opened(b)
    allowed = union([[(s // g * g, -(-e // g) * g) for s, e in
                      extents(fb, sb)]])
    i = 0
    for start, end in extents(fa, sa):
        while i < len(allowed) and allowed[i][1] <= start:
            i += 1
        if i == len(allowed) or start < allowed[i][0] or end > allowed[i][1]:
            print("%s has data at %d to %d" % (a, start, end))
            return 1
    return 0


def data(a):
    fd, size = opened(a)
    print(sum(end - start for start, end in extents(fd, size)))
    return 0


def tree(folder, mib):
    left = int(mib) << 20
    for name in sys.stdin.buffer.read().split(b"\0"):
        if not name or left <= 0:
            break
        to = os.fsencode(folder) + name
        try:
            os.makedirs(os.path.dirname(to), exist_ok=True)
            shutil.copyfile(name, to)
        except OSError:
            continue
        # A small file costs a block.
        left -= max(os.path.getsize(to), 4096)
    return 0 if left <= 0 else 1


def scatter(a, count, seed):
    fd = os.open(a, os.O_RDWR)
    size = os.lseek(fd, 0, os.SEEK_END)
    rng = random.Random(int(seed))
    block = rng.randbytes(2 << 20)
    # The ends of the disk first.
    places = [(0, 5000), (size - 3000, 3000)]
    left = int(count)
    while left > 0:
        n = min(rng.choice((512, 4096, 10000, 65536, 1 << 20, 2 << 20)), left)
        places.append((rng.randrange(size // 512) * 512, n))
        left -= n
    for i, (at, n) in enumerate(places):
        n = min(n, size - at)
        # No two pieces are alike.
        os.pwrite(fd, b"%16d" % i + block[16:n], at)
    return 0


def zeros(a, offset, length):
    fd, _ = opened(a)
    at, end = int(offset), int(offset) + int(length)
    while at < end:
        piece = os.pread(fd, min(STEP, end - at), at)
        if not piece or piece.strip(b"\0"):
            return 1
        at += len(piece)
    return 0


sys.exit(globals()[sys.argv[1]](*sys.argv[2:]))
