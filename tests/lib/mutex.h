/* mutex.h - MUTEX_SCOPE (&mutex): a plain mutex of a test program, held to the
 * end of the block.  Those of the product have ranks (common/lock.h).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_TESTS_MUTEX_H
#define BACKFILL_TESTS_MUTEX_H

#include <pthread.h>

static inline pthread_mutex_t *
mutex_scope_take (pthread_mutex_t *mutex)
{
  pthread_mutex_lock (mutex);
  return mutex;
}

static inline void
mutex_scope_drop (pthread_mutex_t **mutex)
{
  pthread_mutex_unlock (*mutex);
}

#define MUTEX_NAME2(a, b) a##b
#define MUTEX_NAME(a, b) MUTEX_NAME2 (a, b)
#define MUTEX_SCOPE(m)                                                   \
  __attribute__ ((cleanup (mutex_scope_drop), unused)) pthread_mutex_t * \
  MUTEX_NAME (mutex_scope_, __LINE__)                                    \
      = mutex_scope_take (m)

#endif
