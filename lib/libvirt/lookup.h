/* lookup.h - how backfill(1) asks libbackfill-libvirt for a disk.
 *
 * The command does not link libvirt.  When it is asked for a domain or a volume
 * it loads this library, and finds this one function there.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_LOOKUP_H
#define BACKFILL_LOOKUP_H

#define LOOKUP_LIBRARY "libbackfill-libvirt.so.0"
#define LOOKUP_FUNCTION "backfill_private_lookup"

/* As people name them, and virsh takes them. */
struct lookup {
  const char *connect; /* URI, NULL: libvirt's default */
  const char *domain;  /* name, UUID or id; NULL: a volume is meant */
  const char *path;    /* of the domain's disk; NULL: the only one there is */
  const char *pool;    /* name or UUID; NULL: volume is a key or a path */
  const char *volume;  /* name, key or path */
};

/* 0 and *uri (may be NULL), *disk as backfill_virDomainFindDisk; or -1. */
typedef int (*lookup_fn) (const struct lookup *lookup, char **uri, char **disk);
int backfill_private_lookup (const struct lookup *lookup, char **uri,
                             char **disk) __attribute__ ((nonnull (1, 2, 3)));

#endif
