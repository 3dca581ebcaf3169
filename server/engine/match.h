/* match.h - do a store, a sidecar and a command line belong together, whose
 * are they, and who has them?
 *
 * The volume's uuid, an attribute of the store's file, tells; where there is
 * none either the inode or the file's name must match: a volume may be copied,
 * restored or renamed, but another volume's sidecar is refused.
 *
 * Locking: single-threaded, while the volume is opened.
 *
 * Errors: -1 with errno and *error.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_MATCH_H
#define BACKFILL_MATCH_H

#include <stdbool.h>
#include <sys/types.h>

struct disk;
struct disk_config;
struct sidecar;

/* True if the sidecar may name commands that we run and files that we open:
 * root or this process's user owns it, and nobody else could write to it.
 * *author: the sidecar's owner; author may be NULL. */
bool match_is_trusted (const struct sidecar *sc, uid_t *author);
/* Another process has the volume: name that process in *error; errno EBUSY. */
void match_name_owner (struct disk *d, char **error);
/* Check that the disk's role in a migration lets it be served here; else
 * EINVAL. */
int match_role (struct disk *d, char **error);
/* Check that the sidecar is this store's.  The header in memory names the
 * store's file then. */
int match_store (struct disk *d, const struct disk_config *cfg, char **error);
/* Check the command line against the record; recorded values fill gaps. */
int match_config (struct disk *d, const struct disk_config *cfg, char **error);

#endif
