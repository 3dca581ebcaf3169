/* calls.c - the public calls: find the disk, do it, give it back.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "find.h"

void
found_free (struct found *found)
{
  backfill_close (found->h);
  free (found->uri);
  free (found->disk);
  memset (found, 0, sizeof *found);
}
#define CLEANUP_FOUND __attribute__ ((cleanup (found_free)))

static int
job_info (const struct found *found, virDomainJobInfoPtr info)
{
  struct backfill_job_info job = { .struct_size = sizeof job };

  memset (info, 0, sizeof *info);
  if (backfill_block_get_job_info (found->h, found->disk, &job) == -1)
    return -1;
  switch (job.type) {
  case BACKFILL_JOB_BOUNDED:
    info->type = VIR_DOMAIN_JOB_BOUNDED;
    info->timeRemaining = job.time_remaining;
    break;
  case BACKFILL_JOB_COMPLETED:
    info->type = VIR_DOMAIN_JOB_COMPLETED;
    break;
  case BACKFILL_JOB_FAILED:
    info->type = VIR_DOMAIN_JOB_FAILED;
    break;
  case BACKFILL_JOB_CANCELLED:
    info->type = VIR_DOMAIN_JOB_CANCELLED;
    break;
  default:
    return 0; /* VIR_DOMAIN_JOB_NONE */
  }
  info->timeElapsed = job.time_elapsed;
  info->dataTotal = info->fileTotal = job.data_total;
  info->dataProcessed = info->fileProcessed = job.data_processed;
  info->dataRemaining = info->fileRemaining = job.data_remaining;
  return 0;
}

static int
check_pointer (const void *pointer, const char *what)
{
  return pointer != NULL ? 0 : find_error (EINVAL, "%s is NULL", what);
}

/* --- domains ---------------------------------------------------------- */

static int
find_path (virDomainPtr domain, const char *path, struct found *found)
{
  if (check_pointer (path, "path") == -1)
    return -1;
  return find_domain_disk (domain, path, found);
}

static int
domain_result (virDomainPtr domain, const char *path, int r)
{
  if (r == -1)
    find_error_of ("disk '%s' of domain '%s'", path, virDomainGetName (domain));
  return r;
}

int
backfill_virDomainBlockAllocate (virDomainPtr domain, const char *path,
                                 unsigned long long offset,
                                 unsigned long long length, unsigned int flags)
{
  CLEANUP_FOUND struct found found = { 0 };

  if (find_path (domain, path, &found) == -1)
    return -1;
  return domain_result (
      domain, path,
      backfill_block_allocate (found.h, found.disk, offset, length, flags));
}

int
backfill_virDomainBlockGetJobInfo (virDomainPtr domain, const char *path,
                                   virDomainJobInfoPtr info)
{
  CLEANUP_FOUND struct found found = { 0 };

  if (check_pointer (info, "info") == -1
      || find_path (domain, path, &found) == -1)
    return -1;
  return domain_result (domain, path, job_info (&found, info));
}

int
backfill_virDomainBlockAbortJob (virDomainPtr domain, const char *path)
{
  CLEANUP_FOUND struct found found = { 0 };

  if (find_path (domain, path, &found) == -1)
    return -1;
  return domain_result (domain, path,
                        backfill_block_abort_job (found.h, found.disk));
}

int
backfill_virDomainBlockGetAllocationMap (virDomainPtr domain, const char *path,
                                         unsigned int *nregions,
                                         struct backfill_region **regions)
{
  CLEANUP_FOUND struct found found = { 0 };

  if (check_pointer (nregions, "nregions") == -1
      || check_pointer (regions, "regions") == -1
      || find_path (domain, path, &found) == -1)
    return -1;
  return domain_result (domain, path,
                        backfill_block_get_allocation_map (found.h, found.disk,
                                                           nregions, regions));
}

/* --- volumes ---------------------------------------------------------- */

static int
volume_result (virStorageVolPtr volume, int r)
{
  if (r == -1)
    find_error_of ("volume '%s'", virStorageVolGetName (volume));
  return r;
}

int
backfill_virStorageVolAllocate (virStorageVolPtr volume,
                                unsigned long long offset,
                                unsigned long long length, unsigned int flags)
{
  CLEANUP_FOUND struct found found = { 0 };

  if (find_volume (volume, &found) == -1)
    return -1;
  return volume_result (
      volume,
      backfill_block_allocate (found.h, found.disk, offset, length, flags));
}

int
backfill_virStorageVolGetJobInfo (virStorageVolPtr volume,
                                  virDomainJobInfoPtr info)
{
  CLEANUP_FOUND struct found found = { 0 };

  if (check_pointer (info, "info") == -1 || find_volume (volume, &found) == -1)
    return -1;
  return volume_result (volume, job_info (&found, info));
}

int
backfill_virStorageVolAbortJob (virStorageVolPtr volume)
{
  CLEANUP_FOUND struct found found = { 0 };

  if (find_volume (volume, &found) == -1)
    return -1;
  return volume_result (volume, backfill_block_abort_job (found.h, found.disk));
}

int
backfill_virStorageVolGetAllocationMap (virStorageVolPtr volume,
                                        unsigned int *nregions,
                                        struct backfill_region **regions)
{
  CLEANUP_FOUND struct found found = { 0 };

  if (check_pointer (nregions, "nregions") == -1
      || check_pointer (regions, "regions") == -1
      || find_volume (volume, &found) == -1)
    return -1;
  return volume_result (volume, backfill_block_get_allocation_map (
                                    found.h, found.disk, nregions, regions));
}

/* --- which disk ------------------------------------------------------- */

static int
give (int r, struct found *found, char **uri, char **disk)
{
  if (r == -1)
    return -1;
  *uri = found->uri;
  *disk = found->disk;
  found->uri = found->disk = NULL;
  return 0;
}

int
backfill_virDomainFindDisk (virDomainPtr domain, const char *path, char **uri,
                            char **disk)
{
  CLEANUP_FOUND struct found found = { 0 };

  if (check_pointer (uri, "uri") == -1 || check_pointer (disk, "disk") == -1)
    return -1;
  return give (find_path (domain, path, &found), &found, uri, disk);
}

int
backfill_virStorageVolFindDisk (virStorageVolPtr volume, char **uri,
                                char **disk)
{
  CLEANUP_FOUND struct found found = { 0 };

  if (check_pointer (uri, "uri") == -1 || check_pointer (disk, "disk") == -1)
    return -1;
  return give (find_volume (volume, &found), &found, uri, disk);
}
