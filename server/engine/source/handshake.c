/* source/handshake.c - how a connection is made, until it carries requests.
 *
 * The host name is looked up, the handle connects and negotiates, the size is
 * compared, and the samples of the content are read and compared.  Every
 * connection proves the identity before it carries requests, so one that was
 * begun before the server was exchanged cannot slip through.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bytes.h"
#include "cleanup.h"
#include "log.h"
#include "probe.h"
#include "source/command.h"
#include "source/handshake.h"
#include "source/identity.h"
#include "source/lost.h"
#include "source/queue.h"
#include "source/read.h"
#include "source/resolve.h"

/* How long a handshake may take: short at first, so that a server which
 * came back is reached soon, though an attempt made before hangs. */
uint64_t
handshake_time (const struct source *src)
{
  return src->probing ? src->timeout
                      : min_u64 (max_u64 (src->silence, 1000), CONNECT_TIME);
}

/* Name the user in c->why: the error alone does not say who was not let in. */
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

static void
conn_connect (struct source_conn *c)
{
  struct source *src = c->src;
  int fd;

  conn_set_state (c, CONN_CONNECTING);
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
  conn_set_state (c, CONN_CONNECTING);
  c->give_up_at = now + c->attempt_time;
  return true;
}

void
handshake_begin (struct source_conn *c, uint64_t now)
{
  c->why[0] = '\0';
  c->opened_at = now;
  {
    LOCK_SCOPE (&c->src->lock);
    c->want_open = false;
    conn_set_state_locked (c, CONN_RESOLVING);
  }
  if (c->index == 0 && adopt (c, now))
    return;
  if (c->src->uri)
    c->resolve = resolve_begin (c->src->uri);
  if (!c->resolve)
    conn_connect (c);
}

void
handshake_resolved (struct source_conn *c, uint64_t now)
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

/* Keep-alive notices a host that is gone on an idle connection, too. */
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

/* From now on the connection carries requests. */
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
    conn_set_state_locked (c, CONN_UP);
  }
  else {
    LOCK_SCOPE (&src->lock);
    src->refused_backoff = 0;
    conn_set_state_locked (c, CONN_UP);
  }
  PROBE (source_connected, src->name, c->index);
  log_debug ("%s: connection %u is up", src->name, c->index);
  if (c->index == 0)
    source_set_state (src, SOURCE_CONNECTED, "");
}

/* All samples were answered. */
void
handshake_verified (struct source_conn *c)
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

  conn_set_state (c, CONN_VERIFYING);
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
void
handshake_negotiated (struct source_conn *c, uint64_t now)
{
  struct source *src = c->src;
  int64_t size = nbd_get_size (c->h), n;
  uint64_t known;

  if (size < 0) {
    snprintf (c->why, sizeof c->why, "the server tells no size");
    conn_lost (c, false, SOURCE_LOST);
    return;
  }
  c->attempt_time = max_u64 (handshake_time (src),
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
