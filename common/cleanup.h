/* cleanup.h - scoped locks and cleanups by attribute.
 *
 *   LOCK_SCOPE (&mutex);             unlocked at the end of the block
 *   CLEANUP_FREE char *p = NULL;     freed at the end of the block
 *   CLEANUP_CLOSE int fd = -1;       closed at the end of the block
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CLEANUP_H
#define BACKFILL_CLEANUP_H

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP_JOIN2(a, b) a##b
#define CLEANUP_JOIN(a, b) CLEANUP_JOIN2 (a, b)

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

static inline void
cleanup_unlock (pthread_mutex_t **lock)
{
  /* Only a broken lock fails here: nothing can go on with one. */
  if (pthread_mutex_unlock (*lock) != 0)
    abort ();
}

static inline pthread_mutex_t *
cleanup_lock (pthread_mutex_t *lock)
{
  if (pthread_mutex_lock (lock) != 0)
    abort ();
  return lock;
}

#define CLEANUP_FREE __attribute__ ((cleanup (cleanup_free)))
#define CLEANUP_CLOSE __attribute__ ((cleanup (cleanup_close)))
#define LOCK_SCOPE(lock)                                               \
  __attribute__ ((cleanup (cleanup_unlock), unused)) pthread_mutex_t * \
  CLEANUP_JOIN (lock_scope_, __LINE__)                                 \
      = cleanup_lock (lock)

#endif
