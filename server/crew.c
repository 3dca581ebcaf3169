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
#include <sys/queue.h>

#include "clock.h"
#include "crew.h"
#include "lock.h"
#include "thread.h"

#define STACK_SIZE (512u << 10)
#define IDLE_S 5

struct task {
  STAILQ_ENTRY (task) next;
  void (*run) (void *arg);
  void *arg;
};

struct crew {
  struct lock lock;     /* guards the rest */
  pthread_cond_t wake;  /* a task, or the end */
  pthread_cond_t ended; /* a thread has */
  STAILQ_HEAD (, task) tasks;
  unsigned nr_tasks, nr_threads, nr_idle;
  bool stop;
};

struct crew *
crew_new (void)
{
  struct crew *crew = calloc (1, sizeof *crew);

  if (!crew)
    return NULL;
  STAILQ_INIT (&crew->tasks);
  lock_init (&crew->lock, LOCK_CREW);
  cond_init (&crew->wake);
  cond_init (&crew->ended);
  return crew;
}

static struct task *
take_task (struct crew *crew)
{
  struct task *task = STAILQ_FIRST (&crew->tasks);

  ASSERT_HELD (&crew->lock);
  if (task) {
    STAILQ_REMOVE_HEAD (&crew->tasks, next);
    crew->nr_tasks--;
  }
  return task;
}

/* The next task, waited for; NULL: the thread is not needed any more. */
static struct task *
next_task (struct crew *crew)
{
  uint64_t until = now_ms () + IDLE_S * 1000;
  bool in_time = true;
  struct task *task;

  ASSERT_HELD (&crew->lock);
  crew->nr_idle++;
  while (!(task = take_task (crew)) && !crew->stop && in_time)
    in_time = lock_wait_ms (&crew->wake, &crew->lock, until);
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
    UNLOCK_SCOPE (&crew->lock);
    task->run (task->arg);
    free (task);
  }
  crew->nr_threads--;
  pthread_cond_broadcast (&crew->ended);
  return NULL;
}

static int
add_thread (struct crew *crew)
{
  ASSERT_HELD (&crew->lock);
  if (thread_start_stack (NULL, STACK_SIZE, work, crew) == -1)
    return -1;
  crew->nr_threads++;
  return 0;
}

int
crew_run (struct crew *crew, void (*run) (void *arg), void *arg)
{
  struct task *task = calloc (1, sizeof *task);

  if (!task)
    return -1;
  task->run = run;
  task->arg = arg;
  LOCK_SCOPE (&crew->lock);
  /* The tasks that wait already take the idle threads. */
  if (crew->nr_tasks >= crew->nr_idle && add_thread (crew) == -1) {
    int err = errno;

    free (task);
    errno = err;
    return -1;
  }
  STAILQ_INSERT_TAIL (&crew->tasks, task, next);
  crew->nr_tasks++;
  pthread_cond_signal (&crew->wake);
  return 0;
}

bool
crew_free (struct crew *crew, unsigned ms)
{
  uint64_t until = now_ms () + ms;
  bool ended;

  if (!crew)
    return true;
  {
    LOCK_SCOPE (&crew->lock);
    crew->stop = true;
    pthread_cond_broadcast (&crew->wake);
    while (crew->nr_threads > 0
           && lock_wait_ms (&crew->ended, &crew->lock, until))
      ;
    ended = crew->nr_threads == 0;
  }
  if (!ended)
    return false;
  lock_destroy (&crew->lock);
  pthread_cond_destroy (&crew->wake);
  pthread_cond_destroy (&crew->ended);
  free (crew);
  return true;
}
