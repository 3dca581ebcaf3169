/* registry.c - whose control socket serves a disk.
 *
 * Every process that has a volume open leaves an entry in a directory of its
 * own in a runtime directory (entry.h).  An entry is a hint: its process may be
 * dead, and every user may leave entries.  So an entry counts only if its
 * author may speak for the store (trust.h), and only a process of that author
 * is believed on the entry's socket.
 *
 * The runtime directories are those where servers put entries:
 * BACKFILL_RUNTIME_DIR alone if it is set, else /run/backfill and
 * $XDG_RUNTIME_DIR/backfill.
 *
 * Locking: none.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <limits.h>
#include <unistd.h>
#include <sys/stat.h>

#include "client.h"
#include "array.h"
#include "cleanup.h"

#define SYSTEM_DIR "/run/backfill"
#define DAEMON_SOCKET "backfilld.sock"

/* Up to two runtime directories, malloc'd; NULL where there is none. */
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

struct trust
entry_trust (const struct entry *e)
{
  return (struct trust){
    .whom = TRUST_AUTHOR,
    .uid = e->author,
    .process = e->process,
  };
}

void
entries_free (struct entries *list)
{
  for (size_t i = 0; i < list->len; i++)
    entry_free (&list->ptr[i]);
  free (list->ptr);
  *list = (struct entries){ 0 };
}

struct search {
  struct entries *list;
  const struct stat *store;     /* what entries must speak for; or NULL */
  const struct file_id *socket; /* what servers must listen on; or NULL */
  uid_t owner;                  /* the socket file's */
  bool unheard;                 /* an entry has no control socket */
};

static int
take_entry (void *opaque, struct entry *e)
{
  struct search *s = opaque;
  struct entries *list = s->list;

  if (s->store != NULL && !entry_speaks_for (e, s->store))
    return 0;
  /* The caller named the socket: its owner counts, not that of whatever store
   * the entry names. */
  if (s->socket != NULL
      && (!entry_listens (e, *s->socket)
          || !(trust_about (e->author, NULL) || e->author == s->owner)))
    return 0;
  if (e->control == NULL) {
    s->unheard = true;
    return 0;
  }
  if (ARRAY_ROOM (list->ptr, list->len) == -1)
    return -1;
  list->ptr[list->len++] = *e;
  *e = (struct entry){ 0 };
  return 0;
}

/* 0, or -1 when memory is out. */
static int
search (struct search *s, const struct file_id *file)
{
  char *dirs[2];
  int r = 0;

  *s->list = (struct entries){ 0 };
  if (runtime_dirs (dirs) == -1)
    return -1;
  for (int i = 0; r == 0 && i < 2 && dirs[i] != NULL; i++) {
    errno = 0;
    r = entries_scan (dirs[i], file, take_entry, s);
    if (r == -1 && errno != ENOMEM)
      r = 0; /* no such directory, or not for us */
  }
  free (dirs[0]);
  free (dirs[1]);
  if (r == -1) {
    entries_free (s->list);
    error_nomem ();
  }
  return r;
}

int
registry_find (const char *path, const struct stat *store,
               struct entries *entries)
{
  struct search s = { .list = entries, .store = store };
  struct file_id file = file_id (store);
  char where[PATH_MAX], id[FILE_ID_MAX];

  if (search (&s, &file) == -1)
    return -1;
  if (entries->len > 0)
    return 0;
  if (s.unheard)
    return error_set (ENXIO,
                      "'%s' is open, but its owner has no control "
                      "socket",
                      path);
  error_set (ENXIO,
             "no owner of '%s' found: there is no %s" ENTRY_SUFFIX
             " of one who may be believed in %s",
             path, file_id_text (file, id),
             registry_dirs (where, sizeof where));
  return 1;
}

int
registry_list (struct entries *entries)
{
  struct search s = { .list = entries };

  return search (&s, NULL);
}

int
registry_find_listener (const char *path, struct entries *entries)
{
  struct search s = { .list = entries };
  struct file_id file;
  struct stat st;

  *entries = (struct entries){ 0 };
  if (stat (path, &st) == -1) {
    int err = errno;

    return error_set (err == ENOENT ? ENXIO : err, "NBD socket '%s': %s", path,
                      strerror (err));
  }
  if (!S_ISSOCK (st.st_mode))
    return error_set (ENOTSOCK, "'%s' is not a socket", path);
  file = file_id (&st);
  s.socket = &file;
  s.owner = st.st_uid;
  return search (&s, NULL);
}
