/* crc32c.c - CRC-32C by table, or by the processor's instruction.
 *
 * A scan of a large sidecar checks half a million seals, and what the guest
 * writes is summed, so the instruction pays.  It takes three cycles, but one
 * can be begun in each: four sums that do not need one another cost little
 * more than one.  The tables serve every other machine, eight bytes at a time.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <pthread.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"

static uint32_t table[8][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void
make_table (void)
{
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;

    for (int k = 0; k < 8; k++)
      c = c & 1 ? UINT32_C (0x82f63b78) ^ (c >> 1) : c >> 1;
    table[0][i] = c;
  }
  for (unsigned t = 1; t < 8; t++)
    for (uint32_t i = 0; i < 256; i++)
      table[t][i] = table[0][table[t - 1][i] & 0xff] ^ (table[t - 1][i] >> 8);
}

uint32_t
crc32c_table (const void *buf, size_t len)
{
  const uint8_t *p = buf;
  uint32_t c = ~UINT32_C (0);

  pthread_once (&table_once, make_table);
  for (; len >= 8; len -= 8, p += 8) {
    uint64_t v = get_le64 (p) ^ c;

    c = 0;
    for (unsigned i = 0; i < 8; i++)
      c ^= table[7 - i][v >> (8 * i) & 0xff];
  }
  while (len--)
    c = table[0][(c ^ *p++) & 0xff] ^ (c >> 8);
  return ~c;
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__ ((target ("sse4.2"))) static uint32_t
crc32c_sse42 (const void *buf, size_t len)
{
  const uint8_t *p = buf;
  uint64_t c = UINT32_C (0xffffffff);

  for (; len >= 8; len -= 8, p += 8)
    c = __builtin_ia32_crc32di (c, get_le64 (p));
  for (; len > 0; len--, p++)
    c = __builtin_ia32_crc32qi ((uint32_t)c, *p);
  return ~(uint32_t)c;
}

/* The first `len` bytes of each of four pieces, a multiple of 8. */
__attribute__ ((target ("sse4.2"))) static void
four_sse42 (const uint8_t *p, size_t len, uint32_t sum[4])
{
  uint64_t c0 = UINT32_MAX, c1 = c0, c2 = c0, c3 = c0;

  for (size_t i = 0; i < len; i += 8) {
    c0 = __builtin_ia32_crc32di (c0, get_le64 (p + i));
    c1 = __builtin_ia32_crc32di (c1, get_le64 (p + len + i));
    c2 = __builtin_ia32_crc32di (c2, get_le64 (p + 2 * len + i));
    c3 = __builtin_ia32_crc32di (c3, get_le64 (p + 3 * len + i));
  }
  sum[0] = ~(uint32_t)c0;
  sum[1] = ~(uint32_t)c1;
  sum[2] = ~(uint32_t)c2;
  sum[3] = ~(uint32_t)c3;
}
#endif

static void
four_table (const uint8_t *p, size_t len, uint32_t sum[4])
{
  for (unsigned i = 0; i < 4; i++)
    sum[i] = crc32c_table (p + i * len, len);
}

static uint32_t
of_pieces (const void *buf, size_t len,
           void (*four) (const uint8_t *, size_t, uint32_t[4]))
{
  const uint8_t *p = buf;
  size_t piece = len / 32 * 8, rest = len - 4 * piece;
  uint32_t sum[4];
  uint8_t all[16 + 32];

  four (p, piece, sum);
  for (unsigned i = 0; i < 4; i++)
    put_le32 (all + 4 * i, sum[i]);
  memcpy (all + 16, p + 4 * piece, rest);
  return crc32c (all, 16 + rest);
}

uint32_t
crc32c_pieces_table (const void *buf, size_t len)
{
  return of_pieces (buf, len, four_table);
}

uint32_t
crc32c_pieces (const void *buf, size_t len)
{
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports ("sse4.2"))
    return of_pieces (buf, len, four_sse42);
#endif
  return of_pieces (buf, len, four_table);
}

uint32_t
crc32c (const void *buf, size_t len)
{
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports ("sse4.2"))
    return crc32c_sse42 (buf, len);
#endif
  return crc32c_table (buf, len);
}
