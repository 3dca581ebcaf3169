/* job.c - the calls about a disk's job: its state, and the verbs.
 *
 * Locking: client.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stddef.h>
#include <string.h>
#include <errno.h>

#include "client.h"
#include "cleanup.h"

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

int
job_query (struct conn *conn, const char *device, uint64_t number,
           int64_t deadline, struct backfill_job_info *info)
{
  json_auto_t *jobs = NULL;
  json_t *args = NULL;

  if (request_number (number, &args) == -1)
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
  conn = route_disk (h, disk, false, &device, deadline);
  if (conn == NULL)
    return -1;
  if (device == NULL)
    device = route_disk_name (conn, NULL, deadline);
  if (device != NULL)
    r = job_query (conn, device, number, deadline, &now);
  handle_give (h, conn);
  return r == -1 ? -1 : give_info (info, &now);
}

int
backfill_block_get_job_info (struct backfill *h, const char *disk,
                             struct backfill_job_info *info)
{
  return backfill_job_get_info (h, disk, 0, info);
}

/* A command about the job of that number that returns nothing. */
static int
job_call (struct backfill *h, const char *disk, const char *command,
          uint64_t number)
{
  json_t *args;

  return request_number (number, &args) == -1
             ? -1
             : request_simple (h, disk, command, args);
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

  if (request_check_size ("speed", speed) == -1
      || request_number (number, &args) == -1)
    return -1;
  if (args == NULL)
    args = json_object ();
  if (json_object_set_new (args, "speed", json_integer ((json_int_t)speed))
      == -1) {
    json_decref (args);
    error_nomem ();
    return -1;
  }
  return request_simple (h, disk, "block-job-set-speed", args);
}

int
backfill_block_set_speed (struct backfill *h, const char *disk, uint64_t speed)
{
  return backfill_job_set_speed (h, disk, 0, speed);
}
