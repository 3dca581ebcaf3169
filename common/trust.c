/* trust.c - see trust.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cleanup.h"
#include "trust.h"

struct file_id
file_id (const struct stat *sb)
{
  if (S_ISBLK (sb->st_mode))
    return (struct file_id){ .dev = (uint64_t)sb->st_rdev };
  return (struct file_id){ .dev = (uint64_t)sb->st_dev,
                           .ino = (uint64_t)sb->st_ino };
}

bool
file_id_equal (struct file_id a, struct file_id b)
{
  return a.dev == b.dev && a.ino == b.ino;
}

const char *
file_id_text (struct file_id id, char buf[FILE_ID_MAX])
{
  snprintf (buf, FILE_ID_MAX, "%llx-%llx", (unsigned long long)id.dev,
            (unsigned long long)id.ino);
  return buf;
}

bool
file_id_parse (const char *text, struct file_id *id)
{
  char again[FILE_ID_MAX], *end;

  id->dev = strtoull (text, &end, 16);
  if (*end != '-')
    return false;
  id->ino = strtoull (end + 1, NULL, 16);
  /* strtoull takes blanks, signs and too much; we do not. */
  return strcmp (file_id_text (*id, again), text) == 0;
}

bool
trust_about (uid_t author, const struct stat *store)
{
  return author == 0 || author == geteuid ()
         || (store != NULL && author == store->st_uid);
}

/* Neither through a link nor into what somebody has mounted there: his file
 * system might never answer.  So what is there is looked at before it is
 * opened, and without asking its file system.  (openat2 could do it, which
 * valgrind does not know.) */
static int
open_here (int dir, const char *name, int flags)
{
  CLEANUP_CLOSE int fd = openat (dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  struct statx sx;
  char proc[64];

  if (fd == -1
      || statx (fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &sx)
             == -1)
    return -1;
  if (S_ISLNK (sx.stx_mode)) {
    errno = ELOOP;
    return -1;
  }
  if (sx.stx_attributes & STATX_ATTR_MOUNT_ROOT) {
    errno = EXDEV;
    return -1;
  }
  snprintf (proc, sizeof proc, "/proc/self/fd/%d", fd);
  return open (proc, flags | O_RDONLY | O_CLOEXEC);
}

/* fd, or -1 with errno EPERM, if it is not its author's alone. */
static int
check_author (int fd, bool is_dir, uid_t *author)
{
  struct stat sb;
  int err;

  if (fd == -1)
    return -1;
  err = fstat (fd, &sb) == 0 ? EPERM : errno;
  if (err == EPERM && (sb.st_mode & 022) == 0
      && (is_dir || (S_ISREG (sb.st_mode) && sb.st_uid == *author))) {
    *author = sb.st_uid;
    return fd;
  }
  close (fd);
  errno = err;
  return -1;
}

int
trust_open_dir (int base, const char *name, uid_t *author)
{
  return check_author (open_here (base, name, O_DIRECTORY), true, author);
}

int
trust_open_file (int dir, const char *name, uid_t author)
{
  /* O_NONBLOCK: it may be a fifo. */
  return check_author (open_here (dir, name, O_NONBLOCK | O_NOCTTY), false,
                       &author);
}

int
trust_peer (int fd, uid_t *uid, pid_t *pid)
{
  struct ucred cred;
  socklen_t len = sizeof cred;

  if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == -1)
    return -1;
  *uid = cred.uid;
  if (pid)
    *pid = cred.pid;
  return 0;
}
