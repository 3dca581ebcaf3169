/* thread.c - threads and conditions.  See thread.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "thread.h"

/* Enough to be overtaken at once by who wakes, and to have a third of a
 * processor still that others want all of: a guest may wait for a lock that
 * such a thread holds. */
#define BACKGROUND_NICE 5

void
cond_init (pthread_cond_t *cond)
{
  pthread_condattr_t attr;

  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (cond, &attr);
  pthread_condattr_destroy (&attr);
}

int
thread_start (pthread_t *thread, void *(*fn) (void *), void *arg)
{
  return thread_start_stack (thread, 0, fn, arg);
}

int
thread_start_stack (pthread_t *thread, size_t stack, void *(*fn) (void *),
                    void *arg)
{
  pthread_attr_t attr;
  pthread_t detached;
  sigset_t all, old;
  int err;

  pthread_attr_init (&attr);
  if (stack > 0)
    pthread_attr_setstacksize (&attr, stack);
  if (thread == NULL)
    pthread_attr_setdetachstate (&attr, PTHREAD_CREATE_DETACHED);
  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  err = pthread_create (thread ? thread : &detached, &attr, fn, arg);
  pthread_sigmask (SIG_SETMASK, &old, NULL);
  pthread_attr_destroy (&attr);
  if (err == 0)
    return 0;
  errno = err;
  return -1;
}

void
thread_in_background (void)
{
  /* Of this thread only, on Linux.  It goes without, too. */
  if (nice (BACKGROUND_NICE) == -1)
    errno = 0;
}
