/* fetch.c - asking for what is absent, and waiting for it.  See fetch.h.
 *
 * A fetch begins here: a guest's read, read-ahead or a job adds it to the table
 * and submits it to the source.  Its answer comes here (arrived, on an I/O
 * thread), wakes the readers, and is handed to a copier.
 *
 * Memory: what is asked for and not in the store yet is bounded for each disk.
 * A job sees to its own share (share.h), read-ahead stops at BACKLOG_LIMIT;
 * demand fetches over DEMAND_LIMIT are passed through without being kept, as a
 * guest's read must not wait for a slow store (G22).
 *
 * Locking: see fetch-table.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "extents.h"
#include "fetch.h"
#include "probe.h"

#define BACKLOG_LIMIT (UINT64_C (28) << 20)
#define DEMAND_LIMIT (UINT64_C (96) << 20)
#define AHEAD_REQUEST (UINT64_C (1) << 20)

/* The gate is closed: nothing new is to be asked for. */
static bool
is_gated (struct disk *d)
{
  return atomic_load_explicit (&d->gated, memory_order_acquire);
}

static void arrived (struct source_req *req, int error);

static void
submit (struct fetch *f)
{
  struct disk *d = f->disk;
  enum source_prio prio;

  {
    LOCK_SCOPE (&d->fetch.lock);
    /* A guest may have joined since the fetch was made. */
    if (f->demand)
      f->req.prio = SOURCE_DEMAND;
    prio = f->req.prio;
  }

  f->req.offset = f->offset;
  f->req.length = (uint32_t)(f->end - f->offset);
  /* A job's fetch waits for a source that is away; a guest's has a time. */
  f->req.deadline = f->job ? 0 : now_ms () + d->timeout;
  f->req.buf = f->buf;
  f->req.done = arrived;
  f->req.opaque = f;
  f->asked_ns = now_ns ();
  count (prio == SOURCE_DEMAND ? &d->demand_fetches
         : f->job              ? &d->background_fetches
                               : &d->ahead_fetches,
         1);
  source_submit (d->src, &f->req);
}

/* The source's answer, on an I/O thread. */
static void
arrived (struct source_req *req, int error)
{
  struct fetch *f = req->opaque;
  struct disk *d = f->disk;
  bool again = false, keep = false;
  unsigned job;
  uint64_t offset = f->offset, end = f->end;

  PROBE (fetch_arrived, d, offset, end, error);
  f->took_ns = now_ns () - f->asked_ns;
  if (error == 0) {
    count (&d->bytes_fetched, end - offset);
    /* The last granule's tail, past the disk's end, is zeros. */
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
      f->error = error;
      fetch_enter_state (f, FETCH_FAILED);
    }
    else {
      keep = !(f->discard && !f->demand) && !f->passing;
      fetch_enter_state (f, keep ? FETCH_HERE : FETCH_PASSED);
    }
  }
  if (again) {
    submit (f);
    return;
  }
  if (keep) {
    copier_queue (f);
    return;
  }
  if (job)
    d->fetch.ended (d, job, offset, end, error, 0, f->took_ns);
  LOCK_SCOPE (&d->fetch.lock);
  fetch_unref (f);
}

/* Read the map of [offset, end) into memory, before fetch_table.lock is taken:
 * I/O threads, which serve all disks, take that lock, and must not wait for
 * this disk's sidecar. */
static void
load_map (struct disk *d, uint64_t offset, uint64_t end)
{
  map_live_bytes (d->map, granule_floor (d, offset), granule_ceil (d, end));
}

/* The first range of [at, limit) that can be fetched
 * in one go: absent, not in flight, of one kind, at most `most` bytes.  It ends
 * on a granule or the disk's end.  False: there is none. */
static bool
next_gap (struct disk *d, uint64_t at, uint64_t limit, uint64_t most,
          uint64_t *start, uint64_t *end, bool *zero)
{
  ASSERT_HELD (&d->fetch.lock);
  while (at < limit) {
    uint64_t g = granule_floor (d, at);
    struct fetch *f = fetch_table_find (d, at);
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

/* Join f, which covers offset.  *cancel: set to it,
 * with a reference, if it is to be asked again as demand. */
static void
join (struct fetch *f, uint64_t offset, uint64_t limit, enum source_prio prio,
      struct fetch_piece *piece, struct fetch **cancel)
{
  ASSERT_HELD (&f->disk->fetch.lock);
  f->refs++;
  f->demand |= prio == SOURCE_DEMAND;
  *piece
      = (struct fetch_piece){ f, offset, min_u64 (limit, f->end), false, NULL };
  if (prio == SOURCE_DEMAND && f->state == FETCH_ASKED && !f->promote
      && f->req.prio != SOURCE_DEMAND) {
    /* The request may still wait behind others in the source's queues. */
    f->promote = true;
    f->refs++;
    *cancel = f;
  }
}

/* Make a fetch for offset, which is in none; next is
 * the one behind it, or NULL.  The map is in memory up to loaded (load_map).
 * *made: set to it if it is to be submitted or queued.  The result is that of
 * fetch_get. */
static int
make (struct disk *d, uint64_t offset, uint64_t limit, enum source_prio prio,
      const struct fetch *next, uint64_t loaded, struct fetch_piece *piece,
      struct fetch **made)
{
  uint64_t g = granule_floor (d, offset), stop;
  enum map_state state = map_run (d->map, g, granule_ceil (d, limit), &stop);
  uint64_t start = granule_offset (d, g), end;
  enum extents_kind kind;
  struct fetch *f;
  unsigned flags;

  ASSERT_HELD (&d->fetch.lock);
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
  if (next)
    end = min_u64 (end, next->offset);
  kind = extents_run (d->ext, start, end, &end, &flags);
  if (kind == EXTENTS_ZERO) {
    uint64_t wide_start, wide_end;
    bool zero;

    /* Zeros cost nothing to ask: the whole run becomes local, as far as its map
     * is in memory. */
    if (next_gap (d, start, loaded, d->size, &wide_start, &wide_end, &zero)
        && wide_start == start && zero)
      end = wide_end;
  }
  else
    end = min_u64 (end, start + SOURCE_MAX_REQUEST);
  f = fetch_table_add (d, start, end, kind == EXTENTS_ZERO);
  if (!f) {
    errno = ENOMEM;
    return -1;
  }
  PROBE (fetch_made, d, start, end, prio);
  f->demand = prio == SOURCE_DEMAND;
  f->passing = d->read_only
               || (prio == SOURCE_DEMAND && fetch_backlog (d) > DEMAND_LIMIT);
  f->refs++;
  f->req.prio = prio;
  *piece = (struct fetch_piece){ f, offset, min_u64 (limit, end), true, NULL };
  /* A fetch of known zeros is answered already, and its flight is over. */
  if (f->zero && f->passing) {
    fetch_enter_state (f, FETCH_PASSED);
    fetch_unref (f);
  }
  else
    *made = f;
  return 1;
}

int
fetch_get (struct disk *d, uint64_t offset, uint64_t limit,
           enum source_prio prio, struct fetch_piece *piece)
{
  uint64_t start = granule_offset (d, granule_floor (d, offset)), stop;
  struct fetch *f, *cancel = NULL, *made = NULL;
  uint64_t loaded = 0;
  unsigned flags;

  if (extents_run (d->ext, start, limit, &stop, &flags) == EXTENTS_ZERO) {
    loaded = min_u64 (d->size, start + copier_zero_step (d, false));
    load_map (d, offset, loaded);
  }
  {
    LOCK_SCOPE (&d->fetch.lock);

    f = fetch_table_find (d, offset);
    if (f && f->offset <= offset)
      join (f, offset, limit, prio, piece, &cancel);
    else {
      int r = make (d, offset, limit, prio, f, loaded, piece, &made);

      if (r != 1)
        return r;
    }
  }
  if (made && made->zero)
    copier_queue (made);
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
  int err = 0;

  {
    LOCK_SCOPE (&d->fetch.lock);
    while (f->state == FETCH_ASKED) {
      if (is_gated (d))
        err = ESHUTDOWN;
      else if (piece->abandon
               && atomic_load_explicit (piece->abandon, memory_order_acquire))
        err = ECANCELED;
      else if (!lock_wait_ms (&f->changed, &d->fetch.lock, deadline))
        err = f->state == FETCH_ASKED ? ETIMEDOUT : 0;
      if (err)
        break;
    }
    /* A fetch whose time was over may have had less time than this reader. */
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

int
fetch_settle (struct disk *d, struct fetch_piece *piece, uint64_t deadline)
{
  struct fetch *f = piece->fetch;
  int err = 0;

  LOCK_SCOPE (&d->fetch.lock);
  while (!fetch_has_ended (f) && err == 0) {
    if (is_gated (d))
      err = ESHUTDOWN;
    else if (!lock_wait_ms (&f->changed, &d->fetch.lock, deadline)
             && !fetch_has_ended (f))
      err = ETIMEDOUT;
  }
  if (err == 0 && f->error)
    err = piece->own ? f->error : EAGAIN;
  /* It was read, but not kept: too much waited for the store, or its job has
   * ended. */
  else if (err == 0 && f->state != FETCH_KEPT)
    err = EAGAIN;
  piece_drop (piece);
  return err;
}

int
fetch_wait_room (struct disk *d, uint64_t deadline)
{
  while (fetch_backlog (d) + SOURCE_MAX_REQUEST > DEMAND_LIMIT) {
    if (is_gated (d))
      return ESHUTDOWN;
    if (now_ms () >= deadline)
      return ETIMEDOUT;
    usleep (10000);
  }
  return 0;
}

/* Is all local that could be read ahead near [offset, end)?  If not, the map of
 * it is in memory when this returns. */
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
      || !atomic_load_explicit (&d->source_up, memory_order_acquire))
    return;
  /* Local data all around is the common case: no lock is taken for it. */
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

      while (nr < 16 && fetch_backlog (d) < BACKLOG_LIMIT
             && next_gap (d, at, limit, AHEAD_REQUEST, &start, &end, &zero)) {
        at = end;
        if (zero || start >= limit)
          continue;
        made[nr] = fetch_table_add (d, start, end, false);
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

uint64_t
fetch_replay (struct disk *d, uint64_t offset, uint64_t end, bool first)
{
  struct fetch *f;
  uint64_t start, stop;
  bool zero, wide;

  if (is_gated (d))
    return end;
  wide = source_has_background (d->src);
  load_map (d, offset, end);
  extents_want (d->ext, offset, end, 1);
  {
    LOCK_SCOPE (&d->fetch.lock);

    if (!next_gap (d, offset, end, AHEAD_REQUEST, &start, &stop, &zero)
        || start >= end)
      return end;
    if (zero)
      return stop;
    f = fetch_table_add (d, start, stop, false);
    if (!f)
      return end;
    /* A connection for the background may still have to be opened. */
    f->req.prio = first || !wide ? SOURCE_AHEAD : SOURCE_BACKGROUND;
    f->req.early = true;
  }
  submit (f);
  return stop;
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
    f = fetch_table_add (d, start, *end, false);
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
      TAILQ_FOREACH (f, &d->fetch.list, link)
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
  struct fetch *f;
  LOCK_SCOPE (&d->fetch.lock);

  TAILQ_FOREACH (f, &d->fetch.list, link)
    if (f->job && f->state == FETCH_COMMITTING && !f->demand)
      return true;
  return false;
}
