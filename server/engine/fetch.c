/* fetch.c - the fetch table and the copiers.  See fetch.h.
 *
 * The life of a fetch: made in the table (lock held), submitted to the source
 * (no lock), arrived() on an I/O thread, readers copy from its buffer, a
 * copier commits it and takes it from the table.  References: one for the
 * flight, one for each piece.
 *
 * Memory: what is asked for and not in the store yet is bounded for each disk.
 * A job sees to its own share (job.c), read-ahead stops at BACKLOG_LIMIT;
 * demand fetches over DEMAND_LIMIT are passed through without being kept, as a
 * guest's read must not wait for a slow store (G22).
 *
 * Each disk has its own copiers: a store that hangs takes its own only.
 *
 * Locking: see fetch.h.  The copiers' queue has a leaf lock of its own.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fetch.h"
#include "parked.h"
#include "proof.h"
#include "share.h"

#define BACKLOG_LIMIT (UINT64_C (28) << 20)
#define DEMAND_LIMIT (UINT64_C (96) << 20)
#define AHEAD_REQUEST (UINT64_C (1) << 20)
/* A demand read of known zeros makes this much of the run local at once. */
#define ZERO_LIMIT (UINT64_C (1) << 30)
/* The same where zeros have to be written. */
#define SLOW_ZERO_LIMIT (UINT64_C (16) << 20)
#define POOL_CLASSES 3u
#define POOL_BYTES (UINT64_C (12) << 20)
#define POOL_KEEP 96u /* of one size */

/* Buffers, kept for reuse: a fresh megabyte costs 256 page faults.  They are
 * mapped, not malloc'd, so that what is not kept goes back to the system. */
static struct {
  pthread_mutex_t lock;
  void *kept[POOL_CLASSES][POOL_KEEP];
  unsigned nr[POOL_CLASSES];
  uint64_t bytes;
} pool = { .lock = PTHREAD_MUTEX_INITIALIZER };

static const size_t pool_size[POOL_CLASSES]
    = { 256u << 10, 1u << 20, 2u << 20 };

static uint64_t
backlog (struct disk *d)
{
  return counted (&d->fetch.backlog);
}

/* The pool's lock is held. */
static void *
pool_take (unsigned c)
{
  pool.bytes -= pool_size[c];
  return pool.kept[c][--pool.nr[c]];
}

/* Room for one of class c, at the cost of other sizes, which were of use to
 * an earlier job.  The pool's lock is held. */
static bool
pool_has_room (unsigned c)
{
  /* Each of many jobs has a request in flight. */
  uint64_t limit = POOL_BYTES + (uint64_t)jobs_running () * pool_size[1];

  for (unsigned i = 0; i < POOL_CLASSES; i++)
    while (i != c && pool.nr[i] > 0 && pool.bytes + pool_size[c] > limit)
      munmap (pool_take (i), pool_size[i]);
  /* There were more jobs. */
  while (pool.nr[c] > 0 && pool.bytes > limit)
    munmap (pool_take (c), pool_size[c]);
  return pool.nr[c] < POOL_KEEP && pool.bytes + pool_size[c] <= limit;
}

static char *
buffer_get (size_t size, size_t *got)
{
  unsigned c = 0;

  if (size <= 64u << 10) {
    *got = size;
    return malloc (size);
  }
  while (c < POOL_CLASSES - 1 && pool_size[c] < size)
    c++;
  *got = max_u64 (size, pool_size[c]);
  if (*got == pool_size[c]) {
    LOCK_SCOPE (&pool.lock);
    if (pool.nr[c] > 0)
      return pool_take (c);
  }
  if (*got == pool_size[c]) {
    void *p = mmap (NULL, *got, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
  }
  return malloc (*got);
}

static void
buffer_put (char *buf, size_t size)
{
  for (unsigned c = 0; c < POOL_CLASSES; c++)
    if (size == pool_size[c]) {
      {
        LOCK_SCOPE (&pool.lock);
        if (pool_has_room (c)) {
          pool.bytes += size;
          pool.kept[c][pool.nr[c]++] = buf;
          return;
        }
      }
      munmap (buf, size);
      return;
    }
  free (buf);
}

/* The table.  Its lock is held in all of these. */

static void
fetch_unref (struct fetch *f)
{
  if (--f->refs > 0)
    return;
  if (f->buf) {
    buffer_put (f->buf, f->buf_size);
    __atomic_sub_fetch (&f->disk->fetch.backlog, f->buf_size, __ATOMIC_RELAXED);
  }
  pthread_cond_destroy (&f->changed);
  free (f);
}

static void
table_remove (struct fetch *f)
{
  if (!f->in_table)
    return;
  if (f->prev)
    f->prev->next = f->next;
  else
    f->disk->fetch.first = f->next;
  if (f->next)
    f->next->prev = f->prev;
  f->in_table = false;
}

/* The first fetch that ends after offset. */
static struct fetch *
table_find (struct disk *d, uint64_t offset)
{
  struct fetch *f = d->fetch.first;

  while (f && f->end <= offset)
    f = f->next;
  return f;
}

static struct fetch *
fetch_new (struct disk *d, uint64_t offset, uint64_t end, bool zero)
{
  struct fetch *f = calloc (1, sizeof *f);
  struct fetch *next, *prev = NULL;

  if (!f)
    return NULL;
  f->disk = d;
  f->offset = offset;
  f->end = end;
  f->refs = 1;
  f->zero = zero;
  if (zero)
    f->state = FETCH_HERE;
  else {
    f->buf = buffer_get (end - offset, &f->buf_size);
    if (!f->buf) {
      free (f);
      return NULL;
    }
    count (&d->fetch.backlog, f->buf_size);
  }
  cond_init (&f->changed);

  for (next = d->fetch.first; next && next->offset < offset; next = next->next)
    prev = next;
  f->prev = prev;
  f->next = next;
  if (prev)
    prev->next = f;
  else
    d->fetch.first = f;
  if (next)
    next->prev = f;
  f->in_table = true;
  return f;
}

/* No lock held. */

static void
queue_commit (struct fetch *f)
{
  struct copiers *c = &f->disk->copiers;

  {
    LOCK_SCOPE (&c->lock);
    f->queued = NULL;
    *c->tail = f;
    c->tail = &f->queued;
  }
  /* Whoever wakes would only wait for the lock.  f may be gone; the disk is
   * not, as its source is stopped and its guests have left first. */
  pthread_cond_signal (&c->wake);
}

static void arrived (struct source_req *req, int error);

static void
submit (struct fetch *f)
{
  struct disk *d = f->disk;
  enum source_prio prio;

  {
    LOCK_SCOPE (&d->fetch.lock);
    /* A guest may have joined since it was made. */
    if (f->demand)
      f->req.prio = SOURCE_DEMAND;
    prio = f->req.prio;
  }

  f->req.offset = f->offset;
  f->req.length = (uint32_t)(f->end - f->offset);
  /* A job's fetch waits as long as its source is away; a guest's not. */
  f->req.deadline = prio == SOURCE_BACKGROUND ? 0 : now_ms () + d->timeout;
  f->req.buf = f->buf;
  f->req.done = arrived;
  f->req.opaque = f;
  count (prio == SOURCE_DEMAND  ? &d->demand_fetches
         : prio == SOURCE_AHEAD ? &d->ahead_fetches
                                : &d->background_fetches,
         1);
  source_submit (d->src, &f->req);
}

/* On an I/O thread. */
static void
arrived (struct source_req *req, int error)
{
  struct fetch *f = req->opaque;
  struct disk *d = f->disk;
  bool again = false, keep = false;
  unsigned job;
  uint64_t offset = f->offset, end = f->end;

  if (error == 0) {
    count (&d->bytes_fetched, end - offset);
    /* The last granule's tail, past the disk's end. */
    if (f->buf_size > end - offset)
      memset (f->buf + (end - offset), 0,
              min_u64 (f->buf_size - (end - offset),
                       round_up (end, d->granule) - end));
  }
  {
    LOCK_SCOPE (&d->fetch.lock);

    job = f->job;
    if (error == ECANCELED && f->promote) {
      f->promote = false;
      f->req.prio = SOURCE_DEMAND;
      again = true;
    }
    else if (error) {
      f->state = FETCH_FAILED;
      f->error = error;
    }
    else {
      f->state = FETCH_HERE;
      keep = !(f->discard && !f->demand) && !f->passing;
    }
    if (!again) {
      if (!keep) {
        table_remove (f);
        f->committed = true;
      }
      pthread_cond_broadcast (&f->changed);
    }
  }
  if (again) {
    submit (f);
    return;
  }
  if (keep) {
    queue_commit (f);
    return;
  }
  if (job)
    d->fetch.ended (d, job, offset, end, error, 0);
  LOCK_SCOPE (&d->fetch.lock);
  fetch_unref (f);
}

void
fetch_on_end (struct disk *d, fetch_ended_fn ended)
{
  d->fetch.ended = ended;
}

void
fetch_set_full (struct disk *d, uint64_t offset, uint64_t end)
{
  LOCK_SCOPE (&d->fetch.lock);
  d->fetch.full_offset = offset;
  d->fetch.full_end = end;
}

/* No lock is held but a claim.  Do zeros at offset get blocks in the store? */
static bool
wants_full (struct disk *d, uint64_t offset)
{
  LOCK_SCOPE (&d->fetch.lock);
  return offset >= d->fetch.full_offset && offset < d->fetch.full_end;
}

/* Committing. */

/* Absent granules [offset, end) become zeros.  A claim covers them.  What the
 * store holds there goes: an earlier crash may have left bytes (I6).  0 or
 * errno. */
static int
zero_claimed (struct disk *d, uint64_t offset, uint64_t end, bool full,
              enum map_mark how)
{
  int err;

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

/* Call for each absent run of [offset, end), under the claim. */
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
fetch_zero_range (struct disk *d, uint64_t offset, uint64_t end, bool full)
{
  /* Zeros may have to be written: then in steps, so that a guest's write
   * never waits long for the claim. */
  uint64_t step
      = full || store_zero_is_slow (d->store) ? SLOW_ZERO_LIMIT : ZERO_LIMIT;
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

/* Granules [g, end) of the fetch are absent and under our claim. */
static int
commit_run_of (struct disk *d, const struct fetch *f, uint64_t g, uint64_t end,
               bool *wrote)
{
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
      err = zero_claimed (d, start, stop, wants_full (d, start), MAP_COPIED);
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

/* *dropped: nothing was written, as the job that asked has ended. */
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
    f->committing = !*dropped;
  }
  while (!*dropped && g < last && err == 0) {
    enum map_state state = map_run (d->map, g, last, &stop);

    /* Looked at again under the claim: what the guest wrote since stays. */
    if (state == MAP_ABSENT)
      err = f->zero ? zero_claimed (d, granule_offset (d, g),
                                    granule_offset (d, stop),
                                    wants_full (d, f->offset), MAP_HOLE)
                    : commit_run_of (d, f, g, stop, &wrote);
    else if (state == MAP_DAMAGED)
      err = EIO;
    /* Parts of writes that wait for this very fetch; an absent granule
     * keeps them waiting. */
    if (err == 0)
      parked_apply (d, g, stop);
    g = stop;
  }
  claim_drop (&d->claims, &c);
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
    d->fetch.ended (d, f->job, f->offset, f->end, 0, err);
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
    /* As it was then: who joined since must ask again. */
    f->kept = !dropped;
  }
  table_remove (f);
  f->committed = true;
  f->committing = false;
  pthread_cond_broadcast (&f->changed);
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
      while (!c->first && !c->stop)
        pthread_cond_wait (&c->wake, &c->lock);
      f = c->first;
      if (!f)
        return NULL;
      c->first = f->queued;
      if (!c->first)
        c->tail = &c->first;
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

void
fetch_buffers_free (void)
{
  LOCK_SCOPE (&pool.lock);
  for (unsigned c = 0; c < POOL_CLASSES; c++)
    while (pool.nr[c] > 0)
      munmap (pool_take (c), pool_size[c]);
}

/* Asking. */

/* How much of a run of known zeros becomes local at once. */
static uint64_t
zero_limit (struct disk *d)
{
  return store_zero_is_slow (d->store) ? SLOW_ZERO_LIMIT : ZERO_LIMIT;
}

/* Have the map of [offset, end) in memory: the table's lock is wanted by the
 * I/O threads of all disks, and must not wait for this one's sidecar. */
static void
load_map (struct disk *d, uint64_t offset, uint64_t end)
{
  map_live_bytes (d->map, granule_floor (d, offset), granule_ceil (d, end));
}

/* What can be fetched from `at` in one go: absent, not in flight, of one
 * kind.  The table's lock is held.  False: nothing there.  Ends on a granule
 * or the disk's end. */
static bool
next_gap (struct disk *d, uint64_t at, uint64_t limit, uint64_t most,
          uint64_t *start, uint64_t *end, bool *zero)
{
  while (at < limit) {
    uint64_t g = granule_floor (d, at);
    struct fetch *f = table_find (d, at);
    enum extents_kind kind;
    uint64_t stop;
    unsigned flags;

    if (f && f->offset <= at) {
      at = f->end;
      continue;
    }
    if (map_run (d->map, g, granule_ceil (d, limit), &stop) != MAP_ABSENT) {
      at = granule_offset (d, stop);
      continue;
    }
    *start = granule_offset (d, g);
    *end = granule_offset (d, stop);
    if (f)
      *end = min_u64 (*end, f->offset);
    kind = extents_run (d->ext, *start, *end, end, &flags);
    *zero = kind == EXTENTS_ZERO;
    *end = min_u64 (*end, *start + most);
    return true;
  }
  return false;
}

static bool
is_gated (struct disk *d)
{
  return __atomic_load_n (&d->gated, __ATOMIC_ACQUIRE);
}

int
fetch_get (struct disk *d, uint64_t offset, uint64_t limit,
           enum source_prio prio, struct fetch_piece *piece)
{
  uint64_t g = granule_floor (d, offset), stop;
  struct fetch *f, *cancel = NULL, *made = NULL;
  uint64_t loaded = 0;
  unsigned flags;

  if (extents_run (d->ext, granule_offset (d, g), limit, &stop, &flags)
      == EXTENTS_ZERO) {
    loaded = min_u64 (d->size, granule_offset (d, g) + zero_limit (d));
    load_map (d, offset, loaded);
  }
  {
    LOCK_SCOPE (&d->fetch.lock);

    f = table_find (d, offset);
    if (f && f->offset <= offset) {
      f->refs++;
      f->demand |= prio == SOURCE_DEMAND;
      *piece = (struct fetch_piece){ f, offset, min_u64 (limit, f->end), false,
                                     NULL };
      if (prio == SOURCE_DEMAND && f->state == FETCH_ASKED && !f->promote
          && f->req.prio != SOURCE_DEMAND) {
        /* It may still wait behind other background work. */
        f->promote = true;
        f->refs++;
        cancel = f;
      }
    }
    else {
      enum map_state state
          = map_run (d->map, g, granule_ceil (d, limit), &stop);
      enum extents_kind kind;
      uint64_t start = granule_offset (d, g), end;

      if (state == MAP_LIVE)
        return 0;
      if (state == MAP_DAMAGED) {
        errno = EIO;
        return -1;
      }
      if (is_gated (d)) {
        errno = ESHUTDOWN;
        return -1;
      }
      end = granule_offset (d, stop);
      if (f)
        end = min_u64 (end, f->offset);
      kind = extents_run (d->ext, start, end, &end, &flags);
      if (kind == EXTENTS_ZERO) {
        uint64_t wide_start, wide_end;
        bool zero;

        /* The whole run, or what of it is near, becomes local at once. */
        if (next_gap (d, start, loaded, ZERO_LIMIT, &wide_start, &wide_end,
                      &zero)
            && wide_start == start && zero)
          end = wide_end;
      }
      else
        end = min_u64 (end, start + SOURCE_MAX_REQUEST);
      f = fetch_new (d, start, end, kind == EXTENTS_ZERO);
      if (!f) {
        errno = ENOMEM;
        return -1;
      }
      f->demand = prio == SOURCE_DEMAND;
      f->passing = d->read_only
                   || (prio == SOURCE_DEMAND && backlog (d) > DEMAND_LIMIT);
      f->refs++;
      /* A zero one is there already, and settles on its own. */
      if (f->zero && f->passing) {
        table_remove (f);
        f->committed = true;
        fetch_unref (f);
      }
      else
        made = f;
      *piece
          = (struct fetch_piece){ f, offset, min_u64 (limit, end), true, NULL };
      f->req.prio = prio;
    }
  }
  if (made && made->zero)
    queue_commit (made);
  else if (made)
    submit (made);
  if (cancel) {
    bool dropped = source_cancel (d->src, &cancel->req);

    LOCK_SCOPE (&d->fetch.lock);
    if (!dropped)
      cancel->promote = false;
    fetch_unref (cancel);
  }
  return 1;
}

/* Let it go; the lock is held. */
static void
piece_drop (struct fetch_piece *piece)
{
  fetch_unref (piece->fetch);
  piece->fetch = NULL;
}

int
fetch_take (struct disk *d, struct fetch_piece *piece, void *dst,
            uint64_t deadline)
{
  struct fetch *f = piece->fetch;
  struct timespec until = ms_to_timespec (deadline);
  int err = 0;

  {
    LOCK_SCOPE (&d->fetch.lock);
    while (f->state == FETCH_ASKED) {
      if (is_gated (d))
        err = ESHUTDOWN;
      else if (piece->abandon
               && __atomic_load_n (piece->abandon, __ATOMIC_ACQUIRE))
        err = ECANCELED;
      else if (pthread_cond_timedwait (&f->changed, &d->fetch.lock, &until)
               == ETIMEDOUT)
        err = f->state == FETCH_ASKED ? ETIMEDOUT : 0;
      if (err)
        break;
    }
    /* One that was out of time was so for who asked first. */
    if (err == 0 && f->state == FETCH_FAILED)
      err = piece->own || f->error == ESHUTDOWN ? f->error : EAGAIN;
    if (err) {
      piece_drop (piece);
      return err;
    }
  }
  if (f->zero)
    memset (dst, 0, piece->end - piece->offset);
  else
    memcpy (dst, f->buf + (piece->offset - f->offset),
            piece->end - piece->offset);
  LOCK_SCOPE (&d->fetch.lock);
  piece_drop (piece);
  return 0;
}

void
fetch_drop (struct disk *d, struct fetch_piece *piece)
{
  LOCK_SCOPE (&d->fetch.lock);
  piece_drop (piece);
}

void
fetch_kick (struct disk *d, uint64_t offset)
{
  LOCK_SCOPE (&d->fetch.lock);
  struct fetch *f = table_find (d, offset);

  if (f && f->offset <= offset)
    pthread_cond_broadcast (&f->changed);
}

int
fetch_settle (struct disk *d, struct fetch_piece *piece, uint64_t deadline)
{
  struct fetch *f = piece->fetch;
  struct timespec until = ms_to_timespec (deadline);
  int err = 0;

  LOCK_SCOPE (&d->fetch.lock);
  while (f->state != FETCH_FAILED && !f->committed && err == 0) {
    if (is_gated (d))
      err = ESHUTDOWN;
    else if (pthread_cond_timedwait (&f->changed, &d->fetch.lock, &until)
                 == ETIMEDOUT
             && f->state != FETCH_FAILED && !f->committed)
      err = ETIMEDOUT;
  }
  if (err == 0 && f->error)
    err = piece->own ? f->error : EAGAIN;
  /* Read, but not kept: too much waited for the store, or its job ended. */
  else if (err == 0 && !f->kept)
    err = EAGAIN;
  piece_drop (piece);
  return err;
}

int
fetch_wait_room (struct disk *d, uint64_t deadline)
{
  while (backlog (d) + SOURCE_MAX_REQUEST > DEMAND_LIMIT) {
    if (is_gated (d))
      return ESHUTDOWN;
    if (now_ms () >= deadline)
      return ETIMEDOUT;
    usleep (10000);
  }
  return 0;
}

/* Is there nothing that could be planned near [offset, end)?  The map of what
 * could is in memory then. */
static bool
is_local_around (struct disk *d, uint64_t offset, uint64_t end)
{
  uint64_t reach = AHEAD_REACH * d->fetch.ahead.unit;
  uint64_t from = offset - min_u64 (offset, reach);
  uint64_t to = min_u64 (end + reach, d->size);

  if (map_is_live (d->map, granule_floor (d, from), granule_ceil (d, to)))
    return true;
  load_map (d, from, to);
  return false;
}

void
fetch_ahead (struct disk *d, uint64_t offset, uint32_t length, bool miss)
{
  struct ahead_plan plan;
  struct fetch *made[16];
  unsigned nr = 0;

  if (d->read_only || d->no_source || is_gated (d)
      || !__atomic_load_n (&d->source_up, __ATOMIC_ACQUIRE))
    return;
  /* Local data all around is the common case: it takes no lock. */
  if (is_local_around (d, offset, offset + length) && !miss)
    return;
  if (miss)
    extents_want (d->ext, offset, d->size, 1);
  {
    LOCK_SCOPE (&d->fetch.lock);

    ahead_read (&d->fetch.ahead, offset, length, miss, &plan);
    for (unsigned i = 0; i < plan.nr; i++) {
      uint64_t at = plan.range[i].offset;
      uint64_t limit = min_u64 (at + plan.range[i].length, d->size);
      uint64_t start, end;
      bool zero;

      while (nr < 16 && backlog (d) < BACKLOG_LIMIT
             && next_gap (d, at, limit, AHEAD_REQUEST, &start, &end, &zero)) {
        at = end;
        if (zero || start >= limit)
          continue;
        made[nr] = fetch_new (d, start, end, false);
        if (!made[nr])
          break;
        made[nr]->req.prio = SOURCE_AHEAD;
        nr++;
      }
    }
  }
  for (unsigned i = 0; i < nr; i++)
    submit (made[i]);
}

int
fetch_job (struct disk *d, unsigned job, uint64_t offset, uint64_t *end,
           uint64_t *made)
{
  struct fetch *f;
  uint64_t start, stop;
  bool zero;

  *made = 0;
  {
    LOCK_SCOPE (&d->fetch.lock);

    if (!next_gap (d, offset, *end, *end - offset, &start, &stop, &zero))
      return 0;
    /* Zeros are the pump's own business. */
    if (zero) {
      *end = start;
      return 0;
    }
    *end = min_u64 (stop, start + SOURCE_MAX_REQUEST);
    f = fetch_new (d, start, *end, false);
    if (!f) {
      errno = ENOMEM;
      return -1;
    }
    f->job = job;
    f->req.prio = SOURCE_BACKGROUND;
    *made = *end - start;
  }
  submit (f);
  return 1;
}

void
fetch_discard_job (struct disk *d)
{
  for (;;) {
    struct fetch *f;

    {
      LOCK_SCOPE (&d->fetch.lock);
      for (f = d->fetch.first; f; f = f->next)
        if (f->job && !f->discard) {
          f->discard = true;
          if (f->state == FETCH_ASKED && !f->promote && !f->demand)
            break;
        }
      if (!f)
        return;
      f->refs++;
    }
    source_cancel (d->src, &f->req);
    LOCK_SCOPE (&d->fetch.lock);
    fetch_unref (f);
  }
}

bool
fetch_job_is_writing (struct disk *d)
{
  LOCK_SCOPE (&d->fetch.lock);
  for (struct fetch *f = d->fetch.first; f; f = f->next)
    if (f->job && f->committing && !f->demand)
      return true;
  return false;
}

void
fetch_wake_all (struct disk *d)
{
  LOCK_SCOPE (&d->fetch.lock);
  for (struct fetch *f = d->fetch.first; f; f = f->next)
    pthread_cond_broadcast (&f->changed);
}

bool
fetch_table_is_empty (struct disk *d)
{
  LOCK_SCOPE (&d->fetch.lock);
  return d->fetch.first == NULL;
}
