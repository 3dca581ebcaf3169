/* model.c - the engine against a model: random operations from many threads,
 * and the deaths of its process.
 *
 *   model [-t SECONDS] [-v] SEED ...
 *
 * Each seed is a volume with a golden image served by a real nbdkit (over a
 * unix socket, where it may also fail, hang and be killed, or as a command in
 * brackets).  It lives in several processes, one after the other, as this one
 * forks: a life ends by the gate, by _exit in mid-operation, by SIGKILL at any
 * moment, and the last one by detaching.  What was learnt of the volume is in
 * memory shared by all of them.
 *
 * In each life some threads are guests (reads, changes, flushes, cache,
 * extents: any place and size), one gives a job orders, one watches what is
 * reported.  They check:
 *
 *   reads        what a sector may show (sectors.h): I3, and I5 after a death
 *   the map      no granule that was local is absent again: I2
 *   counters     local + absent = size, total = processed + remaining,
 *                nothing goes back, a completed job has nothing left: I7
 *   what needs no backing store works while that fails: I4
 *   a second opener is refused: I8
 *   a clean end needs no working map: that is removed
 *   after the last, the raw image alone is the disk
 *
 * What a seed decides is what is asked for, and in which order; threads and
 * deaths meet by chance.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bytes.h"
#include "child.h"
#include "cleanup.h"
#include "clock.h"
#include "disk.h"
#include "log.h"
#include "sectors.h"

#define GUESTS 5u
/* Threads by number: guests first, then these. */
enum { ORDERS = GUESTS, WATCH, MAIN, NR_THREADS };
#define MAX_REQUEST (UINT64_C (3) << 20)
#define LIVES 5u
#define HANG_MS 240000u

enum ending { END_GATE, END_EXIT, END_KILL, END_DETACH };
static const char *const ending_names[] = { "gate", "_exit", "kill", "detach" };

/* What the seed decides of the volume. */
static struct setup {
  uint64_t seed, size;
  uint32_t granule, fetch_unit;
  unsigned connections, delay_ms;
  bool bracket; /* else a unix socket */
  bool fails;   /* the backing store may */
  bool no_extents;
} setup;

/* Shared by the processes. */
static struct shared {
  bool failed, opened, stop; /* atomic */
  char why[600];
  unsigned life;
  uint64_t ops[NR_THREADS];
  const char *doing[NR_THREADS];
  /* Orders to the job that have been answered: what a restart must show. */
  enum { JOB_UNKNOWN, JOB_GONE, JOB_GOING, JOB_OVER } job;
  struct job_options job_options;
  uint64_t nr_granules;
  /* By granule, atomic: seen local; changed by the guest; zero in golden. */
  uint8_t *local, *changed, *zero;
} * sh;

static struct sectors *model;
static struct disk *disk;
static uint8_t *golden;
static char dir[200], store[256], metadata[300], golden_path[256], run_dir[256],
    sock[256], trigger[256], log_path[256];
static pid_t backing_pid, life_pid;
static double seconds = 8;
static bool verbose;
static uint64_t life_begin, life_ms;
static enum ending this_ending;
static const char *nbdkit = "nbdkit";

/* Random numbers: each thread its own. */

struct rng {
  uint64_t state;
};

static uint64_t
rnd (struct rng *r)
{
  uint64_t z = r->state += UINT64_C (0x9e3779b97f4a7c15);

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static uint64_t
below (struct rng *r, uint64_t n)
{
  return n ? rnd (r) % n : 0;
}

static bool
chance (struct rng *r, unsigned percent)
{
  return below (r, 100) < percent;
}

static void
nap (uint64_t ms)
{
  struct timespec ts = { .tv_sec = (time_t)(ms / 1000),
                         .tv_nsec = (long)(ms % 1000) * 1000000 };

  nanosleep (&ts, NULL);
}

/* The first failure counts; the process goes on until it is told to end, so
 * that this can be called anywhere. */
static void __attribute__ ((format (printf, 1, 2)))
failed (const char *fmt, ...)
{
  bool was = false;
  va_list ap;

  if (!__atomic_compare_exchange_n (&sh->failed, &was, true, false,
                                    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
    return;
  va_start (ap, fmt);
  vsnprintf (sh->why, sizeof sh->why, fmt, ap);
  va_end (ap);
}

#define MUST(condition, ...) \
  do                         \
    if (!(condition))        \
      failed (__VA_ARGS__);  \
  while (0)

static bool
has_failed (void)
{
  return __atomic_load_n (&sh->failed, __ATOMIC_ACQUIRE);
}

static bool
must_stop (void)
{
  return has_failed () || __atomic_load_n (&sh->stop, __ATOMIC_ACQUIRE);
}

/* Granules. */

static bool
flag (const uint8_t *flags, uint64_t g)
{
  return __atomic_load_n (&flags[g], __ATOMIC_ACQUIRE);
}

static void
set_flag (uint8_t *flags, uint64_t g)
{
  __atomic_store_n (&flags[g], 1, __ATOMIC_RELEASE);
}

static uint64_t
granule_first (uint64_t offset)
{
  return offset / setup.granule;
}

static uint64_t
granule_last (uint64_t end)
{
  return (end + setup.granule - 1) / setup.granule;
}

static bool
is_local (uint64_t offset, uint64_t end)
{
  for (uint64_t g = granule_first (offset); g < granule_last (end); g++)
    if (!flag (sh->local, g))
      return false;
  return true;
}

/* The guest changed it, and has the answer. */
static void
now_changed (uint64_t offset, uint64_t end, bool whole_only)
{
  uint64_t first = granule_first (offset), last = granule_last (end);

  if (whole_only) {
    first = granule_last (offset);
    last = end == setup.size ? last : granule_first (end);
  }
  for (uint64_t g = first; g < last; g++) {
    set_flag (sh->changed, g);
    set_flag (sh->local, g);
  }
}

/* A change of whole granules, or with edges that are local, needs no backing
 * store. */
static bool
needs_no_source (uint64_t offset, uint64_t end)
{
  bool head = offset % setup.granule,
       tail = end % setup.granule && end != setup.size;

  return (!head || is_local (offset, offset + 1))
         && (!tail || is_local (end - 1, end));
}

/* Guests. */

struct guest {
  unsigned who;
  struct rng rng;
  uint8_t *buf;
  bool gated;
};

/* Most is asked for near a place that moves over the disk, life after life: so
 * that there is always something absent ahead. */
static uint64_t
front (void)
{
  uint64_t into = min_u64 ((now_ms () - life_begin) * 1000 / life_ms, 1000);

  return setup.size / (LIVES * 1000) * (sh->life * 1000 + into);
}

static void
range (struct guest *t, uint64_t *offset, uint64_t *length)
{
  struct rng *r = &t->rng;
  uint64_t at = front (), g = setup.granule;
  uint64_t most = chance (r, 60)   ? 2 * g
                  : chance (r, 90) ? 128 << 10
                                   : MAX_REQUEST;

  switch (below (r, 10)) {
  case 0: /* where it has been */
  case 1:
    at = below (r, at + 1);
    break;
  case 2:
  case 3:
    at += below (r, 1 << 20);
    break;
  case 4: /* the end, if only now and then */
    at = chance (r, 90) ? at : setup.size - min_u64 (setup.size, 3 * g);
    break;
  default: /* a few places where all meet */
    at = round_down (at, 64 << 10) + (below (r, 4) << 18) + below (r, 6 * g);
  }
  *offset = min_u64 (at, setup.size - 1);
  *length = 1 + below (r, min_u64 (most, setup.size - *offset));
  switch (below (r, 4)) {
  case 0: /* whole granules */
    *offset = round_down (*offset, g);
    *length = min_u64 (round_up (*length, g), setup.size - *offset);
    break;
  case 1: /* whole sectors */
    *offset = round_down (*offset, SECTOR);
    *length = min_u64 (round_up (*length, SECTOR), setup.size - *offset);
    break;
  default:
    break;
  }
  if (*length > MAX_REQUEST)
    *length = MAX_REQUEST;
}

/* An operation failed: may it have? */
static void
check_error (struct guest *t, const char *what, bool source_is_needed,
             uint64_t offset, uint64_t length)
{
  int err = errno;

  if (err == ESHUTDOWN) {
    t->gated = true;
    return;
  }
  MUST (setup.fails && source_is_needed && err == EIO,
        "%s %" PRIu64 "+%" PRIu64 " failed: %s", what, offset, length,
        strerror (err));
}

static bool
read_and_check (struct guest *t, uint64_t offset, uint64_t length, uint8_t *buf)
{
  bool local = is_local (offset, offset + length), ok;
  char why[300];

  sectors_read_begin (model, t->who);
  ok = disk_pread (disk, buf, length, offset) == 0;
  if (!ok)
    check_error (t, "read", !local, offset, length);
  if (!sectors_read_end (model, t->who, offset, length, ok ? buf : NULL, why))
    failed ("read %" PRIu64 "+%" PRIu64 ": %s", offset, length, why);
  return ok;
}

static void
do_read (struct guest *t)
{
  uint64_t offset, length;

  range (t, &offset, &length);
  read_and_check (t, offset, length, t->buf);
}

static void
do_change (struct guest *t, enum change kind)
{
  static const char *const names[] = { "write", "zero", "trim" };
  struct sectors_op op;
  uint64_t offset, length, part[2];
  uint8_t parts[2][SECTOR] = { { 0 } };
  unsigned flags = chance (&t->rng, 8) ? DISK_FUA : 0, nr;
  bool known = true, alone;
  int r = 0;

  range (t, &offset, &length);
  if (!sectors_reserve (model, &op, kind, offset, length))
    return;
  nr = sectors_parts (model, &op, part);
  for (unsigned i = 0; i < nr && known; i++)
    known = read_and_check (t, part[i] * SECTOR,
                            min_u64 (SECTOR, setup.size - part[i] * SECTOR),
                            parts[i]);
  alone = kind == CHANGE_TRIM || needs_no_source (offset, offset + length);
  sectors_issue (model, &op, parts, t->buf);
  if (!known) {
    /* It was never asked for. */
    sectors_answer (model, &op, false);
    return;
  }
  switch (kind) {
  case CHANGE_WRITE:
    r = disk_pwrite (disk, t->buf, length, offset, flags);
    break;
  case CHANGE_ZERO:
    if (chance (&t->rng, 50))
      flags |= DISK_MAY_TRIM;
    if (chance (&t->rng, 10))
      flags |= DISK_FAST_ZERO;
    r = disk_zero (disk, length, offset, flags);
    break;
  case CHANGE_TRIM:
    r = disk_trim (disk, length, offset, flags);
    break;
  }
  if (r == -1 && !((flags & DISK_FAST_ZERO) && errno == ENOTSUP))
    check_error (t, names[kind], !alone, offset, length);
  sectors_answer (model, &op, r == 0);
  if (r == 0)
    now_changed (offset, offset + length, kind == CHANGE_TRIM);
}

struct seen {
  struct guest *t;
  uint64_t at, since, local;
  const uint8_t *before; /* what was known to be local; NULL: all of it */
  const char *what;
};

static int
see_region (void *opaque, uint64_t offset, uint64_t length,
            enum disk_region_state state)
{
  struct seen *s = opaque;
  uint64_t end = offset + length;

  MUST (offset == s->at && length > 0,
        "%s: a region at %" PRIu64 " where %" PRIu64 " was to come", s->what,
        offset, s->at);
  s->at = end;
  if (state != DISK_ABSENT)
    s->local += length;
  for (uint64_t g = granule_first (offset); g < granule_last (end); g++)
    if (state != DISK_ABSENT)
      set_flag (sh->local, g);
    else if (!s->before || s->before[g])
      failed ("%s: granule %" PRIu64 " was local and is absent", s->what, g);
  if (state == DISK_ZERO && s->since
      && !sectors_may_be_zero (model, s->since, offset, length))
    failed ("%s: %" PRIu64 "+%" PRIu64 " is called zero", s->what, offset,
            length);
  return 0;
}

static void
do_cache (struct guest *t)
{
  uint64_t offset, length;
  struct seen s = { .t = t, .what = "cache" };

  range (t, &offset, &length);
  if (disk_cache (disk, length, offset) == -1) {
    check_error (t, "cache", !is_local (offset, offset + length), offset,
                 length);
    return;
  }
  /* All of it is local now, and stays so. */
  s.at = offset;
  if (disk_regions (disk, length, offset, false, see_region, &s) == -1)
    check_error (t, "regions", false, offset, length);
}

static int
see_extent (void *opaque, uint64_t offset, uint64_t length, unsigned flags)
{
  struct seen *s = opaque;

  MUST (offset == s->at && length > 0,
        "extents: one at %" PRIu64 " where %" PRIu64 " was to come", offset,
        s->at);
  s->at = offset + length;
  if ((flags & DISK_EXTENT_ZERO)
      && !sectors_may_be_zero (model, s->since, offset, length))
    failed ("extents: %" PRIu64 "+%" PRIu64 " is called zero", offset, length);
  return 0;
}

static void
do_extents (struct guest *t)
{
  uint64_t offset, length;
  struct seen s = { .t = t };
  char why[300];

  range (t, &offset, &length);
  s.at = offset;
  s.since = sectors_read_begin (model, t->who);
  if (disk_extents (disk, length, offset, see_extent, &s) == -1)
    check_error (t, "extents", false, offset, length);
  else
    MUST (s.at == offset + length,
          "extents: they end at %" PRIu64 ", not at %" PRIu64, s.at,
          offset + length);
  sectors_read_end (model, t->who, offset, length, NULL, why);
}

static void
do_flush (struct guest *t)
{
  if (disk_flush (disk) == -1)
    check_error (t, "flush", false, 0, 0);
}

static void *
guest (void *arg)
{
  static const struct {
    unsigned percent;
    const char *name;
  } ops[] = { { 42, "read" }, { 30, "write" }, { 8, "zero" },   { 7, "trim" },
              { 5, "flush" }, { 4, "cache" },  { 4, "extents" } };
  struct guest *t = arg;

  while (!t->gated && !must_stop ()) {
    unsigned n = (unsigned)below (&t->rng, 100), i = 0;

    for (; n >= ops[i].percent; i++)
      n -= ops[i].percent;
    sh->doing[t->who] = ops[i].name;
    sh->ops[t->who]++;
    switch (i) {
    case 0:
      do_read (t);
      break;
    case 1:
      do_change (t, CHANGE_WRITE);
      break;
    case 2:
      do_change (t, CHANGE_ZERO);
      break;
    case 3:
      do_change (t, CHANGE_TRIM);
      break;
    case 4:
      do_flush (t);
      break;
    case 5:
      do_cache (t);
      break;
    default:
      do_extents (t);
    }
  }
  sh->doing[t->who] = "nothing";
  return NULL;
}

/* Orders. */

/* Odd: an order is under way that may start another job.  atomic */
static unsigned epoch;
static bool no_orders; /* atomic */

static void
expect (const char *what, int r, const int *errors, char *error)
{
  int err = errno;

  if (r == 0)
    return;
  MUST (error && *error, "%s failed without a message", what);
  for (; *errors; errors++)
    if (err == *errors) {
      free (error);
      errno = err;
      return;
    }
  failed ("%s: %s (%s)", what, strerror (err), error ? error : "no message");
  free (error);
}

/* t: a random one; NULL: of the whole disk. */
static int
order_start (struct guest *t)
{
  struct job_options o = { .full = setup.seed % 2 };
  char *error = NULL;
  int r;

  if (t) {
    range (t, &o.offset, &o.length);
    o.full = chance (&t->rng, 30);
    o.speed = chance (&t->rng, 70) ? 1 + below (&t->rng, 2 << 20) : 0;
    /* To the end: but slowly. */
    if (o.speed && chance (&t->rng, 50))
      o.length = 0;
    else
      o.length += below (
          &t->rng, min_u64 (1 << 20, setup.size - o.offset - o.length + 1));
    o.on_error = chance (&t->rng, 50) ? JOB_ON_ERROR_SKIP : JOB_ON_ERROR_REPORT;
    o.retry = chance (&t->rng, 20) ? 1 + below (&t->rng, 500) : 0;
  }
  sh->job = JOB_UNKNOWN;
  __atomic_add_fetch (&epoch, 1, __ATOMIC_SEQ_CST);
  r = job_start (disk, &o, NULL, &error);
  __atomic_add_fetch (&epoch, 1, __ATOMIC_SEQ_CST);
  expect ("start", r, (int[]){ EBUSY, ESHUTDOWN, 0 }, error);
  if (r == 0) {
    sh->job_options = o;
    sh->job = JOB_GOING;
  }
  return r;
}

static void
order_abort (void)
{
  char *error = NULL;
  int r;

  sh->job = JOB_UNKNOWN;
  r = job_abort (disk, 0, &error);
  expect ("abort", r, (int[]){ ESRCH, ESHUTDOWN, 0 }, error);
  if (r == 0)
    sh->job = JOB_OVER;
}

static void
order_dismiss (void)
{
  char *error = NULL;
  int r;

  sh->job = JOB_UNKNOWN;
  r = job_dismiss (disk, 0, &error);
  expect ("dismiss", r, (int[]){ ESRCH, EBUSY, ESHUTDOWN, 0 }, error);
  if (r == 0)
    sh->job = JOB_GONE;
}

static struct disk_config
configuration (void)
{
  return (struct disk_config){ .store = store, .runtime_dir = run_dir };
}

/* It would be the same volume twice. */
static void
open_again (void)
{
  struct disk_config c = configuration ();
  char *error = NULL;
  struct disk *second = disk_open (&c, &error);

  if (second) {
    failed ("the volume was opened a second time");
    disk_free (second);
    return;
  }
  MUST (errno == EBUSY && error, "a second opener got %s: %s", strerror (errno),
        error ? error : "no message");
  free (error);
}

static void *
orders (void *arg)
{
  struct guest *t = arg;
  bool gated = false;

  while (!gated && !must_stop ()
         && !__atomic_load_n (&no_orders, __ATOMIC_ACQUIRE)) {
    struct job_info info;
    char *error = NULL;
    int r = 0;

    nap (below (&t->rng, 60));
    sh->ops[t->who]++;
    switch (below (&t->rng, 8)) {
    case 0:
    case 1:
      sh->doing[t->who] = "start";
      r = order_start (t);
      break;
    case 2:
      sh->doing[t->who] = "abort";
      if (chance (&t->rng, 40))
        order_abort ();
      break;
    case 3:
      sh->doing[t->who] = "pause";
      r = job_pause (disk, 0, &error);
      expect ("pause", r, (int[]){ ESRCH, EALREADY, ESHUTDOWN, 0 }, error);
      break;
    case 4:
      sh->doing[t->who] = "resume";
      r = job_resume (disk, 0, &error);
      expect ("resume", r, (int[]){ ESRCH, EALREADY, ESHUTDOWN, 0 }, error);
      break;
    case 5:
      sh->doing[t->who] = "speed";
      r = job_set_speed (disk, 0, 1 + below (&t->rng, 2 << 20), &error);
      expect ("speed", r, (int[]){ ESRCH, ESHUTDOWN, 0 }, error);
      break;
    case 6:
      sh->doing[t->who] = "dismiss";
      job_get_info (disk, &info);
      if (info.status == JOB_CONCLUDED && chance (&t->rng, 30))
        order_dismiss ();
      break;
    default:
      sh->doing[t->who] = "second open";
      /* Where the gate is closed meanwhile it would be no second. */
      if (this_ending != END_GATE && chance (&t->rng, 20))
        open_again ();
    }
    if (r == -1 && errno == ESHUTDOWN)
      gated = true;
  }
  sh->doing[t->who] = "nothing";
  return NULL;
}

/* Watching. */

struct watch {
  struct guest t;
  uint64_t local; /* last seen */
  unsigned epoch;
  struct job_info job;
};

static void
watch_job (struct watch *w, const struct job_info *j)
{
  uint64_t g = setup.granule;

  if (j->status == JOB_NONE) {
    MUST (j->total == 0, "there is no job, but its total is %" PRIu64,
          j->total);
    return;
  }
  MUST (j->processed + j->remaining == j->total && j->processed <= j->total,
        "job: %" PRIu64 " + %" PRIu64 " is not %" PRIu64, j->processed,
        j->remaining, j->total);
  MUST (j->total
            == min_u64 (round_up (j->options.offset + j->options.length, g),
                        setup.size)
                   - round_down (j->options.offset, g),
        "job: %" PRIu64 "+%" PRIu64 " has a total of %" PRIu64,
        j->options.offset, j->options.length, j->total);
  MUST ((j->status == JOB_CONCLUDED) == (j->result != JOB_RESULT_NONE),
        "job: status %s, result %s", job_status_name (j->status),
        job_result_name (j->result));
  MUST (j->result != JOB_RESULT_COMPLETED || j->remaining == 0,
        "job: completed, but %" PRIu64 " remain", j->remaining);
  MUST (j->result == JOB_RESULT_NONE || j->result == JOB_RESULT_COMPLETED
            || (j->errnum && j->error[0]),
        "job: it %s without an error", job_result_name (j->result));
  if (w->job.status == JOB_NONE)
    return;
  MUST (j->total == w->job.total && j->processed >= w->job.processed
            && j->time_elapsed >= w->job.time_elapsed
            && j->bytes_read >= w->job.bytes_read,
        "job: processed %" PRIu64 " of %" PRIu64 ", elapsed %" PRIu64
        ", read %" PRIu64 "; before: %" PRIu64 " of %" PRIu64 ", %" PRIu64
        ", %" PRIu64,
        j->processed, j->total, j->time_elapsed, j->bytes_read,
        w->job.processed, w->job.total, w->job.time_elapsed, w->job.bytes_read);
}

static void
watch_info (struct watch *w, struct disk_info *info)
{
  unsigned before = __atomic_load_n (&epoch, __ATOMIC_SEQ_CST);

  MUST (disk_get_info (disk, info) == 0, "info failed");
  MUST (info->local + info->absent == setup.size && info->size == setup.size,
        "info: %" PRIu64 " local, %" PRIu64 " absent, size %" PRIu64,
        info->local, info->absent, info->size);
  MUST (info->local >= w->local, "info: %" PRIu64 " local, %" PRIu64 " before",
        info->local, w->local);
  MUST (!info->complete || info->absent == 0,
        "info: complete with %" PRIu64 " absent", info->absent);
  MUST (info->sync_error == 0 && info->nr_damaged == 0,
        "info: sync error %d, %" PRIu64 " damaged", info->sync_error,
        info->nr_damaged);
  w->local = info->local;
  /* Was it one and the same job? */
  if (before % 2 || before != __atomic_load_n (&epoch, __ATOMIC_SEQ_CST)) {
    w->job.status = JOB_NONE;
    return;
  }
  if (before != w->epoch)
    w->job.status = JOB_NONE;
  w->epoch = before;
  watch_job (w, &info->job);
  w->job = info->job;
}

static bool
watch_map (struct watch *w)
{
  CLEANUP_FREE uint8_t *before = malloc (sh->nr_granules);
  struct seen s = { .t = &w->t, .before = before, .what = "map" };
  struct disk_info info;
  uint64_t least;
  char why[300];
  bool zero = chance (&w->t.rng, 50);
  int r;

  for (uint64_t g = 0; g < sh->nr_granules; g++)
    before[g] = flag (sh->local, g);
  watch_info (w, &info);
  least = info.local;
  s.since = sectors_read_begin (model, w->t.who);
  r = disk_regions (disk, setup.size, 0, zero, see_region, &s);
  sectors_read_end (model, w->t.who, 0, 0, NULL, why);
  if (r == -1) {
    MUST (errno == ESHUTDOWN, "map: %s", strerror (errno));
    return false;
  }
  watch_info (w, &info);
  MUST (s.at == setup.size, "map: it ends at %" PRIu64, s.at);
  MUST (s.local >= least && s.local <= info.local,
        "map: %" PRIu64 " local; info said %" PRIu64 " before and %" PRIu64
        " after",
        s.local, least, info.local);
  return true;
}

static void *
watch (void *arg)
{
  struct watch *w = arg;
  struct disk_info info;

  while (!must_stop ()) {
    w->t.gated = false;
    sh->ops[WATCH]++;
    sh->doing[WATCH] = "info";
    watch_info (w, &info);
    sh->doing[WATCH] = "map";
    if (sh->ops[WATCH] % 4 == 0 && !watch_map (w))
      break;
    nap (below (&w->t.rng, 15));
  }
  sh->doing[WATCH] = "nothing";
  return NULL;
}

/* A life. */

/* What is local shows the right bytes, before anything else is asked. */
static int
read_region (void *opaque, uint64_t offset, uint64_t length,
             enum disk_region_state state)
{
  struct guest *t = opaque;
  uint64_t end = offset + length;

  for (uint64_t g = granule_first (offset); g < granule_last (end); g++)
    if (state != DISK_ABSENT)
      set_flag (sh->local, g);
    else if (flag (sh->local, g))
      failed ("granule %" PRIu64 " was local before the restart", g);
  while (state != DISK_ABSENT && offset < end) {
    uint64_t n = min_u64 (end - offset, MAX_REQUEST);

    read_and_check (t, offset, n, t->buf);
    offset += n;
  }
  return 0;
}

static void
check_restart (struct guest *t)
{
  struct job_info j;
  bool going;

  sh->doing[t->who] = "reading what is local";
  MUST (disk_regions (disk, setup.size, 0, true, read_region, t) == 0,
        "map: %s", strerror (errno));
  if (verbose) {
    struct disk_info info;

    disk_get_info (disk, &info);
    printf ("life %u: %" PRIu64 " of %" PRIu64 " absent, job %s\n", sh->life,
            info.absent, info.size, job_status_name (info.job.status));
  }
  job_get_info (disk, &j);
  going = j.status != JOB_NONE && j.status != JOB_CONCLUDED;
  switch (sh->job) {
  case JOB_UNKNOWN:
    break;
  case JOB_GONE:
    MUST (j.status == JOB_NONE, "a job that was dismissed is %s",
          job_status_name (j.status));
    break;
  case JOB_OVER:
    MUST (j.status != JOB_NONE && !going, "a job that had ended is %s",
          job_status_name (j.status));
    break;
  case JOB_GOING:
    MUST (j.status != JOB_NONE && j.options.offset == sh->job_options.offset
              && j.options.full == sh->job_options.full,
          "the job is %s, %" PRIu64 "+%" PRIu64, job_status_name (j.status),
          j.options.offset, j.options.length);
  }
}

static void without_debug (enum log_level level, const char *fmt, va_list ap)
    __attribute__ ((format (printf, 2, 0)));

static void
without_debug (enum log_level level, const char *fmt, va_list ap)
{
  char text[1000];

  if (level == LOG_LEVEL_DEBUG)
    return;
  vsnprintf (text, sizeof text, fmt, ap);
  fprintf (stderr, "%s\n", text);
}

static void
open_disk (bool is_new)
{
  CLEANUP_FREE char *backing = NULL;
  struct disk_config c = configuration ();
  char *error = NULL;

  if (is_new) {
    if (setup.bracket
            ? asprintf (&backing,
                        "[ %s -r --filter=delay file '%s' "
                        "delay-read=%ums ]",
                        nbdkit, golden_path, setup.delay_ms)
                  == -1
            : asprintf (&backing, "nbd+unix:///?socket=%s", sock) == -1)
      abort ();
    c.backing = backing;
    c.granule = setup.granule;
    c.fetch_unit = setup.fetch_unit;
    c.connections = setup.connections;
    /* Long where nothing is to fail, however slow the machine. */
    c.timeout = setup.fails ? 2000 : 300000;
  }
  disk = disk_open (&c, &error);
  /* A new one needs the backing store, which may just be starting again. */
  for (unsigned i = 0; !disk && is_new && i < 300; i++) {
    nap (100);
    free (error);
    disk = disk_open (&c, &error);
  }
  if (!disk) {
    failed ("cannot open the volume: %s", error);
    _exit (1);
  }
  if (disk_start (disk, &error) == -1) {
    failed ("cannot start: %s", error);
    _exit (1);
  }
  __atomic_store_n (&sh->opened, true, __ATOMIC_RELEASE);
}

static struct guest
new_guest (unsigned who)
{
  struct guest t = { .who = who };

  t.rng.state = setup.seed * 1000 + sh->life * 50 + who;
  t.buf = malloc (MAX_REQUEST);
  if (!t.buf)
    abort ();
  return t;
}

static void
wait_for_job (void)
{
  char *error = NULL;
  struct job_info j;

  for (;;) {
    job_get_info (disk, &j);
    if (j.status == JOB_NONE || j.status == JOB_CONCLUDED)
      break;
    free (error);
    error = NULL;
    /* One that was going on already, slowly or paused. */
    job_set_speed (disk, 0, 0, &error);
    if (j.status == JOB_PAUSED && job_resume (disk, 0, &error) == -1)
      nap (1);
    if (must_stop ())
      break;
    nap (10);
  }
  free (error);
}

static int
see_absent (void *opaque, uint64_t offset, uint64_t length,
            enum disk_region_state state)
{
  (void)opaque;
  (void)length;
  MUST (state != DISK_ABSENT, "%" PRIu64 " is absent at the end", offset);
  return 0;
}

/* All local, by a job over all of it; then let go. */
static void
fill_and_detach (void)
{
  struct disk_info info;
  char *error = NULL;
  bool done = false;

  sh->doing[MAIN] = "filling";
  while (!done && !must_stop ()) {
    wait_for_job ();
    if (order_start (NULL) == -1)
      continue;
    wait_for_job ();
    disk_get_info (disk, &info);
    done = info.job.result == JOB_RESULT_COMPLETED;
    /* Failures of a backing store that is well now may still come in. */
    MUST (done || setup.fails, "the last job %s: %s",
          job_result_name (info.job.result), info.job.error);
  }
  disk_regions (disk, setup.size, 0, true, see_absent, NULL);
  disk_get_info (disk, &info);
  MUST (info.complete || has_failed (), "it is not complete at the end");
  sh->doing[MAIN] = "detaching";
  MUST (disk_detach (disk, &error) == 0 || has_failed (), "detach: %s", error);
  free (error);
}

static void
live (enum ending ending, uint64_t ms)
{
  struct guest main_thread = new_guest (MAIN), guests[NR_THREADS];
  struct watch watcher = { 0 };
  pthread_t threads[NR_THREADS];
  int r;

  life_begin = now_ms ();
  life_ms = ms;
  this_ending = ending;
  log_set_sink (without_debug);
  sh->doing[MAIN] = "opening";
  if (disk_pools_start () == -1)
    failed ("pools: %s", strerror (errno));
  /* A process that died too soon has made none. */
  open_disk (access (metadata, F_OK) == -1);
  check_restart (&main_thread);
  for (unsigned i = 0; i < MAIN; i++) {
    guests[i] = new_guest (i);
    watcher.t = guests[i];
    if (pthread_create (&threads[i], NULL,
                        i < GUESTS    ? guest
                        : i == ORDERS ? orders
                                      : watch,
                        i == WATCH ? (void *)&watcher : &guests[i])
        != 0)
      abort ();
  }
  sh->doing[MAIN] = "sleeping";
  for (uint64_t until = life_begin + ms; !has_failed ();) {
    uint64_t now = now_ms ();

    if (ending != END_KILL && now >= until)
      break;
    nap (ending == END_KILL ? 20 : min_u64 (20, until - now));
  }
  if (has_failed ())
    _exit (1);
  if (ending == END_EXIT) {
    sectors_lock (model);
    /* (Not _exit, in which ThreadSanitizer would miss what is not joined.) */
    syscall (SYS_exit_group, 0);
  }
  if (ending == END_DETACH) {
    /* Orders are ours now; guests and watch go on. */
    __atomic_store_n (&no_orders, true, __ATOMIC_RELEASE);
    pthread_join (threads[ORDERS], NULL);
    fill_and_detach ();
  }
  if (has_failed ())
    _exit (1);
  /* With guests inside. */
  sh->doing[MAIN] = "at the gate";
  r = disk_gate (disk);
  __atomic_store_n (&sh->stop, true, __ATOMIC_RELEASE);
  for (unsigned i = 0; i < MAIN; i++)
    if (i != ORDERS || ending != END_DETACH)
      pthread_join (threads[i], NULL);
  disk_free (disk);
  disk_pools_stop ();
  for (unsigned i = 0; i < MAIN; i++)
    free (guests[i].buf);
  free (main_thread.buf);
  /* On a machine that is slow enough it is no clean end, but a right one. */
  exit (has_failed () ? 1 : r == 0 ? 0 : 3);
}

/* Around the lives. */

static int
remove_one (const char *path, const struct stat *sb, int flag_, struct FTW *ftw)
{
  (void)sb;
  (void)flag_;
  (void)ftw;
  return remove (path) == -1 && errno != ENOENT ? -1 : 0;
}

static void
remove_tree (const char *path)
{
  nftw (path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void
end_process (pid_t *pid)
{
  if (*pid <= 0)
    return;
  kill (*pid, SIGCONT);
  kill (*pid, SIGKILL);
  waitpid (*pid, NULL, 0);
  *pid = 0;
}

static volatile sig_atomic_t asked_to_end;

static void
ask_to_end (int sig)
{
  asked_to_end = sig;
}

static void
clean_up (void)
{
  end_process (&life_pid);
  end_process (&backing_pid);
  if (dir[0])
    remove_tree (dir);
}

static void
die (const char *what)
{
  fprintf (stderr, "model: %s: %s\n", what, strerror (errno));
  exit (1);
}

static void
backing_start (void)
{
  char delay[40], file[300], rate[40], on[300];
  const char *argv[24]
      = { nbdkit, "-f", "-r", "-U", sock, "--filter=delay", "--filter=error" };
  unsigned n = 7;

  snprintf (delay, sizeof delay, "delay-read=%ums", setup.delay_ms);
  snprintf (file, sizeof file, "file=%s", golden_path);
  snprintf (rate, sizeof rate, "error-pread-rate=5%%");
  snprintf (on, sizeof on, "error-file=%s", trigger);
  if (setup.no_extents)
    argv[n++] = "--filter=noextents";
  argv[n++] = "file";
  argv[n++] = file;
  argv[n++] = delay;
  argv[n++] = rate;
  argv[n++] = on;
  argv[n] = NULL;
  unlink (sock);
  backing_pid = child_fork ();
  if (backing_pid == -1)
    die ("fork");
  if (backing_pid == 0) {
    /* Not into what the test prints. */
    if (!freopen (log_path, "a", stderr))
      _exit (126);
    execvp (argv[0], (char *const *)argv);
    _exit (127);
  }
  for (unsigned i = 0; !child_listens (sock); i++) {
    if (i > 6000)
      die ("nbdkit does not start");
    nap (10);
  }
}

/* nbdkit 1.32.5 may abort when its client is killed in mid-reply: that is not
 * what is tested here. */
static void
backing_check (void)
{
  if (backing_pid > 0 && waitpid (backing_pid, NULL, WNOHANG) == backing_pid) {
    backing_pid = 0;
    backing_start ();
  }
}

static void
decide (uint64_t seed)
{
  struct rng r = { seed * UINT64_C (0x2545f4914f6cdd1d) };
  static const uint32_t granules[] = { 4096, 512, 4096, 65536 };

  memset (&setup, 0, sizeof setup);
  setup.seed = seed;
  setup.granule = granules[seed % 4];
  setup.bracket = seed % 3 == 0;
  setup.fails = seed % 3 == 2;
  setup.no_extents = seed % 5 == 4;
  setup.size = (UINT64_C (12) << 20) + below (&r, 20 << 20);
  if (seed % 2)
    setup.size = round_down (setup.size, 512);
  setup.connections = 1 + (unsigned)below (&r, 4);
  setup.delay_ms = (unsigned)below (&r, 6);
  setup.fetch_unit = (uint32_t[]){ 4096, 65536, 1 << 20 }[below (&r, 3)];
}

/* Runs of data, zeros that are data, and holes. */
static void
make_golden (void)
{
  struct rng r = { setup.seed };
  int fd = open (golden_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  uint64_t end;

  if (fd == -1 || ftruncate (fd, (off_t)setup.size) == -1)
    die (golden_path);
  for (uint64_t at = 0; at < setup.size; at = end) {
    unsigned what = (unsigned)below (&r, 10);

    end = min_u64 (
        setup.size,
        at + round_up (1 + below (&r, 600000), chance (&r, 50) ? 4096 : 512));
    if (what >= 7)
      continue; /* a hole */
    for (uint64_t s = at / SECTOR; s * SECTOR < end; s++) {
      uint8_t data[SECTOR] = { 0 };
      uint64_t n = min_u64 (SECTOR, setup.size - s * SECTOR);

      if (what > 0)
        sectors_golden (data, s);
      if (pwrite (fd, data, n, (off_t)(s * SECTOR)) != (ssize_t)n)
        die (golden_path);
    }
  }
  golden = mmap (NULL, setup.size, PROT_READ, MAP_SHARED, fd, 0);
  close (fd);
  if (golden == MAP_FAILED)
    die ("mmap");
}

static void *
shared_memory (size_t size)
{
  void *p = mmap (NULL, size, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

  if (p == MAP_FAILED)
    die ("mmap");
  return p;
}

static void
make_shared (void)
{
  uint64_t nr = granule_last (setup.size);
  uint8_t *p;

  sh = shared_memory (sizeof *sh);
  p = shared_memory (3 * nr);
  sh->nr_granules = nr;
  sh->local = p;
  sh->changed = p + nr;
  sh->zero = p + 2 * nr;
  for (uint64_t g = 0; g < nr; g++) {
    uint64_t at = g * setup.granule;
    uint64_t n = min_u64 (setup.granule, setup.size - at);

    sh->zero[g]
        = golden[at] == 0 && memcmp (golden + at, golden + at + 1, n - 1) == 0;
  }
}

/* Of a process that died: holes learnt from the backing store are found
 * again, all else must be as it was. */
static void
forget_holes (void)
{
  for (uint64_t g = 0; g < sh->nr_granules; g++)
    if (sh->zero[g] && !sh->changed[g])
      sh->local[g] = 0;
}

static void
tell_what_it_did (void)
{
  fprintf (stderr, "model: threads were at:");
  for (unsigned i = 0; i < NR_THREADS; i++)
    fprintf (stderr, " %s", sh->doing[i] ? sh->doing[i] : "nothing");
  fprintf (stderr, "\n");
}

/* What happens to the backing store while the volume lives. */
static void
trouble (struct rng *r)
{
  if (!setup.fails || !__atomic_load_n (&sh->opened, __ATOMIC_ACQUIRE)
      || !chance (r, 10))
    return;
  switch (below (r, 5)) {
  case 0:
  case 1:
    if (access (trigger, F_OK) == 0)
      unlink (trigger);
    else
      close (open (trigger, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    break;
  case 2:
    end_process (&backing_pid);
    nap (below (r, 300));
    backing_start ();
    break;
  default:
    kill (backing_pid, SIGSTOP);
    nap (below (r, 600));
    kill (backing_pid, SIGCONT);
  }
}

/* Returns waitpid's status of the life. */
static int
run_life (enum ending ending, uint64_t ms, struct rng *r)
{
  uint64_t begin = now_ms (), kill_at = begin + below (r, ms);
  int status;

  __atomic_store_n (&sh->stop, false, __ATOMIC_RELEASE);
  __atomic_store_n (&sh->opened, false, __ATOMIC_RELEASE);
  memset (sh->doing, 0, sizeof sh->doing);
  backing_check ();
  fflush (NULL);
  life_pid = child_fork ();
  if (life_pid == -1)
    die ("fork");
  if (life_pid == 0) {
    signal (SIGINT, SIG_DFL);
    signal (SIGTERM, SIG_DFL);
    /* Also what a sanitizer says, and a backing store that is a command. */
    if (!freopen (log_path, "a", stderr))
      _exit (1);
    /* Nothing of this is the life's to clean up. */
    backing_pid = life_pid = 0;
    dir[0] = '\0';
    live (ending, ms);
  }
  for (;;) {
    pid_t pid = waitpid (life_pid, &status, WNOHANG);

    backing_check ();

    if (pid == life_pid)
      break;
    if (pid == -1)
      die ("waitpid");
    if (ending == END_KILL && now_ms () >= kill_at) {
      /* No change of the model is under way while we have its lock. */
      sectors_lock (model);
      kill (life_pid, SIGKILL);
      waitpid (life_pid, &status, 0);
      sectors_unlock (model);
      break;
    }
    if (ending != END_DETACH)
      trouble (r);
    if (now_ms () - begin > HANG_MS + ms) {
      failed ("it hangs");
      tell_what_it_did ();
      kill (life_pid, SIGABRT);
      waitpid (life_pid, &status, 0);
      break;
    }
    if (asked_to_end)
      exit (1);
    nap (5);
  }
  life_pid = 0;
  return status;
}

static void
check_image (void)
{
  CLEANUP_FREE uint8_t *buf = malloc (setup.size);
  CLEANUP_CLOSE int fd = open (store, O_RDONLY | O_CLOEXEC);
  struct stat sb;
  char why[300];

  MUST (access (metadata, F_OK) == -1, "the sidecar is still there");
  if (fd == -1 || fstat (fd, &sb) == -1 || (uint64_t)sb.st_size != setup.size
      || pread (fd, buf, setup.size, 0) != (ssize_t)setup.size) {
    failed ("the store cannot be read, or is of another size");
    return;
  }
  sectors_read_begin (model, 0);
  if (!sectors_read_end (model, 0, 0, setup.size, buf, why))
    failed ("the raw image: %s", why);
}

static void
run_lives (void)
{
  struct rng r = { setup.seed + 99 };
  uint64_t ms = (uint64_t)(seconds * 1000 / LIVES);

  for (sh->life = 0; sh->life < LIVES && !has_failed (); sh->life++) {
    enum ending ending = sh->life + 1 == LIVES
                             ? END_DETACH
                             : (enum ending) ((setup.seed + sh->life) % 3);
    int status;

    if (ending == END_DETACH)
      unlink (trigger);
    status = run_life (ending, ms / 2 + below (&r, ms), &r);
    if (verbose)
      fprintf (stderr, "life %u: %s, status %x\n", sh->life,
               ending_names[ending], (unsigned)status);
    MUST (ending == END_KILL
              ? WIFSIGNALED (status) && WTERMSIG (status) == SIGKILL
              : WIFEXITED (status)
                    && (WEXITSTATUS (status) == 0
                        || (ending == END_GATE && WEXITSTATUS (status) == 3)),
          "it ended with status 0x%x", (unsigned)status);
    if (has_failed ())
      return;
    sectors_crash (model);
    if (ending == END_GATE && status == 0)
      /* All is in the sidecar. */
      remove_tree (run_dir);
    else
      forget_holes ();
    mkdir (run_dir, 0700);
  }
  check_image ();
}

static void
name_files (void)
{
  const char *tmp = getenv ("TMPDIR");

  /* On a file system with a disk below it, and on one without. */
  if (setup.seed % 2 && access ("/dev/shm", W_OK) == 0)
    tmp = "/dev/shm";
  snprintf (dir, sizeof dir, "%.150s/model-XXXXXX", tmp ? tmp : "/tmp");
  if (!mkdtemp (dir))
    die (dir);
  snprintf (store, sizeof store, "%s/disk", dir);
  snprintf (metadata, sizeof metadata, "%s.backfill", store);
  snprintf (golden_path, sizeof golden_path, "%s/golden", dir);
  snprintf (run_dir, sizeof run_dir, "%s/run", dir);
  snprintf (sock, sizeof sock, "%s/sock", dir);
  snprintf (trigger, sizeof trigger, "%s/errors", dir);
  snprintf (log_path, sizeof log_path, "%s/log", dir);
  if (mkdir (run_dir, 0700) == -1)
    die (run_dir);
}

static void
show_log (void)
{
  char line[1000];
  FILE *fp = fopen (log_path, "re");

  fprintf (stderr, "--- what the engine and its backing store said:\n");
  while (fp && fgets (line, sizeof line, fp))
    fputs (line, stderr);
  if (fp)
    fclose (fp);
}

static bool
run_seed (uint64_t seed)
{
  uint64_t begin = now_ms (), ops = 0;
  bool ok;

  decide (seed);
  name_files ();
  make_golden ();
  make_shared ();
  model = sectors_new (golden, setup.size);
  if (!model)
    die ("the model");
  if (!setup.bracket)
    backing_start ();
  run_lives ();
  ok = !has_failed ();
  for (unsigned i = 0; i < NR_THREADS; i++)
    ops += sh->ops[i];
  printf ("seed %" PRIu64 ": %s, %" PRIu64 " operations in %.1f s: size "
          "%" PRIu64 ", granule %u, %s%s%s\n",
          seed, ok ? "ok" : "FAILED", ops, (double)(now_ms () - begin) / 1000,
          setup.size, setup.granule, setup.bracket ? "a command" : "a socket",
          setup.fails ? " that fails" : "",
          setup.no_extents && !setup.bracket ? ", no extents" : "");
  if (!ok) {
    fprintf (stderr, "seed %" PRIu64 ", life %u: %s\n", seed, sh->life,
             sh->why);
    show_log ();
  }
  end_process (&backing_pid);
  sectors_free (model);
  munmap (golden, setup.size);
  munmap (sh->local, 3 * sh->nr_granules);
  munmap (sh, sizeof *sh);
  remove_tree (dir);
  dir[0] = '\0';
  return ok;
}

int
main (int argc, char **argv)
{
  int c;

  while ((c = getopt (argc, argv, "t:v")) != -1)
    switch (c) {
    case 't':
      seconds = atof (optarg);
      break;
    case 'v':
      verbose = true;
      break;
    default:
      return 2;
    }
  if (optind == argc) {
    fprintf (stderr, "usage: %s [-t SECONDS] [-v] SEED ...\n", argv[0]);
    return 2;
  }
  if (getenv ("NBDKIT") && *getenv ("NBDKIT"))
    nbdkit = getenv ("NBDKIT");
  atexit (clean_up);
  signal (SIGINT, ask_to_end);
  signal (SIGTERM, ask_to_end);
  setvbuf (stdout, NULL, _IOLBF, 0);
  for (; optind < argc; optind++)
    if (!run_seed (strtoull (argv[optind], NULL, 0)))
      return 1;
  return 0;
}
