/* replay.h - fetching what earlier guests of the image have read, in their
 * order, before this one asks.
 *
 * A thread asks for the trace's ranges one after the other, behind demand and
 * before jobs.  The thread is ahead of the guest by REPLAY_WINDOW, and half of
 * what the guest has confirmed, at most.  Where the guest reads something else
 * the trace was not for this guest, and the replay ends.  Nothing is asked for
 * twice, and nothing but a fetch ever makes a granule local.
 *
 * Locking: replay_note from any thread with no lock held.  replay_start and
 * replay_stop from the thread that opens or closes the disk.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_REPLAY_H
#define BACKFILL_REPLAY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lock.h"
#include "trace.h"

struct disk;

struct replay {
  struct lock lock;
  pthread_cond_t wake;
  pthread_t thread;
  atomic_bool on; /* reads are to be noted */
  bool started, running, ended;
  struct trace *trace;
  struct trace_units units; /* of the trace; REPLAY_* flags */
  bool stalled;             /* the thread waits for the guest */
  uint64_t asked, hit;      /* units: asked for by us; of these read since */
  uint64_t confirmed;       /* units of the trace that the guest has read */
  uint64_t strays;          /* reads of units that are not in it */
};

void replay_init (struct replay *r);
void replay_destroy (struct replay *r);

/* Begin, and own the trace.  0 or -1: replay_destroy frees the trace all the
 * same. */
int replay_start (struct disk *d, struct trace *trace);
/* False: the replay's thread has not ended by `until` (ms).  replay_stop may be
 * called again, or without replay_start. */
bool replay_stop (struct disk *d, uint64_t until);
/* A guest reads the range, length not 0.  True: the replay fetches it, and
 * read-ahead need not. */
bool replay_note (struct replay *r, uint64_t offset, uint64_t length);
/* The source has connected. */
void replay_kick (struct replay *r);
/* Note no more reads. */
void replay_forget (struct replay *r);

struct replay_info {
  bool active;        /* its thread asks, or waits for its turn */
  uint64_t used, hit; /* bytes asked for, and of these read by the guest */
};
void replay_get_info (struct replay *r, struct replay_info *info);

#endif
