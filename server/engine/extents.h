/* extents.h - what the source says is zero.  See extents.c.
 *
 * Locking: any thread may call.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_EXTENTS_H
#define BACKFILL_EXTENTS_H

#include <stdint.h>

struct disk;
struct extents;

struct extents *extents_new (struct disk *d);
void extents_free (struct extents *e);
enum extents_kind { EXTENTS_UNKNOWN, EXTENTS_DATA, EXTENTS_ZERO };
/* Kind at offset (a granule's start) and, in *end, where it ends, at most
 * limit; flags: NBD's of a zero run. */
enum extents_kind extents_run (struct extents *e, uint64_t offset,
                               uint64_t limit, uint64_t *end, unsigned *flags);
/* Ask for what is around offset, and for what follows it below limit: nr
 * commands, without waiting. */
void extents_want (struct extents *e, uint64_t offset, uint64_t limit,
                   unsigned nr);
/* Wait until it is known or the deadline (ms): 0 or errno. */
int extents_wait (struct extents *e, uint64_t offset, uint64_t deadline);
/* Wake all who wait; later waits end at once. */
void extents_stop (struct extents *e);

#endif
