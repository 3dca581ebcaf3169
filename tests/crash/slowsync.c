/* slowsync.c - syncs that take long, for LD_PRELOAD into the server.
 *
 * The kernel keeps writers out of a FUSE file while it is being synced, other
 * file systems do not.  So lossyfs alone cannot show what happens to a write
 * that comes during a sync.  Here fsync and fdatasync do their work first and
 * take long to return: what is written meanwhile is not covered.
 *
 *   SLOWSYNC_US=N     each takes N microseconds more
 *   SLOWSYNC_FILE=FILE SLOWSYNC_HOLD=PATH
 *                     if PATH exists when a sync of FILE is done, it becomes
 *                     PATH.held, and the sync returns when that is removed
 *
 * FILE is known by its inode: it may have been opened by another name.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int fsync (int fd);
int fdatasync (int fd);

static void
take_long (int fd)
{
  const char *us = getenv ("SLOWSYNC_US"), *file = getenv ("SLOWSYNC_FILE"),
             *hold = getenv ("SLOWSYNC_HOLD");
  struct stat is, want;
  char held[4096];
  int err = errno;

  if (us)
    usleep ((useconds_t)atoi (us));
  if (file && hold && access (hold, F_OK) == 0 && fstat (fd, &is) == 0
      && stat (file, &want) == 0 && is.st_dev == want.st_dev
      && is.st_ino == want.st_ino) {
    snprintf (held, sizeof held, "%s.held", hold);
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
