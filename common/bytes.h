/* bytes.h - rounding and little-endian fields.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_BYTES_H
#define BACKFILL_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* unit is a power of two. */
static inline uint64_t
round_down (uint64_t n, uint64_t unit)
{
  return n & ~(unit - 1);
}

static inline uint64_t
round_up (uint64_t n, uint64_t unit)
{
  return (n + unit - 1) & ~(unit - 1);
}

static inline uint64_t
min_u64 (uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

static inline uint64_t
max_u64 (uint64_t a, uint64_t b)
{
  return a > b ? a : b;
}

static inline bool
is_power_of_2 (uint64_t n)
{
  return n && !(n & (n - 1));
}

static inline bool
is_all_zero (const char *p, uint64_t len)
{
  uint64_t first;

  if (len < 16)
    return len == 0 || (p[0] == 0 && memcmp (p, p + 1, len - 1) == 0);
  /* Most data says so in its first bytes.  They may lie at any address. */
  memcpy (&first, p, 8);
  return first == 0 && memcmp (p, p + 8, len - 8) == 0;
}

static inline void
put_le32 (uint8_t *p, uint32_t v)
{
  v = htole32 (v);
  memcpy (p, &v, 4);
}

static inline void
put_le64 (uint8_t *p, uint64_t v)
{
  v = htole64 (v);
  memcpy (p, &v, 8);
}

static inline uint32_t
get_le32 (const uint8_t *p)
{
  uint32_t v;
  memcpy (&v, p, 4);
  return le32toh (v);
}

static inline uint64_t
get_le64 (const uint8_t *p)
{
  uint64_t v;
  memcpy (&v, p, 8);
  return le64toh (v);
}

#endif
