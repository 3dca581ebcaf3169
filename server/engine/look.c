/* look.c - what is where: a guest's block status, and the allocation map.
 *
 * In local runs the store's own holes are zero; in absent runs the source says
 * what is zero.  A run that cannot be known, or not in time, counts as data
 * (G7).
 *
 * Locking: none.  No claim is needed: each run is described as it was at a
 * moment of the call, and changes that run beside it are not ordered with it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "extents.h"
#include "internal.h"

struct extent_run {
  disk_extent_fn fn;
  void *opaque;
  uint64_t offset, length;
  unsigned flags;
  bool any, stop;
  uint64_t data_start, data_stop; /* of the store, as last seen */
};

/* Join the run to the one before; if they differ in kind, hand the one before
 * on. */
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
    /* A run that cannot be known in time counts as data, never as zeros
     * (G7). */
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

  if (disk_enter (d) == -1)
    return -1;
  if (!in_range (d, count_, offset))
    return disk_leave (d, EINVAL);
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
  return disk_leave (d, x.any ? 0 : err);
}

/* As store_next_data, which is asked once for an extent of data, not once for
 * each region in it.  A hole is not remembered: data may have been fetched into
 * it since. */
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

  if (disk_enter (d) == -1)
    return -1;
  if (!in_range (d, count_, offset))
    return disk_leave (d, EINVAL);
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
  return disk_leave (d, err);
}
