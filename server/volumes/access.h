/* access.h - who may ask for which volume, and for how many.
 *
 * Root and the daemon's own user count as one user, 0, and may have all that
 * is below the daemon's folders.  Another user may have the volumes whose
 * stores he owns, and has a share of what there is a limited number of.
 *
 * Functions with an `error` return 0, or -1 with errno and *error (malloc'd).
 *
 * Locking: none.  access_check_path waits for a file system, and is called
 * from crew threads only.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_ACCESS_H
#define BACKFILL_VOLUMES_ACCESS_H

#include "control.h"
#include "volumes/internal.h"

/* Is `path` absolute, without "." and "..", empty parts and a slash at its
 * end?  A volume has one name. */
bool access_is_canonical (const char *path) __attribute__ ((nonnull (1)));
int access_check_name (const char *path, char **error)
    __attribute__ ((nonnull (1, 2)));

/* Is the peer root or the daemon's own user? */
bool access_is_ours (const struct control_peer *peer)
    __attribute__ ((nonnull (1)));
/* The user whose share the peer uses: 0 for root and the daemon's own user. */
uid_t access_user (const struct control_peer *peer)
    __attribute__ ((nonnull (1)));

/* Always -1: the volume belongs to another user. */
int access_denied (const char *path, char **error)
    __attribute__ ((nonnull (1, 2)));

/* Is the file at `path` the one that the client means?  `meant` NULL: the
 * client did not say. */
int access_check_file (const char *path, const struct file_id *meant,
                       struct file_id is, char **error)
    __attribute__ ((nonnull (1, 4)));

/* May the user have what is at `path`?  Uid 0 may have all that is below the
 * daemon's folders. */
int access_check_path (const char *path, uid_t uid, char **error)
    __attribute__ ((nonnull (1, 3)));

/* May the peer see the open volume in a list?  Asks nobody: goes by the
 * store's owner as it was last seen. */
bool access_may_see (const struct control_peer *peer, const struct volume *v)
    __attribute__ ((nonnull (1, 2)));

/* How many of the volumes that may be open one other user may have, and all
 * other users together. */
unsigned access_share_of_one (const struct volumes *vs)
    __attribute__ ((nonnull (1)));
unsigned access_share_of_others (const struct volumes *vs)
    __attribute__ ((nonnull (1)));

#endif
