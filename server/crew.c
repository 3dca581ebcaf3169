/* crew.c - see crew.h.
 *
 * A thread that has nothing to do waits a moment for the next task, as most
 * are short and come again and again.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "cleanup.h"
#include "clock.h"
#include "crew.h"
#include "thread.h"

#define STACK_SIZE (512u << 10)
#define IDLE_S 5

struct task {
  struct task *next;
  void (*run) (void *arg);
  void *arg;
};

struct crew {
  pthread_mutex_t lock;
  pthread_cond_t wake;  /* a task, or the end */
  pthread_cond_t ended; /* a thread has */
  struct task *first, **tail;
  unsigned nr_tasks, nr_threads, nr_idle;
  bool stop;
};

struct crew *
crew_new (void)
{
  struct crew *crew = calloc (1, sizeof *crew);

  if (!crew)
    return NULL;
  crew->tail = &crew->first;
  pthread_mutex_init (&crew->lock, NULL);
  cond_init (&crew->wake);
  cond_init (&crew->ended);
  return crew;
}

static void
add_task (struct crew *crew, struct task *task)
{
  *crew->tail = task;
  crew->tail = &task->next;
  crew->nr_tasks++;
}

/* The lock is held. */
static struct task *
take_task (struct crew *crew)
{
  struct task *task = crew->first;

  if (task) {
    crew->first = task->next;
    if (!crew->first)
      crew->tail = &crew->first;
    crew->nr_tasks--;
  }
  return task;
}

/* NULL: the thread is not needed any more.  The lock is held. */
static struct task *
next_task (struct crew *crew)
{
  struct timespec until = ms_to_timespec (now_ms () + IDLE_S * 1000);
  struct task *task;
  int r = 0;

  crew->nr_idle++;
  while (!(task = take_task (crew)) && !crew->stop && r == 0)
    r = pthread_cond_timedwait (&crew->wake, &crew->lock, &until);
  crew->nr_idle--;
  return task;
}

static void *
work (void *arg)
{
  struct crew *crew = arg;
  struct task *task;
  LOCK_SCOPE (&crew->lock);

  while ((task = next_task (crew))) {
    pthread_mutex_unlock (&crew->lock);
    task->run (task->arg);
    free (task);
    pthread_mutex_lock (&crew->lock);
  }
  crew->nr_threads--;
  pthread_cond_broadcast (&crew->ended);
  return NULL;
}

/* The lock is held. */
static int
add_thread (struct crew *crew)
{
  pthread_attr_t attr;
  pthread_t thread;
  int r;

  pthread_attr_init (&attr);
  pthread_attr_setstacksize (&attr, STACK_SIZE);
  pthread_attr_setdetachstate (&attr, PTHREAD_CREATE_DETACHED);
  r = pthread_create (&thread, &attr, work, crew);
  pthread_attr_destroy (&attr);
  if (r == 0)
    crew->nr_threads++;
  return r;
}

int
crew_run (struct crew *crew, void (*run) (void *arg), void *arg)
{
  struct task *task = calloc (1, sizeof *task);
  int r;

  if (!task)
    return -1;
  task->run = run;
  task->arg = arg;
  LOCK_SCOPE (&crew->lock);
  /* Those that are idle, or were just made, take what waits already. */
  if (crew->nr_tasks >= crew->nr_idle) {
    r = add_thread (crew);
    if (r != 0) {
      free (task);
      errno = r;
      return -1;
    }
  }
  add_task (crew, task);
  pthread_cond_signal (&crew->wake);
  return 0;
}

bool
crew_free (struct crew *crew, unsigned ms)
{
  struct timespec until = ms_to_timespec (now_ms () + ms);
  bool ended;

  if (!crew)
    return true;
  {
    LOCK_SCOPE (&crew->lock);
    crew->stop = true;
    pthread_cond_broadcast (&crew->wake);
    while (crew->nr_threads > 0
           && pthread_cond_timedwait (&crew->ended, &crew->lock, &until) == 0)
      ;
    ended = crew->nr_threads == 0;
  }
  if (!ended)
    return false;
  pthread_mutex_destroy (&crew->lock);
  pthread_cond_destroy (&crew->wake);
  pthread_cond_destroy (&crew->ended);
  free (crew);
  return true;
}
