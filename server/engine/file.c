/* file.c - a file by its descriptor: lock, name, I/O.  See file.h.
 *
 * A new file has no name until it is whole.  Where the file system has nameless
 * files (O_TMPFILE), file_make makes one and file_link links it.  Elsewhere the
 * new file has a temporary name, and file_link gives it its own by a link, by
 * renameat2 with RENAME_NOREPLACE, or by a rename over an empty file that
 * file_link made under that name.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ability.h"
#include "cleanup.h"
#include "file.h"
#include "path.h"

/* Locks. */

int
file_lock (int fd, bool read_only)
{
  struct flock fl
      = { .l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

  if (fcntl (fd, F_OFD_SETLK, &fl) == 0)
    return 0;
  if (errno == EACCES)
    errno = EAGAIN;
  return -1;
}

void
file_unlock (int fd)
{
  struct flock fl = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

  fcntl (fd, F_OFD_SETLK, &fl);
}

/* Names. */

bool
file_is_at (int fd, const char *path)
{
  struct stat a, b;

  return fstat (fd, &a) == 0 && path_stat (path, &b) == 0
         && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Open path's directory so that it can be synced, and files made in it. */
static int
open_folder (const char *path)
{
  const char *name;
  CLEANUP_CLOSE int folder = path_folder (path, &name);

  return folder == -1
             ? -1
             : openat (folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int
file_sync_dir (const char *path)
{
  CLEANUP_CLOSE int fd = open_folder (path);

  if (fd == -1)
    return -1;
  /* Some file systems cannot sync a directory and say EINVAL. */
  return fsync (fd) == -1 && errno != EINVAL ? -1 : 0;
}

int
file_make (const char *path, mode_t mode, char **temp)
{
  CLEANUP_CLOSE int folder = open_folder (path);
  struct abilities able;
  uint64_t number;
  int fd;

  *temp = NULL;
  if (folder == -1)
    return -1;
  /* A remote file system may have nameless files, and no links to name them
   * by. */
  ability_look (&able, folder);
  if (!able.is_remote) {
    fd = openat (folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
    if (fd >= 0)
      return fd;
    if (!ability_is_lack (errno) && errno != EISDIR && errno != ENOENT)
      return -1;
  }

  /* The name is random, so that nobody else takes it: file_link must name the
   * very file that fd is open on. */
  if (getrandom (&number, sizeof number, 0) != sizeof number
      || asprintf (temp, "%s.new-%016" PRIx64, path, number) == -1) {
    *temp = NULL;
    return -1;
  }
  fd = path_open (*temp, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW, mode);
  if (fd == -1) {
    int err = errno;

    free (*temp);
    *temp = NULL;
    errno = err;
  }
  return fd;
}

/* True if name is the regular file that fd is open on, empty, and locked by
 * us. */
static bool
is_empty_own (int fd, int folder, const char *name)
{
  struct stat a, b;

  return file_lock (fd, false) == 0 && fstat (fd, &a) == 0
         && fstatat (folder, name, &b, AT_SYMLINK_NOFOLLOW) == 0
         && a.st_dev == b.st_dev && a.st_ino == b.st_ino && S_ISREG (b.st_mode)
         && b.st_size == 0;
}

/* Without links and RENAME_NOREPLACE an empty file of our own takes the name
 * first, so that the rename replaces nobody else's file. */
static int
rename_over_own (int folder, const char *temp_name, const char *name)
{
  CLEANUP_CLOSE int fd = openat (
      folder, name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
  int err;

  if (fd == -1)
    return -1;
  if (!is_empty_own (fd, folder, name)) {
    /* Another process took our empty file for one that a power cut has left. */
    errno = EEXIST;
    return -1;
  }
  if (renameat (folder, temp_name, folder, name) == 0)
    return 0;
  err = errno;
  unlinkat (folder, name, 0);
  errno = err;
  return -1;
}

static int
name_by_temp (int folder, const char *temp_name, const char *name)
{
  if (linkat (folder, temp_name, folder, name, 0) == 0) {
    unlinkat (folder, temp_name, 0);
    return 0;
  }
  if (!ability_is_lack (errno) && errno != EMLINK)
    return -1;
  if (renameat2 (folder, temp_name, folder, name, RENAME_NOREPLACE) == 0)
    return 0;
  return ability_is_lack (errno) ? rename_over_own (folder, temp_name, name)
                                 : -1;
}

int
file_remove_empty (const char *path)
{
  const char *name;
  CLEANUP_CLOSE int folder = path_folder (path, &name);
  CLEANUP_CLOSE int fd = path_open (path, O_RDWR | O_NONBLOCK | O_NOFOLLOW, 0);

  if (folder == -1 || fd == -1)
    return -1;
  if (!is_empty_own (fd, folder, name)) {
    errno = EEXIST;
    return -1;
  }
  return unlinkat (folder, name, 0) == -1 ? -1 : file_sync_dir (path);
}

int
file_link (int fd, const char *path, char **temp)
{
  const char *name;
  CLEANUP_CLOSE int folder = path_folder (path, &name);

  if (folder == -1)
    return -1;
  if (*temp) {
    const char *temp_name = strrchr (*temp, '/');

    temp_name = temp_name ? temp_name + 1 : *temp;
    if (name_by_temp (folder, temp_name, name) == -1)
      return -1;
    free (*temp);
    *temp = NULL;
  }
  else {
    char self[64];

    snprintf (self, sizeof self, "/proc/self/fd/%d", fd);
    if (linkat (AT_FDCWD, self, folder, name, AT_SYMLINK_FOLLOW) == -1)
      return -1;
  }
  return file_sync_dir (path);
}

/* I/O. */

static int
reopen (int fd, int flags)
{
  char self[64];

  snprintf (self, sizeof self, "/proc/self/fd/%d", fd);
  return open (self, flags | O_CLOEXEC);
}

int
file_reopen (int fd)
{
  return reopen (fd, O_RDWR);
}

int
file_reopen_read (int fd)
{
  return reopen (fd, O_RDONLY);
}

int
file_read (int fd, void *buf, uint64_t count, uint64_t offset)
{
  char *p = buf;

  while (count > 0) {
    ssize_t r = pread (fd, p, count, (off_t)offset);

    if (r == -1 && errno == EINTR)
      continue;
    if (r == -1)
      return -1;
    if (r == 0) {
      memset (p, 0, count);
      return 1;
    }
    p += r;
    offset += (uint64_t)r;
    count -= (uint64_t)r;
  }
  return 0;
}

int
file_write (int fd, const void *buf, uint64_t count, uint64_t offset, int flags)
{
  const char *p = buf;

  while (count > 0) {
    struct iovec iov = { .iov_base = (void *)p, .iov_len = count };
    ssize_t r = flags ? pwritev2 (fd, &iov, 1, (off_t)offset, flags)
                      : pwrite (fd, p, count, (off_t)offset);

    if (r == -1) {
      if (errno == EINTR)
        continue;
      return -1;
    }
    p += r;
    offset += (uint64_t)r;
    count -= (uint64_t)r;
  }
  return 0;
}

int
file_sync (int fd)
{
  int r;

  do
    r = fdatasync (fd);
  while (r == -1 && errno == EINTR);
  return r;
}
