/* job-internal.h - a disk's job, as the four files that make it see it.
 *
 *   job.c        state, record, counters, events
 *   pace.c       when that job's pump may go on
 *   pump.c       the thread that works on a job in progress
 *   job-verbs.c  what is done to a job: start, stop, abort, pause, ...
 *
 * Each calls only those above it.  Everybody else sees job.h, and what
 * internal.h says of jobs.
 *
 * Locking: verb_lock serialises the calls that change a job and write its
 * record; verb_lock is held across I/O to the sidecar.  lock guards the
 * members, and is never held across I/O.  Lock order: common/lock-ranks.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_JOB_INTERNAL_H
#define BACKFILL_JOB_INTERNAL_H

#include "internal.h"
#include "lane.h"
#include "rate.h"
#include "share.h"
#include "window.h"

/* Bytes of one request, where nothing makes the request smaller. */
#define JOB_REQUEST (UINT64_C (1) << 20)
/* Number of samples for the rate of late, and of ended jobs remembered. */
#define JOB_SAMPLES 11u
#define JOB_ENDED_KEPT 16u

struct job {
  struct lock verb_lock;
  struct lock lock;
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
  uint64_t sent_ns;     /* the last request */
  struct window window; /* of the present pump */
  /* The lowest range of the pump's present walk that failed, and how. */
  bool failing;
  uint64_t fail_offset, fail_end;
  int fail_source, fail_store;
  uint64_t lost_since; /* ms, 0: not lost */

  /* Bytes that were local, oldest first. */
  struct {
    uint64_t ms, bytes;
  } sample[JOB_SAMPLES];
  unsigned nr_samples;
  uint64_t recorded_ms;

  struct slot slot; /* its turn among the jobs of the process */
  struct lane lane; /* its turn to send requests */
  struct rate rate;
  struct sidecar_job record;

  /* How the latest ended, the oldest overwritten first. */
  struct job_info ended[JOB_ENDED_KEPT];
  unsigned nr_ended; /* in all */
};

static inline bool
job_in_progress (const struct job *j)
{
  return j->status != JOB_NONE && j->status != JOB_CONCLUDED;
}

/* job.c, with job.lock held: */

uint64_t job_elapsed (const struct job *j); /* ms */
void job_clock_start (struct job *j);
void job_clock_stop (struct job *j);
/* Set offset and end by options. */
void job_set_range (struct disk *d);
/* The range, the options or whether the job is in progress have changed: tell
 * the fetches if zeros of it are to have blocks. */
void job_tell_full (struct disk *d);
/* What job_get_info gives.  wait: the map may be read from the sidecar, which
 * job_look_at_map makes unlikely; else false if it would have to be. */
bool job_fill_info (struct disk *d, struct job_info *info, bool wait);
/* The job that has ended is about to be replaced, or forgotten. */
void job_remember_end (struct disk *d);
void job_emit (struct disk *d, enum disk_event_type type, const char *operation,
               const char *action);
/* With its event, if it is another one. */
void job_set_status (struct disk *d, enum job_status status);
/* Wait for job.changed, at most until then (ns). */
void job_sleep_until (struct job *j, uint64_t ns);
/* Make the pump look at the job again, also when it waits for a slot. */
void job_wake (struct job *j);

/* job.c, with job.lock not held: */

/* Have the map of the range in memory. */
void job_look_at_map (struct disk *d);
/* Make the record durable.  verb_lock is held.  0 or errno. */
int job_write_record (struct disk *d);

/* pump.c.  job.lock is held.  0 or -1. */
int pump_start (struct disk *d);
/* Only after pumping is false, or where the pump is about to end. */
void pump_join (struct job *j);

#endif
