/* source/pool.c - the I/O threads of the source.
 *
 * A thread is a libev loop that owns tasks (connections of any sources).  Other
 * threads reach it only through its list of kicked tasks and one ev_async; a
 * thread that kicks a task of its own pays no system call, because the list is
 * looked at again before it sleeps.
 *
 * Sockets of closed connections linger here: a server that finds its client
 * gone while it still answers has a hard time, and nbdkit 1.32 may even end
 * with a failed assertion, for all its clients.  So the server is told that
 * no more requests come, and what it sends is read and dropped, until it
 * closes its side or a minute has passed.
 *
 * The loops do not touch signals and the threads block all of them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cleanup.h"
#include "source/pool.h"
#include "thread.h"

#define LINGER_TIME 60.   /* seconds */
#define LINGER_AT_END 0.5 /* of the thread */
#define LINGER_MOST 64
#define LINGER_CHUNK 65536

struct lingering {
  struct lingering *next, **prev;
  struct io_thread *thread;
  ev_io io;
  ev_timer timer;
};

static __thread struct io_thread *this_thread;

static void
linger_end (struct lingering *l)
{
  struct io_thread *t = l->thread;

  ev_io_stop (t->loop, &l->io);
  ev_timer_stop (t->loop, &l->timer);
  close (l->io.fd);
  *l->prev = l->next;
  if (l->next)
    l->next->prev = l->prev;
  free (l);
  if (--t->nr_lingering == 0 && t->quitting)
    ev_break (t->loop, EVBREAK_ALL);
}

static void
linger_readable (struct ev_loop *loop, ev_io *w, int revents)
{
  char dropped[LINGER_CHUNK];
  ssize_t n = recv (w->fd, dropped, sizeof dropped, MSG_DONTWAIT);

  (void)loop;
  (void)revents;
  if (n == 0 || (n == -1 && errno != EAGAIN && errno != EINTR))
    linger_end (w->data);
}

static void
linger_timed_out (struct ev_loop *loop, ev_timer *w, int revents)
{
  (void)loop;
  (void)revents;
  linger_end (w->data);
}

void
io_thread_linger (struct io_thread *t, int fd)
{
  struct lingering *l
      = t->nr_lingering < LINGER_MOST ? calloc (1, sizeof *l) : NULL;

  if (!l || shutdown (fd, SHUT_WR) == -1) {
    free (l);
    close (fd);
    return;
  }
  l->thread = t;
  l->next = t->lingering;
  l->prev = &t->lingering;
  if (l->next)
    l->next->prev = &l->next;
  t->lingering = l;
  t->nr_lingering++;
  ev_io_init (&l->io, linger_readable, fd, EV_READ);
  l->io.data = l;
  ev_io_start (t->loop, &l->io);
  ev_timer_init (&l->timer, linger_timed_out, LINGER_TIME, 0.);
  l->timer.data = l;
  ev_timer_start (t->loop, &l->timer);
}

static struct io_task *
next_kicked (struct io_thread *t)
{
  LOCK_SCOPE (&t->lock);
  struct io_task *task = t->kicked;

  if (task) {
    t->kicked = task->next_kicked;
    if (!t->kicked)
      t->kicked_end = &t->kicked;
    task->kicked = false;
  }
  return task;
}

/* Handle only what is queued now: tasks may kick more without end, and the
 * loop's I/O must get its turn. */
static void
look_at_kicked (struct io_thread *t)
{
  struct io_task *task;
  unsigned n = 0;
  bool more;

  {
    LOCK_SCOPE (&t->lock);
    for (task = t->kicked; task; task = task->next_kicked)
      n++;
  }
  while (n-- > 0 && (task = next_kicked (t)))
    task->look (task);
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
  if (!quit || t->quitting)
    return;
  t->quitting = true;
  if (t->nr_lingering == 0)
    ev_break (t->loop, EVBREAK_ALL);
  else
    ev_timer_start (t->loop, &t->last_wait);
}

static void
waited_enough (struct ev_loop *loop, ev_timer *w, int revents)
{
  (void)w;
  (void)revents;
  ev_break (loop, EVBREAK_ALL);
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
  if (t->background)
    thread_in_background ();
  ev_run (t->loop, 0);
  while (t->lingering)
    linger_end (t->lingering);
  return NULL;
}

void
io_task_kick (struct io_task *task)
{
  struct io_thread *t = task->thread;

  {
    LOCK_SCOPE (&t->lock);
    if (task->kicked || task->stopped)
      return;
    task->kicked = true;
    task->next_kicked = NULL;
    *t->kicked_end = task;
    t->kicked_end = &task->next_kicked;
  }
  if (t != this_thread)
    ev_async_send (t->loop, &t->wake);
}

void
io_task_stop (struct io_task *task)
{
  struct io_thread *t = task->thread;
  struct io_task **at;
  LOCK_SCOPE (&t->lock);

  task->stopped = true;
  if (!task->kicked)
    return;
  for (at = &t->kicked; *at != task; at = &(*at)->next_kicked)
    ;
  *at = task->next_kicked;
  if (!task->next_kicked)
    t->kicked_end = at;
  task->kicked = false;
}

static int
io_thread_start (struct io_thread *t)
{
  int err;

  t->kicked_end = &t->kicked;
  t->loop = ev_loop_new (EVFLAG_AUTO | EVFLAG_NOSIGMASK);
  if (!t->loop) {
    errno = ENOMEM;
    return -1;
  }
  lock_init (&t->lock, LOCK_SOURCE_THREAD);
  ev_async_init (&t->wake, woken);
  t->wake.data = t;
  ev_async_start (t->loop, &t->wake);
  ev_prepare_init (&t->before_sleep, before_sleep);
  t->before_sleep.data = t;
  ev_prepare_start (t->loop, &t->before_sleep);
  ev_timer_init (&t->last_wait, waited_enough, LINGER_AT_END, 0.);
  if (thread_start (&t->tid, serve, t) == 0)
    return 0;
  err = errno;
  lock_destroy (&t->lock);
  ev_loop_destroy (t->loop);
  errno = err;
  return -1;
}

static void
io_thread_stop (struct io_thread *t)
{
  {
    LOCK_SCOPE (&t->lock);
    t->quit = true;
  }
  ev_async_send (t->loop, &t->wake);
  pthread_join (t->tid, NULL);
  ev_loop_destroy (t->loop);
  lock_destroy (&t->lock);
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
  for (pool->nr = 0; pool->nr < nr_threads; pool->nr++) {
    struct io_thread *t = &pool->thread[pool->nr];

    t->background = pool->nr > 0;
    if (io_thread_start (t) == -1) {
      int err = errno;

      io_pool_free (pool);
      errno = err;
      return NULL;
    }
  }
  return pool;
}

void
io_pool_free (struct io_pool *pool)
{
  if (!pool)
    return;
  /* Stop the first thread last: its end ends the commands that it started. */
  while (pool->nr > 0)
    io_thread_stop (&pool->thread[--pool->nr]);
  free (pool);
}
