/* sidecar-map.c - S, the stable map, in sealed sectors.
 *
 * A sector is 512 bytes, which a disk writes whole or not at all: a torn write
 * of S leaves each of its sectors old or new.  The seal tells a sector that is
 * damaged, misplaced, or of another volume: its granules then count as absent.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "cleanup.h"
#include "crc32c.h"
#include "sidecar-internal.h"

/* Sectors that one system call reads or writes. */
#define BATCH 16u
/* Sectors that one system call writes of an empty S. */
#define CREATE_BATCH 2048u

uint32_t
sidecar_nr_sectors (const struct sidecar *sc)
{
  return (uint32_t)sidecar_header_nr_sectors (&sc->h);
}

static void
seal_sector (const struct sidecar *sc, uint32_t index, const uint64_t *words,
             uint8_t *sector)
{
  for (unsigned i = 0; i < SIDECAR_WORDS; i++)
    put_le64 (sector + 8 * i, words[i]);
  memcpy (sector + 496, sc->h.uuid, 8);
  put_le32 (sector + 504, index);
  put_le32 (sector + 508, crc32c (sector, 508));
}

static bool
sector_is_sealed (const struct sidecar *sc, uint32_t index,
                  const uint8_t *sector)
{
  return memcmp (sector + 496, sc->h.uuid, 8) == 0
         && get_le32 (sector + 504) == index
         && get_le32 (sector + 508) == crc32c (sector, 508);
}

int
sidecar_read_map (struct sidecar *sc, uint32_t index, unsigned count,
                  uint64_t *words, bool *bad)
{
  uint8_t buf[BATCH * SIDECAR_SECTOR];

  while (count > 0) {
    unsigned n = count < BATCH ? count : BATCH;

    if (sidecar_pread (sc, buf, n * SIDECAR_SECTOR,
                       sc->h.map_offset + (uint64_t)index * SIDECAR_SECTOR)
        == -1)
      return -1;
    for (unsigned i = 0; i < n; i++) {
      const uint8_t *sector = buf + i * SIDECAR_SECTOR;

      bad[i] = !sector_is_sealed (sc, index + i, sector);
      for (unsigned w = 0; w < SIDECAR_WORDS; w++)
        words[i * SIDECAR_WORDS + w] = get_le64 (sector + 8 * w);
    }
    index += n;
    count -= n;
    words += n * SIDECAR_WORDS;
    bad += n;
  }
  return 0;
}

int
sidecar_write_map (struct sidecar *sc, uint32_t index, unsigned count,
                   const uint64_t *words)
{
  uint8_t buf[BATCH * SIDECAR_SECTOR];

  while (count > 0) {
    unsigned n = count < BATCH ? count : BATCH;

    for (unsigned i = 0; i < n; i++)
      seal_sector (sc, index + i, words + i * SIDECAR_WORDS,
                   buf + i * SIDECAR_SECTOR);
    if (file_write (sc->fd, buf, n * SIDECAR_SECTOR,
                    sc->h.map_offset + (uint64_t)index * SIDECAR_SECTOR, 0)
        == -1)
      return -1;
    index += n;
    count -= n;
    words += n * SIDECAR_WORDS;
  }
  return 0;
}

int
sidecar_write_empty_map (struct sidecar *sc)
{
  const uint32_t nr = sidecar_nr_sectors (sc);
  static const uint64_t none[SIDECAR_WORDS];
  CLEANUP_FREE uint8_t *buf = malloc (CREATE_BATCH * SIDECAR_SECTOR);

  if (!buf)
    return -1;
  for (uint32_t index = 0; index < nr; index += CREATE_BATCH) {
    uint32_t n = nr - index < CREATE_BATCH ? nr - index : CREATE_BATCH;
    uint64_t at = sc->h.map_offset + (uint64_t)index * SIDECAR_SECTOR;

    for (uint32_t i = 0; i < n; i++)
      seal_sector (sc, index + i, none, buf + i * SIDECAR_SECTOR);
    if (file_write (sc->fd, buf, n * SIDECAR_SECTOR, at, 0) == -1)
      return -1;
    /* Write-back starts now, so that the sync at the end is short. */
    sync_file_range (sc->fd, (off_t)at, n * SIDECAR_SECTOR,
                     SYNC_FILE_RANGE_WRITE);
  }
  return 0;
}
