/* cleanup.h - cleanups by attribute.  Scoped locks: lock.h.
 *
 *   CLEANUP_FREE char *p = NULL;     freed at the end of the block
 *   CLEANUP_CLOSE int fd = -1;       closed at the end of the block
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CLEANUP_H
#define BACKFILL_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

static inline void
cleanup_free (void *p)
{
  free (*(void **)p);
}

static inline void
cleanup_close (int *fd)
{
  if (*fd >= 0)
    close (*fd);
}

#define CLEANUP_FREE __attribute__ ((cleanup (cleanup_free)))
#define CLEANUP_CLOSE __attribute__ ((cleanup (cleanup_close)))

/* Until who locks includes it himself. */
#include "lock.h"

#endif
