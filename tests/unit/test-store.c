/* test-store.c - the local raw image: zeroing whatever was there, holes,
 * locks, making and naming.
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
#include <sys/wait.h>
#include <unistd.h>

#include "file.h"
#include "store.h"

#define MIB (UINT64_C (1) << 20)

static char dir[64], path[128];

/* What the file system lacks. */
static bool no_links, no_rename_flags;

int __real_linkat (int, const char *, int, const char *, int);
int __wrap_linkat (int, const char *, int, const char *, int);
int __real_renameat2 (int, const char *, int, const char *, unsigned);
int __wrap_renameat2 (int, const char *, int, const char *, unsigned);

int
__wrap_linkat (int from_dir, const char *from, int to_dir, const char *to,
               int flags)
{
  errno = EPERM;
  return no_links ? -1 : __real_linkat (from_dir, from, to_dir, to, flags);
}

int
__wrap_renameat2 (int from_dir, const char *from, int to_dir, const char *to,
                  unsigned flags)
{
  errno = EINVAL;
  return no_rename_flags && flags
             ? -1
             : __real_renameat2 (from_dir, from, to_dir, to, flags);
}

static int
setup (void **state)
{
  (void)state;
  strcpy (dir, "/tmp/test-store-XXXXXX");
  if (!mkdtemp (dir))
    return -1;
  snprintf (path, sizeof path, "%s/disk", dir);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  unlink (path);
  return rmdir (dir);
}

static struct store *
make (uint64_t size)
{
  char *error = NULL;
  struct store *st = store_create (path, size, &error);

  if (!st || store_link (st, &error) == -1)
    fail_msg ("%s", error);
  return st;
}

static void
expect (struct store *st, uint64_t offset, uint64_t count, int value)
{
  char *buf = malloc (count);

  assert_int_equal (store_pread (st, buf, count, offset), 0);
  for (uint64_t i = 0; i < count; i++)
    if (buf[i] != value)
      fail_msg ("byte %llu is %d, not %d", (unsigned long long)(offset + i),
                buf[i], value);
  free (buf);
}

static void
fill (struct store *st, uint64_t offset, uint64_t count)
{
  char *buf = malloc (count);

  memset (buf, 'x', count);
  assert_int_equal (store_pwrite (st, buf, count, offset), 0);
  free (buf);
}

static void
lacks (struct store *st, enum ability what, bool is_missing)
{
  st->able.state[what] = is_missing ? ABILITY_MISSING : ABILITY_UNKNOWN;
}

/* Whatever rungs of the ladder are missing, zeros are zeros and neighbours
 * stay. */
static void
zero_works_on_every_rung (void **state)
{
  struct store *st = make (8 * MIB);

  (void)state;
  for (int rungs = 0; rungs < 8; rungs++)
    for (int punch = 0; punch < 2; punch++) {
      fill (st, 0, 8 * MIB);
      lacks (st, ABILITY_PUNCH, rungs & 1);
      lacks (st, ABILITY_ZERO_RANGE, rungs & 2);
      lacks (st, ABILITY_ALLOCATE, rungs & 4);
      assert_int_equal (store_zero (st, 3 * MIB + 7, 513, punch), 0);
      expect (st, 0, 513, 'x');
      expect (st, 513, 3 * MIB + 7, 0);
      expect (st, 513 + 3 * MIB + 7, 4096, 'x');
    }
  store_free (st);
}

/* Where only whole blocks can be zeroed, as of a device, the edges are written.
 */
static void
zero_of_parts_of_blocks (void **state)
{
  static const struct {
    uint64_t offset, count;
  } parts[] = { { 0, 4096 }, { 1, 4096 },    { 4095, 2 },
                { 100, 50 }, { 4096, 4097 }, { 100, 8092 } };
  struct store *st = make (8 * MIB);

  (void)state;
  for (uint32_t block = 512; block <= 4096; block *= 8)
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
      const uint64_t at = MIB + parts[i].offset, end = at + parts[i].count;

      st->block_size = block;
      fill (st, 0, 8 * MIB);
      assert_int_equal (store_zero (st, end - at, at, i % 2), 0);
      expect (st, MIB - 4096, at - (MIB - 4096), 'x');
      expect (st, at, end - at, 0);
      expect (st, end, 16384, 'x');
    }
  store_free (st);
}

static void
punch_frees_and_zero_keeps (void **state)
{
  struct store *st = make (8 * MIB);
  uint64_t start, stop;
  struct stat sb;

  (void)state;
  fill (st, 0, 8 * MIB);
  assert_int_equal (store_sync (st), 0);
  assert_int_equal (store_zero (st, 4 * MIB, 0, true), 0);
  assert_int_equal (store_next_data (st, 0, 8 * MIB, &start, &stop), 0);
  assert_int_equal (start, 4 * MIB);
  assert_int_equal (stop, 8 * MIB);
  /* Allocated zeros keep their blocks. */
  assert_int_equal (store_zero (st, 4 * MIB, 4 * MIB, false), 0);
  assert_int_equal (fstat (st->fd, &sb), 0);
  assert_true ((uint64_t)sb.st_blocks * 512 >= 4 * MIB);
  store_free (st);
}

static uint64_t
blocks_of (struct store *st)
{
  struct stat sb;

  assert_int_equal (store_sync (st), 0);
  assert_int_equal (fstat (st->fd, &sb), 0);
  return (uint64_t)sb.st_blocks * 512;
}

/* What a crash has left goes, whatever can be told and made of holes, and what
 * is thin stays thin. */
static void
leftovers_go_and_thin_stays_thin (void **state)
{
  struct store *st = make (8 * MIB);
  bool tells = st->able.tells_holes;
  uint64_t start, stop;

  (void)state;
  for (int lack = 0; lack < 8; lack++)
    for (int full = 0; full < 2; full++) {
      lacks (st, ABILITY_PUNCH, false);
      assert_int_equal (store_zero (st, 8 * MIB, 0, true), 0);
      st->able.tells_holes = tells && !(lack & 1);
      lacks (st, ABILITY_PUNCH, lack & 2);
      lacks (st, ABILITY_ALLOCATE, lack & 4);
      lacks (st, ABILITY_ZERO_RANGE, lack & 4);
      fill (st, 4000, 200);
      fill (st, MIB - 1, 4098);
      fill (st, 5 * MIB, MIB);
      fill (st, 8 * MIB - 512, 512);
      assert_int_equal (store_clear (st, 8 * MIB - 512, 0, full), 0);
      expect (st, 0, 8 * MIB - 512, 0);
      expect (st, 8 * MIB - 512, 512, 'x');
      if (full)
        assert_true (blocks_of (st) >= 8 * MIB - 4096);
      else
        assert_true (blocks_of (st) <= 2 * MIB);
    }
  /* Not believed, all is data. */
  st->able.tells_holes = false;
  assert_int_equal (store_next_data (st, 4096, 8 * MIB, &start, &stop), 0);
  assert_int_equal (start, 4096);
  assert_int_equal (stop, 8 * MIB);
  store_free (st);
}

/* Only what never worked may be said to be missing by an errno that could mean
 * that this one call was wrong; and no sync that has worked. */
static void
lack_is_learnt (void **state)
{
  static const struct {
    enum ability what;
    enum ability_state before;
    int err;
    bool missing;
  } cases[] = {
    { ABILITY_PUNCH, ABILITY_UNKNOWN, EOPNOTSUPP, true },
    { ABILITY_PUNCH, ABILITY_UNKNOWN, EINVAL, true },
    { ABILITY_PUNCH, ABILITY_TRIED, EINVAL, true },
    { ABILITY_PUNCH, ABILITY_SEEN, EINVAL, false },
    { ABILITY_PUNCH, ABILITY_SEEN, EOPNOTSUPP, true },
    { ABILITY_PUNCH, ABILITY_UNKNOWN, EIO, false },
    { ABILITY_PUNCH, ABILITY_UNKNOWN, ENOSPC, false },
    { ABILITY_ZEROOUT, ABILITY_UNKNOWN, ENOTTY, true },
    { ABILITY_DSYNC, ABILITY_UNKNOWN, EINVAL, true },
    { ABILITY_DSYNC, ABILITY_SEEN, EOPNOTSUPP, false },
    { ABILITY_SYNC_RANGE, ABILITY_UNKNOWN, ESPIPE, true },
    { ABILITY_SYNC_RANGE, ABILITY_SEEN, EOPNOTSUPP, false },
  };

  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct abilities a = { 0 };

    a.state[cases[i].what] = (uint8_t)cases[i].before;
    assert_int_equal (ability_note (&a, cases[i].what, cases[i].err),
                      cases[i].missing);
    assert_int_equal (ability_is_missing (&a, cases[i].what), cases[i].missing);
    assert_false (ability_note (&a, cases[i].what, 0));
    assert_true (ability_is_there (&a, cases[i].what));
  }
}

static void
preallocate_changes_no_byte (void **state)
{
  struct store *st = make (8 * MIB);
  struct stat sb;

  (void)state;
  for (int slow = 0; slow < 2; slow++) {
    store_zero (st, 8 * MIB, 0, true);
    fill (st, MIB, MIB);
    lacks (st, ABILITY_ALLOCATE, slow);
    assert_int_equal (store_preallocate (st, 8 * MIB, 0), 0);
    store_sync (st);
    assert_int_equal (fstat (st->fd, &sb), 0);
    assert_true ((uint64_t)sb.st_blocks * 512 >= 8 * MIB);
    expect (st, 0, MIB, 0);
    expect (st, MIB, MIB, 'x');
    expect (st, 2 * MIB, 6 * MIB, 0);
  }
  store_free (st);
}

static void
next_data_walks_holes (void **state)
{
  struct store *st = make (8 * MIB);
  uint64_t start, stop;

  (void)state;
  assert_int_equal (store_next_data (st, 0, 8 * MIB, &start, &stop), 0);
  assert_int_equal (start, 8 * MIB);
  assert_true (store_is_zero (st));
  fill (st, 2 * MIB, MIB);
  assert_false (store_is_zero (st));
  assert_int_equal (store_next_data (st, 0, 8 * MIB, &start, &stop), 0);
  assert_int_equal (start, 2 * MIB);
  assert_int_equal (stop, 3 * MIB);
  assert_int_equal (store_next_data (st, 0, 2 * MIB, &start, &stop), 0);
  assert_int_equal (start, 2 * MIB);
  assert_int_equal (
      store_next_data (st, 2 * MIB + 5, 2 * MIB + 9, &start, &stop), 0);
  assert_int_equal (start, 2 * MIB + 5);
  assert_int_equal (stop, 2 * MIB + 9);
  assert_int_equal (store_next_data (st, 3 * MIB, 8 * MIB, &start, &stop), 0);
  assert_int_equal (start, 8 * MIB);
  store_free (st);
}

static void
second_opener_is_refused (void **state)
{
  struct store *st = make (MIB);
  char *error = NULL;

  (void)state;
  errno = 0;
  assert_null (store_open (path, false, &error));
  assert_int_equal (errno, EAGAIN);
  free (error);
  error = NULL;
  assert_null (store_open (path, true, &error));
  free (error);
  error = NULL;
  /* The lock goes with the description, not with the first close of it. */
  if (fork () == 0) {
    close (st->fd);
    _exit (0);
  }
  wait (NULL);
  assert_null (store_open (path, false, &error));
  free (error);
  error = NULL;
  /* An unlocked one may be opened although the descriptor is still there. */
  store_unlock (st);
  {
    struct store *other = store_open (path, false, &error);

    assert_non_null (other);
    store_free (other);
  }
  store_free (st);
}

static void
uuid_is_of_the_file (void **state)
{
  static const uint8_t uuid[16] = "0123456789abcde";
  struct store *st = make (MIB);
  uint8_t got[16];

  (void)state;
  assert_int_equal (store_get_uuid (st, got), 0);
  store_set_uuid (st, uuid);
  /* A file system without attributes is served all the same. */
  if (store_get_uuid (st, got))
    assert_memory_equal (got, uuid, 16);
  store_set_uuid (st, NULL);
  assert_int_equal (store_get_uuid (st, got), 0);
  store_free (st);
}

static void
nameless_until_linked (void **state)
{
  char *error = NULL;
  struct store *st = store_create (path, MIB, &error);

  (void)state;
  assert_non_null (st);
  assert_int_equal (access (path, F_OK), -1);
  /* Somebody else's file comes first: it stays. */
  assert_true (close (open (path, O_CREAT | O_WRONLY, 0600)) == 0);
  assert_int_equal (store_link (st, &error), -1);
  assert_non_null (strstr (error, path));
  free (error);
  store_free (st);
}

static void
put_file (const char *name, const char *text)
{
  int fd = open (name, O_CREAT | O_WRONLY | O_TRUNC, 0600);

  assert_true (fd >= 0);
  assert_int_equal (write (fd, text, strlen (text)), strlen (text));
  close (fd);
}

static void
expect_file (const char *text)
{
  char buf[16] = "";
  int fd = open (path, O_RDONLY);

  assert_true (fd >= 0);
  assert_true (read (fd, buf, sizeof buf - 1) >= 0);
  close (fd);
  assert_string_equal (buf, text);
}

/* Whichever way a name is given, nobody's file is replaced. */
static void
named_in_every_way (void **state)
{
  (void)state;
  for (int lack = 0; lack < 3; lack++)
    for (int there = 0; there < 3; there++) {
      char *temp = NULL;
      int fd;

      assert_true (asprintf (&temp, "%s.new", path) > 0);
      put_file (temp, "ours");
      fd = open (temp, O_RDWR);
      /* Empty or not. */
      if (there)
        put_file (path, there == 1 ? "theirs" : "");
      no_links = lack > 0;
      no_rename_flags = lack > 1;
      errno = 0;
      if (there) {
        assert_int_equal (file_link (fd, path, &temp), -1);
        assert_int_equal (errno, EEXIST);
        expect_file (there == 1 ? "theirs" : "");
        unlink (temp);
        free (temp);
      }
      else {
        assert_int_equal (file_link (fd, path, &temp), 0);
        assert_null (temp);
        expect_file ("ours");
      }
      no_links = no_rename_flags = false;
      close (fd);
      unlink (path);
    }
}

/* What was cut short is removed, and nothing else is. */
static void
only_an_empty_file_is_removed (void **state)
{
  int fd;

  (void)state;
  put_file (path, "x");
  assert_int_equal (file_remove_empty (path), -1);
  assert_int_equal (errno, EEXIST);
  put_file (path, "");
  fd = open (path, O_RDWR);
  assert_int_equal (file_lock (fd, false), 0);
  assert_int_equal (file_remove_empty (path), -1);
  close (fd);
  assert_int_equal (access (path, F_OK), 0);
  assert_int_equal (file_remove_empty (path), 0);
  assert_int_equal (access (path, F_OK), -1);
}

/* Calls that write less than they were asked to, as at a limit or a signal. */
static size_t most; /* 0: what they are asked to */
ssize_t __real_pwrite (int fd, const void *buf, size_t n, off_t offset);
ssize_t __wrap_pwrite (int fd, const void *buf, size_t n, off_t offset);

ssize_t
__wrap_pwrite (int fd, const void *buf, size_t n, off_t offset)
{
  return __real_pwrite (fd, buf, most && n > most ? most : n, offset);
}

static void
short_writes_go_on (void **state)
{
  struct store *st = make (MIB);
  char buf[10000];

  (void)state;
  for (size_t i = 0; i < sizeof buf; i++)
    buf[i] = (char)(i % 251);
  most = 1000;
  assert_int_equal (store_pwrite (st, buf, sizeof buf, 777), 0);
  most = 0;
  for (size_t i = 0; i < sizeof buf; i++) {
    char c;

    assert_int_equal (store_pread (st, &c, 1, 777 + i), 0);
    assert_int_equal (c, buf[i]);
  }
  expect (st, 0, 777, 0);
  expect (st, 777 + sizeof buf, 20000, 0);
  store_free (st);
}

/* Another file takes the name between the open and the lock: that one is
 * opened, and not the one that was.  Linked with --wrap=fcntl, which only takes
 * locks here. */
int __real_fcntl (int fd, int cmd, void *arg);
int __wrap_fcntl (int fd, int cmd, void *arg);
static unsigned exchanges;

int
__wrap_fcntl (int fd, int cmd, void *arg)
{
  if (cmd == F_OFD_SETLK && exchanges > 0) {
    char other[200];

    exchanges--;
    snprintf (other, sizeof other, "%s.other", path);
    put_file (other, "another");
    assert_int_equal (rename (other, path), 0);
  }
  return __real_fcntl (fd, cmd, arg);
}

static void
what_has_the_name_is_opened (void **state)
{
  char *error = NULL;
  struct store *st;

  (void)state;
  put_file (path, "the first");
  exchanges = 1;
  st = store_open (path, false, &error);
  assert_non_null (st);
  assert_true (file_is_at (st->fd, path));
  assert_int_equal (st->size, strlen ("another"));
  store_free (st);
  /* Again and again: nobody is kept for ever. */
  exchanges = 1000000;
  assert_null (store_open (path, false, &error));
  exchanges = 0;
  assert_non_null (strstr (error, "replaced"));
  free (error);
}

/* It may have been exchanged since somebody looked whose it is: what is open is
 * asked. */
static void
only_its_owners_is_opened (void **state)
{
  uid_t owner = geteuid (), other = owner + 1;
  char *error = NULL;
  struct store *st;

  (void)state;
  put_file (path, "data");
  errno = 0;
  assert_null (store_open_of (path, false, &other, NULL, &error));
  assert_int_equal (errno, EPERM);
  assert_non_null (strstr (error, path));
  free (error);
  error = NULL;
  st = store_open_of (path, false, &owner, NULL, &error);
  assert_non_null (st);
  store_free (st);
}

static void
odd_files_are_refused (void **state)
{
  char *error = NULL;

  (void)state;
  assert_null (store_open (dir, false, &error));
  assert_non_null (strstr (error, dir));
  free (error);
  error = NULL;
  assert_null (store_open ("/dev/null", false, &error));
  assert_non_null (strstr (error, "neither a regular file"));
  free (error);
  error = NULL;
  errno = 0;
  assert_null (store_open (path, false, &error));
  assert_int_equal (errno, ENOENT);
  free (error);
}

static void
a_cut_store_is_an_error_not_zeros (void **state)
{
  struct store *st = make (MIB);
  char buf[4096];

  (void)state;
  assert_int_equal (truncate (path, 4096), 0);
  errno = 0;
  assert_int_equal (store_pread (st, buf, 4096, 8192), -1);
  assert_int_equal (errno, EIO);
  store_free (st);
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (zero_works_on_every_rung),
    TEST (zero_of_parts_of_blocks),
    TEST (punch_frees_and_zero_keeps),
    TEST (leftovers_go_and_thin_stays_thin),
    TEST (lack_is_learnt),
    TEST (preallocate_changes_no_byte),
    TEST (next_data_walks_holes),
    TEST (second_opener_is_refused),
    TEST (uuid_is_of_the_file),
    TEST (nameless_until_linked),
    TEST (named_in_every_way),
    TEST (only_an_empty_file_is_removed),
    TEST (short_writes_go_on),
    TEST (what_has_the_name_is_opened),
    TEST (only_its_owners_is_opened),
    TEST (odd_files_are_refused),
    TEST (a_cut_store_is_an_error_not_zeros),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
