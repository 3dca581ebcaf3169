/* proof.h - sums of the store's bytes in W, by which W is told from one that
 * belongs to another state of the store.  See proof.c.
 *
 * Ranges are of whole granules, [g, end); what is changed in them is bytes
 * [lo, hi), which become buf, or zeros where that is NULL.  Their claim is
 * held.
 *
 * Errors: 0, 1 or -1 as of map_mark.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_PROOF_H
#define BACKFILL_PROOF_H

#include <stdbool.h>
#include <stdint.h>

#include "map.h"
#include "work.h"

struct disk;

/* Before the store is changed.  What is live becomes the guest's; what is
 * absent is looked at: it may hold bytes.  -1: nothing may be changed. */
int proof_before (struct disk *d, uint64_t g, uint64_t end, const char *buf,
                  uint64_t lo, uint64_t hi) __attribute__ ((nonnull (1)));
/* After: what is absent of [g, end), of which all has been written, is marked.
 */
int proof_after (struct disk *d, uint64_t g, uint64_t end, enum map_mark how,
                 const char *buf, uint64_t lo, uint64_t hi)
    __attribute__ ((nonnull (1)));
/* The change has failed, and what the range holds now is not known. */
void proof_failed (struct disk *d, uint64_t g, uint64_t end)
    __attribute__ ((nonnull (1)));

/* An old W against the store.  1: it is of these bytes.  0: it is not, *offset
 * says where; UINT64_MAX: by its count.  -1: errno. */
int proof_check (struct disk *d, struct work *old, bool copies,
                 uint64_t *offset) __attribute__ ((nonnull (1, 2, 4)));
/* Does old say that these are the bytes of [offset, end), one granule? */
bool proof_holds (struct disk *d, struct work *old, const char *bytes,
                  uint64_t offset, uint64_t end)
    __attribute__ ((nonnull (1, 2, 3)));

#endif
