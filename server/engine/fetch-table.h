/* fetch-table.h - the fetches of a disk that are in flight.
 *
 * A fetch is one read from the backing store and its commit into the store.
 * The ranges of the table are granule-aligned and never overlap, so each
 * granule is asked for once and later readers join (G32).  A fetch stays in the
 * table until its bits are published: a granule that is absent and in no fetch
 * is really absent.
 *
 * Life of a fetch: fetch.c adds it to the table and submits it to the source;
 * an I/O thread hands in the answer; readers copy from buf while a copier
 * (copier.c) commits it.  It leaves the table as it enters its last state.  It
 * has a reference for the flight, and one for each piece.
 *
 *   ASKED ---> HERE ---> COMMITTING ---> KEPT
 *     |          |            |
 *     |          +------------+--------> PASSED
 *     +----------+---------------------> PASSED or FAILED
 *
 * Locking: fetch_table.lock guards the table and every fetch's members; no
 * thread holds it across I/O or a call of the source.  buf does not change once
 * state is not FETCH_ASKED.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_FETCH_TABLE_H
#define BACKFILL_FETCH_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "ahead.h"
#include "lock.h"
#include "source/source.h"

struct disk;

enum fetch_state {
  FETCH_ASKED,
  FETCH_HERE,       /* buf is filled, or the range is zero; for a copier */
  FETCH_COMMITTING, /* a copier writes it */
  /* The last states: it is not in the table any more. */
  FETCH_KEPT,   /* it is in the store, and its bits are published */
  FETCH_PASSED, /* read, but not kept; error: the store's, or 0 */
  FETCH_FAILED, /* error: the source's */
};

struct fetch {
  TAILQ_ENTRY (fetch) link;    /* table, by offset */
  STAILQ_ENTRY (fetch) queued; /* copiers.queue */
  struct disk *disk;
  uint64_t offset, end; /* bytes; granules but for the disk's end */
  uint64_t asked_ns;    /* when it was submitted */
  uint64_t took_ns;     /* until the source answered */
  enum fetch_state state;
  int error;
  unsigned refs;
  bool zero;    /* known to be zero: no buf, never asked */
  bool demand;  /* a guest waits or waited */
  unsigned job; /* the job's number, 0: none */
  bool discard; /* the job was aborted: not to be written */
  bool promote; /* cancelled only to be asked again as demand */
  bool passing; /* too much waits for the store: read, not kept */
  char *buf;
  size_t buf_size;
  pthread_cond_t changed;
  struct source_req req;
};

/* Is it in one of the last states? */
static inline bool
fetch_has_ended (const struct fetch *f)
{
  return f->state >= FETCH_KEPT;
}

/* A job's fetch of [offset, end) ended, and how: errno of the source and of
 * the store, 0 for none; the source took so long (ns).  Called with no lock
 * held. */
typedef void (*fetch_ended_fn) (struct disk *d, unsigned job, uint64_t offset,
                                uint64_t end, int source_error, int store_error,
                                uint64_t source_ns);

/* Fetches in flight, sorted, not overlapping. */
struct fetch_table {
  struct lock lock;
  TAILQ_HEAD (, fetch) list; /* by offset */
  struct ahead ahead;
  unsigned commits_failed;  /* for one message a row, not one a fetch */
  _Atomic uint64_t backlog; /* bytes of all buffers */
  /* A job that allocates zeros too is in progress, and has this range. */
  uint64_t full_offset, full_end;
  fetch_ended_fn ended; /* set once, before there are threads */
};

void fetch_table_init (struct fetch_table *t);
void fetch_table_destroy (struct fetch_table *t);

/* The caller holds fetch_table.lock: */

/* A new fetch of [offset, end), which overlaps none, with one reference; zero:
 * it has no buffer, and is there already.  NULL: no memory. */
struct fetch *fetch_table_add (struct disk *d, uint64_t offset, uint64_t end,
                               bool zero);
/* The only way from one state to another; wakes who waits for it.  Its last
 * state takes it from the table. */
void fetch_enter_state (struct fetch *f, enum fetch_state state);
/* The first fetch that ends after offset. */
struct fetch *fetch_table_find (struct disk *d, uint64_t offset);
void fetch_unref (struct fetch *f);

/* The caller does not: */

/* Bytes that are asked for or wait for the store, read without the lock. */
uint64_t fetch_backlog (struct disk *d);
/* Wake the waiters of the fetch at offset, to check piece->abandon. */
void fetch_kick (struct disk *d, uint64_t offset);
/* Wake all who wait for a fetch: the gate was closed. */
void fetch_wake_all (struct disk *d);
bool fetch_table_is_empty (struct disk *d);

/* Who is told when a job's fetch has ended.  Set once, before there are
 * threads. */
void fetch_on_end (struct disk *d, fetch_ended_fn ended);
/* Zeros that become local in [offset, end) are to have blocks in the store;
 * an empty range: nowhere. */
void fetch_set_full (struct disk *d, uint64_t offset, uint64_t end);
/* Are zeros at offset to have blocks? */
bool fetch_wants_full (struct disk *d, uint64_t offset);

#endif
