#!/usr/bin/python3
"""setrole.py SIDECAR ROLE [HOST [PEER]] - put the record of a migration into a
volume's header, as docs/backfill-format.pod has it, or "none" to remove it.

No server does that yet without a peer; so what the others make of such a
volume is tried with this.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import struct
import sys

COPY = 16384
FIXED, AREA = 192, 24
ROLES = "owner sending given incoming prepared aborted back".split()
WITH_FREEZE = ("owner", "given", "prepared", "back")
RECORD, HOST, PEER, PLANES = 17, 18, 19, 20


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def records(header, at, number):
    """The {id: bytes} that the header has."""
    found = {}
    for _ in range(number):
        what, length = struct.unpack_from("<II", header, at)
        found[what] = header[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def record(role):
    return struct.pack(
        "<II16s16s16sQQQQ16x",
        ROLES.index(role) + 1,
        0,
        bytes(range(16)),
        bytes(range(16, 32)),
        b"f" * 16 if role in WITH_FREEZE else bytes(16),
        3,
        0x0123456789ABCDEF,
        0,
        0,
    )


def with_role(header, role, host, peer):
    areas, number = struct.unpack_from("<II", header, 184)
    begin = FIXED + areas * AREA
    have = records(header, begin, number)
    for what in (RECORD, HOST, PEER, PLANES):
        have.pop(what, None)
    if role != "none":
        have[RECORD] = record(role)
        have[HOST] = host
        if peer is not None:
            have[PEER] = peer
    body = bytearray(header[:begin])
    for what, value in have.items():
        body += struct.pack("<II", what, len(value)) + value
    struct.pack_into("<I", body, 12, len(body) + 4)
    struct.pack_into("<Q", body, 32, role != "none")
    sequence = struct.unpack_from("<Q", body, 56)[0]
    struct.pack_into("<Q", body, 56, sequence + 1)
    struct.pack_into("<I", body, 188, len(have))
    body += struct.pack("<I", crc32c(body))
    return bytes(body).ljust(COPY, b"\0")


def main(path, role, host="hostb", peer=None):
    with open(path, "r+b") as f:
        header = with_role(
            f.read(COPY),
            role,
            host.encode("utf-8", "surrogateescape"),
            peer.encode("utf-8", "surrogateescape") if peer else None,
        )
        f.seek(0)
        f.write(header + header)


if __name__ == "__main__":
    main(*sys.argv[1:])
