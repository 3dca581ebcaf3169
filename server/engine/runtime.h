/* runtime.h - the runtime directory: where working maps, control sockets and
 * the registry of open volumes are.
 *
 * /run/backfill if it is there or can be made (root), else
 * $XDG_RUNTIME_DIR/backfill.  Mode 1777 when root makes it, so files in it
 * are opened with O_NOFOLLOW and owner checks.
 *
 * Registry: one entry per open volume, a file `DEV-INO.volume` (hex) holding
 * the lines "store PATH", "control PATH", "pid N", "name NAME", and "listen
 * DEV-INO PATH" (hex) for each socket file that the process listens on when
 * it is written: before the first reply.  Unlinked at close.  It is only a
 * hint: whoever connects checks SO_PEERCRED (root or the store's owner).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_RUNTIME_H
#define BACKFILL_RUNTIME_H

#include <sys/types.h>

/* A volume has a dozen descriptors, and there may be many: let this process
 * have as many as it may. */
void runtime_raise_files (void);

/* malloc'd path, made if it was missing; NULL with errno. */
char *runtime_default_dir (void);

int runtime_register (const char *dir, dev_t dev, ino_t ino, const char *store,
                      const char *control, const char *name)
    __attribute__ ((nonnull (1, 4, 6)));
/* Who has entered it: *pid, and *control malloc'd or NULL.  0, or -1: nobody
 * has.  Only a hint, as for all readers of the registry. */
int runtime_lookup (const char *dir, dev_t dev, ino_t ino, long *pid,
                    char **control) __attribute__ ((nonnull (1, 4, 5)));
void runtime_unregister (const char *dir, dev_t dev, ino_t ino)
    __attribute__ ((nonnull (1)));

#endif
