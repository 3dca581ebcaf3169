/* writer.h - brings the ledger to the disk.
 *
 * The ledger in memory counts its versions (ledger.h).  One task of the crew
 * writes it, as the state directory may hang.  A command that must not go on
 * before its change is durable asks writer_is_durable, and comes again.
 *
 * Locking: the caller of each function holds vs->lock.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_WRITER_H
#define BACKFILL_VOLUMES_WRITER_H

#include "control.h"
#include "volumes/internal.h"

/* Have what has changed written, unless that is being done. */
void writer_start (struct volumes *vs) __attribute__ ((nonnull (1)));

/* 1: that version of the ledger is durable; 0: not yet; -1 with errno and
 * *error (malloc'd): it cannot be written. */
int writer_is_durable (struct volumes *vs, uint64_t version, char **error)
    __attribute__ ((nonnull (1, 3)));

/* Before a job starts: note the volume in the ledger, durably.  So a daemon
 * that dies then finds no job there, and never leaves a job that nobody goes
 * on with.  0, or -1 with errno (EINPROGRESS: come again) and *error. */
int writer_enter (struct volumes *vs, const struct control_peer *peer,
                  const char *path, char **error)
    __attribute__ ((nonnull (1, 2, 3, 4)));

#endif
