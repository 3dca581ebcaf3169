/* table.h - the table of volumes: finding, waiting, waking.
 *
 * A volume is in the table from before it is opened until after it is closed.
 *
 * Locking: the caller of each function holds vs->lock.  table_wait gives it up
 * while it sleeps.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_TABLE_H
#define BACKFILL_VOLUMES_TABLE_H

#include "volumes/internal.h"

/* The volume of that path; NULL: there is none. */
struct volume *table_find (struct volumes *vs, const char *path)
    __attribute__ ((nonnull (1, 2)));
/* The volume that has this disk; NULL: there is none. */
struct volume *table_of_disk (struct volumes *vs, const struct disk *disk)
    __attribute__ ((nonnull (1, 2)));

void table_set_state (struct volume *v, enum volume_state state)
    __attribute__ ((nonnull (1)));
/* Take the volume out of the table, free it, wake who waits. */
void table_remove (struct volumes *vs, struct volume *v)
    __attribute__ ((nonnull (1, 2)));
/* Free a volume that is not in the table. */
void table_free (struct volume *v) __attribute__ ((nonnull (1)));

/* Something has changed: wake the threads in table_wait, and have the
 * commands that returned table_later run again. */
void table_changed (struct volumes *vs) __attribute__ ((nonnull (1)));
/* Sleep until table_changed, or until `ms` (now_ms): then false. */
bool table_wait (struct volumes *vs, uint64_t ms) __attribute__ ((nonnull (1)));
/* For a command to return: -1 with EINPROGRESS.  It is run again after
 * table_changed, which comes at least every TICK_MS. */
int table_later (struct volumes *vs) __attribute__ ((nonnull (1)));

/* 0, or -1 with ESHUTDOWN and *error: the daemon is ending. */
int table_check_stop (const struct volumes *vs, char **error)
    __attribute__ ((nonnull (1, 2)));
/* Always -1, with ETIMEDOUT and *error: the volume "is being opened", say, and
 * what it needs does not answer. */
int table_no_answer (const char *path, const char *what, char **error)
    __attribute__ ((nonnull (1, 2, 3)));

#endif
