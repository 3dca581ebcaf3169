/* test-claim.c - who may change which granules now: earlier claims first, and
 * nobody waits for what does not overlap.
 *
 * A thread that waits says so in the table (claims.waiting), so that no test
 * here has to sleep and hope.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <sched.h>
#include <stdbool.h>

#include "claim.h"
#include "cleanup.h"

static struct claims cs;

struct claimant {
  uint64_t g, end;
  bool has, drop; /* atomic */
  pthread_t thread;
};

static bool
get (const bool *p)
{
  return __atomic_load_n (p, __ATOMIC_ACQUIRE);
}

static void
set (bool *p)
{
  __atomic_store_n (p, true, __ATOMIC_RELEASE);
}

static void *
claimant (void *arg)
{
  struct claimant *c = arg;
  struct claim claim;

  claim_take (&cs, &claim, c->g, c->end);
  set (&c->has);
  while (!get (&c->drop))
    sched_yield ();
  claim_drop (&cs, &claim);
  return NULL;
}

static unsigned
nr_claims (void)
{
  unsigned n = 0;
  const struct claim *c;
  LOCK_SCOPE (&cs.lock);

  TAILQ_FOREACH (c, &cs.list, link)
    n++;
  return n;
}

static unsigned
nr_waiting (void)
{
  LOCK_SCOPE (&cs.lock);

  return cs.waiting;
}

/* Returns when it is in the table, in its place. */
static void
start (struct claimant *c, uint64_t g, uint64_t end)
{
  unsigned before = nr_claims ();

  *c = (struct claimant){ .g = g, .end = end };
  pthread_create (&c->thread, NULL, claimant, c);
  while (nr_claims () == before)
    sched_yield ();
}

static void
wait_for (struct claimant *c)
{
  while (!get (&c->has))
    sched_yield ();
}

/* All that can go on has gone on: so many wait. */
static void
settle (unsigned waiting)
{
  while (nr_waiting () != waiting)
    sched_yield ();
}

static void
end (struct claimant *c)
{
  set (&c->drop);
  pthread_join (c->thread, NULL);
}

static int
setup (void **state)
{
  (void)state;
  claims_init (&cs);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  assert_true (TAILQ_EMPTY (&cs.list));
  claims_destroy (&cs);
  return 0;
}

static void
others_do_not_wait (void **state)
{
  struct claimant a, b, c;

  (void)state;
  start (&a, 10, 20);
  wait_for (&a);
  /* Next to it on both sides. */
  start (&b, 5, 10);
  wait_for (&b);
  start (&c, 20, 21);
  wait_for (&c);
  end (&b);
  end (&a);
  end (&c);
}

static void
overlapping_waits (void **state)
{
  static const struct {
    uint64_t g, end;
  } over[] = { { 10, 20 }, { 0, 11 }, { 19, 30 }, { 12, 13 }, { 0, 100 } };

  (void)state;
  for (size_t i = 0; i < sizeof over / sizeof *over; i++) {
    struct claimant a, b;

    start (&a, 10, 20);
    wait_for (&a);
    start (&b, over[i].g, over[i].end);
    settle (1);
    assert_false (get (&b.has));
    end (&a);
    wait_for (&b);
    end (&b);
  }
}

/* One that waits holds its place: what overlaps it waits behind it, also if
 * the holder in front of all would let it by. */
static void
in_order_of_arrival (void **state)
{
  struct claimant a, b, c, d;

  (void)state;
  start (&a, 0, 10);
  wait_for (&a);
  start (&b, 5, 15);
  settle (1);
  start (&c, 12, 20);
  settle (2);
  start (&d, 20, 30);
  wait_for (&d);
  assert_false (get (&b.has));
  assert_false (get (&c.has));
  end (&a);
  wait_for (&b);
  settle (1);
  assert_false (get (&c.has));
  end (&b);
  wait_for (&c);
  end (&c);
  end (&d);
}

/* Whatever is between them in the table. */
static void
not_only_the_one_before_counts (void **state)
{
  struct claimant a, b, c, d;

  (void)state;
  start (&a, 0, 10);
  start (&b, 20, 30);
  start (&c, 40, 50);
  wait_for (&c);
  start (&d, 5, 15);
  settle (1);
  assert_false (get (&d.has));
  end (&c);
  end (&b);
  settle (1);
  assert_false (get (&d.has));
  end (&a);
  wait_for (&d);
  end (&d);
}

/* All that can go on goes on when one ends. */
static void
all_that_waited_go_on (void **state)
{
  struct claimant a, b[4];

  (void)state;
  start (&a, 0, 10);
  wait_for (&a);
  for (unsigned i = 0; i < 4; i++) {
    start (&b[i], 2 * i, 2 * i + 1);
    settle (i + 1);
  }
  end (&a);
  for (unsigned i = 0; i < 4; i++)
    wait_for (&b[i]);
  for (unsigned i = 0; i < 4; i++)
    end (&b[i]);
}

/* Many at once: no granule ever has two owners. */

#define GRANULES 16u
static unsigned owners[GRANULES];

static void *
contender (void *arg)
{
  unsigned seed = (unsigned)(uintptr_t)arg;

  for (unsigned i = 0; i < 20000; i++) {
    struct claim c;
    uint64_t g, last;

    seed = seed * 1103515245u + 12345u;
    g = (seed >> 16) % GRANULES;
    last = g + 1 + (seed >> 24) % (GRANULES - g);
    claim_take (&cs, &c, g, last);
    for (uint64_t n = g; n < last; n++)
      if (__atomic_add_fetch (&owners[n], 1, __ATOMIC_RELAXED) != 1)
        return (void *)"a granule has two owners";
    for (uint64_t n = g; n < last; n++)
      __atomic_sub_fetch (&owners[n], 1, __ATOMIC_RELAXED);
    claim_drop (&cs, &c);
  }
  return NULL;
}

static void
one_owner_at_a_time (void **state)
{
  pthread_t t[4];
  void *why;

  (void)state;
  for (unsigned i = 0; i < 4; i++)
    pthread_create (&t[i], NULL, contender, (void *)(uintptr_t)(i + 1));
  for (unsigned i = 0; i < 4; i++) {
    pthread_join (t[i], &why);
    if (why)
      fail_msg ("%s", (const char *)why);
  }
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (others_do_not_wait),    TEST (overlapping_waits),
    TEST (in_order_of_arrival),   TEST (not_only_the_one_before_counts),
    TEST (all_that_waited_go_on), TEST (one_owner_at_a_time),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
