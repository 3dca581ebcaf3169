/* crew.h - threads for what may never return: a path that is looked at, a
 * volume that is opened or closed, a file that is synced.  If the store's file
 * system hangs, one thread is stuck, and nobody else.
 *
 * There are as many threads as there are tasks at a time: the caller bounds
 * the number of tasks.
 *
 * Locking: crew->lock, which no thread holds while a task runs.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CREW_H
#define BACKFILL_CREW_H

#include <stdbool.h>

struct crew;

/* NULL on ENOMEM. */
struct crew *crew_new (void);

/* Have task (arg) run soon, on a thread of the crew, with all signals blocked.
 * -1 with errno if there is no thread to be had: it is not run. */
int crew_run (struct crew *crew, void (*task) (void *arg), void *arg)
    __attribute__ ((nonnull (1, 2)));

/* Wait for the tasks to end, and free the crew.  False: one does not end within
 * ms, and nothing is freed.  No task may be given any more.  NULL is fine. */
bool crew_free (struct crew *crew, unsigned ms);

#endif
