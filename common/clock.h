/* clock.h - the one clock: CLOCK_MONOTONIC, as ns or ms.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CLOCK_H
#define BACKFILL_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t
now_ns (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * UINT64_C (1000000000) + (uint64_t)ts.tv_nsec;
}

static inline uint64_t
now_ms (void)
{
  return now_ns () / 1000000;
}

/* To the tick: for what is asked with each request. */
static inline uint64_t
now_coarse_ms (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC_COARSE, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static inline struct timespec
ns_to_timespec (uint64_t ns)
{
  return (struct timespec){ .tv_sec = (time_t)(ns / 1000000000),
                            .tv_nsec = (long)(ns % 1000000000) };
}

static inline struct timespec
ms_to_timespec (uint64_t ms)
{
  return ns_to_timespec (ms * 1000000);
}

#endif
