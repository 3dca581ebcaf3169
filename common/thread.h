/* thread.h - threads and conditions as the engine makes them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_THREAD_H
#define BACKFILL_THREAD_H

#include <pthread.h>

/* A condition that times out on CLOCK_MONOTONIC. */
void cond_init (pthread_cond_t *cond);
/* A thread with all signals blocked; 0, or -1 with errno. */
int thread_start (pthread_t *thread, void *(*fn) (void *), void *arg);
/* The calling thread's work is for nobody who waits: where processors are
 * scarce, guests' threads and the control socket's go first. */
void thread_in_background (void);

#endif
