/* claim.c - the in-flight table of writes.  See claim.h.
 *
 * One list in order of arrival, as a disk has a few dozen operations in
 * flight at most.  A claim is granted when nothing before it overlaps.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdbool.h>
#include <stddef.h>

#include "claim.h"
#include "cleanup.h"
#include "probe.h"

void
claims_init (struct claims *cs)
{
  pthread_mutex_init (&cs->lock, NULL);
  pthread_cond_init (&cs->dropped, NULL);
  cs->waiting = 0;
  cs->first = cs->last = NULL;
}

void
claims_destroy (struct claims *cs)
{
  pthread_mutex_destroy (&cs->lock);
  pthread_cond_destroy (&cs->dropped);
}

static bool
is_blocked (const struct claim *c)
{
  for (const struct claim *o = c->prev; o; o = o->prev)
    if (o->g < c->end && c->g < o->end)
      return true;
  return false;
}

void
claim_take (struct claims *cs, struct claim *c, uint64_t g, uint64_t end)
{
  LOCK_SCOPE (&cs->lock);

  c->g = g;
  c->end = end;
  c->next = NULL;
  c->prev = cs->last;
  if (cs->last)
    cs->last->next = c;
  else
    cs->first = c;
  cs->last = c;
  while (is_blocked (c)) {
    PROBE (claim_wait, cs, g, end);
    cs->waiting++;
    pthread_cond_wait (&cs->dropped, &cs->lock);
    cs->waiting--;
  }
}

void
claim_drop (struct claims *cs, struct claim *c)
{
  LOCK_SCOPE (&cs->lock);

  if (c->prev)
    c->prev->next = c->next;
  else
    cs->first = c->next;
  if (c->next)
    c->next->prev = c->prev;
  else
    cs->last = c->prev;
  if (cs->waiting)
    pthread_cond_broadcast (&cs->dropped);
}
