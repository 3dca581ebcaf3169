/* wait.c - wait for a job's end.
 *
 * The waiting call uses a connection of its own that keeps events.  It waits
 * for the job of one number, that which block-allocate answered with or which
 * is there at first: the end of another job is not its.  The job's end is known
 * by its event, or by asking for the job of that number, which the server knows
 * for a while when its record is gone (dismissed, or replaced by a next job).
 * Progress, and everything else about the job, is asked for twice a second and
 * whenever an event comes.  A server from before numbers gives none (0): then
 * the last job that was created counts.
 *
 * Locking: client.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <time.h>

#include "client.h"
#include "cleanup.h"

#define POLL_INTERVAL 500 /* ms between two looks at a job */
#define FOLLOW_TIME 30000 /* ms for a disk's next server to come */

/* How a job ended, as events told it. */
struct ending {
  int type;        /* 0: not that we know */
  uint64_t number; /* of that job, if it has one */
  uint64_t total, processed;
  char error[256];
};

/* What the waiting call knows of its job. */
struct view {
  struct ending ending;
  struct backfill_job_info info;
  bool seen; /* the job was in progress once */
  bool lost; /* the server has not got the disk any more */
};

static void
ending_of_event (const struct backfill_event *ev, struct ending *ending)
{
  if (strcmp (ev->event, "BLOCK_JOB_CANCELLED") == 0)
    ending->type = BACKFILL_JOB_CANCELLED;
  else
    ending->type
        = ev->error != NULL ? BACKFILL_JOB_FAILED : BACKFILL_JOB_COMPLETED;
  ending->number = ev->number;
  ending->total = ev->len;
  ending->processed = ev->offset < ev->len ? ev->offset : ev->len;
  snprintf (ending->error, sizeof ending->error, "%s",
            ev->error != NULL ? ev->error : "");
}

/* Take the events that have come of the job of that number.  Without a number
 * only the last job counts: a "created" forgets the end of the one before. */
static int
take_events (struct conn *conn, const char *name, uint64_t number,
             struct ending *ending)
{
  json_t *message;

  while ((message = conn_event (conn)) != NULL) {
    struct backfill_event *ev = reply_event (message);

    json_decref (message);
    if (ev == NULL)
      return -1;
    if (ev->disk != NULL && strcmp (ev->disk, name) == 0
        && (number == 0 || ev->number == 0 || ev->number == number)) {
      if (strcmp (ev->event, "JOB_STATUS_CHANGE") == 0) {
        if (ev->status != NULL && strcmp (ev->status, "created") == 0)
          ending->type = 0;
      }
      else if (strcmp (ev->event, "BLOCK_JOB_COMPLETED") == 0
               || strcmp (ev->event, "BLOCK_JOB_CANCELLED") == 0)
        ending_of_event (ev, ending);
    }
    backfill_free_event (ev);
  }
  return 0;
}

/* The end of a job whose record is not there to be read. */
static void
info_of_ending (const struct ending *ending, struct backfill_job_info *info)
{
  memset (info, 0, sizeof *info);
  info->struct_size = sizeof *info;
  info->type = ending->type;
  info->number = ending->number;
  info->status = BACKFILL_STATUS_CONCLUDED;
  info->data_total = ending->total;
  info->data_processed = ending->processed;
  info->data_remaining = ending->total - ending->processed;
  info->errnum = ending->type == BACKFILL_JOB_FAILED ? EIO : 0;
  info->failed_offset = UINT64_MAX;
  memcpy (info->error, ending->error, sizeof info->error);
}

static int
result_of (const char *name, const struct backfill_job_info *info)
{
  switch (info->type) {
  case BACKFILL_JOB_COMPLETED:
    return 0;
  case BACKFILL_JOB_CANCELLED:
    return error_set (ECANCELED, "the job of disk '%s' was aborted", name);
  default:
    return error_set (info->errnum != 0 ? info->errnum : EIO,
                      "the job of disk '%s' failed: %s", name,
                      info->error[0] != '\0' ? info->error
                                             : "its reason is not known");
  }
}

/* Ask for the job, between two looks at the events.  1: look again, 0, -1. */
static int
look (struct job_wait *w, struct view *v)
{
  struct conn *conn = w->conn;
  int known;

  if (take_events (conn, w->name, w->number, &v->ending) == -1)
    return -1;
  known = v->ending.type;
  if (!conn->broken
      && job_query (conn, w->name, w->number, handle_deadline (w->h), &v->info)
             == -1
      && !conn->broken) {
    int err = backfill_get_errno ();

    v->lost = conn->no_such_disk || err == EBUSY || err == ESHUTDOWN;
    /* An end so long ago that the server has forgotten the job. */
    if (err != ESRCH || w->number == 0 || v->ending.type == 0)
      return -1;
    v->info.type = BACKFILL_JOB_NONE;
  }
  if (w->number == 0 && !conn->broken && v->info.number != 0) {
    w->number = v->info.number;
    if (v->ending.number != w->number)
      v->ending.type = 0;
  }
  /* An event of the end that came with the answer may be later than the
   * answer: ask again, for the job's record. */
  if (take_events (conn, w->name, w->number, &v->ending) == -1)
    return -1;
  return v->ending.type != known && !conn->broken
         && v->info.type != v->ending.type;
}

/* Until the job's end, over one connection. */
static int
wait_on (struct job_wait *w, struct view *v)
{
  for (;;) {
    int64_t next;
    int r = look (w, v);

    if (r == -1)
      return -1;
    if (r == 1)
      continue;

    if (v->ending.type != 0) {
      /* The record, if it is this job's and says so too: it knows more. */
      if (w->conn->broken || v->info.type != v->ending.type)
        info_of_ending (&v->ending, &v->info);
    }
    else if (w->conn->broken) {
      v->lost = true;
      return error_set (backfill_get_errno (),
                        "%s; the job goes on while its disk is served",
                        backfill_get_error ());
    }
    else if (v->info.type == BACKFILL_JOB_NONE)
      return error_set (ESRCH,
                        v->seen ? "the job of disk '%s' was dismissed"
                                : "disk '%s' has no job",
                        w->name);
    if (v->info.type != BACKFILL_JOB_BOUNDED) {
      if (w->progress != NULL)
        w->progress (w->opaque, &v->info);
      return result_of (w->name, &v->info);
    }

    v->seen = true;
    if (w->progress != NULL && w->progress (w->opaque, &v->info) != 0)
      return error_set (EINTR,
                        "no longer waiting for the job of disk '%s', "
                        "which goes on",
                        w->name);
    if (time_now () >= w->until)
      return error_set (ETIMEDOUT, "the job of disk '%s' is still in progress",
                        w->name);
    next = time_now () + POLL_INTERVAL;
    conn_poll (&w->conn, 1, next < w->until ? next : w->until);
  }
}

/* A disk that is named by its path may be handed from one server to another
 * while its job goes on: find the present one.  -1 without another error. */
static int
follow (struct job_wait *w)
{
  int64_t limit = time_now () + FOLLOW_TIME, deadline = handle_deadline (w->h);

  limit = limit < deadline ? limit : deadline;
  limit = limit < w->until ? limit : w->until;
  do {
    CLEANUP_FREE char *device = NULL;
    const struct timespec pause = { .tv_nsec = 200000000 };

    handle_give (w->h, w->conn);
    free (w->name);
    w->name = NULL;
    w->conn = route_disk (w->h, w->disk, true, &device, deadline);
    if (w->conn != NULL)
      w->name = route_disk_name (w->conn, device, deadline);
    if (w->name != NULL)
      return 0;
    nanosleep (&pause, NULL);
  } while (time_now () < limit);
  return -1;
}

int
job_wait (struct job_wait *w)
{
  for (;;) {
    CLEANUP_FREE char *why = NULL;
    struct view view = { 0 };
    int err, r = wait_on (w, &view);

    if (r == 0 || !view.lost || w->h->socket != NULL || w->disk == NULL
        || !route_is_path (w->disk))
      return r;
    err = backfill_get_errno ();
    why = strdup (backfill_get_error ());
    if (follow (w) == -1)
      return error_set (err, "%s", why != NULL ? why : "the server is gone");
  }
}

int
backfill_job_wait (struct backfill *h, const char *disk, uint64_t number,
                   unsigned timeout, backfill_progress_fn progress,
                   void *opaque)
{
  int64_t deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL;
  struct job_wait w = {
    .h = h,
    .disk = disk,
    .number = number,
    .until = time_deadline (timeout),
    .progress = progress,
    .opaque = opaque,
  };
  int r = -1;

  w.conn = route_disk (h, disk, true, &device, deadline);
  if (w.conn == NULL)
    return -1;
  w.name = route_disk_name (w.conn, device, deadline);
  if (w.name != NULL)
    r = job_wait (&w);
  free (w.name);
  handle_give (h, w.conn);
  return r;
}

int
backfill_block_wait_job (struct backfill *h, const char *disk, unsigned timeout,
                         backfill_progress_fn progress, void *opaque)
{
  return backfill_job_wait (h, disk, 0, timeout, progress, opaque);
}
