/* writeback.c - see writeback.h.
 *
 * Each piece is sent to the device at once, and when more than a window of them
 * is under way the oldest is waited for: a guest's flush then finds little of
 * ours to write.
 *
 * What only a job asked for is then dropped from the page cache: a copy of
 * the whole disk must not push out what guests are using, and pages that are
 * used again are cheaper than fresh ones, three times so in a virtual machine
 * whose host has taken its memory back.
 *
 * A page may be dropped only if the device has it for good.  What is in the
 * device's write cache may be lost with a later flush that fails; then recovery
 * writes it again from the page cache.  So a store is synced before pieces of
 * it are dropped, many at a time.  And if a page's write failed the kernel
 * calls it clean all the same, and then the page cache is the last place that
 * has its bytes (G24).  So dropping goes: take a claim, so that nobody writes
 * there; write what is dirty and wait; ask whether any write of this file has
 * failed; only then drop.
 *
 * Each open file description reports a writeback error once.  drop_fd is used
 * for nothing else, and drop_lock serialises its users, so an error is recorded
 * before the next check.
 *
 * A guest's change since the piece was listed may be newer than the sync, so
 * such a piece stays.  The guest's thread looks for listed pieces after its
 * write, within its claim: a piece that is listed later is synced later.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "internal.h"
#include "share.h"
#include "writeback.h"

/* Bytes that all jobs together have under way to their devices. */
#define WINDOW (UINT64_C (32) << 20)
#define PIECE (UINT64_C (4) << 20)
/* Bytes that all jobs together list before a sync and a drop, and the least for
 * each job, as syncs must be few. */
#define SYNC_BYTES (UINT64_C (32) << 20)
#define SYNC_BYTES_EACH (UINT64_C (16) << 20)

void
writeback_init (struct writeback *wb)
{
  lock_init (&wb->lock, LOCK_WRITEBACK);
  lock_init (&wb->drop_lock, LOCK_DROP);
}

void
writeback_destroy (struct writeback *wb)
{
  lock_destroy (&wb->lock);
  lock_destroy (&wb->drop_lock);
}

/* False: this file system cannot do it.  Only the first call of a file may say
 * so, which is one that waits for nothing: one that waits is told of writes
 * that failed, by whatever errno the device or the server gave (EINVAL,
 * ENODATA, ENOLINK, ETIMEDOUT, ESTALE ...), and is told once. */
static bool
sync_range (struct disk *d, int fd, const struct writeback_piece *p,
            unsigned flags)
{
  int r = sync_file_range (fd, (off_t)p->offset, (off_t)(p->end - p->offset),
                           flags);

  if (ability_note (&d->store->able, ABILITY_SYNC_RANGE, r == -1 ? errno : 0))
    return false;
  if (r == -1)
    commit_set_failed (d, errno);
  return true;
}

#define WRITE_AND_WAIT                                 \
  (SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE \
   | SYNC_FILE_RANGE_WAIT_AFTER)

static bool
may_drop (struct disk *d, const struct writeback_piece *p)
{
  LOCK_SCOPE (&d->writeback.lock);

  return !p->keep;
}

static void
drop (struct disk *d, const struct writeback_piece *p)
{
  int fd = d->store->drop_fd;
  struct claim c;

  claim_take (&d->claims, &c, granule_floor (d, p->offset),
              granule_ceil (d, p->end));
  if (may_drop (d, p)) {
    LOCK_SCOPE (&d->writeback.drop_lock);
    if (sync_range (d, fd, p, WRITE_AND_WAIT) && !commit_failed (d))
      posix_fadvise (fd, (off_t)p->offset, (off_t)(p->end - p->offset),
                     POSIX_FADV_DONTNEED);
  }
  claim_drop (&d->claims, &c);
}

static void
changed (struct writeback_piece *p, unsigned nr, uint64_t offset, uint64_t end)
{
  for (unsigned i = 0; i < nr; i++)
    if (p[i].offset < end && p[i].end > offset)
      p[i].keep = true;
}

void
writeback_changed (struct disk *d, uint64_t offset, uint64_t end)
{
  struct writeback *wb = &d->writeback;

  /* Pairs with drop_later, which lists a piece before it syncs: either listed
   * is seen here, or the sync comes after the write. */
  atomic_thread_fence (memory_order_seq_cst);
  if (atomic_load_explicit (&wb->listed, memory_order_relaxed) == 0)
    return;
  LOCK_SCOPE (&wb->lock);
  changed (wb->written, wb->nr_written, offset, end);
  changed (wb->dropping, wb->nr_dropping, offset, end);
}

static void
set_listed (struct writeback *wb)
{
  ASSERT_HELD (&wb->lock);
  atomic_store_explicit (&wb->listed, wb->nr_written + wb->nr_dropping,
                         memory_order_seq_cst);
}

/* List a piece that is to be dropped.  True: there are enough, and the caller
 * is to drop those in wb->dropping. */
static bool
list (struct writeback *wb, const struct writeback_piece *p)
{
  LOCK_SCOPE (&wb->lock);
  uint64_t most = max_u64 (SYNC_BYTES / jobs_sharing (), SYNC_BYTES_EACH);

  /* While other pieces are dropped, surplus pieces stay in the page cache. */
  if (wb->nr_written < WRITTEN_PIECES) {
    struct writeback_piece *next = wb->written + wb->nr_written++;

    *next = *p;
    wb->bytes_written += p->end - p->offset;
    set_listed (wb);
  }
  if (wb->nr_dropping > 0
      || (wb->nr_written < WRITTEN_PIECES && wb->bytes_written < most))
    return false;
  memcpy (wb->dropping, wb->written, wb->nr_written * sizeof *p);
  wb->nr_dropping = wb->nr_written;
  wb->nr_written = 0;
  wb->bytes_written = 0;
  return true;
}

/* The device has the piece in its cache.  When there are enough of these, sync
 * the store, and drop their pages. */
static void
drop_later (struct disk *d, const struct writeback_piece *p)
{
  struct writeback *wb = &d->writeback;

  if (!list (wb, p))
    return;
  /* A gate must not wait for the sync.  A group commit does the sync, so that
   * pieces are not taken for durable while a commit is told that they are not.
   */
  if (!atomic_load_explicit (&d->gated, memory_order_acquire)
      && commit_run (d, 0) == 0)
    for (unsigned i = 0; i < wb->nr_dropping; i++)
      drop (d, &wb->dropping[i]);
  LOCK_SCOPE (&wb->lock);
  wb->nr_dropping = 0;
  set_listed (wb);
}

/* Add it to the list; true with the oldest in *old, taken from the list, if
 * that is to be waited for. */
static bool
push (struct writeback *wb, const struct writeback_piece *p,
      struct writeback_piece *old)
{
  LOCK_SCOPE (&wb->lock);
  uint64_t window = WINDOW / jobs_sharing ();
  uint64_t most = min_u64 (PIECE, window / 2);
  struct writeback_piece *last
      = &wb->piece[(wb->head + wb->nr - 1) % WRITEBACK_PIECES];

  wb->bytes += p->end - p->offset;
  if (wb->nr > 0 && last->end == p->offset && last->keep == p->keep
      && p->end - last->offset <= most)
    last->end = p->end;
  else
    wb->piece[(wb->head + wb->nr++) % WRITEBACK_PIECES] = *p;
  if (wb->nr == 1 || (wb->bytes <= window && wb->nr < WRITEBACK_PIECES))
    return false;
  *old = wb->piece[wb->head];
  wb->bytes -= old->end - old->offset;
  wb->head = (wb->head + 1) % WRITEBACK_PIECES;
  wb->nr--;
  return true;
}

void
writeback_add (struct disk *d, uint64_t offset, uint64_t end, bool keep)
{
  struct writeback *wb = &d->writeback;
  struct writeback_piece piece = { offset, end, keep }, old;

  /* A descriptor that is synced must itself be told of failed writes. */
  if (d->store->is_block || d->store->aux_fd == d->store->fd
      || ability_is_missing (&d->store->able, ABILITY_SYNC_RANGE)
      || !sync_range (d, d->store->aux_fd, &piece, SYNC_FILE_RANGE_WRITE))
    return;
  if (!push (wb, &piece, &old))
    return;
  /* No claim is held here: no other thread should wait for the device. */
  if (sync_range (d, d->store->aux_fd, &old, WRITE_AND_WAIT) && !old.keep
      && d->store->drop_fd >= 0)
    drop_later (d, &old);
}
