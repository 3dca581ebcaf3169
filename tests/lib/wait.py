"""wait.py - wait for something that another process does.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import time

# Seconds: nothing takes that long, however slow the machine.
LONG = int(os.environ.get("FAULT_LIMIT", "120"))


class TooLate(AssertionError):
    """What was waited for did not come.  .seen is what there was instead."""

    def __init__(self, what, limit, seen):
        super().__init__("not within %d s: %s: %s"
                         % (limit, what, repr(seen)[:2000]))
        self.seen = seen


def wait_for(what, condition, limit=LONG, state=None, pause=0.02):
    """The value of condition() once it is true.  TooLate says `what`, and what
    state() returns, or else the last value."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TooLate(what, limit, state() if state else value)
        time.sleep(pause)
