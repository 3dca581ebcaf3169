/* fetch.h - fetches: reads from the backing store, and their commit into the
 * store.
 *
 * A disk's fetch table holds the ranges in flight: granule-aligned, never
 * overlapping, so each granule is asked for once and later readers join
 * (G32).  A fetch stays in the table until its bits are published: a granule
 * that is absent and in no fetch is really absent.
 *
 * The bytes are there for readers as soon as they arrive; the disk's copier
 * threads commit them: they take the claim, look at the bits
 * again and write only what is still absent (I3).
 *
 * Locking: fetch_table.lock guards the table and every fetch's members;
 * never held across I/O or a call of the source.  buf does not change once
 * state is not FETCH_ASKED.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_FETCH_H
#define BACKFILL_FETCH_H

#include "internal.h"

enum fetch_state {
  FETCH_ASKED,
  FETCH_HERE,   /* buf is filled, or the range is zero */
  FETCH_FAILED, /* error says why; not in the table any more */
};

struct fetch {
  struct fetch *next, *prev; /* table, by offset */
  struct fetch *queued;      /* copier's queue */
  struct disk *disk;
  uint64_t offset, end; /* bytes; granules but for the disk's end */
  enum fetch_state state;
  int error;
  unsigned refs;
  bool zero;    /* known to be zero: no buf, never asked */
  bool demand;  /* a guest waits or waited */
  unsigned job; /* the job's number, 0: none */
  bool in_table;
  bool committed;  /* bits are published, or it was dropped */
  bool kept;       /* with committed: it is in the store */
  bool committing; /* a copier has begun */
  bool discard;    /* the job was aborted: not to be written */
  bool promote;    /* cancelled only to be asked again as demand */
  bool passing;    /* too much waits for the store: read, not kept */
  char *buf;
  size_t buf_size;
  pthread_cond_t changed;
  struct source_req req;
};

/* A share in a fetch. */
struct fetch_piece {
  struct fetch *fetch;
  uint64_t offset, end; /* the bytes of it that are wanted */
  bool own;             /* made for this very piece: its failure is final */
  const bool *abandon;  /* atomic; NULL, or: stop waiting when it is set */
};

/* Join or make the fetch for the absent granule at offset; the piece ends at
 * limit at most, not past a run of the map.  Returns 1 with *piece held, 0
 * if the granule is local by now, or -1 with errno (EIO: damaged; ENOMEM;
 * ESHUTDOWN). */
int fetch_get (struct disk *d, uint64_t offset, uint64_t limit,
               enum source_prio prio, struct fetch_piece *piece);
/* Wait for the piece's bytes, at most until deadline (ms), copy them to dst
 * (not NULL) and let the piece go.  0; EAGAIN: the fetch failed for other
 * bytes than these, or before others' time was over: get again, if there is
 * time; ECANCELED: abandoned; else errno. */
int fetch_take (struct disk *d, struct fetch_piece *piece, void *dst,
                uint64_t deadline);
/* Let a piece go without waiting. */
void fetch_drop (struct disk *d, struct fetch_piece *piece);
/* Have those who wait for the fetch at offset look at abandon. */
void fetch_kick (struct disk *d, uint64_t offset);
/* The same for one that only wants it local: waits for the commit. */
int fetch_settle (struct disk *d, struct fetch_piece *piece, uint64_t deadline);
/* Before such a fetch is asked for: wait while so much waits for the store
 * that it would only be read, and not kept.  0; ETIMEDOUT, ESHUTDOWN. */
int fetch_wait_room (struct disk *d, uint64_t deadline);
/* Ask for what is worth having near a read. */
void fetch_ahead (struct disk *d, uint64_t offset, uint32_t length, bool miss);

/* A job's fetch of [offset, end), or the front part of it that is absent and
 * not in flight: *end is set to where it ends, *made to its length.  1 made,
 * 0 nothing to do there, -1 errno. */
int fetch_job (struct disk *d, unsigned job, uint64_t offset, uint64_t *end,
               uint64_t *made);
/* The job ends: drop what it has in flight and nobody waits for. */
void fetch_discard_job (struct disk *d);
/* After that: is a copier still writing something for it? */
bool fetch_job_is_writing (struct disk *d);

/* Make [offset, end) local as zeros wherever it is absent: holes, or
 * allocated if full.  0 or errno. */
int fetch_zero_range (struct disk *d, uint64_t offset, uint64_t end, bool full);

/* The disk's threads: 0 or -1.  stop, when its table is empty, may be called
 * again, or without start. */
int copiers_start (struct disk *d);
void copiers_stop (struct disk *d);
/* The process has no disk any more: give memory back. */
void fetch_buffers_free (void);

/* Who is told when a job's fetch has ended.  Set once, before there are
 * threads. */
void fetch_on_end (struct disk *d, fetch_ended_fn ended);
/* Zeros that become local in [offset, end) are to have blocks in the store;
 * an empty range: nowhere. */
void fetch_set_full (struct disk *d, uint64_t offset, uint64_t end);
/* Wake all who wait for a fetch: the gate was closed. */
void fetch_wake_all (struct disk *d);
bool fetch_table_is_empty (struct disk *d);

#endif
