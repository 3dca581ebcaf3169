/* replay.c - fetching what earlier guests have read.  See replay.h.
 *
 * The thread sleeps while the guest has to catch up, while much is in flight,
 * or while the source is away.  While much is in flight the thread looks again
 * each POLL_MS: an arrival does not wake it, as only one of a hundred would
 * matter.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <string.h>

#include "fetch.h"
#include "internal.h"
#include "replay.h"
#include "thread.h"

#define REPLAY_WINDOW 256u /* units: 16 MiB */
#define STRAYS 128u        /* units, and twice what was hit */
#define IN_FLIGHT (UINT64_C (16) << 20)
#define FIRST_UNITS 32u /* with demand, on a connection that is there */
#define POLL_MS 2u
#define IDLE_MS 250u

#define REPLAY_ASKED 1u
#define REPLAY_READ 2u

void
replay_init (struct replay *r)
{
  memset (r, 0, sizeof *r);
  lock_init (&r->lock, LOCK_REPLAY);
  cond_init (&r->wake);
}

void
replay_destroy (struct replay *r)
{
  trace_free (r->trace);
  trace_units_free (&r->units);
  pthread_cond_destroy (&r->wake);
  lock_destroy (&r->lock);
}

static bool
is_on (const struct replay *r)
{
  return atomic_load_explicit (&r->on, memory_order_acquire);
}

/* Most of what the guest reads is not in the trace. */
static bool
is_elsewhere (const struct replay *r)
{
  return r->strays > STRAYS + 2 * r->confirmed;
}

bool
replay_note (struct replay *r, uint64_t offset, uint64_t length)
{
  uint64_t unit = offset / TRACE_UNIT;
  uint64_t last = (offset + length - 1) / TRACE_UNIT;
  bool ours = true, wake = false;

  if (!is_on (r))
    return false;
  LOCK_SCOPE (&r->lock);
  if (!is_on (r))
    return false;
  for (; unit <= last; unit++) {
    uint8_t *value = trace_units_find (&r->units, unit);

    if (!value) {
      ours = false;
      r->strays++;
      wake |= is_elsewhere (r);
      continue;
    }
    /* A stalled thread will not ask for this unit soon. */
    ours &= !r->stalled || (*value & REPLAY_ASKED);
    if (*value & REPLAY_READ)
      continue;
    *value |= REPLAY_READ;
    r->confirmed++;
    r->hit += (*value & REPLAY_ASKED) != 0;
    wake = true;
  }
  if (wake && r->stalled)
    pthread_cond_signal (&r->wake);
  return ours;
}

void
replay_kick (struct replay *r)
{
  LOCK_SCOPE (&r->lock);

  pthread_cond_signal (&r->wake);
}

void
replay_forget (struct replay *r)
{
  atomic_store_explicit (&r->on, false, memory_order_release);
}

/* Count the range's units as asked for by the replay, except those that the
 * guest has read before. */
static void
mark_asked (struct replay *r, const struct trace_range *range)
{
  uint64_t first = range->offset / TRACE_UNIT;

  ASSERT_HELD (&r->lock);
  for (uint64_t k = first; k < first + range->length / TRACE_UNIT; k++) {
    uint8_t *value = trace_units_find (&r->units, k);

    if (!value || (*value & (REPLAY_READ | REPLAY_ASKED)))
      continue;
    *value |= REPLAY_ASKED;
    r->asked++;
  }
}

/* Sleep until something may be asked for.  False: the replay is over. */
static bool
wait_turn (struct disk *d, struct replay *r)
{
  ASSERT_HELD (&r->lock);
  while (r->running && !map_is_complete (d->map) && !is_elsewhere (r)) {
    bool up = atomic_load_explicit (&d->source_up, memory_order_acquire);
    uint64_t ms = up ? POLL_MS : IDLE_MS;

    r->stalled = r->asked - r->hit > REPLAY_WINDOW + r->confirmed / 2;
    /* Reads are noted no more: none can end the stall. */
    if (r->stalled && !is_on (r))
      return false;
    if (r->stalled)
      ms = IDLE_MS; /* replay_note wakes this thread */
    else if (up && fetch_backlog (d) < IN_FLIGHT)
      return true;
    lock_wait_ms (&r->wake, &r->lock, now_ms () + ms);
  }
  return false;
}

/* False: all is over. */
static bool
replay_range (struct disk *d, struct replay *r, const struct trace_range *range)
{
  uint64_t at = range->offset;
  uint64_t end = min_u64 (at + range->length, d->size);

  ASSERT_HELD (&r->lock);
  while (at < end) {
    bool first;

    if (!wait_turn (d, r))
      return false;
    if (at == range->offset)
      mark_asked (r, range);
    first = r->asked <= FIRST_UNITS;
    UNLOCK_SCOPE (&r->lock);
    at = fetch_replay (d, at, end, first);
  }
  return true;
}

static void *
replay (void *arg)
{
  struct disk *d = arg;
  struct replay *r = &d->replay;
  LOCK_SCOPE (&r->lock);

  for (size_t i = 0; i < r->trace->nr; i++)
    if (trace_is_likely (r->trace, &r->trace->ranges[i])
        && !replay_range (d, r, &r->trace->ranges[i])) {
      replay_forget (r);
      break;
    }
  r->stalled = false;
  r->ended = true;
  pthread_cond_broadcast (&r->wake);
  return NULL;
}

static int
index_units (struct replay *r)
{
  if (trace_units_init (&r->units) == -1)
    return -1;
  for (size_t i = 0; i < r->trace->nr; i++) {
    const struct trace_range *range = &r->trace->ranges[i];
    uint64_t first = range->offset / TRACE_UNIT;
    bool is_new;

    if (trace_is_likely (r->trace, range))
      for (uint64_t k = first; k < first + range->length / TRACE_UNIT; k++)
        trace_units_add (&r->units, k, &is_new);
  }
  return 0;
}

int
replay_start (struct disk *d, struct trace *trace)
{
  struct replay *r = &d->replay;

  r->trace = trace;
  if (index_units (r) == -1)
    return -1;
  r->running = r->started = true;
  atomic_store_explicit (&r->on, true, memory_order_release);
  if (thread_start (&r->thread, replay, d) == 0)
    return 0;
  r->running = r->started = false;
  replay_forget (r);
  return -1;
}

bool
replay_stop (struct disk *d, uint64_t until)
{
  struct replay *r = &d->replay;

  replay_forget (r);
  {
    LOCK_SCOPE (&r->lock);
    if (!r->started)
      return true;
    r->running = false;
    pthread_cond_broadcast (&r->wake);
    while (!r->ended)
      if (!lock_wait_ms (&r->wake, &r->lock, until))
        break;
    if (!r->ended)
      return false;
    r->started = false;
  }
  pthread_join (r->thread, NULL);
  return true;
}

void
replay_get_info (struct replay *r, struct replay_info *info)
{
  LOCK_SCOPE (&r->lock);

  info->active = r->started && !r->ended;
  info->used = r->asked * TRACE_UNIT;
  info->hit = r->hit * TRACE_UNIT;
}
