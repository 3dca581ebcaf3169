/* route.c - which server a disk is on.
 *
 * A disk that is named by a path is served by who has its store open, as the
 * registry tells, else by backfilld.  A name is looked for in the answers of
 * all servers.
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
#include <unistd.h>
#include <sys/stat.h>

#include "client.h"
#include "cleanup.h"

/* ms for a server that is known to have the disk to say that it is there. */
#define GREETING_TIMEOUT 3000

/* handle_take has failed: because the server's process has ended? */
static bool
has_gone (void)
{
  int err = backfill_get_errno ();

  return err == ENOENT || err == ECONNREFUSED || err == ESRCH;
}

/* Append "'vda', 'vdb'", for messages about disks that could be meant.  only:
 * disks of that name alone, or NULL. */
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

bool
route_is_path (const char *disk)
{
  return strchr (disk, '/') != NULL;
}

/* A word without '/' that is no disk's name may be a file here. */
static bool
is_file (const char *disk)
{
  return disk[0] != '\0' && access (disk, F_OK) == 0;
}

/* The path with its folder resolved; the file itself need not be there. */
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

/* What a server is told for a path, as the server has another current folder.
 */
static char *
absolute_path (const char *path)
{
  char *s = resolved_path (path);

  if (s == NULL && errno != ENOMEM)
    s = strdup (path); /* the server will say that there is no such disk */
  if (s == NULL)
    error_nomem ();
  return s;
}

/* 1: the server has a disk of that name; 0: it has not; -1: error. */
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
    /* Any user may sit on the name of backfilld's socket. */
    if (backfill_get_errno () == EPERM)
      snprintf (why, sizeof why, ": %s", backfill_get_error ());
    else
      return NULL; /* backfilld is there and does not answer */
  }
  error_set (ENXIO, "backfilld is not running%s", why);
  return NULL;
}

struct conn *
route_daemon (struct backfill *h, const char *path, bool events, char **device,
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
  /* No process has the volume open: backfilld opens it when asked. */
  snprintf (why, sizeof why, "%s", backfill_get_error ());
  conn = route_daemon (h, path, events, device, deadline);
  if (conn == NULL && backfill_get_errno () == ENXIO)
    error_set (ENXIO, "%s; nor is there a backfilld to open it", why);
  return conn;
}

/* A server's answer has a disk of that name; for a server that did not answer,
 * its entries count. */
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

/* The error for a server that was found and did not answer. */
static void
set_unanswered (const struct server *s, const char *name)
{
  const char *why = s->why != NULL ? s->why : "it does not answer";

  if (name != NULL)
    error_set (s->err, "disk '%s': %s", name, why);
  else
    error_set (s->err, "%s", why);
}

/* Append "; WHY" of all servers that did not answer. */
static void
append_unanswered (char *buf, size_t size, const struct servers *servers)
{
  for (size_t i = 0; i < servers->len; i++) {
    size_t len = strlen (buf);

    if (servers->ptr[i].conn == NULL && servers->ptr[i].why != NULL)
      snprintf (buf + len, size - len, "; %s", servers->ptr[i].why);
  }
}

/* No server answers to a name, or without a name at all. */
static struct conn *
route_unserved (struct backfill *h, const char *name, bool events,
                char **device, int64_t deadline)
{
  const struct trust us = { .whom = TRUST_US };
  struct conn *conn;
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

/* How many servers have a disk of that name: the last of them, and in names
 * what each calls its own. */
static size_t
find_name (const struct servers *servers, const char *name,
           struct server **which, char *names, size_t size)
{
  size_t found = 0;

  for (size_t i = 0; i < servers->len; i++) {
    struct server *s = &servers->ptr[i];

    /* The only server without that name gives the better error: it lists its
     * own. */
    if (!server_has (s, name)
        && (servers->len > 1 || s->conn == NULL || is_file (name)))
      continue;
    if (s->conn != NULL)
      append_names (names, size, s->reply, name, s->socket);
    else {
      size_t len = strlen (names);

      snprintf (names + len, size - len, "%s%s", len > 0 ? ", " : "",
                s->why != NULL ? s->why : s->socket);
    }
    *which = s;
    found++;
  }
  return found;
}

/* The connection to the only server that was found. */
static struct conn *
take_found (struct backfill *h, struct server *s, const char *name,
            char **device)
{
  struct conn *conn = s->conn;

  if (conn == NULL) {
    set_unanswered (s, name);
    return NULL;
  }
  s->conn = NULL;
  if (name == NULL)
    return conn;
  *device = strdup (name);
  if (*device != NULL)
    return conn;
  handle_give (h, conn);
  return error_nomem ();
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
  size_t found;

  if (servers_ask (h, events, "query-disks", NULL, &servers, deadline) == -1)
    return route_unserved (h, name, events, device, deadline);
  found = find_name (&servers, name, &which, names, sizeof names);
  if (found == 1)
    conn = take_found (h, which, name, device);
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
route_disk (struct backfill *h, const char *disk, bool events, char **device,
            int64_t deadline)
{
  struct conn *conn;
  struct stat st;

  *device = NULL;
  if (h->socket == NULL) {
    if (disk != NULL && route_is_path (disk))
      return route_path (h, disk, events, device, deadline);
    return route_name (h, disk, events, device, deadline);
  }

  conn = handle_take (h, h->socket, &h->trust, events, deadline);
  if (conn == NULL || disk == NULL)
    return conn;
  if (route_is_path (disk)
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

char *
route_disk_name (struct conn *conn, const char *device, int64_t deadline)
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
