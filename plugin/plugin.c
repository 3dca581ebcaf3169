/* plugin.c - the nbdkit face: callbacks to disk_*().
 *
 * Life of the process: the disks are opened in .get_ready, where errors still
 * reach the user; their sessions begin and threads start in .after_fork,
 * because nbdkit may still fail or change its user in between, and the daemon's
 * fork keeps no threads.  A connection's handle is only a reference to an
 * export of a disk that lives as long as the process: clients open and close
 * often, and nothing here connects, allocates or blocks for them.
 *
 * Exports: NAME is the disk, NAME/map its allocation map (data = local, hole
 * = absent, reads as zeros, never fetches).
 *
 * Shutdown: nbdkit waits for its clients and does not call .close.  So a
 * watcher thread sleeps until the server is told to quit, then closes each
 * disk's gate at once: what was acknowledged is durable, and the volume is
 * free for its next owner, whether or not the clients have left.
 *
 * Hand-over: a volume that backfilld has open is asked for, and one that is
 * closed with its job unfinished is offered to it.  Its lock alone decides
 * who has it.
 *
 * Threads: the static variables are written before the threads start and
 * after they ended, in between only read.  Every callback may run in
 * parallel with itself; the engine does the locking.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <syslog.h>
#include <unistd.h>

#include <jansson.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "backfill.h"
#include "bytes.h"
#include "cleanup.h"
#include "control.h"
#include "disk.h"
#include "log.h"
#include "plugin.h"
#include "runtime.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

/* Longest request that is asked for, as QEMU's own.  A worker keeps its
 * largest buffer, so this bounds memory per connection too. */
#define MAX_REQUEST (UINT32_C (32) << 20)

/* Most extents in one answer: the client asks again for the rest. */
#define MAX_EXTENTS 65536

/* Milliseconds: for backfilld to close a volume, and to note one. */
#define RELEASE_TIMEOUT 20000
#define OFFER_TIMEOUT 1000
/* Of 100 ms: until the volume of an owner who died is free; or of one whom
 * nobody knows. */
#define LOST_TRIES 50u
#define NOBODY_TRIES 5u
/* It is let go, and somebody else has it, so often. */
#define RELEASE_TRIES 100u

/* nbdkit -D backfill.requests=1: a debug line for each request. */
int backfill_debug_requests;

/* What a connection opens.  Made once for each disk, so that a handle which
 * is never closed leaks nothing. */
struct export
{
  struct disk *disk;
  bool map;
  bool read_only;
};
enum { EXPORT_MAP = 1, EXPORT_READ_ONLY = 2, EXPORTS_PER_DISK = 4 };

static struct plugin_config *config;
static struct disks disks;
static struct export *exports; /* EXPORTS_PER_DISK for each disk */
static struct control *control;
static char *own_dir, *control_path;
/* What get_ready left for what comes between it and after_fork. */
static struct {
  bool done;    /* it has ended well */
  bool user;    /* nbdkit will change its user */
  bool forked;  /* and this is the parent: the volumes are the child's */
  bool started; /* after_fork has been called */
  uid_t uid;
  pid_t pid;
} ready;
static pthread_t watcher;
/* A control command did not end in time: what it uses must stay. */
static bool busy;
static bool watching;
static pid_t loaded_pid;

static void
log_to_nbdkit (enum log_level level, const char *fmt, va_list ap)
{
  if (level == LOG_LEVEL_ERROR)
    nbdkit_verror (fmt, ap);
  else if (level == LOG_LEVEL_DEBUG)
    nbdkit_vdebug (fmt, ap);
  else if (getpid () != loaded_pid)
    /* nbdkit has no words for what is neither.  It has gone to the background,
     * where its errors go to syslog and standard error to nobody. */
    vsyslog (LOG_DAEMON | LOG_INFO, fmt, ap);
  else {
    int err = errno;

    flockfile (stderr);
    fputs ("nbdkit: backfill: ", stderr);
    errno = err;
    vfprintf (stderr, fmt, ap);
    putc ('\n', stderr);
    funlockfile (stderr);
  }
}

/* --- start and end ---------------------------------------------------- */

static void
backfill_load (void)
{
  loaded_pid = getpid ();
  log_set_sink (log_to_nbdkit);
  config_make_help ();
}

static void
backfill_dump_plugin (void)
{
  printf ("backfill_version=%s\n", PACKAGE_VERSION);
  printf ("backfill_keys=");
  config_print_keys ();
  printf ("\nbackfill_exports=NAME NAME/map\n");
  printf ("backfill_max_request=%" PRIu32 "\n", MAX_REQUEST);
}

static int
backfill_config_complete (void)
{
  config = config_complete ();
  return config ? 0 : -1;
}

static void
on_event (void *opaque, const struct disk_event *event)
{
  (void)opaque;
  if (control)
    control_event (control, event);
}

static void
on_quit (void *opaque)
{
  (void)opaque;
  nbdkit_shutdown ();
}

/* By default in the directory of this process, where nobody else makes
 * files. */
static int
set_control_path (const char *dir)
{
  CLEANUP_FREE char *error = NULL;

  own_dir = runtime_own_dir (dir, &error);
  if (own_dir == NULL) {
    nbdkit_error ("%s", error);
    return -1;
  }
  if (config->control)
    control_path = strdup (config->control);
  else if (asprintf (&control_path, "%s/control", own_dir) == -1)
    control_path = NULL;
  if (control_path == NULL) {
    nbdkit_error ("control socket: %m");
    return -1;
  }
  return 0;
}

/* Where the runtime files go; malloc'd. */
static char *
runtime_dir (void)
{
  struct stat st;
  char *dir;

  if (config->runtime_dir == NULL) {
    dir = runtime_default_dir ();
    if (dir == NULL)
      nbdkit_error ("no runtime directory (%m): make /run/backfill or set "
                    "XDG_RUNTIME_DIR, or give runtime-dir=PATH");
    return dir;
  }
  if (mkdir (config->runtime_dir, 0700) == -1 && errno != EEXIST) {
    nbdkit_error ("runtime-dir=%s: cannot be made: %m", config->runtime_dir);
    return NULL;
  }
  if (stat (config->runtime_dir, &st) == -1 || !S_ISDIR (st.st_mode)) {
    nbdkit_error ("runtime-dir=%s: not a folder", config->runtime_dir);
    return NULL;
  }
  dir = strdup (config->runtime_dir);
  if (dir == NULL)
    nbdkit_error ("strdup: %m");
  return dir;
}

/* --- hand-over with backfilld ------------------------------------------ */

/* A command to the owner of a store, or to backfilld if it has none. */
static int
ask_owner (const char *command, const char *store, unsigned timeout)
{
  struct backfill *h = backfill_connect (NULL);
  CLEANUP_FREE char *reply = NULL;
  CLEANUP_FREE char *arguments = NULL;
  json_t *o = json_pack ("{s:s}", "device", store);
  int r = -1;

  if (o)
    arguments = json_dumps (o, 0);
  json_decref (o);
  if (h && arguments) {
    backfill_set_timeout (h, timeout);
    r = backfill_command (h, command, arguments, &reply);
  }
  backfill_close (h);
  return r;
}

/* Its owner did not refuse, but is gone, or going: the volume is free soon. */
static bool
is_lost (int err)
{
  return err == ENXIO || err == ECONNRESET || err == EPIPE || err == ENOTCONN
         || err == ECONNREFUSED || err == ECONNABORTED || err == ENOENT
         || err == ESHUTDOWN;
}

/* If it is backfilld that has the volume, it lets it go for us; any other
 * owner refuses.  One that dies meanwhile, or is started again and faster than
 * we are, is no reason to give up. */
static struct disk *
open_disk (const struct disk_config *dc, char **error)
{
  const struct timespec pause = { .tv_nsec = 100 * 1000 * 1000 };
  bool asked = false;
  unsigned lost = 0;

  for (unsigned tries = 0;; tries++) {
    struct disk *disk = disk_open (dc, error);
    int err;

    if (disk || errno != EBUSY || tries == RELEASE_TRIES)
      return disk;
    if (ask_owner ("disk-release", dc->store, RELEASE_TIMEOUT) == 0) {
      nbdkit_debug ("%s: backfilld let it go", dc->store);
      asked = true;
    }
    else {
      err = backfill_get_errno ();
      nbdkit_debug ("%s: its owner does not let it go: %s", dc->store,
                    backfill_get_error ());
      /* Who has it may have told nobody, and stay. */
      asked = asked || err != ENXIO;
      if (!is_lost (err) || ++lost > (asked ? LOST_TRIES : NOBODY_TRIES)) {
        errno = EBUSY;
        return NULL;
      }
      nanosleep (&pause, NULL);
    }
    free (*error);
    *error = NULL;
  }
}

/* We end with its job unfinished: backfilld may go on with it. */
static void
offer (struct disk *disk)
{
  enum job_status status = job_get_status (disk);

  if (status == JOB_NONE || status == JOB_CONCLUDED || disk_read_only (disk))
    return;
  if (ask_owner ("disk-take", disk_store_path (disk), OFFER_TIMEOUT) == -1)
    nbdkit_debug ("%s: nobody goes on with its job: %s", disk_store_path (disk),
                  backfill_get_error ());
}

/* Names that are given were compared; here they are known that the sidecars
 * remember. */
static int
check_name (struct disk *disk)
{
  for (size_t i = 0; disks.ptr[i] != disk; i++)
    if (strcmp (disk_name (disks.ptr[i]), disk_name (disk)) == 0) {
      nbdkit_error ("%s and %s are both named '%s' (a name is remembered): "
                    "give each its own name=",
                    disk_store_path (disks.ptr[i]), disk_store_path (disk),
                    disk_name (disk));
      return -1;
    }
  return 0;
}

/* The engine would refuse it too, but after the fork, where nobody is told. */
static int
check_allocate (const struct disk_config *dc, struct disk *disk)
{
  uint64_t size = disk_size (disk), offset = dc->allocate.offset;

  if (!dc->has_allocate
      || (offset <= size && dc->allocate.length <= size - offset))
    return 0;
  nbdkit_error ("allocate=%" PRIu64 "+%" PRIu64 " is not within %s, which has "
                "%" PRIu64 " bytes",
                offset, dc->allocate.length, disk_store_path (disk), size);
  return -1;
}

/* nbdkit -u USER: it changes its user when get_ready has ended, and does not
 * tell its plugins.  USER, malloc'd, or NULL. */
static char *
other_user (void)
{
  CLEANUP_FREE char *text = NULL;
  char *user = NULL;
  size_t size = 0;
  FILE *fp = fopen ("/proc/self/cmdline", "re");
  bool next = false;

  for (bool first = true; fp && getdelim (&text, &size, 0, fp) > 0;
       first = false) {
    if (first)
      continue;
    if (next || strncmp (text, "--user=", 7) == 0
        || (strncmp (text, "-u", 2) == 0 && text[2])) {
      free (user);
      user = strdup (text + (next ? 0 : text[1] == '-' ? 7 : 2));
      next = false;
    }
    else if (strcmp (text, "--") == 0)
      break;
    else
      next = strcmp (text, "-u") == 0 || strcmp (text, "--user") == 0;
  }
  if (fp)
    fclose (fp);
  return user;
}

/* What is made now is to be his: then the tools of others find the server, too.
 */
static void
give_disks (const char *user)
{
  const struct passwd *pw = getpwnam (user);
  uid_t uid = pw ? pw->pw_uid : (uid_t)strtoul (user, NULL, 10);
  gid_t gid = pw ? pw->pw_gid : (gid_t)-1;

  for (size_t i = 0; i < disks.len; i++)
    if (!disk_read_only (disks.ptr[i]) && !disk_give (disks.ptr[i], uid, gid))
      nbdkit_error ("%s does not belong to %s: only he will find this server; "
                    "give him store and sidecar",
                    disk_store_path (disks.ptr[i]), user);
}

/* It would be run by the first user, and not be his any more. */
static int
check_no_command (const struct disk_config *dc)
{
  if (!dc->backing || dc->backing[0] != '[')
    return 0;
  nbdkit_error (
      "nbdkit -u and backing=[ ... ] do not go together: start nbdkit "
      "as that user (setpriv, or User= of systemd)");
  return -1;
}

static int
open_disks (const char *dir)
{
  size_t i, j;

  disks.ptr = calloc (config->nr_disks, sizeof *disks.ptr);
  exports = calloc (config->nr_disks * EXPORTS_PER_DISK, sizeof *exports);
  if (disks.ptr == NULL || exports == NULL) {
    nbdkit_error ("calloc: %m");
    return -1;
  }
  for (i = 0; i < config->nr_disks; i++) {
    struct disk_config *dc = &config->disks[i];
    CLEANUP_FREE char *error = NULL;
    struct disk *disk;

    dc->runtime_dir = dir;
    dc->control = control_path;
    dc->event = on_event;
    /* Who fails to start after this, as another has the address, must leave
     * nothing open.  */
    dc->session_later = true;
    dc->user_later = ready.user;
    dc->no_command |= ready.user;
    if (ready.user && check_no_command (dc) == -1)
      return -1;
    disk = open_disk (dc, &error);
    if (disk == NULL) {
      nbdkit_error ("%s", error);
      return -1;
    }
    disks.ptr[disks.len++] = disk;
    if (check_name (disk) == -1 || check_allocate (dc, disk) == -1)
      return -1;
    for (j = 0; j < EXPORTS_PER_DISK; j++) {
      struct export *e = &exports[i * EXPORTS_PER_DISK + j];

      e->disk = disk;
      e->map = j & EXPORT_MAP;
      e->read_only = e->map || (j & EXPORT_READ_ONLY) || disk_read_only (disk);
    }
  }
  return 0;
}

static int
listen_control (void)
{
  CLEANUP_FREE char *error = NULL;
  const struct control_config cc = {
    .path = control_path,
    .has_mode = config->has_control_mode,
    .mode = config->control_mode,
    .has_user = config->has_control_user,
    .user = config->control_user,
    .has_group = config->has_control_group,
    .group = config->control_group,
    .disks = disks,
    .quit = on_quit,
    .program = "nbdkit-backfill-plugin",
    .own_dir = own_dir,
  };

  control = control_listen (&cc, &error);
  if (control == NULL) {
    nbdkit_error ("%s", error);
    return -1;
  }
  return 0;
}

static void *
gate_one (void *disk)
{
  if (disk_gate (disk) == -1)
    nbdkit_error ("%s: not everything could be made durable: %m",
                  disk_store_path (disk));
  else
    offer (disk);
  return NULL;
}

/* All at once: each may take seconds when its backing store hangs. */
static void
gate_all (void)
{
  CLEANUP_FREE pthread_t *threads = calloc (disks.len, sizeof *threads);
  CLEANUP_FREE bool *started = calloc (disks.len, sizeof *started);
  size_t i;

  for (i = 1; threads && started && i < disks.len; i++)
    started[i]
        = pthread_create (&threads[i], NULL, gate_one, disks.ptr[i]) == 0;
  for (i = 0; i < disks.len; i++)
    if (started && started[i])
      pthread_join (threads[i], NULL);
    else
      gate_one (disks.ptr[i]);
}

/* After gate_all. */
static bool
all_idle (void)
{
  size_t i;
  int tries;

  for (i = 0; i < disks.len; i++)
    /* Somebody may just be finding the gate closed. */
    for (tries = 0; !disk_is_idle (disks.ptr[i]); tries++) {
      if (tries == 50)
        return false;
      usleep (10000);
    }
  return true;
}

/* Pipes of which this process has both ends open, by inode. */
#define PIPES 16u
struct pipe_ends {
  ino_t ino;
  int end[2]; /* to read from, to write to; -1: not open */
};

static size_t
list_pipes (struct pipe_ends pipes[PIPES])
{
  DIR *fds = opendir ("/proc/self/fd");
  size_t nr = 0;

  for (const struct dirent *d; fds && (d = readdir (fds)) != NULL;) {
    int fd = atoi (d->d_name), mode;
    struct stat st;
    size_t i = 0;

    if (d->d_name[0] == '.' || fstat (fd, &st) == -1 || !S_ISFIFO (st.st_mode)
        || (mode = fcntl (fd, F_GETFL)) == -1)
      continue;
    while (i < nr && pipes[i].ino != st.st_ino)
      i++;
    if (i == PIPES)
      continue;
    if (i == nr)
      pipes[nr++] = (struct pipe_ends){ st.st_ino, { -1, -1 } };
    pipes[i].end[(mode & O_ACCMODE) != O_RDONLY] = fd;
  }
  if (fds)
    closedir (fds);
  return nr;
}

/* Those that get_ready saw are not nbdkit's. */
static struct pipe_ends known[PIPES];
static size_t nr_known;

static bool
is_known_pipe (ino_t ino)
{
  for (size_t i = 0; i < nr_known; i++)
    if (known[i].ino == ino)
      return true;
  return false;
}

/* In the parent of a fork between get_ready and after_fork. */
static void
note_fork (void)
{
  if (ready.done && !ready.started)
    ready.forked = true;
}

/* Nbdkit exits when it cannot listen on its address, and calls nothing of a
 * plugin then. */
static void
leave_at_exit (void)
{
  if (!ready.done || ready.forked || ready.started)
    return;
  if (control)
    control_unlisten (control);
  for (size_t i = 0; i < disks.len; i++)
    disk_free (disks.ptr[i]);
  disks.len = 0;
  runtime_leave ();
}

static int
backfill_get_ready (void)
{
  CLEANUP_FREE char *dir = runtime_dir ();
  CLEANUP_FREE char *user = other_user ();

  if (dir == NULL)
    return -1;
  runtime_raise_files ();
  /* Where we look for backfilld, too. */
  if (config->runtime_dir)
    setenv ("BACKFILL_RUNTIME_DIR", dir, 1);
  /* A limit on the size of files is an error of one write (EFBIG), and not
   * the end of all disks. */
  signal (SIGXFSZ, SIG_IGN);
  if (!config->control_off && set_control_path (dir) == -1)
    return -1;
  disk_set_total_speed (config->total_speed);
  ready.uid = geteuid ();
  ready.pid = getpid ();
  ready.user = user != NULL;

  /* The volumes' locks come first: they keep a second owner from taking the
   * socket of the one that is there. */
  if (open_disks (dir) == 0
      && (config->control_off || ready.user || listen_control () == 0)
      && atexit (leave_at_exit) == 0
      && pthread_atfork (NULL, note_fork, NULL) == 0) {
    nr_known = list_pipes (known);
    /* The other user could not remove it. */
    if (user) {
      give_disks (user);
      runtime_leave ();
    }
    ready.done = true;
    return 0;
  }
  /* The server exits now, without .unload: leave the volumes closed. */
  gate_all ();
  if (control)
    control_unlisten (control);
  runtime_leave ();
  return -1;
}

/* Sleeps until the server is told to quit.  (The server then prints "aborting
 * sleep because of server shut down": there is no quieter way to know.) */
static void *
watch (void *arg)
{
  while (nbdkit_nanosleep (24 * 60 * 60, 0) == 0)
    ;
  nbdkit_debug ("quitting: committing all disks");
  /* First: the volumes' next owner may want the same socket. */
  if (control)
    control_unlisten (control);
  gate_all ();
  if (!all_idle ()) {
    /* Nbdkit waits for its workers, and one of them may be where none comes
     * back from.  What can be closed was closed, and the rest is as after
     * SIGKILL whatever we do. */
    nbdkit_error ("the local files of a disk do not answer: ending without "
                  "waiting for them");
    _exit (EXIT_FAILURE);
  }
  if (control)
    busy = control_stop (control) == -1;
  return arg;
}

static int
start_threads (void)
{
  CLEANUP_FREE char *error = NULL;
  size_t i;
  int r;

  if (disk_pools_start () == -1) {
    nbdkit_error ("cannot start threads: %m");
    return -1;
  }
  for (i = 0; i < disks.len; i++)
    if ((ready.user && !disk_read_only (disks.ptr[i])
         && disk_change_user (disks.ptr[i], control_path, &error) == -1)
        || disk_start (disks.ptr[i], &error) == -1)
      goto err;
  if (control && control_start (control, &error) == -1)
    goto err;
  r = pthread_create (&watcher, NULL, watch, NULL);
  if (r != 0) {
    errno = r;
    nbdkit_error ("cannot start a thread: %m");
    return -1;
  }
  watching = true;
  return 0;

err:
  nbdkit_error ("%s", error);
  return -1;
}

/* As whom the server runs from now on: its files are that user's. */
static int
change_user (void)
{
  CLEANUP_FREE char *dir = NULL;

  if (!ready.user && geteuid () != ready.uid) {
    nbdkit_error ("nbdkit has changed its user, and its command line did not "
                  "say so: give -u USER in words of their own");
    return -1;
  }
  if (!ready.user || config->control_off)
    return 0;
  dir = runtime_dir ();
  if (dir == NULL)
    return -1;
  free (own_dir);
  free (control_path);
  own_dir = control_path = NULL;
  return set_control_path (dir) == -1 || listen_control () == -1 ? -1 : 0;
}

/* Nbdkit tells itself to quit through a pipe, which it makes after get_ready.
 * With --run it forks then, and who signals the parent reaches the child, who
 * does not know what for: nbdkit_nanosleep would abort it.  So it gets a pipe
 * of its own; when the command has ended the parent signals it. */
static void
part_from_parent (void)
{
  struct pipe_ends pipes[PIPES];
  size_t nr = list_pipes (pipes);

  for (size_t i = 0; i < nr; i++) {
    int fresh[2], flags;

    if (pipes[i].end[0] == -1 || pipes[i].end[1] == -1
        || is_known_pipe (pipes[i].ino) || pipe2 (fresh, O_CLOEXEC) == -1)
      continue;
    for (int e = 0; e < 2; e++) {
      flags = fcntl (pipes[i].end[e], F_GETFL);
      if (flags != -1)
        fcntl (fresh[e], F_SETFL, flags & ~O_ACCMODE);
      dup3 (fresh[e], pipes[i].end[e], O_CLOEXEC);
      close (fresh[e]);
    }
  }
}

static int
backfill_after_fork (void)
{
  sigset_t all, old;
  int r;

  ready.started = true;
  if (getpid () != ready.pid)
    part_from_parent ();
  /* Signals are the server's: no thread made from here takes one. */
  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  r = change_user () == 0 ? start_threads () : -1;
  pthread_sigmask (SIG_SETMASK, &old, NULL);

  /* The server exits now, without .cleanup: leave the volumes closed. */
  if (r == -1) {
    gate_all ();
    if (control)
      control_unlisten (control);
    runtime_leave ();
  }
  return r;
}

static void
backfill_cleanup (void)
{
  size_t i;

  /* A server on standard input ends without being told to quit. */
  nbdkit_shutdown ();
  if (watching)
    pthread_join (watcher, NULL);
  watching = false;

  /* The threads first: they may still hold a disk. */
  disk_pools_stop ();
  for (i = 0; !busy && i < disks.len; i++)
    disk_free (disks.ptr[i]);
  disks.len = 0;
}

static void
backfill_unload (void)
{
  size_t i;

  /* Still there if the server did not come to serve. */
  for (i = 0; i < disks.len; i++)
    if (disk_is_idle (disks.ptr[i]))
      disk_free (disks.ptr[i]);
  free (disks.ptr);
  free (exports);
  if (control && !busy)
    control_free (control);
  free (own_dir);
  free (control_path);
  config_free ();
  if (!busy)
    runtime_leave ();
}

/* --- connections ------------------------------------------------------ */

static struct disk *
find_disk (const char *name, size_t len)
{
  size_t i;

  for (i = 0; i < disks.len; i++) {
    const char *n = disk_name (disks.ptr[i]);

    if (strlen (n) == len && memcmp (n, name, len) == 0)
      return disks.ptr[i];
  }
  return NULL;
}

/* The disk that "" means, or NULL. */
static struct disk *
default_disk (void)
{
  return disks.len == 1 ? disks.ptr[0] : find_disk ("", 0);
}

static char *
names_of_disks (void)
{
  char *list = NULL;
  size_t size, i;
  FILE *fp = open_memstream (&list, &size);

  if (fp == NULL)
    return NULL;
  for (i = 0; i < disks.len; i++)
    fprintf (fp, "%s'%s'", i ? ", " : "", disk_name (disks.ptr[i]));
  if (fclose (fp) != 0) {
    free (list);
    return NULL;
  }
  return list;
}

static void *
backfill_open (int readonly)
{
  const char *name = nbdkit_export_name ();
  CLEANUP_FREE char *list = NULL;
  struct disk *disk;
  size_t len, i;
  bool map;

  if (name == NULL) /* a filter opens us outside a connection */
    name = "";
  len = strlen (name);
  map = len >= 4 && strcmp (name + len - 4, "/map") == 0;
  if (map)
    len -= 4;
  /* What the URI nbd://host/map asks for: a URI drops one slash. */
  else if (strcmp (name, "map") == 0 && find_disk (name, len) == NULL) {
    map = true;
    len = 0;
  }
  disk = len ? find_disk (name, len) : default_disk ();
  if (disk == NULL) {
    list = names_of_disks ();
    nbdkit_error ("no disk '%s': there are %s; the export NAME is a disk, "
                  "NAME/map its allocation map",
                  name, list ? list : "others");
    return NULL;
  }
  for (i = 0; disks.ptr[i] != disk; i++)
    ;
  return &exports[i * EXPORTS_PER_DISK + (map ? EXPORT_MAP : 0)
                  + (readonly ? EXPORT_READ_ONLY : 0)];
}

static int
backfill_list_exports (int readonly, int is_tls, struct nbdkit_exports *list)
{
  CLEANUP_FREE char *name = NULL;
  size_t i;

  (void)readonly;
  (void)is_tls;
  for (i = 0; i < disks.len; i++) {
    free (name);
    name = NULL;
    if (asprintf (&name, "%s/map", disk_name (disks.ptr[i])) == -1) {
      name = NULL;
      nbdkit_error ("asprintf: %m");
      return -1;
    }
    if (nbdkit_add_export (list, disk_name (disks.ptr[i]), NULL) == -1
        || nbdkit_add_export (list, name, NULL) == -1)
      return -1;
  }
  return 0;
}

static const char *
backfill_default_export (int readonly, int is_tls)
{
  struct disk *disk = default_disk ();

  (void)readonly;
  (void)is_tls;
  /* Without one, "" goes to .open, whose error lists the names. */
  return disk ? disk_name (disk) : "";
}

static const char *
backfill_export_description (void *handle)
{
  const struct export *e = handle;

  return e->map ? "allocation map: data is local, a hole is absent" : NULL;
}

static int64_t
backfill_get_size (void *handle)
{
  const struct export *e = handle;

  return disk_size (e->disk);
}

/* Any alignment is served, so the minimum is 1: a larger one would have QEMU
 * read, change and write back, and lose zeroes and trims.  Preferred is what a
 * write can do without fetching its granule's rest; the fetch unit would be
 * too much for random readers of local data, and demand is widened anyway. */
static int
backfill_block_size (void *handle, uint32_t *minimum, uint32_t *preferred,
                     uint32_t *maximum)
{
  const struct export *e = handle;

  *minimum = 1;
  *preferred = max_u64 (4096, disk_granule (e->disk));
  *maximum = MAX_REQUEST;
  return 0;
}

static int
backfill_can_write (void *handle)
{
  const struct export *e = handle;

  return !e->read_only;
}

/* One disk object behind all connections, and a flush that commits it. */
static int
backfill_can_multi_conn (void *handle)
{
  (void)handle;
  return 1;
}

static int
backfill_can_fua (void *handle)
{
  (void)handle;
  return NBDKIT_FUA_NATIVE;
}

static int
backfill_can_cache (void *handle)
{
  const struct export *e = handle;

  return e->map || disk_read_only (e->disk) ? NBDKIT_CACHE_NONE
                                            : NBDKIT_CACHE_NATIVE;
}

static int
backfill_yes (void *handle)
{
  (void)handle;
  return 1;
}

static int
backfill_is_rotational (void *handle)
{
  (void)handle;
  return 0;
}

/* --- requests --------------------------------------------------------- */

/* The server turns what it does not know into EINVAL, which a guest takes for
 * its own mistake.  And ENOTSUP to anything but a fast zero makes this nbdkit
 * zero the wrong place, or abort. */
static int
result (int r, bool fast_zero)
{
  if (r != -1)
    return 0;
  switch (errno) {
  case EPERM:
  case EROFS:
  case EIO:
  case ENOMEM:
  case ENOSPC:
  case EFBIG:
  case EDQUOT:
  case ESHUTDOWN:
    break;
  case ENOTSUP:
    if (!fast_zero)
      errno = EIO;
    break;
  default:
    errno = EIO;
  }
  return -1;
}

static unsigned
disk_flags (uint32_t flags)
{
  return (flags & NBDKIT_FLAG_FUA ? DISK_FUA : 0)
         | (flags & NBDKIT_FLAG_MAY_TRIM ? DISK_MAY_TRIM : 0)
         | (flags & NBDKIT_FLAG_FAST_ZERO ? DISK_FAST_ZERO : 0);
}

static void
debug_request (const char *what, const struct export *e, uint32_t count,
               uint64_t offset, uint32_t flags)
{
  if (__builtin_expect (backfill_debug_requests, 0))
    nbdkit_debug (
        "%s%s: %s count=%" PRIu32 " offset=%" PRIu64 " flags=%" PRIx32,
        disk_name (e->disk), e->map ? "/map" : "", what, count, offset, flags);
}

static int
backfill_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
                uint32_t flags)
{
  const struct export *e = handle;

  debug_request ("pread", e, count, offset, flags);
  if (e->map) {
    memset (buf, 0, count);
    return 0;
  }
  return result (disk_pread (e->disk, buf, count, offset), false);
}

static int
backfill_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset,
                 uint32_t flags)
{
  const struct export *e = handle;

  debug_request ("pwrite", e, count, offset, flags);
  return result (disk_pwrite (e->disk, buf, count, offset, disk_flags (flags)),
                 false);
}

static int
backfill_zero (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  const struct export *e = handle;

  debug_request ("zero", e, count, offset, flags);
  return result (disk_zero (e->disk, count, offset, disk_flags (flags)),
                 flags & NBDKIT_FLAG_FAST_ZERO);
}

static int
backfill_trim (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  const struct export *e = handle;

  debug_request ("trim", e, count, offset, flags);
  return result (disk_trim (e->disk, count, offset, disk_flags (flags)), false);
}

static int
backfill_flush (void *handle, uint32_t flags)
{
  const struct export *e = handle;

  debug_request ("flush", e, 0, 0, flags);
  return e->map ? 0 : result (disk_flush (e->disk), false);
}

static int
backfill_cache (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  const struct export *e = handle;

  debug_request ("cache", e, count, offset, flags);
  return result (disk_cache (e->disk, count, offset), false);
}

/* One block status answer in the making. */
struct answer {
  struct nbdkit_extents *extents;
  uint64_t end;
  unsigned left; /* extents that may still be added */
  bool failed;
};

/* Extents are clamped to the request: one that is longer than 4 GiB aborts
 * this nbdkit. */
static int
add_extent (void *opaque, uint64_t offset, uint64_t length, unsigned flags)
{
  struct answer *a = opaque;
  uint32_t type = 0;

  if (offset >= a->end)
    return 1;
  if (flags & DISK_EXTENT_HOLE)
    type |= NBDKIT_EXTENT_HOLE;
  if (flags & DISK_EXTENT_ZERO)
    type |= NBDKIT_EXTENT_ZERO;
  if (nbdkit_add_extent (a->extents, offset, min_u64 (length, a->end - offset),
                         type)
      == -1) {
    a->failed = true;
    return 1;
  }
  return --a->left == 0;
}

static int
add_region (void *opaque, uint64_t offset, uint64_t length,
            enum disk_region_state state)
{
  return add_extent (opaque, offset, length,
                     state == DISK_ABSENT ? DISK_EXTENT_HOLE : 0);
}

static int
backfill_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                  struct nbdkit_extents *extents)
{
  const struct export *e = handle;
  struct answer a = {
    .extents = extents,
    .end = offset + count,
    .left = flags & NBDKIT_FLAG_REQ_ONE ? 1 : MAX_EXTENTS,
  };
  int r;

  debug_request ("extents", e, count, offset, flags);
  r = e->map ? disk_regions (e->disk, count, offset, false, add_region, &a)
             : disk_extents (e->disk, count, offset, add_extent, &a);
  return result (a.failed ? -1 : r, false);
}

static struct nbdkit_plugin plugin = {
  .name = "backfill",
  .longname = "nbdkit backfill plugin",
  .version = PACKAGE_VERSION,
  .description = "Serve a disk at once from a local raw image and a backing "
                 "store, and fill it in afterwards.",

  .load = backfill_load,
  .unload = backfill_unload,
  .dump_plugin = backfill_dump_plugin,

  .config = config_key,
  .config_complete = backfill_config_complete,
  .config_help = config_help,
  .magic_config_key = "store",

  .get_ready = backfill_get_ready,
  .after_fork = backfill_after_fork,
  .cleanup = backfill_cleanup,

  .list_exports = backfill_list_exports,
  .default_export = backfill_default_export,
  .export_description = backfill_export_description,
  .open = backfill_open,

  .get_size = backfill_get_size,
  .block_size = backfill_block_size,
  .can_write = backfill_can_write,
  .can_multi_conn = backfill_can_multi_conn,
  .can_fua = backfill_can_fua,
  .can_cache = backfill_can_cache,
  .can_flush = backfill_yes,
  .can_trim = backfill_yes,
  .can_zero = backfill_yes,
  .can_fast_zero = backfill_yes,
  .can_extents = backfill_yes,
  .is_rotational = backfill_is_rotational,

  .pread = backfill_pread,
  .pwrite = backfill_pwrite,
  .zero = backfill_zero,
  .trim = backfill_trim,
  .flush = backfill_flush,
  .cache = backfill_cache,
  .extents = backfill_extents,

  .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN (plugin)
