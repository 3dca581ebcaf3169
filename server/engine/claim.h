/* claim.h - the in-flight table of writes: who may change which range now.
 *
 * A claim is a range of granules.  Claims are granted in the order they were
 * made: one waits for every earlier one that overlaps it (G2, G9).  Claims
 * are held across I/O to the store, never across a wait for the backing
 * store.
 *
 * Ownership: a struct claim lives on its holder's stack from claim_take to
 * claim_drop.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CLAIM_H
#define BACKFILL_CLAIM_H

#include <pthread.h>
#include <stdint.h>

struct claim {
  struct claim *prev, *next;
  uint64_t g, end; /* granules */
};

struct claims {
  pthread_mutex_t lock;
  pthread_cond_t dropped;
  unsigned waiting;
  struct claim *first, *last; /* oldest first */
};

void claims_init (struct claims *cs);
void claims_destroy (struct claims *cs);

/* Wait until [g, end) is ours. */
void claim_take (struct claims *cs, struct claim *c, uint64_t g, uint64_t end)
    __attribute__ ((nonnull (1, 2)));
void claim_drop (struct claims *cs, struct claim *c)
    __attribute__ ((nonnull (1, 2)));

#endif
