/* allocate.c - start a job, and wait for its end if that is asked for.
 *
 * Locking: client.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>

#include "client.h"
#include "cleanup.h"

/* The arguments of block-allocate. */
static json_t *
allocate_args (uint64_t offset, uint64_t length, unsigned flags,
               const struct backfill_allocate_options *options)
{
  /* To older servers 0 was for ever. */
  json_int_t retry = options->retry > 0 ? (json_int_t)options->retry : 1;
  json_t *args = json_pack (
      "{s:I, s:I, s:I, s:b, s:s}", "offset", (json_int_t)offset, "length",
      (json_int_t)length, "speed", (json_int_t)options->speed, "sparse",
      (flags & BACKFILL_ALLOCATE_SPARSE) != 0, "on-error",
      options->on_error == BACKFILL_ON_ERROR_SKIP ? "skip" : "report");

  if (args == NULL
      || (options->has_retry
          && json_object_set_new (args, "retry", json_integer (retry)) == -1)) {
    json_decref (args);
    return error_nomem ();
  }
  return args;
}

/* Start the job that the arguments, which are stolen, ask for. */
static int
start (struct conn *conn, const char *device, json_t *args, int64_t deadline,
       uint64_t *number)
{
  json_auto_t *reply
      = handle_execute (conn, device, "block-allocate", args, deadline);

  return reply != NULL ? reply_number (reply, number) : -1;
}

static int
allocate (struct backfill *h, const char *disk, bool wait, json_t *arguments,
          const struct backfill_allocate_options *options)
{
  int64_t deadline = handle_deadline (h);
  json_auto_t *args = arguments;
  CLEANUP_FREE char *device = NULL;
  struct job_wait w = {
    .h = h,
    .disk = disk,
    .until = DEADLINE_NEVER,
    .progress = options->progress,
    .opaque = options->opaque,
  };
  int r = -1;

  w.conn = route_disk (h, disk, wait, &device, deadline);
  if (w.conn == NULL)
    return -1;
  /* The name is asked for first: events name the disk, and may come before the
   * answer.  And where no disk was named, this tells which there are. */
  if (wait || device == NULL)
    w.name = route_disk_name (w.conn, device, deadline);
  if (w.name != NULL || (!wait && device != NULL))
    r = start (w.conn, w.name != NULL ? w.name : device, json_incref (args),
               deadline, &w.number);
  if (r == 0 && options->number != NULL)
    *options->number = w.number;
  if (r == 0 && wait)
    r = job_wait (&w);
  free (w.name);
  handle_give (h, w.conn);
  return r;
}

int
backfill_block_allocate_options (
    struct backfill *h, const char *disk, uint64_t offset, uint64_t length,
    unsigned flags, const struct backfill_allocate_options *options)
{
  struct backfill_allocate_options mine = { .struct_size = sizeof mine };
  json_t *args;

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
  if (request_check_size ("offset", offset) == -1
      || request_check_size ("length", length) == -1
      || request_check_size ("speed", mine.speed) == -1
      || request_check_size ("retry time", mine.retry) == -1)
    return -1;
  args = allocate_args (offset, length, flags, &mine);
  if (args == NULL)
    return -1;
  return allocate (h, disk, (flags & BACKFILL_ALLOCATE_NONBLOCK) == 0, args,
                   &mine);
}

int
backfill_block_allocate (struct backfill *h, const char *disk, uint64_t offset,
                         uint64_t length, unsigned flags)
{
  return backfill_block_allocate_options (h, disk, offset, length, flags, NULL);
}
