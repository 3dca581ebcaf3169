/* share.c - see share.h.
 *
 * Each slot has a condition variable of its own: the thread that grants a slot
 * may hold its own job's lock, and then cannot take that of the job that gets
 * the slot.  The price: a pump that waits for a slot does not see job.changed,
 * so whoever changes a job kicks its slot too.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "bytes.h"
#include "lane.h"
#include "lock.h"
#include "share.h"
#include "thread.h"

/* Bytes that all jobs together may have in flight, if it is not set. */
#define MEMORY (UINT64_C (64) << 20)

static struct {
  struct lock lock;          /* guards all below, and every slot's members */
  unsigned max;              /* 0: any number */
  _Atomic unsigned taken;    /* read without the lock, too */
  TAILQ_HEAD (, slot) queue; /* oldest first */
} slots = { .lock = LOCK_INITIALIZER (LOCK_JOB_SLOTS),
            .queue = TAILQ_HEAD_INITIALIZER (slots.queue) };

struct rate total_rate = RATE_INIT;
static _Atomic uint64_t bytes_in_flight, memory = MEMORY;

void
slot_init (struct slot *s)
{
  memset (s, 0, sizeof *s);
  cond_init (&s->changed);
}

void
slot_destroy (struct slot *s)
{
  slot_give (s);
  pthread_cond_destroy (&s->changed);
}

static void
grant_slots (void)
{
  struct slot *s;

  ASSERT_HELD (&slots.lock);
  while ((s = TAILQ_FIRST (&slots.queue))
         && (slots.max == 0 || jobs_running () < slots.max)) {
    TAILQ_REMOVE (&slots.queue, s, link);
    s->queued = false;
    s->held = true;
    atomic_fetch_add_explicit (&slots.taken, 1, memory_order_relaxed);
    pthread_cond_signal (&s->changed);
  }
}

void
share_set_slots (unsigned max)
{
  LOCK_SCOPE (&slots.lock);
  slots.max = max;
  grant_slots ();
}

bool
slot_take (struct slot *s)
{
  LOCK_SCOPE (&slots.lock);

  s->kicked = false;
  if (!s->held && !s->queued) {
    TAILQ_INSERT_TAIL (&slots.queue, s, link);
    s->queued = true;
    grant_slots ();
  }
  return s->held;
}

void
slot_wait (struct slot *s)
{
  LOCK_SCOPE (&slots.lock);

  while (s->queued && !s->kicked)
    lock_wait (&s->changed, &slots.lock);
}

void
slot_kick (struct slot *s)
{
  LOCK_SCOPE (&slots.lock);
  s->kicked = true;
  pthread_cond_signal (&s->changed);
}

void
slot_give (struct slot *s)
{
  LOCK_SCOPE (&slots.lock);

  if (s->queued)
    TAILQ_REMOVE (&slots.queue, s, link);
  s->queued = false;
  if (!s->held)
    return;
  s->held = false;
  assert (jobs_running () > 0);
  atomic_fetch_sub_explicit (&slots.taken, 1, memory_order_relaxed);
  grant_slots ();
}

unsigned
jobs_running (void)
{
  return atomic_load_explicit (&slots.taken, memory_order_relaxed);
}

uint64_t
jobs_sharing (void)
{
  return min_u64 (max_u64 (jobs_running (), 1), NR_LANES);
}

void
share_add_bytes (uint64_t bytes)
{
  atomic_fetch_add_explicit (&bytes_in_flight, bytes, memory_order_relaxed);
}

void
share_sub_bytes (uint64_t bytes)
{
  uint64_t before = atomic_fetch_sub_explicit (&bytes_in_flight, bytes,
                                               memory_order_relaxed);

  assert (before >= bytes);
  (void)before;
}

void
share_set_memory (uint64_t bytes)
{
  atomic_store_explicit (&memory, bytes, memory_order_relaxed);
}

uint64_t
share_memory (void)
{
  return atomic_load_explicit (&memory, memory_order_relaxed);
}

bool
share_has_memory (uint64_t own, uint64_t bytes, uint64_t window)
{
  return own + bytes <= min_u64 (window, share_memory ()) / jobs_sharing ()
         && atomic_load_explicit (&bytes_in_flight, memory_order_relaxed)
                    + bytes
                <= share_memory ();
}
