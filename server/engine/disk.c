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
 * Whole granules, and edges that are local, are done at once.
 * An edge on an absent granule needs the granule's other bytes: it is parked,
 * the claim is given back, and the granule is fetched as a guest's read
 * would.  Whoever gets there first under a claim then applies all parked
 * parts of that granule in their order: their owners, a copier that has just
 * committed it, or a later change of it.  A later change of the whole granule
 * cancels them: they count as applied just before it.  So a write whose
 * client has gone is never applied after a later acknowledged one (G9), and
 * nobody who does not need the source waits for it (I4).
 *
 * Locking: parked parts of granule g change only under a claim on g; the list
 * itself has a lock that is not held across I/O.
 *
 * Left out: what makes bits durable (commit.c), copying (fetch.c).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fetch.h"
#include "internal.h"
#include "proof.h"

struct parked {
  struct parked *next;
  uint64_t g;
  uint64_t offset, length; /* bytes of the disk, inside g */
  const char *buf;         /* NULL: zeros */
  bool done;               /* atomic */
  bool listed;
  bool behind; /* W could not be written: commit before the reply */
  int error;
};

/* The gate. */

static int
enter (struct disk *d)
{
  __atomic_add_fetch (&d->inside, 1, __ATOMIC_SEQ_CST);
  if (!__atomic_load_n (&d->gated, __ATOMIC_SEQ_CST))
    return 0;
  __atomic_sub_fetch (&d->inside, 1, __ATOMIC_SEQ_CST);
  errno = ESHUTDOWN;
  return -1;
}

/* Leave with errno as the guest shall see it: nbdkit would turn all that it
 * does not know into EINVAL. */
static int
leave (struct disk *d, int err)
{
  __atomic_sub_fetch (&d->inside, 1, __ATOMIC_SEQ_CST);
  switch (err) {
  case 0:
    return 0;
  case ENOSPC:
  case EDQUOT:
  case EFBIG:
  case EROFS:
  case EPERM:
  case ENOMEM:
  case ESHUTDOWN:
  case ENOTSUP:
  case EINVAL:
    errno = err;
    return -1;
  default:
    errno = EIO;
    return -1;
  }
}

static bool
in_range (struct disk *d, uint64_t count, uint64_t offset)
{
  return offset <= d->size && count <= d->size - offset;
}

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

  if (enter (d) == -1)
    return -1;
  count (&d->guest_reads, 1);
  if (!in_range (d, count_, offset))
    return leave (d, EINVAL);
  if (map_is_complete (d->map)) {
    if (store_pread (d->store, buf, count_, offset) == -1)
      err = errno;
  }
  else {
    note_guest (d);
    err = read_range (d, buf, offset, offset + count_, 0, true, true);
  }
  return leave (d, err);
}

int
disk_cache (struct disk *d, uint64_t count_, uint64_t offset)
{
  uint64_t end = offset + count_;
  int err = 0;

  if (enter (d) == -1)
    return -1;
  if (!in_range (d, count_, offset))
    return leave (d, EINVAL);
  /* In steps, so that little is in flight for a huge range. */
  while (offset < end && err == 0 && !map_is_complete (d->map)
         && !d->read_only) {
    uint64_t stop = min_u64 (end, offset + (8u << 20));

    err = read_range (d, NULL, offset, stop, now_ms () + d->timeout, false,
                      true);
    offset = stop;
  }
  return leave (d, err);
}

/* Parked parts. */

static void
park (struct disk *d, struct parked *p)
{
  LOCK_SCOPE (&d->park_lock);
  p->next = NULL;
  p->listed = true;
  *d->parked_tail = p;
  d->parked_tail = &p->next;
  __atomic_add_fetch (&d->nr_parked, 1, __ATOMIC_RELEASE);
}

/* The lock is held. */
static void
unpark (struct disk *d, struct parked *p)
{
  struct parked **at = &d->parked;

  if (!p->listed)
    return;
  while (*at != p)
    at = &(*at)->next;
  *at = p->next;
  if (d->parked_tail == &p->next)
    d->parked_tail = at;
  p->listed = false;
  __atomic_sub_fetch (&d->nr_parked, 1, __ATOMIC_RELEASE);
}

/* The oldest part parked on [g, end). */
static struct parked *
parked_first (struct disk *d, uint64_t g, uint64_t end)
{
  LOCK_SCOPE (&d->park_lock);
  struct parked *p = d->parked;

  while (p && (p->g < g || p->g >= end))
    p = p->next;
  return p;
}

static void
parked_finish (struct disk *d, struct parked *p, int err, bool behind)
{
  uint64_t offset = p->g << d->shift;

  {
    LOCK_SCOPE (&d->park_lock);
    unpark (d, p);
    p->error = err;
    p->behind = behind;
    /* After this the owner may be gone. */
    __atomic_store_n (&p->done, true, __ATOMIC_RELEASE);
  }
  fetch_kick (d, offset);
}

static bool
has_parked (struct disk *d)
{
  return __atomic_load_n (&d->nr_parked, __ATOMIC_ACQUIRE) > 0;
}

void
parked_apply (struct disk *d, uint64_t g, uint64_t end)
{
  struct parked *p;

  while (has_parked (d) && (p = parked_first (d, g, end))) {
    int err = 0, r = proof_before (d, p->g, p->g + 1, p->buf, p->offset,
                                   p->offset + p->length);

    if (r == -1)
      err = errno;
    else {
      if (p->buf ? store_pwrite (d->store, p->buf, p->length, p->offset)
                 : store_zero (d->store, p->length, p->offset, false)) {
        err = errno;
        proof_failed (d, p->g, p->g + 1);
      }
      writeback_changed (d, p->offset, p->offset + p->length);
    }
    parked_finish (d, p, err, r == 1);
  }
}

/* A change of all of [g, end) has been made. */
static void
parked_cancel (struct disk *d, uint64_t g, uint64_t end, bool behind)
{
  struct parked *p;

  while (has_parked (d) && (p = parked_first (d, g, end)))
    parked_finish (d, p, 0, behind);
}

/* Granule g is absent, its claim held, bytes is what the source has: write
 * it with all parked parts. */
static void
parked_merge (struct disk *d, uint64_t g, char *bytes)
{
  uint64_t start = g << d->shift;
  uint64_t length = granule_offset (d, g + 1) - start;
  struct parked *p;
  int err = 0, r = 0;

  {
    LOCK_SCOPE (&d->park_lock);
    for (p = d->parked; p; p = p->next)
      if (p->g == g) {
        if (p->buf)
          memcpy (bytes + (p->offset - start), p->buf, p->length);
        else
          memset (bytes + (p->offset - start), 0, p->length);
      }
  }
  if (proof_before (d, g, g + 1, bytes, start, start + length) == -1
      || store_pwrite (d->store, bytes, length, start) == -1)
    err = errno;
  writeback_changed (d, start, start + length);
  if (err == 0
      && (r
          = proof_after (d, g, g + 1, MAP_GUEST, bytes, start, start + length))
             == -1)
    err = errno;
  while ((p = parked_first (d, g, g + 1)))
    parked_finish (d, p, err, r == 1);
}

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
      LOCK_SCOPE (&d->park_lock);
      unpark (d, p);
      p->error = err ? err : EIO;
    }
  }
  claim_drop (&d->claims, &c);
  {
    /* parked_finish may still be about to leave the lock. */
    LOCK_SCOPE (&d->park_lock);
    *behind |= p->behind;
    return p->error;
  }
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

  if (enter (d) == -1)
    return -1;
  count (&d->guest_writes, 1);
  if (!map_is_complete (d->map))
    note_guest (d);
  if (d->read_only)
    err = EROFS;
  else if (!in_range (d, count_, offset))
    err = kind == CHANGE_WRITE ? ENOSPC : EINVAL;
  else if (count_ > 0)
    err = change (d, kind, buf, offset, offset + count_, flags);
  return leave (d, err);
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
  if (enter (d) == -1)
    return -1;
  count (&d->flushes, 1);
  return leave (d, commit_run (d, 0));
}

/* Looking. */

struct extent_run {
  disk_extent_fn fn;
  void *opaque;
  uint64_t offset, length;
  unsigned flags;
  bool any, stop;
  uint64_t data_start, data_stop; /* of the store, as last seen */
};

/* Hand on the run before, if this one is of another kind. */
static void
extent_add (struct extent_run *x, uint64_t offset, uint64_t end, unsigned flags)
{
  if (x->any && x->flags == flags) {
    x->length += end - offset;
    return;
  }
  if (x->any && x->fn (x->opaque, x->offset, x->length, x->flags) != 0)
    x->stop = true;
  x->any = true;
  x->offset = offset;
  x->length = end - offset;
  x->flags = flags;
}

static int
extents_local (struct disk *d, struct extent_run *x, uint64_t at, uint64_t end)
{
  while (at < end && !x->stop) {
    uint64_t start, stop;

    if (store_next_data (d->store, at, end, &start, &stop) == -1)
      return errno;
    if (start > at)
      extent_add (x, at, start, DISK_EXTENT_HOLE | DISK_EXTENT_ZERO);
    if (stop > start && !x->stop)
      extent_add (x, start, stop, 0);
    at = max_u64 (stop, start);
  }
  return 0;
}

static void
extents_absent (struct disk *d, struct extent_run *x, uint64_t at, uint64_t end,
                uint64_t deadline)
{
  while (at < end && !x->stop) {
    enum extents_kind kind;
    unsigned flags;
    uint64_t stop;

    kind = extents_run (d->ext, at, end, &stop, &flags);
    if (kind == EXTENTS_UNKNOWN && extents_wait (d->ext, at, deadline) == 0)
      kind = extents_run (d->ext, at, end, &stop, &flags);
    /* What cannot be known in time counts as data: never as zeros (G7). */
    extent_add (x, at, stop, kind == EXTENTS_ZERO ? flags : 0);
    at = stop;
  }
}

#define EXTENTS_WAIT_MS 2000u

int
disk_extents (struct disk *d, uint64_t count_, uint64_t offset,
              disk_extent_fn fn, void *opaque)
{
  struct extent_run x = { .fn = fn, .opaque = opaque };
  uint64_t at = offset, end = offset + count_;
  uint64_t deadline = now_ms () + EXTENTS_WAIT_MS;
  int err = 0;

  if (enter (d) == -1)
    return -1;
  if (!in_range (d, count_, offset))
    return leave (d, EINVAL);
  while (at < end && !x.stop && err == 0) {
    uint64_t stop;
    enum map_state state
        = map_run (d->map, granule_floor (d, at), granule_ceil (d, end), &stop);

    stop = min_u64 (stop << d->shift, end);
    if (state == MAP_LIVE)
      err = extents_local (d, &x, at, stop);
    else if (state == MAP_ABSENT)
      extents_absent (d, &x, at, stop, deadline);
    else if (x.any)
      break;
    else
      err = EIO;
    at = stop;
  }
  if (x.any && !x.stop)
    fn (opaque, x.offset, x.length, x.flags);
  return leave (d, x.any ? 0 : err);
}

/* store_next_data, which is asked once for an extent of data, not once for
 * each region in it.  A hole is not remembered: what was fetched into it since
 * was never zero. */
static int
next_data (struct disk *d, struct extent_run *x, uint64_t at, uint64_t end,
           uint64_t *start, uint64_t *stop)
{
  if ((at < x->data_start || at >= x->data_stop)
      && store_next_data (d->store, at, d->size, &x->data_start, &x->data_stop)
             == -1)
    return -1;
  *start = min_u64 (max_u64 (x->data_start, at), end);
  *stop = min_u64 (x->data_stop, end);
  return 0;
}

static int
region_local (struct disk *d, struct extent_run *x, uint64_t at, uint64_t end,
              bool want_zero)
{
  while (at < end && !x->stop) {
    uint64_t start = at, stop = end;

    if (want_zero && !d->store->is_block
        && next_data (d, x, at, end, &start, &stop) == -1)
      return errno;
    /* A granule is zero only if all of it is a hole. */
    start = start >= end ? end : max_u64 (round_down (start, d->granule), at);
    stop = min_u64 (round_up (max_u64 (stop, start), d->granule), end);
    if (start > at)
      extent_add (x, at, start, DISK_ZERO);
    if (stop > start && !x->stop)
      extent_add (x, start, stop, DISK_LOCAL);
    at = stop;
  }
  return 0;
}

struct region_call {
  disk_region_fn fn;
  void *opaque;
};

static int
call_region (void *opaque, uint64_t offset, uint64_t length, unsigned state)
{
  struct region_call *rc = opaque;

  return rc->fn (rc->opaque, offset, length, (enum disk_region_state)state);
}

int
disk_regions (struct disk *d, uint64_t count_, uint64_t offset, bool want_zero,
              disk_region_fn fn, void *opaque)
{
  struct region_call rc = { fn, opaque };
  struct extent_run x = { .fn = call_region, .opaque = &rc };
  uint64_t at = offset, end = offset + count_;
  int err = 0;

  if (enter (d) == -1)
    return -1;
  if (!in_range (d, count_, offset))
    return leave (d, EINVAL);
  while (at < end && !x.stop && err == 0) {
    uint64_t stop;
    enum map_state state
        = map_run (d->map, granule_floor (d, at), granule_ceil (d, end), &stop);

    stop = min_u64 (stop << d->shift, end);
    if (state == MAP_LIVE)
      err = region_local (d, &x, at, stop, want_zero);
    else if (state == MAP_ABSENT)
      extent_add (&x, at, stop, DISK_ABSENT);
    else
      err = EIO;
    at = stop;
  }
  if (x.any && !x.stop)
    fn (opaque, x.offset, x.length, (enum disk_region_state)x.flags);
  return leave (d, err);
}

int
disk_get_info (struct disk *d, struct disk_info *info)
{
  uint64_t g, end;

  memset (info, 0, sizeof *info);
  info->name = d->name;
  info->store = d->store_path;
  info->metadata = d->metadata;
  info->backing = d->backing;
  info->size = d->size;
  info->granule = d->granule;
  info->local = map_live_bytes (d->map, 0, map_nr (d->map));
  info->absent = d->size - info->local;
  info->complete = map_is_complete (d->map);
  info->read_only = d->read_only;
  info->detached = __atomic_load_n (&d->detached, __ATOMIC_ACQUIRE);
  if (d->src && !__atomic_load_n (&d->let_go, __ATOMIC_ACQUIRE)) {
    info->source = source_get_state (d->src);
    source_get_reason (d->src, info->source_reason, sizeof info->source_reason);
  }
  info->nr_damaged = map_damaged (d->map, &g, &end);
  if (info->nr_damaged) {
    info->damaged_offset = granule_offset (d, g);
    info->damaged_length = granule_offset (d, end) - info->damaged_offset;
  }
  info->sync_error = commit_failed (d);
  info->bytes_fetched = counted (&d->bytes_fetched);
  info->demand_fetches = counted (&d->demand_fetches);
  info->ahead_fetches = counted (&d->ahead_fetches);
  info->background_fetches = counted (&d->background_fetches);
  info->guest_reads = counted (&d->guest_reads);
  info->guest_writes = counted (&d->guest_writes);
  info->flushes = counted (&d->flushes);
  info->commits = counted (&d->commits);
  job_get_info (d, &info->job);
  return 0;
}

const char *
disk_name (struct disk *d)
{
  return d->name;
}

uid_t
disk_store_owner (struct disk *d)
{
  struct stat sb;

  /* It may have been given to another since it was opened. */
  return fstat (d->store->fd, &sb) == 0 ? sb.st_uid : d->store->uid;
}

uid_t
disk_store_owner_seen (struct disk *d)
{
  return __atomic_load_n (&d->owner, __ATOMIC_RELAXED);
}

const char *
disk_store_path (struct disk *d)
{
  return d->store_path;
}

uint64_t
disk_size (struct disk *d)
{
  return d->size;
}

uint32_t
disk_granule (struct disk *d)
{
  return d->granule;
}

uint32_t
disk_fetch_unit (struct disk *d)
{
  return d->fetch_unit;
}

struct file_id
disk_file (struct disk *d)
{
  return (struct file_id){ .dev = d->store->dev, .ino = d->store->ino };
}

bool
disk_read_only (struct disk *d)
{
  return d->read_only;
}

void
disk_emit (struct disk *d, struct disk_event *ev)
{
  ev->disk = d;
  if (d->event)
    d->event (d->event_opaque, ev);
}

struct disk *
disks_find (const struct disks *disks, const char *name)
{
  CLEANUP_FREE char *real = NULL;

  for (size_t i = 0; i < disks->len; i++)
    if (strcmp (disks->ptr[i]->name, name) == 0)
      return disks->ptr[i];
  if (*name == '\0')
    return NULL;
  real = realpath (name, NULL);
  for (size_t i = 0; i < disks->len; i++) {
    struct disk *d = disks->ptr[i];

    if (strcmp (d->store_path, name) == 0
        || (real && strcmp (d->store_path, real) == 0)
        || (real && store_same_file (d->store->fd, real)))
      return d;
  }
  return NULL;
}
