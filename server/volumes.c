/* volumes.c - see volumes.h.
 *
 * A volume is in the table from before it is opened until after it is closed.
 * Whatever may hang (a path, an open, a close, a sync) is done on a thread of
 * its own (crew.h), without the lock; a command that needs its result is run
 * again then (EINPROGRESS), and holds no thread meanwhile.  So a store, a
 * folder or a source that does not answer costs its own volume, and nobody
 * else: and its own an error, after PATIENCE_MS.
 *
 * A look is a question about a path that changes nothing: whose is it, has it
 * a sidecar, has somebody got it open, what does its sidecar say.
 *
 * A job started here puts the volume into the ledger, and it stays there as
 * one in progress until the volume was closed without; then as one that ended,
 * until it is dismissed.  What the ledger holds and is not open here is with
 * another owner (a guest's server that asked for it, disk-release), or was
 * left by a daemon that died.  The keeper looks whether its lock is free; when
 * it has been so for the grace period, in which the hypervisor's own server
 * may come back, the volume is opened, and its job goes on by itself.  One
 * that is not there (a file system that is not mounted looks like that) is
 * looked for again and again, and forgotten after MISSING_S.
 *
 * Crash points of a hand-over: the lock of the volume alone decides who owns
 * it.  Died before the gate: the volume is recovered by the next who opens
 * it; after it: it is clean.  In both cases the ledger still names it.
 *
 * Who: a volume, a look and an entry of the ledger count for the user who
 * asked (uid; 0 is root and our own), and are had by him only if the store is
 * his, by its descriptor.
 *
 * Locking: the lock guards the table, the looks, the list of those away and
 * the ledger in memory.  It is never held while anything is waited for.  It
 * comes before all locks of the engine's calls made under it, which are none
 * but disk_name, the job's status and the like, and before the control's.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "crew.h"
#include "log.h"
#include "message.h"
#include "path.h"
#include "thread.h"
#include "volumes.h"

#define TICK_MS 250u
#define RELEASE_MS 5000u   /* for the commands on a volume that is let go */
#define HELD_MS 1000u      /* look again at one that another has open */
#define FAILED_MS 30000u   /* try again to open one that failed */
#define AWAY_MS 60000u     /* look again for one that is not there, at most */
#define PATIENCE_MS 30000u /* a command's, with what does not answer */
#define LINGER_MS 5000u    /* results that somebody may still ask for */
#define SILENT_MS 1000u    /* a volume's time to answer in a list */
#define CLOSING_MS 3000u   /* and a place in the table to get free */
#define STOP_MS 10000u
#define CREW_MS 1000u
#define MISSING_S (7 * 24 * 3600)
#define MAX_COMMANDS 8u  /* on one volume at a time */
#define MAX_YOUNG 16u    /* volumes that the keeper opens at a time ... */
#define YOUNG_MS 3000u   /* ... and has not waited for for so long */
#define MAX_LOOKS 16u    /* of another user at a time, */
#define OTHERS_LOOKS 64u /* and of all of them */
#define MAX_AWAY 4096u

enum volume_state {
  VOLUME_OPENING,
  VOLUME_OPEN,
  VOLUME_LEAVING, /* let go as soon as nobody uses it */
  VOLUME_CLOSING,
  VOLUME_FAILED, /* it is not open; err and error say why */
};

struct volume {
  struct volumes *vs;
  struct volume *next;
  char *path;
  uid_t uid; /* whose share it is of */
  enum volume_state state;
  uint64_t since; /* when it came into this state */

  /* For the opening. */
  struct disk_config more;
  char *backing;
  bool fresh;       /* it is being made */
  bool kept;        /* the keeper opens it */
  uint64_t made_by; /* the serial of the command, which holds it */

  struct disk *disk;
  unsigned refs;
  bool used;           /* somebody has had it */
  bool silent;         /* it did not answer in a list, and does not yet */
  uint64_t idle_since; /* when it was last asked for; lists do not count */
  bool plain;          /* it had no sidecar: one without a job leaves none */
  uint64_t leave_by;   /* or it stays */
  uint64_t refused_at; /* when it was last not let go */

  int err; /* of one that failed */
  char *error;
};

struct look {
  struct volumes *vs;
  struct look *next;
  char *path;
  uid_t uid;
  bool deep; /* how much is local, too */
  bool busy;
  uint64_t since;  /* of the last one */
  uint64_t serial; /* of the command that it was for, 0: for none */
  struct disk_peek peek;
  int err; /* 0, or why peek holds nothing */
  char *error;
};

/* One that is not to be opened for now. */
struct away {
  struct away *next;
  char *path;
  uint64_t until;      /* let go: others come first */
  uint64_t free_since; /* 0: another has it, as far as is known */
  uint64_t look_at;
  uint64_t pause;    /* between looks for one that is not there */
  uint64_t asked_at; /* the look that is awaited; 0: none */
  bool told;         /* that it is not there */
};

struct volumes {
  struct volumes_config config;
  char *runtime_dir, *control, *state_dir;
  struct control_volumes commands;
  struct crew *crew;

  pthread_mutex_t lock; /* guards from here */
  pthread_cond_t changed;
  struct volume *open;
  unsigned nr_open; /* without those that failed */
  struct look *looks;
  struct away *away;
  unsigned nr_away;
  struct ledger *ledger;
  uint64_t durable;     /* the version that is on the disk */
  uint64_t failed;      /* one that could not be written, */
  int failed_errno;     /* and why; */
  uint64_t write_again; /* when to try again */
  uint64_t writing_since;
  bool writing;
  uint64_t speed_serial; /* of the command that set the limit last */
  bool waiting;          /* commands do, for a kick */
  bool stop;
  int result; /* -1: one could not be made durable */

  pthread_t keeper;
  bool keeping;
};

/* The lock is held.  False at the end of the time. */
static bool
wait_until (struct volumes *vs, uint64_t ms)
{
  struct timespec ts = ms_to_timespec (ms);

  return pthread_cond_timedwait (&vs->changed, &vs->lock, &ts) == 0;
}

/* The lock is held: commands that wait are to look again. */
static void
changed (struct volumes *vs)
{
  pthread_cond_broadcast (&vs->changed);
  if (!vs->waiting)
    return;
  vs->waiting = false;
  if (vs->config.kick)
    vs->config.kick (vs->config.kick_opaque);
}

/* The lock is held: for what a command returns. */
static int
later (struct volumes *vs)
{
  vs->waiting = true;
  errno = EINPROGRESS;
  return -1;
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

static int
check_canonical (const char *path, char **error)
{
  if (is_canonical (path))
    return 0;
  message_set (error,
               "'%s' is no volume: give the path of its store, absolute and "
               "resolved",
               path);
  errno = EINVAL;
  return -1;
}

static bool
is_ours (const struct control_peer *peer)
{
  return peer->uid == 0 || peer->uid == geteuid ();
}

/* Whose share it is. */
static uid_t
user_of (const struct control_peer *peer)
{
  return is_ours (peer) ? 0 : peer->uid;
}

static int
belongs_to_another (const char *path, char **error)
{
  message_set (error, "'%s' belongs to another user", path);
  errno = EPERM;
  return -1;
}

/* NULL: whatever is there is meant. */
static int
check_file (const char *path, const struct file_id *meant, struct file_id is,
            char **error)
{
  if (!meant || file_id_equal (*meant, is))
    return 0;
  message_set (error, "'%s' is another file than the one that is meant", path);
  errno = ESTALE;
  return -1;
}

static int
check_stop (const struct volumes *vs, char **error)
{
  if (!vs->stop)
    return 0;
  message_set (error, "backfilld is ending");
  errno = ESHUTDOWN;
  return -1;
}

static int
no_answer (const char *path, const char *what, char **error)
{
  message_set (error,
               "'%s' %s, and its store or folder does not answer: try again "
               "when it does",
               path, what);
  errno = ETIMEDOUT;
  return -1;
}

/* On a thread that may hang: 0 and *st of what is at path, -1 if that is no
 * store, or not the user's. */
static int
check_path (const char *path, uid_t uid, char **error)
{
  struct stat st;

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
  if (uid && st.st_uid != uid)
    return belongs_to_another (path, error);
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

static struct volume *
volume_of (struct volumes *vs, const struct disk *disk)
{
  struct volume *v;

  for (v = vs->open; v; v = v->next)
    if (v->disk == disk)
      break;
  return v;
}

static void
set_state (struct volume *v, enum volume_state state)
{
  v->state = state;
  v->since = now_ms ();
}

static void
free_volume (struct volume *v)
{
  free (v->path);
  free (v->backing);
  free (v->error);
  free (v);
}

static void
remove_volume (struct volumes *vs, struct volume *v)
{
  struct volume **p = &vs->open;

  while (*p != v)
    p = &(*p)->next;
  *p = v->next;
  if (v->state != VOLUME_FAILED)
    vs->nr_open--;
  free_volume (v);
  changed (vs);
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
  vs->nr_away++;
  return a;
}

static void
forget_away (struct volumes *vs, const char *path)
{
  for (struct away **p = &vs->away; *p; p = &(*p)->next)
    if (strcmp ((*p)->path, path) == 0) {
      struct away *a = *p;

      *p = a->next;
      vs->nr_away--;
      free (a->path);
      free (a);
      return;
    }
}

/* --- the ledger's file ------------------------------------------------ */

static void
write_ledger (void *arg)
{
  struct volumes *vs = arg;
  LOCK_SCOPE (&vs->lock);

  while (vs->durable < vs->ledger->version) {
    CLEANUP_FREE char *text = ledger_text (vs->ledger);
    uint64_t version = vs->ledger->version;
    int r, err;

    vs->writing_since = now_ms ();
    pthread_mutex_unlock (&vs->lock);
    errno = ENOMEM;
    r = text ? ledger_write (vs->state_dir, text) : -1;
    err = errno;
    pthread_mutex_lock (&vs->lock);
    if (r == 0)
      vs->durable = version;
    else {
      vs->failed = version;
      vs->failed_errno = err;
      vs->write_again = now_ms () + FAILED_MS;
      errno = err;
      log_error ("the ledger in %s cannot be written: %m", vs->state_dir);
      break;
    }
    changed (vs);
  }
  vs->writing = false;
  changed (vs);
}

/* Have what has changed written.  The lock is held. */
static void
keep_ledger (struct volumes *vs)
{
  if (vs->writing || vs->durable >= vs->ledger->version)
    return;
  if (crew_run (vs->crew, write_ledger, vs) == 0) {
    vs->writing = true;
    vs->writing_since = now_ms ();
  }
}

/* 1: that version is on the disk; 0: not yet; -1 with errno and *error: it
 * cannot be written.  The lock is held. */
static int
is_durable (struct volumes *vs, uint64_t version, char **error)
{
  if (vs->durable >= version)
    return 1;
  if (vs->failed >= version) {
    errno = vs->failed_errno;
    message_set (error, "the ledger in %s cannot be written: %m",
                 vs->state_dir);
    return -1;
  }
  if (vs->writing && now_ms () - vs->writing_since > PATIENCE_MS) {
    errno = ETIMEDOUT;
    message_set (error, "the ledger in %s cannot be written: %m",
                 vs->state_dir);
    return -1;
  }
  keep_ledger (vs);
  return 0;
}

/* --- looks ------------------------------------------------------------ */

static void
look_task (void *arg)
{
  struct look *l = arg;
  struct volumes *vs = l->vs;
  struct disk_peek peek = { 0 };
  char *error = NULL;
  int err = 0;

  if (check_path (l->path, l->uid, &error) == -1
      || disk_peek (l->path, l->deep, &peek, &error) == -1)
    err = errno;
  else if (l->uid && peek.owner != l->uid) {
    disk_peek_clear (&peek);
    belongs_to_another (l->path, &error);
    err = EPERM;
  }
  LOCK_SCOPE (&vs->lock);
  l->peek = peek;
  l->err = err;
  l->error = error;
  l->busy = false;
  changed (vs);
}

static void
clear_look (struct look *l)
{
  disk_peek_clear (&l->peek);
  free (l->error);
  l->error = NULL;
  l->err = 0;
}

static void
free_look (struct look *l)
{
  clear_look (l);
  free (l->path);
  free (l);
}

static bool
may_look (const struct volumes *vs, uid_t uid)
{
  unsigned his = 0, others = 0;

  if (uid == 0)
    return true;
  for (const struct look *l = vs->looks; l; l = l->next)
    if (l->busy && l->uid) {
      others++;
      his += l->uid == uid;
    }
  return his < MAX_LOOKS && others < OTHERS_LOOKS;
}

/* What is known of path, no older than since (ms), or than the command of that
 * serial, unless that is 0; NULL: not yet, it is on its way, or has to wait.
 * The lock is held. */
static struct look *
look_at (struct volumes *vs, const char *path, uid_t uid, bool deep,
         uint64_t since, uint64_t serial)
{
  struct look *l;

  for (l = vs->looks; l; l = l->next)
    if (l->uid == uid && strcmp (l->path, path) == 0)
      break;
  if (l && !l->busy && l->since >= since && l->serial >= serial
      && (l->deep || !deep))
    return l;
  if ((l && l->busy) || !may_look (vs, uid))
    return NULL;
  if (!l) {
    l = calloc (1, sizeof *l);
    if (!l || !(l->path = strdup (path))) {
      free (l);
      return NULL;
    }
    l->vs = vs;
    l->uid = uid;
    l->next = vs->looks;
    vs->looks = l;
  }
  clear_look (l);
  l->deep = deep;
  l->since = now_ms ();
  l->serial = serial;
  l->busy = true;
  if (crew_run (vs->crew, look_task, l) == -1) {
    l->busy = false;
    l->err = errno;
    message_set (&l->error, "'%s' cannot be looked at: %m", path);
  }
  return NULL;
}

/* The same for a command: 1 and *l, whose error is none or passed on as -1.
 * 0 never. */
static int
look_for (struct volumes *vs, const struct control_peer *peer, const char *path,
          bool deep, struct look **l, char **error)
{
  *l = look_at (vs, path, user_of (peer), deep, peer->since, peer->serial);
  if (*l)
    return 1;
  if (now_ms () - peer->since > PATIENCE_MS)
    return no_answer (path, "is being looked at", error);
  return later (vs);
}

static int
fail_look (const struct look *l, char **error)
{
  message_set (error, "%s", l->error ? l->error : "out of memory");
  errno = l->err;
  return -1;
}

/* What was asked some time ago says nothing any more. */
static void
forget_looks (struct volumes *vs)
{
  uint64_t now = now_ms ();
  struct look **p = &vs->looks;

  while (*p) {
    struct look *l = *p;

    if (l->busy || now - l->since < LINGER_MS) {
      p = &l->next;
      continue;
    }
    *p = l->next;
    free_look (l);
  }
}

/* --- closing ---------------------------------------------------------- */

/* What the ledger says of a volume that was closed.  The lock is held. */
static void
note_closed (struct volumes *vs, const struct volume *v, enum job_status job)
{
  if (job == JOB_NONE)
    ledger_remove (vs->ledger, v->path);
  else if (job == JOB_CONCLUDED)
    ledger_end (vs->ledger, v->path);
  keep_ledger (vs);
}

static void
close_task (void *arg)
{
  struct volume *v = arg;
  struct volumes *vs = v->vs;
  CLEANUP_FREE char *error = NULL;
  enum job_status job;
  struct away *a;
  int r;

  if (v->plain && job_get_status (v->disk) == JOB_NONE
      && disk_detach (v->disk, &error) == -1)
    log_debug ("%s: its sidecar stays: %s", v->path, error);
  r = disk_gate (v->disk);
  if (r == -1)
    log_error ("%s: not everything could be made durable: %m", v->path);
  job = job_get_status (v->disk);
  LOCK_SCOPE (&vs->lock);
  if (r == -1)
    vs->result = -1;
  else
    note_closed (vs, v, job);
  /* A command still uses it, which only the end of all does not wait for: it
   * is left behind. */
  if (v->refs > 0) {
    log_error ("%s: a command on it does not end", v->path);
    vs->result = -1;
    vs->nr_open--;
    v->state = VOLUME_FAILED;
    changed (vs);
    return;
  }
  pthread_mutex_unlock (&vs->lock);
  /* So is one whose store does not answer, locked. */
  if (disk_is_idle (v->disk))
    disk_free (v->disk);
  log_debug ("%s: closed", v->path);
  pthread_mutex_lock (&vs->lock);
  a = find_away (vs, v->path);
  if (a && a->until == UINT64_MAX) {
    a->free_since = now_ms ();
    a->until = a->free_since + vs->config.grace;
  }
  remove_volume (vs, v);
}

/* v is open.  The lock is held. */
static void
start_closing (struct volumes *vs, struct volume *v)
{
  set_state (v, VOLUME_CLOSING);
  if (crew_run (vs->crew, close_task, v) == 0)
    return;
  log_error ("%s: cannot be closed: %m", v->path);
  set_state (v, VOLUME_OPEN);
  v->idle_since = v->since;
}

/* --- opening ---------------------------------------------------------- */

/* On a thread that may hang. */
static struct disk *
open_disk (struct volume *v, char **error)
{
  struct volumes *vs = v->vs;
  struct disk_config config = v->more;
  struct disk *disk;
  struct stat st;
  int err;

  if (!v->fresh) {
    if (check_path (v->path, v->uid, error) == -1)
      return NULL;
    v->plain = !has_sidecar (v->path);
  }
  else if (path_stat (v->path, &st) == 0) {
    errno = EEXIST;
    message_set (error, "'%s' is there already", v->path);
    return NULL;
  }
  else if (errno != ENOENT) {
    message_set (error, "'%s' cannot be made: %m", v->path);
    return NULL;
  }
  config.store = v->path;
  config.backing = v->backing;
  config.store_is_name = true;
  /* What was looked at by its name may be another's by now. */
  config.has_owner = v->uid != 0;
  config.owner = v->uid;
  config.no_command = !vs->config.commands;
  config.adopt = v->plain ? DISK_ADOPT_PLAIN : DISK_ADOPT_NONE;
  config.runtime_dir = vs->runtime_dir;
  config.control = vs->control;
  config.event = vs->config.event;
  config.event_opaque = vs->config.event_opaque;
  disk = disk_open (&config, error);
  if (!disk)
    return NULL;
  if (disk_start (disk, error) == 0)
    return disk;
  err = errno ? errno : EIO;
  disk_gate (disk);
  if (disk_is_idle (disk))
    disk_free (disk);
  errno = err;
  return NULL;
}

/* The keeper opened it, in vain.  The lock is held. */
static void
note_failed (struct volumes *vs, const struct volume *v)
{
  struct away *a = note_away (vs, v->path);

  if (a) {
    a->free_since = 0;
    a->look_at = now_ms () + (v->err == EBUSY ? HELD_MS : FAILED_MS);
  }
  if (v->err != EBUSY)
    log_error ("%s: its job cannot go on: %s", v->path, v->error);
}

static void
open_task (void *arg)
{
  struct volume *v = arg;
  struct volumes *vs = v->vs;
  char *error = NULL;
  struct disk *disk = open_disk (v, &error);
  int err = errno;
  LOCK_SCOPE (&vs->lock);

  if (!disk) {
    vs->nr_open--;
    set_state (v, VOLUME_FAILED);
    v->err = err;
    v->error = error;
    if (v->kept)
      note_failed (vs, v);
    changed (vs);
    return;
  }
  free (error);
  log_debug ("%s: opened", v->path);
  v->disk = disk;
  set_state (v, VOLUME_OPEN);
  v->idle_since = v->since;
  /* Until the command that makes it has seen that it is there. */
  v->refs = v->made_by ? 1 : 0;
  forget_away (vs, v->path);
  if (v->kept && has_job (disk))
    log_info ("%s: going on with its job", v->path);
  if (vs->stop) {
    v->refs = 0;
    start_closing (vs, v);
  }
  changed (vs);
}

static unsigned
share_of_one (const struct volumes *vs)
{
  return vs->config.max_open >= 4 ? vs->config.max_open / 4 : 1;
}

static unsigned
share_of_others (const struct volumes *vs)
{
  return vs->config.max_open >= 4 ? vs->config.max_open / 4 * 3 : 1;
}

/* Room for one more of this user's?  If not an idle one is closed for it, if
 * there is one.  -1 with EINPROGRESS: one is on its way out; or EMFILE.  The
 * lock is held. */
static int
make_room (struct volumes *vs, uid_t uid, char **error)
{
  struct volume *oldest = NULL;
  unsigned his = 0, others = 0, leaving = 0;
  uint64_t now = now_ms ();
  bool full;

  for (struct volume *v = vs->open; v; v = v->next) {
    if (v->state == VOLUME_FAILED)
      continue;
    others += v->uid != 0;
    his += uid && v->uid == uid;
    if (uid && v->uid != uid)
      continue;
    /* One that hangs has a place, but is not waited for. */
    leaving += v->state == VOLUME_CLOSING && now - v->since < CLOSING_MS;
    if (v->state == VOLUME_OPEN && v->refs == 0
        && (!oldest || v->idle_since < oldest->idle_since)
        && !has_job (v->disk))
      oldest = v;
  }
  full = vs->nr_open >= vs->config.max_open;
  if (!full
      && (!uid || (his < share_of_one (vs) && others < share_of_others (vs))))
    return 0;
  if (leaving == 0 && oldest) {
    start_closing (vs, oldest);
    leaving++;
  }
  if (leaving > 0)
    return later (vs);
  errno = EMFILE;
  if (full)
    message_set (error,
                 "%u volumes are open, which is the most: wait until a job "
                 "has ended, or raise --max-volumes",
                 vs->nr_open);
  else
    message_set (error,
                 "%u of your volumes are open, and you have used up your "
                 "share: wait until a job has ended, or have --max-volumes "
                 "raised",
                 his);
  return -1;
}

/* Start it; there is room.  NULL with errno and *error.  The lock is held. */
static struct volume *
start_opening (struct volumes *vs, const char *path, uid_t uid,
               const struct disk_config *more, bool fresh, char **error)
{
  struct volume *v = calloc (1, sizeof *v);

  if (!v || !(v->path = strdup (path))
      || (more->backing && !(v->backing = strdup (more->backing)))) {
    if (v)
      free_volume (v);
    errno = ENOMEM;
    message_set (error, "out of memory");
    return NULL;
  }
  v->vs = vs;
  v->uid = uid;
  v->more = *more;
  v->fresh = fresh;
  set_state (v, VOLUME_OPENING);
  if (crew_run (vs->crew, open_task, v) == -1) {
    message_set (error, "'%s' cannot be opened: %m", path);
    free_volume (v);
    return NULL;
  }
  v->next = vs->open;
  vs->open = v;
  vs->nr_open++;
  return v;
}

static void
put_volume (struct volumes *vs, struct volume *v)
{
  v->refs--;
  if (v->state == VOLUME_LEAVING && v->refs == 0)
    start_closing (vs, v);
  /* Who waits for anything else is not kicked: two commands that wait, and
   * hold a volume for a moment each time they look, would kick each other. */
  else if (v->refs == MAX_COMMANDS - 1)
    changed (vs);
}

/* --- finding ---------------------------------------------------------- */

/* The entry of path, unless it is of a failure that came before this command.
 * The lock is held. */
static struct volume *
find_for (struct volumes *vs, const struct control_peer *peer, const char *path)
{
  struct volume *v = find_volume (vs, path);

  if (!v || v->state != VOLUME_FAILED || peer->since < v->since)
    return v;
  remove_volume (vs, v);
  return NULL;
}

/* It is on its way in or out, or has failed: -1 with errno, and *error unless
 * it is EINPROGRESS. */
static int
wait_for (struct volumes *vs, const struct control_peer *peer,
          const struct volume *v, char **error)
{
  uint64_t now = now_ms ();

  if (v->state == VOLUME_FAILED) {
    message_set (error, "%s", v->error ? v->error : "out of memory");
    errno = v->err;
    return -1;
  }
  if (now - peer->since > PATIENCE_MS
      || (v->state != VOLUME_OPEN && now - v->since > PATIENCE_MS))
    return no_answer (v->path,
                      v->state == VOLUME_OPENING ? "is being opened"
                      : v->state == VOLUME_OPEN  ? "is in use"
                                                 : "is being closed",
                      error);
  return later (vs);
}

/* May the peer have what is open?  The file at the path may be another than
 * that, or than the one that was looked at.  The lock is let go meanwhile, and
 * v held: asking its store may take as long as that likes. */
static bool
may_have (struct volumes *vs, const struct control_peer *peer, struct volume *v)
{
  bool allowed;

  if (is_ours (peer))
    return true;
  v->refs++;
  pthread_mutex_unlock (&vs->lock);
  allowed = disk_store_owner (v->disk) == peer->uid;
  pthread_mutex_lock (&vs->lock);
  put_volume (vs, v);
  return allowed;
}

/* The same by whose the store was a moment ago. */
static bool
may_see (const struct control_peer *peer, const struct volume *v)
{
  return is_ours (peer) || disk_store_owner_seen (v->disk) == peer->uid;
}

/* It was let go for another a moment ago, and nobody has it: not now.  One
 * that somebody has is opened, and its owner named then.  The lock is held. */
static int
check_away (struct volumes *vs, const struct control_peer *peer,
            const char *path, char **error)
{
  struct away *a = find_away (vs, path);
  struct look *l;

  if (!a || now_ms () >= a->until)
    return 0;
  if (look_for (vs, peer, path, false, &l, error) == -1)
    return -1;
  if (l->err || l->peek.in_use)
    return 0;
  errno = EBUSY;
  message_set (error,
               "'%s' was let go for another process a moment ago: ask that "
               "one, or try again",
               path);
  return -1;
}

static bool
is_meant (const struct volume *v, const struct file_id *file)
{
  return v->more.has_file && file && file_id_equal (v->more.file, *file);
}

/* The volume of path, open; or NULL.  The lock is held, and let go
 * meanwhile. */
static struct volume *
get_volume (struct volumes *vs, const struct control_peer *peer,
            const char *path, const struct file_id *file, char **error)
{
  struct disk_config more = { .has_file = file != NULL };
  struct volume *v;
  struct look *l;

  if (check_stop (vs, error) == -1 || check_canonical (path, error) == -1)
    return NULL;
  if (file)
    more.file = *file;
  v = find_for (vs, peer, path);
  /* It failed because another file was meant. */
  if (v && v->state == VOLUME_FAILED && v->err == ESTALE
      && !is_meant (v, file)) {
    remove_volume (vs, v);
    v = NULL;
  }
  if (v && v->state == VOLUME_OPEN) {
    if (check_file (path, file, disk_file (v->disk), error) == -1)
      return NULL;
    if (v->refs >= MAX_COMMANDS) {
      wait_for (vs, peer, v, error);
      return NULL;
    }
    if (!may_have (vs, peer, v)) {
      belongs_to_another (path, error);
      return NULL;
    }
    /* It may have been let go meanwhile. */
    v = find_volume (vs, path);
    if (v && v->state == VOLUME_OPEN) {
      v->used = true;
      v->idle_since = now_ms ();
      return v;
    }
    later (vs);
    return NULL;
  }
  if (v) {
    wait_for (vs, peer, v, error);
    return NULL;
  }
  /* Others get no place in the table for what is not theirs. */
  if (!is_ours (peer)) {
    if (look_for (vs, peer, path, false, &l, error) == -1)
      return NULL;
    if (l->err) {
      fail_look (l, error);
      return NULL;
    }
  }
  if (check_away (vs, peer, path, error) == -1
      || make_room (vs, user_of (peer), error) == -1)
    return NULL;
  if (start_opening (vs, path, user_of (peer), &more, false, error))
    later (vs);
  return NULL;
}

/* --- commands --------------------------------------------------------- */

static int
fail_ledger (const char *path, char **error)
{
  if (errno == EDQUOT)
    message_set (error,
                 "'%s': as many of your volumes as may be have a job in "
                 "progress: wait until one has ended",
                 path);
  else
    message_set (error, "out of memory");
  return -1;
}

/* Before a job: a daemon that dies then finds no job, not a job that nobody
 * goes on with.  The lock is held. */
static int
enter_ledger (struct volumes *vs, const struct control_peer *peer,
              const char *path, char **error)
{
  struct ledger_entry *e = ledger_add (vs->ledger, path, user_of (peer));
  int r, err;

  if (!e)
    return fail_ledger (path, error);
  r = is_durable (vs, e->version, error);
  if (r == 1)
    return 0;
  if (r == 0)
    return later (vs);
  err = errno;
  ledger_remove (vs->ledger, path);
  errno = err;
  return -1;
}

static struct disk *
command_get (void *opaque, const struct control_peer *peer, const char *path,
             const struct file_id *file, enum control_use use, char **error)
{
  struct volumes *vs = opaque;
  struct volume *v;
  LOCK_SCOPE (&vs->lock);

  v = get_volume (vs, peer, path, file, error);
  if (!v)
    return NULL;
  /* A job that was found in the volume is ours now, too. */
  if ((use == CONTROL_JOB || has_job (v->disk))
      && enter_ledger (vs, peer, path, error) == -1
      && (use == CONTROL_JOB || errno != EDQUOT))
    return NULL;
  v->refs++;
  return v->disk;
}

static void
command_put (void *opaque, struct disk *disk)
{
  struct volumes *vs = opaque;
  LOCK_SCOPE (&vs->lock);
  struct volume *v = volume_of (vs, disk);

  if (v)
    put_volume (vs, v);
}

static int
copy_peek (struct disk_peek *to, const struct disk_peek *from)
{
  *to = *from;
  to->error = NULL;
  to->store = strdup (from->store);
  to->metadata = strdup (from->metadata);
  to->backing = from->backing ? strdup (from->backing) : NULL;
  to->info.name = to->info.store = to->store;
  to->info.metadata = to->metadata;
  to->info.backing = to->backing;
  if (to->store && to->metadata && (to->backing || !from->backing))
    return 0;
  disk_peek_clear (to);
  errno = ENOMEM;
  return -1;
}

static int
command_peek (void *opaque, const struct control_peer *peer, const char *path,
              const struct file_id *file, struct disk_peek *peek, char **error)
{
  struct volumes *vs = opaque;
  struct look *l;
  LOCK_SCOPE (&vs->lock);

  if (check_stop (vs, error) == -1 || check_canonical (path, error) == -1)
    return -1;
  /* A question does not take a volume. */
  if (find_volume (vs, path))
    return 0;
  if (look_for (vs, peer, path, true, &l, error) == -1)
    return -1;
  if (l->err == EPERM)
    return fail_look (l, error);
  if (l->err || l->peek.in_use || !(l->peek.has_sidecar || l->peek.is_plain))
    return 0; /* opening it tells what the matter is */
  if (check_file (path, file, l->peek.file, error) == -1)
    return -1;
  if (copy_peek (peek, &l->peek) == 0)
    return 1;
  message_set (error, "out of memory");
  return -1;
}

/* Those of the ledger that are not open: what is known of each within a
 * second.  The lock is held. */
static int
list_closed (struct volumes *vs, const struct control_peer *peer,
             struct disk_peek **closed, size_t *nr)
{
  bool patient = now_ms () - peer->since < SILENT_MS;
  struct disk_peek *ptr;
  size_t n = 0;

  for (size_t i = 0; patient && i < vs->ledger->nr; i++) {
    const struct ledger_entry *e = vs->ledger->entry[i];

    if ((is_ours (peer) || e->uid == peer->uid) && !find_volume (vs, e->path)
        && !look_at (vs, e->path, user_of (peer), true, peer->since,
                     peer->serial))
      n++;
  }
  if (n > 0)
    return later (vs);
  ptr = calloc (vs->ledger->nr + 1, sizeof *ptr);
  if (!ptr)
    return -1;
  *closed = ptr;
  for (size_t i = 0; i < vs->ledger->nr; i++) {
    const struct ledger_entry *e = vs->ledger->entry[i];
    struct look *l;

    if ((!is_ours (peer) && e->uid != peer->uid) || find_volume (vs, e->path))
      continue;
    for (l = vs->looks; l; l = l->next)
      if (l->uid == user_of (peer) && strcmp (l->path, e->path) == 0)
        break;
    if (l && !l->busy && !l->err && l->peek.has_sidecar) {
      /* Its owner tells of it; or has dismissed it. */
      if (l->peek.in_use || (e->ended && l->peek.info.job.status == JOB_NONE))
        continue;
      if (copy_peek (&ptr[*nr], &l->peek) == 0)
        ++*nr;
      continue;
    }
    if (l && !l->busy && l->err == EPERM && !is_ours (peer))
      continue;
    ptr[*nr].store = strdup (e->path);
    ptr[*nr].error = strdup (!l || l->busy ? "its store does not answer"
                             : l->error    ? l->error
                                           : "it has no sidecar");
    ptr[*nr].info.name = ptr[*nr].info.store = ptr[*nr].store;
    if (ptr[*nr].store)
      ++*nr;
  }
  return 0;
}

static int
command_list (void *opaque, const struct control_peer *peer,
              struct disks *disks, struct disk_peek **closed, size_t *nr)
{
  struct volumes *vs = opaque;
  LOCK_SCOPE (&vs->lock);

  if (closed && list_closed (vs, peer, closed, nr) == -1)
    return -1;
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

/* A list that is being asked for.  vs->lock guards it. */
struct survey {
  struct volumes *vs;
  struct disks disks; /* each held, by whoever asked */
  void **results;
  void *(*ask) (struct disk *disk);
  void (*drop) (void *result);
  size_t next;    /* who is being asked now */
  uint64_t since; /* when */
  bool ended;
  /* Whoever asked waits no longer, and neither list nor results are there any
   * more: the one that is asked, held. */
  struct volume *left;
};

static void
survey_task (void *arg)
{
  struct survey *s = arg;
  struct volumes *vs = s->vs;
  LOCK_SCOPE (&vs->lock);

  while (!s->left && s->next < s->disks.len) {
    struct disk *disk = s->disks.ptr[s->next];
    const struct volume *v = volume_of (vs, disk);
    void *result = NULL;

    s->since = now_ms ();
    if (v && !v->silent) {
      pthread_mutex_unlock (&vs->lock);
      result = s->ask (disk);
      pthread_mutex_lock (&vs->lock);
    }
    if (!s->left)
      s->results[s->next++] = result;
    else if (result)
      s->drop (result);
  }
  if (s->left) {
    s->left->silent = false;
    put_volume (vs, s->left);
    free (s);
    return;
  }
  s->ended = true;
  pthread_cond_broadcast (&vs->changed);
}

/* The lock is held.  -1: no thread.  1: it was abandoned at *at. */
static int
survey_from (struct volumes *vs, const struct survey *like, size_t *at)
{
  struct survey *s = malloc (sizeof *s);
  struct volume *v;

  if (!s)
    return -1;
  *s = *like;
  s->next = *at;
  s->since = now_ms ();
  if (crew_run (vs->crew, survey_task, s) == -1) {
    free (s);
    return -1;
  }
  while (!s->ended && now_ms () - s->since < SILENT_MS)
    wait_until (vs, s->since + SILENT_MS);
  if (s->ended) {
    free (s);
    return 0;
  }
  v = volume_of (vs, s->disks.ptr[s->next]);
  v->silent = true;
  v->refs++;
  log_debug ("%s: does not answer", v->path);
  *at = s->next + 1;
  s->left = v;
  return 1;
}

static int
command_survey (void *opaque, const struct disks *disks,
                void *(*ask) (struct disk *disk), void (*drop) (void *result),
                void ***results)
{
  struct volumes *vs = opaque;
  const struct survey like = {
    .vs = vs,
    .disks = *disks,
    .results = calloc (disks->len + 1, sizeof **results),
    .ask = ask,
    .drop = drop,
  };
  size_t at = 0;
  int r = 1;

  *results = like.results;
  if (!*results)
    return -1;
  LOCK_SCOPE (&vs->lock);
  while (r == 1)
    r = survey_from (vs, &like, &at);
  return r;
}

static int
command_create (void *opaque, const struct control_peer *peer,
                const struct disk_config *config, char **error)
{
  struct volumes *vs = opaque;
  struct volume *v;

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
  LOCK_SCOPE (&vs->lock);
  if (check_stop (vs, error) == -1)
    return -1;
  v = find_for (vs, peer, config->store);
  if (v && v->made_by == peer->serial) {
    if (v->state != VOLUME_OPEN && v->state != VOLUME_LEAVING) {
      int r = wait_for (vs, peer, v, error);

      /* Nobody comes for it any more: it is not to be held when it opens. */
      if (errno != EINPROGRESS && v->state == VOLUME_OPENING)
        v->made_by = 0;
      return r;
    }
    v->made_by = 0;
    put_volume (vs, v);
    return 0;
  }
  if (v && v->state == VOLUME_FAILED) {
    remove_volume (vs, v);
    v = NULL;
  }
  if (v) {
    errno = v->state == VOLUME_OPENING ? EBUSY : EEXIST;
    message_set (error, "'%s' is %s already", config->store,
                 v->state == VOLUME_OPENING ? "being opened" : "there");
    return -1;
  }
  if (make_room (vs, user_of (peer), error) == -1)
    return -1;
  v = start_opening (vs, config->store, user_of (peer), config, true, error);
  if (!v)
    return -1;
  v->made_by = peer->serial;
  return later (vs);
}

/* It is open, and the peer may have it. */
static int
let_go (struct volumes *vs, const struct control_peer *peer, struct volume *v,
        char **error)
{
  struct away *a = note_away (vs, v->path);

  if (!a) {
    errno = ENOMEM;
    message_set (error, "out of memory");
    return -1;
  }
  /* While it is on its way out, too, nobody else gets it. */
  a->until = UINT64_MAX;
  a->free_since = 0;
  log_info ("%s: let go for process %ld", v->path, (long)peer->pid);
  set_state (v, VOLUME_LEAVING);
  v->leave_by = v->since + RELEASE_MS;
  /* What cannot be made durable is recovered by the next owner. */
  if (v->refs == 0)
    start_closing (vs, v);
  return later (vs);
}

static int
command_release (void *opaque, const struct control_peer *peer,
                 const char *path, const struct file_id *file, char **error)
{
  struct volumes *vs = opaque;
  struct volume *v;
  struct look *l;
  struct away *a;

  if (check_canonical (path, error) == -1)
    return -1;
  LOCK_SCOPE (&vs->lock);
  v = find_for (vs, peer, path);
  if (v && v->state == VOLUME_OPEN) {
    if (v->refused_at >= peer->since) {
      errno = EBUSY;
      message_set (error, "'%s': a command on it does not end", path);
      return -1;
    }
    if (check_file (path, file, disk_file (v->disk), error) == -1)
      return -1;
    if (!may_have (vs, peer, v))
      return belongs_to_another (path, error);
    v = find_volume (vs, path);
    if (v && v->state == VOLUME_OPEN)
      return let_go (vs, peer, v, error);
    return later (vs);
  }
  if (v && v->state != VOLUME_FAILED)
    return wait_for (vs, peer, v, error);
  /* It is not open here: all the same it is not opened for a while. */
  a = find_away (vs, path);
  if (a && a->until > now_ms ())
    return 0;
  if (look_for (vs, peer, path, false, &l, error) == -1)
    return -1;
  if (l->err)
    return fail_look (l, error);
  if (check_file (path, file, l->peek.file, error) == -1)
    return -1;
  a = vs->nr_away < MAX_AWAY ? note_away (vs, path) : NULL;
  if (a) {
    a->until = now_ms () + vs->config.grace;
    a->free_since = 0;
  }
  return 0;
}

static int
command_take (void *opaque, const struct control_peer *peer, const char *path,
              const struct file_id *file, char **error)
{
  struct volumes *vs = opaque;
  struct volume *v;
  struct look *l;
  struct away *a;

  if (check_canonical (path, error) == -1)
    return -1;
  LOCK_SCOPE (&vs->lock);
  if (check_stop (vs, error) == -1
      || look_for (vs, peer, path, false, &l, error) == -1)
    return -1;
  if (l->err)
    return fail_look (l, error);
  if (check_file (path, file, l->peek.file, error) == -1)
    return -1;
  if (!l->peek.has_sidecar) {
    errno = EINVAL;
    message_set (error, "'%s' has no sidecar beside it: there is no job", path);
    return -1;
  }
  v = find_for (vs, peer, path);
  if (v && v->state == VOLUME_OPEN)
    return 0;
  /* One on its way in may fail, as its owner had it a moment ago: its job
   * would be nobody's.  So it is written down in any case. */
  if (enter_ledger (vs, peer, path, error) == -1)
    return -1;
  a = note_away (vs, path);
  if (a) {
    a->free_since = 0;
    a->look_at = 0;
  }
  return 0;
}

static int
command_forget (void *opaque, const struct control_peer *peer, const char *path,
                char **error)
{
  struct volumes *vs = opaque;
  const struct ledger_entry *e;
  struct look *l;
  LOCK_SCOPE (&vs->lock);

  e = ledger_find (vs->ledger, path);
  if (!e || find_volume (vs, path) || (!is_ours (peer) && e->uid != peer->uid))
    return 0;
  if (look_for (vs, peer, path, false, &l, error) == -1)
    return -1;
  /* One that is there is opened, and its record forgotten. */
  if (!l->err ? !e->ended || l->peek.has_sidecar : l->err != ENOENT)
    return 0;
  log_info ("%s: forgotten, as asked", path);
  ledger_remove (vs->ledger, path);
  forget_away (vs, path);
  keep_ledger (vs);
  return 1;
}

static int
command_set_total_speed (void *opaque, const struct control_peer *peer,
                         uint64_t speed, char **error)
{
  struct volumes *vs = opaque;
  int r;
  LOCK_SCOPE (&vs->lock);

  /* Once: when it is run again another may have set another. */
  if (peer->serial > vs->speed_serial) {
    disk_set_total_speed (speed);
    ledger_set_speed (vs->ledger, speed, vs->config.speed);
    vs->speed_serial = peer->serial;
  }
  r = is_durable (vs, vs->ledger->speed_version, error);
  return r == 1 ? 0 : r == 0 ? later (vs) : -1;
}

/* --- the keeper ------------------------------------------------------- */

/* Close what has been idle for long enough, and take back what does not get
 * free.  The lock is held. */
static void
look_at_open (struct volumes *vs)
{
  uint64_t now = now_ms ();
  struct volume *next;

  for (struct volume *v = vs->open; v; v = next) {
    next = v->next;
    if (v->state == VOLUME_FAILED && now - v->since > LINGER_MS)
      remove_volume (vs, v);
    else if (v->state == VOLUME_LEAVING && now >= v->leave_by) {
      set_state (v, VOLUME_OPEN);
      v->refused_at = now;
      forget_away (vs, v->path);
    }
    else if (v->state == VOLUME_OPEN && v->refs == 0
             && !has_job (v->disk)
             /* Whoever had it opened comes for it first. */
             && now - v->idle_since
                    >= (v->used ? vs->config.idle : vs->config.idle + 1000))
      start_closing (vs, v);
  }
}

/* It is not there, or not to be looked at.  The lock is held. */
static void
look_failed (struct volumes *vs, struct ledger_entry *e, struct away *a,
             const struct look *l)
{
  int64_t now = (int64_t)time (NULL);

  a->free_since = 0;
  a->pause = a->pause ? a->pause * 2 : HELD_MS;
  if (a->pause > AWAY_MS)
    a->pause = AWAY_MS;
  a->look_at = now_ms () + a->pause;
  if (l->err != ENOENT) {
    if (!a->told)
      log_error ("%s: its job waits: %s", a->path, l->error);
    a->told = true;
    return;
  }
  if (e->missing == 0)
    ledger_set_missing (vs->ledger, e, now);
  else if (now - e->missing > MISSING_S) {
    log_error ("%s has been gone for days: its job is forgotten", a->path);
    ledger_remove (vs->ledger, e->path);
    return;
  }
  if (!a->told)
    log_error ("%s is not there: its job waits for it ('backfill dismiss' "
               "forgets it)",
               a->path);
  a->told = true;
}

/* How many the keeper has on their way in: all, and those not for long. */
static void
count_kept (const struct volumes *vs, unsigned *all, unsigned *young)
{
  uint64_t now = now_ms ();

  *all = *young = 0;
  for (const struct volume *v = vs->open; v; v = v->next)
    if (v->kept && v->state == VOLUME_OPENING) {
      ++*all;
      *young += now - v->since < YOUNG_MS;
    }
}

/* It is free.  The lock is held. */
static void
take_back (struct volumes *vs, const struct ledger_entry *e)
{
  static const struct disk_config none;
  CLEANUP_FREE char *error = NULL;
  unsigned all, young;
  struct volume *v;

  count_kept (vs, &all, &young);
  if (young >= MAX_YOUNG || all > vs->config.max_open / 2
      || make_room (vs, e->uid, &error) == -1)
    return; /* its turn comes */
  v = find_volume (vs, e->path);
  if (v && v->state == VOLUME_FAILED)
    remove_volume (vs, v);
  else if (v)
    return;
  v = start_opening (vs, e->path, e->uid, &none, false, &error);
  if (v)
    v->kept = true;
}

/* One of the ledger that is not open here.  The lock is held. */
static void
look_at_entry (struct volumes *vs, struct ledger_entry *e)
{
  struct away *a = find_away (vs, e->path);
  uint64_t now = now_ms ();
  struct look *l;

  if (a && a->until == UINT64_MAX)
    return;
  if (!a) {
    a = note_away (vs, e->path);
    if (!a)
      return;
    /* One that we never saw with another was ours when the daemon ended. */
    a->free_since = 1;
  }
  if (a->asked_at == 0) {
    if (now < a->look_at)
      return;
    a->asked_at = now;
  }
  l = look_at (vs, e->path, 0, false, a->asked_at, 0);
  if (!l)
    return;
  a->asked_at = 0;
  if (l->err) {
    look_failed (vs, e, a, l);
    return;
  }
  if (a->told)
    log_info ("%s is there again", e->path);
  a->told = false;
  a->pause = 0;
  if (e->missing)
    ledger_set_missing (vs->ledger, e, 0);
  a->look_at = now + HELD_MS;
  if (l->peek.in_use) {
    a->free_since = 0;
    return;
  }
  if (a->free_since == 0)
    a->free_since = now;
  if (now < a->until || now - a->free_since < vs->config.grace) {
    uint64_t end = a->free_since + vs->config.grace;

    if (a->until > end)
      end = a->until;
    if (end < a->look_at)
      a->look_at = end;
    return;
  }
  a->look_at = 0;
  take_back (vs, e);
}

/* The lock is held. */
static void
look_at_ledger (struct volumes *vs)
{
  /* One may be removed on the way. */
  for (size_t i = vs->ledger->nr; i-- > 0;) {
    struct ledger_entry *e = i < vs->ledger->nr ? vs->ledger->entry[i] : NULL;
    const struct volume *v;

    if (!e || e->ended)
      continue;
    v = find_volume (vs, e->path);
    if (!v || v->state == VOLUME_FAILED)
      look_at_entry (vs, e);
  }
  if (vs->durable < vs->ledger->version
      && (vs->failed <= vs->durable || now_ms () >= vs->write_again))
    keep_ledger (vs);
}

/* Entries that say nothing any more.  The lock is held. */
static void
forget_old (struct volumes *vs)
{
  uint64_t now = now_ms ();
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

    look_at_open (vs);
    look_at_ledger (vs);
    forget_old (vs);
    forget_looks (vs);
    /* Those who wait look at the time. */
    changed (vs);
    next = now_ms () + TICK_MS;
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

  if (!vs) {
    message_set (error, "out of memory");
    return NULL;
  }
  vs->config = *config;
  vs->commands = (struct control_volumes){
    .get = command_get,
    .put = command_put,
    .peek = command_peek,
    .list = command_list,
    .survey = command_survey,
    .create = command_create,
    .release = command_release,
    .take = command_take,
    .forget = command_forget,
    .set_total_speed = command_set_total_speed,
    .opaque = vs,
  };
  pthread_mutex_init (&vs->lock, NULL);
  cond_init (&vs->changed);
  vs->runtime_dir = config->runtime_dir ? strdup (config->runtime_dir) : NULL;
  vs->control = strdup (config->control);
  vs->state_dir = strdup (config->state_dir);
  vs->crew = crew_new ();
  if (!vs->control || !vs->state_dir || !vs->crew
      || (config->runtime_dir && !vs->runtime_dir)) {
    message_set (error, "out of memory");
    goto fail;
  }
  vs->ledger = ledger_open (config->state_dir, error);
  if (!vs->ledger)
    goto fail;
  /* Who starts the daemon with another limit means that one. */
  if (vs->ledger->has_speed && vs->ledger->speed_option == config->speed)
    disk_set_total_speed (vs->ledger->total_speed);
  else {
    disk_set_total_speed (config->speed);
    vs->ledger->has_speed = false;
  }
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
  uint64_t end = now_ms () + STOP_MS;

  {
    LOCK_SCOPE (&vs->lock);
    vs->stop = true;
    vs->config.kick = NULL;
    pthread_cond_broadcast (&vs->changed);
  }
  if (vs->keeping)
    pthread_join (vs->keeper, NULL);
  vs->keeping = false;

  {
    struct volume *next;
    LOCK_SCOPE (&vs->lock);

    for (struct volume *v = vs->open; v; v = next) {
      next = v->next;
      if (v->state == VOLUME_FAILED)
        remove_volume (vs, v);
      /* The control has ended: what is held is so by who hangs, or by nobody
       * any more. */
      else if (v->state == VOLUME_OPEN || v->state == VOLUME_LEAVING) {
        if (v->made_by)
          v->refs--;
        v->made_by = 0;
        start_closing (vs, v);
      }
    }
    while ((vs->nr_open > 0 || vs->writing) && wait_until (vs, end))
      ;
    for (struct volume *v = vs->open; v; v = v->next)
      if (v->state != VOLUME_FAILED) {
        log_error ("%s: does not end in time; left to be recovered", v->path);
        vs->result = -1;
      }
    if (vs->writing)
      vs->result = -1;
    else if (vs->durable < vs->ledger->version)
      keep_ledger (vs);
  }
  /* A look that hangs is left behind, with what it uses. */
  if (crew_free (vs->crew, CREW_MS))
    vs->crew = NULL;
  return vs->result;
}

void
volumes_free (struct volumes *vs)
{
  if (!vs || !crew_free (vs->crew, 0))
    return;
  while (vs->away)
    forget_away (vs, vs->away->path);
  while (vs->looks) {
    struct look *l = vs->looks;

    vs->looks = l->next;
    free_look (l);
  }
  while (vs->open)
    remove_volume (vs, vs->open);
  ledger_free (vs->ledger);
  pthread_mutex_destroy (&vs->lock);
  pthread_cond_destroy (&vs->changed);
  free (vs->runtime_dir);
  free (vs->control);
  free (vs->state_dir);
  free (vs);
}
