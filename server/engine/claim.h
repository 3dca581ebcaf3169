/* claim.h - the range lock: who may change which granules now.
 *
 * A claim is a range of granules.  Claims are granted in the order in which
 * they were made: a claim waits for every earlier one that overlaps it (G2,
 * G9).  A thread holds a claim across I/O to the store, never across a wait for
 * the backing store.
 *
 * Ownership: a struct claim is on its thread's stack from claim_take to
 * claim_drop.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CLAIM_H
#define BACKFILL_CLAIM_H

#include <stdint.h>
#include <sys/queue.h>

#include "lock.h"

struct claim {
  TAILQ_ENTRY (claim) link;
  uint64_t g, end; /* granules */
#ifdef LOCK_DEBUG
  pthread_t owner;
#endif
};

TAILQ_HEAD (claim_list, claim);

struct claims {
  struct lock lock; /* guards all below */
  pthread_cond_t dropped;
  unsigned waiting;
  struct claim_list list; /* oldest first: those that are held or wait */
};

void claims_init (struct claims *cs);
/* None is held. */
void claims_destroy (struct claims *cs);

/* Wait until [g, end) is the calling thread's. */
void claim_take (struct claims *cs, struct claim *c, uint64_t g, uint64_t end)
    __attribute__ ((nonnull (1, 2)));
void claim_drop (struct claims *cs, struct claim *c)
    __attribute__ ((nonnull (1, 2)));

/* In a function that changes granules [g, end): one claim of the calling thread
 * covers them. */
#ifdef LOCK_DEBUG
void claim_assert_covers (struct claims *cs, uint64_t g, uint64_t end,
                          const char *file, int line);
#define ASSERT_CLAIMED(cs, g, end) \
  claim_assert_covers (cs, g, end, __FILE__, __LINE__)
#else
#define ASSERT_CLAIMED(cs, g, end) ((void)(cs), (void)(g), (void)(end))
#endif

#endif
