/* create.h - making a volume where a store, a sidecar or both are missing.
 *
 * The sidecar first, whole and durable, marked "creating" with the inode of a
 * store that has no name yet; then the store's name; then the mark is cleared.
 * A power cut leaves nothing, or what the next open finishes (G19).
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

/* No sidecar that metadata= passes by has a role in a migration: else EINVAL.
 * Before anything is made. */
int create_is_free (struct disk *d, char **error);
/* Neither is there. */
int create_volume (struct disk *d, const struct disk_config *cfg, char **error);
/* The sidecar is there, its store is not. */
int create_finish (struct disk *d, char **error);
/* The store is there, a sidecar is not. */
int create_adopt (struct disk *d, const struct disk_config *cfg, char **error);

#endif
