/* ledger.c - see ledger.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "cleanup.h"
#include "ledger.h"
#include "message.h"

#define FILE_NAME "jobs.json"
#define LEDGER_VERSION 1

static void
cleanup_decref (json_t **json)
{
  json_decref (*json);
}
#define CLEANUP_DECREF __attribute__ ((cleanup (cleanup_decref)))

static int
append (struct ledger *l, const char *path)
{
  char **ptr = reallocarray (l->path, l->nr + 1, sizeof *ptr);

  if (!ptr)
    return -1;
  l->path = ptr;
  ptr[l->nr] = strdup (path);
  if (!ptr[l->nr])
    return -1;
  l->nr++;
  return 0;
}

struct ledger *
ledger_open (const char *dir, char **error)
{
  struct ledger *l = calloc (1, sizeof *l);
  CLEANUP_FREE char *file = NULL;
  CLEANUP_DECREF json_t *root = NULL;
  CLEANUP_CLOSE int fd = -1;
  json_error_t err;
  json_t *list, *v;
  size_t i;

  if (!l || !(l->dir = strdup (dir))
      || asprintf (&file, "%s/" FILE_NAME, dir) == -1) {
    file = NULL;
    goto nomem;
  }
  fd = open (file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd == -1 && errno == ENOENT)
    return l;
  if (fd == -1) {
    message_set (error, "cannot read %s: %m", file);
    goto fail;
  }
  root = json_loadfd (fd, JSON_REJECT_DUPLICATES, &err);
  if (!root) {
    message_set (error,
                 "%s: %s: mend it, or remove it to forget which jobs "
                 "were in progress (they stay in their volumes)",
                 file, err.text);
    goto fail;
  }
  list = json_object_get (root, "volumes");
  if (json_integer_value (json_object_get (root, "version")) != LEDGER_VERSION
      || !json_is_array (list)) {
    message_set (error,
                 "%s is not of version %d: remove it, or use the "
                 "backfilld that wrote it",
                 file, LEDGER_VERSION);
    goto fail;
  }
  json_array_foreach (list, i, v)
    if (json_is_string (v) && append (l, json_string_value (v)) == -1)
      goto nomem;
  return l;

nomem:
  message_set (error, "out of memory");
fail:
  ledger_free (l);
  return NULL;
}

void
ledger_free (struct ledger *l)
{
  if (!l)
    return;
  for (size_t i = 0; i < l->nr; i++)
    free (l->path[i]);
  free (l->path);
  free (l->dir);
  free (l);
}

bool
ledger_has (const struct ledger *l, const char *path)
{
  for (size_t i = 0; i < l->nr; i++)
    if (strcmp (l->path[i], path) == 0)
      return true;
  return false;
}

static int
write_file (const struct ledger *l)
{
  CLEANUP_DECREF json_t *list = json_array ();
  CLEANUP_DECREF json_t *root = NULL;
  CLEANUP_CLOSE int dir = open (l->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  CLEANUP_CLOSE int fd = -1;

  if (dir == -1)
    return -1;
  for (size_t i = 0; i < l->nr; i++)
    if (json_array_append_new (list, json_string (l->path[i])) == -1)
      goto invalid;
  root = json_pack ("{s:i, s:O}", "version", LEDGER_VERSION, "volumes", list);
  if (!root)
    goto invalid;
  fd = openat (dir, FILE_NAME ".new",
               O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd == -1)
    return -1;
  errno = 0;
  if (json_dumpfd (root, fd, JSON_INDENT (1)) == -1) {
    if (errno == 0)
      errno = EIO;
    return -1;
  }
  if (fsync (fd) == -1 || renameat (dir, FILE_NAME ".new", dir, FILE_NAME) == -1
      || fsync (dir) == -1)
    return -1;
  return 0;

invalid:
  /* JSON holds no other text than UTF-8. */
  errno = list ? EILSEQ : ENOMEM;
  return -1;
}

int
ledger_add (struct ledger *l, const char *path)
{
  int err;

  if (ledger_has (l, path))
    return 0;
  if (append (l, path) == -1)
    return -1;
  if (write_file (l) == 0)
    return 0;
  err = errno;
  free (l->path[--l->nr]);
  errno = err;
  return -1;
}

int
ledger_remove (struct ledger *l, const char *path)
{
  char *removed = NULL;
  size_t i;
  int err;

  for (i = 0; i < l->nr; i++)
    if (strcmp (l->path[i], path) == 0)
      break;
  if (i == l->nr)
    return 0;
  removed = l->path[i];
  l->path[i] = l->path[--l->nr];
  if (write_file (l) == 0) {
    free (removed);
    return 0;
  }
  err = errno;
  l->path[l->nr++] = l->path[i];
  l->path[i] = removed;
  errno = err;
  return -1;
}
