/* test-runtime.c - the runtime directory and the registry: where they are,
 * who may read them, and what others have put in the way.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "runtime.h"

#define NOBODY 65534

static char dir[64], entry[128];

static int
setup (void **state)
{
  (void)state;
  strcpy (dir, "/tmp/test-runtime-XXXXXX");
  if (!mkdtemp (dir))
    return -1;
  snprintf (entry, sizeof entry, "%s/ab-cd.volume", dir);
  return 0;
}

static int
remove_one (const char *path, const struct stat *sb, int flag, struct FTW *ftw)
{
  (void)sb;
  (void)flag;
  (void)ftw;
  return remove (path);
}

static int
teardown (void **state)
{
  (void)state;
  unsetenv ("BACKFILL_RUNTIME_DIR");
  return nftw (dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void
read_file (const char *path, char *buf, size_t size)
{
  CLEANUP_CLOSE int fd = open (path, O_RDONLY | O_CLOEXEC);
  ssize_t n;

  assert_true (fd >= 0);
  n = read (fd, buf, size - 1);
  assert_true (n >= 0);
  buf[n] = '\0';
}

static void
write_file (const char *path, const char *text)
{
  CLEANUP_CLOSE int fd = open (path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

  assert_int_equal (write (fd, text, strlen (text)), strlen (text));
}

static unsigned
count (void)
{
  DIR *d = opendir (dir);
  unsigned n = 0;

  while (readdir (d))
    n++;
  closedir (d);
  return n - 2;
}

static void
entries_name_the_owner (void **state)
{
  char text[1000], pid_line[40];
  CLEANUP_FREE char *control = NULL;
  struct stat sb;
  long pid;

  (void)state;
  assert_int_equal (
      runtime_register (dir, 0xab, 0xcd, "/srv/disk", "/run/c", "vda"), 0);
  read_file (entry, text, sizeof text);
  snprintf (pid_line, sizeof pid_line, "pid %d\n", (int)getpid ());
  assert_memory_equal (text, "store /srv/disk\ncontrol /run/c\n", 31);
  assert_non_null (strstr (text, pid_line));
  assert_non_null (strstr (text, "name vda\n"));
  /* All may read whom to ask; only the owner may change it. */
  assert_int_equal (stat (entry, &sb), 0);
  assert_int_equal (sb.st_mode & 07777 & ~022, 0644);
  assert_int_equal (runtime_lookup (dir, 0xab, 0xcd, &pid, &control), 0);
  assert_int_equal (pid, getpid ());
  assert_string_equal (control, "/run/c");

  /* Again: replaced as a whole, without a control socket now. */
  assert_int_equal (runtime_register (dir, 0xab, 0xcd, "/srv/disk", NULL, ""),
                    0);
  read_file (entry, text, sizeof text);
  assert_null (strstr (text, "control"));
  assert_int_equal (count (), 1);
  runtime_unregister (dir, 0xab, 0xcd);
  assert_int_equal (count (), 0);
  free (control);
  control = NULL;
  assert_int_equal (runtime_lookup (dir, 0xab, 0xcd, &pid, &control), -1);
}

/* Somebody made links under the names that we use: what they point to is not
 * touched. */
static void
links_are_not_followed (void **state)
{
  char victim[128], temp[160], text[100];
  struct stat sb;

  (void)state;
  snprintf (victim, sizeof victim, "%s/victim", dir);
  snprintf (temp, sizeof temp, "%s.%d", entry, (int)getpid ());
  write_file (victim, "mine");
  assert_int_equal (symlink (victim, entry), 0);
  assert_int_equal (symlink (victim, temp), 0);
  assert_int_equal (runtime_register (dir, 0xab, 0xcd, "/s", NULL, ""), 0);
  read_file (victim, text, sizeof text);
  assert_string_equal (text, "mine");
  assert_int_equal (lstat (entry, &sb), 0);
  assert_true (S_ISREG (sb.st_mode));
  runtime_unregister (dir, 0xab, 0xcd);
  read_file (victim, text, sizeof text);
  assert_string_equal (text, "mine");
}

/* In a child of another user. */
static void
as_nobody (bool (*test) (void))
{
  pid_t pid;
  int status;

  if (geteuid () != 0)
    skip ();
  pid = fork ();
  assert_true (pid >= 0);
  if (pid == 0) {
    if (setgid (NOBODY) == -1 || setuid (NOBODY) == -1)
      _exit (2);
    _exit (test () ? 0 : 1);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_true (WIFEXITED (status));
  assert_int_equal (WEXITSTATUS (status), 0);
}

static bool
cannot_enter (void)
{
  return runtime_register (dir, 0xab, 0xcd, "/evil", "/evil", "") == -1;
}

/* The folder is everybody's, and sticky: another's entry stays as it is, and
 * who cannot enter a volume is told. */
static void
anothers_entry_stays (void **state)
{
  char text[1000];

  (void)state;
  assert_int_equal (chmod (dir, 01777), 0);
  assert_int_equal (runtime_register (dir, 0xab, 0xcd, "/mine", NULL, ""), 0);
  as_nobody (cannot_enter);
  read_file (entry, text, sizeof text);
  assert_memory_equal (text, "store /mine\n", 12);
  assert_int_equal (count (), 1);
}

static void
no_folder_is_an_error (void **state)
{
  char missing[128];

  (void)state;
  snprintf (missing, sizeof missing, "%s/missing", dir);
  assert_int_equal (runtime_register (missing, 1, 2, "/s", NULL, ""), -1);
}

static void
the_environment_names_the_folder (void **state)
{
  char named[128];
  CLEANUP_FREE char *path = NULL;
  struct stat sb;

  (void)state;
  snprintf (named, sizeof named, "%s/named", dir);
  setenv ("BACKFILL_RUNTIME_DIR", named, 1);
  path = runtime_default_dir ();
  assert_string_equal (path, named);
  assert_int_equal (stat (named, &sb), 0);
  /* It holds what the guests write, and who may stop them. */
  assert_int_equal (sb.st_mode & 07777, 0700);
}

static void
cannot_be_made (void **state)
{
  char named[160];

  (void)state;
  snprintf (named, sizeof named, "%s/missing/named", dir);
  setenv ("BACKFILL_RUNTIME_DIR", named, 1);
  assert_null (runtime_default_dir ());
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (entries_name_the_owner),
    TEST (links_are_not_followed),
    TEST (anothers_entry_stays),
    TEST (no_folder_is_an_error),
    TEST (the_environment_names_the_folder),
    TEST (cannot_be_made),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
