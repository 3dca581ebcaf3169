/* store.c - the local raw image.
 *
 * Zeroing goes down a ladder of what the file system has (ability.h): a hole is
 * punched; allocated zeros are a zeroed range, a hole that is then allocated,
 * BLKZEROOUT, or are written.  Where holes cannot be punched, what reads as
 * zeros is left alone, so that what is thin stays thin.  A block device is
 * never assumed to read as zeros, and the edges that its block size leaves over
 * are written.
 *
 * SEEK_HOLE is asked only where it may be believed: elsewhere everything is
 * data.
 *
 * Locking: none needed; the caller keeps others out of a range that is zeroed.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "bytes.h"
#include "cleanup.h"
#include "message.h"
#include "path.h"
#include "store.h"

/* Looked up in the page cache at a time. */
#define CACHED_PAGES 1024u
#define ZEROS_SIZE (1u << 20)

/* What is zeros is told from what is not by so much. */
#define BLOCK 4096u
/* What is kept of a new store: at most so many bits. */
#define TOUCHED_BITS (UINT64_C (1) << 23)
#define TOUCHED_SHIFT 12u

int
store_lock_fd (int fd, bool read_only)
{
  struct flock fl
      = { .l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

  if (fcntl (fd, F_OFD_SETLK, &fl) == 0)
    return 0;
  if (errno == EACCES)
    errno = EAGAIN;
  return -1;
}

bool
store_same_file (int fd, const char *path)
{
  struct stat a, b;

  return fstat (fd, &a) == 0 && path_stat (path, &b) == 0
         && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static void
try_abilities (struct store *st)
{
  char *temp;
  struct stat a, b;
  CLEANUP_CLOSE int fd = store_tmpfile (st->path, 0600, &temp);

  if (temp)
    path_unlink (temp);
  free (temp);
  /* The store itself may be mounted there, from elsewhere. */
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
    st->aux_fd = store_reopen_fd (st->fd);
    if (st->aux_fd == -1)
      st->aux_fd = st->fd;
    st->drop_fd = store_reopen_fd (st->fd);
    st->dsync_fd = store_reopen_fd (st->fd);
    st->sync_fd = store_reopen_fd (st->fd);
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
    /* That was of the file system that the node is on. */
    st->able.tells_holes = false;
    /* The number of the device is what is shared, not the node's inode. */
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

/* What is at the path is whose it is when it is opened: a name says nothing,
 * as whoever may write to its folder exchanges what it leads to. */
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
    if (store_lock_fd (st->fd, read_only) == -1) {
      message_set (error, "cannot lock the store %s: %m", path);
      goto fail;
    }
    /* Somebody may have replaced it between the open and the lock. */
    if (store_same_file (st->fd, path)) {
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

/* A descriptor of path's folder that can be synced and made files in. */
static int
open_folder (const char *path)
{
  const char *name;
  CLEANUP_CLOSE int folder = path_folder (path, &name);

  return folder == -1
             ? -1
             : openat (folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int
store_sync_dir (const char *path)
{
  CLEANUP_CLOSE int fd = open_folder (path);

  if (fd == -1)
    return -1;
  /* Some file systems cannot sync a folder and say EINVAL. */
  return fsync (fd) == -1 && errno != EINVAL ? -1 : 0;
}

int
store_tmpfile (const char *path, mode_t mode, char **temp)
{
  CLEANUP_CLOSE int folder = open_folder (path);
  struct abilities able;
  uint64_t number;
  int fd;

  *temp = NULL;
  if (folder == -1)
    return -1;
  /* Another's may have nameless files, and no links to give them names by. */
  ability_look (&able, folder);
  if (!able.is_remote) {
    fd = openat (folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
    if (fd >= 0)
      return fd;
    if (!ability_is_lack (errno) && errno != EISDIR && errno != ENOENT)
      return -1;
  }

  /* Nobody else's: what is linked under this name must be what fd is. */
  if (getrandom (&number, sizeof number, 0) != sizeof number
      || asprintf (temp, "%s.new-%016" PRIx64, path, number) == -1) {
    *temp = NULL;
    return -1;
  }
  fd = path_open (*temp, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW, mode);
  if (fd == -1) {
    int err = errno;

    free (*temp);
    *temp = NULL;
    errno = err;
  }
  return fd;
}

/* Is it what fd is open on, empty, and locked by us? */
static bool
is_empty_own (int fd, int folder, const char *name)
{
  struct stat a, b;

  return store_lock_fd (fd, false) == 0 && fstat (fd, &a) == 0
         && fstatat (folder, name, &b, AT_SYMLINK_NOFOLLOW) == 0
         && a.st_dev == b.st_dev && a.st_ino == b.st_ino && S_ISREG (b.st_mode)
         && b.st_size == 0;
}

/* Neither links nor RENAME_NOREPLACE: an empty file of our own takes the name
 * first, so that nobody else's is replaced. */
static int
rename_over_own (int folder, const char *temp_name, const char *name)
{
  CLEANUP_CLOSE int fd = openat (
      folder, name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
  int err;

  if (fd == -1)
    return -1;
  if (!is_empty_own (fd, folder, name)) {
    /* Somebody took it for what a power cut has left. */
    errno = EEXIST;
    return -1;
  }
  if (renameat (folder, temp_name, folder, name) == 0)
    return 0;
  err = errno;
  unlinkat (folder, name, 0);
  errno = err;
  return -1;
}

static int
name_by_temp (int folder, const char *temp_name, const char *name)
{
  if (linkat (folder, temp_name, folder, name, 0) == 0) {
    unlinkat (folder, temp_name, 0);
    return 0;
  }
  if (!ability_is_lack (errno) && errno != EMLINK)
    return -1;
  if (renameat2 (folder, temp_name, folder, name, RENAME_NOREPLACE) == 0)
    return 0;
  return ability_is_lack (errno) ? rename_over_own (folder, temp_name, name)
                                 : -1;
}

int
store_remove_empty (const char *path)
{
  const char *name;
  CLEANUP_CLOSE int folder = path_folder (path, &name);
  CLEANUP_CLOSE int fd = path_open (path, O_RDWR | O_NONBLOCK | O_NOFOLLOW, 0);

  if (folder == -1 || fd == -1)
    return -1;
  if (!is_empty_own (fd, folder, name)) {
    errno = EEXIST;
    return -1;
  }
  return unlinkat (folder, name, 0) == -1 ? -1 : store_sync_dir (path);
}

int
store_link_fd (int fd, const char *path, char **temp)
{
  const char *name;
  CLEANUP_CLOSE int folder = path_folder (path, &name);

  if (folder == -1)
    return -1;
  if (*temp) {
    const char *temp_name = strrchr (*temp, '/');

    temp_name = temp_name ? temp_name + 1 : *temp;
    if (name_by_temp (folder, temp_name, name) == -1)
      return -1;
    free (*temp);
    *temp = NULL;
  }
  else {
    char self[64];

    snprintf (self, sizeof self, "/proc/self/fd/%d", fd);
    if (linkat (AT_FDCWD, self, folder, name, AT_SYMLINK_FOLLOW) == -1)
      return -1;
  }
  return store_sync_dir (path);
}

/* What a new store has never been written to reads as zeros. */

static void
keep_touched (struct store *st)
{
  uint64_t nr;

  st->touched_shift = TOUCHED_SHIFT;
  while (st->size >> st->touched_shift >= TOUCHED_BITS)
    st->touched_shift++;
  nr = (st->size >> st->touched_shift) + 1;
  /* Without it there is more to read. */
  st->touched = calloc (1, nr / 8 + 1);
}

static void
touch (struct store *st, uint64_t count, uint64_t offset)
{
  if (!st->touched || count == 0)
    return;
  for (uint64_t i = offset >> st->touched_shift;
       i <= (offset + count - 1) >> st->touched_shift; i++)
    if (!(__atomic_load_n (&st->touched[i / 8], __ATOMIC_RELAXED)
          & 1u << i % 8))
      __atomic_fetch_or (&st->touched[i / 8], (uint8_t)(1u << i % 8),
                         __ATOMIC_SEQ_CST);
}

/* Where what was never written at offset ends, at most end; offset itself if it
 * was, or that is not known. */
static uint64_t
untouched_end (struct store *st, uint64_t offset, uint64_t end)
{
  while (st->touched && offset < end) {
    uint64_t i = offset >> st->touched_shift;

    if (__atomic_load_n (&st->touched[i / 8], __ATOMIC_SEQ_CST) & 1u << i % 8)
      return offset;
    offset = (i + 1) << st->touched_shift;
  }
  return min_u64 (offset, end);
}

struct store *
store_create (const char *path, uint64_t size, char **error)
{
  struct store *st = store_alloc (path, false, error);
  int err;

  if (!st)
    return NULL;
  st->fd = store_tmpfile (path, 0600, &st->temp);
  if (st->fd == -1) {
    message_set (error, "cannot make the store %s: %m", path);
    goto fail;
  }
  if (store_lock_fd (st->fd, false) == -1
      || ftruncate (st->fd, (off_t)size) == -1 || fsync (st->fd) == -1) {
    message_set (
        error, "cannot make the store %s of %llu bytes: %m%s", path,
        (unsigned long long)size,
        errno == EFBIG ? "; its file system cannot hold so large a file" : "");
    goto fail;
  }
  if (describe (st, error) == 0) {
    if (!st->able.tells_holes)
      keep_touched (st);
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
  if (store_link_fd (st->fd, st->path, &st->temp) == 0)
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

static int
reopen (int fd, int flags)
{
  char self[64];

  snprintf (self, sizeof self, "/proc/self/fd/%d", fd);
  return open (self, flags | O_CLOEXEC);
}

int
store_reopen_fd (int fd)
{
  return reopen (fd, O_RDWR);
}

int
store_reopen_read (int fd)
{
  return reopen (fd, O_RDONLY);
}

void
store_unlock_fd (int fd)
{
  struct flock fl = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

  fcntl (fd, F_OFD_SETLK, &fl);
}

void
store_unlock (struct store *st)
{
  store_unlock_fd (st->fd);
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
  /* Where there are no attributes the inode and the name have to do. */
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
  free (st->touched);
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
  char *p = buf;

  while (count > 0) {
    ssize_t r = pread (st->fd, p, count, (off_t)offset);

    if (r == -1) {
      if (errno == EINTR)
        continue;
      return -1;
    }
    if (r == 0) {
      /* Somebody has cut the file under us. */
      errno = EIO;
      return -1;
    }
    p += r;
    offset += (uint64_t)r;
    count -= (uint64_t)r;
  }
  return 0;
}

int
store_sync_fd (int fd)
{
  int r;

  do
    r = fdatasync (fd);
  while (r == -1 && errno == EINTR);
  return r;
}

int
store_write_fd (int fd, const void *buf, uint64_t count, uint64_t offset,
                int flags)
{
  const char *p = buf;

  while (count > 0) {
    struct iovec iov = { .iov_base = (void *)p, .iov_len = count };
    ssize_t r = flags ? pwritev2 (fd, &iov, 1, (off_t)offset, flags)
                      : pwrite (fd, p, count, (off_t)offset);

    if (r == -1) {
      if (errno == EINTR)
        continue;
      return -1;
    }
    p += r;
    offset += (uint64_t)r;
    count -= (uint64_t)r;
  }
  return 0;
}

int
store_pwrite (struct store *st, const void *buf, uint64_t count,
              uint64_t offset)
{
  touch (st, count, offset);
  return store_write_fd (st->fd, buf, count, offset, 0);
}

int
store_pwrite_dsync (struct store *st, const void *buf, uint64_t count,
                    uint64_t offset)
{
  if (st->dsync_fd < 0 || ability_is_missing (&st->able, ABILITY_DSYNC))
    return 1;
  if (store_write_fd (st->dsync_fd, buf, count, offset, RWF_DSYNC) == 0) {
    ability_note (&st->able, ABILITY_DSYNC, 0);
    return 0;
  }
  /* It is the second write of these bytes, and may need room of its own; or an
   * earlier write had none.  Of that this description is still to be told. */
  if (errno == ENOSPC || errno == EDQUOT || errno == ENOMEM)
    return store_sync_fd (st->fd);
  return ability_note (&st->able, ABILITY_DSYNC, errno) ? 1 : -1;
}

static int
write_zeros (struct store *st, uint64_t count, uint64_t offset)
{
  static const char zeros[4096];
  CLEANUP_FREE char *big = NULL;
  const char *buf = zeros;
  uint64_t size = sizeof zeros;

  if (count > sizeof zeros) {
    big = calloc (1, ZEROS_SIZE);
    if (big) {
      buf = big;
      size = ZEROS_SIZE;
    }
  }
  while (count > 0) {
    uint64_t n = min_u64 (count, size);

    if (store_pwrite (st, buf, n, offset) == -1)
      return -1;
    offset += n;
    count -= n;
  }
  return 0;
}

/* 0; 1: it is to be done in another way; -1. */
static int
try_fallocate (struct store *st, enum ability what, int mode, uint64_t count,
               uint64_t offset)
{
  int r;

  if (ability_is_missing (&st->able, what))
    return 1;
  do
    r = fallocate (st->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                   (off_t)count);
  while (r == -1 && errno == EINTR);
  return ability_note (&st->able, what, r == -1 ? errno : 0) ? 1 : r;
}

static int
try_punch (struct store *st, uint64_t count, uint64_t offset)
{
  return try_fallocate (st, ABILITY_PUNCH, FALLOC_FL_PUNCH_HOLE, count, offset);
}

static int
try_zeroout (struct store *st, uint64_t count, uint64_t offset)
{
  uint64_t range[2] = { offset, count };
  int r;

  if (!st->is_block || ability_is_missing (&st->able, ABILITY_ZEROOUT))
    return 1;
  r = ioctl (st->fd, BLKZEROOUT, range);
  return ability_note (&st->able, ABILITY_ZEROOUT, r == -1 ? errno : 0) ? 1 : r;
}

/* Allocated zeros, aligned. */
static int
zero_blocks (struct store *st, uint64_t count, uint64_t offset)
{
  int r = try_fallocate (st, ABILITY_ZERO_RANGE, FALLOC_FL_ZERO_RANGE, count,
                         offset);

  /* Plain fallocate leaves what is there as it is: only after a punch. */
  if (r == 1 && !st->is_block
      && !ability_is_missing (&st->able, ABILITY_ALLOCATE)) {
    r = try_punch (st, count, offset);
    if (r == 0)
      r = try_fallocate (st, ABILITY_ALLOCATE, 0, count, offset);
  }
  if (r == 1)
    r = try_zeroout (st, count, offset);
  return r == 1 ? write_zeros (st, count, offset) : r;
}

/* Read the range, and call for each run of blocks of it that is all zeros, or
 * for each that is not. */
static int
each_run (struct store *st, uint64_t count, uint64_t offset, bool of_zeros,
          int (*call) (struct store *st, uint64_t count, uint64_t offset))
{
  const uint64_t block = max_u64 (BLOCK, st->block_size);
  CLEANUP_FREE char *buf = malloc (ZEROS_SIZE);
  uint64_t end = offset + count, stop;

  if (!buf) {
    errno = ENOMEM;
    return -1;
  }
  for (; offset < end; offset = stop) {
    uint64_t run = offset, next;
    bool readable;

    stop = untouched_end (st, offset, end);
    if (!of_zeros && stop > offset)
      continue;
    stop = min_u64 (round_down (offset, ZEROS_SIZE) + ZEROS_SIZE, end);
    readable = store_pread (st, buf, stop - offset, offset) == 0;
    if (!readable && of_zeros)
      return -1;
    for (uint64_t at = offset; at < stop; at = next) {
      /* What cannot be read is not zeros, and may be mended by a write. */
      bool zeros;

      next = min_u64 (round_down (at, block) + block, stop);
      zeros = readable && is_all_zero (buf + (at - offset), next - at);
      if (zeros == of_zeros && next < stop)
        continue;
      if (zeros != of_zeros && run < at && call (st, at - run, run) == -1)
        return -1;
      if (zeros == of_zeros && call (st, next - run, run) == -1)
        return -1;
      run = next;
    }
  }
  return 0;
}

/* Less than a block, or around its edge.  Zeros in a hole stay one. */
static int
zero_part (struct store *st, uint64_t count, uint64_t offset)
{
  return st->is_block ? write_zeros (st, count, offset)
                      : each_run (st, count, offset, false, write_zeros);
}

int
store_zero (struct store *st, uint64_t count, uint64_t offset, bool punch)
{
  uint64_t end = offset + count;
  uint64_t first = round_up (offset, st->block_size);
  uint64_t last = round_down (end, st->block_size);
  int r;

  if (first >= last)
    return zero_part (st, count, offset);
  if (first > offset && zero_part (st, first - offset, offset) == -1)
    return -1;
  if (end > last && zero_part (st, end - last, last) == -1)
    return -1;
  if (!punch)
    return zero_blocks (st, last - first, first);
  r = try_punch (st, last - first, first);
  return r == 1 ? each_run (st, last - first, first, false, zero_blocks) : r;
}

int
store_clear (struct store *st, uint64_t count, uint64_t offset, bool full)
{
  uint64_t at = offset, end = offset + count;

  if (!st->able.tells_holes)
    return store_zero (st, count, offset, !full);
  while (at < end) {
    uint64_t start, stop;

    if (store_next_data (st, at, end, &start, &stop) == -1)
      return -1;
    if (start < stop && store_zero (st, stop - start, start, !full) == -1)
      return -1;
    at = max_u64 (start, stop);
  }
  return full ? store_preallocate (st, count, offset) : 0;
}

bool
store_zero_is_slow (struct store *st)
{
  return st->is_block || ability_is_missing (&st->able, ABILITY_PUNCH);
}

bool
store_fast_zero (struct store *st, uint64_t count, uint64_t offset, bool punch)
{
  if (st->is_block)
    return false;
  if (count == 0 || offset > UINT64_MAX - count)
    return false;
  return ability_is_there (&st->able,
                           punch ? ABILITY_PUNCH : ABILITY_ZERO_RANGE);
}

bool
store_preallocate_is_slow (struct store *st)
{
  return !st->is_block && ability_is_missing (&st->able, ABILITY_ALLOCATE);
}

int
store_preallocate (struct store *st, uint64_t count, uint64_t offset)
{
  uint64_t end = offset + count;
  int r;

  if (st->is_block)
    return 0;
  r = try_fallocate (st, ABILITY_ALLOCATE, 0, count, offset);
  if (r != 1)
    return r;
  /* What reads as zeros is written as zeros, which changes nothing, be it a
   * hole or not. */
  while (offset < end) {
    uint64_t start = end, stop = end;

    if (st->able.tells_holes
        && store_next_data (st, offset, end, &start, &stop) == -1)
      return -1;
    if (start > offset
        && each_run (st, start - offset, offset, true, write_zeros) == -1)
      return -1;
    offset = max_u64 (start, stop);
  }
  return 0;
}

/* 0: it cannot tell, so all counts as data; or it was cut under us. */
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
    *start = untouched_end (st, offset, end);
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
  /* Some servers sync, or tell of, only what came through the same
   * description. */
  if (st->able.is_remote && st->sync_fd != st->fd
      && store_sync_fd (st->fd) == -1)
    return -1;
  return store_sync_fd (st->sync_fd);
}

uid_t
store_owner (const struct store *st)
{
  struct stat sb;

  return fstat (st->fd, &sb) == 0 ? sb.st_uid : st->uid;
}
