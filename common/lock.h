/* lock.h - mutexes that know their place in the lock order.
 *
 * Every mutex has a rank, its row in LOCK_RANKS.  A thread takes locks in the
 * order of the rows: while it holds one, it takes only such as stand below it.
 * In builds with --enable-debug or a sanitizer each thread keeps what it holds,
 * and the process ends with both names as soon as one thread takes two locks in
 * the wrong order, although no other thread does the opposite at that moment.
 * Otherwise a struct lock is a pthread_mutex_t and these are its calls.
 *
 *   LOCK_SCOPE (&x->lock);           unlocked at the end of the block
 *   UNLOCK_SCOPE (&x->lock);         not held until the end of the block
 *   ASSERT_HELD (&x->lock);          in a function whose caller holds it
 *
 * Conditions are made by cond_init (thread.h), and waited for by lock_wait*.
 *
 * Errors: only a broken mutex fails, and nothing can go on with one: abort.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_LOCK_H
#define BACKFILL_LOCK_H

#ifndef PACKAGE_NAME
#error "config.h comes first: it says what a struct lock is (LOCK_DEBUG)"
#endif

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "clock.h"
#include "lock-ranks.h"

#define LOCK_RANK_ENUM(name, text) LOCK_##name,
enum lock_rank { LOCK_RANKS (LOCK_RANK_ENUM) LOCK_NR_RANKS };

struct lock {
  pthread_mutex_t mutex;
#ifdef LOCK_DEBUG
  enum lock_rank rank;
#endif
};

#ifdef LOCK_DEBUG
#define LOCK_INITIALIZER(name)                       \
  {                                                  \
    .mutex = PTHREAD_MUTEX_INITIALIZER, .rank = name \
  }
#else
#define LOCK_INITIALIZER(name)          \
  {                                     \
    .mutex = PTHREAD_MUTEX_INITIALIZER, \
  }
#endif

/* What stands for it in documents and messages. */
const char *lock_rank_name (enum lock_rank rank);

void lock_init (struct lock *lock, enum lock_rank rank)
    __attribute__ ((nonnull (1)));
void lock_destroy (struct lock *lock) __attribute__ ((nonnull (1)));

/* What the calling thread holds.  For what is not a mutex, but is waited for as
 * one (a claim): `what` names the instance; lock_order_enter before the
 * wait. */
#ifdef LOCK_DEBUG
void lock_order_enter (const void *what, enum lock_rank rank);
/* As that, but for what has not been waited for: in any order. */
void lock_order_push (const void *what, enum lock_rank rank);
void lock_order_leave (const void *what);
void lock_assert_held (const struct lock *lock, const char *file, int line);
#define LOCK_RANK_OF(lock) ((lock)->rank)
#define ASSERT_HELD(lock) lock_assert_held (lock, __FILE__, __LINE__)
#else
#define lock_order_enter(what, rank) ((void)(what))
#define lock_order_push(what, rank) ((void)(what))
#define lock_order_leave(what) ((void)(what))
#define ASSERT_HELD(lock) ((void)(lock))
#endif

static inline void
lock_take (struct lock *lock)
{
  lock_order_enter (lock, LOCK_RANK_OF (lock));
  if (pthread_mutex_lock (&lock->mutex) != 0)
    abort ();
}

/* False: another thread has it.  In any order, as nobody waits. */
static inline bool
lock_try (struct lock *lock)
{
  int err = pthread_mutex_trylock (&lock->mutex);

  if (err == EBUSY)
    return false;
  if (err != 0)
    abort ();
  lock_order_push (lock, LOCK_RANK_OF (lock));
  return true;
}

static inline void
lock_drop (struct lock *lock)
{
  lock_order_leave (lock);
  if (pthread_mutex_unlock (&lock->mutex) != 0)
    abort ();
}

/* Wait for cond with lock held.  A thread that waits with a lock of a later row
 * held would take this one again in the wrong order: that is found when it
 * wakes. */
static inline void
lock_wait (pthread_cond_t *cond, struct lock *lock)
{
  lock_order_leave (lock);
  if (pthread_cond_wait (cond, &lock->mutex) != 0)
    abort ();
  lock_order_enter (lock, LOCK_RANK_OF (lock));
}

/* As that, until a time of CLOCK_MONOTONIC (now_ns) at most.  False: it has
 * come. */
static inline bool
lock_wait_ns (pthread_cond_t *cond, struct lock *lock, uint64_t until)
{
  struct timespec ts = ns_to_timespec (until);
  int err;

  lock_order_leave (lock);
  err = pthread_cond_timedwait (cond, &lock->mutex, &ts);
  if (err != 0 && err != ETIMEDOUT)
    abort ();
  lock_order_enter (lock, LOCK_RANK_OF (lock));
  return err == 0;
}

/* The same in ms (now_ms). */
static inline bool
lock_wait_ms (pthread_cond_t *cond, struct lock *lock, uint64_t until)
{
  return lock_wait_ns (cond, lock, until * 1000000);
}

#define LOCK_JOIN2(a, b) a##b
#define LOCK_JOIN(a, b) LOCK_JOIN2 (a, b)

static inline struct lock *
lock_scope_take (struct lock *lock)
{
  lock_take (lock);
  return lock;
}

static inline void
lock_scope_drop (struct lock **lock)
{
  lock_drop (*lock);
}

static inline struct lock *
lock_unscope_drop (struct lock *lock)
{
  lock_drop (lock);
  return lock;
}

static inline void
lock_unscope_take (struct lock **lock)
{
  lock_take (*lock);
}

#define LOCK_SCOPE(l)                                                          \
  __attribute__ ((cleanup (lock_scope_drop), unused)) struct lock *LOCK_JOIN ( \
      lock_scope_, __LINE__)                                                   \
      = lock_scope_take (l)

#define UNLOCK_SCOPE(l)                                               \
  __attribute__ ((cleanup (lock_unscope_take), unused)) struct lock * \
  LOCK_JOIN (unlock_scope_, __LINE__)                                 \
      = lock_unscope_drop (l)

#endif
