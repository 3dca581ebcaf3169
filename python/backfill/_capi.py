"""libbackfill as ctypes sees it: its structs and prototypes, word by word from
backfill.h.  tests/api/test-python.py compares them with the compiler's.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

from __future__ import annotations

import ctypes
from ctypes import (CFUNCTYPE, POINTER, Structure, c_char, c_char_p, c_int,
                    c_size_t, c_uint, c_uint32, c_uint64, c_void_p)
from typing import Any, Dict, List, Tuple

SONAME = "libbackfill.so.0"


class Region(Structure):
    _fields_ = [("offset", c_uint64), ("length", c_uint64)]


class StateRegion(Structure):
    _fields_ = [("offset", c_uint64), ("length", c_uint64), ("state", c_int)]


class JobInfo(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("type", c_int),
        ("time_elapsed", c_uint64),
        ("time_remaining", c_uint64),
        ("data_total", c_uint64),
        ("data_processed", c_uint64),
        ("data_remaining", c_uint64),
        ("range_offset", c_uint64),
        ("range_length", c_uint64),
        ("local_at_start", c_uint64),
        ("bytes_read", c_uint64),
        ("speed", c_uint64),
        ("current_speed", c_uint64),
        ("failed_ranges", c_uint64),
        ("status", c_int),
        ("pause_reason", c_int),
        ("on_error", c_int),
        ("sparse", c_int),
        ("errnum", c_int),
        ("failed_offset", c_uint64),
        ("error", c_char * 256),
        ("number", c_uint64),
    ]


class DiskInfo(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("store", c_char_p),
        ("metadata", c_char_p),
        ("backing", c_char_p),
        ("size", c_uint64),
        ("local", c_uint64),
        ("absent", c_uint64),
        ("granule", c_uint32),
        ("source", c_char_p),
        ("source_reason", c_char_p),
        ("complete", c_int),
        ("detached", c_int),
        ("read_only", c_int),
        ("damaged_sectors", c_uint64),
        ("damaged_offset", c_uint64),
        ("damaged_length", c_uint64),
        ("sync_error", c_char_p),
        ("bytes_fetched", c_uint64),
        ("demand_fetches", c_uint64),
        ("ahead_fetches", c_uint64),
        ("background_fetches", c_uint64),
        ("guest_reads", c_uint64),
        ("guest_writes", c_uint64),
        ("flushes", c_uint64),
        ("commits", c_uint64),
        ("job", JobInfo),
        ("unanswered", c_char_p),
        ("trace_file", c_char_p),
        ("trace_recording", c_int),
        ("trace_replaying", c_int),
        ("trace_used", c_uint64),
        ("trace_hit", c_uint64),
    ]


ProgressFn = CFUNCTYPE(c_int, c_void_p, POINTER(JobInfo))


class AllocateOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("speed", c_uint64),
        ("on_error", c_int),
        ("has_retry", c_int),
        ("retry", c_uint64),
        ("progress", ProgressFn),
        ("opaque", c_void_p),
        ("number", POINTER(c_uint64)),
    ]


class Event(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("event", c_char_p),
        ("disk", c_char_p),
        ("status", c_char_p),
        ("error", c_char_p),
        ("reason", c_char_p),
        ("operation", c_char_p),
        ("action", c_char_p),
        ("len", c_uint64),
        ("offset", c_uint64),
        ("speed", c_uint64),
        ("seconds", c_uint64),
        ("microseconds", c_uint64),
        ("json", c_char_p),
        ("number", c_uint64),
    ]


STRUCTS: Dict[str, Any] = {
    "backfill_region": Region,
    "backfill_state_region": StateRegion,
    "backfill_job_info": JobInfo,
    "backfill_disk_info": DiskInfo,
    "backfill_allocate_options": AllocateOptions,
    "backfill_event": Event,
}

# Result, and arguments.
PROTOTYPES: Dict[str, Tuple[Any, List[Any]]] = {
    "backfill_connect": (c_void_p, [c_char_p]),
    "backfill_close": (None, [c_void_p]),
    "backfill_set_timeout": (c_int, [c_void_p, c_uint]),
    "backfill_get_errno": (c_int, []),
    "backfill_get_error": (c_char_p, []),
    "backfill_block_allocate":
        (c_int, [c_void_p, c_char_p, c_uint64, c_uint64, c_uint]),
    "backfill_block_allocate_options":
        (c_int, [c_void_p, c_char_p, c_uint64, c_uint64, c_uint,
                 POINTER(AllocateOptions)]),
    "backfill_block_get_job_info":
        (c_int, [c_void_p, c_char_p, POINTER(JobInfo)]),
    "backfill_block_abort_job": (c_int, [c_void_p, c_char_p]),
    "backfill_block_get_allocation_map":
        (c_int, [c_void_p, c_char_p, POINTER(c_uint), POINTER(POINTER(Region))]),
    "backfill_block_get_state_map":
        (c_int, [c_void_p, c_char_p, c_uint64, c_uint64, POINTER(c_uint),
                 POINTER(POINTER(StateRegion))]),
    "backfill_block_wait_job":
        (c_int, [c_void_p, c_char_p, c_uint, ProgressFn, c_void_p]),
    "backfill_block_set_speed": (c_int, [c_void_p, c_char_p, c_uint64]),
    "backfill_block_pause_job": (c_int, [c_void_p, c_char_p]),
    "backfill_block_resume_job": (c_int, [c_void_p, c_char_p]),
    "backfill_block_dismiss_job": (c_int, [c_void_p, c_char_p]),
    "backfill_job_get_info":
        (c_int, [c_void_p, c_char_p, c_uint64, POINTER(JobInfo)]),
    "backfill_job_wait":
        (c_int, [c_void_p, c_char_p, c_uint64, c_uint, ProgressFn, c_void_p]),
    "backfill_job_abort": (c_int, [c_void_p, c_char_p, c_uint64]),
    "backfill_job_pause": (c_int, [c_void_p, c_char_p, c_uint64]),
    "backfill_job_resume": (c_int, [c_void_p, c_char_p, c_uint64]),
    "backfill_job_set_speed":
        (c_int, [c_void_p, c_char_p, c_uint64, c_uint64]),
    "backfill_job_dismiss": (c_int, [c_void_p, c_char_p, c_uint64]),
    "backfill_list_disks":
        (c_int, [c_void_p, POINTER(c_uint), POINTER(POINTER(POINTER(DiskInfo)))]),
    "backfill_list_all_disks":
        (c_int, [c_void_p, POINTER(c_uint), POINTER(POINTER(POINTER(DiskInfo)))]),
    "backfill_free_disks": (None, [POINTER(POINTER(DiskInfo))]),
    "backfill_get_disk_info":
        (c_int, [c_void_p, c_char_p, POINTER(POINTER(DiskInfo))]),
    "backfill_free_disk_info": (None, [POINTER(DiskInfo)]),
    "backfill_create_volume":
        (c_int, [c_void_p, c_char_p, c_char_p, c_uint64, c_uint32]),
    "backfill_disk_flush": (c_int, [c_void_p, c_char_p]),
    "backfill_disk_detach": (c_int, [c_void_p, c_char_p]),
    "backfill_events_open": (c_void_p, [c_void_p, c_char_p]),
    "backfill_events_next":
        (c_int, [c_void_p, c_int, POINTER(POINTER(Event))]),
    "backfill_free_event": (None, [POINTER(Event)]),
    "backfill_events_close": (None, [c_void_p]),
    "backfill_command":
        (c_int, [c_void_p, c_char_p, c_char_p, POINTER(c_void_p)]),
    "backfill_version": (c_char_p, []),
}


def load() -> Any:
    """The library, with its prototypes.  Calls release Python's lock."""
    library = ctypes.CDLL(SONAME)
    for name, (result, arguments) in PROTOTYPES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def read(struct: Any, pointer: Any) -> Any:
    """What the library made.  An older one's struct is shorter than ours: the
    members that it does not have are 0."""
    copy = struct()
    size = min(pointer.contents.struct_size, ctypes.sizeof(struct))
    ctypes.memmove(ctypes.byref(copy), pointer, size)
    return copy


libc_free = ctypes.CDLL(None).free
libc_free.restype = None
libc_free.argtypes = [c_void_p]
