/* ordercheck.c - data before bits, checked in lossyfs's log.
 *
 *   ordercheck LOG STORE SIDECAR GRANULE GOLDEN
 *
 * Reads the log that `lossyfs -l LOG -x SIDECAR` wrote.  It keeps which
 * sectors of the store are not durable, and the bits of the stable map as
 * they were written.  Whenever a write to the sidecar sets a bit, nothing of
 * that granule that was written before may still be volatile (invariant I1):
 * an fsync of the store that began after it must have ended.  At the end of
 * the log (or at each "mark synced") no write of the map may be without an
 * fsync of the sidecar.
 *
 * A granule that is overwritten after its bit was set is not looked at: its
 * bit is durable, and any mixture of old and new is permitted.  One that is
 * rewritten between the fsync and the bit (allowed: the bit vouches for the
 * older bytes) shows as volatile and must not be reported, so what counts is
 * the granule's first volatile write.  For the same reason a granule that is
 * zero in GOLDEN, the backing store's image, is not reported: it may have been
 * local as a hole, which needs no write, before the guest wrote there.
 *
 * Exit code: 0 in order, 1 not, 2 wrong usage or no bit seen at all.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar.h"

struct granule {
  bool bit;
  bool durable_once; /* some content since it was first written is durable */
  uint64_t first;    /* number of the log line of its first write, 0: none */
};

static struct granule *granules;
static uint64_t nr_granules;
static uint64_t granule_size;
static const char *store, *sidecar;
static FILE *golden;
static uint64_t line_nr, bits_seen, violations;
static uint64_t unsynced_map; /* the line of such a write, 0: none */

/* fsyncs in progress: where each began. */
static uint64_t begun[64];
static unsigned nr_begun;

/* A granule of the golden image is all zero. */
static bool
golden_zero (uint64_t g)
{
  static char buf[65536];

  if (fseeko (golden, (off_t)(g * granule_size), SEEK_SET) != 0)
    return false;
  for (size_t i = 0, n = fread (buf, 1, granule_size, golden); i < n; i++)
    if (buf[i])
      return false;
  return true;
}

static struct granule *
get (uint64_t g)
{
  if (g >= nr_granules) {
    uint64_t n = g + g / 2 + 64;

    granules = realloc (granules, n * sizeof *granules);
    if (!granules) {
      fprintf (stderr, "ordercheck: out of memory\n");
      exit (2);
    }
    memset (granules + nr_granules, 0, (n - nr_granules) * sizeof *granules);
    nr_granules = n;
  }
  return &granules[g];
}

static void
store_written (uint64_t offset, uint64_t length)
{
  if (length == 0)
    return;
  for (uint64_t g = offset / granule_size;
       g <= (offset + length - 1) / granule_size; g++) {
    struct granule *gr = get (g);

    if (gr->first == 0)
      gr->first = line_nr;
  }
}

/* All that was written before this line is durable now. */
static void
store_synced (uint64_t before)
{
  for (uint64_t g = 0; g < nr_granules; g++)
    if (granules[g].first && granules[g].first < before)
      granules[g].durable_once = true;
}

static void
map_written (uint64_t offset, const char *hex)
{
  size_t n = strlen (hex) / 2;

  for (size_t i = 0; i < n; i++) {
    uint64_t at = offset + i, in_sector;
    unsigned byte;

    if (at < SIDECAR_MAP_OFFSET || sscanf (hex + 2 * i, "%2x", &byte) != 1)
      continue;
    at -= SIDECAR_MAP_OFFSET;
    in_sector = at % SIDECAR_SECTOR;
    if (in_sector >= SIDECAR_BITS / 8)
      continue;
    for (unsigned b = 0; b < 8; b++) {
      uint64_t g = at / SIDECAR_SECTOR * SIDECAR_BITS + in_sector * 8 + b;
      struct granule *gr;

      if (!(byte >> b & 1))
        continue;
      gr = get (g);
      if (gr->bit)
        continue;
      gr->bit = true;
      bits_seen++;
      if (gr->first && !gr->durable_once && !golden_zero (g)
          && ++violations <= 20)
        fprintf (stderr,
                 "ordercheck: line %" PRIu64 ": the bit of granule %" PRIu64
                 " (offset %" PRIu64 ") is written, but its data of line "
                 "%" PRIu64 " was not synced\n",
                 line_nr, g, g * granule_size, gr->first);
    }
  }
}

static void
must_be_synced (const char *when)
{
  if (!unsynced_map)
    return;
  violations++;
  fprintf (stderr,
           "ordercheck: line %" PRIu64 ": %s, but the map of line %" PRIu64
           " was not synced\n",
           line_nr, when, unsynced_map);
}

int
main (int argc, char *argv[])
{
  char *line = NULL;
  size_t cap = 0;
  FILE *fp;

  if (argc != 6 || (granule_size = strtoull (argv[4], NULL, 10)) == 0
      || granule_size > 65536 || !(golden = fopen (argv[5], "r"))
      || !(fp = fopen (argv[1], "r"))) {
    fprintf (stderr, "usage: ordercheck LOG STORE SIDECAR GRANULE GOLDEN\n");
    return 2;
  }
  store = argv[2];
  sidecar = argv[3];

  while (getline (&line, &cap, fp) != -1) {
    char what[32], name[256];
    uint64_t offset, length;
    int err, hex_at = 0;

    line_nr++;
    line[strcspn (line, "\n")] = '\0';
    if (line[0] == '#')
      continue;
    if (sscanf (line, "%*s %*s %31s %255s %" SCNu64 " %" SCNu64 " %d %n", what,
                name, &offset, &length, &err, &hex_at)
        < 5)
      continue;
    if (strcmp (what, "mark") == 0 && strcmp (name, "synced") == 0)
      must_be_synced ("the flush was answered");
    if (err)
      continue;
    if (strcmp (name, store) == 0) {
      if (strcmp (what, "write") == 0 || strcmp (what, "punch") == 0
          || strcmp (what, "zero-range") == 0)
        store_written (offset, length);
      else if (strcmp (what, "fsync-begin") == 0 && nr_begun < 64)
        begun[nr_begun++] = line_nr;
      else if (strcmp (what, "fsync") == 0 && nr_begun) {
        /* Which of several in progress this is the log does not say: the
         * oldest is the cautious guess. */
        store_synced (begun[0]);
        memmove (begun, begun + 1, --nr_begun * sizeof begun[0]);
      }
    }
    else if (strcmp (name, sidecar) == 0) {
      if (strcmp (what, "write") == 0) {
        if (offset + length > SIDECAR_MAP_OFFSET)
          unsynced_map = line_nr;
        if (hex_at && line[hex_at])
          map_written (offset, line + hex_at);
      }
      else if (strcmp (what, "fsync") == 0)
        unsynced_map = 0;
    }
  }
  must_be_synced ("the log has ended");
  free (line);
  fclose (fp);
  if (violations) {
    fprintf (stderr, "ordercheck: %" PRIu64 " violations\n", violations);
    return 1;
  }
  if (bits_seen == 0) {
    fprintf (stderr, "ordercheck: no bit of the map was ever written\n");
    return 2;
  }
  printf ("ordercheck: %" PRIu64 " bits in order\n", bits_seen);
  return 0;
}
