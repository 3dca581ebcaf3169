/* ability.c - what the file system under a file can do.  See ability.h.
 *
 * File systems say "I cannot do that" in many ways.  EINVAL is one of them
 * (fuse2fs), and so is EPERM (a seccomp filter), though both may also mean that
 * this one call was wrong: so these count only until the call has worked once.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "ability.h"
#include "cleanup.h"

/* Not in the kernel's headers. */
#define ZFS_MAGIC 0x2fc12fc1ul

/* No file system's cluster is larger. */
#define PIECE 65536u
#define USUAL_BLOCK 4096u
#define NR_PIECES 3u

static const struct {
  unsigned long magic;
  bool tells_holes;
} own[] = {
  /* These look at the page cache, too, when they are asked for a hole. */
  { BTRFS_SUPER_MAGIC, true },
  { EXT4_SUPER_MAGIC, true },
  { TMPFS_MAGIC, true },
  { XFS_SUPER_MAGIC, true },
  /* Has called dirty data a hole. */
  { ZFS_MAGIC, false },
  /* Answers for whatever is below it. */
  { OVERLAYFS_SUPER_MAGIC, false },
  { F2FS_SUPER_MAGIC, false },
  { RAMFS_MAGIC, false },
};

void
ability_look (struct abilities *a, int fd)
{
  struct statfs fs;

  a->tells_holes = false;
  a->is_remote = true;
  a->block = USUAL_BLOCK;
  if (fstatfs (fd, &fs) == -1)
    return;
  /* Network file systems say how much they send at once. */
  if (fs.f_bsize > (long)USUAL_BLOCK && fs.f_bsize <= (long)PIECE
      && (fs.f_bsize & (fs.f_bsize - 1)) == 0)
    a->block = (uint32_t)fs.f_bsize;
  for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
    if ((unsigned long)fs.f_type == own[i].magic) {
      a->is_remote = false;
      a->tells_holes = own[i].tells_holes;
      if (a->tells_holes)
        a->block = 1;
    }
}

static enum ability_state
get (const struct abilities *a, enum ability what)
{
  return (enum ability_state)atomic_load_explicit (&a->state[what],
                                                   memory_order_relaxed);
}

static void
set (struct abilities *a, enum ability what, enum ability_state state)
{
  atomic_store_explicit (&a->state[what], (uint8_t)state, memory_order_relaxed);
}

bool
ability_is_missing (const struct abilities *a, enum ability what)
{
  return get (a, what) == ABILITY_MISSING;
}

bool
ability_is_there (const struct abilities *a, enum ability what)
{
  enum ability_state state = get (a, what);

  return state == ABILITY_TRIED || state == ABILITY_SEEN;
}

static bool
is_unsupported (int err)
{
  return err == EOPNOTSUPP || err == ENOTSUP || err == ENOSYS || err == ENOTTY
         || err == ENODEV || err == ESPIPE;
}

bool
ability_is_lack (int err)
{
  return is_unsupported (err) || err == EINVAL || err == EPERM;
}

bool
ability_note (struct abilities *a, enum ability what, int err)
{
  /* A device may lose an ability: then there is another way.  Not for a sync
   * that has worked: whatever it says now is a failure. */
  bool is_sync = what == ABILITY_DSYNC || what == ABILITY_SYNC_RANGE;
  bool seen = get (a, what) == ABILITY_SEEN;

  if (err == 0) {
    if (!seen)
      set (a, what, ABILITY_SEEN);
    return false;
  }
  if (seen ? is_sync || !is_unsupported (err) : !ability_is_lack (err))
    return false;
  set (a, what, ABILITY_MISSING);
  return true;
}

/* Piece i of the scratch file is all that byte. */
static bool
holds (int fd, unsigned i, char byte)
{
  CLEANUP_FREE char *buf = malloc (PIECE);

  return buf && pread (fd, buf, PIECE, (off_t)i * PIECE) == (ssize_t)PIECE
         && buf[0] == byte && memcmp (buf, buf + 1, PIECE - 1) == 0;
}

static bool
fill (int fd, unsigned i)
{
  CLEANUP_FREE char *buf = malloc (PIECE);

  if (!buf)
    return false;
  memset (buf, 'x', PIECE);
  return pwrite (fd, buf, PIECE, (off_t)i * PIECE) == (ssize_t)PIECE;
}

/* The middle piece becomes, or stays, zeros, and its neighbours stay. */
static void
try_mode (struct abilities *a, enum ability what, int fd, int mode)
{
  int r;

  do
    r = fallocate (fd, mode | FALLOC_FL_KEEP_SIZE, PIECE, PIECE);
  while (r == -1 && errno == EINTR);
  if (r == 0)
    /* A file system that reports success without the effect lacks it, too. */
    set (a, what,
         holds (fd, 0, 'x') && holds (fd, 1, 0) && holds (fd, 2, 'x')
             ? ABILITY_TRIED
             : ABILITY_MISSING);
  else if (ability_is_lack (errno))
    set (a, what, ABILITY_MISSING);
  /* After any other error, such as no room, it stays unknown. */
}

void
ability_try (struct abilities *a, int fd)
{
  if (ftruncate (fd, NR_PIECES * PIECE) == -1 || !fill (fd, 0) || !fill (fd, 2))
    return;
  try_mode (a, ABILITY_ALLOCATE, fd, 0);
  if (!fill (fd, 1))
    return;
  try_mode (a, ABILITY_PUNCH, fd, FALLOC_FL_PUNCH_HOLE);
  if (fill (fd, 1))
    try_mode (a, ABILITY_ZERO_RANGE, fd, FALLOC_FL_ZERO_RANGE);
}
