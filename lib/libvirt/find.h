/* find.h - the inside of libbackfill-libvirt: from what libvirt has to a
 * handle of libbackfill and a disk's name.
 *
 * error    this thread's error, through libbackfill
 * host     is the hypervisor this machine?
 * domain   a disk of a running domain: its XML, parsed with libxml2
 * volume   a storage volume: its path
 * calls    the public calls
 * lookup   for backfill(1), by names
 *
 * Nothing is kept between calls: domains, their disks and the disks' servers
 * come and go.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_FIND_H
#define BACKFILL_FIND_H

#include "backfill-libvirt.h"

/* error.c: all return -1. */

int find_error (int errnum, const char *fmt, ...)
    __attribute__ ((format (printf, 2, 3), nonnull (2)));
int find_nomem (void);
/* libbackfill's last error, of that thing. */
int find_error_of (const char *fmt, ...)
    __attribute__ ((format (printf, 1, 2), nonnull (1)));
/* libvirt's last error, of that thing; libvirt keeps its own, too. */
int find_error_libvirt (const char *fmt, ...)
    __attribute__ ((format (printf, 1, 2), nonnull (1)));

/* host.c */

/* To be called before any call of libvirt: a caller who has only NULL for a
 * domain may have made none, and libvirt that is not initialized aborts where
 * it should complain. */
void host_initialize (void);

/* 0, or -1 with EREMOTE when the connection's hypervisor is on another
 * machine. */
int host_check (virConnectPtr conn);

struct found {
  struct backfill *h;
  char *uri;  /* what h was connected with, may be NULL */
  char *disk; /* h's name for it */
};
void found_free (struct found *found) __attribute__ ((nonnull (1)));

/* domain.c.  path NULL: the only disk that is served by backfill. */
int find_domain_disk (virDomainPtr domain, const char *path,
                      struct found *found) __attribute__ ((nonnull (3)));

/* volume.c */
int find_volume (virStorageVolPtr volume, struct found *found)
    __attribute__ ((nonnull (2)));

#endif
