/* registry.c - whose control socket serves a disk.
 *
 * Every process that has a volume open leaves an entry DEV-INO.volume (hex,
 * of the store) in a runtime directory, with the lines "store PATH",
 * "control PATH", "pid N", "name NAME", "listen DEV-INO PATH".  An entry is a
 * hint: its process may be dead, and the directory may be one that everybody
 * writes to.  So an entry counts only if its file belongs to root, the caller
 * or the store's owner, and whoever answers on its socket must too (struct
 * trust).
 *
 * The directories are those where servers put entries: BACKFILL_RUNTIME_DIR
 * alone if it is set, else /run/backfill and $XDG_RUNTIME_DIR/backfill.
 *
 * Locking: none.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>
#include <sys/stat.h>

#include "client.h"
#include "cleanup.h"

#define SYSTEM_DIR "/run/backfill"
#define DAEMON_SOCKET "backfilld.sock"
#define MAX_ENTRY 65536

static void
cleanup_closedir (DIR **dir)
{
  if (*dir != NULL)
    closedir (*dir);
}

static void
cleanup_fclose (FILE **fp)
{
  if (*fp != NULL)
    fclose (*fp);
}

/* Up to two; the strings are malloc'd, NULL where there is none. */
static int
runtime_dirs (char *dirs[2])
{
  const char *env = getenv ("BACKFILL_RUNTIME_DIR");
  const char *xdg = getenv ("XDG_RUNTIME_DIR");

  dirs[0] = dirs[1] = NULL;
  if (env != NULL && env[0] != '\0')
    dirs[0] = strdup (env);
  else {
    dirs[0] = strdup (SYSTEM_DIR);
    if (xdg != NULL && xdg[0] == '/'
        && asprintf (&dirs[1], "%s/backfill", xdg) == -1)
      dirs[1] = NULL;
  }
  if (dirs[0] == NULL) {
    free (dirs[1]);
    error_nomem ();
    return -1;
  }
  return 0;
}

const char *
registry_dirs (char *buf, size_t size)
{
  char *dirs[2];

  if (runtime_dirs (dirs) == -1)
    snprintf (buf, size, "the runtime directory");
  else {
    snprintf (buf, size, "'%s'%s%s%s", dirs[0], dirs[1] != NULL ? " and '" : "",
              dirs[1] != NULL ? dirs[1] : "", dirs[1] != NULL ? "'" : "");
    free (dirs[0]);
    free (dirs[1]);
  }
  return buf;
}

char *
registry_daemon (unsigned i)
{
  char *dirs[2], *path = NULL;

  if (i > 1 || runtime_dirs (dirs) == -1)
    return NULL;
  if (dirs[i] != NULL && asprintf (&path, "%s/" DAEMON_SOCKET, dirs[i]) == -1)
    path = NULL;
  free (dirs[0]);
  free (dirs[1]);
  return path;
}

bool
trust_uid (const struct trust *trust, uid_t uid)
{
  return trust->any || uid == 0 || uid == geteuid ()
         || (trust->has_owner && uid == trust->owner);
}

void
entry_free (struct entry *entry)
{
  free (entry->store);
  free (entry->control);
  entry->store = entry->control = NULL;
}

/* Is this "DEV-INO PATH" of that socket? */
static bool
is_socket (const char *value, const struct stat *sock)
{
  char key[64];
  size_t len;

  snprintf (key, sizeof key, "%lx-%lx ", (unsigned long)sock->st_dev,
            (unsigned long)sock->st_ino);
  len = strlen (key);
  return strncmp (value, key, len) == 0;
}

/* Read one entry.  thing: what the caller named, whose owner is trusted;
 * NULL: the store that the entry names.  sock: only an entry of who listens on
 * it is good, may be NULL.  -1 with errno if it is no good; no error text. */
static int
entry_read (int dir, const char *file, const struct stat *thing,
            const struct stat *sock, struct entry *entry)
{
  CLEANUP_FREE char *line = NULL;
  __attribute__ ((cleanup (cleanup_fclose))) FILE *fp = NULL;
  size_t cap = 0;
  bool listens = false;
  struct stat st, seen;
  ssize_t len;
  int fd;

  memset (entry, 0, sizeof *entry);
  /* O_NONBLOCK: someone may have put a fifo there. */
  fd = openat (dir, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd == -1)
    return -1;
  fp = fdopen (fd, "r");
  if (fp == NULL) {
    close (fd);
    return -1;
  }
  if (fstat (fd, &st) == -1)
    return -1;
  if (!S_ISREG (st.st_mode) || st.st_size > MAX_ENTRY) {
    errno = EINVAL;
    return -1;
  }
  while ((len = getline (&line, &cap, fp)) > 0) {
    char **field = NULL;

    if (line[len - 1] == '\n')
      line[len - 1] = '\0';
    if (strncmp (line, "store ", 6) == 0)
      field = &entry->store;
    else if (strncmp (line, "control ", 8) == 0)
      field = &entry->control;
    else if (sock != NULL && strncmp (line, "listen ", 7) == 0
             && is_socket (line + 7, sock))
      listens = true;
    if (field != NULL && *field == NULL) {
      *field = strdup (strchr (line, ' ') + 1);
      if (*field == NULL)
        goto error;
    }
  }
  if (entry->store == NULL || entry->store[0] != '/') {
    errno = EINVAL;
    goto error;
  }
  if (sock != NULL && !listens) {
    errno = ENOENT;
    goto error;
  }
  /* The store may be out of our sight: then only root and we are trusted. */
  if (thing == NULL && stat (entry->store, &seen) == 0)
    thing = &seen;
  if (thing != NULL) {
    entry->trust.has_owner = true;
    entry->trust.owner = thing->st_uid;
  }
  if (!trust_uid (&entry->trust, st.st_uid)) {
    errno = EPERM;
    goto error;
  }
  return 0;

error:
  entry_free (entry);
  return -1;
}

int
registry_find (const char *path, struct entry *entry)
{
  char name[64], where[PATH_MAX];
  char *dirs[2];
  struct stat st;
  int err = ENOENT;

  if (stat (path, &st) == -1)
    return error_set (errno, "disk '%s': %m", path);
  if (S_ISBLK (st.st_mode))
    snprintf (name, sizeof name, "%lx-0.volume", (unsigned long)st.st_rdev);
  else
    snprintf (name, sizeof name, "%lx-%lx.volume", (unsigned long)st.st_dev,
              (unsigned long)st.st_ino);

  if (runtime_dirs (dirs) == -1)
    return -1;
  for (int i = 0; i < 2 && dirs[i] != NULL; i++) {
    CLEANUP_CLOSE int dir = open (dirs[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir == -1)
      continue;
    /* The caller named the store itself: its owner counts, not that of
     * whatever path the entry gives. */
    if (entry_read (dir, name, &st, NULL, entry) == 0) {
      free (dirs[0]);
      free (dirs[1]);
      if (entry->control == NULL) {
        error_set (ENXIO, "'%s' is open, but its owner has no control socket",
                   path);
        entry_free (entry);
        return -1;
      }
      return 0;
    }
    if (errno != ENOENT)
      err = errno;
  }
  free (dirs[0]);
  free (dirs[1]);
  errno = err;
  if (err != ENOENT)
    error_set (ENXIO, "no owner of '%s' found: %s in %s: %m", path, name,
               registry_dirs (where, sizeof where));
  else
    error_set (ENXIO, "no owner of '%s' found: there is no %s in %s", path,
               name, registry_dirs (where, sizeof where));
  return 1;
}

static int
append_entry (struct entry **entries, size_t *n, const struct entry *entry)
{
  struct entry *ptr = reallocarray (*entries, *n + 1, sizeof *ptr);

  if (ptr == NULL) {
    error_nomem ();
    return -1;
  }
  *entries = ptr;
  ptr[(*n)++] = *entry;
  return 0;
}

/* Entries that name a control socket: all, or those of who listens on sock. */
static int
list_entries (const struct stat *sock, struct entry **entries, size_t *n)
{
  char *dirs[2];
  int r = 0;

  *entries = NULL;
  *n = 0;
  if (runtime_dirs (dirs) == -1)
    return -1;
  for (int i = 0; r == 0 && i < 2 && dirs[i] != NULL; i++) {
    __attribute__ ((cleanup (cleanup_closedir))) DIR *dir = opendir (dirs[i]);
    const struct dirent *d;

    if (dir == NULL)
      continue;
    while (r == 0 && (d = readdir (dir)) != NULL) {
      size_t len = strlen (d->d_name);
      struct entry entry;

      if (len <= 7 || strcmp (d->d_name + len - 7, ".volume") != 0
          || entry_read (dirfd (dir), d->d_name, sock, sock, &entry) == -1)
        continue;
      if (entry.control == NULL)
        entry_free (&entry);
      else {
        r = append_entry (entries, n, &entry);
        if (r == -1)
          entry_free (&entry);
      }
    }
  }
  free (dirs[0]);
  free (dirs[1]);
  if (r == -1) {
    for (size_t i = 0; i < *n; i++)
      entry_free (&(*entries)[i]);
    free (*entries);
    *entries = NULL;
    *n = 0;
  }
  return r;
}

int
registry_list (struct entry **entries, size_t *n)
{
  return list_entries (NULL, entries, n);
}

int
registry_find_listener (const char *path, struct entry **entries, size_t *n)
{
  struct stat st;

  if (stat (path, &st) == -1) {
    int err = errno;

    return error_set (err == ENOENT ? ENXIO : err, "NBD socket '%s': %s", path,
                      strerror (err));
  }
  if (!S_ISSOCK (st.st_mode))
    return error_set (ENOTSOCK, "'%s' is not a socket", path);
  return list_entries (&st, entries, n);
}
