/* events.c - subscriptions to events.
 *
 * A subscription holds connections of its own, one for each server, that
 * began to keep events before it was returned: what happens after that is
 * seen.  Of several servers one may go; the subscription ends with the last.
 *
 * Locking: none; one thread at a time (backfill.h).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <errno.h>

#include "client.h"
#include "cleanup.h"

struct backfill_events {
  struct conn **conns;
  size_t n;
  size_t turn; /* the connection that is looked at first, for fairness */
  char *name;  /* of the disk; NULL: all */
};

struct backfill_events *
backfill_events_open (struct backfill *h, const char *disk)
{
  struct backfill_events *events = calloc (1, sizeof *events);
  int64_t deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL;
  struct owners owners;

  if (events == NULL)
    return error_nomem ();
  if (disk == NULL) {
    if (handle_owners (h, true, &owners, deadline) == -1)
      goto error;
    events->conns = calloc (owners.len, sizeof *events->conns);
    if (events->conns == NULL) {
      handle_release (h, &owners);
      error_nomem ();
      goto error;
    }
    for (size_t i = 0; i < owners.len; i++) {
      events->conns[events->n++] = owners.ptr[i].conn;
      owners.ptr[i].conn = NULL;
    }
    handle_release (h, &owners);
    return events;
  }

  events->conns = calloc (1, sizeof *events->conns);
  if (events->conns == NULL) {
    error_nomem ();
    goto error;
  }
  events->conns[0] = handle_route (h, disk, true, &device, deadline);
  if (events->conns[0] == NULL)
    goto error;
  events->n = 1;
  events->name = handle_disk_name (events->conns[0], device, deadline);
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
  free (events->conns);
  free (events->name);
  free (events);
}

/* 1: *event; 0: none has come; -1: a reply that makes no sense. */
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

int
backfill_events_next (struct backfill_events *events, int timeout,
                      struct backfill_event **event)
{
  int64_t deadline = timeout < 0 ? DEADLINE_NEVER : time_now () + timeout;

  for (;;) {
    for (size_t i = 0; i < events->n; i++) {
      size_t j = (events->turn + i) % events->n;
      int r = next_of (events, events->conns[j], event);

      if (r != 0) {
        events->turn = j + 1;
        return r;
      }
    }
    for (size_t i = 0; i < events->n;)
      if (events->conns[i]->broken && events->n > 1) {
        conn_close (events->conns[i]);
        events->conns[i] = events->conns[--events->n];
      }
      else
        i++;
    if (events->conns[0]->broken)
      return error_set (ECONNRESET, "%s", backfill_get_error ());
    if (time_now () >= deadline)
      return 0;
    conn_poll (events->conns, events->n, deadline);
  }
}
