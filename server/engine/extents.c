/* extents.c - what the source says is zero, remembered.
 *
 * The disk is cut into slots just under 4 GiB, the most that one block status
 * command can ask for, and of whole sectors of the map.  A slot is asked for as
 * a whole, by as many commands as the server's answers need, and keeps only the
 * runs that read as zeros, rounded inwards to granules: the rest is data.  Only
 * the ZERO flag counts; a hole that does not say zero has to be read.
 *
 * Calling a run data when it is zero costs a read, never truth: so a slot
 * that cannot be asked, or has too many runs, is data.
 *
 * Memory: all slots together keep MAX_RUNS runs; then the least recently used
 * slot is forgotten.
 *
 * Locking: extents.lock guards the slots.  No thread holds it when it calls the
 * source.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "array.h"
#include "extents.h"
#include "internal.h"

#define MAX_SLOT ((UINT64_C (1) << 32) - 65536)
#define MAX_RUNS (128u << 10)
#define MAX_SLOT_RUNS (32u << 10)

#define STATE_HOLE 1u
#define STATE_ZERO 2u

struct run {
  uint64_t start, end;
  unsigned flags;
};

enum slot_state { SLOT_NONE, SLOT_ASKED, SLOT_KNOWN };

struct slot {
  enum slot_state state;
  struct extents *e;
  uint64_t start, end;
  uint64_t asked; /* up to here it was answered */
  struct run *run;
  size_t nr;
  uint64_t used; /* clock of last use */
  struct source_req req;
};

struct extents {
  struct disk *d;
  struct lock lock; /* guards all below, and the slots */
  pthread_cond_t changed;
  struct slot **slot;
  uint64_t slot_size;
  uint64_t nr_slots;
  size_t nr_runs;
  uint64_t clock;
  bool stopped;
};

struct extents *
extents_new (struct disk *d)
{
  struct extents *e = calloc (1, sizeof *e);

  if (!e)
    return NULL;
  e->d = d;
  e->slot_size = sectors_in (d, MAX_SLOT);
  e->nr_slots = (d->size + e->slot_size - 1) / e->slot_size;
  e->slot = calloc (e->nr_slots + 1, sizeof *e->slot);
  if (!e->slot) {
    free (e);
    return NULL;
  }
  lock_init (&e->lock, LOCK_EXTENTS);
  cond_init (&e->changed);
  return e;
}

void
extents_free (struct extents *e)
{
  if (!e)
    return;
  for (uint64_t i = 0; i < e->nr_slots; i++)
    if (e->slot[i]) {
      free (e->slot[i]->run);
      free (e->slot[i]);
    }
  lock_destroy (&e->lock);
  pthread_cond_destroy (&e->changed);
  free (e->slot);
  free (e);
}

static void
forget (struct extents *e, struct slot *s)
{
  ASSERT_HELD (&e->lock);
  assert (e->nr_runs >= s->nr);
  e->nr_runs -= s->nr;
  free (s->run);
  s->run = NULL;
  s->nr = 0;
  s->state = SLOT_NONE;
}

static void
make_room (struct extents *e, const struct slot *keep)
{
  ASSERT_HELD (&e->lock);
  while (e->nr_runs > MAX_RUNS) {
    struct slot *oldest = NULL;

    for (uint64_t i = 0; i < e->nr_slots; i++) {
      struct slot *s = e->slot[i];

      if (s && s != keep && s->state == SLOT_KNOWN && s->nr > 0
          && (!oldest || s->used < oldest->used))
        oldest = s;
    }
    if (!oldest)
      return;
    forget (e, oldest);
  }
}

static void
add_run (struct slot *s, uint64_t start, uint64_t end, unsigned flags)
{
  struct disk *d = s->e->d;

  ASSERT_HELD (&s->e->lock);
  /* The zeros of one granule may come in two answers: runs are joined here, and
   * rounded to granules when they are used. */
  if (s->nr > 0 && s->run[s->nr - 1].end == start
      && s->run[s->nr - 1].flags == flags) {
    s->run[s->nr - 1].end = end;
    return;
  }
  if (end - start < d->granule || s->nr >= MAX_SLOT_RUNS)
    return;
  if (ARRAY_ROOM (s->run, s->nr) == -1)
    return;
  s->run[s->nr++] = (struct run){ start, end, flags };
  s->e->nr_runs++;
}

static void answered (struct source_req *req, int error);

static void
prepare (struct slot *s)
{
  ASSERT_HELD (&s->e->lock);
  memset (&s->req, 0, sizeof s->req);
  s->req.offset = s->asked;
  s->req.length = (uint32_t)(s->end - s->asked);
  s->req.prio = SOURCE_AHEAD;
  s->req.done = answered;
  s->req.opaque = s;
}

/* The callback of a block status command, on an I/O thread. */
static void
answered (struct source_req *req, int error)
{
  struct slot *s = req->opaque;
  struct extents *e = s->e;
  bool more = false;

  {
    LOCK_SCOPE (&e->lock);

    if (error == 0) {
      for (size_t i = 0; i < req->nr_extents; i++) {
        uint64_t end = min_u64 (s->asked + req->extents[i].length, s->end);

        if (req->extents[i].flags & STATE_ZERO)
          add_run (s, s->asked, end,
                   req->extents[i].flags & (STATE_HOLE | STATE_ZERO));
        s->asked = end;
      }
      more = s->asked < s->end && req->nr_extents > 0 && !e->stopped;
    }
    else if (error == ESHUTDOWN || error == ETIMEDOUT || error == ECANCELED)
      forget (e, s);
    /* After any other error the server cannot tell: the rest is data. */
    if (more)
      prepare (s);
    else {
      if (s->state == SLOT_ASKED)
        s->state = SLOT_KNOWN;
      make_room (e, s);
      pthread_cond_broadcast (&e->changed);
    }
  }
  if (more)
    source_submit (e->d->src, &s->req);
}

static struct slot *
slot_of (struct extents *e, uint64_t offset)
{
  uint64_t i = offset / e->slot_size;
  struct slot *s = e->slot[i];

  ASSERT_HELD (&e->lock);
  if (!s) {
    s = calloc (1, sizeof *s);
    if (!s)
      return NULL;
    s->e = e;
    s->start = i * e->slot_size;
    s->end = min_u64 (s->start + e->slot_size, e->d->size);
    e->slot[i] = s;
  }
  s->used = ++e->clock;
  return s;
}

/* Is there a source that can tell?  False: all is data, or it is not known yet
 * what the source can do. */
static bool
can_ask (struct disk *d)
{
  return d->src && atomic_load_explicit (&d->source_up, memory_order_acquire)
         && source_can_status (d->src);
}

static void
want (struct extents *e, uint64_t offset)
{
  struct slot *s;

  if (!can_ask (e->d) || offset >= e->d->size)
    return;
  {
    LOCK_SCOPE (&e->lock);
    s = slot_of (e, offset);
    if (!s || s->state != SLOT_NONE || e->stopped)
      return;
    s->state = SLOT_ASKED;
    s->asked = s->start;
    prepare (s);
  }
  source_submit (e->d->src, &s->req);
}

void
extents_want (struct extents *e, uint64_t offset, uint64_t limit, unsigned nr)
{
  for (; nr > 0 && offset < limit; nr--, offset += e->slot_size)
    want (e, offset);
}

enum extents_kind
extents_run (struct extents *e, uint64_t offset, uint64_t limit, uint64_t *end,
             unsigned *flags)
{
  struct disk *d = e->d;
  size_t lo = 0, hi;
  struct slot *s;

  *end = limit;
  *flags = STATE_HOLE | STATE_ZERO;
  if (d->no_source)
    return EXTENTS_ZERO;
  *flags = 0;
  if (atomic_load_explicit (&d->source_up, memory_order_acquire)
      && !source_can_status (d->src))
    return EXTENTS_DATA;

  LOCK_SCOPE (&e->lock);
  s = slot_of (e, offset);
  if (!s || s->state != SLOT_KNOWN) {
    if (s)
      *end = min_u64 (limit, s->end);
    return EXTENTS_UNKNOWN;
  }
  *end = min_u64 (limit, s->end);
  /* The first run that ends after offset. */
  hi = s->nr;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;

    if (s->run[mid].end > offset)
      hi = mid;
    else
      lo = mid + 1;
  }
  for (; lo < s->nr; lo++) {
    uint64_t start = round_up (s->run[lo].start, d->granule);
    uint64_t stop = s->run[lo].end == d->size
                        ? d->size
                        : round_down (s->run[lo].end, d->granule);

    if (stop <= offset || start >= stop)
      continue;
    if (start > offset) {
      *end = min_u64 (*end, start);
      return EXTENTS_DATA;
    }
    *end = min_u64 (*end, stop);
    *flags = s->run[lo].flags;
    return EXTENTS_ZERO;
  }
  return EXTENTS_DATA;
}

int
extents_wait (struct extents *e, uint64_t offset, uint64_t deadline)
{
  for (;;) {
    struct slot *s;

    if (e->d->no_source)
      return 0;
    if (atomic_load_explicit (&e->d->source_up, memory_order_acquire)
        && !source_can_status (e->d->src))
      return 0;
    want (e, offset);
    {
      LOCK_SCOPE (&e->lock);
      s = slot_of (e, offset);
      if (s && s->state == SLOT_KNOWN)
        return 0;
      if (e->stopped)
        return ESHUTDOWN;
      if (now_ms () >= deadline)
        return ETIMEDOUT;
      /* Nothing is asked while the source is away: look again every 20 ms. */
      lock_wait_ms (&e->changed, &e->lock,
                    !s || s->state == SLOT_NONE
                        ? min_u64 (deadline, now_ms () + 20)
                        : deadline);
    }
  }
}

void
extents_stop (struct extents *e)
{
  LOCK_SCOPE (&e->lock);
  e->stopped = true;
  pthread_cond_broadcast (&e->changed);
}
