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
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "entry.h"
#include "message.h"
#include "runtime.h"

#define NOBODY 65534

static char dir[64], *own, entry[256];
static const struct file_id file = { 0xab, 0xcd };

static int
setup (void **state)
{
  (void)state;
  strcpy (dir, "/tmp/test-runtime-XXXXXX");
  if (!mkdtemp (dir))
    return -1;
  CLEANUP_FREE char *error = NULL;

  own = runtime_own_dir (dir, &error);
  if (!own)
    return -1;
  snprintf (entry, sizeof entry, "%s/ab-cd.volume", own);
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
  runtime_leave ();
  free (own);
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
count_in (const char *path)
{
  DIR *d = opendir (path);
  unsigned n = 0;

  while (readdir (d))
    n++;
  closedir (d);
  return n - 2;
}

/* But "lock". */
static unsigned
count (void)
{
  return count_in (own) - 1;
}

/* Another process's, with an entry for the store at path. */
static void
other_process (const char *name, const char *store, uid_t uid, mode_t mode)
{
  char path[256], text[600], id[FILE_ID_MAX];
  struct stat sb;

  assert_int_equal (stat (store, &sb), 0);
  snprintf (path, sizeof path, "%s/%s", dir, name);
  assert_int_equal (mkdir (path, 0755), 0);
  snprintf (path, sizeof path, "%s/%s/%s.volume", dir, name,
            file_id_text (file_id (&sb), id));
  snprintf (text, sizeof text, "store %s\ncontrol /c/%s\npid 7\nname n\n",
            store, name);
  write_file (path, text);
  assert_int_equal (chmod (path, 0644), 0);
  if (uid != geteuid ())
    assert_int_equal (chown (path, uid, (gid_t)-1), 0);
  *strrchr (path, '/') = '\0';
  assert_int_equal (chmod (path, mode), 0);
  if (uid != geteuid ())
    assert_int_equal (chown (path, uid, (gid_t)-1), 0);
}

static void
entries_name_the_owner (void **state)
{
  char text[1000], pid_line[40];
  struct stat sb;

  (void)state;
  assert_int_equal (runtime_register (own, file, "/srv/disk", "/run/c", "vda"),
                    0);
  read_file (entry, text, sizeof text);
  snprintf (pid_line, sizeof pid_line, "pid %d\n", (int)getpid ());
  assert_memory_equal (text, "store /srv/disk\ncontrol /run/c\n", 31);
  assert_non_null (strstr (text, pid_line));
  assert_non_null (strstr (text, "name vda\n"));
  /* All may read whom to ask; only the owner may change it. */
  assert_int_equal (stat (entry, &sb), 0);
  assert_int_equal (sb.st_mode & 07777, 0644);
  assert_int_equal (stat (own, &sb), 0);
  assert_int_equal (sb.st_mode & 07777, 0755);

  /* Again: replaced as a whole, without a control socket now. */
  assert_int_equal (runtime_register (own, file, "/srv/disk", NULL, ""), 0);
  read_file (entry, text, sizeof text);
  assert_null (strstr (text, "control"));
  assert_int_equal (count (), 1);
  runtime_unregister (own, file);
  assert_int_equal (count (), 0);
}

static int
copy_store (void *opaque, struct entry *e)
{
  snprintf (opaque, 200, "%s|%s|%s", e->store, e->control, e->name);
  return 1;
}

/* What is in a path adds nothing to its entry. */
static void
a_path_is_one_value (void **state)
{
  char seen[200], text[1000];

  (void)state;
  assert_int_equal (runtime_register (own, file,
                                      "/a\ncontrol /evil\n\\012\x01\xc2\x85",
                                      "/run/c", "n\r\npid 1"),
                    0);
  read_file (entry, text, sizeof text);
  assert_null (strstr (text, "\ncontrol /evil"));
  assert_int_equal (entries_scan (dir, &file, copy_store, seen), 1);
  assert_string_equal (
      seen, "/a\ncontrol /evil\n\\012\x01\xc2\x85|/run/c|n\r\npid 1");
}

static int
count_one (void *opaque, struct entry *e)
{
  (void)e;
  ++*(int *)opaque;
  return 0;
}

static void
nonsense_is_no_entry (void **state)
{
  static const char *const texts[] = {
    "",
    "store /a\npid 1\n",
    "store /a\npid 1\nname \nname \n",
    "store /a\nstore /b\npid 1\nname \n",
    "store a\npid 1\nname \n",
    "store /a\npid 1\nname ",
    "store /a\npid -1\nname \n",
    "store /a\npid 1x\nname \n",
    "store /a\\\npid 1\nname \n",
    "store /a\\000\npid 1\nname \n",
    "store /a\\777\npid 1\nname \n",
    "store /a\npid 1\nname \nlisten /b\n",
    "store /a\npid 1\nname \nlisten 1-02 /b\n",
    "store /a\npid 1\nname \nnew thing\n",
  };
  int n = 0;

  (void)state;
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    unlink (entry);
    write_file (entry, texts[i]);
    entries_scan (dir, NULL, count_one, &n);
    assert_int_equal (n, 0);
  }
  unlink (entry);
  write_file (entry, "store /a\npid 1\nname \nlisten 1-2 /b c\n");
  entries_scan (dir, NULL, count_one, &n);
  assert_int_equal (n, 1);
}

/* Somebody made links under the names that we use: what they point to is not
 * touched. */
static void
links_are_not_followed (void **state)
{
  char victim[128], temp[300], text[100];
  struct stat sb;

  (void)state;
  snprintf (victim, sizeof victim, "%s/victim", dir);
  snprintf (temp, sizeof temp, "%s/entry.new", own);
  write_file (victim, "mine");
  assert_int_equal (symlink (victim, entry), 0);
  assert_int_equal (symlink (victim, temp), 0);
  assert_int_equal (runtime_register (own, file, "/s", NULL, ""), 0);
  read_file (victim, text, sizeof text);
  assert_string_equal (text, "mine");
  assert_int_equal (lstat (entry, &sb), 0);
  assert_true (S_ISREG (sb.st_mode));
  runtime_unregister (own, file);
  read_file (victim, text, sizeof text);
  assert_string_equal (text, "mine");
}

static bool
finds (const char *store, const char *control)
{
  CLEANUP_FREE char *found = NULL;
  struct stat sb;
  long pid;

  assert_int_equal (stat (store, &sb), 0);
  if (runtime_lookup (own, &sb, &pid, &found) == -1)
    return control == NULL;
  return control && found && strcmp (found, control) == 0 && pid == 7;
}

/* An entry counts if it is of root, of ourselves, or of the store's owner. */
static void
only_who_may_speak_is_believed (void **state)
{
  char store[128];

  (void)state;
  snprintf (store, sizeof store, "%s/store", dir);
  write_file (store, "");
  assert_true (finds (store, NULL));
  other_process ("p-1", store, geteuid (), 0777); /* anybody's */
  assert_true (finds (store, NULL));
  if (geteuid () == 0) {
    other_process ("p-2", store, NOBODY, 0755);
    assert_true (finds (store, NULL));
    assert_int_equal (chown (store, NOBODY, NOBODY), 0);
    assert_true (finds (store, "/c/p-2"));
  }
  else {
    other_process ("p-3", store, geteuid (), 0755);
    assert_true (finds (store, "/c/p-3"));
  }
}

/* What somebody has mounted in his directory may never answer: it is not even
 * opened. */
static void
mounts_are_passed_over (void **state)
{
  char store[128], path[128];
  pid_t pid;
  int status;

  (void)state;
  snprintf (store, sizeof store, "%s/store", dir);
  snprintf (path, sizeof path, "%s/p-4", dir);
  write_file (store, "");
  other_process ("p-4", store, geteuid (), 0755);
  assert_true (finds (store, "/c/p-4"));
  pid = fork ();
  assert_true (pid >= 0);
  if (pid == 0) {
    if (unshare (CLONE_NEWNS) == -1
        || mount (NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1
        || mount (path, path, NULL, MS_BIND, NULL) == -1)
      _exit (77);
    _exit (finds (store, NULL) ? 0 : 1);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_true (WIFEXITED (status));
  if (WEXITSTATUS (status) == 77)
    skip ();
  assert_int_equal (WEXITSTATUS (status), 0);
}

/* The same directory each time, until somebody takes it away. */
static void
one_directory_for_a_process (void **state)
{
  CLEANUP_FREE char *error = NULL;
  CLEANUP_FREE char *again = runtime_own_dir (dir, &error);
  CLEANUP_FREE char *other = NULL;
  char lock[256];

  (void)state;
  assert_string_equal (again, own);
  assert_int_equal (count_in (dir), 1);
  snprintf (lock, sizeof lock, "%s/lock", own);
  unlink (lock);
  assert_int_equal (rmdir (own), 0);
  other = runtime_own_dir (dir, &error);
  assert_non_null (other);
  assert_string_not_equal (other, own);
  runtime_leave ();
  assert_int_equal (count_in (dir), 0);
}

/* In a child that dies. */
static void
leave_behind (const char *extra, uid_t uid)
{
  pid_t pid = fork ();
  int status;

  assert_true (pid >= 0);
  if (pid == 0) {
    char *error = NULL, *mine, path[256];

    if (uid != geteuid () && (setgid (uid) == -1 || setuid (uid) == -1))
      _exit (1);
    mine = runtime_own_dir (dir, &error);
    if (mine == NULL || runtime_register (mine, file, "/s", "/c", "") == -1)
      _exit (2);
    if (extra) {
      snprintf (path, sizeof path, "%s/%s", mine, extra);
      write_file (path, "");
    }
    _exit (0);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_true (WIFEXITED (status) && WEXITSTATUS (status) == 0);
}

static void
next_process (uid_t uid)
{
  pid_t pid = fork ();
  int status;

  assert_true (pid >= 0);
  if (pid == 0) {
    char *error = NULL;

    if (uid != geteuid () && (setgid (uid) == -1 || setuid (uid) == -1))
      _exit (1);
    if (runtime_own_dir (dir, &error) == NULL)
      _exit (2);
    runtime_leave ();
    _exit (0);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_true (WIFEXITED (status) && WEXITSTATUS (status) == 0);
}

/* What the dead leave goes with the next process of theirs, or root's; working
 * maps stay for who opens their volumes. */
static void
leftovers_go (void **state)
{
  CLEANUP_FREE char *error = NULL;

  (void)state;
  if (geteuid () != 0)
    skip ();
  /* Ours is in the way: it is in use. */
  assert_int_equal (chmod (dir, 01777), 0);
  leave_behind (NULL, NOBODY);
  leave_behind ("x.work", NOBODY);
  leave_behind ("source-1.sock", NOBODY);
  /* Each took the one before away, but for W. */
  assert_int_equal (count_in (dir), 3);
  next_process (1234); /* not for him to do */
  assert_int_equal (count_in (dir), 3);
  next_process (NOBODY);
  assert_int_equal (count_in (dir), 2); /* ours, and the one with W */
  leave_behind (NULL, NOBODY);
  assert_int_equal (count_in (dir), 3);
  /* As if we were the next one. */
  runtime_leave ();
  free (own);
  own = runtime_own_dir (dir, &error);
  assert_non_null (own);
  assert_int_equal (count_in (dir), 2);
}

/* However much somebody leaves, a start is not held up by it: the next ones go
 * on. */
static void
leftovers_go_in_portions (void **state)
{
  char path[128];
  unsigned before;

  (void)state;
  if (geteuid () != 0)
    skip ();
  assert_int_equal (chmod (dir, 01777), 0);
  before = count_in (dir);
  snprintf (path, sizeof path, "%s/p-many", dir);
  assert_int_equal (mkdir (path, 0755), 0);
  for (int i = -1; i < 21000; i++) {
    if (i == -1)
      snprintf (path, sizeof path, "%s/p-many/lock", dir);
    else
      snprintf (path, sizeof path, "%s/p-many/%d", dir, i);
    write_file (path, "");
    if (i == -1)
      assert_int_equal (chown (path, NOBODY, NOBODY), 0);
  }
  snprintf (path, sizeof path, "%s/p-many", dir);
  assert_int_equal (chown (path, NOBODY, NOBODY), 0);
  next_process (NOBODY);
  assert_in_range (count_in (path), 500, 2000);
  next_process (NOBODY);
  assert_int_equal (count_in (dir), before);
}

/* What belongs to a process that lives stays, also for others of its user. */
static void
the_living_keep_theirs (void **state)
{
  int says[2], waits[2], status;
  unsigned before = count_in (dir);
  char c;
  pid_t pid;

  (void)state;
  if (geteuid () != 0)
    skip ();
  assert_int_equal (chmod (dir, 01777), 0);
  assert_int_equal (pipe (says), 0);
  assert_int_equal (pipe (waits), 0);
  pid = fork ();
  assert_true (pid >= 0);
  if (pid == 0) {
    char *error = NULL, *mine;

    close (waits[1]);
    if (setgid (NOBODY) == -1 || setuid (NOBODY) == -1)
      _exit (1);
    mine = runtime_own_dir (dir, &error);
    if (mine == NULL || runtime_register (mine, file, "/s", "/c", "") == -1
        || write (says[1], "x", 1) != 1 || read (waits[0], &c, 1) != 0)
      _exit (2);
    /* Its lock, and its entry. */
    _exit (count_in (mine) == 2 ? 0 : 3);
  }
  close (waits[0]);
  assert_int_equal (read (says[0], &c, 1), 1);
  assert_int_equal (count_in (dir), before + 1);
  next_process (NOBODY);
  assert_int_equal (count_in (dir), before + 1);
  close (waits[1]);
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_true (WIFEXITED (status));
  assert_int_equal (WEXITSTATUS (status), 0);
  close (says[0]);
  close (says[1]);
}

/* What others have named says nothing to a terminal. */
static void
messages_are_clean (void **state)
{
  char text[] = "a\033[2J\n\r\t\x7f\xc2\x9b\xff\xc3\xa4z";

  (void)state;
  assert_string_equal (message_clean (text), "a?[2J??????"
                                             "?\xc3\xa4z");
}

static void
no_folder_is_an_error (void **state)
{
  CLEANUP_FREE char *error = NULL;
  char missing[128];

  (void)state;
  snprintf (missing, sizeof missing, "%s/missing", dir);
  assert_null (runtime_own_dir (missing, &error));
  assert_non_null (strstr (error, missing));
  assert_int_equal (runtime_register (missing, file, "/s", NULL, ""), -1);
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
    TEST (a_path_is_one_value),
    TEST (nonsense_is_no_entry),
    TEST (links_are_not_followed),
    TEST (only_who_may_speak_is_believed),
    TEST (mounts_are_passed_over),
    TEST (one_directory_for_a_process),
    TEST (leftovers_go),
    TEST (leftovers_go_in_portions),
    TEST (the_living_keep_theirs),
    TEST (messages_are_clean),
    TEST (no_folder_is_an_error),
    TEST (the_environment_names_the_folder),
    TEST (cannot_be_made),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
