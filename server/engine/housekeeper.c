/* housekeeper.c - a disk's thread for what must happen now and then:
 * checkpoints (every 5 s or 1 GiB copied; holes every 5 s), letting go of a
 * source that is no longer needed, the job's clock, and a look at whose the
 * store is.
 *
 * Each disk has a thread, as the thread may wait for the store: a store that
 * hangs must not keep other disks from their checkpoints.
 *
 * Locking: keeper.lock guards `running`, and is not held while the thread
 * serves the disk.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>

#include "commit.h"
#include "housekeeper.h"
#include "internal.h"

#define TICK_MS 250u
#define CHECKPOINT_MS 5000u
#define CHECKPOINT_BYTES (UINT64_C (1) << 30)

void
housekeeper_init (struct housekeeper *k)
{
  lock_init (&k->lock, LOCK_HOUSEKEEPER);
  cond_init (&k->wake);
}

void
housekeeper_destroy (struct housekeeper *k)
{
  lock_destroy (&k->lock);
  pthread_cond_destroy (&k->wake);
}

static void
serve (struct disk *d, uint64_t now)
{
  struct housekeeper *k = &d->keeper;
  uint64_t copied = counted (&d->copied);
  /* Holes go in by time only: a huge sparse disk has more of them than data,
   * and the end of its job needs none of them written.  So they have a clock
   * of their own: a job that copies fast has a checkpoint for its bytes all
   * the time, and none for its holes. */
  bool holes = now - k->holes_at >= k->checkpoint_ms;
  bool old = now - k->checkpoint_at >= k->checkpoint_ms;

  job_tick (d, now);
  boot_tick (d, now);
  atomic_store_explicit (&d->owner, store_owner (d->store),
                         memory_order_relaxed);
  if (copied >= CHECKPOINT_BYTES || old || holes) {
    k->checkpoint_at = now;
    if (holes)
      k->holes_at = now;
    if (map_has_pending (d->map) && !commit_failed (d)
        && !map_is_complete (d->map)) {
      int err = commit_run (d, COMMIT_CHECKPOINT | (holes ? COMMIT_HOLES : 0));

      if (err && !commit_failed (d)) {
        errno = err;
        log_error ("%s: checkpoint failed: %m", d->metadata);
      }
      atomic_fetch_sub_explicit (&d->copied, copied, memory_order_relaxed);
    }
  }
  if (map_is_complete (d->map)
      && !atomic_exchange_explicit (&d->local_event, true,
                                    memory_order_acq_rel)) {
    struct disk_event ev = { .type = DISK_EVENT_LOCAL };

    log_debug ("%s: all is local", d->name);
    disk_emit (d, &ev);
    if (d->src) {
      atomic_store_explicit (&d->let_go, true, memory_order_release);
      source_stop (d->src);
    }
  }
}

static void *
keep (void *arg)
{
  struct disk *d = arg;
  struct housekeeper *k = &d->keeper;
  LOCK_SCOPE (&k->lock);

  while (k->running) {
    uint64_t now = now_ms ();

    {
      UNLOCK_SCOPE (&k->lock);
      serve (d, now);
    }
    while (k->running && lock_wait_ms (&k->wake, &k->lock, now + TICK_MS))
      ;
  }
  k->ended = true;
  pthread_cond_broadcast (&k->wake);
  return NULL;
}

int
housekeeper_start (struct disk *d)
{
  struct housekeeper *k = &d->keeper;

  if (k->checkpoint_ms == 0)
    k->checkpoint_ms = CHECKPOINT_MS;
  k->checkpoint_at = k->holes_at = now_ms ();
  k->running = k->started = true;
  if (thread_start (&k->thread, keep, d) == 0)
    return 0;
  k->running = k->started = false;
  return -1;
}

bool
housekeeper_stop (struct disk *d, uint64_t until)
{
  struct housekeeper *k = &d->keeper;

  {
    LOCK_SCOPE (&k->lock);
    if (!k->started)
      return true;
    k->running = false;
    pthread_cond_broadcast (&k->wake);
    while (!k->ended && lock_wait_ms (&k->wake, &k->lock, until))
      ;
    if (!k->ended)
      return false;
    k->started = false;
  }
  pthread_join (k->thread, NULL);
  return true;
}
