/* internal.h - what the engine's policy files share: the disk as they see it.
 *
 * disk.c (operations), fetch.c and copier.c (copying), commit.c (durability),
 * writeback.c, volume.c (opening and closing), life.c, housekeeper.c, job.c and
 * extents.c hang their state here.  Nobody outside the engine includes it.
 *
 * Lock order: common/lock-ranks.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_INTERNAL_H
#define BACKFILL_INTERNAL_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "ahead.h"
#include "boot.h"
#include "bytes.h"
#include "claim.h"
#include "clock.h"
#include "cleanup.h"
#include "commit.h"
#include "copier.h"
#include "disk.h"
#include "fetch-table.h"
#include "housekeeper.h"
#include "job.h"
#include "lock.h"
#include "log.h"
#include "map.h"
#include "message.h"
#include "proof.h"
#include "replay.h"
#include "sidecar.h"
#include "source/source.h"
#include "store.h"
#include "thread.h"
#include "work.h"
#include "writeback.h"

struct job;
struct extents;
struct parked;

struct disk {
  char *name, *store_path, *metadata, *backing, *runtime_dir, *control;
  char **argv;       /* backing's bracket form, or NULL */
  char *command_dir; /* where its command runs, or NULL */
  /* backing comes from a sidecar that belongs to backing_user. */
  bool backing_by_other;
  uid_t backing_user;
  uint64_t size;
  uint32_t granule, shift;
  bool read_only, no_source;
  unsigned connections;
  uint64_t timeout; /* ms */
  uint32_t fetch_unit;
  enum source_identity_mode identity_mode;
  bool has_identity;
  struct source_identity identity;
  disk_event_fn event;
  void *event_opaque;
  bool has_allocate;
  struct job_options allocate;
  /* Settings that the caller gave, to be recorded; 0: not given. */
  struct {
    uint64_t timeout;
    uint32_t fetch_unit;
    unsigned connections;
    bool store_is_name;
  } given;

  struct store *store;
  struct sidecar *sc;
  struct work *work;
  struct map *map;
  struct source *src;       /* NULL: none, ever */
  struct source_kept *kept; /* the probe's connection, until src has it */
  struct extents *ext;
  struct claims claims;
  struct committer commit;
  struct fetch_table fetch;
  struct copiers copiers;
  struct boot boot;
  struct replay replay;
  struct writeback writeback;
  struct housekeeper keeper;
  struct job *job;

  struct lock header_lock; /* the sidecar's header */

  /* Parked parts (deferred read-modify-write): partial writes to absent
   * granules that wait for a fetch, oldest first. */
  struct lock park_lock;
  struct parked *parked, **parked_tail;
  _Atomic unsigned nr_parked;

  /* The gate (quiesce and drain): `inside` counts operations, `gated` keeps new
   * ones out. */
  _Atomic unsigned inside;
  atomic_bool gated;
  struct lock gate_lock; /* guards the members from gate_ended to stuck */
  pthread_cond_t gate_ended;
  pthread_t gate_thread;
  bool closing, has_gate_thread;
  uint64_t gate_ms;     /* ms that the gate may take */
  uint64_t drain_until; /* ms; operations and threads end by then */
  bool closed;          /* the gate's thread is done */
  bool stuck;           /* a thread of the disk did not end: the disk stays */
  int close_error;

  atomic_bool source_up; /* connected, by the last change of state */
  bool source_lost;
  uint64_t lost_at;   /* ms, when it was lost */
  atomic_bool let_go; /* complete, the source is to be stopped */
  atomic_bool local_event;
  bool registered; /* the registry has our entry */
  atomic_bool detached;
  /* The W that a killed process left; the header of a new session makes it
   * useless. */
  struct work *old_work;
  uid_t work_user;                /* the user whom the new W belongs to */
  uint8_t nonce[WORK_NONCE_SIZE]; /* of the session that we will begin */
  bool made;                      /* this open made the sidecar */
  bool recorded;                  /* the sidecar may name our W */
  bool begun;                     /* our session has begun */
  _Atomic uid_t owner; /* the store's, by the housekeeper's last look */
  bool was_plain; /* no sidecar and no mark before: detaching leaves none */

  struct proof proof;

  /* Since the last checkpoint. */
  _Atomic uint64_t copied; /* bytes */

  /* Counters. */
  _Atomic uint64_t bytes_fetched, demand_fetches, ahead_fetches,
      background_fetches;
  _Atomic uint64_t guest_reads, guest_writes, flushes, commits;
  _Atomic uint64_t last_guest_op; /* ms */
};

static inline void
count (_Atomic uint64_t *counter, uint64_t n)
{
  atomic_fetch_add_explicit (counter, n, memory_order_relaxed);
}

static inline uint64_t
counted (const _Atomic uint64_t *counter)
{
  return atomic_load_explicit (counter, memory_order_relaxed);
}

static inline uint64_t
granule_floor (const struct disk *d, uint64_t offset)
{
  return offset >> d->shift;
}

static inline uint64_t
granule_ceil (const struct disk *d, uint64_t offset)
{
  return (offset + d->granule - 1) >> d->shift;
}

/* Where granule g begins, at most the disk's size. */
static inline uint64_t
granule_offset (const struct disk *d, uint64_t g)
{
  return min_u64 (g << d->shift, d->size);
}

/* The most bytes of whole sectors of the map in `most`; where one sector is
 * more than that, whole granules. */
static inline uint64_t
sectors_in (const struct disk *d, uint64_t most)
{
  uint64_t sector = SIDECAR_BITS * d->granule;

  return most >= sector ? most / sector * sector
                        : round_down (most, d->granule);
}

/* The end of a step from offset of at most `most` bytes: a step ends with a
 * sector of the map where possible.  A sector that is marked in two steps costs
 * a page of memory, and writes to the sidecar and W. */
static inline uint64_t
step_end (const struct disk *d, uint64_t offset, uint64_t most)
{
  uint64_t step = sectors_in (d, most);

  return offset - offset % step + step;
}

/* A guest's operation, or another look at the disk, is inside between
 * disk_enter and disk_leave.  disk_enter: 0, or -1 with ESHUTDOWN once the gate
 * is closed. */
static inline int
disk_enter (struct disk *d)
{
  atomic_fetch_add_explicit (&d->inside, 1, memory_order_seq_cst);
  if (!atomic_load_explicit (&d->gated, memory_order_seq_cst))
    return 0;
  atomic_fetch_sub_explicit (&d->inside, 1, memory_order_seq_cst);
  errno = ESHUTDOWN;
  return -1;
}

/* Leave with errno as the guest shall see it: nbdkit turns an errno that it
 * does not know into EINVAL. */
static inline int
disk_leave (struct disk *d, int err)
{
  atomic_fetch_sub_explicit (&d->inside, 1, memory_order_seq_cst);
  switch (err) {
  case 0:
    return 0;
  case ENOSPC:
  case EDQUOT:
  case EFBIG:
  case EROFS:
  case EPERM:
  case ENOMEM:
  case ESHUTDOWN:
  case ENOTSUP:
  case EINVAL:
    errno = err;
    return -1;
  default:
    errno = EIO;
    return -1;
  }
}

static inline bool
in_range (struct disk *d, uint64_t count, uint64_t offset)
{
  return offset <= d->size && count <= d->size - offset;
}

/* Hand a disk's event to the program that holds the engine. */
static inline void
disk_emit (struct disk *d, struct disk_event *ev)
{
  ev->disk = d;
  if (d->event)
    d->event (d->event_opaque, ev);
}

/* job.c */
int jobs_open (struct disk *d, char **error); /* reads the record */
void jobs_free (struct disk *d);
/* While this lock is held no job of the disk is changed or recorded. */
struct lock *job_verbs (struct disk *d);
/* The source was lost, or is back. */
void job_source_changed (struct disk *d);
/* Called now and then: takes a sample, and writes the record if it is old. */
void job_tick (struct disk *d, uint64_t now);

/* job-verbs.c: go on with the job that the record has, or start the one that
 * allocate= asks for. */
int jobs_start (struct disk *d, char **error);
/* Stop the pump; the record stays as it is, so that a restart goes on.  False:
 * the pump has not ended by `until` (ms), as for housekeeper_stop. */
bool jobs_stop (struct disk *d, uint64_t until);

#endif
