/* source/queue.c - the requests that wait, and which connection may have them.
 *
 * A request waits in one of three queues (demand, ahead, background) until a
 * connection with room takes it; the queues are where it goes back to when its
 * connection is lost.  The first connection takes demand, then ahead; the
 * others take background.  While none of the others is up, or can be, the first
 * takes a little background, too.
 *
 * Locking: see queue.h, call by call.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "bytes.h"
#include "cleanup.h"
#include "source/queue.h"

#define DEMAND_RECENT 200 /* ms in which background still yields */

/* Requests in flight on one connection.  A server of nbdkit's kind works on 16
 * requests of a connection at a time. */
#define DEMAND_CAP 16
#define AHEAD_CAP 8
#define AHEAD_BYTES (4u << 20)
#define BACKGROUND_CAP 16
#define BACKGROUND_ALWAYS 8 /* whatever their size */
#define BACKGROUND_BYTES (4u << 20)
/* The same on a connection that carries demand, too. */
#define SHARED_CAP 4
#define SHARED_BYTES (2u << 20)

/* Requests and bytes that a caller with much to ask has in flight at a time. */
#define DEPTH_MAX 64
#define DEPTH_BYTES (64u << 20)

/* Lists. */

void
req_append_early (struct req_list *list, struct source_req *req)
{
  struct source_req *next = TAILQ_FIRST (list);

  while (next && next->early)
    next = TAILQ_NEXT (next, link);
  if (next)
    TAILQ_INSERT_BEFORE (next, req, link);
  else
    TAILQ_INSERT_TAIL (list, req, link);
}

struct source_req *
req_pop (struct req_list *list)
{
  struct source_req *req = TAILQ_FIRST (list);

  if (req)
    TAILQ_REMOVE (list, req, link);
  return req;
}

void
req_clear (struct source_req *req)
{
  free (req->bounce);
  req->bounce = NULL;
  free (req->pieces);
  req->pieces = NULL;
  req->nr_pieces = 0;
}

/* Queues; src->lock is held. */

static bool
background_is_up (struct source *src)
{
  ASSERT_HELD (&src->lock);
  for (unsigned i = 1; i < src->nr_conns; i++)
    if (src->conn[i].state == CONN_UP)
      return true;
  return false;
}

/* May c take one more background request of that length? */
static bool
has_room (struct source *src, struct source_conn *c, uint32_t length,
          uint64_t now)
{
  unsigned nr = c->nr_sent[SOURCE_BACKGROUND];
  uint64_t bytes = c->bytes_sent[SOURCE_BACKGROUND];

  ASSERT_HELD (&src->lock);
  if (c->state != CONN_UP || src->stopping || src->state == SOURCE_REFUSED)
    return false;
  if (c->index > 0)
    return nr < BACKGROUND_ALWAYS
           || (nr < BACKGROUND_CAP && bytes + length <= BACKGROUND_BYTES);
  if (background_is_up (src))
    return false;
  if (nr == 0)
    return true;
  /* Bytes in the socket before a guest's read make that read wait. */
  return atomic_load_explicit (&src->demand, memory_order_relaxed) == 0
         && now - src->demand_at >= DEMAND_RECENT && nr < SHARED_CAP
         && bytes + length <= SHARED_BYTES;
}

struct source_req *
source_next (struct source *src, struct source_conn *c, uint64_t now)
{
  struct source_req *req = NULL, *head;

  ASSERT_HELD (&src->lock);
  if (src->stopping)
    return NULL;
  if (c->index == 0 && src->state != SOURCE_REFUSED
      && c->nr_sent[SOURCE_DEMAND] + c->nr_sent[SOURCE_AHEAD]
                 + c->nr_sent[SOURCE_BACKGROUND]
             < DEMAND_CAP) {
    req = TAILQ_FIRST (&src->waiting[SOURCE_DEMAND]);
    head = TAILQ_FIRST (&src->waiting[SOURCE_AHEAD]);
    if (!req && head && c->nr_sent[SOURCE_AHEAD] < AHEAD_CAP
        && (!head->buf || c->nr_sent[SOURCE_AHEAD] == 0
            || c->bytes_sent[SOURCE_AHEAD] + head->length <= AHEAD_BYTES))
      req = head;
  }
  head = TAILQ_FIRST (&src->waiting[SOURCE_BACKGROUND]);
  if (!req && head && has_room (src, c, head->length, now))
    req = head;
  if (!req)
    return NULL;
  TAILQ_REMOVE (&src->waiting[req->queue], req, link);
  req->state = REQ_SENT;
  c->nr_sent[req->queue]++;
  c->bytes_sent[req->queue] += req->length;
  return req;
}

void
source_is_back (struct source_conn *c, const struct source_req *req)
{
  ASSERT_HELD (&c->src->lock);
  assert (c->nr_sent[req->queue] > 0);
  assert (c->bytes_sent[req->queue] >= req->length);
  c->nr_sent[req->queue]--;
  c->bytes_sent[req->queue] -= req->length;
}

void
source_spread (struct source *src, uint64_t now)
{
  struct source_req *head = TAILQ_FIRST (&src->waiting[SOURCE_BACKGROUND]);
  struct source_conn *best = NULL, *closed = NULL;
  bool opening = false;

  ASSERT_HELD (&src->lock);
  if (!head || !src->started || src->stopping)
    return;
  for (unsigned i = 0; i < src->nr_conns; i++) {
    struct source_conn *c = &src->conn[i];

    if (has_room (src, c, head->length, now)
        && (!best
            || c->nr_sent[SOURCE_BACKGROUND]
                   < best->nr_sent[SOURCE_BACKGROUND]))
      best = c;
    if (i > 0 && c->state == CONN_CLOSED && !c->want_open) {
      if (!closed)
        closed = c;
    }
    else if (i > 0 && c->state != CONN_UP)
      opening = true;
  }
  if (best)
    io_task_kick (&best->task);
  if ((!best || best->index == 0) && closed && !opening && src->multi_conn
      && src->state == SOURCE_CONNECTED && now >= src->refused_until) {
    closed->want_open = true;
    io_task_kick (&closed->task);
  }
}

void
source_expire (struct source *src, struct req_list *expired, uint64_t now)
{
  uint64_t first = 0;

  ASSERT_HELD (&src->lock);
  if (!src->next_deadline || now < src->next_deadline)
    return;
  for (unsigned i = 0; i < NR_PRIOS; i++) {
    struct source_req *req, *next;

    for (req = TAILQ_FIRST (&src->waiting[i]); req; req = next) {
      next = TAILQ_NEXT (req, link);
      if (!req->deadline)
        continue;
      if (req->deadline <= now) {
        TAILQ_REMOVE (&src->waiting[i], req, link);
        req->state = REQ_IDLE;
        req->error = ETIMEDOUT;
        TAILQ_INSERT_TAIL (expired, req, link);
      }
      else if (!first || req->deadline < first)
        first = req->deadline;
    }
  }
  src->next_deadline = first;
}

unsigned
source_depth (struct source *src)
{
  uint32_t size
      = src->background_size ? src->background_size : SOURCE_MAX_REQUEST;
  unsigned per_conn = (unsigned)min_u64 (
      max_u64 (BACKGROUND_BYTES / size, BACKGROUND_ALWAYS), BACKGROUND_CAP);
  unsigned up = 0, depth;

  ASSERT_HELD (&src->lock);
  for (unsigned i = 1; i < src->nr_conns; i++)
    if (src->conn[i].state == CONN_UP)
      up++;
  /* Something must wait for a further one to be opened. */
  if (src->multi_conn && up + 1 < src->nr_conns
      && now_ms () >= src->refused_until)
    up++;
  if (up == 0)
    return SHARED_CAP;
  depth = (unsigned)min_u64 (up * per_conn, DEPTH_MAX);
  return (unsigned)max_u64 (min_u64 (depth, DEPTH_BYTES / size), SHARED_CAP);
}

/* Callbacks; no lock is held. */

void
source_finish (struct source *src, struct req_list *list)
{
  struct source_req *req;

  while ((req = req_pop (list))) {
    struct source_extent *answer = req->answer;

    if (!req->internal && req->queue == SOURCE_DEMAND)
      atomic_fetch_sub_explicit (&src->demand, 1, memory_order_relaxed);
    req_clear (req);
    req->answer = NULL;
    req->extents = req->error ? NULL : answer;
    req->nr_extents = req->error ? 0 : req->answer_size;
    /* req may be gone, or be submitted again, when this returns. */
    req->done (req, req->error);
    free (answer);
  }
}

void
source_set_state (struct source *src, enum source_state state, const char *why)
{
  CLEANUP_FREE char *text = NULL;

  if (*why && asprintf (&text, "%s: %s", src->name, why) == -1)
    text = NULL;
  {
    LOCK_SCOPE (&src->lock);
    bool same = src->state == state;

    if (src->stopping)
      return;
    src->state = state;
    snprintf (src->reason, sizeof src->reason, "%s", text ? text : why);
    pthread_cond_broadcast (&src->changed);
    if (same)
      return;
  }
  if (src->state_changed)
    src->state_changed (src->opaque, state, text ? text : why);
}
