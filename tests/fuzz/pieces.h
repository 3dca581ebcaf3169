/* pieces.h - a mostly empty file as a short fuzzer's input.
 *
 *   0       mode: what the fuzzer does with the file, see there
 *   1       length of the file in sectors of 512 bytes (2 bytes), then the
 *           bytes over (1 byte)
 *   4 ...   pieces: sector (2 bytes), length (2 bytes), that many bytes
 *
 * Numbers are little-endian.  What lies past the end of the file is left out,
 * as is what lies past the end of the input.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_TESTS_PIECES_H
#define BACKFILL_TESTS_PIECES_H

#include <stdlib.h>
#include <string.h>

#include "bytes.h"

#define PIECES_SECTOR 512u
#define PIECES_HEAD 4u

/* Any broken promise, in these programs. */
#define CHECK(condition) \
  do                     \
    if (!(condition))    \
      abort ();          \
  while (0)

/* Lay the pieces out in file, which has max zero bytes; returns the file's
 * length. */
static inline size_t
pieces_lay (const uint8_t *data, size_t size, uint8_t *file, size_t max)
{
  size_t length;

  if (size < PIECES_HEAD)
    return 0;
  length = (data[1] | (size_t)data[2] << 8) * PIECES_SECTOR + data[3];
  if (length > max)
    length = max;
  data += PIECES_HEAD;
  size -= PIECES_HEAD;
  while (size > 4) {
    size_t at = (data[0] | (size_t)data[1] << 8) * PIECES_SECTOR;
    size_t n = data[2] | (size_t)data[3] << 8;

    data += 4;
    size -= 4;
    if (n > size)
      n = size;
    if (at < length)
      memcpy (file + at, data, min_u64 (n, length - at));
    data += n;
    size -= n;
  }
  return length;
}

#endif
