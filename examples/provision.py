#!/usr/bin/python3
"""Provision disks for guests: make them, fill them in, say how it goes.

    provision.py --backing nbd://images/debian /var/lib/volumes vm

makes /var/lib/volumes/vm0.img to vm9.img with backfilld, and fills them in at
no more than 100 MiB per second each.  What is there already is not made again,
and a job that runs is only waited for: run it as often as you like.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import argparse
import os
import sys
from typing import List

import backfill


def provision(b: backfill.Connection, store: str, backing: str,
              speed: int) -> None:
    """Make the volume, and start its job."""
    try:
        b.create(store, backing=backing)
    except backfill.ExistsError:
        pass
    try:
        b.allocate(store, wait=False, sparse=True, speed=speed)
    except backfill.BusyError:
        pass


def wait_for(b: backfill.Connection, store: str) -> bool:
    """Wait for the volume's job; whether all of it is local."""
    try:
        b.wait(store)
    except backfill.NoJobError:
        pass  # it had nothing to do
    except backfill.BackfillError as e:
        print("%s: %s" % (store, e), file=sys.stderr)
        return False
    info = b.disk(store)
    print("%s: %d of %d bytes are local" % (store, info.local, info.size))
    return info.absent == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Provision disks for guests.")
    parser.add_argument("folder", help="below one of backfilld's folders")
    parser.add_argument("name", help="the volumes are FOLDER/NAME0.img, ...")
    parser.add_argument("--backing", required=True, metavar="URI",
                        help="the golden image")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--speed", type=int, default=100 << 20,
                        help="bytes per second, for each")
    args = parser.parse_args()
    stores: List[str] = [
        os.path.join(os.path.realpath(args.folder), "%s%d.img" % (args.name, i))
        for i in range(args.count)]
    try:
        with backfill.Connection() as b:
            for store in stores:
                provision(b, store, args.backing, args.speed)
            results = [wait_for(b, store) for store in stores]
    except backfill.BackfillError as e:
        print("provision: %s" % e, file=sys.stderr)
        return 1
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
