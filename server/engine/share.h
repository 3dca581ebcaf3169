/* share.h - what the jobs of this process share: slots, speed, memory.
 *
 * A job needs a slot to run.  There are as many as disk_set_max_jobs says;
 * jobs without one queue for it, oldest first.  All jobs together keep to one
 * speed limit, and to one bound on the bytes that are asked of their sources
 * and are not in their stores yet.  Which of the running jobs may send a
 * request now is the lanes' business (lane.h).
 *
 * Each job has a part of the memory, and may have one request whatever the
 * others do (see has_room, pace.c): a source or store that hangs takes nothing
 * from the jobs of other disks.
 *
 * Locking: any thread may call.  slots.lock (share.c) guards all slots.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SHARE_H
#define BACKFILL_SHARE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "rate.h"

/* A job's place among the others; owned by the job. */
struct slot {
  TAILQ_ENTRY (slot) link; /* while queued */
  pthread_cond_t changed;
  bool held, queued;
  bool kicked; /* slot_wait is to return */
};

void slot_init (struct slot *s);
void slot_destroy (struct slot *s);
/* True: the job holds a slot.  False: it is queued for one. */
bool slot_take (struct slot *s);
/* Wait until the slot is held, or slot_kick has been called since the last
 * slot_take. */
void slot_wait (struct slot *s);
/* Make slot_wait return. */
void slot_kick (struct slot *s);
/* The job neither holds a slot nor queues for one any more. */
void slot_give (struct slot *s);

/* How many jobs may run at once; 0: any number. */
void share_set_slots (unsigned max);
/* How many jobs hold a slot. */
unsigned jobs_running (void);
/* By how much a limit for all jobs is to be divided for one of them: the
 * number of jobs that may send requests now, at least 1. */
uint64_t jobs_sharing (void);

/* The speed limit of all jobs together. */
extern struct rate total_rate;

/* Bytes of requests in flight, of all jobs. */
void share_add_bytes (uint64_t bytes);
void share_sub_bytes (uint64_t bytes);
/* How many that may be at most; the default is 64 MiB. */
void share_set_memory (uint64_t bytes);
uint64_t share_memory (void);
/* May a job that has `own` bytes in flight have so many more?  Its window
 * (window.h) is divided among the jobs: those with near sources have no more
 * together than one has. */
bool share_has_memory (uint64_t own, uint64_t bytes, uint64_t window);

#endif
