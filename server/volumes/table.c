/* table.c - see table.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "message.h"
#include "volumes/table.h"

bool
table_wait (struct volumes *vs, uint64_t ms)
{
  ASSERT_HELD (&vs->lock);
  return lock_wait_ms (&vs->changed, &vs->lock, ms);
}

void
table_changed (struct volumes *vs)
{
  ASSERT_HELD (&vs->lock);
  pthread_cond_broadcast (&vs->changed);
  if (!vs->waiting)
    return;
  vs->waiting = false;
  if (vs->config.kick)
    vs->config.kick (vs->config.kick_opaque);
}

int
table_later (struct volumes *vs)
{
  ASSERT_HELD (&vs->lock);
  vs->waiting = true;
  errno = EINPROGRESS;
  return -1;
}

int
table_check_stop (const struct volumes *vs, char **error)
{
  ASSERT_HELD (&vs->lock);
  if (!vs->stop)
    return 0;
  message_set (error, "backfilld is ending");
  errno = ESHUTDOWN;
  return -1;
}

int
table_no_answer (const char *path, const char *what, char **error)
{
  message_set (error,
               "'%s' %s, and its store or folder does not answer: try again "
               "when it does",
               path, what);
  errno = ETIMEDOUT;
  return -1;
}

struct volume *
table_find (struct volumes *vs, const char *path)
{
  struct volume *v;

  ASSERT_HELD (&vs->lock);
  LIST_FOREACH (v, &vs->open, next)
    if (strcmp (v->path, path) == 0)
      break;
  return v;
}

struct volume *
table_of_disk (struct volumes *vs, const struct disk *disk)
{
  struct volume *v;

  ASSERT_HELD (&vs->lock);
  LIST_FOREACH (v, &vs->open, next)
    if (v->disk == disk)
      break;
  return v;
}

void
table_set_state (struct volume *v, enum volume_state state)
{
  v->state = state;
  v->since = now_ms ();
}

void
table_free (struct volume *v)
{
  free (v->path);
  free (v->backing);
  free (v->error);
  free (v);
}

void
table_remove (struct volumes *vs, struct volume *v)
{
  ASSERT_HELD (&vs->lock);
  LIST_REMOVE (v, next);
  if (v->state != VOLUME_FAILED)
    vs->nr_open--;
  table_free (v);
  table_changed (vs);
}
