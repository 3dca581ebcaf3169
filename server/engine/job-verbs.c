/* job-verbs.c - what is done to a disk's job.
 *
 * Each verb takes verb_lock, asks verb_table whether the job's status allows
 * it, changes the job under job.lock, wakes the pump, and has the record
 * durable before it returns (G37).  job_abort lets verb_lock go while it waits
 * for the pump, as the pump needs it to conclude.
 *
 * Locking: see job-internal.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "fetch.h"
#include "job-internal.h"

#define ABORT_MS 2000u

enum verb {
  VERB_START,
  VERB_ABORT,
  VERB_PAUSE,
  VERB_RESUME,
  VERB_SET_SPEED,
  VERB_DISMISS,
  NR_VERBS,
};

enum verdict {
  OK,
  BUSY,     /* another job is in progress */
  IDLE,     /* no job is in progress */
  NOTHING,  /* there is no job, not even an ended one */
  NOT_OVER, /* the job is in progress still */
};

/* The verdict on each verb in each status. */
static const enum verdict verb_table[NR_VERBS][JOB_CONCLUDED + 1] = {
  /* clang-format off */
  /*                  none     created   running   paused    waiting   aborting  concluded */
  [VERB_START]     = { OK,      BUSY,     BUSY,     BUSY,     BUSY,     BUSY,     OK },
  [VERB_ABORT]     = { IDLE,    OK,       OK,       OK,       OK,       OK,       IDLE },
  [VERB_PAUSE]     = { IDLE,    OK,       OK,       OK,       OK,       IDLE,     IDLE },
  [VERB_RESUME]    = { IDLE,    OK,       OK,       OK,       OK,       IDLE,     IDLE },
  [VERB_SET_SPEED] = { IDLE,    OK,       OK,       OK,       OK,       OK,       IDLE },
  [VERB_DISMISS]   = { NOTHING, NOT_OVER, NOT_OVER, NOT_OVER, NOT_OVER, NOT_OVER, OK },
  /* clang-format on */
};

static int
refuse (char **error, int err, const char *text, struct disk *d)
{
  message_set (error, text, d->name);
  errno = err;
  return -1;
}

static int
check_writable (struct disk *d, char **error)
{
  return d->read_only ? refuse (error, EROFS, "disk '%s' is open read-only", d)
                      : 0;
}

/* Is the present job the one that is meant? */
static int
check_number (struct disk *d, uint64_t number, char **error)
{
  struct job *j = d->job;

  ASSERT_HELD (&j->lock);
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

/* May the verb be done, to the job of that number? */
static int
check_verb (struct disk *d, enum verb verb, uint64_t number, char **error)
{
  struct job *j = d->job;

  ASSERT_HELD (&j->lock);
  if (check_number (d, number, error) == -1)
    return -1;
  switch (verb_table[verb][j->status]) {
  case OK:
    break;
  case BUSY:
    message_set (error,
                 "disk '%s' already has a job in progress: allocate "
                 "%" PRIu64 "+%" PRIu64 " (%s)",
                 d->name, j->options.offset, j->options.length,
                 job_status_name (j->status));
    errno = EBUSY;
    return -1;
  case IDLE:
    return refuse (error, ESRCH, "disk '%s' has no job in progress", d);
  case NOTHING:
    return refuse (error, ESRCH, "disk '%s' has no job", d);
  case NOT_OVER:
    return refuse (error, EBUSY,
                   "the job of disk '%s' has not ended: abort it first", d);
  }
  return 0;
}

/* The end of a verb: 0 or -1. */
static int
record (struct disk *d, char **error)
{
  ASSERT_HELD (&d->job->verb_lock);
  errno = job_write_record (d);
  if (errno == 0)
    return 0;
  message_set (error, "cannot record it: %m");
  return -1;
}

static int
check_range (struct disk *d, const struct job_options *options, char **error)
{
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
  return 0;
}

/* Make the disk's job a new job with these options. */
static void
replace (struct disk *d, const struct job_options *options)
{
  struct job *j = d->job;

  ASSERT_HELD (&j->lock);
  job_remember_end (d);
  j->options = *options;
  if (j->options.length == 0)
    j->options.length = d->size - options->offset;
  job_set_range (d);
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
  job_tell_full (d);
}

int
job_start (struct disk *d, const struct job_options *options, uint64_t *number,
           char **error)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->verb_lock);
  int err;

  if (check_writable (d, error) == -1 || check_range (d, options, error) == -1)
    return -1;
  {
    LOCK_SCOPE (&j->lock);
    if (atomic_load_explicit (&d->gated, memory_order_acquire) || j->stop)
      return refuse (error, ESHUTDOWN, "disk '%s' is being closed", d);
    if (check_verb (d, VERB_START, 0, error) == -1)
      return -1;
  }
  pump_join (j);
  map_live_bytes (d->map, 0, map_nr (d->map));
  {
    LOCK_SCOPE (&j->lock);
    replace (d, options);
  }
  err = job_write_record (d);
  {
    LOCK_SCOPE (&j->lock);
    if (err == 0) {
      job_emit (d, DISK_EVENT_JOB_STATUS, NULL, NULL);
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
    job_tell_full (d);
  }
  job_write_record (d);
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

  if (check_writable (d, error) == -1)
    return -1;
  job_look_at_map (d);
  {
    LOCK_SCOPE (&j->verb_lock);
    /* The record cannot be changed any more: the server that opens the volume
     * next would go on with the job (G37). */
    if (j->closed)
      return refuse (error, ESHUTDOWN, "disk '%s' is being closed", d);
    {
      LOCK_SCOPE (&j->lock);
      if (check_verb (d, VERB_ABORT, number, error) == -1)
        return -1;
      j->abort = true;
      job_set_status (d, JOB_ABORTING);
      job_wake (j);
    }
    /* From here on a restart does not go on with the job. */
    err = job_write_record (d);
  }
  /* So that nothing in flight is written, whatever the pump is doing. */
  fetch_discard_job (d);
  {
    LOCK_SCOPE (&j->lock);
    while (j->pumping && now_ns () < deadline)
      job_sleep_until (j, deadline);
  }
  if (err == 0)
    return 0;
  /* The record of how the job ended serves as well. */
  {
    LOCK_SCOPE (&j->verb_lock);
    err = job_write_record (d);
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

  if (check_writable (d, error) == -1)
    return -1;
  job_look_at_map (d);
  {
    LOCK_SCOPE (&j->lock);
    if (check_verb (d, VERB_PAUSE, number, error) == -1)
      return -1;
    if (j->pause == JOB_PAUSE_USER)
      return refuse (error, EALREADY, "the job of disk '%s' is already paused",
                     d);
    j->pause = JOB_PAUSE_USER;
    job_set_status (d, JOB_PAUSED);
    log_info ("%s: job %" PRIu64 " is paused, as asked", d->store_path,
              j->number);
    job_wake (j);
  }
  return record (d, error);
}

int
job_resume (struct disk *d, uint64_t number, char **error)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->verb_lock);

  if (check_writable (d, error) == -1)
    return -1;
  job_look_at_map (d);
  {
    LOCK_SCOPE (&j->lock);
    if (check_verb (d, VERB_RESUME, number, error) == -1)
      return -1;
    if (j->pause == JOB_PAUSE_NONE)
      return refuse (error, EALREADY, "the job of disk '%s' is not paused", d);
    j->pause = JOB_PAUSE_NONE;
    j->lost_since = 0;
    job_set_status (d, JOB_RUNNING);
    log_info ("%s: job %" PRIu64 " is resumed, as asked", d->store_path,
              j->number);
    job_wake (j);
  }
  return record (d, error);
}

int
job_set_speed (struct disk *d, uint64_t number, uint64_t speed, char **error)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->verb_lock);

  if (check_writable (d, error) == -1)
    return -1;
  {
    LOCK_SCOPE (&j->lock);
    if (check_verb (d, VERB_SET_SPEED, number, error) == -1)
      return -1;
    rate_set (&j->rate, speed);
    j->options.speed = speed;
    job_wake (j);
  }
  return record (d, error);
}

int
job_dismiss (struct disk *d, uint64_t number, char **error)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->verb_lock);

  if (check_writable (d, error) == -1)
    return -1;
  job_look_at_map (d);
  {
    LOCK_SCOPE (&j->lock);
    if (check_verb (d, VERB_DISMISS, number, error) == -1)
      return -1;
    job_remember_end (d);
    j->status = JOB_NONE;
    job_emit (d, DISK_EVENT_JOB_STATUS, NULL, NULL);
  }
  return record (d, error);
}

/* Go on with the job that the last process left in progress. */
static int
go_on (struct disk *d, char **error)
{
  struct job *j = d->job;
  LOCK_SCOPE (&j->lock);

  /* A job that was being aborted when the process died stays aborted. */
  if (j->status == JOB_ABORTING) {
    j->status = JOB_CONCLUDED;
    j->result = JOB_RESULT_CANCELLED;
    j->errnum = ECANCELED;
    snprintf (j->error, sizeof j->error, "the job was aborted");
    job_tell_full (d);
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

int
jobs_start (struct disk *d, char **error)
{
  struct job *j = d->job;

  if (d->read_only)
    return 0;
  if (job_in_progress (j))
    return go_on (d, error);
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
  /* verb_lock is not held here: the pump needs verb_lock to conclude. */
  {
    LOCK_SCOPE (&j->lock);
    while (j->pumping && now_ms () < until)
      job_sleep_until (j, until * 1000000);
    ended = !j->pumping;
  }
  if (!ended)
    return false;
  pump_join (j);
  LOCK_SCOPE (&j->verb_lock);
  if (j->status != JOB_NONE)
    job_write_record (d);
  j->closed = true;
  return true;
}
