/* store.c - the local raw image: open and create, attributes, I/O, holes.
 * See store.h; store-zero.c zeroes and allocates.
 *
 * store_next_data asks SEEK_HOLE only where ability.h says that the answer can
 * be believed.  Elsewhere all bytes count as data, except those that `touched`
 * says were never written.
 *
 * Locking: none needed.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "bytes.h"
#include "cleanup.h"
#include "file.h"
#include "message.h"
#include "path.h"
#include "store.h"

/* Pages that one mincore call looks up. */
#define CACHED_PAGES 1024u

static void
try_abilities (struct store *st)
{
  char *temp;
  struct stat a, b;
  CLEANUP_CLOSE int fd = file_make (st->path, 0600, &temp);

  if (temp)
    path_unlink (temp);
  free (temp);
  /* The store may be a mount point of its own: the temporary file is then on
   * another file system, and shows nothing of the store's. */
  if (fd >= 0 && fstat (fd, &a) == 0 && fstat (st->fd, &b) == 0
      && a.st_dev == b.st_dev)
    ability_try (&st->able, fd);
}

static int
describe (struct store *st, char **error)
{
  struct stat sb;
  struct statx sx;

  if (fstat (st->fd, &sb) == -1) {
    message_set (error, "%s: %m", st->path);
    return -1;
  }
  if (!st->read_only) {
    st->aux_fd = file_reopen (st->fd);
    if (st->aux_fd == -1)
      st->aux_fd = st->fd;
    st->drop_fd = file_reopen (st->fd);
    st->dsync_fd = file_reopen (st->fd);
    st->sync_fd = file_reopen (st->fd);
  }
  if (st->sync_fd == -1)
    st->sync_fd = st->fd;
  ability_look (&st->able, st->fd);
  st->dev = sb.st_dev;
  st->ino = sb.st_ino;
  st->uid = sb.st_uid;
  st->gid = sb.st_gid;
  st->block_size = 1;
  if (S_ISBLK (sb.st_mode)) {
    int lbs = 512;

    st->is_block = true;
    if (ioctl (st->fd, BLKGETSIZE64, &st->size) == -1) {
      message_set (error, "%s: cannot read the device's size: %m", st->path);
      return -1;
    }
    if (ioctl (st->fd, BLKSSZGET, &lbs) == 0 && lbs > 0)
      st->block_size = (uint32_t)lbs;
    /* ability_look described the file system of the device's node, not the
     * device. */
    st->able.tells_holes = false;
    /* Several nodes may name one device: the device's number identifies the
     * device, a node's inode does not. */
    st->dev = sb.st_rdev;
    st->ino = 0;
  }
  else if (S_ISREG (sb.st_mode)) {
    st->size = (uint64_t)sb.st_size;
    st->block_size = st->able.block;
    if (statx (st->fd, "", AT_EMPTY_PATH, STATX_BTIME, &sx) == 0
        && (sx.stx_mask & STATX_BTIME))
      st->btime = (uint64_t)sx.stx_btime.tv_sec * UINT64_C (1000000000)
                  + sx.stx_btime.tv_nsec;
    if (!st->read_only)
      try_abilities (st);
  }
  else {
    message_set (error,
                 "%s is neither a regular file nor a block device: name the "
                 "local raw image with store=",
                 st->path);
    errno = EINVAL;
    return -1;
  }
  return 0;
}

static struct store *
store_alloc (const char *path, bool read_only, char **error)
{
  struct store *st = calloc (1, sizeof *st);

  if (st) {
    st->fd = st->aux_fd = st->drop_fd = st->dsync_fd = st->sync_fd = -1;
    st->read_only = read_only;
    st->path = strdup (path);
    if (st->path)
      return st;
    free (st);
  }
  message_set (error, "out of memory");
  errno = ENOMEM;
  return NULL;
}

/* Owner and file are checked by the open descriptor: whoever may write to the
 * directory can exchange the file behind a path. */
static int
check_file (const struct store *st, const uid_t *owner,
            const struct file_id *file, char **error)
{
  struct stat sb;

  if (!owner && !file)
    return 0;
  if (fstat (st->fd, &sb) == -1) {
    message_set (error, "%s: %m", st->path);
    return -1;
  }
  if (owner && sb.st_uid != *owner) {
    message_set (error, "'%s' belongs to another user", st->path);
    errno = EPERM;
    return -1;
  }
  if (file && !file_id_equal (*file, file_id (&sb))) {
    message_set (error, "'%s' is another file than the one that is meant",
                 st->path);
    errno = ESTALE;
    return -1;
  }
  return 0;
}

struct store *
store_open (const char *path, bool read_only, char **error)
{
  return store_open_of (path, read_only, NULL, NULL, error);
}

struct store *
store_open_of (const char *path, bool read_only, const uid_t *owner,
               const struct file_id *file, char **error)
{
  struct store *st = store_alloc (path, read_only, error);
  int err;

  if (!st)
    return NULL;

  for (int tries = 0; tries < 10; tries++) {
    st->fd
        = path_open_file (path, (read_only ? O_RDONLY : O_RDWR) | O_NONBLOCK);
    if (st->fd == -1 && errno == EINVAL) {
      message_set (error,
                   "%s is neither a regular file nor a block device: name the "
                   "local raw image with store=",
                   path);
      goto fail;
    }
    if (st->fd == -1) {
      message_set (error, "cannot open the store %s: %m", path);
      goto fail;
    }
    if (check_file (st, owner, file, error) == -1)
      goto fail;
    if (file_lock (st->fd, read_only) == -1) {
      message_set (error, "cannot lock the store %s: %m", path);
      goto fail;
    }
    /* Another process may have replaced the file between the open and the
     * lock. */
    if (file_is_at (st->fd, path)) {
      if (describe (st, error) == -1)
        goto fail;
      return st;
    }
    close (st->fd);
    st->fd = -1;
  }
  message_set (error, "the store %s keeps being replaced while it is opened",
               path);
  errno = EAGAIN;

fail:
  err = errno;
  store_free (st);
  errno = err;
  return NULL;
}

struct store *
store_create (const char *path, uint64_t size, char **error)
{
  struct store *st = store_alloc (path, false, error);
  int err;

  if (!st)
    return NULL;
  st->fd = file_make (path, 0600, &st->temp);
  if (st->fd == -1) {
    message_set (error, "cannot make the store %s: %m", path);
    goto fail;
  }
  if (file_lock (st->fd, false) == -1 || ftruncate (st->fd, (off_t)size) == -1
      || fsync (st->fd) == -1) {
    message_set (
        error, "cannot make the store %s of %llu bytes: %m%s", path,
        (unsigned long long)size,
        errno == EFBIG ? "; its file system cannot hold so large a file" : "");
    goto fail;
  }
  if (describe (st, error) == 0) {
    if (!st->able.tells_holes)
      touched_init (&st->touched, st->size);
    return st;
  }

fail:
  err = errno;
  store_free (st);
  errno = err;
  return NULL;
}

int
store_link (struct store *st, char **error)
{
  if (file_link (st->fd, st->path, &st->temp) == 0)
    return 0;
  message_set (error, "cannot make the store %s: %m", st->path);
  return -1;
}

int
store_grow (struct store *st, uint64_t size)
{
  if (ftruncate (st->fd, (off_t)size) == -1 || fsync (st->fd) == -1)
    return -1;
  st->size = size;
  return 0;
}

void
store_unlock (struct store *st)
{
  file_unlock (st->fd);
}

#define UUID_ATTRIBUTE "user.backfill.uuid"

int
store_get_uuid_fd (int fd, uint8_t uuid[16])
{
  return fgetxattr (fd, UUID_ATTRIBUTE, uuid, 16) == 16;
}

int
store_get_uuid (struct store *st, uint8_t uuid[16])
{
  return store_get_uuid_fd (st->fd, uuid);
}

void
store_set_uuid (struct store *st, const uint8_t *uuid)
{
  /* Where the file system has no attributes, match_store goes by the inode and
   * the name. */
  if (!uuid)
    fremovexattr (st->fd, UUID_ATTRIBUTE);
  else if (fsetxattr (st->fd, UUID_ATTRIBUTE, uuid, 16, 0) == -1)
    return;
}

#define DETACHED_ATTRIBUTE "user.backfill.detached"

bool
store_is_detached (struct store *st)
{
  return fgetxattr (st->fd, DETACHED_ATTRIBUTE, NULL, 0) >= 0;
}

int
store_set_detached (struct store *st, bool detached)
{
  if (detached)
    return fsetxattr (st->fd, DETACHED_ATTRIBUTE, "", 0, 0);
  return fremovexattr (st->fd, DETACHED_ATTRIBUTE);
}

void
store_free (struct store *st)
{
  if (!st)
    return;
  if (st->aux_fd >= 0 && st->aux_fd != st->fd)
    close (st->aux_fd);
  if (st->drop_fd >= 0)
    close (st->drop_fd);
  if (st->dsync_fd >= 0)
    close (st->dsync_fd);
  if (st->sync_fd >= 0 && st->sync_fd != st->fd)
    close (st->sync_fd);
  if (st->fd >= 0)
    close (st->fd);
  if (st->temp)
    path_unlink (st->temp);
  free (st->temp);
  touched_free (&st->touched);
  free (st->path);
  free (st);
}

void
store_next_cached (struct store *st, uint64_t offset, uint64_t end,
                   uint64_t *start, uint64_t *stop)
{
  const uint64_t page = (uint64_t)sysconf (_SC_PAGESIZE);
  unsigned char in[CACHED_PAGES];
  bool found = false;

  *start = *stop = end;
  for (uint64_t at = round_down (offset, page); at < end;) {
    uint64_t nr = min_u64 ((end - at + page - 1) / page, CACHED_PAGES);
    void *p = mmap (NULL, nr * page, PROT_READ, MAP_SHARED, st->fd, (off_t)at);
    bool known = p != MAP_FAILED && mincore (p, nr * page, in) == 0;

    if (p != MAP_FAILED)
      munmap (p, nr * page);
    for (uint64_t i = 0; i < nr; i++, at += page) {
      bool cached = !known || (in[i] & 1);

      if (cached && !found) {
        found = true;
        *start = max_u64 (at, offset);
      }
      else if (!cached && found) {
        *stop = at;
        return;
      }
    }
  }
}

int
store_pread (struct store *st, void *buf, uint64_t count, uint64_t offset)
{
  int r = file_read (st->fd, buf, count, offset);

  if (r == 1) {
    /* Another process has truncated the file. */
    errno = EIO;
    return -1;
  }
  return r;
}

int
store_pwrite (struct store *st, const void *buf, uint64_t count,
              uint64_t offset)
{
  touched_add (&st->touched, count, offset);
  return file_write (st->fd, buf, count, offset, 0);
}

int
store_pwrite_dsync (struct store *st, const void *buf, uint64_t count,
                    uint64_t offset)
{
  if (st->dsync_fd < 0 || ability_is_missing (&st->able, ABILITY_DSYNC))
    return 1;
  if (file_write (st->dsync_fd, buf, count, offset, RWF_DSYNC) == 0) {
    ability_note (&st->able, ABILITY_DSYNC, 0);
    return 0;
  }
  /* There was no room, either for this second write of the same bytes or for an
   * earlier write.  The sync of fd makes the bytes durable all the same, and
   * fails if an earlier write did: fd's description is still to be told of
   * that. */
  if (errno == ENOSPC || errno == EDQUOT || errno == ENOMEM)
    return file_sync (st->fd);
  return ability_note (&st->able, ABILITY_DSYNC, errno) ? 1 : -1;
}

/* 0: the file system cannot tell holes, so all counts as data; or another
 * process has truncated the file. */
static int
cannot_seek (void)
{
  return errno == ENXIO || ability_is_lack (errno) ? 0 : -1;
}

int
store_next_data (struct store *st, uint64_t offset, uint64_t end,
                 uint64_t *start, uint64_t *stop)
{
  off_t data, hole;

  *start = offset;
  *stop = end;
  if (!st->able.tells_holes || offset >= end) {
    *start = touched_next (&st->touched, offset, end);
    return 0;
  }
  data = lseek (st->fd, (off_t)offset, SEEK_DATA);
  if (data == -1 && errno != ENXIO)
    return cannot_seek ();
  if (data == -1 || (uint64_t)data >= end) {
    *start = *stop = end;
    return 0;
  }
  hole = lseek (st->fd, data, SEEK_HOLE);
  if (hole == -1)
    return cannot_seek ();
  *start = (uint64_t)data;
  *stop = min_u64 ((uint64_t)hole, end);
  return 0;
}

bool
store_is_zero (struct store *st)
{
  uint64_t at = 0, start, stop;
  char buf[4096];

  while (at < st->size) {
    if (store_next_data (st, at, st->size, &start, &stop) == -1)
      return false;
    for (at = start; at < stop; at += sizeof buf) {
      uint64_t n = min_u64 (sizeof buf, stop - at);

      if (store_pread (st, buf, n, at) == -1 || !is_all_zero (buf, n))
        return false;
    }
    at = max_u64 (start, stop);
  }
  return true;
}

int
store_sync (struct store *st)
{
  /* Some file servers sync only the writes of the same description, or tell
   * only that description of a failed write. */
  if (st->able.is_remote && st->sync_fd != st->fd && file_sync (st->fd) == -1)
    return -1;
  return file_sync (st->sync_fd);
}

uid_t
store_owner (const struct store *st)
{
  struct stat sb;

  return fstat (st->fd, &sb) == 0 ? sb.st_uid : st->uid;
}
