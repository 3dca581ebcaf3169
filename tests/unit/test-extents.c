/* test-extents.c - what the backing store says is zero: kept, rounded to
 * granules, and never taken for more than was said (G7).
 *
 * The backing store is nbdkit's eval plugin, whose answers the test writes.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include "box.h"
#include "extents.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define G UINT64_C (4096)

static struct box box;
static struct disk *disk;

/* extents: lines "OFFSET LENGTH TYPE" as nbdkit-eval-plugin has them, of which
 * $4 is the offset that is asked for; NULL: the server cannot tell. */
static void
begin (const char *size, const char *extents)
{
  CLEANUP_FREE char *size_key = NULL, *extents_key = NULL, *echo = NULL;
  struct disk_config c;

  box_make (&box);
  assert_true (asprintf (&echo, "echo %s", size) > 0);
  size_key = box_key ("get_size", echo);
  if (extents) {
    free (echo);
    assert_true (asprintf (&echo, "printf \"%s\"", extents) > 0);
    extents_key = box_key ("extents", echo);
  }
  box_serve (&box, "eval", size_key, "pread=head -c $3 /dev/zero", extents_key,
             NULL);
  c = box_config (&box);
  c.backing = box.uri;
  assert_int_equal (disk_pools_start (), 0);
  disk = box_start (&box, &c);
  assert_int_equal (extents_wait (disk->ext, 0, now_ms () + 60000), 0);
}

static int
teardown (void **state)
{
  (void)state;
  box_close (disk);
  disk_pools_stop ();
  box_drop (&box);
  return 0;
}

/* All of it from 0: runs of that kind, which meet, to the end. */
struct expected {
  enum extents_kind kind;
  uint64_t end;
  unsigned flags;
};

static void
expect_runs (const struct expected *want, size_t nr)
{
  uint64_t at = 0;

  for (size_t i = 0; i < nr; i++) {
    uint64_t end;
    unsigned flags;
    enum extents_kind kind
        = extents_run (disk->ext, at, disk_size (disk), &end, &flags);

    if (kind != want[i].kind || end != want[i].end || flags != want[i].flags)
      fail_msg ("at %llu: kind %d to %llu, flags %u", (unsigned long long)at,
                kind, (unsigned long long)end, flags);
    at = end;
  }
  assert_int_equal (at, disk_size (disk));
}

#define EXPECT(...)                                        \
  do {                                                     \
    static const struct expected want[] = { __VA_ARGS__ }; \
    expect_runs (want, sizeof want / sizeof *want);        \
  } while (0)

/* A granule is zero if all of it was said to be. */
static void
rounded_inwards (void **state)
{
  (void)state;
  begin ("1000000",
         "0 5000 hole,zero\\n5000 15000 data\\n20000 300 hole,zero\\n"
         "20300 1000 data\\n21300 100000 zero\\n121300 1 data\\n"
         "121301 800000 hole,zero\\n921301 78699 data\\n");
  EXPECT ({ EXTENTS_ZERO, G, 3 }, { EXTENTS_DATA, 6 * G, 0 },
          { EXTENTS_ZERO, 29 * G, 2 }, { EXTENTS_DATA, 30 * G, 0 },
          { EXTENTS_ZERO, 224 * G, 3 }, { EXTENTS_DATA, 1000000, 0 });
}

/* The last granule is short: zeros up to the disk's end fill it. */
static void
up_to_the_end (void **state)
{
  (void)state;
  begin ("1000000", "0 900000 data\\n900000 100000 hole,zero\\n");
  EXPECT ({ EXTENTS_DATA, 220 * G, 0 }, { EXTENTS_ZERO, 1000000, 3 });
}

/* A hole that is not said to read as zeros has to be read. */
static void
holes_need_not_be_zeros (void **state)
{
  (void)state;
  begin ("1048576", "0 524288 hole\\n524288 524288 zero\\n");
  EXPECT ({ EXTENTS_DATA, 524288, 0 }, { EXTENTS_ZERO, 1048576, 2 });
}

/* The server answers in pieces: zeros that meet are one run. */
static void
answers_in_pieces (void **state)
{
  (void)state;
  begin ("1048576", "$4 5000 hole,zero\\n");
  EXPECT ({ EXTENTS_ZERO, 1048576, 3 });
}

static void
without_status_all_is_data (void **state)
{
  (void)state;
  begin ("1048576", NULL);
  EXPECT ({ EXTENTS_DATA, 1048576, 0 });
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, NULL, teardown)
  const struct CMUnitTest tests[] = {
    TEST (rounded_inwards),
    TEST (up_to_the_end),
    TEST (holes_need_not_be_zeros),
    TEST (answers_in_pieces),
    TEST (without_status_all_is_data),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
