/* test-ahead.c - what is fetched beside what a guest asks for.
 *
 * A small model of a disk plays guests against the policy: what a plan holds
 * is local at once, so each miss left is one that the policy did not foresee.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ahead.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)
#define UNIT (1u << 20)
#define GRANULE 4096u

struct model {
  struct ahead ahead;
  struct ahead_plan plan; /* of the last read */
  uint64_t size, fetched, asked, misses;
  unsigned char *here; /* a byte a granule */
};

static void
model_init (struct model *m, uint32_t unit, uint64_t size)
{
  memset (m, 0, sizeof *m);
  m->size = size;
  m->here = calloc (1, size / GRANULE + 1);
  assert_non_null (m->here);
  ahead_init (&m->ahead, unit, GRANULE, size);
}

static uint64_t
make_local (struct model *m, uint64_t offset, uint64_t length)
{
  uint64_t n = 0;

  for (uint64_t g = offset / GRANULE; g * GRANULE < offset + length; g++)
    if (!m->here[g]) {
      m->here[g] = 1;
      n += GRANULE;
    }
  m->fetched += n;
  return n;
}

static void
check_plan (const struct ahead_plan *plan, uint64_t size)
{
  assert_true (plan->nr <= AHEAD_RANGES);
  for (unsigned i = 0; i < plan->nr; i++) {
    assert_true (plan->range[i].length > 0);
    assert_true (plan->range[i].offset < size);
    assert_true (plan->range[i].length <= size - plan->range[i].offset);
    assert_int_equal (plan->range[i].offset % GRANULE, 0);
    assert_true (plan->range[i].length % GRANULE == 0
                 || plan->range[i].offset + plan->range[i].length == size);
  }
}

static bool
guest_reads (struct model *m, uint64_t offset, uint32_t length)
{
  bool miss = make_local (m, offset, length) > 0;

  m->asked += length;
  m->misses += miss;
  ahead_read (&m->ahead, offset, length, miss, &m->plan);
  check_plan (&m->plan, m->size);
  for (unsigned i = 0; i < m->plan.nr; i++)
    make_local (m, m->plan.range[i].offset, m->plan.range[i].length);
  return miss;
}

static bool
is_here (const struct model *m, uint64_t offset, uint64_t end)
{
  for (uint64_t g = offset / GRANULE; g * GRANULE < end; g++)
    if (!m->here[g])
      return false;
  return true;
}

static uint64_t seed;

static uint64_t
any (uint64_t below)
{
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed % below;
}

static void
test_state_is_small (void **state)
{
  (void)state;
  assert_true (sizeof (struct ahead) <= AHEAD_STATE_MAX);
}

/* fetch= of one granule: exactly what is asked for, whoever asks. */
static void
test_exact (void **state)
{
  const uint32_t units[] = { 0, 512, GRANULE };

  (void)state;
  for (unsigned u = 0; u < 3; u++) {
    struct model m;

    model_init (&m, units[u], 64 * MIB);
    for (uint64_t at = 0; at < 32 * MIB; at += 128 * KIB) {
      guest_reads (&m, at, 128 * KIB);
      assert_int_equal (m.plan.nr, 0);
    }
    assert_int_equal (m.fetched, m.asked);
    free (m.here);
  }
}

static void
test_first_miss (void **state)
{
  struct model m;

  (void)state;
  model_init (&m, UNIT, GIB);
  guest_reads (&m, 300 * MIB + 700 * KIB, 4 * KIB);
  assert_true (is_here (&m, 300 * MIB + 512 * KIB, 301 * MIB));
  assert_true (m.fetched <= 2 * MIB);
  /* What follows comes first, in a small piece. */
  assert_true (m.plan.range[0].offset <= 300 * MIB + 704 * KIB);
  assert_true (m.plan.range[0].length <= 256 * KIB);
  assert_true (m.plan.range[0].offset + m.plan.range[0].length
               > 300 * MIB + 768 * KIB);
  free (m.here);
}

static void
test_local_reads_plan_nothing (void **state)
{
  struct ahead a;
  struct ahead_plan plan;

  (void)state;
  seed = 42;
  ahead_init (&a, UNIT, GRANULE, 10 * GIB);
  for (int i = 0; i < 100000; i++) {
    ahead_read (&a, any (10 * GIB / GRANULE) * GRANULE, GRANULE, false, &plan);
    assert_int_equal (plan.nr, 0);
  }
}

/* However many streams, each soon finds its data there, and what is fetched
 * past their ends is little. */
static void
test_sequential (void **state)
{
  const unsigned streams[] = { 1, 4, 16 };
  const uint32_t sizes[] = { 4096, 16384 + 512, 128 * 1024, 1 << 20 };

  (void)state;
  for (unsigned i = 0; i < 3; i++)
    for (unsigned k = 0; k < 4; k++) {
      struct model m;
      uint64_t n = streams[i], length = 24 * MIB;

      model_init (&m, UNIT, 2 * GIB);
      for (uint64_t at = 0; at < length; at += sizes[k])
        for (uint64_t s = 0; s < n; s++)
          guest_reads (&m, s * 100 * MIB + s * 52 * KIB + at, sizes[k]);
      assert_true (m.misses <= 4 * n);
      assert_true (m.fetched <= m.asked + m.asked / 4);
      free (m.here);
    }
}

/* A long stream has megabytes on their way before it needs them. */
static void
test_window_grows (void **state)
{
  struct model m;
  uint64_t at;

  (void)state;
  model_init (&m, UNIT, 2 * GIB);
  for (at = 0; at < 256 * MIB; at += 128 * KIB)
    guest_reads (&m, at, 128 * KIB);
  assert_true (is_here (&m, at, at + 8 * MIB));
  assert_false (is_here (&m, at, at + 17 * MIB));
  free (m.here);
}

/* A stream that ends early has not fetched much more than it read. */
static void
test_short_stream (void **state)
{
  (void)state;
  for (uint64_t length = 128 * KIB; length <= 16 * MIB; length *= 2) {
    struct model m;

    model_init (&m, UNIT, GIB);
    for (uint64_t at = 0; at < length; at += 32 * KIB)
      guest_reads (&m, 512 * MIB + at, 32 * KIB);
    assert_true (m.fetched <= 2 * length + MIB);
    free (m.here);
  }
}

/* One who reads at random pays little for it after a while; whoever is
 * sequential after that is recognised as if nothing had been. */
static void
test_random_backs_off (void **state)
{
  struct model m;
  uint64_t fetched, asked, misses, base;

  (void)state;
  seed = 4711;
  model_init (&m, UNIT, 10 * GIB);
  for (int i = 0; i < 20000; i++)
    guest_reads (&m, any (10 * GIB / GRANULE) * GRANULE, GRANULE);
  assert_true (m.fetched <= 64 * (uint64_t)UNIT + 3 * m.asked);

  fetched = m.fetched;
  asked = m.asked;
  for (int i = 0; i < 20000; i++)
    guest_reads (&m, any (10 * GIB / GRANULE) * GRANULE, GRANULE);
  assert_true (m.fetched - fetched <= 4 * (m.asked - asked));

  misses = m.misses;
  base = 3 * GIB + 17 * GRANULE;
  for (uint64_t at = 0; at < 64 * MIB; at += 64 * KIB)
    guest_reads (&m, base + at, 64 * KIB);
  assert_true (m.misses - misses <= 16);
  free (m.here);
}

/* The same bound for regular strides, the worst case for a stream finder. */
static void
test_stride_backs_off (void **state)
{
  const uint64_t strides[] = { 64 * KIB, 100 * KIB, 128 * KIB, MIB };

  (void)state;
  for (unsigned k = 0; k < 4; k++) {
    struct model m;

    model_init (&m, UNIT, 10 * GIB);
    for (uint64_t i = 0; i < 9000; i++)
      guest_reads (&m, i * strides[k], GRANULE);
    assert_true (m.fetched <= 64 * (uint64_t)UNIT + 3 * m.asked);
    free (m.here);
  }
}

/* The head of something, then its tail: what is between comes too. */
static void
test_span (void **state)
{
  struct model m;

  (void)state;
  model_init (&m, UNIT, GIB);
  guest_reads (&m, 329 * MIB, 16 * KIB);
  guest_reads (&m, 333 * MIB + 460 * KIB, 68 * KIB);
  assert_true (is_here (&m, 329 * MIB, 333 * MIB + 512 * KIB));
  free (m.here);

  model_init (&m, UNIT, GIB);
  guest_reads (&m, 329 * MIB, 16 * KIB);
  guest_reads (&m, 349 * MIB, 16 * KIB);
  assert_false (is_here (&m, 331 * MIB, 348 * MIB));
  assert_true (m.fetched <= 4 * MIB);
  free (m.here);
}

/* Where much was read already, a miss brings all that is near. */
static void
test_dense (void **state)
{
  struct model m;

  (void)state;
  model_init (&m, UNIT, GIB);
  for (uint64_t at = 0; at < MIB; at += 64 * KIB)
    guest_reads (&m, 401 * MIB + (at * 7) % MIB, 4 * KIB);
  /* Reads elsewhere, so that no span helps. */
  for (uint64_t i = 0; i < 3; i++)
    guest_reads (&m, (100 + 50 * i) * MIB, 4 * KIB);
  guest_reads (&m, 402 * MIB + 512 * KIB, 4 * KIB);
  assert_true (is_here (&m, 400 * MIB, 404 * MIB));
  free (m.here);
}

/* A read near the end of what was fetched extends it in time. */
static void
test_edge (void **state)
{
  struct model m;

  (void)state;
  model_init (&m, UNIT, GIB);
  guest_reads (&m, 200 * MIB, 4 * KIB);
  assert_false (is_here (&m, 200 * MIB + 512 * KIB, 200 * MIB + 576 * KIB));
  assert_false (guest_reads (&m, 200 * MIB + 448 * KIB, 4 * KIB));
  assert_true (is_here (&m, 200 * MIB + 512 * KIB, 200 * MIB + 640 * KIB));
  free (m.here);
}

/* What was planned and never came (the source was away, the store was slow)
 * is planned again. */
static void
test_lost_plan (void **state)
{
  struct ahead a;
  struct ahead_plan plan;
  unsigned again = 0;

  (void)state;
  ahead_init (&a, UNIT, GRANULE, GIB);
  ahead_read (&a, 100 * MIB, GRANULE, true, &plan);
  assert_true (plan.nr > 0);
  for (uint64_t i = 0; i < 100; i++)
    ahead_read (&a, 200 * MIB, GRANULE, false, &plan);
  for (uint64_t i = 1; i < 8; i++) {
    ahead_read (&a, 100 * MIB + i * 64 * KIB, GRANULE, true, &plan);
    for (unsigned k = 0; k < plan.nr; k++)
      again += plan.range[k].offset < 100 * MIB + 512 * KIB;
  }
  assert_true (again > 0);
}

/* Any unit, any size, any read: ranges stay on the disk (the check is in
 * check_plan), also where sums could overflow. */
static void
test_any (void **state)
{
  const uint64_t sizes[] = {
    1,        513, 4096, 70001, 3 * MIB + 512, 5 * GIB + 1, UINT64_C (8) << 40,
    INT64_MAX
  };
  const uint32_t units[] = { 8192, 65536, 100000, UNIT, 32u << 20, UINT32_MAX };
  struct ahead a;
  struct ahead_plan plan;

  (void)state;
  seed = 99;
  for (unsigned s = 0; s < 8; s++)
    for (unsigned u = 0; u < 6; u++) {
      uint64_t size = sizes[s], at = 0;

      ahead_init (&a, units[u], GRANULE, size);
      for (int i = 0; i < 3000; i++) {
        uint64_t length;

        if (any (3) == 0)
          at = any (2) ? any (size) : size - 1 - any (size < MIB ? size : MIB);
        if (at >= size)
          at = 0;
        length = 1 + any (any (2) ? 4096 : 2 * MIB);
        if (length > size - at)
          length = size - at;
        ahead_read (&a, at, (uint32_t)length, any (4) != 0, &plan);
        check_plan (&plan, size);
        at += length;
      }
    }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_state_is_small),
    cmocka_unit_test (test_exact),
    cmocka_unit_test (test_first_miss),
    cmocka_unit_test (test_local_reads_plan_nothing),
    cmocka_unit_test (test_sequential),
    cmocka_unit_test (test_window_grows),
    cmocka_unit_test (test_short_stream),
    cmocka_unit_test (test_random_backs_off),
    cmocka_unit_test (test_stride_backs_off),
    cmocka_unit_test (test_span),
    cmocka_unit_test (test_dense),
    cmocka_unit_test (test_edge),
    cmocka_unit_test (test_lost_plan),
    cmocka_unit_test (test_any),
  };

  return cmocka_run_group_tests_name ("ahead", tests, NULL, NULL);
}
