/* path.h - where a store, a sidecar or a working map is on this machine.
 *
 * A path is opened in two steps: its folder, then the last name in it.  A
 * process that opens volumes for others (backfilld) confines itself first: from
 * then on a path must lie below one of its folders and is followed without
 * symbolic links, so that neither a link, nor "..", nor a folder that is
 * renamed meanwhile leads out of them.
 *
 * Errors: -1 with errno.  Confined: EPERM for a path that is not below the
 * folders, ELOOP for one with a link in it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_PATH_H
#define BACKFILL_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

/* Confine this process to folders, which must be there.  Once, before there
 * are threads.  Paths are then absolute and without "." or "..".  -1 with
 * *failed the folder that cannot be used. */
int path_confine (const char *const *folders, size_t nr, const char **failed)
    __attribute__ ((nonnull (1, 3)));
bool path_is_confined (void);

/* The folder of path, for the *at calls, and the last name in path (borrowed
 * from it; "." where there is none).  The caller closes it. */
int path_folder (const char *path, const char **name)
    __attribute__ ((nonnull (1, 2)));

/* A copy of what follows the last slash; NULL: no memory. */
char *path_last_name (const char *path) __attribute__ ((nonnull (1)));

/* As open (flags, mode), O_CLOEXEC included. */
int path_open (const char *path, int flags, mode_t mode)
    __attribute__ ((nonnull (1)));
/* The same of a regular file, a folder or a block device that is there; EINVAL
 * for anything else, which is not opened: to open a device may be to use it. */
int path_open_file (const char *path, int flags) __attribute__ ((nonnull (1)));
int path_stat (const char *path, struct stat *sb)
    __attribute__ ((nonnull (1, 2)));
int path_unlink (const char *path) __attribute__ ((nonnull (1)));

#endif
