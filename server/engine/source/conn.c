/* source/conn.c - what one connection of a source does, event by event.
 *
 * All here runs on the connection's own thread.  Every event (socket, timer,
 * kick) ends in conn_settle, which does whatever has become possible: it loses
 * a dead handle, takes and sends what the queues have, calls the callbacks of
 * what is finished, and sets the watchers for the next event.
 *
 * A handle is lost when it is dead or closed, when it is silent for
 * c->patience with something sent, or when a sent request is past its
 * deadline (its buffer is the caller's again only once the handle is closed).
 * handshake.c makes a connection, lost.c ends one.
 *
 * What is left out: a server that dies of one certain request is asked it
 * again and again; only the request's deadline ends that.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"
#include "cleanup.h"
#include "log.h"
#include "source/command.h"
#include "source/conn.h"
#include "source/handshake.h"
#include "source/identity.h"
#include "source/lost.h"
#include "source/queue.h"
#include "source/read.h"

#define RESOLVE_POLL 20
#define BACKGROUND_IDLE 30000 /* then a background connection is closed */
#define PROBE_SIZE 512

static void on_io (struct ev_loop *loop, ev_io *w, int revents);
static void on_timer (struct ev_loop *loop, ev_timer *w, int revents);
static void conn_look (struct io_task *task);

void
conn_init (struct source_conn *c, struct source *src, unsigned index)
{
  c->src = src;
  c->index = index;
  c->task.look = conn_look;
  TAILQ_INIT (&c->sent);
  TAILQ_INIT (&c->answered);
  TAILQ_INIT (&c->finished);
  c->patience = src->silence;
  c->attempt_time = handshake_time (src);
  c->backoff = BACKOFF_MIN;
  ev_io_init (&c->io, on_io, -1, 0);
  c->io.data = c;
  ev_timer_init (&c->timer, on_timer, 0., 0.);
  c->timer.data = c;
}

void
conn_free (struct source_conn *c)
{
  free (c->probe_buf);
}

static int
notify (struct source_conn *c, int (*what) (struct nbd_handle *h))
{
  struct trust_was was = { .rights = NULL };
  int r;

  if (c->state == CONN_CONNECTING
      && trust_assume (c->src->rights, &was) == -1) {
    snprintf (c->why, sizeof c->why, "%s", strerror (errno));
    return -1;
  }
  r = what (c->h);
  if (r == -1)
    read_note_error (c);
  trust_resume (&was);
  return r;
}

/* Probe whether the server is still there: no other request would tell. */

static void
probe_done (struct source_req *req, int error)
{
  (void)req;
  (void)error;
}

static void
send_probe (struct source_conn *c, uint64_t now)
{
  uint64_t length = min_u64 (PROBE_SIZE, c->src->identity.size);

  if (!c->probe_buf)
    c->probe_buf = malloc (PROBE_SIZE);
  if (!c->probe_buf || length == 0)
    return;
  memset (&c->probe, 0, sizeof c->probe);
  c->probe.length = (uint32_t)length;
  c->probe.buf = c->probe_buf;
  c->probe.internal = true;
  c->probe.done = probe_done;
  read_send (c, &c->probe, now);
}

/* What has become possible. */

static void
take_requests (struct source_conn *c, uint64_t now)
{
  struct source *src = c->src;
  struct req_list batch = TAILQ_HEAD_INITIALIZER (batch);
  struct source_req *req;
  bool probe;

  {
    LOCK_SCOPE (&src->lock);

    while ((req = source_next (src, c, now)))
      TAILQ_INSERT_TAIL (&batch, req, link);
    probe = c->want_probe;
    c->want_probe = false;
    source_spread (src, now);
  }
  while ((req = req_pop (&batch))) {
    if (req->deadline
        && (!c->next_deadline || req->deadline < c->next_deadline))
      c->next_deadline = req->deadline;
    read_send (c, req, now);
  }
  if (probe && TAILQ_EMPTY (&c->sent))
    send_probe (c, now);
}

/* A refused source answers nothing. */
static void
refuse_waiting (struct source_conn *c)
{
  struct source *src = c->src;
  struct source_req *req;

  LOCK_SCOPE (&src->lock);
  if (src->state != SOURCE_REFUSED)
    return;
  for (unsigned i = 0; i < NR_PRIOS; i++)
    while ((req = req_pop (&src->waiting[i]))) {
      req->state = REQ_IDLE;
      req->error = EIO;
      TAILQ_INSERT_TAIL (&c->finished, req, link);
    }
}

/* Are they descriptors of one socket? */
static bool
is_same_socket (int fd1, int fd2)
{
  struct stat sb1, sb2;

  return fstat (fd1, &sb1) == 0 && fstat (fd2, &sb2) == 0
         && sb1.st_dev == sb2.st_dev && sb1.st_ino == sb2.st_ino;
}

/* What is watched is a duplicate of the handle's descriptor: it outlives the
 * handle (which closes its own when it likes), and epoll forgets a socket by
 * itself only when all its descriptors are closed. */
static void
set_watcher (struct source_conn *c)
{
  struct ev_loop *loop = c->task.thread->loop;
  int fd = c->io.fd, theirs, events = 0;
  unsigned dir;

  if (!c->h || (theirs = nbd_aio_get_fd (c->h)) == -1) {
    ev_io_stop (loop, &c->io);
    return;
  }
  dir = nbd_aio_get_direction (c->h);
  if (dir & LIBNBD_AIO_DIRECTION_READ && !c->muted)
    events |= EV_READ;
  if (dir & LIBNBD_AIO_DIRECTION_WRITE)
    events |= EV_WRITE;
  /* While it connects it goes from one address to the next. */
  if (fd >= 0 && c->state == CONN_CONNECTING && !is_same_socket (fd, theirs)) {
    ev_io_stop (loop, &c->io);
    close (fd);
    fd = -1;
  }
  if (fd == -1) {
    fd = fcntl (theirs, F_DUPFD_CLOEXEC, 3);
    if (fd == -1) {
      snprintf (c->why, sizeof c->why, "%s", strerror (errno));
      c->dead = true;
      return;
    }
  }
  else if (ev_is_active (&c->io)
           && (c->io.events & (EV_READ | EV_WRITE)) == events)
    return;
  ev_io_stop (loop, &c->io);
  ev_io_set (&c->io, fd, events);
  ev_io_start (loop, &c->io);
}

static void
sooner (uint64_t *at, uint64_t other)
{
  if (other && (!*at || other < *at))
    *at = other;
}

/* The timer may fire too early, never too late. */
static void
set_timer (struct source_conn *c, uint64_t now)
{
  struct ev_loop *loop = c->task.thread->loop;
  uint64_t at;

  /* All requests were answered before their deadline. */
  if (TAILQ_EMPTY (&c->sent))
    c->next_deadline = 0;
  at = c->next_deadline;
  switch (c->state) {
  case CONN_CLOSED:
    if (c->index == 0)
      sooner (&at, max_u64 (c->retry_at, 1));
    break;
  case CONN_RESOLVING:
    sooner (&at, now + RESOLVE_POLL);
    break;
  case CONN_CONNECTING:
    sooner (&at, c->give_up_at);
    break;
  case CONN_VERIFYING:
  case CONN_UP:
    if (!TAILQ_EMPTY (&c->sent))
      sooner (&at, c->progress_at + c->patience);
    else if (c->index > 0)
      sooner (&at, c->progress_at + BACKGROUND_IDLE);
  }
  if (c->index == 0) {
    LOCK_SCOPE (&c->src->lock);
    sooner (&at, c->src->next_deadline);
  }
  if (!at || (ev_is_active (&c->timer) && c->timer_at <= at))
    return;
  c->timer_at = at;
  ev_timer_stop (loop, &c->timer);
  ev_timer_set (&c->timer, at > now ? (double)(at - now) / 1000. + 0.001 : 0.,
                0.);
  ev_timer_start (loop, &c->timer);
}

static void
conn_settle (struct source_conn *c)
{
  bool again;

  do {
    uint64_t now = now_ms ();

    again = false;
    read_take_answers (c, now);
    if (c->h && (c->dead || nbd_aio_is_dead (c->h) || nbd_aio_is_closed (c->h)))
      conn_lost (c, false, SOURCE_LOST);
    if (c->state == CONN_UP)
      take_requests (c, now);
    if (c->index == 0)
      refuse_waiting (c);
    if (c->dead || !TAILQ_EMPTY (&c->answered))
      again = true;
    if (!TAILQ_EMPTY (&c->finished))
      source_finish (c->src, &c->finished);
    if (c->state == CONN_CONNECTING && c->h && nbd_aio_is_ready (c->h)) {
      handshake_negotiated (c, now);
      again = true;
    }
    if (c->state == CONN_VERIFYING && verify_is_answered (c->verify)) {
      handshake_verified (c);
      again = true;
    }
    if (!again) {
      set_watcher (c);
      again = c->dead;
    }
  } while (again);
  set_timer (c, now_ms ());
}

/* True if no request is in flight, and yet there are bytes to read. */
static bool
is_tls_chatter (struct source_conn *c)
{
  char byte;

  return nbd_get_tls_negotiated (c->h) == 1
         && recv (nbd_aio_get_fd (c->h), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

static void
on_io (struct ev_loop *loop, ev_io *w, int revents)
{
  struct source_conn *c = w->data;
  unsigned dir;
  int r = 0;

  (void)loop;
  if (!c->h)
    return;
  c->progress_at = now_ms ();
  dir = nbd_aio_get_direction (c->h);
  /* One notify for each event: told to read where nothing is to be read,
   * libnbd waits for an answer to begin and sends no more until one does. */
  if (revents & EV_READ && dir & LIBNBD_AIO_DIRECTION_READ) {
    if (c->state == CONN_UP && TAILQ_EMPTY (&c->sent) && is_tls_chatter (c))
      c->muted = true;
    else
      r = notify (c, nbd_aio_notify_read);
  }
  else if (revents & EV_WRITE && dir & LIBNBD_AIO_DIRECTION_WRITE)
    r = notify (c, nbd_aio_notify_write);
  if (r == -1)
    c->dead = true;
  conn_settle (c);
}

/* Time. */

static bool
is_readable (struct source_conn *c)
{
  struct pollfd p = { .fd = nbd_aio_get_fd (c->h), .events = POLLIN };

  return poll (&p, 1, 0) == 1;
}

static void
check_connecting (struct source_conn *c, uint64_t now)
{
  struct sockaddr_storage addr;
  socklen_t len = sizeof addr;
  uint64_t waited = now - c->opened_at;
  bool reached
      = getpeername (nbd_aio_get_fd (c->h), (struct sockaddr *)&addr, &len)
        == 0;

  uint64_t limit = reached ? c->attempt_time : CONNECT_TIME;

  if (waited < limit) {
    c->give_up_at = c->opened_at + limit;
    return;
  }
  if (reached)
    c->attempt_time = min_u64 (limit * 2, max_u64 (c->src->timeout, limit));
  snprintf (c->why, sizeof c->why,
            reached ? "it accepts connections, but says nothing"
                    : "no answer to the attempt to connect");
  conn_lost (c, true, SOURCE_LOST);
}

static void
check_sent (struct source_conn *c, uint64_t now)
{
  struct source_req *req;

  if (now >= c->progress_at + c->patience) {
    /* This thread, not the server, may have slept. */
    if (is_readable (c))
      c->progress_at = now;
    else {
      uint64_t ms = now - c->progress_at;

      snprintf (c->why, sizeof c->why,
                "no answer for %" PRIu64 ".%" PRIu64 " seconds", ms / 1000,
                ms % 1000 / 100);
      conn_lost (c, true, SOURCE_LOST);
      return;
    }
  }
  if (!c->next_deadline || now < c->next_deadline)
    return;
  c->next_deadline = 0;
  TAILQ_FOREACH (req, &c->sent, link) {
    if (req->deadline && req->deadline <= now) {
      snprintf (c->why, sizeof c->why,
                "a request was not answered by its deadline");
      conn_lost (c, false, SOURCE_LOST);
      return;
    }
    sooner (&c->next_deadline, req->deadline);
  }
}

static void
on_timer (struct ev_loop *loop, ev_timer *w, int revents)
{
  struct source_conn *c = w->data;
  uint64_t now = now_ms ();

  (void)loop;
  (void)revents;
  switch (c->state) {
  case CONN_CLOSED:
    if (c->index == 0 && now >= c->retry_at)
      handshake_begin (c, now);
    break;
  case CONN_RESOLVING:
    handshake_resolved (c, now);
    break;
  case CONN_CONNECTING:
    if (c->h)
      check_connecting (c, now);
    break;
  case CONN_VERIFYING:
  case CONN_UP:
    if (!TAILQ_EMPTY (&c->sent))
      check_sent (c, now);
    else if (c->index > 0 && now >= c->progress_at + BACKGROUND_IDLE) {
      conn_drop_handle (c);
      conn_set_state (c, CONN_CLOSED);
    }
  }
  if (c->index == 0) {
    LOCK_SCOPE (&c->src->lock);
    source_expire (c->src, &c->finished, now);
  }
  conn_settle (c);
}

/* The end. */

static void
conn_stop (struct source_conn *c)
{
  struct source *src = c->src;
  struct source_req *req;
  bool last;

  io_task_stop (&c->task);
  if (src->keeping && c->state == CONN_UP && !c->dead && TAILQ_EMPTY (&c->sent)
      && TAILQ_EMPTY (&c->answered) && nbd_aio_is_ready (c->h)) {
    /* The descriptor that is watched is a duplicate, and is closed. */
    src->kept = c->h;
    c->h = NULL;
  }
  conn_drop_handle (c);
  ev_timer_stop (c->task.thread->loop, &c->timer);
  if (src->command && c->index == 0)
    command_unwatch (src->command);
  {
    LOCK_SCOPE (&src->lock);

    conn_set_state_locked (c, CONN_CLOSED);
    while ((req = req_pop (&c->sent)) || (req = req_pop (&c->answered))) {
      req->state = REQ_IDLE;
      req->error = ESHUTDOWN;
      if (req->internal)
        req_clear (req);
      else
        TAILQ_INSERT_TAIL (&c->finished, req, link);
    }
    memset (c->nr_sent, 0, sizeof c->nr_sent);
    memset (c->bytes_sent, 0, sizeof c->bytes_sent);
    last = ++src->nr_stopped == src->nr_conns;
    if (last)
      for (unsigned i = 0; i < NR_PRIOS; i++)
        while ((req = req_pop (&src->waiting[i]))) {
          req->state = REQ_IDLE;
          req->error = ESHUTDOWN;
          TAILQ_INSERT_TAIL (&c->finished, req, link);
        }
  }
  verify_free (c->verify);
  c->verify = NULL;
  source_finish (src, &c->finished);
  LOCK_SCOPE (&src->lock);
  src->nr_ended++;
  pthread_cond_broadcast (&src->changed);
}

static void
conn_look (struct io_task *task)
{
  struct source_conn *c
      = (struct source_conn *)((char *)task
                               - offsetof (struct source_conn, task));
  uint64_t now;
  bool stopping, open;

  {
    LOCK_SCOPE (&c->src->lock);
    stopping = c->src->stopping;
    open = c->want_open && c->state == CONN_CLOSED;
  }
  if (stopping) {
    conn_stop (c);
    return;
  }
  now = now_ms ();
  if (c->index == 0 && c->state == CONN_CLOSED && c->retry_at == 0)
    open = true;
  if (open)
    handshake_begin (c, now);
  conn_settle (c);
}
