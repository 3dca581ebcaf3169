/* job.c - a disk's job: its state, record, counters and events.
 *
 * A job's counters are not kept: they are asked of the map, so they are true
 * whoever made a range local (I7).  What is kept, in memory and in the
 * sidecar, is what was asked, the state, the clock and the error.
 *
 * Locking: see job-internal.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <time.h>

#include "job-internal.h"

#define RECORD_MS 5000u
/* The rate of late, and with it the time that is left, is that of up to
 * JOB_SAMPLES samples while the job runs. */
#define SAMPLE_MS 500u
/* As many are asked for where a limit makes the time between two requests
 * longer than that between two samples. */
#define SAMPLES_LIMITED 4u
#define DISTANT_MS (UINT64_C (10) * 365 * 86400 * 1000)

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

uint64_t
job_elapsed (const struct job *j)
{
  ASSERT_HELD (&j->lock);
  return j->elapsed + (j->ticking ? now_ms () - j->since : 0);
}

void
job_clock_start (struct job *j)
{
  ASSERT_HELD (&j->lock);
  j->since = now_ms ();
  j->ticking = true;
}

void
job_clock_stop (struct job *j)
{
  ASSERT_HELD (&j->lock);
  j->elapsed = job_elapsed (j);
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
      ms = max_u64 (ms, rate_request (rates[i], d->granule, JOB_REQUEST) * 1000
                            / limit);
  }
  return ms;
}

/* Bytes that became local each second of late; 0: not known, or none. */
static double
current_speed (const struct job *j)
{
  unsigned last = j->nr_samples - 1;

  ASSERT_HELD (&j->lock);
  if (j->nr_samples < 2 || j->sample[last].bytes <= j->sample[0].bytes)
    return 0;
  return (double)(j->sample[last].bytes - j->sample[0].bytes) * 1000
         / (double)(j->sample[last].ms - j->sample[0].ms);
}

/* ms; 0: not known, which is so right after a start or a pause, while nothing
 * comes, and where it would be in another age. */
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

bool
job_fill_info (struct disk *d, struct job_info *info, bool wait)
{
  struct job *j = d->job;

  ASSERT_HELD (&j->lock);
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
  info->time_elapsed = job_elapsed (j);
  info->bytes_read = j->bytes_read;
  if (job_in_progress (j)) {
    info->current_speed = (uint64_t)current_speed (j);
    info->time_remaining = time_remaining (d, info->remaining);
  }
  info->nr_failed = j->nr_failed;
  info->failed_offset = j->failed_offset;
  info->errnum = j->errnum;
  memcpy (info->error, j->error, sizeof info->error);
  return true;
}

void
job_look_at_map (struct disk *d)
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

  job_look_at_map (d);
  LOCK_SCOPE (&j->lock);
  job_fill_info (d, info, true);
}

void
job_remember_end (struct disk *d)
{
  struct job *j = d->job;

  ASSERT_HELD (&j->lock);
  if (j->status == JOB_CONCLUDED)
    job_fill_info (d, &j->ended[j->nr_ended++ % JOB_ENDED_KEPT], true);
}

int
job_find (struct disk *d, uint64_t number, struct job_info *info, char **error)
{
  struct job *j = d->job;

  job_look_at_map (d);
  LOCK_SCOPE (&j->lock);
  if (number == j->number && j->status != JOB_NONE) {
    job_fill_info (d, info, true);
    return 0;
  }
  for (unsigned i = 0; i < min_u64 (j->nr_ended, JOB_ENDED_KEPT); i++)
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

  if (!lock_try (&j->lock))
    return false;
  r = job_fill_info (d, info, false);
  lock_drop (&j->lock);
  return r;
}

enum job_status
job_get_status (struct disk *d)
{
  LOCK_SCOPE (&d->job->lock);
  return d->job->status;
}

void
job_emit (struct disk *d, enum disk_event_type type, const char *operation,
          const char *action)
{
  struct disk_event ev = { .type = type,
                           .status = d->job->status,
                           .operation = operation,
                           .action = action };

  ASSERT_HELD (&d->job->lock);
  job_fill_info (d, &ev.job, true);
  disk_emit (d, &ev);
}

void
job_wake (struct job *j)
{
  ASSERT_HELD (&j->lock);
  pthread_cond_broadcast (&j->changed);
  slot_kick (&j->slot);
}

void
job_set_status (struct disk *d, enum job_status status)
{
  ASSERT_HELD (&d->job->lock);
  if (d->job->status == status)
    return;
  /* What it did before a pause says nothing of what comes after it. */
  d->job->nr_samples = 0;
  d->job->status = status;
  job_emit (d, DISK_EVENT_JOB_STATUS, NULL, NULL);
  pthread_cond_broadcast (&d->job->changed);
}

void
job_tell_full (struct disk *d)
{
  struct job *j = d->job;

  ASSERT_HELD (&j->lock);
  if (job_in_progress (j) && j->options.full)
    fetch_set_full (d, j->offset, j->end);
  else
    fetch_set_full (d, 0, 0);
}

int
job_write_record (struct disk *d)
{
  struct job *j = d->job;
  struct sidecar_job *r = &j->record;

  ASSERT_HELD (&j->verb_lock);
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
    r->time_elapsed = job_elapsed (j);
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

/* A fetch_ended_fn: one of the job's requests has ended.  run is the pump's
 * that made it, as an older pump's requests may outlive it. */
static void
fetch_ended (struct disk *d, unsigned run, uint64_t offset, uint64_t end,
             int source_error, int store_error, uint64_t source_ns)
{
  struct job *j = d->job;

  share_sub_bytes (end - offset);
  {
    LOCK_SCOPE (&j->lock);

    if (run != j->run)
      return;
    j->in_flight--;
    j->bytes_in_flight -= end - offset;
    if (source_error == 0) {
      j->bytes_read += end - offset;
      window_answer (&j->window, end - offset, source_ns, share_memory ());
    }
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
  /* Without job.lock, which the pump needs at once. */
  pthread_cond_broadcast (&j->changed);
}

/* What the job is to make local, of what was asked.  An empty range, as from
 * the end of the disk to its end, stays empty: it is not widened to the granule
 * that it touches. */
void
job_set_range (struct disk *d)
{
  struct job *j = d->job;

  ASSERT_HELD (&j->lock);
  j->end = granule_offset (
      d, granule_ceil (d, j->options.offset + j->options.length));
  j->offset = j->options.length > 0 ? round_down (j->options.offset, d->granule)
                                    : j->end;
}

void
job_sleep_until (struct job *j, uint64_t ns)
{
  lock_wait_ns (&j->changed, &j->lock, ns);
}

static bool
record_is_sane (struct disk *d, const struct sidecar_job *r)
{
  return r->status <= JOB_CONCLUDED && r->result <= JOB_RESULT_CANCELLED
         && r->pause <= JOB_PAUSE_NOSPACE && r->offset <= d->size
         && r->length <= d->size - r->offset;
}

/* The job is what its record says. */
static void
restore (struct disk *d)
{
  struct job *j = d->job;

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
  job_set_range (d);
  /* Read-only the job does not go on; who opens the volume to write goes on
   * with it. */
  if (d->read_only && job_in_progress (j))
    j->status = JOB_PAUSED;
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
  lock_init (&j->verb_lock, LOCK_JOB_VERBS);
  lock_init (&j->lock, LOCK_JOB);
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
    /* A slot that could not be read may hold any sequence, and may be readable
     * again later: a newer record must have the higher sequence. */
    j->record.sequence = (uint64_t)time (NULL) << 20;
  }
  /* A record that older programs wrote has no number; the sequence is no lower
   * than any number was. */
  if (r != -1)
    j->number = j->record.number != 0 && j->record.number < INT64_MAX
                    ? j->record.number
                    : min_u64 (j->record.sequence, INT64_MAX - 1);
  if (r == 1 && record_is_sane (d, &j->record)) {
    LOCK_SCOPE (&j->lock);

    restore (d);
    job_tell_full (d);
  }
  return 0;
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
  lock_destroy (&j->verb_lock);
  lock_destroy (&j->lock);
  pthread_cond_destroy (&j->changed);
  free (j);
  d->job = NULL;
}

struct lock *
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

/* Add a sample: so many bytes were local then. */
static void
add_sample (struct job *j, uint64_t ms, uint64_t bytes)
{
  ASSERT_HELD (&j->lock);
  if (j->nr_samples == JOB_SAMPLES) {
    memmove (j->sample, j->sample + 1, (JOB_SAMPLES - 1) * sizeof *j->sample);
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
  /* The record keeps the clock and the bytes read: a crash takes neither back
   * further than a checkpoint. */
  if (record && lock_try (&j->verb_lock)) {
    job_write_record (d);
    lock_drop (&j->verb_lock);
  }
}
