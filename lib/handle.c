/* handle.c - the handle: its connections, and calls over them.
 *
 * A handle is either for one socket, or (made with NULL) finds the owner of
 * each disk anew on each call (route.c), so that the handle goes on working
 * when owners come and go.  Connections that are not in use are kept for the
 * next call and looked at before they are used again: a server that was
 * restarted in between is simply connected to anew.  No request is ever sent
 * twice.
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
  h->trust.whom = TRUST_ANYBODY; /* unless the socket is found, not named */
  lock_init (&h->lock, LOCK_CLIENT);
  SLIST_INIT (&h->idle);
  return h;
}

/* What "nbd:PATH" leads to: the control socket of the server of NBD at PATH.
 * Several entries with different control sockets are possible, of servers that
 * are dead (the inode was used again): the server that answers is meant. */
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
        r = -1; /* a server that hangs is not to be passed over */
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
  /* No file can have this name: a connection that is lost stays lost. */
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
  while (!SLIST_EMPTY (&h->idle)) {
    struct conn *conn = SLIST_FIRST (&h->idle);

    SLIST_REMOVE_HEAD (&h->idle, entry);
    conn_close (conn);
  }
  lock_destroy (&h->lock);
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
  struct conn *conn;
  LOCK_SCOPE (&h->lock);

  SLIST_FOREACH (conn, &h->idle, entry)
    if (strcmp (conn->path, socket) == 0)
      break;
  if (conn != NULL) {
    SLIST_REMOVE (&h->idle, conn, conn, entry);
    h->nidle--;
  }
  return conn;
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
  /* A connection that kept events holds old events. */
  if (!conn->broken && conn->events == NULL) {
    LOCK_SCOPE (&h->lock);
    if (h->nidle < MAX_IDLE) {
      SLIST_INSERT_HEAD (&h->idle, conn, entry);
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

json_t *
handle_call (struct backfill *h, const char *disk, const char *command,
             json_t *arguments)
{
  int64_t deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL;
  struct conn *conn = route_disk (h, disk, false, &device, deadline);
  json_t *reply;

  if (conn == NULL) {
    json_decref (arguments);
    return NULL;
  }
  reply = handle_execute (conn, device, command, arguments, deadline);
  handle_give (h, conn);
  return reply;
}
