/* commands.c - see commands.h.
 *
 * A command that needs what is on its way returns EINPROGRESS, and is run
 * again from its beginning (control.h): so each looks at the table anew.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>

#include "cleanup.h"
#include "clock.h"
#include "log.h"
#include "message.h"
#include "volumes/access.h"
#include "volumes/away.h"
#include "volumes/close.h"
#include "volumes/commands.h"
#include "volumes/get.h"
#include "volumes/list.h"
#include "volumes/looks.h"
#include "volumes/open.h"
#include "volumes/survey.h"
#include "volumes/table.h"
#include "volumes/writer.h"

static struct disk *
command_get (void *opaque, const struct control_peer *peer, const char *path,
             const struct file_id *file, enum control_use use, char **error)
{
  struct volumes *vs = opaque;
  struct volume *v;
  LOCK_SCOPE (&vs->lock);

  v = get_volume (vs, peer, path, file, error);
  if (!v)
    return NULL;
  /* A job that was found in the volume is looked after from now on. */
  if ((use == CONTROL_JOB || has_job (v->disk))
      && writer_enter (vs, peer, path, error) == -1
      && (use == CONTROL_JOB || errno != EDQUOT))
    return NULL;
  v->refs++;
  return v->disk;
}

static void
command_put (void *opaque, struct disk *disk)
{
  struct volumes *vs = opaque;
  LOCK_SCOPE (&vs->lock);
  struct volume *v = table_of_disk (vs, disk);

  if (v)
    close_put (vs, v);
}

static int
command_peek (void *opaque, const struct control_peer *peer, const char *path,
              const struct file_id *file, struct disk_peek *peek, char **error)
{
  struct volumes *vs = opaque;
  struct look *l;
  LOCK_SCOPE (&vs->lock);

  if (table_check_stop (vs, error) == -1
      || access_check_name (path, error) == -1)
    return -1;
  /* An open volume is asked itself; a question opens none. */
  if (table_find (vs, path))
    return 0;
  if (look_for (vs, peer, path, true, &l, error) == -1)
    return -1;
  if (l->err == EPERM)
    return look_fail (l, error);
  if (l->err || l->peek.in_use || !(l->peek.has_sidecar || l->peek.is_plain))
    return 0; /* opening it says what is wrong */
  if (access_check_file (path, file, l->peek.file, error) == -1)
    return -1;
  if (look_copy (peek, &l->peek) == 0)
    return 1;
  message_set (error, "out of memory");
  return -1;
}

static int
command_create (void *opaque, const struct control_peer *peer,
                const struct disk_config *config, char **error)
{
  struct volumes *vs = opaque;
  struct volume *v;

  if (!access_is_ours (peer)) {
    errno = EPERM;
    message_set (error, "only root and backfilld's own user make volumes");
    return -1;
  }
  if (!access_is_canonical (config->store)) {
    errno = EINVAL;
    message_set (error, "'%s' is no path of a store: give an absolute one",
                 config->store);
    return -1;
  }
  LOCK_SCOPE (&vs->lock);
  if (table_check_stop (vs, error) == -1)
    return -1;
  v = get_entry (vs, peer, config->store);
  if (v && v->made_by == peer->serial) {
    if (v->state != VOLUME_OPEN && v->state != VOLUME_LEAVING) {
      int r = get_wait (vs, peer, v, error);

      /* The command ends with an error: nobody comes for the volume. */
      if (errno != EINPROGRESS && v->state == VOLUME_OPENING)
        v->made_by = 0;
      return r;
    }
    v->made_by = 0;
    close_put (vs, v);
    return 0;
  }
  if (v && v->state == VOLUME_FAILED) {
    table_remove (vs, v);
    v = NULL;
  }
  if (v) {
    errno = v->state == VOLUME_OPENING ? EBUSY : EEXIST;
    message_set (error, "'%s' is %s already", config->store,
                 v->state == VOLUME_OPENING ? "being opened" : "there");
    return -1;
  }
  if (open_make_room (vs, access_user (peer), error) == -1)
    return -1;
  v = open_start (vs, config->store, access_user (peer), config, true, error);
  if (!v)
    return -1;
  v->made_by = peer->serial;
  return table_later (vs);
}

/* Close the open volume v, which the peer may have, for another owner. */
static int
let_go (struct volumes *vs, const struct control_peer *peer, struct volume *v,
        char **error)
{
  struct away *a = away_note (vs, v->path);

  ASSERT_HELD (&vs->lock);
  if (!a) {
    errno = ENOMEM;
    message_set (error, "out of memory");
    return -1;
  }
  if (v->refs > 0)
    table_set_state (v, VOLUME_LEAVING);
  else if (close_start (vs, v) == -1) {
    message_set (error, "'%s' cannot be closed: %m", v->path);
    return -1;
  }
  /* Until it is closed, too, nobody else gets it. */
  a->until = AWAY_CLOSING;
  a->free_since = 0;
  log_info ("%s: let go for process %ld", v->path, (long)peer->pid);
  v->leave_by = v->since + RELEASE_MS;
  return table_later (vs);
}

static int
command_release (void *opaque, const struct control_peer *peer,
                 const char *path, const struct file_id *file, char **error)
{
  struct volumes *vs = opaque;
  struct volume *v;
  struct look *l;
  struct away *a;

  if (access_check_name (path, error) == -1)
    return -1;
  LOCK_SCOPE (&vs->lock);
  v = get_entry (vs, peer, path);
  if (v && v->state == VOLUME_OPEN) {
    if (v->refused_at >= peer->since) {
      errno = EBUSY;
      message_set (error, "'%s': a command on it does not end", path);
      return -1;
    }
    if (access_check_file (path, file, disk_file (v->disk), error) == -1)
      return -1;
    if (!get_may_have (vs, peer, v))
      return access_denied (path, error);
    v = table_find (vs, path);
    if (v && v->state == VOLUME_OPEN)
      return let_go (vs, peer, v, error);
    return table_later (vs);
  }
  if (v && v->state != VOLUME_FAILED)
    return get_wait (vs, peer, v, error);
  /* It is not open here, and is not to be opened for a while. */
  a = away_find (vs, path);
  if (a && a->until > now_ms ())
    return 0;
  if (look_for (vs, peer, path, false, &l, error) == -1)
    return -1;
  if (l->err)
    return look_fail (l, error);
  if (access_check_file (path, file, l->peek.file, error) == -1)
    return -1;
  a = vs->nr_away < MAX_AWAY ? away_note (vs, path) : NULL;
  if (a) {
    a->until = now_ms () + vs->config.grace;
    a->free_since = 0;
  }
  return 0;
}

static int
command_take (void *opaque, const struct control_peer *peer, const char *path,
              const struct file_id *file, char **error)
{
  struct volumes *vs = opaque;
  struct volume *v;
  struct look *l;
  struct away *a;

  if (access_check_name (path, error) == -1)
    return -1;
  LOCK_SCOPE (&vs->lock);
  if (table_check_stop (vs, error) == -1
      || look_for (vs, peer, path, false, &l, error) == -1)
    return -1;
  if (l->err)
    return look_fail (l, error);
  if (access_check_file (path, file, l->peek.file, error) == -1)
    return -1;
  if (!l->peek.has_sidecar) {
    errno = EINVAL;
    message_set (error, "'%s' has no sidecar beside it: there is no job", path);
    return -1;
  }
  v = get_entry (vs, peer, path);
  if (v && v->state == VOLUME_OPEN)
    return 0;
  /* A volume that is being opened may fail, as its last owner had it a moment
   * ago, and nobody would go on with its job: the ledger names it anyway. */
  if (writer_enter (vs, peer, path, error) == -1)
    return -1;
  a = away_note (vs, path);
  if (a) {
    a->free_since = 0;
    a->look_at = 0;
  }
  return 0;
}

static int
command_forget (void *opaque, const struct control_peer *peer, const char *path,
                char **error)
{
  struct volumes *vs = opaque;
  const struct ledger_entry *e;
  struct look *l;
  LOCK_SCOPE (&vs->lock);

  e = ledger_find (vs->ledger, path);
  if (!e || table_find (vs, path)
      || (!access_is_ours (peer) && e->uid != peer->uid))
    return 0;
  if (look_for (vs, peer, path, false, &l, error) == -1)
    return -1;
  /* If the store is there, dismissing opens the volume. */
  if (!l->err ? !e->ended || l->peek.has_sidecar : l->err != ENOENT)
    return 0;
  log_info ("%s: forgotten, as asked", path);
  ledger_remove (vs->ledger, path);
  away_forget (vs, path);
  writer_start (vs);
  return 1;
}

static int
command_set_total_speed (void *opaque, const struct control_peer *peer,
                         uint64_t speed, char **error)
{
  struct volumes *vs = opaque;
  int r;
  LOCK_SCOPE (&vs->lock);

  /* Once: when this command is run again a later one may have set another. */
  if (peer->serial > vs->speed_serial) {
    disk_set_total_speed (speed);
    ledger_set_speed (vs->ledger, speed, vs->config.speed);
    vs->speed_serial = peer->serial;
  }
  r = writer_is_durable (vs, vs->ledger->speed_version, error);
  return r == 1 ? 0 : r == 0 ? table_later (vs) : -1;
}

void
commands_init (struct volumes *vs)
{
  vs->commands = (struct control_volumes){
    .get = command_get,
    .put = command_put,
    .peek = command_peek,
    .list = list_volumes,
    .survey = survey_run,
    .create = command_create,
    .release = command_release,
    .take = command_take,
    .forget = command_forget,
    .set_total_speed = command_set_total_speed,
    .opaque = vs,
  };
}
