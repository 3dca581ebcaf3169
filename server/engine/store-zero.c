/* store-zero.c - zeros and allocation in the store.
 *
 * Zeroing goes down a ladder of what the file system has (ability.h): a hole is
 * punched; allocated zeros are a zeroed range, a hole that is then allocated,
 * BLKZEROOUT, or are written.  Where holes cannot be punched, blocks that read
 * as zeros are left alone, so that a thin store stays thin.  A block device is
 * never assumed to read as zeros.  fallocate is asked for whole blocks only;
 * the edges of a range are written.
 *
 * Locking: none; the caller keeps others out of a range that is zeroed.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "bytes.h"
#include "cleanup.h"
#include "store.h"

/* Bytes that one call writes of zeros, or reads of the store to find them. */
#define ZEROS_SIZE (1u << 20)
/* The least size of the blocks that are told to be zeros or data. */
#define BLOCK 4096u

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

/* 0; 1: this store cannot, the caller takes another way; -1 with errno. */
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

/* Make allocated zeros of an aligned range. */
static int
zero_blocks (struct store *st, uint64_t count, uint64_t offset)
{
  int r = try_fallocate (st, ABILITY_ZERO_RANGE, FALLOC_FL_ZERO_RANGE, count,
                         offset);

  /* Plain fallocate leaves data as it is, so a punch comes first. */
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

/* Read the range, and call `call` for each run of blocks that are all zeros
 * (of_zeros), or for each run of blocks that are not. */
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

    stop = touched_next (&st->touched, offset, end);
    if (!of_zeros && stop > offset)
      continue;
    stop = min_u64 (round_down (offset, ZEROS_SIZE) + ZEROS_SIZE, end);
    readable = store_pread (st, buf, stop - offset, offset) == 0;
    if (!readable && of_zeros)
      return -1;
    for (uint64_t at = offset; at < stop; at = next) {
      /* A block that cannot be read does not count as zeros; a write may mend
       * it. */
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

/* Zero less than a block, or a block's edge.  A hole stays a hole. */
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
  /* Blocks that read as zeros are written as zeros: that allocates a hole, and
   * changes no byte. */
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
