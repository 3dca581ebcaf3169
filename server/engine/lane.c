/* lane.c - see lane.h.
 *
 * The holders are an array, the queue is a list, oldest first.  Leases that
 * have ended are only looked for when somebody asks or has waited.
 *
 * A turn is long where answers come fast, so that jobs do not all end at the
 * same time, and their last syncs do not meet.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <assert.h>
#include <string.h>

#include "bytes.h"
#include "clock.h"
#include "lane.h"
#include "lock.h"
#include "thread.h"

#define LEASE_NS UINT64_C (100000000) /* without an answer */
#define TURN_NS UINT64_C (500000000)  /* at most */

static struct {
  struct lock lock; /* guards all below, and every lane's members */
  struct lane *holder[NR_LANES];
  unsigned nr;
  TAILQ_HEAD (, lane) queue; /* oldest first */
} lanes = { .lock = LOCK_INITIALIZER (LOCK_LANES),
            .queue = TAILQ_HEAD_INITIALIZER (lanes.queue) };

void
lane_init (struct lane *l)
{
  memset (l, 0, sizeof *l);
  cond_init (&l->granted);
}

void
lane_destroy (struct lane *l)
{
  lane_leave (l);
  pthread_cond_destroy (&l->granted);
}

static void
release (unsigned i)
{
  ASSERT_HELD (&lanes.lock);
  assert (i < lanes.nr);
  lanes.holder[i]->held = false;
  lanes.holder[i] = lanes.holder[--lanes.nr];
}

static void
grant (uint64_t now)
{
  struct lane *l;

  ASSERT_HELD (&lanes.lock);
  while (lanes.nr < NR_LANES && (l = TAILQ_FIRST (&lanes.queue))) {
    TAILQ_REMOVE (&lanes.queue, l, link);
    l->queued = false;
    l->held = true;
    l->last = now + TURN_NS;
    l->until = now + LEASE_NS;
    lanes.holder[lanes.nr++] = l;
    pthread_cond_signal (&l->granted);
  }
}

/* End leases whose time is over, as many as jobs wait for, and grant those
 * lanes. */
static void
expire (uint64_t now)
{
  unsigned waiting = 0;
  struct lane *l;

  ASSERT_HELD (&lanes.lock);
  TAILQ_FOREACH (l, &lanes.queue, link)
    if (++waiting == NR_LANES)
      break;
  for (unsigned i = 0; i < lanes.nr && waiting > 0;)
    if (lanes.holder[i]->until <= now) {
      release (i);
      waiting--;
    }
    else
      i++;
  grant (now);
}

bool
lane_take (struct lane *l, uint64_t now)
{
  LOCK_SCOPE (&lanes.lock);

  if (l->held && (now < l->until || TAILQ_EMPTY (&lanes.queue)))
    return true;
  if (l->held)
    expire (now);
  if (!l->held && !l->queued) {
    l->queued = true;
    TAILQ_INSERT_TAIL (&lanes.queue, l, link);
  }
  if (l->queued)
    expire (now);
  return l->held;
}

void
lane_progress (struct lane *l)
{
  LOCK_SCOPE (&lanes.lock);

  if (l->held)
    l->until = min_u64 (now_ns () + LEASE_NS, l->last);
}

void
lane_wait (struct lane *l)
{
  uint64_t until = now_ns () + LEASE_NS;
  LOCK_SCOPE (&lanes.lock);

  while (l->queued) {
    uint64_t first = until;

    for (unsigned i = 0; i < lanes.nr; i++)
      first = min_u64 (first, lanes.holder[i]->until);
    if (!lock_wait_ns (&l->granted, &lanes.lock, first)) {
      expire (now_ns ());
      if (first == until)
        return;
    }
  }
}

void
lane_leave (struct lane *l)
{
  LOCK_SCOPE (&lanes.lock);

  if (l->queued) {
    TAILQ_REMOVE (&lanes.queue, l, link);
    l->queued = false;
  }
  for (unsigned i = 0; i < lanes.nr; i++)
    if (lanes.holder[i] == l) {
      release (i);
      break;
    }
  grant (now_ns ());
}
