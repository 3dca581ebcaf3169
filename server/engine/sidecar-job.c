/* sidecar-job.c - the job record, in two slots.
 *
 * Each write takes the slot that does not hold the last durable record, so
 * that a torn write leaves the record before.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "cleanup.h"
#include "crc32c.h"
#include "sidecar-internal.h"

#define JOB_MAGIC "BKJOB\r\n\0"
/* Bytes that the record's CRC covers; the CRC follows them. */
#define JOB_BODY 640u

static void
pack_job (const struct sidecar_job *job, uint64_t sequence, uint8_t *buf)
{
  memset (buf, 0, SIDECAR_JOB_SIZE);
  memcpy (buf, JOB_MAGIC, 8);
  put_le64 (buf + 8, sequence);
  put_le32 (buf + 16, job->status);
  put_le32 (buf + 20, job->result);
  put_le32 (buf + 24, job->pause);
  put_le32 (buf + 28, job->on_error);
  put_le64 (buf + 32, job->offset);
  put_le64 (buf + 40, job->length);
  put_le64 (buf + 48, job->speed);
  put_le64 (buf + 56, job->retry);
  put_le32 (buf + 64, job->full);
  put_le32 (buf + 68, (uint32_t)job->errnum);
  put_le64 (buf + 72, job->time_elapsed);
  put_le64 (buf + 80, job->bytes_read);
  put_le64 (buf + 88, job->local_at_start);
  put_le64 (buf + 96, job->nr_failed);
  put_le64 (buf + 104, job->failed_offset);
  memcpy (buf + 112, job->error, strnlen (job->error, 255));
  put_le64 (buf + 368, job->number);
  put_le32 (buf + JOB_BODY, crc32c (buf, JOB_BODY));
}

static bool
unpack_job (const uint8_t *buf, struct sidecar_job *job)
{
  if (memcmp (buf, JOB_MAGIC, 8) != 0
      || get_le32 (buf + JOB_BODY) != crc32c (buf, JOB_BODY))
    return false;
  memset (job, 0, sizeof *job);
  job->sequence = get_le64 (buf + 8);
  job->status = get_le32 (buf + 16);
  job->result = get_le32 (buf + 20);
  job->pause = get_le32 (buf + 24);
  job->on_error = get_le32 (buf + 28);
  job->offset = get_le64 (buf + 32);
  job->length = get_le64 (buf + 40);
  job->speed = get_le64 (buf + 48);
  job->retry = get_le64 (buf + 56);
  job->full = get_le32 (buf + 64);
  job->errnum = (int32_t)get_le32 (buf + 68);
  job->time_elapsed = get_le64 (buf + 72);
  job->bytes_read = get_le64 (buf + 80);
  job->local_at_start = get_le64 (buf + 88);
  job->nr_failed = get_le64 (buf + 96);
  job->failed_offset = get_le64 (buf + 104);
  memcpy (job->error, buf + 112, 255);
  job->number = get_le64 (buf + 368);
  return true;
}

int
sidecar_read_job (struct sidecar *sc, struct sidecar_job *job)
{
  CLEANUP_FREE uint8_t *buf = malloc (SIDECAR_JOB_SIZE);
  struct sidecar_job other;
  unsigned nr = 0, nr_empty = 0;
  int err = EILSEQ;

  memset (job, 0, sizeof *job);
  if (!buf)
    return -1;
  if (sc->h.job_length == 0)
    return 0;
  /* Each slot is read by itself: where one cannot be read the other may do. */
  for (unsigned i = 0; i < 2; i++)
    if (sidecar_pread (sc, buf, SIDECAR_JOB_SIZE,
                       sc->h.job_offset + i * SIDECAR_JOB_SIZE)
        == -1)
      err = errno;
    else if (unpack_job (buf, &other)) {
      if (nr++ == 0 || other.sequence > job->sequence)
        *job = other;
    }
    else
      nr_empty += is_all_zero ((const char *)buf, SIDECAR_JOB_SIZE);
  if (nr > 0)
    return job->status == 0 ? 0 : 1;
  if (nr_empty == 2)
    return 0;
  errno = err;
  return -1;
}

int
sidecar_write_job (struct sidecar *sc, const struct sidecar_job *job)
{
  uint8_t buf[SIDECAR_JOB_SIZE];
  uint64_t next = job->sequence + 1;

  if (sc->h.job_length == 0) {
    errno = ENODATA;
    return -1;
  }
  pack_job (job, next, buf);
  if (sc->job_fd == -1 && (sc->job_fd = file_reopen (sc->fd)) == -1)
    return -1;
  return file_write (sc->job_fd, buf, sizeof buf,
                     sc->h.job_offset + (next & 1) * SIDECAR_JOB_SIZE, 0);
}

void
sidecar_job_is_durable (struct sidecar_job *job)
{
  job->sequence++;
}

int
sidecar_sync_job (struct sidecar *sc)
{
  return file_sync (sc->job_fd);
}
