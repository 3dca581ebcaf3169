/* test-plane.c - dirty planes: nothing that changed is missing, whoever dies.
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
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "plane.h"

#define GIB (UINT64_C (1) << 30)
#define REGION (UINT64_C (64) << 20)
#define G UINT64_C (4096)

static char dir[64], path[128];
static struct planes_id id;
static uint8_t under[ROLE_ID_SIZE];

static int
setup (void **state)
{
  (void)state;
  /* A tmpfs, as the runtime directory is, where there is one. */
  snprintf (dir, sizeof dir, "%s/test-plane-XXXXXX",
            access ("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
  if (!mkdtemp (dir))
    return -1;
  snprintf (path, sizeof path, "%s/p", dir);
  id = (struct planes_id){
    .session = 3, .generation = 1, .size = 4 * GIB + 512, .granule = 4096
  };
  id.lineage[0] = id.mid[0] = id.boot_id[0] = 1;
  memset (under, 0, sizeof under);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  unlink (path);
  return rmdir (dir);
}

/* Linked with --wrap: no room for pages. */
static bool full, dies;
int __real_fallocate (int fd, int mode, off_t offset, off_t len);
int __wrap_fallocate (int fd, int mode, off_t offset, off_t len);

int
__wrap_fallocate (int fd, int mode, off_t offset, off_t len)
{
  if (dies && mode != 0)
    kill (getpid (), SIGKILL);
  if (!full || mode != 0)
    return __real_fallocate (fd, mode, offset, len);
  errno = ENOSPC;
  return -1;
}

static struct planes *
make (void)
{
  struct planes *p = planes_create (path, &id);

  assert_non_null (p);
  return p;
}

static struct planes *
reopen (void)
{
  const char *why = NULL;
  struct planes *p = planes_open (path, &id, &why);

  if (!p)
    fail_msg ("lost: %s", why);
  return p;
}

static void
lost (const char *word)
{
  const char *why = NULL;
  struct planes *p = planes_open (path, &id, &why);

  assert_null (p);
  if (!strstr (why, word))
    fail_msg ("not '%s': %s", word, why);
}

static void
change (struct planes *p, uint64_t offset, uint64_t length)
{
  struct planes_claim c;

  planes_claim (p, &c);
  planes_mark (p, &c, offset, length);
  planes_drop (p, &c);
}

static int
take (struct planes *p, uint64_t n)
{
  return planes_take (p, n, under, now_ms () + 50);
}

/* Plane n is these runs, {begin, end} each. */
static void
expect (struct planes *p, uint64_t n, const uint64_t (*runs)[2], size_t nr)
{
  uint64_t begin, end = 0;

  for (size_t i = 0; i < nr; i++) {
    assert_true (planes_next (p, n, end, &begin, &end));
    assert_int_equal (begin, runs[i][0]);
    assert_int_equal (end, runs[i][1]);
  }
  assert_false (planes_next (p, n, end, &begin, &end));
}

static void
runs_are_what_was_marked (void **state)
{
  static const uint64_t runs[][2] = { { 0, G },
                                      { 3 * G, 5 * G },
                                      { REGION - G, REGION + G },
                                      { 4 * GIB, 4 * GIB + 512 } };
  struct planes *p = make ();

  (void)state;
  expect (p, 1, NULL, 0);
  change (p, 4 * GIB + 511, 1);
  change (p, REGION - 1, 2);
  change (p, 4 * G - 1, 2);
  change (p, 7, 0);
  change (p, 7, 100);
  expect (p, 1, runs, 4);
  planes_free (p);
}

static void
planes_are_numbered (void **state)
{
  static const uint64_t first[][2] = { { 0, G } };
  static const uint64_t second[][2] = { { G, 2 * G } };
  struct planes *p = make ();

  (void)state;
  assert_int_equal (take (p, 2), -1);
  assert_int_equal (errno, EINVAL);
  assert_int_equal (take (p, 0), -1);
  assert_int_equal (errno, EINVAL);
  change (p, 0, 1);
  under[0] = 9;
  assert_int_equal (take (p, 1), 0);
  assert_int_equal (planes_live (p), 2);
  change (p, G, 1);
  /* Again: the same plane, and the freeze that there was then. */
  under[0] = 7;
  assert_int_equal (take (p, 1), 0);
  assert_int_equal (under[0], 9);
  expect (p, 1, first, 1);
  under[0] = 0;
  assert_int_equal (take (p, 2), 0);
  assert_int_equal (under[0], 0);
  expect (p, 2, second, 1);
  expect (p, 3, NULL, 0);
  assert_int_equal (take (p, 1), -1);
  assert_int_equal (errno, ESTALE);
  planes_free (p);
}

/* The claim was made before the flip: the plane is not answered before it
 * ends, and has its mark. */
static void
take_waits_for_older_claims (void **state)
{
  static const uint64_t runs[][2] = { { G, 2 * G } };
  struct planes *p = make ();
  struct planes_claim old, young;

  (void)state;
  planes_claim (p, &old);
  assert_int_equal (take (p, 1), -1);
  assert_int_equal (errno, ETIMEDOUT);
  planes_claim (p, &young);
  planes_mark (p, &young, 0, 1);
  planes_mark (p, &old, G, 1);
  assert_int_equal (take (p, 1), -1);
  /* Nor is the next one made of one that was never answered. */
  assert_int_equal (take (p, 2), -1);
  assert_int_equal (errno, ETIMEDOUT);
  assert_int_equal (planes_live (p), 2);
  planes_drop (p, &old);
  assert_int_equal (take (p, 1), 0);
  expect (p, 1, runs, 1);
  assert_int_equal (take (p, 2), -1);
  planes_drop (p, &young);
  assert_int_equal (take (p, 2), 0);
  planes_free (p);
}

/* A process that is killed leaves its marks. */
static void
killed_keeps_marks (void **state)
{
  static const uint64_t frozen[][2] = { { 0, G } };
  static const uint64_t live[][2] = { { 2 * G, 3 * G }, { GIB, GIB + G } };
  struct planes *p;
  int status;
  pid_t pid = fork ();

  (void)state;
  if (pid == 0) {
    struct planes_claim c;

    p = planes_create (path, &id);
    change (p, 0, 1);
    take (p, 1);
    change (p, GIB, 1);
    planes_claim (p, &c);
    planes_mark (p, &c, 2 * G, 1);
    kill (getpid (), SIGKILL);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_true (WIFSIGNALED (status));
  p = reopen ();
  assert_int_equal (planes_live (p), 2);
  expect (p, 1, frozen, 1);
  expect (p, 2, live, 2);
  assert_int_equal (take (p, 1), 0);
  assert_int_equal (take (p, 2), 0);
  expect (p, 2, live, 2);
  planes_free (p);
}

/* Killed in a flip, which had dropped the plane before and not yet cleared it:
 * the live plane has all it had, and the next one nothing of that. */
static void
killed_in_a_flip (void **state)
{
  static const uint64_t live[][2] = { { GIB, GIB + G } };
  struct planes *p;
  int status;
  pid_t pid = fork ();

  (void)state;
  if (pid == 0) {
    p = planes_create (path, &id);
    change (p, 0, 1);
    take (p, 1);
    change (p, GIB, 1);
    dies = true;
    take (p, 2);
    _exit (0);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_true (WIFSIGNALED (status));
  p = reopen ();
  assert_int_equal (planes_live (p), 2);
  assert_int_equal (take (p, 1), -1);
  assert_int_equal (errno, ESTALE);
  assert_int_equal (take (p, 2), 0);
  expect (p, 2, live, 1);
  expect (p, 3, NULL, 0);
  planes_free (p);
}

static void
no_room_marks_the_region (void **state)
{
  static const uint64_t runs[][2]
      = { { REGION, 3 * REGION }, { 4 * GIB, 4 * GIB + 512 } };
  struct planes *p = make ();

  (void)state;
  full = true;
  change (p, 2 * REGION - 1, 2);
  change (p, 4 * GIB, 1);
  full = false;
  expect (p, 1, runs, 2);
  planes_free (p);
  /* In the file, too. */
  p = reopen ();
  expect (p, 1, runs, 2);
  assert_int_equal (take (p, 1), 0);
  assert_int_equal (take (p, 2), 0);
  expect (p, 3, NULL, 0);
  expect (p, 2, NULL, 0);
  planes_free (p);
}

static void
whatever_is_doubtful_is_lost (void **state)
{
  struct planes_id was = id;
  struct planes *p;

  (void)state;
  lost ("gone");
  planes_free (make ());
  assert_null (planes_create (path, &id));
  assert_int_equal (errno, EEXIST);
  planes_free (reopen ());
  id.boot_id[3] = 1;
  lost ("boot");
  id = was;
  id.mid[3] = 1;
  lost ("migration");
  id = was;
  id.lineage[3] = 1;
  lost ("disk");
  id = was;
  id.generation = 2;
  lost ("generation");
  id = was;
  id.session = 4;
  lost ("session");
  id = was;
  p = reopen ();
  planes_begin_session (p, 4);
  planes_free (p);
  lost ("session");
  id.session = 4;
  p = reopen ();
  planes_sync_begin (p);
  planes_free (p);
  lost ("sync");
  unlink (path);
  planes_free (make ());
  assert_int_equal (chmod (path, 0622), 0);
  lost ("not ours");
  assert_int_equal (chmod (path, 0600), 0);
  assert_int_equal (truncate (path, 8192), 0);
  lost ("size");
}

static void
failed_syncs_refuse_and_lose (void **state)
{
  struct planes *p = make ();

  (void)state;
  planes_sync_begin (p);
  planes_sync_begin (p);
  planes_sync_end (p, false);
  planes_sync_end (p, false);
  assert_int_equal (take (p, 1), 0);
  planes_sync_begin (p);
  planes_sync_begin (p);
  planes_sync_end (p, true);
  planes_sync_end (p, false);
  assert_int_equal (take (p, 1), -1);
  assert_int_equal (errno, EIO);
  planes_free (p);
  lost ("sync");
}

static void
a_plane_is_32_mib_at_most (void **state)
{
  const uint64_t tib = UINT64_C (1) << 40;

  (void)state;
  assert_int_equal (planes_granule (tib, 4096), 4096);
  assert_int_equal (planes_granule (tib, 512), 4096);
  assert_int_equal (planes_granule (tib, 65536), 65536);
  assert_int_equal (planes_granule (2 * tib, 4096), 8192);
  assert_int_equal (planes_granule (8 * tib, 4096), 32768);
}

/* Threads change cells, each once and after its mark, and are held up by a
 * signal at any instruction; the other side takes planes and copies what they
 * name.  At the end both are the same. */
#define NR_CELLS (1u << 20)
#define NR_WRITERS 3u

static uint8_t cells[NR_CELLS], copy[NR_CELLS];
static unsigned nr_ended;
static struct planes *shared;

static void
hold_up (int signal)
{
  struct timespec ts = { .tv_nsec = 200000 };

  (void)signal;
  nanosleep (&ts, NULL);
}

static void *
write_cells (void *arg)
{
  for (unsigned cell = *(unsigned *)arg; cell < NR_CELLS; cell += NR_WRITERS) {
    struct planes_claim c;

    planes_claim (shared, &c);
    planes_mark (shared, &c, cell * G, G);
    __atomic_store_n (&cells[cell], 1, __ATOMIC_SEQ_CST);
    planes_drop (shared, &c);
  }
  __atomic_add_fetch (&nr_ended, 1, __ATOMIC_SEQ_CST);
  return NULL;
}

/* Joined before the writers are. */
static void *
disturb (void *arg)
{
  pthread_t *writers = arg;
  struct timespec ts = { .tv_nsec = 20000 };

  for (unsigned i = 0;
       __atomic_load_n (&nr_ended, __ATOMIC_SEQ_CST) < NR_WRITERS; i++) {
    pthread_kill (writers[i % NR_WRITERS], SIGUSR1);
    nanosleep (&ts, NULL);
  }
  return NULL;
}

static void
copies_follow_the_changes (void **state)
{
  struct sigaction sa = { .sa_handler = hold_up };
  pthread_t threads[NR_WRITERS], disturber;
  unsigned first[NR_WRITERS];
  uint64_t n = 0;
  bool last = false;

  (void)state;
  sigaction (SIGUSR1, &sa, NULL);
  shared = make ();
  for (unsigned i = 0; i < NR_WRITERS; i++) {
    first[i] = i;
    assert_int_equal (
        pthread_create (&threads[i], NULL, write_cells, &first[i]), 0);
  }
  assert_int_equal (pthread_create (&disturber, NULL, disturb, threads), 0);
  while (!last) {
    uint64_t begin, end = 0;

    last = __atomic_load_n (&nr_ended, __ATOMIC_SEQ_CST) == NR_WRITERS;
    n++;
    assert_int_equal (planes_take (shared, n, under, now_ms () + 60000), 0);
    while (planes_next (shared, n, end, &begin, &end))
      for (uint64_t cell = begin / G; cell < end / G; cell++)
        copy[cell] = __atomic_load_n (&cells[cell], __ATOMIC_SEQ_CST);
  }
  pthread_join (disturber, NULL);
  for (unsigned i = 0; i < NR_WRITERS; i++)
    pthread_join (threads[i], NULL);
  assert_memory_equal (copy, cells, sizeof copy);
  planes_free (shared);
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (a_plane_is_32_mib_at_most),
    TEST (runs_are_what_was_marked),
    TEST (planes_are_numbered),
    TEST (take_waits_for_older_claims),
    TEST (killed_keeps_marks),
    TEST (killed_in_a_flip),
    TEST (no_room_marks_the_region),
    TEST (whatever_is_doubtful_is_lost),
    TEST (failed_syncs_refuse_and_lose),
    TEST (copies_follow_the_changes),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
