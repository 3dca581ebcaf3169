/* open.c - see open.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cleanup.h"
#include "clock.h"
#include "log.h"
#include "message.h"
#include "path.h"
#include "volumes/access.h"
#include "volumes/away.h"
#include "volumes/close.h"
#include "volumes/open.h"
#include "volumes/table.h"

/* For a volume that is being closed to leave its place in the table. */
#define CLOSING_MS 3000u

static bool
has_sidecar (const char *path)
{
  CLEANUP_FREE char *sidecar = NULL;
  struct stat st;

  if (asprintf (&sidecar, "%s.backfill", path) == -1) {
    sidecar = NULL;
    return true; /* opening it will say what is wrong */
  }
  return path_stat (sidecar, &st) == 0 || errno != ENOENT;
}

/* On a crew thread, without vs->lock: the path and the source may hang. */
static struct disk *
open_disk (struct volume *v, char **error)
{
  struct volumes *vs = v->vs;
  struct disk_config config = v->more;
  struct disk *disk;
  struct stat st;
  int err;

  if (!v->fresh) {
    if (access_check_path (v->path, v->uid, error) == -1)
      return NULL;
    v->plain = !has_sidecar (v->path);
  }
  else if (path_stat (v->path, &st) == 0) {
    errno = EEXIST;
    message_set (error, "'%s' is there already", v->path);
    return NULL;
  }
  else if (errno != ENOENT) {
    message_set (error, "'%s' cannot be made: %m", v->path);
    return NULL;
  }
  config.store = v->path;
  config.backing = v->backing;
  config.store_is_name = true;
  /* The file at the path may have been replaced since its owner was checked:
   * the engine checks the owner of the file that it opens. */
  config.has_owner = v->uid != 0;
  config.owner = v->uid;
  config.no_command = !vs->config.commands;
  config.adopt = v->plain ? DISK_ADOPT_PLAIN : DISK_ADOPT_NONE;
  config.runtime_dir = vs->runtime_dir;
  config.control = vs->control;
  config.event = vs->config.event;
  config.event_opaque = vs->config.event_opaque;
  disk = disk_open (&config, error);
  if (!disk)
    return NULL;
  if (disk_start (disk, error) == 0)
    return disk;
  err = errno ? errno : EIO;
  disk_gate (disk);
  if (disk_is_idle (disk))
    disk_free (disk);
  errno = err;
  return NULL;
}

/* The keeper could not open the volume: it tries again later. */
static void
note_failed (struct volumes *vs, const struct volume *v)
{
  struct away *a = away_note (vs, v->path);

  ASSERT_HELD (&vs->lock);
  if (a) {
    a->free_since = 0;
    a->look_at = now_ms () + (v->err == EBUSY ? HELD_MS : FAILED_MS);
  }
  if (v->err != EBUSY)
    log_error ("%s: its job cannot go on: %s", v->path, v->error);
}

/* A task of the crew. */
static void
open_task (void *arg)
{
  struct volume *v = arg;
  struct volumes *vs = v->vs;
  char *error = NULL;
  struct disk *disk = open_disk (v, &error);
  int err = errno;
  LOCK_SCOPE (&vs->lock);

  if (!disk) {
    vs->nr_open--;
    table_set_state (v, VOLUME_FAILED);
    v->err = err;
    v->error = error;
    if (v->kept)
      note_failed (vs, v);
    table_changed (vs);
    return;
  }
  free (error);
  log_debug ("%s: opened", v->path);
  v->disk = disk;
  table_set_state (v, VOLUME_OPEN);
  v->idle_since = v->since;
  /* The command that makes the volume is counted until it has come for it. */
  v->refs = v->made_by ? 1 : 0;
  away_forget (vs, v->path);
  if (v->kept && has_job (disk))
    log_info ("%s: going on with its job", v->path);
  if (vs->stop) {
    v->refs = 0;
    if (close_start (vs, v) == -1)
      log_error ("%s: cannot be closed: %m", v->path);
  }
  table_changed (vs);
}

int
open_make_room (struct volumes *vs, uid_t uid, char **error)
{
  struct volume *v, *oldest = NULL;
  unsigned his = 0, others = 0, leaving = 0;
  uint64_t now = now_ms ();
  bool full;

  ASSERT_HELD (&vs->lock);
  LIST_FOREACH (v, &vs->open, next) {
    if (v->state == VOLUME_FAILED)
      continue;
    others += v->uid != 0;
    his += uid && v->uid == uid;
    if (uid && v->uid != uid)
      continue;
    /* A volume whose closing hangs keeps its place, and is not waited for. */
    leaving += v->state == VOLUME_CLOSING && now - v->since < CLOSING_MS;
    if (v->state == VOLUME_OPEN && v->refs == 0
        && (!oldest || v->idle_since < oldest->idle_since)
        && !has_job (v->disk))
      oldest = v;
  }
  full = vs->nr_open >= vs->config.max_open;
  if (!full
      && (!uid
          || (his < access_share_of_one (vs)
              && others < access_share_of_others (vs))))
    return 0;
  if (leaving == 0 && oldest) {
    if (close_start (vs, oldest) == -1) {
      message_set (error, "'%s' cannot be closed to make room: %m",
                   oldest->path);
      return -1;
    }
    leaving++;
  }
  if (leaving > 0)
    return table_later (vs);
  errno = EMFILE;
  if (full)
    message_set (error,
                 "%u volumes are open, which is the most: wait until a job "
                 "has ended, or raise --max-volumes",
                 vs->nr_open);
  else
    message_set (error,
                 "%u of your volumes are open, and you have used up your "
                 "share: wait until a job has ended, or have --max-volumes "
                 "raised",
                 his);
  return -1;
}

struct volume *
open_start (struct volumes *vs, const char *path, uid_t uid,
            const struct disk_config *more, bool fresh, char **error)
{
  struct volume *v = calloc (1, sizeof *v);

  ASSERT_HELD (&vs->lock);
  if (!v || !(v->path = strdup (path))
      || (more->backing && !(v->backing = strdup (more->backing)))) {
    if (v)
      table_free (v);
    errno = ENOMEM;
    message_set (error, "out of memory");
    return NULL;
  }
  v->vs = vs;
  v->uid = uid;
  v->more = *more;
  v->fresh = fresh;
  table_set_state (v, VOLUME_OPENING);
  if (crew_run (vs->crew, open_task, v) == -1) {
    message_set (error, "'%s' cannot be opened: %m", path);
    table_free (v);
    return NULL;
  }
  LIST_INSERT_HEAD (&vs->open, v, next);
  vs->nr_open++;
  return v;
}
