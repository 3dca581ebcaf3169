/* conn.c - one connection to a control socket.
 *
 * The socket is non-blocking and every wait is a poll with a deadline, so a
 * server that stops in the middle of anything costs no more than the timeout.
 * One request is in flight at a time; its id tells its answer from any other
 * message.  A message that is neither an event, nor the greeting at the start,
 * nor that answer makes the connection broken: nothing is guessed.
 *
 * Events that come are kept in order if the caller of conn_open asked for
 * events, else dropped as they are read.
 *
 * Locking: none; a connection has one user at a time (client.h).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <inttypes.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "address.h"
#include "client.h"
#include "cleanup.h"
#include "clock.h"

/* More than a server queues for a client: a flood, not news. */
#define MAX_EVENTS 100000u

int64_t
time_now (void)
{
  return (int64_t)now_ms ();
}

int64_t
time_deadline (unsigned timeout)
{
  return timeout == 0 ? DEADLINE_NEVER : time_now () + timeout;
}

/* Milliseconds for poll, rounded up, so as not to spin before the deadline. */
static int
time_left (int64_t deadline)
{
  int64_t left;

  if (deadline == DEADLINE_NEVER)
    return -1;
  left = deadline - time_now ();
  if (left <= 0)
    return 0;
  return left >= INT_MAX ? INT_MAX : (int)left + 1;
}

/* 0 when ready, -1 when the deadline came first. */
static int
wait_fd (int fd, short what, int64_t deadline)
{
  struct pollfd pfd = { .fd = fd, .events = what };

  for (;;) {
    int left = time_left (deadline);
    int r = poll (&pfd, 1, left);

    if (r > 0)
      return 0;
    if (r == -1 && errno != EINTR)
      return 0; /* let the I/O itself report what is wrong */
    if (left == 0)
      return -1;
  }
}

static int
timed_out (struct conn *conn, const char *what)
{
  conn->broken = true;
  return error_set (ETIMEDOUT,
                    "the server at '%s' does not answer (waiting for %s)",
                    conn->path, what);
}

static int
senseless (struct conn *conn, const char *what)
{
  conn->broken = true;
  return error_set (EPROTO, "the server at '%s' %s", conn->path, what);
}

static int
connect_path (int fd, const char *path, int64_t deadline)
{
  struct sockaddr_un addr;
  CLEANUP_CLOSE int dir = -1;

  if (address_of (&addr, path, &dir) == -1)
    return -1;
  for (;;) {
    struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };

    if (connect (fd, (struct sockaddr *)&addr, sizeof addr) == 0)
      return 0;
    /* EAGAIN is a full backlog: there is nothing to poll for. */
    if (errno != EAGAIN && errno != EINTR)
      return -1;
    if (time_left (deadline) == 0) {
      errno = ETIMEDOUT;
      return -1;
    }
    nanosleep (&pause, NULL);
  }
}

/* Read once, without waiting.  1: got bytes; 0: there are none now; -1: the
 * connection is over. */
static int
read_some (struct conn *conn)
{
  char buf[65536];
  ssize_t n;

  do
    n = recv (conn->fd, buf, sizeof buf, MSG_DONTWAIT);
  while (n == -1 && errno == EINTR);

  if (n == -1 && (errno == EAGAIN || errno == EWOULDBLOCK))
    return 0;
  if (n <= 0) {
    conn->broken = true;
    if (n == 0 || errno == ECONNRESET)
      error_set (ECONNRESET, "the server at '%s' closed the connection",
                 conn->path);
    else
      error_set (errno, "reading from the server at '%s': %m", conn->path);
    return -1;
  }
  if (wire_in_add (&conn->in, buf, (size_t)n) == -1) {
    conn->broken = true;
    error_nomem ();
    return -1;
  }
  return 1;
}

/* 1: *message is the next one that has been read; 0: more must be read. */
static int
next_message (struct conn *conn, json_t **message)
{
  json_error_t err;
  const char *frame;
  size_t len;

  switch (wire_in_next (&conn->in, &frame, &len)) {
  case WIRE_MORE:
    return 0;
  case WIRE_FRAME:
    break;
  case WIRE_TOO_BIG:
    return senseless (conn, "sent a message of more than 1 MiB");
  case WIRE_TOO_DEEP:
    return senseless (conn, "sent a message that is nested too deeply");
  case WIRE_GARBAGE:
    return senseless (conn, "does not speak backfill's protocol");
  }
  *message = wire_parse (frame, len, &err);
  if (*message == NULL)
    return senseless (conn, "sent what is not JSON");
  return 1;
}

/* The next message that is not an event.  Events are kept or dropped. */
static json_t *
read_message (struct conn *conn, const char *what, int64_t deadline)
{
  json_t *message = NULL;

  for (;;) {
    int r = next_message (conn, &message);

    if (r == -1)
      return NULL;
    if (r == 1) {
      if (json_object_get (message, "event") == NULL)
        return message;
      if (conn->events == NULL)
        json_decref (message);
      else if (json_array_size (conn->events) >= MAX_EVENTS) {
        json_decref (message);
        senseless (conn, "sends events without end");
        return NULL;
      }
      else if (json_array_append_new (conn->events, message) == -1) {
        conn->broken = true;
        return error_nomem ();
      }
      /* A server that sends events alone does not answer. */
      if (time_left (deadline) == 0) {
        timed_out (conn, what);
        return NULL;
      }
      continue;
    }
    if (wait_fd (conn->fd, POLLIN, deadline) == -1) {
      timed_out (conn, what);
      return NULL;
    }
    if (read_some (conn) == -1)
      return NULL;
  }
}

static int
write_all (struct conn *conn, const char *buf, size_t len, const char *what,
           int64_t deadline)
{
  while (len > 0) {
    ssize_t n = send (conn->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n >= 0) {
      buf += n;
      len -= (size_t)n;
    }
    else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      if (wait_fd (conn->fd, POLLOUT, deadline) == -1)
        return timed_out (conn, what);
    }
    else if (errno != EINTR) {
      conn->broken = true;
      if (errno == EPIPE || errno == ECONNRESET)
        return error_set (
            ECONNRESET, "the server at '%s' closed the connection", conn->path);
      return error_set (errno, "writing to the server at '%s': %m", conn->path);
    }
  }
  return 0;
}

static bool
is_trusted (const struct trust *trust, uid_t uid)
{
  switch (trust->whom) {
  case TRUST_ANYBODY:
    return true;
  case TRUST_AUTHOR:
    /* Root may have made the socket for the author, as systemd does; the
     * greeting tells which process answers. */
    return uid == trust->uid || uid == 0;
  case TRUST_OWNER:
    return uid == trust->uid || trust_about (uid, NULL);
  case TRUST_US:
    break;
  }
  return trust_about (uid, NULL);
}

static int
check_peer (const struct conn *conn, const struct trust *trust)
{
  if (is_trusted (trust, conn->peer))
    return 0;
  if (trust->whom == TRUST_AUTHOR)
    return error_set (ESRCH,
                      "control socket '%s' is now served by user %lu, who is "
                      "not the one in the registry",
                      conn->path, (unsigned long)conn->peer);
  return error_set (EPERM,
                    "control socket '%s' is served by user %lu, who is neither "
                    "root, nor you, nor the owner of the store: name the "
                    "socket if you trust it",
                    conn->path, (unsigned long)conn->peer);
}

int
conn_check (const struct conn *conn, const struct trust *trust)
{
  if (check_peer (conn, trust) == -1)
    return -1;
  if (trust->whom != TRUST_AUTHOR
      || (conn->process != NULL && strcmp (conn->process, trust->process) == 0))
    return 0;
  return error_set (ESRCH,
                    "control socket '%s' is now served by another process than "
                    "the one in the registry",
                    conn->path);
}

struct conn *
conn_adopt (int fd, const char *path, const struct trust *trust, bool events,
            int64_t deadline)
{
  struct conn *conn = calloc (1, sizeof *conn);
  const char *process;
  json_t *greeting, *reply;

  if (conn == NULL) {
    close (fd);
    return error_nomem ();
  }
  conn->fd = fd;
  wire_in_init (&conn->in);
  conn->path = strdup (path);
  conn->events = json_array ();
  if (conn->path == NULL || conn->events == NULL) {
    error_nomem ();
    goto error;
  }
  if (trust_peer (fd, &conn->peer, NULL) == -1) {
    error_set (errno, "'%s': cannot tell whose socket it is: %m", path);
    goto error;
  }
  /* Looked at before the greeting is waited for: a stranger may never send it.
   */
  if (check_peer (conn, trust) == -1)
    goto error;
  greeting = read_message (conn, "its greeting", deadline);
  if (greeting == NULL)
    goto error;
  if (!json_is_object (json_object_get (greeting, "QMP"))) {
    json_decref (greeting);
    senseless (conn, "is not a backfill control socket: no QMP greeting");
    goto error;
  }
  process = json_string_value (
      json_object_get (json_object_get (greeting, "QMP"), "process"));
  conn->process = process != NULL ? strdup (process) : NULL;
  json_decref (greeting);
  if (conn_check (conn, trust) == -1)
    goto error;
  reply = conn_execute (conn, "qmp_capabilities", NULL, deadline);
  if (reply == NULL)
    goto error;
  json_decref (reply);
  if (!events) {
    json_decref (conn->events);
    conn->events = NULL;
  }
  return conn;

error:
  conn_close (conn);
  return NULL;
}

struct conn *
conn_open (const char *path, const struct trust *trust, bool events,
           int64_t deadline)
{
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

  if (fd == -1) {
    error_set (errno, "socket: %m");
    return NULL;
  }
  if (connect_path (fd, path, deadline) == -1) {
    int err = errno;

    if (err == ETIMEDOUT)
      error_set (err, "the server at '%s' does not take the connection", path);
    else if (err == ECONNREFUSED)
      error_set (err, "control socket '%s': %m: nothing is serving it", path);
    else
      error_set (err, "control socket '%s': %m", path);
    close (fd);
    return NULL;
  }
  return conn_adopt (fd, path, trust, events, deadline);
}

void
conn_close (struct conn *conn)
{
  int err = errno;

  if (conn == NULL)
    return;
  close (conn->fd);
  wire_in_free (&conn->in);
  json_decref (conn->events);
  free (conn->path);
  free (conn->process);
  free (conn);
  errno = err;
}

bool
conn_usable (struct conn *conn)
{
  json_t *message;

  /* Bounded: a server that sends without end is better left. */
  for (unsigned i = 0; i < 10000 && !conn->broken; i++) {
    int r = next_message (conn, &message);

    if (r == -1)
      return false;
    if (r == 1) {
      bool event = json_object_get (message, "event") != NULL;

      json_decref (message);
      if (!event)
        return false;
      continue;
    }
    r = read_some (conn);
    if (r == -1)
      return false;
    if (r == 0)
      return true;
  }
  return false;
}

/* An errno value for an error object: the server's, else one for its class. */
static int
error_number (const char *class, const json_t *error)
{
  const json_t *number = json_object_get (error, "errno");

  if (json_is_integer (number)) {
    json_int_t n = json_integer_value (number);

    if (n > 0 && n < 4096)
      return (int)n;
  }
  if (strcmp (class, "DeviceNotFound") == 0)
    return ENOENT;
  if (strcmp (class, "DeviceNotActive") == 0)
    return ESRCH;
  if (strcmp (class, "CommandNotFound") == 0)
    return EOPNOTSUPP;
  return EINVAL;
}

/* Send a command, with an id of its own. */
static int
send_request (struct conn *conn, const char *command, json_t *arguments,
              int64_t deadline)
{
  CLEANUP_FREE char *line = NULL;
  json_t *request;
  size_t len;

  request = json_pack ("{s:s, s:I}", "execute", command, "id",
                       (json_int_t)(conn->last_id + 1));
  /* The command came from outside and may not be UTF-8. */
  if (request == NULL)
    return error_set (EINVAL, "'%s': not a command's name", command);
  conn->last_id++;
  if (arguments == NULL
      || json_object_set (request, "arguments", arguments) == 0)
    line = wire_line (request, &len);
  json_decref (request);
  if (line == NULL) {
    error_nomem ();
    return -1;
  }
  if (len >= WIRE_MAX_FRAME)
    return error_set (EMSGSIZE, "'%s': more than 1 MiB of arguments", command);
  return write_all (conn, line, len, command, deadline);
}

/* The error that the server answered with. */
static void
take_error (struct conn *conn, const json_t *error)
{
  const char *class = json_string_value (json_object_get (error, "class"));
  const char *desc = json_string_value (json_object_get (error, "desc"));

  if (class == NULL || desc == NULL) {
    senseless (conn, "reported an error without saying which");
    return;
  }
  conn->no_such_disk = strcmp (class, "DeviceNotFound") == 0;
  error_set (error_number (class, error), "%s", desc);
}

json_t *
conn_execute (struct conn *conn, const char *command, json_t *arguments,
              int64_t deadline)
{
  json_auto_t *reply = NULL;
  const json_t *id;
  json_t *value;

  conn->no_such_disk = false;
  if (send_request (conn, command, arguments, deadline) == -1)
    return NULL;
  reply = read_message (conn, command, deadline);
  if (reply == NULL)
    return NULL;
  id = json_object_get (reply, "id");
  if (id != NULL
      && (!json_is_integer (id) || json_integer_value (id) != conn->last_id)) {
    senseless (conn, "answered something that was not asked");
    return NULL;
  }
  value = json_object_get (reply, "error");
  if (value != NULL) {
    take_error (conn, value);
    return NULL;
  }
  value = json_object_get (reply, "return");
  if (value == NULL || id == NULL) {
    senseless (conn, "sent what is neither an answer nor an event");
    return NULL;
  }
  return json_incref (value);
}

json_t *
conn_event (struct conn *conn)
{
  json_t *message;

  for (;;) {
    int r;

    if (conn->events != NULL && json_array_size (conn->events) > 0) {
      message = json_incref (json_array_get (conn->events, 0));
      json_array_remove (conn->events, 0);
      return message;
    }
    if (conn->broken)
      return NULL;
    r = next_message (conn, &message);
    if (r == -1)
      return NULL;
    if (r == 1) {
      if (json_object_get (message, "event") != NULL)
        return message;
      json_decref (message);
      senseless (conn, "answered something that was not asked");
      return NULL;
    }
    if (read_some (conn) <= 0)
      return NULL;
  }
}

void
conn_poll (struct conn **conns, size_t n, int64_t deadline)
{
  CLEANUP_FREE struct pollfd *pfds = calloc (n, sizeof *pfds);

  if (pfds == NULL)
    return; /* the caller looks again, and fails in doing so */
  for (size_t i = 0; i < n; i++) {
    pfds[i].fd = conns[i]->fd;
    pfds[i].events = POLLIN;
  }
  poll (pfds, n, time_left (deadline));
}
