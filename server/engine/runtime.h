/* runtime.h - the runtime directory: where working maps, control sockets and
 * the registry of open volumes are.
 *
 * /run/backfill if it is there or can be made (root), else
 * $XDG_RUNTIME_DIR/backfill.  Everybody may write to it (mode 1777, when root
 * makes it): so each process has a directory of its own in it, made by
 * runtime_own_dir, and keeps all of its files there, its working maps and
 * sockets too.  Its owner says whose they are (trust.h).
 *
 * A process that dies leaves its directory behind.  The next one of the same
 * user, or of root, sees by a lock in it that nobody uses it, and takes
 * everything away but the working maps, which whoever opens their volumes
 * needs; a directory goes with its last file.
 *
 * Locking: its own; any thread.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_RUNTIME_H
#define BACKFILL_RUNTIME_H

#include "trust.h"

/* A volume has a dozen descriptors, and there may be many: let this process
 * have as many as it may. */
void runtime_raise_files (void);
/* What it was before, for programs that we start.  False: it was not changed.
 */
struct rlimit;
bool runtime_files_limit (struct rlimit *limit) __attribute__ ((nonnull (1)));

/* malloc'd path, made if it was missing; NULL with errno. */
char *runtime_default_dir (void);

/* The directory of this process in the runtime directory base (NULL: the
 * default one): malloc'd, resolved, the same each time.  It is made at the
 * first call (mode 0755), as of the effective user of that moment: who
 * changes user and calls again gets another.  A fork keeps it: it is the
 * child's, if the parent ends.  NULL with errno and *error set. */
char *runtime_own_dir (const char *base, char **error)
    __attribute__ ((nonnull (2)));
/* The process ends: take away those directories that are empty by now.  What
 * is left in one is left to the next process. */
void runtime_leave (void);

/* Enter a volume in the registry, with the socket files that the process
 * listens on now.  own: what runtime_own_dir gave. */
int runtime_register (const char *own, struct file_id file, const char *store,
                      const char *control, const char *name)
    __attribute__ ((nonnull (1, 3, 5)));
void runtime_unregister (const char *own, struct file_id file)
    __attribute__ ((nonnull (1)));
/* Who has entered that store, beside own: *pid, and *control malloc'd or
 * NULL.  Only those are believed who may speak for it.  0, or -1: nobody. */
int runtime_lookup (const char *own, const struct stat *store, long *pid,
                    char **control) __attribute__ ((nonnull (1, 2, 3, 4)));

#endif
