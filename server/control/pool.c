/* pool.c - the threads that run commands, because a command may block.
 *
 * Each pool is a queue and a few threads.  A session has one command in
 * flight at a time, so the queue is never longer than there are sessions and
 * serves them in turn.  A thread runs the command, or parses a message that
 * is too long to be parsed on the loop, and gives the request back through
 * the inbox.
 *
 * Locking: the pool's lock, for the queue alone.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "cleanup.h"
#include "private.h"

#define STACK_SIZE (512u << 10)

static struct request *
take (struct pool *pool)
{
  struct request *request;
  LOCK_SCOPE (&pool->lock);

  while (pool->first == NULL && !pool->stop)
    pthread_cond_wait (&pool->cond, &pool->lock);
  request = pool->first;
  if (request) {
    pool->first = request->next;
    if (pool->first == NULL)
      pool->tail = &pool->first;
    request->next = NULL;
  }
  return request;
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

  while ((request = take (pool)) != NULL) {
    if (request->parsing)
      parse (request);
    else
      request->answer = call_run (&request->call, &request->answer_len);
    if (!inbox_put (c, &request->item))
      request_free (request);
  }

  LOCK_SCOPE (&c->lock);
  c->nr_alive--;
  pthread_cond_broadcast (&c->ended);
  return NULL;
}

int
pool_start (struct pool *pool, struct control *c, unsigned nr_threads)
{
  pthread_attr_t attr;
  int r = 0;

  pool->control = c;
  pthread_attr_init (&attr);
  pthread_attr_setstacksize (&attr, STACK_SIZE);
  while (r == 0 && pool->nr_threads < nr_threads) {
    {
      LOCK_SCOPE (&c->lock);
      c->nr_alive++;
    }
    r = pthread_create (&pool->threads[pool->nr_threads], &attr, pool_thread,
                        pool);
    if (r == 0)
      pool->nr_threads++;
    else {
      LOCK_SCOPE (&c->lock);
      c->nr_alive--;
    }
  }
  pthread_attr_destroy (&attr);
  errno = r;
  return r == 0 ? 0 : -1;
}

bool
pool_put (struct pool *pool, struct request *request)
{
  LOCK_SCOPE (&pool->lock);

  if (pool->stop)
    return false;
  request->next = NULL;
  *pool->tail = request;
  pool->tail = &request->next;
  pthread_cond_signal (&pool->cond);
  return true;
}

void
pool_stop (struct pool *pool)
{
  struct request *request;

  {
    LOCK_SCOPE (&pool->lock);
    pool->stop = true;
    request = pool->first;
    pool->first = NULL;
    pool->tail = &pool->first;
    pthread_cond_broadcast (&pool->cond);
  }
  while (request) {
    struct request *next = request->next;

    request_free (request);
    request = next;
  }
}
