/* rate.c - a speed limit.  See rate.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include "bytes.h"
#include "rate.h"

#define SECOND UINT64_C (1000000000)
/* A caller that slept a little too long may make up for it: time is still
 * booked from where the last request's ended.  So that what is made up does
 * not go over the limit in the second that follows, a second's worth of bytes
 * books a second and the slack. */
#define SLACK UINT64_C (5000000)

void
rate_init (struct rate *r)
{
  lock_init (&r->lock, LOCK_RATE);
  r->limit = r->next = 0;
}

void
rate_destroy (struct rate *r)
{
  lock_destroy (&r->lock);
}

void
rate_set (struct rate *r, uint64_t limit)
{
  LOCK_SCOPE (&r->lock);
  /* What was booked at the old speed must not hold up the new one. */
  if (limit == 0 || limit > r->limit)
    r->next = 0;
  r->limit = limit;
}

uint64_t
rate_get (struct rate *r)
{
  LOCK_SCOPE (&r->lock);
  return r->limit;
}

uint64_t
rate_take (struct rate *r, uint64_t bytes, uint64_t now)
{
  LOCK_SCOPE (&r->lock);
  if (r->limit == 0)
    return 0;
  if (r->next > now)
    return r->next - now;
  r->next = (r->next + SLACK > now ? r->next : now)
            + (uint64_t)((double)bytes / (double)r->limit
                         * (double)(SECOND + SLACK));
  return 0;
}

uint64_t
rate_request (struct rate *r, uint64_t unit, uint64_t most)
{
  uint64_t limit = rate_get (r);

  if (limit == 0)
    return most;
  return max_u64 (unit, min_u64 (most, round_down (limit / 10, unit)));
}
