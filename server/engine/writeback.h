/* writeback.h - what copiers wrote, on its way to the device and out of memory.
 *
 * Locking: writeback.lock guards the lists.  The thread that set nr_dropping
 * drops those pieces, and nobody else changes it until it is 0.  drop_lock is
 * held across I/O to the store, inside a claim.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_WRITEBACK_H
#define BACKFILL_WRITEBACK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lock.h"

struct disk;

#define WRITEBACK_PIECES 64u
struct writeback_piece {
  uint64_t offset, end;
  bool keep; /* in memory, as a guest is about to read it */
};
#define WRITTEN_PIECES 512u
struct writeback {
  struct lock lock;
  struct writeback_piece piece[WRITEBACK_PIECES]; /* a ring, oldest first */
  unsigned head, nr;
  uint64_t bytes;
  /* Those that the device has in its cache: dropped after the next sync. */
  struct writeback_piece written[WRITTEN_PIECES];
  unsigned nr_written;
  uint64_t bytes_written;
  /* Those that are being dropped. */
  struct writeback_piece dropping[WRITTEN_PIECES];
  unsigned nr_dropping;
  _Atomic unsigned listed; /* nr_written + nr_dropping */
  struct lock drop_lock;
};

void writeback_init (struct writeback *wb);
void writeback_destroy (struct writeback *wb);

/* A copier has written [offset, end).  keep: leave it in the page cache, as a
 * guest is about to read it.  No claim is held: this may wait for the device.
 */
void writeback_add (struct disk *d, uint64_t offset, uint64_t end, bool keep);
/* A guest or a copier has written [offset, end), whose claim is held. */
void writeback_changed (struct disk *d, uint64_t offset, uint64_t end);

#endif
