/* backing.h - the source that a volume names: its command, and the check that
 * it is the one we know.
 *
 * Locking: single-threaded, while the volume is opened.
 *
 * Errors: -1 with errno and *error.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_BACKING_H
#define BACKFILL_BACKING_H

#include "source/source.h"

struct disk;
struct disk_config;
struct sidecar_header;

/* The settings that reach d->backing; their strings are the disk's. */
struct source_config backing_settings (struct disk *d);
/* Parse d->backing's bracket form, whether the caller or the sidecar names it,
 * into d->argv.  A command that another user's sidecar names is refused. */
int backing_take_command (struct disk *d, const struct disk_config *cfg,
                          char **error);
/* For a volume that is being made: the source must be there.  Its size becomes
 * the disk's. */
int backing_probe_new (struct disk *d, const struct disk_config *cfg,
                       char **error);
/* For a volume that exists: another backing store is refused, one that does not
 * answer is not. */
int backing_probe_again (struct disk *d, char **error);
/* The directory to record, borrowed, or NULL: only a command needs one. */
const char *backing_command_dir (const struct disk *d);
/* Note the source's identity in the header in memory. */
void backing_record (struct disk *d, struct sidecar_header *h);

#endif
