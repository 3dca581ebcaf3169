/* copier.c - see copier.h.
 *
 * A copier takes a fetch from the queue, takes the claim on its granules, looks
 * at the map again, and writes what is still absent.  Bytes that are all zero
 * become holes, unless a job that allocates zeros too has this range.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <assert.h>
#include <errno.h>

#include "copier.h"
#include "fetch-table.h"
#include "internal.h"
#include "parked.h"
#include "probe.h"
#include "proof.h"

/* Known zeros become local in steps of so many bytes, each under a claim of its
 * own, so that a guest's write never waits long for it. */
#define ZERO_STEP (UINT64_C (1) << 30)
/* The same in a store that has to write them. */
#define SLOW_ZERO_STEP (UINT64_C (16) << 20)

void
copiers_init (struct copiers *c)
{
  lock_init (&c->lock, LOCK_COPIERS);
  cond_init (&c->wake);
  STAILQ_INIT (&c->queue);
}

void
copiers_destroy (struct copiers *c)
{
  assert (STAILQ_EMPTY (&c->queue));
  lock_destroy (&c->lock);
  pthread_cond_destroy (&c->wake);
}

void
copier_queue (struct fetch *f)
{
  struct copiers *c = &f->disk->copiers;

  {
    LOCK_SCOPE (&c->lock);
    STAILQ_INSERT_TAIL (&c->queue, f, queued);
  }
  /* copiers.lock is not held here, as the copier that wakes needs it at once.
   * Another copier may have freed f by now.  The disk is still there: it is
   * freed after its source has stopped and its guests have left. */
  pthread_cond_signal (&c->wake);
}

uint64_t
copier_zero_step (struct disk *d, bool full)
{
  return full || store_zero_is_slow (d->store) ? SLOW_ZERO_STEP : ZERO_STEP;
}

/* Make the absent granules [offset, end), which a claim covers, local as zeros.
 * What the store holds there is cleared: an earlier crash may have left bytes
 * (I6).  0 or errno. */
static int
zero_claimed (struct disk *d, uint64_t offset, uint64_t end, bool full,
              enum map_mark how)
{
  int err;

  ASSERT_CLAIMED (&d->claims, granule_floor (d, offset), granule_ceil (d, end));
  if (proof_before (d, granule_floor (d, offset), granule_ceil (d, end), NULL,
                    offset, end)
      == -1)
    return errno;
  err = store_clear (d->store, end - offset, offset, full) == -1 ? errno : 0;
  writeback_changed (d, offset, end);
  if (err)
    return err;
  return proof_after (d, granule_floor (d, offset), granule_ceil (d, end), how,
                      NULL, offset, end)
                 == -1
             ? errno
             : 0;
}

/* zero_claimed for each absent run of [offset, end), which a claim covers. */
static int
zero_absent (struct disk *d, uint64_t offset, uint64_t end, bool full)
{
  uint64_t g = granule_floor (d, offset), last = granule_ceil (d, end), stop;

  while (g < last) {
    if (map_run (d->map, g, last, &stop) == MAP_ABSENT) {
      int err = zero_claimed (d, granule_offset (d, g),
                              granule_offset (d, stop), full, MAP_HOLE);

      if (err)
        return err;
      parked_apply (d, g, stop);
    }
    g = stop;
  }
  return 0;
}

int
copier_zero_range (struct disk *d, uint64_t offset, uint64_t end, bool full)
{
  uint64_t step = copier_zero_step (d, full);
  int err = 0;

  while (offset < end && err == 0) {
    uint64_t stop = min_u64 (end, step_end (d, offset, step));
    struct claim c;

    claim_take (&d->claims, &c, granule_floor (d, offset),
                granule_ceil (d, stop));
    err = zero_absent (d, offset, stop, full);
    claim_drop (&d->claims, &c);
    offset = stop;
  }
  return err;
}

/* Put granules [g, end) of the fetch, which are absent and covered by the
 * copier's claim, into the store.  *wrote: set if data was.  0 or errno. */
static int
commit_run_of (struct disk *d, const struct fetch *f, uint64_t g, uint64_t end,
               bool *wrote)
{
  ASSERT_CLAIMED (&d->claims, g, end);
  while (g < end) {
    uint64_t start = granule_offset (d, g), stop;
    bool zero = false;
    uint64_t n = g;
    int err;

    /* A run of granules that are all zero, or none. */
    for (; n < end; n++) {
      const char *p = f->buf + ((n << d->shift) - f->offset);
      bool z = is_all_zero (p, granule_offset (d, n + 1) - (n << d->shift));

      if (n == g)
        zero = z;
      else if (z != zero)
        break;
    }
    stop = granule_offset (d, n);
    if (zero) {
      err = zero_claimed (d, start, stop, fetch_wants_full (d, start),
                          MAP_COPIED);
      if (err)
        return err;
    }
    else {
      const char *buf = f->buf + (start - f->offset);

      if (proof_before (d, g, n, buf, start, stop) == -1)
        return errno;
      err = store_pwrite (d->store, buf, stop - start, start) == -1 ? errno : 0;
      /* An earlier fetch of it may have failed half way, and be listed. */
      writeback_changed (d, start, stop);
      if (err)
        return err;
      if (proof_after (d, g, n, MAP_COPIED, buf, start, stop) == -1)
        return errno;
      count (&d->copied, stop - start);
      *wrote = true;
    }
    g = n;
  }
  return 0;
}

/* Put into the store what of the fetch is still absent.  *dropped: nothing was
 * written, as the job that asked has ended.  0 or errno. */
static int
commit_fetch (struct disk *d, struct fetch *f, bool *dropped)
{
  uint64_t first = granule_floor (d, f->offset);
  uint64_t last = granule_ceil (d, f->end);
  uint64_t g = first, stop;
  struct claim c;
  bool wanted, wrote = false;
  int err = 0;

  claim_take (&d->claims, &c, first, last);
  {
    LOCK_SCOPE (&d->fetch.lock);
    *dropped = f->discard && !f->demand;
    wanted = f->demand || !f->job;
    if (!*dropped)
      fetch_enter_state (f, FETCH_COMMITTING);
  }
  while (!*dropped && g < last && err == 0) {
    enum map_state state = map_run (d->map, g, last, &stop);

    /* The copier looks at the map again, under its claim: what a guest has
     * written since the fetch was made stays. */
    if (state == MAP_ABSENT)
      err = f->zero ? zero_claimed (d, granule_offset (d, g),
                                    granule_offset (d, stop),
                                    fetch_wants_full (d, f->offset), MAP_HOLE)
                    : commit_run_of (d, f, g, stop, &wrote);
    else if (state == MAP_DAMAGED)
      err = EIO;
    /* Parked parts may wait for this very fetch.  After an error the granule is
     * absent, and their owners go on waiting. */
    if (err == 0)
      parked_apply (d, g, stop);
    g = stop;
  }
  claim_drop (&d->claims, &c);
  PROBE (fetch_committed, d, f->offset, f->end, err);
  if (wrote)
    writeback_add (d, f->offset, f->end, wanted);
  return err;
}

static void
settle (struct fetch *f)
{
  struct disk *d = f->disk;
  bool dropped;
  int err = commit_fetch (d, f, &dropped);

  if (f->job)
    d->fetch.ended (d, f->job, f->offset, f->end, 0, err, f->took_ns);
  LOCK_SCOPE (&d->fetch.lock);
  if (err) {
    errno = err;
    if (d->fetch.commits_failed++ % 1000 == 0)
      log_error ("%s: cannot keep what was fetched for %llu+%llu: %m; it is "
                 "read from the backing store until it can",
                 d->store_path, (unsigned long long)f->offset,
                 (unsigned long long)(f->end - f->offset));
    f->error = err;
  }
  else {
    d->fetch.commits_failed = 0;
  }
  /* dropped was read under the claim: a reader that has joined since then finds
   * FETCH_PASSED, and asks again. */
  fetch_enter_state (f, err || dropped ? FETCH_PASSED : FETCH_KEPT);
  fetch_unref (f);
}

static void *
copy (void *arg)
{
  struct copiers *c = arg;

  thread_in_background ();
  for (;;) {
    struct fetch *f;

    {
      LOCK_SCOPE (&c->lock);
      while (STAILQ_EMPTY (&c->queue) && !c->stop)
        lock_wait (&c->wake, &c->lock);
      f = STAILQ_FIRST (&c->queue);
      if (!f)
        return NULL;
      STAILQ_REMOVE_HEAD (&c->queue, queued);
    }
    settle (f);
  }
}

int
copiers_start (struct disk *d)
{
  struct copiers *c = &d->copiers;

  c->stop = false;
  for (c->nr = 0; c->nr < NR_COPIERS; c->nr++)
    if (thread_start (&c->thread[c->nr], copy, c) == -1) {
      int err = errno;

      copiers_stop (d);
      errno = err;
      return -1;
    }
  return 0;
}

void
copiers_stop (struct disk *d)
{
  struct copiers *c = &d->copiers;

  {
    LOCK_SCOPE (&c->lock);
    c->stop = true;
    pthread_cond_broadcast (&c->wake);
  }
  for (unsigned i = 0; i < c->nr; i++)
    pthread_join (c->thread[i], NULL);
  c->nr = 0;
}
