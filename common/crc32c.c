/* crc32c.c - CRC-32C by table, or by the processor's instruction.
 *
 * A scan of a large sidecar checks half a million seals, and what the guest
 * writes is summed, so the instruction pays.  It takes three cycles, but one
 * can be begun in each: four sums that do not need one another cost little
 * more than one.  The tables serve every other machine, eight bytes at a time.
 *
 * That is eight bytes a cycle at best, a tenth of what a job that fills a disk
 * costs.  Processors with carry-less products of 512 bits do thrice as many.
 * The bytes are a polynomial, and a CRC is its remainder: so a register of 64
 * bytes stands for all bytes so far, each 64 bits of it are multiplied by what
 * moves them 64 bytes on, modulo the CRC's polynomial, and the next 64 bytes
 * are added.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <pthread.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

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

#define AVX512 __attribute__ ((target ("avx512f,vpclmulqdq,sse4.2")))

/* What moves 128 bits on by `bits`: x^(bits + 31) for their first half,
 * x^(bits - 33) for the second, modulo the polynomial and with the bits turned
 * round, as the CRC has them. */
#define MOVE_512 0x9e4addf8, 0x740eef02 /* second half, first half */
#define MOVE_384 0xddc0152b, 0x1c291d04
#define MOVE_256 0xba4fc28e, 0x3da6d0cb
#define MOVE_128 0x493c7d27, 0xf20c0dfe

AVX512 static inline __m512i
begin_avx512 (const uint8_t *p)
{
  return _mm512_xor_si512 (_mm512_loadu_si512 (p),
                           _mm512_zextsi128_si512 (_mm_cvtsi32_si128 (-1)));
}

AVX512 static inline __m512i
move_avx512 (__m512i c, __m512i by, __m512i next)
{
  /* 0x96: exclusive or of all three. */
  return _mm512_ternarylogic_epi64 (_mm512_clmulepi64_epi128 (c, by, 0x00),
                                    _mm512_clmulepi64_epi128 (c, by, 0x11),
                                    next, 0x96);
}

AVX512 static inline uint32_t
end_avx512 (__m512i c)
{
  const __m512i by = _mm512_set_epi64 (0, 0, MOVE_128, MOVE_256, MOVE_384);
  __m512i moved = move_avx512 (c, by, _mm512_setzero_si512 ());
  __m128i r = _mm512_extracti32x4_epi32 (c, 3);
  uint64_t sum;

  r = _mm_xor_si128 (r, _mm512_castsi512_si128 (moved));
  r = _mm_xor_si128 (r, _mm512_extracti32x4_epi32 (moved, 1));
  r = _mm_xor_si128 (r, _mm512_extracti32x4_epi32 (moved, 2));
  sum = __builtin_ia32_crc32di (0, (uint64_t)_mm_cvtsi128_si64 (r));
  sum = __builtin_ia32_crc32di (
      sum, (uint64_t)_mm_cvtsi128_si64 (_mm_unpackhi_epi64 (r, r)));
  return ~(uint32_t)sum;
}

/* four_sse42, for len that is a multiple of 64 and not 0. */
AVX512 static void
four_avx512 (const uint8_t *p, size_t len, uint32_t sum[4])
{
  const __m512i by = _mm512_set_epi64 (MOVE_512, MOVE_512, MOVE_512, MOVE_512);
  __m512i c0 = begin_avx512 (p), c1 = begin_avx512 (p + len);
  __m512i c2 = begin_avx512 (p + 2 * len), c3 = begin_avx512 (p + 3 * len);

  for (size_t i = 64; i < len; i += 64) {
    c0 = move_avx512 (c0, by, _mm512_loadu_si512 (p + i));
    c1 = move_avx512 (c1, by, _mm512_loadu_si512 (p + len + i));
    c2 = move_avx512 (c2, by, _mm512_loadu_si512 (p + 2 * len + i));
    c3 = move_avx512 (c3, by, _mm512_loadu_si512 (p + 3 * len + i));
  }
  sum[0] = end_avx512 (c0);
  sum[1] = end_avx512 (c1);
  sum[2] = end_avx512 (c2);
  sum[3] = end_avx512 (c3);
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

bool
crc32c_pieces_by (enum crc32c_way way, const void *buf, size_t len,
                  uint32_t *sum)
{
#if defined(__x86_64__) && defined(__GNUC__)
  switch (way) {
  case CRC32C_AVX512:
    if (!__builtin_cpu_supports ("avx512f")
        || !__builtin_cpu_supports ("vpclmulqdq"))
      return false;
    /* What the pieces of a unit are, but for the disk's last. */
    *sum = of_pieces (
        buf, len, len >= 256 && len / 32 % 8 == 0 ? four_avx512 : four_sse42);
    return true;
  case CRC32C_SSE42:
    if (!__builtin_cpu_supports ("sse4.2"))
      return false;
    *sum = of_pieces (buf, len, four_sse42);
    return true;
  case CRC32C_TABLE:
    break;
  }
#else
  if (way != CRC32C_TABLE)
    return false;
#endif
  *sum = of_pieces (buf, len, four_table);
  return true;
}

uint32_t
crc32c_pieces (const void *buf, size_t len)
{
  uint32_t sum;

  for (unsigned way = CRC32C_AVX512;
       !crc32c_pieces_by ((enum crc32c_way)way, buf, len, &sum);)
    way--;
  return sum;
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
