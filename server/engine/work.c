/* work.c - the working map W.  See work.h.
 *
 * Writes go to the page cache of a tmpfs and need no sync: only the process
 * may die under it, never the kernel.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"
#include "cleanup.h"
#include "crc32c.h"
#include "store.h"
#include "work.h"

#define WORK_MAGIC "BKWORK\r\n"
#define HEADER_SIZE 4096u
#define HEADER_BODY 64u
#define STATE_AT 72u /* after the body and its CRC: changed on its own */
#define SECTOR 512u

static struct work *
work_alloc (const char *path, const struct work_identity *id)
{
  struct work *w = calloc (1, sizeof *w);

  if (!w)
    return NULL;
  w->fd = -1;
  w->id = *id;
  w->path = strdup (path);
  if (!w->path) {
    free (w);
    return NULL;
  }
  pthread_mutex_init (&w->lock, NULL);
  return w;
}

static void
pack (const struct work_identity *id, uint8_t *buf)
{
  memset (buf, 0, HEADER_BODY + 8);
  memcpy (buf, WORK_MAGIC, 8);
  memcpy (buf + 8, id->uuid, WORK_UUID_SIZE);
  put_le64 (buf + 24, id->session);
  put_le64 (buf + 32, id->store_dev);
  put_le64 (buf + 40, id->store_ino);
  put_le64 (buf + 48, id->store_btime);
  put_le32 (buf + 56, id->nr_sectors);
  put_le32 (buf + HEADER_BODY, crc32c (buf, HEADER_BODY));
}

static off_t
full_length (const struct work_identity *id)
{
  return (off_t)(HEADER_SIZE + (uint64_t)id->nr_sectors * SECTOR);
}

struct work *
work_create (const char *path, const struct work_identity *id)
{
  struct work *w = work_alloc (path, id);
  uint8_t buf[HEADER_BODY + 8];
  int err;

  if (!w)
    return NULL;
  /* The folder may be writable by all: never follow, never take over. */
  w->fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (w->fd == -1)
    goto fail;
  pack (id, buf);
  if (store_lock_fd (w->fd, false) == -1
      || ftruncate (w->fd, full_length (id)) == -1
      || pwrite (w->fd, buf, sizeof buf, 0) != sizeof buf
      || work_set_state (w, WORK_OK) == -1)
    goto fail_unlink;
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

struct work *
work_open (const char *path, const struct work_identity *id, bool read_only,
           enum work_state *state)
{
  struct work *w = work_alloc (path, id);
  uint8_t buf[HEADER_BODY + 8], expect[HEADER_BODY + 8], le[4];
  struct stat sb;
  int err;

  if (!w)
    return NULL;
  w->fd = open (path, (read_only ? O_RDONLY : O_RDWR) | O_NOFOLLOW | O_CLOEXEC
                          | O_NONBLOCK);
  if (w->fd == -1 || fstat (w->fd, &sb) == -1)
    goto fail;
  if (sb.st_uid != 0 && sb.st_uid != geteuid ()) {
    errno = EPERM;
    goto fail;
  }
  if (store_lock_fd (w->fd, read_only) == -1)
    goto fail;
  pack (id, expect);
  if (!S_ISREG (sb.st_mode) || sb.st_size < full_length (id)
      || pread (w->fd, buf, sizeof buf, 0) != sizeof buf
      || memcmp (buf, expect, sizeof buf) != 0
      || pread (w->fd, le, sizeof le, STATE_AT) != sizeof le
      || (get_le32 (le) != WORK_OK && get_le32 (le) != WORK_SYNCING)) {
    errno = ESTALE;
    goto fail;
  }
  *state = (enum work_state)get_le32 (le);
  return w;

fail:
  err = errno;
  work_free (w);
  errno = err;
  return NULL;
}

/* The lock is held. */
static int
say (struct work *w, enum work_state state)
{
  if (work_set_state (w, state) == -1)
    return -1;
  w->said = state == WORK_SYNCING;
  return 0;
}

void
work_sync_begin (struct work *w)
{
  LOCK_SCOPE (&w->lock);

  __atomic_store_n (&w->quiet, !w->said, __ATOMIC_SEQ_CST);
}

int
work_sync_announce (struct work *w)
{
  LOCK_SCOPE (&w->lock);

  if (!w->quiet)
    return 0;
  if (say (w, WORK_SYNCING) == -1)
    return -1;
  __atomic_store_n (&w->quiet, false, __ATOMIC_SEQ_CST);
  return 0;
}

int
work_sync_end (struct work *w)
{
  LOCK_SCOPE (&w->lock);

  __atomic_store_n (&w->quiet, w->failed && !w->said, __ATOMIC_SEQ_CST);
  return w->said && !w->failed ? say (w, WORK_OK) : 0;
}

int
work_fail (struct work *w)
{
  LOCK_SCOPE (&w->lock);
  int r;

  w->failed = true;
  r = say (w, WORK_SYNCING);
  /* Whoever writes bits tries again. */
  __atomic_store_n (&w->quiet, !w->said, __ATOMIC_SEQ_CST);
  return r;
}

int
work_write (struct work *w, uint32_t index, unsigned first, unsigned count,
            const uint64_t *words)
{
  if (__atomic_load_n (&w->quiet, __ATOMIC_SEQ_CST)
      && work_sync_announce (w) == -1)
    return -1;
  return store_write_fd (
      w->fd, words, count * sizeof *words,
      HEADER_SIZE + (uint64_t)index * SECTOR + first * sizeof *words, 0);
}

int
work_read (struct work *w, uint32_t index, uint64_t words[WORK_WORDS])
{
  char *p = (char *)words;
  size_t len = SECTOR;
  uint64_t offset = HEADER_SIZE + (uint64_t)index * SECTOR;

  while (len > 0) {
    ssize_t r = pread (w->fd, p, len, (off_t)offset);

    if (r == -1 && errno == EINTR)
      continue;
    if (r == -1)
      return -1;
    if (r == 0) {
      memset (p, 0, len);
      break;
    }
    p += r;
    len -= (size_t)r;
    offset += (uint64_t)r;
  }
  return 0;
}

int
work_punch (struct work *w, uint32_t page)
{
  return fallocate (w->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (off_t)(HEADER_SIZE + (uint64_t)page * 8 * SECTOR),
                    8 * SECTOR);
}

bool
work_next (struct work *w, uint32_t index, uint32_t *next)
{
  uint64_t offset = HEADER_SIZE + (uint64_t)index * SECTOR;
  off_t r = lseek (w->fd, (off_t)offset, SEEK_DATA);
  struct stat sb;

  if (r >= 0) {
    *next = (uint32_t)((max_u64 ((uint64_t)r, offset) - HEADER_SIZE) / SECTOR);
    return true;
  }
  /* Only "past all data" may say that there is nothing: a file system that
   * cannot tell holes has every sector looked at. */
  if (errno == ENXIO)
    return false;
  if (fstat (w->fd, &sb) == -1 || offset >= (uint64_t)sb.st_size)
    return false;
  *next = index;
  return true;
}

int
work_set_state (struct work *w, enum work_state state)
{
  uint8_t le[4];

  put_le32 (le, state);
  return pwrite (w->fd, le, sizeof le, STATE_AT) == sizeof le ? 0 : -1;
}

void
work_unlink (struct work *w)
{
  struct stat a, b;

  /* (Not store_same_file: a confined process has its runtime directory
   * elsewhere.) */
  if (fstat (w->fd, &a) == 0 && lstat (w->path, &b) == 0 && a.st_dev == b.st_dev
      && a.st_ino == b.st_ino)
    unlink (w->path);
}

void
work_free (struct work *w)
{
  if (!w)
    return;
  if (w->fd >= 0)
    close (w->fd);
  pthread_mutex_destroy (&w->lock);
  free (w->path);
  free (w);
}
