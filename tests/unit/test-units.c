/* test-units.c - sizes, speeds and times as people write them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "units.h"

typedef int (*parser) (const char *text, uint64_t *r, const char **why);

static void
is (parser parse, const char *text, uint64_t expected)
{
  const char *why = NULL;
  uint64_t n = 42;

  if (parse (text, &n, &why) == -1)
    fail_msg ("'%s': %s", text, why);
  if (n != expected)
    fail_msg ("'%s': %llu", text, (unsigned long long)n);
}

static void
is_none (parser parse, const char *text)
{
  const char *why = NULL;
  uint64_t n = 42;

  if (parse (text, &n, &why) != -1)
    fail_msg ("'%s' is taken as %llu", text, (unsigned long long)n);
  assert_non_null (why);
  assert_int_equal (n, 42);
}

static void
sizes (void **state)
{
  (void)state;
  is (units_size, "0", 0);
  is (units_size, "007", 7);
  is (units_size, "1b", 1);
  is (units_size, "2s", 1024);
  is (units_size, "3k", 3 << 10);
  is (units_size, "3K", 3 << 10);
  is (units_size, "5m", 5 << 20);
  is (units_size, "1G", 1 << 30);
  is (units_size, "1T", UINT64_C (1) << 40);
  is (units_size, "1P", UINT64_C (1) << 50);
  is (units_size, "7E", UINT64_C (7) << 60);
  is (units_size, "9223372036854775807", INT64_MAX);
  for (const char *const *p
       = (const char *const[]){ "", " 1", "1 ", "-1", "+1", "8E", "k", "1kk",
                                "1kB", "0x10", "1.5G", "1,5G", "none", "1h",
                                "9223372036854775808", "99999999999999999999",
                                "18446744073709551617", NULL };
       *p; p++)
    is_none (units_size, *p);
}

static void
speeds (void **state)
{
  (void)state;
  is (units_speed, "none", 0);
  is (units_speed, "0", 0);
  is (units_speed, "20M", 20 << 20);
  is_none (units_speed, "None");
  is_none (units_speed, "forever");
  is_none (units_speed, "");
}

static void
times (void **state)
{
  (void)state;
  is (units_time, "0", 0);
  is (units_time, "0ms", 0);
  is (units_time, "1", 1000);
  is (units_time, "500ms", 500);
  is (units_time, "5s", 5000);
  is (units_time, "5m", 300000);
  is (units_time, "2h", 7200000);
  is (units_time, "365d", UINT64_C (31536000000));
  is (units_time, "forever", UNITS_FOREVER);
  for (const char *const *p
       = (const char *const[]){ "", "s", "-1", " 1", "1 ", "1.5s", "5x", "1M",
                                "1S", "366d", "31536001", "none", "1sec",
                                "18446744073709551617", "99999999999999999999",
                                "for ever", NULL };
       *p; p++)
    is_none (units_time, *p);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (sizes),
    cmocka_unit_test (speeds),
    cmocka_unit_test (times),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
