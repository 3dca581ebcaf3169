/* runtime.c - the runtime directory, and what this process has in it.  See
 * runtime.h.
 *
 * A directory is in use while its file "lock" is locked (flock, which a fork
 * keeps).  Only the owner may open the lock: else anybody could hold it.
 * Another process may take a directory for a leftover between its mkdir and its
 * lock: then the directory is gone, or that process has locked it, and this
 * process makes another.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "array.h"
#include "cleanup.h"
#include "entry.h"
#include "lock.h"
#include "message.h"
#include "runtime.h"

#define SYSTEM_DIR "/run/backfill"
#define LOCK_NAME "lock"
#define WORK_SUFFIX ".work"
#define TRIES 16
#define MAX_CLEANED 20000u /* directories and files, at each start */

/* A directory that this process has made. */
struct own {
  SLIST_ENTRY (own) link;
  char *base, *path; /* resolved */
  uid_t uid;         /* its owner */
  int lock;          /* the file "lock", locked */
};

static struct {
  struct lock lock;
  SLIST_HEAD (, own) owns;
} all = { .lock = LOCK_INITIALIZER (LOCK_RUNTIME) };

static void
cleanup_closedir (DIR **dir)
{
  if (*dir)
    closedir (*dir);
}
#define CLEANUP_CLOSEDIR __attribute__ ((cleanup (cleanup_closedir)))

static bool
is_dir (const char *path)
{
  struct stat sb;

  return stat (path, &sb) == 0 && S_ISDIR (sb.st_mode);
}

/* Set once, before there are threads. */
static struct rlimit files_before;
static bool files_raised;

void
runtime_raise_files (void)
{
  struct rlimit limit;

  if (getrlimit (RLIMIT_NOFILE, &limit) == 0
      && limit.rlim_cur < limit.rlim_max) {
    files_before = limit;
    limit.rlim_cur = limit.rlim_max;
    files_raised = setrlimit (RLIMIT_NOFILE, &limit) == 0;
  }
}

bool
runtime_files_limit (struct rlimit *limit)
{
  *limit = files_before;
  return files_raised;
}

char *
runtime_default_dir (void)
{
  const char *dir = getenv ("BACKFILL_RUNTIME_DIR");
  char *path;

  if (dir && *dir)
    return is_dir (dir) || mkdir (dir, 0700) == 0 || errno == EEXIST
               ? strdup (dir)
               : NULL;
  if (is_dir (SYSTEM_DIR))
    return strdup (SYSTEM_DIR);
  if (geteuid () == 0) {
    if (mkdir (SYSTEM_DIR, 0755) == 0) {
      /* All users' volumes, as tmpfiles.d would make it; mkdir's mode is
       * cut by the umask. */
      if (chmod (SYSTEM_DIR, 01777) == -1)
        return NULL;
    }
    else if (errno != EEXIST)
      return NULL;
    return strdup (SYSTEM_DIR);
  }
  dir = getenv ("XDG_RUNTIME_DIR");
  if (!dir || *dir != '/') {
    errno = ENOENT;
    return NULL;
  }
  if (asprintf (&path, "%s/backfill", dir) == -1)
    return NULL;
  if (mkdir (path, 0700) == 0 || errno == EEXIST)
    return path;
  free (path);
  return NULL;
}

/* --- directories of processes ------------------------------------------ */

static bool
ends_in (const char *name, const char *suffix)
{
  size_t len = strlen (name), cut = strlen (suffix);

  return len > cut && strcmp (name + len - cut, suffix) == 0;
}

/* The lock of the directory fd, locked: its descriptor.  -1: it is in use, or
 * there is none.  make: a new one, of ours. */
static int
try_lock (int fd, bool make, uid_t owner)
{
  int lock
      = make ? openat (fd, LOCK_NAME,
                       O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)
             : trust_open_file (fd, LOCK_NAME, owner);
  struct stat sb;

  if (lock == -1)
    return -1;
  if (flock (lock, LOCK_EX | LOCK_NB) == 0 && fstat (lock, &sb) == 0
      && sb.st_nlink > 0)
    return lock;
  close (lock);
  return -1;
}

/* Everything in the directory but working maps and the lock, up to *left
 * files. */
static void
clear_out (int fd, unsigned *left, bool *empty)
{
  CLEANUP_CLOSEDIR DIR *dir = NULL;
  const struct dirent *d;
  int copy = dup (fd);

  *empty = false;
  dir = copy >= 0 ? fdopendir (copy) : NULL;
  if (!dir)
    return;
  *empty = true;
  rewinddir (dir);
  while ((d = readdir (dir)) != NULL) {
    if (*left == 0) {
      *empty = false;
      return;
    }
    --*left;
    if (strcmp (d->d_name, ".") == 0 || strcmp (d->d_name, "..") == 0
        || strcmp (d->d_name, LOCK_NAME) == 0)
      continue;
    if (ends_in (d->d_name, WORK_SUFFIX) || unlinkat (fd, d->d_name, 0) == -1)
      *empty = false;
  }
}

/* What the process of that directory has left, if it has ended. */
static void
clean_one (int base, const char *name, unsigned *left)
{
  uid_t owner;
  CLEANUP_CLOSE int fd = trust_open_dir (base, name, &owner);
  CLEANUP_CLOSE int lock = -1;
  bool empty;

  if (fd == -1 || (geteuid () != 0 && owner != geteuid ()))
    return;
  lock = try_lock (fd, false, owner);
  if (lock == -1) {
    /* Its process died before it had a lock; else this fails. */
    if (errno == ENOENT)
      unlinkat (base, name, AT_REMOVEDIR);
    return;
  }
  clear_out (fd, left, &empty);
  if (empty) {
    unlinkat (fd, LOCK_NAME, 0);
    unlinkat (base, name, AT_REMOVEDIR);
  }
}

/* Other users may leave any number of directories, and more while this process
 * cleans: what exceeds MAX_CLEANED is left to the next process. */
static void
clean (int base)
{
  unsigned left = MAX_CLEANED;
  CLEANUP_CLOSEDIR DIR *dir = NULL;
  const struct dirent *d;
  int copy = openat (base, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

  dir = copy >= 0 ? fdopendir (copy) : NULL;
  while (dir && left > 0 && (d = readdir (dir)) != NULL)
    if (strncmp (d->d_name, ENTRY_DIR_PREFIX, strlen (ENTRY_DIR_PREFIX)) == 0) {
      left--;
      clean_one (base, d->d_name, &left);
    }
}

/* Make and lock one.  0 with *name and *lock; 1: try again; -1. */
static int
make_one (int base, char name[32], int *lock)
{
  uint32_t number;
  CLEANUP_CLOSE int fd = -1;
  uid_t owner;

  if (getrandom (&number, sizeof number, 0) != sizeof number)
    return -1;
  snprintf (name, 32, ENTRY_DIR_PREFIX "%08x", number);
  if (mkdirat (base, name, 0700) == -1)
    return errno == EEXIST ? 1 : -1;
  fd = trust_open_dir (base, name, &owner);
  if (fd == -1)
    return errno == ENOENT ? 1 : -1;
  /* The folder's owner may have put a directory of his own in its place. */
  if (owner != geteuid ())
    return 1;
  *lock = try_lock (fd, true, owner);
  if (*lock >= 0) {
    if (fchmod (fd, 0755) == 0)
      return 0;
    close (*lock);
    return -1;
  }
  if (errno == ENOSPC || errno == EDQUOT || errno == EMFILE
      || errno == ENFILE) {
    int err = errno;

    unlinkat (base, name, AT_REMOVEDIR);
    errno = err;
    return -1;
  }
  return 1;
}

/* NULL with errno. */
static struct own *
make_own (const char *base)
{
  CLEANUP_CLOSE int fd = open (base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  struct own *own;
  char name[32];
  int r = 1;

  ASSERT_HELD (&all.lock);
  if (fd == -1)
    return NULL;
  own = calloc (1, sizeof *own);
  if (!own)
    return NULL;
  clean (fd);
  errno = EBUSY;
  for (int i = 0; r == 1 && i < TRIES; i++)
    r = make_one (fd, name, &own->lock);
  if (r != 0) {
    free (own);
    return NULL;
  }
  own->uid = geteuid ();
  own->base = strdup (base);
  if (!own->base || asprintf (&own->path, "%s/%s", base, name) == -1) {
    close (own->lock);
    free (own->base);
    free (own);
    errno = ENOMEM;
    return NULL;
  }
  SLIST_INSERT_HEAD (&all.owns, own, link);
  return own;
}

/* The directory is still there: nobody has removed the runtime directory. */
static bool
is_there (const struct own *own)
{
  CLEANUP_FREE char *path = NULL;
  struct stat sb, seen;

  return asprintf (&path, "%s/" LOCK_NAME, own->path) != -1
         && fstat (own->lock, &sb) == 0 && lstat (path, &seen) == 0
         && sb.st_dev == seen.st_dev && sb.st_ino == seen.st_ino;
}

char *
runtime_own_dir (const char *base, char **error)
{
  CLEANUP_FREE char *named = base ? strdup (base) : runtime_default_dir ();
  CLEANUP_FREE char *real = named ? realpath (named, NULL) : NULL;
  const struct own *own = NULL;
  char *path;

  if (!real) {
    message_set (error,
                 "there is no runtime directory (%s: %m): name one, on a "
                 "tmpfs, with runtime-dir=",
                 base ? base : SYSTEM_DIR);
    return NULL;
  }
  LOCK_SCOPE (&all.lock);
  SLIST_FOREACH (own, &all.owns, link)
    if (own->uid == geteuid () && strcmp (own->base, real) == 0
        && is_there (own))
      break;
  if (!own)
    own = make_own (real);
  if (!own) {
    message_set (error,
                 "cannot make a directory for this process in the runtime "
                 "directory %s: %m; name another, on a tmpfs, with "
                 "runtime-dir=",
                 real);
    return NULL;
  }
  path = strdup (own->path);
  if (!path)
    message_set (error, "out of memory");
  return path;
}

void
runtime_leave (void)
{
  LOCK_SCOPE (&all.lock);

  while (!SLIST_EMPTY (&all.owns)) {
    struct own *own = SLIST_FIRST (&all.owns);
    CLEANUP_FREE char *lock = NULL;

    SLIST_REMOVE_HEAD (&all.owns, link);
    /* The lock goes first, as rmdir needs an empty directory.  A directory that
     * holds more is left, and a directory that is left needs a lock. */
    if (is_there (own) && asprintf (&lock, "%s/" LOCK_NAME, own->path) != -1
        && unlink (lock) == 0 && rmdir (own->path) == -1) {
      int fd = open (lock, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                     0600);

      if (fd >= 0)
        close (fd);
    }
    close (own->lock);
    free (own->base);
    free (own->path);
    free (own);
  }
}

/* --- the registry ------------------------------------------------------ */

/* The socket files that this process listens on.  Whoever knows such a file,
 * as a hypervisor's configuration does, finds the process by it: its inode is
 * in use for as long as it is listened on, so that device and inode are never
 * another's. */
static void
find_sockets (struct entry *e)
{
  CLEANUP_CLOSEDIR DIR *fds = opendir ("/proc/self/fd");
  const struct dirent *d;

  while (fds && (d = readdir (fds)) != NULL) {
    struct sockaddr_un addr = { 0 };
    socklen_t len = sizeof addr - 1; /* the path need not end in a NUL */
    int listens = 0, fd = atoi (d->d_name);
    socklen_t size = sizeof listens;
    struct stat sb;

    if (d->d_name[0] == '.'
        || getsockopt (fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == -1
        || !listens || getsockname (fd, (struct sockaddr *)&addr, &len) == -1
        || addr.sun_family != AF_UNIX || addr.sun_path[0] != '/'
        || stat (addr.sun_path, &sb) == -1 || !S_ISSOCK (sb.st_mode))
      continue;
    if (ARRAY_ROOM (e->listen, e->nr_listen) == -1)
      return;
    e->listen[e->nr_listen].file = file_id (&sb);
    e->listen[e->nr_listen].path = strdup (addr.sun_path);
    if (!e->listen[e->nr_listen].path)
      return;
    e->nr_listen++;
  }
}

static int
open_own (const char *own)
{
  return open (own, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

int
runtime_register (const char *own, struct file_id file, const char *store,
                  const char *control, const char *name)
{
  CLEANUP_CLOSE int dir = open_own (own);
  struct entry e = { .file = file, .pid = getpid () };
  int r = -1, err;

  if (dir == -1)
    return -1;
  e.store = strdup (store);
  e.control = control ? strdup (control) : NULL;
  e.name = strdup (name);
  if (e.store && e.name && (e.control || !control)) {
    find_sockets (&e);
    r = entry_write (dir, &e);
  }
  err = errno;
  entry_free (&e);
  errno = err;
  return r;
}

void
runtime_unregister (const char *own, struct file_id file)
{
  CLEANUP_CLOSE int dir = open_own (own);

  if (dir >= 0)
    entry_remove (dir, file);
}

struct lookup {
  const struct stat *store;
  const char *own; /* whose entries are not looked for: its name */
  long pid;
  char *control;
};

static int
look_at (void *opaque, struct entry *e)
{
  struct lookup *l = opaque;

  if (strcmp (e->process, l->own) == 0 || !entry_speaks_for (e, l->store))
    return 0;
  l->pid = e->pid;
  l->control = e->control;
  e->control = NULL;
  return 1;
}

int
runtime_lookup (const char *own, const struct stat *store, long *pid,
                char **control)
{
  const char *slash = strrchr (own, '/');
  CLEANUP_FREE char *base
      = slash ? strndup (own, (size_t)(slash - own) + 1) : strdup (".");
  struct lookup l = { .store = store, .own = slash ? slash + 1 : own };
  struct file_id file = file_id (store);

  *pid = 0;
  *control = NULL;
  if (!base || entries_scan (base, &file, look_at, &l) != 1)
    return -1;
  *pid = l.pid;
  *control = l.control;
  return 0;
}
