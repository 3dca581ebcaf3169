/* internal.h - what the engine's policy files share: the disk as they see it.
 *
 * disk.c (operations), fetch.c and copier.c (copying), commit.c (durability),
 * writeback.c, volume.c (opening and closing), life.c, housekeeper.c, job.c and
 * extents.c hang their state here.  Nobody outside the engine includes it.
 *
 * Lock order: see disk.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_INTERNAL_H
#define BACKFILL_INTERNAL_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "ahead.h"
#include "bytes.h"
#include "claim.h"
#include "clock.h"
#include "cleanup.h"
#include "copier.h"
#include "disk.h"
#include "fetch-table.h"
#include "job.h"
#include "log.h"
#include "map.h"
#include "message.h"
#include "sidecar.h"
#include "source/source.h"
#include "store.h"
#include "thread.h"
#include "work.h"
#include "writeback.h"

struct job;
struct extents;
struct parked;
struct commit_waiter;

/* A sync under way, on its caller's stack. */
struct syncing {
  struct syncing *next, *back;
  uint64_t nr;
};

/* One commit runs, one forms. */
struct committer {
  pthread_mutex_t lock;
  pthread_cond_t done;
  bool running;
  unsigned flags; /* of the one that forms */
  struct commit_waiter *forming;
  int sticky; /* errno of a failed sync: final until reopened (G24) */
  pthread_mutex_t sync_lock;
  pthread_cond_t sync_ended;
  struct syncing *first_sync, *last_sync; /* in the order of their numbers */
  uint64_t syncs;
};

/* A thread for what must happen now and then. */
struct housekeeper {
  pthread_mutex_t lock;
  pthread_cond_t wake;
  pthread_t thread;
  bool running, started, ended;
  uint64_t checkpoint_ms; /* 0 before the start: the default */
  /* The last ones, of bytes and of holes: ms, the thread's own. */
  uint64_t checkpoint_at, holes_at;
};

struct disk {
  char *name, *store_path, *metadata, *backing, *runtime_dir, *control;
  char **argv;       /* backing's bracket form, or NULL */
  char *command_dir; /* where that runs, or NULL */
  /* It is the word of a sidecar that is that user's. */
  bool backing_by_other;
  uid_t backing_user;
  uint64_t size;
  uint32_t granule, shift;
  bool read_only, no_source;
  unsigned connections;
  uint64_t timeout, retry; /* ms */
  uint32_t fetch_unit;
  enum source_identity_mode identity_mode;
  bool has_identity;
  struct source_identity identity;
  disk_event_fn event;
  void *event_opaque;
  bool has_allocate;
  struct job_options allocate;
  /* What the caller gave, to be recorded; 0: it did not. */
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
  struct writeback writeback;
  struct housekeeper keeper;
  struct job *job;

  pthread_mutex_t header_lock; /* the sidecar's header; outermost */

  /* Partial writes to absent granules that wait for a fetch, oldest first. */
  pthread_mutex_t park_lock;
  struct parked *parked, **parked_tail;
  unsigned nr_parked; /* atomic */

  /* Operations inside, and the gate that keeps new ones out. */
  unsigned inside;           /* atomic */
  bool gated;                /* atomic */
  pthread_mutex_t gate_lock; /* guards from here to stuck */
  pthread_cond_t gate_ended;
  pthread_t gate_thread;
  bool closing, has_gate_thread;
  uint64_t gate_ms;     /* how long it may take */
  uint64_t drain_until; /* of that, for operations and threads */
  bool closed;          /* its thread has done with it */
  bool stuck;           /* a thread of the disk's did not end: it stays */
  int close_error;

  bool source_up; /* atomic: connected, by the last change of state */
  bool source_lost;
  uint64_t lost_at; /* ms, when it was lost */
  bool let_go;      /* atomic: complete, the source is to be stopped */
  bool local_event;
  bool registered; /* there is an entry of ours in the registry */
  bool detached;   /* atomic */
  /* The process that was killed left it, and a session will say that it is no
   * more needed. */
  struct work *old_work;
  uid_t work_user;                /* whose the new one is */
  uint8_t nonce[WORK_NONCE_SIZE]; /* of the session that will be ours */
  bool made;                      /* by this open */
  bool recorded;                  /* the sidecar may name our W */
  bool begun;                     /* there is a session of ours */
  uid_t owner;    /* atomic: the store's, by the housekeeper's last look */
  bool was_plain; /* it had no sidecar and no mark: detaching leaves none */

  /* atomic: a change has failed, and what W's sums of it are is not known */
  bool sums_unsure;
  bool count_behind; /* atomic: it could not be raised */

  /* Since the last checkpoint. */
  uint64_t copied; /* atomic, bytes */

  /* atomic counters */
  uint64_t bytes_fetched, demand_fetches, ahead_fetches, background_fetches;
  uint64_t guest_reads, guest_writes, flushes, commits;
  uint64_t last_guest_op; /* ms */
};

static inline void
count (uint64_t *counter, uint64_t n)
{
  __atomic_add_fetch (counter, n, __ATOMIC_RELAXED);
}

static inline uint64_t
counted (const uint64_t *counter)
{
  return __atomic_load_n (counter, __ATOMIC_RELAXED);
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

/* Where a step from offset of at most that many bytes ends: with a sector of
 * the map where it can be.  One that is marked in two steps costs a page of
 * memory, and writes to the sidecar and the working map. */
static inline uint64_t
step_end (const struct disk *d, uint64_t offset, uint64_t most)
{
  uint64_t step = sectors_in (d, most);

  return offset - offset % step + step;
}

/* Operations of guests, and whoever looks: inside between disk_enter and
 * disk_leave.  Enter: 0, or -1 with ESHUTDOWN once the gate is closed. */
static inline int
disk_enter (struct disk *d)
{
  __atomic_add_fetch (&d->inside, 1, __ATOMIC_SEQ_CST);
  if (!__atomic_load_n (&d->gated, __ATOMIC_SEQ_CST))
    return 0;
  __atomic_sub_fetch (&d->inside, 1, __ATOMIC_SEQ_CST);
  errno = ESHUTDOWN;
  return -1;
}

/* Leave with errno as the guest shall see it: nbdkit would turn all that it
 * does not know into EINVAL. */
static inline int
disk_leave (struct disk *d, int err)
{
  __atomic_sub_fetch (&d->inside, 1, __ATOMIC_SEQ_CST);
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

/* commit.c */
#define COMMIT_CHECKPOINT 1u /* copied bits too */
#define COMMIT_HOLES 2u      /* and holes learnt from the source */
/* Durable when it returns: every bit and byte that was pending when it was
 * called.  0 or errno. */
int commit_run (struct disk *d, unsigned flags);
/* Around whatever syncs the store, or another file of its disk, and waits for
 * no lock.  err: errno of the sync, or 0.  What it has synced is durable when
 * sync_settle has been called with what sync_leave gave: 0, or errno of any
 * that has failed.  sync_end is both. */
void sync_begin (struct disk *d, struct syncing *s);
uint64_t sync_leave (struct disk *d, struct syncing *s, int err);
int sync_settle (struct disk *d, uint64_t nr);
int sync_end (struct disk *d, struct syncing *s, int err);
/* A writeback failed. */
void commit_set_failed (struct disk *d, int err);
int commit_failed (struct disk *d);

/* volume.c */
int volume_open (struct disk *d, const struct disk_config *config,
                 char **error);
/* Begin the session, if volume_open has not: then it is the last step. */
int volume_begin (struct disk *d, char **error);
/* After the last commit: end the session, let files go. */
int volume_close (struct disk *d, bool clean);
/* Take the entry out of the registry, if there is one.  Before unlocking: the
 * next owner's has the same name. */
void leave_registry (struct disk *d);
int volume_set_complete (struct disk *d);

/* extents.c: what the source says is zero. */
struct extents *extents_new (struct disk *d);
void extents_free (struct extents *e);
enum extents_kind { EXTENTS_UNKNOWN, EXTENTS_DATA, EXTENTS_ZERO };
/* Kind at offset (a granule's start) and, in *end, where it ends, at most
 * limit; flags: NBD's of a zero run. */
enum extents_kind extents_run (struct extents *e, uint64_t offset,
                               uint64_t limit, uint64_t *end, unsigned *flags);
/* Ask for what is around offset, and for what follows it below limit: nr
 * commands, without waiting. */
void extents_want (struct extents *e, uint64_t offset, uint64_t limit,
                   unsigned nr);
/* Wait until it is known or the deadline (ms): 0 or errno. */
int extents_wait (struct extents *e, uint64_t offset, uint64_t deadline);
/* Wake all who wait; later waits end at once. */
void extents_stop (struct extents *e);

/* A disk's event to the program that holds the engine. */
static inline void
disk_emit (struct disk *d, struct disk_event *ev)
{
  ev->disk = d;
  if (d->event)
    d->event (d->event_opaque, ev);
}

/* housekeeper.c: 0 or -1.  stop may be called again, or without start; false:
 * the thread has not ended until then (ms), and is still to be stopped. */
int housekeeper_start (struct disk *d);
bool housekeeper_stop (struct disk *d, uint64_t until);

/* job.c */
int jobs_open (struct disk *d, char **error); /* reads the record */
void jobs_free (struct disk *d);
/* While this lock is held no job of the disk is changed or recorded. */
pthread_mutex_t *job_verbs (struct disk *d);
/* The source was lost, or is back. */
void job_source_changed (struct disk *d);
/* Called now and then: takes a sample, and writes the record if it is old. */
void job_tick (struct disk *d, uint64_t now);

/* job-verbs.c: go on with the job that the record has, or start the one that
 * allocate= asks for. */
int jobs_start (struct disk *d, char **error);
/* Stop the pump; the record stays as it is, so that a restart goes on.  False:
 * it has not ended until then (ms), as for housekeeper_stop. */
bool jobs_stop (struct disk *d, uint64_t until);

#endif
