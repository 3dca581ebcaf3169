/* disk.c - policy: a guest's operation, split by the map.
 *
 * Reads: local runs come from the store, absent ones from the fetch table.
 *
 * A change (write, zero, trim) has a claim on its granules from the moment it
 * comes in.  What it looks at first, the map above all, may have to be read
 * from the sidecar.  A later change must not overtake it meanwhile: its client
 * may have gone, and another client may have been told that the later one is
 * done (G9).
 *
 * A granule that is local is marked as the guest's before its bytes are
 * changed, one that is absent after.  Readers see local bytes as soon as they
 * are in the store.  So nobody sees them whose flush does not make the bit
 * durable, whether the store's call succeeds, fails half way, or never returns.
 * Readers see an absent granule's bytes when it is marked: if that does not
 * come, nothing has changed.
 *
 * Whole granules, and edges that are local, are done at once.  An edge on an
 * absent granule is a read-modify-write: it is parked (parked.h), the claim is
 * given back, and the granule is fetched as a guest's read would.  So a write
 * whose client has gone is never applied after a later acknowledged one (G9),
 * and nobody who does not need the source waits for it (I4).
 *
 * Locking: the claims; no lock of its own.
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

/* A job goes slowly while there is a guest.  The clock is read to its tick, as
 * this is done for each operation. */
static void
note_guest (struct disk *d)
{
  uint64_t now = now_coarse_ms ();

  if (counted (&d->last_guest_op) != now)
    atomic_store_explicit (&d->last_guest_op, now, memory_order_relaxed);
}

/* Ask for the absent run [*at, end), piece by piece; *at: how far it got, as
 * the rest may be local by now.  *miss: set if any of it comes from the source.
 * 0 or errno. */
static int
ask_for (struct disk *d, uint64_t *at, uint64_t end, struct pieces *ps,
         bool *miss)
{
  while (*at < end) {
    struct fetch_piece *p = pieces_next (ps);
    int r;

    if (!p)
      return ENOMEM;
    r = fetch_get (d, *at, end, SOURCE_DEMAND, p);
    if (r != 1)
      return r == -1 ? errno : 0;
    *miss |= !p->fetch->zero;
    *at = p->end;
    ps->nr++;
  }
  return 0;
}

static int read_range (struct disk *d, char *buf, uint64_t offset, uint64_t end,
                       uint64_t deadline, bool ahead, bool first);

/* Wait for a piece: its bytes in dst, or, if dst is NULL, in the store.  The
 * rest is as for read_range. */
static int
take_piece (struct disk *d, struct fetch_piece *piece, char *dst,
            uint64_t deadline, bool first)
{
  uint64_t start = piece->offset, stop = piece->end;
  int err = dst ? fetch_take (d, piece, dst, deadline)
                : fetch_settle (d, piece, deadline);
  /* The fetch was another reader's, and failed, perhaps for bytes that this
   * piece does not have, or as that reader's time was over; or the guest has
   * written there meanwhile. */
  bool live = err
              && map_is_live (d->map, granule_floor (d, start),
                              granule_ceil (d, stop));

  if (!first)
    return live ? EAGAIN : err;
  while (live || (err == EAGAIN && now_ms () < deadline)) {
    live = false;
    err = read_range (d, dst, start, stop, deadline, false, false);
  }
  return err;
}

/* buf NULL: only make the range local.  deadline 0, of a read: the disk's
 * timeout, which begins when there is something to wait for.  0 or errno;
 * EAGAIN only if it is not the first attempt: the range is to be asked for
 * again. */
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
      if (err == 0)
        err = ask_for (d, &at, run, &ps, &miss);
    }
  }
  if (ahead && err == 0)
    fetch_ahead (d, offset, (uint32_t)(end - offset), miss);
  if (ps.nr > 0 && deadline == 0)
    deadline = now_ms () + d->timeout;

  for (size_t i = 0; i < ps.nr; i++) {
    struct fetch_piece *p = &ps.ptr[i];

    if (err)
      fetch_drop (d, p);
    else
      err = take_piece (d, p, buf ? buf + (p->offset - offset) : NULL, deadline,
                        first);
  }
  if (ps.ptr != ps.small)
    free (ps.ptr);
  return err;
}

int
disk_pread (struct disk *d, void *buf, uint64_t count_, uint64_t offset)
{
  int err = 0;
  bool ahead;

  if (disk_enter (d) == -1)
    return -1;
  PROBE (read_enter, d, offset, count_);
  count (&d->guest_reads, 1);
  if (!in_range (d, count_, offset))
    return disk_leave (d, EINVAL);
  ahead = !boot_note (d, offset, count_);
  if (map_is_complete (d->map)) {
    if (store_pread (d->store, buf, count_, offset) == -1)
      err = errno;
  }
  else {
    note_guest (d);
    err = read_range (d, buf, offset, offset + count_, 0, ahead, true);
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
  /* Back-pressure: a huge range is made local in steps, so that little is in
   * flight. */
  while (offset < end && err == 0 && !map_is_complete (d->map)
         && !d->read_only) {
    uint64_t stop = min_u64 (end, offset + (8u << 20));

    err = read_range (d, NULL, offset, stop, now_ms () + d->timeout, false,
                      true);
    offset = stop;
  }
  return disk_leave (d, err);
}

/* Parts that this thread has parked. */

/* fetch_get for a parked part: 1 *piece is held, 0 local by now, else
 * -errno. */
static int
parked_fetch (struct disk *d, const struct parked *p, struct fetch_piece *piece)
{
  int r = fetch_get (d, p->g << d->shift, granule_offset (d, p->g + 1),
                     SOURCE_DEMAND, piece);

  return r == -1 ? -errno : r;
}

/* See a part through that this thread has parked.  have: what parked_fetch
 * gave; *behind: set if W could not be written. */
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
  if (!atomic_load_explicit (&p->done, memory_order_acquire)) {
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

/* One change of the bytes [offset, end). */
struct change {
  struct disk *d;
  enum change_kind kind;
  const char *buf; /* of a write */
  uint64_t offset, end;
  unsigned flags;

  uint64_t g, last; /* its granules */
  /* What is done at once: all but edges on absent granules. */
  uint64_t lo, hi;
  struct edge edge[2];
  unsigned nr_edges;
  bool stable;  /* all of its granules are in S */
  bool behind;  /* W could not be written: commit before the reply */
  bool durable; /* what was done at once is, if sync_settle (synced) says so */
  uint64_t synced;
};

/* Parts of granules at both ends of the change. */

static void
add_edge (struct change *c, uint64_t start, uint64_t stop)
{
  c->edge[c->nr_edges++].part
      = (struct parked){ .g = granule_floor (c->d, start),
                         .offset = start,
                         .length = stop - start,
                         .buf = c->buf ? c->buf + (start - c->offset) : NULL };
}

static void
find_edges (struct change *c)
{
  const struct disk *d = c->d;
  const uint64_t mask = d->granule - 1;
  bool head = c->offset & mask;
  bool tail = (c->end & mask) && c->end != d->size;

  if (head || (tail && c->last - c->g == 1))
    add_edge (c, c->offset, min_u64 (c->end, (c->g + 1) << d->shift));
  if (tail && c->last - c->g > 1)
    add_edge (c, (c->last - 1) << d->shift, c->end);
}

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

/* Which edges are done at once, and which wait for a fetch?  Parts that are
 * parked on the first kind came before: they are applied.  0 or errno. */
static int
sort_edges (struct change *c)
{
  int err = 0;

  for (unsigned i = 0; i < c->nr_edges && err == 0; i++) {
    struct edge *e = &c->edge[i];

    err = edge_look (c->d, e);
    if (c->kind == CHANGE_TRIM)
      e->live = false;
    e->waits = !e->live && c->kind != CHANGE_TRIM;
    if (e->waits && (c->flags & DISK_FAST_ZERO))
      err = ENOTSUP; /* fast means that nothing is fetched */
    if (!e->live) {
      if (e->part.offset == c->lo)
        c->lo += e->part.length;
      else
        c->hi -= e->part.length;
    }
    else if (err == 0)
      parked_apply (c->d, e->part.g, e->part.g + 1);
  }
  return err;
}

/* See the parked edges through.  0 or the first errno. */
static int
finish_edges (struct change *c)
{
  struct disk *d = c->d;
  uint64_t deadline = now_ms () + d->timeout;
  CLEANUP_FREE char *bytes = malloc (d->granule);
  int err = 0;

  /* Both are asked for before either is waited for. */
  for (unsigned i = 0; i < c->nr_edges; i++) {
    struct edge *e = &c->edge[i];

    if (e->waits)
      e->have = bytes ? parked_fetch (d, &e->part, &e->piece) : -ENOMEM;
  }
  for (unsigned i = 0; i < c->nr_edges; i++) {
    struct edge *e = &c->edge[i];
    int r = e->waits ? parked_wait (d, &e->part, &e->piece, e->have, bytes,
                                    deadline, &c->behind)
                     : 0;

    if (err == 0)
      err = r;
  }
  return err;
}

/* Write a range whose bits are in S once more, with the sync: a failure is that
 * of the sync then, not of the write (G24).  0: it is durable if
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

/* Change the bytes [lo, hi): mark what is local before, what is absent after.
 * 0 or errno. */
static int
change_now (struct change *c, const char *buf)
{
  struct disk *d = c->d;
  uint64_t lo = c->lo, hi = c->hi;
  uint64_t g = granule_floor (d, lo), last = granule_ceil (d, hi);
  bool punch = c->kind == CHANGE_TRIM || (c->flags & DISK_MAY_TRIM);
  int r, err = 0;

  ASSERT_CLAIMED (&d->claims, g, last);
  if (!c->stable) {
    r = proof_before (d, g, last, buf, lo, hi);
    if (r == -1)
      return errno;
    c->behind |= r == 1;
  }
  if (buf ? store_pwrite (d->store, buf, hi - lo, lo)
          : store_zero (d->store, hi - lo, lo, punch)) {
    err = errno;
    proof_failed (d, g, last);
  }
  writeback_changed (d, lo, hi);
  if (err == 0 && !c->stable) {
    r = proof_after (d, g, last, MAP_GUEST, buf, lo, hi);
    if (r == -1)
      err = errno;
    c->behind |= r == 1;
  }
  return err;
}

/* What is done at once of the change.  0 or errno. */
static int
do_at_once (struct change *c)
{
  struct disk *d = c->d;
  const char *buf
      = c->kind == CHANGE_WRITE ? c->buf + (c->lo - c->offset) : NULL;
  int err = change_now (c, buf);

  if (err == 0 && buf && (c->flags & DISK_FUA) && c->stable) {
    int r = write_dsync (d, buf, c->hi - c->lo, c->lo, &c->synced);

    if (r == -1)
      err = errno;
    writeback_changed (d, c->lo, c->hi);
    c->durable = r == 0;
  }
  if (err == 0)
    parked_cancel (d, granule_floor (d, c->lo), granule_ceil (d, c->hi),
                   c->behind);
  return err;
}

/* The part of a change that is made under its claim: do at once what can be,
 * and park the edges that wait.  0 or errno; nothing is parked then. */
static int
change_claimed (struct change *c)
{
  struct disk *d = c->d;
  int err = 0;

  /* Durable at once is not to be had any more (G24). */
  if (c->flags & DISK_FUA)
    err = commit_failed (d);
  /* Nothing is written where the map is damaged: a backup of the sidecar may
   * still say that what the store holds there is the truth (G18). */
  if (err == 0 && !c->stable && is_damaged (d, c->g, c->last))
    err = EIO;
  if (err == 0)
    err = sort_edges (c);
  if (err == 0 && c->lo < c->hi)
    err = do_at_once (c);
  for (unsigned i = 0; i < c->nr_edges && err == 0; i++)
    if (c->edge[i].waits)
      park (d, &c->edge[i].part);
  return err;
}

/* 0 or errno. */
static int
change (struct change *c)
{
  struct disk *d = c->d;
  struct claim claim;
  int err;

  c->g = granule_floor (d, c->offset);
  c->last = granule_ceil (d, c->end);
  c->lo = c->offset;
  c->hi = c->end;
  find_edges (c);

  /* The claim comes first: the thread may wait for whatever it looks at. */
  claim_take (&d->claims, &claim, c->g, c->last);
  c->stable = map_is_stable (d->map, c->g, c->last);
  err = change_claimed (c);
  claim_drop (&d->claims, &claim);
  if (err) {
    /* A part of it may be seen, and W does not know of it. */
    if (c->behind)
      commit_run (d, 0);
    return err;
  }
  if (c->durable)
    err = sync_settle (d, c->synced);
  if (c->edge[0].waits || c->edge[1].waits) {
    int r = finish_edges (c);

    if (err == 0)
      err = r;
  }
  if (err == 0 && (c->behind || ((c->flags & DISK_FUA) && !c->durable)))
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
  else if (count_ > 0) {
    struct change c = { .d = d,
                        .kind = kind,
                        .buf = buf,
                        .offset = offset,
                        .end = offset + count_,
                        .flags = flags };

    err = change (&c);
  }
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
