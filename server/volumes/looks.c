/* looks.c - see looks.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "clock.h"
#include "message.h"
#include "volumes/access.h"
#include "volumes/looks.h"
#include "volumes/table.h"

#define MAX_LOOKS 16u    /* of another user at a time, */
#define OTHERS_LOOKS 64u /* and of all other users */

/* A task of the crew. */
static void
look_task (void *arg)
{
  struct look *l = arg;
  struct volumes *vs = l->vs;
  struct disk_peek peek = { 0 };
  char *error = NULL;
  int err = 0;

  if (access_check_path (l->path, l->uid, &error) == -1
      || disk_peek (l->path, l->deep, &peek, &error) == -1)
    err = errno;
  else if (l->uid && peek.owner != l->uid) {
    disk_peek_clear (&peek);
    access_denied (l->path, &error);
    err = EPERM;
  }
  LOCK_SCOPE (&vs->lock);
  l->peek = peek;
  l->err = err;
  l->error = error;
  l->busy = false;
  l->ended = now_ms ();
  table_changed (vs);
}

static void
clear_look (struct look *l)
{
  disk_peek_clear (&l->peek);
  free (l->error);
  l->error = NULL;
  l->err = 0;
}

void
look_free (struct look *l)
{
  LIST_REMOVE (l, next);
  clear_look (l);
  free (l->path);
  free (l);
}

/* Has the user a share of the looks left? */
static bool
may_look (const struct volumes *vs, uid_t uid)
{
  unsigned his = 0, others = 0;
  const struct look *l;

  ASSERT_HELD (&vs->lock);
  if (uid == 0)
    return true;
  LIST_FOREACH (l, &vs->looks, next)
    if (l->busy && l->uid) {
      others++;
      his += l->uid == uid;
    }
  return his < MAX_LOOKS && others < OTHERS_LOOKS;
}

struct look *
look_last (struct volumes *vs, const char *path, uid_t uid)
{
  struct look *l;

  ASSERT_HELD (&vs->lock);
  LIST_FOREACH (l, &vs->looks, next)
    if (l->uid == uid && strcmp (l->path, path) == 0)
      break;
  return l;
}

struct look *
look_at (struct volumes *vs, const char *path, uid_t uid, bool deep,
         uint64_t since, uint64_t serial)
{
  struct look *l;

  ASSERT_HELD (&vs->lock);
  l = look_last (vs, path, uid);
  if (l && !l->busy && l->since >= since && l->serial >= serial
      && (l->deep || !deep))
    return l;
  if ((l && l->busy) || !may_look (vs, uid))
    return NULL;
  if (!l) {
    l = calloc (1, sizeof *l);
    if (!l || !(l->path = strdup (path))) {
      free (l);
      return NULL;
    }
    l->vs = vs;
    l->uid = uid;
    LIST_INSERT_HEAD (&vs->looks, l, next);
  }
  clear_look (l);
  l->deep = deep;
  l->since = now_ms ();
  l->serial = serial;
  l->busy = true;
  if (crew_run (vs->crew, look_task, l) == -1) {
    l->busy = false;
    l->ended = l->since;
    l->err = errno;
    message_set (&l->error, "'%s' cannot be looked at: %m", path);
  }
  return NULL;
}

int
look_for (struct volumes *vs, const struct control_peer *peer, const char *path,
          bool deep, struct look **l, char **error)
{
  ASSERT_HELD (&vs->lock);
  *l = look_at (vs, path, access_user (peer), deep, peer->since, peer->serial);
  if (*l)
    return 0;
  if (now_ms () - peer->since > PATIENCE_MS)
    return table_no_answer (path, "is being looked at", error);
  return table_later (vs);
}

int
look_fail (const struct look *l, char **error)
{
  message_set (error, "%s", l->error ? l->error : "out of memory");
  errno = l->err;
  return -1;
}

int
look_copy (struct disk_peek *to, const struct disk_peek *from)
{
  *to = *from;
  to->error = NULL;
  to->store = strdup (from->store);
  to->metadata = strdup (from->metadata);
  to->backing = from->backing ? strdup (from->backing) : NULL;
  to->info.name = to->info.store = to->store;
  to->info.metadata = to->metadata;
  to->info.backing = to->backing;
  if (to->store && to->metadata && (to->backing || !from->backing))
    return 0;
  disk_peek_clear (to);
  errno = ENOMEM;
  return -1;
}

void
look_forget_old (struct volumes *vs)
{
  uint64_t now = now_ms ();
  struct look *next;

  ASSERT_HELD (&vs->lock);
  for (struct look *l = LIST_FIRST (&vs->looks); l; l = next) {
    next = LIST_NEXT (l, next);
    if (!l->busy && now - l->ended >= LINGER_MS)
      look_free (l);
  }
}
