/* ahead.h - what is worth fetching beside what a guest asked for.
 *
 * A pure policy: it is told each guest read and answers with ranges.  No I/O,
 * no clock, no locks: the caller serialises the calls for one disk.  The
 * state is bounded (AHEAD_STATE_MAX), whatever the disk's size.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_AHEAD_H
#define BACKFILL_AHEAD_H

#include <stdbool.h>
#include <stdint.h>

#define AHEAD_STATE_MAX 16384u
#define AHEAD_STREAMS 32u
#define AHEAD_SETS 64u
#define AHEAD_WAYS 4u
#define AHEAD_LAST 3u
#define AHEAD_RANGES 6u
#define AHEAD_REACH 16u /* units: nothing further from a read is planned */

/* The memory of 64 consecutive blocks; bit i stands for block i of them. */
struct ahead_region {
  uint64_t number;  /* offset / (64 * block) */
  uint64_t asked;   /* was in a plan */
  uint64_t touched; /* a guest read there */
  uint32_t tick;    /* when it was last used */
  uint32_t planned; /* when something in it was last planned */
};

struct ahead_stream {
  uint64_t asked;    /* planned up to here */
  uint64_t consumed; /* bytes the guest read in it */
  uint64_t window;   /* bytes last planned ahead; 0: not sequential yet */
  uint32_t tick;
};

struct ahead {
  uint64_t size;
  uint64_t unit;  /* 0: exact, nothing is ever planned */
  uint64_t block; /* what a region's bit stands for */
  unsigned shift; /* log2 of block */
  int64_t credit, most_credit;
  uint32_t tick;
  unsigned recent;              /* stream that matched last */
  uint64_t last[AHEAD_LAST];    /* ends of the last reads, newest first */
  uint64_t next[AHEAD_STREAMS]; /* where each stream goes on */
  struct ahead_stream stream[AHEAD_STREAMS];
  struct ahead_region region[AHEAD_SETS][AHEAD_WAYS];
};

struct ahead_range {
  uint64_t offset, length;
};
/* Ranges in order of worth.  They are inside the disk, and block-aligned except
 * at the disk's end; they may hold granules that are local or in flight. */
struct ahead_plan {
  struct ahead_range range[AHEAD_RANGES];
  unsigned nr;
};

/* unit: how far a single miss may be widened, a power of two; not over the
 * granule: no widening and no read-ahead at all. */
void ahead_init (struct ahead *a, uint32_t unit, uint32_t granule,
                 uint64_t size) __attribute__ ((nonnull (1)));

/* The guest reads [offset, offset+length), inside the disk; miss: some of the
 * range has to come, or is still coming, from the source.  The caller fetches
 * the range itself before anything in the plan. */
void ahead_read (struct ahead *a, uint64_t offset, uint32_t length, bool miss,
                 struct ahead_plan *plan) __attribute__ ((nonnull (1, 5)));

#endif
