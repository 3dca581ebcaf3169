"""What a call of libbackfill can fail with.

Each error has the number that backfill_get_errno(3) gives (``errno``), its
symbol (``name``, "ENXIO" and so on) and the library's text.  The classes are
named after what the number means to libbackfill; a number without a class of
its own, such as one that a job failed with, is a plain ``BackfillError``.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

from __future__ import annotations

import errno
from typing import Dict, Type


class BackfillError(OSError):
    """A call failed."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(number, text)
        self.text = text

    @property
    def name(self) -> str:
        """The number's symbol, such as "EBUSY"."""
        return errno.errorcode.get(self.errno or 0, str(self.errno))

    def __str__(self) -> str:
        return self.text


class NoOwnerError(BackfillError):
    """ENXIO: nobody has that disk open, and no backfilld answers for it."""


class AmbiguousDiskError(BackfillError):
    """ENOTUNIQ: more than one disk could be meant."""


class NoSuchDiskError(BackfillError, FileNotFoundError):
    """ENOENT: there is no such disk, or file."""


class ExistsError(BackfillError, FileExistsError):
    """EEXIST: the store that was to be made is there."""


class BusyError(BackfillError):
    """EBUSY: the disk has a job already, or cannot be detached yet."""


class NoJobError(BackfillError):
    """ESRCH: the disk has no job, or another than the one that was named."""


class JobCancelledError(BackfillError):
    """ECANCELED: somebody aborted the job."""


class TimedOutError(BackfillError, TimeoutError):
    """ETIMEDOUT: the server stopped answering, or the time that was given to
    wait() is over."""


class ProtocolError(BackfillError):
    """EPROTO: the server's answer makes no sense."""


class ServerGoneError(BackfillError, ConnectionResetError):
    """ECONNRESET: the server has ended."""


class NotAllowedError(BackfillError, PermissionError):
    """EACCES or EPERM: the caller may not do that."""


class InvalidError(BackfillError, ValueError):
    """EINVAL: an argument makes no sense, such as a range outside of the
    disk."""


class StoppedError(BackfillError, InterruptedError):
    """EINTR: the progress function ended the waiting; the job goes on."""


class UnsupportedError(BackfillError):
    """EOPNOTSUPP: the server does not know that command."""


BY_NUMBER: Dict[int, Type[BackfillError]] = {
    errno.ENXIO: NoOwnerError,
    errno.ENOTUNIQ: AmbiguousDiskError,
    errno.ENOENT: NoSuchDiskError,
    errno.EEXIST: ExistsError,
    errno.EBUSY: BusyError,
    errno.ESRCH: NoJobError,
    errno.ECANCELED: JobCancelledError,
    errno.ETIMEDOUT: TimedOutError,
    errno.EPROTO: ProtocolError,
    errno.ECONNRESET: ServerGoneError,
    errno.EINVAL: InvalidError,
    errno.EINTR: StoppedError,
    errno.EACCES: NotAllowedError,
    errno.EPERM: NotAllowedError,
    errno.EOPNOTSUPP: UnsupportedError,
}


def error_for(number: int, text: str) -> BackfillError:
    """The error of that number."""
    return BY_NUMBER.get(number, BackfillError)(number, text)
