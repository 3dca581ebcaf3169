/* source/local.h - a backing store that is a file or block device of this host.
 *
 * It has the face of any source (source.h), and none of its connections:
 * threads of its own take the requests from the same queues, and read.
 *
 * Locking: src->lock, as said call by call.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_LOCAL_H
#define BACKFILL_SOURCE_LOCAL_H

#include "source/internal.h"

struct local;

/* Does it name a file?  No NBD URI begins with a slash. */
bool local_is_path (const char *backing) __attribute__ ((nonnull (1)));

/* nr_readers is at least 2.  NULL with errno. */
struct local *local_new (struct source *src, unsigned nr_readers);
void local_free (struct local *l); /* NULL is fine; no thread runs */

/* Start the threads.  0, or -1 with errno: then none runs. */
int local_start (struct local *l) __attribute__ ((nonnull (1)));

/* src->lock is held. */

/* A request waits, or src->stopping is set. */
void local_wake (struct local *l) __attribute__ ((nonnull (1)));
/* Some thread has not ended yet; src->changed is told when the last does. */
bool local_is_running (const struct local *l) __attribute__ ((nonnull (1)));
/* How many background requests are worth having at a time. */
unsigned local_depth (const struct local *l) __attribute__ ((nonnull (1)));

#endif
