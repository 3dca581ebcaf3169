/* pump.c - the thread that works on a job in progress.
 *
 * There is one for each running job.  It walks the range, has known zeros made
 * local at once, asks for data as background fetches, and walks again until
 * nothing is absent: a range that a guest was fetching, or that failed, is met
 * on the next walk.
 *
 * pace.c decides when the pump may go on, and when it may send a request.
 *
 * Errors of a source that answers are tried ATTEMPTS times, with growing
 * waits and shrinking requests, so that what is given up is one granule.  A
 * source that is lost is waited for (options.retry).
 *
 * Locking: see job-internal.h.  Where nothing else is said job.lock is not
 * held.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "copier.h"
#include "extents.h"
#include "fetch.h"
#include "job-internal.h"
#include "pace.h"
#include "probe.h"

#define ATTEMPTS 5u
#define GRANULE_ATTEMPT 3u /* the first that is made granule by granule */
#define BACKOFF_MS 100u
/* The most bytes of a request while many jobs run: each job has threads of its
 * own in the source, whose buffers are as large as the largest request and are
 * used but a few times. */
#define SHARED_REQUEST (UINT64_C (512) << 10)
/* While a guest is active a job sends small requests (POLITE_REQUEST for each
 * processor, at most POLITE_MOST), because the thread that handles an answer
 * competes with the guest's. */
#define POLITE_REQUEST (UINT64_C (32) << 10)
#define POLITE_MOST (UINT64_C (256) << 10)
#define PREALLOCATE_STEP (UINT64_C (64) << 20)
#define ZERO_STEP (UINT64_C (16) << 20)
#define FAST_ZERO_STEP (UINT64_C (1) << 30)
/* Of block status: a huge sparse disk is thousands of round trips. */
#define EXTENTS_AHEAD 8u

/* The job has failed. */
static void
fail (struct job *j, int err, uint64_t offset, const char *what)
{
  ASSERT_HELD (&j->lock);
  j->errnum = err;
  j->failed_offset = offset;
  snprintf (j->error, sizeof j->error, "%s at offset %" PRIu64 ": %s", what,
            offset, strerror (err));
}

/* The store gave err.  True: it is full, and the job is paused; false: the job
 * has failed. */
static bool
store_failed (struct disk *d, int err, uint64_t offset)
{
  struct job *j = d->job;

  ASSERT_HELD (&j->lock);
  if (err == ENOSPC || err == EDQUOT) {
    if (j->pause == JOB_PAUSE_NONE) {
      j->pause = JOB_PAUSE_NOSPACE;
      log_error ("%s: job %" PRIu64 " is paused: %s: make room, then resume it",
                 d->store_path, j->number, strerror (err));
    }
    job_emit (d, DISK_EVENT_JOB_ERROR, "write", "stop");
    return true;
  }
  fail (j, err, offset, "cannot write the store");
  job_emit (d, DISK_EVENT_JOB_ERROR, "write", "report");
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

/* A source that is far away has few connections, so each request asks for
 * more bytes. */
static uint64_t
usual_request (struct job *j)
{
  LOCK_SCOPE (&j->lock);

  return j->window.size > WINDOW_MIN ? SOURCE_MAX_REQUEST : JOB_REQUEST;
}

static uint64_t
request_size (struct disk *d, const struct walk *w)
{
  struct job *j = d->job;
  uint64_t most = pace_guest_is_active (d)
                      ? min_u64 (POLITE_MOST, POLITE_REQUEST * j->processors)
                  : jobs_running () > NR_LANES ? SHARED_REQUEST
                                               : usual_request (j);

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

/* Add g to w->skipped, in order: is_skipped searches by halves. */
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

/* [offset, end) has failed: is that a first attempt, or one more at what is
 * being tried again? */
static void
count_attempt (struct walk *w, uint64_t offset, uint64_t end)
{
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
}

/* The granule at offset was tried often enough: skip it, or LEAVE. */
static enum turn
give_up (struct disk *d, struct walk *w, uint64_t offset)
{
  struct job *j = d->job;

  ASSERT_HELD (&j->lock);
  if (j->options.on_error == JOB_ON_ERROR_SKIP
      && skip (w, granule_floor (d, offset))) {
    if (j->nr_failed++ == 0)
      j->failed_offset = offset;
    job_emit (d, DISK_EVENT_JOB_ERROR, "read", "ignore");
    w->gave_up = true;
    /* On with what is left of the range, granule by granule. */
    w->attempts = 2;
    return GO;
  }
  fail (j, EIO, offset, "cannot read the backing store");
  job_emit (d, DISK_EVENT_JOB_ERROR, "read", "report");
  return LEAVE;
}

/* Requests have failed: wait for the others, then decide.  LEAVE: the job
 * ends. */
static enum turn
handle_failure (struct disk *d, struct walk *w)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->lock);
  uint64_t offset, end;
  unsigned most = w->gave_up ? 2 : ATTEMPTS;

  /* Wait for all of this walk's requests, so that the lowest failure is known.
   */
  pace_wait_answers (d, HALT_END | HALT_SOURCE);
  /* A source that has gone is waited for first. */
  if (!j->failing || (pace_why_halt (d) & HALT_END) || j->in_flight > 0)
    return GO;
  j->failing = false;
  offset = j->fail_offset;
  end = j->fail_end;
  w->at = min_u64 (w->at, offset);
  if (j->fail_store)
    return store_failed (d, j->fail_store, offset) ? GO : LEAVE;
  /* The source has gone meanwhile: the failure does not count as an attempt at
   * this range. */
  if (pace_why_halt (d) & HALT_SOURCE)
    return GO;
  count_attempt (w, offset, end);
  if (w->attempts >= most && end - offset <= d->granule)
    return give_up (d, w, offset);
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

  /* Write zeros in steps: an abort waits for the write under way. */
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

/* Ask for what is absent at w->at, at most to end.  LEAVE: the job ends. */
static enum turn
ask (struct disk *d, struct walk *w, uint64_t end)
{
  struct job *j = d->job;
  uint64_t asked, made;
  int r;

  end = min_u64 (end, w->at + request_size (d, w));
  for (uint64_t n = granule_floor (d, w->at) + 1;
       w->skipped.nr && n < granule_ceil (d, end); n++)
    if (is_skipped (w, n))
      end = granule_offset (d, n);
  asked = end - w->at;
  if (!pace_wait_room (d, asked))
    return GO;
  {
    LOCK_SCOPE (&j->lock);
    j->in_flight++;
    j->bytes_in_flight += asked;
    share_add_bytes (asked);
  }
  r = fetch_job (d, j->run, w->at, &end, &made);
  {
    /* The request may have ended already. */
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

/* One step at w->at, inside the range. */
static enum turn
step (struct disk *d, struct walk *w)
{
  struct job *j = d->job;
  uint64_t g = granule_floor (d, w->at), stop, end;
  /* Look no further than one step can go: on a huge disk, looking at all the
   * rest of the map at each step would be most of the work. */
  uint64_t last
      = granule_ceil (d, min_u64 (j->end, step_end (d, w->at, FAST_ZERO_STEP)));
  enum map_state state = map_run (d->map, g, last, &stop);
  unsigned flags;

  PROBE (job_turn, d, w->at, state);
  if (state == MAP_LIVE) {
    w->at = granule_offset (d, stop);
    return GO;
  }
  if (state == MAP_DAMAGED) {
    LOCK_SCOPE (&j->lock);
    fail (j, EIO, w->at, "the sidecar's map is damaged");
    job_emit (d, DISK_EVENT_JOB_ERROR, "read", "report");
    return LEAVE;
  }
  end = granule_offset (d, stop);
  extents_want (d->ext, w->at, j->end, EXTENTS_AHEAD);
  switch (extents_run (d->ext, w->at, end, &end, &flags)) {
  case EXTENTS_UNKNOWN:
    /* The walk comes back here, unless the source is gone by then. */
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
  return ask (d, w, end);
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

/* Allocate blocks of [offset, end) before the walk: all of them or, where
 * allocation is slow, those of live granules.  The caller holds the claim.
 * 0 or -1. */
static int
preallocate_step (struct disk *d, uint64_t offset, uint64_t end)
{
  uint64_t g = granule_floor (d, offset), last = granule_ceil (d, end), stop;

  if (!store_preallocate_is_slow (d->store))
    return store_preallocate (d->store, end - offset, offset);
  /* Absent granules are written anyway, once, when they become local. */
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

    if (pace_wait_turn (d, 0) == LEAVE || commit_failed (d))
      return;
    /* Where preallocation writes zeros, no guest's write may come between. */
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

/* Wait for the answers to the last requests.  False: not all have come, or
 * there is a failure to handle. */
static bool
all_answered (struct disk *d)
{
  struct job *j = d->job;

  ASSERT_HELD (&j->lock);
  pace_wait_answers (d, HALT_END | HALT_SOURCE | HALT_FAILURE);
  return !j->failing && j->in_flight == 0;
}

/* The pump has asked for all of the failed range again.  The attempts are over
 * only when all answers have come: a failure comes long after the last request.
 */
static bool
retry_has_ended (struct disk *d, struct walk *w)
{
  LOCK_SCOPE (&d->job->lock);

  if (!all_answered (d))
    return false;
  w->attempts = 0;
  return true;
}

/* The walk is at the end of the range: have all requests been answered?  What
 * is absent then is in flight for guests, or for nobody. */
static bool
walk_has_ended (struct disk *d)
{
  LOCK_SCOPE (&d->job->lock);
  return all_answered (d);
}

static void
walk_range (struct disk *d)
{
  struct job *j = d->job;
  struct walk w = { .at = j->offset };

  for (;;) {
    /* After a failed commit nothing more could be made durable. */
    if (pace_wait_turn (d, w.not_before) == LEAVE || commit_failed (d))
      break;
    /* All is local, so the requests in flight are of no use: do not wait for
     * the source. */
    if (!pace_source_is_up (d) && pace_is_local (d)) {
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
      if (step (d, &w) == LEAVE)
        break;
      continue;
    }
    if (!walk_has_ended (d))
      continue;
    if (is_done (d, &w)) {
      recount_skipped (d, &w);
      break;
    }
    w.at = j->offset;
    LOCK_SCOPE (&j->lock);
    if (!(pace_why_halt (d) & HALT_END))
      job_sleep_until (j, now_ns () + 5000000);
  }
  free (w.skipped.ptr);
}

static void
log_end (struct disk *d)
{
  struct job *j = d->job;
  struct job_info info;

  ASSERT_HELD (&j->lock);
  job_fill_info (d, &info, true);
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

/* err: of the job's last commit. */
static void
set_result (struct job *j, int err)
{
  ASSERT_HELD (&j->lock);
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
    job_clock_stop (j);
    set_result (j, err);
    j->pause = JOB_PAUSE_NONE;
    /* Set now; the event follows once the record is durable. */
    j->status = JOB_CONCLUDED;
    job_tell_full (d);
  }
  job_write_record (d);
  LOCK_SCOPE (&j->lock);
  log_end (d);
  job_emit (d, DISK_EVENT_JOB_STATUS, NULL, NULL);
  job_emit (d,
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
  /* Read what of the map is not in memory yet, so that nobody has to who holds
   * job.lock. */
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
    job_sleep_until (j, now_ns () + 2000000);
  }
  {
    LOCK_SCOPE (&j->lock);
    stop = j->stop;
    if (stop) {
      /* The record stays: who opens the volume next goes on with the job. */
      job_clock_stop (j);
      j->pumping = false;
      pthread_cond_broadcast (&j->changed);
    }
  }
  if (!stop)
    conclude (d);
  return NULL;
}

int
pump_start (struct disk *d)
{
  struct job *j = d->job;

  ASSERT_HELD (&j->lock);
  j->stop = j->abort = j->failing = false;
  j->run++;
  j->in_flight = 0;
  j->bytes_in_flight = 0;
  window_init (&j->window);
  j->lost_since = 0;
  j->nr_samples = 0;
  job_clock_start (j);
  j->pumping = true;
  if (thread_start (&j->pump, pump, d) == -1) {
    j->pumping = false;
    j->ticking = false;
    return -1;
  }
  j->has_pump = true;
  return 0;
}

void
pump_join (struct job *j)
{
  if (j->has_pump) {
    pthread_join (j->pump, NULL);
    j->has_pump = false;
  }
}
