/* events.c - subscriptions to events.
 *
 * A subscription holds connections of its own, one for each server.  They begin
 * to keep events before the subscription is returned: what happens after that
 * is seen.  Of several servers some may go; the subscription ends with the
 * last. A subscription to all disks looks for new servers once a second. Events
 * of our own tell that a server was found or has gone.
 *
 * Locking: none; one thread at a time (backfill.h).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <sys/time.h>

#include "client.h"
#include "array.h"
#include "cleanup.h"

#define LOOK_INTERVAL 1000 /* ms */

struct backfill_events {
  struct backfill *h;
  struct conn **conns;
  size_t n;
  size_t turn; /* the connection that is looked at first, for fairness */
  char *name;  /* of the disk; NULL: all */
  /* Of all disks of all servers: */
  bool looks;
  int64_t look_at; /* when to look for new ones */
  char **mute;     /* processes that did not answer: not asked again */
  size_t nmute;
  json_t *news; /* events of our own to be given, oldest first */
};

/* Make an event of our own, about the server at a socket. */
static int
add_news (struct backfill_events *events, const char *name, const char *socket)
{
  struct timeval now;
  json_t *message;

  gettimeofday (&now, NULL);
  message = json_pack ("{s:s, s:{s:o}, s:{s:I, s:I}}", "event", name, "data",
                       "reason", wire_text (socket), "timestamp", "seconds",
                       (json_int_t)now.tv_sec, "microseconds",
                       (json_int_t)now.tv_usec);
  if (message != NULL && json_array_append_new (events->news, message) == 0)
    return 0;
  error_nomem ();
  return -1;
}

static int
add_mute (struct backfill_events *events, const char *process)
{
  char *copy = strdup (process);

  if (copy == NULL || ARRAY_ROOM (events->mute, events->nmute) == -1) {
    free (copy);
    error_nomem ();
    return -1;
  }
  events->mute[events->nmute++] = copy;
  return 0;
}

/* Take the connections of all servers that are not known yet. */
static int
take_servers (struct backfill_events *events, bool first, int64_t deadline)
{
  const struct known known = {
    .conns = events->conns,
    .nconns = events->n,
    .processes = events->mute,
    .nprocesses = events->nmute,
  };
  struct servers servers;
  int r = 0;

  if (servers_ask (events->h, true, NULL, &known, &servers, deadline) == -1)
    return !first && backfill_get_errno () == ENXIO ? 0 : -1;
  for (size_t i = 0; r == 0 && i < servers.len; i++) {
    struct server *s = &servers.ptr[i];

    if (ARRAY_ROOM (events->conns, events->n) == -1) {
      error_nomem ();
      r = -1;
    }
    else if (s->conn != NULL) {
      if (!first)
        r = add_news (events, "SERVER_FOUND", s->socket);
      events->conns[events->n++] = s->conn;
      s->conn = NULL;
    }
    else {
      r = add_news (events, "SERVER_UNANSWERED", s->socket);
      if (r == 0 && s->nr > 0)
        r = add_mute (events, s->entries[0].process);
    }
  }
  servers_release (events->h, &servers);
  if (r == 0 && events->n == 0 && first) {
    /* All that were found: then that is the error. */
    error_set (ETIMEDOUT, "no server of disks answers");
    r = -1;
  }
  return r;
}

struct backfill_events *
backfill_events_open (struct backfill *h, const char *disk)
{
  struct backfill_events *events = calloc (1, sizeof *events);
  int64_t deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL;

  if (events == NULL)
    return error_nomem ();
  events->h = h;
  events->news = json_array ();
  if (events->news == NULL) {
    error_nomem ();
    goto error;
  }
  if (disk == NULL) {
    events->looks = h->socket == NULL;
    events->look_at = time_now () + LOOK_INTERVAL;
    if (take_servers (events, true, deadline) == -1)
      goto error;
    return events;
  }

  if (ARRAY_ROOM (events->conns, events->n) == -1) {
    error_nomem ();
    goto error;
  }
  events->conns[0] = route_disk (h, disk, true, &device, deadline);
  if (events->conns[0] == NULL)
    goto error;
  events->n = 1;
  events->name = route_disk_name (events->conns[0], device, deadline);
  if (events->name == NULL)
    goto error;
  return events;

error:
  backfill_events_close (events);
  return NULL;
}

void
backfill_events_close (struct backfill_events *events)
{
  if (events == NULL)
    return;
  for (size_t i = 0; i < events->n; i++)
    conn_close (events->conns[i]);
  for (size_t i = 0; i < events->nmute; i++)
    free (events->mute[i]);
  free (events->mute);
  json_decref (events->news);
  free (events->conns);
  free (events->name);
  free (events);
}

/* 1: *event; 0: no event has come; -1: a message that makes no sense. */
static int
next_of (struct backfill_events *events, struct conn *conn,
         struct backfill_event **event)
{
  json_t *message;

  while ((message = conn_event (conn)) != NULL) {
    struct backfill_event *ev = reply_event (message);

    json_decref (message);
    if (ev == NULL)
      return -1;
    if (events->name == NULL
        || (ev->disk != NULL && strcmp (ev->disk, events->name) == 0)) {
      *event = ev;
      return 1;
    }
    backfill_free_event (ev);
  }
  return 0;
}

/* As next_of, for an event of our own. */
static int
next_news (struct backfill_events *events, struct backfill_event **event)
{
  if (json_array_size (events->news) == 0)
    return 0;
  *event = reply_event (json_array_get (events->news, 0));
  json_array_remove (events->news, 0);
  return *event == NULL ? -1 : 1;
}

/* Drop the connections that have ended, but for the last connection. */
static int
drop_ended (struct backfill_events *events)
{
  for (size_t i = 0; i < events->n;) {
    struct conn *conn = events->conns[i];

    if (!conn->broken || events->n == 1) {
      i++;
      continue;
    }
    if (add_news (events, "SERVER_LOST", conn->path) == -1)
      return -1;
    conn_close (conn);
    events->conns[i] = events->conns[--events->n];
  }
  return 0;
}

int
backfill_events_next (struct backfill_events *events, int timeout,
                      struct backfill_event **event)
{
  int64_t deadline = timeout < 0 ? DEADLINE_NEVER : time_now () + timeout;

  for (;;) {
    int64_t until = deadline;
    int r;

    for (size_t i = 0; i < events->n; i++) {
      size_t j = (events->turn + i) % events->n;

      r = next_of (events, events->conns[j], event);
      /* Nonsense from one server of several ends that server's connection. */
      if (r == -1 && events->n > 1)
        events->conns[j]->broken = true;
      else if (r != 0) {
        events->turn = j + 1;
        return r;
      }
    }
    if (drop_ended (events) == -1)
      return -1;
    r = next_news (events, event);
    if (r != 0)
      return r;
    if (events->conns[0]->broken)
      return error_set (ECONNRESET, "%s", backfill_get_error ());
    if (time_now () >= deadline)
      return 0;
    if (events->looks && time_now () >= events->look_at) {
      r = take_servers (events, false, handle_deadline (events->h));
      events->look_at = time_now () + LOOK_INTERVAL;
      if (r == -1)
        return -1;
      continue;
    }
    if (events->looks && events->look_at < until)
      until = events->look_at;
    conn_poll (events->conns, events->n, until);
  }
}
