/* test-volumes.c - backfilld's table of volumes where no thread can be made,
 * and where a thread comes late.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "path.h"
#include "volumes/internal.h"

#define LONG_MS 20000u /* for what must happen */
#define SHORT_MS 2000u /* for what must not wait for anything */

static char dir[64], run[80], state[80], store[2][80];
static struct volumes *vs;
static const struct control_volumes *commands;

/* Linked with --wrap. */
static bool no_threads;
static unsigned nr_runs;
static void (*held_task) (void *arg);
static void *held_arg;
static bool hold;

int __real_crew_run (struct crew *crew, void (*task) (void *arg), void *arg);
int __wrap_crew_run (struct crew *crew, void (*task) (void *arg), void *arg);

int
__wrap_crew_run (struct crew *crew, void (*task) (void *arg), void *arg)
{
  nr_runs++;
  if (no_threads) {
    errno = EAGAIN;
    return -1;
  }
  if (hold) {
    held_task = task;
    held_arg = arg;
    return 0;
  }
  return __real_crew_run (crew, task, arg);
}

/* Each command is one of the control socket's, of root. */
static struct control_peer
peer (void)
{
  static uint64_t serial;

  return (struct control_peer){
    .uid = 0, .pid = getpid (), .since = now_ms (), .serial = ++serial
  };
}

/* Run the command again and again, as the control socket does after a kick,
 * until it has ended, or ms are over: then errno is EINPROGRESS. */
#define UNTIL_DONE(ms, result, failed, call)                     \
  do {                                                           \
    uint64_t end_ = now_ms () + (ms);                            \
                                                                 \
    while ((result = (call)) == (failed) && errno == EINPROGRESS \
           && now_ms () < end_)                                  \
      usleep (20000);                                            \
  } while (0)

static struct disk *
get (const char *path, enum control_use use, unsigned ms, char **error)
{
  const struct control_peer p = peer ();
  struct disk *disk;

  UNTIL_DONE (ms, disk, NULL, commands->get (vs, &p, path, NULL, use, error));
  return disk;
}

static int
release (const char *path, unsigned ms, char **error)
{
  const struct control_peer p = peer ();
  int r;

  UNTIL_DONE (ms, r, -1, commands->release (vs, &p, path, NULL, error));
  return r;
}

static struct disk *
must_get (const char *path)
{
  char *error = NULL;
  struct disk *disk = get (path, CONTROL_QUERY, LONG_MS, &error);

  if (!disk)
    fail_msg ("%s: %s", path, error ? error : strerror (errno));
  free (error);
  return disk;
}

static void
must_fail (bool failed, int err, const char *word, char **error)
{
  assert_true (failed);
  assert_int_equal (errno, err);
  assert_non_null (*error);
  if (!strstr (*error, word))
    fail_msg ("'%s' says nothing of '%s'", *error, word);
  free (*error);
  *error = NULL;
}

static void
write_file (const char *path, const char *text, off_t size)
{
  int fd = open (path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

  assert_true (fd >= 0);
  assert_int_equal (write (fd, text, strlen (text)), strlen (text));
  assert_int_equal (ftruncate (fd, size ? size : (off_t)strlen (text)), 0);
  close (fd);
}

static int
setup (void **unused)
{
  char *error = NULL;
  struct volumes_config config = {
    .runtime_dir = run,
    .control = "/nowhere/control",
    .state_dir = state,
    .max_open = 1,
    .idle = 3600 * 1000,
    .grace = 10000,
  };

  (void)unused;
  no_threads = hold = false;
  strcpy (dir, "/tmp/test-volumes-XXXXXX");
  assert_non_null (mkdtemp (dir));
  snprintf (run, sizeof run, "%s/run", dir);
  snprintf (state, sizeof state, "%s/state", dir);
  assert_int_equal (mkdir (run, 0700), 0);
  assert_int_equal (mkdir (state, 0700), 0);
  for (int i = 0; i < 2; i++) {
    snprintf (store[i], sizeof store[i], "%s/store%d", dir, i);
    write_file (store[i], "", 1 << 20);
  }
  assert_int_equal (disk_pools_start (), 0);
  vs = volumes_new (&config, &error);
  if (!vs)
    fail_msg ("%s", error);
  commands = volumes_commands (vs);
  assert_int_equal (volumes_start (vs), 0);
  return 0;
}

static int
teardown (void **unused)
{
  char command[100];

  (void)unused;
  no_threads = hold = false;
  assert_int_equal (volumes_stop (vs), 0);
  volumes_free (vs);
  disk_pools_stop ();
  snprintf (command, sizeof command, "rm -r %s", dir);
  assert_int_equal (system (command), 0);
  return 0;
}

/* The ledger cannot be written: who waits for that is told. */
static void
ledger_without_a_thread (void **unused)
{
  struct control_peer p = peer ();
  char *error = NULL;
  int r;

  (void)unused;
  no_threads = true;
  UNTIL_DONE (SHORT_MS, r, -1,
              commands->set_total_speed (vs, &p, 1 << 20, &error));
  must_fail (r == -1, EAGAIN, "ledger", &error);
  no_threads = false;
  p = peer ();
  UNTIL_DONE (LONG_MS, r, -1,
              commands->set_total_speed (vs, &p, 2 << 20, &error));
  assert_int_equal (r, 0);
}

/* A job that ended is told of still, if one that follows it cannot start. */
static void
ended_job_stays (void **unused)
{
  char *error = NULL;
  const struct ledger_entry *e;

  (void)unused;
  commands->put (vs, must_get (store[0]));
  {
    LOCK_SCOPE (&vs->lock);
    assert_non_null (ledger_add (vs->ledger, store[0], 0));
    ledger_end (vs->ledger, store[0]);
  }
  no_threads = true;
  must_fail (get (store[0], CONTROL_JOB, SHORT_MS, &error) == NULL, EAGAIN,
             "ledger", &error);
  LOCK_SCOPE (&vs->lock);
  e = ledger_find (vs->ledger, store[0]);
  assert_non_null (e);
  assert_true (e->ended);
}

/* An idle volume cannot be closed to make room for another. */
static void
room_without_a_thread (void **unused)
{
  char *error = NULL;

  (void)unused;
  commands->put (vs, must_get (store[0]));
  no_threads = true;
  must_fail (get (store[1], CONTROL_QUERY, SHORT_MS, &error) == NULL, EAGAIN,
             "closed", &error);
  no_threads = false;
  commands->put (vs, must_get (store[1]));
}

/* A volume that is asked for cannot be closed: it stays here, open. */
static void
release_without_a_thread (void **unused)
{
  char *error = NULL;

  (void)unused;
  commands->put (vs, must_get (store[0]));
  no_threads = true;
  must_fail (release (store[0], SHORT_MS, &error) == -1, EAGAIN, "closed",
             &error);
  no_threads = false;
  commands->put (vs, must_get (store[0]));
  assert_int_equal (release (store[0], LONG_MS, &error), 0);
}

/* The last command on it ends while there is no thread: it is closed as soon
 * as there is one. */
static void
put_without_a_thread (void **unused)
{
  struct control_peer p = peer ();
  struct disk *disk = must_get (store[0]);
  char *error = NULL;
  uint64_t end;
  int r;

  (void)unused;
  assert_int_equal (commands->release (vs, &p, store[0], NULL, &error), -1);
  assert_int_equal (errno, EINPROGRESS);
  no_threads = true;
  commands->put (vs, disk);
  /* Meanwhile nobody else gets it. */
  assert_null (get (store[0], CONTROL_QUERY, 0, &error));
  assert_int_equal (errno, EINPROGRESS);
  no_threads = false;
  for (end = now_ms () + LONG_MS; now_ms () < end; usleep (20000)) {
    LOCK_SCOPE (&vs->lock);
    if (LIST_EMPTY (&vs->open))
      break;
  }
  UNTIL_DONE (LONG_MS, r, -1,
              commands->release (vs, &p, store[0], NULL, &error));
  assert_int_equal (r, 0);
  assert_true (LIST_EMPTY (&vs->open));
}

static sem_t answer;

static void *
ask (struct disk *disk)
{
  (void)disk;
  sem_wait (&answer);
  return NULL;
}

/* The last disk of a list does not answer: there is no other to go on with. */
static void
survey_ends_with_the_silent (void **unused)
{
  struct disk *disk = must_get (store[0]);
  struct disk *ptr[2] = { disk, NULL };
  const struct disks disks = { .ptr = ptr, .len = 1 };
  void **results = NULL;

  (void)unused;
  assert_int_equal (sem_init (&answer, 0, 0), 0);
  nr_runs = 0;
  assert_int_equal (commands->survey (vs, &disks, ask, free, &results), 0);
  assert_int_equal (nr_runs, 1);
  assert_null (results[0]);
  free (results);
  sem_post (&answer);
  commands->put (vs, disk);
}

/* A look takes long: its answer is there when the command comes again. */
static void
late_look_is_kept (void **unused)
{
  struct control_peer p = peer ();
  struct disk_peek peek = { 0 };
  char *error = NULL;

  (void)unused;
  hold = true;
  assert_int_equal (commands->peek (vs, &p, store[0], NULL, &peek, &error), -1);
  assert_int_equal (errno, EINPROGRESS);
  hold = false;
  usleep ((LINGER_MS + 100) * 1000);
  held_task (held_arg);
  usleep (3 * TICK_MS * 1000);
  assert_int_equal (commands->peek (vs, &p, store[0], NULL, &peek, &error), 1);
  disk_peek_clear (&peek);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown (ledger_without_a_thread, setup, teardown),
    cmocka_unit_test_setup_teardown (ended_job_stays, setup, teardown),
    cmocka_unit_test_setup_teardown (room_without_a_thread, setup, teardown),
    cmocka_unit_test_setup_teardown (release_without_a_thread, setup, teardown),
    cmocka_unit_test_setup_teardown (put_without_a_thread, setup, teardown),
    cmocka_unit_test_setup_teardown (survey_ends_with_the_silent, setup,
                                     teardown),
    cmocka_unit_test_setup_teardown (late_look_is_kept, setup, teardown),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
