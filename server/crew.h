/* crew.h - threads for what may never return: a path that is looked at, a
 * volume that is opened or closed, a file that is synced.  Where the store's
 * file system hangs one thread is stuck, and nobody else.
 *
 * There are as many threads as there are tasks at a time: who gives tasks
 * bounds them.
 *
 * Locking: its own lock, which is innermost.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CREW_H
#define BACKFILL_CREW_H

#include <stdbool.h>

struct crew;

/* NULL on ENOMEM. */
struct crew *crew_new (void);

/* Run the task soon, on a thread of its own.  -1 with errno if there is no
 * thread to be had: it is not run. */
int crew_run (struct crew *crew, void (*task) (void *arg), void *arg)
    __attribute__ ((nonnull (1, 2)));

/* False, and nothing is freed, if a task does not end within ms.  None may be
 * given any more.  NULL is fine. */
bool crew_free (struct crew *crew, unsigned ms);

#endif
