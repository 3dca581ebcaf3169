/* source/pool.h - the I/O threads of the source.
 *
 * A thread is a libev loop.  What it has to look after are tasks: each belongs
 * to one thread, and is called there once for any number of kicks that came
 * before.  What a task is the pool does not know.
 *
 * Locking: each thread's lock is held over a few pointers; a task is called
 * without that lock.  Lock order: common/lock-ranks.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_POOL_H
#define BACKFILL_SOURCE_POOL_H

#include <ev.h>
#include <pthread.h>
#include <stdbool.h>

#include "lock.h"

struct io_thread;

struct io_task {
  struct io_thread *thread;
  void (*look) (struct io_task *task); /* on the thread */

  /* under thread->lock */
  struct io_task *next_kicked;
  bool kicked, stopped;
};

struct io_thread {
  pthread_t tid;
  bool background; /* no task of it carries demand */
  struct ev_loop *loop;
  ev_async wake;
  ev_prepare before_sleep;
  struct lock lock;
  /* under lock: tasks that have something to look at */
  struct io_task *kicked, **kicked_end;
  bool quit;

  /* the thread's own */
  struct lingering *lingering;
  unsigned nr_lingering;
  bool quitting;
  ev_timer last_wait;
};

struct io_pool {
  unsigned nr;
  struct io_thread thread[];
};

/* nr_threads 0: two.  NULL with errno. */
struct io_pool *io_pool_new (unsigned nr_threads);
void io_pool_free (struct io_pool *pool);

/* Make its thread look at it.  Any thread. */
void io_task_kick (struct io_task *task);
/* On its thread: take it off the thread's list for good; later kicks do
 * nothing.  Other threads may have kicked it again since it was called. */
void io_task_stop (struct io_task *task);

/* On that thread: take over a socket whose handle is closed, and close it
 * once the server has sent what it still had to answer. */
void io_thread_linger (struct io_thread *t, int fd);

#endif
