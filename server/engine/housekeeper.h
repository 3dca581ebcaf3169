/* housekeeper.h - a disk's thread for what must happen now and then.  See
 * housekeeper.c.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_HOUSEKEEPER_H
#define BACKFILL_HOUSEKEEPER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "lock.h"

struct disk;

/* A thread for what must happen now and then. */
struct housekeeper {
  struct lock lock;
  pthread_cond_t wake;
  pthread_t thread;
  bool running, started, ended;
  uint64_t checkpoint_ms; /* 0 before the start: the default */
  /* The last ones, of bytes and of holes: ms, the thread's own. */
  uint64_t checkpoint_at, holes_at;
};

void housekeeper_init (struct housekeeper *k);
void housekeeper_destroy (struct housekeeper *k);

/* 0 or -1.  stop may be called again, or without start; false:
 * the thread has not ended until then (ms), and is still to be stopped. */
int housekeeper_start (struct disk *d);
bool housekeeper_stop (struct disk *d, uint64_t until);

#endif
