/* path.h - where a store, a sidecar or a working map is on this machine.
 *
 * A path is opened in two steps: its directory, then the last name in that.  A
 * process that opens volumes for others (backfilld) confines itself first.
 * From then on a path must lie below one of the process's directories and is
 * followed without symbolic links: neither a link, nor "..", nor a directory
 * that is renamed meanwhile leads out of them.
 *
 * Errors: -1 with errno.  In a confined process: EPERM for a path that is not
 * below its directories, ELOOP for a path with a link in it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_PATH_H
#define BACKFILL_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

/* Confine this process to the nr directories `folders`, which must exist.  The
 * caller does so once, before there are threads.  Paths are then absolute and
 * without "." or "..".  -1 with *failed, the directory that cannot be used. */
int path_confine (const char *const *folders, size_t nr, const char **failed)
    __attribute__ ((nonnull (1, 3)));
bool path_is_confined (void);

/* A descriptor of path's directory for the *at calls, which the caller closes.
 * *name: the last name in path, borrowed from path; "." where there is none. */
int path_folder (const char *path, const char **name)
    __attribute__ ((nonnull (1, 2)));

/* A copy of the name after path's last slash; NULL: no memory. */
char *path_last_name (const char *path) __attribute__ ((nonnull (1)));

/* As open (flags, mode), O_CLOEXEC included. */
int path_open (const char *path, int flags, mode_t mode)
    __attribute__ ((nonnull (1)));
/* path_open of an existing regular file, directory or block device.  EINVAL for
 * anything else, which is not opened: the open of a device may already use
 * it. */
int path_open_file (const char *path, int flags) __attribute__ ((nonnull (1)));
int path_stat (const char *path, struct stat *sb)
    __attribute__ ((nonnull (1, 2)));
int path_unlink (const char *path) __attribute__ ((nonnull (1)));

#endif
