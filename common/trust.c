/* trust.c - see trust.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
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

bool
trust_alone (const struct stat *sb, uid_t other)
{
  return (sb->st_uid == 0 || sb->st_uid == geteuid () || sb->st_uid == other)
         && (sb->st_mode & (S_IWGRP | S_IWOTH)) == 0;
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

/* --- another's rights --------------------------------------------------- */

/* More are left out: fewer rights, not more. */
#define MAX_GROUPS 1024
/* Of whom the user data base does not know.  (The group of a file of his may
 * be that of a folder.) */
#define NO_GROUP 65534

struct trust_rights {
  uid_t uid;
  gid_t gid;
  int nr, nr_own;
  gid_t groups[MAX_GROUPS];
  gid_t *own; /* the process's, to go back to */
};

struct trust_rights *
trust_rights_of (uid_t uid)
{
  struct trust_rights *r = calloc (1, sizeof *r);
  CLEANUP_FREE char *buf = malloc (65536);
  struct passwd pw, *found = NULL;

  if (!r || !buf)
    goto nomem;
  r->uid = uid;
  r->gid = NO_GROUP;
  if (getpwuid_r (uid, &pw, buf, 65536, &found) == 0 && found) {
    r->gid = pw.pw_gid;
    r->nr = MAX_GROUPS;
    if (getgrouplist (pw.pw_name, pw.pw_gid, r->groups, &r->nr) == -1)
      r->nr = 0;
  }
  r->nr_own = getgroups (0, NULL);
  r->own
      = r->nr_own >= 0 ? calloc ((size_t)r->nr_own + 1, sizeof *r->own) : NULL;
  if (r->own && (r->nr_own = getgroups (r->nr_own, r->own)) >= 0)
    return r;

nomem:
  trust_rights_free (r);
  errno = ENOMEM;
  return NULL;
}

void
trust_rights_free (struct trust_rights *r)
{
  if (r)
    free (r->own);
  free (r);
}

uid_t
trust_rights_user (const struct trust_rights *r)
{
  return r->uid;
}

/* These system calls are about the calling thread; the functions of libc with
 * their names change all threads. */
static int
set_groups (int nr, const gid_t *groups)
{
  return (int)syscall (SYS_setgroups, (long)nr, groups);
}

static int
set_effective_group (gid_t gid)
{
  return (int)syscall (SYS_setresgid, -1L, (long)gid, -1L);
}

static int
set_effective_user (uid_t uid)
{
  return (int)syscall (SYS_setresuid, -1L, (long)uid, -1L);
}

int
trust_assume (const struct trust_rights *r, struct trust_was *was)
{
  *was = (struct trust_was){ .uid = geteuid (), .gid = getegid () };
  if (!r || r->uid == was->uid)
    return 0;
  was->rights = r;
  /* The user last: the others need what root may do. */
  if (set_groups (r->nr, r->groups) == 0 && set_effective_group (r->gid) == 0
      && set_effective_user (r->uid) == 0)
    return 0;
  trust_resume (was);
  was->rights = NULL;
  errno = EPERM;
  return -1;
}

void
trust_resume (const struct trust_was *was)
{
  int err = errno;

  if (!was->rights)
    return;
  /* A thread that went on with only some of its rights, or groups of another,
   * would do wrong anywhere.  (Who could not take them has lost none.) */
  if (set_effective_user (was->uid) == -1
      || set_effective_group (was->gid) == -1
      || (set_groups (was->rights->nr_own, was->rights->own) == -1
          && was->uid == 0 && errno != EPERM))
    abort ();
  errno = err;
}
