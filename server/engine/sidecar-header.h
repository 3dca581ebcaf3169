/* sidecar-header.h - the header of the durable metadata file, in memory and in
 * bytes.
 *
 * The bytes are one copy of the header, SIDECAR_HEADER_SIZE long: fixed fields,
 * areas of the file, then records of {id, length, bytes}; a CRC-32C ends them
 * (docs/backfill-format.pod is the full text).  sidecar.c reads and writes the
 * two copies.
 *
 * Ownership: the header owns its strings; sidecar_header_clear frees them.
 * Locking: none; the caller keeps others out.
 * Errors: -1 with errno; sidecar_header_unpack says what to do, too.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SIDECAR_HEADER_H
#define BACKFILL_SIDECAR_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "role.h"

#define SIDECAR_MAGIC "BKFILL\r\n"
#define SIDECAR_VERSION 1u
#define SIDECAR_HEADER_SIZE 16384u
#define SIDECAR_JOB_OFFSET 32768u
#define SIDECAR_JOB_SIZE 4096u
#define SIDECAR_COUNT_OFFSET 40960u
#define SIDECAR_COUNT_SIZE 4096u
#define SIDECAR_MAP_OFFSET 65536u
#define SIDECAR_SECTOR 512u
#define SIDECAR_BITS 3968u /* granules in a sector */
#define SIDECAR_WORDS 62u  /* 64-bit words of bits in a sector */
/* Largest disk: the map's index in memory stays under 1 GiB of address
 * space, and offsets within off_t. */
#define SIDECAR_MAX_SIZE(granule)                                         \
  ((UINT64_C (1) << 27) * SIDECAR_BITS * (granule) < (UINT64_C (1) << 62) \
       ? (UINT64_C (1) << 27) * SIDECAR_BITS * (granule)                  \
       : (UINT64_C (1) << 62))
#define SIDECAR_UUID_SIZE 16
#define SIDECAR_NONCE_SIZE 16
#define SIDECAR_BOOT_ID_SIZE 16
#define SIDECAR_DIGEST_SIZE 32

/* header.state */
#define SIDECAR_CREATING 1u /* the store may not be there yet */
#define SIDECAR_COMPLETE 2u /* everything is local: S is not used */
#define SIDECAR_DETACHED 4u /* to be unlinked at the next clean close */

enum sidecar_identity_mode {
  SIDECAR_IDENTITY_NONE,
  SIDECAR_IDENTITY_CONTENT,
  SIDECAR_IDENTITY_SIZE,
};

/* The header in memory.  Strings are malloc'd, NULL if not recorded. */
struct sidecar_header {
  uint8_t uuid[SIDECAR_UUID_SIZE];
  uint64_t sequence;
  uint64_t size;    /* of the disk */
  uint32_t granule; /* bytes */
  uint32_t state;
  uint64_t store_ino, store_btime;
  uint32_t identity_mode;
  uint64_t identity_size;
  uint8_t identity_digest[SIDECAR_DIGEST_SIZE];
  uint64_t session;                  /* number of the latest */
  uint8_t nonce[SIDECAR_NONCE_SIZE]; /* the session's secret; all zero: not
                                        recorded */
  bool session_open;
  uint32_t session_pid;
  uint8_t boot_id[SIDECAR_BOOT_ID_SIZE];
  uint32_t session_user; /* the user who made its W; 0: root, or not recorded */
  uint64_t map_offset, map_length;     /* S; length 0: none */
  uint64_t job_offset, job_length;     /* job record; length 0: none */
  uint64_t count_offset, count_length; /* the session's count; the same */
  /* settings that a restart with only STORE takes up again; 0 = default */
  uint64_t timeout, retry;
  uint32_t fetch_unit, connections;
  char *name, *backing, *work, *control;
  char *store;       /* its path when it was last opened */
  char *command_dir; /* where backing's command runs */
  struct role role;  /* in a migration; ROLE_NONE: in none */
};

/* Pack *h into SIDECAR_HEADER_SIZE bytes.  ENAMETOOLONG if its strings do not
 * fit. */
int sidecar_header_pack (const struct sidecar_header *h, uint8_t *buf)
    __attribute__ ((nonnull (1, 2)));

/* True if the copy's magic, length and CRC are right.  Only such a copy may be
 * given to the functions below. */
bool sidecar_header_is_whole (const uint8_t *buf) __attribute__ ((nonnull (1)));
uint64_t sidecar_header_sequence (const uint8_t *buf)
    __attribute__ ((nonnull (1)));

/* Unpack a whole copy into *h, which is all zeros.  file_size: of the sidecar
 * under path; every area is within it.  -1 with EINVAL and *error, and *h is
 * cleared: this program cannot use the header, or the header makes no sense. */
int sidecar_header_unpack (const uint8_t *buf, uint64_t file_size,
                           const char *path, struct sidecar_header *h,
                           char **error) __attribute__ ((nonnull (1, 3, 4, 5)));

/* True if no area overlaps the header's copies or another area. */
bool sidecar_header_areas_are_apart (const struct sidecar_header *h)
    __attribute__ ((nonnull (1)));

/* How many sectors S has for h's size and granule. */
uint64_t sidecar_header_nr_sectors (const struct sidecar_header *h)
    __attribute__ ((nonnull (1)));

/* Copy *from, strings too, to *to, which holds nothing.  The caller clears *to,
 * also after a failure. */
int sidecar_header_copy (struct sidecar_header *to,
                         const struct sidecar_header *from)
    __attribute__ ((nonnull (1, 2)));
void sidecar_header_clear (struct sidecar_header *h)
    __attribute__ ((nonnull (1)));
/* Set a string of the header to a copy of value; NULL clears it. */
int sidecar_set (char **field, const char *value) __attribute__ ((nonnull (1)));

#endif
