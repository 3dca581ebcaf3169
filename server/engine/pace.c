/* pace.c - see pace.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>

#include "pace.h"

/* While a guest is active a job has few requests in flight, with a gap of
 * POLITE_GAP_NS divided by the number of processors between them, because the
 * thread that handles an answer competes with the guest's. */
#define POLITE_GAP_NS UINT64_C (3000000)
#define POLITE_DEPTH 2u
/* A guest that did something this recently is served before the job. */
#define GUEST_MS 50u

bool
pace_source_is_up (struct disk *d)
{
  return d->no_source
         || atomic_load_explicit (&d->source_up, memory_order_acquire);
}

unsigned
pace_why_halt (struct disk *d)
{
  const struct job *j = d->job;

  return (j->stop || j->abort || j->errnum ? HALT_END : 0u)
         | (j->pause != JOB_PAUSE_NONE ? HALT_PAUSE : 0u)
         | (pace_source_is_up (d) ? 0u : HALT_SOURCE)
         | (j->failing ? HALT_FAILURE : 0u);
}

void
pace_wait_answers (struct disk *d, unsigned halts)
{
  struct job *j = d->job;

  while (j->in_flight > 0 && !(pace_why_halt (d) & halts))
    job_sleep_until (j, now_ns () + 100000000);
}

bool
pace_is_local (struct disk *d)
{
  struct job *j = d->job;

  return map_live_bytes (d->map, granule_ceil (d, j->offset),
                         granule_ceil (d, j->end))
         == j->end - j->offset;
}

/* job.lock is held, but all_is_local lets job.lock go while it looks at the
 * map: the look may read the sidecar. */
static bool
all_is_local (struct disk *d)
{
  UNLOCK_SCOPE (&d->job->lock);

  return pace_is_local (d);
}

/* job.lock is held, but wait_slot lets job.lock go while it waits for a slot or
 * for job_wake. */
static void
wait_slot (struct job *j)
{
  UNLOCK_SCOPE (&j->lock);

  slot_wait (&j->slot);
}

/* job.lock is held.  The source is lost, and needed: wait a while for it.
 * False: long enough, and the job has failed. */
static bool
wait_source (struct disk *d, uint64_t now)
{
  struct job *j = d->job;
  char why[200];

  slot_give (&j->slot);
  job_set_status (d, JOB_WAITING);
  if (!j->lost_since)
    j->lost_since = now;
  if (j->options.retry && now - j->lost_since >= j->options.retry) {
    source_get_reason (d->src, why, sizeof why);
    j->errnum = ETIMEDOUT;
    snprintf (j->error, sizeof j->error, "the backing store is lost: %s", why);
    job_emit (d, DISK_EVENT_JOB_ERROR, "read", "report");
    return false;
  }
  job_sleep_until (j, now_ns () + 200000000);
  return true;
}

enum turn
pace_wait_turn (struct disk *d, uint64_t not_before)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->lock);

  for (;;) {
    uint64_t now = now_ms ();
    unsigned why = pace_why_halt (d);

    if (why & HALT_END)
      return LEAVE;
    if (why & HALT_PAUSE) {
      slot_give (&j->slot);
      job_set_status (d, JOB_PAUSED);
      lock_wait (&j->changed, &j->lock);
      continue;
    }
    if ((why & HALT_SOURCE) && !all_is_local (d)) {
      /* all_is_local has let job.lock go: much may have changed. */
      if (pace_why_halt (d) & (HALT_END | HALT_PAUSE))
        continue;
      if (!wait_source (d, now))
        return LEAVE;
      continue;
    }
    j->lost_since = 0;
    if (!slot_take (&j->slot)) {
      job_set_status (d, JOB_CREATED);
      wait_slot (j);
      continue;
    }
    if (now < not_before) {
      job_set_status (d, JOB_WAITING);
      job_sleep_until (j, not_before * 1000000);
      continue;
    }
    job_set_status (d, JOB_RUNNING);
    return GO;
  }
}

bool
pace_guest_is_active (struct disk *d)
{
  return source_demand_waiting (d->src) > 0
         || now_ms () - counted (&d->last_guest_op) < GUEST_MS;
}

/* job.lock is held.  Is there room for one more request?  The jobs whose turn
 * it is share the memory evenly, and each may always have one request: another
 * job's source or store that hangs takes nothing from it. */
static bool
has_room (struct disk *d, uint64_t bytes)
{
  struct job *j = d->job;
  unsigned depth = source_background_depth (d->src);

  if (pace_guest_is_active (d) && depth > POLITE_DEPTH)
    depth = POLITE_DEPTH;
  if (j->in_flight >= depth)
    return false;
  if (j->in_flight == 0
      || share_has_memory (j->bytes_in_flight, bytes, j->window.size))
    return true;
  window_is_full (&j->window);
  return false;
}

bool
pace_wait_room (struct disk *d, uint64_t bytes)
{
  struct job *j = d->job;
  bool booked = false;
  LOCK_SCOPE (&j->lock);

  for (;;) {
    uint64_t wait, now;

    if (pace_why_halt (d))
      return false;
    if (!has_room (d, bytes)) {
      /* Until one of its requests ends. */
      job_sleep_until (j, now_ns () + 200000000);
      continue;
    }
    now = now_ns ();
    if (pace_guest_is_active (d)) {
      uint64_t next = j->sent_ns + POLITE_GAP_NS / j->processors;

      if (now < next) {
        job_sleep_until (j, next);
        continue;
      }
    }
    if (!lane_take (&j->lane, now)) {
      UNLOCK_SCOPE (&j->lock);
      lane_wait (&j->lane);
      continue;
    }
    if (!booked) {
      wait = rate_take (&j->rate, bytes, now);
      booked = wait == 0;
    }
    else
      wait = 0;
    if (booked)
      wait = rate_take (&total_rate, bytes, now);
    if (wait == 0) {
      j->sent_ns = now;
      return true;
    }
    job_sleep_until (j, now + min_u64 (wait, 200000000));
  }
}
