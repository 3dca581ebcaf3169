/* thread.h - threads and conditions as all of us make them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_THREAD_H
#define BACKFILL_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* A condition that times out on CLOCK_MONOTONIC. */
void cond_init (pthread_cond_t *cond);
/* A thread with all signals blocked: they are the program's.  0, or -1 with
 * errno. */
int thread_start (pthread_t *thread, void *(*fn) (void *), void *arg);
/* With so many bytes of stack (0: the default); detached if thread is NULL. */
int thread_start_stack (pthread_t *thread, size_t stack, void *(*fn) (void *),
                        void *arg);
/* The calling thread's work is for nobody who waits: where processors are
 * scarce, guests' threads and the control socket's go first. */
void thread_in_background (void);

#endif
