/* pool.c - the threads that run commands, because a command may block.
 *
 * Each pool is a queue and a few threads.  A client has one command in flight
 * at a time, so the queue is never longer than there are clients.  A thread
 * runs the command, or parses a message that is too long to be parsed on the
 * loop, and gives the request back through the inbox.
 *
 * A command that needs something which is on its way (call.wait) leaves its
 * thread and is run again after a kick.  A kick that comes while the command
 * still runs is not lost: its thread compares the pool's number of kicks with
 * that of the command's start.
 *
 * Threads are made when all are busy, up to a limit: a command that hangs,
 * because its volume's store does, must not hold up those behind it.  Another
 * user than root and our own has a share of that limit, and all such users
 * together leave the rest; a user whose share is taken is passed over in the
 * queue.
 *
 * Locking: the pool's lock guards all of its lists; control's lock is taken
 * inside it.
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

static bool
may_run (struct pool *pool, uid_t uid)
{
  const struct request *r;
  unsigned his = 0, others = 0;

  ASSERT_HELD (&pool->lock);
  if (control_is_ours (uid))
    return true;
  TAILQ_FOREACH (r, &pool->running, entry)
    if (!control_is_ours (r->call.peer.uid)) {
      others++;
      his += r->call.peer.uid == uid;
    }
  return his < SHARE_ONE (pool->max_threads)
         && others < SHARE_OTHERS (pool->max_threads);
}

/* Take the first request that may run now out of the queue. */
static struct request *
next_request (struct pool *pool)
{
  struct request *request;
  bool refused = false;
  uid_t uid = 0;

  ASSERT_HELD (&pool->lock);
  TAILQ_FOREACH (request, &pool->queued, entry) {
    if (refused && request->call.peer.uid == uid)
      continue;
    if (!may_run (pool, request->call.peer.uid)) {
      refused = true;
      uid = request->call.peer.uid;
      continue;
    }
    TAILQ_REMOVE (&pool->queued, request, entry);
    pool->nr_queued--;
    return request;
  }
  return NULL;
}

static void
add (struct pool *pool, struct request *request)
{
  ASSERT_HELD (&pool->lock);
  TAILQ_INSERT_TAIL (&pool->queued, request, entry);
  pool->nr_queued++;
}

/* 0, or an errno. */
static int
add_thread (struct pool *pool)
{
  struct control *c = pool->control;
  int r;

  ASSERT_HELD (&pool->lock);
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

/* Make a thread for each request that is queued, up to the limit.  If none can
 * be made the requests wait for the threads that there are. */
static void
wake (struct pool *pool)
{
  ASSERT_HELD (&pool->lock);
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
    lock_wait (&pool->cond, &pool->lock);
  pool->nr_idle--;
  if (request) {
    TAILQ_INSERT_HEAD (&pool->running, request, entry);
    *kicks = pool->kicks;
  }
  return request;
}

/* The request has been run: another of its user's may be. */
static void
put_back (struct pool *pool, struct request *request)
{
  LOCK_SCOPE (&pool->lock);

  TAILQ_REMOVE (&pool->running, request, entry);
  if (!TAILQ_EMPTY (&pool->queued))
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
  TAILQ_INSERT_HEAD (&pool->waiting, request, entry);
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
    put_back (pool, request);
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

void
pool_init (struct pool *pool)
{
  lock_init (&pool->lock, LOCK_CONTROL_POOL);
  cond_init (&pool->cond);
  TAILQ_INIT (&pool->queued);
  TAILQ_INIT (&pool->waiting);
  TAILQ_INIT (&pool->running);
}

void
pool_destroy (struct pool *pool)
{
  lock_destroy (&pool->lock);
  pthread_cond_destroy (&pool->cond);
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
  struct request *request;
  LOCK_SCOPE (&pool->lock);

  pool->kicks++;
  if (TAILQ_EMPTY (&pool->waiting))
    return;
  while ((request = TAILQ_FIRST (&pool->waiting)) != NULL) {
    TAILQ_REMOVE (&pool->waiting, request, entry);
    add (pool, request);
  }
  wake (pool);
}

void
pool_stop (struct pool *pool)
{
  struct requests forgotten = TAILQ_HEAD_INITIALIZER (forgotten);
  struct request *request;

  {
    LOCK_SCOPE (&pool->lock);
    pool->stop = true;
    TAILQ_CONCAT (&forgotten, &pool->queued, entry);
    TAILQ_CONCAT (&forgotten, &pool->waiting, entry);
    pool->nr_queued = 0;
    pthread_cond_broadcast (&pool->cond);
  }
  while ((request = TAILQ_FIRST (&forgotten)) != NULL) {
    TAILQ_REMOVE (&forgotten, request, entry);
    request_free (request);
  }
}
