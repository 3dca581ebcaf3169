/* client.c - one client of the control socket.
 *
 * A client has one command run at a time.  The loop looks for its next command
 * only when that one was answered, and the client reads its answers.  What the
 * loop does not look at stays in the socket: a client that sends without end,
 * or never reads, fills its own buffers and nobody else's.  Nothing here
 * blocks.
 *
 * What a client can hold of our memory is bounded: half a message (1 MiB, for
 * 30 s), answers (64 KiB and one more), events (1 MiB, then the client is
 * disconnected), and all clients together (MAX_HELD, beyond which the large
 * ones go).  Of connections and memory another user than root and our own has a
 * share.
 *
 * Where a client has gone while its command runs, the command ends as if the
 * client were there, and its struct client outlives its socket until then.  A
 * client that only stops sending (a pipe's end) gets all its answers first.
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

/* A message to send; an event's is shared by all clients. */
struct line {
  unsigned refs;
  size_t len;
  char *text;
};

struct out {
  STAILQ_ENTRY (out) entry;
  struct line *line;
  bool event;
};

struct client {
  struct control *control;
  TAILQ_ENTRY (client) entry; /* in control's clients, gone or dead */
  int fd;
  ev_io io;
  ev_timer kick; /* more messages wait in the buffer */

  struct control_peer peer;
  struct user *user;
  struct wire_in in;
  bool negotiated;
  bool busy;   /* a request is in a pool */
  bool whole;  /* there may be another whole message in the buffer */
  bool eof;    /* the client sends no more */
  bool closed; /* no socket; waits to be freed */

  STAILQ_HEAD (, out) outs; /* to be sent, oldest first */
  size_t sent;              /* bytes of the first */
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
out_drop (struct client *client)
{
  struct out *out = STAILQ_FIRST (&client->outs);

  if (out->event)
    client->event_bytes -= out->line->len;
  else
    client->reply_bytes -= out->line->len;
  STAILQ_REMOVE_HEAD (&client->outs, entry);
  client->sent = 0;
  line_put (out->line);
  free (out);
}

static struct user *
find_user (const struct control *c, uid_t uid)
{
  struct user *user;

  LIST_FOREACH (user, &c->users, entry)
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
    LIST_INSERT_HEAD (&c->users, user, entry);
  }
  user->nr_clients++;
  return user;
}

static void
user_put (struct user *user)
{
  if (--user->nr_clients > 0)
    return;
  LIST_REMOVE (user, entry);
  free (user);
}

static void
bury (struct ev_loop *loop, ev_prepare *prepare, int revents)
{
  struct control *c = prepare->data;

  (void)loop;
  (void)revents;
  while (!TAILQ_EMPTY (&c->dead)) {
    struct client *client = TAILQ_FIRST (&c->dead);

    TAILQ_REMOVE (&c->dead, client, entry);
    user_put (client->user);
    free (client);
  }
}

/* Memory that clients freed the C library keeps, in pieces.  After a crowd it
 * goes back to the system. */
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
client_close (struct client *client, const char *why)
{
  struct control *c = client->control;

  if (client->closed)
    return;
  if (why)
    log_debug ("control socket '%s': a client is disconnected: %s", c->path,
               why);
  client->closed = true;
  ev_io_stop (c->loop, &client->io);
  ev_timer_stop (c->loop, &client->kick);
  close (client->fd);
  client->fd = -1;
  TAILQ_REMOVE (&c->clients, client, entry);
  c->nr_clients--;
  c->held -= client->held;
  client->user->held -= client->held;
  if (client->negotiated) {
    LOCK_SCOPE (&c->lock);
    c->nr_negotiated--;
  }
  if (c->nr_clients == 0)
    ev_timer_stop (c->loop, &c->sweep_timer);
  wire_in_free (&client->in);
  while (!STAILQ_EMPTY (&client->outs))
    out_drop (client);
  give_back (c);
  /* A function further up the stack may use the client, or a pool give its
   * request back. */
  if (client->busy)
    TAILQ_INSERT_HEAD (&c->gone, client, entry);
  else
    TAILQ_INSERT_HEAD (&c->dead, client, entry);
}

/* --- sending ---------------------------------------------------------- */

/* Send what the socket takes.  May close the client. */
static void
flush (struct client *client)
{
  while (!client->closed && !STAILQ_EMPTY (&client->outs)) {
    const struct line *line = STAILQ_FIRST (&client->outs)->line;
    ssize_t n = send (client->fd, line->text + client->sent,
                      line->len - client->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n == -1) {
      if (errno == EINTR)
        continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK)
        client_close (client, "it is gone");
      return;
    }
    client->sent += (size_t)n;
    if (client->sent == line->len)
      out_drop (client);
    client->reply_since = client->reply_bytes > 0 ? now () : 0;
  }
}

/* Queue a line.  -1 on ENOMEM, and the client is closed. */
static int
put_line (struct client *client, struct line *line, bool event)
{
  struct out *out = line ? malloc (sizeof *out) : NULL;

  if (out == NULL) {
    client_close (client, "out of memory");
    return -1;
  }
  *out = (struct out){ .line = line, .event = event };
  line->refs++;
  STAILQ_INSERT_TAIL (&client->outs, out, entry);
  if (event)
    client->event_bytes += line->len;
  else {
    if (client->reply_bytes == 0)
      client->reply_since = now ();
    client->reply_bytes += line->len;
  }
  return 0;
}

/* Queue an answer, which is taken over. */
static void
put_answer (struct client *client, char *text, size_t len)
{
  struct line *line = line_new (text, len);

  put_line (client, line, false);
  if (line)
    line_put (line);
}

/* --- what to wait for ------------------------------------------------- */

static bool
may_take (const struct client *client)
{
  return !client->closed && !client->busy && client->reply_bytes < MAX_REPLIES;
}

/* Decide what to wait for, after anything has changed. */
static void
update (struct client *client)
{
  struct control *c = client->control;
  int events = 0;
  size_t held;

  if (client->closed)
    return;
  if (client->eof && !client->busy && !client->whole
      && STAILQ_EMPTY (&client->outs)) {
    client_close (client, NULL);
    return;
  }
  held = client->in.cap + client->event_bytes + client->reply_bytes;
  c->held = c->held - client->held + held;
  client->user->held = client->user->held - client->held + held;
  client->held = held;
  if (held > MAX_HELD_ONE && !control_is_ours (client->peer.uid)
      && client->user->held > SHARE_ONE (MAX_HELD)) {
    client_close (client, "its user's clients together hold too much memory");
    return;
  }
  if (c->held > MAX_HELD && held > MAX_HELD_ONE) {
    client_close (client, "all clients together hold too much memory");
    return;
  }
  give_back (c);

  if (may_take (client)) {
    if (client->whole) {
      if (!ev_is_active (&client->kick)) {
        ev_timer_set (&client->kick, 0., 0.);
        ev_timer_start (c->loop, &client->kick);
      }
    }
    else if (!client->eof)
      events |= EV_READ;
  }
  if (!STAILQ_EMPTY (&client->outs))
    events |= EV_WRITE;
  if ((client->io.events & (EV_READ | EV_WRITE)) == events
      && ev_is_active (&client->io) == (events != 0))
    return;
  ev_io_stop (c->loop, &client->io);
  ev_io_set (&client->io, client->fd, events);
  if (events)
    ev_io_start (c->loop, &client->io);
}

/* --- commands --------------------------------------------------------- */

/* The request has been answered, or could not be. */
static void
finish (struct client *client, struct request *request)
{
  struct control *c = client->control;
  bool quit = request->call.quit;

  if (!client->closed) {
    if (request->call.negotiated && !client->negotiated) {
      LOCK_SCOPE (&c->lock);
      client->negotiated = true;
      c->nr_negotiated++;
    }
    put_answer (client, request->answer, request->answer_len);
    request->answer = NULL;
    client->last_command = now ();
    flush (client);
  }
  request_free (request);
  if (quit)
    c->config.quit (c->config.opaque);
}

static void
to_pool (struct client *client, struct request *request, enum where where)
{
  client->busy = true;
  if (pool_put (&client->control->pools[where], request))
    return;
  client->busy = false;
  request_free (request);
  client_close (client, "the program ends");
}

/* Answer at once a command that needs no waiting.  Not while events are in the
 * inbox: the answer may already tell what those events tell. */
static bool
answer_at_once (struct client *client, struct request *request)
{
  json_t *result = call_try (&request->call);

  if (result == NULL)
    return false;
  if (!inbox_is_empty (client->control)) {
    json_decref (result);
    return false;
  }
  request->answer = call_answer (&request->call, result, &request->answer_len);
  finish (client, request);
  return true;
}

/* Run a command that call_begin has checked. */
static void
dispatch (struct client *client, struct request *request,
          const struct command *command)
{
  if (command && command->where != RUN_LOOP) {
    if (!answer_at_once (client, request))
      to_pool (client, request, command->where);
    return;
  }
  request->answer = call_run (&request->call, &request->answer_len);
  finish (client, request);
}

/* Take one message: its text, or why there is none. */
static void
take_message (struct client *client, const char *text, size_t len,
              const char *why)
{
  struct control *c = client->control;
  struct request *request = calloc (1, sizeof *request);
  json_t *message = NULL;
  json_error_t err;

  if (request == NULL) {
    client_close (client, "out of memory");
    return;
  }
  request->item.request = request;
  request->client = client;
  request->call.disks = &c->config.disks;
  request->call.volumes = c->config.volumes;
  request->call.peer = client->peer;
  request->call.peer.since = (uint64_t)(now () * 1000);
  request->call.peer.serial = ++c->serial;
  request->call.negotiated = client->negotiated;
  request->call.can_quit = c->config.quit != NULL;

  if (text && len > MAX_INLINE) {
    request->text = malloc (len);
    if (request->text == NULL) {
      request_free (request);
      client_close (client, "out of memory");
      return;
    }
    memcpy (request->text, text, len);
    request->text_len = len;
    request->parsing = true;
    to_pool (client, request, RUN_LOOP);
    return;
  }
  if (text) {
    message = wire_parse (text, len, &err);
    why = err.text;
  }
  dispatch (client, request, call_begin (&request->call, message, why));
}

/* Take a few messages from the buffer; then it is other clients' turn. */
static void
process (struct client *client)
{
  for (int i = 0; i < MAX_BATCH && may_take (client) && client->whole; i++) {
    const char *text = NULL, *why = NULL;
    size_t len = 0;

    switch (wire_in_next (&client->in, &text, &len)) {
    case WIRE_MORE:
      client->whole = false;
      if (client->in.depth == 0 && !client->in.skipping)
        client->half_since = 0;
      else if (client->half_since == 0)
        client->half_since = now ();
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
    client->half_since = 0;
    take_message (client, text, len, why);
  }
  update (client);
}

void
client_done (struct request *request)
{
  struct client *client = request->client;
  bool gone = client->closed;

  client->busy = false;
  if (gone) {
    TAILQ_REMOVE (&client->control->gone, client, entry);
    TAILQ_INSERT_HEAD (&client->control->dead, client, entry);
  }
  if (!request->parsing)
    finish (client, request);
  else if (gone)
    request_free (request);
  else {
    request->parsing = false;
    dispatch (client, request,
              request->call.error ? NULL : request->call.command);
  }
  process (client);
}

/* --- the socket ------------------------------------------------------- */

static void
read_some (struct client *client)
{
  char buf[READ_SIZE];
  ssize_t n = recv (client->fd, buf, sizeof buf, MSG_DONTWAIT);

  if (n == -1) {
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
      client_close (client, "it is gone");
    return;
  }
  if (n == 0)
    client->eof = true;
  else if (wire_in_add (&client->in, buf, (size_t)n) == -1) {
    client_close (client, "out of memory");
    return;
  }
  else
    client->whole = true;
}

static void
on_io (struct ev_loop *loop, ev_io *io, int revents)
{
  struct client *client = io->data;

  (void)loop;
  if (revents & EV_WRITE)
    flush (client);
  if (!client->closed && (revents & EV_READ))
    read_some (client);
  process (client);
}

static void
on_kick (struct ev_loop *loop, ev_timer *timer, int revents)
{
  (void)loop;
  (void)revents;
  process (timer->data);
}

void
client_new (struct control *c, int fd)
{
  struct client *client = calloc (1, sizeof *client);
  struct ucred cred = { .uid = (uid_t)-1, .gid = (gid_t)-1 };
  socklen_t cred_len = sizeof cred;
  json_t *greeting = NULL;
  char *text = NULL;
  size_t len = 0;

  if (client == NULL) {
    close (fd);
    return;
  }
  /* If this fails the client is nobody. */
  getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_len);
  client->peer = (struct control_peer){
    .uid = cred.uid,
    .gid = cred.gid,
    .pid = cred.pid,
  };
  client->user = user_get (c, cred.uid);
  if (client->user == NULL) {
    free (client);
    close (fd);
    return;
  }
  client->control = c;
  client->fd = fd;
  STAILQ_INIT (&client->outs);
  client->born = now ();
  wire_in_init (&client->in);
  ev_io_init (&client->io, on_io, fd, 0);
  ev_timer_init (&client->kick, on_kick, 0., 0.);
  client->io.data = client->kick.data = client;
  TAILQ_INSERT_TAIL (&c->clients, client, entry);
  if (c->nr_clients++ == 0)
    ev_timer_again (c->loop, &c->sweep_timer);

  greeting = command_greeting (c->process);
  if (greeting)
    text = wire_line (greeting, &len);
  json_decref (greeting);
  put_answer (client, text, len);
  flush (client);
  update (client);
}

/* --- all of them ------------------------------------------------------ */

void
clients_init (struct control *c)
{
  ev_prepare_init (&c->bury_prepare, bury);
  c->bury_prepare.data = c;
  ev_prepare_start (c->loop, &c->bury_prepare);
}

/* With volumes there may be clients of several users: a client sees events of
 * its user's stores. */
static bool
may_see (const struct client *client, uid_t owner)
{
  return client->control->config.volumes == NULL || client->peer.uid == 0
         || client->peer.uid == geteuid () || client->peer.uid == owner;
}

void
clients_events (struct control *c, char *text, size_t len, uid_t owner)
{
  struct line *line = line_new (text, len);
  struct client *client, *next;

  if (line == NULL) {
    clients_drop (c, "out of memory");
    return;
  }
  for (client = TAILQ_FIRST (&c->clients); client; client = next) {
    next = TAILQ_NEXT (client, entry);
    if (!client->negotiated || !may_see (client, owner))
      continue;
    if (client->event_bytes + len > MAX_EVENTS) {
      client_close (client, "it does not read its events");
      continue;
    }
    if (put_line (client, line, true) == 0) {
      flush (client);
      update (client);
    }
  }
  line_put (line);
}

/* Closing the client would lose nothing but its connection. */
static bool
is_idle (const struct client *client, double at)
{
  return !client->busy && !client->whole && STAILQ_EMPTY (&client->outs)
         && at - client->last_command >= 1.0;
}

/* clients_evict among the clients of this user alone; NULL: of all. */
static bool
evict (struct control *c, bool negotiated, const struct user *user)
{
  struct client *client, *found = NULL;
  double at = now ();

  TAILQ_FOREACH (client, &c->clients, entry) {
    if (client->negotiated != negotiated || (user && client->user != user))
      continue;
    if (!negotiated) {
      /* Not a client that is just about to negotiate: the next newcomer would
       * take the place of this one, and so on. */
      if (at - client->born >= GRACE)
        found = client;
      break;
    }
    if (is_idle (client, at)
        && (!found || client->last_command < found->last_command))
      found = client;
  }
  if (found)
    client_close (found, "there are too many");
  return found != NULL;
}

bool
clients_evict (struct control *c, bool negotiated)
{
  return evict (c, negotiated, NULL);
}

bool
clients_has_room (struct control *c, uid_t uid)
{
  const struct user *user = find_user (c, uid), *u;
  unsigned others = 0;

  if (control_is_ours (uid))
    return true;
  if (user && user->nr_clients >= SHARE_ONE (c->max_clients))
    return evict (c, false, user) || evict (c, true, user);
  LIST_FOREACH (u, &c->users, entry)
    if (!control_is_ours (u->uid))
      others += u->nr_clients;
  return others < SHARE_OTHERS (c->max_clients);
}

void
clients_sweep (struct control *c)
{
  const struct control_config *config = &c->config;
  struct client *client, *next;
  double at = now ();

  for (client = TAILQ_FIRST (&c->clients); client; client = next) {
    next = TAILQ_NEXT (client, entry);
    if (client->reply_since != 0
        && at - client->reply_since > config->output_timeout)
      client_close (client, "it does not read its answers");
    else if (client->busy || client->reply_bytes >= MAX_REPLIES)
      continue; /* the loop does not look at its input */
    else if (!client->negotiated && at - client->born > config->half_timeout)
      client_close (client, "it does not negotiate");
    else if (client->half_since != 0
             && at - client->half_since > config->half_timeout)
      client_close (client, "half a message, and no more of it");
  }
}

void
clients_drop (struct control *c, const char *why)
{
  struct client *client, *next;

  log_error ("control socket '%s': clients are disconnected: %s", c->path, why);
  for (client = TAILQ_FIRST (&c->clients); client; client = next) {
    next = TAILQ_NEXT (client, entry);
    if (client->negotiated)
      client_close (client, why);
  }
}

void
clients_end (struct control *c)
{
  while (!TAILQ_EMPTY (&c->clients)) {
    struct client *client = TAILQ_FIRST (&c->clients);

    flush (client);
    client_close (client, NULL);
  }
  /* The pools have forgotten their requests, or those hang for good. */
  TAILQ_CONCAT (&c->dead, &c->gone, entry);
  bury (c->loop, &c->bury_prepare, 0);
  ev_prepare_stop (c->loop, &c->bury_prepare);
}
