/* get.c - see get.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>

#include "clock.h"
#include "message.h"
#include "volumes/access.h"
#include "volumes/away.h"
#include "volumes/close.h"
#include "volumes/get.h"
#include "volumes/looks.h"
#include "volumes/open.h"
#include "volumes/table.h"

struct volume *
get_entry (struct volumes *vs, const struct control_peer *peer,
           const char *path)
{
  struct volume *v = table_find (vs, path);

  ASSERT_HELD (&vs->lock);
  if (!v || v->state != VOLUME_FAILED || peer->since < v->since)
    return v;
  table_remove (vs, v);
  return NULL;
}

int
get_wait (struct volumes *vs, const struct control_peer *peer,
          const struct volume *v, char **error)
{
  uint64_t now = now_ms ();

  ASSERT_HELD (&vs->lock);
  if (v->state == VOLUME_FAILED) {
    message_set (error, "%s", v->error ? v->error : "out of memory");
    errno = v->err;
    return -1;
  }
  if (now - peer->since > PATIENCE_MS
      || (v->state != VOLUME_OPEN && now - v->since > PATIENCE_MS))
    return table_no_answer (v->path,
                            v->state == VOLUME_OPENING ? "is being opened"
                            : v->state == VOLUME_OPEN  ? "is in use"
                                                       : "is being closed",
                            error);
  return table_later (vs);
}

bool
get_may_have (struct volumes *vs, const struct control_peer *peer,
              struct volume *v)
{
  bool allowed;

  ASSERT_HELD (&vs->lock);
  if (access_is_ours (peer))
    return true;
  v->refs++;
  {
    UNLOCK_SCOPE (&vs->lock);
    allowed = disk_store_owner (v->disk) == peer->uid;
  }
  close_put (vs, v);
  return allowed;
}

/* A volume that was let go for another owner a moment ago, and that nobody has
 * open, is refused.  If somebody has it open, opening it says who that is. */
static int
check_away (struct volumes *vs, const struct control_peer *peer,
            const char *path, char **error)
{
  struct away *a = away_find (vs, path);
  struct look *l;

  ASSERT_HELD (&vs->lock);
  if (!a || now_ms () >= a->until)
    return 0;
  if (look_for (vs, peer, path, false, &l, error) == -1)
    return -1;
  if (l->err || l->peek.in_use)
    return 0;
  errno = EBUSY;
  message_set (error,
               "'%s' was let go for another process a moment ago: ask that "
               "one, or try again",
               path);
  return -1;
}

/* Was the volume opened for a client that meant this file? */
static bool
is_meant (const struct volume *v, const struct file_id *file)
{
  return v->more.has_file && file && file_id_equal (v->more.file, *file);
}

struct volume *
get_volume (struct volumes *vs, const struct control_peer *peer,
            const char *path, const struct file_id *file, char **error)
{
  struct disk_config more = { .has_file = file != NULL };
  struct volume *v;
  struct look *l;

  ASSERT_HELD (&vs->lock);
  if (table_check_stop (vs, error) == -1
      || access_check_name (path, error) == -1)
    return NULL;
  if (file)
    more.file = *file;
  v = get_entry (vs, peer, path);
  /* It failed because the client of then meant another file. */
  if (v && v->state == VOLUME_FAILED && v->err == ESTALE
      && !is_meant (v, file)) {
    table_remove (vs, v);
    v = NULL;
  }
  if (v && v->state == VOLUME_OPEN) {
    if (access_check_file (path, file, disk_file (v->disk), error) == -1)
      return NULL;
    if (v->refs >= MAX_COMMANDS) {
      get_wait (vs, peer, v, error);
      return NULL;
    }
    if (!get_may_have (vs, peer, v)) {
      access_denied (path, error);
      return NULL;
    }
    /* Another command may have let it go while vs->lock was not held. */
    v = table_find (vs, path);
    if (v && v->state == VOLUME_OPEN) {
      v->used = true;
      v->idle_since = now_ms ();
      return v;
    }
    table_later (vs);
    return NULL;
  }
  if (v) {
    get_wait (vs, peer, v, error);
    return NULL;
  }
  /* Another user gets no place in the table for a store that is not his. */
  if (!access_is_ours (peer)) {
    if (look_for (vs, peer, path, false, &l, error) == -1)
      return NULL;
    if (l->err) {
      look_fail (l, error);
      return NULL;
    }
  }
  if (check_away (vs, peer, path, error) == -1
      || open_make_room (vs, access_user (peer), error) == -1)
    return NULL;
  if (open_start (vs, path, access_user (peer), &more, false, error))
    table_later (vs);
  return NULL;
}
