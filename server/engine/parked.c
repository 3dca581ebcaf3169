/* parked.c - parts of writes that wait for the rest of their granule.  See
 * parked.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "fetch-table.h"
#include "parked.h"
#include "proof.h"

void
parked_init (struct disk *d)
{
  lock_init (&d->park_lock, LOCK_PARKED);
  d->parked_tail = &d->parked;
}

void
parked_destroy (struct disk *d)
{
  lock_destroy (&d->park_lock);
}

void
park (struct disk *d, struct parked *p)
{
  LOCK_SCOPE (&d->park_lock);
  p->next = NULL;
  p->listed = true;
  *d->parked_tail = p;
  d->parked_tail = &p->next;
  atomic_fetch_add_explicit (&d->nr_parked, 1, memory_order_release);
}

static void
unpark (struct disk *d, struct parked *p)
{
  struct parked **at = &d->parked;

  ASSERT_HELD (&d->park_lock);
  if (!p->listed)
    return;
  while (*at != p)
    at = &(*at)->next;
  *at = p->next;
  if (d->parked_tail == &p->next)
    d->parked_tail = at;
  p->listed = false;
  atomic_fetch_sub_explicit (&d->nr_parked, 1, memory_order_release);
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
    /* Once done is set, p may be gone with its owner's stack. */
    atomic_store_explicit (&p->done, true, memory_order_release);
  }
  fetch_kick (d, offset);
}

static bool
has_parked (struct disk *d)
{
  return atomic_load_explicit (&d->nr_parked, memory_order_acquire) > 0;
}

void
parked_apply (struct disk *d, uint64_t g, uint64_t end)
{
  struct parked *p;

  ASSERT_CLAIMED (&d->claims, g, end);
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

void
parked_cancel (struct disk *d, uint64_t g, uint64_t end, bool behind)
{
  struct parked *p;

  ASSERT_CLAIMED (&d->claims, g, end);
  while (has_parked (d) && (p = parked_first (d, g, end)))
    parked_finish (d, p, 0, behind);
}

void
parked_merge (struct disk *d, uint64_t g, char *bytes)
{
  uint64_t start = g << d->shift;
  uint64_t length = granule_offset (d, g + 1) - start;
  struct parked *p;
  int err = 0, r = 0;

  ASSERT_CLAIMED (&d->claims, g, g + 1);
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

void
parked_give_up (struct disk *d, struct parked *p, int err)
{
  LOCK_SCOPE (&d->park_lock);

  unpark (d, p);
  p->error = err;
}

int
parked_result (struct disk *d, struct parked *p, bool *behind)
{
  /* Wait for park_lock: parked_finish may still hold it after it set done. */
  LOCK_SCOPE (&d->park_lock);

  *behind |= p->behind;
  return p->error;
}
