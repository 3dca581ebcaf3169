/* life.c - a disk from opening to its end, and what all disks share.
 *
 * The gate (quiesce and drain, for good) is the way out: nbdkit does not call
 * .close when it quits and waits for idle clients, so the volume is made clean
 * while clients are still attached; what they ask for afterwards gets
 * ESHUTDOWN.
 *
 * The gate's time is bounded, whatever hangs.  A thread that waits in a call on
 * the disk's files cannot be ended: the gate leaves the thread alone, with all
 * that it may use, that is the whole disk, and the volume stays locked until
 * the process ends.  A thread that goes on after all does what it would have
 * done before: it is in nobody's way, and no one else has the volume.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backing.h"
#include "boot.h"
#include "buffers.h"
#include "commit.h"
#include "extents.h"
#include "fetch.h"
#include "file.h"
#include "housekeeper.h"
#include "internal.h"
#include "parked.h"
#include "runtime.h"
#include "share.h"
#include "volume.h"

/* The gate's share of the 10 s that a shutdown may take.  Operations and
 * threads have five sevenths of it to end; the rest is the last commit's
 * alone. */
#define GATE_MS 7000u

int
disk_pools_start (void)
{
  return source_pool_start (0);
}

void
disk_pools_stop (void)
{
  source_pool_stop ();
  buffers_free ();
}

void
disk_set_total_speed (uint64_t speed)
{
  rate_set (&total_rate, speed);
}

uint64_t
disk_get_total_speed (void)
{
  return rate_get (&total_rate);
}

void
disk_set_in_flight (uint64_t bytes)
{
  share_set_memory (bytes);
}

void
disk_set_max_jobs (unsigned max)
{
  share_set_slots (max);
}

/* An I/O thread of the source calls this. */
static void
source_changed (void *opaque, enum source_state state, const char *why)
{
  struct disk *d = opaque;
  bool up = state == SOURCE_CONNECTED;
  struct disk_event ev = { .reason = why };

  if (atomic_load_explicit (&d->let_go, memory_order_acquire)
      || atomic_load_explicit (&d->gated, memory_order_acquire))
    return;
  atomic_store_explicit (&d->source_up, up, memory_order_release);
  job_source_changed (d);
  if (up)
    replay_kick (&d->replay);
  if (state == SOURCE_CONNECTING)
    return;
  /* source_lost is only touched here, and a source's changes come one by
   * one. */
  if (up && d->source_lost) {
    d->source_lost = false;
    log_info ("%s: the backing store is back, after %.1f seconds",
              d->store_path, (double)(now_ms () - d->lost_at) / 1000);
    ev.type = DISK_EVENT_SOURCE_BACK;
    disk_emit (d, &ev);
  }
  else if (!up && (!d->source_lost || state == SOURCE_REFUSED)) {
    /* A source that was exchanged is lost first, and then refused: the refusal
     * must not go unsaid. */
    if (!d->source_lost)
      d->lost_at = now_ms ();
    d->source_lost = true;
    log_error ("%s: the backing store is %s: %s", d->store_path,
               state == SOURCE_REFUSED ? "refused" : "lost", why ? why : "");
    ev.type = DISK_EVENT_SOURCE_LOST;
    disk_emit (d, &ev);
  }
}

/* Allocate a disk that has nothing open; NULL: there is no memory. */
static struct disk *
disk_new (const struct disk_config *cfg)
{
  struct disk *d = calloc (1, sizeof *d);

  if (!d)
    return NULL;
  volume_init (d);
  commit_init (&d->commit);
  fetch_table_init (&d->fetch);
  copiers_init (&d->copiers);
  housekeeper_init (&d->keeper);
  writeback_init (&d->writeback);
  parked_init (d);
  boot_init (d);
  lock_init (&d->gate_lock, LOCK_GATE);
  cond_init (&d->gate_ended);
  d->gate_ms = GATE_MS;
  claims_init (&d->claims);
  d->event = cfg->event;
  d->event_opaque = cfg->event_opaque;
  d->has_allocate = cfg->has_allocate;
  d->allocate = cfg->allocate;
  return d;
}

struct disk *
disk_open (const struct disk_config *cfg, char **error)
{
  struct disk *d = disk_new (cfg);

  *error = NULL;
  if (!d) {
    message_set (error, "out of memory");
    return NULL;
  }
  if (volume_open (d, cfg, error) == -1)
    goto fail;
  d->owner = d->store->uid;
  ahead_init (&d->fetch.ahead, d->fetch_unit, d->granule, d->size);
  d->ext = extents_new (d);
  if (!d->ext) {
    message_set (error, "out of memory");
    goto fail;
  }
  if (jobs_open (d, error) == -1)
    goto fail;
  if (boot_configure (d, cfg) == -1) {
    message_set (error, "out of memory");
    goto fail;
  }
  if (!d->no_source) {
    struct source_config sc = backing_settings (d);

    sc.state_changed = source_changed;
    sc.opaque = d;
    d->src = source_new (&sc);
    if (!d->src) {
      message_set (error, "cannot use the backing store %s: %m", d->backing);
      goto fail;
    }
    source_keep (d->src, d->kept);
    d->kept = NULL;
  }
  /* The entry is made before the fork: who started the server may look for the
   * volume at once. */
  if (!cfg->user_later)
    volume_register (d);
  return d;

fail : {
  int err = errno;

  /* Nothing was served, so there is nothing to commit. */
  if (d->begun)
    volume_close (d, true);
  disk_free (d);
  errno = err;
}
  return NULL;
}

bool
disk_give (struct disk *d, uid_t uid, gid_t gid)
{
  if (d->store->uid == uid)
    return true;
  if (!d->made || fchown (d->store->fd, uid, gid) == -1
      || fchown (d->sc->fd, uid, gid) == -1)
    return false;
  d->store->uid = uid;
  d->owner = uid;
  d->store->gid = gid;
  return true;
}

int
disk_change_user (struct disk *d, const char *control, char **error)
{
  CLEANUP_FREE char *base = strdup (d->runtime_dir);
  char *own, *copy = control ? strdup (control) : NULL;

  if (!base || (control && !copy)) {
    message_set (error, "out of memory");
    return -1;
  }
  own = runtime_own_dir (dirname (base), error);
  if (!own) {
    free (copy);
    return -1;
  }
  free (d->runtime_dir);
  d->runtime_dir = own;
  free (d->control);
  d->control = copy;
  return 0;
}

int
disk_start (struct disk *d, char **error)
{
  if (volume_begin (d, error) == -1)
    return -1;
  if (!d->read_only) {
    /* The fork gave us another pid than the record has. */
    if (d->sc->h.session_pid != (uint32_t)getpid ()) {
      d->sc->h.session_pid = (uint32_t)getpid ();
      if (sidecar_write_header (d->sc) == -1) {
        message_set (error, "cannot write the sidecar %s: %m", d->metadata);
        return -1;
      }
    }
    volume_register (d);
  }
  /* A complete disk needs no thread that copies. */
  if ((!map_is_complete (d->map) && copiers_start (d) == -1)
      || housekeeper_start (d) == -1) {
    message_set (error, "cannot start a thread: %m");
    return -1;
  }
  boot_start (d);
  if (d->src
      && source_start (d->src, d->has_identity ? &d->identity : NULL) == -1) {
    message_set (error, "cannot use the backing store %s: %m", d->backing);
    return -1;
  }
  return jobs_start (d, error);
}

static bool
drained (struct disk *d)
{
  return atomic_load_explicit (&d->inside, memory_order_seq_cst) == 0
         && fetch_table_is_empty (d);
}

/* End all threads that work on the disk; false: some have not ended by `until`
 * (ms). */
static bool
stop_all (struct disk *d, uint64_t until)
{
  bool ended = jobs_stop (d, until);

  ended &= boot_stop (d, until);

  if (d->src)
    source_stop (d->src);
  fetch_wake_all (d);
  ended &= housekeeper_stop (d, until);
  while (!drained (d) && now_ms () < until)
    usleep (1000);
  return ended && drained (d);
}

/* 0 or errno. */
static int
close_steps (struct disk *d, uint64_t until, bool *stuck)
{
  int err;

  extents_stop (d->ext);
  fetch_wake_all (d);
  *stuck = false;
  if (!stop_all (d, until)) {
    /* The store does not answer, or slowly.  Acknowledged writes are made
     * durable all the same; if the commit succeeds, and the threads end by
     * then, this is an end like any other.  Else the session stays open and the
     * volume locked, so that nobody has the volume beside those threads: the
     * next process to open it takes what W holds. */
    err = commit_run (d, COMMIT_CHECKPOINT);
    *stuck = !stop_all (d, now_ms () + 100);
    if (*stuck) {
      log_error ("%s: operations on the store did not end in time; left to be "
                 "recovered",
                 d->store_path);
      return err ? err : ETIMEDOUT;
    }
  }
  err = commit_run (d, COMMIT_CHECKPOINT | COMMIT_HOLES);
  if (err) {
    errno = err;
    log_error ("%s: not everything could be made durable: %m; left to be "
               "recovered",
               d->store_path);
  }
  if (volume_close (d, err == 0) == -1 && err == 0)
    err = errno ? errno : EIO;
  /* boot_end comes last: nothing of the disk is to wait for it. */
  boot_end (d);
  return err;
}

static void *
close_thread (void *arg)
{
  struct disk *d = arg;
  bool stuck;
  int err = close_steps (d, d->drain_until, &stuck);
  LOCK_SCOPE (&d->gate_lock);

  d->stuck = stuck;
  d->close_error = err;
  d->closed = true;
  pthread_cond_broadcast (&d->gate_ended);
  return NULL;
}

/* The gate's thread is done and takes gate_lock no more: the caller may hold
 * gate_lock. */
static void
join_gate (struct disk *d)
{
  if (d->has_gate_thread)
    pthread_join (d->gate_thread, NULL);
  d->has_gate_thread = false;
}

bool
disk_is_idle (struct disk *d)
{
  LOCK_SCOPE (&d->gate_lock);

  if (d->closing && (!d->closed || d->stuck))
    return false;
  join_gate (d);
  return drained (d);
}

/* Each step may wait for a file that never answers, the sync most of all.  So a
 * thread does the steps, and is left alone when the time is over. */
int
disk_gate (struct disk *d)
{
  uint64_t until = now_ms () + d->gate_ms;
  bool begin;

  {
    LOCK_SCOPE (&d->gate_lock);
    begin = !d->closing;
    d->closing = true;
    if (begin) {
      d->drain_until = now_ms () + d->gate_ms * 5 / 7;
      atomic_store_explicit (&d->gated, true, memory_order_seq_cst);
      d->has_gate_thread = thread_start (&d->gate_thread, close_thread, d) == 0;
      begin = !d->has_gate_thread;
    }
  }
  if (begin)
    close_thread (d);

  LOCK_SCOPE (&d->gate_lock);
  while (!d->closed && lock_wait_ms (&d->gate_ended, &d->gate_lock, until))
    ;
  if (!d->closed) {
    log_error (
        "%s: the local files do not answer in time; left to be recovered",
        d->store_path);
    errno = ETIMEDOUT;
    return -1;
  }
  join_gate (d);
  errno = d->close_error;
  return d->close_error ? -1 : 0;
}

void
disk_free (struct disk *d)
{
  if (!d)
    return;
  volume_unregister (d);
  /* The housekeeper waits for the store no more: the disk is idle. */
  while (!housekeeper_stop (d, now_ms () + d->gate_ms))
    ;
  while (!boot_stop (d, now_ms () + d->gate_ms))
    ;
  if (d->src)
    source_free (d->src);
  source_kept_free (d->kept);
  copiers_stop (d);
  jobs_free (d);
  extents_free (d->ext);
  map_free (d->map);
  volume_destroy (d);
  claims_destroy (&d->claims);
  commit_destroy (&d->commit);
  fetch_table_destroy (&d->fetch);
  copiers_destroy (&d->copiers);
  housekeeper_destroy (&d->keeper);
  writeback_destroy (&d->writeback);
  parked_destroy (d);
  boot_destroy (d);
  lock_destroy (&d->gate_lock);
  pthread_cond_destroy (&d->gate_ended);
  free (d);
}

/* True if the disk's sidecar must stay, to tell the other side of a
 * migration. */
static bool
may_not_detach (struct disk *d, char **error)
{
  CLEANUP_FREE char *says = NULL;

  LOCK_SCOPE (&d->header_lock);
  if (role_detaches (&d->sc->h.role))
    return false;
  role_explain (&d->sc->h.role, d->store_path, &says);
  message_set (error, "%s; it cannot be detached before that has ended", says);
  return true;
}

int
disk_detach (struct disk *d, char **error)
{
  struct syncing s;
  int err;

  if (d->read_only) {
    message_set (error, "%s is open read-only", d->store_path);
    errno = EROFS;
    return -1;
  }
  if (may_not_detach (d, error)) {
    errno = EBUSY;
    return -1;
  }
  if (!map_is_complete (d->map) && !map_all_live (d->map)) {
    message_set (error,
                 "%s is not fully local yet: allocate the whole disk first",
                 d->store_path);
    errno = EBUSY;
    return -1;
  }
  err = commit_run (d, COMMIT_CHECKPOINT | COMMIT_HOLES);
  if (err || !map_is_complete (d->map)) {
    errno = err ? err : EBUSY;
    message_set (error, "cannot make %s durable: %m", d->store_path);
    return -1;
  }
  LOCK_SCOPE (&d->gate_lock);
  if (d->closed) {
    message_set (error, "%s is being closed", d->store_path);
    errno = ESHUTDOWN;
    return -1;
  }
  /* A job may still be ending, and the place of its record goes, too. */
  LOCK_SCOPE (job_verbs (d));
  LOCK_SCOPE (&d->header_lock);
  d->sc->h.state |= SIDECAR_DETACHED;
  sync_begin (d, &s);
  /* All of the store is local and durable: its mark may say so. */
  if (!d->was_plain && store_set_detached (d->store, true) == -1)
    log_error ("%s cannot be marked as detached (%m): to serve it again say "
               "adopt=local",
               d->store_path);
  err = fsync (d->store->fd) == -1 || sidecar_strip (d->sc) == -1 ? errno : 0;
  /* Any failed step may mean that the disk lost bytes that it held. */
  err = sync_end (d, &s, err);
  if (err) {
    errno = err;
    d->sc->h.state &= ~SIDECAR_DETACHED;
    if (!d->was_plain)
      store_set_detached (d->store, false);
    errno = err;
    message_set (error, "cannot write the sidecar %s: %m", d->metadata);
    return -1;
  }
  store_set_uuid (d->store, NULL);
  atomic_store_explicit (&d->detached, true, memory_order_release);
  return 0;
}

/* The disk's description, for info. */

int
disk_get_info (struct disk *d, struct disk_info *info)
{
  uint64_t g, end;

  memset (info, 0, sizeof *info);
  info->name = d->name;
  info->store = d->store_path;
  info->metadata = d->metadata;
  info->backing = d->backing;
  info->size = d->size;
  info->granule = d->granule;
  info->local = map_live_bytes (d->map, 0, map_nr (d->map));
  info->absent = d->size - info->local;
  info->complete = map_is_complete (d->map);
  info->read_only = d->read_only;
  info->detached = atomic_load_explicit (&d->detached, memory_order_acquire);
  if (d->src && !atomic_load_explicit (&d->let_go, memory_order_acquire)) {
    info->source = source_get_state (d->src);
    source_get_reason (d->src, info->source_reason, sizeof info->source_reason);
  }
  info->nr_damaged = map_damaged (d->map, &g, &end);
  if (info->nr_damaged) {
    info->damaged_offset = granule_offset (d, g);
    info->damaged_length = granule_offset (d, end) - info->damaged_offset;
  }
  info->sync_error = commit_failed (d);
  info->bytes_fetched = counted (&d->bytes_fetched);
  info->demand_fetches = counted (&d->demand_fetches);
  info->ahead_fetches = counted (&d->ahead_fetches);
  info->background_fetches = counted (&d->background_fetches);
  info->guest_reads = counted (&d->guest_reads);
  info->guest_writes = counted (&d->guest_writes);
  info->flushes = counted (&d->flushes);
  info->commits = counted (&d->commits);
  boot_get_info (d, &info->trace);
  job_get_info (d, &info->job);
  return 0;
}

const char *
disk_name (struct disk *d)
{
  return d->name;
}

uid_t
disk_store_owner (struct disk *d)
{
  return store_owner (d->store);
}

uid_t
disk_store_owner_seen (struct disk *d)
{
  return atomic_load_explicit (&d->owner, memory_order_relaxed);
}

const char *
disk_store_path (struct disk *d)
{
  return d->store_path;
}

uint64_t
disk_size (struct disk *d)
{
  return d->size;
}

uint32_t
disk_granule (struct disk *d)
{
  return d->granule;
}

uint32_t
disk_fetch_unit (struct disk *d)
{
  return d->fetch_unit;
}

struct file_id
disk_file (struct disk *d)
{
  return (struct file_id){ .dev = d->store->dev, .ino = d->store->ino };
}

bool
disk_read_only (struct disk *d)
{
  return d->read_only;
}

struct disk *
disks_find (const struct disks *disks, const char *name)
{
  CLEANUP_FREE char *real = NULL;

  for (size_t i = 0; i < disks->len; i++)
    if (strcmp (disks->ptr[i]->name, name) == 0)
      return disks->ptr[i];
  if (*name == '\0')
    return NULL;
  real = realpath (name, NULL);
  for (size_t i = 0; i < disks->len; i++) {
    struct disk *d = disks->ptr[i];

    if (strcmp (d->store_path, name) == 0
        || (real && strcmp (d->store_path, real) == 0)
        || (real && file_is_at (d->store->fd, real)))
      return d;
  }
  return NULL;
}
