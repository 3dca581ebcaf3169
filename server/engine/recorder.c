/* recorder.c - what a guest reads in its first minutes.  See recorder.h.
 *
 * Once the recording has ended, a read costs one load of `on`.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <string.h>

#include "bytes.h"
#include "recorder.h"

void
recorder_init (struct recorder *r)
{
  memset (r, 0, sizeof *r);
  lock_init (&r->lock, LOCK_RECORDER);
}

void
recorder_destroy (struct recorder *r)
{
  trace_free (recorder_take (r));
  lock_destroy (&r->lock);
}

int
recorder_start (struct recorder *r, uint64_t size,
                const uint8_t digest[TRACE_DIGEST_SIZE])
{
  r->trace = trace_new (size, digest);
  if (!r->trace || trace_units_init (&r->seen) == -1) {
    trace_free (r->trace);
    r->trace = NULL;
    return -1;
  }
  atomic_store_explicit (&r->on, true, memory_order_release);
  return 0;
}

bool
recorder_is_on (const struct recorder *r)
{
  return atomic_load_explicit (&r->on, memory_order_acquire);
}

static void
end (struct recorder *r)
{
  ASSERT_HELD (&r->lock);
  atomic_store_explicit (&r->on, false, memory_order_release);
}

void
recorder_note (struct recorder *r, uint64_t offset, uint64_t length,
               uint64_t now)
{
  uint64_t unit = offset / TRACE_UNIT;
  uint64_t last = (offset + length - 1) / TRACE_UNIT;

  if (!recorder_is_on (r))
    return;
  LOCK_SCOPE (&r->lock);
  if (!r->trace)
    return;
  if (r->first == 0)
    r->first = r->last = now;
  /* Another thread may have come first with a later time. */
  now = max_u64 (now, r->last);
  for (; recorder_is_on (r) && unit <= last; unit++) {
    bool is_new;

    trace_units_add (&r->seen, unit, &is_new);
    if (!is_new)
      continue;
    r->last = now;
    if (trace_append (r->trace, unit, (uint32_t)(now - r->first), 1) == -1
        || r->seen.nr >= RECORDER_UNITS)
      end (r);
  }
}

bool
recorder_is_over (struct recorder *r, uint64_t now)
{
  LOCK_SCOPE (&r->lock);

  if (!r->trace || r->first == 0)
    return false;
  /* A guest may have read since the caller looked at the clock. */
  if (now >= r->first + RECORDER_MS || now >= r->last + RECORDER_QUIET_MS)
    end (r);
  return !recorder_is_on (r);
}

struct trace *
recorder_take (struct recorder *r)
{
  struct trace *t;
  LOCK_SCOPE (&r->lock);

  end (r);
  t = r->trace;
  r->trace = NULL;
  trace_units_free (&r->seen);
  if (t && t->nr > 0)
    return t;
  trace_free (t);
  return NULL;
}
