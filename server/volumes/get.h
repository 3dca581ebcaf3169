/* get.h - a command gets the volume that it names.
 *
 * -1 or NULL comes with errno, and with *error (malloc'd) unless errno is
 * EINPROGRESS: then the command returns, and is run again.
 *
 * Locking: the caller of each function holds vs->lock.  get_volume and
 * get_may_have give it up for a while: pointers into the table are to be
 * found anew.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_GET_H
#define BACKFILL_VOLUMES_GET_H

#include "control.h"
#include "volumes/internal.h"

/* The table's entry of path.  A failure that came before this command is
 * forgotten first. */
struct volume *get_entry (struct volumes *vs, const struct control_peer *peer,
                          const char *path) __attribute__ ((nonnull (1, 2, 3)));

/* Always -1: v is on its way in or out or in use, and the command waits for it
 * until its patience ends; or v has failed. */
int get_wait (struct volumes *vs, const struct control_peer *peer,
              const struct volume *v, char **error)
    __attribute__ ((nonnull (1, 2, 3, 4)));

/* May the peer have the open volume?  Asks the open store who owns it, without
 * vs->lock: the file at the path may be another by now. */
bool get_may_have (struct volumes *vs, const struct control_peer *peer,
                   struct volume *v) __attribute__ ((nonnull (1, 2, 3)));

/* The volume of path, open.  The caller counts itself in v->refs before it
 * gives up vs->lock. */
struct volume *get_volume (struct volumes *vs, const struct control_peer *peer,
                           const char *path, const struct file_id *file,
                           char **error) __attribute__ ((nonnull (1, 2, 3, 5)));

#endif
