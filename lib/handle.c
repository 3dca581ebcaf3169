/* handle.c - the handle: which server a disk is on, and calls to it.
 *
 * A handle is either for one socket, or (made with NULL) finds the owner of
 * each disk anew on each call, so that it goes on working when owners come
 * and go.  Connections that are not in use are kept for the next call and
 * looked at before they are used again: a server that was restarted in
 * between is simply connected to anew.  No request is ever sent twice.
 *
 * Locking: client.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ctype.h>
#include <errno.h>
#include <unistd.h>
#include <sys/stat.h>

#include "client.h"
#include "cleanup.h"

#define DEFAULT_TIMEOUT 60000u
#define MAX_IDLE 8u
/* ms for a server that is known to have the disk to say that it is there. */
#define GREETING_TIMEOUT 3000

#ifdef PACKAGE_VERSION
#define VERSION_TEXT PACKAGE_VERSION
#else
#define VERSION_TEXT "0.1.0"
#endif

const char *
backfill_version (void)
{
  return VERSION_TEXT;
}

static struct backfill *
handle_new (unsigned timeout)
{
  struct backfill *h = calloc (1, sizeof *h);

  if (h == NULL)
    return error_nomem ();
  h->timeout = timeout;
  h->trust.whom = TRUST_ANYBODY; /* unless it is found, not named */
  if (pthread_mutex_init (&h->lock, NULL) != 0) {
    free (h);
    return error_nomem ();
  }
  return h;
}

/* After handle_take failed: its process has ended. */
static bool
has_gone (void)
{
  int err = backfill_get_errno ();

  return err == ENOENT || err == ECONNREFUSED || err == ESRCH;
}

/* What "nbd:PATH" leads to: the control socket of who serves NBD at PATH.
 * Several entries with different ones are possible, of servers that are dead
 * (the inode was used again): the one that answers is meant. */
static int
find_nbd (struct backfill *h, const char *path)
{
  char where[2048], why[2048] = "";
  int64_t deadline = handle_deadline (h);
  struct entries list;
  int r = 0;

  if (registry_find_listener (path, &list) == -1)
    return -1;
  for (size_t i = 0; r == 0 && i < list.len; i++) {
    const struct entry *e = &list.ptr[i];
    const struct trust trust = entry_trust (e);
    struct conn *conn;

    if (h->socket != NULL && strcmp (h->socket, e->control) == 0)
      continue; /* another disk of that server */
    conn = handle_take (h, e->control, &trust, false, deadline);
    if (conn == NULL) {
      snprintf (why, sizeof why, ": %s", backfill_get_error ());
      if (backfill_get_errno () == ETIMEDOUT)
        r = -1; /* it is there, and hangs: not to be passed over */
    }
    else if (h->socket != NULL) {
      r = error_set (ENOTUNIQ,
                     "both '%s' and '%s' say that they serve NBD at '%s'",
                     h->socket, e->control, path);
      handle_give (h, conn);
    }
    else {
      h->socket = strdup (e->control);
      h->process = strdup (e->process);
      h->trust = trust;
      h->trust.process = h->process;
      handle_give (h, conn);
      if (h->socket == NULL || h->process == NULL) {
        error_nomem ();
        r = -1;
      }
    }
  }
  if (r == 0 && h->socket == NULL)
    r = error_set (ENXIO,
                   "no server of disks found in %s that serves NBD at '%s'%s",
                   registry_dirs (where, sizeof where), path, why);
  entries_free (&list);
  return r;
}

/* The path of a socket URI, or NULL. */
static const char *
uri_path (const char *uri)
{
  const char *p = uri;

  if (strncmp (uri, "unix:", 5) == 0)
    uri += 5;
  else {
    while (isalnum ((unsigned char)*p) || *p == '+' || *p == '-' || *p == '.')
      p++;
    if (p != uri && strncmp (p, "://", 3) == 0) {
      error_set (EINVAL,
                 "'%s': only unix:PATH, nbd:PATH, or a path, can be used", uri);
      return NULL;
    }
  }
  if (*uri == '\0') {
    error_set (EINVAL, "the path of the control socket is empty");
    return NULL;
  }
  return uri;
}

struct backfill *
backfill_connect (const char *uri)
{
  struct backfill *h = handle_new (DEFAULT_TIMEOUT);
  struct conn *conn;

  if (h == NULL || uri == NULL)
    return h;
  if (strncmp (uri, "nbd:", 4) == 0 && strncmp (uri, "nbd://", 6) != 0) {
    if (find_nbd (h, uri + 4) == -1)
      goto error;
    return h;
  }
  uri = uri_path (uri);
  if (uri == NULL)
    goto error;
  h->socket = strdup (uri);
  if (h->socket == NULL) {
    error_nomem ();
    goto error;
  }
  conn = handle_take (h, h->socket, &h->trust, false, handle_deadline (h));
  if (conn == NULL)
    goto error;
  handle_give (h, conn);
  return h;

error:
  backfill_close (h);
  return NULL;
}

struct backfill *
handle_adopt (int fd, unsigned timeout)
{
  struct backfill *h = handle_new (timeout);
  struct conn *conn;

  if (h == NULL) {
    close (fd);
    return NULL;
  }
  /* No file can have this name: what is lost stays lost. */
  h->socket = strdup ("/proc/self/no socket");
  if (h->socket == NULL) {
    close (fd);
    backfill_close (h);
    return error_nomem ();
  }
  conn = conn_adopt (fd, h->socket, &h->trust, false, handle_deadline (h));
  if (conn == NULL) {
    backfill_close (h);
    return NULL;
  }
  handle_give (h, conn);
  return h;
}

void
backfill_close (struct backfill *h)
{
  if (h == NULL)
    return;
  while (h->idle != NULL) {
    struct conn *conn = h->idle;

    h->idle = conn->next;
    conn_close (conn);
  }
  pthread_mutex_destroy (&h->lock);
  free (h->socket);
  free (h->process);
  free (h);
}

int
backfill_set_timeout (struct backfill *h, unsigned milliseconds)
{
  LOCK_SCOPE (&h->lock);
  h->timeout = milliseconds;
  return 0;
}

int64_t
handle_deadline (struct backfill *h)
{
  LOCK_SCOPE (&h->lock);
  return time_deadline (h->timeout);
}

static struct conn *
take_idle (struct backfill *h, const char *socket)
{
  LOCK_SCOPE (&h->lock);
  for (struct conn **p = &h->idle; *p != NULL; p = &(*p)->next)
    if (strcmp ((*p)->path, socket) == 0) {
      struct conn *conn = *p;

      *p = conn->next;
      conn->next = NULL;
      h->nidle--;
      return conn;
    }
  return NULL;
}

struct conn *
handle_take_idle (struct backfill *h, const char *socket)
{
  struct conn *conn;

  while ((conn = take_idle (h, socket)) != NULL && !conn_usable (conn))
    conn_close (conn);
  return conn;
}

struct conn *
handle_take (struct backfill *h, const char *socket, const struct trust *trust,
             bool events, int64_t deadline)
{
  struct conn *conn = NULL;

  if (!events)
    conn = handle_take_idle (h, socket);
  if (conn == NULL)
    return conn_open (socket, trust, events, deadline);
  if (conn_check (conn, trust) == -1) {
    conn_close (conn);
    conn = NULL;
  }
  return conn;
}

void
handle_give (struct backfill *h, struct conn *conn)
{
  if (conn == NULL)
    return;
  conn->has_file = false;
  /* One that kept events holds old ones. */
  if (!conn->broken && conn->events == NULL) {
    LOCK_SCOPE (&h->lock);
    if (h->nidle < MAX_IDLE) {
      conn->next = h->idle;
      h->idle = conn;
      h->nidle++;
      return;
    }
  }
  conn_close (conn);
}

json_t *
handle_execute (struct conn *conn, const char *device, const char *command,
                json_t *arguments, int64_t deadline)
{
  json_auto_t *args = arguments;

  if (device != NULL) {
    json_t *value = json_string (device);

    if (value == NULL) {
      error_set (EINVAL, "the disk's name or path is not UTF-8");
      return NULL;
    }
    if (args == NULL)
      args = json_object ();
    if (args == NULL || json_object_set_new (args, "device", value) == -1)
      return error_nomem ();
    /* A new volume is no file yet. */
    if (conn->has_file && json_object_get (args, "file") == NULL
        && strcmp (command, "disk-create") != 0) {
      char id[FILE_ID_MAX];

      if (json_object_set_new (args, "file",
                               json_string (file_id_text (conn->file, id)))
          == -1)
        return error_nomem ();
    }
  }
  return conn_execute (conn, command, args, deadline);
}

/* "'vda', 'vdb'": for messages about disks that could be meant.  only: of
 * that name, or NULL. */
static void
append_names (char *buf, size_t size, const json_t *disks, const char *only,
              const char *socket)
{
  for (size_t i = 0; i < json_array_size (disks); i++) {
    const char *name = json_string_value (
        json_object_get (json_array_get (disks, i), "name"));
    size_t len = strlen (buf);

    if (name != NULL && (only == NULL || strcmp (name, only) == 0))
      snprintf (buf + len, size - len, "%s'%s'%s%s", len > 0 ? ", " : "", name,
                socket != NULL ? " on " : "", socket != NULL ? socket : "");
  }
}

static bool
is_path (const char *disk)
{
  return strchr (disk, '/') != NULL;
}

/* A word without '/' that is no disk's name may be a file here. */
static bool
is_file (const char *disk)
{
  return disk[0] != '\0' && access (disk, F_OK) == 0;
}

/* The path with its folder resolved; what it names need not be there. */
static char *
resolved_path (const char *path)
{
  const char *slash = strrchr (path, '/');
  CLEANUP_FREE char *folder = slash == NULL ? strdup (".")
                              : slash == path
                                  ? strdup ("/")
                                  : strndup (path, (size_t)(slash - path));
  CLEANUP_FREE char *real = NULL;
  char *s;

  s = realpath (path, NULL);
  if (s != NULL || folder == NULL)
    return s;
  real = realpath (folder, NULL);
  if (real == NULL
      || asprintf (&s, "%s/%s", strcmp (real, "/") == 0 ? "" : real,
                   slash != NULL ? slash + 1 : path)
             == -1)
    return NULL;
  return s;
}

/* What a server is told for a path: it has another current folder. */
static char *
absolute_path (const char *path)
{
  char *s = resolved_path (path);

  if (s == NULL && errno != ENOMEM)
    s = strdup (path); /* it will say that there is no such disk */
  if (s == NULL)
    error_nomem ();
  return s;
}

/* 1: it has a disk of that name; 0: it has not; -1: error. */
static int
has_disk (struct conn *conn, const char *name, int64_t deadline)
{
  json_t *disks = handle_execute (conn, name, "query-disks", NULL, deadline);

  if (disks == NULL)
    return conn->no_such_disk ? 0 : -1;
  json_decref (disks);
  return 1;
}

static void
set_file (struct conn *conn, const struct stat *st)
{
  conn->has_file = true;
  conn->file = file_id (st);
}

bool
handle_is_path (const char *disk)
{
  return is_path (disk);
}

/* The first backfilld that answers and may be believed; ENXIO: there is none.
 */
static struct conn *
take_daemon (struct backfill *h, const struct trust *trust, bool events,
             int64_t deadline)
{
  int64_t greeting = time_now () + GREETING_TIMEOUT;
  char *socket, why[512] = "";

  for (unsigned i = 0; (socket = registry_daemon (i)) != NULL; i++) {
    struct conn *conn = handle_take (h, socket, trust, events,
                                     greeting < deadline ? greeting : deadline);

    free (socket);
    if (conn != NULL)
      return conn;
    if (has_gone ())
      continue;
    /* Anybody may sit on its name. */
    if (backfill_get_errno () == EPERM)
      snprintf (why, sizeof why, ": %s", backfill_get_error ());
    else
      return NULL; /* it is there and does not answer: that is the matter */
  }
  error_set (ENXIO, "backfilld is not running%s", why);
  return NULL;
}

struct conn *
handle_daemon (struct backfill *h, const char *path, bool events, char **device,
               int64_t deadline)
{
  CLEANUP_FREE char *real = resolved_path (path);
  struct trust trust = { 0 };
  struct conn *conn = NULL;
  bool there = false;
  struct stat st;

  if (real == NULL) {
    error_set (errno, "disk '%s': %m", path);
    return NULL;
  }
  if (stat (real, &st) == 0) {
    trust.whom = TRUST_OWNER;
    trust.uid = st.st_uid;
    there = true;
  }
  conn = take_daemon (h, &trust, events, deadline);
  if (conn == NULL)
    return NULL;
  if (there)
    set_file (conn, &st);
  *device = real;
  real = NULL;
  return conn;
}

static struct conn *
route_path (struct backfill *h, const char *path, bool events, char **device,
            int64_t deadline)
{
  int64_t greeting = time_now () + GREETING_TIMEOUT;
  struct conn *conn = NULL;
  struct entries list;
  struct stat st;
  char why[1024];
  int r;

  if (stat (path, &st) == -1) {
    error_set (errno, "disk '%s': %m", path);
    return NULL;
  }
  r = registry_find (path, &st, &list);
  if (r == -1)
    return NULL;
  for (size_t i = 0; r == 0 && conn == NULL && i < list.len; i++) {
    struct entry *e = &list.ptr[i];
    const struct trust trust = entry_trust (e);

    conn = handle_take (h, e->control, &trust, events,
                        greeting < deadline ? greeting : deadline);
    if (conn != NULL) {
      set_file (conn, &st);
      *device = e->store;
      e->store = NULL;
    }
    else if (has_gone ())
      error_set (ENXIO,
                 "no owner of '%s' found: the one that had it open at '%s' "
                 "has gone",
                 path, e->control);
    else
      r = -1;
  }
  entries_free (&list);
  if (conn != NULL || r == -1)
    return conn;
  /* Nobody has it open: backfilld opens it when asked. */
  snprintf (why, sizeof why, "%s", backfill_get_error ());
  conn = handle_daemon (h, path, events, device, deadline);
  if (conn == NULL && backfill_get_errno () == ENXIO)
    error_set (ENXIO, "%s; nor is there a backfilld to open it", why);
  return conn;
}

/* A server's answer has a disk of that name; of one that did not answer, its
 * entries have. */
static bool
server_has (const struct server *s, const char *name)
{
  if (name == NULL)
    return true;
  for (size_t i = 0; s->conn == NULL && i < s->nr; i++)
    if (strcmp (s->entries[i].name, name) == 0)
      return true;
  for (size_t i = 0; i < json_array_size (s->reply); i++) {
    const char *has = json_string_value (
        json_object_get (json_array_get (s->reply, i), "name"));

    if (has != NULL && strcmp (has, name) == 0)
      return true;
  }
  return false;
}

/* One was found that did not answer. */
static void
set_unanswered (const struct server *s, const char *name)
{
  const char *why = s->why != NULL ? s->why : "it does not answer";

  if (name != NULL)
    error_set (s->err, "disk '%s': %s", name, why);
  else
    error_set (s->err, "%s", why);
}

/* "; WHY" of all that did not answer. */
static void
append_unanswered (char *buf, size_t size, const struct servers *servers)
{
  for (size_t i = 0; i < servers->len; i++) {
    size_t len = strlen (buf);

    if (servers->ptr[i].conn == NULL && servers->ptr[i].why != NULL)
      snprintf (buf + len, size - len, "; %s", servers->ptr[i].why);
  }
}

/* Find the server that has a disk of that name, or the only server. */
static struct conn *
route_name (struct backfill *h, const char *name, bool events, char **device,
            int64_t deadline)
{
  char names[2048] = "";
  struct servers servers;
  struct conn *conn = NULL;
  struct server *which = NULL;
  size_t found = 0;

  if (servers_ask (h, events, "query-disks", NULL, &servers, deadline) == -1) {
    const struct trust us = { .whom = TRUST_US };
    char why[2048];

    if (backfill_get_errno () != ENXIO || h->socket != NULL)
      return NULL;
    if (name != NULL)
      return is_file (name) ? route_path (h, name, events, device, deadline)
                            : NULL;
    /* A backfilld that has no volume open is not in the registry. */
    snprintf (why, sizeof why, "%s", backfill_get_error ());
    conn = take_daemon (h, &us, events, deadline);
    if (conn == NULL && backfill_get_errno () == ENXIO)
      error_set (ENXIO, "%s", why);
    return conn;
  }
  for (size_t i = 0; i < servers.len; i++) {
    struct server *s = &servers.ptr[i];

    /* The only one without that name gives the better error: it lists its
     * own. */
    if (!server_has (s, name)
        && (servers.len > 1 || s->conn == NULL || is_file (name)))
      continue;
    if (s->conn != NULL)
      append_names (names, sizeof names, s->reply, name, s->socket);
    else {
      size_t len = strlen (names);

      snprintf (names + len, sizeof names - len, "%s%s", len > 0 ? ", " : "",
                s->why != NULL ? s->why : s->socket);
    }
    which = s;
    found++;
  }
  if (found == 1 && which->conn == NULL)
    set_unanswered (which, name);
  else if (found == 1) {
    conn = which->conn;
    which->conn = NULL;
    if (name != NULL) {
      *device = strdup (name);
      if (*device == NULL) {
        handle_give (h, conn);
        conn = error_nomem ();
      }
    }
  }
  else if (found > 1 && name == NULL)
    error_set (ENOTUNIQ, "name the disk: there are %s", names);
  else if (found > 1)
    error_set (ENOTUNIQ,
               "several disks are named '%s': %s: give the path of the one's "
               "store, or its control socket",
               name, names);
  else if (is_file (name)) {
    servers_release (h, &servers);
    return route_path (h, name, events, device, deadline);
  }
  else {
    for (size_t i = 0; i < servers.len; i++)
      append_names (names, sizeof names, servers.ptr[i].reply, NULL, NULL);
    append_unanswered (names, sizeof names, &servers);
    error_set (ENOENT, "no disk is named '%s': there are %s", name, names);
  }
  servers_release (h, &servers);
  return conn;
}

struct conn *
handle_route (struct backfill *h, const char *disk, bool events, char **device,
              int64_t deadline)
{
  struct conn *conn;
  struct stat st;

  *device = NULL;
  if (h->socket == NULL) {
    if (disk != NULL && is_path (disk))
      return route_path (h, disk, events, device, deadline);
    return route_name (h, disk, events, device, deadline);
  }

  conn = handle_take (h, h->socket, &h->trust, events, deadline);
  if (conn == NULL || disk == NULL)
    return conn;
  if (is_path (disk)
      || (is_file (disk) && has_disk (conn, disk, deadline) == 0)) {
    *device = absolute_path (disk);
    if (stat (disk, &st) == 0)
      set_file (conn, &st);
  }
  else {
    *device = strdup (disk);
    if (*device == NULL)
      error_nomem ();
  }
  if (*device == NULL || conn->broken) {
    free (*device);
    *device = NULL;
    handle_give (h, conn);
    return NULL;
  }
  return conn;
}

json_t *
handle_call (struct backfill *h, const char *disk, const char *command,
             json_t *arguments)
{
  int64_t deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL;
  struct conn *conn = handle_route (h, disk, false, &device, deadline);
  json_t *reply;

  if (conn == NULL) {
    json_decref (arguments);
    return NULL;
  }
  reply = handle_execute (conn, device, command, arguments, deadline);
  handle_give (h, conn);
  return reply;
}

char *
handle_disk_name (struct conn *conn, const char *device, int64_t deadline)
{
  json_auto_t *disks
      = handle_execute (conn, device, "query-disks", NULL, deadline);
  const char *name;
  char *s;

  if (disks == NULL)
    return NULL;
  if (json_array_size (disks) > 1) {
    char names[2048] = "";

    append_names (names, sizeof names, disks, NULL, NULL);
    error_set (ENOTUNIQ, "name the disk: there are %s", names);
    return NULL;
  }
  name
      = json_string_value (json_object_get (json_array_get (disks, 0), "name"));
  if (name == NULL) {
    error_set (EPROTO,
               "the server at '%s' did not say what its disk's name "
               "is",
               conn->path);
    return NULL;
  }
  s = strdup (name);
  return s != NULL ? s : error_nomem ();
}
