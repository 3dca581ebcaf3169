/* test-rate.c - speed limits, on a clock of the test's own.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>

#include "rate.h"

#define SECOND UINT64_C (1000000000)
#define MIB (UINT64_C (1) << 20)

struct sent {
  uint64_t at, bytes;
};

static unsigned seed;

static uint64_t
below (uint64_t n)
{
  seed = seed * 1103515245u + 12345u;
  return (uint64_t)(seed >> 8) % n;
}

/* A caller as pace.c has them: asks, sleeps as long as it is told and up to
 * `late` more, asks again.  Ten seconds of it; returns how many it sent. */
static size_t
run (struct rate *r, uint64_t request, bool vary, uint64_t late,
     struct sent *sent, size_t max)
{
  uint64_t now = 12345 * SECOND, end = now + 10 * SECOND;
  size_t n = 0;

  while (now < end) {
    uint64_t bytes = vary ? 1 + below (request) : request;
    uint64_t wait;

    while ((wait = rate_take (r, bytes, now)) > 0)
      now += wait + below (late + 1);
    assert_true (n < max);
    sent[n++] = (struct sent){ now, bytes };
    /* The work itself. */
    now += below (50000);
  }
  return n;
}

/* What starts in any second is the limit and one request at most; and who
 * comes back in time gets nearly all of the limit. */
static void
check (const struct sent *sent, size_t n, uint64_t limit, uint64_t request,
       bool in_time)
{
  uint64_t sum = 0, all = 0;
  size_t tail = 0;

  for (size_t i = 0; i < n; i++) {
    sum += sent[i].bytes;
    all += sent[i].bytes;
    while (sent[i].at - sent[tail].at >= SECOND)
      sum -= sent[tail++].bytes;
    if (sum > limit + request)
      fail_msg ("%llu bytes in a second, the limit is %llu, a request %llu",
                (unsigned long long)sum, (unsigned long long)limit,
                (unsigned long long)request);
  }
  if (in_time)
    assert_true (all >= limit / 10 * 98);
}

static void
limit_holds_over_any_second (void **state)
{
  static const uint64_t limits[]
      = { 4096, 65536, MIB, 10 * MIB + 7, 100 * MIB, 3000 * MIB };
  static const uint64_t lates[] = { 0, 100000, 4900000, 20000000 };
  const size_t max = 400000;
  struct sent *sent = malloc (max * sizeof *sent);

  (void)state;
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
    for (unsigned late = 0; late < 4; late++)
      for (int vary = 0; vary < 2; vary++) {
        struct rate r = RATE_INIT;
        uint64_t request;
        size_t n;

        rate_set (&r, limits[i]);
        assert_int_equal (rate_get (&r), limits[i]);
        request = rate_request (&r, 4096, MIB);
        /* Small ones too: of them most fit into what was slept too long. */
        if (limits[i] >= 100 * MIB && vary)
          request /= 4;
        seed = late + 1;
        n = run (&r, request, vary, lates[late], sent, max);
        check (sent, n, limits[i], request, late < 3);
        rate_destroy (&r);
      }
  free (sent);
}

static void
no_limit_never_waits (void **state)
{
  struct rate r;

  (void)state;
  rate_init (&r);
  for (int i = 0; i < 1000; i++)
    assert_int_equal (rate_take (&r, MIB, SECOND), 0);
  assert_int_equal (rate_request (&r, 4096, 2 * MIB), 2 * MIB);
  rate_destroy (&r);
}

static void
requests_shrink_at_low_limits (void **state)
{
  static const struct {
    uint64_t limit, request;
  } cases[] = {
    { 1, 4096 }, /* a granule is the least */
    { 4096, 4096 },      { 40960, 4096 },
    { 81920, 8192 }, /* a tenth of a second */
    { 85000, 8192 }, /* whole granules */
    { MIB, 102400 },     { 10 * MIB, MIB },
    { 1000 * MIB, MIB }, /* never more than was asked for */
  };
  struct rate r = RATE_INIT;

  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    rate_set (&r, cases[i].limit);
    assert_int_equal (rate_request (&r, 4096, MIB), cases[i].request);
  }
  rate_destroy (&r);
}

/* A job at a crawl that is let run, or made a little faster, goes on at once:
 * what was booked at the old speed does not count. */
static void
a_new_limit_holds_at_once (void **state)
{
  struct rate r = RATE_INIT;
  uint64_t now = 100 * SECOND;

  (void)state;
  rate_set (&r, 1);
  assert_int_equal (rate_take (&r, 4096, now), 0);
  assert_true (rate_take (&r, 4096, now) > 4000 * SECOND);
  rate_set (&r, MIB);
  assert_int_equal (rate_take (&r, MIB, now), 0);
  assert_in_range (rate_take (&r, 4096, now), SECOND / 10 * 9,
                   SECOND / 10 * 11);
  /* Slower: what is booked stays booked. */
  rate_set (&r, 4096);
  assert_true (rate_take (&r, 4096, now) > 0);
  assert_int_equal (rate_take (&r, 4096, now + SECOND + SECOND / 10), 0);
  assert_in_range (rate_take (&r, 4096, now + SECOND + SECOND / 10),
                   SECOND / 10 * 8, SECOND / 10 * 11);
  rate_set (&r, 0);
  assert_int_equal (rate_take (&r, MIB, now), 0);
  assert_int_equal (rate_take (&r, MIB, now), 0);
  rate_destroy (&r);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (limit_holds_over_any_second),
    cmocka_unit_test (no_limit_never_waits),
    cmocka_unit_test (requests_shrink_at_low_limits),
    cmocka_unit_test (a_new_limit_holds_at_once),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
