/* test-commit.c - making writes durable: the order of what is done (I1), which
 * flush waits for which commit (G11), and what a failed sync means (G24).
 *
 * Disks without a backing store; absent reads as zeros.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include "box.h"
#include "fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define G UINT64_C (4096)
#define MIB (UINT64_C (1) << 20)

static struct box box;
static struct disk *disk;

static int
setup (void **state)
{
  (void)state;
  disk = box_disk (&box, 8 * MIB + 1000);
  return 0;
}

/* Of more than one sector of the map. */
static int
setup_large (void **state)
{
  (void)state;
  disk = box_disk (&box, 64 * MIB);
  return 0;
}

/* Calls from other threads.  They are here and not on a test's stack, so that
 * a test that fails leaves them to be joined. */
struct task {
  pthread_t thread;
  bool taken;
  bool done; /* atomic */
  uint64_t g;
  int result, error;
};

static struct task tasks[16];

static struct task *
start_task (void *(*run) (void *), uint64_t g)
{
  struct task *t = tasks;

  while (t->taken) {
    t++;
    assert_true (t < tasks + sizeof tasks / sizeof tasks[0]);
  }
  *t = (struct task){ .g = g };
  assert_int_equal (pthread_create (&t->thread, NULL, run, t), 0);
  t->taken = true;
  return t;
}

static void
set_done (struct task *t)
{
  __atomic_store_n (&t->done, true, __ATOMIC_RELEASE);
}

static bool
is_done (struct task *t)
{
  return __atomic_load_n (&t->done, __ATOMIC_ACQUIRE);
}

static void
join (struct task *t)
{
  pthread_join (t->thread, NULL);
  t->taken = false;
}

static int
teardown (void **state)
{
  (void)state;
  calls_stop ();
  for (struct task *t = tasks; t < tasks + sizeof tasks / sizeof tasks[0]; t++)
    if (t->taken)
      join (t);
  box_drop_disk (&box, disk);
  disk = NULL;
  return 0;
}

static void
expect_calls (const char *want)
{
  CLEANUP_FREE char *is = calls_take ();

  if (strcmp (is, want) != 0)
    fail_msg ("calls: '%s', not '%s'", is, want);
}

static void
flush (void)
{
  assert_int_equal (disk_flush (disk), 0);
}

/* Data, then W, then the answer; the data's sync before the bit's write, that
 * before its sync, that before the flush's answer. */
static void
data_first_then_the_bit (void **state)
{
  (void)state;
  fill_bytes (disk, 0, G, 1, 0);
  expect_calls ("ws ww");
  /* W says "syncing" before, "ok" after. */
  flush ();
  expect_calls ("ww ss wm sm ww");
  assert_true (box_in_s (&box, 0));
  /* Changes need no bits any more. */
  fill_bytes (disk, 100, 200, 2, 0);
  expect_calls ("ws");
  /* Nothing new in the map: a sync of the store alone. */
  flush ();
  expect_calls ("ss");
  flush ();
  expect_calls ("ss");
}

static void
fua_is_durable (void **state)
{
  (void)state;
  /* A new granule: a commit. */
  fill_bytes (disk, 0, G, 1, DISK_FUA);
  expect_calls ("ws ww ss wm sm ww");
  assert_true (box_in_s (&box, 0));
  /* One in S: one call. */
  fill_bytes (disk, 512, 512, 2, DISK_FUA);
  expect_calls ("ws ds");
  /* One new and one old. */
  fill_bytes (disk, 0, 2 * G, 3, DISK_FUA);
  expect_calls ("ws ww ss wm sm ww");
  /* Zero and trim have no such call. */
  assert_int_equal (disk_zero (disk, G, 0, DISK_FUA | DISK_MAY_TRIM), 0);
  expect_calls ("ss");
  assert_int_equal (disk_trim (disk, G, 4 * G, DISK_FUA), 0);
  expect_calls ("wm ww ss wm sm ww"); /* zeros are counted first */
  assert_true (box_in_s (&box, 4));
}

/* What is only copied need not be durable: no commit for it, until the guest
 * changes it. */
static void
copied_is_not_committed (void **state)
{
  (void)state;
  assert_int_equal (box_mark (disk, 5, 7, MAP_COPIED), 0);
  free (calls_take ());
  flush ();
  expect_calls ("ww ss ww");
  assert_false (box_in_s (&box, 5));
  fill_bytes (disk, 5 * G + 7, 9, 1, 0);
  flush ();
  /* It is the guest's before its bytes change, as they are seen at once. */
  expect_calls ("ww ws ww ss wm sm ww");
  assert_true (box_in_s (&box, 5));
  /* Granule 6 came along: its data was covered by the same sync. */
  assert_true (box_in_s (&box, 6));
  assert_int_equal (box_mark (disk, 8, 9, MAP_COPIED), 0);
  assert_int_equal (commit_run (disk, COMMIT_CHECKPOINT), 0);
  assert_true (box_in_s (&box, 8));
}

static void *
flusher (void *arg)
{
  struct task *t = arg;

  t->result = disk_flush (disk);
  set_done (t);
  return NULL;
}

static struct task *
start_flush (void)
{
  return start_task (flusher, 0);
}

static void
end_flush (struct task *t)
{
  join (t);
  assert_int_equal (t->result, 0);
}

/* So many have called, and there is a commit that is being formed; or the
 * last one has its answer, and must not. */
static bool
has_formed (void *opaque)
{
  const uint64_t *flushes = opaque;

  for (struct task *t = tasks; t < tasks + sizeof tasks / sizeof tasks[0]; t++)
    if (t->taken && is_done (t))
      return true;
  if (counted (&disk->flushes) < *flushes)
    return false;
  LOCK_SCOPE (&disk->commit.lock);
  return disk->commit.forming != NULL;
}

/* A commit runs: its snapshot is older than what a flush that comes now has to
 * cover, whether the store or the sidecar is being synced. */
static void
flush_never_joins_the_running_commit (void **state)
{
  static const enum file during[] = { FILE_STORE, FILE_SIDECAR };

  (void)state;
  for (unsigned i = 0; i < 2; i++) {
    struct task *first, *second;
    uint64_t flushes = counted (&disk->flushes) + 2;
    uint64_t a = 10 * i, b = a + 1;

    fill_bytes (disk, a * G, G, 1, 0);
    calls_hold (CALL_SYNC, during[i]);
    first = start_flush ();
    calls_wait_held ();
    /* Acknowledged while the commit runs, then flushed. */
    fill_bytes (disk, b * G, G, 2, 0);
    second = start_flush ();
    wait_until (has_formed, &flushes);
    nap_ms (50);
    assert_false (is_done (first));
    assert_false (is_done (second));
    /* The bit must not ride along: its data is not covered by the sync. */
    assert_false (box_in_s (&box, b));
    calls_hold (CALL_SYNC, FILE_STORE);
    calls_let_go ();
    /* The second commit has only begun: the first flush has its answer. */
    calls_wait_held ();
    end_flush (first);
    assert_true (box_in_s (&box, a));
    assert_false (box_in_s (&box, b));
    assert_false (is_done (second));
    calls_let_go ();
    end_flush (second);
    assert_true (box_in_s (&box, b));
  }
}

/* However many flushes come while one runs, one more commit answers them. */
static void
many_flushes_are_one_commit (void **state)
{
  struct task *first, *other[12];
  uint64_t commits, flushes = 13;

  (void)state;
  fill_bytes (disk, 0, G, 1, 0);
  calls_hold (CALL_SYNC, FILE_STORE);
  first = start_flush ();
  calls_wait_held ();
  commits = counted (&disk->commits);
  fill_bytes (disk, G, G, 1, 0);
  for (unsigned i = 0; i < 12; i++)
    other[i] = start_flush ();
  wait_until (has_formed, &flushes);
  nap_ms (100);
  calls_let_go ();
  end_flush (first);
  for (unsigned i = 0; i < 12; i++)
    end_flush (other[i]);
  assert_true (box_in_s (&box, 1));
  /* On a slow machine one that had called had not joined yet. */
  assert_in_range (counted (&disk->commits) - commits, 1, 3);
}

struct writer {
  pthread_t thread;
  uint64_t first;
  uint64_t lost; /* flushed, and not in S */
};

static void *
writer (void *arg)
{
  struct writer *w = arg;
  char buf[G];

  memset (buf, 5, sizeof buf);
  for (uint64_t g = w->first; g < 1800; g += 4)
    if (disk_pwrite (disk, buf, G, g * G, 0) == -1 || disk_flush (disk) == -1
        || !map_is_stable (disk->map, g, g + 1))
      w->lost++;
  return NULL;
}

/* A write beside another's commit is in it or in the next one. */
static void
each_flush_covers_its_write (void **state)
{
  struct writer w[4];

  (void)state;
  for (unsigned i = 0; i < 4; i++) {
    w[i] = (struct writer){ .first = i };
    assert_int_equal (pthread_create (&w[i].thread, NULL, writer, &w[i]), 0);
  }
  for (unsigned i = 0; i < 4; i++) {
    pthread_join (w[i].thread, NULL);
    assert_int_equal (w[i].lost, 0);
  }
}

/* Reads and writes go on while a commit syncs. */
static void
nobody_else_waits_for_a_commit (void **state)
{
  struct task *f;

  (void)state;
  fill_bytes (disk, 0, G, 1, 0);
  for (enum file file = FILE_STORE; file <= FILE_SIDECAR; file++) {
    fill_bytes (disk, (20 + file) * G, G, 1, 0);
    calls_hold (CALL_SYNC, file);
    f = start_flush ();
    calls_wait_held ();
    expect_bytes (disk, 0, G, 1);
    fill_bytes (disk, 0, G, 1, 0);
    assert_int_equal (disk_zero (disk, G, (30 + file) * G, 0), 0);
    assert_false (is_done (f));
    calls_let_go ();
    end_flush (f);
  }
}

/* What the next to open the volume finds; the disk so far is dead. */
static void
reopen (void)
{
  struct disk_config c = box_config (&box);

  disk_free (disk);
  disk = box_open (&box, &c);
}

static void *
guest_writer (void *arg)
{
  struct task *t = arg;
  char bytes[G];

  memset (bytes, 3, sizeof bytes);
  t->result = disk_pwrite (disk, bytes, sizeof bytes, t->g * G, 0);
  set_done (t);
  return NULL;
}

/* W has the sums of a granule, and not yet its bit, when a commit punches out
 * of W the page that they share with what is durable now.  They must be there
 * when the bit is: else the next to open the volume would refuse it. */
static void
commit_leaves_sums_that_wait_for_their_bits (void **state)
{
  (void)state;
  for (unsigned hole = 0; hole < 2; hole++) {
    /* Absent; or a whole sector of the map that the source has a hole for. */
    const uint64_t g = hole ? SIDECAR_BITS + 5 : 7;
    struct task *t;

    if (hole)
      assert_int_equal (
          box_mark (disk, SIDECAR_BITS, 2 * SIDECAR_BITS, MAP_HOLE), 0);
    fill_bytes (disk, (20 + hole) * G, G, 1, 0);
    calls_hold (CALL_WRITE, FILE_WORK);
    t = start_task (guest_writer, g);
    calls_wait_held ();
    flush ();
    calls_let_go ();
    join (t);
    assert_int_equal (t->result, 0);
    reopen ();
    expect_bytes (disk, (20 + hole) * G, G, 1);
    expect_bytes (disk, g * G, G, 3);
  }
}

static void
failed_sync_of_the_store_is_final (void **state)
{
  struct disk_info info;

  (void)state;
  fill_bytes (disk, 0, G, 1, DISK_FUA);
  fill_bytes (disk, G, G, 2, 0);
  calls_fail (CALL_SYNC, FILE_STORE, EIO);
  assert_int_equal (disk_flush (disk), -1);
  assert_int_equal (errno, EIO);
  calls_fail (CALL_SYNC, FILE_STORE, 0);
  free (calls_take ());
  /* The kernel would say that all is well now; it is not. */
  assert_int_equal (disk_flush (disk), -1);
  assert_int_equal (errno, EIO);
  errno = 0;
  assert_int_equal (disk_pwrite (disk, "x", 1, 0, DISK_FUA), -1);
  assert_int_equal (errno, EIO);
  assert_int_equal (calls_count (CALL_SYNC, FILE_STORE), 0);
  assert_int_equal (calls_count (CALL_WRITE, FILE_SIDECAR), 0);
  assert_false (box_in_s (&box, 1));
  disk_get_info (disk, &info);
  assert_int_equal (info.sync_error, EIO);
  /* Reads go on, and writes that nobody flushes. */
  expect_bytes (disk, G, G, 2);
  fill_bytes (disk, 2 * G, G, 3, 0);
  expect_bytes (disk, 2 * G, G, 3);
  /* Who opens it next writes again what the sync may have lost, and only then
   * is all well. */
  free (calls_take ());
  reopen ();
  assert_true (calls_count (CALL_WRITE, FILE_STORE) >= 1);
  expect_bytes (disk, G, G, 2);
  expect_bytes (disk, 2 * G, G, 3);
  assert_true (box_in_s (&box, 1) && box_in_s (&box, 2));
  flush ();
}

/* Whatever the reason: a sync that finds no room has lost as much. */
static void
failed_sync_is_final_for_any_reason (void **state)
{
  static const int reasons[]
      = { EIO, ENOSPC, EDQUOT, EROFS, ETIMEDOUT, ESTALE, ENOMEM };

  for (unsigned i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
    for (enum file file = FILE_STORE; file <= FILE_SIDECAR; file++) {
      fill_bytes (disk, G, G, 2, 0);
      calls_fail (CALL_SYNC, file, reasons[i]);
      assert_int_equal (disk_flush (disk), -1);
      calls_fail (CALL_SYNC, file, 0);
      if (disk_flush (disk) == 0)
        fail_msg ("forgotten: %s", strerror (reasons[i]));
      assert_false (map_is_stable (disk->map, 1, 2));
      teardown (state);
      setup (state);
    }
}

static void
copy_granule (uint64_t g)
{
  CLEANUP_FREE char *buf = malloc (G);

  memset (buf, 9, G);
  assert_int_equal (store_pwrite (disk->store, buf, G, g * G), 0);
  assert_int_equal (box_mark (disk, g, g + 1, MAP_COPIED), 0);
}

/* Copies that the disk has lost are fetched again: nobody can write them again,
 * as their pages are not kept.  Those that are still there, by their sums, are
 * written again, as the guest's writes are. */
static void
failed_sync_forgets_copies (void **state)
{
  (void)state;
  fill_bytes (disk, 0, G, 1, DISK_FUA);
  copy_granule (1);
  copy_granule (2);
  fill_bytes (disk, 2 * G, 10, 2, 0);
  fill_bytes (disk, 3 * G, G, 3, 0);
  calls_fail (CALL_SYNC, FILE_STORE, EIO);
  assert_int_equal (disk_flush (disk), -1);
  calls_fail (CALL_SYNC, FILE_STORE, 0);
  copy_granule (4);
  copy_granule (5);
  fill_bytes (disk, 5 * G, 10, 2, 0);
  for (uint64_t g = 0; g < 6; g++)
    assert_true (is_local (disk, g * G, G));
  assert_int_equal (pwrite (disk->store->fd, "lost", 4, G + 100), 4);
  free (calls_take ());
  reopen ();
  for (uint64_t g = 0; g < 6; g++)
    assert_int_equal (is_local (disk, g * G, G), g != 1);
  expect_bytes (disk, 4 * G, G, 9);
  expect_bytes (disk, 2 * G, 10, 2);
  expect_bytes (disk, 2 * G + 10, G - 10, 9);
  expect_bytes (disk, 3 * G, G, 3);
}

/* Killed, with no sync that is known to have failed: a copier may have been
 * told of one when it died, and the kernel tells it once.  What the page cache
 * still holds is written again; what it does not hold is on the disk. */
static void
killed_writes_again_what_is_cached (void **state)
{
  uint64_t start, stop;

  (void)state;
  fill_bytes (disk, G, 3 * G, 2, 0);
  free (calls_take ());
  reopen ();
  assert_true (calls_count (CALL_WRITE, FILE_STORE) >= 1);
  expect_bytes (disk, G, 3 * G, 2);
  assert_true (box_in_s (&box, 1) && box_in_s (&box, 3));

  fill_bytes (disk, 10 * G, 3 * G, 2, 0);
  fsync (disk->store->fd);
  posix_fadvise (disk->store->fd, 0, 0, POSIX_FADV_DONTNEED);
  store_next_cached (disk->store, 0, disk_size (disk), &start, &stop);
  if (start < disk_size (disk))
    skip (); /* a tmpfs */
  free (calls_take ());
  reopen ();
  assert_int_equal (calls_count (CALL_WRITE, FILE_STORE), 0);
  expect_bytes (disk, 10 * G, 3 * G, 2);
  assert_true (box_in_s (&box, 10));
}

/* What W's header says of syncs: see backfill-format(5). */
static enum work_state
state_of_w (void)
{
  uint8_t le[4];

  assert_int_equal (pread (disk->work->fd, le, sizeof le, 112), sizeof le);
  return (enum work_state)get_le32 (le);
}

/* A sync of nothing need not be told of, until something is written that it may
 * lose: whoever is killed then leaves a W that says so. */
static void
w_tells_of_a_sync_that_has_something_to_lose (void **state)
{
  static const unsigned kinds[] = { MAP_GUEST, MAP_COPIED };
  struct task *f;

  (void)state;
  fill_bytes (disk, 0, G, 1, 0);
  flush ();
  for (unsigned i = 0; i < 2; i++) {
    calls_hold (CALL_SYNC, FILE_STORE);
    f = start_flush ();
    calls_wait_held ();
    assert_int_equal (state_of_w (), WORK_OK);
    fill_bytes (disk, 0, G, 1, 0);
    assert_int_equal (state_of_w (), WORK_OK);
    assert_int_equal (box_mark (disk, 5 + i, 6 + i, kinds[i]), 0);
    assert_int_equal (state_of_w (), WORK_SYNCING);
    calls_let_go ();
    end_flush (f);
    assert_int_equal (state_of_w (), WORK_OK);
    assert_int_equal (commit_run (disk, COMMIT_CHECKPOINT), 0);
  }
  /* One that cannot be marked: the guest's write waits for its own commit, and
   * what has been copied is only in memory. */
  calls_hold (CALL_SYNC, FILE_STORE);
  f = start_flush ();
  calls_wait_held ();
  calls_fail (CALL_WRITE, FILE_WORK, EIO);
  assert_int_equal (box_mark (disk, 9, 10, MAP_GUEST), 1);
  assert_int_equal (box_mark (disk, 10, 11, MAP_COPIED), 0);
  calls_fail (CALL_WRITE, FILE_WORK, 0);
  calls_let_go ();
  end_flush (f);
}

/* A failure that W could not be told of is told before the next bit. */
static void
w_is_told_of_a_failure_when_it_can_be (void **state)
{
  int fd = disk->work->fd;

  (void)state;
  disk->work->fd = open (disk->work->path, O_RDONLY | O_CLOEXEC);
  commit_set_failed (disk, EIO);
  close (disk->work->fd);
  disk->work->fd = fd;
  assert_int_equal (state_of_w (), WORK_OK);
  assert_int_equal (box_mark (disk, 3, 4, MAP_GUEST), 0);
  assert_int_equal (state_of_w (), WORK_SYNCING);
}

/* What is complete needs no W, also if holes, or a guest's write beside the
 * commit that found it so, were left over. */
static void
w_is_not_told_when_complete (void **state)
{
  struct disk_info info;

  (void)state;
  assert_int_equal (box_mark (disk, 0, map_nr (disk->map), MAP_HOLE), 0);
  fill_bytes (disk, 0, G, 1, 0);
  flush ();
  disk_get_info (disk, &info);
  assert_true (info.complete);
  free (calls_take ());
  fill_bytes (disk, 0, G, 2, 0);
  flush ();
  expect_calls ("ws ss");
}

static void *
checkpoint (void *arg)
{
  struct task *t = arg;

  t->result = commit_run (disk, COMMIT_CHECKPOINT | COMMIT_HOLES);
  return NULL;
}

/* A hole that the guest writes to while it goes into S as one stays pending: W
 * has it. */
static void
written_hole_stays_pending (void **state)
{
  struct task *f;

  (void)state;
  box_drop_disk (&box, disk);
  disk = box_disk (&box, 40 * MIB);
  assert_int_equal (box_mark (disk, 0, SIDECAR_BITS, MAP_HOLE), 0);
  calls_hold (CALL_SYNC, FILE_SIDECAR);
  f = start_task (checkpoint, 0);
  calls_wait_held ();
  fill_bytes (disk, 5 * G, G, 2, 0);
  calls_let_go ();
  join (f);
  assert_int_equal (f->result, 0);
  assert_true (box_in_s (&box, 5));
  assert_false (map_is_stable (disk->map, 5, 6));
  flush ();
  assert_true (map_is_stable (disk->map, 0, SIDECAR_BITS));
}

/* A flush with nothing new does not mark W; one that fails does, for what was
 * written meanwhile. */
static void
failed_sync_with_nothing_pending_is_final (void **state)
{
  struct task *f;

  (void)state;
  fill_bytes (disk, 0, G, 1, 0);
  flush ();
  calls_hold (CALL_SYNC, FILE_STORE);
  f = start_flush ();
  calls_wait_held ();
  fill_bytes (disk, G, G, 2, 0);
  calls_let_go_failed (EIO);
  join (f);
  assert_int_equal (f->result, -1);
  assert_int_equal (disk_flush (disk), -1);
  assert_int_equal (errno, EIO);
  assert_false (box_in_s (&box, 1));
  fsync (disk->store->fd);
  posix_fadvise (disk->store->fd, 0, 0, POSIX_FADV_DONTNEED);
  free (calls_take ());
  /* Also what the page cache does not hold. */
  reopen ();
  assert_true (calls_count (CALL_WRITE, FILE_STORE) >= 1);
  expect_bytes (disk, G, G, 2);
  assert_true (box_in_s (&box, 1));
}

static void
failed_sync_of_the_sidecar_is_final (void **state)
{
  (void)state;
  fill_bytes (disk, G, G, 2, 0);
  calls_fail (CALL_SYNC, FILE_SIDECAR, EIO);
  assert_int_equal (disk_flush (disk), -1);
  calls_fail (CALL_SYNC, FILE_SIDECAR, 0);
  assert_int_equal (disk_flush (disk), -1);
  assert_int_equal (errno, EIO);
  /* Not stable: S may show the bit and not hold it. */
  assert_false (map_is_stable (disk->map, 1, 2));
  expect_bytes (disk, G, G, 2);
}

/* The sync inside a FUA write counts as well. */
static void
failed_fua_is_final (void **state)
{
  (void)state;
  fill_bytes (disk, 0, G, 1, DISK_FUA);
  calls_fail (CALL_DSYNC, FILE_STORE, EIO);
  assert_int_equal (disk_pwrite (disk, "x", 1, 0, DISK_FUA), -1);
  calls_fail (CALL_DSYNC, FILE_STORE, 0);
  assert_int_equal (disk_flush (disk), -1);
  assert_int_equal (errno, EIO);
}

static void *
fua_writer (void *arg)
{
  struct task *t = arg;

  t->error = disk_pwrite (disk, "x", 1, t->g * G, DISK_FUA) ? errno : 0;
  set_done (t);
  return NULL;
}

static struct task *
start_fua (uint64_t g)
{
  return start_task (fua_writer, g);
}

static bool
has_synced (void *opaque)
{
  (void)opaque;
  return calls_count (CALL_SYNC, FILE_STORE) > 0
         || calls_count (CALL_DSYNC, FILE_STORE) > 0;
}

/* One that began first is not answered before one that began while it ran. */
static void *
older_sync (void *arg)
{
  struct syncing *s = arg;

  return (void *)(intptr_t)sync_end (disk, s, 0);
}

static void
syncs_wait_for_those_beside (void **state)
{
  struct syncing older, newer, newest;
  pthread_t thread;
  void *result;

  (void)state;
  sync_begin (disk, &older);
  sync_begin (disk, &newer);
  assert_int_equal (pthread_create (&thread, NULL, older_sync, &older), 0);
  /* It has left the list, and waits. */
  for (;;) {
    LOCK_SCOPE (&disk->commit.sync_lock);
    if (TAILQ_FIRST (&disk->commit.under_way) == &newer)
      break;
  }
  /* Not for what begins later. */
  sync_begin (disk, &newest);
  nap_ms (20);
  sync_leave (disk, &newer, EIO);
  pthread_join (thread, &result);
  assert_int_equal ((intptr_t)result, EIO);
  assert_int_equal (sync_end (disk, &newest, 0), EIO);
  assert_true (TAILQ_EMPTY (&disk->commit.under_way));
}

/* The disk says once that it has lost what it held: to one of several syncs
 * that run side by side.  The others must not be answered before that is
 * known, whichever they are. */
static void
syncs_wait_for_those_before (void **state)
{
  enum { FUA_FUA, FUA_FLUSH, FLUSH_FUA };

  for (unsigned i = FUA_FUA; i <= FLUSH_FUA; i++) {
    struct task *a = NULL, *b = NULL, *f = NULL;

    fill_bytes (disk, 0, 2 * G, 1, DISK_FUA);
    calls_hold (i == FLUSH_FUA ? CALL_SYNC : CALL_DSYNC, FILE_STORE);
    if (i == FLUSH_FUA)
      f = start_flush ();
    else
      a = start_fua (0);
    calls_wait_held ();
    free (calls_take ());
    if (i == FUA_FLUSH)
      f = start_flush ();
    else
      b = start_fua (1);
    wait_until (has_synced, NULL);
    nap_ms (100);
    assert_false (i == FUA_FLUSH ? is_done (f) : is_done (b));
    calls_let_go_failed (EIO);
    if (i != FLUSH_FUA) {
      join (a);
      assert_int_equal (a->error, EIO);
    }
    if (i != FUA_FLUSH) {
      join (b);
      assert_int_equal (b->error, EIO);
    }
    if (i != FUA_FUA) {
      join (f);
      assert_int_equal (f->result, -1);
    }
    teardown (state);
    setup (state);
  }
}

/* A FUA write that finds no room has lost nothing (G21). */
static void
full_is_not_failed (void **state)
{
  (void)state;
  fill_bytes (disk, 0, G, 1, DISK_FUA);
  calls_fail (CALL_WRITE, FILE_STORE, ENOSPC);
  assert_int_equal (disk_pwrite (disk, "x", 1, 0, DISK_FUA), -1);
  assert_int_equal (errno, ENOSPC);
  calls_fail (CALL_WRITE, FILE_STORE, 0);
  assert_int_equal (disk_pwrite (disk, "x", 1, 0, DISK_FUA), 0);
  /* Nor has the second write of the same bytes, which is the one that syncs,
   * and may need room of its own. */
  calls_fail (CALL_DSYNC, FILE_STORE, ENOSPC);
  free (calls_take ());
  assert_int_equal (disk_pwrite (disk, "y", 1, 0, DISK_FUA), 0);
  assert_true (calls_count (CALL_SYNC, FILE_STORE) >= 1);
  calls_fail (CALL_DSYNC, FILE_STORE, 0);
  flush ();
}

/* What the guest is told: what it can do something about as it is, and all that
 * nbdkit would call its own mistake (EINVAL) as EIO. */
static void
errors_reach_the_guest (void **state)
{
  static const struct {
    int store, guest;
  } errors[] = {
    { ENOSPC, ENOSPC }, { EDQUOT, EDQUOT }, { EFBIG, EFBIG },
    { EIO, EIO },       { ENXIO, EIO },     { ESTALE, EIO },
    { ETIMEDOUT, EIO }, { EBADMSG, EIO },   { EREMOTEIO, EIO },
  };

  (void)state;
  fill_bytes (disk, 0, G, 1, 0);
  for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
    calls_fail (CALL_WRITE, FILE_STORE, errors[i].store);
    assert_int_equal (disk_pwrite (disk, "x", 1, 0, 0), -1);
    assert_int_equal (errno, errors[i].guest);
    calls_fail (CALL_WRITE, FILE_STORE, 0);
  }
}

/* nbdkit checks ranges; the engine does so again, however large they are. */
static void
nothing_past_the_end (void **state)
{
  const uint64_t size = disk_size (disk);
  const struct {
    uint64_t offset, length;
  } past[] = {
    { size, 1 },
    { size - 1, 2 },
    { size + 1, 0 },
    { UINT64_MAX, 1 },
    { UINT64_MAX - 4095, 4096 },
    { 4096, UINT64_MAX - 4095 },
    { UINT64_MAX - 99, 200 },
  };
  char buf[8192] = { 0 };

  (void)state;
  for (size_t i = 0; i < sizeof past / sizeof past[0]; i++) {
    const uint64_t offset = past[i].offset, length = past[i].length;

    assert_int_equal (disk_pread (disk, buf, length, offset), -1);
    assert_int_equal (errno, EINVAL);
    assert_int_equal (disk_pwrite (disk, buf, length, offset, 0), -1);
    assert_int_equal (errno, ENOSPC);
    assert_int_equal (disk_zero (disk, length, offset, 0), -1);
    assert_int_equal (errno, EINVAL);
    assert_int_equal (disk_trim (disk, length, offset, 0), -1);
    assert_int_equal (disk_cache (disk, length, offset), -1);
  }
  assert_int_equal (disk_pread (disk, buf, 0, size), 0);
  assert_int_equal (calls_count (CALL_WRITE, FILE_STORE), 0);
}

/* Where zeros would have to be written, fast ones are not to be had. */
static void
fast_zeros_are_not_written (void **state)
{
  struct abilities *able = &disk->store->able;

  (void)state;
  fill_bytes (disk, 0, 4 * G, 1, 0);
  able->state[ABILITY_PUNCH] = able->state[ABILITY_ZERO_RANGE]
      = ABILITY_MISSING;
  free (calls_take ());
  for (unsigned trim = 0; trim < 2; trim++) {
    const unsigned flags = trim ? DISK_MAY_TRIM : 0;

    assert_int_equal (disk_zero (disk, G, G, DISK_FAST_ZERO | flags), -1);
    assert_int_equal (errno, ENOTSUP);
  }
  assert_int_equal (calls_count (CALL_WRITE, FILE_STORE), 0);
  expect_bytes (disk, 0, 4 * G, 1);
  assert_int_equal (disk_zero (disk, G, G, 0), 0);
  expect_bytes (disk, G, G, 0);
}

/* Where the map is damaged the store may hold the truth, by a backup of the
 * sidecar: no change that fails has touched it (G18). */
static void
damaged_ranges_are_not_touched (void **state)
{
  char buf[G], seal;

  (void)state;
  memset (buf, 9, sizeof buf);
  fill_bytes (disk, 0, 4 * G, 7, DISK_FUA);
  assert_int_equal (
      pread (disk->sc->fd, &seal, 1, (off_t)disk->sc->h.map_offset), 1);
  seal = (char)~seal;
  assert_int_equal (
      pwrite (disk->sc->fd, &seal, 1, (off_t)disk->sc->h.map_offset), 1);
  assert_int_equal (disk_gate (disk), 0);
  reopen ();
  assert_int_equal (disk_pwrite (disk, buf, G, G, 0), -1);
  assert_int_equal (errno, EIO);
  assert_int_equal (disk_pwrite (disk, buf, 10, 5, 0), -1);
  assert_int_equal (disk_zero (disk, G, 2 * G, 0), -1);
  assert_int_equal (disk_trim (disk, G, 3 * G, 0), -1);
  for (uint64_t at = 0; at < 4 * G; at += G) {
    assert_int_equal (store_pread (disk->store, buf, G, at), 0);
    for (unsigned i = 0; i < G; i++)
      assert_int_equal (buf[i], 7);
  }
}

/* A job's record may be on the same disk as the store. */
static void
failed_sync_of_the_record_counts (void **state)
{
  struct job_options options = { .length = G };
  char *error = NULL;

  (void)state;
  fill_bytes (disk, 0, G, 1, DISK_FUA);
  calls_fail (CALL_SYNC, FILE_SIDECAR, EIO);
  assert_int_equal (job_start (disk, &options, NULL, &error), -1);
  free (error);
  calls_fail (CALL_SYNC, FILE_SIDECAR, 0);
  assert_int_equal (disk_pwrite (disk, "x", 1, 0, DISK_FUA), -1);
  assert_int_equal (errno, EIO);
}

/* A store that cannot sync one write alone. */
static void
fua_without_dsync_is_a_commit (void **state)
{
  (void)state;
  fill_bytes (disk, 0, G, 1, DISK_FUA);
  calls_fail (CALL_DSYNC, FILE_STORE, EOPNOTSUPP);
  free (calls_take ());
  fill_bytes (disk, 0, G, 2, DISK_FUA);
  assert_int_equal (calls_count (CALL_SYNC, FILE_STORE), 1);
  expect_bytes (disk, 0, G, 2);
}

/* One that has done it before does not unlearn it: that is a failure. */
static void
unsupported_afterwards_is_a_failure (void **state)
{
  (void)state;
  fill_bytes (disk, 0, G, 1, DISK_FUA);
  fill_bytes (disk, 0, G, 2, DISK_FUA);
  calls_fail (CALL_DSYNC, FILE_STORE, EOPNOTSUPP);
  assert_int_equal (disk_pwrite (disk, "x", 1, 0, DISK_FUA), -1);
  calls_fail (CALL_DSYNC, FILE_STORE, 0);
  assert_int_equal (disk_flush (disk), -1);
}

/* A sidecar that cannot be written fails the flush, but once it can be again
 * all is well: nothing has been lost. */
static void
failed_write_of_the_sidecar_is_not (void **state)
{
  (void)state;
  fill_bytes (disk, G, G, 2, 0);
  calls_fail (CALL_WRITE, FILE_SIDECAR, EIO);
  assert_int_equal (disk_flush (disk), -1);
  calls_fail (CALL_WRITE, FILE_SIDECAR, 0);
  assert_false (box_in_s (&box, 1));
  flush ();
  assert_true (box_in_s (&box, 1));
}

/* The runtime directory is full: no bit can outlive the process there, so each
 * write that needs one is durable before its answer (I5). */
static void
without_w_each_write_is_a_commit (void **state)
{
  (void)state;
  for (uint64_t g = 1; g < 4; g++) {
    calls_fail (CALL_WRITE, FILE_WORK, ENOSPC);
    switch (g) {
    case 1:
      fill_bytes (disk, g * G, G, 2, 0);
      break;
    case 2:
      assert_int_equal (disk_zero (disk, G, g * G, 0), 0);
      break;
    default:
      assert_int_equal (disk_trim (disk, G, g * G, 0), 0);
    }
    assert_true (box_in_s (&box, g));
  }
  calls_fail (CALL_WRITE, FILE_WORK, 0);
  fill_bytes (disk, 5 * G, G, 2, 0);
  assert_false (box_in_s (&box, 5));
}

/* A write that fails leaves no bit: what is absent stays absent. */
static void
failed_write_leaves_no_bit (void **state)
{
  CLEANUP_FREE char *buf = calloc (1, G);

  (void)state;
  calls_fail (CALL_WRITE, FILE_STORE, ENOSPC);
  errno = 0;
  assert_int_equal (disk_pwrite (disk, buf, G, G, 0), -1);
  assert_int_equal (errno, ENOSPC);
  calls_fail (CALL_WRITE, FILE_STORE, 0);
  assert_false (is_local (disk, G, G));
  assert_int_equal (calls_count (CALL_WRITE, FILE_WORK), 0);
}

/* A header that cannot be written completes nothing: the map is needed. */
static void
failed_completion_is_none (void **state)
{
  static const enum call calls[] = { CALL_WRITE, CALL_SYNC };

  for (unsigned i = 0; i < 2; i++) {
    fill_bytes (disk, 0, disk_size (disk), 7, 0);
    calls_fail (calls[i], FILE_SIDECAR, EIO);
    assert_int_equal (disk_flush (disk), -1);
    assert_false (map_is_complete (disk->map));
    calls_fail (calls[i], FILE_SIDECAR, 0);
    reopen ();
    expect_bytes (disk, 0, disk_size (disk), 7);
    flush ();
    teardown (state);
    setup (state);
  }
}

/* All local: the header says so, after the data is durable, and from then on
 * S is neither written nor needed. */
static void
completion_is_one_header (void **state)
{
  struct disk_info info;
  struct sidecar *sc;

  (void)state;
  fill_bytes (disk, 0, disk_size (disk), 7, 0);
  free (calls_take ());
  flush ();
  /* Both copies of the header, each with its sync. */
  expect_calls ("ww ss wm sm wm sm ww");
  disk_get_info (disk, &info);
  assert_true (info.complete);
  sc = box_peek (&box);
  assert_true (sc->h.state & SIDECAR_COMPLETE);
  sidecar_free (sc);
  assert_false (box_in_s (&box, 0));
  fill_bytes (disk, 5, 5, 8, 0);
  flush ();
  expect_calls ("ws ss");
}

/* A job that copies without end has one checkpoint after another for its bytes;
 * its holes become durable in their time all the same. */
static void
holes_have_a_clock_of_their_own (void **state)
{
  uint64_t end = now_ms () + 30000;

  (void)state;
  assert_int_equal (copier_zero_range (disk, 0, 32 * MIB, false), 0);
  disk->keeper.checkpoint_ms = 600;
  assert_int_equal (housekeeper_start (disk), 0);
  while (!box_in_s (&box, 0) && now_ms () < end) {
    if (counted (&disk->copied) < UINT64_C (2) << 30)
      count (&disk->copied, UINT64_C (2) << 30);
    nap_ms (5);
  }
  assert_true (housekeeper_stop (disk, now_ms () + 60000));
  assert_true (box_in_s (&box, 0));
}

/* Nobody flushes and no job ends: what was copied becomes durable in time. */
static void
copies_are_durable_in_time (void **state)
{
  uint64_t end = now_ms () + 30000;

  (void)state;
  assert_int_equal (box_mark (disk, 5, 6, MAP_COPIED), 0);
  disk->keeper.checkpoint_ms = 100;
  assert_int_equal (housekeeper_start (disk), 0);
  while (!box_in_s (&box, 5) && now_ms () < end)
    nap_ms (5);
  assert_true (housekeeper_stop (disk, now_ms () + 60000));
  assert_true (box_in_s (&box, 5));
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (copies_are_durable_in_time),
    TEST (data_first_then_the_bit),
    TEST (fua_is_durable),
    TEST (copied_is_not_committed),
    TEST (flush_never_joins_the_running_commit),
    TEST (many_flushes_are_one_commit),
    TEST (each_flush_covers_its_write),
    TEST (nobody_else_waits_for_a_commit),
    TEST (failed_sync_of_the_store_is_final),
    TEST (failed_sync_is_final_for_any_reason),
    TEST (failed_sync_forgets_copies),
    TEST (killed_writes_again_what_is_cached),
    TEST (w_tells_of_a_sync_that_has_something_to_lose),
    TEST (w_is_told_of_a_failure_when_it_can_be),
    TEST (w_is_not_told_when_complete),
    TEST (written_hole_stays_pending),
    TEST (failed_sync_with_nothing_pending_is_final),
    TEST (failed_sync_of_the_sidecar_is_final),
    TEST (failed_fua_is_final),
    TEST (syncs_wait_for_those_before),
    TEST (syncs_wait_for_those_beside),
    TEST (full_is_not_failed),
    TEST (errors_reach_the_guest),
    TEST (nothing_past_the_end),
    TEST (damaged_ranges_are_not_touched),
    TEST (fast_zeros_are_not_written),
    TEST (failed_sync_of_the_record_counts),
    TEST (fua_without_dsync_is_a_commit),
    TEST (unsupported_afterwards_is_a_failure),
    TEST (failed_write_of_the_sidecar_is_not),
    TEST (without_w_each_write_is_a_commit),
    TEST (failed_write_leaves_no_bit),
    TEST (completion_is_one_header),
    TEST (failed_completion_is_none),
    cmocka_unit_test_setup_teardown (
        commit_leaves_sums_that_wait_for_their_bits, setup_large, teardown),
    cmocka_unit_test_setup_teardown (holes_have_a_clock_of_their_own,
                                     setup_large, teardown),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
