/* test-trace.c - boot traces: their file, their merging, and what is recorded.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "bytes.h"
#include "crc32c.h"
#include "recorder.h"
#include "trace.h"

#define SIZE ((UINT64_C (1) << 30) + 512)
#define MS UINT64_C (1000)

static const uint8_t digest[TRACE_DIGEST_SIZE] = { 1, 2, 3, 0xff };

/* Units first, first + step, ...: n of them. */
static struct trace *
some (unsigned first, unsigned step, unsigned n)
{
  struct trace *t = trace_new (SIZE, digest);

  assert_non_null (t);
  for (unsigned i = 0; i < n; i++)
    assert_int_equal (trace_append (t, first + i * step, i, 1), 0);
  return t;
}

static struct trace *
merge (struct trace *a, struct trace *b)
{
  struct trace *t = trace_merge (a, b);

  assert_non_null (t);
  trace_free (a);
  trace_free (b);
  return t;
}

static void
ranges_are_joined_where_they_follow (void **state)
{
  struct trace *t = trace_new (SIZE, digest);

  (void)state;
  /* Two files, read side by side. */
  for (unsigned i = 0; i < 20; i++) {
    trace_append (t, 100 + i, 2 * i, 1);
    trace_append (t, 900 + i, 2 * i + 1, 1);
  }
  assert_int_equal (t->nr, 4);
  assert_int_equal (t->ranges[0].offset, 100 * TRACE_UNIT);
  assert_int_equal (t->ranges[0].length, TRACE_RANGE_MAX);
  assert_int_equal (t->ranges[1].offset, 900 * TRACE_UNIT);
  assert_int_equal (trace_bytes (t, false), 40 * TRACE_UNIT);
  trace_free (t);
}

static void
file_is_read_back (void **state)
{
  struct trace *t = some (3, 7, 50), *r;
  char *why = NULL;
  void *buf, *again;
  size_t len;

  (void)state;
  t->boots = 3;
  t->misfits = 1;
  buf = trace_format (t, &len);
  r = trace_parse (buf, len, &why);
  assert_non_null (r);
  assert_true (trace_is_of (r, SIZE, digest));
  assert_false (trace_is_of (r, SIZE + 1, digest));
  assert_int_equal (r->boots, 3);
  assert_int_equal (r->misfits, 1);
  assert_int_equal (r->nr, t->nr);
  again = trace_format (r, &len);
  assert_memory_equal (again, buf, len);
  free (again);
  /* Whatever is cut off, or changed. */
  for (size_t i = 0; i < len; i++) {
    char *cut = malloc (i + 1);

    memcpy (cut, buf, i);
    assert_null (trace_parse (cut, i, &why));
    free (cut);
    ((char *)buf)[i] ^= 0x20;
    assert_null (trace_parse (buf, len, &why));
    ((char *)buf)[i] ^= 0x20;
  }
  trace_free (t);
  trace_free (r);
  free (buf);
  free (why);
}

/* A hostile file has the right sum. */
static void
refused (uint64_t offset, uint32_t length, uint32_t boots, const char *word)
{
  struct trace *t = some (1, 2, 3), *r;
  char *why = NULL;
  size_t len;
  void *buf;

  t->ranges[2] = (struct trace_range){ offset, length, 0, boots };
  buf = trace_format (t, &len);
  r = trace_parse (buf, len, &why);
  if (word) {
    assert_null (r);
    assert_non_null (strstr (why, word));
  }
  else
    assert_non_null (r);
  trace_free (t);
  trace_free (r);
  free (buf);
  free (why);
}

static void
nonsense_is_refused (void **state)
{
  (void)state;
  refused (9 * TRACE_UNIT, TRACE_UNIT, 1, NULL);
  refused (SIZE / TRACE_UNIT * TRACE_UNIT, TRACE_UNIT, 1, NULL);
  refused (9 * TRACE_UNIT + 1, TRACE_UNIT, 1, "aligned");
  refused (9 * TRACE_UNIT, TRACE_UNIT + 1, 1, "aligned");
  refused (9 * TRACE_UNIT, 0, 1, "inside");
  refused (SIZE / TRACE_UNIT * TRACE_UNIT, 2 * TRACE_UNIT, 1, "inside");
  refused (round_up (SIZE, TRACE_UNIT), TRACE_UNIT, 1, "inside");
  refused (-(uint64_t)TRACE_UNIT, TRACE_UNIT, 1, "inside");
  refused (9 * TRACE_UNIT, 2 * TRACE_RANGE_MAX, 1, "inside");
  refused (9 * TRACE_UNIT, TRACE_UNIT, 0, "boots");
  refused (9 * TRACE_UNIT, TRACE_UNIT, 2, "boots");
  refused (3 * TRACE_UNIT, TRACE_UNIT, 1, "overlap");
  refused (2 * TRACE_UNIT, 2 * TRACE_UNIT, 1, "overlap");
}

static void
merging_counts_boots (void **state)
{
  /* Unit 0 to 9 in all, 100 to 109 in the first alone. */
  struct trace *t = some (0, 1, 10);
  uint64_t likely;

  (void)state;
  for (unsigned i = 0; i < 10; i++)
    trace_append (t, 100 + i, 50 + i, 1);
  t = merge (t, some (0, 1, 10));
  assert_int_equal (t->boots, 2);
  assert_int_equal (trace_bytes (t, true), 20 * TRACE_UNIT);
  t = merge (t, some (0, 1, 10));
  assert_int_equal (t->boots, 3);
  likely = trace_bytes (t, true);
  assert_int_equal (likely, 10 * TRACE_UNIT);
  assert_int_equal (trace_bytes (t, false), 20 * TRACE_UNIT);
  /* What nobody reads any more fades. */
  for (unsigned i = 0; i < 30; i++) {
    t = merge (t, some (0, 1, 10));
    assert_true (t->boots <= 8);
    assert_int_equal (trace_bytes (t, true), 10 * TRACE_UNIT);
  }
  assert_int_equal (trace_bytes (t, false), 10 * TRACE_UNIT);
  trace_free (t);
}

static void
odd_boots_do_not_spoil_it (void **state)
{
  struct trace *t = some (0, 1, 100);

  (void)state;
  t = merge (t, some (0, 1, 90));
  for (unsigned i = 1; i < 3; i++) {
    t = merge (t, some (5000, 1, 100));
    assert_int_equal (t->misfits, i);
    assert_int_equal (t->boots, 2);
    assert_int_equal (trace_bytes (t, false), 100 * TRACE_UNIT);
  }
  /* One that fits begins the count anew. */
  t = merge (t, some (0, 1, 80));
  assert_int_equal (t->misfits, 0);
  /* Three in a row: the image is used for something else now. */
  for (unsigned i = 0; i < 3; i++)
    t = merge (t, some (5000, 1, 100));
  assert_int_equal (t->boots, 1);
  assert_int_equal (t->ranges[0].offset, 5000 * (uint64_t)TRACE_UNIT);
  trace_free (t);
}

static void
full_tables_stay_full (void **state)
{
  struct trace *t = some (0, 2, TRACE_MAX_UNITS);
  struct trace_units u;
  char *why = NULL;
  bool is_new;
  size_t len;
  void *buf;

  (void)state;
  t = merge (t, some (1, 2, TRACE_MAX_UNITS));
  assert_true (trace_bytes (t, false)
               <= (uint64_t)TRACE_MAX_UNITS * TRACE_UNIT);
  buf = trace_format (t, &len);
  assert_true (len <= TRACE_FILE_MAX);
  free (buf);
  trace_free (t);

  assert_int_equal (trace_units_init (&u), 0);
  for (uint64_t i = 0; i < TRACE_MAX_UNITS; i++)
    assert_non_null (trace_units_add (&u, i << 40 | i, &is_new));
  assert_null (trace_units_add (&u, 77, &is_new) && is_new ? &u : NULL);
  assert_null (trace_units_add (&u, UINT64_MAX - 1, &is_new));
  assert_non_null (trace_units_find (&u, 5 | UINT64_C (5) << 40));
  trace_units_free (&u);
  free (why);
}

static void
recording_ends (void **state)
{
  struct recorder r;
  struct trace *t;

  (void)state;
  recorder_init (&r);
  assert_int_equal (recorder_start (&r, SIZE, digest), 0);
  assert_false (recorder_is_over (&r, 1000 * MS));
  recorder_note (&r, 4096, 512, 2000 * MS);
  recorder_note (&r, TRACE_UNIT - 1, 2, 2001 * MS);
  recorder_note (&r, 0, 4 * TRACE_UNIT, 2002 * MS);
  /* The housekeeper's clock was read before these reads. */
  assert_false (recorder_is_over (&r, 1999 * MS));
  assert_false (recorder_is_over (&r, 2001 * MS));
  assert_false (recorder_is_over (&r, 2002 * MS + RECORDER_QUIET_MS - 1));
  assert_true (recorder_is_over (&r, 2002 * MS + RECORDER_QUIET_MS));
  assert_false (recorder_is_on (&r));
  recorder_note (&r, 64 * TRACE_UNIT, 1, 2003 * MS);
  t = recorder_take (&r);
  assert_int_equal (trace_bytes (t, false), 4 * TRACE_UNIT);
  assert_int_equal (t->ranges[0].at, 0);
  assert_int_equal (t->nr, 1);
  trace_free (t);
  recorder_destroy (&r);

  /* Of two threads the second to come had looked at the clock first. */
  recorder_init (&r);
  recorder_start (&r, SIZE, digest);
  recorder_note (&r, 0, 512, 2000 * MS);
  recorder_note (&r, 100 * TRACE_UNIT, 512, 1999 * MS);
  t = recorder_take (&r);
  assert_int_equal (t->nr, 2);
  assert_int_equal (t->ranges[1].at, 0);
  assert_null (recorder_take (&r));
  trace_free (t);
  recorder_destroy (&r);

  /* By time, though something new is read all the while. */
  recorder_init (&r);
  recorder_start (&r, SIZE, digest);
  for (unsigned i = 0; i < RECORDER_MS / MS; i++) {
    recorder_note (&r, i * TRACE_UNIT, 1, (1 + i) * MS);
    assert_false (recorder_is_over (&r, (1 + i) * MS));
  }
  assert_true (recorder_is_over (&r, RECORDER_MS + MS));
  recorder_destroy (&r);

  /* By what was read. */
  recorder_init (&r);
  recorder_start (&r, SIZE, digest);
  recorder_note (&r, 0, (RECORDER_UNITS + 100) * (uint64_t)TRACE_UNIT, 1);
  assert_true (recorder_is_over (&r, 1));
  t = recorder_take (&r);
  assert_int_equal (trace_bytes (t, false),
                    RECORDER_UNITS * (uint64_t)TRACE_UNIT);
  trace_free (t);
  recorder_destroy (&r);

  /* Nothing read: nothing to be had. */
  recorder_init (&r);
  recorder_start (&r, SIZE, digest);
  assert_null (recorder_take (&r));
  recorder_destroy (&r);
}

static void
files_are_believed_by_their_owner (void **state)
{
  char dir[] = "/tmp/test-trace.XXXXXX", path[64], *error = NULL, *name;
  struct trace *t = some (0, 1, 5), *r;

  (void)state;
  assert_non_null (mkdtemp (dir));
  snprintf (path, sizeof path, "%s/t", dir);
  assert_null (trace_load (path, geteuid (), &error));
  assert_int_equal (errno, ENOENT);
  assert_int_equal (trace_save (t, path, &error), 0);
  r = trace_load (path, geteuid (), &error);
  assert_non_null (r);
  trace_free (r);
  assert_int_equal (chmod (path, 0620), 0);
  assert_null (trace_load (path, geteuid (), &error));
  assert_int_equal (errno, EPERM);
  if (geteuid () == 0) {
    assert_int_equal (chmod (path, 0600), 0);
    assert_int_equal (chown (path, 12345, 12345), 0);
    assert_null (trace_load (path, 0, &error));
    assert_int_equal (errno, EPERM);
    r = trace_load (path, 12345, &error);
    assert_non_null (r);
    trace_free (r);
  }
  /* Neither a link nor anything that one would wait for. */
  assert_int_equal (unlink (path), 0);
  assert_int_equal (symlink ("/etc/passwd", path), 0);
  assert_null (trace_load (path, 0, &error));
  assert_int_equal (unlink (path), 0);
  assert_int_equal (mkfifo (path, 0600), 0);
  assert_null (trace_load (path, 0, &error));
  assert_int_equal (errno, EINVAL);
  assert_int_equal (unlink (path), 0);
  assert_int_equal (rmdir (dir), 0);
  name = trace_name ("/d", 5, digest);
  assert_string_equal (name, "/d/010203ff000000000000000000000000-5.trace");
  free (name);
  free (error);
  trace_free (t);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (ranges_are_joined_where_they_follow),
    cmocka_unit_test (file_is_read_back),
    cmocka_unit_test (nonsense_is_refused),
    cmocka_unit_test (merging_counts_boots),
    cmocka_unit_test (odd_boots_do_not_spoil_it),
    cmocka_unit_test (full_tables_stay_full),
    cmocka_unit_test (recording_ends),
    cmocka_unit_test (files_are_believed_by_their_owner),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
