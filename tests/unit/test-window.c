/* test-window.c - how much of a job may be in flight.
 *
 * A model of a way to a source: a delay, and a bandwidth that all requests in
 * flight share.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "window.h"

#define MIB (UINT64_C (1) << 20)
#define MS UINT64_C (1000000)
#define MOST (64 * MIB)

/* Keep the window full for that many MiB: what it is then. */
static uint64_t
run (struct window *w, uint64_t delay_ms, uint64_t mib_per_s, unsigned mib,
     uint64_t most)
{
  for (unsigned i = 0; i < mib; i++) {
    /* Behind all that is in flight. */
    uint64_t queue = w->size / MIB * 1000 * MS / mib_per_s;
    uint64_t ns = delay_ms * MS > queue ? delay_ms * MS : queue;

    window_is_full (w);
    window_answer (w, MIB, ns + i % 7 * MS / 10, most);
  }
  return w->size;
}

static void
far_sources_get_more (void **state)
{
  struct window w;

  (void)state;
  window_init (&w);
  assert_int_equal (w.size, WINDOW_MIN);
  assert_int_equal (run (&w, 50, 2000, 1000, MOST), MOST);
}

static void
near_ones_do_not (void **state)
{
  struct window w;

  (void)state;
  /* 1 GiB/s, of no delay: 20 MiB are queued, and the first came at once. */
  window_init (&w);
  window_answer (&w, MIB, MS, MOST);
  assert_int_equal (run (&w, 0, 1000, 1000, MOST), WINDOW_MIN);
  /* What is in flight already brings enough. */
  window_init (&w);
  assert_int_equal (run (&w, 10, 10000, 1000, MOST), WINDOW_MIN);
}

static void
slow_ones_do_not (void **state)
{
  struct window w;

  (void)state;
  /* Far, and 100 MiB/s: 5 MiB fill the way, and answers queue. */
  window_init (&w);
  window_answer (&w, MIB, 50 * MS, MOST);
  assert_int_equal (run (&w, 50, 100, 1000, MOST), WINDOW_MIN);
}

static void
what_was_never_full_does_not_grow (void **state)
{
  struct window w;

  (void)state;
  window_init (&w);
  for (unsigned i = 0; i < 1000; i++)
    window_answer (&w, MIB, 50 * MS, MOST);
  assert_int_equal (w.size, WINDOW_MIN);
}

static void
it_follows_the_way (void **state)
{
  struct window w;

  (void)state;
  window_init (&w);
  assert_int_equal (run (&w, 50, 2000, 1000, MOST), MOST);
  /* The way has become narrow. */
  assert_int_equal (run (&w, 50, 100, 4000, MOST), WINDOW_MIN);
  /* Wide again, and somewhat longer. */
  assert_int_equal (run (&w, 80, 2000, 1000, MOST), MOST);
  /* Memory is another's now. */
  assert_int_equal (run (&w, 80, 2000, 200, 32 * MIB), 32 * MIB);
  assert_int_equal (run (&w, 80, 2000, 200, MIB), WINDOW_MIN);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (far_sources_get_more),
    cmocka_unit_test (near_ones_do_not),
    cmocka_unit_test (slow_ones_do_not),
    cmocka_unit_test (what_was_never_full_does_not_grow),
    cmocka_unit_test (it_follows_the_way),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
