/* picture.c - a part of a disk as cells of equal size, for pictures of any
 * kind.
 *
 * The server does not tell where a job stands, and that is not guessed: it is
 * the first absent byte of the job's range, which the map shows.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdint.h>
#include <string.h>

#include "cli.h"

/* Boundaries by 128-bit arithmetic: exact for any disk. */
static uint64_t
cell_start (const struct picture *picture, size_t i, size_t n)
{
  return picture->start
         + (uint64_t)((unsigned __int128)(picture->end - picture->start) * i
                      / n);
}

size_t
picture_cell (const struct picture *picture, uint64_t offset, size_t n)
{
  size_t i = (size_t)((unsigned __int128)(offset - picture->start) * n
                      / (picture->end - picture->start));

  if (i >= n)
    i = n - 1;
  while (i > 0 && cell_start (picture, i, n) > offset)
    i--;
  while (i + 1 < n && cell_start (picture, i + 1, n) <= offset)
    i++;
  return i;
}

void
picture_cells (const struct picture *picture, struct cell *cells, size_t n)
{
  memset (cells, 0, n * sizeof *cells);
  for (size_t r = 0; r < picture->nregions; r++) {
    uint64_t offset = picture->regions[r].offset;
    uint64_t end = offset + picture->regions[r].length;

    offset = offset < picture->start ? picture->start : offset;
    end = end > picture->end ? picture->end : end;
    if (offset >= end)
      continue;
    for (size_t i = picture_cell (picture, offset, n); offset < end; i++) {
      uint64_t stop = i + 1 < n ? cell_start (picture, i + 1, n) : picture->end;

      stop = stop > end ? end : stop;
      cells[i].bytes[picture->regions[r].state] += stop - offset;
      offset = stop;
    }
  }
}

void
picture_init (struct picture *picture, const struct backfill_disk_info *disk,
              uint64_t offset, uint64_t length,
              const struct backfill_state_region *regions, unsigned n)
{
  const struct backfill_job_info *job = &disk->job;

  memset (picture, 0, sizeof *picture);
  picture->disk = disk;
  picture->regions = regions;
  picture->nregions = n;
  picture->start = offset < disk->size ? offset : disk->size;
  picture->end = length == 0 || length > disk->size - picture->start
                     ? disk->size
                     : picture->start + length;
  picture->has_job
      = job->type == BACKFILL_JOB_BOUNDED && job->range_offset < disk->size;
  if (!picture->has_job)
    return;
  picture->job_start = job->range_offset;
  picture->job_end
      = job->range_length == 0
                || job->range_length > disk->size - job->range_offset
            ? disk->size
            : job->range_offset + job->range_length;
  picture->job_next = picture->job_end;
  for (unsigned i = 0; i < n; i++)
    if (regions[i].state == BACKFILL_ABSENT
        && regions[i].offset < picture->job_end
        && regions[i].offset + regions[i].length > picture->job_start) {
      picture->job_next = regions[i].offset > picture->job_start
                              ? regions[i].offset
                              : picture->job_start;
      break;
    }
}
