/* test-array.c - an array that grows keeps what is in it.
 *
 * A byte written past its room is found by the sanitizer builds and valgrind.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "array.h"

static void
elements_stay (void **state)
{
  uint64_t *a = NULL;
  unsigned nr = 0;

  (void)state;
  for (unsigned i = 0; i < 1000; i++) {
    assert_int_equal (ARRAY_ROOM (a, nr), 0);
    a[nr++] = i;
  }
  for (unsigned i = 0; i < nr; i++)
    assert_int_equal (a[i], i);
  free (a);
}

/* From every number of elements down to every other, and up again. */
static void
removed_and_added (void **state)
{
  (void)state;
  for (size_t most = 1; most < 40; most++)
    for (size_t least = 0; least < most; least++) {
      char *a = NULL;
      size_t nr = 0;

      for (unsigned turn = 0; turn < 3; turn++) {
        while (nr < most) {
          assert_int_equal (ARRAY_ROOM (a, nr), 0);
          a[nr] = (char)nr;
          nr++;
        }
        for (size_t i = 0; i < nr; i++)
          assert_int_equal (a[i], (char)i);
        nr = least;
      }
      free (a);
    }
}

/* Linked with --wrap=reallocarray. */
void *__real_reallocarray (void *ptr, size_t nr, size_t size);
void *__wrap_reallocarray (void *ptr, size_t nr, size_t size);
static bool fails;

void *
__wrap_reallocarray (void *ptr, size_t nr, size_t size)
{
  if (!fails)
    return __real_reallocarray (ptr, nr, size);
  errno = ENOMEM;
  return NULL;
}

static void
no_memory (void **state)
{
  int *a = NULL;

  (void)state;
  assert_int_equal (ARRAY_ROOM (a, 0u), 0);
  a[0] = 7;
  fails = true;
  errno = 0;
  assert_int_equal (ARRAY_ROOM (a, 4u), -1);
  fails = false;
  assert_int_equal (errno, ENOMEM);
  assert_int_equal (a[0], 7);
  free (a);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (elements_stay),
    cmocka_unit_test (removed_and_added),
    cmocka_unit_test (no_memory),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
