/* touched.h - which parts of a new file were written, where the file system
 * tells no holes.
 *
 * A file that we have made reads as zeros wherever nothing was ever written.
 * One bit for each so many bytes; a bit that is set is never cleared.
 *
 * Locking: none needed.  A writer adds its range before it writes, so whoever
 * reads what a write has left finds the bit set.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_TOUCHED_H
#define BACKFILL_TOUCHED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A struct of all zeros: the written parts are not known, and all may have been
 * written. */
struct touched {
  _Atomic uint8_t *bits; /* NULL: not known */
  unsigned shift;        /* a bit stands for 1 << shift bytes */
};

/* Begin for a new file of size bytes.  Without memory the written parts are not
 * known. */
void touched_init (struct touched *t, uint64_t size)
    __attribute__ ((nonnull (1)));
void touched_free (struct touched *t) __attribute__ ((nonnull (1)));

/* Note the range, before it is written. */
void touched_add (struct touched *t, uint64_t count, uint64_t offset)
    __attribute__ ((nonnull (1)));

/* The first byte of [offset, end) that may have been written; end: none. */
uint64_t touched_next (const struct touched *t, uint64_t offset, uint64_t end)
    __attribute__ ((nonnull (1)));

#endif
