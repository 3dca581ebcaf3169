/* test-sidecar.c - the sidecar file: what is written is read again, and every
 * kind of damage is named and refused.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "crc32c.h"
#include "sidecar.h"

static char dir[64], path[128];

static struct sidecar *
make (uint64_t size, uint32_t state)
{
  struct sidecar_header h = {
    .size = size,
    .granule = 4096,
    .state = state,
    .store_ino = 77,
    .store_btime = 88,
    .identity_mode = SIDECAR_IDENTITY_CONTENT,
    .identity_size = size,
    .name = (char *)"vda",
    .backing = (char *)"nbd+unix:///?socket=s",
  };
  char *error = NULL;
  struct sidecar *sc = sidecar_create (path, &h, &error);

  if (!sc)
    fail_msg ("%s", error);
  return sc;
}

static int
setup (void **state)
{
  (void)state;
  strcpy (dir, "/tmp/test-sidecar-XXXXXX");
  if (!mkdtemp (dir))
    return -1;
  snprintf (path, sizeof path, "%s/s", dir);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  unlink (path);
  return rmdir (dir);
}

/* Expect the open to fail with a message that has both words. */
static void
refused (const char *word1, const char *word2)
{
  char *error = NULL;
  struct sidecar *sc = sidecar_open (path, false, &error);

  assert_null (sc);
  assert_non_null (error);
  if (!strstr (error, word1) || !strstr (error, word2))
    fail_msg ("message without '%s' and '%s': %s", word1, word2, error);
  free (error);
}

static struct sidecar *
reopen (void)
{
  char *error = NULL;
  struct sidecar *sc = sidecar_open (path, false, &error);

  if (!sc)
    fail_msg ("%s", error);
  return sc;
}

static void
write_at (off_t at, const void *buf, size_t len)
{
  int fd = open (path, O_WRONLY);

  assert_int_equal (pwrite (fd, buf, len, at), len);
  close (fd);
}

static void
flip_at (off_t at)
{
  int fd = open (path, O_RDWR);
  char c;

  assert_int_equal (pread (fd, &c, 1, at), 1);
  c = (char)(c ^ 0x10);
  assert_int_equal (pwrite (fd, &c, 1, at), 1);
  close (fd);
}

static void
crc_agrees_with_the_table (void **state)
{
  uint8_t buf[1000];

  (void)state;
  for (size_t i = 0; i < sizeof buf; i++)
    buf[i] = (uint8_t)(i * 7 + 3);
  /* RFC 3720, B.4: 32 bytes of zeros. */
  assert_int_equal (crc32c ("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                            "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                            32),
                    0x8a9136aa);
  for (size_t len = 0; len < sizeof buf; len += 13)
    assert_int_equal (crc32c (buf, len), crc32c_table (buf, len));
}

/* Of units, of every length up to two, and at odd addresses.  What a W has of
 * another processor, or of an older build, must be what this one makes. */
static void
sums_of_pieces_agree (void **state)
{
  static uint8_t buf[2 * 4096 + 3];
  unsigned ways = 0;

  (void)state;
  for (size_t i = 0; i < sizeof buf; i++)
    buf[i] = (uint8_t)(i * i / 7 + i * 31 + i / 256);
  for (unsigned way = CRC32C_TABLE; way <= CRC32C_AVX512; way++)
    for (size_t len = 0; len <= sizeof buf; len++) {
      size_t at = (sizeof buf - len) % 3;
      uint32_t sum, table;

      if (!crc32c_pieces_by ((enum crc32c_way)way, buf + at, len, &sum))
        break;
      ways |= 1u << way;
      assert_true (crc32c_pieces_by (CRC32C_TABLE, buf + at, len, &table));
      assert_int_equal (sum, table);
      assert_int_equal (crc32c_pieces (buf + at, len), table);
    }
  assert_true (ways & 1u << CRC32C_TABLE);
  /* As W has them since its second version. */
  assert_int_equal (crc32c_pieces (buf, 4096), 0xa77b58ca);
  assert_int_equal (crc32c_pieces (buf, 1000), 0x24b50e9a);
}

static void
header_survives (void **state)
{
  struct sidecar *sc = make (UINT64_C (5) << 30, SIDECAR_CREATING);

  (void)state;
  sc->h.state = 0;
  sc->h.session = 41;
  sc->h.session_open = true;
  sc->h.session_pid = 1234;
  sc->h.timeout = 5000;
  sc->h.fetch_unit = 65536;
  sidecar_set (&sc->h.work, "/run/x.work");
  assert_int_equal (sidecar_write_header (sc), 0);
  sidecar_free (sc);

  sc = reopen ();
  assert_int_equal (sc->h.size, UINT64_C (5) << 30);
  assert_int_equal (sc->h.granule, 4096);
  assert_int_equal (sc->h.state, 0);
  assert_int_equal (sc->h.store_ino, 77);
  assert_int_equal (sc->h.store_btime, 88);
  assert_int_equal (sc->h.session, 41);
  assert_true (sc->h.session_open);
  assert_int_equal (sc->h.session_pid, 1234);
  assert_int_equal (sc->h.timeout, 5000);
  assert_int_equal (sc->h.fetch_unit, 65536);
  assert_string_equal (sc->h.name, "vda");
  assert_string_equal (sc->h.backing, "nbd+unix:///?socket=s");
  assert_string_equal (sc->h.work, "/run/x.work");
  assert_null (sc->h.control);
  sidecar_free (sc);
}

static void
has_real_blocks (void **state)
{
  struct sidecar *sc = make (UINT64_C (64) << 30, 0);
  struct stat sb;

  (void)state;
  assert_int_equal (stat (path, &sb), 0);
  /* A commit never needs space (G21). */
  assert_true ((uint64_t)sb.st_blocks * 512
               >= (uint64_t)sidecar_nr_sectors (sc) * SIDECAR_SECTOR);
  assert_int_equal (sb.st_mode & 0777, 0600);
  sidecar_free (sc);
}

static void
one_bad_header_copy_is_mended (void **state)
{
  struct sidecar *sc;
  bool valid[2];

  (void)state;
  for (unsigned copy = 0; copy < 2; copy++) {
    sc = make (1 << 20, 0);
    sidecar_free (sc);
    flip_at ((off_t)copy * SIDECAR_HEADER_SIZE + 70);
    sc = reopen ();
    assert_int_equal (sc->h.size, 1 << 20);
    sidecar_copies (sc, valid);
    assert_true (valid[0] && valid[1]);
    sidecar_free (sc);
    unlink (path);
  }
}

/* Damage to either copy later never brings back an older state. */
static void
both_copies_are_new (void **state)
{
  struct sidecar *sc;

  (void)state;
  for (unsigned copy = 0; copy < 2; copy++) {
    sc = make (1 << 20, 0);
    for (int i = 0; i < 3; i++) {
      sc->h.session++;
      assert_int_equal (sidecar_write_header (sc), 0);
    }
    sidecar_free (sc);
    flip_at ((off_t)copy * SIDECAR_HEADER_SIZE + 70);
    sc = reopen ();
    assert_int_equal (sc->h.session, 3);
    sidecar_free (sc);
    unlink (path);
  }
}

/* The power is cut between the two: both are whole, and one is older. */
static void
the_newer_copy_counts (void **state)
{
  static uint8_t old[2][SIDECAR_HEADER_SIZE];
  struct sidecar *sc = make (1 << 20, 0);

  (void)state;
  for (unsigned i = 0; i < 2; i++) {
    const off_t at = i * SIDECAR_HEADER_SIZE;

    assert_int_equal (pread (sc->fd, old[i], sizeof old[i], at), sizeof old[i]);
    sc->h.session++;
    assert_int_equal (sidecar_write_header (sc), 0);
    sidecar_free (sc);
    write_at (at, old[i], sizeof old[i]);
    sc = reopen ();
    assert_int_equal (sc->h.session, i + 1);
    sidecar_free (sc);
    /* It is brought up to the other. */
    sc = reopen ();
    assert_int_equal (pread (sc->fd, old[0], sizeof old[0], 0), sizeof old[0]);
    assert_int_equal (
        pread (sc->fd, old[1], sizeof old[1], SIDECAR_HEADER_SIZE),
        sizeof old[1]);
    assert_memory_equal (old[0], old[1], sizeof old[0]);
  }
  sidecar_free (sc);
}

/* Linked with --wrap: what is written of the header, and each sync. */
static char order[32];

int __real_fdatasync (int fd);
int __wrap_fdatasync (int fd);
ssize_t __real_pwrite (int fd, const void *buf, size_t n, off_t offset);
ssize_t __wrap_pwrite (int fd, const void *buf, size_t n, off_t offset);
ssize_t __real_pwritev2 (int fd, const struct iovec *iov, int n, off_t offset,
                         int flags);
ssize_t __wrap_pwritev2 (int fd, const struct iovec *iov, int n, off_t offset,
                         int flags);

static void
note (char what)
{
  size_t n = strlen (order);

  if (n + 1 < sizeof order)
    order[n] = what;
}

int
__wrap_fdatasync (int fd)
{
  note ('s');
  return __real_fdatasync (fd);
}

static void
note_write (off_t offset)
{
  note (offset == 0 ? 'A' : offset == SIDECAR_HEADER_SIZE ? 'B' : '?');
}

ssize_t
__wrap_pwrite (int fd, const void *buf, size_t n, off_t offset)
{
  note_write (offset);
  return __real_pwrite (fd, buf, n, offset);
}

ssize_t
__wrap_pwritev2 (int fd, const struct iovec *iov, int n, off_t offset,
                 int flags)
{
  note_write (offset);
  return __real_pwritev2 (fd, iov, n, offset, flags);
}

/* One copy is on the disk, whole, while the other is written. */
static void
one_copy_is_always_whole (void **state)
{
  struct sidecar *sc = make (1 << 20, 0);

  (void)state;
  memset (order, 0, sizeof order);
  assert_int_equal (sidecar_write_header (sc), 0);
  assert_string_equal (order, "AsBs");
  sidecar_free (sc);
}

static void
damage_is_refused (void **state)
{
  struct sidecar *sc = make (1 << 20, 0);

  (void)state;
  sidecar_free (sc);
  flip_at (70);
  flip_at (SIDECAR_HEADER_SIZE + 70);
  refused (path, "damaged");
  unlink (path);

  sc = make (1 << 30, 0);
  sidecar_free (sc);
  assert_int_equal (truncate (path, SIDECAR_MAP_OFFSET + 100), 0);
  refused (path, "cut short");
  assert_int_equal (truncate (path, 100), 0);
  refused (path, "cut short");
  assert_int_equal (truncate (path, 0), 0);
  refused (path, "is empty");
  unlink (path);

  sc = make (1 << 20, 0);
  sidecar_free (sc);
  write_at (0, "no header", 9);
  write_at (SIDECAR_HEADER_SIZE, "no header", 9);
  refused (path, "not a sidecar");
}

/* A header of another version, or with features that we do not have: sealed
 * as it should be, and still refused. */
static void
patch (off_t at, uint8_t value)
{
  uint8_t h[SIDECAR_HEADER_SIZE];
  int fd = open (path, O_RDWR);

  for (unsigned copy = 0; copy < 2; copy++) {
    off_t start = (off_t)copy * SIDECAR_HEADER_SIZE;
    uint32_t len, crc;

    assert_int_equal (pread (fd, h, sizeof h, start), sizeof h);
    h[at] = value;
    len = (uint32_t)h[12] | (uint32_t)h[13] << 8 | (uint32_t)h[14] << 16;
    crc = crc32c (h, len - 4);
    for (unsigned i = 0; i < 4; i++)
      h[len - 4 + i] = (uint8_t)(crc >> (8 * i));
    assert_int_equal (pwrite (fd, h, sizeof h, start), sizeof h);
  }
  close (fd);
}

static void
other_versions_are_refused (void **state)
{
  static const struct {
    off_t at;
    const char *word;
  } cases[] = {
    { 8, "version" },   /* version 9 */
    { 24, "features" }, /* ro-compat */
    { 32, "features" }, /* incompat */
    { 192, "kind 9" },  /* an area that must be known */
    { 72, "no sense" }, /* granule */
  };

  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    sidecar_free (make (1 << 20, 0));
    patch (cases[i].at, 9);
    refused (path, cases[i].word);
    unlink (path);
  }
  /* A compatible feature is not our business. */
  sidecar_free (make (1 << 20, 0));
  patch (16, 9);
  sidecar_free (reopen ());
}

/* Areas that lie over the header or each other: a commit would write its bits
 * over something else. */
static void
areas_must_be_apart (void **state)
{
  static const struct {
    off_t at; /* of one byte of an area's offset */
    uint8_t value;
  } cases[] = {
    { 202, 0 },    /* S over header copy A */
    { 225, 0x40 }, /* the job record over copy B */
    { 225, 0 },    /* over copy A */
    { 225, 0xff }, /* its second half in S */
  };

  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    sidecar_free (make (1 << 30, 0));
    patch (cases[i].at, cases[i].value);
    refused (path, "no sense");
    unlink (path);
  }
  /* A disk of half the size, S a sector shorter: so that S may move up.  It
   * must begin on a sector of the disk, as those are what may be torn. */
  sidecar_free (make (1 << 30, 0));
  patch (67, 0x20);
  patch (209, 0x84);
  sidecar_free (reopen ());
  patch (201, 2);
  sidecar_free (reopen ());
  patch (200, 1);
  patch (201, 0);
  refused (path, "no sense");
}

static void
sectors_are_sealed (void **state)
{
  struct sidecar *sc = make (UINT64_C (1) << 30, 0);
  uint64_t words[3 * SIDECAR_WORDS], back[3 * SIDECAR_WORDS];
  bool bad[3];
  uint8_t sector[SIDECAR_SECTOR];
  int fd;

  (void)state;
  for (unsigned i = 0; i < 3 * SIDECAR_WORDS; i++)
    words[i] = i * UINT64_C (0x9e3779b97f4a7c15);
  assert_int_equal (sidecar_write_map (sc, 1, 3, words), 0);
  assert_int_equal (sidecar_read_map (sc, 1, 3, back, bad), 0);
  assert_memory_equal (words, back, sizeof words);
  assert_false (bad[0] || bad[1] || bad[2]);

  /* Any bit of a sector. */
  for (unsigned at = 0; at < SIDECAR_SECTOR; at += 37) {
    flip_at (SIDECAR_MAP_OFFSET + 2 * SIDECAR_SECTOR + (off_t)at);
    assert_int_equal (sidecar_read_map (sc, 1, 3, back, bad), 0);
    assert_true (!bad[0] && bad[1] && !bad[2]);
    flip_at (SIDECAR_MAP_OFFSET + 2 * SIDECAR_SECTOR + (off_t)at);
  }
  /* A sector that went to another's place. */
  fd = open (path, O_RDWR);
  assert_int_equal (
      pread (fd, sector, sizeof sector, SIDECAR_MAP_OFFSET + SIDECAR_SECTOR),
      sizeof sector);
  assert_int_equal (pwrite (fd, sector, sizeof sector,
                            SIDECAR_MAP_OFFSET + 2 * SIDECAR_SECTOR),
                    sizeof sector);
  close (fd);
  assert_int_equal (sidecar_read_map (sc, 1, 3, back, bad), 0);
  assert_true (!bad[0] && bad[1] && !bad[2]);
  sidecar_free (sc);
}

static void
job_record_survives (void **state)
{
  struct sidecar *sc = make (1 << 20, 0);
  struct sidecar_job job = { .status = 2,
                             .offset = 11,
                             .length = 22,
                             .speed = 33,
                             .failed_offset = UINT64_MAX,
                             .error = "an error" };
  struct sidecar_job back;

  (void)state;
  assert_int_equal (sidecar_read_job (sc, &back), 0);
  for (int i = 0; i < 5; i++) {
    job.time_elapsed = (uint64_t)i;
    job.number = 100 + (uint64_t)i;
    assert_int_equal (sidecar_write_job (sc, &job), 0);
    assert_int_equal (sidecar_sync_job (sc), 0);
    sidecar_job_is_durable (&job);
    assert_int_equal (sidecar_read_job (sc, &back), 1);
    assert_int_equal (back.sequence, job.sequence);
    assert_int_equal (back.number, job.number);
    assert_int_equal (back.time_elapsed, i);
    assert_int_equal (back.offset, 11);
    assert_string_equal (back.error, "an error");
  }
  /* One copy torn: the record before. */
  flip_at (SIDECAR_JOB_OFFSET + (off_t)(job.sequence & 1) * SIDECAR_JOB_SIZE
           + 40);
  assert_int_equal (sidecar_read_job (sc, &back), 1);
  assert_int_equal (back.time_elapsed, 3);
  flip_at (SIDECAR_JOB_OFFSET + (off_t)(~job.sequence & 1) * SIDECAR_JOB_SIZE
           + 40);
  errno = 0;
  assert_int_equal (sidecar_read_job (sc, &back), -1);
  assert_int_equal (errno, EILSEQ);
  sidecar_free (sc);
}

/* A write that fails may have written a part.  However many do, one after the
 * other, the last durable record is read again. */
static void
failed_writes_spare_the_last_good_job_record (void **state)
{
  struct sidecar *sc = make (1 << 20, 0);
  struct sidecar_job job = { .status = 2, .failed_offset = UINT64_MAX };
  struct sidecar_job back;

  (void)state;
  for (uint64_t good = 1; good <= 4; good++) {
    job.time_elapsed = good;
    job.number = good;
    assert_int_equal (sidecar_write_job (sc, &job), 0);
    assert_int_equal (sidecar_sync_job (sc), 0);
    sidecar_job_is_durable (&job);
    for (uint64_t i = 0; i < good; i++) {
      job.time_elapsed = 1000;
      /* Torn: written, but not all of it came to the disk, or the sync
       * failed. */
      assert_int_equal (sidecar_write_job (sc, &job), 0);
      flip_at (SIDECAR_JOB_OFFSET
               + (off_t)(~job.sequence & 1) * SIDECAR_JOB_SIZE + 40);
      assert_int_equal (sidecar_read_job (sc, &back), 1);
      assert_int_equal (back.time_elapsed, good);
      assert_int_equal (back.number, good);
      assert_int_equal (back.sequence, job.sequence);
    }
  }
  sidecar_free (sc);
}

static void
second_opener_is_refused (void **state)
{
  struct sidecar *sc = make (1 << 20, 0);
  char *error = NULL;

  (void)state;
  errno = 0;
  assert_null (sidecar_open (path, false, &error));
  assert_int_equal (errno, EAGAIN);
  free (error);
  error = NULL;
  /* But anyone may look. */
  {
    struct sidecar *peek = sidecar_peek (path, &error);

    assert_non_null (peek);
    sidecar_free (peek);
  }
  sidecar_free (sc);
}

static void
never_over_another_file (void **state)
{
  struct sidecar_header h = { .size = 4096, .granule = 4096 };
  char *error = NULL;

  (void)state;
  sidecar_free (make (1 << 20, 0));
  errno = 0;
  assert_null (sidecar_create (path, &h, &error));
  assert_int_equal (errno, EEXIST);
  free (error);
}

static void
strip_leaves_the_header (void **state)
{
  struct sidecar *sc = make (UINT64_C (8) << 30, 0);
  struct stat sb;

  (void)state;
  sc->h.state = SIDECAR_COMPLETE | SIDECAR_DETACHED;
  assert_int_equal (sidecar_strip (sc), 0);
  sidecar_free (sc);
  assert_int_equal (stat (path, &sb), 0);
  assert_int_equal (sb.st_size, 2 * SIDECAR_HEADER_SIZE);
  sc = reopen ();
  assert_int_equal (sc->h.state, SIDECAR_COMPLETE | SIDECAR_DETACHED);
  sidecar_free (sc);
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (crc_agrees_with_the_table),
    cmocka_unit_test (sums_of_pieces_agree),
    TEST (header_survives),
    TEST (has_real_blocks),
    TEST (one_bad_header_copy_is_mended),
    TEST (both_copies_are_new),
    TEST (the_newer_copy_counts),
    TEST (one_copy_is_always_whole),
    TEST (damage_is_refused),
    TEST (other_versions_are_refused),
    TEST (areas_must_be_apart),
    TEST (sectors_are_sealed),
    TEST (job_record_survives),
    TEST (failed_writes_spare_the_last_good_job_record),
    TEST (second_opener_is_refused),
    TEST (never_over_another_file),
    TEST (strip_leaves_the_header),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
