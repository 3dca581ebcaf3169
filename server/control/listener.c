/* listener.c - the control socket's file, and accepting clients.
 *
 * The file gets its owner and mode after bind and before listen: until then
 * nobody can connect, whatever the umask made of the file.  The file is reached
 * through a descriptor of its own, so that a name which somebody swaps in a
 * shared folder is never followed.
 *
 * A file that is found at the path is probed: a socket that refuses is left
 * over from a dead process and is replaced, a socket that accepts is an error.
 * A flock on the folder keeps two processes from doing this at once (a socket
 * between bind and listen refuses too).  The flock is held for this moment
 * only, and done without if another process sits on it.
 *
 * Accepting: at the limit a new client takes the place of a client that did not
 * negotiate, else of a client that has been silent; so a crowd of idle clients
 * does not keep a client out that has something to say.  The limit is half of
 * the descriptors that this process may have, because disks are served with
 * descriptors too.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "address.h"
#include "cleanup.h"
#include "control/internal.h"
#include "log.h"
#include "message.h"
#include "thread.h"

#define ACCEPT_BATCH 64
#define ACCEPT_PAUSE 0.1 /* s, without descriptors */
#define LOCK_TRIES 10    /* of 100 ms */
#define BIND_TRIES 100

static void
lock_folder (int dir)
{
  const struct timespec pause = { .tv_nsec = 100 * 1000 * 1000 };

  for (int i = 0; i < LOCK_TRIES; i++) {
    if (flock (dir, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
      return;
    nanosleep (&pause, NULL);
  }
}

/* Another user sits on root's name.  What is there may be anything, a full
 * folder too: it is renamed, to a name that says so, and then removed if that
 * is possible. */
static int
take_back (const struct control *c, int dir, const char *name, uid_t uid,
           char **error)
{
  char aside[64];
  uint32_t number;

  if (getrandom (&number, sizeof number, 0) != sizeof number)
    number = (uint32_t)getpid ();
  snprintf (aside, sizeof aside, "squatted-%08x", number);
  if (renameat2 (dir, name, dir, aside, RENAME_NOREPLACE) == -1) {
    message_set (error,
                 "control socket '%s': what user %lu has put there cannot be "
                 "moved away: %m",
                 c->path, (unsigned long)uid);
    return -1;
  }
  log_error ("control socket '%s': user %lu had taken the name: taken back",
             c->path, (unsigned long)uid);
  if (unlinkat (dir, aside, 0) == -1)
    unlinkat (dir, aside, AT_REMOVEDIR);
  return 0;
}

/* Take away what a dead process left.  -1 with *error if anything else is
 * there. */
static int
clear_path (const struct control *c, int dir, const char *name,
            const struct sockaddr_un *addr, char **error)
{
  CLEANUP_CLOSE int fd = -1;
  struct ucred cred = { 0 };
  socklen_t len = sizeof cred;
  struct stat st;

  if (fstatat (dir, name, &st, AT_SYMLINK_NOFOLLOW) == -1) {
    if (errno == ENOENT)
      return 0;
    message_set (error, "control socket '%s': %m", c->path);
    return -1;
  }
  if (c->config.well_known && geteuid () == 0 && st.st_uid != 0)
    return take_back (c, dir, name, st.st_uid, error);
  if (!S_ISSOCK (st.st_mode)) {
    message_set (error,
                 "control socket '%s': there is a file of that name which is "
                 "no socket: remove it, or choose another path",
                 c->path);
    return -1;
  }
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd == -1) {
    message_set (error, "control socket '%s': socket: %m", c->path);
    return -1;
  }
  if (connect (fd, (const struct sockaddr *)addr, sizeof *addr) == 0
      || errno == EAGAIN) {
    if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0
        && cred.pid > 0)
      message_set (error,
                   "control socket '%s' is being served by process %ld: end "
                   "that, or choose another path",
                   c->path, (long)cred.pid);
    else
      message_set (error,
                   "control socket '%s' is being served by another process: "
                   "end that, or choose another path",
                   c->path);
    return -1;
  }
  if (errno == ENOENT)
    return 0;
  if (errno != ECONNREFUSED) {
    message_set (error,
                 "control socket '%s' exists, and whether it is in use cannot "
                 "be told: %m: remove it, or choose another path",
                 c->path);
    return -1;
  }
  if (unlinkat (dir, name, 0) == -1 && errno != ENOENT) {
    message_set (error,
                 "control socket '%s' is left over from another process, and "
                 "cannot be removed: %m",
                 c->path);
    return -1;
  }
  return 0;
}

static bool
is_ours (const struct control *c, const struct stat *st)
{
  return S_ISSOCK (st->st_mode) && st->st_dev == c->dev && st->st_ino == c->ino;
}

/* Set owner and mode of the file that was just made, and note its inode. */
static int
set_access (struct control *c, int dir, const char *name)
{
  const struct control_config *config = &c->config;
  CLEANUP_CLOSE int fd = openat (dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  char proc[64];
  struct stat st;

  if (fd == -1 || fstat (fd, &st) == -1)
    return -1;
  if (!S_ISSOCK (st.st_mode) || st.st_uid != geteuid ()) {
    errno = EEXIST;
    return -1;
  }
  c->dev = st.st_dev;
  c->ino = st.st_ino;
  {
    LOCK_SCOPE (&c->lock);
    c->listed = true;
  }
  if ((config->access.has_user || config->access.has_group)
      && fchownat (fd, "",
                   config->access.has_user ? config->access.user : (uid_t)-1,
                   config->access.has_group ? config->access.group : (gid_t)-1,
                   AT_EMPTY_PATH)
             == -1)
    return -1;
  snprintf (proc, sizeof proc, "/proc/self/fd/%d", fd);
  return chmod (proc,
                config->access.has_mode ? config->access.mode & 0777 : 0600);
}

/* Take a socket that was made for us, as systemd does: its file stays. */
static int
take_socket (struct control *c, char **error)
{
  int flags = fcntl (c->config.socket, F_GETFL);

  c->fd = c->config.socket;
  if (flags == -1 || fcntl (c->fd, F_SETFL, flags | O_NONBLOCK) == -1
      || fcntl (c->fd, F_SETFD, FD_CLOEXEC) == -1) {
    message_set (error, "control socket '%s': %m", c->path);
    return -1;
  }
  return 0;
}

static int
make_socket (struct control *c, char **error)
{
  const char *slash = strrchr (c->path, '/');
  const char *name = slash ? slash + 1 : c->path;
  CLEANUP_FREE char *folder
      = slash ? strndup (c->path, (size_t)(slash - c->path) + 1) : NULL;
  CLEANUP_CLOSE int dir = -1;
  struct sockaddr_un addr;

  if (*name == '\0') {
    message_set (error, "control socket '%s': that is a folder", c->path);
    return -1;
  }
  dir = open (folder ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir == -1 && errno == EACCES)
    dir = open (folder ? folder : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (dir == -1 || address_in (&addr, dir, name) == -1) {
    message_set (error, "control socket '%s': %m", c->path);
    return -1;
  }
  lock_folder (dir);
  c->fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (c->fd == -1) {
    message_set (error, "control socket '%s': %m", c->path);
    return -1;
  }
  for (int i = 0;; i++) {
    if (clear_path (c, dir, name, &addr, error) == -1)
      return -1;
    if (bind (c->fd, (const struct sockaddr *)&addr, sizeof addr) == 0)
      break;
    /* Another process was faster, and may be so again. */
    if (errno != EADDRINUSE || !c->config.well_known || i == BIND_TRIES) {
      message_set (error, "control socket '%s': %m", c->path);
      return -1;
    }
  }
  if (set_access (c, dir, name) == -1) {
    message_set (error,
                 "control socket '%s': its owner and mode cannot be set: %m",
                 c->path);
    return -1;
  }
  if (listen (c->fd, SOMAXCONN) == -1) {
    message_set (error, "control socket '%s': listen: %m", c->path);
    return -1;
  }
  return 0;
}

/* The program may change its folder before the file is to go. */
static char *
absolute (const char *path)
{
  CLEANUP_FREE char *cwd = NULL;
  char *whole = NULL;

  if (*path == '/')
    return strdup (path);
  cwd = getcwd (NULL, 0);
  if (cwd == NULL || asprintf (&whole, "%s/%s", cwd, path) == -1)
    return NULL;
  return whole;
}

struct control *
control_listen (const struct control_config *config, char **error)
{
  struct control *c = calloc (1, sizeof *c);

  if (c == NULL) {
    message_set (error, "control socket '%s': %m", config->path);
    return NULL;
  }
  c->fd = c->standing = -1;
  c->config = *config;
  lock_init (&c->lock, LOCK_CONTROL);
  lock_init (&c->stop_lock, LOCK_CONTROL_STOP);
  cond_init (&c->ended);
  for (int i = 0; i < NR_POOLS; i++)
    pool_init (&c->pools[i]);
  STAILQ_INIT (&c->inbox);
  TAILQ_INIT (&c->clients);
  TAILQ_INIT (&c->gone);
  TAILQ_INIT (&c->dead);
  LIST_INIT (&c->users);
  c->path = absolute (config->path);
  c->program = strdup (config->program ? config->program : "backfill");
  if (c->path == NULL || c->program == NULL) {
    message_set (error, "control socket '%s': %m", config->path);
    goto err;
  }
  if (config->own_dir) {
    const char *slash = strrchr (config->own_dir, '/');

    c->process = strdup (slash ? slash + 1 : config->own_dir);
    if (c->process == NULL) {
      message_set (error, "control socket '%s': %m", config->path);
      goto err;
    }
  }
  c->config.path = c->path;
  c->config.program = c->program;
  if (c->config.half_timeout == 0)
    c->config.half_timeout = HALF_TIMEOUT;
  if (c->config.output_timeout == 0)
    c->config.output_timeout = OUTPUT_TIMEOUT;
  if ((config->has_socket ? take_socket (c, error) : make_socket (c, error))
      == -1)
    goto err;
  return c;

err:
  control_free (c);
  return NULL;
}

void
listener_unlink (struct control *c)
{
  struct stat st;
  bool listed;

  {
    LOCK_SCOPE (&c->lock);
    listed = c->listed;
    c->listed = false;
  }
  if (listed && lstat (c->path, &st) == 0 && is_ours (c, &st)
      && unlink (c->path) == -1)
    log_debug ("control socket '%s' cannot be removed: %m", c->path);
}

/* --- accepting -------------------------------------------------------- */

static bool
may_connect (struct control *c, int fd)
{
  const struct control_config *config = &c->config;
  struct ucred cred;
  socklen_t len = sizeof cred;

  if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == -1)
    return false;
  if (!clients_has_room (c, cred.uid))
    return false;
  /* The kernel has checked the file's permissions. */
  if (config->access.has_mode || config->access.has_group || config->has_socket)
    return true;
  return cred.uid == 0 || cred.uid == geteuid ()
         || (config->access.has_user && cred.uid == config->access.user);
}

/* Accept no more for a moment, instead of spinning on a listener that stays
 * readable. */
static void
pause_accepting (struct control *c)
{
  ev_io_stop (c->loop, &c->accept_io);
  ev_timer_set (&c->accept_timer, ACCEPT_PAUSE, 0.);
  ev_timer_start (c->loop, &c->accept_timer);
}

/* Take the client that was accepted, at once or once there is room: in a second
 * at most some other client will have been silent for one. */
static bool
seat (struct control *c)
{
  int fd = c->standing;

  if (c->nr_clients >= c->max_clients && !clients_evict (c, false)
      && !clients_evict (c, true)) {
    pause_accepting (c);
    return false;
  }
  c->standing = -1;
  client_new (c, fd);
  return true;
}

static bool
someone_waits (const struct control *c)
{
  struct pollfd p = { .fd = c->fd, .events = POLLIN };
  int err = errno;
  bool waits = poll (&p, 1, 0) == 1;

  errno = err;
  return waits;
}

static void
on_accept (struct ev_loop *loop, ev_io *io, int revents)
{
  struct control *c = io->data;

  (void)loop;
  (void)revents;
  for (int i = 0; i < ACCEPT_BATCH; i++) {
    int fd = accept4 (c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd == -1) {
      if (errno == EINTR || errno == ECONNABORTED)
        continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK)
        return;
      /* There are no descriptors, which accept says even if no client waits; or
       * no memory.  Make room; if there is none to be had, look again soon. */
      if (!someone_waits (c))
        return;
      log_debug ("control socket '%s': accept: %m", c->path);
      if ((errno == EMFILE || errno == ENFILE)
          && (clients_evict (c, false) || clients_evict (c, true)))
        continue;
      pause_accepting (c);
      return;
    }
    if (!may_connect (c, fd)) {
      log_debug ("control socket '%s': a client of another user was refused",
                 c->path);
      close (fd);
      continue;
    }
    c->standing = fd;
    if (!seat (c))
      return;
  }
}

static void
on_accept_timer (struct ev_loop *loop, ev_timer *timer, int revents)
{
  struct control *c = timer->data;

  (void)revents;
  if (c->standing == -1 || seat (c))
    ev_io_start (loop, &c->accept_io);
}

void
listener_limit (struct control *c)
{
  struct rlimit limit;

  c->max_clients = MAX_CLIENTS;
  if (getrlimit (RLIMIT_NOFILE, &limit) == 0
      && limit.rlim_cur / 2 < c->max_clients)
    c->max_clients = (unsigned)(limit.rlim_cur / 2);
}

void
listener_start (struct control *c)
{
  ev_io_init (&c->accept_io, on_accept, c->fd, EV_READ);
  c->accept_io.data = c;
  ev_timer_init (&c->accept_timer, on_accept_timer, ACCEPT_PAUSE, 0.);
  c->accept_timer.data = c;
  ev_io_start (c->loop, &c->accept_io);
}

void
listener_stop (struct control *c)
{
  ev_io_stop (c->loop, &c->accept_io);
  ev_timer_stop (c->loop, &c->accept_timer);
  if (c->standing >= 0)
    close (c->standing);
  if (c->fd >= 0)
    close (c->fd);
  c->standing = c->fd = -1;
}
