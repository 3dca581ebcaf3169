/* handover.h - volumes go from backfilld to this process, and back.
 *
 * A volume that backfilld has open is asked for, and one that is closed with
 * its job unfinished is offered to it.  The volume's lock alone decides who has
 * it.
 *
 * Locking: none of its own; both may wait for seconds.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_HANDOVER_H
#define BACKFILL_HANDOVER_H

#include "disk.h"

/* disk_open.  If backfilld has the volume open, it is asked to let it go.  NULL
 * with errno and *error (malloc'd). */
struct disk *handover_open (const struct disk_config *dc, char **error)
    __attribute__ ((nonnull (1, 2)));

/* After disk_gate: if the disk's job is unfinished, tell backfilld, which may
 * go on with it. */
void handover_offer (struct disk *disk) __attribute__ ((nonnull (1)));

#endif
