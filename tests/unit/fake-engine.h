/* fake-engine.h - disks in memory, in place of the engine: for tests of what
 * lies above disk.h and job.h.
 *
 * Linked in, it takes the place of the functions of libengine that it has, so
 * it must have all that are used.  Nothing in it moves by itself: the test
 * says when a job proceeds, ends, or what blocks.
 *
 * Locking: one lock for all of it.  Events are given with it held, as the
 * engine may hold its own.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_FAKE_ENGINE_H
#define BACKFILL_FAKE_ENGINE_H

#include "disk.h"

/* size is a multiple of 4096, of which the first half is local, or every
 * second granule if striped. */
struct disk *fake_disk (const char *name, const char *store, uint64_t size,
                        bool striped, disk_event_fn event, void *opaque);
void fake_free (struct disk *disk);

/* disk_flush and job_abort block while this is true. */
void fake_block (bool flush, bool abort);
/* How many calls are in there. */
unsigned fake_blocked (void);

/* While this is true job_try_get_info cannot do it. */
void fake_unload (bool unload);

/* Calls that change anything, so far. */
unsigned fake_changes (void);

/* Times that a store was asked whose it is: it may not answer. */
unsigned fake_store_asked (void);

/* Errno with which the next disk_flush fails, 0: none. */
void fake_fail_flush (int errnum);
void fake_fail_regions (int errnum);

void fake_job_end (struct disk *disk, enum job_result result, int errnum,
                   const char *error);
void fake_event (struct disk *disk, enum disk_event_type type,
                 const char *reason);

#endif
