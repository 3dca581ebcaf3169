/* source/conn.c - the life of one connection of a source.
 *
 * All here runs on the connection's own thread.  Every event (socket, timer,
 * kick) ends in conn_settle, which does whatever has become possible: loses a
 * dead handle, takes and sends what the queues have, calls the callbacks of
 * what is finished, and sets the watchers for the next event.
 *
 * A handle is lost when it is dead or closed, when it is silent for
 * c->patience with something sent, or when a sent request is past its
 * deadline (its buffer is the caller's again only once the handle is closed).
 * What was sent goes back to the head of the queues.  nbd_close never waits
 * for the server.
 *
 * Every connection proves the identity before it carries requests, so one
 * that was begun before the server was exchanged cannot slip through.
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
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"
#include "cleanup.h"
#include "log.h"
#include "probe.h"
#include "source/command.h"
#include "source/conn.h"
#include "source/identity.h"
#include "source/queue.h"
#include "source/read.h"
#include "source/resolve.h"

#define BACKOFF_MAX 1000
#define CONNECT_TIME 3000 /* until the server's host answers at all */
#define RESOLVE_POLL 20
#define BACKGROUND_IDLE 30000 /* then a background connection is closed */
#define EXTRA_BACKOFF_MIN 1000
#define EXTRA_BACKOFF_MAX 60000
#define PROBE_SIZE 512

static void on_io (struct ev_loop *loop, ev_io *w, int revents);
static void on_timer (struct ev_loop *loop, ev_timer *w, int revents);
static void conn_look (struct io_task *task);

/* How long a handshake may take: short at first, so that a server which
 * came back is reached soon, though an attempt made before hangs. */
static uint64_t
first_attempt_time (const struct source *src)
{
  return src->probing ? src->timeout
                      : min_u64 (max_u64 (src->silence, 1000), CONNECT_TIME);
}

void
conn_init (struct source_conn *c, struct source *src, unsigned index)
{
  c->src = src;
  c->index = index;
  c->task.look = conn_look;
  c->patience = src->silence;
  c->attempt_time = first_attempt_time (src);
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

static void
set_conn_state (struct source_conn *c, enum conn_state state)
{
  LOCK_SCOPE (&c->src->lock);
  c->state = state;
}

/* Losing a connection. */

/* Let go of the handle; requests stay in the lists. */
static void
drop_handle (struct source_conn *c)
{
  int fd = c->io.fd;

  ev_io_stop (c->task.thread->loop, &c->io);
  /* The process that it came from may have it open, too: then the server would
   * not see that it is closed. */
  if (c->adopted && fd >= 0)
    shutdown (fd, SHUT_WR);
  c->adopted = false;
  c->closing = true;
  nbd_close (c->h);
  c->closing = false;
  c->h = NULL;
  ev_io_set (&c->io, -1, 0);
  /* The server may be about to answer. */
  if (fd >= 0 && c->sent.head)
    io_thread_linger (c->task.thread, fd);
  else if (fd >= 0)
    close (fd);
  resolve_end (c->resolve);
  c->resolve = NULL;
  c->dead = false;
  c->muted = false;
}

/* Put what was sent back into the queues. */
static void
requeue (struct source_conn *c, uint64_t now)
{
  struct source *src = c->src;
  struct source_req *req;

  ASSERT_HELD (&c->src->lock);
  while ((req = c->sent.tail)) {
    req_remove (&c->sent, req);
    if (req->internal) {
      req->state = REQ_IDLE;
      req_clear (req);
      continue;
    }
    c->nr_sent[req->queue]--;
    c->bytes_sent[req->queue] -= req->length;
    req->error = req->state == REQ_CANCELLED             ? ECANCELED
                 : req->deadline && req->deadline <= now ? ETIMEDOUT
                                                         : 0;
    if (req->error) {
      req->state = REQ_IDLE;
      req_append (&c->finished, req);
    }
    else {
      req->state = REQ_WAITING;
      req->at = req->offset;
      if (req->deadline
          && (!src->next_deadline || req->deadline < src->next_deadline))
        src->next_deadline = req->deadline;
      req_prepend (&src->waiting[req->queue], req);
    }
  }
  c->next_deadline = 0;
}

/* The connection is no more, or could not be made; c->why says why.  hangs:
 * the server is silent. */
static void
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
  drop_handle (c);
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

    c->state = CONN_CLOSED;
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

/* Making a connection. */

/* It is not clear by itself who was not let in. */
static void
note_user (struct source_conn *c)
{
  size_t len = strlen (c->why);

  if (c->src->rights && trust_rights_user (c->src->rights) != geteuid ())
    snprintf (c->why + len, sizeof c->why - len,
              " (as user %lu, who owns the sidecar that names it; it is ours "
              "to reach if backing= is said)",
              (unsigned long)trust_rights_user (c->src->rights));
}

/* What is named may be any NBD server but one behind a command (ssh). */
static int
allow_transports (struct source_conn *c)
{
  if (!c->src->rights)
    return 0;
  return nbd_set_uri_allow_transports (
      c->h, LIBNBD_ALLOW_TRANSPORT_TCP | LIBNBD_ALLOW_TRANSPORT_UNIX
                | LIBNBD_ALLOW_TRANSPORT_VSOCK);
}

/* With the rights of who has named it: the socket, and the keys and
 * certificates, which are read as the handshake comes to them. */
static int
connect_uri (struct source_conn *c)
{
  struct source *src = c->src;
  struct trust_was was;
  int r = -1;

  if (trust_assume (src->rights, &was) == -1) {
    snprintf (c->why, sizeof c->why, "%s", strerror (errno));
    return -1;
  }
  /* libnbd 1.14 then trusts whatever certificate it is shown. */
  if (src->ca_file
      && faccessat (AT_FDCWD, src->ca_file, R_OK, AT_EACCESS) == -1)
    snprintf (c->why, sizeof c->why,
              "%s: %s; without a CA certificate any server would be trusted",
              src->ca_file, strerror (errno));
  else if ((r = nbd_aio_connect_uri (c->h, src->uri)) == -1)
    read_note_error (c);
  trust_resume (&was);
  return r;
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

static void
conn_connect (struct source_conn *c)
{
  struct source *src = c->src;
  int fd;

  set_conn_state (c, CONN_CONNECTING);
  c->give_up_at = c->opened_at + min_u64 (c->attempt_time, CONNECT_TIME);
  if (!(c->h = nbd_create ())
      || nbd_add_meta_context (c->h, LIBNBD_CONTEXT_BASE_ALLOCATION) == -1
      || nbd_set_uri_allow_local_file (c->h, true) == -1
      || allow_transports (c) == -1
      || nbd_set_pread_initialize (c->h, false) == -1)
    goto fail;
  if (src->command) {
    fd = command_connect (src->command, c->task.thread->loop, c->index == 0,
                          c->why, sizeof c->why);
    if (fd == -1) {
      conn_lost (c, false, SOURCE_LOST);
      return;
    }
    if (nbd_aio_connect_socket (c->h, fd) == -1)
      goto fail;
  }
  else if (connect_uri (c) == -1) {
    note_user (c);
    conn_lost (c, false, SOURCE_LOST);
  }
  return;

fail:
  read_note_error (c);
  conn_lost (c, false, SOURCE_LOST);
}

/* Take the kept handle over, which has negotiated long ago.  False: there is
 * none, or the server has closed it meanwhile. */
static bool
adopt (struct source_conn *c, uint64_t now)
{
  struct source *src = c->src;
  struct nbd_handle *h = src->kept;
  ssize_t n;
  char byte;

  src->kept = NULL;
  if (!h)
    return false;
  /* Nothing was asked, so nothing is answered; TLS may have something to say.
   */
  n = recv (nbd_aio_get_fd (h), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (n == 0 || (n == -1 && errno != EAGAIN)) {
    nbd_close (h);
    return false;
  }
  c->h = h;
  c->adopted = true;
  set_conn_state (c, CONN_CONNECTING);
  c->give_up_at = now + c->attempt_time;
  return true;
}

static void
conn_open (struct source_conn *c, uint64_t now)
{
  c->why[0] = '\0';
  c->opened_at = now;
  {
    LOCK_SCOPE (&c->src->lock);
    c->want_open = false;
    c->state = CONN_RESOLVING;
  }
  if (c->index == 0 && adopt (c, now))
    return;
  if (c->src->uri)
    c->resolve = resolve_begin (c->src->uri);
  if (!c->resolve)
    conn_connect (c);
}

static void
conn_resolved (struct source_conn *c, uint64_t now)
{
  switch (resolve_poll (c->resolve, c->why, sizeof c->why)) {
  case EINPROGRESS:
    if (now - c->opened_at < c->src->timeout)
      return;
    snprintf (c->why, sizeof c->why,
              "no answer about the host name for %u seconds",
              c->src->timeout / 1000);
    conn_lost (c, false, SOURCE_LOST);
    return;
  case 0:
    resolve_end (c->resolve);
    c->resolve = NULL;
    c->opened_at = now;
    conn_connect (c);
    return;
  default:
    conn_lost (c, false, SOURCE_LOST);
  }
}

/* So that a host which is gone is noticed on an idle connection, too. */
static void
set_keepalive (struct source_conn *c)
{
  int fd = nbd_aio_get_fd (c->h), on = 1, idle, step;

  idle = (int)max_u64 (c->src->timeout / 2000, 1);
  step = (int)max_u64 (c->src->timeout / 6000, 1);
  setsockopt (fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPINTVL, &step, sizeof step);
}

/* It carries requests from now on. */
static void
conn_up (struct source_conn *c)
{
  struct source *src = c->src;

  verify_free (c->verify);
  c->verify = NULL;
  c->progress_at = now_ms ();
  if (c->index == 0) {
    int multi = nbd_can_multi_conn (c->h);

    LOCK_SCOPE (&src->lock);
    src->multi_conn
        = multi == 1 && !(src->command && command_is_single (src->command));
    src->can_status = c->can_status;
    src->refused_until = 0;
    src->refused_backoff = 0;
    c->state = CONN_UP;
  }
  else {
    LOCK_SCOPE (&src->lock);
    src->refused_backoff = 0;
    c->state = CONN_UP;
  }
  PROBE (source_connected, src->name, c->index);
  log_debug ("%s: connection %u is up", src->name, c->index);
  if (c->index == 0)
    source_set_state (src, SOURCE_CONNECTED, "");
}

/* All samples were answered. */
static void
conn_verified (struct source_conn *c)
{
  struct source *src = c->src;
  uint8_t digest[SOURCE_DIGEST_SIZE];
  bool same;

  if (verify_digest (c->verify, digest, c->why, sizeof c->why) != 0) {
    conn_lost (c, false, SOURCE_LOST);
    return;
  }
  {
    LOCK_SCOPE (&src->lock);

    same = identity_take_or_match (&src->identity, digest);
    src->known = true;
  }
  if (same) {
    conn_up (c);
    return;
  }
  snprintf (c->why, sizeof c->why,
            "it is not the backing store this volume knows: its size is the "
            "same, but its content differs");
  conn_lost (c, false, SOURCE_REFUSED);
}

/* Ask for the samples. */
static void
conn_verify (struct source_conn *c, uint64_t size, uint64_t now)
{
  struct source_req *req;

  set_conn_state (c, CONN_VERIFYING);
  c->verify = verify_new (size);
  if (!c->verify) {
    snprintf (c->why, sizeof c->why, "out of memory");
    conn_lost (c, false, SOURCE_LOST);
    return;
  }
  for (unsigned i = 0; (req = verify_request (c->verify, i)); i++)
    read_send (c, req, now);
}

/* The handshake is done: is it the source we know? */
static void
conn_negotiated (struct source_conn *c, uint64_t now)
{
  struct source *src = c->src;
  int64_t size = nbd_get_size (c->h), n;
  uint64_t known;

  if (size < 0) {
    snprintf (c->why, sizeof c->why, "the server tells no size");
    conn_lost (c, false, SOURCE_LOST);
    return;
  }
  c->attempt_time = max_u64 (first_attempt_time (src),
                             min_u64 ((now - c->opened_at) * 2, src->timeout));
  c->can_status
      = nbd_can_meta_context (c->h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
  n = nbd_get_block_size (c->h, LIBNBD_SIZE_MINIMUM);
  c->block_min = n > 1 && is_power_of_2 ((uint64_t)n) ? (uint64_t)n : 1;
  n = nbd_get_block_size (c->h, LIBNBD_SIZE_MAXIMUM);
  c->block_max = n > 0 ? round_down ((uint64_t)n, c->block_min) : 0;
  set_keepalive (c);
  {
    LOCK_SCOPE (&src->lock);

    if (!src->known)
      src->identity.size = (uint64_t)size;
    if (src->identity_mode == SOURCE_IDENTITY_SIZE)
      src->known = true;
    known = src->identity.size;
  }
  if (known != (uint64_t)size) {
    snprintf (c->why, sizeof c->why,
              "it is not the backing store this volume knows: its size is "
              "%" PRIi64 " bytes, not %" PRIu64,
              size, known);
    conn_lost (c, false, SOURCE_REFUSED);
    return;
  }
  /* Of a connection that was kept the samples were compared when they were
   * read. */
  if (src->identity_mode == SOURCE_IDENTITY_SIZE
      || (c->adopted && src->known)) {
    conn_up (c);
    return;
  }
  conn_verify (c, (uint64_t)size, now);
}

/* Is the server still there?  Nothing else is sent that would tell. */

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
  struct req_list batch = { NULL, NULL };
  struct source_req *req;
  bool probe;

  {
    LOCK_SCOPE (&src->lock);

    while ((req = source_next (src, c, now)))
      req_append (&batch, req);
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
  if (probe && !c->sent.head)
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
      req_append (&c->finished, req);
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

  /* All were answered before it. */
  if (!c->sent.head)
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
    if (c->sent.head)
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
    if (c->dead || c->answered.head)
      again = true;
    if (c->finished.head)
      source_finish (c->src, &c->finished);
    if (c->state == CONN_CONNECTING && c->h && nbd_aio_is_ready (c->h)) {
      conn_negotiated (c, now);
      again = true;
    }
    if (c->state == CONN_VERIFYING && verify_is_answered (c->verify)) {
      conn_verified (c);
      again = true;
    }
    if (!again) {
      set_watcher (c);
      again = c->dead;
    }
  } while (again);
  set_timer (c, now_ms ());
}

/* Nothing is asked, and yet there is something to read. */
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
    if (c->state == CONN_UP && !c->sent.head && is_tls_chatter (c))
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
    /* It may have been us who slept. */
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
  for (req = c->sent.head; req; req = req->next) {
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
      conn_open (c, now);
    break;
  case CONN_RESOLVING:
    conn_resolved (c, now);
    break;
  case CONN_CONNECTING:
    if (c->h)
      check_connecting (c, now);
    break;
  case CONN_VERIFYING:
  case CONN_UP:
    if (c->sent.head)
      check_sent (c, now);
    else if (c->index > 0 && now >= c->progress_at + BACKGROUND_IDLE) {
      drop_handle (c);
      set_conn_state (c, CONN_CLOSED);
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
  if (src->keeping && c->state == CONN_UP && !c->dead && !c->sent.head
      && !c->answered.head && nbd_aio_is_ready (c->h)) {
    /* The descriptor that is watched is a duplicate, and is closed. */
    src->kept = c->h;
    c->h = NULL;
  }
  drop_handle (c);
  ev_timer_stop (c->task.thread->loop, &c->timer);
  if (src->command && c->index == 0)
    command_unwatch (src->command);
  {
    LOCK_SCOPE (&src->lock);

    c->state = CONN_CLOSED;
    while ((req = req_pop (&c->sent)) || (req = req_pop (&c->answered))) {
      req->state = REQ_IDLE;
      req->error = ESHUTDOWN;
      if (req->internal)
        req_clear (req);
      else
        req_append (&c->finished, req);
    }
    memset (c->nr_sent, 0, sizeof c->nr_sent);
    memset (c->bytes_sent, 0, sizeof c->bytes_sent);
    last = ++src->nr_stopped == src->nr_conns;
    if (last)
      for (unsigned i = 0; i < NR_PRIOS; i++)
        while ((req = req_pop (&src->waiting[i]))) {
          req->state = REQ_IDLE;
          req->error = ESHUTDOWN;
          req_append (&c->finished, req);
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
    conn_open (c, now);
  conn_settle (c);
}
