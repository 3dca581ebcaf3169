/* source-pool.c - the I/O threads of the source.
 *
 * A thread is a libev loop that owns connections (source-conn.c) of any
 * sources.  Other threads reach it only through its list of kicked
 * connections and one ev_async; a thread that kicks a connection of its own
 * pays no system call, because the list is looked at again before it sleeps.
 *
 * The loops do not touch signals and the threads block all of them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "cleanup.h"
#include "source-internal.h"

static __thread struct io_thread *this_thread;

static struct source_conn *
next_kicked (struct io_thread *t)
{
  LOCK_SCOPE (&t->lock);
  struct source_conn *c = t->kicked;

  if (c) {
    t->kicked = c->next_kicked;
    if (!t->kicked)
      t->kicked_end = &t->kicked;
    c->kicked = false;
  }
  return c;
}

/* Callbacks may kick more without end: what has piled up when this begins is
 * enough for one turn of the loop. */
static void
look_at_kicked (struct io_thread *t)
{
  struct source_conn *c;
  unsigned n = 0;
  bool more;

  {
    LOCK_SCOPE (&t->lock);
    for (c = t->kicked; c; c = c->next_kicked)
      n++;
  }
  while (n-- > 0 && (c = next_kicked (t)))
    conn_look (c);
  {
    LOCK_SCOPE (&t->lock);
    more = t->kicked != NULL;
  }
  if (more)
    ev_async_send (t->loop, &t->wake);
}

static void
woken (struct ev_loop *loop, ev_async *w, int revents)
{
  struct io_thread *t = w->data;
  bool quit;

  (void)loop;
  (void)revents;
  {
    LOCK_SCOPE (&t->lock);
    quit = t->quit;
  }
  if (quit)
    ev_break (t->loop, EVBREAK_ALL);
}

static void
before_sleep (struct ev_loop *loop, ev_prepare *w, int revents)
{
  (void)loop;
  (void)revents;
  look_at_kicked (w->data);
}

static void *
serve (void *arg)
{
  struct io_thread *t = arg;

  this_thread = t;
  ev_run (t->loop, 0);
  return NULL;
}

void
conn_kick (struct source_conn *c)
{
  struct io_thread *t = c->thread;

  {
    LOCK_SCOPE (&t->lock);
    if (c->kicked || c->stopped)
      return;
    c->kicked = true;
    c->next_kicked = NULL;
    *t->kicked_end = c;
    t->kicked_end = &c->next_kicked;
  }
  if (t != this_thread)
    ev_async_send (t->loop, &t->wake);
}

static int
thread_start (struct io_thread *t)
{
  sigset_t all, old;
  int err;

  t->kicked_end = &t->kicked;
  t->loop = ev_loop_new (EVFLAG_AUTO | EVFLAG_NOSIGMASK);
  if (!t->loop) {
    errno = ENOMEM;
    return -1;
  }
  err = pthread_mutex_init (&t->lock, NULL);
  if (err == 0) {
    ev_async_init (&t->wake, woken);
    t->wake.data = t;
    ev_async_start (t->loop, &t->wake);
    ev_prepare_init (&t->before_sleep, before_sleep);
    t->before_sleep.data = t;
    ev_prepare_start (t->loop, &t->before_sleep);
    sigfillset (&all);
    pthread_sigmask (SIG_SETMASK, &all, &old);
    err = pthread_create (&t->tid, NULL, serve, t);
    pthread_sigmask (SIG_SETMASK, &old, NULL);
    if (err)
      pthread_mutex_destroy (&t->lock);
  }
  if (err) {
    ev_loop_destroy (t->loop);
    errno = err;
    return -1;
  }
  return 0;
}

static void
thread_stop (struct io_thread *t)
{
  {
    LOCK_SCOPE (&t->lock);
    t->quit = true;
  }
  ev_async_send (t->loop, &t->wake);
  pthread_join (t->tid, NULL);
  ev_loop_destroy (t->loop);
  pthread_mutex_destroy (&t->lock);
}

struct io_pool *
io_pool_new (unsigned nr_threads)
{
  struct io_pool *pool;

  if (nr_threads == 0)
    nr_threads = 2;
  pool = calloc (1, sizeof *pool + nr_threads * sizeof pool->thread[0]);
  if (!pool)
    return NULL;
  for (pool->nr = 0; pool->nr < nr_threads; pool->nr++)
    if (thread_start (&pool->thread[pool->nr]) == -1) {
      int err = errno;

      io_pool_free (pool);
      errno = err;
      return NULL;
    }
  return pool;
}

void
io_pool_free (struct io_pool *pool)
{
  if (!pool)
    return;
  /* The first thread last: its end ends the commands that it started. */
  while (pool->nr > 0)
    thread_stop (&pool->thread[--pool->nr]);
  free (pool);
}
