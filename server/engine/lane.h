/* lane.h - which of many jobs may send requests now.
 *
 * Few at a time get more done than all at once: what is in flight then still
 * fits in the processor's caches, at both ends.  So there are a few lanes,
 * and jobs take turns on them.
 *
 * A lane is a lease, not a lock: it ends with time, and soon if no answer
 * comes.  A job whose source or store hangs or is far away keeps nobody off it
 * for longer.  What it has in flight by then stays in flight.  Where nobody
 * waits a lease goes on.
 *
 * Locking: any thread may call.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_LANE_H
#define BACKFILL_LANE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#define NR_LANES 8u

/* A job's place; owned by its caller, until lane_leave. */
struct lane {
  TAILQ_ENTRY (lane) link; /* while queued */
  pthread_cond_t granted;
  bool held, queued;
  uint64_t until, last; /* ns: the end, if no answer comes; the end */
};

void lane_init (struct lane *l);
void lane_destroy (struct lane *l);
/* True: the job may send a request now (ns).  False: it is queued. */
bool lane_take (struct lane *l, uint64_t now);
/* The job has had an answer: its lease is extended. */
void lane_progress (struct lane *l);
/* Wait for the lane, a tenth of a second at most. */
void lane_wait (struct lane *l);
/* Give the lane back, or leave the queue. */
void lane_leave (struct lane *l);

#endif
