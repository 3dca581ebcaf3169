/* test-lane.c - jobs take turns, and nobody who gets no answer keeps the others
 * waiting.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <time.h>

#include "lane.h"

#define MS UINT64_C (1000000)
#define NR (NR_LANES + 2)

static struct lane lane[NR];
static uint64_t start; /* ns */

static int
setup (void **state)
{
  struct timespec ts;

  (void)state;
  for (unsigned i = 0; i < NR; i++)
    lane_init (&lane[i]);
  clock_gettime (CLOCK_MONOTONIC, &ts);
  start = (uint64_t)ts.tv_sec * 1000 * MS + (uint64_t)ts.tv_nsec;
  for (unsigned i = 0; i < NR_LANES; i++)
    assert_true (lane_take (&lane[i], start));
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  for (unsigned i = 0; i < NR; i++)
    lane_destroy (&lane[i]);
  return 0;
}

static unsigned
held (void)
{
  unsigned n = 0;

  for (unsigned i = 0; i < NR; i++)
    n += lane[i].held;
  return n;
}

static void
who_gets_no_answer_goes (void **state)
{
  (void)state;
  assert_false (lane_take (&lane[NR_LANES], start + 1));
  assert_false (lane_take (&lane[NR_LANES], start + 50 * MS));
  assert_true (lane_take (&lane[0], start + 50 * MS));
  /* One waits, so one has to go. */
  assert_true (lane_take (&lane[NR_LANES], start + 150 * MS));
  assert_int_equal (held (), NR_LANES);
}

static void
who_is_alone_stays (void **state)
{
  (void)state;
  for (unsigned i = 0; i < NR_LANES; i++)
    assert_true (lane_take (&lane[i], start + 3600 * 1000 * MS));
}

/* Answers make a turn longer, but not for ever. */
static void
turns_end (void **state)
{
  (void)state;
  assert_false (lane_take (&lane[NR_LANES], start + 1));
  for (int i = 0; i < 100; i++)
    lane_progress (&lane[0]);
  assert_true (lane[0].until <= lane[0].last);
  assert_true (lane_take (&lane[NR_LANES], lane[0].last + 1));
  assert_int_equal (held (), NR_LANES);
}

static void
leaving_makes_room (void **state)
{
  (void)state;
  assert_false (lane_take (&lane[NR_LANES], start + 1));
  assert_false (lane_take (&lane[NR_LANES + 1], start + 1));
  lane_leave (&lane[NR_LANES]);
  assert_false (lane[NR_LANES].queued);
  lane_leave (&lane[3]);
  assert_false (lane[NR_LANES].held);
  assert_true (lane_take (&lane[NR_LANES + 1], start + 2));
  assert_int_equal (held (), NR_LANES);
}

static void
waiting_ends (void **state)
{
  (void)state;
  assert_false (lane_take (&lane[NR_LANES], start + 1));
  for (int i = 0; i < 1000 && !lane[NR_LANES].held; i++)
    lane_wait (&lane[NR_LANES]);
  assert_true (lane[NR_LANES].held);
  assert_int_equal (held (), NR_LANES);
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (who_gets_no_answer_goes), TEST (who_is_alone_stays), TEST (turns_end),
    TEST (leaving_makes_room),      TEST (waiting_ends),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
