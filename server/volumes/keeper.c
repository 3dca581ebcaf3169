/* keeper.c - see keeper.h.
 *
 * A volume that the ledger holds and that is not open here is with another
 * owner (a guest's server that asked for it, disk-release), or was left by a
 * daemon that died.  The keeper looks whether its lock is free.  When it has
 * been so for the grace period, in which the hypervisor's own server may come
 * back, the volume is opened, and its job goes on by itself.  A store that is
 * not there (a file system that is not mounted looks like that) is looked for
 * again and again, and forgotten after MISSING_S.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <time.h>

#include "cleanup.h"
#include "clock.h"
#include "log.h"
#include "thread.h"
#include "volumes/away.h"
#include "volumes/close.h"
#include "volumes/keeper.h"
#include "volumes/looks.h"
#include "volumes/open.h"
#include "volumes/table.h"
#include "volumes/writer.h"

#define AWAY_MS 60000u /* between looks for what is not there, at most */
#define MISSING_S (7 * 24 * 3600)
#define MAX_YOUNG 16u  /* volumes that the keeper opens at a time ... */
#define YOUNG_MS 3000u /* ... and has not waited for for so long */

/* Close what has been idle for long enough, and open again what its commands do
 * not leave. */
static void
look_at_open (struct volumes *vs)
{
  uint64_t now = now_ms ();
  struct volume *next;

  ASSERT_HELD (&vs->lock);
  for (struct volume *v = LIST_FIRST (&vs->open); v; v = next) {
    next = LIST_NEXT (v, next);
    if (v->state == VOLUME_FAILED && now - v->since > LINGER_MS)
      table_remove (vs, v);
    else if (v->state == VOLUME_LEAVING && v->refs == 0
             && close_start (vs, v) == 0)
      ; /* there was no thread for that when the last command ended */
    else if (v->state == VOLUME_LEAVING && now >= v->leave_by) {
      table_set_state (v, VOLUME_OPEN);
      v->refused_at = now;
      away_forget (vs, v->path);
    }
    else if (v->state == VOLUME_OPEN && v->refs == 0
             && !has_job (v->disk)
             /* The command that had it opened comes for it first. */
             && now - v->idle_since
                    >= (v->used ? vs->config.idle : vs->config.idle + 1000)
             && close_start (vs, v) == -1) {
      log_error ("%s: cannot be closed: %m", v->path);
      v->idle_since = now;
    }
  }
}

/* A look at the entry's store failed: the store is not there, or does not let
 * itself be looked at. */
static void
look_failed (struct volumes *vs, struct ledger_entry *e, struct away *a,
             const struct look *l)
{
  int64_t now = (int64_t)time (NULL);

  ASSERT_HELD (&vs->lock);
  a->free_since = 0;
  a->pause = a->pause ? a->pause * 2 : HELD_MS;
  if (a->pause > AWAY_MS)
    a->pause = AWAY_MS;
  a->look_at = now_ms () + a->pause;
  if (l->err != ENOENT) {
    if (!a->told)
      log_error ("%s: its job waits: %s", a->path, l->error);
    a->told = true;
    return;
  }
  if (e->missing == 0)
    ledger_set_missing (vs->ledger, e, now);
  else if (now - e->missing > MISSING_S) {
    log_error ("%s has been gone for days: its job is forgotten", a->path);
    ledger_remove (vs->ledger, e->path);
    return;
  }
  if (!a->told)
    log_error ("%s is not there: its job waits for it ('backfill dismiss' "
               "forgets it)",
               a->path);
  a->told = true;
}

/* How many volumes the keeper is opening: all, and those since YOUNG_MS. */
static void
count_kept (const struct volumes *vs, unsigned *all, unsigned *young)
{
  uint64_t now = now_ms ();
  const struct volume *v;

  ASSERT_HELD (&vs->lock);
  *all = *young = 0;
  LIST_FOREACH (v, &vs->open, next)
    if (v->kept && v->state == VOLUME_OPENING) {
      ++*all;
      *young += now - v->since < YOUNG_MS;
    }
}

/* Nobody has the volume: open it. */
static void
take_back (struct volumes *vs, const struct ledger_entry *e)
{
  static const struct disk_config none;
  CLEANUP_FREE char *error = NULL;
  unsigned all, young;
  struct volume *v;

  ASSERT_HELD (&vs->lock);
  count_kept (vs, &all, &young);
  if (young >= MAX_YOUNG || all > vs->config.max_open / 2
      || open_make_room (vs, e->uid, &error) == -1)
    return; /* its turn comes in a later round */
  v = table_find (vs, e->path);
  if (v && v->state == VOLUME_FAILED)
    table_remove (vs, v);
  else if (v)
    return;
  v = open_start (vs, e->path, e->uid, &none, false, &error);
  if (v)
    v->kept = true;
}

/* Look after a volume of the ledger that is not open here. */
static void
look_at_entry (struct volumes *vs, struct ledger_entry *e)
{
  struct away *a = away_find (vs, e->path);
  uint64_t now = now_ms ();
  struct look *l;

  ASSERT_HELD (&vs->lock);
  if (a && a->until == AWAY_CLOSING)
    return;
  if (!a) {
    a = away_note (vs, e->path);
    if (!a)
      return;
    /* No other owner has been seen: the daemon had it when it last ended. */
    a->free_since = 1;
  }
  if (a->asked_at == 0) {
    if (now < a->look_at)
      return;
    a->asked_at = now;
  }
  l = look_at (vs, e->path, 0, false, a->asked_at, 0);
  if (!l)
    return;
  a->asked_at = 0;
  if (l->err) {
    look_failed (vs, e, a, l);
    return;
  }
  if (a->told)
    log_info ("%s is there again", e->path);
  a->told = false;
  a->pause = 0;
  if (e->missing)
    ledger_set_missing (vs->ledger, e, 0);
  a->look_at = now + HELD_MS;
  if (l->peek.in_use) {
    a->free_since = 0;
    return;
  }
  if (a->free_since == 0)
    a->free_since = now;
  if (now < a->until || now - a->free_since < vs->config.grace) {
    uint64_t end = a->free_since + vs->config.grace;

    if (a->until > end)
      end = a->until;
    if (end < a->look_at)
      a->look_at = end;
    return;
  }
  a->look_at = 0;
  take_back (vs, e);
}

static void
look_at_ledger (struct volumes *vs)
{
  ASSERT_HELD (&vs->lock);
  /* look_at_entry may remove the entry. */
  for (size_t i = vs->ledger->nr; i-- > 0;) {
    struct ledger_entry *e = i < vs->ledger->nr ? vs->ledger->entry[i] : NULL;
    const struct volume *v;

    if (!e || e->ended)
      continue;
    v = table_find (vs, e->path);
    if (!v || v->state == VOLUME_FAILED)
      look_at_entry (vs, e);
  }
  if (vs->durable < vs->ledger->version
      && (vs->failed <= vs->durable || now_ms () >= vs->write_again))
    writer_start (vs);
}

/* The thread. */
static void *
keep (void *arg)
{
  struct volumes *vs = arg;
  LOCK_SCOPE (&vs->lock);

  while (!vs->stop) {
    uint64_t next;

    look_at_open (vs);
    look_at_ledger (vs);
    away_forget_old (vs);
    look_forget_old (vs);
    /* Commands that wait see whether their patience has ended. */
    table_changed (vs);
    next = now_ms () + TICK_MS;
    while (!vs->stop && table_wait (vs, next))
      ;
  }
  return NULL;
}

int
keeper_start (struct volumes *vs)
{
  vs->keeping = thread_start (&vs->keeper, keep, vs) == 0;
  return vs->keeping ? 0 : -1;
}

void
keeper_stop (struct volumes *vs)
{
  if (vs->keeping)
    pthread_join (vs->keeper, NULL);
  vs->keeping = false;
}
