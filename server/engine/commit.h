/* commit.h - making writes durable: group commit.  See commit.c.
 *
 * Errors: errno, 0 is success.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_COMMIT_H
#define BACKFILL_COMMIT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "lock.h"

struct disk;
struct commit_waiter;

/* A sync under way, on its caller's stack. */
struct syncing {
  TAILQ_ENTRY (syncing) link;
  uint64_t nr;
};

/* One commit runs, one forms. */
struct committer {
  struct lock lock; /* guards running, flags and forming */
  pthread_cond_t done;
  bool running;
  unsigned flags; /* of the one that forms */
  struct commit_waiter *forming;
  _Atomic int sticky; /* errno of a failed sync: final until reopened (G24) */
  struct lock sync_lock; /* guards under_way and syncs */
  pthread_cond_t sync_ended;
  TAILQ_HEAD (, syncing) under_way; /* in the order of their numbers */
  uint64_t syncs;
};

void commit_init (struct committer *c);
void commit_destroy (struct committer *c);

#define COMMIT_CHECKPOINT 1u /* copied bits too */
#define COMMIT_HOLES 2u      /* and holes learnt from the source */
/* Durable when it returns: every bit and byte that was pending when it was
 * called.  0 or errno. */
int commit_run (struct disk *d, unsigned flags);
/* Whoever syncs the store, or another file that may be on the same drive, does
 * so between sync_begin and sync_leave, and waits for no lock there.  err:
 * errno of the sync, or 0.  What was synced is durable when sync_settle, given
 * what sync_leave gave, returns 0; else it returns errno of a sync that has
 * failed. sync_end is sync_leave and sync_settle. */
void sync_begin (struct disk *d, struct syncing *s);
uint64_t sync_leave (struct disk *d, struct syncing *s, int err);
int sync_settle (struct disk *d, uint64_t nr);
int sync_end (struct disk *d, struct syncing *s, int err);
/* A writeback failed. */
void commit_set_failed (struct disk *d, int err);
int commit_failed (struct disk *d);

#endif
