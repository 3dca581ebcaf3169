/* disk.c - policy: a guest's operation, split by the map.
 *
 * Reads: local runs come from the store, absent ones from the fetch table.
 *
 * Changes (write, zero, trim) hold a claim on their granules from the moment
 * they come in: what they look at first, the map above all, may have to be read
 * from the sidecar, and a change that waits for that must not be overtaken by
 * a later one, as its client may have gone, and somebody else been told that
 * the later one is done (G9).
 *
 * A granule that is local is marked as the guest's before its bytes are
 * changed, one that is absent after.  Local bytes are seen as soon as they are
 * in the store: so they are seen by nobody whose flush does not make the bit
 * durable, whether the store's call succeeds, fails half way, or never
 * returns.  An absent granule's bytes are seen when it is marked: if that does
 * not come, nothing has changed.
 *
 * Whole granules, and edges that are local, are done at once.  An edge on an
 * absent granule is a read-modify-write: it is parked (parked.h), the claim is
 * given back, and the granule is fetched as a guest's read would.  So a write
 * whose client has gone is never applied after a later acknowledged one (G9),
 * and nobody who does not need the source waits for it (I4).
 *
 * Locking: claims, and what is called; no lock of its own.
 *
 * Left out: what makes bits durable (commit.c), copying (fetch.c), block status
 * (look.c).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fetch.h"
#include "internal.h"
#include "parked.h"
#include "probe.h"
#include "proof.h"

/* Reading. */

#define SMALL 4u

struct pieces {
  struct fetch_piece small[SMALL], *ptr;
  size_t nr, cap;
};

static struct fetch_piece *
pieces_next (struct pieces *ps)
{
  if (ps->nr == ps->cap) {
    size_t cap = 2 * ps->cap;
    struct fetch_piece *p = malloc (cap * sizeof *p);

    if (!p)
      return NULL;
    memcpy (p, ps->ptr, ps->nr * sizeof *p);
    if (ps->ptr != ps->small)
      free (ps->ptr);
    ps->ptr = p;
    ps->cap = cap;
  }
  return &ps->ptr[ps->nr];
}

/* A job goes slowly while there is a guest.  To the tick of the clock, as that
 * is asked for each operation. */
static void
note_guest (struct disk *d)
{
  struct timespec ts;
  uint64_t now;

  clock_gettime (CLOCK_MONOTONIC_COARSE, &ts);
  now = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
  if (counted (&d->last_guest_op) != now)
    __atomic_store_n (&d->last_guest_op, now, __ATOMIC_RELAXED);
}

/* buf NULL: only make it local.  deadline 0, of a read: the timeout, from when
 * there is something to wait for.  0 or errno.  Not the first time: EAGAIN if
 * it has to be asked for again. */
static int
read_range (struct disk *d, char *buf, uint64_t offset, uint64_t end,
            uint64_t deadline, bool ahead, bool first)
{
  struct pieces ps = { .cap = SMALL };
  uint64_t at = offset;
  bool miss = false;
  int err = 0;

  ps.ptr = ps.small;
  while (at < end && err == 0) {
    uint64_t stop, run;
    enum map_state state
        = map_run (d->map, granule_floor (d, at), granule_ceil (d, end), &stop);

    run = min_u64 (stop << d->shift, end);
    switch (state) {
    case MAP_DAMAGED:
      err = EIO;
      break;
    case MAP_LIVE:
      if (buf
          && store_pread (d->store, buf + (at - offset), run - at, at) == -1)
        err = errno;
      at = run;
      break;
    case MAP_ABSENT:
      if (!buf)
        err = fetch_wait_room (d, deadline);
      while (at < run && err == 0) {
        struct fetch_piece *p = pieces_next (&ps);
        int r = p ? fetch_get (d, at, run, SOURCE_DEMAND, p) : -1;

        if (r == 0) /* local by now */
          break;
        if (r == -1)
          err = p ? errno : ENOMEM;
        else {
          miss |= !p->fetch->zero;
          at = p->end;
          ps.nr++;
        }
      }
    }
  }
  if (ahead && err == 0)
    fetch_ahead (d, offset, (uint32_t)(end - offset), miss);
  if (ps.nr > 0 && deadline == 0)
    deadline = now_ms () + d->timeout;

  for (size_t i = 0; i < ps.nr; i++) {
    uint64_t start = ps.ptr[i].offset, stop = ps.ptr[i].end;
    bool live;
    int e;

    if (err) {
      fetch_drop (d, &ps.ptr[i]);
      continue;
    }
    if (buf)
      e = fetch_take (d, &ps.ptr[i], buf + (start - offset), deadline);
    else
      e = fetch_settle (d, &ps.ptr[i], deadline);
    /* Another's fetch failed, perhaps for bytes that are not ours, or as its
     * time was over; or the guest has written there meanwhile. */
    live = e
           && map_is_live (d->map, granule_floor (d, start),
                           granule_ceil (d, stop));
    if (live && !first)
      e = EAGAIN;
    while (first && (live || (e == EAGAIN && now_ms () < deadline))) {
      live = false;
      e = read_range (d, buf ? buf + (start - offset) : NULL, start, stop,
                      deadline, false, false);
    }
    err = e;
  }
  if (ps.ptr != ps.small)
    free (ps.ptr);
  return err;
}

int
disk_pread (struct disk *d, void *buf, uint64_t count_, uint64_t offset)
{
  int err = 0;

  if (disk_enter (d) == -1)
    return -1;
  PROBE (read_enter, d, offset, count_);
  count (&d->guest_reads, 1);
  if (!in_range (d, count_, offset))
    return disk_leave (d, EINVAL);
  if (map_is_complete (d->map)) {
    if (store_pread (d->store, buf, count_, offset) == -1)
      err = errno;
  }
  else {
    note_guest (d);
    err = read_range (d, buf, offset, offset + count_, 0, true, true);
  }
  PROBE (read_leave, d, offset, err);
  return disk_leave (d, err);
}

int
disk_cache (struct disk *d, uint64_t count_, uint64_t offset)
{
  uint64_t end = offset + count_;
  int err = 0;

  if (disk_enter (d) == -1)
    return -1;
  if (!in_range (d, count_, offset))
    return disk_leave (d, EINVAL);
  /* In steps, so that little is in flight for a huge range. */
  while (offset < end && err == 0 && !map_is_complete (d->map)
         && !d->read_only) {
    uint64_t stop = min_u64 (end, offset + (8u << 20));

    err = read_range (d, NULL, offset, stop, now_ms () + d->timeout, false,
                      true);
    offset = stop;
  }
  return disk_leave (d, err);
}

/* The owner of a parked part. */

/* fetch_get for a parked part: 1 held, 0 local by now, else -errno. */
static int
parked_fetch (struct disk *d, const struct parked *p, struct fetch_piece *piece)
{
  int r = fetch_get (d, p->g << d->shift, granule_offset (d, p->g + 1),
                     SOURCE_DEMAND, piece);

  return r == -1 ? -errno : r;
}

/* The owner's side: see its part through.  have is parked_fetch's, *behind as
 * map_mark's 1. */
static int
parked_wait (struct disk *d, struct parked *p, struct fetch_piece *piece,
             int have, char *bytes, uint64_t deadline, bool *behind)
{
  int err = 0;
  struct claim c;
  uint64_t stop;

  for (;;) {
    if (have == 0)
      err = 0;
    else if (have < 0)
      err = -have;
    else {
      piece->abandon = &p->done;
      err = fetch_take (d, piece, bytes, deadline);
    }
    if (err != EAGAIN || now_ms () >= deadline)
      break;
    have = parked_fetch (d, p, piece);
  }

  claim_take (&d->claims, &c, p->g, p->g + 1);
  if (!__atomic_load_n (&p->done, __ATOMIC_ACQUIRE)) {
    enum map_state state = map_run (d->map, p->g, p->g + 1, &stop);

    if (state == MAP_LIVE)
      parked_apply (d, p->g, p->g + 1);
    else if (state == MAP_ABSENT && err == 0 && have == 1)
      parked_merge (d, p->g, bytes);
    else {
      /* It could not be fetched, or its map cannot be read: nothing was
       * changed. */
      parked_give_up (d, p, err ? err : EIO);
    }
  }
  claim_drop (&d->claims, &c);
  return parked_result (d, p, behind);
}

/* Changing. */

enum change_kind { CHANGE_WRITE, CHANGE_ZERO, CHANGE_TRIM };

struct edge {
  struct parked part;
  struct fetch_piece piece;
  int have;
  bool live, waits;
};

static int
edge_look (struct disk *d, struct edge *e)
{
  uint64_t stop;

  switch (map_run (d->map, e->part.g, e->part.g + 1, &stop)) {
  case MAP_LIVE:
    e->live = true;
    return 0;
  case MAP_ABSENT:
    return 0;
  default:
    return EIO;
  }
}

/* Of a range whose bits are in S, just written.  0: it is durable if
 * sync_settle (*nr) says so; 1: it is to be committed; -1: errno. */
static int
write_dsync (struct disk *d, const char *buf, uint64_t length, uint64_t offset,
             uint64_t *nr)
{
  struct syncing s;
  int r, err = 0;

  sync_begin (d, &s);
  r = store_pwrite_dsync (d->store, buf, length, offset);
  if (r == -1)
    err = errno;
  *nr = sync_leave (d, &s, err);
  errno = err;
  return r;
}

static bool
is_damaged (struct disk *d, uint64_t g, uint64_t end)
{
  for (uint64_t stop; g < end; g = stop)
    if (map_run (d->map, g, end, &stop) == MAP_DAMAGED)
      return true;
  return false;
}

/* What is done of [lo, hi) at once, under its claim.  *behind as map_mark's 1,
 * also when it fails.  0 or errno. */
static int
change_now (struct disk *d, const char *buf, uint64_t lo, uint64_t hi,
            bool punch, bool stable, bool *behind)
{
  uint64_t g = granule_floor (d, lo), last = granule_ceil (d, hi);
  int r, err = 0;

  ASSERT_CLAIMED (&d->claims, g, last);
  if (!stable) {
    r = proof_before (d, g, last, buf, lo, hi);
    if (r == -1)
      return errno;
    *behind |= r == 1;
  }
  if (buf ? store_pwrite (d->store, buf, hi - lo, lo)
          : store_zero (d->store, hi - lo, lo, punch)) {
    err = errno;
    proof_failed (d, g, last);
  }
  writeback_changed (d, lo, hi);
  if (err == 0 && !stable) {
    r = proof_after (d, g, last, MAP_GUEST, buf, lo, hi);
    if (r == -1)
      err = errno;
    *behind |= r == 1;
  }
  return err;
}

/* 0 or errno. */
static int
change (struct disk *d, enum change_kind kind, const char *buf, uint64_t offset,
        uint64_t end, unsigned flags)
{
  const uint64_t mask = d->granule - 1;
  uint64_t g = granule_floor (d, offset), last = granule_ceil (d, end);
  uint64_t lo = offset, hi = end;
  bool fua = flags & DISK_FUA, behind = false, durable = false;
  bool stable;
  bool punch = kind == CHANGE_TRIM || (flags & DISK_MAY_TRIM);
  bool head = offset & mask, tail = (end & mask) && end != d->size;
  struct edge edge[2] = { 0 };
  unsigned nr_edges = 0;
  uint64_t synced = 0;
  struct claim c;
  int err = 0;

  if (head || (tail && last - g == 1)) {
    edge[0].part = (struct parked){ .g = g,
                                    .offset = offset,
                                    .length = min_u64 (end, (g + 1) << d->shift)
                                              - offset,
                                    .buf = buf };
    nr_edges = 1;
  }
  if (tail && (last - g > 1 || !nr_edges)) {
    uint64_t start = (last - 1) << d->shift;

    edge[nr_edges].part
        = (struct parked){ .g = last - 1,
                           .offset = start,
                           .length = end - start,
                           .buf = buf ? buf + (start - offset) : NULL };
    nr_edges++;
  }

  /* First of all: whatever is looked at may be waited for. */
  claim_take (&d->claims, &c, g, last);
  stable = map_is_stable (d->map, g, last);
  /* Durable at once is not to be had any more (G24). */
  if (fua && commit_failed (d))
    err = commit_failed (d);
  /* Nothing is written where the map is damaged: a backup of the sidecar may
   * still say that what the store holds there is the truth (G18). */
  else if (!stable && is_damaged (d, g, last))
    err = EIO;
  for (unsigned i = 0; i < nr_edges && err == 0; i++) {
    struct edge *e = &edge[i];

    err = edge_look (d, e);
    if (kind == CHANGE_TRIM)
      e->live = false;
    e->waits = !e->live && kind != CHANGE_TRIM;
    if (e->waits && (flags & DISK_FAST_ZERO))
      err = ENOTSUP; /* fast means that nothing is fetched */
    if (!e->live) {
      /* Its bytes are not part of what is done at once. */
      if (e->part.offset == lo)
        lo += e->part.length;
      else
        hi -= e->part.length;
    }
    else if (err == 0)
      parked_apply (d, e->part.g, e->part.g + 1);
  }
  if (err == 0 && lo < hi) {
    const char *p = kind == CHANGE_WRITE ? buf + (lo - offset) : NULL;

    err = change_now (d, p, lo, hi, punch, stable, &behind);
    if (err == 0 && p && fua && stable) {
      /* Once more, with the sync: if that fails it was not the write (G24). */
      int r = write_dsync (d, p, hi - lo, lo, &synced);

      if (r == -1)
        err = errno;
      writeback_changed (d, lo, hi);
      durable = r == 0;
    }
    if (err == 0)
      parked_cancel (d, granule_floor (d, lo), granule_ceil (d, hi), behind);
  }
  for (unsigned i = 0; i < nr_edges; i++)
    if (edge[i].waits) {
      if (err)
        edge[i].waits = false;
      else
        park (d, &edge[i].part);
    }
  claim_drop (&d->claims, &c);
  if (err) {
    /* A part of it may be seen, and W does not know of it. */
    if (behind)
      commit_run (d, 0);
    return err;
  }
  if (durable)
    err = sync_settle (d, synced);

  if (edge[0].waits || edge[1].waits) {
    uint64_t deadline = now_ms () + d->timeout;
    CLEANUP_FREE char *bytes = malloc (d->granule);

    /* Both are asked for before either is waited for. */
    for (unsigned i = 0; i < nr_edges; i++)
      if (edge[i].waits)
        edge[i].have
            = bytes ? parked_fetch (d, &edge[i].part, &edge[i].piece) : -ENOMEM;
    for (unsigned i = 0; i < nr_edges; i++)
      if (edge[i].waits) {
        int e = parked_wait (d, &edge[i].part, &edge[i].piece, edge[i].have,
                             bytes, deadline, &behind);

        if (e && !err)
          err = e;
      }
  }
  if (err == 0 && (behind || (fua && !durable)))
    err = commit_run (d, 0);
  return err;
}

static int
guest_change (struct disk *d, enum change_kind kind, const void *buf,
              uint64_t count_, uint64_t offset, unsigned flags)
{
  int err = 0;

  if (disk_enter (d) == -1)
    return -1;
  PROBE (change_enter, d, kind, offset, count_);
  count (&d->guest_writes, 1);
  if (!map_is_complete (d->map))
    note_guest (d);
  if (d->read_only)
    err = EROFS;
  else if (!in_range (d, count_, offset))
    err = kind == CHANGE_WRITE ? ENOSPC : EINVAL;
  else if (count_ > 0)
    err = change (d, kind, buf, offset, offset + count_, flags);
  PROBE (change_leave, d, offset, err);
  return disk_leave (d, err);
}

int
disk_pwrite (struct disk *d, const void *buf, uint64_t count_, uint64_t offset,
             unsigned flags)
{
  return guest_change (d, CHANGE_WRITE, buf, count_, offset, flags);
}

int
disk_zero (struct disk *d, uint64_t count_, uint64_t offset, unsigned flags)
{
  /* Fast means: no zeros are written.  And nothing is fetched: change sees to
   * that, when it has its claim. */
  if ((flags & DISK_FAST_ZERO)
      && (!in_range (d, count_, offset) || count_ == 0
          || !store_fast_zero (d->store, count_, offset,
                               flags & DISK_MAY_TRIM))) {
    errno = ENOTSUP;
    return -1;
  }
  return guest_change (d, CHANGE_ZERO, NULL, count_, offset, flags);
}

int
disk_trim (struct disk *d, uint64_t count_, uint64_t offset, unsigned flags)
{
  return guest_change (d, CHANGE_TRIM, NULL, count_, offset, flags);
}

int
disk_flush (struct disk *d)
{
  if (disk_enter (d) == -1)
    return -1;
  count (&d->flushes, 1);
  return disk_leave (d, commit_run (d, 0));
}
