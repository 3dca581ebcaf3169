/* slowsync.c - syncs that take long, for LD_PRELOAD into the server.
 *
 * The kernel keeps writers out of a FUSE file while it is being synced, other
 * file systems do not.  So lossyfs alone cannot show what happens to a write
 * that comes during a sync.  Here fsync and fdatasync do their work first and
 * take long to return: what is written meanwhile is not covered.
 *
 *   SLOWSYNC_US=N     each takes N microseconds more
 *   SLOWSYNC_DIR=DIR  if DIR/hold.NAME exists when the sync of a file with
 *                     that base name is done, it becomes DIR/held.NAME and
 *                     the sync returns when that is removed
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fsync (int fd);
int fdatasync (int fd);

static void
take_long (int fd)
{
  const char *us = getenv ("SLOWSYNC_US"), *dir = getenv ("SLOWSYNC_DIR");
  char self[64], path[1024], hold[2048], held[2048], *base;
  ssize_t n;
  int err = errno;

  if (us)
    usleep ((useconds_t)atoi (us));
  snprintf (self, sizeof self, "/proc/self/fd/%d", fd);
  n = readlink (self, path, sizeof path - 1);
  if (dir && n > 0) {
    path[n] = '\0';
    base = strrchr (path, '/');
    base = base ? base + 1 : path;
    snprintf (hold, sizeof hold, "%s/hold.%s", dir, base);
    snprintf (held, sizeof held, "%s/held.%s", dir, base);
    if (rename (hold, held) == 0)
      while (access (held, F_OK) == 0)
        usleep (10000);
  }
  errno = err;
}

static int
sync_and_wait (const char *name, int fd)
{
  int (*next) (int);
  int r;

  /* The cast that POSIX asks for and ISO C has no word for. */
  *(void **)&next = dlsym (RTLD_NEXT, name);
  r = next (fd);
  take_long (fd);
  return r;
}

int
fsync (int fd)
{
  return sync_and_wait ("fsync", fd);
}

int
fdatasync (int fd)
{
  return sync_and_wait ("fdatasync", fd);
}
