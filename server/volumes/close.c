/* close.c - see close.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>

#include "cleanup.h"
#include "clock.h"
#include "log.h"
#include "volumes/away.h"
#include "volumes/close.h"
#include "volumes/table.h"
#include "volumes/writer.h"

/* Have the ledger say what became of the job of a volume that was closed. */
static void
note_closed (struct volumes *vs, const struct volume *v, enum job_status job)
{
  ASSERT_HELD (&vs->lock);
  if (job == JOB_NONE)
    ledger_remove (vs->ledger, v->path);
  else if (job == JOB_CONCLUDED)
    ledger_end (vs->ledger, v->path);
  writer_start (vs);
}

/* A task of the crew. */
static void
close_task (void *arg)
{
  struct volume *v = arg;
  struct volumes *vs = v->vs;
  CLEANUP_FREE char *error = NULL;
  enum job_status job;
  struct away *a;
  int r;

  if (v->plain && job_get_status (v->disk) == JOB_NONE
      && disk_detach (v->disk, &error) == -1)
    log_debug ("%s: its sidecar stays: %s", v->path, error);
  r = disk_gate (v->disk);
  if (r == -1)
    log_error ("%s: not everything could be made durable: %m", v->path);
  job = job_get_status (v->disk);
  LOCK_SCOPE (&vs->lock);
  if (r == -1)
    vs->result = -1;
  else
    note_closed (vs, v, job);
  /* A command still uses the disk: only volumes_stop closes a volume then.
   * The disk is left to the end of the process. */
  if (v->refs > 0) {
    log_error ("%s: a command on it does not end", v->path);
    vs->result = -1;
    vs->nr_open--;
    v->state = VOLUME_FAILED;
    table_changed (vs);
    return;
  }
  {
    UNLOCK_SCOPE (&vs->lock);
    /* A disk whose store does not answer is left to it, too, with its lock. */
    if (disk_is_idle (v->disk))
      disk_free (v->disk);
    log_debug ("%s: closed", v->path);
  }
  a = away_find (vs, v->path);
  if (a && a->until == AWAY_CLOSING) {
    a->free_since = now_ms ();
    a->until = a->free_since + vs->config.grace;
  }
  table_remove (vs, v);
}

int
close_start (struct volumes *vs, struct volume *v)
{
  ASSERT_HELD (&vs->lock);
  if (crew_run (vs->crew, close_task, v) == -1)
    return -1;
  /* (The task takes vs->lock before it looks at the state.) */
  table_set_state (v, VOLUME_CLOSING);
  return 0;
}

void
close_put (struct volumes *vs, struct volume *v)
{
  ASSERT_HELD (&vs->lock);
  v->refs--;
  /* (If there is no thread for it, the keeper tries again.) */
  if (v->state == VOLUME_LEAVING && v->refs == 0)
    close_start (vs, v);
  /* A command that waits for anything but a place among the MAX_COMMANDS is
   * not run again for this: two commands that wait, and hold a volume for a
   * moment each time they are run, would wake each other for ever. */
  else if (v->refs == MAX_COMMANDS - 1)
    table_changed (vs);
}
