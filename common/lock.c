/* lock.c - what each thread holds, in a debug build.  See lock.h.
 *
 * Each thread has a small stack of what it holds.  It is the thread's own: no
 * lock guards it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>

#include "lock.h"

#define LOCK_RANK_TEXT(name, text) text,
static const char *const names[] = { LOCK_RANKS (LOCK_RANK_TEXT) };

const char *
lock_rank_name (enum lock_rank rank)
{
  return names[rank];
}

void
lock_init (struct lock *lock, enum lock_rank rank)
{
  if (pthread_mutex_init (&lock->mutex, NULL) != 0)
    abort ();
#ifdef LOCK_DEBUG
  lock->rank = rank;
#else
  (void)rank;
#endif
}

void
lock_destroy (struct lock *lock)
{
  pthread_mutex_destroy (&lock->mutex);
}

#ifdef LOCK_DEBUG

#define MAX_HELD 32u

static __thread struct {
  const void *what;
  enum lock_rank rank;
} held[MAX_HELD];
static __thread unsigned nr_held;

void
lock_order_push (const void *what, enum lock_rank rank)
{
  if (nr_held == MAX_HELD) {
    fprintf (stderr, "lock order: more than %u locks held\n", MAX_HELD);
    abort ();
  }
  held[nr_held].what = what;
  held[nr_held++].rank = rank;
}

void
lock_order_enter (const void *what, enum lock_rank rank)
{
  for (unsigned i = 0; i < nr_held; i++)
    if (held[i].rank >= rank) {
      fprintf (stderr, "lock order: '%s' is taken while '%s' is held\n",
               names[rank], names[held[i].rank]);
      abort ();
    }
  lock_order_push (what, rank);
}

void
lock_order_leave (const void *what)
{
  unsigned i = nr_held;

  while (i > 0 && held[i - 1].what != what)
    i--;
  if (i == 0) {
    fprintf (stderr, "lock order: given back, but not held\n");
    abort ();
  }
  for (nr_held--; i <= nr_held; i++)
    held[i - 1] = held[i];
}

void
lock_assert_held (const struct lock *lock, const char *file, int line)
{
  for (unsigned i = 0; i < nr_held; i++)
    if (held[i].what == lock)
      return;
  fprintf (stderr, "%s:%d: '%s' is not held\n", file, line, names[lock->rank]);
  abort ();
}
#endif
