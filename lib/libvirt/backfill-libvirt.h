/* backfill-libvirt.h - libbackfill's calls, for libvirt's domains and volumes.
 *
 * Eight calls in the manner of libvirt's own: four about a disk of a running
 * domain, and the same four about a storage volume.  They ask libvirt which
 * disk is meant, and libbackfill to do it; libvirt itself is not changed.
 *
 * path      of a domain's disk: its target ("vda"), the name of its source
 *           as the domain's XML has it, or the path of its store.
 * returns   0, or -1: then backfill_get_errno and backfill_get_error say why,
 *           for this thread.  If it was libvirt that failed its message is in
 *           that text, and virGetLastError has it too.
 * where     on the host of the hypervisor only: the control sockets are there.
 *           With a remote connection every call fails with EREMOTE.
 * jobs      belong to the disk's server: a caller that dies ends none.
 * threads   as libvirt's and libbackfill's: any call from any thread.
 *
 * backfill-libvirt(7) says how a domain's disk is found, and what a domain
 * needs for it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_LIBVIRT_H
#define BACKFILL_LIBVIRT_H

#include <backfill.h>
#include <libvirt/libvirt.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Make [offset, offset + length) of the disk local; length 0 = to the end.
 * flags: BACKFILL_ALLOCATE_NONBLOCK, returns once the copy has started; else
 * it returns when the range is local, or fails with the job's error.
 * BACKFILL_ALLOCATE_SPARSE, zeros may stay holes; else all of the range is
 * allocated in the store. */
int backfill_virDomainBlockAllocate (virDomainPtr domain, const char *path,
                                     unsigned long long offset,
                                     unsigned long long length,
                                     unsigned int flags);
int backfill_virStorageVolAllocate (virStorageVolPtr volume,
                                    unsigned long long offset,
                                    unsigned long long length,
                                    unsigned int flags);

/* The job in progress, or the last that ended, by libvirt's rules: type is
 * NONE, BOUNDED, COMPLETED, FAILED or CANCELLED; dataTotal = dataProcessed +
 * dataRemaining always, and the same in file*; mem* is 0; timeRemaining is
 * given for BOUNDED only, 0 where it is not known. */
int backfill_virDomainBlockGetJobInfo (virDomainPtr domain, const char *path,
                                       virDomainJobInfoPtr info);
int backfill_virStorageVolGetJobInfo (virStorageVolPtr volume,
                                      virDomainJobInfoPtr info);

/* Returns when nothing more will be written for the job. */
int backfill_virDomainBlockAbortJob (virDomainPtr domain, const char *path);
int backfill_virStorageVolAbortJob (virStorageVolPtr volume);

/* The local regions in order, with free().  *regions is NULL when there are
 * none. */
int backfill_virDomainBlockGetAllocationMap (virDomainPtr domain,
                                             const char *path,
                                             unsigned int *nregions,
                                             struct backfill_region **regions);
int backfill_virStorageVolGetAllocationMap (virStorageVolPtr volume,
                                            unsigned int *nregions,
                                            struct backfill_region **regions);

/* For all that libbackfill can do more: which disk is meant.  *uri is for
 * backfill_connect (NULL for a volume: libbackfill finds the owner), *disk for
 * its calls; both with free(). */
int backfill_virDomainFindDisk (virDomainPtr domain, const char *path,
                                char **uri, char **disk);
int backfill_virStorageVolFindDisk (virStorageVolPtr volume, char **uri,
                                    char **disk);

#ifdef __cplusplus
}
#endif

#endif
