/* peek.c - a volume that is not open here, as its files show it.
 *
 * Nothing is locked, written, or waited for but the files themselves.  Whoever
 * has the volume open changes it meanwhile: `in_use` says that somebody has,
 * and then his answer is the one that counts.  What a killed owner left in its
 * working map is not counted.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk.h"
#include "internal.h"
#include "path.h"
#include "sidecar.h"

/* Of S, read at a time. */
#define NR_SECTORS 64u

/* Bytes of the granules [first, end) whose bits are set; first is of sector
 * index. */
static uint64_t
count_sector (const struct sidecar_header *h, const uint64_t *words,
              uint64_t index, uint64_t first, uint64_t end)
{
  uint64_t base = index * SIDECAR_BITS, bytes = 0;
  uint64_t stop = min_u64 (end, base + SIDECAR_BITS);

  for (uint64_t g = max_u64 (first, base); g < stop; g++)
    if (words[(g - base) / 64] >> ((g - base) % 64) & 1)
      bytes += min_u64 (h->granule, h->size - g * h->granule);
  return bytes;
}

/* How much is local: of all, and of the granules [first, end). */
static int
count_map (struct sidecar *sc, uint64_t first, uint64_t end, uint64_t *all,
           uint64_t *range)
{
  CLEANUP_FREE uint64_t *words = calloc (NR_SECTORS * SIDECAR_WORDS, 8);
  const struct sidecar_header *h = &sc->h;
  uint32_t nr = sidecar_nr_sectors (sc), count;
  bool bad[NR_SECTORS];

  if (!words)
    return -1;
  for (uint32_t i = 0; i < nr; i += count) {
    count = (uint32_t)min_u64 (NR_SECTORS, nr - i);
    memset (bad, 0, sizeof bad);
    if (sidecar_read_map (sc, i, count, words, bad) == -1)
      return -1;
    for (uint32_t k = 0; k < count; k++) {
      const uint64_t *w = words + (size_t)k * SIDECAR_WORDS;

      if (bad[k])
        continue;
      *all += count_sector (h, w, i + k, 0, UINT64_MAX / h->granule);
      *range += count_sector (h, w, i + k, first, end);
    }
  }
  return 0;
}

static void
take_job (struct sidecar *sc, const struct sidecar_job *r,
          struct job_info *info)
{
  const struct sidecar_header *h = &sc->h;

  if (r->status > JOB_CONCLUDED || r->result > JOB_RESULT_CANCELLED
      || r->pause > JOB_PAUSE_NOSPACE || r->offset > h->size
      || r->length > h->size - r->offset)
    return;
  info->status = (enum job_status)r->status;
  info->result = (enum job_result)r->result;
  info->pause = (enum job_pause)r->pause;
  /* Nobody is at work on it. */
  if (info->status == JOB_RUNNING || info->status == JOB_ABORTING
      || info->status == JOB_WAITING)
    info->status = JOB_CREATED;
  info->options = (struct job_options){
    .offset = r->offset,
    .length = r->length,
    .speed = r->speed,
    .full = r->full,
    .on_error = r->on_error == JOB_ON_ERROR_SKIP ? JOB_ON_ERROR_SKIP
                                                 : JOB_ON_ERROR_REPORT,
    .retry = r->retry,
  };
  info->number = r->number;
  info->time_elapsed = r->time_elapsed;
  info->bytes_read = r->bytes_read;
  info->local_at_start = r->local_at_start;
  info->nr_failed = r->nr_failed;
  info->failed_offset = r->failed_offset;
  info->errnum = r->errnum;
  memcpy (info->error, r->error, sizeof info->error);
  info->error[sizeof info->error - 1] = '\0';
}

static int
take_sidecar (struct disk_peek *peek, struct sidecar *sc, bool map,
              char **error)
{
  struct sidecar_header *h = &sc->h;
  struct disk_info *info = &peek->info;
  struct sidecar_job job;
  uint64_t first = 0, end = 0;

  info->size = h->size;
  info->granule = h->granule;
  info->complete = h->state & SIDECAR_COMPLETE;
  info->detached = h->state & SIDECAR_DETACHED;
  if (h->backing) {
    peek->backing = strdup (h->backing);
    if (!peek->backing)
      goto nomem;
  }
  if (sidecar_read_job (sc, &job) == 1) {
    take_job (sc, &job, &info->job);
    if (info->job.status != JOB_NONE) {
      first = job.offset / h->granule;
      end = (job.offset + job.length + h->granule - 1) / h->granule;
      info->job.total
          = min_u64 (end * h->granule, h->size) - first * h->granule;
    }
  }
  if (info->complete) {
    info->local = info->size;
    info->job.processed = info->job.total;
  }
  else if (map
           && count_map (sc, first, end, &info->local, &info->job.processed)
                  == -1) {
    message_set (error, "cannot read the sidecar %s: %m", peek->metadata);
    return -1;
  }
  info->absent = info->size - info->local;
  info->job.remaining = info->job.total - info->job.processed;
  return 0;

nomem:
  message_set (error, "out of memory");
  errno = ENOMEM;
  return -1;
}

int
disk_peek (const char *store, bool map, struct disk_peek *peek, char **error)
{
  struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
  CLEANUP_CLOSE int fd = -1;
  struct sidecar *sc;
  struct stat st, of;
  int r = -1;

  *error = NULL;
  memset (peek, 0, sizeof *peek);
  peek->info.job.failed_offset = UINT64_MAX;
  fd = path_open (store, O_RDONLY | O_NONBLOCK, 0);
  if (fd == -1 || fstat (fd, &st) == -1 || fcntl (fd, F_OFD_GETLK, &fl) == -1) {
    message_set (error, "volume '%s': %m", store);
    return -1;
  }
  peek->owner = st.st_uid;
  peek->file = file_id (&st);
  peek->in_use = fl.l_type != F_UNLCK;
  peek->store = strdup (store);
  if (!peek->store || asprintf (&peek->metadata, "%s.backfill", store) == -1) {
    peek->metadata = NULL;
    message_set (error, "out of memory");
    errno = ENOMEM;
    goto out;
  }
  sc = sidecar_peek (peek->metadata, error);
  if (!sc && errno != ENOENT)
    goto out;
  if (!sc) {
    free (*error);
    *error = NULL;
    r = 0;
    goto out;
  }
  /* As where it is opened: what somebody else laid there says nothing. */
  if (fstat (sc->fd, &of) == -1
      || (of.st_uid != 0 && of.st_uid != geteuid ()
          && of.st_uid != st.st_uid)) {
    message_set (error, "the sidecar %s belongs to another user",
                 peek->metadata);
    errno = EPERM;
  }
  else if (take_sidecar (peek, sc, map, error) == 0) {
    peek->has_sidecar = true;
    r = 0;
  }
  sidecar_free (sc);

out:
  if (r == -1) {
    int err = errno;

    disk_peek_clear (peek);
    errno = err;
    return -1;
  }
  peek->info.name = peek->info.store = peek->store;
  peek->info.metadata = peek->metadata;
  peek->info.backing = peek->backing;
  return 0;
}

void
disk_peek_clear (struct disk_peek *peek)
{
  free (peek->store);
  free (peek->metadata);
  free (peek->backing);
  free (peek->error);
  memset (peek, 0, sizeof *peek);
}
