/* open.h - opening a volume, on a thread of the crew.
 *
 * Locking: the caller of each function holds vs->lock.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_OPEN_H
#define BACKFILL_VOLUMES_OPEN_H

#include "volumes/internal.h"

/* Is there room in the table for one more volume of this user?  0; or -1:
 * EINPROGRESS: an idle volume is being closed for it; or another errno with
 * *error: EMFILE, or why none can be closed. */
int open_make_room (struct volumes *vs, uid_t uid, char **error)
    __attribute__ ((nonnull (1, 3)));

/* Begin to open the volume at `path`, for which there is room, for the user:
 * it is in the table, VOLUME_OPENING, until a crew thread has it VOLUME_OPEN
 * or VOLUME_FAILED.  fresh: it is to be made.  NULL with errno and *error. */
struct volume *open_start (struct volumes *vs, const char *path, uid_t uid,
                           const struct disk_config *more, bool fresh,
                           char **error) __attribute__ ((nonnull (1, 2, 4, 6)));

#endif
