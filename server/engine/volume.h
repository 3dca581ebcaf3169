/* volume.h - opening and closing a volume: store and sidecar as one, and the
 * session that it is open for.
 *
 * Locking: single-threaded, but that volume_close takes header_lock.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUME_H
#define BACKFILL_VOLUME_H

#include <stdbool.h>

struct disk;
struct disk_config;

/* volume_init makes header_lock.  volume_destroy frees all that volume_open
 * made, after volume_close or where nothing was served. */
void volume_init (struct disk *d);
void volume_destroy (struct disk *d);

/* -1 with errno and *error. */
int volume_open (struct disk *d, const struct disk_config *config,
                 char **error);
/* Begin the session, if volume_open has not, as the last step of opening. */
int volume_begin (struct disk *d, char **error);
/* After the last commit: end the session, let files go. */
int volume_close (struct disk *d, bool clean);

/* Enter the volume in the registry.  The caller does so twice: the second entry
 * has the pid that the fork gave the owner, and the sockets that clients
 * connect to, which are there only then. */
void volume_register (struct disk *d);
/* Take the entry out of the registry, if there is one.  The entry goes before
 * the locks do: the next owner's entry has the same name. */
void volume_unregister (struct disk *d);

#endif
