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
  sigset_t all, old;
  int err;

  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  err = pthread_create (thread, NULL, fn, arg);
  pthread_sigmask (SIG_SETMASK, &old, NULL);
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
