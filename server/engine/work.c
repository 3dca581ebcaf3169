/* work.c - the working map W.  See work.h.
 *
 * Writes go to the page cache of a tmpfs and need no sync: W outlives the
 * process, not the kernel.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ability.h"
#include "bytes.h"
#include "cleanup.h"
#include "crc32c.h"
#include "file.h"
#include "log.h"
#include "sidecar.h"
#include "work.h"

#define WORK_MAGIC "BKWORK2\n"
#define HEADER_SIZE 4096u
#define BODY 104u     /* what the CRC covers */
#define STATE_AT 112u /* changed on its own, as is the count */
#define COUNT_AT 120u
#define PACKED 128u

/* The first format: bits of one kind, and nothing that proves them. */
#define WORK_MAGIC_1 "BKWORK\r\n"
#define BODY_1 64u
#define STATE_AT_1 72u

#define SECTOR 512u
#define GROUP 8u /* sectors in a page */

static const uint8_t no_nonce[WORK_NONCE_SIZE];

static struct work *
work_alloc (const char *path, const struct work_identity *id)
{
  struct work *w = calloc (1, sizeof *w);

  if (!w)
    return NULL;
  w->fd = -1;
  w->id = *id;
  w->unit = (uint32_t)min_u64 (id->granule, WORK_UNIT_MAX);
  w->first_format = memcmp (id->nonce, no_nonce, sizeof no_nonce) == 0;
  w->path = strdup (path);
  if (!w->path) {
    free (w);
    return NULL;
  }
  lock_init (&w->lock, LOCK_WORK);
  lock_init (&w->count_lock, LOCK_WORK_COUNT);
  return w;
}

/* Header and CRC; how long they are. */
static size_t
pack (const struct work_identity *id, bool first_format, uint8_t buf[PACKED])
{
  memset (buf, 0, PACKED);
  memcpy (buf + 8, id->uuid, WORK_UUID_SIZE);
  if (first_format) {
    memcpy (buf, WORK_MAGIC_1, 8);
    put_le64 (buf + 24, id->session);
    put_le64 (buf + 32, id->store_dev);
    put_le64 (buf + 40, id->store_ino);
    put_le64 (buf + 48, id->store_btime);
    put_le32 (buf + 56, id->nr_sectors);
    put_le32 (buf + BODY_1, crc32c (buf, BODY_1));
    return BODY_1 + 8;
  }
  memcpy (buf, WORK_MAGIC, 8);
  memcpy (buf + 24, id->nonce, WORK_NONCE_SIZE);
  put_le64 (buf + 40, id->session);
  put_le64 (buf + 48, id->size);
  put_le32 (buf + 56, id->granule);
  put_le32 (buf + 60, id->nr_sectors);
  put_le64 (buf + 64, id->store_dev);
  put_le64 (buf + 72, id->store_ino);
  put_le64 (buf + 80, id->store_btime);
  put_le32 (buf + BODY, crc32c (buf, BODY));
  return BODY + 8;
}

static uint64_t
plane_at (const struct work *w, unsigned plane)
{
  uint64_t pages = ((uint64_t)w->id.nr_sectors + GROUP - 1) / GROUP;

  return HEADER_SIZE + plane * pages * GROUP * SECTOR;
}

static uint64_t
sector_at (const struct work *w, unsigned plane, uint32_t index)
{
  return plane_at (w, plane) + (uint64_t)index * SECTOR;
}

static uint64_t
sums_at (const struct work *w, uint64_t unit)
{
  return plane_at (w, WORK_PLANES) + unit * sizeof (struct work_sums);
}

static off_t
full_length (const struct work *w)
{
  if (w->first_format)
    return (off_t)sector_at (w, 0, w->id.nr_sectors);
  return (off_t)sums_at (w, (w->id.size + w->unit - 1) / w->unit);
}

static size_t
state_at (const struct work *w)
{
  return w->first_format ? STATE_AT_1 : STATE_AT;
}

/* The runtime directory may be on any file system.  Where SEEK_DATA cannot be
 * believed, what it calls a hole may hold bits of acknowledged writes. */
static void
look_for_holes (struct work *w)
{
  struct abilities able;

  ability_look (&able, w->fd);
  w->tells_holes = able.tells_holes;
}

struct work *
work_create (const char *path, const struct work_identity *id)
{
  struct work *w = work_alloc (path, id);
  uint8_t buf[PACKED];
  int err;

  if (!w)
    return NULL;
  /* The folder may be writable by all: never follow, never take over. */
  w->fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (w->fd == -1)
    goto fail;
  pack (id, w->first_format, buf);
  if (file_lock (w->fd, false) == -1 || ftruncate (w->fd, full_length (w)) == -1
      || pwrite (w->fd, buf, sizeof buf, 0) != sizeof buf
      || work_set_state (w, WORK_OK) == -1)
    goto fail_unlink;
  look_for_holes (w);
  return w;

fail_unlink:
  err = errno;
  unlink (path);
  errno = err;
fail:
  err = errno;
  work_free (w);
  errno = err;
  return NULL;
}

static bool
is_one_of (uid_t uid, const uid_t *owners, unsigned nr)
{
  for (unsigned i = 0; i < nr; i++)
    if (owners[i] == uid)
      return true;
  return false;
}

/* O_PATH first, as anything may lie there: a device that acts when it is
 * opened, or another user's file. */
static int
open_checked (const char *path, const uid_t *owners, unsigned nr,
              bool read_only)
{
  CLEANUP_CLOSE int fd = open (path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  struct stat sb;
  char self[64];

  if (fd == -1 || fstat (fd, &sb) == -1)
    return -1;
  if (S_ISLNK (sb.st_mode) || S_ISDIR (sb.st_mode)) {
    errno = S_ISLNK (sb.st_mode) ? ELOOP : EISDIR;
    return -1;
  }
  if (!S_ISREG (sb.st_mode)) {
    errno = ESTALE;
    return -1;
  }
  if (!is_one_of (sb.st_uid, owners, nr)) {
    errno = EPERM;
    return -1;
  }
  snprintf (self, sizeof self, "/proc/self/fd/%d", fd);
  return open (self, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
}

/* W is the one that w->id names.  The file of the store in w->id is then the
 * one that W was made for. */
static bool
is_named (struct work *w, enum work_state *state)
{
  uint8_t buf[PACKED] = { 0 }, expect[PACKED];
  struct work_identity is = w->id;
  struct stat sb;
  size_t len;

  if (fstat (w->fd, &sb) == -1 || sb.st_size < full_length (w)
      || pread (w->fd, buf, sizeof buf, 0) < (ssize_t)(state_at (w) + 4))
    return false;
  if (!w->first_format) {
    /* The file that it was made for may have come here by another name. */
    is.session = get_le64 (buf + 40);
    is.store_dev = get_le64 (buf + 64);
    is.store_ino = get_le64 (buf + 72);
    is.store_btime = get_le64 (buf + 80);
  }
  len = pack (&is, w->first_format, expect);
  *state = (enum work_state)get_le32 (buf + state_at (w));
  if (memcmp (buf, expect, len) != 0
      || (*state != WORK_OK && *state != WORK_SYNCING))
    return false;
  w->id = is;
  if (!w->first_format)
    w->count = get_le64 (buf + COUNT_AT);
  return true;
}

struct work *
work_open (const char *path, struct work_identity *id, const uid_t *owners,
           unsigned nr, bool read_only, enum work_state *state)
{
  struct work *w = work_alloc (path, id);
  int err;

  if (!w)
    return NULL;
  w->fd = open_checked (path, owners, nr, read_only);
  if (w->fd == -1)
    goto fail;
  if (!is_named (w, state)) {
    errno = ESTALE;
    goto fail;
  }
  *id = w->id;
  look_for_holes (w);
  /* Read again under the lock: an owner may have changed state and count. */
  if (file_lock (w->fd, read_only) == 0 && is_named (w, state))
    return w;

fail:
  err = errno;
  work_free (w);
  errno = err;
  return NULL;
}

static int
write_state (struct work *w, enum work_state state)
{
  ASSERT_HELD (&w->lock);
  /* What a failed sync may have lost is never called safe again. */
  assert (state == WORK_SYNCING || !w->failed);
  if (work_set_state (w, state) == -1)
    return -1;
  w->announced = state == WORK_SYNCING;
  return 0;
}

void
work_sync_begin (struct work *w)
{
  LOCK_SCOPE (&w->lock);

  atomic_store (&w->unannounced, !w->announced);
}

int
work_sync_announce (struct work *w)
{
  LOCK_SCOPE (&w->lock);

  if (!atomic_load (&w->unannounced))
    return 0;
  if (write_state (w, WORK_SYNCING) == -1)
    return -1;
  atomic_store (&w->unannounced, false);
  return 0;
}

int
work_sync_end (struct work *w)
{
  LOCK_SCOPE (&w->lock);

  atomic_store (&w->unannounced, w->failed && !w->announced);
  return w->announced && !w->failed ? write_state (w, WORK_OK) : 0;
}

int
work_fail (struct work *w)
{
  LOCK_SCOPE (&w->lock);
  int r;

  w->failed = true;
  r = write_state (w, WORK_SYNCING);
  /* Where that failed, the thread that writes a bit tries again. */
  atomic_store (&w->unannounced, !w->announced);
  return r;
}

int
work_write (struct work *w, enum work_plane plane, uint32_t index,
            unsigned first, unsigned count, const uint64_t *words)
{
  if (atomic_load (&w->unannounced) && work_sync_announce (w) == -1)
    return -1;
  return file_write (w->fd, words, count * sizeof *words,
                     sector_at (w, plane, index) + first * sizeof *words, 0);
}

/* What is past the end reads as zeros. */
static int
read_at (struct work *w, void *buf, size_t len, uint64_t offset)
{
  return file_read (w->fd, buf, len, offset) == -1 ? -1 : 0;
}

int
work_read (struct work *w, enum work_plane plane, uint32_t index,
           uint64_t words[WORK_WORDS])
{
  if (w->first_format && plane != WORK_GUEST) {
    memset (words, 0, SECTOR);
    return 0;
  }
  return read_at (w, words, SECTOR, sector_at (w, plane, index));
}

int
work_write_sums (struct work *w, uint64_t first, unsigned nr,
                 const struct work_sums *sums)
{
  return file_write (w->fd, sums, nr * sizeof *sums, sums_at (w, first), 0);
}

int
work_read_sums (struct work *w, uint64_t first, unsigned nr,
                struct work_sums *sums)
{
  return read_at (w, sums, nr * sizeof *sums, sums_at (w, first));
}

static int
punch (struct work *w, uint64_t offset, uint64_t length)
{
  return fallocate (w->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (off_t)offset, (off_t)length);
}

int
work_punch (struct work *w, uint32_t page)
{
  const uint64_t units
      = (uint64_t)GROUP * SIDECAR_BITS * (w->id.granule / w->unit);

  /* The bits first: a bit without its sums would prove nothing. */
  for (unsigned plane = 0; plane < WORK_PLANES; plane++)
    if (punch (w, sector_at (w, plane, page * GROUP), GROUP * SECTOR) == -1)
      return -1;
  return punch (w, sums_at (w, page * units),
                units * sizeof (struct work_sums));
}

/* The first sector of a plane at or after index that is not a hole. */
static bool
next_in_plane (struct work *w, unsigned plane, uint32_t index, uint32_t *next)
{
  uint64_t start = sector_at (w, plane, 0), at = sector_at (w, plane, index);
  off_t r = -1;

  if (index >= w->id.nr_sectors)
    return false;
  errno = EINVAL;
  if (w->tells_holes)
    r = lseek (w->fd, (off_t)at, SEEK_DATA);
  if (r >= 0) {
    uint64_t n = (max_u64 ((uint64_t)r, at) - start) / SECTOR;

    *next = (uint32_t)min_u64 (n, w->id.nr_sectors);
    return n < w->id.nr_sectors;
  }
  /* Only "past all data" may say that there is nothing: a file system that
   * cannot tell holes has every sector looked at. */
  if (errno == ENXIO)
    return false;
  *next = index;
  return true;
}

bool
work_next (struct work *w, uint32_t index, uint32_t *next)
{
  uint32_t guest = UINT32_MAX, copies = UINT32_MAX;
  bool any = next_in_plane (w, WORK_GUEST, index, &guest);

  if (!w->first_format)
    any |= next_in_plane (w, WORK_COPIES, index, &copies);
  if (any)
    *next = guest < copies ? guest : copies;
  return any;
}

int
work_set_state (struct work *w, enum work_state state)
{
  uint8_t le[4];

  put_le32 (le, state);
  return pwrite (w->fd, le, sizeof le, (off_t)state_at (w)) == sizeof le ? 0
                                                                         : -1;
}

int
work_begin_count (struct work *w, uint64_t count)
{
  LOCK_SCOPE (&w->count_lock);
  uint8_t le[8];

  put_le64 (le, count);
  if (pwrite (w->fd, le, sizeof le, COUNT_AT) != sizeof le)
    return -1;
  w->count = count;
  return 0;
}

int
work_count (struct work *w, int (*elsewhere) (void *opaque, uint64_t count),
            void *opaque)
{
  LOCK_SCOPE (&w->count_lock);
  uint8_t le[8];

  if (elsewhere (opaque, w->count + 1) == -1)
    return -1;
  put_le64 (le, w->count + 1);
  if (pwrite (w->fd, le, sizeof le, COUNT_AT) != sizeof le)
    return -1;
  w->count++;
  return 0;
}

void
work_unlink (struct work *w)
{
  struct stat a, b;

  /* (Not file_is_at: the runtime directory of a confined process is not below
   * its folders.) */
  if (fstat (w->fd, &a) == 0 && lstat (w->path, &b) == 0 && a.st_dev == b.st_dev
      && a.st_ino == b.st_ino && unlink (w->path) == 0)
    return;
  if (ftruncate (w->fd, 0) == -1)
    log_debug ("%s is left: %m", w->path);
}

void
work_free (struct work *w)
{
  if (!w)
    return;
  if (w->fd >= 0)
    close (w->fd);
  lock_destroy (&w->lock);
  lock_destroy (&w->count_lock);
  free (w->path);
  free (w);
}
