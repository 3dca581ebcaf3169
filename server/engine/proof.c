/* proof.c - what shows that W is of the store's bytes.
 *
 * W says of granules that are not in S: what the store holds there is the
 * truth. That is so for the store that it was written for, as it was when the
 * process died.  If store and sidecar were restored meanwhile to a moment when
 * the process ran (a snapshot of their file system, copies of the files), then
 * uuid, session and perhaps even the inode are the same, but a granule that was
 * written after that moment is absent there, and its place holds zeros or an
 * older session's bytes.  Neither source nor guest ever had those.
 *
 * So W has two sums for each unit of what it names: what the unit was before
 * the last change, and what it is after it.  They are written before the store
 * is changed, and the change of one unit is done or not done whenever the
 * process is killed (a unit is within one page).  Of an absent granule they are
 * written after the store, and before the bit.  So at every moment each unit of
 * what W names has one of its two sums, and who opens the volume asks the store
 * for all of them.
 *
 * When may a restored store pass?  Let U be a unit that was live at the moment
 * of the snapshot: whatever it holds was the truth then.  Let U have been
 * absent: it passes if its place held then what one of its sums stands for.
 *
 * - The place was a hole, and the guest wrote zeros.  So before zeros of the
 *   guest's are named a count is raised, in the sidecar and then in W.  The
 *   sidecar is restored with the store, and has a lower one then.  It may be
 *   one higher than W's, as the process may be killed in between; W named
 *   nothing yet.  (Zeros that are copied are what the source has: they are the
 *   truth also then.)
 * - The place held bytes: of an earlier life of the store, of writes that a
 * power cut took back, that failed, or that a killed process had begun.  The
 * guest may write the very same again, as who replays a journal does.  So the
 * count is raised too before the first change of an absent place that is not a
 * hole, whoever makes it: what was copied there, the guest may change later.
 * - Copies: they are what the source has.
 *
 * The count is in the page cache and not synced: it is asked for on the boot of
 * its session only.  A snapshot of a file system takes it as it takes the
 * store's bytes.  Another session, also one with the same number after the
 * sidecar was restored, has another nonce.
 *
 * What a store was changed to by others meanwhile does not pass either.
 *
 * Sums are of use with their bit only, and a commit punches whole pages of W: a
 * range is held (struct map_held) from before its sums until it is marked.
 *
 * Locking: sums belong to who has the granule's claim (work.h).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "crc32c.h"
#include "file.h"
#include "internal.h"
#include "proof.h"

#define BATCH 256u /* units, in one write to W */
#define READ_SIZE (UINT64_C (1) << 20)

struct range {
  const char *buf; /* NULL: zeros */
  uint64_t lo, hi;
};

static uint64_t
unit_length (const struct disk *d, uint64_t at)
{
  return min_u64 (d->work->unit, d->size - at);
}

static uint32_t
sum_of_zeros (uint64_t length)
{
  static const uint8_t zeros[WORK_UNIT_MAX];
  static _Atomic uint32_t whole;
  uint32_t sum;

  if (length < WORK_UNIT_MAX)
    return crc32c_pieces (zeros, length);
  /* 0 is "not known yet". */
  sum = atomic_load_explicit (&whole, memory_order_relaxed);
  if (sum == 0) {
    sum = crc32c_pieces (zeros, length);
    atomic_store_explicit (&whole, sum, memory_order_relaxed);
  }
  return sum;
}

static int
count_in_sidecar (void *opaque, uint64_t n)
{
  return sidecar_write_count (opaque, n);
}

/* A failure does not fail the guest's change, which is not flushed yet: the
 * next change tries again. */
static void
raise_count (struct disk *d)
{
  bool behind = work_count (d->work, count_in_sidecar, d->sc) == -1;

  atomic_store_explicit (&d->proof.count_behind, behind, memory_order_relaxed);
}

static void
raise_count_again (struct disk *d)
{
  if (atomic_load_explicit (&d->proof.count_behind, memory_order_relaxed))
    raise_count (d);
}

/* Sums of what nr units from `at` on hold in the store now.  A hole is not
 * read. */
static int
sums_of_store (struct disk *d, uint64_t at, unsigned nr, uint32_t *sums)
{
  char buf[WORK_UNIT_MAX];
  uint64_t start = at, stop = at;
  uint64_t end = min_u64 (at + (uint64_t)nr * d->work->unit, d->size);

  for (unsigned i = 0; i < nr; i++, at += d->work->unit) {
    uint64_t n = unit_length (d, at);

    if (at >= stop && store_next_data (d->store, at, end, &start, &stop) == -1)
      return -1;
    if (at + n <= start) {
      sums[i] = sum_of_zeros (n);
      continue;
    }
    if (store_pread (d->store, buf, n, at) == -1)
      return -1;
    sums[i] = crc32c_pieces (buf, n);
  }
  return 0;
}

/* The sum of what the unit at `at` holds after the change. */
static int
sum_after (struct disk *d, uint64_t at, const struct range *r, uint32_t *sum)
{
  uint64_t n = unit_length (d, at);
  uint64_t lo = max_u64 (at, r->lo), hi = min_u64 (at + n, r->hi);
  char buf[WORK_UNIT_MAX];

  if (hi - lo == n) {
    *sum = r->buf ? crc32c_pieces (r->buf + (at - r->lo), n) : sum_of_zeros (n);
    return 0;
  }
  if (store_pread (d->store, buf, n, at) == -1)
    return -1;
  if (r->buf)
    memcpy (buf + (lo - at), r->buf + (lo - r->lo), hi - lo);
  else
    memset (buf + (lo - at), 0, hi - lo);
  *sum = crc32c_pieces (buf, n);
  return 0;
}

/* Write the sums of nr units of live granules from `at` on, before the store is
 * changed.  named: W has sums of them. */
static int
batch_before (struct disk *d, uint64_t at, unsigned nr, bool named,
              const struct range *r)
{
  struct work_sums sums[BATCH];
  uint32_t now[BATCH];
  uint64_t first = at / d->work->unit;
  bool known
      = named
        && !atomic_load_explicit (&d->proof.sums_unsure, memory_order_acquire);
  bool zeros = false;

  if (known ? work_read_sums (d->work, first, nr, sums) == -1
            : sums_of_store (d, at, nr, now) == -1)
    return -1;
  for (unsigned i = 0; i < nr; i++, at += d->work->unit) {
    uint64_t n = unit_length (d, at);

    sums[i].was = known ? sums[i].will : now[i];
    sums[i].will = sums[i].was;
    if (at < r->hi && r->lo < at + n) {
      if (sum_after (d, at, r, &sums[i].will) == -1)
        return -1;
      zeros |= sums[i].will == sum_of_zeros (n);
    }
  }
  if (zeros)
    raise_count (d);
  return work_write_sums (d->work, first, nr, sums);
}

/* Write the sums of nr units of absent granules, after the store was changed.
 */
static int
batch_after (struct disk *d, uint64_t at, unsigned nr, bool guest,
             const struct range *r)
{
  struct work_sums sums[BATCH];
  uint64_t first = at / d->work->unit;
  bool zeros = false;

  for (unsigned i = 0; i < nr; i++, at += d->work->unit) {
    if (sum_after (d, at, r, &sums[i].will) == -1)
      return -1;
    sums[i].was = sums[i].will;
    zeros |= sums[i].will == sum_of_zeros (unit_length (d, at));
  }
  if (guest && zeros)
    raise_count (d);
  return work_write_sums (d->work, first, nr, sums);
}

/* Where the granules from g on end whose units fit in a batch. */
static uint64_t
batch_end (const struct disk *d, uint64_t g, uint64_t end)
{
  return min_u64 (end, g + BATCH / (d->granule / d->work->unit));
}

static unsigned
units_of (const struct disk *d, uint64_t g, uint64_t end)
{
  uint64_t bytes = granule_offset (d, end) - (g << d->shift);
  unsigned nr = (unsigned)((bytes + d->work->unit - 1) / d->work->unit);

  assert (nr > 0 && nr <= BATCH);
  return nr;
}

/* proof_before, for a run of live granules. */
static int
live_before (struct disk *d, uint64_t g, uint64_t end, const struct range *r)
{
  int behind = 0;

  for (uint64_t stop; g < end; g = stop) {
    enum map_named named
        = map_named_run (d->map, g, batch_end (d, g, end), &stop);
    unsigned how = MAP_GUEST;
    struct map_held held;
    int m;

    if (named == MAP_STABLE)
      continue;
    map_hold_sums (d->map, &held, g, stop);
    if (batch_before (d, g << d->shift, units_of (d, g, stop),
                      named == MAP_NAMED, r)
        == -1) {
      /* What W names must not be changed without its sums. */
      if (named == MAP_NAMED) {
        int err = errno;

        map_release_sums (d->map, &held);
        errno = err;
        return -1;
      }
      how |= MAP_UNPROVED;
    }
    m = map_mark (d->map, g, stop, how);
    map_release_sums (d->map, &held);
    if (m == -1)
      return -1;
    behind |= m;
  }
  return behind;
}

/* The change is refused before the store was written.  Some units of the range
 * may have sums of what they were to become, and the next change would take
 * those for what the store holds. */
static int
not_changed (struct disk *d, uint64_t g, uint64_t end)
{
  int err = errno;

  proof_failed (d, g, end);
  errno = err;
  return -1;
}

int
proof_before (struct disk *d, uint64_t g, uint64_t end, const char *buf,
              uint64_t lo, uint64_t hi)
{
  const struct range r = { buf, lo, hi };
  const uint64_t first = g;
  int behind = 0;

  raise_count_again (d);
  for (uint64_t stop; g < end; g = stop) {
    uint64_t start, data, data_end;
    int m = 0;

    switch (map_run (d->map, g, end, &stop)) {
    case MAP_LIVE:
      m = d->work ? live_before (d, g, stop, &r)
                  : map_mark (d->map, g, stop, MAP_GUEST);
      break;
    case MAP_ABSENT:
      if (!d->work)
        break;
      start = granule_offset (d, g);
      if (store_next_data (d->store, start, granule_offset (d, stop), &data,
                           &data_end)
              == -1
          || data < granule_offset (d, stop))
        raise_count (d);
      break;
    default:
      errno = EIO;
      m = -1;
    }
    if (m == -1)
      return not_changed (d, first, end);
    behind |= m;
  }
  return behind;
}

int
proof_after (struct disk *d, uint64_t g, uint64_t end, enum map_mark how,
             const char *buf, uint64_t lo, uint64_t hi)
{
  const struct range r = { buf, lo, hi };
  int behind = 0;

  while (g < end) {
    uint64_t stop, last;

    if (map_run (d->map, g, end, &last) != MAP_ABSENT) {
      g = last;
      continue;
    }
    for (; g < last; g = stop) {
      bool sums = d->work && how != MAP_HOLE;
      unsigned flags = how;
      struct map_held held;
      int m;

      stop = last;
      if (sums) {
        stop = batch_end (d, g, last);
        map_hold_sums (d->map, &held, g, stop);
        if (batch_after (d, g << d->shift, units_of (d, g, stop),
                         how == MAP_GUEST, &r)
            == -1)
          flags |= MAP_UNPROVED;
      }
      m = map_mark (d->map, g, stop, flags);
      if (sums)
        map_release_sums (d->map, &held);
      if (m == -1)
        return -1;
      behind |= m;
    }
  }
  return behind;
}

void
proof_failed (struct disk *d, uint64_t g, uint64_t end)
{
  for (uint64_t stop; d->work && g < end; g = stop) {
    struct work_sums sums[BATCH];
    uint32_t now[BATCH];
    unsigned nr;

    if (map_named_run (d->map, g, batch_end (d, g, end), &stop) != MAP_NAMED)
      continue;
    nr = units_of (d, g, stop);
    if (sums_of_store (d, g << d->shift, nr, now) == 0) {
      for (unsigned i = 0; i < nr; i++)
        sums[i] = (struct work_sums){ now[i], now[i] };
      if (work_write_sums (d->work, (g << d->shift) / d->work->unit, nr, sums)
          == 0)
        continue;
    }
    /* From now on each change takes its first sums from the store, not from W.
     */
    atomic_store_explicit (&d->proof.sums_unsure, true, memory_order_release);
  }
}

/* Checking. */

/* Compare units [at, end) of old W with the bytes that were read.  1: all
 * match; 0: *offset is where the first that does not begins. */
static int
check_read (const struct disk *d, struct work *old, const char *buf,
            uint64_t at, uint64_t end, uint64_t *offset)
{
  while (at < end) {
    struct work_sums sums[BATCH];
    uint64_t stop = min_u64 (end, at + (uint64_t)BATCH * old->unit);
    unsigned nr = (unsigned)((stop - at + old->unit - 1) / old->unit);

    if (work_read_sums (old, at / old->unit, nr, sums) == -1)
      return -1;
    for (unsigned i = 0; at < stop; i++) {
      uint64_t n = min_u64 (old->unit, d->size - at);
      uint32_t sum = crc32c_pieces (buf, n);

      if (sum != sums[i].was && sum != sums[i].will) {
        *offset = at;
        return 0;
      }
      buf += n;
      at += n;
    }
  }
  return 1;
}

/* Read, and drop from the page cache what was not there before: recovery writes
 * again what is in the page cache. */
static int
read_uncached (struct disk *d, int fd, char *buf, uint64_t at, uint64_t end)
{
  struct {
    uint64_t start, stop;
  } cached[8];
  unsigned nr = 0;
  uint64_t from = at;
  int r;

  for (uint64_t next = at; nr < 8 && next < end; next = cached[nr++].stop) {
    store_next_cached (d->store, next, end, &cached[nr].start,
                       &cached[nr].stop);
    if (cached[nr].start >= cached[nr].stop)
      break;
  }
  r = file_read (fd, buf, end - at, at);
  if (r == 1) {
    errno = EIO; /* it was cut */
    r = -1;
  }
  if (nr == 8)
    return r;
  for (unsigned i = 0; i <= nr; i++) {
    uint64_t to = i < nr ? cached[i].start : end;

    if (to > from)
      posix_fadvise (fd, (off_t)from, (off_t)(to - from), POSIX_FADV_DONTNEED);
    if (i < nr)
      from = cached[i].stop;
  }
  return r;
}

static int
check_range (struct disk *d, struct work *old, int fd, char *buf, uint64_t at,
             uint64_t end, uint64_t *offset)
{
  for (uint64_t n; at < end; at += n) {
    int r;

    n = min_u64 (end - at, READ_SIZE);
    if (read_uncached (d, fd, buf, at, at + n) == -1) {
      /* A unit that cannot be read proves nothing, and nobody is shown it. */
      for (uint64_t m, u = at; n > old->unit && u < at + n; u += m) {
        m = min_u64 (old->unit, at + n - u);
        r = check_range (d, old, fd, buf, u, u + m, offset);
        if (r != 1)
          return r;
      }
      continue;
    }
    r = check_read (d, old, buf, at, at + n, offset);
    if (r != 1)
      return r;
  }
  return 1;
}

static int
check_count (struct disk *d, struct work *old)
{
  uint64_t count;

  if (sidecar_read_count (d->sc, &count) == -1)
    return errno == ENODATA ? 0 : -1;
  return count == old->count || count == old->count + 1;
}

int
proof_check (struct disk *d, struct work *old, bool copies, uint64_t *offset)
{
  CLEANUP_FREE char *buf = NULL;
  CLEANUP_CLOSE int fd = -1;
  uint64_t words[WORK_WORDS], nr = map_nr (d->map);
  int r;

  if (old->first_format)
    return 1;
  *offset = UINT64_MAX;
  r = check_count (d, old);
  buf = malloc (READ_SIZE);
  /* A description of its own, with read-ahead off. */
  fd = file_reopen_read (d->store->fd);
  if (fd == -1)
    fd = fcntl (d->store->fd, F_DUPFD_CLOEXEC, 0);
  if (!buf || fd == -1)
    return -1;
  posix_fadvise (fd, 0, 0, POSIX_FADV_RANDOM);
  for (uint32_t i = 0; r == 1 && work_next (old, i, &i); i++) {
    uint64_t first = (uint64_t)i * SIDECAR_BITS;
    uint32_t bits;

    if (first >= nr)
      break;
    bits = (uint32_t)min_u64 (SIDECAR_BITS, nr - first);
    if (map_old_words (old, copies, i, words) == -1)
      return -1;
    for (uint32_t b = 0, e; r == 1 && b < bits; b = e) {
      bool set = words[b / 64] >> (b % 64) & 1;

      for (e = b; e < bits && (words[e / 64] >> (e % 64) & 1) == set;)
        e++;
      if (set)
        r = check_range (d, old, fd, buf, granule_offset (d, first + b),
                         granule_offset (d, first + e), offset);
    }
  }
  return r;
}

bool
proof_holds (struct disk *d, struct work *old, const char *bytes,
             uint64_t offset, uint64_t end)
{
  struct work_sums sums[BATCH];
  unsigned nr = (unsigned)((end - offset + old->unit - 1) / old->unit);

  if (work_read_sums (old, offset / old->unit, nr, sums) == -1)
    return false;
  for (unsigned i = 0; i < nr; i++) {
    uint64_t n = min_u64 (old->unit, d->size - offset);
    uint32_t sum = crc32c_pieces (bytes, n);

    if (sum != sums[i].was && sum != sums[i].will)
      return false;
    bytes += n;
    offset += n;
  }
  return true;
}
