#!/usr/bin/python3
"""Is this block status true?  status-check.py TRUTH, on standard input the
output of nbdinfo --map --json or qemu-img map --output=json.

It must cover the disk once and in order, and what it calls zero must be zero
in the file TRUTH.  (QEMU rounds a disk up to sectors, with zeros.)

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import os
import sys

STEP = 1 << 20

with open(sys.argv[1], "rb") as truth:
    size = truth.seek(0, os.SEEK_END)
    at = 0
    for e in json.load(sys.stdin):
        offset = e["offset"] if "offset" in e else e["start"]
        length = e["length"]
        # QEMU's has three booleans, nbdinfo's the two bits of NBD.
        zero = e["zero"] if "zero" in e else bool(e["type"] & 2)
        if offset != at or length <= 0:
            sys.exit("%s begins at %d instead of %d" % (e, offset, at))
        at = offset + length
        truth.seek(offset)
        while zero and length > 0:
            piece = truth.read(min(length, STEP))
            if not piece:
                break
            if piece.strip(b"\0"):
                sys.exit("%s is called zero and is not" % e)
            length -= len(piece)
    if not size <= at < size + 512 or ("type" in e and at != size):
        sys.exit("it ends at %d, the disk has %d bytes" % (at, size))
