/* test-share.c - jobs wait for a slot, and are woken when they get it or have
 * to look at something else.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#include "share.h"

static struct slot a, b, c;

static int
setup (void **state)
{
  (void)state;
  /* A wake-up that is lost is waited for for ever. */
  alarm (60);
  share_set_slots (1);
  slot_init (&a);
  slot_init (&b);
  slot_init (&c);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  slot_destroy (&c);
  slot_destroy (&b);
  slot_destroy (&a);
  assert_int_equal (jobs_running (), 0);
  share_set_slots (0);
  alarm (0);
  return 0;
}

static void *
wait_for_slot (void *arg)
{
  slot_wait (arg);
  return NULL;
}

/* It most likely waits when this returns; the tests hold if it does not. */
static pthread_t
wait_in_thread (struct slot *s)
{
  pthread_t thread;

  assert_int_equal (pthread_create (&thread, NULL, wait_for_slot, s), 0);
  usleep (100000);
  return thread;
}

static void
oldest_first (void **state)
{
  (void)state;
  assert_true (slot_take (&a));
  assert_false (slot_take (&b));
  assert_false (slot_take (&c));
  assert_true (slot_take (&a));
  slot_give (&a);
  assert_false (slot_take (&c));
  assert_true (slot_take (&b));
  assert_int_equal (jobs_running (), 1);
}

static void
who_gets_a_slot_is_woken (void **state)
{
  pthread_t thread;

  (void)state;
  assert_true (slot_take (&a));
  assert_false (slot_take (&b));
  thread = wait_in_thread (&b);
  slot_give (&a);
  assert_int_equal (pthread_join (thread, NULL), 0);
  assert_true (slot_take (&b));
}

static void
more_slots_wake (void **state)
{
  pthread_t thread;

  (void)state;
  assert_true (slot_take (&a));
  assert_false (slot_take (&b));
  thread = wait_in_thread (&b);
  share_set_slots (2);
  assert_int_equal (pthread_join (thread, NULL), 0);
  assert_true (slot_take (&b));
  assert_int_equal (jobs_running (), 2);
}

/* Before the wait, or in it: the slot is looked at once more. */
static void
a_kick_is_not_lost (void **state)
{
  pthread_t thread;

  (void)state;
  assert_true (slot_take (&a));
  assert_false (slot_take (&b));
  slot_kick (&b);
  slot_wait (&b);
  assert_false (slot_take (&b));
  thread = wait_in_thread (&b);
  slot_kick (&b);
  assert_int_equal (pthread_join (thread, NULL), 0);
  assert_false (slot_take (&b));
}

static void
who_leaves_the_queue_gets_none (void **state)
{
  (void)state;
  assert_true (slot_take (&a));
  assert_false (slot_take (&b));
  assert_false (slot_take (&c));
  slot_give (&b);
  slot_give (&a);
  assert_false (b.held);
  assert_true (slot_take (&c));
}

static void
memory_is_shared (void **state)
{
  const uint64_t near = 20u << 20, far = 1u << 30;

  (void)state;
  assert_true (share_has_memory (0, 20u << 20, near));
  assert_false (share_has_memory (1, 20u << 20, near));
  assert_true (share_has_memory (0, 64u << 20, far));
  assert_false (share_has_memory (1, 64u << 20, far));
  share_set_slots (0);
  assert_true (slot_take (&a));
  assert_true (slot_take (&b));
  assert_true (share_has_memory (9u << 20, 1u << 20, near));
  assert_false (share_has_memory (10u << 20, 1u << 20, near));
  assert_true (share_has_memory (31u << 20, 1u << 20, far));
  assert_false (share_has_memory (32u << 20, 1u << 20, far));
  share_add_bytes (64u << 20);
  assert_false (share_has_memory (0, 1, near));
  share_sub_bytes (64u << 20);
  assert_true (share_has_memory (0, 1, near));
  share_set_memory (8u << 20);
  assert_true (share_has_memory (0, 4u << 20, far));
  assert_false (share_has_memory (1, 4u << 20, far));
  share_set_memory (64u << 20);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown (oldest_first, setup, teardown),
    cmocka_unit_test_setup_teardown (who_gets_a_slot_is_woken, setup, teardown),
    cmocka_unit_test_setup_teardown (more_slots_wake, setup, teardown),
    cmocka_unit_test_setup_teardown (a_kick_is_not_lost, setup, teardown),
    cmocka_unit_test_setup_teardown (who_leaves_the_queue_gets_none, setup,
                                     teardown),
    cmocka_unit_test_setup_teardown (memory_is_shared, setup, teardown),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
