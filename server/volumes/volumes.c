/* volumes.c - see volumes.h.
 *
 * What may hang (a path, an open, a close, a sync) is done on a thread of its
 * own (crew.h), without vs->lock.  A command that needs its result is run
 * again then (EINPROGRESS), and holds no thread meanwhile.  So a store, a
 * folder or a source that does not answer costs its own volume an error after
 * PATIENCE_MS, and other volumes nothing.
 *
 * A job that is started here puts its volume into the ledger.  The volume is
 * there as one in progress until it is closed without a job in progress, then
 * as one that has ended, until that is dismissed.
 *
 * Crash points of a hand-over: the lock of the volume alone decides who owns
 * it.  If the daemon dies before the gate, the next who opens the volume
 * recovers it; after the gate, the volume is clean.  In both cases the ledger
 * still names it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "clock.h"
#include "log.h"
#include "message.h"
#include "thread.h"
#include "volumes/away.h"
#include "volumes/close.h"
#include "volumes/commands.h"
#include "volumes/keeper.h"
#include "volumes/looks.h"
#include "volumes/table.h"
#include "volumes/volumes.h"
#include "volumes/writer.h"

#define STOP_MS 10000u /* for all volumes to be closed at the end */
#define CREW_MS 1000u  /* and for the crew's last tasks */

struct volumes *
volumes_new (const struct volumes_config *config, char **error)
{
  struct volumes *vs = calloc (1, sizeof *vs);

  if (!vs) {
    message_set (error, "out of memory");
    return NULL;
  }
  vs->config = *config;
  commands_init (vs);
  lock_init (&vs->lock, LOCK_VOLUMES);
  cond_init (&vs->changed);
  vs->runtime_dir = config->runtime_dir ? strdup (config->runtime_dir) : NULL;
  vs->control = strdup (config->control);
  vs->state_dir = strdup (config->state_dir);
  vs->crew = crew_new ();
  if (!vs->control || !vs->state_dir || !vs->crew
      || (config->runtime_dir && !vs->runtime_dir)) {
    message_set (error, "out of memory");
    goto fail;
  }
  vs->ledger = ledger_open (config->state_dir, error);
  if (!vs->ledger)
    goto fail;
  /* A daemon that is started with another --speed than before takes that. */
  if (vs->ledger->has_speed && vs->ledger->speed_option == config->speed)
    disk_set_total_speed (vs->ledger->total_speed);
  else {
    disk_set_total_speed (config->speed);
    vs->ledger->has_speed = false;
  }
  return vs;

fail:
  volumes_free (vs);
  return NULL;
}

const struct control_volumes *
volumes_commands (struct volumes *vs)
{
  return &vs->commands;
}

int
volumes_start (struct volumes *vs)
{
  return keeper_start (vs);
}

int
volumes_stop (struct volumes *vs)
{
  uint64_t end = now_ms () + STOP_MS;

  {
    LOCK_SCOPE (&vs->lock);
    vs->stop = true;
    vs->config.kick = NULL;
    pthread_cond_broadcast (&vs->changed);
  }
  keeper_stop (vs);

  {
    struct volume *v, *next;
    LOCK_SCOPE (&vs->lock);

    for (v = LIST_FIRST (&vs->open); v; v = next) {
      next = LIST_NEXT (v, next);
      if (v->state == VOLUME_FAILED)
        table_remove (vs, v);
      /* The control socket has ended: refs counts commands that hang, and the
       * one that would have come for what it made. */
      else if (v->state == VOLUME_OPEN || v->state == VOLUME_LEAVING) {
        if (v->made_by)
          v->refs--;
        v->made_by = 0;
        if (close_start (vs, v) == -1)
          log_error ("%s: cannot be closed: %m", v->path);
      }
    }
    while ((vs->nr_open > 0 || vs->writing) && table_wait (vs, end))
      ;
    LIST_FOREACH (v, &vs->open, next)
      if (v->state != VOLUME_FAILED) {
        log_error ("%s: does not end in time; left to be recovered", v->path);
        vs->result = -1;
      }
    if (vs->writing)
      vs->result = -1;
    else if (vs->durable < vs->ledger->version)
      writer_start (vs);
  }
  /* A task that hangs is left to the end of the process, with what it uses. */
  if (crew_free (vs->crew, CREW_MS))
    vs->crew = NULL;
  return vs->result;
}

void
volumes_free (struct volumes *vs)
{
  if (!vs || !crew_free (vs->crew, 0))
    return;
  {
    LOCK_SCOPE (&vs->lock);
    while (!LIST_EMPTY (&vs->away))
      away_forget (vs, LIST_FIRST (&vs->away)->path);
    while (!LIST_EMPTY (&vs->looks))
      look_free (LIST_FIRST (&vs->looks));
    while (!LIST_EMPTY (&vs->open))
      table_remove (vs, LIST_FIRST (&vs->open));
  }
  ledger_free (vs->ledger);
  lock_destroy (&vs->lock);
  pthread_cond_destroy (&vs->changed);
  free (vs->runtime_dir);
  free (vs->control);
  free (vs->state_dir);
  free (vs);
}
