/* event.c - the engine's events, on their way to the clients.
 *
 * The engine's thread makes its event into a line and puts the line in the
 * inbox; the loop queues it for each client.  So events and answers, which come
 * to the loop the same way, keep their order.  The engine's thread may hold the
 * engine's locks; it waits for nothing but control's lock.
 *
 * An event that cannot be kept is not left out in silence: all clients that
 * should have had the event are disconnected, and will look at the state
 * anew.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdlib.h>

#include "cleanup.h"
#include "control/internal.h"
#include "object.h"

static bool
anyone_listens (struct control *c)
{
  LOCK_SCOPE (&c->lock);

  return c->running && c->nr_negotiated > 0;
}

void
control_event (struct control *c, const struct disk_event *event)
{
  struct item *item;
  json_t *o;

  if (!anyone_listens (c))
    return;
  item = calloc (1, sizeof *item);
  /* The calling thread must not wait for a store. */
  if (item)
    item->owner = disk_store_owner_seen (event->disk);
  o = item ? object_event (event) : NULL;
  if (o)
    item->text = wire_line (o, &item->len);
  json_decref (o);
  if (item && item->text && inbox_put (c, item))
    return;
  if (item == NULL || item->text == NULL) {
    LOCK_SCOPE (&c->lock);
    c->overflow = true;
    if (c->running)
      ev_async_send (c->loop, &c->async);
  }
  else
    free (item->text);
  free (item);
}
