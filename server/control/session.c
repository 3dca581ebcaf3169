/* session.c - one client of the control socket.
 *
 * A session runs one command at a time, and looks for the next only when that
 * was answered and its answers are being read.  What it does not look at
 * stays in the socket, so a client that sends without end, or never reads,
 * fills its own buffers and nobody else's.  Nothing here blocks.
 *
 * What a client can hold of our memory is bounded: half a message (1 MiB, for
 * 30 s), answers (64 KiB and one more), events (1 MiB, then it is closed),
 * and all clients together (MAX_HELD, beyond which the large ones go).  Of
 * connections and memory another user than root and our own has a share.
 *
 * A client that is gone while its command runs: the command ends as if it
 * were there, and the session outlives its socket until then.  A client that
 * only stops sending (a pipe's end) gets all its answers first.
 *
 * Locking: none; all here is on the loop's thread, but request_free.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/socket.h>

#include "cleanup.h"
#include "clock.h"
#include "control/internal.h"
#include "log.h"

#define READ_SIZE 65536u

/* A message to send; an event's is shared by all sessions. */
struct line {
  unsigned refs;
  size_t len;
  char *text;
};

struct out {
  struct out *next;
  struct line *line;
  bool event;
};

struct session {
  struct control *control;
  struct session *next, **link; /* in control's sessions, gone or dead */
  int fd;
  ev_io io;
  ev_timer kick; /* more messages wait in the buffer */

  struct control_peer peer;
  struct user *user;
  struct wire_in in;
  bool negotiated;
  bool busy;   /* a request is in a pool */
  bool whole;  /* there may be another whole message in the buffer */
  bool eof;    /* it sends no more */
  bool closed; /* no socket; waits to be freed */

  struct out *first, **tail;
  size_t sent; /* bytes of the first */
  size_t event_bytes, reply_bytes;
  size_t held; /* as counted in control->held */

  /* Seconds; half_since and reply_since are 0 when there is none. */
  double born, half_since, reply_since, last_command;
};

static double
now (void)
{
  return (double)now_ns () / 1e9;
}

void
request_free (struct request *request)
{
  call_free (&request->call);
  free (request->text);
  free (request->answer);
  free (request);
}

/* --- life ------------------------------------------------------------- */

static void
line_put (struct line *line)
{
  if (--line->refs > 0)
    return;
  free (line->text);
  free (line);
}

/* Takes text over; NULL on ENOMEM, or if text is. */
static struct line *
line_new (char *text, size_t len)
{
  struct line *line = text ? malloc (sizeof *line) : NULL;

  if (line == NULL) {
    free (text);
    return NULL;
  }
  *line = (struct line){ .refs = 1, .len = len, .text = text };
  return line;
}

static void
out_drop (struct session *s)
{
  struct out *out = s->first;

  if (out->event)
    s->event_bytes -= out->line->len;
  else
    s->reply_bytes -= out->line->len;
  s->first = out->next;
  if (s->first == NULL)
    s->tail = &s->first;
  s->sent = 0;
  line_put (out->line);
  free (out);
}

static void
list_add (struct session **list, struct session *s)
{
  s->next = *list;
  s->link = list;
  if (s->next)
    s->next->link = &s->next;
  *list = s;
}

static void
list_remove (struct session *s)
{
  *s->link = s->next;
  if (s->next)
    s->next->link = s->link;
}

static struct user *
find_user (const struct control *c, uid_t uid)
{
  struct user *user;

  for (user = c->users; user; user = user->next)
    if (user->uid == uid)
      break;
  return user;
}

/* NULL on ENOMEM. */
static struct user *
user_get (struct control *c, uid_t uid)
{
  struct user *user = find_user (c, uid);

  if (user == NULL) {
    user = calloc (1, sizeof *user);
    if (user == NULL)
      return NULL;
    user->uid = uid;
    user->next = c->users;
    c->users = user;
  }
  user->nr_sessions++;
  return user;
}

static void
user_put (struct control *c, struct user *user)
{
  struct user **p = &c->users;

  if (--user->nr_sessions > 0)
    return;
  while (*p != user)
    p = &(*p)->next;
  *p = user->next;
  free (user);
}

static void
bury (struct ev_loop *loop, ev_prepare *prepare, int revents)
{
  struct control *c = prepare->data;

  (void)loop;
  (void)revents;
  while (c->dead) {
    struct session *s = c->dead;

    list_remove (s);
    user_put (c, s->user);
    free (s);
  }
}

/* What sessions freed the C library keeps, in pieces.  After a crowd it goes
 * back to the system. */
static void
give_back (struct control *c)
{
  if (c->held > c->peak)
    c->peak = c->held;
  else if (c->peak - c->held > TRIM_BYTES) {
    malloc_trim (0);
    c->peak = c->held;
  }
}

void
session_close (struct session *s, const char *why)
{
  struct control *c = s->control;

  if (s->closed)
    return;
  if (why)
    log_debug ("control socket '%s': a client is disconnected: %s", c->path,
               why);
  s->closed = true;
  ev_io_stop (c->loop, &s->io);
  ev_timer_stop (c->loop, &s->kick);
  close (s->fd);
  s->fd = -1;
  if (s->next == NULL)
    c->last_session = s->link;
  list_remove (s);
  c->nr_sessions--;
  c->held -= s->held;
  s->user->held -= s->held;
  if (s->negotiated) {
    LOCK_SCOPE (&c->lock);
    c->nr_negotiated--;
  }
  if (c->nr_sessions == 0)
    ev_timer_stop (c->loop, &c->sweep_timer);
  wire_in_free (&s->in);
  while (s->first)
    out_drop (s);
  give_back (c);
  /* It may be in use further up the stack, or come back from a pool. */
  list_add (s->busy ? &c->gone : &c->dead, s);
}

/* --- sending ---------------------------------------------------------- */

/* Send what the socket takes.  May close the session. */
static void
flush (struct session *s)
{
  while (!s->closed && s->first) {
    const struct line *line = s->first->line;
    ssize_t n = send (s->fd, line->text + s->sent, line->len - s->sent,
                      MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n == -1) {
      if (errno == EINTR)
        continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK)
        session_close (s, "it is gone");
      return;
    }
    s->sent += (size_t)n;
    if (s->sent == line->len)
      out_drop (s);
    s->reply_since = s->reply_bytes > 0 ? now () : 0;
  }
}

/* Queue a line.  -1 on ENOMEM, and the session is closed. */
static int
put_line (struct session *s, struct line *line, bool event)
{
  struct out *out = line ? malloc (sizeof *out) : NULL;

  if (out == NULL) {
    session_close (s, "out of memory");
    return -1;
  }
  *out = (struct out){ .line = line, .event = event };
  line->refs++;
  *s->tail = out;
  s->tail = &out->next;
  if (event)
    s->event_bytes += line->len;
  else {
    if (s->reply_bytes == 0)
      s->reply_since = now ();
    s->reply_bytes += line->len;
  }
  return 0;
}

/* Queue an answer, which is taken over. */
static void
put_answer (struct session *s, char *text, size_t len)
{
  struct line *line = line_new (text, len);

  put_line (s, line, false);
  if (line)
    line_put (line);
}

/* --- what to wait for ------------------------------------------------- */

static bool
may_take (const struct session *s)
{
  return !s->closed && !s->busy && s->reply_bytes < MAX_REPLIES;
}

/* After anything has changed. */
static void
update (struct session *s)
{
  struct control *c = s->control;
  int events = 0;
  size_t held;

  if (s->closed)
    return;
  if (s->eof && !s->busy && !s->whole && s->first == NULL) {
    session_close (s, NULL);
    return;
  }
  held = s->in.cap + s->event_bytes + s->reply_bytes;
  c->held = c->held - s->held + held;
  s->user->held = s->user->held - s->held + held;
  s->held = held;
  if (held > MAX_HELD_ONE && !control_is_ours (s->peer.uid)
      && s->user->held > SHARE_ONE (MAX_HELD)) {
    session_close (s, "its user's clients together hold too much memory");
    return;
  }
  if (c->held > MAX_HELD && held > MAX_HELD_ONE) {
    session_close (s, "all clients together hold too much memory");
    return;
  }
  give_back (c);

  if (may_take (s)) {
    if (s->whole) {
      if (!ev_is_active (&s->kick)) {
        ev_timer_set (&s->kick, 0., 0.);
        ev_timer_start (c->loop, &s->kick);
      }
    }
    else if (!s->eof)
      events |= EV_READ;
  }
  if (s->first)
    events |= EV_WRITE;
  if ((s->io.events & (EV_READ | EV_WRITE)) == events
      && ev_is_active (&s->io) == (events != 0))
    return;
  ev_io_stop (c->loop, &s->io);
  ev_io_set (&s->io, s->fd, events);
  if (events)
    ev_io_start (c->loop, &s->io);
}

/* --- commands --------------------------------------------------------- */

/* It has been answered, or could not be. */
static void
finish (struct session *s, struct request *request)
{
  struct control *c = s->control;
  bool quit = request->call.quit;

  if (!s->closed) {
    if (request->call.negotiated && !s->negotiated) {
      LOCK_SCOPE (&c->lock);
      s->negotiated = true;
      c->nr_negotiated++;
    }
    put_answer (s, request->answer, request->answer_len);
    request->answer = NULL;
    s->last_command = now ();
    flush (s);
  }
  request_free (request);
  if (quit)
    c->config.quit (c->config.opaque);
}

static void
to_pool (struct session *s, struct request *request, enum where where)
{
  s->busy = true;
  if (pool_put (&s->control->pools[where], request))
    return;
  s->busy = false;
  request_free (request);
  session_close (s, "the program ends");
}

/* Answer at once what needs no waiting.  Not before events that came first:
 * the answer may already tell what they tell. */
static bool
answer_at_once (struct session *s, struct request *request)
{
  json_t *result = call_try (&request->call);

  if (result == NULL)
    return false;
  if (!inbox_is_empty (s->control)) {
    json_decref (result);
    return false;
  }
  request->answer = call_answer (&request->call, result, &request->answer_len);
  finish (s, request);
  return true;
}

/* call_begin was called. */
static void
dispatch (struct session *s, struct request *request,
          const struct command *command)
{
  if (command && command->where != RUN_LOOP) {
    if (!answer_at_once (s, request))
      to_pool (s, request, command->where);
    return;
  }
  request->answer = call_run (&request->call, &request->answer_len);
  finish (s, request);
}

/* One message: text, or why it is none. */
static void
take_message (struct session *s, const char *text, size_t len, const char *why)
{
  struct control *c = s->control;
  struct request *request = calloc (1, sizeof *request);
  json_t *message = NULL;
  json_error_t err;

  if (request == NULL) {
    session_close (s, "out of memory");
    return;
  }
  request->item.request = request;
  request->session = s;
  request->call.disks = &c->config.disks;
  request->call.volumes = c->config.volumes;
  request->call.peer = s->peer;
  request->call.peer.since = (uint64_t)(now () * 1000);
  request->call.peer.serial = ++c->serial;
  request->call.negotiated = s->negotiated;
  request->call.can_quit = c->config.quit != NULL;

  if (text && len > MAX_INLINE) {
    request->text = malloc (len);
    if (request->text == NULL) {
      request_free (request);
      session_close (s, "out of memory");
      return;
    }
    memcpy (request->text, text, len);
    request->text_len = len;
    request->parsing = true;
    to_pool (s, request, RUN_LOOP);
    return;
  }
  if (text) {
    message = wire_parse (text, len, &err);
    why = err.text;
  }
  dispatch (s, request, call_begin (&request->call, message, why));
}

/* Take messages from the buffer: a few, then it is the turn of others. */
static void
process (struct session *s)
{
  for (int i = 0; i < MAX_BATCH && may_take (s) && s->whole; i++) {
    const char *text = NULL, *why = NULL;
    size_t len = 0;

    switch (wire_in_next (&s->in, &text, &len)) {
    case WIRE_MORE:
      s->whole = false;
      if (s->in.depth == 0 && !s->in.skipping)
        s->half_since = 0;
      else if (s->half_since == 0)
        s->half_since = now ();
      continue;
    case WIRE_FRAME:
      break;
    case WIRE_TOO_BIG:
      why = "JSON parse error: a message may have 1 MiB at most";
      break;
    case WIRE_TOO_DEEP:
      why = "JSON parse error: a message may be nested 32 deep at most";
      break;
    case WIRE_GARBAGE:
      why = "JSON parse error: a message is a JSON object";
      break;
    }
    s->half_since = 0;
    take_message (s, text, len, why);
  }
  update (s);
}

void
session_done (struct request *request)
{
  struct session *s = request->session;
  bool gone = s->closed;

  s->busy = false;
  if (gone) {
    list_remove (s);
    list_add (&s->control->dead, s);
  }
  if (!request->parsing)
    finish (s, request);
  else if (gone)
    request_free (request);
  else {
    request->parsing = false;
    dispatch (s, request, request->call.error ? NULL : request->call.command);
  }
  process (s);
}

/* --- the socket ------------------------------------------------------- */

static void
read_some (struct session *s)
{
  char buf[READ_SIZE];
  ssize_t n = recv (s->fd, buf, sizeof buf, MSG_DONTWAIT);

  if (n == -1) {
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
      session_close (s, "it is gone");
    return;
  }
  if (n == 0)
    s->eof = true;
  else if (wire_in_add (&s->in, buf, (size_t)n) == -1) {
    session_close (s, "out of memory");
    return;
  }
  else
    s->whole = true;
}

static void
on_io (struct ev_loop *loop, ev_io *io, int revents)
{
  struct session *s = io->data;

  (void)loop;
  if (revents & EV_WRITE)
    flush (s);
  if (!s->closed && (revents & EV_READ))
    read_some (s);
  process (s);
}

static void
on_kick (struct ev_loop *loop, ev_timer *timer, int revents)
{
  (void)loop;
  (void)revents;
  process (timer->data);
}

void
session_new (struct control *c, int fd)
{
  struct session *s = calloc (1, sizeof *s);
  struct ucred cred = { .uid = (uid_t)-1, .gid = (gid_t)-1 };
  socklen_t cred_len = sizeof cred;
  json_t *greeting = NULL;
  char *text = NULL;
  size_t len = 0;

  if (s == NULL) {
    close (fd);
    return;
  }
  /* Nobody, if it fails. */
  getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_len);
  s->peer = (struct control_peer){
    .uid = cred.uid,
    .gid = cred.gid,
    .pid = cred.pid,
  };
  s->user = user_get (c, cred.uid);
  if (s->user == NULL) {
    free (s);
    close (fd);
    return;
  }
  s->control = c;
  s->fd = fd;
  s->tail = &s->first;
  s->born = now ();
  wire_in_init (&s->in);
  ev_io_init (&s->io, on_io, fd, 0);
  ev_timer_init (&s->kick, on_kick, 0., 0.);
  s->io.data = s->kick.data = s;
  s->link = c->last_session;
  *s->link = s;
  c->last_session = &s->next;
  if (c->nr_sessions++ == 0)
    ev_timer_again (c->loop, &c->sweep_timer);

  greeting = command_greeting (c->process);
  if (greeting)
    text = wire_line (greeting, &len);
  json_decref (greeting);
  put_answer (s, text, len);
  flush (s);
  update (s);
}

/* --- all of them ------------------------------------------------------ */

void
sessions_init (struct control *c)
{
  c->last_session = &c->sessions;
  ev_prepare_init (&c->bury_prepare, bury);
  c->bury_prepare.data = c;
  ev_prepare_start (c->loop, &c->bury_prepare);
}

/* With volumes there may be clients of several users: one sees what is its
 * own. */
static bool
may_see (const struct session *s, uid_t owner)
{
  return s->control->config.volumes == NULL || s->peer.uid == 0
         || s->peer.uid == geteuid () || s->peer.uid == owner;
}

void
session_events (struct control *c, char *text, size_t len, uid_t owner)
{
  struct line *line = line_new (text, len);
  struct session *s, *next;

  if (line == NULL) {
    sessions_drop (c, "out of memory");
    return;
  }
  for (s = c->sessions; s; s = next) {
    next = s->next;
    if (!s->negotiated || !may_see (s, owner))
      continue;
    if (s->event_bytes + len > MAX_EVENTS) {
      session_close (s, "it does not read its events");
      continue;
    }
    if (put_line (s, line, true) == 0) {
      flush (s);
      update (s);
    }
  }
  line_put (line);
}

/* Nothing of it would be lost but the connection. */
static bool
is_idle (const struct session *s, double at)
{
  return !s->busy && !s->whole && s->first == NULL
         && at - s->last_command >= 1.0;
}

/* Of this user alone; NULL: of all. */
static bool
evict (struct control *c, bool negotiated, const struct user *user)
{
  struct session *s, *found = NULL;
  double at = now ();

  for (s = c->sessions; s; s = s->next) {
    if (s->negotiated != negotiated || (user && s->user != user))
      continue;
    if (!negotiated) {
      /* Not one that is just about to: the next newcomer would take the place
       * of this one, and so on. */
      if (at - s->born >= GRACE)
        found = s;
      break;
    }
    if (is_idle (s, at) && (!found || s->last_command < found->last_command))
      found = s;
  }
  if (found)
    session_close (found, "there are too many");
  return found != NULL;
}

bool
session_evict (struct control *c, bool negotiated)
{
  return evict (c, negotiated, NULL);
}

bool
session_has_room (struct control *c, uid_t uid)
{
  const struct user *user = find_user (c, uid);
  unsigned others = 0;

  if (control_is_ours (uid))
    return true;
  if (user && user->nr_sessions >= SHARE_ONE (c->max_sessions))
    return evict (c, false, user) || evict (c, true, user);
  for (const struct user *u = c->users; u; u = u->next)
    if (!control_is_ours (u->uid))
      others += u->nr_sessions;
  return others < SHARE_OTHERS (c->max_sessions);
}

void
session_sweep (struct control *c)
{
  const struct control_config *config = &c->config;
  struct session *s, *next;
  double at = now ();

  for (s = c->sessions; s; s = next) {
    next = s->next;
    if (s->reply_since != 0 && at - s->reply_since > config->output_timeout)
      session_close (s, "it does not read its answers");
    else if (s->busy || s->reply_bytes >= MAX_REPLIES)
      continue; /* its input is not being looked at */
    else if (!s->negotiated && at - s->born > config->half_timeout)
      session_close (s, "it does not negotiate");
    else if (s->half_since != 0 && at - s->half_since > config->half_timeout)
      session_close (s, "half a message, and no more of it");
  }
}

void
sessions_drop (struct control *c, const char *why)
{
  struct session *s, *next;

  log_error ("control socket '%s': clients are disconnected: %s", c->path, why);
  for (s = c->sessions; s; s = next) {
    next = s->next;
    if (s->negotiated)
      session_close (s, why);
  }
}

void
sessions_end (struct control *c)
{
  while (c->sessions) {
    struct session *s = c->sessions;

    flush (s);
    session_close (s, NULL);
  }
  /* Their requests were forgotten, or hang and will not look at them. */
  while (c->gone) {
    struct session *s = c->gone;

    list_remove (s);
    list_add (&c->dead, s);
  }
  bury (c->loop, &c->bury_prepare, 0);
  ev_prepare_stop (c->loop, &c->bury_prepare);
}
