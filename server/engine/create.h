/* create.h - making a volume where a store, a sidecar or both are missing.
 *
 * The sidecar comes first, whole and durable, marked "creating" with the inode
 * of a store that has no name yet.  Then the store gets its name; then the mark
 * is cleared.  A power cut leaves nothing, or a volume that the next open
 * finishes (G19).
 *
 * Locking: single-threaded, while the volume is opened; d->store, where it is
 * there, is locked.
 *
 * Errors: -1 with errno and *error.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CREATE_H
#define BACKFILL_CREATE_H

struct disk;
struct disk_config;

/* Check that no sidecar that metadata= passes by has a role in a migration;
 * else EINVAL.  The caller does so before anything is made. */
int create_is_free (struct disk *d, char **error);
/* Make store and sidecar: neither is there. */
int create_volume (struct disk *d, const struct disk_config *cfg, char **error);
/* Finish a volume whose sidecar is there, and whose store is not. */
int create_finish (struct disk *d, char **error);
/* Make the sidecar of a store that is there, as adopt= says. */
int create_adopt (struct disk *d, const struct disk_config *cfg, char **error);

#endif
