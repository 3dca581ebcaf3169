/* api.c - scenes with libbackfill, for test-api.py to play with real servers.
 *
 *   api SCENE ARG...
 *
 * A scene makes calls and checks what they give.  It prints "ok"; or exits with
 * 1 after a line that says what was not so.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backfill.h"

#define NONBLOCK BACKFILL_ALLOCATE_NONBLOCK
#define SPARSE BACKFILL_ALLOCATE_SPARSE

#define CHECK(what)                                                          \
  do                                                                         \
    if (!(what)) {                                                           \
      printf ("api.c:%d: not so: %s (last error %d: %s)\n", __LINE__, #what, \
              backfill_get_errno (), backfill_get_error ());                 \
      exit (1);                                                              \
    }                                                                        \
  while (0)
/* The call fails, with that number and a text that names the thing. */
#define FAILS(call, errnum, word)                           \
  do {                                                      \
    CHECK ((call) == -1);                                   \
    CHECK (backfill_get_errno () == (errnum));              \
    CHECK (strstr (backfill_get_error (), (word)) != NULL); \
  } while (0)

static uint64_t
number (const char *s)
{
  return strtoull (s, NULL, 0);
}

static double
now (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static struct backfill *
open_any (void)
{
  struct backfill *h = backfill_connect (NULL);

  CHECK (h != NULL);
  return h;
}

static struct backfill_job_info
job_of (struct backfill *h, const char *disk)
{
  struct backfill_job_info info;

  memset (&info, 0xff, sizeof info);
  info.struct_size = sizeof info;
  CHECK (backfill_block_get_job_info (h, disk, &info) == 0);
  CHECK (info.struct_size == sizeof info);
  if (info.type != BACKFILL_JOB_NONE) {
    CHECK (info.data_total == info.data_processed + info.data_remaining);
    CHECK (info.error[sizeof info.error - 1] == '\0');
  }
  return info;
}

/* In order, apart, not empty.  Returns how many bytes they are. */
static uint64_t
check_map (const struct backfill_region *regions, unsigned n)
{
  uint64_t end = 0, sum = 0;

  CHECK ((n == 0) == (regions == NULL));
  for (unsigned i = 0; i < n; i++) {
    CHECK (regions[i].length > 0);
    CHECK (i == 0 || regions[i].offset > end);
    end = regions[i].offset + regions[i].length;
    sum += regions[i].length;
  }
  return sum;
}

static bool
is_local (struct backfill *h, const char *disk, uint64_t offset,
          uint64_t length)
{
  struct backfill_region *regions;
  bool found = false;
  unsigned n;

  CHECK (backfill_block_get_allocation_map (h, disk, &n, &regions) == 0);
  check_map (regions, n);
  for (unsigned i = 0; i < n; i++)
    found = found
            || (regions[i].offset <= offset
                && regions[i].offset + regions[i].length >= offset + length);
  free (regions);
  return found;
}

/* --- ranges: DISK SIZE GRANULE ---------------------------------------- */

static void
ranges (char **argv)
{
  struct backfill *h = open_any ();
  const char *disk = argv[0];
  uint64_t size = number (argv[1]), granule = number (argv[2]);
  const uint64_t bytes[]
      = { 0, granule - 1, granule, 5 * granule + 7, size / 2 + 1, size - 1 };
  struct backfill_region *regions;
  struct backfill_job_info info;
  uint64_t sum = 0;
  unsigned n;

  CHECK (job_of (h, disk).type == BACKFILL_JOB_NONE);
  for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++) {
    uint64_t start = bytes[i] / granule * granule;
    uint64_t length = size - start < granule ? size - start : granule;

    CHECK (backfill_block_allocate (h, disk, bytes[i], 1, 0) == 0);
    CHECK (is_local (h, disk, start, length));
    info = job_of (h, disk);
    CHECK (info.type == BACKFILL_JOB_COMPLETED);
    CHECK (info.status == BACKFILL_STATUS_CONCLUDED);
    CHECK (info.range_offset == bytes[i] && info.range_length == 1);
    CHECK (info.data_total == length && info.data_remaining == 0);
    CHECK (info.errnum == 0 && info.error[0] == '\0'
           && info.failed_offset == UINT64_MAX);
  }
  /* Nothing else has become local: exactly these granules. */
  CHECK (backfill_block_get_allocation_map (h, disk, &n, &regions) == 0);
  sum = check_map (regions, n);
  free (regions);
  CHECK (sum == 4 * granule + (size % granule == 0 ? granule : size % granule));

  FAILS (backfill_block_allocate (h, disk, size + 1, 1, 0), EINVAL, "");
  FAILS (backfill_block_allocate (h, disk, size, 1, 0), EINVAL, "");
  FAILS (backfill_block_allocate (h, disk, 1, size, 0), EINVAL, "");
  FAILS (backfill_block_allocate (h, disk, UINT64_MAX, 1, 0), EINVAL, "");
  FAILS (backfill_block_allocate (h, disk, 0, UINT64_MAX, 0), EINVAL, "");
  FAILS (backfill_block_allocate (h, disk, 0, 1, 8), EINVAL, "0x8");

  /* The tail, then all. */
  CHECK (backfill_block_allocate (h, disk, size / 4 * 3, 0, SPARSE) == 0);
  CHECK (is_local (h, disk, size / 4 * 3, size - size / 4 * 3));
  CHECK (backfill_block_allocate (h, disk, 0, 0, 0) == 0);
  CHECK (is_local (h, disk, 0, size));
  info = job_of (h, disk);
  CHECK (info.data_total == size && info.sparse == 0);
  backfill_close (h);
}

/* --- jobs: DISK, whose server is slow --------------------------------- */

struct seen {
  unsigned calls, stop_after;
  uint64_t last;
  int type;
};

static int
watch (void *opaque, const struct backfill_job_info *info)
{
  struct seen *seen = opaque;

  CHECK (info->struct_size == sizeof *info);
  CHECK (info->data_processed + info->data_remaining == info->data_total);
  CHECK (info->data_processed >= seen->last);
  seen->last = info->data_processed;
  seen->type = info->type;
  return ++seen->calls == seen->stop_after;
}

static void
jobs (char **argv)
{
  struct backfill *h = open_any ();
  const char *disk = argv[0];
  struct backfill_allocate_options options
      = { .struct_size = sizeof options, .progress = watch };
  struct seen seen = { .stop_after = 2 };
  struct backfill_events *events = backfill_events_open (h, disk);
  struct backfill_event *event;
  struct backfill_job_info info;
  bool created = false, ended = false;
  double start;

  CHECK (events != NULL);
  FAILS (backfill_block_wait_job (h, disk, 0, NULL, NULL), ESRCH, "");
  FAILS (backfill_block_abort_job (h, disk), ESRCH, "");
  FAILS (backfill_block_pause_job (h, disk), ESRCH, "");
  FAILS (backfill_block_set_speed (h, disk, 1), ESRCH, "");
  FAILS (backfill_block_dismiss_job (h, disk), ESRCH, "");
  FAILS (backfill_disk_detach (h, disk), EBUSY, disk);

  /* A callback may end the waiting, and not the job. */
  options.opaque = &seen;
  options.speed = 64 << 10;
  FAILS (backfill_block_allocate_options (h, disk, 0, 0, SPARSE, &options),
         EINTR, "goes on");
  CHECK (seen.calls == 2);
  info = job_of (h, disk);
  CHECK (info.type == BACKFILL_JOB_BOUNDED && info.speed == 64 << 10
         && info.sparse == 1);
  FAILS (backfill_block_allocate (h, disk, 0, 0, NONBLOCK), EBUSY, "job");
  FAILS (backfill_block_dismiss_job (h, disk), EBUSY, "");
  /* It waits no longer than it is told to. */
  start = now ();
  FAILS (backfill_block_wait_job (h, disk, 300, NULL, NULL), ETIMEDOUT,
         "in progress");
  CHECK (now () - start >= 0.29);

  CHECK (backfill_block_pause_job (h, disk) == 0);
  CHECK (job_of (h, disk).status == BACKFILL_STATUS_PAUSED);
  CHECK (job_of (h, disk).pause_reason == BACKFILL_PAUSE_USER);
  FAILS (backfill_block_pause_job (h, disk), EALREADY, "paused");
  CHECK (backfill_block_resume_job (h, disk) == 0);
  FAILS (backfill_block_resume_job (h, disk), EALREADY, "paused");
  CHECK (backfill_block_abort_job (h, disk) == 0);
  info = job_of (h, disk);
  CHECK (info.type == BACKFILL_JOB_CANCELLED && info.data_remaining > 0);
  FAILS (backfill_block_wait_job (h, disk, 0, NULL, NULL), ECANCELED, "");
  CHECK (backfill_block_dismiss_job (h, disk) == 0);
  CHECK (job_of (h, disk).type == BACKFILL_JOB_NONE);

  /* To the end, with a callback that sees the end. */
  memset (&seen, 0, sizeof seen);
  options.speed = 0;
  CHECK (backfill_block_allocate_options (h, disk, 0, 0, 0, &options) == 0);
  CHECK (seen.calls >= 1 && seen.type == BACKFILL_JOB_COMPLETED);
  memset (&seen, 0, sizeof seen);
  CHECK (backfill_block_wait_job (h, disk, 0, watch, &seen) == 0);
  CHECK (seen.type == BACKFILL_JOB_COMPLETED);

  /* All of that was in the events, in order. */
  while (backfill_events_next (events, 0, &event) == 1) {
    CHECK (event->event != NULL && event->json != NULL);
    if (event->status != NULL && strcmp (event->status, "created") == 0)
      created = true;
    if (strcmp (event->event, "BLOCK_JOB_COMPLETED") == 0) {
      CHECK (created && event->error == NULL && event->len == event->offset);
      ended = true;
    }
    backfill_free_event (event);
  }
  CHECK (ended);
  backfill_events_close (events);
  CHECK (backfill_disk_flush (h, disk) == 0);
  CHECK (backfill_disk_detach (h, disk) == 0);
  backfill_close (h);
}

/* --- structs of other versions: DISK ---------------------------------- */

static void
structs (char **argv)
{
  struct backfill *h = open_any ();
  struct backfill_allocate_options options = { 0 };
  struct {
    struct backfill_job_info info;
    char more[64];
  } newer;
  struct backfill_job_info older;
  const size_t part = offsetof (struct backfill_job_info, local_at_start);

  CHECK (backfill_block_allocate (h, argv[0], 0, 1, 0) == 0);
  /* A program that was built with fewer members. */
  memset (&older, 0x5a, sizeof older);
  older.struct_size = part;
  CHECK (backfill_block_get_job_info (h, argv[0], &older) == 0);
  CHECK (older.type == BACKFILL_JOB_COMPLETED && older.range_length == 1);
  for (size_t i = part; i < sizeof older; i++)
    CHECK (((char *)&older)[i] == 0x5a);
  /* And one with more: what this library does not know is 0. */
  memset (&newer, 0x5a, sizeof newer);
  newer.info.struct_size = sizeof newer;
  CHECK (backfill_block_get_job_info (h, argv[0], &newer.info) == 0);
  CHECK (newer.info.type == BACKFILL_JOB_COMPLETED);
  for (size_t i = 0; i < sizeof newer.more; i++)
    CHECK (newer.more[i] == 0);
  older.struct_size = 0;
  FAILS (backfill_block_get_job_info (h, argv[0], &older), EINVAL,
         "struct_size");
  FAILS (backfill_block_allocate_options (h, argv[0], 0, 1, 0, &options),
         EINVAL, "struct_size");
  backfill_close (h);
}

/* --- a large map: DISK SIZE GRANULE ----------------------------------- */

/* Every other granule is local. */
static void
large_map (char **argv)
{
  struct backfill *h = open_any ();
  uint64_t size = number (argv[1]), granule = number (argv[2]);
  struct backfill_state_region *states;
  struct backfill_region *regions;
  double start = now (), took;
  unsigned n;

  CHECK (backfill_block_get_allocation_map (h, argv[0], &n, &regions) == 0);
  took = now () - start;
  CHECK (n == size / granule / 2);
  for (uint64_t i = 0; i < n; i++)
    CHECK (regions[i].offset == 2 * i * granule
           && regions[i].length == granule);
  free (regions);
  /* With states it is as long again: a part of it will do. */
  CHECK (backfill_block_get_state_map (h, argv[0], size / 2, 50000 * granule,
                                       &n, &states)
         == 0);
  CHECK (n == 50000);
  for (uint64_t i = 0; i < n; i++)
    CHECK (states[i].offset == size / 2 + i * granule
           && states[i].length == granule
           && (states[i].state == BACKFILL_ABSENT) == (i % 2 == 1));
  free (states);
  backfill_close (h);
  printf ("(%" PRIu64 " regions in %.2f s)\n", size / granule / 2, took);
}

/* --- a server that was stopped: DISK SOCKET --------------------------- */

static double called_at;

/* As FAILS, in about the time that was set, 1 s: there is much room for a
 * machine that is busy, but none for the default. */
#define HANGS(call)                    \
  do {                                 \
    called_at = now ();                \
    FAILS (call, ETIMEDOUT, "not ");   \
    CHECK (now () - called_at >= 0.9); \
    CHECK (now () - called_at < 30);   \
  } while (0)

static void
say_ready (void)
{
  printf ("ready\n");
  fflush (stdout);
}

static void
wait_for_go (void)
{
  char line[16];

  CHECK (fgets (line, sizeof line, stdin) != NULL);
}

static void
hung (char **argv)
{
  struct backfill_job_info info = { .struct_size = sizeof info };
  struct backfill *h = open_any (), *one = backfill_connect (argv[1]);
  struct backfill_state_region *states;
  struct backfill_region *regions;
  struct backfill_events *events;
  struct backfill_disk_info *disk;
  struct backfill_event *event;
  struct backfill_disk_info **disks;
  const char *d = argv[0];
  char *reply;
  unsigned n;

  CHECK (one != NULL);
  backfill_set_timeout (h, 1000);
  backfill_set_timeout (one, 1000);
  events = backfill_events_open (one, NULL);
  CHECK (events != NULL);
  /* One connection of each is idle, and known to work. */
  CHECK (backfill_get_disk_info (h, d, &disk) == 0);
  backfill_free_disk_info (disk);
  CHECK (backfill_list_disks (one, &n, &disks) == 0);
  backfill_free_disks (disks);
  say_ready ();
  wait_for_go (); /* it is stopped now */

  HANGS (backfill_block_get_job_info (h, d, &info)); /* the idle one */
  HANGS (backfill_block_get_job_info (h, d, &info)); /* a new one */
  HANGS (backfill_list_disks (one, &n, &disks));
  HANGS (backfill_block_allocate (h, d, 0, 0, 0));
  HANGS (backfill_block_allocate (h, d, 0, 0, NONBLOCK));
  HANGS (backfill_block_abort_job (h, d));
  HANGS (backfill_block_get_allocation_map (h, d, &n, &regions));
  HANGS (backfill_block_get_state_map (h, d, 0, 0, &n, &states));
  HANGS (backfill_block_wait_job (h, d, 0, NULL, NULL));
  HANGS (backfill_block_set_speed (h, d, 1));
  HANGS (backfill_block_pause_job (h, d));
  HANGS (backfill_block_resume_job (h, d));
  HANGS (backfill_block_dismiss_job (h, d));
  HANGS (backfill_get_disk_info (h, d, &disk));
  HANGS (backfill_disk_flush (h, d));
  HANGS (backfill_disk_detach (h, d));
  HANGS (backfill_command (one, "query-version", NULL, &reply));
  CHECK (reply == NULL);
  called_at = now ();
  CHECK (backfill_events_open (h, d) == NULL);
  CHECK (backfill_get_errno () == ETIMEDOUT && now () - called_at < 30);
  called_at = now ();
  CHECK (backfill_events_next (events, 500, &event) == 0);
  CHECK (now () - called_at >= 0.45 && now () - called_at < 30);
  say_ready ();
  wait_for_go (); /* it goes on */

  CHECK (backfill_list_disks (one, &n, &disks) == 0);
  CHECK (n == 1);
  backfill_free_disks (disks);
  CHECK (backfill_block_get_job_info (h, d, &info) == 0);
  backfill_events_close (events);
  backfill_close (one);
  backfill_close (h);
}

/* connect-hung SOCKET: the time that nobody can set. */
static void
connect_hung (char **argv)
{
  called_at = now ();
  CHECK (backfill_connect (argv[0]) == NULL);
  CHECK (backfill_get_errno () == ETIMEDOUT);
  CHECK (now () - called_at >= 59);
}

/* --- a wait that something happens to: DISK ERRNO --------------------- */

static int
first_look (void *opaque, const struct backfill_job_info *info)
{
  bool *said = opaque;

  (void)info;
  if (!*said)
    say_ready ();
  *said = true;
  return 0;
}

/* A blocking allocation that is told to the caller when it is in progress,
 * and then fails so; 0: it does not. */
static void
blocking (char **argv)
{
  struct backfill *h = open_any ();
  bool said = false;
  struct backfill_allocate_options options = { .struct_size = sizeof options,
                                               .progress = first_look,
                                               .opaque = &said };
  int r;

  backfill_set_timeout (h, 1000);
  r = backfill_block_allocate_options (h, argv[0], 0, 0, 0, &options);
  CHECK (r == (number (argv[1]) == 0 ? 0 : -1));
  CHECK (r == 0 || backfill_get_errno () == (int)number (argv[1]));
  backfill_close (h);
}

/* --- threads: DISK... ------------------------------------------------- */

enum { NR_HANDLES = 4, NR_THREADS = 4, NR_ROUNDS = 25 };

struct worker {
  pthread_t thread;
  struct backfill *h;
  const char *disk, *other;
};

static void *
work (void *opaque)
{
  struct worker *w = opaque;

  for (int i = 0; i < NR_ROUNDS; i++) {
    struct backfill_disk_info *disk, **disks;
    struct backfill_region *regions;
    unsigned n;

    job_of (w->h, w->disk);
    CHECK (backfill_block_get_allocation_map (w->h, w->disk, &n, &regions)
           == 0);
    check_map (regions, n);
    free (regions);
    CHECK (backfill_get_disk_info (w->h, w->disk, &disk) == 0);
    CHECK (strcmp (disk->store, w->disk) == 0);
    CHECK (disk->local + disk->absent == disk->size);
    backfill_free_disk_info (disk);
    CHECK (backfill_list_disks (w->h, &n, &disks) == 0);
    CHECK (n == 2 && disks[2] == NULL);
    backfill_free_disks (disks);
    /* Errors are each thread's own. */
    FAILS (backfill_disk_flush (w->h, w->other), ENXIO, w->other);
  }
  return NULL;
}

static void *
wait_for_job (void *opaque)
{
  struct worker *w = opaque;

  CHECK (backfill_block_wait_job (w->h, w->disk, 0, NULL, NULL) == 0);
  return NULL;
}

static void *
fail_once (void *opaque)
{
  struct worker *w = opaque;

  CHECK (backfill_get_error ()[0] == '\0' && backfill_get_errno () == 0);
  FAILS (backfill_block_allocate (w->h, w->disk, 0, 0, 8), EINVAL, "0x8");
  return NULL;
}

static void
threads (char **argv)
{
  struct worker workers[NR_HANDLES][NR_THREADS], waiters[NR_HANDLES];
  struct backfill *handles[NR_HANDLES];
  struct worker other;

  for (int i = 0; i < NR_HANDLES; i++)
    handles[i] = open_any ();
  /* Neither another thread's failure nor a success changes the error. */
  FAILS (backfill_disk_flush (handles[0], argv[2]), ENXIO, argv[2]);
  other.h = handles[0];
  other.disk = argv[0];
  CHECK (pthread_create (&other.thread, NULL, fail_once, &other) == 0);
  pthread_join (other.thread, NULL);
  CHECK (backfill_disk_flush (handles[0], argv[0]) == 0);
  CHECK (backfill_get_errno () == ENXIO
         && strstr (backfill_get_error (), argv[2]) != NULL);
  for (int i = 0; i < 2; i++)
    CHECK (backfill_block_allocate (handles[i], argv[i], 0, 0, NONBLOCK) == 0);
  /* Who waits must not hold up the others of the same handle. */
  for (int i = 0; i < NR_HANDLES; i++) {
    waiters[i].h = handles[i];
    waiters[i].disk = argv[i % 2];
    CHECK (pthread_create (&waiters[i].thread, NULL, wait_for_job, &waiters[i])
           == 0);
    for (int j = 0; j < NR_THREADS; j++) {
      struct worker *w = &workers[i][j];

      w->h = handles[i];
      w->disk = argv[(i + j) % 2];
      w->other = argv[2 + (i + j) % 2];
      CHECK (pthread_create (&w->thread, NULL, work, w) == 0);
    }
  }
  for (int i = 0; i < NR_HANDLES; i++)
    for (int j = 0; j < NR_THREADS; j++)
      pthread_join (workers[i][j].thread, NULL);
  for (int i = 0; i < 2; i++) {
    CHECK (job_of (handles[i], argv[i]).type == BACKFILL_JOB_BOUNDED);
    CHECK (backfill_block_set_speed (handles[i], argv[i], 0) == 0);
  }
  say_ready ();
  for (int i = 0; i < NR_HANDLES; i++) {
    pthread_join (waiters[i].thread, NULL);
    backfill_close (handles[i]);
  }
}

/* --- addresses: STORE NAME CONTROL NBD LINK --------------------------- */

static void
is_disk (const char *uri, const char *disk, const char *store)
{
  struct backfill *h = backfill_connect (uri);
  struct backfill_disk_info *info;

  CHECK (h != NULL);
  CHECK (backfill_get_disk_info (h, disk, &info) == 0);
  CHECK (strcmp (info->store, store) == 0);
  backfill_free_disk_info (info);
  backfill_close (h);
}

static void
no_server (const char *uri, int errnum, const char *word)
{
  CHECK (backfill_connect (uri) == NULL);
  CHECK (backfill_get_errno () == errnum);
  CHECK (strstr (backfill_get_error (), word) != NULL);
}

static void
addresses (char **argv)
{
  const char *store = argv[0], *name = argv[1], *control = argv[2],
             *nbd = argv[3], *link = argv[4];
  const char *base = strrchr (store, '/') + 1;
  struct backfill *h = open_any ();
  struct backfill_disk_info *info;
  char *uri;

  is_disk (NULL, store, store);
  is_disk (NULL, name, store);
  is_disk (NULL, link, store);
  is_disk (NULL, base, store); /* a file of this folder */
  is_disk (control, name, store);
  is_disk (control, store, store);
  CHECK (asprintf (&uri, "unix:%s", control) > 0);
  is_disk (uri, name, store);
  free (uri);
  CHECK (asprintf (&uri, "nbd:%s", nbd) > 0);
  is_disk (uri, name, store);
  is_disk (uri, store, store);
  free (uri);
  is_disk ("nbd:link.sock", name, store); /* another path of it */

  no_server ("nbd:/nonexistent", ENXIO, "/nonexistent");
  CHECK (asprintf (&uri, "nbd:%s", store) > 0);
  no_server (uri, ENOTSOCK, store);
  free (uri);
  /* Somebody listens there who has no disks. */
  no_server ("nbd:plain.sock", ENXIO, "plain.sock");
  no_server ("unix:", EINVAL, "empty");
  no_server ("http://x/", EINVAL, "http://x/");
  no_server ("/nonexistent", ENOENT, "/nonexistent");
  no_server (store, ECONNREFUSED, store);
  FAILS (backfill_get_disk_info (h, "no-such-name", &info), ENOENT,
         "no-such-name");
  FAILS (backfill_get_disk_info (h, "/nonexistent", &info), ENOENT,
         "/nonexistent");
  backfill_close (h);
}

int
main (int argc, char **argv)
{
  static const struct {
    const char *name;
    int nargs;
    void (*run) (char **argv);
  } scenes[] = {
    { "addresses", 5, addresses },
    { "blocking", 2, blocking },
    { "connect-hung", 1, connect_hung },
    { "hung", 2, hung },
    { "jobs", 1, jobs },
    { "large-map", 3, large_map },
    { "ranges", 3, ranges },
    { "structs", 1, structs },
    { "threads", 4, threads },
  };

  for (size_t i = 0; argc > 1 && i < sizeof scenes / sizeof scenes[0]; i++)
    if (strcmp (argv[1], scenes[i].name) == 0 && argc - 2 == scenes[i].nargs) {
      scenes[i].run (argv + 2);
      printf ("ok\n");
      return 0;
    }
  fprintf (stderr, "api: see api.c\n");
  return 2;
}
