/* housekeeper.c - one thread a process for what must happen now and then:
 * checkpoints (every 5 s or 1 GiB copied), letting go of a source that is no
 * longer needed, and the jobs' clocks.
 *
 * Locking: its lock guards the list of disks and each one's `served` mark; it
 * is not held while a disk is served, as that may wait for the store.
 * housekeeper_remove waits until nothing here uses the disk any more.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "internal.h"

#define TICK_MS 250u
#define CHECKPOINT_MS 5000u
#define CHECKPOINT_BYTES (UINT64_C (1) << 30)

static struct {
  pthread_mutex_t lock;
  pthread_cond_t wake, done;
  pthread_t thread;
  struct disk *disks;
  bool running;
} keeper = { .lock = PTHREAD_MUTEX_INITIALIZER };

void
cond_init (pthread_cond_t *cond)
{
  pthread_condattr_t attr;

  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (cond, &attr);
  pthread_condattr_destroy (&attr);
}

int
thread_start (pthread_t *thread, void *(*fn) (void *), void *arg)
{
  sigset_t all, old;
  int err;

  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  err = pthread_create (thread, NULL, fn, arg);
  pthread_sigmask (SIG_SETMASK, &old, NULL);
  if (err == 0)
    return 0;
  errno = err;
  return -1;
}

static void
serve (struct disk *d, uint64_t now)
{
  uint64_t copied = counted (&d->copied);
  bool old = now - d->checkpoint_at >= CHECKPOINT_MS;

  job_tick (d, now);
  if (copied >= CHECKPOINT_BYTES || old) {
    d->checkpoint_at = now;
    if (map_has_pending (d->map) && !commit_failed (d)
        && !map_is_complete (d->map)) {
      /* Holes go in by time only: a huge sparse disk has more of them than
       * data, and the end of its job needs none of them written. */
      int err = commit_run (d, COMMIT_CHECKPOINT | (old ? COMMIT_HOLES : 0));

      if (err && !commit_failed (d)) {
        errno = err;
        log_error ("%s: checkpoint failed: %m", d->metadata);
      }
      __atomic_sub_fetch (&d->copied, copied, __ATOMIC_RELAXED);
    }
  }
  if (map_is_complete (d->map)
      && !__atomic_exchange_n (&d->local_event, true, __ATOMIC_ACQ_REL)) {
    struct disk_event ev = { .type = DISK_EVENT_LOCAL };

    log_debug ("%s: all is local", d->name);
    disk_emit (d, &ev);
    if (d->src) {
      __atomic_store_n (&d->let_go, true, __ATOMIC_RELEASE);
      source_stop (d->src);
    }
  }
}

static void *
keep (void *arg)
{
  (void)arg;
  LOCK_SCOPE (&keeper.lock);
  while (keeper.running) {
    uint64_t now = now_ms ();
    struct timespec until = ms_to_timespec (now + TICK_MS);

    for (struct disk *d = keeper.disks; d; d = d->next) {
      d->served = true;
      pthread_mutex_unlock (&keeper.lock);
      serve (d, now);
      pthread_mutex_lock (&keeper.lock);
      /* Still listed: its remover waits for this. */
      d->served = false;
      pthread_cond_broadcast (&keeper.done);
    }
    while (keeper.running)
      if (pthread_cond_timedwait (&keeper.wake, &keeper.lock, &until) != 0)
        break;
  }
  return NULL;
}

int
housekeeper_start (void)
{
  LOCK_SCOPE (&keeper.lock);
  cond_init (&keeper.wake);
  cond_init (&keeper.done);
  keeper.running = true;
  if (thread_start (&keeper.thread, keep, NULL) == 0)
    return 0;
  keeper.running = false;
  return -1;
}

void
housekeeper_stop (void)
{
  {
    LOCK_SCOPE (&keeper.lock);
    if (!keeper.running)
      return;
    keeper.running = false;
    pthread_cond_signal (&keeper.wake);
  }
  pthread_join (keeper.thread, NULL);
}

void
housekeeper_add (struct disk *d)
{
  LOCK_SCOPE (&keeper.lock);
  d->checkpoint_at = now_ms ();
  d->next = keeper.disks;
  keeper.disks = d;
}

void
housekeeper_remove (struct disk *d)
{
  LOCK_SCOPE (&keeper.lock);
  while (d->served)
    pthread_cond_wait (&keeper.done, &keeper.lock);
  for (struct disk **p = &keeper.disks; *p; p = &(*p)->next)
    if (*p == d) {
      *p = d->next;
      return;
    }
}
