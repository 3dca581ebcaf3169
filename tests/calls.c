/* calls.c - the four calls of the proposal as commands, for proposal.t.
 *
 *   calls allocate DISK OFFSET LENGTH [nonblock] [sparse]
 *   calls info DISK | calls abort DISK | calls map DISK
 *
 * DISK is a store's path or a disk's name.  The exit status is 1, with the
 * call's error on standard error, when it returned -1.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <backfill.h>

static int
allocate (struct backfill *h, int argc, char **argv)
{
  unsigned flags = 0;

  for (int i = 3; i < argc; i++)
    flags |= strcmp (argv[i], "nonblock") == 0 ? BACKFILL_ALLOCATE_NONBLOCK
                                               : BACKFILL_ALLOCATE_SPARSE;
  return backfill_block_allocate (h, argv[0], strtoull (argv[1], NULL, 10),
                                  strtoull (argv[2], NULL, 10), flags);
}

static int
get_info (struct backfill *h, const char *disk)
{
  static const char *const types[]
      = { "none", "bounded", "unbounded", "completed", "failed", "cancelled" };
  struct backfill_job_info info = { .struct_size = sizeof info };

  if (backfill_block_get_job_info (h, disk, &info) == -1)
    return -1;
  printf ("type %s\n", types[info.type]);
  printf ("data total %" PRIu64 " processed %" PRIu64 " remaining %" PRIu64
          "\n",
          info.data_total, info.data_processed, info.data_remaining);
  printf ("time elapsed %s, remaining %s\n", info.time_elapsed ? "known" : "0",
          info.time_remaining ? "known" : "not known");
  if (info.data_total != info.data_processed + info.data_remaining)
    printf ("that does not add up\n");
  if (info.error[0] != '\0')
    printf ("error %s\n", info.error);
  return 0;
}

static int
get_map (struct backfill *h, const char *disk)
{
  struct backfill_region *regions;
  unsigned n;

  if (backfill_block_get_allocation_map (h, disk, &n, &regions) == -1)
    return -1;
  for (unsigned i = 0; i < n; i++)
    printf ("{%" PRIu64 ", %" PRIu64 "}\n", regions[i].offset,
            regions[i].length);
  free (regions);
  return 0;
}

int
main (int argc, char **argv)
{
  struct backfill *h = backfill_connect (NULL);
  int r;

  if (h == NULL || argc < 3)
    return 2;
  if (strcmp (argv[1], "allocate") == 0 && argc >= 5)
    r = allocate (h, argc - 2, argv + 2);
  else if (strcmp (argv[1], "info") == 0)
    r = get_info (h, argv[2]);
  else if (strcmp (argv[1], "abort") == 0)
    r = backfill_block_abort_job (h, argv[2]);
  else if (strcmp (argv[1], "map") == 0)
    r = get_map (h, argv[2]);
  else
    return 2;
  if (r == -1)
    fprintf (stderr, "-1: %s\n", backfill_get_error ());
  backfill_close (h);
  return r == 0 ? 0 : 1;
}
