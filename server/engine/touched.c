/* touched.c - which parts of a new file were written.  See touched.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdlib.h>

#include "bytes.h"
#include "touched.h"

/* A bit stands for 1 << MIN_SHIFT bytes at least; there are about MAX_BITS bits
 * at most.
 */
#define MIN_SHIFT 12u
#define MAX_BITS (UINT64_C (1) << 23)

void
touched_init (struct touched *t, uint64_t size)
{
  uint64_t nr;

  t->shift = MIN_SHIFT;
  while (size >> t->shift >= MAX_BITS)
    t->shift++;
  nr = (size >> t->shift) + 1;
  /* Without memory for the bits all counts as written, so more is read. */
  t->bits = calloc (nr / 8 + 1, sizeof *t->bits);
}

void
touched_free (struct touched *t)
{
  free (t->bits);
}

static bool
is_touched (const struct touched *t, uint64_t bit, memory_order order)
{
  return atomic_load_explicit (&t->bits[bit / 8], order) & 1u << bit % 8;
}

void
touched_add (struct touched *t, uint64_t count, uint64_t offset)
{
  if (!t->bits || count == 0)
    return;
  for (uint64_t i = offset >> t->shift; i <= (offset + count - 1) >> t->shift;
       i++)
    if (!is_touched (t, i, memory_order_relaxed))
      atomic_fetch_or (&t->bits[i / 8], (uint8_t)(1u << i % 8));
}

uint64_t
touched_next (const struct touched *t, uint64_t offset, uint64_t end)
{
  while (t->bits && offset < end) {
    uint64_t i = offset >> t->shift;

    if (is_touched (t, i, memory_order_seq_cst))
      return offset;
    offset = (i + 1) << t->shift;
  }
  return min_u64 (offset, end);
}
