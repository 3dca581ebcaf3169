/* test-volume.c - opening and closing, as DESIGN's rules of recovery have it:
 * what is believed after which death (I5, I6), what is durable before the
 * first reply (G14), and what the end leaves.
 *
 * What a user sees of refused files is in tests/fault; here is what only the
 * engine's inside shows: the order of calls, bits, and the volume's files.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include "box.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fetch.h"
#include "file.h"

#define G UINT64_C (4096)
#define MIB (UINT64_C (1) << 20)

static struct box box;
static struct disk_config config;

static int
setup (void **state)
{
  (void)state;
  box_make (&box);
  config = box_config (&box);
  config.has_size = true;
  config.size = 8 * MIB;
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  box_drop (&box);
  return 0;
}

static struct disk *
start (void)
{
  return box_open (&box, &config);
}

/* Its process is dead; the boot goes on. */
static void
killed (struct disk *d)
{
  disk_free (d);
}

/* The same, and the power was cut: as if all had been written just before. */
static void
new_boot (struct disk *d)
{
  char *error = NULL;
  struct sidecar *sc;

  disk_free (d);
  sc = sidecar_open (box.metadata, false, &error);
  assert_non_null (sc);
  sc->h.boot_id[3] ^= 1;
  assert_int_equal (sidecar_write_header (sc), 0);
  sidecar_free (sc);
}

static char *
work_path (void)
{
  struct sidecar *sc = box_peek (&box);
  char *path = sc->h.work ? strdup (sc->h.work) : NULL;

  sidecar_free (sc);
  return path;
}

static void
session_is_recorded_before_the_first_reply (void **state)
{
  struct disk *d = start ();
  struct sidecar *sc = box_peek (&box);
  struct stat sb;

  (void)state;
  assert_true (sc->h.session_open);
  assert_int_equal (sc->h.session, 1);
  assert_int_equal (sc->h.session_pid, getpid ());
  assert_false (sc->h.state & SIDECAR_CREATING);
  assert_non_null (sc->h.work);
  assert_int_equal (stat (sc->h.work, &sb), 0);
  assert_int_equal (sb.st_mode & 07777, 0600);
  sidecar_free (sc);
  killed (d);
  d = start ();
  sc = box_peek (&box);
  assert_int_equal (sc->h.session, 2);
  sidecar_free (sc);
  box_close (d);
}

static void
clean_end_leaves_nothing_to_recover (void **state)
{
  struct disk *d = start ();
  struct sidecar *sc;

  (void)state;
  fill_bytes (d, 0, G, 1, 0);
  assert_int_equal (box_mark (d, 5, 6, MAP_COPIED), 0);
  assert_int_equal (box_mark (d, 7, 8, MAP_HOLE), 0);
  box_close (d);
  assert_int_equal (box_count (&box, ".work"), 0);
  sc = box_peek (&box);
  assert_false (sc->h.session_open);
  assert_null (sc->h.work);
  sidecar_free (sc);
  for (uint64_t g = 0; g < 9; g++)
    assert_int_equal (box_in_s (&box, g), g == 0 || g == 5 || g == 7);
  d = start ();
  expect_bytes (d, 0, G, 1);
  box_close (d);
}

/* Killed: all that was answered is there, flushed or not, is the guest's until
 * it is committed, and is durable before anybody can see it. */
static void
killed_on_the_same_boot (void **state)
{
  struct disk *d = start ();
  CLEANUP_FREE char *old = NULL, *calls = NULL;
  char *synced, *bits;

  (void)state;
  fill_bytes (d, 0, G, 1, DISK_FUA);
  fill_bytes (d, 2 * G, G, 2, 0);
  fill_bytes (d, 100, 100, 3, 0);
  assert_int_equal (disk_zero (d, G, 4 * G, 0), 0);
  assert_int_equal (disk_trim (d, G, 6 * G, 0), 0);
  assert_int_equal (box_mark (d, 8, 9, MAP_COPIED), 0);
  assert_false (box_in_s (&box, 2));
  old = work_path ();
  killed (d);

  calls_record (&box);
  d = start ();
  calls = calls_take ();
  calls_stop ();
  /* The sidecar as it is, then the store, then W's bits and their sync; the
   * record of the new session comes after. */
  synced = strstr (calls, "sm");
  assert_non_null (synced);
  synced = strstr (synced, "ss");
  assert_non_null (synced);
  bits = strstr (synced, "wm sm");
  assert_non_null (bits);
  assert_non_null (strstr (bits + 5, "wm sm"));
  for (uint64_t g = 0; g < 10; g++) {
    assert_int_equal (is_local (d, g * G, G), g % 2 == 0);
    assert_int_equal (box_in_s (&box, g), g % 2 == 0);
  }
  expect_bytes (d, 2 * G, G, 2);
  expect_bytes (d, 100, 100, 3);
  expect_bytes (d, 200, 100, 1);
  expect_bytes (d, 4 * G, G, 0);
  expect_bytes (d, 6 * G, G, 0);
  /* The old W has done its work. */
  assert_int_equal (access (old, F_OK), -1);
  assert_int_equal (box_count (&box, ".work"), 1);
  box_close (d);
}

/* And a second time, without a word in between. */
static void
killed_again_and_again (void **state)
{
  struct disk *d = start ();

  (void)state;
  for (unsigned i = 0; i < 5; i++) {
    fill_bytes (d, i * 2 * G, G, 10 + (int)i, 0);
    killed (d);
    d = start ();
    for (unsigned j = 0; j <= i; j++)
      expect_bytes (d, j * 2 * G, G, 10 + (int)j);
    assert_false (is_local (d, G, G));
  }
  box_close (d);
}

/* The power was cut: W vouches for bytes that may be gone. */
static void
another_boot_believes_s_alone (void **state)
{
  struct disk *d = start ();
  CLEANUP_FREE char *old = NULL;

  (void)state;
  fill_bytes (d, 0, G, 1, 0);
  assert_int_equal (disk_flush (d), 0);
  fill_bytes (d, 2 * G, G, 2, 0);
  assert_int_equal (box_mark (d, 4, 5, MAP_COPIED), 0);
  old = work_path ();
  new_boot (d);
  assert_int_equal (access (old, F_OK), 0);
  d = start ();
  assert_int_equal (access (old, F_OK), -1);
  assert_true (is_local (d, 0, G));
  assert_false (is_local (d, 2 * G, G));
  assert_false (is_local (d, 4 * G, G));
  expect_bytes (d, 0, G, 1);
  box_close (d);
}

/* A change fails half way: of what is local already the bytes that came so far
 * are seen.  Then they stay: over SIGKILL, where the granule is a hole that W
 * did not know of, and, once there was a flush, over a power cut.  What is
 * absent is as it was. */
static void
what_a_failed_change_has_changed_stays (void **state)
{
  const uint64_t copied = SIDECAR_BITS, absent = copied + 16;
  char buf[4 * G];

  (void)state;
  config.size = 40 * MIB;
  memset (buf, 7, sizeof buf);
  for (unsigned zero = 0; zero < 2; zero++)
    for (unsigned cut = 0; cut < 2; cut++) {
      const uint64_t place[] = { 100 * G, copied * G, absent * G };
      struct disk *d = start ();
      int new = zero ? 0 : 7;

      assert_int_equal (box_mark (d, 0, SIDECAR_BITS, MAP_HOLE), 0);
      assert_int_equal (box_mark (d, copied, copied + 4, MAP_COPIED), 0);
      /* Zeros have to be written. */
      d->store->able.state[ABILITY_PUNCH] = ABILITY_MISSING;
      d->store->able.state[ABILITY_ZERO_RANGE] = ABILITY_MISSING;
      calls_record (&box);
      for (unsigned i = 0; i < 3; i++) {
        uint64_t at = place[i];
        unsigned part = zero ? 40 : 2 * G + 100;

        /* As if it were data. */
        if (zero && i < 2)
          assert_int_equal (store_pwrite (d->store, buf, 4 * G, at), 0);
        calls_cut (FILE_STORE, part, ENOSPC);
        assert_int_equal (zero ? disk_zero (d, 3 * G, at + 100, 0)
                               : disk_pwrite (d, buf, 4 * G, at, 0),
                          -1);
        assert_int_equal (errno, ENOSPC);
        calls_fail (CALL_WRITE, FILE_STORE, 0);
        assert_int_equal (is_local (d, at, 4 * G), i < 2);
        if (i < 2)
          expect_bytes (d, at + (zero ? 100 : 0), part, new);
      }
      if (cut) {
        assert_int_equal (disk_flush (d), 0);
        new_boot (d);
      }
      else
        killed (d);
      calls_stop ();
      d = start ();
      for (unsigned i = 0; i < 2; i++) {
        uint64_t at = place[i];

        assert_true (is_local (d, at, G));
        expect_bytes (d, at + (zero ? 100 : 0), zero ? 40 : 2 * G + 100, new);
      }
      assert_false (is_local (d, absent * G, 4 * G));
      box_close (d);
      unlink (box.store);
      unlink (box.metadata);
    }
}

static void
shell (const char *format, ...)
{
  char command[1000];
  va_list ap;

  va_start (ap, format);
  vsnprintf (command, sizeof command, format, ap);
  va_end (ap);
  assert_int_equal (system (command), 0);
}

/* The store was replaced by a copy, with the session open on this boot: W says
 * itself that it is of these bytes, and is left to the other file. */
static void
w_is_of_the_bytes (void **state)
{
  struct disk *d = start ();
  CLEANUP_FREE char *old = work_path ();

  (void)state;
  fill_bytes (d, 0, G, 1, 0);
  assert_int_equal (disk_zero (d, G, 5 * G, 0), 0);
  killed (d);
  shell ("cp -a '%s' '%s.new' && mv '%s.new' '%s'", box.store, box.store,
         box.store, box.store);
  d = start ();
  expect_bytes (d, 0, G, 1);
  assert_true (is_local (d, 5 * G, G));
  assert_int_equal (access (old, F_OK), 0);
  box_close (d);
}

/* One of it is not: somebody has written there, or it is of another moment. */
static void
w_is_of_no_other_bytes (void **state)
{
  static const struct {
    uint64_t offset;
    int byte;
  } changes[] = { { 0, 2 }, { 3 * G - 1, 0 }, { 9 * G + 100, 1 } };

  (void)state;
  for (unsigned i = 0; i < 3; i++) {
    struct disk *d = start ();
    uint8_t byte = (uint8_t)changes[i].byte;

    fill_bytes (d, 0, 3 * G, 1, 0);
    assert_int_equal (disk_zero (d, 2 * G, 9 * G, 0), 0);
    assert_int_equal (pwrite (d->store->fd, &byte, 1, (off_t)changes[i].offset),
                      1);
    killed (d);
    box_refused (&box, &config, EINVAL, "another state",
                 "discard-unflushed=yes");
    config.discard_unflushed = true;
    d = start ();
    assert_false (is_local (d, 0, G));
    box_close (d);
    config.discard_unflushed = false;
    unlink (box.store);
    unlink (box.metadata);
  }
}

/* Copies are believed where no sync can have lost them. */
static void
syncing_drops_lost_copies (void **state)
{
  (void)state;
  for (unsigned syncing = 0; syncing < 2; syncing++) {
    struct disk *d = start ();

    fill_bytes (d, 0, G, 1, 0);
    assert_int_equal (box_mark (d, 2, 4, MAP_COPIED), 0);
    assert_int_equal (box_mark (d, 4, 6, MAP_COPIED), 0);
    fill_bytes (d, 5 * G + 100, 10, 3, 0);
    if (syncing)
      assert_int_equal (work_set_state (d->work, WORK_SYNCING), 0);
    /* One of them is not what it was. */
    if (syncing)
      assert_int_equal (pwrite (d->store->fd, "x", 1, 3 * G), 1);
    killed (d);
    d = start ();
    expect_bytes (d, 0, G, 1);
    expect_bytes (d, 5 * G + 100, 10, 3);
    for (uint64_t g = 2; g < 5; g++)
      assert_int_equal (is_local (d, g * G, G), !syncing || g != 3);
    box_close (d);
    unlink (box.store);
    unlink (box.metadata);
  }
}

/* A guest's changes of all kinds, over each other. */
enum kind { WRITE, ZERO, TRIM, COPY, FLUSH };
static const struct {
  enum kind kind;
  uint64_t offset, length;
  int byte;
} steps[] = {
  { WRITE, 0, 3 * G, 1 },          { WRITE, G, G, 2 },
  { WRITE, 2 * G + 512, 1024, 3 }, { ZERO, G, 2 * G, 0 },
  { WRITE, 0, 3 * G, 4 },          { ZERO, 8 * G, 2 * G, 0 },
  { WRITE, 8 * G, G, 0 },          { WRITE, 8 * G, 4 * G, 5 },
  { COPY, 20 * G, 4 * G, 0 },      { WRITE, 21 * G, 2 * G, 6 },
  { WRITE, 20 * G + 512, 512, 7 }, { FLUSH, 0, 0, 0 },
  { WRITE, G, 22 * G, 8 },         { TRIM, 2 * G, 3 * G, 0 },
  { WRITE, 3 * G, 512, 9 },        { FLUSH, 0, 0, 0 },
  { ZERO, 0, 30 * G, 0 },          { WRITE, 5 * G, 512, 10 },
};
#define NR_STEPS (sizeof steps / sizeof steps[0])
#define SECTORS (32 * G / 512)

static void
make_step (struct disk *d, unsigned i)
{
  switch (steps[i].kind) {
  case WRITE:
    fill_bytes (d, steps[i].offset, steps[i].length, steps[i].byte, 0);
    break;
  case ZERO:
    assert_int_equal (disk_zero (d, steps[i].length, steps[i].offset, 0), 0);
    break;
  case TRIM:
    assert_int_equal (disk_trim (d, steps[i].length, steps[i].offset, 0), 0);
    break;
  case COPY:
    assert_int_equal (box_mark (d, steps[i].offset / G,
                                (steps[i].offset + steps[i].length) / G,
                                MAP_COPIED),
                      0);
    break;
  case FLUSH:
    assert_int_equal (disk_flush (d), 0);
    break;
  }
}

static void
note_step (unsigned i, int *sectors)
{
  if (steps[i].kind == FLUSH || steps[i].kind == COPY)
    return;
  for (uint64_t at = steps[i].offset; at < steps[i].offset + steps[i].length;
       at += 512)
    sectors[at / 512] = steps[i].byte;
}

/* It dies before the nth write or sync.  False: it came to its end. */
static bool
dies_at (unsigned n, unsigned *done)
{
  pid_t pid = fork ();
  int status;

  assert_true (pid >= 0);
  if (pid == 0) {
    struct disk *d = start ();

    calls_record (&box);
    calls_die (n);
    for (unsigned i = 0; i < NR_STEPS; i++) {
      make_step (d, i);
      __atomic_store_n (done, i + 1, __ATOMIC_SEQ_CST);
    }
    _exit (7);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_true (WIFEXITED (status));
  return WEXITSTATUS (status) == 0;
}

static void
killed_at_each_step (void **state)
{
  unsigned *done = mmap (NULL, sizeof *done, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  bool dies = true;

  (void)state;
  assert_true (done != MAP_FAILED);
  for (unsigned n = 1; dies; n++) {
    int old[SECTORS] = { 0 }, new[SECTORS];
    uint8_t bytes[512];
    struct disk *d;

    *done = 0;
    dies = dies_at (n, done);
    for (unsigned i = 0; i < *done; i++)
      note_step (i, old);
    memcpy (new, old, sizeof new);
    if (*done < NR_STEPS)
      note_step (*done, new);
    d = start ();
    for (unsigned i = 0; i < SECTORS; i++) {
      memset (bytes, 0, sizeof bytes); /* what nobody would bring */
      if (is_local (d, i * UINT64_C (512), 512))
        assert_int_equal (disk_pread (d, bytes, 512, i * UINT64_C (512)), 0);
      if (memcmp (bytes, bytes + 1, 511) != 0
          || (bytes[0] != old[i] && bytes[0] != new[i]))
        fail_msg ("before call %u, in step %u: sector %u is %u, not %d or %d",
                  n, *done, i, bytes[0], old[i], new[i]);
    }
    box_close (d);
    unlink (box.store);
    unlink (box.metadata);
  }
  munmap (done, sizeof *done);
}

/* W took some of the sums of a change that was not made then: the next change
 * of the same granule does not begin with those. */
static void
sums_of_a_change_that_was_not_made (void **state)
{
  static const uint8_t twos[8192] = { 2 };
  const uint64_t large = 65536; /* several sums in a granule */
  struct disk *d;

  (void)state;
  config.granule = (uint32_t)large;
  d = start ();
  fill_bytes (d, 0, large, 1, 0);
  calls_record (&box);
  calls_cut (FILE_WORK, 8, EIO);
  assert_int_equal (disk_pwrite (d, twos, sizeof twos, 0, 0), -1);
  calls_fail (CALL_WRITE, FILE_WORK, 0);
  fill_bytes (d, large - 4096, 4096, 3, 0);
  calls_stop ();
  killed (d);
  d = start ();
  expect_bytes (d, 0, large - 4096, 1);
  expect_bytes (d, large - 4096, 4096, 3);
  box_close (d);
}

/* It dies before the nth write or sync of opening.  False: it came to its end.
 */
static bool
dies_opening (unsigned n)
{
  pid_t pid = fork ();
  int status;

  assert_true (pid >= 0);
  if (pid == 0) {
    calls_record (&box);
    calls_die (n);
    start ();
    _exit (7);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_true (WIFEXITED (status));
  return WEXITSTATUS (status) == 0;
}

/* The session that is recovered has counted, and the one that recovers it is
 * killed at any of its steps: that is no other state of the files. */
static void
killed_at_each_step_of_opening (void **state)
{
  bool dies = true;

  (void)state;
  for (unsigned n = 1; dies; n++) {
    struct disk *d = start ();

    fill_bytes (d, 0, G, 1, 0);
    assert_int_equal (disk_zero (d, G, G, 0), 0);
    assert_int_equal (disk_zero (d, 3 * G, G, 0), 0);
    killed (d);
    dies = dies_opening (n);
    d = start ();
    expect_bytes (d, 0, G, 1);
    assert_true (is_local (d, G, G));
    assert_true (is_local (d, 3 * G, G));
    box_close (d);
    unlink (box.store);
    unlink (box.metadata);
  }
}

/* A disk that could never be opened again is not made, whatever it is made
 * from. */
static void
too_large_is_refused (void **state)
{
  static const enum disk_adopt adopts[]
      = { DISK_ADOPT_NONE, DISK_ADOPT_LOCAL, DISK_ADOPT_PLAIN,
          DISK_ADOPT_ABSENT };
  const uint64_t limit = SIDECAR_MAX_SIZE (512);
  char store[64], metadata[80];

  (void)state;
  /* A tmpfs takes files of any size. */
  snprintf (store, sizeof store, "/dev/shm/test-volume-%d", (int)getpid ());
  snprintf (metadata, sizeof metadata, "%s.backfill", store);
  config.store = store;
  config.granule = 512;
  config.has_size = false;
  for (unsigned i = 0; i < 4; i++) {
    CLEANUP_CLOSE int fd = -1;

    config.adopt = adopts[i];
    if (config.adopt == DISK_ADOPT_NONE) {
      config.has_size = true;
      config.size = limit + 1;
    }
    else {
      config.has_size = false;
      fd = open (store, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
      if (fd == -1)
        skip ();
      if (ftruncate (fd, (off_t)limit + 1) == -1) {
        unlink (store);
        skip ();
      }
    }
    box_refused (&box, &config, EINVAL, "too large", "granule=512");
    assert_int_equal (access (metadata, F_OK), -1);
    unlink (store);
  }
}

/* A sidecar that is named for another store, though of the same size: what it
 * calls local is not there. */
static void
sidecar_of_another_store (void **state)
{
  struct disk_config other = config;
  struct disk *d = start ();
  char command[1200], store[200], copy[200];

  (void)state;
  fill_bytes (d, 0, G, 1, 0);
  box_close (d);
  snprintf (store, sizeof store, "%s/other", box.dir);
  snprintf (copy, sizeof copy, "%s/copy.backfill", box.dir);
  snprintf (command, sizeof command, "truncate -r '%s' '%s' && cp '%s' '%s'",
            box.store, store, box.metadata, copy);
  assert_int_equal (system (command), 0);
  other.store = store;
  other.metadata = copy;
  box_refused (&box, &other, EINVAL, "of another store", "adopt=moved");
}

/* A commit that leaves a neighbour pending keeps W's page: what it has made
 * durable is changed without a word to W from then on, so W must not speak for
 * it any more. */
static void *
flush_disk (void *arg)
{
  return disk_flush (arg) == 0 ? NULL : arg;
}

static void
w_does_not_speak_for_what_is_in_s (void **state)
{
  struct disk *d = start ();
  pthread_t thread;
  void *failed;

  (void)state;
  calls_record (&box);
  fill_bytes (d, 0, G, 1, 0);
  calls_hold (CALL_SYNC, FILE_SIDECAR);
  assert_int_equal (pthread_create (&thread, NULL, flush_disk, d), 0);
  calls_wait_held ();
  fill_bytes (d, 2 * G, G, 2, 0);
  calls_let_go ();
  pthread_join (thread, &failed);
  assert_null (failed);
  calls_stop ();
  assert_true (map_is_stable (d->map, 0, 1));
  assert_false (map_is_stable (d->map, 2, 3));
  fill_bytes (d, 0, G, 3, 0);
  killed (d);
  d = start ();
  expect_bytes (d, 0, G, 3);
  expect_bytes (d, 2 * G, G, 2);
  box_close (d);
}

/* W as it was in the session before, in the place of this one's: it knows
 * nothing of what was written since. */
static void
w_is_of_one_session (void **state)
{
  struct disk *d = start ();
  CLEANUP_FREE char *old = work_path (), *new = NULL;
  char command[700];

  (void)state;
  fill_bytes (d, 0, G, 1, 0);
  snprintf (command, sizeof command, "cp -a '%s' '%s/old'", old, box.dir);
  assert_int_equal (system (command), 0);
  killed (d);
  d = start ();
  new = work_path ();
  fill_bytes (d, 2 * G, G, 2, 0);
  killed (d);
  snprintf (command, sizeof command, "mv '%s/old' '%s'", box.dir, new);
  assert_int_equal (system (command), 0);
  box_refused (&box, &config, EINVAL, "working map", "discard-unflushed=yes");
  config.discard_unflushed = true;
  d = start ();
  assert_true (is_local (d, 0, G));
  box_close (d);
}

/* Somebody holds W: the owner is alive, whatever became of its other locks. */
static void
w_in_use_is_an_owner (void **state)
{
  struct disk *d = start ();
  CLEANUP_FREE char *path = work_path ();
  CLEANUP_CLOSE int fd = -1;
  char pid[40];

  (void)state;
  killed (d);
  fd = open (path, O_RDWR | O_CLOEXEC);
  assert_true (fd >= 0);
  assert_int_equal (file_lock (fd, false), 0);
  snprintf (pid, sizeof pid, "process %d", (int)getpid ());
  box_refused (&box, &config, EBUSY, "in use", pid);
}

static void
store_and_sidecar_are_locked (void **state)
{
  struct disk *d;
  char pid[40], other[140];

  (void)state;
  config.control = "/some/where.control";
  d = start ();
  snprintf (pid, sizeof pid, "process %d", (int)getpid ());
  box_refused (&box, &config, EBUSY, pid, "/some/where.control");
  /* The same sidecar for another store. */
  snprintf (other, sizeof other, "%s.other", box.store);
  config.store = other;
  config.metadata = box.metadata;
  box_refused (&box, &config, EBUSY, "in use", pid);
  box_close (d);
}

/* A sync was under way or had failed: what the page cache shows may never have
 * been written.  It is written again before it is synced. */
static void
syncing_is_written_again (void **state)
{
  struct disk *d = start ();
  CLEANUP_FREE char *calls = NULL;
  char *written;

  (void)state;
  fill_bytes (d, 0, G, 1, 0);
  fill_bytes (d, 9 * G, 3 * G, 2, 0);
  assert_int_equal (work_set_state (d->work, WORK_SYNCING), 0);
  killed (d);
  calls_record (&box);
  d = start ();
  assert_true (calls_count (CALL_WRITE, FILE_STORE) >= 2);
  calls = calls_take ();
  calls_stop ();
  written = strstr (calls, "ws");
  assert_non_null (written);
  assert_non_null (strstr (written, "ss"));
  expect_bytes (d, 0, G, 1);
  expect_bytes (d, 9 * G, 3 * G, 2);
  assert_true (box_in_s (&box, 0) && box_in_s (&box, 11));
  box_close (d);
}

/* What a failed sync may have lost cannot be written again: it does not open,
 * unless one can do without. */
static void
what_cannot_be_written_again (void **state)
{
  struct disk *d = start ();
  struct disk_config discard = config;

  (void)state;
  fill_bytes (d, 0, G, 1, DISK_FUA);
  fill_bytes (d, 9 * G, 3 * G, 2, 0);
  assert_int_equal (work_set_state (d->work, WORK_SYNCING), 0);
  killed (d);
  calls_record (&box);
  calls_fail (CALL_WRITE, FILE_STORE, EIO);
  box_refused (&box, &config, EIO, "at offset 36864", "discard-unflushed=yes");
  discard.discard_unflushed = true;
  d = box_start (&box, &discard);
  calls_stop ();
  expect_bytes (d, 0, G, 1);
  assert_false (is_local (d, 9 * G, G));
  box_close (d);
}

static void *
fail_one_sync (void *arg)
{
  (void)arg;
  calls_wait_held ();
  calls_let_go_failed (EIO);
  return NULL;
}

/* It can be written, but not synced: a bad disk tells no earlier. */
static void
what_cannot_be_synced_again (void **state)
{
  struct disk *d = start ();
  struct disk_config discard = config;
  pthread_t thread;

  (void)state;
  fill_bytes (d, 0, G, 1, DISK_FUA);
  fill_bytes (d, 9 * G, 3 * G, 2, 0);
  killed (d);
  calls_record (&box);
  calls_fail (CALL_SYNC, FILE_STORE, EIO);
  box_refused (&box, &config, EIO, "cannot write again",
               "discard-unflushed=yes");
  calls_fail (CALL_SYNC, FILE_STORE, ENOSPC);
  discard.discard_unflushed = true;
  box_refused (&box, &discard, ENOSPC, "cannot write again", "Open it again");
  calls_fail (CALL_SYNC, FILE_STORE, 0);
  calls_hold (CALL_SYNC, FILE_STORE);
  assert_int_equal (pthread_create (&thread, NULL, fail_one_sync, NULL), 0);
  d = box_start (&box, &discard);
  pthread_join (thread, NULL);
  calls_stop ();
  expect_bytes (d, 0, G, 1);
  assert_false (is_local (d, 9 * G, G));
  box_close (d);
}

/* No sync is known to have failed, and there is no room to write again: it
 * opens, and the page cache keeps what may have no other place. */
static void
no_room_to_write_again (void **state)
{
  struct disk *d = start ();
  uint64_t first, stop;

  (void)state;
  fill_bytes (d, 9 * G, 3 * G, 2, 0);
  killed (d);
  calls_record (&box);
  calls_fail (CALL_WRITE, FILE_STORE, ENOSPC);
  d = start ();
  calls_stop ();
  store_next_cached (d->store, 9 * G, 12 * G, &first, &stop);
  assert_true (first == 9 * G && stop == 12 * G);
  expect_bytes (d, 9 * G, 3 * G, 2);
  box_close (d);
}

/* A sync that fails while it is opened: it does not open, and the next to try
 * knows that something may be missing. */
static void
failed_sync_at_open_is_not_forgotten (void **state)
{
  static const enum file files[] = { FILE_STORE, FILE_SIDECAR };
  struct disk *d = start ();

  (void)state;
  fill_bytes (d, 0, G, 1, 0);
  killed (d);
  calls_record (&box);
  for (unsigned i = 0; i < 2; i++) {
    calls_fail (CALL_SYNC, files[i], EIO);
    box_refused (&box, &config, EIO, box.dir, "Input/output error");
    calls_fail (CALL_SYNC, files[i], 0);
    assert_false (i == 0 && box_in_s (&box, 0));
  }
  free (calls_take ());
  d = start ();
  assert_true (calls_count (CALL_WRITE, FILE_STORE) > 0);
  expect_bytes (d, 0, G, 1);
  calls_stop ();
  box_close (d);
}

/* The last commit fails: the session stays open, and W stays. */
static void
failed_end_is_left_to_be_recovered (void **state)
{
  struct disk *d = start ();
  struct sidecar *sc;

  (void)state;
  fill_bytes (d, 0, G, 1, 0);
  calls_record (&box);
  calls_fail (CALL_SYNC, FILE_STORE, EIO);
  assert_int_equal (disk_gate (d), -1);
  calls_stop ();
  assert_int_equal (disk_gate (d), -1);
  sc = box_peek (&box);
  assert_true (sc->h.session_open && sc->h.work);
  sidecar_free (sc);
  disk_free (d);
  assert_int_equal (box_count (&box, ".work"), 1);
  d = start ();
  expect_bytes (d, 0, G, 1);
  box_close (d);
}

/* What was only copied, or learnt to be zero, is not fetched again after an
 * orderly end, though no guest has changed anything. */
static void
clean_end_keeps_copies (void **state)
{
  struct disk *d;

  (void)state;
  config.size = 40 * MIB;
  d = start ();
  assert_int_equal (map_mark (d->map, 5, 6, MAP_COPIED), 0);
  assert_int_equal (map_mark (d->map, SIDECAR_BITS, 2 * SIDECAR_BITS, MAP_HOLE),
                    0);
  box_close (d);
  assert_true (box_in_s (&box, 5));
  assert_true (box_in_s (&box, SIDECAR_BITS));
  assert_true (box_in_s (&box, 2 * SIDECAR_BITS - 1));
}

static void *
write_whole (void *arg)
{
  struct disk *d = arg;

  fill_bytes (d, 3 * G, G, 4, 0);
  return NULL;
}

static void *
let_go_later (void *arg)
{
  nap_ms (400);
  calls_let_go ();
  return arg;
}

/* A write that takes its time is part of an orderly end. */
static void
gate_waits_for_what_is_inside (void **state)
{
  struct disk *d = start ();
  pthread_t writer, helper;
  struct sidecar *sc;

  (void)state;
  calls_record (&box);
  calls_hold (CALL_WRITE, FILE_STORE);
  assert_int_equal (pthread_create (&writer, NULL, write_whole, d), 0);
  calls_wait_held ();
  d->gate_ms = 60000;
  assert_int_equal (pthread_create (&helper, NULL, let_go_later, NULL), 0);
  assert_int_equal (disk_gate (d), 0);
  pthread_join (helper, NULL);
  pthread_join (writer, NULL);
  calls_stop ();
  sc = box_peek (&box);
  assert_false (sc->h.session_open);
  sidecar_free (sc);
  disk_free (d);
  assert_true (box_in_s (&box, 3));
}

static bool
can_be_freed (void *opaque)
{
  return disk_is_idle (opaque);
}

/* The last sync hangs, or one that the housekeeper waits for: the gate's caller
 * has his answer in time, the volume stays locked, and is closed as ever should
 * the store go on. */
static void
gate_does_not_wait_for_ever (void **state)
{
  (void)state;
  assert_int_equal (disk_pools_start (), 0);
  for (unsigned i = 0; i < 2; i++) {
    struct disk *d = start ();
    struct sidecar *sc;

    fill_bytes (d, i * G, G, 1 + (int)i, 0);
    calls_record (&box);
    calls_hold (CALL_SYNC, FILE_STORE);
    if (i == 1) {
      d->keeper.checkpoint_ms = 1;
      assert_int_equal (housekeeper_start (d), 0);
      calls_wait_held ();
    }
    d->gate_ms = 700;
    errno = 0;
    assert_int_equal (disk_gate (d), -1);
    assert_int_equal (errno, ETIMEDOUT);
    assert_false (disk_is_idle (d));
    box_refused (&box, &config, EBUSY, "disk", "");
    d->gate_ms = 60000;
    calls_let_go ();
    assert_int_equal (disk_gate (d), 0);
    wait_until (can_be_freed, d);
    calls_stop ();
    sc = box_peek (&box);
    assert_false (sc->h.session_open);
    sidecar_free (sc);
    disk_free (d);
    d = start ();
    expect_bytes (d, i * G, G, 1 + (int)i);
    box_close (d);
  }
  disk_pools_stop ();
}

/* Complete: nothing in S is looked at, and there is no W. */
static void
complete_needs_neither_s_nor_w (void **state)
{
  struct disk *d = start ();
  CLEANUP_CLOSE int fd = -1;
  struct disk_info info;
  char junk[SIDECAR_SECTOR];

  (void)state;
  fill_bytes (d, 0, disk_size (d), 5, 0);
  assert_int_equal (disk_flush (d), 0);
  fill_bytes (d, 10, 10, 6, 0);
  killed (d);
  fd = open (box.metadata, O_RDWR | O_CLOEXEC);
  memset (junk, 0x55, sizeof junk);
  assert_int_equal (pwrite (fd, junk, sizeof junk, SIDECAR_MAP_OFFSET),
                    sizeof junk);
  d = start ();
  disk_get_info (d, &info);
  assert_true (info.complete && info.absent == 0 && info.nr_damaged == 0);
  expect_bytes (d, 10, 10, 6);
  expect_bytes (d, 20, G, 5);
  assert_int_equal (box_count (&box, ".work"), 0);
  box_close (d);
  assert_int_equal (pread (fd, junk, sizeof junk, SIDECAR_MAP_OFFSET),
                    sizeof junk);
  assert_int_equal (junk[100], 0x55);
}

/* Read-only: what W holds is seen, and nothing is written anywhere. */
static void
read_only_writes_nothing (void **state)
{
  struct disk *d = start ();
  struct sidecar *before, *after;

  (void)state;
  fill_bytes (d, 0, G, 1, DISK_FUA);
  fill_bytes (d, 2 * G, G, 2, 0);
  killed (d);
  before = box_peek (&box);
  calls_record (&box);
  config.read_only = true;
  d = start ();
  expect_bytes (d, 0, G, 1);
  expect_bytes (d, 2 * G, G, 2);
  assert_int_equal (disk_pwrite (d, "x", 1, 0, 0), -1);
  assert_int_equal (errno, EROFS);
  assert_int_equal (disk_gate (d), 0);
  disk_free (d);
  for (enum call call = CALL_WRITE; call < NR_CALLS; call++)
    for (enum file file = FILE_STORE; file <= FILE_WORK; file++)
      assert_int_equal (calls_count (call, file), 0);
  calls_stop ();
  after = box_peek (&box);
  assert_int_equal (after->h.sequence, before->h.sequence);
  assert_true (after->h.session_open);
  assert_false (box_in_s (&box, 2));
  sidecar_free (before);
  sidecar_free (after);
  config.read_only = false;
  d = start ();
  expect_bytes (d, 2 * G, G, 2);
  box_close (d);
}

/* The gate. */

static void
nothing_is_done_after_the_gate (void **state)
{
  struct disk *d = start ();
  struct disk_info info;
  char buf[16], *error = NULL;

  (void)state;
  fill_bytes (d, 0, G, 1, 0);
  assert_int_equal (disk_gate (d), 0);
  assert_int_equal (disk_gate (d), 0);
#define SHUT(call)             \
  errno = 0;                   \
  assert_int_equal (call, -1); \
  assert_int_equal (errno, ESHUTDOWN)
  SHUT (disk_pread (d, buf, sizeof buf, 0));
  SHUT (disk_pwrite (d, buf, sizeof buf, 0, 0));
  SHUT (disk_zero (d, G, 0, 0));
  SHUT (disk_trim (d, G, 0, 0));
  SHUT (disk_cache (d, G, 0));
  SHUT (disk_flush (d));
  SHUT (job_start (d, &(struct job_options){ 0 }, NULL, &error));
  free (error);
  error = NULL;
  /* It is free for others. */
  box_close (start ());
  disk_get_info (d, &info);
  assert_int_equal (info.size, 8 * MIB);
  disk_free (d);
}

/* A job that is paused when the volume is closed goes on with its next owner:
 * an abort that comes too late must not be answered with success (G37). */
static void
abort_after_the_gate_is_refused (void **state)
{
  struct job_options o = { .speed = 1 };
  CLEANUP_FREE char *file = NULL;
  char *error = NULL;
  struct job_info info;
  struct disk *d;

  (void)state;
  box_golden (&box, MIB, MIB);
  file = box_key ("file", box.golden);
  box_serve (&box, "file", file, NULL);
  config.has_size = false;
  config.backing = box.uri;
  assert_int_equal (disk_pools_start (), 0);
  d = box_start (&box, &config);
  /* With a byte a second it does not end. */
  assert_int_equal (job_start (d, &o, NULL, &error), 0);
  assert_int_equal (job_pause (d, 0, &error), 0);
  assert_int_equal (disk_gate (d), 0);
  SHUT (job_abort (d, 0, &error));
  assert_non_null (error);
  free (error);
  disk_free (d);
  disk_pools_stop ();

  d = start ();
  job_get_info (d, &info);
  assert_int_equal (info.status, JOB_PAUSED);
  box_close (d);
}

/* An abort was recorded and the process died before the job had ended: it does
 * not go on, and is told of as aborted (G37). */
static void
aborting_is_not_gone_on_with (void **state)
{
  struct job_options o = { .speed = 1 };
  CLEANUP_FREE char *file = NULL;
  char *error = NULL;
  struct sidecar_job record;
  struct job_info info;
  struct sidecar *sc;
  struct disk *d;

  (void)state;
  box_golden (&box, MIB, MIB);
  file = box_key ("file", box.golden);
  box_serve (&box, "file", file, NULL);
  config.has_size = false;
  config.backing = box.uri;
  assert_int_equal (disk_pools_start (), 0);
  d = box_start (&box, &config);
  assert_int_equal (job_start (d, &o, NULL, &error), 0);
  assert_int_equal (disk_gate (d), 0);
  disk_free (d);
  sc = sidecar_open (box.metadata, false, &error);
  assert_non_null (sc);
  assert_int_equal (sidecar_read_job (sc, &record), 1);
  assert_int_not_equal (record.status, JOB_CONCLUDED);
  record.status = JOB_ABORTING;
  assert_int_equal (sidecar_write_job (sc, &record), 0);
  sidecar_free (sc);

  /* As often as it is opened. */
  for (int i = 0; i < 2; i++) {
    d = box_start (&box, &config);
    job_get_info (d, &info);
    assert_int_equal (info.status, JOB_CONCLUDED);
    assert_int_equal (info.result, JOB_RESULT_CANCELLED);
    assert_int_equal (info.errnum, ECANCELED);
    box_close (d);
  }
  disk_pools_stop ();
}

/* A part of a granule is written while the gate closes: the guest is told
 * that, not that its disk has an error. */

struct writer {
  struct disk *disk;
  int result, err;
  bool closed; /* atomic */
};

static void *
write_part (void *arg)
{
  struct writer *w = arg;

  w->result = disk_pwrite (w->disk, "abc", 3, 2 * G + 7, 0);
  w->err = errno;
  return NULL;
}

static void *
close_gate (void *arg)
{
  struct writer *w = arg;

  disk_gate (w->disk);
  return NULL;
}

static bool
one_waits_for_a_claim (void *opaque)
{
  struct writer *w = opaque;
  LOCK_SCOPE (&w->disk->claims.lock);

  return w->disk->claims.waiting > 0;
}

static bool
is_gated (void *opaque)
{
  struct writer *w = opaque;

  return atomic_load_explicit (&w->disk->gated, memory_order_acquire);
}

static void
gate_tells_a_parked_write (void **state)
{
  struct writer w = { .disk = NULL };
  pthread_t writer, closer;
  struct claim claim;

  (void)state;
  assert_int_equal (disk_pools_start (), 0);
  w.disk = box_start (&box, &config);
  claim_take (&w.disk->claims, &claim, 2, 3);
  pthread_create (&writer, NULL, write_part, &w);
  wait_until (one_waits_for_a_claim, &w);
  pthread_create (&closer, NULL, close_gate, &w);
  wait_until (is_gated, &w);
  claim_drop (&w.disk->claims, &claim);
  pthread_join (writer, NULL);
  pthread_join (closer, NULL);
  assert_int_equal (w.result, -1);
  assert_int_equal (w.err, ESHUTDOWN);
  disk_free (w.disk);
  disk_pools_stop ();
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (session_is_recorded_before_the_first_reply),
    TEST (clean_end_leaves_nothing_to_recover),
    TEST (killed_on_the_same_boot),
    TEST (killed_again_and_again),
    TEST (another_boot_believes_s_alone),
    TEST (what_a_failed_change_has_changed_stays),
    TEST (too_large_is_refused),
    TEST (w_is_of_the_bytes),
    TEST (w_is_of_no_other_bytes),
    TEST (syncing_drops_lost_copies),
    TEST (killed_at_each_step),
    TEST (killed_at_each_step_of_opening),
    TEST (sums_of_a_change_that_was_not_made),
    TEST (w_is_of_one_session),
    TEST (w_does_not_speak_for_what_is_in_s),
    TEST (sidecar_of_another_store),
    TEST (w_in_use_is_an_owner),
    TEST (store_and_sidecar_are_locked),
    TEST (syncing_is_written_again),
    TEST (what_cannot_be_written_again),
    TEST (what_cannot_be_synced_again),
    TEST (no_room_to_write_again),
    TEST (failed_sync_at_open_is_not_forgotten),
    TEST (failed_end_is_left_to_be_recovered),
    TEST (clean_end_keeps_copies),
    TEST (gate_waits_for_what_is_inside),
    TEST (gate_does_not_wait_for_ever),
    TEST (complete_needs_neither_s_nor_w),
    TEST (read_only_writes_nothing),
    TEST (nothing_is_done_after_the_gate),
    TEST (abort_after_the_gate_is_refused),
    TEST (aborting_is_not_gone_on_with),
    TEST (gate_tells_a_parked_write),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
