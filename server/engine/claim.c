/* claim.c - the range lock.  See claim.h.
 *
 * The claims are one list in order of arrival, as a disk has a few dozen
 * operations in flight at most.  A claim is granted when none before it
 * overlaps it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "claim.h"
#include "probe.h"
#include "thread.h"

void
claims_init (struct claims *cs)
{
  lock_init (&cs->lock, LOCK_CLAIMS);
  cond_init (&cs->dropped);
  cs->waiting = 0;
  TAILQ_INIT (&cs->list);
}

void
claims_destroy (struct claims *cs)
{
  assert (TAILQ_EMPTY (&cs->list));
  lock_destroy (&cs->lock);
  pthread_cond_destroy (&cs->dropped);
}

static bool
is_blocked (const struct claim *c)
{
  for (const struct claim *o = TAILQ_PREV (c, claim_list, link); o;
       o = TAILQ_PREV (o, claim_list, link))
    if (o->g < c->end && c->g < o->end)
      return true;
  return false;
}

void
claim_take (struct claims *cs, struct claim *c, uint64_t g, uint64_t end)
{
  lock_order_enter (c, LOCK_CLAIM);
  LOCK_SCOPE (&cs->lock);

  c->g = g;
  c->end = end;
#ifdef LOCK_DEBUG
  c->owner = pthread_self ();
#endif
  TAILQ_INSERT_TAIL (&cs->list, c, link);
  while (is_blocked (c)) {
    PROBE (claim_wait, cs, g, end);
    cs->waiting++;
    lock_wait (&cs->dropped, &cs->lock);
    cs->waiting--;
  }
}

void
claim_drop (struct claims *cs, struct claim *c)
{
  {
    LOCK_SCOPE (&cs->lock);

    TAILQ_REMOVE (&cs->list, c, link);
    if (cs->waiting > 0)
      pthread_cond_broadcast (&cs->dropped);
  }
  lock_order_leave (c);
}

#ifdef LOCK_DEBUG
void
claim_assert_covers (struct claims *cs, uint64_t g, uint64_t end,
                     const char *file, int line)
{
  const struct claim *c;
  LOCK_SCOPE (&cs->lock);

  TAILQ_FOREACH (c, &cs->list, link)
    if (pthread_equal (c->owner, pthread_self ()) && c->g <= g && end <= c->end)
      return;
  fprintf (stderr, "%s:%d: granules %llu to %llu are changed without a claim\n",
           file, line, (unsigned long long)g, (unsigned long long)end);
  abort ();
}
#endif
