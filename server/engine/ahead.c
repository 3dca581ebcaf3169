/* ahead.c - what is worth fetching beside what a guest asked for.
 *
 * A fetch costs a round trip, whatever its size, so fetching more than was
 * asked for saves time where the rest is read later and wastes bandwidth
 * where not.  What is known is only where the guest read; from that:
 *
 * - Streams.  A read that goes on where an earlier one ended (or a little
 *   further) belongs to a stream.  A stream is read ahead by a window that
 *   grows with what was read in it, so that what is fetched past the end of a
 *   stream stays below what was used.
 * - Misses are widened to an aligned piece of half a unit: file systems align
 *   what belongs together.  Where a guest has read in the neighbourhood before
 *   the piece is one unit, where it has read much of it four.
 * - Edges.  A first read near the end of what was planned extends it before
 *   the guest falls off.
 * - Spans.  A read a few units after one of the last three is usually in the
 *   same object (a loader reads a file's head, then its tail): the span
 *   between is planned.
 *
 * Credit bounds the waste.  What is planned is paid for; what the guest reads
 * for the first time, or in a stream, earns EARN times its length.  Whoever
 * reads at random soon has none and gets exactly what is asked for but for
 * what the reads themselves earn: the bytes planned never exceed the initial
 * credit plus EARN times the bytes read.  Streams earn more than they spend,
 * so they start again from nothing.
 *
 * State is a fixed table: regions (64 bits asked, 64 touched) in 64 sets of
 * four, least recently used out, and 32 streams.  What is forgotten is only
 * planned again, and the caller leaves out what is local.  A hit in an unknown
 * region is not remembered: a local disk costs a look at the streams and one
 * at the table.
 *
 * Left out: backward streams get no window of their own (aligned pieces and
 * the density rule serve them), and latency and bandwidth are not measured.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <string.h>

#include "ahead.h"
#include "bytes.h"

/* Bytes that may be planned for each byte read. */
#define EARN 2
#define CREDIT_UNITS 64
/* Below 1/FULL of the credit, plans shrink. */
#define FULL 4
#define WINDOW_UNITS 4u
#define LONG_WINDOW_UNITS AHEAD_REACH
#define DENSE_UNITS 4u
#define SPAN_UNITS 8u
/* A plan that did not come within this many reads is taken for lost. */
#define PLAN_READS 64u
#define NOWHERE (UINT64_MAX / 2)

static inline uint64_t
sub0 (uint64_t x, uint64_t y)
{
  return x > y ? x - y : 0;
}

void
ahead_init (struct ahead *a, uint32_t unit, uint32_t granule, uint64_t size)
{
  memset (a, 0, sizeof *a);
  a->size = size;
  for (unsigned i = 0; i < AHEAD_STREAMS; i++)
    a->next[i] = NOWHERE;
  for (unsigned i = 0; i < AHEAD_LAST; i++)
    a->last[i] = NOWHERE;
  for (unsigned i = 0; i < AHEAD_SETS; i++)
    for (unsigned j = 0; j < AHEAD_WAYS; j++)
      a->region[i][j].number = UINT64_MAX;
  if (unit <= granule)
    return;
  /* Round unit down to a power of two. */
  a->unit = UINT64_C (1) << (31 - (unsigned)__builtin_clz (unit));
  a->block = max_u64 (a->unit / 16, granule);
  a->shift = (unsigned)__builtin_ctzll (a->block);
  a->most_credit = a->credit = (int64_t)a->unit * CREDIT_UNITS;
}

/* Regions. */

static inline struct ahead_region *
region_set (struct ahead *a, uint64_t number)
{
  /* Neighbours must not share a set. */
  return a->region[(number * UINT64_C (0x9e3779b97f4a7c15)) >> 58];
}

static inline struct ahead_region *
region_find (struct ahead *a, uint64_t number)
{
  struct ahead_region *set = region_set (a, number);

  for (unsigned i = 0; i < AHEAD_WAYS; i++)
    if (set[i].number == number) {
      set[i].tick = a->tick;
      return &set[i];
    }
  return NULL;
}

static struct ahead_region *
region_get (struct ahead *a, uint64_t number)
{
  struct ahead_region *r = region_find (a, number), *set;

  if (r)
    return r;
  set = region_set (a, number);
  r = set;
  for (unsigned i = 0; i < AHEAD_WAYS; i++) {
    if (set[i].number == UINT64_MAX) {
      r = &set[i];
      break;
    }
    if (a->tick - set[i].tick > a->tick - r->tick)
      r = &set[i];
  }
  *r = (struct ahead_region){ .number = number, .tick = a->tick };
  return r;
}

static inline uint64_t
bit_of (uint64_t block)
{
  return UINT64_C (1) << (block % 64);
}

/* Note the guest's read.  True if some of it is read for the first time, as
 * far as is remembered. */
static bool
touch (struct ahead *a, uint64_t offset, uint64_t end, bool miss)
{
  bool first = false;

  for (uint64_t b = offset >> a->shift; b <= (end - 1) >> a->shift; b++) {
    struct ahead_region *r
        = miss ? region_get (a, b / 64) : region_find (a, b / 64);

    /* The block was planned long ago and is still absent: its fetch failed, or
     * the caller had no room for it.  The block may be planned again. */
    if (r && miss && (r->asked & bit_of (b))
        && a->tick - r->planned > PLAN_READS)
      r->asked = 0;
    if (r && !(r->touched & bit_of (b))) {
      r->touched |= bit_of (b);
      first = true;
    }
  }
  return first;
}

/* How many blocks were touched within distance. */
static unsigned
density (struct ahead *a, uint64_t offset, uint64_t distance)
{
  uint64_t b = sub0 (offset, distance) >> a->shift;
  uint64_t end = min_u64 (offset + distance, a->size - 1) >> a->shift;
  unsigned n = 0;

  while (b <= end) {
    uint64_t stop = min_u64 (end, b | 63);
    struct ahead_region *r = region_find (a, b / 64);

    if (r)
      n += (unsigned)__builtin_popcountll ((r->touched >> (b % 64))
                                           << (63 - (stop - b)));
    b = stop + 1;
  }
  return n;
}

static bool
was_asked (struct ahead *a, uint64_t offset)
{
  uint64_t b = offset >> a->shift;
  struct ahead_region *r = region_find (a, b / 64);

  return r && (r->asked & bit_of (b));
}

/* Plan the blocks of [offset, end) that were not asked for yet, and pay for
 * them. */
static void
ask (struct ahead *a, uint64_t offset, uint64_t end, struct ahead_plan *plan)
{
  uint64_t first = UINT64_MAX, last = 0;

  end = min_u64 (end, a->size);
  if (offset >= end || plan->nr == AHEAD_RANGES)
    return;
  for (uint64_t b = offset >> a->shift; b <= (end - 1) >> a->shift; b++) {
    struct ahead_region *r = region_get (a, b / 64);

    if (!(r->asked & bit_of (b))) {
      if (a->credit < (int64_t)a->block)
        break;
      a->credit -= (int64_t)a->block;
      r->asked |= bit_of (b);
      r->planned = a->tick;
      if (first == UINT64_MAX)
        first = b;
      last = b;
    }
  }
  if (first == UINT64_MAX)
    return;
  plan->range[plan->nr].offset = first << a->shift;
  plan->range[plan->nr].length
      = min_u64 ((last + 1) << a->shift, a->size) - (first << a->shift);
  plan->nr++;
}

/* Streams. */

/* The stream that [offset, end) continues, or -1. */
static int
stream_find (struct ahead *a, uint64_t offset, uint64_t end)
{
  uint64_t gap = a->unit / 8, at = offset + gap / 2;

  /* A little back is the guest's own overlap; a little forward is a gap. */
  if (at - a->next[a->recent] < gap + gap / 2 && end > a->next[a->recent])
    return (int)a->recent;
  for (unsigned i = 0; i < AHEAD_STREAMS; i++)
    if (at - a->next[i] < gap + gap / 2 && end > a->next[i]) {
      a->recent = i;
      return (int)i;
    }
  return -1;
}

static void
stream_new (struct ahead *a, uint64_t end, uint32_t length)
{
  unsigned victim = 0;
  uint32_t oldest = 0;

  /* A stream that never went on counts as 16 times as old: random reads must
   * not push the real streams out. */
  for (unsigned i = 0; i < AHEAD_STREAMS; i++) {
    uint32_t age = a->tick - a->stream[i].tick;

    if (a->next[i] == NOWHERE) {
      victim = i;
      break;
    }
    if (a->stream[i].window > 0)
      age /= 16;
    if (age >= oldest) {
      oldest = age;
      victim = i;
    }
  }
  a->next[victim] = end;
  a->stream[victim] = (struct ahead_stream){ .asked = end,
                                             .consumed = length,
                                             .tick = a->tick };
}

static void
stream_advance (struct ahead *a, unsigned i, uint64_t end, uint32_t length,
                struct ahead_plan *plan)
{
  struct ahead_stream *s = &a->stream[i];
  uint64_t want, to;

  a->next[i] = end;
  s->tick = a->tick;
  s->consumed += length;
  s->asked = max_u64 (s->asked, end);
  /* Refill when a tenth is used: a round trip is longer than it looks. */
  if (s->asked - end > s->window - s->window / 10)
    return;

  want = min_u64 (4 * s->window, WINDOW_UNITS * a->unit);
  want = min_u64 (want, s->consumed - s->consumed / 4);
  /* A stream this long will not end just now. */
  want = max_u64 (want, min_u64 (s->consumed / 8, LONG_WINDOW_UNITS * a->unit));
  want = max_u64 (want, a->unit / 4);
  want = min_u64 (want, 2 * s->consumed);
  want = min_u64 (want, (uint64_t)(a->credit / 2));
  to = round_down (end + want, a->block);
  if (to > s->asked) {
    ask (a, s->asked, to, plan);
    s->asked = to;
  }
  s->window = max_u64 (want, 1);
}

static void
widen (struct ahead *a, uint64_t offset, uint64_t end, struct ahead_plan *plan)
{
  uint64_t width = a->unit / 2, full = (uint64_t)a->most_credit / FULL;
  uint64_t start, stop, near;
  uint64_t own = ((end - 1) >> a->shift) - (offset >> a->shift) + 1;

  if (density (a, offset, a->unit + a->unit / 2) >= a->unit / a->block * 3 / 4)
    width = DENSE_UNITS * a->unit;
  else if (density (a, offset, a->unit) > own)
    width = a->unit;
  /* With little credit left the width shrinks, and at last nothing is
   * planned. */
  for (uint64_t c = (uint64_t)a->credit | 1; c < full && width >= a->block;
       c *= 2)
    width /= 2;
  if (width < a->block || (uint64_t)a->credit < width)
    return;
  start = round_down (offset, width);
  stop = round_down (end - 1, width) + width;
  /* The bytes right after the read come first, not behind a big piece. */
  near = round_down (end + a->unit / 8, a->block);
  if (near < stop)
    ask (a, offset, near, plan);
  ask (a, offset, stop, plan);
  ask (a, start, offset, plan);
}

static void
fill_span (struct ahead *a, uint64_t offset, struct ahead_plan *plan)
{
  for (unsigned i = 0; i < AHEAD_LAST; i++)
    if (a->last[i] < offset && offset - a->last[i] <= SPAN_UNITS * a->unit) {
      ask (a, a->last[i], offset, plan);
      return;
    }
}

static void
extend (struct ahead *a, uint64_t offset, uint64_t end, struct ahead_plan *plan)
{
  uint64_t piece = a->unit / 4, edge = end + a->unit / 16 * 3;

  if (edge < a->size && !was_asked (a, edge))
    ask (a, end, round_down (edge, piece) + piece, plan);
  /* Plan backward only where the guest reads all of the neighbourhood. */
  if (offset >= a->unit / 2 && !was_asked (a, offset - a->unit / 2)
      && density (a, offset, piece) >= 2 * piece / a->block)
    ask (a, round_down (offset - a->unit / 2, piece), offset, plan);
}

void
ahead_read (struct ahead *a, uint64_t offset, uint32_t length, bool miss,
            struct ahead_plan *plan)
{
  uint64_t end = offset + length;
  bool first, rich;
  int s;

  plan->nr = 0;
  if (a->unit == 0 || length == 0)
    return;
  a->tick++;
  s = stream_find (a, offset, end);
  first = touch (a, offset, end, miss);
  if (!first && !miss && s == -1)
    return;

  a->credit += (int64_t)EARN * length;
  if (a->credit > a->most_credit)
    a->credit = a->most_credit;
  rich = a->credit >= a->most_credit / FULL;

  if (s == -1)
    stream_new (a, end, length);
  else
    stream_advance (a, (unsigned)s, end, length, plan);
  if (miss)
    widen (a, offset, end, plan);
  if ((miss || first) && rich) {
    fill_span (a, offset, plan);
    if (first)
      extend (a, offset, end, plan);
  }
  memmove (a->last + 1, a->last, (AHEAD_LAST - 1) * sizeof a->last[0]);
  a->last[0] = end;
}
