/* close.h - closing a volume, on a thread of the crew.
 *
 * Locking: the caller of each function holds vs->lock.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_CLOSE_H
#define BACKFILL_VOLUMES_CLOSE_H

#include "volumes/internal.h"

/* Begin to close an open volume: it is VOLUME_CLOSING until a crew thread has
 * committed it and taken it out of the table.  -1 with errno: there is no
 * thread, and the volume is as it was. */
int close_start (struct volumes *vs, struct volume *v)
    __attribute__ ((nonnull (1, 2)));

/* Give back what v->refs counted.  The last one closes a volume that is
 * leaving. */
void close_put (struct volumes *vs, struct volume *v)
    __attribute__ ((nonnull (1, 2)));

#endif
