"""Connections, disks, jobs and events: what programs use of libbackfill.

Calls that wait come back to Python about twice a second, so that signals, and
with them Ctrl-C, are seen.  (Not by the library's progress function: what a
signal handler raises when that is entered ctypes loses.)  A job goes on when a
call that waits for it ends early.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

from __future__ import annotations

import ctypes
import enum
import errno
import json
import math
import os
import time
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import (Any, Callable, Iterator, List, Mapping, Optional, Type,
                    Union)

from . import _capi
from .errors import BackfillError, StoppedError, error_for

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

_library = _capi.load()
_NONBLOCK, _SPARSE = 1, 2
_SLICE = 500  # ms, between two looks for signals


class JobType(enum.IntEnum):
    """What has become of a job."""
    NONE = 0
    BOUNDED = 1  # in progress
    UNBOUNDED = 2  # never used here
    COMPLETED = 3
    FAILED = 4
    CANCELLED = 5


class JobStatus(enum.IntEnum):
    """What a job does now."""
    NONE = 0
    CREATED = 1
    RUNNING = 2
    PAUSED = 3
    WAITING = 4  # for a lost backing store
    ABORTING = 5
    CONCLUDED = 6


class PauseReason(enum.IntEnum):
    """Why a job is paused."""
    NONE = 0
    USER = 1
    NOSPACE = 2


class OnError(enum.IntEnum):
    """What a job does when the backing store answers reads with errors."""
    REPORT = 0
    SKIP = 1


class State(enum.IntEnum):
    """What a region of a disk is."""
    LOCAL = 0
    ABSENT = 1
    ZERO = 2


@dataclass(frozen=True)
class Region:
    """Bytes of a disk that are local."""
    offset: int
    length: int


@dataclass(frozen=True)
class StateRegion:
    """Bytes of a disk, and their state."""
    offset: int
    length: int
    state: State


@dataclass(frozen=True)
class JobInfo:
    """A disk's job: the members of struct backfill_job_info.  Bytes, and
    milliseconds."""
    type: JobType
    time_elapsed: int
    time_remaining: int
    data_total: int
    data_processed: int
    data_remaining: int
    range_offset: int
    range_length: int
    local_at_start: int
    bytes_read: int
    speed: int
    current_speed: int
    failed_ranges: int
    status: JobStatus
    pause_reason: PauseReason
    on_error: OnError
    sparse: bool
    errnum: int
    failed_offset: Optional[int]
    error: str
    number: int

    @property
    def in_progress(self) -> bool:
        """It has not ended."""
        return self.type == JobType.BOUNDED


@dataclass(frozen=True)
class DiskInfo:
    """A disk: the members of struct backfill_disk_info.  Where the server did
    not answer (unanswered says why) only name and store are known."""
    name: str
    store: str
    metadata: Optional[str]
    backing: Optional[str]
    size: int
    local: int
    absent: int
    granule: int
    source: Optional[str]
    source_reason: Optional[str]
    complete: bool
    detached: bool
    read_only: bool
    damaged_sectors: int
    damaged_offset: int
    damaged_length: int
    sync_error: Optional[str]
    bytes_fetched: int
    demand_fetches: int
    ahead_fetches: int
    background_fetches: int
    guest_reads: int
    guest_writes: int
    flushes: int
    commits: int
    job: JobInfo
    unanswered: Optional[str]
    trace_file: Optional[str]
    trace_recording: bool
    trace_replaying: bool
    trace_used: int
    trace_hit: int


@dataclass(frozen=True)
class Event:
    """Something that happened: the members of struct backfill_event."""
    event: str
    disk: Optional[str]
    status: Optional[str]
    error: Optional[str]
    reason: Optional[str]
    operation: Optional[str]
    action: Optional[str]
    len: int
    offset: int
    speed: int
    seconds: int
    microseconds: int
    json: str
    number: int


Progress = Callable[[JobInfo], Optional[bool]]


def version() -> str:
    """The library's version."""
    text: bytes = _library.backfill_version()
    return text.decode()


def _fail() -> BackfillError:
    # The C library keeps the error for each thread, and this is still that one.
    text: bytes = _library.backfill_get_error()
    return error_for(_library.backfill_get_errno(),
                     text.decode("utf-8", "surrogateescape"))


def _check(result: int) -> None:
    if result == -1:
        raise _fail()


def _text(value: Optional[bytes]) -> Optional[str]:
    # (Whatever the locale is: the protocol's texts are UTF-8.)
    return None if value is None else value.decode("utf-8", "surrogateescape")


def _bytes(value: Optional[Path]) -> Optional[bytes]:
    """For C, where a text ends at its first NUL."""
    if value is None:
        return None
    data = os.fspath(value)
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise ValueError("embedded null character in %r" % (value,))
    return data


def _number(value: int, bits: int = 64) -> int:
    """ctypes would take what does not fit, and make another number of it."""
    if not 0 <= value < 1 << bits:
        raise ValueError("%d is not a number of %d bits" % (value, bits))
    return value


def _milliseconds(seconds: Optional[float]) -> int:
    """For C, where 0 means no limit, as None does here."""
    if seconds is None:
        return 0
    if not seconds >= 0:
        raise ValueError("%r is not a time" % (seconds,))
    return _number(max(1, math.ceil(seconds * 1000)), 32)


def _job(info: _capi.JobInfo) -> JobInfo:
    failed = info.failed_offset
    return JobInfo(
        type=JobType(info.type), time_elapsed=info.time_elapsed,
        time_remaining=info.time_remaining, data_total=info.data_total,
        data_processed=info.data_processed, data_remaining=info.data_remaining,
        range_offset=info.range_offset, range_length=info.range_length,
        local_at_start=info.local_at_start, bytes_read=info.bytes_read,
        speed=info.speed, current_speed=info.current_speed,
        failed_ranges=info.failed_ranges, status=JobStatus(info.status),
        pause_reason=PauseReason(info.pause_reason),
        on_error=OnError(info.on_error), sparse=bool(info.sparse),
        errnum=info.errnum,
        failed_offset=None if failed == (1 << 64) - 1 else failed,
        error=_text(info.error) or "", number=info.number)


def _disk(pointer: Any) -> DiskInfo:
    info = _capi.read(_capi.DiskInfo, pointer)
    return DiskInfo(
        name=_text(info.name) or "", store=_text(info.store) or "",
        metadata=_text(info.metadata), backing=_text(info.backing),
        size=info.size, local=info.local, absent=info.absent,
        granule=info.granule, source=_text(info.source),
        source_reason=_text(info.source_reason), complete=bool(info.complete),
        detached=bool(info.detached), read_only=bool(info.read_only),
        damaged_sectors=info.damaged_sectors,
        damaged_offset=info.damaged_offset, damaged_length=info.damaged_length,
        sync_error=_text(info.sync_error), bytes_fetched=info.bytes_fetched,
        demand_fetches=info.demand_fetches, ahead_fetches=info.ahead_fetches,
        background_fetches=info.background_fetches,
        guest_reads=info.guest_reads, guest_writes=info.guest_writes,
        flushes=info.flushes, commits=info.commits, job=_job(info.job),
        unanswered=_text(info.unanswered), trace_file=_text(info.trace_file),
        trace_recording=bool(info.trace_recording),
        trace_replaying=bool(info.trace_replaying),
        trace_used=info.trace_used, trace_hit=info.trace_hit)


class Connection:
    """A handle: the servers of all disks, or with a uri one of them.

    uri      None, "unix:PATH" of a control socket, or "nbd:PATH" of the NBD
             socket that the server listens on: backfill_connect(3).
    timeout  seconds for which a server may not answer.

    disk is always a disk's name or the path of its store; None is the only disk
    there is.  Any method may be called from any thread, but for close(), which
    must be the last.
    """

    def __init__(self, uri: Optional[Path] = None, *,
                 timeout: Optional[float] = None) -> None:
        self._h: Optional[int] = None
        self._events: "weakref.WeakSet[Events]" = weakref.WeakSet()
        self._h = _library.backfill_connect(_bytes(uri))
        if not self._h:
            raise _fail()
        if timeout is not None:
            try:
                self.set_timeout(timeout)
            except BaseException:
                self.close()
                raise

    @property
    def _handle(self) -> int:
        if not self._h:
            raise ValueError("the connection is closed")
        return self._h

    def close(self) -> None:
        """Close it, and the subscriptions that were made with it."""
        if not self._h:
            return
        for events in list(self._events):
            events.close()
        h, self._h = self._h, None
        _library.backfill_close(h)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]],
                 value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def set_timeout(self, seconds: Optional[float]) -> None:
        """How long a server may take to answer; None is for ever."""
        _check(_library.backfill_set_timeout(self._handle,
                                             _milliseconds(seconds)))

    # Allocation

    def allocate(self, disk: Optional[Path] = None, offset: int = 0,
                 length: int = 0, *, wait: bool = True, sparse: bool = False,
                 speed: int = 0, on_error: OnError = OnError.REPORT,
                 retry: Optional[float] = None,
                 progress: Optional[Progress] = None) -> int:
        """Make a range local (length 0: to the end); the job's number.

        wait      return when it is local; else when the job has started
        sparse    zeros may stay holes
        speed     limit in bytes per second, 0 is none
        retry     seconds for which a lost backing store is waited for; None is
                  for ever
        progress  called with the JobInfo about twice a second, and at the end;
                  what is true ends the waiting (StoppedError), and the job goes
                  on
        """
        number = ctypes.c_uint64(0)
        options = _capi.AllocateOptions(
            struct_size=ctypes.sizeof(_capi.AllocateOptions),
            speed=_number(speed), on_error=OnError(on_error),
            has_retry=0 if retry is None else 1,
            retry=0 if not retry else _milliseconds(retry),
            number=ctypes.pointer(number))
        _check(_library.backfill_block_allocate_options(
            self._handle, _bytes(disk), _number(offset), _number(length),
            _NONBLOCK | (_SPARSE if sparse else 0), ctypes.byref(options)))
        if wait:
            self.wait(disk, number.value, progress=progress)
        return number.value

    def allocation_map(self, disk: Optional[Path] = None) -> List[Region]:
        """The local regions, in order."""
        n = ctypes.c_uint(0)
        regions = ctypes.POINTER(_capi.Region)()
        _check(_library.backfill_block_get_allocation_map(
            self._handle, _bytes(disk), ctypes.byref(n),
            ctypes.byref(regions)))
        try:
            return [Region(r.offset, r.length) for r in regions[:n.value]]
        finally:
            _capi.libc_free(regions)

    def state_map(self, disk: Optional[Path] = None, offset: int = 0,
                  length: int = 0) -> List[StateRegion]:
        """Every region of a range (length 0: to the end), with its state."""
        n = ctypes.c_uint(0)
        regions = ctypes.POINTER(_capi.StateRegion)()
        _check(_library.backfill_block_get_state_map(
            self._handle, _bytes(disk), _number(offset), _number(length),
            ctypes.byref(n), ctypes.byref(regions)))
        try:
            return [StateRegion(r.offset, r.length, State(r.state))
                    for r in regions[:n.value]]
        finally:
            _capi.libc_free(regions)

    # Jobs.  number 0 is whichever job it is.

    def job(self, disk: Optional[Path] = None, number: int = 0) -> JobInfo:
        """The job in progress, or the last that ended; its type may be NONE."""
        info = _capi.JobInfo(struct_size=ctypes.sizeof(_capi.JobInfo))
        _check(_library.backfill_job_get_info(
            self._handle, _bytes(disk), _number(number), ctypes.byref(info)))
        return _job(info)

    def wait(self, disk: Optional[Path] = None, number: int = 0, *,
             timeout: Optional[float] = None,
             progress: Optional[Progress] = None) -> None:
        """Wait for a job's end.  Raises the error of a job that failed."""
        end = None if timeout is None else time.monotonic() + timeout
        info = self.job(disk, number)
        number = number or info.number
        while True:
            if info.in_progress and progress is not None and progress(info):
                raise StoppedError(errno.EINTR, "the waiting was ended")
            left = _SLICE
            if end is not None:
                left = min(left, _milliseconds(max(0, end - time.monotonic())))
            if _library.backfill_job_wait(
                    self._handle, _bytes(disk), number, left,
                    _capi.ProgressFn(0), None) == 0:
                if progress is not None:
                    progress(self.job(disk, number))
                return
            error = _fail()
            # The time that a job failed with is another than this slice's.
            if error.errno != errno.ETIMEDOUT or not info.in_progress:
                raise error
            info = self.job(disk, number)
            if info.in_progress and end is not None and time.monotonic() >= end:
                raise error

    def abort(self, disk: Optional[Path] = None, number: int = 0) -> None:
        """End the job.  What it made local stays so."""
        _check(_library.backfill_job_abort(self._handle, _bytes(disk),
                                           _number(number)))

    def pause(self, disk: Optional[Path] = None, number: int = 0) -> None:
        """Let the job rest, until resume()."""
        _check(_library.backfill_job_pause(self._handle, _bytes(disk),
                                           _number(number)))

    def resume(self, disk: Optional[Path] = None, number: int = 0) -> None:
        """Let a job that is paused go on."""
        _check(_library.backfill_job_resume(self._handle, _bytes(disk),
                                            _number(number)))

    def set_speed(self, disk: Optional[Path] = None, speed: int = 0,
                  number: int = 0) -> None:
        """The job's limit in bytes per second; 0 is none."""
        _check(_library.backfill_job_set_speed(
            self._handle, _bytes(disk), _number(number), _number(speed)))

    def dismiss(self, disk: Optional[Path] = None, number: int = 0) -> None:
        """Forget a job that has ended."""
        _check(_library.backfill_job_dismiss(self._handle, _bytes(disk),
                                             _number(number)))

    # Disks

    def disks(self, *, offline: bool = False) -> List[DiskInfo]:
        """All disks; with offline also those that backfilld has not open, but
        whose job is on record."""
        n = ctypes.c_uint(0)
        infos = ctypes.POINTER(ctypes.POINTER(_capi.DiskInfo))()
        call = (_library.backfill_list_all_disks if offline
                else _library.backfill_list_disks)
        _check(call(self._handle, ctypes.byref(n), ctypes.byref(infos)))
        try:
            return [_disk(infos[i]) for i in range(n.value)]
        finally:
            _library.backfill_free_disks(infos)

    def disk(self, disk: Optional[Path] = None) -> DiskInfo:
        """One disk."""
        info = ctypes.POINTER(_capi.DiskInfo)()
        _check(_library.backfill_get_disk_info(self._handle, _bytes(disk),
                                               ctypes.byref(info)))
        try:
            return _disk(info)
        finally:
            _library.backfill_free_disk_info(info)

    def create(self, store: Path, backing: Optional[str] = None,
               size: int = 0, granule: int = 0) -> None:
        """Have backfilld make a volume, with nothing local.  backing: an NBD
        URI, None for zeros; size 0: the backing store's; granule 0: 4 KiB."""
        _check(_library.backfill_create_volume(
            self._handle, _bytes(store), _bytes(backing), _number(size),
            _number(granule, 32)))

    def flush(self, disk: Optional[Path] = None) -> None:
        """Make durable what the guest has written."""
        _check(_library.backfill_disk_flush(self._handle, _bytes(disk)))

    def detach(self, disk: Optional[Path] = None) -> None:
        """Let backing store and sidecar go; all of the disk must be local."""
        _check(_library.backfill_disk_detach(self._handle, _bytes(disk)))

    # Everything else

    def events(self, disk: Optional[Path] = None, *,
               timeout: Optional[float] = None) -> "Events":
        """Events from now on, of one disk or, with None, of all: an iterator.
        With a timeout it ends when none came for so many seconds."""
        return Events(self, disk, timeout)

    def command(self, name: str,
                arguments: Optional[Mapping[str, Any]] = None) -> Any:
        """Any command of backfill-protocol(7): what it returns."""
        reply = ctypes.c_void_p()
        text = None if arguments is None else json.dumps(dict(arguments))
        _check(_library.backfill_command(self._handle, _bytes(name),
                                         _bytes(text), ctypes.byref(reply)))
        try:
            return json.loads(ctypes.string_at(reply.value or 0))
        finally:
            _capi.libc_free(reply)


class Events(Iterator[Event]):
    """A subscription, made by Connection.events(): for one thread at a time."""

    def __init__(self, connection: Connection, disk: Optional[Path],
                 timeout: Optional[float]) -> None:
        self._e: Optional[int] = None
        self._timeout = timeout
        # It keeps the handle, which must be closed after it.
        self._connection = connection
        self._e = _library.backfill_events_open(connection._handle,
                                                _bytes(disk))
        if not self._e:
            raise _fail()
        connection._events.add(self)

    def next_event(self, timeout: Optional[float] = None) -> Optional[Event]:
        """The next one, or None if none came in so many seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _SLICE
            if end is not None:
                left = min(left, max(0, math.ceil((end - time.monotonic())
                                                  * 1000)))
            if not self._e:
                raise ValueError("the subscription is closed")
            event = ctypes.POINTER(_capi.Event)()
            result = _library.backfill_events_next(self._e, left,
                                                   ctypes.byref(event))
            if result == -1:
                error = _fail()
                if error.errno == errno.EINTR:
                    continue
                raise error
            if result == 1:
                return self._take(event)
            if end is not None and time.monotonic() >= end:
                return None

    @staticmethod
    def _take(event: Any) -> Event:
        e = _capi.read(_capi.Event, event)
        try:
            return Event(
                event=_text(e.event) or "", disk=_text(e.disk),
                status=_text(e.status), error=_text(e.error),
                reason=_text(e.reason), operation=_text(e.operation),
                action=_text(e.action), len=e.len, offset=e.offset,
                speed=e.speed, seconds=e.seconds,
                microseconds=e.microseconds, json=_text(e.json) or "",
                number=e.number)
        finally:
            _library.backfill_free_event(event)

    def __iter__(self) -> "Events":
        return self

    def __next__(self) -> Event:
        event = self.next_event(self._timeout)
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """End it."""
        e, self._e = self._e, None
        if e:
            _library.backfill_events_close(e)

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]],
                 value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
