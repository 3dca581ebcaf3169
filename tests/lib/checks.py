"""checks.py - a program that goes on when something is wrong, and counts.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import time

started = time.monotonic()
failures = []


def check(what, condition, seen=None):
    print("%6.1f %s: %s" % (time.monotonic() - started,
                            "ok" if condition else "FAILED", what), end="")
    print("" if condition or seen is None else ": %s" % (seen,), flush=True)
    if not condition:
        failures.append(what)
    return condition


def finish():
    """The program's exit status."""
    print("%d failed" % len(failures), flush=True)
    return 1 if failures else 0
