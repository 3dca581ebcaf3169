/* file.h - a file by its descriptor: lock, name, I/O.
 *
 * The store, the sidecar and W are such files.
 *
 * Locks are open-file-description locks on the whole file: a second open by the
 * same process is refused too, and so are QEMU's own image locks (I8).
 *
 * Errors: -1 with errno.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_FILE_H
#define BACKFILL_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Lock the file: for reading, or against all others.  EAGAIN: another
 * description has a lock. */
int file_lock (int fd, bool read_only);
void file_unlock (int fd);

/* True if path still names what fd is open on. */
bool file_is_at (int fd, const char *path) __attribute__ ((nonnull (2)));

/* Make a file in path's directory that does not have path's name yet, and give
 * it that name (EEXIST if something is there by now).  *temp is NULL if the
 * file is nameless; else its temporary name, which the caller removes and frees
 * unless file_link has done so.  The name is durable when file_link returns; a
 * power cut in it may leave an empty file of that name, where the file system
 * has neither hard links nor RENAME_NOREPLACE. */
int file_make (const char *path, mode_t mode, char **temp)
    __attribute__ ((nonnull (1, 3)));
int file_link (int fd, const char *path, char **temp)
    __attribute__ ((nonnull (2, 3)));
/* Remove the empty file that a file_link has left under path when a power cut
 * ended it.  EEXIST: it is not empty, or somebody has it. */
int file_remove_empty (const char *path) __attribute__ ((nonnull (1)));
/* Make the names in path's directory durable. */
int file_sync_dir (const char *path) __attribute__ ((nonnull (1)));

/* A further description of what fd is open on: for reading and writing, or for
 * reading. */
int file_reopen (int fd);
int file_reopen_read (int fd);

/* Read or write all count bytes.  file_read: 1 if the file ends before them;
 * the rest of buf is zeros then.  flags: RWF_ flags of pwritev2. */
int file_read (int fd, void *buf, uint64_t count, uint64_t offset)
    __attribute__ ((nonnull (2)));
int file_write (int fd, const void *buf, uint64_t count, uint64_t offset,
                int flags) __attribute__ ((nonnull (2)));
int file_sync (int fd);

#endif
