/* recorder.h - what a guest reads in its first minutes, as a trace.
 *
 * A unit counts when it is first read, be it local or not.  Recording ends
 * RECORDER_MS after the first read, when RECORDER_UNITS were read, or when
 * nothing new was read for RECORDER_QUIET_MS; the caller of recorder_is_over
 * then takes the trace.
 *
 * Locking: recorder_note from any thread; lock order: common/lock-ranks.h.  The
 * rest from one thread at a time.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_RECORDER_H
#define BACKFILL_RECORDER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lock.h"
#include "trace.h"

#define RECORDER_MS (5u * 60 * 1000)
#define RECORDER_QUIET_MS (60u * 1000)
#define RECORDER_UNITS 4096u /* 256 MiB */

struct recorder {
  struct lock lock;
  atomic_bool on;
  struct trace_units seen;
  struct trace *trace;
  uint64_t first, last; /* ms: of the first read, and of the last new unit */
};

void recorder_init (struct recorder *r);
void recorder_destroy (struct recorder *r);

/* Begin for an image.  0, or -1: no memory. */
int recorder_start (struct recorder *r, uint64_t size,
                    const uint8_t digest[TRACE_DIGEST_SIZE]);
/* A guest reads [offset, offset + length), length not 0, at `now` (ms). */
void recorder_note (struct recorder *r, uint64_t offset, uint64_t length,
                    uint64_t now);
bool recorder_is_on (const struct recorder *r);
/* True if something was read, and nothing more is to be recorded. */
bool recorder_is_over (struct recorder *r, uint64_t now);
/* End the recording, and hand the trace to the caller; NULL: nothing was read,
 * or it has been taken. */
struct trace *recorder_take (struct recorder *r);

#endif
