/* test-fetch.c - fetches: each granule is asked for once (G32), the guest wins
 * over what was fetched (I3), and who does not need it does not wait (I4).
 *
 * The backing store is a real nbdkit that the test stops (SIGSTOP) and lets
 * go on: so that what meets is decided here, and not by chance.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include "box.h"
#include "extents.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fetch.h"
#include "parked.h"

#define G UINT64_C (4096)
#define MIB (UINT64_C (1) << 20)
#define SIZE (8 * MIB)
#define READERS 32u

static struct box box;
static struct disk *disk;

static unsigned early; /* atomic: a job's events before its record's sync */

static void
on_event (void *opaque, const struct disk_event *event)
{
  (void)opaque;
  if (event->type == DISK_EVENT_JOB_STATUS
      && calls_count (CALL_SYNC, FILE_SIDECAR) == 0)
    __atomic_add_fetch (&early, 1, __ATOMIC_RELAXED);
}

static int
setup (void **state)
{
  struct disk_config c;
  CLEANUP_FREE char *file = NULL;

  (void)state;
  box_make (&box);
  /* A mebibyte of data, one of holes, and so on. */
  box_golden (&box, SIZE, MIB);
  file = box_key ("file", box.golden);
  box_serve (&box, "file", file, NULL);
  c = box_config (&box);
  c.backing = box.uri;
  c.fetch_unit = 4096; /* no read-ahead */
  c.timeout = 600000;
  c.event = on_event;
  assert_int_equal (disk_pools_start (), 0);
  disk = box_start (&box, &c);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  if (box.server > 0)
    kill (box.server, SIGCONT);
  box_close (disk);
  disk_pools_stop ();
  box_drop (&box);
  return 0;
}

static void
stop_server (void)
{
  int status;

  kill (box.server, SIGSTOP);
  assert_int_equal (waitpid (box.server, &status, WUNTRACED), box.server);
  assert_true (WIFSTOPPED (status));
}

static void
expect_golden (const uint8_t *buf, uint64_t offset, uint64_t length)
{
  for (uint64_t i = 0; i < length; i++)
    if (buf[i] != box_golden_byte (offset + i))
      fail_msg ("byte %llu is %u", (unsigned long long)(offset + i), buf[i]);
}

static void
read_golden (uint64_t offset, uint64_t length)
{
  CLEANUP_FREE uint8_t *buf = malloc (length);

  assert_int_equal (disk_pread (disk, buf, length, offset), 0);
  expect_golden (buf, offset, length);
}

/* Operations in threads of their own. */

enum kind { READ, WRITE, ZERO, TRIM, FAST_ZERO, CACHE };

struct task {
  pthread_t thread;
  enum kind kind;
  uint64_t offset, length;
  int byte;
  uint8_t *buf;
  int result;
  bool done; /* atomic */
};

static void *
task (void *arg)
{
  struct task *t = arg;

  switch (t->kind) {
  case READ:
    t->result = disk_pread (disk, t->buf, t->length, t->offset);
    break;
  case WRITE:
    memset (t->buf, t->byte, t->length);
    t->result = disk_pwrite (disk, t->buf, t->length, t->offset, 0);
    break;
  case ZERO:
    t->result = disk_zero (disk, t->length, t->offset, 0);
    break;
  case CACHE:
    t->result = disk_cache (disk, t->length, t->offset);
    break;
  case FAST_ZERO:
    t->result = disk_zero (disk, t->length, t->offset,
                           DISK_FAST_ZERO | DISK_MAY_TRIM);
    break;
  case TRIM:
    t->result = disk_trim (disk, t->length, t->offset, 0);
    break;
  }
  __atomic_store_n (&t->done, true, __ATOMIC_RELEASE);
  return NULL;
}

static void
start (struct task *t, enum kind kind, uint64_t offset, uint64_t length,
       int byte)
{
  *t = (struct task){ .kind = kind,
                      .offset = offset,
                      .length = length,
                      .byte = byte,
                      .buf = calloc (1, length) };
  assert_non_null (t->buf);
  assert_int_equal (pthread_create (&t->thread, NULL, task, t), 0);
}

static bool
is_done (void *opaque)
{
  struct task *t = opaque;

  return __atomic_load_n (&t->done, __ATOMIC_ACQUIRE);
}

static void
end (struct task *t)
{
  pthread_join (t->thread, NULL);
  assert_int_equal (t->result, 0);
}

/* How many share the fetch at offset; 0: there is none. */
struct sharing {
  uint64_t offset;
  unsigned want;
};

static unsigned
shares (uint64_t offset)
{
  struct fetch *f;
  LOCK_SCOPE (&disk->fetch.lock);

  TAILQ_FOREACH (f, &disk->fetch.list, link)
    if (f->offset <= offset && offset < f->end)
      return f->refs - 1;
  return 0;
}

static bool
is_shared (void *opaque)
{
  const struct sharing *s = opaque;

  return shares (s->offset) == s->want;
}

static void
wait_shared (uint64_t offset, unsigned want)
{
  struct sharing s = { offset, want };

  wait_until (is_shared, &s);
}

static bool
is_parked (void *opaque)
{
  const unsigned *want = opaque;

  return atomic_load (&disk->nr_parked) == *want;
}

static void
wait_parked (unsigned want)
{
  wait_until (is_parked, &want);
}

static bool
waits_for_a_claim (void *opaque)
{
  LOCK_SCOPE (&disk->claims.lock);

  (void)opaque;
  return disk->claims.waiting > 0;
}

static bool
table_is_empty (void *opaque)
{
  (void)opaque;
  return fetch_table_is_empty (disk);
}

static uint64_t
fetched (void)
{
  struct disk_info info;

  disk_get_info (disk, &info);
  return info.bytes_fetched;
}

static void
readers_join (void **state)
{
  struct task t[READERS];

  (void)state;
  stop_server ();
  for (unsigned i = 0; i < READERS; i++)
    start (&t[i], READ, 8 * G + i, 3 * G, 0);
  wait_shared (9 * G, READERS);
  kill (box.server, SIGCONT);
  for (unsigned i = 0; i < READERS; i++) {
    end (&t[i]);
    expect_golden (t[i].buf, 8 * G + i, 3 * G);
    free (t[i].buf);
  }
  /* The last ones needed a granule more than the first. */
  assert_int_equal (fetched (), 4 * G);
}

/* A fetch stays in the table until its granules are local: who comes between
 * joins it, and the reply does not wait for the store. */
static void
replies_do_not_wait_for_the_commit (void **state)
{
  struct claim claim;

  (void)state;
  claim_take (&disk->claims, &claim, 0, 1);
  read_golden (0, 4 * G);
  assert_false (is_local (disk, 0, 4 * G));
  for (unsigned i = 0; i < 5; i++)
    read_golden (i * 100, 3 * G);
  assert_int_equal (fetched (), 4 * G);
  claim_drop (&disk->claims, &claim);
  wait_until (table_is_empty, NULL);
  assert_true (is_local (disk, 0, 4 * G));
  read_golden (0, 4 * G);
  assert_int_equal (fetched (), 4 * G);
}

/* The guest changes what is being fetched: whole granules at once, whatever
 * becomes of the backing store (I4), and what comes from there replaces
 * nothing of it (I3). */
static void
the_guest_wins (void **state)
{
  struct task reader;
  char *buf;

  (void)state;
  stop_server ();
  start (&reader, READ, 0, 16 * G, 0);
  wait_shared (0, 1);
  fill_bytes (disk, 2 * G, 2 * G, 7, 0);
  assert_int_equal (disk_zero (disk, G, 6 * G, 0), 0);
  assert_int_equal (disk_trim (disk, G, 8 * G, 0), 0);
  assert_int_equal (disk_flush (disk), 0);
  expect_bytes (disk, 2 * G, 2 * G, 7);
  expect_bytes (disk, 6 * G, G, 0);
  expect_bytes (disk, 8 * G, G, 0);
  kill (box.server, SIGCONT);
  end (&reader);
  /* It began before: old or new. */
  buf = (char *)reader.buf;
  assert_true ((uint8_t)buf[0] == box_golden_byte (0));
  free (reader.buf);
  wait_until (table_is_empty, NULL);
  expect_bytes (disk, 2 * G, 2 * G, 7);
  expect_bytes (disk, 6 * G, G, 0);
  expect_bytes (disk, 8 * G, G, 0);
  read_golden (0, 2 * G);
  read_golden (4 * G, 2 * G);
  read_golden (9 * G, 7 * G);
}

/* The same when the data has come, and waits for its commit. */
static void
the_guest_wins_over_what_has_come (void **state)
{
  struct claim claim;
  struct task writer;

  (void)state;
  claim_take (&disk->claims, &claim, 0, 1);
  start (&writer, WRITE, 2 * G, G, 9);
  read_golden (0, 2 * G);
  end (&writer);
  free (writer.buf);
  read_golden (3 * G, G);
  claim_drop (&disk->claims, &claim);
  wait_until (table_is_empty, NULL);
  expect_bytes (disk, 2 * G, G, 9);
  read_golden (0, 2 * G);
  read_golden (3 * G, G);
}

/* The same when a guest is at work there just as the copier comes: what is
 * absent is asked when the claim is had, and not before. */
static void
the_guest_wins_while_the_copier_waits (void **state)
{
  CLEANUP_FREE char *buf = malloc (G);
  struct claim claim;

  (void)state;
  memset (buf, 9, G);
  for (uint64_t g = 0; g < 3; g++) {
    const uint64_t at = 10 * g * G;

    claim_take (&disk->claims, &claim, 10 * g + g, 10 * g + g + 1);
    read_golden (at, 4 * G);
    wait_until (waits_for_a_claim, NULL);
    assert_int_equal (store_pwrite (disk->store, buf, G, at + g * G), 0);
    assert_int_equal (box_mark (disk, 10 * g + g, 10 * g + g + 1, MAP_GUEST),
                      0);
    claim_drop (&disk->claims, &claim);
    wait_until (table_is_empty, NULL);
    expect_bytes (disk, at + g * G, G, 9);
    read_golden (at + 3 * G, G);
  }
}

/* Every change waits for those before it, of whatever kind. */
static void
changes_wait_for_each_other (void **state)
{
  static const enum kind kinds[] = { WRITE, ZERO, TRIM };

  (void)state;
  for (unsigned i = 0; i < 3; i++) {
    const uint64_t g = 100 + 10 * i;
    struct claim claim;
    struct task t;

    claim_take (&disk->claims, &claim, g, g + 1);
    start (&t, kinds[i], (g - 1) * G, 3 * G, 5);
    while (!waits_for_a_claim (NULL) && !is_done (&t))
      nap_ms (1);
    if (is_done (&t))
      fail_msg ("a change of kind %d did not wait", (int)kinds[i]);
    assert_false (is_local (disk, g * G, G));
    claim_drop (&disk->claims, &claim);
    end (&t);
    free (t.buf);
  }
}

/* Parts of a granule wait for the rest of it, in order; the granule's other
 * bytes are the backing store's. */
static void
parts_are_applied_in_order (void **state)
{
  struct task t[3];
  const uint64_t g = 20 * G;

  (void)state;
  stop_server ();
  start (&t[0], WRITE, g + 100, 100, 1);
  wait_parked (1);
  start (&t[1], WRITE, g + 150, 100, 2);
  wait_parked (2);
  start (&t[2], ZERO, g + 240, 60, 0);
  wait_parked (3);
  /* Nobody is told that it is done before it is. */
  nap_ms (20);
  for (unsigned i = 0; i < 3; i++)
    assert_false (is_done (&t[i]));
  kill (box.server, SIGCONT);
  for (unsigned i = 0; i < 3; i++) {
    end (&t[i]);
    free (t[i].buf);
  }
  read_golden (g, 100);
  expect_bytes (disk, g + 100, 50, 1);
  expect_bytes (disk, g + 150, 90, 2);
  expect_bytes (disk, g + 240, 60, 0);
  read_golden (g + 300, G - 300);
  assert_int_equal (fetched (), G);
}

/* A change of the whole granule overtakes them: they count as done just
 * before it, and end with it. */
static void
whole_changes_overtake_parts (void **state)
{
  const enum kind kinds[] = { WRITE, ZERO, TRIM };

  (void)state;
  stop_server ();
  for (unsigned i = 0; i < 3; i++) {
    const uint64_t g = (30 + i) * G;
    struct task part, whole;

    start (&part, WRITE, g + 10, 500, 1);
    wait_parked (1);
    start (&whole, kinds[i], g, G, 5);
    /* While the backing store does not answer. */
    end (&whole);
    end (&part);
    free (whole.buf);
    free (part.buf);
    expect_bytes (disk, g, G, kinds[i] == WRITE ? 5 : 0);
  }
  kill (box.server, SIGCONT);
  wait_until (table_is_empty, NULL);
  expect_bytes (disk, 30 * G, G, 5);
  expect_bytes (disk, 31 * G, 2 * G, 0);
}

/* Who joins a fetch waits as long as he may himself: that the one who asked
 * first is out of time is no error of his. */
static void
joined_waiters_have_their_own_time (void **state)
{
  const enum kind kinds[] = { READ, WRITE, ZERO, CACHE };
  struct task first, joined[4];

  (void)state;
  stop_server ();
  disk->timeout = 500;
  start (&first, READ, 60 * G, G, 0);
  wait_shared (60 * G, 1);
  disk->timeout = 600000;
  for (unsigned i = 0; i < 4; i++) {
    start (&joined[i], kinds[i], 60 * G + 1000 * i, 1000, 4);
    wait_shared (60 * G, 2 + i);
  }
  pthread_join (first.thread, NULL);
  assert_int_equal (first.result, -1);
  free (first.buf);
  nap_ms (50);
  for (unsigned i = 0; i < 4; i++)
    assert_false (is_done (&joined[i]));
  kill (box.server, SIGCONT);
  for (unsigned i = 0; i < 4; i++)
    end (&joined[i]);
  expect_golden (joined[0].buf, 60 * G, 1000);
  for (unsigned i = 0; i < 4; i++)
    free (joined[i].buf);
  read_golden (60 * G, 1000);
  expect_bytes (disk, 60 * G + 1000, 1000, 4);
  expect_bytes (disk, 60 * G + 2000, 1000, 0);
  read_golden (60 * G + 3000, G - 3000);
}

/* A part that fails half way on a granule that has become local: what came so
 * far is seen, and the next flush makes it durable. */
static void
failed_parts_stay (void **state)
{
  const uint64_t g = 50;
  CLEANUP_FREE uint8_t *buf = malloc (G);
  struct task part;
  struct claim claim;

  (void)state;
  stop_server ();
  start (&part, WRITE, g * G + 10, 500, 3);
  wait_parked (1);
  claim_take (&disk->claims, &claim, g, g + 1);
  for (uint64_t i = 0; i < G; i++)
    buf[i] = box_golden_byte (g * G + i);
  assert_int_equal (store_pwrite (disk->store, buf, G, g * G), 0);
  assert_int_equal (box_mark (disk, g, g + 1, MAP_COPIED), 0);
  calls_record (&box);
  calls_cut (FILE_STORE, 200, ENOSPC);
  parked_apply (disk, g, g + 1);
  claim_drop (&disk->claims, &claim);
  kill (box.server, SIGCONT);
  pthread_join (part.thread, NULL);
  assert_int_equal (part.result, -1);
  free (part.buf);
  calls_fail (CALL_WRITE, FILE_STORE, 0);
  expect_bytes (disk, g * G + 10, 200, 3);
  read_golden (g * G + 210, G - 210);
  assert_int_equal (disk_flush (disk), 0);
  assert_true (box_in_s (&box, g));
  calls_stop ();
}

/* A part's owner and a copier meet on the same granule: whoever is first does
 * all of it, and nothing is lost or done twice. */
static void
parts_meet_the_copier (void **state)
{
  struct task part;
  struct claim claim;

  (void)state;
  stop_server ();
  start (&part, WRITE, 40 * G + 10, 500, 3);
  wait_parked (1);
  wait_shared (40 * G, 1);
  claim_take (&disk->claims, &claim, 40, 41);
  kill (box.server, SIGCONT);
  nap_ms (20);
  claim_drop (&disk->claims, &claim);
  end (&part);
  free (part.buf);
  read_golden (40 * G, 10);
  expect_bytes (disk, 40 * G + 10, 500, 3);
  read_golden (40 * G + 510, G - 510);
  wait_until (table_is_empty, NULL);
  expect_bytes (disk, 40 * G + 10, 500, 3);
}

/* Data is not called zeros by its first bytes, nor by what repeats. */
static void
nearly_zeros_are_data (void **state)
{
  uint8_t buf[8 * 4096] = { 0 };
  int fd = open (box.golden, O_RDWR | O_CLOEXEC);

  (void)state;
  memset (buf, 0, sizeof buf);
  for (unsigned i = 0; i < G; i++) {
    buf[i] = i % 8 == 7;
    buf[G + i] = i % 8 == 4;
    buf[4 * G + i] = i % 16 == 8;
  }
  buf[3 * G - 1] = 1; /* the last byte of granule 2 */
  buf[5 * G + 8] = 1;
  buf[6 * G] = 1;
  /* Granules 3 and 7 are zeros. */
  assert_int_equal (pwrite (fd, buf, sizeof buf, 16 * G), sizeof buf);
  close (fd);
  for (unsigned round = 0; round < 2; round++) {
    uint8_t is[8 * 4096];

    assert_int_equal (disk_pread (disk, is, sizeof is, 16 * G), 0);
    assert_memory_equal (is, buf, sizeof is);
    /* And what is kept. */
    wait_until (table_is_empty, NULL);
  }
  assert_true (is_local (disk, 16 * G, sizeof buf));
}

/* What the backing store says is zero is never read from it. */
static void
known_zeros_are_not_fetched (void **state)
{
  struct job_options o = { .length = 0 };
  struct job_info info;
  char *error = NULL;

  (void)state;
  read_golden (0, 100);
  assert_int_equal (extents_wait (disk->ext, 0, now_ms () + 60000), 0);
  expect_bytes (disk, MIB + 100, 1000, 0);
  assert_int_equal (fetched (), G);
  if (job_start (disk, &o, NULL, &error) == -1)
    fail_msg ("%s", error);
  do {
    nap_ms (5);
    job_get_info (disk, &info);
  } while (info.status != JOB_CONCLUDED);
  assert_int_equal (info.result, JOB_RESULT_COMPLETED);
  assert_int_equal (fetched (), SIZE / 2);
  assert_int_equal (info.bytes_read, SIZE / 2 - G);
  for (uint64_t at = 0; at < SIZE; at += 2 * MIB) {
    read_golden (at, MIB);
    expect_bytes (disk, at + MIB, MIB, 0);
  }
}

/* A job that is there before the source has said what is zero waits for that.
 */
static void
jobs_do_not_read_zeros (void **state)
{
  struct job_options o = { .length = 0 };
  struct job_info info;
  char *error = NULL;

  (void)state;
  assert_int_equal (job_start (disk, &o, NULL, &error), 0);
  do {
    nap_ms (5);
    job_get_info (disk, &info);
  } while (info.status != JOB_CONCLUDED);
  assert_int_equal (info.result, JOB_RESULT_COMPLETED);
  assert_int_equal (fetched (), SIZE / 2);
}

/* A job that is aborted writes nothing more, also of what was in flight. */
static void
aborted_jobs_write_nothing_more (void **state)
{
  struct job_options o = { .length = MIB };
  struct job_info info;
  char *error = NULL;

  (void)state;
  read_golden (4 * MIB, 1);
  assert_int_equal (extents_wait (disk->ext, 0, now_ms () + 60000), 0);
  stop_server ();
  assert_int_equal (job_start (disk, &o, NULL, &error), 0);
  while (fetch_table_is_empty (disk))
    nap_ms (2);
  assert_int_equal (job_abort (disk, 0, &error), 0);
  kill (box.server, SIGCONT);
  wait_until (table_is_empty, NULL);
  job_get_info (disk, &info);
  assert_int_equal (info.result, JOB_RESULT_CANCELLED);
  assert_int_equal (info.processed, 0);
  assert_int_equal (info.remaining, MIB);
  read_golden (0, MIB);
}

/* Nothing is asked for, and nobody is told of a job, before its record is
 * durable: whoever is killed then has a job or none (G37). */
static void
jobs_are_recorded_first (void **state)
{
  struct job_options o = { .length = MIB };
  struct job_info info;
  char *error = NULL;

  (void)state;
  early = 0;
  calls_record (&box);
  assert_int_equal (job_start (disk, &o, NULL, &error), 0);
  do {
    nap_ms (2);
    job_get_info (disk, &info);
  } while (info.status != JOB_CONCLUDED);
  calls_stop ();
  assert_int_equal (early, 0);
}

/* A trim leaves the rest of the granules at its edges alone, and what is absent
 * there is absent. */
static void
trims_leave_the_rest (void **state)
{
  (void)state;
  assert_int_equal (disk_trim (disk, 3 * G, 10 * G + 1000, 0), 0);
  assert_false (is_local (disk, 10 * G, G));
  assert_false (is_local (disk, 13 * G, G));
  read_golden (10 * G, 1000);
  read_golden (13 * G + 1000, G - 1000);
  assert_int_equal (disk_trim (disk, 100, 20 * G + 1000, 0), 0);
  assert_false (is_local (disk, 20 * G, G));
  read_golden (20 * G, 1000);
  read_golden (20 * G + 1100, G - 1100);
}

/* Who is told that a job has completed may pull the plug: what it has copied,
 * and the zeros that it has made, are in S by then (G37). */
static void
done_is_durable (void **state)
{
  struct job_options o = { .length = 2 * MIB };
  struct job_info info;
  char *error = NULL;

  (void)state;
  assert_int_equal (job_start (disk, &o, NULL, &error), 0);
  do {
    nap_ms (1);
    job_get_info (disk, &info);
  } while (info.status != JOB_CONCLUDED);
  for (uint64_t g = 0; g < 2 * MIB / G; g++)
    assert_true (box_in_s (&box, g));
  assert_false (box_in_s (&box, 2 * MIB / G));
  assert_int_equal (info.result, JOB_RESULT_COMPLETED);
}

/* What it has copied may be lost: it has not completed (G24). */
static void
not_durable_is_not_done (void **state)
{
  struct disk_config c;
  struct job_options o = { .length = MIB };
  struct job_info info;
  char *error = NULL;

  (void)state;
  calls_record (&box);
  calls_fail (CALL_SYNC, FILE_STORE, EIO);
  assert_int_equal (job_start (disk, &o, NULL, &error), 0);
  do {
    nap_ms (1);
    job_get_info (disk, &info);
  } while (info.status != JOB_CONCLUDED);
  assert_int_equal (info.result, JOB_RESULT_FAILED);
  assert_int_equal (info.errnum, EIO);
  assert_non_null (strstr (info.error, "cannot be made durable"));
  calls_stop ();
  /* The next owner of the volume finds it out for itself. */
  assert_int_equal (disk_gate (disk), -1);
  disk_free (disk);
  c = box_config (&box);
  disk = box_start (&box, &c);
}

/* An abort that has been answered has ended the job: what the store was being
 * given is waited for. */
static void
aborts_wait_for_the_store (void **state)
{
  struct job_options o = { .length = MIB };
  struct job_info info;
  char *error = NULL;

  (void)state;
  calls_record (&box);
  calls_hold (CALL_WRITE, FILE_STORE);
  assert_int_equal (job_start (disk, &o, NULL, &error), 0);
  calls_wait_held ();
  calls_stop ();
  assert_int_equal (job_abort (disk, 0, &error), 0);
  job_get_info (disk, &info);
  assert_int_equal (info.status, JOB_CONCLUDED);
  assert_int_equal (info.result, JOB_RESULT_CANCELLED);
}

/* Nor is anything written then that had come, and waited for its turn. */
static void
aborts_drop_what_has_come (void **state)
{
  struct job_options o = { .length = MIB };
  struct claim claim;
  char *error = NULL;

  (void)state;
  claim_take (&disk->claims, &claim, 0, MIB / G);
  /* It stands for a guest's thread: the verbs of a job come from others, which
   * hold no claim. */
  lock_order_leave (&claim);
  assert_int_equal (job_start (disk, &o, NULL, &error), 0);
  wait_until (waits_for_a_claim, NULL);
  assert_int_equal (job_abort (disk, 0, &error), 0);
  lock_order_push (&claim, LOCK_CLAIM);
  claim_drop (&disk->claims, &claim);
  wait_until (table_is_empty, NULL);
  assert_int_equal (map_live_bytes (disk->map, 0, MIB / G), 0);
}

/* Answers that come when the job that asked has long been followed by another
 * are not that one's. */
static void
late_answers_are_another_jobs (void **state)
{
  struct job_options o = { .length = MIB };
  struct job_info info;
  char *error = NULL;

  (void)state;
  read_golden (4 * MIB, 1);
  assert_int_equal (extents_wait (disk->ext, 0, now_ms () + 60000), 0);
  stop_server ();
  assert_int_equal (job_start (disk, &o, NULL, &error), 0);
  while (fetch_table_is_empty (disk))
    nap_ms (2);
  assert_int_equal (job_abort (disk, 0, &error), 0);
  assert_int_equal (job_start (disk, &o, NULL, &error), 0);
  nap_ms (20);
  kill (box.server, SIGCONT);
  for (unsigned i = 0;; i++) {
    job_get_info (disk, &info);
    if (info.status == JOB_CONCLUDED)
      break;
    assert_true (i < 6000);
    nap_ms (5);
  }
  assert_int_equal (info.result, JOB_RESULT_COMPLETED);
  assert_true (info.bytes_read <= MIB);
  read_golden (0, MIB);
}

/* However many connections there are, and however slow they are, a job has no
 * more under way than it may; over 20 MiB of it, if they are slow. */
static void
is_bounded (uint64_t in_flight, uint64_t least)
{
  struct disk_config c = box_config (&box);
  struct job_options o = { .length = 0 };
  uint64_t most = 0, end;
  char *error = NULL;

  disk_set_in_flight (in_flight);
  box_serve (&box, "--filter=delay", "pattern", "1G", "rdelay=300ms", NULL);
  c.backing = box.uri;
  c.connections = 16;
  c.identity_size = true;
  c.timeout = 600000;
  assert_int_equal (disk_pools_start (), 0);
  disk = box_start (&box, &c);
  assert_int_equal (job_start (disk, &o, NULL, &error), 0);
  for (end = now_ms () + 3000; now_ms () < end; nap_ms (5)) {
    uint64_t n = 0;
    struct fetch *f;
    LOCK_SCOPE (&disk->fetch.lock);

    TAILQ_FOREACH (f, &disk->fetch.list, link)
      if (f->state == FETCH_ASKED)
        n += f->end - f->offset;
    most = max_u64 (most, n);
  }
  assert_in_range (most, least, in_flight);
  assert_int_equal (job_abort (disk, 0, &error), 0);
  box_close (disk);
  disk = NULL;
  disk_pools_stop ();
}

static void
jobs_are_bounded (void **state)
{
  (void)state;
  is_bounded (64 * MIB, 20 * MIB);
}

static void
jobs_are_bounded_by_a_key (void **state)
{
  (void)state;
  is_bounded (8 * MIB, MIB);
  disk_set_in_flight (64 * MIB);
}

/* Reads of the sidecar made with the fetch table's lock held. */
static _Atomic uint64_t reads, locked_reads;
static bool watched; /* atomic */
/* Reads of the sidecar that wait while `held`, so far. */
static bool held; /* atomic */
static _Atomic uint64_t stuck;

ssize_t __real_pread (int fd, void *buf, size_t n, off_t offset);
ssize_t __wrap_pread (int fd, void *buf, size_t n, off_t offset);

ssize_t
__wrap_pread (int fd, void *buf, size_t n, off_t offset)
{
  if (__atomic_load_n (&watched, __ATOMIC_ACQUIRE) && fd == disk->sc->fd) {
    unsigned tries = 0;

    /* Another thread lets go of it soon; this one would not. */
    while (!lock_try (&disk->fetch.lock) && tries < 200) {
      nap_ms (5);
      tries++;
    }
    if (tries < 200)
      lock_drop (&disk->fetch.lock);
    else
      count (&locked_reads, 1);
    count (&reads, 1);
  }
  if (__atomic_load_n (&held, __ATOMIC_ACQUIRE) && fd == disk->sc->fd) {
    count (&stuck, 1);
    while (__atomic_load_n (&held, __ATOMIC_ACQUIRE))
      nap_ms (2);
  }
  return __real_pread (fd, buf, n, offset);
}

/* What arrives takes that lock, on a thread of all disks: a sidecar that does
 * not answer must not keep it. */
static void
no_lock_is_held_for_the_sidecar (void **state)
{
  const uint64_t size = 400 * MIB, data = 119 * MIB;
  struct disk_config c = box_config (&box);
  CLEANUP_FREE char *file = box_key ("file", box.golden);
  CLEANUP_FREE uint8_t *buf = malloc (16 * MIB);
  int fd = open (box.golden, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

  (void)state;
  assert_true (fd >= 0 && buf);
  memset (buf, 5, 16 * MIB);
  assert_int_equal (ftruncate (fd, (off_t)size), 0);
  assert_int_equal (pwrite (fd, buf, 16 * MIB, (off_t)data), 16 * MIB);
  close (fd);
  box_serve (&box, "file", file, NULL);
  c.backing = box.uri;
  c.timeout = 600000;
  assert_int_equal (disk_pools_start (), 0);
  box_close (box_start (&box, &c));

  /* 124 MiB of the disk are in memory after a look at any of it. */
  for (unsigned i = 0; i < 2; i++) {
    disk = box_start (&box, &c);
    assert_int_equal (extents_wait (disk->ext, 0, now_ms () + 60000), 0);
    __atomic_store_n (&watched, true, __ATOMIC_RELEASE);
    if (i == 0)
      expect_bytes (disk, 0, G, 0);
    else
      for (uint64_t at = data; at < 123 * MIB; at += MIB / 4)
        expect_bytes (disk, at, MIB / 4, 5);
    wait_until (table_is_empty, NULL);
    __atomic_store_n (&watched, false, __ATOMIC_RELEASE);
    box_close (disk);
    assert_int_equal (locked_reads, 0);
  }
  assert_true (reads >= 4);
  disk = NULL;
  disk_pools_stop ();
}

static bool
is_stuck (void *opaque)
{
  (void)opaque;
  return counted (&stuck) > 0;
}

static bool
is_done_or_waits (void *opaque)
{
  LOCK_SCOPE (&disk->claims.lock);

  return disk->claims.waiting > 0 || is_done (opaque);
}

/* A change has its place among the others from the moment it comes in: one
 * that waits for the sidecar, whose client may be gone by now, is not done
 * after a later one (G9). */
static void
slow_sidecar_keeps_the_order (void **state)
{
  const enum kind kinds[] = { WRITE, ZERO, TRIM, FAST_ZERO };
  const uint64_t last = SIDECAR_BITS - 1;
  struct disk_config c = box_config (&box);

  (void)state;
  c.has_size = true;
  c.size = 40 * MIB;
  assert_int_equal (disk_pools_start (), 0);
  /* Two sectors of the map, none of one kind throughout: only what is asked
   * for is read. */
  disk = box_start (&box, &c);
  fill_bytes (disk, 10 * G, G, 1, 0);
  fill_bytes (disk, last * G, 2 * G, 1, 0);
  box_close (disk);
  for (unsigned i = 0; i < 4; i++) {
    struct task old, new;

    disk = box_start (&box, &c);
    fill_bytes (disk, 10 * G, G, 1, 0);
    atomic_store_explicit (&stuck, 0, memory_order_release);
    __atomic_store_n (&held, true, __ATOMIC_RELEASE);
    /* A trim leaves a granule alone that it does not have all of. */
    start (&old, kinds[i], last * G, kinds[i] == TRIM ? 2 * G : G + 100, 2);
    wait_until (is_stuck, NULL);
    start (&new, WRITE, last * G, G, 3);
    wait_until (is_done_or_waits, &new);
    __atomic_store_n (&held, false, __ATOMIC_RELEASE);
    end (&old);
    end (&new);
    free (old.buf);
    free (new.buf);
    expect_bytes (disk, last * G, G, 3);
    expect_bytes (disk, (last + 1) * G, 100, kinds[i] == WRITE ? 2 : 0);
    box_close (disk);
  }
  disk = NULL;
  disk_pools_stop ();
}

static int
make_box (void **state)
{
  (void)state;
  box_make (&box);
  return 0;
}

static int
drop_box (void **state)
{
  (void)state;
  box_drop (&box);
  return 0;
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (readers_join),
    TEST (replies_do_not_wait_for_the_commit),
    TEST (the_guest_wins),
    TEST (the_guest_wins_over_what_has_come),
    TEST (the_guest_wins_while_the_copier_waits),
    TEST (changes_wait_for_each_other),
    TEST (parts_are_applied_in_order),
    TEST (whole_changes_overtake_parts),
    TEST (joined_waiters_have_their_own_time),
    TEST (failed_parts_stay),
    TEST (parts_meet_the_copier),
    TEST (nearly_zeros_are_data),
    TEST (known_zeros_are_not_fetched),
    TEST (jobs_do_not_read_zeros),
    TEST (aborted_jobs_write_nothing_more),
    TEST (jobs_are_recorded_first),
    TEST (done_is_durable),
    TEST (trims_leave_the_rest),
    TEST (not_durable_is_not_done),
    TEST (aborts_wait_for_the_store),
    TEST (aborts_drop_what_has_come),
    TEST (late_answers_are_another_jobs),
    cmocka_unit_test_setup_teardown (jobs_are_bounded, make_box, drop_box),
    cmocka_unit_test_setup_teardown (jobs_are_bounded_by_a_key, make_box,
                                     drop_box),
    cmocka_unit_test_setup_teardown (no_lock_is_held_for_the_sidecar, make_box,
                                     drop_box),
    cmocka_unit_test_setup_teardown (slow_sidecar_keeps_the_order, make_box,
                                     drop_box),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
