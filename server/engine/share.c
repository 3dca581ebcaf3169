/* share.c - see share.h.
 *
 * A slot has a condition variable of its own, as whoever grants one holds the
 * lock of another job and cannot take this job's.  The price is that a job that
 * queues does not see its own condition variable: who changes a job kicks its
 * slot too.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <string.h>

#include "bytes.h"
#include "cleanup.h"
#include "lane.h"
#include "share.h"
#include "thread.h"

#define MAX_IN_FLIGHT (UINT64_C (20) << 20) /* bytes */

static struct {
  pthread_mutex_t lock;
  unsigned max;       /* 0: any number */
  unsigned taken;     /* atomic for those who only look */
  struct slot *first; /* the queue, oldest first */
} slots = { .lock = PTHREAD_MUTEX_INITIALIZER };

struct rate total_rate = RATE_INIT;
static uint64_t bytes_in_flight; /* atomic */

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

/* slots.lock is held. */
static void
grant_slots (void)
{
  while (slots.first && (slots.max == 0 || slots.taken < slots.max)) {
    struct slot *s = slots.first;

    slots.first = s->next;
    s->queued = false;
    s->held = true;
    __atomic_add_fetch (&slots.taken, 1, __ATOMIC_RELAXED);
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
    struct slot **p = &slots.first;

    while (*p)
      p = &(*p)->next;
    *p = s;
    s->next = NULL;
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
    pthread_cond_wait (&s->changed, &slots.lock);
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
    for (struct slot **p = &slots.first; *p; p = &(*p)->next)
      if (*p == s) {
        *p = s->next;
        break;
      }
  s->queued = false;
  if (!s->held)
    return;
  s->held = false;
  __atomic_sub_fetch (&slots.taken, 1, __ATOMIC_RELAXED);
  grant_slots ();
}

unsigned
jobs_running (void)
{
  return __atomic_load_n (&slots.taken, __ATOMIC_RELAXED);
}

uint64_t
jobs_sharing (void)
{
  return min_u64 (max_u64 (jobs_running (), 1), NR_LANES);
}

void
share_add_bytes (uint64_t bytes)
{
  __atomic_add_fetch (&bytes_in_flight, bytes, __ATOMIC_RELAXED);
}

void
share_sub_bytes (uint64_t bytes)
{
  __atomic_sub_fetch (&bytes_in_flight, bytes, __ATOMIC_RELAXED);
}

bool
share_has_memory (uint64_t own, uint64_t bytes)
{
  return own + bytes <= MAX_IN_FLIGHT / jobs_sharing ()
         && __atomic_load_n (&bytes_in_flight, __ATOMIC_RELAXED) + bytes
                <= MAX_IN_FLIGHT;
}
