/* fetch.h - asking the backing store for what is absent, and waiting for it.
 *
 * The fetches in flight are in the disk's fetch table (fetch-table.h), so each
 * granule is asked for once and later readers join (G32).  Readers have the
 * bytes as soon as they arrive; the disk's copiers (copier.h) put them into the
 * store afterwards.
 *
 * Locking: any thread may call, with no lock held.  A call waits only where
 * that is said.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_FETCH_H
#define BACKFILL_FETCH_H

#include <stdatomic.h>

#include "fetch-table.h"
#include "internal.h"

/* A share in a fetch. */
struct fetch_piece {
  struct fetch *fetch;
  uint64_t offset, end; /* the bytes of it that are wanted */
  bool own;             /* made for this very piece: its failure is final */
  const atomic_bool *abandon; /* NULL, or: stop waiting when it is set */
};

/* Join or make the fetch for the absent granule at offset; the piece ends at
 * limit at most, not past a run of the map.  Returns 1 with *piece held, 0
 * if the granule is local by now, or -1 with errno (EIO: damaged; ENOMEM;
 * ESHUTDOWN). */
int fetch_get (struct disk *d, uint64_t offset, uint64_t limit,
               enum source_prio prio, struct fetch_piece *piece);
/* Wait for the piece's bytes, at most until deadline (ms), copy them to dst
 * (not NULL) and give the piece back.  0; EAGAIN: the fetch failed for other
 * bytes than these, or before others' time was over: get again, if there is
 * time; ECANCELED: abandoned; else errno. */
int fetch_take (struct disk *d, struct fetch_piece *piece, void *dst,
                uint64_t deadline);
/* Give a piece back without waiting. */
void fetch_drop (struct disk *d, struct fetch_piece *piece);
/* For a caller that only wants the piece local: as fetch_take, but wait until
 * a copier has put it into the store, and copy nothing. */
int fetch_settle (struct disk *d, struct fetch_piece *piece, uint64_t deadline);
/* Back-pressure, for a caller of fetch_settle: wait until so little is queued
 * for the store that what is fetched now will be kept.  0; ETIMEDOUT,
 * ESHUTDOWN. */
int fetch_wait_room (struct disk *d, uint64_t deadline);
/* Ask for what is worth having near a read. */
void fetch_ahead (struct disk *d, uint64_t offset, uint32_t length, bool miss);

/* Ask for the first part of [offset, end) that is absent and not in flight, in
 * one request behind demand: where to go on.  first: one of the first few,
 * which wait for nothing. */
uint64_t fetch_replay (struct disk *d, uint64_t offset, uint64_t end,
                       bool first);

/* A job's fetch of [offset, end), or the front part of it that is absent and
 * not in flight: *end is set to where it ends, *made to its length.  1 made,
 * 0 nothing to do there, -1 errno. */
int fetch_job (struct disk *d, unsigned job, uint64_t offset, uint64_t *end,
               uint64_t *made);
/* The job ends: drop what it has in flight and nobody waits for. */
void fetch_discard_job (struct disk *d);
/* After that: is a copier still writing something for it? */
bool fetch_job_is_writing (struct disk *d);

#endif
