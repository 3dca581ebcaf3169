/* job.h - one allocation, in progress or ended: its state and counters.
 *
 * A disk has at most one job.  Ended jobs are kept, also over a restart,
 * until the next one on that disk starts or they are dismissed.  All
 * functions take the disk.  They are in job-verbs.c, those that only look at a
 * job in job.c.
 *
 * Jobs of a disk have numbers, from 1, which go up by one and on over a
 * restart, so a client that started a job, or waits for a job, is not told
 * about another job.  While the process lives, it remembers by number how the
 * latest jobs ended, whatever became of their records.
 *
 * Every counter is derived from the map (I7): total is the range widened to
 * granules and clipped to the disk, remaining what of it is absent now,
 * processed the rest, whoever made it local.
 *
 * Locking: any thread; lock order: common/lock-ranks.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_JOB_H
#define BACKFILL_JOB_H

#include <stdbool.h>
#include <stdint.h>

struct disk;

/* QEMU's words. */
enum job_status {
  JOB_NONE,
  JOB_CREATED, /* waits for its turn among the jobs of the process */
  JOB_RUNNING,
  JOB_PAUSED,
  JOB_WAITING, /* source lost, retrying */
  JOB_ABORTING,
  JOB_CONCLUDED,
};

enum job_result {
  JOB_RESULT_NONE,
  JOB_RESULT_COMPLETED,
  JOB_RESULT_FAILED,
  JOB_RESULT_CANCELLED,
};

enum job_on_error {
  JOB_ON_ERROR_REPORT, /* after the retries the job fails */
  JOB_ON_ERROR_SKIP,   /* after the retries go on; fail at the end */
};

/* Why a job is paused. */
enum job_pause {
  JOB_PAUSE_NONE,
  JOB_PAUSE_USER,
  JOB_PAUSE_NOSPACE, /* the store is full; resumes when asked */
};

struct job_options {
  uint64_t offset, length; /* bytes; length 0 = to the end */
  uint64_t speed;          /* bytes/s, 0 = no limit */
  bool full;               /* allocate zeros too (the seed's default) */
  enum job_on_error on_error;
  uint64_t retry; /* ms that a lost source is waited for, 0 = for
                     ever; errors of one that answers are tried a
                     few times */
};

struct job_info {
  uint64_t number; /* the latest's also when status is JOB_NONE; 0: none yet */
  enum job_status status;
  enum job_result result;
  enum job_pause pause;
  struct job_options options;           /* offset and length as asked */
  uint64_t total, processed, remaining; /* bytes; total = the other two */
  uint64_t local_at_start; /* of total, bytes local when it started */
  uint64_t time_elapsed;   /* ms since it was created, over restarts */
  uint64_t time_remaining; /* ms, by the rate of late; 0 = not known */
  uint64_t bytes_read;     /* from the source, for this job */
  uint64_t current_speed;  /* bytes/s, smoothed */
  uint64_t nr_failed;      /* failed ranges (skip) */
  int errnum;              /* of a failed job, else 0 */
  uint64_t failed_offset;  /* first failed, UINT64_MAX if none */
  char error[256];         /* "" if none */
};

/* All return 0, or -1 with errno and a message in error (malloc'd, caller
 * frees; never NULL on failure). */

/* Start a job; *number (unless NULL) is its.  Its record is durable before
 * this returns (G37).  EBUSY: there is one already (the message names it);
 * EINVAL: range; EROFS; ESHUTDOWN; EIO. */
int job_start (struct disk *disk, const struct job_options *options,
               uint64_t *number, char **error)
    __attribute__ ((nonnull (1, 2, 4)));

/* In the calls below number is the number of the job that the caller means, or
 * 0 for whichever job the disk has.  ESRCH: the disk has another job now. */

/* Returns when nothing more will be written for the job, at the latest after
 * 2 s even if the source hangs.  ESRCH: no job in progress; ESHUTDOWN. */
int job_abort (struct disk *disk, uint64_t number, char **error)
    __attribute__ ((nonnull (1, 3)));

/* ESRCH: no job in progress; EALREADY: is paused / is not. */
int job_pause (struct disk *disk, uint64_t number, char **error)
    __attribute__ ((nonnull (1, 3)));
int job_resume (struct disk *disk, uint64_t number, char **error)
    __attribute__ ((nonnull (1, 3)));
int job_set_speed (struct disk *disk, uint64_t number, uint64_t speed,
                   char **error) __attribute__ ((nonnull (1, 4)));

/* Forget an ended job.  ESRCH: there is none; EBUSY: it has not ended. */
int job_dismiss (struct disk *disk, uint64_t number, char **error)
    __attribute__ ((nonnull (1, 3)));

/* Never fails: status JOB_NONE when there is no job. */
void job_get_info (struct disk *disk, struct job_info *info)
    __attribute__ ((nonnull (1, 2)));
/* The job of that number: in progress, or one of the latest that ended.
 * ESRCH: none of these, with *error. */
int job_find (struct disk *disk, uint64_t number, struct job_info *info,
              char **error) __attribute__ ((nonnull (1, 3, 4)));
/* job_get_info for a caller that must not wait.  False: the info cannot be had
 * without waiting. */
bool job_try_get_info (struct disk *disk, struct job_info *info)
    __attribute__ ((nonnull (1, 2)));

/* The status alone; it looks at nothing else. */
enum job_status job_get_status (struct disk *disk)
    __attribute__ ((nonnull (1)));

/* "running" and so on; static strings. */
const char *job_status_name (enum job_status status);
const char *job_result_name (enum job_result result);

#endif
