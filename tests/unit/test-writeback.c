/* test-writeback.c - what copiers wrote leaves the page cache when the disk has
 * it for good; what a guest has changed since then does not (G24).
 *
 * The test is the copier: pieces are written and given to writeback_add.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include "box.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <linux/magic.h>

#define MIB (UINT64_C (1) << 20)
#define PIECE (4 * MIB)
#define NR_PIECES 40u

static struct box box;
static struct disk *disk;

static int
setup (void **state)
{
  (void)state;
  disk = box_disk (&box, NR_PIECES * PIECE);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  box_drop_disk (&box, disk);
  disk = NULL;
  return 0;
}

static void *
copier (void *arg)
{
  CLEANUP_FREE char *buf = malloc (PIECE);

  (void)arg;
  memset (buf, 1, PIECE);
  for (unsigned i = 0; i < NR_PIECES; i++) {
    if (disk_pwrite (disk, buf, PIECE, i * PIECE, 0) == -1)
      return "failed";
    writeback_add (disk, i * PIECE, (i + 1) * PIECE, false);
  }
  return NULL;
}

static bool
is_cached (uint64_t offset, uint64_t length)
{
  uint64_t start, stop;

  store_next_cached (disk->store, offset, offset + length, &start, &stop);
  return start == offset && stop == offset + length;
}

/* The first sync of the store is for the first pieces of the list: a guest
 * writes on one of them while it runs. */
static void
changed_pieces_stay (void **state)
{
  pthread_t thread;
  void *failed;
  struct statfs fs;

  (void)state;
  calls_hold (CALL_SYNC, FILE_STORE);
  assert_int_equal (pthread_create (&thread, NULL, copier, NULL), 0);
  calls_wait_held ();
  fill_bytes (disk, PIECE + 5000, 1, 2, 0);
  calls_let_go ();
  pthread_join (thread, &failed);
  assert_null (failed);
  assert_int_equal (statfs (box.store, &fs), 0);
  if (ability_is_missing (&disk->store->able, ABILITY_SYNC_RANGE)
      || fs.f_type == TMPFS_MAGIC)
    skip ();
  assert_false (is_cached (0, PIECE));
  assert_true (is_cached (PIECE, PIECE));
  assert_false (is_cached (2 * PIECE, PIECE));
  expect_bytes (disk, PIECE + 5000, 1, 2);
}

static bool
copier_waits_for_a_claim (void *opaque)
{
  LOCK_SCOPE (&disk->claims.lock);

  (void)opaque;
  return disk->claims.waiting > 0;
}

/* A guest that is at work on a piece when its turn to be dropped comes: what
 * it writes is newer than the sync, so that the piece stays. */
static void
pieces_at_work_stay (void **state)
{
  struct claim claim;
  pthread_t thread;
  void *failed;
  struct statfs fs;

  (void)state;
  assert_int_equal (statfs (box.dir, &fs), 0);
  if (fs.f_type == TMPFS_MAGIC)
    skip ();
  calls_hold (CALL_SYNC, FILE_STORE);
  assert_int_equal (pthread_create (&thread, NULL, copier, NULL), 0);
  calls_wait_held ();
  claim_take (&disk->claims, &claim, PIECE / 4096, PIECE / 4096 + 1);
  calls_let_go ();
  wait_until (copier_waits_for_a_claim, NULL);
  assert_int_equal (store_pwrite (disk->store, "x", 1, PIECE), 0);
  writeback_changed (disk, PIECE, PIECE + 1);
  claim_drop (&disk->claims, &claim);
  pthread_join (thread, &failed);
  assert_null (failed);
  if (ability_is_missing (&disk->store->able, ABILITY_SYNC_RANGE))
    skip ();
  assert_false (is_cached (0, PIECE));
  assert_true (is_cached (PIECE, PIECE));
}

/* A failed sync: nothing leaves the page cache any more. */
static void
unsynced_pieces_stay (void **state)
{
  pthread_t thread;
  void *failed;

  (void)state;
  calls_hold (CALL_SYNC, FILE_STORE);
  assert_int_equal (pthread_create (&thread, NULL, copier, NULL), 0);
  calls_wait_held ();
  calls_let_go_failed (EIO);
  pthread_join (thread, &failed);
  assert_null (failed);
  assert_true (is_cached (0, NR_PIECES * PIECE));
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (changed_pieces_stay),
    TEST (pieces_at_work_stay),
    TEST (unsynced_pieces_stay),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
