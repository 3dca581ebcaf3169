/* fake-engine.c - see fake-engine.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mutex.h"
#include "cleanup.h"
#include "fake-engine.h"
#include "message.h"

#define GRANULE 4096u

struct disk {
  char *name, *store;
  uint64_t size;
  bool striped, detached;
  uint64_t jobs; /* so far */
  struct job_info job;
  struct job_info ended; /* the one before it */
  disk_event_fn event;
  void *opaque;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static bool block_flush, block_abort, unloaded;
static unsigned blocked, changes;
static int flush_errno, regions_errno;
static uint64_t total_speed;

struct disk *
fake_disk (const char *name, const char *store, uint64_t size, bool striped,
           disk_event_fn event, void *opaque)
{
  struct disk *d = calloc (1, sizeof *d);

  if (d == NULL)
    abort ();
  d->name = strdup (name);
  d->store = strdup (store);
  d->size = size;
  d->striped = striped;
  d->event = event;
  d->opaque = opaque;
  d->job.failed_offset = UINT64_MAX;
  return d;
}

void
fake_free (struct disk *d)
{
  free (d->name);
  free (d->store);
  free (d);
}

void
fake_block (bool flush, bool abort_)
{
  MUTEX_SCOPE (&lock);

  block_flush = flush;
  block_abort = abort_;
  pthread_cond_broadcast (&cond);
}

unsigned
fake_blocked (void)
{
  MUTEX_SCOPE (&lock);

  return blocked;
}

unsigned
fake_changes (void)
{
  MUTEX_SCOPE (&lock);

  return changes;
}

void
fake_fail_flush (int errnum)
{
  MUTEX_SCOPE (&lock);

  flush_errno = errnum;
}

void
fake_fail_regions (int errnum)
{
  MUTEX_SCOPE (&lock);

  regions_errno = errnum;
}

/* With the lock held. */
static void
emit (struct disk *d, enum disk_event_type type, const char *reason)
{
  const struct disk_event event = {
    .type = type,
    .disk = d,
    .status = d->job.status,
    .job = d->job,
    .operation = "read",
    .action = "report",
    .reason = reason,
  };

  if (d->event)
    d->event (d->opaque, &event);
}

static void
set_status (struct disk *d, enum job_status status)
{
  d->job.status = status;
  emit (d, DISK_EVENT_JOB_STATUS, NULL);
}

void
fake_event (struct disk *d, enum disk_event_type type, const char *reason)
{
  MUTEX_SCOPE (&lock);

  emit (d, type, reason);
}

/* With the lock held. */
static void
job_end (struct disk *d, enum job_result result)
{
  d->job.result = result;
  d->job.pause = JOB_PAUSE_NONE;
  if (result == JOB_RESULT_CANCELLED) {
    set_status (d, JOB_ABORTING);
    emit (d, DISK_EVENT_JOB_CANCELLED, NULL);
  }
  else {
    if (result == JOB_RESULT_FAILED)
      emit (d, DISK_EVENT_JOB_ERROR, NULL);
    else {
      d->job.processed = d->job.total;
      d->job.remaining = 0;
    }
    emit (d, DISK_EVENT_JOB_COMPLETED, NULL);
  }
  set_status (d, JOB_CONCLUDED);
}

void
fake_job_end (struct disk *d, enum job_result result, int errnum,
              const char *error)
{
  MUTEX_SCOPE (&lock);

  d->job.errnum = errnum;
  if (error)
    strncpy (d->job.error, error, sizeof d->job.error - 1);
  if (errnum)
    d->job.failed_offset = GRANULE;
  job_end (d, result);
}

/* --- job.h ------------------------------------------------------------ */

static bool
in_progress (const struct disk *d)
{
  return d->job.status != JOB_NONE && d->job.status != JOB_CONCLUDED;
}

static int
refuse (struct disk *d, int errnum, const char *what, char **error)
{
  message_set (error, "fake disk '%s': %s", d->name, what);
  errno = errnum;
  return -1;
}

int
job_start (struct disk *d, const struct job_options *options, uint64_t *number,
           char **error)
{
  MUTEX_SCOPE (&lock);

  if (options->offset > d->size || options->length > d->size - options->offset)
    return refuse (d, EINVAL, "the range is not within it", error);
  if (in_progress (d))
    return refuse (d, EBUSY, "it already has a job", error);
  changes++;
  if (d->job.status == JOB_CONCLUDED)
    d->ended = d->job;
  memset (&d->job, 0, sizeof d->job);
  d->job.number = ++d->jobs;
  if (number != NULL)
    *number = d->jobs;
  d->job.failed_offset = UINT64_MAX;
  d->job.options = *options;
  if (options->length == 0)
    d->job.options.length = d->size - options->offset;
  d->job.total = d->job.remaining = d->job.options.length;
  set_status (d, JOB_CREATED);
  set_status (d, JOB_RUNNING);
  return 0;
}

int
job_abort (struct disk *d, uint64_t number, char **error)
{
  MUTEX_SCOPE (&lock);

  if (number != 0 && number != d->jobs)
    return refuse (d, ESRCH, "that job has ended", error);
  if (!in_progress (d))
    return refuse (d, ESRCH, "it has no job", error);
  blocked++;
  while (block_abort)
    pthread_cond_wait (&cond, &lock);
  blocked--;
  changes++;
  job_end (d, JOB_RESULT_CANCELLED);
  return 0;
}

int
job_pause (struct disk *d, uint64_t number, char **error)
{
  MUTEX_SCOPE (&lock);

  if (number != 0 && number != d->jobs)
    return refuse (d, ESRCH, "that job has ended", error);
  if (!in_progress (d))
    return refuse (d, ESRCH, "it has no job", error);
  if (d->job.pause != JOB_PAUSE_NONE)
    return refuse (d, EALREADY, "it is paused", error);
  changes++;
  d->job.pause = JOB_PAUSE_USER;
  set_status (d, JOB_PAUSED);
  return 0;
}

int
job_resume (struct disk *d, uint64_t number, char **error)
{
  MUTEX_SCOPE (&lock);

  if (number != 0 && number != d->jobs)
    return refuse (d, ESRCH, "that job has ended", error);
  if (!in_progress (d))
    return refuse (d, ESRCH, "it has no job", error);
  if (d->job.pause == JOB_PAUSE_NONE)
    return refuse (d, EALREADY, "it is not paused", error);
  changes++;
  d->job.pause = JOB_PAUSE_NONE;
  set_status (d, JOB_RUNNING);
  return 0;
}

int
job_set_speed (struct disk *d, uint64_t number, uint64_t speed, char **error)
{
  MUTEX_SCOPE (&lock);

  if (number != 0 && number != d->jobs)
    return refuse (d, ESRCH, "that job has ended", error);
  if (!in_progress (d))
    return refuse (d, ESRCH, "it has no job", error);
  changes++;
  d->job.options.speed = speed;
  return 0;
}

int
job_dismiss (struct disk *d, uint64_t number, char **error)
{
  MUTEX_SCOPE (&lock);

  if (number != 0 && number != d->jobs)
    return refuse (d, ESRCH, "that job has ended", error);
  if (d->job.status == JOB_NONE)
    return refuse (d, ESRCH, "it has no job", error);
  if (in_progress (d))
    return refuse (d, EBUSY, "its job has not ended", error);
  changes++;
  d->ended = d->job;
  set_status (d, JOB_NONE);
  return 0;
}

void
job_get_info (struct disk *d, struct job_info *info)
{
  MUTEX_SCOPE (&lock);

  *info = d->job;
}

int
job_find (struct disk *d, uint64_t number, struct job_info *info, char **error)
{
  MUTEX_SCOPE (&lock);

  *info = d->job.number == number && d->job.status != JOB_NONE ? d->job
                                                               : d->ended;
  return info->number == number
             ? 0
             : refuse (d, ESRCH, "it had no such job", error);
}

bool
job_try_get_info (struct disk *d, struct job_info *info)
{
  MUTEX_SCOPE (&lock);

  *info = d->job;
  return !unloaded;
}

void
fake_unload (bool unload)
{
  MUTEX_SCOPE (&lock);

  unloaded = unload;
}

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

/* --- disk.h ----------------------------------------------------------- */

const char *
disk_name (struct disk *d)
{
  return d->name;
}

const char *
disk_store_path (struct disk *d)
{
  return d->store;
}

/* No two have the same: its device number is 0x1a, its inode the length of
 * its path. */
struct file_id
disk_file (struct disk *d)
{
  return (struct file_id){ .dev = 0x1a, .ino = strlen (d->store) };
}

static unsigned store_asked; /* atomic */

unsigned
fake_store_asked (void)
{
  return __atomic_load_n (&store_asked, __ATOMIC_RELAXED);
}

uid_t
disk_store_owner (struct disk *d)
{
  (void)d;
  __atomic_add_fetch (&store_asked, 1, __ATOMIC_RELAXED);
  return geteuid ();
}

uid_t
disk_store_owner_seen (struct disk *d)
{
  (void)d;
  return geteuid ();
}

uint64_t
disk_size (struct disk *d)
{
  return d->size;
}

uint32_t
disk_granule (struct disk *d)
{
  (void)d;
  return GRANULE;
}

struct disk *
disks_find (const struct disks *disks, const char *name)
{
  for (size_t i = 0; i < disks->len; i++)
    if (strcmp (disks->ptr[i]->name, name) == 0
        || strcmp (disks->ptr[i]->store, name) == 0)
      return disks->ptr[i];
  return NULL;
}

int
disk_get_info (struct disk *d, struct disk_info *info)
{
  MUTEX_SCOPE (&lock);

  memset (info, 0, sizeof *info);
  info->name = d->name;
  info->store = d->store;
  info->metadata = d->store;
  info->backing = d->detached ? NULL : "nbd://nowhere";
  info->size = d->size;
  info->granule = GRANULE;
  info->local = d->size / 2;
  info->absent = d->size - info->local;
  info->detached = d->detached;
  info->source = SOURCE_CONNECTED;
  info->job = d->job;
  return 0;
}

int
disk_regions (struct disk *d, uint64_t count, uint64_t offset, bool want_zero,
              disk_region_fn fn, void *opaque)
{
  uint64_t end = offset + count, half = d->size / 2;
  int err;

  {
    MUTEX_SCOPE (&lock);
    err = regions_errno;
  }
  (void)want_zero;
  while (offset < end && err == 0) {
    bool local = d->striped ? offset / GRANULE % 2 == 0 : offset < half;
    uint64_t stop = d->striped ? (offset / GRANULE + 1) * GRANULE
                    : local    ? half
                               : end;

    if (stop > end)
      stop = end;
    if (fn (opaque, offset, stop - offset, local ? DISK_LOCAL : DISK_ABSENT))
      break;
    offset = stop;
  }
  errno = err;
  return err ? -1 : 0;
}

int
disk_flush (struct disk *d)
{
  MUTEX_SCOPE (&lock);

  (void)d;
  blocked++;
  while (block_flush)
    pthread_cond_wait (&cond, &lock);
  blocked--;
  changes++;
  errno = flush_errno;
  return flush_errno ? -1 : 0;
}

int
disk_detach (struct disk *d, char **error)
{
  MUTEX_SCOPE (&lock);

  (void)error;
  changes++;
  d->detached = true;
  return 0;
}

void
disk_set_total_speed (uint64_t speed)
{
  MUTEX_SCOPE (&lock);

  total_speed = speed;
}

uint64_t
disk_get_total_speed (void)
{
  MUTEX_SCOPE (&lock);

  return total_speed;
}
