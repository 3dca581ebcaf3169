/* calls.c - the public calls about jobs and disks.
 *
 * Waiting for a job uses a connection of its own that keeps events.  Who
 * waits does so for the job of one number, that which block-allocate
 * answered with or which is there at first: the end of another is not its.
 * The job's end is known by its event, or by asking for the job of that number,
 * which the server knows for a while when its record is gone (dismissed, or
 * replaced by a next job); progress, and everything else about it, is asked for
 * twice a second and whenever an event comes.  A server from before numbers
 * gives none (0): then the last job that was created counts.
 *
 * Locking: client.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <time.h>

#include "client.h"
#include "cleanup.h"

#define POLL_INTERVAL 500     /* ms between two looks at a job */
#define FOLLOW_TIME 30000     /* ms for a disk's next server to come */
#define MAX_STRUCT_SIZE 65536 /* more is not a size, but never set */

/* A size as JSON can carry it. */
static int
check_size (const char *what, uint64_t n)
{
  if (n > INT64_MAX)
    return error_set (EINVAL, "the %s is more than any disk can hold", what);
  return 0;
}

/* The caller's struct may be older or newer than ours. */
static int
give_info (struct backfill_job_info *to, const struct backfill_job_info *from)
{
  size_t size = to->struct_size;

  if (size < offsetof (struct backfill_job_info, time_elapsed)
      || size > MAX_STRUCT_SIZE)
    return error_set (EINVAL, "struct_size of the job info is not set: it "
                              "must be sizeof (struct backfill_job_info)");
  if (size > sizeof *from) {
    memset (to, 0, size);
    memcpy (to, from, sizeof *from);
  }
  else
    memcpy (to, from, size);
  to->struct_size = size;
  return 0;
}

/* Arguments for the job of that number; NULL for whichever it is. */
static int
number_args (uint64_t number, json_t **args)
{
  *args = NULL;
  if (number == 0)
    return 0;
  if (number > INT64_MAX)
    return error_set (ESRCH, "no job has the number %" PRIu64, number);
  *args = json_pack ("{s:I}", "number", (json_int_t)number);
  if (*args == NULL)
    error_nomem ();
  return *args == NULL ? -1 : 0;
}

/* What the job of a disk looks like now: that of the number, or with 0 the
 * present one. */
static int
query_job (struct conn *conn, const char *device, uint64_t number,
           int64_t deadline, struct backfill_job_info *info)
{
  json_auto_t *jobs = NULL;
  json_t *args = NULL;

  if (number_args (number, &args) == -1)
    return -1;
  jobs = handle_execute (conn, device, "query-block-jobs", args, deadline);
  if (jobs == NULL)
    return -1;
  if (!json_is_array (jobs) || json_array_size (jobs) > 1)
    return error_set (EPROTO,
                      "the server at '%s' did not answer with the "
                      "job of one disk",
                      conn->path);
  return reply_job (json_array_get (jobs, 0), info);
}

int
backfill_job_get_info (struct backfill *h, const char *disk, uint64_t number,
                       struct backfill_job_info *info)
{
  int64_t deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL;
  struct backfill_job_info now;
  struct conn *conn;
  int r = -1;

  if (info->struct_size < offsetof (struct backfill_job_info, time_elapsed)
      || info->struct_size > MAX_STRUCT_SIZE)
    return give_info (info, info); /* the error */
  conn = handle_route (h, disk, false, &device, deadline);
  if (conn == NULL)
    return -1;
  if (device == NULL)
    device = handle_disk_name (conn, NULL, deadline);
  if (device != NULL)
    r = query_job (conn, device, number, deadline, &now);
  handle_give (h, conn);
  return r == -1 ? -1 : give_info (info, &now);
}

int
backfill_block_get_job_info (struct backfill *h, const char *disk,
                             struct backfill_job_info *info)
{
  return backfill_job_get_info (h, disk, 0, info);
}

/* How a job ended, as events told it. */
struct ending {
  int type;        /* 0: not that we know */
  uint64_t number; /* of that job, if it has one */
  uint64_t total, processed;
  char error[256];
};

/* Take what has come of the job of that number.  Without a number only the last
 * job counts: a "created" forgets the end of the one before. */
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
               || strcmp (ev->event, "BLOCK_JOB_CANCELLED") == 0) {
        if (strcmp (ev->event, "BLOCK_JOB_CANCELLED") == 0)
          ending->type = BACKFILL_JOB_CANCELLED;
        else
          ending->type = ev->error != NULL ? BACKFILL_JOB_FAILED
                                           : BACKFILL_JOB_COMPLETED;
        ending->number = ev->number;
        ending->total = ev->len;
        ending->processed = ev->offset < ev->len ? ev->offset : ev->len;
        snprintf (ending->error, sizeof ending->error, "%s",
                  ev->error != NULL ? ev->error : "");
      }
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

/* The connection keeps events.  *number: 0 for the job that is there, whose
 * number it becomes.  until: of the waiting, not of the calls.
 * *lost: it failed because the server has not got the disk any more. */
static int
wait_on (struct backfill *h, struct conn *conn, const char *name,
         uint64_t *number, int64_t until, backfill_progress_fn progress,
         void *opaque, bool *lost)
{
  struct backfill_job_info info;
  struct ending ending = { 0 };
  bool seen = false;

  for (;;) {
    int64_t next;
    int known;

    if (take_events (conn, name, *number, &ending) == -1)
      return -1;
    known = ending.type;
    if (!conn->broken
        && query_job (conn, name, *number, handle_deadline (h), &info) == -1
        && !conn->broken) {
      int err = backfill_get_errno ();

      *lost = conn->no_such_disk || err == EBUSY || err == ESHUTDOWN;
      /* An end so long ago that the server has forgotten it. */
      if (err != ESRCH || *number == 0 || ending.type == 0)
        return -1;
      info.type = BACKFILL_JOB_NONE;
    }
    if (*number == 0 && !conn->broken && info.number != 0) {
      *number = info.number;
      if (ending.number != *number)
        ending.type = 0;
    }
    /* An end that came with the answer may be later than it: ask again, for
     * the record of it. */
    if (take_events (conn, name, *number, &ending) == -1)
      return -1;
    if (ending.type != known && !conn->broken && info.type != ending.type)
      continue;

    if (ending.type != 0) {
      /* The record, if it is this job's and says so too: it knows more. */
      if (conn->broken || info.type != ending.type)
        info_of_ending (&ending, &info);
    }
    else if (conn->broken) {
      *lost = true;
      return error_set (backfill_get_errno (),
                        "%s; the job goes on while its disk is served",
                        backfill_get_error ());
    }
    else if (info.type == BACKFILL_JOB_NONE)
      return error_set (ESRCH,
                        seen ? "the job of disk '%s' was dismissed"
                             : "disk '%s' has no job",
                        name);
    if (info.type != BACKFILL_JOB_BOUNDED) {
      if (progress != NULL)
        progress (opaque, &info);
      return result_of (name, &info);
    }

    seen = true;
    if (progress != NULL && progress (opaque, &info) != 0)
      return error_set (EINTR,
                        "no longer waiting for the job of disk '%s', "
                        "which goes on",
                        name);
    if (time_now () >= until)
      return error_set (ETIMEDOUT, "the job of disk '%s' is still in progress",
                        name);
    next = time_now () + POLL_INTERVAL;
    conn_poll (&conn, 1, next < until ? next : until);
  }
}

/* A disk that is named by its path may be handed from one server to another
 * while its job goes on: find the present one.  -1 without another error. */
static int
follow (struct backfill *h, const char *disk, struct conn **conn, char **name,
        int64_t until)
{
  int64_t limit = time_now () + FOLLOW_TIME, deadline = handle_deadline (h);

  limit = limit < deadline ? limit : deadline;
  limit = limit < until ? limit : until;
  do {
    CLEANUP_FREE char *device = NULL;
    const struct timespec pause = { .tv_nsec = 200000000 };

    handle_give (h, *conn);
    free (*name);
    *name = NULL;
    *conn = handle_route (h, disk, true, &device, deadline);
    if (*conn != NULL)
      *name = handle_disk_name (*conn, device, deadline);
    if (*name != NULL)
      return 0;
    nanosleep (&pause, NULL);
  } while (time_now () < limit);
  return -1;
}

static int
wait_job (struct backfill *h, const char *disk, struct conn **conn, char **name,
          uint64_t number, int64_t until, backfill_progress_fn progress,
          void *opaque)
{
  for (;;) {
    CLEANUP_FREE char *why = NULL;
    bool lost = false;
    int err,
        r = wait_on (h, *conn, *name, &number, until, progress, opaque, &lost);

    if (r == 0 || !lost || h->socket != NULL || disk == NULL
        || !handle_is_path (disk))
      return r;
    err = backfill_get_errno ();
    why = strdup (backfill_get_error ());
    if (follow (h, disk, conn, name, until) == -1)
      return error_set (err, "%s", why != NULL ? why : "the server is gone");
  }
}

int
backfill_job_wait (struct backfill *h, const char *disk, uint64_t number,
                   unsigned timeout, backfill_progress_fn progress,
                   void *opaque)
{
  int64_t until = time_deadline (timeout), deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL, *name = NULL;
  struct conn *conn = handle_route (h, disk, true, &device, deadline);
  int r = -1;

  if (conn == NULL)
    return -1;
  name = handle_disk_name (conn, device, deadline);
  if (name != NULL)
    r = wait_job (h, disk, &conn, &name, number, until, progress, opaque);
  handle_give (h, conn);
  return r;
}

int
backfill_block_wait_job (struct backfill *h, const char *disk, unsigned timeout,
                         backfill_progress_fn progress, void *opaque)
{
  return backfill_job_wait (h, disk, 0, timeout, progress, opaque);
}

static int
allocate (struct backfill *h, const char *disk, uint64_t offset,
          uint64_t length, unsigned flags,
          const struct backfill_allocate_options *options)
{
  bool wait = (flags & BACKFILL_ALLOCATE_NONBLOCK) == 0;
  int64_t deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL, *name = NULL;
  json_t *args, *reply = NULL;
  uint64_t number = 0;
  struct conn *conn;
  int r = -1;

  args = json_pack (
      "{s:I, s:I, s:I, s:b, s:s}", "offset", (json_int_t)offset, "length",
      (json_int_t)length, "speed", (json_int_t)options->speed, "sparse",
      (flags & BACKFILL_ALLOCATE_SPARSE) != 0, "on-error",
      options->on_error == BACKFILL_ON_ERROR_SKIP ? "skip" : "report");
  if (args == NULL
      || (options->has_retry
          /* To older servers 0 was for ever. */
          && json_object_set_new (args, "retry",
                                  json_integer (options->retry > 0
                                                    ? (json_int_t)options->retry
                                                    : 1))
                 == -1)) {
    json_decref (args);
    error_nomem ();
    return -1;
  }
  conn = handle_route (h, disk, wait, &device, deadline);
  if (conn == NULL) {
    json_decref (args);
    return -1;
  }
  /* Asked first: events name the disk, and may come before the answer.  And
   * where no disk was named, this tells which there are. */
  if (wait || device == NULL)
    name = handle_disk_name (conn, device, deadline);
  if ((wait || device == NULL) && name == NULL)
    json_decref (args);
  else
    reply = handle_execute (conn, name != NULL ? name : device,
                            "block-allocate", args, deadline);
  if (reply != NULL) {
    r = reply_number (reply, &number);
    json_decref (reply);
    if (r == 0 && options->number != NULL)
      *options->number = number;
    if (r == 0 && wait)
      r = wait_job (h, disk, &conn, &name, number, DEADLINE_NEVER,
                    options->progress, options->opaque);
  }
  handle_give (h, conn);
  return r;
}

int
backfill_block_allocate_options (
    struct backfill *h, const char *disk, uint64_t offset, uint64_t length,
    unsigned flags, const struct backfill_allocate_options *options)
{
  struct backfill_allocate_options mine = { .struct_size = sizeof mine };

  if ((flags & ~(BACKFILL_ALLOCATE_NONBLOCK | BACKFILL_ALLOCATE_SPARSE)) != 0)
    return error_set (EINVAL, "unknown flags 0x%x", flags);
  if (options != NULL) {
    size_t size = options->struct_size;

    /* The first version ended before number. */
    if (size < offsetof (struct backfill_allocate_options, number)
        || size > MAX_STRUCT_SIZE)
      return error_set (EINVAL, "struct_size of the allocate options is not "
                                "set");
    memcpy (&mine, options, size < sizeof mine ? size : sizeof mine);
  }
  if (mine.on_error != BACKFILL_ON_ERROR_REPORT
      && mine.on_error != BACKFILL_ON_ERROR_SKIP)
    return error_set (EINVAL, "on_error is neither report nor skip");
  if (check_size ("offset", offset) == -1 || check_size ("length", length) == -1
      || check_size ("speed", mine.speed) == -1
      || check_size ("retry time", mine.retry) == -1)
    return -1;
  return allocate (h, disk, offset, length, flags, &mine);
}

int
backfill_block_allocate (struct backfill *h, const char *disk, uint64_t offset,
                         uint64_t length, unsigned flags)
{
  return backfill_block_allocate_options (h, disk, offset, length, flags, NULL);
}

/* A command about one disk that returns nothing. */
static int
simple_call (struct backfill *h, const char *disk, const char *command,
             json_t *arguments)
{
  int64_t deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL;
  struct conn *conn = handle_route (h, disk, false, &device, deadline);
  json_t *reply = NULL;

  if (conn == NULL) {
    json_decref (arguments);
    return -1;
  }
  /* Commands of QEMU's that need a device have no "only one" default. */
  if (device == NULL)
    device = handle_disk_name (conn, NULL, deadline);
  if (device == NULL)
    json_decref (arguments);
  else
    reply = handle_execute (conn, device, command, arguments, deadline);
  handle_give (h, conn);
  if (reply == NULL)
    return -1;
  json_decref (reply);
  return 0;
}

/* The same about the job of that number. */
static int
job_call (struct backfill *h, const char *disk, const char *command,
          uint64_t number)
{
  json_t *args;

  return number_args (number, &args) == -1
             ? -1
             : simple_call (h, disk, command, args);
}

int
backfill_job_abort (struct backfill *h, const char *disk, uint64_t number)
{
  return job_call (h, disk, "block-job-cancel", number);
}

int
backfill_block_abort_job (struct backfill *h, const char *disk)
{
  return backfill_job_abort (h, disk, 0);
}

int
backfill_job_pause (struct backfill *h, const char *disk, uint64_t number)
{
  return job_call (h, disk, "block-job-pause", number);
}

int
backfill_block_pause_job (struct backfill *h, const char *disk)
{
  return backfill_job_pause (h, disk, 0);
}

int
backfill_job_resume (struct backfill *h, const char *disk, uint64_t number)
{
  return job_call (h, disk, "block-job-resume", number);
}

int
backfill_block_resume_job (struct backfill *h, const char *disk)
{
  return backfill_job_resume (h, disk, 0);
}

int
backfill_job_dismiss (struct backfill *h, const char *disk, uint64_t number)
{
  return job_call (h, disk, "block-job-dismiss", number);
}

int
backfill_block_dismiss_job (struct backfill *h, const char *disk)
{
  return backfill_job_dismiss (h, disk, 0);
}

int
backfill_job_set_speed (struct backfill *h, const char *disk, uint64_t number,
                        uint64_t speed)
{
  json_t *args;

  if (check_size ("speed", speed) == -1 || number_args (number, &args) == -1)
    return -1;
  if (args == NULL)
    args = json_object ();
  if (json_object_set_new (args, "speed", json_integer ((json_int_t)speed))
      == -1) {
    json_decref (args);
    error_nomem ();
    return -1;
  }
  return simple_call (h, disk, "block-job-set-speed", args);
}

int
backfill_block_set_speed (struct backfill *h, const char *disk, uint64_t speed)
{
  return backfill_job_set_speed (h, disk, 0, speed);
}

int
backfill_disk_flush (struct backfill *h, const char *disk)
{
  return simple_call (h, disk, "disk-flush", NULL);
}

int
backfill_disk_detach (struct backfill *h, const char *disk)
{
  return simple_call (h, disk, "disk-detach", NULL);
}

int
backfill_create_volume (struct backfill *h, const char *store,
                        const char *backing, uint64_t size, uint32_t granule)
{
  int64_t deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL;
  struct conn *conn;
  json_t *args, *reply;

  if (check_size ("size", size) == -1)
    return -1;
  args = json_object ();
  if (args == NULL
      || (backing != NULL
          && json_object_set_new (args, "backing", json_string (backing)) == -1)
      || (size > 0
          && json_object_set_new (args, "size", json_integer ((json_int_t)size))
                 == -1)
      || (granule > 0
          && json_object_set_new (args, "granule", json_integer (granule))
                 == -1)) {
    json_decref (args);
    return error_set (EINVAL, "the backing store's name is not UTF-8");
  }
  conn = h->socket != NULL ? handle_route (h, store, false, &device, deadline)
                           : handle_daemon (h, store, false, &device, deadline);
  if (conn == NULL) {
    json_decref (args);
    return -1;
  }
  reply = handle_execute (conn, device, "disk-create", args, deadline);
  handle_give (h, conn);
  if (reply == NULL)
    return -1;
  json_decref (reply);
  return 0;
}

/* What "query-disks" has for the disks of a server that did not answer. */
static int
append_unanswered (json_t *all, const struct server *s)
{
  for (size_t i = 0; i < s->nr; i++) {
    const struct entry *e = &s->entries[i];
    char id[FILE_ID_MAX];
    json_t *row = json_pack ("{s:o, s:o, s:s, s:o}", "name",
                             wire_text (e->name), "store", wire_text (e->store),
                             "file", file_id_text (e->file, id), "unanswered",
                             wire_text (s->why != NULL ? s->why : ""));

    if (row == NULL || json_array_append_new (all, row) == -1)
      return -1;
  }
  return 0;
}

/* The answers of all servers to a query that each answers with an array, in
 * one array.  Jobs of servers that do not answer are not in it. */
static json_t *
query_all (struct backfill *h, const char *command)
{
  bool disks = strcmp (command, "query-disks") == 0;
  json_auto_t *all = NULL;
  struct servers servers;
  const struct server *bad = NULL;

  if (servers_ask (h, false, disks ? "query-disks" : "query-block-jobs", NULL,
                   &servers, handle_deadline (h))
      == -1)
    return NULL;
  all = servers_answers (&servers);
  for (size_t i = 0; all != NULL && i < servers.len; i++) {
    const struct server *s = &servers.ptr[i];

    if (s->conn == NULL)
      bad = s;
    if (s->conn == NULL && disks && append_unanswered (all, s) == -1) {
      json_decref (all);
      all = error_nomem ();
    }
  }
  /* Nothing that could be given: then the reason. */
  if (bad != NULL && all != NULL && json_array_size (all) == 0) {
    json_decref (all);
    all = NULL;
    error_set (bad->err, "%s", bad->why != NULL ? bad->why : bad->socket);
  }
  servers_release (h, &servers);
  return json_incref (all);
}

static int
give_disks (json_t *all, unsigned *ndisks, struct backfill_disk_info ***disks)
{
  struct backfill_disk_info **infos;
  size_t n = json_array_size (all);

  if (all == NULL)
    return -1;
  infos = calloc (n + 1, sizeof *infos);
  if (infos == NULL) {
    error_nomem ();
    return -1;
  }
  for (size_t i = 0; i < n; i++) {
    infos[i] = reply_disk (json_array_get (all, i));
    if (infos[i] == NULL) {
      backfill_free_disks (infos);
      return -1;
    }
  }
  *ndisks = (unsigned)n;
  *disks = infos;
  return 0;
}

int
backfill_list_disks (struct backfill *h, unsigned *ndisks,
                     struct backfill_disk_info ***disks)
{
  json_auto_t *all = query_all (h, "query-disks");

  return give_disks (all, ndisks, disks);
}

#define DAEMON_MS 5000 /* for its greeting */

/* Add what backfilld knows of volumes that it has not open.  Another user's
 * daemon is not believed. */
static int
append_closed (struct backfill *h, json_t *all, struct conn *conn)
{
  json_auto_t *rows
      = handle_execute (conn, NULL, "query-disks",
                        json_pack ("{s:b}", "all", 1), handle_deadline (h));
  json_t *row;
  size_t i;

  /* One that cannot tell has nothing to add. */
  if (rows == NULL)
    return 0;
  json_array_foreach (rows, i, row)
    if (json_is_false (json_object_get (row, "open"))
        && json_array_append (all, row) == -1) {
      error_nomem ();
      return -1;
    }
  return 0;
}

static json_t *
query_everything (struct backfill *h)
{
  const struct trust trust = { 0 };
  json_t *all = query_all (h, "query-disks");
  char *socket;

  if (all == NULL && backfill_get_errno () == ENXIO)
    all = json_array ();
  if (all == NULL)
    return NULL;
  for (unsigned i = 0; (socket = registry_daemon (i)) != NULL; i++) {
    struct conn *conn
        = handle_take (h, socket, &trust, false, time_now () + DAEMON_MS);
    int r = conn != NULL ? append_closed (h, all, conn) : 0;

    free (socket);
    handle_give (h, conn);
    if (r == -1) {
      json_decref (all);
      return NULL;
    }
  }
  return all;
}

int
backfill_list_all_disks (struct backfill *h, unsigned *ndisks,
                         struct backfill_disk_info ***disks)
{
  json_auto_t *all = h->socket == NULL
                         ? query_everything (h)
                         : handle_call (h, NULL, "query-disks",
                                        json_pack ("{s:b}", "all", 1));

  return give_disks (all, ndisks, disks);
}

int
backfill_get_disk_info (struct backfill *h, const char *disk,
                        struct backfill_disk_info **info)
{
  json_auto_t *disks = handle_call (h, disk, "query-disks", NULL);

  if (disks == NULL)
    return -1;
  if (!json_is_array (disks) || json_array_size (disks) == 0)
    return error_set (EPROTO, "the server did not answer with a disk");
  if (json_array_size (disks) > 1) {
    char names[2048] = "";

    for (size_t i = 0; i < json_array_size (disks); i++) {
      const char *name = json_string_value (
          json_object_get (json_array_get (disks, i), "name"));
      size_t len = strlen (names);

      snprintf (names + len, sizeof names - len, "%s'%s'", i > 0 ? ", " : "",
                name != NULL ? name : "?");
    }
    return error_set (ENOTUNIQ, "name the disk: there are %s", names);
  }
  *info = reply_disk (json_array_get (disks, 0));
  return *info == NULL ? -1 : 0;
}

int
backfill_command (struct backfill *h, const char *command,
                  const char *arguments, char **reply)
{
  CLEANUP_FREE char *device = NULL;
  json_auto_t *value = NULL;
  json_t *args = NULL;

  *reply = NULL;
  if (arguments != NULL) {
    json_error_t err;
    json_t *disk;

    args = json_loads (arguments, JSON_REJECT_DUPLICATES, &err);
    if (!json_is_object (args)) {
      json_decref (args);
      return error_set (EINVAL,
                        "the arguments of '%s' are not a JSON object: %s",
                        command, arguments);
    }
    /* Of any other type it goes through as it is, for the server to refuse. */
    disk = json_object_get (args, "device");
    if (json_is_string (disk)) {
      device = strdup (json_string_value (disk));
      json_object_del (args, "device");
      if (device == NULL) {
        json_decref (args);
        error_nomem ();
        return -1;
      }
    }
  }
  if (device == NULL && h->socket == NULL && json_object_size (args) == 1
      && json_is_true (json_object_get (args, "all"))
      && strcmp (command, "query-disks") == 0) {
    json_decref (args);
    value = query_everything (h);
  }
  else if (device == NULL && json_object_size (args) == 0
           && (strcmp (command, "query-disks") == 0
               || strcmp (command, "query-block-jobs") == 0)) {
    json_decref (args);
    value = query_all (h, command);
  }
  else
    value = handle_call (h, device, command, args);
  if (value == NULL)
    return -1;
  *reply = json_dumps (value, JSON_COMPACT | JSON_ENCODE_ANY);
  if (*reply == NULL)
    error_nomem ();
  return *reply == NULL ? -1 : 0;
}
