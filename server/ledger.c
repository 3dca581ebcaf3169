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

#include "array.h"
#include "cleanup.h"
#include "ledger.h"
#include "message.h"

#define FILE_NAME "jobs.json"
#define LOCK_NAME "lock"
#define LEDGER_VERSION 1

/* --- the list --------------------------------------------------------- */

static void
entry_free (struct ledger_entry *e)
{
  if (e)
    free (e->path);
  free (e);
}

static struct ledger_entry *
append (struct ledger *l, const char *path)
{
  struct ledger_entry *e;

  if (ARRAY_ROOM (l->entry, l->nr) == -1)
    return NULL;
  e = calloc (1, sizeof *e);
  if (!e || !(e->path = strdup (path))) {
    entry_free (e);
    return NULL;
  }
  l->entry[l->nr++] = e;
  return e;
}

/* The entries stay in the order of their age. */
static void
remove_at (struct ledger *l, size_t i)
{
  entry_free (l->entry[i]);
  memmove (&l->entry[i], &l->entry[i + 1],
           (l->nr - i - 1) * sizeof (struct ledger_entry *));
  l->nr--;
  l->version++;
}

static size_t
index_of (const struct ledger *l, const char *path)
{
  size_t i;

  for (i = 0; i < l->nr; i++)
    if (strcmp (l->entry[i]->path, path) == 0)
      break;
  return i;
}

struct ledger_entry *
ledger_find (const struct ledger *l, const char *path)
{
  size_t i = index_of (l, path);

  return i < l->nr ? l->entry[i] : NULL;
}

bool
ledger_has (const struct ledger *l, const char *path)
{
  const struct ledger_entry *e = ledger_find (l, path);

  return e && !e->ended;
}

/* Drop the user's oldest entry that has ended, and is not `but`.  False: there
 * is none. */
static bool
drop_ended (struct ledger *l, uid_t uid, const struct ledger_entry *but)
{
  for (size_t i = 0; i < l->nr; i++)
    if (l->entry[i]->ended && l->entry[i]->uid == uid && l->entry[i] != but) {
      remove_at (l, i);
      return true;
    }
  return false;
}

/* May the user have one more entry? */
static bool
has_room (const struct ledger *l, uid_t uid)
{
  unsigned his = 0, others = 0;

  if (uid == 0)
    return true;
  for (size_t i = 0; i < l->nr; i++)
    if (l->entry[i]->uid != 0) {
      others++;
      his += l->entry[i]->uid == uid;
    }
  return his < LEDGER_USER_MAX && others < LEDGER_OTHERS_MAX;
}

struct ledger_entry *
ledger_add (struct ledger *l, const char *path, uid_t uid)
{
  struct ledger_entry *e = ledger_find (l, path);

  if (e && !e->ended)
    return e;
  if (!e) {
    while (!has_room (l, uid))
      if (!drop_ended (l, uid, NULL)) {
        errno = EDQUOT;
        return NULL;
      }
    e = append (l, path);
    if (!e) {
      errno = ENOMEM;
      return NULL;
    }
    e->uid = uid;
  }
  e->ended = false;
  e->missing = 0;
  e->version = ++l->version;
  return e;
}

void
ledger_end (struct ledger *l, const char *path)
{
  size_t i = index_of (l, path);
  struct ledger_entry *e;
  unsigned nr = 0;

  if (i == l->nr)
    return;
  e = l->entry[i];
  if (e->ended)
    return;
  e->ended = true;
  e->version = ++l->version;
  /* The entry goes to the end: those that ended are in the order of that. */
  memmove (&l->entry[i], &l->entry[i + 1],
           (l->nr - i - 1) * sizeof (struct ledger_entry *));
  l->entry[l->nr - 1] = e;
  for (size_t k = 0; k < l->nr; k++)
    nr += l->entry[k]->ended && l->entry[k]->uid == e->uid;
  if (nr > LEDGER_ENDED_MAX)
    drop_ended (l, e->uid, e);
}

void
ledger_remove (struct ledger *l, const char *path)
{
  size_t i = index_of (l, path);

  if (i < l->nr)
    remove_at (l, i);
}

void
ledger_set_missing (struct ledger *l, struct ledger_entry *e, int64_t since)
{
  e->missing = since;
  l->version++;
}

void
ledger_set_speed (struct ledger *l, uint64_t speed, uint64_t option)
{
  if (l->has_speed && l->total_speed == speed && l->speed_option == option)
    return;
  l->has_speed = true;
  l->total_speed = speed;
  l->speed_option = option;
  l->speed_version = ++l->version;
}

/* --- the files -------------------------------------------------------- */

/* Lock the directory for as long as the process lives.  The lock file holds the
 * number of the process that has it. */
static int
lock_dir (struct ledger *l, char **error)
{
  struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
  CLEANUP_FREE char *file = NULL;
  char text[32] = "";
  int n;

  if (asprintf (&file, "%s/" LOCK_NAME, l->dir) == -1) {
    file = NULL;
    message_set (error, "out of memory");
    return -1;
  }
  l->lock_fd = open (
      file, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
  if (l->lock_fd == -1) {
    message_set (error, "cannot open %s: %m", file);
    return -1;
  }
  if (fcntl (l->lock_fd, F_OFD_SETLK, &fl) == -1) {
    if (errno != EAGAIN && errno != EACCES) {
      message_set (error, "cannot lock %s: %m", file);
      return -1;
    }
    if (pread (l->lock_fd, text, sizeof text - 1, 0) == -1)
      text[0] = '\0';
    text[strspn (text, "0123456789")] = '\0';
    message_set (
        error,
        "the state directory %s is being served by process %s: end that, "
        "or name another with --state-dir",
        l->dir, *text ? text : "of another host");
    return -1;
  }
  n = snprintf (text, sizeof text, "%ld\n", (long)getpid ());
  if (ftruncate (l->lock_fd, 0) == -1
      || pwrite (l->lock_fd, text, (size_t)n, 0) != n) {
    message_set (error, "cannot write %s: %m", file);
    return -1;
  }
  return 0;
}

static int
take_list (struct ledger *l, const json_t *list, bool ended)
{
  json_t *v;
  size_t i;

  json_array_foreach (list, i, v) {
    struct ledger_entry *e;

    if (!json_is_string (v) || ledger_find (l, json_string_value (v)))
      continue;
    e = append (l, json_string_value (v));
    if (!e)
      return -1;
    e->ended = ended;
  }
  return 0;
}

static void
take_numbers (struct ledger *l, json_t *users, json_t *missing)
{
  for (size_t i = 0; i < l->nr; i++) {
    struct ledger_entry *e = l->entry[i];

    e->uid = (uid_t)json_integer_value (json_object_get (users, e->path));
    e->missing = json_integer_value (json_object_get (missing, e->path));
  }
}

static int
read_file (struct ledger *l, char **error)
{
  CLEANUP_FREE char *file = NULL;
  json_auto_t *root = NULL;
  CLEANUP_CLOSE int fd = -1;
  json_t *list, *speed;
  json_error_t err;

  if (asprintf (&file, "%s/" FILE_NAME, l->dir) == -1) {
    file = NULL;
    goto nomem;
  }
  fd = open (file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd == -1 && errno == ENOENT)
    return 0;
  if (fd == -1) {
    message_set (error, "cannot read %s: %m", file);
    return -1;
  }
  root = json_loadfd (fd, JSON_REJECT_DUPLICATES, &err);
  if (!root) {
    message_set (error,
                 "%s: %s: mend it, or remove it to forget which jobs "
                 "were in progress (they stay in their volumes)",
                 file, err.text);
    return -1;
  }
  list = json_object_get (root, "volumes");
  if (json_integer_value (json_object_get (root, "version")) != LEDGER_VERSION
      || !json_is_array (list)) {
    message_set (error,
                 "%s is not of version %d: remove it, or use the "
                 "backfilld that wrote it",
                 file, LEDGER_VERSION);
    return -1;
  }
  if (take_list (l, list, false) == -1
      || take_list (l, json_object_get (root, "ended"), true) == -1)
    goto nomem;
  take_numbers (l, json_object_get (root, "users"),
                json_object_get (root, "missing"));
  speed = json_object_get (root, "total-speed");
  if (json_is_integer (speed) && json_integer_value (speed) >= 0) {
    l->has_speed = true;
    l->total_speed = (uint64_t)json_integer_value (speed);
    l->speed_option
        = (uint64_t)json_integer_value (json_object_get (root, "speed-option"));
  }
  return 0;

nomem:
  message_set (error, "out of memory");
  return -1;
}

struct ledger *
ledger_open (const char *dir, char **error)
{
  struct ledger *l = calloc (1, sizeof *l);

  if (!l || !(l->dir = strdup (dir))) {
    free (l);
    message_set (error, "out of memory");
    return NULL;
  }
  l->lock_fd = -1;
  if (lock_dir (l, error) == 0 && read_file (l, error) == 0)
    return l;
  ledger_free (l);
  return NULL;
}

void
ledger_free (struct ledger *l)
{
  if (!l)
    return;
  for (size_t i = 0; i < l->nr; i++)
    entry_free (l->entry[i]);
  free (l->entry);
  if (l->lock_fd >= 0)
    close (l->lock_fd);
  free (l->dir);
  free (l);
}

char *
ledger_text (const struct ledger *l)
{
  json_auto_t *root = json_object ();
  json_t *volumes = json_array (), *ended = json_array ();
  json_t *users = json_object (), *missing = json_object ();
  int r = 0;

  /* (Paths came as JSON, so they are UTF-8.) */
  for (size_t i = 0; i < l->nr; i++) {
    const struct ledger_entry *e = l->entry[i];

    r |= json_array_append_new (e->ended ? ended : volumes,
                                json_string (e->path));
    if (e->uid)
      r |= json_object_set_new (users, e->path, json_integer (e->uid));
    if (e->missing)
      r |= json_object_set_new (missing, e->path, json_integer (e->missing));
  }
  r |= json_object_set_new (root, "version", json_integer (LEDGER_VERSION));
  r |= json_object_set_new (root, "volumes", volumes);
  r |= json_object_set_new (root, "ended", ended);
  r |= json_object_set_new (root, "users", users);
  r |= json_object_set_new (root, "missing", missing);
  if (l->has_speed) {
    r |= json_object_set_new (root, "total-speed",
                              json_integer ((json_int_t)l->total_speed));
    r |= json_object_set_new (root, "speed-option",
                              json_integer ((json_int_t)l->speed_option));
  }
  return r == 0 ? json_dumps (root, JSON_INDENT (1)) : NULL;
}

int
ledger_write (const char *path, const char *text)
{
  CLEANUP_CLOSE int dir = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  CLEANUP_CLOSE int fd = -1;
  size_t len = strlen (text);
  ssize_t n;

  if (dir == -1)
    return -1;
  fd = openat (dir, FILE_NAME ".new",
               O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd == -1)
    return -1;
  for (; len > 0; text += n, len -= (size_t)n) {
    n = write (fd, text, len);
    if (n == -1 && errno == EINTR)
      n = 0;
    if (n == -1)
      return -1;
  }
  if (fsync (fd) == -1 || renameat (dir, FILE_NAME ".new", dir, FILE_NAME) == -1
      || fsync (dir) == -1)
    return -1;
  return 0;
}
