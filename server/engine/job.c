/* job.c - allocation jobs: state, counters, and the pump that drives one.
 *
 * A job's counters are not kept: they are asked of the map, so they are true
 * whoever made a range local (I7).  What is kept, in memory and in the
 * sidecar, is what was asked, the state, the clock and the error.
 *
 * The pump is one thread for each running job.  It walks the range, has known
 * zeros made local at once, asks for data as background fetches, and walks
 * again until nothing is absent: a range that a guest was fetching, or that
 * failed, is met on the next walk.
 *
 * Errors of a source that answers are tried ATTEMPTS times, with growing
 * waits and shrinking requests, so that what is given up is one granule.  A
 * source that is lost is waited for (options.retry).
 *
 * Locking: verb_lock serialises the calls that change a job and writes its
 * record (it is held across I/O to the sidecar); lock guards the members, and
 * is never held across I/O.  verb_lock before lock.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <time.h>

#include "fetch.h"
#include "internal.h"
#include "lane.h"
#include "rate.h"
#include "share.h"

#define ATTEMPTS 5u
#define GRANULE_ATTEMPT 3u /* the first that is made granule by granule */
#define BACKOFF_MS 100u
#define ABORT_MS 2000u
#define REQUEST (UINT64_C (1) << 20)
/* Of many jobs: each has threads of its own in the source, whose buffers are as
 * large as the largest request and are used but a few times. */
#define SHARED_REQUEST (UINT64_C (512) << 10)
/* While a guest is active.  What arrives is worked on at once: where processors
 * are few, a guest's thread waits meanwhile.  So the requests are small then
 * (bytes for each processor, up to the most), and have time between (divided by
 * the processors). */
#define POLITE_REQUEST (UINT64_C (32) << 10)
#define POLITE_MOST (UINT64_C (256) << 10)
#define POLITE_GAP_NS UINT64_C (3000000)
#define POLITE_DEPTH 2u
#define PREALLOCATE_STEP (UINT64_C (64) << 20)
#define ZERO_STEP (UINT64_C (16) << 20)
#define FAST_ZERO_STEP (UINT64_C (1) << 30)
/* Of block status: a huge sparse disk is thousands of round trips. */
#define EXTENTS_AHEAD 8u
/* A guest that did something this recently is served before the job. */
#define GUEST_MS 50u
#define RECORD_MS 5000u
/* The rate of late, and with it the time that is left, is that of up to so many
 * samples while the job runs. */
#define SAMPLE_MS 500u
#define SAMPLES 11u
/* As many are asked for where a limit makes the time between two requests
 * longer than that between two samples. */
#define SAMPLES_LIMITED 4u
#define DISTANT_MS (UINT64_C (10) * 365 * 86400 * 1000)
#define ENDED_KEPT 16u

struct job {
  pthread_mutex_t verb_lock;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  pthread_t pump;
  bool has_pump; /* to be joined */
  bool pumping;  /* its thread is at work */
  bool closed;   /* verb_lock: nothing is recorded any more */
  uint64_t processors;

  unsigned run;    /* of the pump, in this process, from 1 */
  uint64_t number; /* of the latest; 0: there was none yet */
  enum job_status status;
  enum job_result result;
  enum job_pause pause;
  struct job_options options;
  uint64_t offset, end; /* the range, widened to granules, if it is not empty */
  bool stop, abort;
  uint64_t since;   /* ms: when the clock was started */
  uint64_t elapsed; /* ms before that */
  bool ticking;
  uint64_t bytes_read, local_at_start, nr_failed, failed_offset;
  int errnum;
  char error[256];

  unsigned in_flight;
  uint64_t bytes_in_flight;
  uint64_t sent_ns; /* the last request */
  /* The lowest range of this walk that failed, and how. */
  bool failing;
  uint64_t fail_offset, fail_end;
  int fail_source, fail_store;
  uint64_t lost_since; /* ms, 0: not lost */

  /* Bytes that were local, oldest first. */
  struct {
    uint64_t ms, bytes;
  } sample[SAMPLES];
  unsigned nr_samples;
  uint64_t recorded_ms;

  struct slot slot; /* its turn among the jobs of the process */
  struct lane lane; /* its turn to send requests */
  struct rate rate;
  struct sidecar_job record;

  /* How the latest ended, the oldest overwritten first. */
  struct job_info ended[ENDED_KEPT];
  unsigned nr_ended; /* in all */
};

const char *
job_status_name (enum job_status status)
{
  static const char *const names[]
      = { "none",    "created",  "running",  "paused",
          "waiting", "aborting", "concluded" };

  return names[status];
}

const char *
job_result_name (enum job_result result)
{
  static const char *const names[]
      = { "none", "completed", "failed", "cancelled" };

  return names[result];
}

static bool
in_progress (const struct job *j)
{
  return j->status != JOB_NONE && j->status != JOB_CONCLUDED;
}

static uint64_t
elapsed (const struct job *j)
{
  return j->elapsed + (j->ticking ? now_ms () - j->since : 0);
}

static void
clock_start (struct job *j)
{
  j->since = now_ms ();
  j->ticking = true;
}

static void
clock_stop (struct job *j)
{
  j->elapsed = elapsed (j);
  j->ticking = false;
}

/* How long it is from one sample to the next.  Each has a turn of the job's in
 * it (lane.h), and a request. */
static uint64_t
sample_interval (struct disk *d)
{
  struct job *j = d->job;
  uint64_t ms = SAMPLE_MS * (1 + jobs_running () / NR_LANES);
  struct rate *rates[] = { &j->rate, &total_rate };

  for (unsigned i = 0; i < 2; i++) {
    uint64_t limit = rate_get (rates[i]);

    if (limit)
      ms = max_u64 (ms, rate_request (rates[i], d->granule, REQUEST) * 1000
                            / limit);
  }
  return ms;
}

/* The lock is held.  Bytes that became local each second of late, 0: not
 * known, or none. */
static double
current_speed (const struct job *j)
{
  unsigned last = j->nr_samples - 1;

  if (j->nr_samples < 2 || j->sample[last].bytes <= j->sample[0].bytes)
    return 0;
  return (double)(j->sample[last].bytes - j->sample[0].bytes) * 1000
         / (double)(j->sample[last].ms - j->sample[0].ms);
}

/* The lock is held.  What is not known is 0: right after a start or a pause,
 * while nothing comes, and where it would be in another age. */
static uint64_t
time_remaining (struct disk *d, uint64_t remaining)
{
  struct job *j = d->job;
  double speed = current_speed (j), ms;

  if (j->status != JOB_RUNNING || speed < 1
      || (j->nr_samples < SAMPLES_LIMITED && sample_interval (d) > SAMPLE_MS))
    return 0;
  ms = (double)remaining / speed * 1000;
  return ms < DISTANT_MS ? (uint64_t)ms + 1 : 0;
}

/* The lock is held.  wait: it may be waited for the map; false: it would have
 * to be. */
static bool
fill_info (struct disk *d, struct job_info *info, bool wait)
{
  struct job *j = d->job;

  memset (info, 0, sizeof *info);
  info->failed_offset = UINT64_MAX;
  info->number = j->number;
  info->status = j->status;
  if (j->status == JOB_NONE)
    return true;
  info->result = j->result;
  info->pause = j->pause;
  info->options = j->options;
  info->options.speed = rate_get (&j->rate);
  info->total = j->end - j->offset;
  if (wait)
    info->processed = map_live_bytes (d->map, granule_ceil (d, j->offset),
                                      granule_ceil (d, j->end));
  else if (!map_try_live_bytes (d->map, granule_ceil (d, j->offset),
                                granule_ceil (d, j->end), &info->processed))
    return false;
  info->remaining = info->total - info->processed;
  info->local_at_start = j->local_at_start;
  info->time_elapsed = elapsed (j);
  info->bytes_read = j->bytes_read;
  if (in_progress (j)) {
    info->current_speed = (uint64_t)current_speed (j);
    info->time_remaining = time_remaining (d, info->remaining);
  }
  info->nr_failed = j->nr_failed;
  info->failed_offset = j->failed_offset;
  info->errnum = j->errnum;
  memcpy (info->error, j->error, sizeof info->error);
  return true;
}

/* The first look at a range of the map may read the sidecar: not with the lock
 * held, as fill_info is called. */
static void
look_at_map (struct disk *d)
{
  struct job *j = d->job;
  uint64_t offset, end;

  {
    LOCK_SCOPE (&j->lock);
    offset = j->offset;
    end = j->end;
  }
  map_live_bytes (d->map, granule_ceil (d, offset), granule_ceil (d, end));
}

void
job_get_info (struct disk *d, struct job_info *info)
{
  struct job *j = d->job;

  look_at_map (d);
  LOCK_SCOPE (&j->lock);
  fill_info (d, info, true);
}

/* The lock is held.  The job that has ended is about to be replaced, or
 * forgotten. */
static void
remember_end (struct disk *d)
{
  struct job *j = d->job;

  if (j->status == JOB_CONCLUDED)
    fill_info (d, &j->ended[j->nr_ended++ % ENDED_KEPT], true);
}

int
job_find (struct disk *d, uint64_t number, struct job_info *info, char **error)
{
  struct job *j = d->job;

  look_at_map (d);
  LOCK_SCOPE (&j->lock);
  if (number == j->number && j->status != JOB_NONE) {
    fill_info (d, info, true);
    return 0;
  }
  for (unsigned i = 0; i < min_u64 (j->nr_ended, ENDED_KEPT); i++)
    if (j->ended[i].number == number) {
      *info = j->ended[i];
      return 0;
    }
  if (number > j->number)
    message_set (error, "disk '%s' had no job %" PRIu64 " yet", d->name,
                 number);
  else
    message_set (error,
                 "job %" PRIu64 " of disk '%s' has ended, and how is no longer "
                 "known",
                 number, d->name);
  errno = ESRCH;
  return -1;
}

bool
job_try_get_info (struct disk *d, struct job_info *info)
{
  struct job *j = d->job;
  bool r;

  if (pthread_mutex_trylock (&j->lock) != 0)
    return false;
  r = fill_info (d, info, false);
  pthread_mutex_unlock (&j->lock);
  return r;
}

enum job_status
job_get_status (struct disk *d)
{
  LOCK_SCOPE (&d->job->lock);
  return d->job->status;
}

/* Events; the lock is held. */

static void
emit (struct disk *d, enum disk_event_type type, const char *operation,
      const char *action)
{
  struct disk_event ev = { .type = type,
                           .status = d->job->status,
                           .operation = operation,
                           .action = action };

  fill_info (d, &ev.job, true);
  disk_emit (d, &ev);
}

/* The lock is held.  Make the pump look at the job again, also when it waits
 * for a slot. */
static void
job_wake (struct job *j)
{
  pthread_cond_broadcast (&j->changed);
  slot_kick (&j->slot);
}

static void
set_status (struct disk *d, enum job_status status)
{
  if (d->job->status == status)
    return;
  /* What it did before a pause says nothing of what comes after it. */
  d->job->nr_samples = 0;
  d->job->status = status;
  emit (d, DISK_EVENT_JOB_STATUS, NULL, NULL);
  pthread_cond_broadcast (&d->job->changed);
}

/* The lock is held.  The job's range, its options or its status have changed:
 * does what copiers find to be zero there get blocks? */
static void
tell_full (struct disk *d)
{
  struct job *j = d->job;

  if (in_progress (j) && j->options.full)
    fetch_set_full (d, j->offset, j->end);
  else
    fetch_set_full (d, 0, 0);
}

/* Make the record durable.  verb_lock is held.  0 or errno. */
static int
write_record (struct disk *d)
{
  struct job *j = d->job;
  struct sidecar_job *r = &j->record;

  if (d->read_only || j->closed)
    return d->read_only ? EROFS : ESHUTDOWN;
  {
    LOCK_SCOPE (&j->lock);
    r->status = j->status;
    r->result = j->result;
    r->pause = j->pause;
    r->on_error = j->options.on_error;
    r->offset = j->options.offset;
    r->length = j->options.length;
    r->speed = rate_get (&j->rate);
    r->retry = j->options.retry;
    r->full = j->options.full;
    r->errnum = j->errnum;
    r->time_elapsed = elapsed (j);
    r->bytes_read = j->bytes_read;
    r->local_at_start = j->local_at_start;
    r->nr_failed = j->nr_failed;
    r->failed_offset = j->failed_offset;
    memcpy (r->error, j->error, sizeof r->error);
    r->number = j->number;
    j->recorded_ms = now_ms ();
  }
  /* A detached volume has no room for one, and no need. */
  if (sidecar_write_job (d->sc, r) == 0) {
    struct syncing s;
    int err;

    sync_begin (d, &s);
    err = sidecar_sync_job (d->sc) == -1 ? errno : 0;
    err = sync_end (d, &s, err);
    if (err == 0) {
      sidecar_job_is_durable (r);
      return 0;
    }
    errno = err;
  }
  else if (errno == ENODATA)
    return 0;
  log_error ("cannot write the job record of %s: %m", d->metadata);
  return errno;
}

/* The pump.  In all of these the lock is not held, unless said. */

enum turn { GO, LEAVE };

/* The lock is held.  -1: the job shall end. */
static void
sleep_until (struct job *j, uint64_t ns)
{
  struct timespec until = ns_to_timespec (ns);

  pthread_cond_timedwait (&j->changed, &j->lock, &until);
}

static bool
source_is_up (struct disk *d)
{
  return d->no_source || __atomic_load_n (&d->source_up, __ATOMIC_ACQUIRE);
}

/* Give up: the lock is held. */
static void
fail (struct job *j, int err, uint64_t offset, const char *what)
{
  j->errnum = err;
  j->failed_offset = offset;
  snprintf (j->error, sizeof j->error, "%s at offset %" PRIu64 ": %s", what,
            offset, strerror (err));
}

/* For the pump, which alone changes the range; without the lock. */
static bool
is_local (struct disk *d)
{
  struct job *j = d->job;

  return map_live_bytes (d->map, granule_ceil (d, j->offset),
                         granule_ceil (d, j->end))
         == j->end - j->offset;
}

/* The lock is held, but not while the map is looked at: that may read the
 * sidecar. */
static bool
all_is_local (struct disk *d)
{
  bool local;

  pthread_mutex_unlock (&d->job->lock);
  local = is_local (d);
  pthread_mutex_lock (&d->job->lock);
  return local;
}

/* Wait for a slot, or until job_wake: the lock is held, but not meanwhile. */
static void
wait_slot (struct job *j)
{
  pthread_mutex_unlock (&j->lock);
  slot_wait (&j->slot);
  pthread_mutex_lock (&j->lock);
}

/* Wait until the pump may go on, not before `not_before` (ms).  The source may
 * be lost all the same, if nothing is needed of it any more. */
static enum turn
wait_turn (struct disk *d, uint64_t not_before)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->lock);

  while (!j->stop && !j->abort && !j->errnum) {
    uint64_t now = now_ms ();

    if (j->pause != JOB_PAUSE_NONE) {
      slot_give (&j->slot);
      set_status (d, JOB_PAUSED);
      pthread_cond_wait (&j->changed, &j->lock);
      continue;
    }
    if (!source_is_up (d) && !all_is_local (d)) {
      /* Much may have changed meanwhile. */
      if (j->stop || j->abort || j->errnum || j->pause != JOB_PAUSE_NONE)
        continue;
      slot_give (&j->slot);
      set_status (d, JOB_WAITING);
      if (!j->lost_since)
        j->lost_since = now;
      if (j->options.retry && now - j->lost_since >= j->options.retry) {
        char why[200];

        source_get_reason (d->src, why, sizeof why);
        j->errnum = ETIMEDOUT;
        snprintf (j->error, sizeof j->error, "the backing store is lost: %s",
                  why);
        emit (d, DISK_EVENT_JOB_ERROR, "read", "report");
        break;
      }
      sleep_until (j, now_ns () + 200000000);
      continue;
    }
    j->lost_since = 0;
    if (!slot_take (&j->slot)) {
      set_status (d, JOB_CREATED);
      wait_slot (j);
      continue;
    }
    if (now < not_before) {
      set_status (d, JOB_WAITING);
      sleep_until (j, not_before * 1000000);
      continue;
    }
    set_status (d, JOB_RUNNING);
    return GO;
  }
  return LEAVE;
}

/* A guest waits, or was there a moment ago. */
static bool
guest_is_active (struct disk *d)
{
  return source_demand_waiting (d->src) > 0
         || now_ms () - counted (&d->last_guest_op) < GUEST_MS;
}

/* Room for one more request?  Those whose turn it is share the memory evenly,
 * and one each job may always have: another's source or store that hangs
 * takes nothing from it.  The lock is held. */
static bool
has_room (struct disk *d, uint64_t bytes)
{
  struct job *j = d->job;
  unsigned depth = source_background_depth (d->src);

  if (guest_is_active (d) && depth > POLITE_DEPTH)
    depth = POLITE_DEPTH;
  return j->in_flight < depth
         && (j->in_flight == 0 || share_has_memory (j->bytes_in_flight, bytes));
}

/* Wait for room, and for what the speed limits allow.  False: leave. */
static bool
wait_room (struct disk *d, uint64_t bytes)
{
  struct job *j = d->job;
  bool booked = false;
  LOCK_SCOPE (&j->lock);

  for (;;) {
    uint64_t wait, now;

    if (j->stop || j->abort || j->pause != JOB_PAUSE_NONE || j->failing
        || !source_is_up (d))
      return false;
    if (!has_room (d, bytes)) {
      /* Until one of its requests ends. */
      sleep_until (j, now_ns () + 200000000);
      continue;
    }
    now = now_ns ();
    if (guest_is_active (d)) {
      uint64_t next = j->sent_ns + POLITE_GAP_NS / j->processors;

      if (now < next) {
        sleep_until (j, next);
        continue;
      }
    }
    if (!lane_take (&j->lane, now)) {
      pthread_mutex_unlock (&j->lock);
      lane_wait (&j->lane);
      pthread_mutex_lock (&j->lock);
      continue;
    }
    if (!booked) {
      wait = rate_take (&j->rate, bytes, now);
      booked = wait == 0;
    }
    else
      wait = 0;
    if (booked)
      wait = rate_take (&total_rate, bytes, now);
    if (wait == 0) {
      j->sent_ns = now;
      return true;
    }
    sleep_until (j, now + min_u64 (wait, 200000000));
  }
}

/* A fetch_ended_fn. */
static void
fetch_ended (struct disk *d, unsigned run, uint64_t offset, uint64_t end,
             int source_error, int store_error)
{
  struct job *j = d->job;

  share_sub_bytes (end - offset);
  {
    LOCK_SCOPE (&j->lock);

    if (run != j->run)
      return;
    j->in_flight--;
    j->bytes_in_flight -= end - offset;
    if (source_error == 0)
      j->bytes_read += end - offset;
    if ((source_error && source_error != ESHUTDOWN && source_error != ECANCELED)
        || store_error)
      if (!j->failing || offset < j->fail_offset) {
        j->failing = true;
        j->fail_offset = offset;
        j->fail_end = end;
        j->fail_source = source_error;
        j->fail_store = store_error;
      }
  }
  lane_progress (&j->lane);
  /* The pump would only wait for the lock. */
  pthread_cond_broadcast (&j->changed);
}

/* The lock is held.  A store that is full pauses the job (true). */
static bool
store_failed (struct disk *d, int err, uint64_t offset)
{
  struct job *j = d->job;

  if (err == ENOSPC || err == EDQUOT) {
    if (j->pause == JOB_PAUSE_NONE) {
      j->pause = JOB_PAUSE_NOSPACE;
      log_error ("%s: job %" PRIu64 " is paused: %s: make room, then resume it",
                 d->store_path, j->number, strerror (err));
    }
    emit (d, DISK_EVENT_JOB_ERROR, "write", "stop");
    return true;
  }
  fail (j, err, offset, "cannot write the store");
  emit (d, DISK_EVENT_JOB_ERROR, "write", "report");
  return false;
}

struct walk {
  uint64_t at;
  /* While a failed range is tried again. */
  uint64_t bad_offset, bad_end;
  uint64_t bad_granule; /* the one that failed last */
  unsigned attempts;
  uint64_t not_before;
  bool gave_up; /* some range was skipped: the next ones get fewer tries */
  struct {
    uint64_t *ptr;
    size_t nr;
  } skipped; /* granules */
};

static uint64_t
request_size (struct disk *d, const struct walk *w)
{
  struct job *j = d->job;
  uint64_t most = guest_is_active (d)
                      ? min_u64 (POLITE_MOST, POLITE_REQUEST * j->processors)
                  : jobs_running () > NR_LANES ? SHARED_REQUEST
                                               : REQUEST;

  if (w->attempts > 0 && w->at < w->bad_end)
    most = w->attempts + 1 < GRANULE_ATTEMPT ? max_u64 (65536, d->granule)
                                             : d->granule;
  most = min_u64 (rate_request (&j->rate, d->granule, most),
                  rate_request (&total_rate, d->granule, most));
  return max_u64 (round_down (most, d->granule), d->granule);
}

static bool
is_skipped (const struct walk *w, uint64_t g)
{
  size_t lo = 0, hi = w->skipped.nr;

  while (lo < hi) {
    size_t mid = (lo + hi) / 2;

    if (w->skipped.ptr[mid] == g)
      return true;
    if (w->skipped.ptr[mid] < g)
      lo = mid + 1;
    else
      hi = mid;
  }
  return false;
}

/* Kept in order, as is_skipped searches. */
static bool
skip (struct walk *w, uint64_t g)
{
  uint64_t *p
      = realloc (w->skipped.ptr, (w->skipped.nr + 1) * sizeof *w->skipped.ptr);
  size_t i;

  if (!p)
    return false;
  w->skipped.ptr = p;
  for (i = w->skipped.nr; i > 0 && p[i - 1] > g; i--)
    p[i] = p[i - 1];
  p[i] = g;
  w->skipped.nr++;
  return true;
}

/* Requests failed: wait for the rest, then decide.  LEAVE: the job ends. */
static enum turn
handle_failure (struct disk *d, struct walk *w)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->lock);
  uint64_t offset, end;
  unsigned most = w->gave_up ? 2 : ATTEMPTS;

  /* All of this walk's requests, so that the lowest failure is known. */
  while (j->in_flight > 0 && !j->stop && !j->abort && source_is_up (d))
    sleep_until (j, now_ns () + 100000000);
  /* A source that has gone is waited for first. */
  if (!j->failing || j->stop || j->abort || j->in_flight > 0)
    return GO;
  j->failing = false;
  offset = j->fail_offset;
  end = j->fail_end;
  w->at = min_u64 (w->at, offset);
  if (j->fail_store)
    return store_failed (d, j->fail_store, offset) ? GO : LEAVE;
  /* The source has gone meanwhile: not this range's fault. */
  if (!source_is_up (d))
    return GO;

  if (offset >= w->bad_offset && end <= w->bad_end && w->attempts > 0) {
    w->attempts++;
    /* Granule by granule each counts for itself: one that got through is
     * behind us, and another's failure is the first of its own. */
    if (w->attempts > GRANULE_ATTEMPT && offset != w->bad_granule)
      w->attempts = GRANULE_ATTEMPT;
    w->bad_granule = offset;
  }
  else {
    w->attempts = 1;
    w->bad_offset = offset;
    w->bad_end = end;
  }
  if (w->attempts >= most && end - offset <= d->granule) {
    if (j->options.on_error == JOB_ON_ERROR_SKIP
        && skip (w, granule_floor (d, offset))) {
      if (j->nr_failed++ == 0)
        j->failed_offset = offset;
      emit (d, DISK_EVENT_JOB_ERROR, "read", "ignore");
      w->gave_up = true;
      /* On with what is left of the range, granule by granule. */
      w->attempts = 2;
      return GO;
    }
    fail (j, EIO, offset, "cannot read the backing store");
    emit (d, DISK_EVENT_JOB_ERROR, "read", "report");
    return LEAVE;
  }
  w->not_before
      = now_ms ()
        + (w->gave_up ? BACKOFF_MS
                      : (uint64_t)BACKOFF_MS << min_u64 (w->attempts - 1, 5));
  return GO;
}

/* Known zeros from w->at to end.  LEAVE: the job ends. */
static enum turn
make_zeros (struct disk *d, struct walk *w, uint64_t end)
{
  struct job *j = d->job;
  int err;

  /* In steps, as an abort waits for what is being written. */
  if (j->options.full || store_zero_is_slow (d->store))
    end = min_u64 (end, step_end (d, w->at, ZERO_STEP));
  err = copier_zero_range (d, w->at, end, j->options.full);
  if (err == 0) {
    w->at = end;
    return GO;
  }
  LOCK_SCOPE (&j->lock);
  return store_failed (d, err, w->at) ? GO : LEAVE;
}

/* One step at w->at, inside the range. */
static enum turn
step (struct disk *d, struct walk *w)
{
  struct job *j = d->job;
  uint64_t g = granule_floor (d, w->at), stop, end;
  /* No more than can be done at once: on a huge disk a look at all that is
   * left, for every step, would be most of the work. */
  uint64_t last
      = granule_ceil (d, min_u64 (j->end, step_end (d, w->at, FAST_ZERO_STEP)));
  enum map_state state = map_run (d->map, g, last, &stop);
  uint64_t asked, made;
  unsigned flags;
  int r;

  if (state == MAP_LIVE) {
    w->at = granule_offset (d, stop);
    return GO;
  }
  if (state == MAP_DAMAGED) {
    LOCK_SCOPE (&j->lock);
    fail (j, EIO, w->at, "the sidecar's map is damaged");
    emit (d, DISK_EVENT_JOB_ERROR, "read", "report");
    return LEAVE;
  }
  end = granule_offset (d, stop);
  extents_want (d->ext, w->at, j->end, EXTENTS_AHEAD);
  switch (extents_run (d->ext, w->at, end, &end, &flags)) {
  case EXTENTS_UNKNOWN:
    /* Again when it is known, or the wait turn finds the source gone. */
    extents_wait (d->ext, w->at, now_ms () + 500);
    return GO;
  case EXTENTS_ZERO:
    return make_zeros (d, w, end);
  case EXTENTS_DATA:
    break;
  }
  if (is_skipped (w, g)) {
    w->at = granule_offset (d, g + 1);
    return GO;
  }
  end = min_u64 (end, w->at + request_size (d, w));
  for (uint64_t n = g + 1; w->skipped.nr && n < granule_ceil (d, end); n++)
    if (is_skipped (w, n))
      end = granule_offset (d, n);
  asked = end - w->at;
  if (!wait_room (d, asked))
    return GO;
  {
    LOCK_SCOPE (&j->lock);
    j->in_flight++;
    j->bytes_in_flight += asked;
    share_add_bytes (asked);
  }
  r = fetch_job (d, j->run, w->at, &end, &made);
  {
    /* It may have ended already. */
    LOCK_SCOPE (&j->lock);
    j->in_flight -= r != 1;
    j->bytes_in_flight -= asked - made;
    share_sub_bytes (asked - made);
  }
  if (r == -1) {
    LOCK_SCOPE (&j->lock);
    fail (j, errno, w->at, "cannot fetch");
    return LEAVE;
  }
  w->at = end;
  return GO;
}

/* True when nothing of the range is absent but what was skipped. */
static bool
is_done (struct disk *d, const struct walk *w)
{
  struct job *j = d->job;
  uint64_t g = granule_ceil (d, j->offset), end = granule_ceil (d, j->end);

  while (g < end) {
    uint64_t stop;

    if (map_run (d->map, g, end, &stop) != MAP_LIVE) {
      if (!is_skipped (w, g))
        return false;
      stop = g + 1;
    }
    g = stop;
  }
  return true;
}

/* What was skipped may have become local by a guest since (I7). */
static void
recount_skipped (struct disk *d, const struct walk *w)
{
  struct job *j = d->job;
  uint64_t nr = 0, first = UINT64_MAX;

  for (size_t i = 0; i < w->skipped.nr; i++)
    if (!map_is_live (d->map, w->skipped.ptr[i], w->skipped.ptr[i] + 1)
        && nr++ == 0)
      first = granule_offset (d, w->skipped.ptr[i]);
  LOCK_SCOPE (&j->lock);
  j->nr_failed = nr;
  j->failed_offset = first;
}

/* What of [offset, end), under the claim, is to be allocated before the walk.
 * 0 or -1. */
static int
preallocate_step (struct disk *d, uint64_t offset, uint64_t end)
{
  uint64_t g = granule_floor (d, offset), last = granule_ceil (d, end), stop;

  if (!store_preallocate_is_slow (d->store))
    return store_preallocate (d->store, end - offset, offset);
  /* What is absent is written anyway, once, when it becomes local. */
  for (; g < last; g = stop)
    if (map_run (d->map, g, last, &stop) == MAP_LIVE) {
      uint64_t at = max_u64 (granule_offset (d, g), offset);

      if (store_preallocate (d->store,
                             min_u64 (granule_offset (d, stop), end) - at, at)
          == -1)
        return -1;
    }
  return 0;
}

/* The seed's default: every byte of the range has its block in the store,
 * also where it is local as a hole. */
static void
preallocate (struct disk *d)
{
  struct job *j = d->job;

  for (uint64_t at = j->offset; at < j->end;) {
    uint64_t end = min_u64 (j->end, at + PREALLOCATE_STEP);
    struct claim c;
    int r;

    if (wait_turn (d, 0) == LEAVE || commit_failed (d))
      return;
    /* Where zeros have to be written for it, no write may come between. */
    claim_take (&d->claims, &c, granule_floor (d, at), granule_ceil (d, end));
    r = preallocate_step (d, at, end);
    claim_drop (&d->claims, &c);
    if (r == 0)
      at = end;
    else {
      LOCK_SCOPE (&j->lock);
      if (!store_failed (d, errno, at))
        return;
    }
  }
}

static bool
is_failing (struct job *j)
{
  LOCK_SCOPE (&j->lock);
  return j->failing;
}

/* All of the failed range was asked for again.  Only when it has been answered
 * the attempts are over: the failure comes long after the last request. */
static bool
retry_has_ended (struct disk *d, struct walk *w)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->lock);

  while (j->in_flight > 0 && !j->failing && !j->stop && !j->abort
         && source_is_up (d))
    sleep_until (j, now_ns () + 100000000);
  if (j->failing || j->in_flight > 0)
    return false;
  w->attempts = 0;
  return true;
}

static void
walk_range (struct disk *d)
{
  struct job *j = d->job;
  struct walk w = { .at = j->offset };

  for (;;) {
    enum turn turn;

    /* Nothing more could be made durable. */
    if (wait_turn (d, w.not_before) == LEAVE || commit_failed (d))
      break;
    /* What is in flight would wait for the source: it is of no use now. */
    if (!source_is_up (d) && is_local (d)) {
      recount_skipped (d, &w);
      break;
    }
    if (is_failing (j)) {
      if (handle_failure (d, &w) == LEAVE)
        break;
      continue;
    }
    if (w.at < j->end) {
      if (w.attempts > 0 && w.at >= w.bad_end && !retry_has_ended (d, &w))
        continue;
      turn = step (d, &w);
      if (turn == LEAVE)
        break;
      continue;
    }
    {
      LOCK_SCOPE (&j->lock);
      /* The last requests; or those of guests, or of nobody. */
      while (j->in_flight > 0 && !j->failing && !j->stop && !j->abort
             && source_is_up (d))
        sleep_until (j, now_ns () + 100000000);
      if (j->failing || j->in_flight > 0)
        continue;
    }
    if (is_done (d, &w)) {
      recount_skipped (d, &w);
      break;
    }
    w.at = j->offset;
    LOCK_SCOPE (&j->lock);
    if (!j->stop && !j->abort)
      sleep_until (j, now_ns () + 5000000);
  }
  free (w.skipped.ptr);
}

/* The lock is held. */
static void
log_end (struct disk *d)
{
  struct job *j = d->job;
  struct job_info info;

  fill_info (d, &info, true);
  if (j->result == JOB_RESULT_FAILED)
    log_error ("%s: job %" PRIu64 " has failed after %.1f seconds: %s; "
               "%" PRIu64 " of %" PRIu64 " bytes are local",
               d->store_path, j->number, (double)info.time_elapsed / 1000,
               j->error, info.processed, info.total);
  else
    log_info ("%s: job %" PRIu64 " %s after %.1f seconds: %" PRIu64
              " of %" PRIu64 " bytes are local, %" PRIu64 " were read from the "
              "backing store",
              d->store_path, j->number,
              j->result == JOB_RESULT_COMPLETED ? "has completed"
                                                : "was aborted",
              (double)info.time_elapsed / 1000, info.processed, info.total,
              info.bytes_read);
}

static void
conclude (struct disk *d)
{
  struct job *j = d->job;
  int err;

  /* Also what a failed or aborted job copied is kept. */
  err = commit_run (d, COMMIT_CHECKPOINT | COMMIT_HOLES);
  LOCK_SCOPE (&j->verb_lock);
  {
    LOCK_SCOPE (&j->lock);
    clock_stop (j);
    if (j->abort) {
      j->result = JOB_RESULT_CANCELLED;
      j->errnum = ECANCELED;
      snprintf (j->error, sizeof j->error, "the job was aborted");
    }
    else if (j->errnum)
      j->result = JOB_RESULT_FAILED;
    else if (j->nr_failed) {
      j->result = JOB_RESULT_FAILED;
      j->errnum = EIO;
      snprintf (j->error, sizeof j->error,
                "%" PRIu64 " ranges could not be read, the first at offset "
                "%" PRIu64,
                j->nr_failed, j->failed_offset);
    }
    else if (err) {
      j->result = JOB_RESULT_FAILED;
      j->errnum = err;
      snprintf (j->error, sizeof j->error,
                "what was copied cannot be made durable: %s", strerror (err));
    }
    else
      j->result = JOB_RESULT_COMPLETED;
    j->pause = JOB_PAUSE_NONE;
    /* Set now; the event follows once the record is durable. */
    j->status = JOB_CONCLUDED;
    tell_full (d);
  }
  write_record (d);
  LOCK_SCOPE (&j->lock);
  log_end (d);
  emit (d, DISK_EVENT_JOB_STATUS, NULL, NULL);
  emit (d,
        j->result == JOB_RESULT_CANCELLED ? DISK_EVENT_JOB_CANCELLED
                                          : DISK_EVENT_JOB_COMPLETED,
        NULL, NULL);
  j->pumping = false;
  pthread_cond_broadcast (&j->changed);
}

static void *
pump (void *arg)
{
  struct disk *d = arg;
  struct job *j = d->job;
  bool stop;

  thread_in_background ();
  /* Reads what of the map is not in memory yet, so that nobody who holds the
   * lock has to. */
  map_live_bytes (d->map, granule_ceil (d, j->offset),
                  granule_ceil (d, j->end));
  if (j->options.full)
    preallocate (d);
  walk_range (d);
  lane_leave (&j->lane);
  slot_give (&j->slot);

  fetch_discard_job (d);
  while (fetch_job_is_writing (d)) {
    LOCK_SCOPE (&j->lock);
    sleep_until (j, now_ns () + 2000000);
  }
  {
    LOCK_SCOPE (&j->lock);
    stop = j->stop;
    if (stop) {
      /* The record stays: whoever opens the volume next goes on. */
      clock_stop (j);
      j->pumping = false;
      pthread_cond_broadcast (&j->changed);
    }
  }
  if (!stop)
    conclude (d);
  return NULL;
}

/* Life. */

/* What the job is to make local, of what was asked.  An empty range, as from
 * the end of the disk to its end, stays empty: it is not widened to the granule
 * that it touches. */
static void
set_range (struct disk *d)
{
  struct job *j = d->job;

  j->end = granule_offset (
      d, granule_ceil (d, j->options.offset + j->options.length));
  j->offset = j->options.length > 0 ? round_down (j->options.offset, d->granule)
                                    : j->end;
}

int
jobs_open (struct disk *d, char **error)
{
  struct job *j = calloc (1, sizeof *j);
  int r;

  if (!j) {
    message_set (error, "out of memory");
    return -1;
  }
  d->job = j;
  fetch_on_end (d, fetch_ended);
  pthread_mutex_init (&j->verb_lock, NULL);
  pthread_mutex_init (&j->lock, NULL);
  cond_init (&j->changed);
  rate_init (&j->rate);
  lane_init (&j->lane);
  slot_init (&j->slot);
  j->processors = (uint64_t)get_nprocs ();
  j->failed_offset = UINT64_MAX;

  r = sidecar_read_job (d->sc, &j->record);
  if (r == -1) {
    log_error ("%s: the job record is damaged (%m): taken as no job",
               d->metadata);
    /* A slot that could not be read may hold any sequence, and be read again
     * when there is a newer record: that is to be the higher one. */
    j->record.sequence = (uint64_t)time (NULL) << 20;
  }
  /* One that older programs wrote has none; the sequence is no lower than any
   * was. */
  if (r != -1)
    j->number = j->record.number != 0 && j->record.number < INT64_MAX
                    ? j->record.number
                    : min_u64 (j->record.sequence, INT64_MAX - 1);
  if (r != 1 || j->record.status > JOB_CONCLUDED
      || j->record.result > JOB_RESULT_CANCELLED
      || j->record.pause > JOB_PAUSE_NOSPACE || j->record.offset > d->size
      || j->record.length > d->size - j->record.offset)
    return 0;
  j->status = (enum job_status)j->record.status;
  j->result = (enum job_result)j->record.result;
  j->pause = (enum job_pause)j->record.pause;
  j->options = (struct job_options){
    .offset = j->record.offset,
    .length = j->record.length,
    .speed = j->record.speed,
    .full = j->record.full,
    .on_error = j->record.on_error == JOB_ON_ERROR_SKIP ? JOB_ON_ERROR_SKIP
                                                        : JOB_ON_ERROR_REPORT,
    .retry = j->record.retry,
  };
  rate_set (&j->rate, j->record.speed);
  j->elapsed = j->record.time_elapsed;
  j->bytes_read = j->record.bytes_read;
  j->local_at_start = j->record.local_at_start;
  j->nr_failed = j->record.nr_failed;
  j->failed_offset = j->record.failed_offset;
  j->errnum = j->record.errnum;
  memcpy (j->error, j->record.error, sizeof j->error);
  j->error[sizeof j->error - 1] = '\0';
  set_range (d);
  /* Read-only it does not go on; whoever may write goes on with it. */
  if (d->read_only && in_progress (j))
    j->status = JOB_PAUSED;
  tell_full (d);
  return 0;
}

/* The lock is held. */
static int
pump_start (struct disk *d)
{
  struct job *j = d->job;

  j->stop = j->abort = j->failing = false;
  j->run++;
  j->in_flight = 0;
  j->bytes_in_flight = 0;
  j->lost_since = 0;
  j->nr_samples = 0;
  clock_start (j);
  j->pumping = true;
  if (thread_start (&j->pump, pump, d) == -1) {
    j->pumping = false;
    j->ticking = false;
    return -1;
  }
  j->has_pump = true;
  return 0;
}

static void
pump_join (struct job *j)
{
  if (j->has_pump) {
    pthread_join (j->pump, NULL);
    j->has_pump = false;
  }
}

int
jobs_start (struct disk *d, char **error)
{
  struct job *j = d->job;

  if (d->read_only)
    return 0;
  if (in_progress (j)) {
    LOCK_SCOPE (&j->lock);

    /* One that was being aborted when the process died stays aborted. */
    if (j->status == JOB_ABORTING) {
      j->status = JOB_CONCLUDED;
      j->result = JOB_RESULT_CANCELLED;
      j->errnum = ECANCELED;
      snprintf (j->error, sizeof j->error, "the job was aborted");
      tell_full (d);
      log_info ("%s: job %" PRIu64 " was aborted when the last server ended",
                d->store_path, j->number);
      return 0;
    }
    j->errnum = 0;
    j->error[0] = '\0';
    j->nr_failed = 0;
    j->failed_offset = UINT64_MAX;
    if (pump_start (d) == 0) {
      log_info ("%s: job %" PRIu64 " goes on where it was%s", d->store_path,
                j->number, j->pause == JOB_PAUSE_NONE ? "" : ": paused");
      return 0;
    }
    message_set (error, "cannot start a thread: %m");
    return -1;
  }
  if (!d->has_allocate || map_all_live (d->map))
    return 0;
  return job_start (d, &d->allocate, NULL, error);
}

bool
jobs_stop (struct disk *d, uint64_t until)
{
  struct job *j = d->job;
  bool ended;

  if (!j)
    return true;
  {
    LOCK_SCOPE (&j->verb_lock);
    LOCK_SCOPE (&j->lock);
    j->stop = true;
    job_wake (j);
  }
  /* conclude needs verb_lock: let it have its turn. */
  {
    LOCK_SCOPE (&j->lock);
    while (j->pumping && now_ms () < until)
      sleep_until (j, until * 1000000);
    ended = !j->pumping;
  }
  if (!ended)
    return false;
  pump_join (j);
  LOCK_SCOPE (&j->verb_lock);
  if (j->status != JOB_NONE)
    write_record (d);
  j->closed = true;
  return true;
}

void
jobs_free (struct disk *d)
{
  struct job *j = d->job;

  if (!j)
    return;
  rate_destroy (&j->rate);
  lane_destroy (&j->lane);
  slot_destroy (&j->slot);
  pthread_mutex_destroy (&j->verb_lock);
  pthread_mutex_destroy (&j->lock);
  pthread_cond_destroy (&j->changed);
  free (j);
  d->job = NULL;
}

pthread_mutex_t *
job_verbs (struct disk *d)
{
  return &d->job->verb_lock;
}

void
job_source_changed (struct disk *d)
{
  struct job *j = d->job;

  if (!j)
    return;
  LOCK_SCOPE (&j->lock);
  job_wake (j);
}

/* The lock is held: one more of what was local when. */
static void
add_sample (struct job *j, uint64_t ms, uint64_t bytes)
{
  if (j->nr_samples == SAMPLES) {
    memmove (j->sample, j->sample + 1, (SAMPLES - 1) * sizeof *j->sample);
    j->nr_samples--;
  }
  j->sample[j->nr_samples].ms = ms;
  j->sample[j->nr_samples].bytes = bytes;
  j->nr_samples++;
}

void
job_tick (struct disk *d, uint64_t now)
{
  struct job *j = d->job;
  uint64_t offset, end, local;
  bool record, sample;

  {
    LOCK_SCOPE (&j->lock);
    if (!j->pumping)
      return;
    record = now - j->recorded_ms >= RECORD_MS;
    sample
        = j->status == JOB_RUNNING
          && (j->nr_samples == 0
              || now - j->sample[j->nr_samples - 1].ms >= sample_interval (d));
    offset = j->offset;
    end = j->end;
  }
  if (sample) {
    local = map_live_bytes (d->map, granule_ceil (d, offset),
                            granule_ceil (d, end));
    LOCK_SCOPE (&j->lock);
    if (j->status == JOB_RUNNING)
      add_sample (j, now, local);
  }
  /* The clock and the bytes read, so that a crash does not take them back
   * further than a checkpoint. */
  if (record && pthread_mutex_trylock (&j->verb_lock) == 0) {
    write_record (d);
    pthread_mutex_unlock (&j->verb_lock);
  }
}

/* Verbs. */

/* For the verbs. */
static int
refuse (char **error, int err, const char *text, struct disk *d)
{
  message_set (error, text, d->name);
  errno = err;
  return -1;
}

/* The lock is held.  Is the present job the one that is meant? */
static int
check_number (struct disk *d, uint64_t number, char **error)
{
  struct job *j = d->job;

  if (number == 0 || number == j->number)
    return 0;
  if (number > j->number)
    message_set (error, "disk '%s' had no job %" PRIu64 " yet", d->name,
                 number);
  else
    message_set (error,
                 "job %" PRIu64 " of disk '%s' has ended: the latest is job "
                 "%" PRIu64,
                 number, d->name, j->number);
  errno = ESRCH;
  return -1;
}

int
job_start (struct disk *d, const struct job_options *options, uint64_t *number,
           char **error)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->verb_lock);
  int err;

  if (d->read_only)
    return refuse (error, EROFS, "disk '%s' is open read-only", d);
  if (options->offset > d->size) {
    message_set (error,
                 "offset %" PRIu64 " is past the end of disk '%s', which has "
                 "%" PRIu64 " bytes",
                 options->offset, d->name, d->size);
    errno = EINVAL;
    return -1;
  }
  if (options->length > d->size - options->offset) {
    message_set (error,
                 "the range %" PRIu64 "+%" PRIu64 " is not within disk '%s', "
                 "which has %" PRIu64 " bytes",
                 options->offset, options->length, d->name, d->size);
    errno = EINVAL;
    return -1;
  }
  {
    LOCK_SCOPE (&j->lock);
    if (__atomic_load_n (&d->gated, __ATOMIC_ACQUIRE) || j->stop)
      return refuse (error, ESHUTDOWN, "disk '%s' is being closed", d);
    if (in_progress (j)) {
      message_set (error,
                   "disk '%s' already has a job in progress: allocate "
                   "%" PRIu64 "+%" PRIu64 " (%s)",
                   d->name, j->options.offset, j->options.length,
                   job_status_name (j->status));
      errno = EBUSY;
      return -1;
    }
  }
  pump_join (j);
  map_live_bytes (d->map, 0, map_nr (d->map));
  {
    LOCK_SCOPE (&j->lock);
    remember_end (d);
    j->options = *options;
    if (j->options.length == 0)
      j->options.length = d->size - options->offset;
    set_range (d);
    rate_set (&j->rate, 0);
    rate_set (&j->rate, options->speed);
    j->result = JOB_RESULT_NONE;
    j->pause = JOB_PAUSE_NONE;
    j->elapsed = j->bytes_read = j->nr_failed = 0;
    j->failed_offset = UINT64_MAX;
    j->errnum = 0;
    j->error[0] = '\0';
    j->ticking = false;
    j->local_at_start = map_live_bytes (d->map, granule_ceil (d, j->offset),
                                        granule_ceil (d, j->end));
    j->status = JOB_CREATED;
    j->number++;
    tell_full (d);
  }
  err = write_record (d);
  {
    LOCK_SCOPE (&j->lock);
    if (err == 0) {
      emit (d, DISK_EVENT_JOB_STATUS, NULL, NULL);
      if (pump_start (d) == 0) {
        log_info ("%s: job %" PRIu64 " has started: allocate %" PRIu64
                  "+%" PRIu64 "%s",
                  d->store_path, j->number, j->options.offset,
                  j->options.length, j->options.full ? ", zeros too" : "");
        if (number)
          *number = j->number;
        return 0;
      }
      err = errno;
    }
    j->status = JOB_NONE;
    tell_full (d);
  }
  write_record (d);
  errno = err;
  message_set (error, "cannot start the job of disk '%s': %m", d->name);
  return -1;
}

int
job_abort (struct disk *d, uint64_t number, char **error)
{
  struct job *j = d->job;
  uint64_t deadline = now_ns () + ABORT_MS * UINT64_C (1000000);
  int err;

  if (d->read_only)
    return refuse (error, EROFS, "disk '%s' is open read-only", d);
  look_at_map (d);
  {
    LOCK_SCOPE (&j->verb_lock);
    /* Whoever opens the volume next would go on with it (G37). */
    if (j->closed)
      return refuse (error, ESHUTDOWN, "disk '%s' is being closed", d);
    {
      LOCK_SCOPE (&j->lock);
      if (check_number (d, number, error) == -1)
        return -1;
      if (!in_progress (j))
        return refuse (error, ESRCH, "disk '%s' has no job in progress", d);
      j->abort = true;
      set_status (d, JOB_ABORTING);
      job_wake (j);
    }
    /* From here on a restart does not go on with it. */
    err = write_record (d);
  }
  /* So that nothing in flight is written, whatever the pump is doing. */
  fetch_discard_job (d);
  {
    LOCK_SCOPE (&j->lock);
    while (j->pumping && now_ns () < deadline)
      sleep_until (j, deadline);
  }
  if (err == 0)
    return 0;
  /* What came of it is recorded too: that will do. */
  {
    LOCK_SCOPE (&j->verb_lock);
    err = write_record (d);
  }
  if (err == 0)
    return 0;
  errno = err;
  message_set (error,
               "it is aborted, but that cannot be recorded: %m; a restart "
               "would go on with it");
  return -1;
}

int
job_pause (struct disk *d, uint64_t number, char **error)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->verb_lock);

  if (d->read_only)
    return refuse (error, EROFS, "disk '%s' is open read-only", d);
  look_at_map (d);
  {
    LOCK_SCOPE (&j->lock);
    if (check_number (d, number, error) == -1)
      return -1;
    if (!in_progress (j) || j->abort)
      return refuse (error, ESRCH, "disk '%s' has no job in progress", d);
    if (j->pause == JOB_PAUSE_USER)
      return refuse (error, EALREADY, "the job of disk '%s' is already paused",
                     d);
    j->pause = JOB_PAUSE_USER;
    set_status (d, JOB_PAUSED);
    log_info ("%s: job %" PRIu64 " is paused, as asked", d->store_path,
              j->number);
    job_wake (j);
  }
  errno = write_record (d);
  if (errno == 0)
    return 0;
  message_set (error, "cannot record it: %m");
  return -1;
}

int
job_resume (struct disk *d, uint64_t number, char **error)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->verb_lock);

  if (d->read_only)
    return refuse (error, EROFS, "disk '%s' is open read-only", d);
  look_at_map (d);
  {
    LOCK_SCOPE (&j->lock);
    if (check_number (d, number, error) == -1)
      return -1;
    if (!in_progress (j) || j->abort)
      return refuse (error, ESRCH, "disk '%s' has no job in progress", d);
    if (j->pause == JOB_PAUSE_NONE)
      return refuse (error, EALREADY, "the job of disk '%s' is not paused", d);
    j->pause = JOB_PAUSE_NONE;
    j->lost_since = 0;
    set_status (d, JOB_RUNNING);
    log_info ("%s: job %" PRIu64 " is resumed, as asked", d->store_path,
              j->number);
    job_wake (j);
  }
  errno = write_record (d);
  if (errno == 0)
    return 0;
  message_set (error, "cannot record it: %m");
  return -1;
}

int
job_set_speed (struct disk *d, uint64_t number, uint64_t speed, char **error)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->verb_lock);

  if (d->read_only)
    return refuse (error, EROFS, "disk '%s' is open read-only", d);
  {
    LOCK_SCOPE (&j->lock);
    if (check_number (d, number, error) == -1)
      return -1;
    if (!in_progress (j))
      return refuse (error, ESRCH, "disk '%s' has no job in progress", d);
    rate_set (&j->rate, speed);
    j->options.speed = speed;
    job_wake (j);
  }
  errno = write_record (d);
  if (errno == 0)
    return 0;
  message_set (error, "cannot record it: %m");
  return -1;
}

int
job_dismiss (struct disk *d, uint64_t number, char **error)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->verb_lock);

  if (d->read_only)
    return refuse (error, EROFS, "disk '%s' is open read-only", d);
  look_at_map (d);
  {
    LOCK_SCOPE (&j->lock);
    if (check_number (d, number, error) == -1)
      return -1;
    if (j->status == JOB_NONE)
      return refuse (error, ESRCH, "disk '%s' has no job", d);
    if (in_progress (j))
      return refuse (error, EBUSY,
                     "the job of disk '%s' has not ended: abort it first", d);
    remember_end (d);
    j->status = JOB_NONE;
    emit (d, DISK_EVENT_JOB_STATUS, NULL, NULL);
  }
  errno = write_record (d);
  if (errno == 0)
    return 0;
  message_set (error, "cannot record it: %m");
  return -1;
}
