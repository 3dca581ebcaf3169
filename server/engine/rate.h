/* rate.h - a speed limit: a leaky bucket without a burst.
 *
 * Each request books the time that follows the one before it, so that over any
 * second no more than the limit passes, but for one request.
 *
 * Locking: any thread may call.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_RATE_H
#define BACKFILL_RATE_H

#include <stdint.h>

#include "lock.h"

struct rate {
  struct lock lock;
  uint64_t limit; /* bytes/s, 0 = none */
  uint64_t next;  /* ns: when the next request may start */
};

#define RATE_INIT                        \
  {                                      \
    .lock = LOCK_INITIALIZER (LOCK_RATE) \
  }

void rate_init (struct rate *r);
void rate_destroy (struct rate *r);
void rate_set (struct rate *r, uint64_t limit);
uint64_t rate_get (struct rate *r);

/* May bytes start now (ns)?  0: yes, and they are booked.  Otherwise how long
 * to wait (ns) before asking again. */
uint64_t rate_take (struct rate *r, uint64_t bytes, uint64_t now);

/* Largest request that keeps this limit even: a tenth of a second's worth,
 * between unit and most. */
uint64_t rate_request (struct rate *r, uint64_t unit, uint64_t most);

#endif
