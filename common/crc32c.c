/* crc32c.c - CRC-32C by table, or by the processor's instruction.
 *
 * A scan of a large sidecar checks half a million seals, so the instruction
 * pays; the table serves every other machine.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <pthread.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"

static uint32_t table[256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void
make_table (void)
{
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;

    for (int k = 0; k < 8; k++)
      c = c & 1 ? UINT32_C (0x82f63b78) ^ (c >> 1) : c >> 1;
    table[i] = c;
  }
}

uint32_t
crc32c_table (const void *buf, size_t len)
{
  const uint8_t *p = buf;
  uint32_t c = ~UINT32_C (0);

  pthread_once (&table_once, make_table);
  while (len--)
    c = table[(c ^ *p++) & 0xff] ^ (c >> 8);
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
#endif

uint32_t
crc32c (const void *buf, size_t len)
{
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports ("sse4.2"))
    return crc32c_sse42 (buf, len);
#endif
  return crc32c_table (buf, len);
}
