/* fuzz-reply.c - libFuzzer: the client against anything a server may say.
 *
 * The input's first byte chooses a call; the rest is all that the server ever
 * sends, after which it closes.  So greeting, framing, JSON, answers, events
 * and their order are all the fuzzer's.  A second way feeds each frame to
 * every reader of answers, so that it need not find the right ids first.
 *
 * What must hold, besides that nothing crashes: a map is in order and inside
 * the disk, and a job's sums are right.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/socket.h>

#include "client.h"

#define CHECK(condition) \
  do                     \
    if (!(condition))    \
      abort ();          \
  while (0)

/* What a socket's buffer surely takes. */
#define MAX_INPUT 65536

static void
check_map (const struct backfill_state_region *regions, unsigned n)
{
  uint64_t end = 0;

  for (unsigned i = 0; i < n; i++) {
    CHECK (regions[i].length > 0 && regions[i].offset >= end);
    CHECK (regions[i].state >= BACKFILL_LOCAL
           && regions[i].state <= BACKFILL_ZERO);
    end = regions[i].offset + regions[i].length;
    CHECK (end <= INT64_MAX);
  }
}

static void
check_job (const struct backfill_job_info *job)
{
  CHECK (job->data_processed + job->data_remaining == job->data_total);
  CHECK (memchr (job->error, '\0', sizeof job->error) != NULL);
}

static void
read_frames (const uint8_t *data, size_t size)
{
  struct region_list list = { 0 };
  enum wire_status status;
  struct wire_in in;
  const char *frame;
  size_t len;

  wire_in_init (&in);
  CHECK (wire_in_add (&in, data, size) == 0);
  while ((status = wire_in_next (&in, &frame, &len)) != WIRE_MORE) {
    struct backfill_disk_info *disk;
    struct backfill_job_info job;
    uint64_t next, bytes;
    json_error_t err;
    json_t *value;

    if (status != WIRE_FRAME)
      continue;
    value = wire_parse (frame, len, &err);
    if (value == NULL)
      continue;
    disk = reply_disk (value);
    if (disk != NULL) {
      CHECK (disk->local + disk->absent == disk->size);
      check_job (&disk->job);
    }
    backfill_free_disk_info (disk);
    if (reply_job (value, &job) == 0)
      check_job (&job);
    backfill_free_event (reply_event (value));
    if (reply_regions (value, true, 0, &list, &next, &bytes) == 0)
      check_map (list.ptr, (unsigned)list.len);
    free (list.ptr);
    memset (&list, 0, sizeof list);
    json_decref (value);
  }
  wire_in_free (&in);
}

static void
call (struct backfill *h, unsigned which)
{
  struct backfill_job_info job = { .struct_size = sizeof job };
  struct backfill_state_region *states;
  struct backfill_disk_info **disks;
  struct backfill_region *regions;
  char *reply;
  unsigned n;

  switch (which) {
  case 0:
    if (backfill_list_disks (h, &n, &disks) == 0)
      backfill_free_disks (disks);
    break;
  case 1:
    if (backfill_block_get_job_info (h, "d", &job) == 0)
      check_job (&job);
    break;
  case 2:
    if (backfill_block_get_allocation_map (h, "d", &n, &regions) == 0)
      free (regions);
    break;
  case 3:
    if (backfill_block_get_state_map (h, NULL, 0, 0, &n, &states) == 0) {
      check_map (states, n);
      free (states);
    }
    break;
  case 4:
    backfill_block_set_speed (h, NULL, 1);
    break;
  default:
    if (backfill_command (h, "query-version", NULL, &reply) == 0)
      free (reply);
    break;
  }
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct backfill *h;
  int fds[2];

  if (size < 1 || size > MAX_INPUT)
    return 0;
  read_frames (data + 1, size - 1);

  CHECK (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
  if (send (fds[1], data + 1, size - 1, MSG_NOSIGNAL | MSG_DONTWAIT)
      == (ssize_t)(size - 1)) {
    shutdown (fds[1], SHUT_WR);
    h = handle_adopt (fds[0], 1000);
    for (unsigned i = 0; h != NULL && i < 2; i++)
      call (h, (data[0] + i) % 6);
    backfill_close (h);
  }
  else
    close (fds[0]);
  close (fds[1]);
  return 0;
}
