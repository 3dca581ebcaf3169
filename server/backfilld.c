/* backfilld.c - the daemon for volumes that no guest has open.
 *
 * It serves the control protocol on a socket of its own, where a disk's name is
 * its store's path.  This file has the command line, the start, and the wait
 * for the end; the volumes are in volumes/.
 *
 * The main thread takes the signals (SIGTERM, SIGINT, SIGHUP: end); all other
 * threads have them blocked.  systemd may hand over the socket, and is told
 * when the daemon is ready.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"
#include "control.h"
#include "disk.h"
#include "log.h"
#include "path.h"
#include "runtime.h"
#include "units.h"
#include "volumes/volumes.h"

#define LISTEN_FDS_START 3
#define SOCKET_NAME "backfilld.sock"

struct options {
  const char *socket, *runtime_dir, *state_dir;
  struct control_access access;
  unsigned max_jobs, max_volumes;
  uint64_t speed, idle, grace;
  bool commands;
};

static struct control *control;
static pthread_t main_thread;
static bool verbose;

static void
log_to_stderr (enum log_level level, const char *fmt, va_list ap)
{
  char text[1024];
  int err = errno;

  if (level == LOG_LEVEL_DEBUG && !verbose)
    return;
  errno = err;
  vsnprintf (text, sizeof text, fmt, ap);
  /* systemd takes the priority from the line's beginning. */
  fprintf (stderr, "%sbackfilld: %s\n",
           getenv ("JOURNAL_STREAM") == NULL ? ""
           : level == LOG_LEVEL_ERROR        ? "<3>"
           : level == LOG_LEVEL_INFO         ? "<6>"
                                             : "<7>",
           text);
}

static void
on_event (void *opaque, const struct disk_event *event)
{
  (void)opaque;
  if (control)
    control_event (control, event);
}

static void
on_kick (void *opaque)
{
  (void)opaque;
  if (control)
    control_kick (control);
}

static void
on_quit (void *opaque)
{
  (void)opaque;
  pthread_kill (main_thread, SIGTERM);
}

/* --- the command line ------------------------------------------------- */

enum {
  OPT_SOCKET = 256,
  OPT_SOCKET_MODE,
  OPT_SOCKET_USER,
  OPT_SOCKET_GROUP,
  OPT_RUNTIME_DIR,
  OPT_STATE_DIR,
  OPT_MAX_JOBS,
  OPT_MAX_VOLUMES,
  OPT_SPEED,
  OPT_IDLE,
  OPT_GRACE,
  OPT_COMMANDS,
};

static const struct option long_options[] = {
  { "socket", required_argument, NULL, OPT_SOCKET },
  { "socket-mode", required_argument, NULL, OPT_SOCKET_MODE },
  { "socket-user", required_argument, NULL, OPT_SOCKET_USER },
  { "socket-group", required_argument, NULL, OPT_SOCKET_GROUP },
  { "runtime-dir", required_argument, NULL, OPT_RUNTIME_DIR },
  { "state-dir", required_argument, NULL, OPT_STATE_DIR },
  { "max-jobs", required_argument, NULL, OPT_MAX_JOBS },
  { "max-volumes", required_argument, NULL, OPT_MAX_VOLUMES },
  { "speed", required_argument, NULL, OPT_SPEED },
  { "idle", required_argument, NULL, OPT_IDLE },
  { "grace", required_argument, NULL, OPT_GRACE },
  { "commands", no_argument, NULL, OPT_COMMANDS },
  { "verbose", no_argument, NULL, 'v' },
  { "help", no_argument, NULL, 'h' },
  { "version", no_argument, NULL, 'V' },
  { NULL, 0, NULL, 0 },
};

static const char help[]
    = "usage: backfilld [OPTION ...] FOLDER ...\n"
      "Fill in volumes that no guest has open: those below the folders.\n"
      "\n"
      "  --socket=PATH        control socket (RUNTIME-DIR/" SOCKET_NAME ")\n"
      "  --socket-mode=MODE   its mode, octal (0600)\n"
      "  --socket-user=USER   its owner, who may then ask too\n"
      "  --socket-group=GROUP its group\n"
      "  --runtime-dir=DIR    working maps and registry (/run/backfill)\n"
      "  --state-dir=DIR      which jobs to go on with (/var/lib/backfilld)\n"
      "  --max-jobs=N         jobs that run at once, 0 = any number (8)\n"
      "  --max-volumes=N      volumes that are open at once (256)\n"
      "  --speed=SPEED        limit of all jobs together, bytes per second;\n"
      "                       suffixes k M G T (0 = none)\n"
      "  --idle=TIME          close a volume that is not used (10)\n"
      "  --grace=TIME         take back a lent volume when nobody has had it\n"
      "                       open for this time (10)\n"
      "  --commands           run backing stores of the form [ COMMAND ... ]\n"
      "  -v, --verbose        say more\n"
      "  -h, --help           this\n"
      "  -V, --version        the version\n";

static int
usage (const char *fmt, ...)
{
  va_list ap;

  fprintf (stderr, "backfilld: ");
  va_start (ap, fmt);
  vfprintf (stderr, fmt, ap);
  va_end (ap);
  fprintf (stderr, "; see backfilld --help\n");
  return 2;
}

static bool
parse_number (const char *text, uint64_t max, uint64_t *value)
{
  char *end;

  errno = 0;
  if (text[0] < '0' || text[0] > '9')
    return false;
  *value = strtoull (text, &end, 10);
  return errno == 0 && *end == '\0' && *value <= max;
}

static int
parse_mode (struct control_access *access)
{
  char *end;
  unsigned long n = strtoul (optarg, &end, 8);

  if (*optarg < '0' || *optarg > '7' || *end || n > 0777)
    return usage ("--socket-mode=%s: give an octal mode, as in 0660", optarg);
  access->mode = (mode_t)n;
  access->has_mode = true;
  return -1;
}

static int
parse_user (struct control_access *access)
{
  const struct passwd *pw = getpwnam (optarg);

  if (!pw)
    return usage ("--socket-user=%s: no such user", optarg);
  access->user = pw->pw_uid;
  access->has_user = true;
  return -1;
}

static int
parse_group (struct control_access *access)
{
  const struct group *gr = getgrnam (optarg);

  if (!gr)
    return usage ("--socket-group=%s: no such group", optarg);
  access->group = gr->gr_gid;
  access->has_group = true;
  return -1;
}

/* A number of min to 100000. */
static int
parse_count (const char *option, unsigned min, unsigned *count)
{
  uint64_t n;

  if (!parse_number (optarg, 100000, &n) || n < min)
    return usage ("--%s=%s: not a number%s", option, optarg,
                  min ? " of 1 or more" : "");
  *count = (unsigned)n;
  return -1;
}

static int
parse_speed (uint64_t *speed)
{
  const char *why;

  if (units_speed (optarg, speed, &why) == -1)
    return usage ("--speed=%s: give bytes per second, as in 100M: %s", optarg,
                  why);
  return -1;
}

static int
parse_time (const char *option, uint64_t *ms)
{
  const char *why = "it must end";

  if (units_time (optarg, ms, &why) == -1 || *ms == UNITS_FOREVER)
    return usage ("--%s=%s: not a time: %s", option, optarg, why);
  return -1;
}

/* One option, whose value is optarg.  As all above: the exit status if the
 * program is to end now, else -1. */
static int
parse_option (int c, struct options *o)
{
  switch (c) {
  case OPT_SOCKET:
    o->socket = optarg;
    return -1;
  case OPT_SOCKET_MODE:
    return parse_mode (&o->access);
  case OPT_SOCKET_USER:
    return parse_user (&o->access);
  case OPT_SOCKET_GROUP:
    return parse_group (&o->access);
  case OPT_RUNTIME_DIR:
    o->runtime_dir = optarg;
    return -1;
  case OPT_STATE_DIR:
    o->state_dir = optarg;
    return -1;
  case OPT_MAX_JOBS:
    return parse_count ("max-jobs", 0, &o->max_jobs);
  case OPT_MAX_VOLUMES:
    return parse_count ("max-volumes", 1, &o->max_volumes);
  case OPT_SPEED:
    return parse_speed (&o->speed);
  case OPT_IDLE:
    return parse_time ("idle", &o->idle);
  case OPT_GRACE:
    return parse_time ("grace", &o->grace);
  case OPT_COMMANDS:
    o->commands = true;
    return -1;
  case 'v':
    verbose = true;
    return -1;
  case 'h':
    fputs (help, stdout);
    return 0;
  case 'V':
    puts ("backfilld " PACKAGE_VERSION);
    return 0;
  default:
    fprintf (stderr, "see backfilld --help\n");
    return 2;
  }
}

/* The exit status if the program is to end now, else -1. */
static int
parse_options (int argc, char **argv, struct options *o)
{
  int c;

  while ((c = getopt_long (argc, argv, "hVv", long_options, NULL)) != -1) {
    int status = parse_option (c, o);

    if (status >= 0)
      return status;
  }
  if (optind == argc)
    return usage ("name the folders that the volumes are in");
  return -1;
}

/* --- start and end ---------------------------------------------------- */

static bool
is_folder (const char *path)
{
  struct stat st;

  return stat (path, &st) == 0 && S_ISDIR (st.st_mode);
}

/* 1 and *fd: systemd handed over that socket; 0: none; -1: several. */
static int
handed_socket (int *fd)
{
  const char *pid = getenv ("LISTEN_PID"), *nr = getenv ("LISTEN_FDS");

  if (!pid || !nr || strtol (pid, NULL, 10) != (long)getpid ())
    return 0;
  *fd = LISTEN_FDS_START;
  return strcmp (nr, "1") == 0 ? 1 : -1;
}

/* Tell systemd the daemon's state, if systemd wants to know. */
static void
notify (const char *state)
{
  const char *path = getenv ("NOTIFY_SOCKET");
  struct sockaddr_un addr = { .sun_family = AF_UNIX };
  CLEANUP_CLOSE int fd = -1;
  size_t len = path ? strlen (path) : 0;

  if (len == 0 || len >= sizeof addr.sun_path)
    return;
  memcpy (addr.sun_path, path, len);
  if (path[0] == '@')
    addr.sun_path[0] = '\0';
  fd = socket (AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd == -1
      || sendto (fd, state, strlen (state), MSG_NOSIGNAL,
                 (struct sockaddr *)&addr,
                 (socklen_t)(offsetof (struct sockaddr_un, sun_path) + len))
             == -1)
    log_debug ("systemd cannot be told '%s': %m", state);
}

/* What start makes and end frees. */
struct daemon {
  char *runtime_dir, *own_dir, *state_dir, *socket;
  struct volumes *volumes;
  bool pools;
};

static int
prepare (struct daemon *d, const struct options *o, char **folders, int nr)
{
  CLEANUP_FREE char *error = NULL;
  const char *failed;

  if (path_confine ((const char *const *)folders, (size_t)nr, &failed) == -1) {
    log_error ("folder '%s': %m", failed);
    return -1;
  }
  if (o->runtime_dir && mkdir (o->runtime_dir, 0755) == -1 && errno != EEXIST) {
    log_error ("--runtime-dir=%s: %m", o->runtime_dir);
    return -1;
  }
  d->runtime_dir = o->runtime_dir ? realpath (o->runtime_dir, NULL)
                                  : runtime_default_dir ();
  if (!d->runtime_dir || !is_folder (d->runtime_dir)) {
    log_error ("no runtime directory (%m): make /run/backfill, or give "
               "--runtime-dir=DIR");
    return -1;
  }
  d->own_dir = runtime_own_dir (d->runtime_dir, &error);
  if (!d->own_dir) {
    log_error ("%s", error);
    return -1;
  }
  if (mkdir (o->state_dir, 0700) == -1 && errno != EEXIST) {
    log_error ("--state-dir=%s: %m", o->state_dir);
    return -1;
  }
  d->state_dir = realpath (o->state_dir, NULL);
  if (!d->state_dir || !is_folder (d->state_dir)) {
    log_error ("--state-dir=%s: not a folder", o->state_dir);
    return -1;
  }
  /* Clients with other working folders find the socket through the registry. */
  if (o->socket && o->socket[0] == '/')
    d->socket = strdup (o->socket);
  else if (o->socket) {
    CLEANUP_FREE char *cwd = getcwd (NULL, 0);

    if (!cwd || asprintf (&d->socket, "%s/%s", cwd, o->socket) == -1)
      d->socket = NULL;
  }
  else if (asprintf (&d->socket, "%s/" SOCKET_NAME, d->runtime_dir) == -1)
    d->socket = NULL;
  if (!d->socket) {
    log_error ("out of memory");
    return -1;
  }
  return 0;
}

static int
listen_control (struct daemon *d, const struct options *o)
{
  CLEANUP_FREE char *error = NULL;
  struct control_config cc = {
    .path = d->socket,
    .access = o->access,
    .volumes = volumes_commands (d->volumes),
    .quit = on_quit,
    .program = "backfilld",
    .own_dir = d->own_dir,
    .well_known = o->socket == NULL,
  };
  int handed = handed_socket (&cc.socket);

  if (handed == -1) {
    log_error ("systemd handed over several sockets: give backfilld one");
    return -1;
  }
  cc.has_socket = handed == 1;
  control = control_listen (&cc, &error);
  if (!control) {
    log_error ("%s", error);
    return -1;
  }
  return 0;
}

static int
start (struct daemon *d, const struct options *o)
{
  CLEANUP_FREE char *error = NULL;
  const struct volumes_config vc = {
    .runtime_dir = d->runtime_dir,
    .control = d->socket,
    .state_dir = d->state_dir,
    .max_open = o->max_volumes,
    .speed = o->speed,
    .idle = o->idle,
    .grace = o->grace,
    .commands = o->commands,
    .event = on_event,
    .kick = on_kick,
  };

  disk_set_max_jobs (o->max_jobs);
  d->volumes = volumes_new (&vc, &error);
  if (!d->volumes) {
    log_error ("%s", error);
    return -1;
  }
  if (listen_control (d, o) == -1)
    return -1;
  if (disk_pools_start () == -1) {
    log_error ("threads cannot be made: %m");
    return -1;
  }
  d->pools = true;
  if (control_start (control, &error) == -1) {
    log_error ("%s", error);
    return -1;
  }
  if (volumes_start (d->volumes) == -1) {
    log_error ("threads cannot be made: %m");
    return -1;
  }
  return 0;
}

/* 0; or -1: a volume could not be made durable, or a command does not end: then
 * everything is left to the end of the process. */
static int
end (struct daemon *d)
{
  int busy = 0;

  /* Commands end before volumes are closed.  If a command hangs, all volumes
   * but its own are closed. */
  if (control)
    busy = control_stop (control);
  if (d->volumes && volumes_stop (d->volumes) == -1)
    busy = -1;
  /* A disk whose store does not answer is left to the end of the process, and
   * may still use the pools, the control socket and the table. */
  if (busy == -1)
    return -1;
  if (d->pools)
    disk_pools_stop ();
  control_free (control);
  volumes_free (d->volumes);
  runtime_leave ();
  free (d->runtime_dir);
  free (d->own_dir);
  free (d->state_dir);
  free (d->socket);
  return 0;
}

static int
run (const struct options *o, char **folders, int nr)
{
  struct daemon d = { 0 };
  sigset_t set;
  int signal, r;

  sigemptyset (&set);
  sigaddset (&set, SIGTERM);
  sigaddset (&set, SIGINT);
  sigaddset (&set, SIGHUP);
  pthread_sigmask (SIG_BLOCK, &set, NULL);
  main_thread = pthread_self ();
  runtime_raise_files ();
  r = prepare (&d, o, folders, nr);
  if (r == 0)
    r = start (&d, o);
  if (r == 0) {
    notify ("READY=1");
    log_debug ("serving %s", d.socket);
    sigwait (&set, &signal);
    notify ("STOPPING=1");
    log_debug ("ending");
  }
  if (end (&d) == -1)
    r = -1;
  return r == 0 ? 0 : 1;
}

int
main (int argc, char **argv)
{
  struct options options = {
    .state_dir = "/var/lib/backfilld",
    .max_jobs = 8,
    .max_volumes = 256,
    .idle = 10000,
    .grace = 10000,
  };
  int status;

  /* Writing to a client that has gone is an error, not the end. */
  signal (SIGPIPE, SIG_IGN);
  /* So is writing beyond the limit on the size of files (RLIMIT_FSIZE). */
  signal (SIGXFSZ, SIG_IGN);
  log_set_sink (log_to_stderr);
  umask (0022);
  status = parse_options (argc, argv, &options);
  if (status >= 0)
    return status;
  return run (&options, argv + optind, argc - optind);
}
