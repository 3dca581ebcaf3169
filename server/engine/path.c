/* path.c - see path.h.
 *
 * In a confined process openat2 opens a directory from a descriptor that
 * path_confine took, beneath that one and without links of any kind.  The last
 * name is opened with O_NOFOLLOW.
 *
 * Locking: none; the directories are fixed before there are threads.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cleanup.h"
#include "path.h"

struct base {
  int fd;
  char *path; /* resolved, without a slash at its end; "" for the root */
  size_t len;
};

static struct {
  struct base *ptr;
  size_t nr;
} bases;

int
path_confine (const char *const *folders, size_t nr, const char **failed)
{
  bases.ptr = calloc (nr, sizeof *bases.ptr);
  if (!bases.ptr) {
    *failed = nr ? folders[0] : "";
    return -1;
  }
  for (size_t i = 0; i < nr; i++) {
    struct base *b = &bases.ptr[i];

    *failed = folders[i];
    b->path = realpath (folders[i], NULL);
    if (!b->path)
      return -1;
    b->fd = open (b->path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (b->fd == -1)
      return -1;
    if (strcmp (b->path, "/") == 0)
      b->path[0] = '\0';
    b->len = strlen (b->path);
    bases.nr++;
  }
  return 0;
}

bool
path_is_confined (void)
{
  return bases.nr > 0;
}

static int
confined_folder (const char *folder)
{
  struct open_how how = {
    .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
    .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
  };

  for (size_t i = 0; i < bases.nr; i++) {
    const struct base *b = &bases.ptr[i];
    const char *rest = folder + b->len;
    int fd;

    if (strncmp (folder, b->path, b->len) != 0
        || (*rest != '\0' && *rest != '/'))
      continue;
    rest += strspn (rest, "/");
    /* EAGAIN: a directory on the way was renamed, and openat2 asks for another
     * try. */
    for (int tries = 0; tries < 10; tries++) {
      fd = (int)syscall (SYS_openat2, b->fd, *rest ? rest : ".", &how,
                         sizeof how);
      if (fd >= 0 || errno != EAGAIN)
        break;
    }
    if (fd >= 0 || errno != EXDEV)
      return fd;
  }
  errno = EPERM;
  return -1;
}

int
path_folder (const char *path, const char **name)
{
  const char *slash = strrchr (path, '/');
  CLEANUP_FREE char *folder = NULL;

  *name = slash ? slash + 1 : path;
  if (**name == '\0')
    *name = ".";
  folder = !slash          ? strdup (".")
           : slash == path ? strdup ("/")
                           : strndup (path, (size_t)(slash - path));
  if (!folder)
    return -1;
  if (path_is_confined ()) {
    /* "." and ".." would name this directory, or the one above. */
    if (strcmp (*name, ".") == 0 || strcmp (*name, "..") == 0) {
      errno = EPERM;
      return -1;
    }
    return confined_folder (folder);
  }
  return open (folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

int
path_open (const char *path, int flags, mode_t mode)
{
  const char *name;
  CLEANUP_CLOSE int folder = path_folder (path, &name);

  if (folder == -1)
    return -1;
  if (path_is_confined ())
    flags |= O_NOFOLLOW;
  return openat (folder, name, flags | O_CLOEXEC, mode);
}

int
path_open_file (const char *path, int flags)
{
  CLEANUP_CLOSE int fd = path_open (path, O_PATH, 0);
  struct stat sb;
  char self[64];

  if (fd == -1 || fstat (fd, &sb) == -1)
    return -1;
  if (!S_ISREG (sb.st_mode) && !S_ISBLK (sb.st_mode) && !S_ISDIR (sb.st_mode)) {
    errno = S_ISLNK (sb.st_mode) ? ELOOP : EINVAL;
    return -1;
  }
  snprintf (self, sizeof self, "/proc/self/fd/%d", fd);
  return open (self, flags | O_CLOEXEC);
}

int
path_stat (const char *path, struct stat *sb)
{
  const char *name;
  CLEANUP_CLOSE int folder = path_folder (path, &name);

  if (folder == -1)
    return -1;
  return fstatat (folder, name, sb,
                  path_is_confined () ? AT_SYMLINK_NOFOLLOW : 0);
}

int
path_unlink (const char *path)
{
  const char *name;
  CLEANUP_CLOSE int folder = path_folder (path, &name);

  return folder == -1 ? -1 : unlinkat (folder, name, 0);
}

char *
path_last_name (const char *path)
{
  const char *slash = strrchr (path, '/');

  return strdup (slash ? slash + 1 : path);
}
