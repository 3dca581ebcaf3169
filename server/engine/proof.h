/* proof.h - sums of the store's bytes in W, by which W is told from one that
 * belongs to another state of the store.  See proof.c.
 *
 * Ranges are of whole granules, [g, end); the change is of bytes [lo, hi) in
 * them, which become buf, or zeros where buf is NULL.  The caller holds the
 * range's claim.
 *
 * Errors: 0, 1 or -1 as of map_mark.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_PROOF_H
#define BACKFILL_PROOF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "map.h"
#include "work.h"

struct disk;

/* A disk's part. */
struct proof {
  atomic_bool sums_unsure;  /* a change has failed, and W's sums of it are not
                               known to be right */
  atomic_bool count_behind; /* the count could not be raised */
};

/* Before the store is changed.  Live granules become the guest's; of an absent
 * one the store is asked whether its place is a hole.  -1: the caller must not
 * change the store. */
int proof_before (struct disk *d, uint64_t g, uint64_t end, const char *buf,
                  uint64_t lo, uint64_t hi) __attribute__ ((nonnull (1)));
/* After the store was changed, all of [g, end): the absent granules of it are
 * marked. */
int proof_after (struct disk *d, uint64_t g, uint64_t end, enum map_mark how,
                 const char *buf, uint64_t lo, uint64_t hi)
    __attribute__ ((nonnull (1)));
/* The change has failed: nobody knows what the range holds now. */
void proof_failed (struct disk *d, uint64_t g, uint64_t end)
    __attribute__ ((nonnull (1)));

/* Compare an old W with the store.  1: W is of these bytes.  0: it is not;
 * *offset says where, or is UINT64_MAX where the counts differ.  -1: errno. */
int proof_check (struct disk *d, struct work *old, bool copies,
                 uint64_t *offset) __attribute__ ((nonnull (1, 2, 4)));
/* Whether old W proves these bytes of [offset, end), one granule. */
bool proof_holds (struct disk *d, struct work *old, const char *bytes,
                  uint64_t offset, uint64_t end)
    __attribute__ ((nonnull (1, 2, 3)));

#endif
