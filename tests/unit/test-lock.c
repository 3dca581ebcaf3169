/* test-lock.c - locks: order and what is held, in a debug build; and what they
 * do in any.
 *
 * What must end the process is tried in a child.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lock.h"
#include "thread.h"

static struct lock outer, inner;

static int
setup (void **state)
{
  (void)state;
  lock_init (&outer, LOCK_GATE);
  lock_init (&inner, LOCK_JOB);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  lock_destroy (&outer);
  lock_destroy (&inner);
  return 0;
}

static void
in_order (void **state)
{
  (void)state;
  for (unsigned i = 0; i < 3; i++) {
    LOCK_SCOPE (&outer);
    ASSERT_HELD (&outer);
    {
      LOCK_SCOPE (&inner);
      ASSERT_HELD (&inner);
    }
    assert_true (lock_try (&inner));
    lock_drop (&inner);
  }
  /* Not nested, in any order. */
  lock_take (&inner);
  lock_drop (&inner);
  lock_take (&outer);
  lock_drop (&outer);
}

static void
unlocked_for_a_while (void **state)
{
  (void)state;
  LOCK_SCOPE (&inner);
  {
    UNLOCK_SCOPE (&inner);
    /* So the outer one may be taken. */
    LOCK_SCOPE (&outer);
    assert_true (lock_try (&inner));
    lock_drop (&inner);
  }
  assert_false (pthread_mutex_trylock (&inner.mutex) == 0);
}

static void
wait_ends (void **state)
{
  pthread_cond_t cond;
  struct timespec ts;
  uint64_t now;

  (void)state;
  cond_init (&cond);
  LOCK_SCOPE (&inner);
  clock_gettime (CLOCK_MONOTONIC, &ts);
  now = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
  assert_false (lock_wait_ms (&cond, &inner, now + 20));
  ASSERT_HELD (&inner);
  pthread_cond_destroy (&cond);
}

static void
every_rank_has_a_name (void **state)
{
  (void)state;
  for (enum lock_rank r = 0; r < LOCK_NR_RANKS; r++)
    assert_true (lock_rank_name (r)[0] != '\0');
}

#ifdef LOCK_DEBUG

/* True if fn aborts. */
static bool
aborts (void (*fn) (void))
{
  struct rlimit no_core = { 0, 0 };
  int status, null;
  pid_t pid = fork ();

  if (pid == 0) {
    setrlimit (RLIMIT_CORE, &no_core);
    signal (SIGABRT, SIG_DFL);
    null = open ("/dev/null", O_WRONLY);
    dup2 (null, STDERR_FILENO);
    fn ();
    _exit (0);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  return WIFSIGNALED (status) && WTERMSIG (status) == SIGABRT;
}

static void
inversion (void)
{
  lock_take (&inner);
  lock_take (&outer);
}

static void
twice_the_same_rank (void)
{
  struct lock other;

  lock_init (&other, LOCK_JOB);
  lock_take (&inner);
  lock_take (&other);
}

static void
tried_then_inverted (void)
{
  if (lock_try (&inner))
    lock_take (&outer);
}

static void
claim_after_a_lock (void)
{
  lock_take (&inner);
  lock_order_enter (&outer, LOCK_CLAIM);
}

static void
not_held (void)
{
  lock_take (&outer);
  ASSERT_HELD (&inner);
}

static void
given_back_twice (void)
{
  lock_take (&inner);
  lock_drop (&inner);
  lock_drop (&inner);
}

static void
after_an_end (void)
{
  lock_take (&outer);
  lock_take (&inner);
  lock_drop (&outer);
  lock_drop (&inner);
  lock_take (&outer);
}

static void
broken_rules_end_it (void **state)
{
  (void)state;
  assert_true (aborts (inversion));
  assert_true (aborts (twice_the_same_rank));
  assert_true (aborts (tried_then_inverted));
  assert_true (aborts (claim_after_a_lock));
  assert_true (aborts (not_held));
  assert_true (aborts (given_back_twice));
  assert_false (aborts (after_an_end));
}
#endif

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown (in_order, setup, teardown),
    cmocka_unit_test_setup_teardown (unlocked_for_a_while, setup, teardown),
    cmocka_unit_test_setup_teardown (wait_ends, setup, teardown),
    cmocka_unit_test (every_rank_has_a_name),
#ifdef LOCK_DEBUG
    cmocka_unit_test_setup_teardown (broken_rules_end_it, setup, teardown),
#endif
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
