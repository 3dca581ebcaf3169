/* commit.h - making writes durable: one commit runs, one forms.  See commit.c.
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
  struct lock lock;
  pthread_cond_t done;
  bool running;
  unsigned flags; /* of the one that forms */
  struct commit_waiter *forming;
  _Atomic int sticky; /* errno of a failed sync: final until reopened (G24) */
  struct lock sync_lock;
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
/* Around whatever syncs the store, or another file of its disk, and waits for
 * no lock.  err: errno of the sync, or 0.  What it has synced is durable when
 * sync_settle has been called with what sync_leave gave: 0, or errno of any
 * that has failed.  sync_end is both. */
void sync_begin (struct disk *d, struct syncing *s);
uint64_t sync_leave (struct disk *d, struct syncing *s, int err);
int sync_settle (struct disk *d, uint64_t nr);
int sync_end (struct disk *d, struct syncing *s, int err);
/* A writeback failed. */
void commit_set_failed (struct disk *d, int err);
int commit_failed (struct disk *d);

#endif
