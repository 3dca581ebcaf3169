/* peek.c - a volume that is not open here, as its files show it.
 *
 * disk_peek locks and writes nothing, and waits for nothing but the files
 * themselves.  A process that has the volume open changes it meanwhile:
 * `in_use` says that there is one, and then the answer of that process counts.
 * Granules that a killed owner left in W (write-intent bitmap) are not counted.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk.h"
#include "image.h"
#include "internal.h"
#include "path.h"
#include "sidecar.h"
#include "store.h"

/* Sectors of S that are read at a time. */
#define NR_SECTORS 64u

/* Bytes of the granules [first, end) whose bits are set; first is of sector
 * index. */
static uint64_t
count_sector (const struct sidecar_header *h, const uint64_t *words,
              uint64_t index, uint64_t first, uint64_t end)
{
  uint64_t base = index * SIDECAR_BITS, bytes = 0;
  uint64_t stop = min_u64 (end, base + SIDECAR_BITS);

  /* Bits past the end of the disk are set. */
  stop = min_u64 (stop, (h->size + h->granule - 1) / h->granule);

  for (uint64_t g = max_u64 (first, base); g < stop; g++)
    if (words[(g - base) / 64] >> ((g - base) % 64) & 1)
      bytes += min_u64 (h->granule, h->size - g * h->granule);
  return bytes;
}

/* Count the local bytes: *all of the disk, *range of the granules [first,
 * end). */
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
  /* No pump works on the job here. */
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

/* A raw image without a sidecar is a store that is all local.  Of any other
 * file only the owner is told; opening the file will tell why. */
static int
take_plain (struct disk_peek *peek, int fd, const struct stat *st)
{
  uint64_t size = (uint64_t)st->st_size;
  char head[IMAGE_HEAD] = "";
  uint8_t uuid[16];
  ssize_t len;

  if (S_ISBLK (st->st_mode)) {
    if (ioctl (fd, BLKGETSIZE64, &size) == -1)
      return -1;
  }
  else if (!S_ISREG (st->st_mode))
    return 0;
  len = pread (fd, head, min_u64 (size, sizeof head), 0);
  if (len == -1)
    return -1;
  if (store_get_uuid_fd (fd, uuid) || memcmp (head, SIDECAR_MAGIC, 8) == 0
      || image_format (head, (size_t)len))
    return 0;
  peek->info.size = peek->info.local = size;
  peek->info.granule = 4096;
  peek->info.complete = true;
  peek->is_plain = true;
  return 0;
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
    r = take_plain (peek, fd, &st);
    if (r == -1)
      message_set (error, "volume '%s': %m", store);
    goto out;
  }
  /* An open makes the same check: a sidecar that another user laid there counts
   * for nothing. */
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

/* --- regions ------------------------------------------------------------ */

/* Joins ranges of one state to runs. */
struct runs {
  int fd; /* the store, to tell holes; -1: all is data */
  disk_region_fn fn;
  void *opaque;
  uint64_t offset, length; /* the run that may go on */
  enum disk_region_state state;
};

/* 1: the caller has enough. */
static int
add_run (struct runs *runs, uint64_t offset, uint64_t length,
         enum disk_region_state state)
{
  int r = 0;

  if (length == 0)
    return 0;
  if (runs->length > 0 && runs->state == state) {
    runs->length += length;
    return 0;
  }
  if (runs->length > 0)
    r = runs->fn (runs->opaque, runs->offset, runs->length, runs->state);
  runs->offset = offset;
  runs->length = length;
  runs->state = state;
  return r;
}

/* Add a local range, as runs of data and of holes. */
static int
add_local (struct runs *runs, uint64_t offset, uint64_t length)
{
  uint64_t end = offset + length;

  while (runs->fd >= 0 && offset < end) {
    off_t data = lseek (runs->fd, (off_t)offset, SEEK_DATA), hole;
    uint64_t from;

    if (data == -1 && errno != ENXIO)
      break;
    from = data == -1 ? end : min_u64 ((uint64_t)data, end);
    if (add_run (runs, offset, from - offset, DISK_ZERO))
      return 1;
    offset = from;
    if (offset == end)
      return 0;
    hole = lseek (runs->fd, (off_t)offset, SEEK_HOLE);
    from = hole <= (off_t)offset ? end : min_u64 ((uint64_t)hole, end);
    if (add_run (runs, offset, from - offset, DISK_LOCAL))
      return 1;
    offset = from;
  }
  return add_run (runs, offset, end - offset, DISK_LOCAL);
}

/* Add a range as S has it.  -1 with errno; 1: fn wants no more. */
static int
add_mapped (struct runs *runs, struct sidecar *sc, uint64_t offset,
            uint64_t end)
{
  CLEANUP_FREE uint64_t *words = calloc (SIDECAR_WORDS, 8);
  uint64_t granule = sc->h.granule, loaded = UINT64_MAX;
  bool bad = false;

  if (!words)
    return -1;
  while (offset < end) {
    uint64_t g = offset / granule, bit = g % SIDECAR_BITS;
    uint64_t stop = min_u64 ((g + 1) * granule, end);
    int r;

    if (g / SIDECAR_BITS != loaded) {
      loaded = g / SIDECAR_BITS;
      if (sidecar_read_map (sc, (uint32_t)loaded, 1, words, &bad) == -1)
        return -1;
      if (bad) {
        errno = EIO;
        return -1;
      }
    }
    r = words[bit / 64] >> (bit % 64) & 1
            ? add_local (runs, offset, stop - offset)
            : add_run (runs, offset, stop - offset, DISK_ABSENT);
    if (r)
      return r;
    offset = stop;
  }
  return 0;
}

int
disk_peek_regions (const struct disk_peek *peek, uint64_t count,
                   uint64_t offset, bool want_zero, disk_region_fn fn,
                   void *opaque)
{
  CLEANUP_CLOSE int fd = path_open (peek->store, O_RDONLY | O_NONBLOCK, 0);
  struct runs runs = { .fd = want_zero ? fd : -1, .fn = fn, .opaque = opaque };
  CLEANUP_FREE char *error = NULL;
  struct sidecar *sc = NULL;
  struct stat st;
  int r;

  if (fd == -1 || fstat (fd, &st) == -1)
    return -1;
  if (!file_id_equal (file_id (&st), peek->file)) {
    errno = ESTALE;
    return -1;
  }
  if (!peek->info.complete) {
    sc = sidecar_peek (peek->metadata, &error);
    if (!sc)
      return -1;
    if (sc->h.size != peek->info.size || sc->h.granule != peek->info.granule) {
      sidecar_free (sc);
      errno = ESTALE;
      return -1;
    }
  }
  r = sc && !(sc->h.state & SIDECAR_COMPLETE)
          ? add_mapped (&runs, sc, offset, offset + count)
          : add_local (&runs, offset, count);
  sidecar_free (sc);
  if (r == 0 && runs.length > 0)
    fn (opaque, runs.offset, runs.length, runs.state);
  return r == -1 ? -1 : 0;
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
