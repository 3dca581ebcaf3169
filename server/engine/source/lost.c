/* source/lost.c - the end of a connection, and of the attempt to make one.
 *
 * Requests in flight go back to the head of the queues.  nbd_close never waits
 * for the server.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bytes.h"
#include "cleanup.h"
#include "log.h"
#include "probe.h"
#include "source/command.h"
#include "source/identity.h"
#include "source/lost.h"
#include "source/queue.h"
#include "source/read.h"
#include "source/resolve.h"

#define BACKOFF_MAX 1000
#define EXTRA_BACKOFF_MIN 1000
#define EXTRA_BACKOFF_MAX 60000

/* Which state may follow which; a connection may end in each of them. */
static bool
may_follow (enum conn_state state, enum conn_state next)
{
  switch (next) {
  case CONN_CLOSED:
    return true;
  case CONN_RESOLVING:
    return state == CONN_CLOSED;
  case CONN_CONNECTING:
    return state == CONN_RESOLVING;
  case CONN_VERIFYING:
    return state == CONN_CONNECTING;
  case CONN_UP:
    return state == CONN_CONNECTING || state == CONN_VERIFYING;
  }
  return false;
}

void
conn_set_state_locked (struct source_conn *c, enum conn_state state)
{
  ASSERT_HELD (&c->src->lock);
  assert (may_follow (c->state, state));
  c->state = state;
}

void
conn_set_state (struct source_conn *c, enum conn_state state)
{
  LOCK_SCOPE (&c->src->lock);
  conn_set_state_locked (c, state);
}

/* Let go of the handle; requests stay in the lists. */
void
conn_drop_handle (struct source_conn *c)
{
  int fd = c->io.fd;

  ev_io_stop (c->task.thread->loop, &c->io);
  /* The process that a kept handle came from may have the socket open, too:
   * then the server would not see that the socket is closed. */
  if (c->adopted && fd >= 0)
    shutdown (fd, SHUT_WR);
  c->adopted = false;
  c->closing = true;
  nbd_close (c->h);
  c->closing = false;
  c->h = NULL;
  ev_io_set (&c->io, -1, 0);
  /* The server may be about to answer. */
  if (fd >= 0 && !TAILQ_EMPTY (&c->sent))
    io_thread_linger (c->task.thread, fd);
  else if (fd >= 0)
    close (fd);
  resolve_end (c->resolve);
  c->resolve = NULL;
  c->dead = false;
  c->muted = false;
}

/* Put the requests in flight back into the queues. */
static void
requeue (struct source_conn *c, uint64_t now)
{
  struct source *src = c->src;
  struct source_req *req;

  ASSERT_HELD (&c->src->lock);
  while ((req = TAILQ_LAST (&c->sent, req_list))) {
    TAILQ_REMOVE (&c->sent, req, link);
    if (req->internal) {
      req->state = REQ_IDLE;
      req_clear (req);
      continue;
    }
    source_is_back (c, req);
    req->error = req->state == REQ_CANCELLED             ? ECANCELED
                 : req->deadline && req->deadline <= now ? ETIMEDOUT
                                                         : 0;
    if (req->error) {
      req->state = REQ_IDLE;
      TAILQ_INSERT_TAIL (&c->finished, req, link);
    }
    else {
      req->state = REQ_WAITING;
      req->at = req->offset;
      if (req->deadline
          && (!src->next_deadline || req->deadline < src->next_deadline))
        src->next_deadline = req->deadline;
      TAILQ_INSERT_HEAD (&src->waiting[req->queue], req, link);
    }
  }
  c->next_deadline = 0;
}

/* The connection is no more, or could not be made; c->why says why.  hangs:
 * the server is silent. */
void
conn_lost (struct source_conn *c, bool hangs, enum source_state state)
{
  struct source *src = c->src;
  uint64_t now = now_ms ();
  bool was_up = c->state == CONN_UP;

  read_take_answers (c, now);
  if (c->h && !c->why[0]) {
    if (nbd_aio_is_closed (c->h))
      snprintf (c->why, sizeof c->why, "the server closed the connection");
    else
      read_note_error (c);
  }
  conn_drop_handle (c);
  if (src->command && c->index == 0 && !hangs)
    command_ended (src->command, c->why, sizeof c->why);
  /* A server that is slow, but alive, must not be asked for ever: what
   * passes for silence grows to the timeout, until it answers. */
  if (hangs && c->state != CONN_CONNECTING)
    c->patience
        = min_u64 (c->patience * 2, max_u64 (src->timeout, src->silence));
  PROBE (source_lost, src->name, c->index, was_up);
  log_debug ("%s: connection %u %s: %s", src->name, c->index,
             was_up ? "lost" : "failed", c->why);
  {
    LOCK_SCOPE (&src->lock);

    conn_set_state_locked (c, CONN_CLOSED);
    c->want_open = false;
    requeue (c, now);
    if (c->index > 0) {
      if (!was_up) {
        src->refused_backoff
            = min_u64 (max_u64 (src->refused_backoff * 2, EXTRA_BACKOFF_MIN),
                       EXTRA_BACKOFF_MAX);
        src->refused_until = now + src->refused_backoff;
      }
      else
        src->refused_until = max_u64 (src->refused_until, now + BACKOFF_MIN);
      if (was_up && hangs)
        src->conn[0].want_probe = true;
      io_task_kick (&src->conn[0].task);
    }
    source_spread (src, now);
  }
  /* Samples that were answered are among them: they end with verify. */
  source_finish (src, &c->finished);
  verify_free (c->verify);
  c->verify = NULL;
  if (c->index > 0)
    return;
  if (src->command && hangs)
    command_end (src->command, true);
  if (state == SOURCE_REFUSED)
    c->retry_at = now + src->refused_retry;
  else {
    c->retry_at = now + c->backoff;
    c->backoff = min_u64 (c->backoff * 2, BACKOFF_MAX);
  }
  source_set_state (src, state, c->why);
}
