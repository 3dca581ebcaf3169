/* source/read.c - requests on a libnbd handle: sent, answered, put together.
 *
 * libnbd calls back with its handle locked, in the middle of a notify or of
 * sending another request.  So its callbacks only take notes: in the struct
 * source_req, c->answered and c->dead.
 *
 * A read goes straight into the caller's buffer, which libnbd does not zero
 * first.  Instead read.c notes which bytes came: an answer that lacks some
 * bytes, or has some twice, is none.  Where the server's block sizes do not
 * allow a request as it is, it is widened into a buffer of ours, or asked in
 * parts, one after the other.
 *
 * An answer that is none (incomplete, or of a kind that the question cannot
 * have) is asked for once more, and is an error the second time.  Some of these
 * libnbd takes for the end of the connection, which of them depends on its
 * version; the others it reports as EPROTO, which no server can send.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "cleanup.h"
#include "log.h"
#include "source/queue.h"
#include "source/read.h"

/* A server that sends more chunks of one answer out of order is not believed:
 * servers that may do so send a few. */
#define MAX_PIECES 4096u

/* Why libnbd failed just now.  It puts the call's name first, which says
 * nothing to a user. */
void
read_note_error (struct source_conn *c)
{
  const char *text = nbd_get_error (), *colon;

  if (c->why[0])
    return;
  if (!text)
    text = "unknown error";
  colon = strchr (text, ':');
  if (strncmp (text, "nbd_", 4) == 0 && colon && colon[1] == ' ')
    text = colon + 2;
  snprintf (c->why, sizeof c->why, "%s", text);
}

/* What libnbd calls. */

/* A chunk that is not the next one.  What cannot be noted counts as not
 * received. */
static bool
note_piece (struct source_req *req, uint64_t offset, uint64_t count)
{
  size_t n = req->nr_pieces;

  /* Room is made at powers of two. */
  if ((n & (n - 1)) == 0) {
    struct source_piece *p
        = n < MAX_PIECES ? realloc (req->pieces, (n ? 2 * n : 1) * sizeof *p)
                         : NULL;

    if (!p)
      return false;
    req->pieces = p;
  }
  req->pieces[req->nr_pieces++]
      = (struct source_piece){ offset, offset + count };
  return true;
}

static int
on_chunk (void *user_data, const void *subbuf, size_t count, uint64_t offset,
          unsigned status, int *error)
{
  struct source_req *req = user_data;

  (void)subbuf;
  (void)error;
  if (status == LIBNBD_READ_ERROR || count == 0)
    return 0;
  if (offset == req->seen && req->nr_pieces == 0)
    req->seen += count;
  else if (!note_piece (req, offset, count))
    return 0;
  req->received += count;
  return 0;
}

static int
on_extents (void *user_data, const char *context, uint64_t offset,
            uint32_t *entries, size_t nr_entries, int *error)
{
  struct source_req *req = user_data;
  uint64_t limit = req->offset + req->length;
  struct source_extent *e;

  if (strcmp (context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
    return 0;
  e = realloc (req->answer, (nr_entries / 2 + 1) * sizeof *e);
  if (!e) {
    *error = ENOMEM;
    return -1;
  }
  req->answer = e;
  req->answer_size = 0;
  for (size_t i = 0; i + 1 < nr_entries && offset < limit; i += 2) {
    uint64_t start = max_u64 (offset, req->offset);
    uint64_t end = min_u64 (offset + entries[i], limit);
    uint32_t flags = entries[i + 1] & (LIBNBD_STATE_HOLE | LIBNBD_STATE_ZERO);

    offset += entries[i];
    if (end <= start)
      continue;
    if (req->answer_size > 0 && e[req->answer_size - 1].flags == flags)
      e[req->answer_size - 1].length += end - start;
    else
      e[req->answer_size++] = (struct source_extent){ end - start, flags };
  }
  return 0;
}

static int
on_completion (void *user_data, int *error)
{
  struct source_req *req = user_data;
  struct source_conn *c = req->conn;

  /* A newer libnbd completes what is in flight in nbd_close, an older one
   * does not; it stays where it is. */
  if (c->closing)
    return 1;
  /* The connection's end, or a server that is about to end it: it stays
   * among those sent, and is asked again. */
  if (*error == ENOTCONN || *error == ESHUTDOWN) {
    if (*error == ESHUTDOWN && !c->why[0])
      snprintf (c->why, sizeof c->why, "the server is shutting down");
    c->dead = true;
    return 1;
  }
  req->error = *error == EPROTO ? EPROTO : *error ? EIO : 0;
  TAILQ_REMOVE (&c->sent, req, link);
  TAILQ_INSERT_TAIL (&c->answered, req, link);
  return 1;
}

/* Sending. */

static int64_t
send_command (struct source_conn *c, struct source_req *req)
{
  nbd_completion_callback completion
      = { .callback = on_completion, .user_data = req };

  if (!req->buf) {
    nbd_extent_callback extents = { .callback = on_extents, .user_data = req };

    return nbd_aio_block_status (c->h, req->cmd_end - req->cmd_start,
                                 req->cmd_start, extents, completion, 0);
  }
  nbd_chunk_callback chunk = { .callback = on_chunk, .user_data = req };
  char *buf
      = req->bounce ? req->bounce : (char *)req->buf + (req->at - req->offset);

  return nbd_aio_pread_structured (c->h, buf, req->cmd_end - req->cmd_start,
                                   req->cmd_start, chunk, completion, 0);
}

static void
answer_now (struct source_conn *c, struct source_req *req, int error)
{
  req->error = error;
  TAILQ_REMOVE (&c->sent, req, link);
  TAILQ_INSERT_TAIL (&c->answered, req, link);
}

/* Send req, or its next part.  req is in c->sent until req is answered; where
 * the handle turns out dead, req stays in c->sent. */
void
read_send (struct source_conn *c, struct source_req *req, uint64_t now)
{
  uint64_t min = max_u64 (c->block_min, 1), end = req->offset + req->length;
  uint64_t size = c->src->identity.size;

  if (TAILQ_EMPTY (&c->sent))
    c->progress_at = now;
  req->conn = c;
  req->sent_at = now;
  TAILQ_INSERT_TAIL (&c->sent, req, link);
  if (!c->h || c->dead)
    return;
  if (!req->buf && !c->can_status) {
    answer_now (c, req, 0);
    return;
  }
  req->cmd_start = round_down (req->at, min);
  if (req->buf && c->block_max && end - req->cmd_start > c->block_max)
    end = req->cmd_start + c->block_max;
  req->part_end = end;
  req->cmd_end = min_u64 (round_up (end, min), max_u64 (size, end));
  if (req->buf) {
    req->seen = req->cmd_start;
    req->received = 0;
    req_clear (req);
    if (req->cmd_start != req->at || req->cmd_end != end) {
      req->bounce = calloc (1, req->cmd_end - req->cmd_start);
      if (!req->bounce) {
        answer_now (c, req, EIO);
        return;
      }
    }
  }
  c->muted = false;
  if (send_command (c, req) == -1) {
    if (nbd_aio_is_dead (c->h) || nbd_aio_is_closed (c->h)) {
      read_note_error (c);
      c->dead = true;
    }
    else {
      log_debug ("%s: request at %" PRIu64 ": %s", c->src->name, req->offset,
                 nbd_get_error ());
      answer_now (c, req, EIO);
    }
  }
}

static int
compare_pieces (const void *p1, const void *p2)
{
  const struct source_piece *a = p1, *b = p2;

  return a->start < b->start ? -1 : a->start > b->start;
}

/* Did each byte of the command come exactly once? */
static bool
is_whole (struct source_req *req)
{
  uint64_t at = req->seen;

  if (req->received != req->cmd_end - req->cmd_start)
    return false;
  if (req->nr_pieces > 1)
    qsort (req->pieces, req->nr_pieces, sizeof *req->pieces, compare_pieces);
  for (size_t i = 0; i < req->nr_pieces; i++) {
    if (req->pieces[i].start != at)
      return false;
    at = req->pieces[i].end;
  }
  return at == req->cmd_end;
}

/* A read's part was answered without error.  Returns true if there is a next
 * part to be asked. */
static bool
check_part (struct source_req *req)
{
  if (!is_whole (req)) {
    req->error = EPROTO;
    return false;
  }
  if (req->bounce)
    memcpy ((char *)req->buf + (req->at - req->offset),
            req->bounce + (req->at - req->cmd_start), req->part_end - req->at);
  req->at = req->part_end;
  return req->at < req->offset + req->length;
}

/* The answer was none.  Returns true if the same is to be asked once more. */
static bool
ask_again (struct source_req *req)
{
  bool again = !req->internal && !req->asked_again;

  log_debug ("%s: request at %" PRIu64 ": the server's answer is none%s",
             req->conn->src->name, req->offset, again ? ", asked again" : "");
  req->asked_again = true;
  req->error = again ? 0 : EIO;
  return again;
}

/* The requests that the server answered: to be finished, or asked on. */
void
read_take_answers (struct source_conn *c, uint64_t now)
{
  struct req_list answered = TAILQ_HEAD_INITIALIZER (answered);
  struct req_list again = TAILQ_HEAD_INITIALIZER (again);
  struct source *src = c->src;
  struct source_req *req, *next;

  TAILQ_CONCAT (&answered, &c->answered, link);
  for (req = TAILQ_FIRST (&answered); req; req = next) {
    next = TAILQ_NEXT (req, link);
    if (!req->internal) {
      c->patience = max_u64 (src->silence,
                             min_u64 (c->patience, 2 * (now - req->sent_at)));
      /* A handshake alone is not enough: some break at each request. */
      c->backoff = BACKOFF_MIN;
    }
    if ((req->error == 0 && req->buf && check_part (req))
        || (req->error == EPROTO && ask_again (req))) {
      TAILQ_REMOVE (&answered, req, link);
      TAILQ_INSERT_TAIL (&again, req, link);
    }
    else if (req->error == 0 && !req->buf) {
      if (req->answer_size == 0) {
        req->answer = realloc (req->answer, sizeof *req->answer);
        if (req->answer) {
          *req->answer = (struct source_extent){ req->length, 0 };
          req->answer_size = 1;
        }
        else
          req->error = EIO;
      }
    }
  }
  if (!TAILQ_EMPTY (&answered)) {
    LOCK_SCOPE (&src->lock);

    while ((req = req_pop (&answered))) {
      if (!req->internal) {
        source_is_back (c, req);
        if (req->error == 0 && req->buf)
          atomic_fetch_add_explicit (&src->bytes_read, req->length,
                                     memory_order_relaxed);
      }
      req->state = REQ_IDLE;
      TAILQ_INSERT_TAIL (&c->finished, req, link);
    }
  }
  while ((req = req_pop (&again)))
    read_send (c, req, now);
}
