/* export.h - what a client can open: NAME is a disk, NAME/map its allocation
 * map (data = local, hole = absent, reads as zeros, never fetches).
 *
 * The exports of a disk are made once: so a handle that nbdkit never closes
 * leaks nothing.
 *
 * Threads: made before there are connections, then only read.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_EXPORT_H
#define BACKFILL_EXPORT_H

#include <stdbool.h>
#include <stddef.h>

#include "disk.h"

struct nbdkit_exports;

/* What a connection opens: its handle. */
struct export
{
  struct disk *disk;
  bool map;
  bool read_only;
};

/* Room for the exports of max disks, of which `disks` (borrowed) will have
 * some.  -1 with errno. */
int exports_make (const struct disks *disks, size_t max)
    __attribute__ ((nonnull (1)));
/* Make the exports of disk number i. */
void exports_add (size_t i);
void exports_free (void);

/* Nbdkit's callbacks. */
void *export_open (int readonly);
int export_list (int readonly, int is_tls, struct nbdkit_exports *list);
const char *export_default (int readonly, int is_tls);

#endif
