/* control.c - the loop thread: its inbox, its start and its end.
 *
 * Other threads speak to the loop only through the inbox, a list under
 * control's lock with an ev_async behind it.  Other threads may use the loop
 * while `running` is true; the loop makes it false, under that lock, before the
 * loop ends.
 *
 * The end is bounded.  The pools forget the commands that did not begin, and
 * give 5 s to those that did.  The loop, which never blocks, goes on meanwhile,
 * so that their answers still leave.  If a command hangs beyond that, its
 * thread is left behind together with the memory that the thread may touch.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "control/internal.h"
#include "log.h"
#include "message.h"
#include "thread.h"

#define LOOP_STACK (1u << 20)

static const unsigned pool_threads[NR_POOLS] = {
  [RUN_LOOP] = 1, /* long messages */
  [RUN_QUERY] = 2,
  [RUN_VERB] = 4,
  [RUN_SLOW] = 4,
};

bool
inbox_put (struct control *c, struct item *item)
{
  LOCK_SCOPE (&c->lock);

  if (!c->running)
    return false;
  if (item->request == NULL) {
    if (item->len > MAX_INBOX - c->event_bytes) {
      c->overflow = true;
      ev_async_send (c->loop, &c->async);
      return false;
    }
    c->event_bytes += item->len;
  }
  STAILQ_INSERT_TAIL (&c->inbox, item, entry);
  ev_async_send (c->loop, &c->async);
  return true;
}

bool
inbox_is_empty (struct control *c)
{
  LOCK_SCOPE (&c->lock);

  return STAILQ_EMPTY (&c->inbox) && !c->overflow;
}

/* --- on the loop ------------------------------------------------------ */

static void
take_item (struct control *c, struct item *item)
{
  if (item->request) {
    client_done (item->request);
    return;
  }
  clients_events (c, item->text, item->len, item->owner);
  free (item);
}

static void
on_async (struct ev_loop *loop, ev_async *async, int revents)
{
  struct control *c = async->data;
  struct items items = STAILQ_HEAD_INITIALIZER (items);
  struct item *item;
  bool overflow, unlisten, finish;

  (void)revents;
  {
    LOCK_SCOPE (&c->lock);
    STAILQ_CONCAT (&items, &c->inbox);
    c->event_bytes = 0;
    overflow = c->overflow;
    c->overflow = false;
    unlisten = c->unlisten;
    finish = c->finish;
    if (finish)
      c->running = false;
  }
  if (overflow)
    clients_drop (c, "an event was lost");
  while ((item = STAILQ_FIRST (&items)) != NULL) {
    STAILQ_REMOVE_HEAD (&items, entry);
    take_item (c, item);
  }
  if (unlisten || finish)
    listener_stop (c);
  if (finish) {
    clients_end (c);
    ev_break (loop, EVBREAK_ALL);
  }
}

static void
on_sweep (struct ev_loop *loop, ev_timer *timer, int revents)
{
  (void)loop;
  (void)revents;
  clients_sweep (timer->data);
}

static void *
loop_thread (void *arg)
{
  struct control *c = arg;

  listener_start (c);
  /* Items may have come before the loop could be told of them. */
  ev_async_send (c->loop, &c->async);
  ev_run (c->loop, 0);
  ev_timer_stop (c->loop, &c->sweep_timer);
  ev_async_stop (c->loop, &c->async);
  return NULL;
}

/* --- start and end ---------------------------------------------------- */

/* Wait until no pool has a thread: false at the end of the time. */
static bool
wait_for_pools (struct control *c)
{
  uint64_t until = now_ms () + STOP_TIMEOUT * 1000;
  LOCK_SCOPE (&c->lock);

  while (c->nr_alive > 0)
    if (!lock_wait_ms (&c->ended, &c->lock, until))
      return c->nr_alive == 0;
  return true;
}

/* Join the pools' threads, which have been told to end. */
static void
end_pools (struct control *c)
{
  c->abandoned = !wait_for_pools (c);
  for (int i = 0; i < NR_POOLS; i++)
    for (unsigned j = 0; j < c->pools[i].nr_threads; j++)
      if (c->abandoned)
        pthread_detach (c->pools[i].threads[j]);
      else
        pthread_join (c->pools[i].threads[j], NULL);
  if (c->abandoned)
    log_error ("control socket '%s': a command does not end and is left "
               "behind",
               c->path);
}

static int
start_threads (struct control *c)
{
  /* With volumes a command that hangs is one of many, so a pool may grow. */
  for (int i = 0; i < NR_POOLS; i++)
    if (pool_start (&c->pools[i], c, pool_threads[i],
                    c->config.volumes ? MAX_THREADS : pool_threads[i])
        == -1)
      return -1;
  return thread_start_stack (&c->thread, LOOP_STACK, loop_thread, c);
}

int
control_start (struct control *c, char **error)
{
  int r, err;
  LOCK_SCOPE (&c->stop_lock);

  /* jansson chooses its seed at first use otherwise, on any thread. */
  json_object_seed (0);
  c->loop = ev_loop_new (EVFLAG_AUTO);
  if (c->loop == NULL) {
    message_set (error, "control socket '%s': no event loop can be made",
                 c->path);
    return -1;
  }
  listener_limit (c);
  clients_init (c);
  ev_async_init (&c->async, on_async);
  c->async.data = c;
  ev_async_start (c->loop, &c->async);
  ev_timer_init (&c->sweep_timer, on_sweep, 1., 1.);
  c->sweep_timer.data = c;

  {
    LOCK_SCOPE (&c->lock);
    c->running = true;
  }
  r = start_threads (c);
  err = errno;
  if (r == -1) {
    {
      LOCK_SCOPE (&c->lock);
      c->running = false;
    }
    for (int i = 0; i < NR_POOLS; i++)
      pool_stop (&c->pools[i]);
    end_pools (c);
    c->stopped = true;
    errno = err;
    message_set (error, "control socket '%s': threads cannot be made: %m",
                 c->path);
    return -1;
  }
  c->started = true;
  return 0;
}

void
control_kick (struct control *c)
{
  for (int i = 0; i < NR_POOLS; i++)
    pool_kick (&c->pools[i]);
}

void
control_unlisten (struct control *c)
{
  listener_unlink (c);

  LOCK_SCOPE (&c->lock);
  c->unlisten = true;
  if (c->running)
    ev_async_send (c->loop, &c->async);
}

int
control_stop (struct control *c)
{
  LOCK_SCOPE (&c->stop_lock);

  control_unlisten (c);
  if (c->started && !c->stopped) {
    for (int i = 0; i < NR_POOLS; i++)
      pool_stop (&c->pools[i]);
    end_pools (c);
    {
      LOCK_SCOPE (&c->lock);
      c->finish = true;
      ev_async_send (c->loop, &c->async);
    }
    pthread_join (c->thread, NULL);
  }
  c->stopped = true;
  return c->abandoned ? -1 : 0;
}

void
control_free (struct control *c)
{
  if (c == NULL || control_stop (c) == -1)
    return;
  if (c->loop)
    ev_loop_destroy (c->loop);
  if (c->fd >= 0)
    close (c->fd);
  for (int i = 0; i < NR_POOLS; i++)
    pool_destroy (&c->pools[i]);
  while (!LIST_EMPTY (&c->users)) {
    struct user *user = LIST_FIRST (&c->users);

    LIST_REMOVE (user, entry);
    free (user);
  }
  lock_destroy (&c->lock);
  lock_destroy (&c->stop_lock);
  pthread_cond_destroy (&c->ended);
  free (c->path);
  free (c->program);
  free (c->process);
  free (c);
}
