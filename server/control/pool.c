/* pool.c - the threads that run commands, because a command may block.
 *
 * Each pool is a queue and a few threads.  A session has one command in
 * flight at a time, so the queue is never longer than there are sessions.  A
 * thread runs the command, or parses a message that is too long to be parsed
 * on the loop, and gives the request back through the inbox.
 *
 * A command that needs something which is on its way (call.wait) leaves its
 * thread and is run again after a kick.  Those that came meanwhile are not
 * lost: who waits compares the number of kicks.
 *
 * Threads are made when all are busy, up to a limit: one that hangs, because
 * its volume's store does, must not hold up those behind it.  Another user
 * than root and our own has a share of that limit, and all of them together
 * leave the rest; whose share is taken is passed over in the queue.
 *
 * Locking: the pool's lock, for all of its lists; the control's is inside
 * it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cleanup.h"
#include "control/internal.h"
#include "thread.h"

#define STACK_SIZE (512u << 10)

static void *pool_thread (void *arg);

bool
control_is_ours (uid_t uid)
{
  return uid == 0 || uid == geteuid ();
}

/* The lock is held. */
static bool
may_run (const struct pool *pool, uid_t uid)
{
  unsigned his = 0, others = 0;

  if (control_is_ours (uid))
    return true;
  for (const struct request *r = pool->running; r; r = r->next)
    if (!control_is_ours (r->call.peer.uid)) {
      others++;
      his += r->call.peer.uid == uid;
    }
  return his < SHARE_ONE (pool->max_threads)
         && others < SHARE_OTHERS (pool->max_threads);
}

/* The first that may run now.  The lock is held. */
static struct request *
next_request (struct pool *pool)
{
  bool refused = false;
  uid_t uid = 0;

  for (struct request **p = &pool->first; *p; p = &(*p)->next) {
    struct request *request = *p;

    if (refused && request->call.peer.uid == uid)
      continue;
    if (!may_run (pool, request->call.peer.uid)) {
      refused = true;
      uid = request->call.peer.uid;
      continue;
    }
    *p = request->next;
    if (*p == NULL)
      pool->tail = p;
    pool->nr_queued--;
    return request;
  }
  return NULL;
}

/* The lock is held. */
static void
add (struct pool *pool, struct request *request)
{
  request->next = NULL;
  *pool->tail = request;
  pool->tail = &request->next;
  pool->nr_queued++;
}

/* The lock is held, or there is no thread yet. */
static int
add_thread (struct pool *pool)
{
  struct control *c = pool->control;
  int r;

  {
    LOCK_SCOPE (&c->lock);
    c->nr_alive++;
  }
  r = thread_start_stack (&pool->threads[pool->nr_threads], STACK_SIZE,
                          pool_thread, pool)
              == -1
          ? errno
          : 0;
  if (r == 0)
    pool->nr_threads++;
  else {
    LOCK_SCOPE (&c->lock);
    c->nr_alive--;
  }
  return r;
}

/* A thread for each that is queued, if there may be.  If none can be made
 * they wait for those that there are.  The lock is held. */
static void
wake (struct pool *pool)
{
  while (pool->nr_idle + pool->nr_new < pool->nr_queued
         && pool->nr_threads < pool->max_threads && add_thread (pool) == 0)
    pool->nr_new++;
  pthread_cond_broadcast (&pool->cond);
}

static struct request *
take (struct pool *pool, bool new, uint64_t *kicks)
{
  struct request *request;
  LOCK_SCOPE (&pool->lock);

  if (new && pool->nr_new > 0)
    pool->nr_new--;
  pool->nr_idle++;
  while ((request = pool->stop ? NULL : next_request (pool)) == NULL
         && !pool->stop)
    pthread_cond_wait (&pool->cond, &pool->lock);
  pool->nr_idle--;
  if (request) {
    request->next = pool->running;
    pool->running = request;
    *kicks = pool->kicks;
  }
  return request;
}

/* It is run no more: another of its user's may be. */
static void
leave (struct pool *pool, struct request *request)
{
  struct request **p = &pool->running;
  LOCK_SCOPE (&pool->lock);

  while (*p != request)
    p = &(*p)->next;
  *p = request->next;
  request->next = NULL;
  if (pool->first)
    pthread_cond_signal (&pool->cond);
}

/* False: the pool is being stopped. */
static bool
wait_for_kick (struct pool *pool, struct request *request, uint64_t kicks)
{
  LOCK_SCOPE (&pool->lock);

  if (pool->stop)
    return false;
  if (pool->kicks != kicks) {
    add (pool, request);
    wake (pool);
    return true;
  }
  request->next = pool->waiting;
  pool->waiting = request;
  return true;
}

static void
parse (struct request *request)
{
  json_error_t err;
  json_t *message = wire_parse (request->text, request->text_len, &err);

  free (request->text);
  request->text = NULL;
  call_begin (&request->call, message, err.text);
}

static void *
pool_thread (void *arg)
{
  struct pool *pool = arg;
  struct control *c = pool->control;
  struct request *request;
  uint64_t kicks;
  bool new = true;

  while ((request = take (pool, new, &kicks)) != NULL) {
    new = false;
    if (request->parsing)
      parse (request);
    else
      request->answer = call_run (&request->call, &request->answer_len);
    leave (pool, request);
    if (request->call.wait && !request->parsing) {
      if (!wait_for_kick (pool, request, kicks))
        request_free (request);
    }
    else if (!inbox_put (c, &request->item))
      request_free (request);
  }

  LOCK_SCOPE (&c->lock);
  c->nr_alive--;
  pthread_cond_broadcast (&c->ended);
  return NULL;
}

int
pool_start (struct pool *pool, struct control *c, unsigned nr_threads,
            unsigned max_threads)
{
  int r = 0;
  LOCK_SCOPE (&pool->lock);

  pool->control = c;
  pool->max_threads = max_threads;
  while (r == 0 && pool->nr_threads < nr_threads)
    r = add_thread (pool);
  errno = r;
  return r == 0 ? 0 : -1;
}

bool
pool_put (struct pool *pool, struct request *request)
{
  LOCK_SCOPE (&pool->lock);

  if (pool->stop)
    return false;
  add (pool, request);
  if (may_run (pool, request->call.peer.uid))
    wake (pool);
  return true;
}

void
pool_kick (struct pool *pool)
{
  struct request *waiting;
  LOCK_SCOPE (&pool->lock);

  pool->kicks++;
  waiting = pool->waiting;
  if (waiting == NULL)
    return;
  pool->waiting = NULL;
  while (waiting) {
    struct request *next = waiting->next;

    add (pool, waiting);
    waiting = next;
  }
  wake (pool);
}

static void
free_list (struct request *request)
{
  while (request) {
    struct request *next = request->next;

    request_free (request);
    request = next;
  }
}

void
pool_stop (struct pool *pool)
{
  struct request *queued, *waiting;

  {
    LOCK_SCOPE (&pool->lock);
    pool->stop = true;
    queued = pool->first;
    pool->first = NULL;
    pool->tail = &pool->first;
    pool->nr_queued = 0;
    waiting = pool->waiting;
    pool->waiting = NULL;
    pthread_cond_broadcast (&pool->cond);
  }
  free_list (queued);
  free_list (waiting);
}
