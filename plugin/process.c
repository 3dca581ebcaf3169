/* process.c - the plugin from its keys to its end.
 *
 * .get_ready opens the disks, as its errors still reach the user, and begins
 * their sessions.  .after_fork starts the threads, as a fork keeps none.  With
 * nbdkit -u USER, .after_fork begins the sessions, too, as they are that
 * user's.  If nbdkit fails between the two, an exit handler closes the disks.
 *
 * Shutdown: nbdkit waits for its clients and does not call .close.  So the
 * watcher thread sleeps until the server is told to quit, then closes the gates
 * of all disks at once: what was acknowledged is durable, and the volumes are
 * free for their next owners, whether or not the clients have left.
 *
 * Threads: nbdkit's main thread writes the static variables, before it starts
 * threads and after they have ended.  In between they are only read, but for
 * `busy`, which the watcher writes and the main thread reads after joining it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "cleanup.h"
#include "control.h"
#include "disk.h"
#include "export.h"
#include "handover.h"
#include "process.h"
#include "plugin.h"
#include "runtime.h"
#include "server.h"
#include "thread.h"

static struct plugin_config *config;
static struct disks disks;
static struct control *control;
static char *own_dir, *control_path;
/* How far the process has come between get_ready and after_fork. */
static struct {
  bool done;    /* get_ready has ended well */
  bool user;    /* nbdkit will change its user */
  bool forked;  /* this is the parent of a fork: the child has the volumes */
  bool started; /* after_fork has been called */
  uid_t uid;
  pid_t pid;
} ready;
static pthread_t watcher;
/* A control command did not end in time: what it uses must not be freed. */
static bool busy;
static bool watching;

int
process_config_complete (void)
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

/* config.c compared the names that were given as keys.  Now that the disks are
 * open, the names that their sidecars remember are known, too. */
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

/* disk_start would refuse such a range, too, but after the fork, where the user
 * sees no error. */
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

/* Give the volumes to the user that nbdkit changes to.  A server is believed
 * about a store if it runs as the store's owner: so other users' tools find
 * it. */
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

/* A source's command would be started by the first user, and the second could
 * not end it. */
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
  size_t i;

  disks.ptr = calloc (config->nr_disks, sizeof *disks.ptr);
  if (disks.ptr == NULL || exports_make (&disks, config->nr_disks) == -1) {
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
    /* If nbdkit changes its user, W and the session are made as the second
     * user.  Else the session begins at once: a program that waits for the pid
     * file, which nbdkit writes before after_fork, then finds a volume whose
     * opening cannot fail any more. */
    dc->session_later = ready.user;
    dc->user_later = ready.user;
    dc->no_command |= ready.user;
    if (ready.user && check_no_command (dc) == -1)
      return -1;
    disk = handover_open (dc, &error);
    if (disk == NULL) {
      nbdkit_error ("%s", error);
      return -1;
    }
    disks.ptr[disks.len++] = disk;
    if (check_name (disk) == -1 || check_allocate (dc, disk) == -1)
      return -1;
    exports_add (i);
  }
  return 0;
}

static int
listen_control (void)
{
  CLEANUP_FREE char *error = NULL;
  const struct control_config cc = {
    .path = control_path,
    .access = config->access,
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
    handover_offer (disk);
  return NULL;
}

/* Close all gates at once, on a thread each: one may take seconds when its
 * backing store hangs. */
static void
gate_all (void)
{
  CLEANUP_FREE pthread_t *threads = calloc (disks.len, sizeof *threads);
  CLEANUP_FREE bool *started = calloc (disks.len, sizeof *started);
  size_t i;

  for (i = 1; threads && started && i < disks.len; i++)
    started[i] = thread_start (&threads[i], gate_one, disks.ptr[i]) == 0;
  for (i = 0; i < disks.len; i++)
    if (started && started[i])
      pthread_join (threads[i], NULL);
    else
      gate_one (disks.ptr[i]);
}

/* Has every operation left its disk?  After gate_all. */
static bool
all_idle (void)
{
  size_t i;
  int tries;

  for (i = 0; i < disks.len; i++)
    /* A late operation may be inside for the moment in which it finds the gate
     * closed. */
    for (tries = 0; !disk_is_idle (disks.ptr[i]); tries++) {
      if (tries == 50)
        return false;
      usleep (10000);
    }
  return true;
}

/* Called in the parent of a fork. */
static void
note_fork (void)
{
  if (ready.done && !ready.started)
    ready.forked = true;
}

/* As glibc's atexit: the handler is called when the plugin is unloaded, too.
 * The thread sanitizer's atexit does not know of unloading, and would call a
 * function that is no longer mapped. */
extern void *__dso_handle;
extern int __cxa_atexit (void (*f) (void *), void *arg, void *dso);

/* The exit handler.  Nbdkit exits when it cannot listen on its address, and
 * calls no callback of the plugin then. */
static void
leave_at_exit (void *opaque)
{
  (void)opaque;
  if (!ready.done || ready.forked || ready.started)
    return;
  gate_all ();
  if (control)
    control_unlisten (control);
  for (size_t i = 0; i < disks.len; i++)
    disk_free (disks.ptr[i]);
  disks.len = 0;
  runtime_leave ();
}

int
process_get_ready (void)
{
  CLEANUP_FREE char *dir = runtime_dir ();
  CLEANUP_FREE char *user = server_user ();

  if (dir == NULL)
    return -1;
  runtime_raise_files ();
  /* libbackfill looks for backfilld there, too. */
  if (config->runtime_dir)
    setenv ("BACKFILL_RUNTIME_DIR", dir, 1);
  /* A write beyond the limit on the size of files (RLIMIT_FSIZE) fails with
   * EFBIG, and does not end the process with all disks. */
  signal (SIGXFSZ, SIG_IGN);
  if (!config->control_off && set_control_path (dir) == -1)
    return -1;
  disk_set_total_speed (config->total_speed);
  if (config->in_flight)
    disk_set_in_flight (config->in_flight);
  ready.uid = geteuid ();
  ready.pid = getpid ();
  ready.user = user != NULL;

  /* The volumes are locked before the control socket is made: so a second
   * server fails before it could take the first one's socket. */
  if (open_disks (dir) == 0
      && (config->control_off || ready.user || listen_control () == 0)
      && __cxa_atexit (leave_at_exit, NULL, __dso_handle) == 0
      && pthread_atfork (NULL, note_fork, NULL) == 0) {
    server_note_pipes ();
    /* What was made in the runtime directory goes now: the second user could
     * not remove it. */
    if (user) {
      give_disks (user);
      runtime_leave ();
    }
    ready.done = true;
    return 0;
  }
  /* The server exits now, without .unload: close the volumes. */
  gate_all ();
  if (control)
    control_unlisten (control);
  runtime_leave ();
  return -1;
}

/* The watcher: sleeps until the server is told to quit, then closes all disks.
 * (The server prints "aborting sleep because of server shut down": there is no
 * quieter way to learn of the quit.) */
static void *
watch (void *arg)
{
  while (nbdkit_nanosleep (24 * 60 * 60, 0) == 0)
    ;
  nbdkit_debug ("quitting: committing all disks");
  /* Before the gates: the volumes' next owner may want the same socket. */
  if (control)
    control_unlisten (control);
  gate_all ();
  if (!all_idle ()) {
    /* Nbdkit would wait for its worker threads, and one of them hangs in a call
     * that does not return.  The gates that could be closed are closed.  The
     * other volumes are as after SIGKILL, whatever is done here. */
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
  if (thread_start (&watcher, watch, NULL) == -1) {
    nbdkit_error ("cannot start a thread: %m");
    return -1;
  }
  watching = true;
  return 0;

err:
  nbdkit_error ("%s", error);
  return -1;
}

/* nbdkit -u USER: from now on the process runs as that user, and makes its
 * runtime files and control socket as that user. */
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

int
process_after_fork (void)
{
  sigset_t all, old;
  int r;

  ready.started = true;
  if (getpid () != ready.pid)
    server_part_from_parent ();
  /* The main thread's signal mask is what threads made from here on inherit,
   * libraries' threads, too: signals go to nbdkit's threads only. */
  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  r = change_user () == 0 ? start_threads () : -1;
  pthread_sigmask (SIG_SETMASK, &old, NULL);

  /* The server exits now, without .cleanup: close the volumes. */
  if (r == -1) {
    gate_all ();
    if (control)
      control_unlisten (control);
    runtime_leave ();
  }
  return r;
}

void
process_cleanup (void)
{
  size_t i;

  /* A server on standard input ends without being told to quit. */
  nbdkit_shutdown ();
  if (watching)
    pthread_join (watcher, NULL);
  watching = false;

  /* The source's threads end before the disks are freed, which they may use. */
  disk_pools_stop ();
  for (i = 0; !busy && i < disks.len; i++)
    disk_free (disks.ptr[i]);
  disks.len = 0;
}

void
process_unload (void)
{
  size_t i;

  /* Disks are left here only if the server did not come to serve. */
  for (i = 0; i < disks.len; i++)
    if (disk_is_idle (disks.ptr[i]))
      disk_free (disks.ptr[i]);
  free (disks.ptr);
  exports_free ();
  if (control && !busy)
    control_free (control);
  free (own_dir);
  free (control_path);
  config_free ();
  if (!busy)
    runtime_leave ();
}
