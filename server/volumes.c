/* volumes.c - see volumes.h.
 *
 * A volume is in the table from before it is opened until after it is closed;
 * who asks for one that is on its way in or out waits.  Opening and closing
 * happen without the lock, as both may take seconds.
 *
 * A job started here puts the volume into the ledger, and it stays there
 * until the volume was closed without one.  So what the ledger holds and is
 * not open here is with another owner (a guest's server that asked for it,
 * disk-release), or was left by a daemon that died.  The keeper looks whether
 * its lock is free; when it has been so for the grace period, in which the
 * hypervisor's own server may come back, the volume is opened, and its job
 * goes on by itself.
 *
 * Crash points of a hand-over: the lock of the volume alone decides who owns
 * it.  Died before the gate: the volume is recovered by the next who opens
 * it; after it: it is clean.  In both cases the ledger still names it.
 *
 * Locking: the lock guards the table, the list of those away and the ledger
 * (its fsync included).  It comes before all locks of the engine's calls made
 * under it, which are none but disk_name and the like.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "log.h"
#include "message.h"
#include "path.h"
#include "volumes.h"

#define TICK_MS 500u
#define RELEASE_MS 5000u /* for the commands on a volume that is let go */
#define HELD_MS 1000u    /* look again at one that another has open */
#define FAILED_MS 30000u /* try again to open one that failed */

enum volume_state { VOLUME_OPENING, VOLUME_OPEN, VOLUME_CLOSING };

struct volume {
  struct volume *next;
  char *path;
  struct disk *disk;
  enum volume_state state;
  unsigned refs;
  uint64_t idle_since; /* when it was last asked for; lists do not count */
  bool plain;          /* it had no sidecar: one without a job leaves none */
  /* Once it is shut. */
  bool shut, had_job;
  int result;
};

/* One that is not to be opened for now. */
struct away {
  struct away *next;
  char *path;
  uint64_t until;      /* let go: others come first */
  uint64_t free_since; /* 0: another has it, as far as is known */
  uint64_t look_at;
};

struct volumes {
  struct volumes_config config;
  char *runtime_dir, *control;
  struct control_volumes commands;

  pthread_mutex_t lock; /* guards from here */
  pthread_cond_t changed;
  struct volume *open;
  unsigned nr_open;
  struct away *away;
  struct ledger *ledger;
  bool stop;

  pthread_t keeper;
  bool keeping;
};

static uint64_t
now_in_ms (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* The lock is held.  False at the end of the time. */
static bool
wait_until (struct volumes *vs, uint64_t ms)
{
  struct timespec ts = { .tv_sec = (time_t)(ms / 1000),
                         .tv_nsec = (long)(ms % 1000) * 1000000 };

  return pthread_cond_timedwait (&vs->changed, &vs->lock, &ts) == 0;
}

/* --- who and what ----------------------------------------------------- */

/* Absolute, and the one way to write it. */
static bool
is_canonical (const char *path)
{
  const char *p = path;

  if (*p != '/')
    return false;
  while (*p == '/') {
    size_t len = strcspn (++p, "/");

    if (len == 0 || (len == 1 && p[0] == '.')
        || (len == 2 && p[0] == '.' && p[1] == '.'))
      return false;
    p += len;
  }
  return true;
}

static bool
is_ours (const struct control_peer *peer)
{
  return peer->uid == 0 || peer->uid == geteuid ();
}

/* -1 unless the peer may use what is at path, and means that. */
static int
may_use (const struct control_peer *peer, const char *path,
         const struct file_id *file, char **error)
{
  struct stat st;

  if (!is_canonical (path)) {
    errno = EINVAL;
    message_set (error,
                 "'%s' is no volume: give the path of its store, absolute and "
                 "resolved",
                 path);
    return -1;
  }
  if (path_stat (path, &st) == -1) {
    if (errno == EPERM || errno == ELOOP || errno == EXDEV) {
      errno = EPERM;
      message_set (error,
                   "'%s' is not below the folders that backfilld may use, or "
                   "there is a symbolic link in it",
                   path);
    }
    else
      message_set (error, "volume '%s': %m", path);
    return -1;
  }
  if (S_ISLNK (st.st_mode)) {
    errno = EPERM;
    message_set (error, "'%s' is a symbolic link: give what it leads to", path);
    return -1;
  }
  if (!is_ours (peer) && st.st_uid != peer->uid) {
    errno = EPERM;
    message_set (error, "'%s' belongs to another user", path);
    return -1;
  }
  if (file && !file_id_equal (*file, file_id (&st))) {
    errno = ESTALE;
    message_set (error, "'%s' is another file than the one that is meant",
                 path);
    return -1;
  }
  return 0;
}

static bool
has_sidecar (const char *path)
{
  CLEANUP_FREE char *sidecar = NULL;
  struct stat st;

  if (asprintf (&sidecar, "%s.backfill", path) == -1) {
    sidecar = NULL;
    return true; /* opening it will say what is wrong */
  }
  return path_stat (sidecar, &st) == 0 || errno != ENOENT;
}

/* 1: nobody has it open; 0: someone has; -1 with errno. */
static int
is_free (const char *path)
{
  CLEANUP_CLOSE int fd = path_open (path, O_RDONLY | O_NONBLOCK, 0);
  struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

  if (fd == -1 || fcntl (fd, F_OFD_GETLK, &fl) == -1)
    return -1;
  return fl.l_type == F_UNLCK;
}

static bool
has_job (struct disk *disk)
{
  enum job_status status = job_get_status (disk);

  return status != JOB_NONE && status != JOB_CONCLUDED;
}

/* --- the lists: the lock is held -------------------------------------- */

static struct volume *
find_volume (struct volumes *vs, const char *path)
{
  struct volume *v;

  for (v = vs->open; v; v = v->next)
    if (strcmp (v->path, path) == 0)
      break;
  return v;
}

static void
remove_volume (struct volumes *vs, struct volume *v)
{
  struct volume **p = &vs->open;

  while (*p != v)
    p = &(*p)->next;
  *p = v->next;
  vs->nr_open--;
  free (v->path);
  free (v);
  pthread_cond_broadcast (&vs->changed);
}

static struct away *
find_away (struct volumes *vs, const char *path)
{
  struct away *a;

  for (a = vs->away; a; a = a->next)
    if (strcmp (a->path, path) == 0)
      break;
  return a;
}

/* The entry of path, made if there is none; NULL on ENOMEM. */
static struct away *
note_away (struct volumes *vs, const char *path)
{
  struct away *a = find_away (vs, path);

  if (a)
    return a;
  a = calloc (1, sizeof *a);
  if (!a || !(a->path = strdup (path))) {
    free (a);
    return NULL;
  }
  a->next = vs->away;
  vs->away = a;
  return a;
}

static void
forget_away (struct volumes *vs, const char *path)
{
  for (struct away **p = &vs->away; *p; p = &(*p)->next)
    if (strcmp ((*p)->path, path) == 0) {
      struct away *a = *p;

      *p = a->next;
      free (a->path);
      free (a);
      return;
    }
}

static void
leave_ledger (struct volumes *vs, const char *path)
{
  if (ledger_remove (vs->ledger, path) == -1)
    log_error ("the ledger in %s cannot be written: %m", vs->config.state_dir);
}

/* --- closing ---------------------------------------------------------- */

/* Let the files go: v is nobody's, and the lock not held. */
static void *
shut_volume (void *arg)
{
  struct volume *v = arg;
  CLEANUP_FREE char *error = NULL;

  v->had_job = has_job (v->disk);
  if (v->plain && job_get_status (v->disk) == JOB_NONE
      && disk_detach (v->disk, &error) == -1)
    log_debug ("%s: its sidecar stays: %s", v->path, error);
  v->result = disk_gate (v->disk);
  v->shut = true;
  if (v->result == -1)
    log_error ("%s: not everything could be made durable: %m", v->path);
  return NULL;
}

/* The lock is held, and let go meanwhile; v is open and nobody's.  On return
 * it is gone.  -1 if not all could be made durable. */
static int
close_volume (struct volumes *vs, struct volume *v)
{
  int r;

  v->state = VOLUME_CLOSING;
  pthread_mutex_unlock (&vs->lock);
  if (!v->shut)
    shut_volume (v);
  /* One whose store does not answer is left behind, locked. */
  if (disk_is_idle (v->disk))
    disk_free (v->disk);
  log_debug ("%s: closed", v->path);
  pthread_mutex_lock (&vs->lock);
  r = v->result;
  if (!v->had_job && r == 0)
    leave_ledger (vs, v->path);
  remove_volume (vs, v);
  return r;
}

/* --- opening ---------------------------------------------------------- */

static void
not_yours (const struct volume *v, char **error)
{
  message_set (error, "'%s' belongs to another user", v->path);
  errno = EPERM;
}

/* The file at the path may be another than the one that is open, or was
 * looked at. */
static bool
may_have (const struct control_peer *peer, const struct volume *v, char **error)
{
  if (is_ours (peer) || disk_store_owner (v->disk) == peer->uid)
    return true;
  not_yours (v, error);
  return false;
}

/* The same with the lock held, by whose the store was a moment ago. */
static bool
may_see (const struct control_peer *peer, const struct volume *v)
{
  return is_ours (peer) || disk_store_owner_seen (v->disk) == peer->uid;
}

/* Room for one more, if need be by closing one that is idle.  The lock is
 * held, and let go if one is closed. */
static bool
make_room (struct volumes *vs)
{
  struct volume *oldest = NULL;

  if (vs->nr_open < vs->config.max_open)
    return true;
  for (struct volume *v = vs->open; v; v = v->next)
    if (v->state == VOLUME_OPEN && v->refs == 0
        && (!oldest || v->idle_since < oldest->idle_since)
        && !has_job (v->disk))
      oldest = v;
  if (oldest)
    close_volume (vs, oldest);
  return vs->nr_open < vs->config.max_open;
}

/* Without the lock. */
static struct disk *
open_disk (struct volumes *vs, const char *path, const struct disk_config *more,
           bool plain, char **error)
{
  struct disk_config config = *more;
  struct disk *disk;

  config.store = path;
  config.store_is_name = true;
  config.no_command = !vs->config.commands;
  config.adopt = plain ? DISK_ADOPT_PLAIN : DISK_ADOPT_NONE;
  config.runtime_dir = vs->runtime_dir;
  config.control = vs->control;
  config.event = vs->config.event;
  config.event_opaque = vs->config.event_opaque;
  disk = disk_open (&config, error);
  if (!disk)
    return NULL;
  if (disk_start (disk, error) == 0)
    return disk;
  disk_gate (disk);
  if (disk_is_idle (disk))
    disk_free (disk);
  if (errno == 0)
    errno = EIO;
  return NULL;
}

/* The lock is held, and let go meanwhile.  The volume, held; or NULL. */
static struct volume *
open_volume (struct volumes *vs, const char *path,
             const struct disk_config *more, bool fresh, char **error)
{
  struct volume *v;
  struct disk *disk;
  bool plain = !fresh && !has_sidecar (path);
  int err;

  if (!make_room (vs)) {
    errno = EMFILE;
    message_set (error,
                 "%u volumes are open, which is the most: wait until a job "
                 "has ended, or raise --max-volumes",
                 vs->nr_open);
    return NULL;
  }
  /* Somebody may have been faster while one was being closed. */
  if (find_volume (vs, path)) {
    errno = EAGAIN;
    return NULL;
  }
  v = calloc (1, sizeof *v);
  if (!v || !(v->path = strdup (path))) {
    free (v);
    errno = ENOMEM;
    message_set (error, "out of memory");
    return NULL;
  }
  v->state = VOLUME_OPENING;
  v->plain = plain;
  v->next = vs->open;
  vs->open = v;
  vs->nr_open++;
  pthread_mutex_unlock (&vs->lock);
  disk = open_disk (vs, path, more, plain, error);
  err = errno;
  pthread_mutex_lock (&vs->lock);
  v->disk = disk;
  if (!disk) {
    remove_volume (vs, v);
    errno = err;
    return NULL;
  }
  log_debug ("%s: opened", path);
  v->state = VOLUME_OPEN;
  v->refs = 1;
  v->idle_since = now_in_ms ();
  forget_away (vs, path);
  pthread_cond_broadcast (&vs->changed);
  return v;
}

static void
put_volume (struct volumes *vs, struct volume *v)
{
  v->refs--;
  pthread_cond_broadcast (&vs->changed);
}

/* The lock is held.  The volume of path, held. */
static struct volume *
get_volume (struct volumes *vs, const char *path, char **error)
{
  static const struct disk_config none;

  for (;;) {
    struct volume *v = find_volume (vs, path);
    struct away *a = find_away (vs, path);

    if (vs->stop) {
      errno = ESHUTDOWN;
      message_set (error, "backfilld is ending");
      return NULL;
    }
    if (v && v->state == VOLUME_OPEN) {
      v->refs++;
      v->idle_since = now_in_ms ();
      return v;
    }
    if (v) {
      pthread_cond_wait (&vs->changed, &vs->lock);
      continue;
    }
    /* (One that has been opened by then: its owner is named below.) */
    if (a && now_in_ms () < a->until && is_free (path) != 0) {
      errno = EBUSY;
      message_set (error,
                   "'%s' was let go for another process a moment ago: ask "
                   "that one, or try again",
                   path);
      return NULL;
    }
    v = open_volume (vs, path, &none, false, error);
    if (v || errno != EAGAIN)
      return v;
  }
}

/* --- commands --------------------------------------------------------- */

static struct disk *
command_get (void *opaque, const struct control_peer *peer, const char *path,
             const struct file_id *file, enum control_use use, char **error)
{
  struct volumes *vs = opaque;
  struct volume *v;
  bool allowed;

  if (may_use (peer, path, file, error) == -1)
    return NULL;
  LOCK_SCOPE (&vs->lock);
  v = get_volume (vs, path, error);
  if (!v)
    return NULL;
  /* It is held; asking its store may take as long as that likes. */
  pthread_mutex_unlock (&vs->lock);
  allowed = may_have (peer, v, error);
  pthread_mutex_lock (&vs->lock);
  if (!allowed) {
    put_volume (vs, v);
    errno = EPERM;
    return NULL;
  }
  /* Before the job: a daemon that dies then finds no job, not a job that
   * nobody goes on with.  One that was found in the volume is ours now. */
  if ((use == CONTROL_JOB || has_job (v->disk))
      && ledger_add (vs->ledger, path) == -1) {
    int err = errno;

    message_set (error, "the ledger in %s cannot be written: %m",
                 vs->config.state_dir);
    put_volume (vs, v);
    errno = err;
    return NULL;
  }
  return v->disk;
}

static void
command_put (void *opaque, struct disk *disk)
{
  struct volumes *vs = opaque;
  LOCK_SCOPE (&vs->lock);

  for (struct volume *v = vs->open; v; v = v->next)
    if (v->disk == disk) {
      put_volume (vs, v);
      return;
    }
}

static int
command_list (void *opaque, const struct control_peer *peer,
              struct disks *disks)
{
  struct volumes *vs = opaque;
  LOCK_SCOPE (&vs->lock);

  disks->len = 0;
  disks->ptr = calloc (vs->nr_open + 1, sizeof *disks->ptr);
  if (!disks->ptr)
    return -1;
  for (struct volume *v = vs->open; v; v = v->next) {
    if (v->state == VOLUME_OPEN && may_see (peer, v)) {
      v->refs++;
      disks->ptr[disks->len++] = v->disk;
    }
  }
  return 0;
}

static int
command_create (void *opaque, const struct control_peer *peer,
                const struct disk_config *config, char **error)
{
  struct volumes *vs = opaque;
  struct volume *v;
  struct stat st;

  if (!is_ours (peer)) {
    errno = EPERM;
    message_set (error, "only root and backfilld's own user make volumes");
    return -1;
  }
  if (!is_canonical (config->store)) {
    errno = EINVAL;
    message_set (error, "'%s' is no path of a store: give an absolute one",
                 config->store);
    return -1;
  }
  if (path_stat (config->store, &st) == 0) {
    errno = EEXIST;
    message_set (error, "'%s' is there already", config->store);
    return -1;
  }
  if (errno != ENOENT) {
    message_set (error, "'%s' cannot be made: %m", config->store);
    return -1;
  }
  LOCK_SCOPE (&vs->lock);
  v = vs->stop ? NULL : open_volume (vs, config->store, config, true, error);
  if (!v) {
    if (!*error) {
      errno = EBUSY;
      message_set (error, "'%s' is being made already", config->store);
    }
    return -1;
  }
  put_volume (vs, v);
  return 0;
}

static int
command_release (void *opaque, const struct control_peer *peer,
                 const char *path, const struct file_id *file, char **error)
{
  struct volumes *vs = opaque;
  uint64_t deadline = now_in_ms () + RELEASE_MS;
  struct volume *v, *asked = NULL;
  struct away *a;

  if (may_use (peer, path, file, error) == -1)
    return -1;
  LOCK_SCOPE (&vs->lock);
  for (;;) {
    bool allowed;

    v = find_volume (vs, path);
    if (v && v->state != VOLUME_OPEN) {
      pthread_cond_wait (&vs->changed, &vs->lock);
      continue;
    }
    if (!v || v == asked)
      break;
    v->refs++;
    pthread_mutex_unlock (&vs->lock);
    allowed = may_have (peer, v, error);
    pthread_mutex_lock (&vs->lock);
    put_volume (vs, v);
    if (!allowed) {
      errno = EPERM;
      return -1;
    }
    asked = v;
  }
  a = note_away (vs, path);
  if (!a) {
    errno = ENOMEM;
    message_set (error, "out of memory");
    return -1;
  }
  /* While it is on its way out, too, nobody else gets it. */
  a->until = UINT64_MAX;
  a->free_since = 0;
  if (v) {
    v->state = VOLUME_CLOSING;
    while (v->refs > 0 && wait_until (vs, deadline))
      ;
    if (v->refs > 0) {
      v->state = VOLUME_OPEN;
      forget_away (vs, path);
      pthread_cond_broadcast (&vs->changed);
      errno = EBUSY;
      message_set (error, "'%s': a command on it does not end", path);
      return -1;
    }
    log_error ("%s: let go for process %ld", path, (long)peer->pid);
    /* What could not be made durable is recovered by the next owner. */
    close_volume (vs, v);
  }
  a->until = now_in_ms () + vs->config.grace;
  return 0;
}

static int
command_take (void *opaque, const struct control_peer *peer, const char *path,
              const struct file_id *file, char **error)
{
  struct volumes *vs = opaque;
  struct volume *v;
  struct away *a;

  if (may_use (peer, path, file, error) == -1)
    return -1;
  if (!has_sidecar (path)) {
    errno = EINVAL;
    message_set (error, "'%s' has no sidecar beside it: there is no job", path);
    return -1;
  }
  LOCK_SCOPE (&vs->lock);
  /* One on its way in may fail, as its owner had it a moment ago: its job
   * would be nobody's. */
  while ((v = find_volume (vs, path)) && v->state != VOLUME_OPEN)
    pthread_cond_wait (&vs->changed, &vs->lock);
  if (v)
    return 0;
  if (ledger_add (vs->ledger, path) == -1) {
    message_set (error, "the ledger in %s cannot be written: %m",
                 vs->config.state_dir);
    return -1;
  }
  a = note_away (vs, path);
  if (a) {
    a->free_since = 0;
    a->look_at = 0;
  }
  return 0;
}

/* --- the keeper ------------------------------------------------------- */

/* Close what has been idle for long enough.  The lock is held. */
static void
close_idle (struct volumes *vs)
{
  struct volume *v = vs->open;

  while (v)
    if (v->state != VOLUME_OPEN || v->refs > 0 || has_job (v->disk)
        || now_in_ms () - v->idle_since < vs->config.idle)
      v = v->next;
    else {
      close_volume (vs, v);
      v = vs->open;
    }
}

/* One of the ledger that is not open here.  The lock is held, and let go
 * meanwhile. */
static void
look_at (struct volumes *vs, const char *path)
{
  struct away *a = find_away (vs, path);
  CLEANUP_FREE char *error = NULL;
  struct volume *v;
  uint64_t now = now_in_ms ();
  int r;

  if (a && (now < a->look_at || now < a->until))
    return;
  r = is_free (path);
  if (r == -1 && errno == ENOENT) {
    log_error ("%s is gone: its job is forgotten", path);
    leave_ledger (vs, path);
    forget_away (vs, path);
    return;
  }
  if (r == 0) {
    a = note_away (vs, path);
    if (a) {
      a->free_since = 0;
      a->look_at = now + HELD_MS;
    }
    return;
  }
  /* One that we never saw with another was ours when the daemon ended. */
  if (a) {
    if (a->free_since == 0)
      a->free_since = now;
    if (now - a->free_since < vs->config.grace)
      return;
  }
  v = get_volume (vs, path, &error);
  if (v) {
    log_error ("%s: going on with its job", path);
    put_volume (vs, v);
    return;
  }
  if (errno == ESHUTDOWN)
    return;
  r = errno;
  a = note_away (vs, path);
  if (a) {
    a->free_since = 0;
    a->look_at = now_in_ms () + (r == EBUSY ? HELD_MS : FAILED_MS);
  }
  if (r != EBUSY)
    log_error ("%s: its job cannot go on: %s", path, error);
}

/* The lock is held. */
static void
look_at_ledger (struct volumes *vs)
{
  size_t nr = vs->ledger->nr;
  char **paths = calloc (nr, sizeof *paths);

  for (size_t i = 0; paths && i < nr; i++)
    paths[i] = strdup (vs->ledger->path[i]);
  for (size_t i = 0; paths && i < nr; i++) {
    if (paths[i] && !vs->stop && ledger_has (vs->ledger, paths[i])
        && !find_volume (vs, paths[i]))
      look_at (vs, paths[i]);
    free (paths[i]);
  }
  free (paths);
}

/* Entries that say nothing any more.  The lock is held. */
static void
forget_old (struct volumes *vs)
{
  uint64_t now = now_in_ms ();
  struct away *next;

  for (struct away *a = vs->away; a; a = next) {
    next = a->next;
    if (now >= a->until && !ledger_has (vs->ledger, a->path))
      forget_away (vs, a->path);
  }
}

static void *
keep (void *arg)
{
  struct volumes *vs = arg;
  LOCK_SCOPE (&vs->lock);

  while (!vs->stop) {
    uint64_t next;

    close_idle (vs);
    look_at_ledger (vs);
    forget_old (vs);
    next = now_in_ms () + TICK_MS;
    while (!vs->stop && wait_until (vs, next))
      ;
  }
  return NULL;
}

/* --- life ------------------------------------------------------------- */

struct volumes *
volumes_new (const struct volumes_config *config, char **error)
{
  struct volumes *vs = calloc (1, sizeof *vs);
  pthread_condattr_t attr;

  if (!vs) {
    message_set (error, "out of memory");
    return NULL;
  }
  vs->config = *config;
  vs->commands = (struct control_volumes){
    .get = command_get,
    .put = command_put,
    .list = command_list,
    .create = command_create,
    .release = command_release,
    .take = command_take,
    .opaque = vs,
  };
  pthread_mutex_init (&vs->lock, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&vs->changed, &attr);
  pthread_condattr_destroy (&attr);
  vs->runtime_dir = config->runtime_dir ? strdup (config->runtime_dir) : NULL;
  vs->control = strdup (config->control);
  if (!vs->control || (config->runtime_dir && !vs->runtime_dir)) {
    message_set (error, "out of memory");
    goto fail;
  }
  vs->ledger = ledger_open (config->state_dir, error);
  if (vs->ledger)
    return vs;
fail:
  volumes_free (vs);
  return NULL;
}

const struct control_volumes *
volumes_commands (struct volumes *vs)
{
  return &vs->commands;
}

int
volumes_start (struct volumes *vs)
{
  int err = pthread_create (&vs->keeper, NULL, keep, vs);

  vs->keeping = err == 0;
  errno = err;
  return err == 0 ? 0 : -1;
}

int
volumes_stop (struct volumes *vs)
{
  CLEANUP_FREE pthread_t *threads = NULL;
  CLEANUP_FREE bool *started = NULL;
  unsigned i = 0;
  int r = 0;

  {
    LOCK_SCOPE (&vs->lock);
    vs->stop = true;
    pthread_cond_broadcast (&vs->changed);
  }
  if (vs->keeping)
    pthread_join (vs->keeper, NULL);
  vs->keeping = false;

  /* Nothing is being opened: the control has ended, too. */
  LOCK_SCOPE (&vs->lock);
  /* All at once: each may take seconds when its source hangs. */
  threads = calloc (vs->nr_open + 1, sizeof *threads);
  started = calloc (vs->nr_open + 1, sizeof *started);
  for (struct volume *v = vs->open; threads && started && v; v = v->next, i++)
    started[i] = pthread_create (&threads[i], NULL, shut_volume, v) == 0;
  while (threads && started && i-- > 0)
    if (started[i])
      pthread_join (threads[i], NULL);
  while (vs->open)
    if (close_volume (vs, vs->open) == -1)
      r = -1;
  return r;
}

void
volumes_free (struct volumes *vs)
{
  if (!vs)
    return;
  while (vs->away)
    forget_away (vs, vs->away->path);
  ledger_free (vs->ledger);
  pthread_mutex_destroy (&vs->lock);
  pthread_cond_destroy (&vs->changed);
  free (vs->runtime_dir);
  free (vs->control);
  free (vs);
}
