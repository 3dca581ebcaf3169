"""Drive the disks of Backfill's servers: libbackfill(3) for Python.

    import backfill

    with backfill.Connection() as b:
        b.create("/var/lib/volumes/vm1.img", backing="nbd://images/debian")
        b.allocate("/var/lib/volumes/vm1.img", speed=100 << 20)

backfill-python(7) is the manual.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

from ._client import (Connection, DiskInfo, Event, Events, JobInfo, JobStatus,
                      JobType, OnError, PauseReason, Region, State, StateRegion,
                      version)
from .errors import (AmbiguousDiskError, BackfillError, BusyError, ExistsError,
                     InvalidError, JobCancelledError, NoJobError, NoOwnerError,
                     NoSuchDiskError, NotAllowedError, ProtocolError,
                     ServerGoneError, StoppedError, TimedOutError,
                     UnsupportedError)

__all__ = [
    "AmbiguousDiskError",
    "BackfillError",
    "BusyError",
    "Connection",
    "DiskInfo",
    "Event",
    "Events",
    "ExistsError",
    "InvalidError",
    "JobCancelledError",
    "JobInfo",
    "JobStatus",
    "JobType",
    "NoJobError",
    "NoOwnerError",
    "NoSuchDiskError",
    "NotAllowedError",
    "OnError",
    "PauseReason",
    "ProtocolError",
    "Region",
    "ServerGoneError",
    "State",
    "StateRegion",
    "StoppedError",
    "TimedOutError",
    "UnsupportedError",
    "version",
]
