/* test-ledger.c - backfilld's list of volumes: what was added is there after
 * any crash, and nothing that was removed.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ledger.h"

static char dir[64];

/* Linked with --wrap: f a file's sync, d a folder's, r the rename. */
static char order[16];
static int fail_sync;

int __real_fsync (int fd);
int __wrap_fsync (int fd);
int __real_renameat (int from, const char *old, int to, const char *new);
int __wrap_renameat (int from, const char *old, int to, const char *new);

static void
note (char what)
{
  size_t n = strlen (order);

  if (n + 1 < sizeof order)
    order[n] = what;
}

int
__wrap_fsync (int fd)
{
  struct stat sb;

  assert_int_equal (fstat (fd, &sb), 0);
  note (S_ISDIR (sb.st_mode) ? 'd' : 'f');
  if (fail_sync) {
    errno = fail_sync;
    return -1;
  }
  return __real_fsync (fd);
}

int
__wrap_renameat (int from, const char *old, int to, const char *new)
{
  note ('r');
  return __real_renameat (from, old, to, new);
}

static struct ledger *
ledger (void)
{
  char *error = NULL;
  struct ledger *l = ledger_open (dir, &error);

  if (!l)
    fail_msg ("%s", error);
  return l;
}

static int
setup (void **state)
{
  (void)state;
  strcpy (dir, "/tmp/test-ledger-XXXXXX");
  fail_sync = 0;
  return mkdtemp (dir) ? 0 : -1;
}

static int
teardown (void **state)
{
  char command[100];

  (void)state;
  snprintf (command, sizeof command, "rm -r %s", dir);
  return system (command);
}

static void
all_of_them_are_kept (void **state)
{
  static const char *const paths[] = { "/a", "/b c", "/d\"\xc3\xa4", "/e" };
  struct ledger *l = ledger ();

  (void)state;
  for (unsigned i = 0; i < 4; i++)
    assert_int_equal (ledger_add (l, paths[i]), 0);
  assert_int_equal (ledger_add (l, paths[0]), 0);
  /* One in the middle, the last, and the first. */
  for (unsigned i = 1, left = 0xf; left; i = i == 1 ? 3 : i == 3 ? 0 : 2) {
    assert_int_equal (ledger_remove (l, paths[i]), 0);
    left &= ~(1u << i);
    ledger_free (l);
    l = ledger ();
    for (unsigned j = 0; j < 4; j++)
      assert_int_equal (ledger_has (l, paths[j]), (left >> j) & 1);
  }
  assert_int_equal (ledger_remove (l, "/never"), 0);
  ledger_free (l);
}

/* The whole new file is on the disk before it takes the old one's place. */
static void
durable_before_it_counts (void **state)
{
  struct ledger *l = ledger ();

  (void)state;
  memset (order, 0, sizeof order);
  assert_int_equal (ledger_add (l, "/a"), 0);
  assert_string_equal (order, "frd");
  memset (order, 0, sizeof order);
  assert_int_equal (ledger_remove (l, "/a"), 0);
  assert_string_equal (order, "frd");
  ledger_free (l);
}

/* What could not be written is not there, and what could not be removed is. */
static void
failures_change_nothing (void **state)
{
  struct ledger *l = ledger ();

  (void)state;
  assert_int_equal (ledger_add (l, "/a"), 0);
  assert_int_equal (ledger_add (l, "/b"), 0);
  fail_sync = EIO;
  assert_int_equal (ledger_add (l, "/c"), -1);
  assert_int_equal (errno, EIO);
  assert_int_equal (ledger_remove (l, "/a"), -1);
  fail_sync = 0;
  for (unsigned i = 0; i < 2; i++) {
    assert_true (ledger_has (l, "/a") && ledger_has (l, "/b"));
    assert_false (ledger_has (l, "/c"));
    ledger_free (l);
    l = ledger ();
  }
  ledger_free (l);
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (all_of_them_are_kept),
    TEST (durable_before_it_counts),
    TEST (failures_change_nothing),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
