/* copier.h - the threads that put into the store what was fetched.
 *
 * Each disk has its own: a store that hangs takes its own copiers only.  They
 * commit a fetch under a claim, and write only what is still absent then (I3).
 *
 * Locking: any thread may call, but for start and stop.  A copier holds a claim
 * across its I/O to the store.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_COPIER_H
#define BACKFILL_COPIER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "lock.h"

struct disk;
struct fetch;

#define NR_COPIERS 2u
struct copiers {
  struct lock lock; /* guards queue and stop */
  pthread_cond_t wake;
  STAILQ_HEAD (, fetch) queue; /* by fetch.queued */
  pthread_t thread[NR_COPIERS];
  unsigned nr;
  bool stop;
};

void copiers_init (struct copiers *c);
void copiers_destroy (struct copiers *c);

/* The disk's threads: 0 or -1.  stop, when the fetch table is empty, may be
 * called again, or without start. */
int copiers_start (struct disk *d);
void copiers_stop (struct disk *d);

/* Hand a fetch that has been answered to a copier, with its reference. */
void copier_queue (struct fetch *f);

/* Make [offset, end) local as zeros wherever it is absent: holes, or allocated
 * if full.  It takes the claims.  0 or errno. */
int copier_zero_range (struct disk *d, uint64_t offset, uint64_t end,
                       bool full);
/* How much of it is done under one claim. */
uint64_t copier_zero_step (struct disk *d, bool full);

#endif
