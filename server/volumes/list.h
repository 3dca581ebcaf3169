/* list.h - the volumes that a peer may see: open ones, and those of the
 * ledger that are closed.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_LIST_H
#define BACKFILL_VOLUMES_LIST_H

#include "control.h"

/* control_volumes.list; opaque is the struct volumes.  Takes vs->lock. */
int list_volumes (void *opaque, const struct control_peer *peer,
                  struct disks *disks, struct disk_peek **closed, size_t *nr)
    __attribute__ ((nonnull (1, 2, 3)));

#endif
