/* source/command.c - a backing store that is a command: [ nbdkit ... ].
 *
 * The command gets a listening unix socket as descriptor 3, as systemd's
 * socket activation passes it, so that it may be connected to several times;
 * one that has -s or --single among its arguments speaks NBD on its stdin
 * and stdout instead.  It runs in the folder that it was given in, with the
 * limit of open files that we were started with.  It gets no other descriptor
 * but stderr (as stdout, too), default signals, and dies with the thread that
 * started it: that is why only the pool's first thread starts commands.
 *
 * Its stderr is a pipe, each line of which goes to the log: our own stderr may
 * be nobody's.  The last one is told when it fails.
 *
 * A process is only ever signalled and waited for by its own pid, and stays
 * in ended[] until it was waited for, so no pid is used after its end.  A timer
 * on the thread's loop waits for what has ended.
 *
 * No locks: one thread at a time uses a struct command, but for
 * command_connect with start false, which only reads what never changes.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "address.h"
#include "cleanup.h"
#include "clock.h"
#include "bytes.h"
#include "log.h"
#include "runtime.h"
#include "source/command.h"

#define NR_ENDED                          \
  (sizeof ((struct command *)NULL)->ended \
   / sizeof ((struct command *)NULL)->ended[0])
#define GRACE 1000 /* ms from SIGTERM to SIGKILL, while we go on */
#define LOOK 0.25  /* s, between two looks for processes that have ended */

static void on_look (struct ev_loop *loop, ev_timer *w, int revents);
static void on_says (struct ev_loop *loop, ev_io *w, int revents);
static bool reap_ended (struct command *cmd, bool now);

static void
nap (unsigned ms)
{
  struct timespec ts = { .tv_nsec = ms * 1000000L };

  nanosleep (&ts, NULL);
}

/* Has pid ended?  Code that waits for all children of the process may have
 * reaped pid before us. */
static bool
reap (pid_t pid, int *status)
{
  pid_t r;

  do
    r = waitpid (pid, status, WNOHANG);
  while (r == -1 && errno == EINTR);
  if (r == -1)
    *status = 0;
  return r != 0;
}

static char *
join_words (const char *const *argv)
{
  size_t len = sizeof "[  ]";
  char *name, *p;

  for (unsigned i = 0; argv[i]; i++)
    len += strlen (argv[i]) + 1;
  name = malloc (len);
  if (!name)
    return NULL;
  p = stpcpy (name, "[ ");
  for (unsigned i = 0; argv[i]; i++) {
    p = stpcpy (p, argv[i]);
    *p++ = ' ';
  }
  strcpy (p, "]");
  return name;
}

/* What it says. */

static void
end_line (struct command *cmd)
{
  cmd->line[cmd->len] = '\0';
  /* The command may write any bytes: keep control characters out of the log. */
  for (char *p = cmd->line; *p; p++)
    if ((unsigned char)*p < ' ' || *p == 0x7f)
      *p = *p == '\t' ? ' ' : '?';
  if (cmd->len > 0) {
    log_info ("%s: %s", cmd->name, cmd->line);
    snprintf (cmd->last, sizeof cmd->last, "%.*s", (int)sizeof cmd->last - 1,
              cmd->line);
  }
  cmd->len = 0;
}

/* Take what is there, but no more than a pipe holds: others wait for the
 * thread.  False: there will be no more. */
static bool
read_says (struct command *cmd)
{
  char buf[4096];

  for (unsigned i = 0; i < 16; i++) {
    ssize_t n = read (cmd->says.fd, buf, sizeof buf);

    if (n == -1 && errno == EINTR)
      continue;
    if (n == -1 && errno == EAGAIN)
      return true;
    if (n <= 0) {
      end_line (cmd);
      return false;
    }
    for (ssize_t k = 0; k < n; k++) {
      if (buf[k] != '\n')
        cmd->line[cmd->len++] = buf[k];
      if (buf[k] == '\n' || cmd->len == sizeof cmd->line - 1)
        end_line (cmd);
    }
  }
  return true;
}

static void
close_says (struct command *cmd)
{
  if (cmd->says.fd == -1)
    return;
  ev_io_stop (cmd->loop, &cmd->says);
  close (cmd->says.fd);
  cmd->says.fd = -1;
}

static void
on_says (struct ev_loop *loop, ev_io *w, int revents)
{
  struct command *cmd = w->data;

  (void)loop;
  (void)revents;
  if (!read_says (cmd))
    close_says (cmd);
}

/* No process stays a zombie for long, whether there is a connection to be made
 * or not. */
static void
on_look (struct ev_loop *loop, ev_timer *w, int revents)
{
  struct command *cmd = w->data;

  (void)revents;
  if (cmd->pid && reap (cmd->pid, &cmd->status)) {
    cmd->pid = 0;
    cmd->gone = true;
  }
  if (!reap_ended (cmd, false) && !cmd->pid)
    ev_timer_stop (loop, w);
}

void
command_unwatch (struct command *cmd)
{
  if (!cmd->loop)
    return;
  ev_timer_stop (cmd->loop, &cmd->look);
  if (cmd->says.fd >= 0)
    read_says (cmd);
  /* The loop still knows the descriptor: no other thread may close it. */
  close_says (cmd);
  cmd->loop = NULL;
}

struct command *
command_new (const char *const *argv, const char *socket_dir, const char *dir)
{
  struct command *cmd = calloc (1, sizeof *cmd);
  uint64_t number;
  unsigned n = 0;
  bool single = false;

  if (!cmd)
    return NULL;
  if (!argv[0]) {
    free (cmd);
    errno = EINVAL;
    return NULL;
  }
  for (; argv[n]; n++)
    if (n && (!strcmp (argv[n], "-s") || !strcmp (argv[n], "--single")))
      single = true;
  cmd->argv = calloc (n + 1, sizeof *cmd->argv);
  cmd->name = join_words (argv);
  ev_init (&cmd->look, on_look);
  ev_init (&cmd->says, on_says);
  cmd->look.data = cmd->says.data = cmd;
  cmd->says.fd = -1;
  if (!cmd->argv || !cmd->name || (dir && !(cmd->dir = strdup (dir))))
    goto fail;
  for (unsigned i = 0; i < n; i++)
    if (!(cmd->argv[i] = strdup (argv[i])))
      goto fail;
  /* Not by our pid: another process that uses the folder may have the same,
   * from another pid namespace or because it goes on as its own child. */
  if (!single
      && (getrandom (&number, sizeof number, 0) != sizeof number
          || asprintf (&cmd->socket_path, "%s/source-%016" PRIx64 ".sock",
                       socket_dir ? socket_dir : "/tmp", number)
                 == -1)) {
    cmd->socket_path = NULL;
    goto fail;
  }
  return cmd;

fail:
  command_free (cmd);
  errno = ENOMEM;
  return NULL;
}

void
command_free (struct command *cmd)
{
  if (!cmd)
    return;
  for (unsigned i = 0; cmd->argv && cmd->argv[i]; i++)
    free (cmd->argv[i]);
  free (cmd->argv);
  free (cmd->name);
  free (cmd->dir);
  free (cmd->socket_path);
  free (cmd);
}

bool
command_is_single (const struct command *cmd)
{
  return !cmd->socket_path;
}

static int
make_listener (const char *path)
{
  struct sockaddr_un addr;
  CLEANUP_CLOSE int dir = -1;
  int fd;

  if (address_of (&addr, path, &dir) == -1)
    return -1;
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd == -1)
    return -1;
  /* An earlier run of the command may have left its socket. */
  unlink (path);
  /* Nobody can connect before listen, so the mode is right in time. */
  if (bind (fd, (struct sockaddr *)&addr, sizeof addr) == -1
      || chmod (path, 0600) == -1 || listen (fd, SOMAXCONN) == -1) {
    int err = errno;

    close (fd);
    errno = err;
    return -1;
  }
  return fd;
}

/* environ without LISTEN_*, and with ours; the value of LISTEN_PID is for the
 * child to fill in. */
static char **
make_environment (char *pid_entry)
{
  static char fds_entry[] = "LISTEN_FDS=1";
  size_t n = 0, k = 0;
  char **env;

  while (environ && environ[n])
    n++;
  env = calloc (n + 3, sizeof *env);
  if (!env)
    return NULL;
  if (pid_entry) {
    env[k++] = pid_entry;
    env[k++] = fds_entry;
  }
  for (size_t i = 0; i < n; i++)
    if (strncmp (environ[i], "LISTEN_", 7) != 0)
      env[k++] = environ[i];
  return env;
}

/* Runs after fork: makes only async-signal-safe calls. */
__attribute__ ((noreturn)) static void
run_child (struct command *cmd, char **env, char *pid_entry, int fd, int says,
           int dir, const struct rlimit *files, pid_t parent)
{
  struct sigaction dfl = { .sa_handler = SIG_DFL };
  sigset_t none;
  int null;

  if (prctl (PR_SET_PDEATHSIG, SIGTERM) == -1 || getppid () != parent)
    _exit (126);
  for (int sig = 1; sig < NSIG; sig++)
    sigaction (sig, &dfl, NULL);
  sigemptyset (&none);
  sigprocmask (SIG_SETMASK, &none, NULL);
  if (fchdir (dir) == -1 || (files && setrlimit (RLIMIT_NOFILE, files) == -1))
    _exit (126);
  /* Move fd and says away from descriptors 0 to 3, which are set below. */
  fd = fcntl (fd, F_DUPFD_CLOEXEC, 10);
  says = fcntl (says, F_DUPFD_CLOEXEC, 10);
  if (fd == -1 || says == -1 || dup2 (says, 2) == -1)
    _exit (126);
  if (cmd->socket_path) {
    char digits[24], *p = pid_entry + strlen ("LISTEN_PID=");
    long pid = (long)getpid ();
    int n = 0;

    do
      digits[n++] = (char)('0' + pid % 10);
    while ((pid /= 10) > 0);
    while (n > 0)
      *p++ = digits[--n];
    *p = '\0';
    null = open ("/dev/null", O_RDWR | O_CLOEXEC);
    if (null == -1 || dup2 (null, 0) == -1)
      _exit (126);
    /* Our own stdout may be an NBD connection. */
    if (dup2 (2, 1) == -1 || dup2 (fd, 3) == -1)
      _exit (126);
    close_range (4, ~0U, 0);
  }
  else {
    if (dup2 (fd, 0) == -1 || dup2 (fd, 1) == -1)
      _exit (126);
    close_range (3, ~0U, 0);
  }
  execvpe (cmd->argv[0], cmd->argv, env);
  _exit (errno == ENOENT ? 127 : 126);
}

static void
end_later (struct command *cmd, pid_t pid, bool hangs)
{
  unsigned i;
  int status;

  kill (pid, hangs ? SIGKILL : SIGTERM);
  for (i = 0; i < NR_ENDED && cmd->ended[i].pid; i++)
    ;
  if (i == NR_ENDED) {
    /* ended[] is full of processes that outlived SIGTERM: kill the first. */
    i = 0;
    kill (cmd->ended[0].pid, SIGKILL);
    for (unsigned n = 0; n < 100 && !reap (cmd->ended[0].pid, &status); n++)
      nap (1);
  }
  cmd->ended[i].pid = pid;
  cmd->ended[i].kill_at = now_ms () + GRACE;
}

static bool
reap_ended (struct command *cmd, bool now)
{
  uint64_t at = now_ms ();
  bool left = false;
  int status;

  for (unsigned i = 0; i < NR_ENDED; i++) {
    pid_t pid = cmd->ended[i].pid;

    if (!pid)
      continue;
    if (reap (pid, &status))
      cmd->ended[i].pid = 0;
    else {
      left = true;
      if (now || at >= cmd->ended[i].kill_at)
        kill (pid, SIGKILL);
    }
  }
  return left;
}

/* What the child speaks NBD on, into *child_end.  Returns the parent's end for
 * -s, 0 for socket activation, or -1 with errno. */
static int
make_ends (struct command *cmd, int *child_end)
{
  int sv[2];

  if (cmd->socket_path) {
    *child_end = make_listener (cmd->socket_path);
    return *child_end == -1 ? -1 : 0;
  }
  if (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) == -1)
    return -1;
  *child_end = sv[1];
  return sv[0];
}

/* Returns the parent's end for -s, 0 for socket activation, or -1 with errno,
 * or with why. */
static int
start (struct command *cmd, struct ev_loop *loop, char *why, size_t len)
{
  char pid_entry[sizeof "LISTEN_PID=" + 24] = "LISTEN_PID=";
  CLEANUP_FREE char **env
      = make_environment (cmd->socket_path ? pid_entry : NULL);
  CLEANUP_CLOSE int child_end = -1;
  CLEANUP_CLOSE int says = -1;
  CLEANUP_CLOSE int dir
      = open (cmd->dir ? cmd->dir : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  struct rlimit files;
  bool limited = runtime_files_limit (&files);
  pid_t parent = getpid (), pid;
  int ours, p[2];

  if (dir == -1) {
    snprintf (why, len, "the folder that the command runs in, %s: %s",
              cmd->dir ? cmd->dir : "/", strerror (errno));
    return -1;
  }
  if (!env)
    return -1;
  cmd->loop = loop;
  if (cmd->says.fd >= 0)
    read_says (cmd);
  close_says (cmd);
  cmd->len = 0;
  cmd->last[0] = '\0';
  cmd->gone = false;
  if (pipe2 (p, O_CLOEXEC) == -1)
    return -1;
  cmd->says.fd = p[0];
  says = p[1];
  fcntl (p[0], F_SETFL, O_NONBLOCK);
  ours = make_ends (cmd, &child_end);
  if (ours == -1)
    return -1;
  pid = fork ();
  if (pid == -1) {
    int err = errno;

    if (ours)
      close (ours);
    errno = err;
    return -1;
  }
  if (pid == 0)
    run_child (cmd, env, pid_entry, child_end, says, dir,
               limited ? &files : NULL, parent);
  ev_io_set (&cmd->says, cmd->says.fd, EV_READ);
  ev_io_start (loop, &cmd->says);
  ev_timer_stop (loop, &cmd->look);
  ev_timer_set (&cmd->look, LOOK, LOOK);
  ev_timer_start (loop, &cmd->look);
  cmd->pid = pid;
  cmd->started = true;
  return ours;
}

bool
command_ended (struct command *cmd, char *why, size_t len)
{
  const char *said = cmd->last;
  int status;

  /* The connection's end is seen a moment before the process's. */
  for (unsigned n = 0; cmd->pid; n++) {
    if (reap (cmd->pid, &cmd->status)) {
      cmd->pid = 0;
      cmd->gone = true;
    }
    else if (n == 10)
      return false;
    else
      nap (1);
  }
  if (!cmd->gone)
    return false;
  cmd->gone = false;
  status = cmd->status;
  if (cmd->says.fd >= 0 && !read_says (cmd))
    close_says (cmd);
  if (WIFSIGNALED (status))
    snprintf (why, len, "the command was ended by signal %d",
              WTERMSIG (status));
  else if (WEXITSTATUS (status) == 127)
    snprintf (why, len, "command %s not found, or it ended with status 127",
              cmd->argv[0]);
  else if (WEXITSTATUS (status) == 126)
    snprintf (why, len, "command %s cannot be run, or it ended with status 126",
              cmd->argv[0]);
  else
    snprintf (why, len, "the command ended with status %d",
              WEXITSTATUS (status));
  if (*said) {
    size_t n = strlen (why);

    snprintf (why + n, len - n, ": %s", said);
  }
  return true;
}

int
command_connect (struct command *cmd, struct ev_loop *loop, bool may_start,
                 char *why, size_t len)
{
  struct sockaddr_un addr;
  int fd, r;

  if (may_start) {
    int status;

    reap_ended (cmd, false);
    if (cmd->pid && reap (cmd->pid, &status))
      cmd->pid = 0;
    if (cmd->pid && !cmd->socket_path)
      command_end (cmd, false);
    if (!cmd->pid) {
      why[0] = '\0';
      r = start (cmd, loop, why, len);
      if (r == -1) {
        if (!why[0])
          snprintf (why, len, "cannot start the command: %s", strerror (errno));
        return -1;
      }
      if (!cmd->socket_path)
        return r;
    }
  }
  if (!cmd->socket_path) {
    snprintf (why, len, "the command serves one connection only");
    return -1;
  }
  CLEANUP_CLOSE int dir = -1;

  if (address_of (&addr, cmd->socket_path, &dir) == -1) {
    snprintf (why, len, "%s: %s", cmd->socket_path, strerror (errno));
    return -1;
  }
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd == -1 || connect (fd, (struct sockaddr *)&addr, sizeof addr) == -1) {
    snprintf (why, len, "connect: %s", strerror (errno));
    if (fd >= 0)
      close (fd);
    return -1;
  }
  return fd;
}

void
command_end (struct command *cmd, bool hangs)
{
  if (cmd->pid)
    end_later (cmd, cmd->pid, hangs);
  cmd->pid = 0;
}

void
command_stop (struct command *cmd)
{
  uint64_t start_at = now_ms ();

  command_end (cmd, false);
  while (reap_ended (cmd, now_ms () - start_at > 400)
         && now_ms () - start_at < 800)
    nap (5);
  if (cmd->socket_path && cmd->started)
    unlink (cmd->socket_path);
}
