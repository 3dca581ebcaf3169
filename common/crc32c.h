/* crc32c.h - CRC-32C (Castagnoli, RFC 3720), the seal of sidecar sectors.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CRC32C_H
#define BACKFILL_CRC32C_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

uint32_t crc32c (const void *buf, size_t len) __attribute__ ((nonnull (1)));

/* The portable one, for the test that both agree. */
uint32_t crc32c_table (const void *buf, size_t len)
    __attribute__ ((nonnull (1)));

/* A sum of another kind, several times as quick: the CRC of the CRCs (4 bytes
 * each, little-endian) of four pieces of len / 32 * 8 bytes, and of the rest.
 */
uint32_t crc32c_pieces (const void *buf, size_t len)
    __attribute__ ((nonnull (1)));
/* The same in one of several ways, for the test that all agree.  False: this
 * processor has not got it. */
enum crc32c_way { CRC32C_TABLE, CRC32C_SSE42, CRC32C_AVX512 };
bool crc32c_pieces_by (enum crc32c_way way, const void *buf, size_t len,
                       uint32_t *sum) __attribute__ ((nonnull (2, 4)));

#endif
