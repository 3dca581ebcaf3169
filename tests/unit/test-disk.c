/* test-disk.c - whole disks, where only a program that sees the engine's
 * insides can bring about what is tested.
 *
 * The backing store is nbdkit's pattern plugin, which serves every offset as
 * its own big-endian number.
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
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "fetch.h"
#include "internal.h"

#define LIMIT_MS 60000
#define MIB (UINT64_C (1) << 20)

static char dir[] = "/tmp/test-disk-XXXXXX";
static char *sock_path, *uri, *store;
static const char *nbdkit = "nbdkit";

static pid_t
serve (const char *size)
{
  uint64_t until = now_ms () + LIMIT_MS;
  pid_t pid = child_fork ();

  assert_true (pid >= 0);
  if (pid == 0) {
    unsetenv ("LD_PRELOAD");
    execlp (nbdkit, nbdkit, "-f", "-U", sock_path, "pattern", size, NULL);
    _exit (127);
  }
  while (!child_listens (sock_path)) {
    assert_true (now_ms () < until);
    usleep (5000);
  }
  return pid;
}

static void
end_server (pid_t pid)
{
  kill (pid, SIGKILL);
  assert_int_equal (waitpid (pid, NULL, 0), pid);
  unlink (sock_path);
}

static struct disk *
begin_with (uint64_t timeout, uint32_t fetch_unit)
{
  const struct disk_config config = { .store = store,
                                      .backing = uri,
                                      .runtime_dir = dir,
                                      .timeout = timeout,
                                      .fetch_unit = fetch_unit };
  char *error = NULL;
  struct disk *d = disk_open (&config, &error);

  if (!d)
    fail_msg ("%s", error);
  assert_int_equal (disk_pools_start (), 0);
  if (disk_start (d, &error) == -1)
    fail_msg ("%s", error);
  return d;
}

static struct disk *
begin (uint64_t timeout)
{
  return begin_with (timeout, 4096 /* no read-ahead */);
}

static void
end (struct disk *d)
{
  char *sidecar;

  assert_int_equal (disk_gate (d), 0);
  disk_pools_stop ();
  disk_free (d);
  unlink (store);
  assert_true (asprintf (&sidecar, "%s.backfill", store) > 0);
  unlink (sidecar);
  free (sidecar);
}

/* While so much waits for a store that does not get on that what is read is
 * not kept any more, reads are served, and whoever wants something local
 * waits: it is not fetched again and again. */
static void
cache_waits_for_room (void **state)
{
  pid_t pid = serve ("256M");
  struct disk *d = begin (3000);
  char *buf = malloc (2 * MIB);
  struct disk_info before, after;
  struct claim stuck;
  uint64_t until;

  (void)state;
  assert_non_null (buf);
  claim_take (&d->claims, &stuck, 0, granule_floor (d, 128 * MIB));
  for (uint64_t at = 0; at < 128 * MIB; at += 2 * MIB) {
    assert_int_equal (disk_pread (d, buf, 2 * MIB, at), 0);
    assert_int_equal (buf[7], 0);
    assert_int_equal ((unsigned char)buf[2 * MIB - 1],
                      (at + 2 * MIB - 8) & 0xff);
  }
  disk_get_info (d, &before);
  assert_int_equal (disk_cache (d, 4096, 200 * MIB), -1);
  disk_get_info (d, &after);
  assert_true (after.demand_fetches - before.demand_fetches < 10);
  claim_drop (&d->claims, &stuck);
  until = now_ms () + LIMIT_MS;
  while (disk_cache (d, 4096, 200 * MIB) == -1)
    assert_true (now_ms () < until);
  assert_true (map_is_live (d->map, granule_floor (d, 200 * MIB),
                            granule_ceil (d, 200 * MIB + 4096)));
  free (buf);
  end (d);
  end_server (pid);
}

static bool
is_planned (struct disk *d, uint64_t more)
{
  struct disk_info info;

  disk_get_info (d, &info);
  return info.ahead_fetches > more;
}

/* Nor is anything read ahead while so much waits. */
static void
ahead_waits_for_room (void **state)
{
  pid_t pid = serve ("256M");
  struct disk *d = begin_with (60000, 1 << 20);
  struct disk_info info;
  char buf[4096];
  struct claim stuck;
  uint64_t at = 0, until = now_ms () + LIMIT_MS;

  (void)state;
  claim_take (&d->claims, &stuck, 0, granule_floor (d, 256 * MIB));
  for (; at < 100 * MIB; at += MIB / 4)
    assert_int_equal (disk_pread (d, buf, sizeof buf, at), 0);
  disk_get_info (d, &info);
  assert_true (info.ahead_fetches > 0);
  /* 28 MiB, and what was under way when they were reached. */
  assert_true (fetch_backlog (d) < 64 * MIB);
  for (; at < 120 * MIB; at += MIB)
    assert_int_equal (disk_pread (d, buf, sizeof buf, at), 0);
  assert_false (is_planned (d, info.ahead_fetches));
  claim_drop (&d->claims, &stuck);
  /* And then it is again. */
  while (!is_planned (d, info.ahead_fetches)) {
    assert_true (now_ms () < until && at < 250 * MIB);
    assert_int_equal (disk_pread (d, buf, sizeof buf, at), 0);
    at += MIB / 4;
    usleep (20000);
  }
  end (d);
  end_server (pid);
}

/* An abort that cannot be recorded says so: a restart would go on with the
 * job (G37). */
static void
abort_is_recorded (void **state)
{
  pid_t pid = serve ("256M");
  struct disk *d = begin (3000);
  const struct job_options options = { .speed = 4096 };
  CLEANUP_FREE char *error = NULL;
  struct job_info info;
  int kept, full;

  (void)state;
  assert_int_equal (job_start (d, &options, NULL, &error), 0);
  kept = dup (d->sc->job_fd);
  full = open ("/dev/full", O_RDWR | O_CLOEXEC);
  assert_true (kept >= 0 && full >= 0);
  assert_true (dup2 (full, d->sc->job_fd) >= 0);
  assert_int_equal (job_abort (d, 0, &error), -1);
  assert_int_equal (errno, ENOSPC);
  assert_non_null (error);
  job_get_info (d, &info);
  assert_true (info.status == JOB_ABORTING || info.status == JOB_CONCLUDED);
  assert_true (dup2 (kept, d->sc->job_fd) >= 0);
  close (kept);
  close (full);
  end (d);
  end_server (pid);
}

static void
no_log (enum log_level level, const char *fmt, va_list ap)
{
  if (getenv ("TEST_DISK_DEBUG")) {
    vfprintf (stderr, fmt, ap);
    fputc ('\n', stderr);
  }
  (void)level;
}

static int
set_up (void **state)
{
  (void)state;
  if (getenv ("NBDKIT") && *getenv ("NBDKIT"))
    nbdkit = getenv ("NBDKIT");
  log_set_sink (no_log);
  return !mkdtemp (dir) || asprintf (&sock_path, "%s/sock", dir) == -1
                 || asprintf (&uri, "nbd+unix:///?socket=%s", sock_path) == -1
                 || asprintf (&store, "%s/disk", dir) == -1
             ? -1
             : 0;
}

static int
tear_down (void **state)
{
  char *command;

  (void)state;
  if (asprintf (&command, "rm -rf %s", dir) == -1 || system (command) != 0)
    return -1;
  free (command);
  free (sock_path);
  free (uri);
  free (store);
  return 0;
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (cache_waits_for_room),
    cmocka_unit_test (ahead_waits_for_room),
    cmocka_unit_test (abort_is_recorded),
  };

  return cmocka_run_group_tests (tests, set_up, tear_down);
}
