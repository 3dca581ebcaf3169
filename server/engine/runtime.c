/* runtime.c - the runtime directory and its registry.  See runtime.h.
 *
 * An entry is written under another name and renamed, so that nobody reads
 * half of one.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"
#include "runtime.h"

#define SYSTEM_DIR "/run/backfill"

static bool
is_dir (const char *path)
{
  struct stat sb;

  return stat (path, &sb) == 0 && S_ISDIR (sb.st_mode);
}

void
runtime_raise_files (void)
{
  struct rlimit limit;

  if (getrlimit (RLIMIT_NOFILE, &limit) == 0
      && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit (RLIMIT_NOFILE, &limit);
  }
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

static char *
entry_path (const char *dir, dev_t dev, ino_t ino)
{
  char *path;

  if (asprintf (&path, "%s/%lx-%lx.volume", dir, (unsigned long)dev,
                (unsigned long)ino)
      == -1)
    return NULL;
  return path;
}

/* A line for each socket file that this process listens on.  Whoever knows
 * such a file, as a hypervisor's configuration does, finds the process by it:
 * its inode is in use for as long as it is listened on, so that device and
 * inode are never another's. */
static void
print_sockets (FILE *fp)
{
  DIR *fds = opendir ("/proc/self/fd");
  const struct dirent *d;

  while (fds && (d = readdir (fds)) != NULL) {
    struct sockaddr_un addr = { 0 };
    socklen_t len = sizeof addr - 1; /* the path need not end in a NUL */
    int listens = 0, fd = atoi (d->d_name);
    socklen_t size = sizeof listens;
    struct stat sb;

    if (d->d_name[0] == '.')
      continue;
    if (getsockopt (fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0
        && listens && getsockname (fd, (struct sockaddr *)&addr, &len) == 0
        && addr.sun_family == AF_UNIX && addr.sun_path[0] == '/'
        && strchr (addr.sun_path, '\n') == NULL
        && stat (addr.sun_path, &sb) == 0 && S_ISSOCK (sb.st_mode))
      fprintf (fp, "listen %lx-%lx %s\n", (unsigned long)sb.st_dev,
               (unsigned long)sb.st_ino, addr.sun_path);
  }
  if (fds)
    closedir (fds);
}

int
runtime_register (const char *dir, dev_t dev, ino_t ino, const char *store,
                  const char *control, const char *name)
{
  CLEANUP_FREE char *path = entry_path (dir, dev, ino);
  CLEANUP_FREE char *temp = NULL;
  CLEANUP_FREE char *text = NULL;
  CLEANUP_CLOSE int fd = -1;
  size_t len;
  FILE *fp;

  if (!path)
    return -1;
  if (asprintf (&temp, "%s.%d", path, (int)getpid ()) == -1) {
    temp = NULL;
    return -1;
  }
  fp = open_memstream (&text, &len);
  if (!fp)
    return -1;
  fprintf (fp, "store %s\n", store);
  if (control)
    fprintf (fp, "control %s\n", control);
  fprintf (fp, "pid %d\nname %s\n", (int)getpid (), name);
  print_sockets (fp);
  if (fclose (fp) != 0)
    return -1;
  unlink (temp);
  fd = open (temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd == -1)
    return -1;
  errno = 0;
  if (write (fd, text, len) != (ssize_t)len || rename (temp, path) == -1) {
    int err = errno ? errno : ENOSPC;

    unlink (temp);
    errno = err;
    return -1;
  }
  return 0;
}

int
runtime_lookup (const char *dir, dev_t dev, ino_t ino, long *pid,
                char **control)
{
  CLEANUP_FREE char *path = entry_path (dir, dev, ino);
  char text[8192];
  char *save = NULL;
  ssize_t len;
  int fd;

  *pid = 0;
  *control = NULL;
  fd = path ? open (path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
  if (fd == -1)
    return -1;
  len = read (fd, text, sizeof text - 1);
  close (fd);
  if (len <= 0)
    return -1;
  text[len] = '\0';
  for (char *line = strtok_r (text, "\n", &save); line;
       line = strtok_r (NULL, "\n", &save))
    if (strncmp (line, "pid ", 4) == 0)
      *pid = strtol (line + 4, NULL, 10);
    else if (strncmp (line, "control ", 8) == 0 && !*control)
      *control = strdup (line + 8);
  if (*pid > 0)
    return 0;
  free (*control);
  *control = NULL;
  return -1;
}

void
runtime_unregister (const char *dir, dev_t dev, ino_t ino)
{
  CLEANUP_FREE char *path = entry_path (dir, dev, ino);

  if (path)
    unlink (path);
}
