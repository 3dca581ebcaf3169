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

/* The header's lock, and the end of all that volume_open made: destroy after
 * volume_close, or where nothing was served. */
void volume_init (struct disk *d);
void volume_destroy (struct disk *d);

/* -1 with errno and *error. */
int volume_open (struct disk *d, const struct disk_config *config,
                 char **error);
/* Begin the session, if volume_open has not: then it is the last step. */
int volume_begin (struct disk *d, char **error);
/* After the last commit: end the session, let files go. */
int volume_close (struct disk *d, bool clean);

/* Enter it in the registry.  Twice: the second time with the pid that the fork
 * gave the owner, and with the sockets that clients connect to, which are there
 * only then. */
void volume_register (struct disk *d);
/* Take the entry out of the registry, if there is one.  Before unlocking: the
 * next owner's has the same name. */
void volume_unregister (struct disk *d);

#endif
