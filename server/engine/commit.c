/* commit.c - making writes durable: group commit; one runs, one forms.
 *
 * The order is the whole point (I1): take what is pending, sync the store,
 * write S or snapshot, sync the sidecar, and only then call the bits stable.
 * What is marked after the snapshot belongs to the next commit.  A flush
 * joins the commit that forms, never the one that runs, as that one's
 * snapshot may have been taken before the flush arrived.
 *
 * A thread that finds none running leads the one that forms; the others wait.
 *
 * A failed sync is final (G24): the kernel has forgotten which pages were not
 * written.  W stays marked "syncing", so that the next open writes what the
 * guest has pending again from what the page cache shows, and of the copies
 * keeps those whose sums are right: the others can be fetched again.
 *
 * Locking: committer.lock, and sync_lock for the list of syncs under way;
 * neither is held across I/O.  set_complete holds the disk's header_lock.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "commit.h"
#include "internal.h"
#include "probe.h"

void
commit_init (struct committer *c)
{
  lock_init (&c->lock, LOCK_COMMIT);
  cond_init (&c->done);
  lock_init (&c->sync_lock, LOCK_SYNCS);
  cond_init (&c->sync_ended);
  TAILQ_INIT (&c->under_way);
}

void
commit_destroy (struct committer *c)
{
  assert (!c->running && !c->forming && TAILQ_EMPTY (&c->under_way));
  lock_destroy (&c->lock);
  pthread_cond_destroy (&c->done);
  lock_destroy (&c->sync_lock);
  pthread_cond_destroy (&c->sync_ended);
}

/* Syncs of one store may run side by side: a commit's, and writes that sync
 * themselves.  The kernel reports a failure to one of them only.  The success
 * of the others means nothing then: the drive has lost its cache, or the file's
 * description has had its report already.  So a thread that has synced looks
 * for a failure again when all syncs that began earlier have ended, and have
 * noted theirs. */
void
sync_begin (struct disk *d, struct syncing *s)
{
  struct committer *c = &d->commit;
  LOCK_SCOPE (&c->sync_lock);

  s->nr = c->syncs++;
  PROBE (sync_begin, d, s->nr);
  TAILQ_INSERT_TAIL (&c->under_way, s, link);
}

uint64_t
sync_leave (struct disk *d, struct syncing *s, int err)
{
  struct committer *c = &d->commit;

  if (err)
    commit_set_failed (d, err);
  PROBE (sync_end, d, s->nr, err);
  LOCK_SCOPE (&c->sync_lock);
  TAILQ_REMOVE (&c->under_way, s, link);
  pthread_cond_broadcast (&c->sync_ended);
  return c->syncs;
}

int
sync_settle (struct disk *d, uint64_t nr)
{
  struct committer *c = &d->commit;

  {
    const struct syncing *oldest;
    LOCK_SCOPE (&c->sync_lock);

    while ((oldest = TAILQ_FIRST (&c->under_way)) && oldest->nr < nr)
      lock_wait (&c->sync_ended, &c->sync_lock);
  }
  return commit_failed (d);
}

int
sync_end (struct disk *d, struct syncing *s, int err)
{
  return sync_settle (d, sync_leave (d, s, err));
}

struct commit_waiter {
  struct commit_waiter *next;
  bool done;
  int error;
};

int
commit_failed (struct disk *d)
{
  return atomic_load_explicit (&d->commit.sticky, memory_order_acquire);
}

void
commit_set_failed (struct disk *d, int err)
{
  int none = 0;

  /* W says so before any thread is told: the next open must not take pending
   * bytes for written. */
  if (d->work && work_fail (d->work) == -1)
    log_error ("cannot write the working map %s: %m", d->work->path);
  if (atomic_compare_exchange_strong_explicit (&d->commit.sticky, &none, err,
                                               memory_order_acq_rel,
                                               memory_order_acquire)) {
    errno = err;
    log_error ("%s: cannot make data durable: %m; flushes fail until the "
               "volume is opened again, reads go on",
               d->store_path);
  }
}

/* All granules are live and the store is synced: say so in the header, which
 * alone counts from now on. */
static int
set_complete (struct disk *d)
{
  struct syncing s;
  int err;

  LOCK_SCOPE (&d->header_lock);
  d->sc->h.state |= SIDECAR_COMPLETE;
  sync_begin (d, &s);
  err = sidecar_write_header (d->sc) == -1 ? errno : 0;
  /* After a failure either header may be on the drive: both are true. */
  err = sync_end (d, &s, err);
  if (err) {
    errno = err;
    return -1;
  }
  map_set_complete (d->map);
  return 0;
}

/* What is being sent stays as it is until it is known who has it. */
static bool
may_complete (struct disk *d)
{
  LOCK_SCOPE (&d->header_lock);
  return role_completes (&d->sc->h.role);
}

/* The middle of a commit, between snapshot and publish.  Returns errno;
 * *durable tells whether the snapshot is in the sidecar, or needs not be. */
static int
commit_steps (struct disk *d, unsigned flags, struct map_snapshot *snap,
              bool all_live, bool *durable)
{
  struct syncing s;
  int err;

  sync_begin (d, &s);
  err = store_sync (d->store) == -1 ? errno : 0;
  err = sync_end (d, &s, err);
  if (err)
    return err;
  if (!snap)
    return 0;
  if (all_live) {
    /* Every granule's bytes were in the store before the sync: from now on
     * the header alone says so, and S is not needed. */
    if (set_complete (d) == -1)
      return errno;
    *durable = true;
    return 0;
  }
  if (map_snapshot_is_empty (snap)
      || !(map_snapshot_has_guest (snap) || (flags & COMMIT_CHECKPOINT)))
    return 0;
  if (map_snapshot_write (d->map, snap) == -1)
    return errno;
  /* The sidecar may be on the same disk. */
  sync_begin (d, &s);
  err = sidecar_sync (d->sc) == -1 ? errno : 0;
  err = sync_end (d, &s, err);
  if (err)
    return err;
  *durable = true;
  return 0;
}

static int
commit_pending (struct disk *d, unsigned flags)
{
  struct map_snapshot *snap = NULL;
  bool all_live = false, durable = false, named;
  int err;

  /* Copied bits alone wait for a checkpoint: a flush need not look at them. */
  if (!map_is_complete (d->map) && (flags != 0 || map_has_guest (d->map))) {
    snap = map_snapshot (d->map, flags & COMMIT_HOLES);
    if (!snap)
      return ENOMEM;
    /* map_all_live comes before the sync, so that the sync covers every
     * granule. It may have to read S: with nothing pending, when nothing has
     * changed, it is asked only at a job's end or the disk's. */
    all_live = (!map_snapshot_is_empty (snap) || (flags & COMMIT_HOLES))
               && map_all_live (d->map) && may_complete (d);
  }
  named = snap ? !map_snapshot_is_empty (snap) : map_is_in_work (d->map);
  if (named && d->work && work_sync_announce (d->work) == -1)
    err = errno;
  else
    err = commit_steps (d, flags, snap, all_live, &durable);
  if (snap) {
    if (durable)
      map_snapshot_publish (d->map, snap);
    else
      map_snapshot_return (d->map, snap);
  }
  return err;
}

static int
commit_once (struct disk *d, unsigned flags)
{
  int err;

  if (commit_failed (d))
    return commit_failed (d);
  PROBE (commit_begin, d, flags);
  count (&d->commits, 1);
  /* This comes before the snapshot: bits that are marked later say in W that a
   * sync runs. */
  if (d->work)
    work_sync_begin (d->work);
  err = commit_pending (d, flags);
  if (d->work && work_sync_end (d->work) == -1 && err == 0
      && !map_is_complete (d->map))
    err = errno;
  PROBE (commit_end, d, err);
  return err;
}

int
commit_run (struct disk *d, unsigned flags)
{
  struct committer *c = &d->commit;
  struct commit_waiter me = { 0 };

  if (d->read_only)
    return 0;
  LOCK_SCOPE (&c->lock);
  me.next = c->forming;
  c->forming = &me;
  c->flags |= flags;
  while (!me.done) {
    struct commit_waiter *joined;
    int err;

    if (c->running) {
      lock_wait (&c->done, &c->lock);
      continue;
    }
    c->running = true;
    joined = c->forming;
    flags = c->flags;
    c->forming = NULL;
    c->flags = 0;
    {
      UNLOCK_SCOPE (&c->lock);
      err = commit_once (d, flags);
    }
    c->running = false;
    while (joined) {
      struct commit_waiter *next = joined->next;

      joined->error = err;
      joined->done = true;
      joined = next;
    }
    pthread_cond_broadcast (&c->done);
  }
  return me.error;
}
