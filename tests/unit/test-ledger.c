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

/* What the daemon does once it may wait. */
static int
write_it (const struct ledger *l)
{
  char *text = ledger_text (l);
  int r, err;

  assert_non_null (text);
  r = ledger_write (dir, text);
  err = errno;
  free (text);
  errno = err;
  return r;
}

static struct ledger *
again (struct ledger *l)
{
  ledger_free (l);
  return ledger ();
}

static void
all_of_them_are_kept (void **state)
{
  static const char *const paths[] = { "/a", "/b c", "/d\"\xc3\xa4", "/e" };
  struct ledger *l = ledger ();

  (void)state;
  for (unsigned i = 0; i < 4; i++)
    assert_non_null (ledger_add (l, paths[i], 0));
  assert_ptr_equal (ledger_add (l, paths[0], 0), ledger_find (l, paths[0]));
  assert_int_equal (l->nr, 4);
  /* One in the middle, the last, and the first. */
  for (unsigned i = 1, left = 0xf; left; i = i == 1 ? 3 : i == 3 ? 0 : 2) {
    ledger_remove (l, paths[i]);
    assert_int_equal (write_it (l), 0);
    left &= ~(1u << i);
    l = again (l);
    for (unsigned k = 0; k < 4; k++)
      assert_int_equal (ledger_has (l, paths[k]), (left >> k) & 1);
  }
  ledger_remove (l, "/never");
  ledger_free (l);
}

/* The whole new file is on the disk before it takes the old one's place. */
static void
durable_before_it_counts (void **state)
{
  struct ledger *l = ledger ();

  (void)state;
  ledger_add (l, "/a", 0);
  memset (order, 0, sizeof order);
  assert_int_equal (write_it (l), 0);
  assert_string_equal (order, "frd");
  ledger_free (l);
}

/* What could not be written has not taken the old one's place. */
static void
failures_change_nothing (void **state)
{
  struct ledger *l = ledger ();

  (void)state;
  ledger_add (l, "/a", 0);
  ledger_add (l, "/b", 0);
  assert_int_equal (write_it (l), 0);
  ledger_add (l, "/c", 0);
  ledger_remove (l, "/a");
  fail_sync = EIO;
  assert_int_equal (write_it (l), -1);
  assert_int_equal (errno, EIO);
  fail_sync = 0;
  l = again (l);
  assert_true (ledger_has (l, "/a") && ledger_has (l, "/b"));
  assert_false (ledger_has (l, "/c"));
  ledger_free (l);
}

/* Every change is counted, so that nobody takes it for written. */
static void
changes_are_counted (void **state)
{
  struct ledger *l = ledger ();
  const struct ledger_entry *e;
  uint64_t was = l->version;

  (void)state;
#define COUNTS(change)              \
  do {                              \
    change;                         \
    assert_true (l->version > was); \
    was = l->version;               \
  } while (0)
  COUNTS (e = ledger_add (l, "/a", 0));
  assert_true (e->version == was);
  COUNTS (ledger_set_missing (l, ledger_find (l, "/a"), 77));
  COUNTS (ledger_end (l, "/a"));
  COUNTS (ledger_add (l, "/a", 0));
  COUNTS (ledger_set_speed (l, 5, 0));
  assert_true (l->speed_version == was);
  COUNTS (ledger_remove (l, "/a"));
  ledger_free (l);
}

/* Those that ended are told of, and have no job to go on with. */
static void
ended_ones_stay (void **state)
{
  struct ledger *l = ledger ();

  (void)state;
  ledger_add (l, "/a", 7);
  ledger_add (l, "/b", 0);
  ledger_end (l, "/a");
  ledger_end (l, "/never");
  ledger_set_missing (l, ledger_find (l, "/b"), 77);
  ledger_set_speed (l, 5, 3);
  assert_int_equal (write_it (l), 0);
  l = again (l);
  assert_false (ledger_has (l, "/a"));
  assert_true (ledger_find (l, "/a")->ended);
  assert_int_equal (ledger_find (l, "/a")->uid, 7);
  assert_true (ledger_has (l, "/b"));
  assert_int_equal (ledger_find (l, "/b")->uid, 0);
  assert_int_equal (ledger_find (l, "/b")->missing, 77);
  assert_true (l->has_speed);
  assert_int_equal (l->total_speed, 5);
  assert_int_equal (l->speed_option, 3);
  /* The next job on it. */
  ledger_add (l, "/a", 7);
  assert_true (ledger_has (l, "/a"));
  assert_int_equal (l->nr, 2);
  ledger_free (l);
}

static const char *
path_of (unsigned user, unsigned i)
{
  static char path[32];

  snprintf (path, sizeof path, "/%u/%u", user, i);
  return path;
}

/* A user has a share, of which his ended ones go first; so have all of them
 * together, and root has room in any case. */
static void
shares (void **state)
{
  struct ledger *l = ledger ();
  unsigned i;

  (void)state;
  for (i = 0; i < LEDGER_USER_MAX; i++)
    assert_non_null (ledger_add (l, path_of (1, i), 1));
  assert_null (ledger_add (l, path_of (1, i), 1));
  assert_int_equal (errno, EDQUOT);
  assert_non_null (ledger_add (l, path_of (1, 0), 1));
  assert_non_null (ledger_add (l, path_of (2, 0), 2));
  ledger_end (l, path_of (1, 5));
  assert_non_null (ledger_add (l, path_of (1, i), 1));
  assert_null (ledger_find (l, path_of (1, 5)));
  for (unsigned user = 3; l->nr < LEDGER_OTHERS_MAX; user++)
    for (i = 0; i < LEDGER_USER_MAX && l->nr < LEDGER_OTHERS_MAX; i++)
      assert_non_null (ledger_add (l, path_of (user, i), user));
  assert_null (ledger_add (l, "/last", 4000));
  assert_non_null (ledger_add (l, "/root", 0));
  ledger_free (l);
}

/* Of the ended ones of a user the latest are kept. */
static void
ended_ones_are_few (void **state)
{
  struct ledger *l = ledger ();

  (void)state;
  ledger_add (l, "/other", 2);
  ledger_end (l, "/other");
  for (unsigned i = 0; i <= LEDGER_ENDED_MAX; i++) {
    ledger_add (l, path_of (1, i), 1);
    ledger_end (l, path_of (1, i));
  }
  assert_null (ledger_find (l, path_of (1, 0)));
  assert_non_null (ledger_find (l, path_of (1, 1)));
  assert_non_null (ledger_find (l, path_of (1, LEDGER_ENDED_MAX)));
  assert_non_null (ledger_find (l, "/other"));
  ledger_free (l);
}

/* Two daemons would overwrite each other's list. */
static void
one_at_a_time (void **state)
{
  struct ledger *l = ledger ();
  char *error = NULL, pid[32];

  (void)state;
  assert_null (ledger_open (dir, &error));
  snprintf (pid, sizeof pid, "process %ld:", (long)getpid ());
  assert_non_null (strstr (error, pid));
  assert_non_null (strstr (error, dir));
  free (error);
  l = again (l);
  ledger_free (l);
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (all_of_them_are_kept),    TEST (durable_before_it_counts),
    TEST (failures_change_nothing), TEST (changes_are_counted),
    TEST (ended_ones_stay),         TEST (shares),
    TEST (ended_ones_are_few),      TEST (one_at_a_time),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
