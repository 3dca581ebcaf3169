/* lock-ranks.h - the lock order, written once, here.
 *
 * Outer first: a thread that holds a lock takes only locks of later rows.  Rows
 * of one subsystem need not meet those of another; the order says what happens
 * where they do.  lock.h says who checks it; docs/internals.md shows it.
 *
 * No lock is held across I/O to the backing store.  Across I/O to the store a
 * claim is held, and in it the drop lock; across I/O to the sidecar a job's
 * verbs, the header, W's locks and a map stripe may be, and at a volume's end
 * the gate.  An event callback runs with a job's lock held, and calls nothing
 * of the engine.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_LOCK_RANKS_H
#define BACKFILL_LOCK_RANKS_H

#define LOCK_RANKS(X)                                            \
  /* backfilld */                                                \
  X (CONTROL_STOP, "control: one stop at a time")                \
  X (VOLUMES, "backfilld: table of volumes")                     \
  X (CREW, "backfilld: tasks of the crew")                       \
  /* a disk's life */                                            \
  X (GATE, "disk: gate")                                         \
  X (HOUSEKEEPER, "disk: housekeeper")                           \
  X (JOB_VERBS, "job: verbs")                                    \
  X (HEADER, "disk: sidecar's header")                           \
  X (CLAIM, "disk: a claim (range lock)")                        \
  X (CLAIMS, "disk: list of claims")                             \
  X (DROP, "writeback: dropping pages")                          \
  X (COMMIT, "commit: the one that forms")                       \
  X (SYNCS, "commit: syncs under way")                           \
  X (PARKED, "disk: parked parts")                               \
  X (JOB, "job: state")                                          \
  X (FETCHES, "fetch: table")                                    \
  X (EXTENTS, "extents: what the source says is zero")           \
  X (MAP_STRIPE, "map: stripe")                                  \
  X (MAP_POOL, "map: pool of pages")                             \
  X (PLANES, "dirty planes: pages, and who waits")               \
  X (WORK, "W: state")                                           \
  X (WORK_COUNT, "W: count")                                     \
  X (WRITEBACK, "writeback: pieces")                             \
  X (COPIERS, "copiers: queue")                                  \
  X (REPLAY, "boot trace: replay")                               \
  X (RECORDER, "boot trace: recording")                          \
  X (SAVING, "boot trace: saving")                               \
  X (BUFFERS, "fetch: pool of buffers")                          \
  /* of the process */                                           \
  X (JOB_SLOTS, "jobs: slots of the process")                    \
  X (LANES, "jobs: lanes of the process")                        \
  X (RATE, "jobs: a speed limit")                                \
  X (SOURCE_PROCESS, "source: threads and names of the process") \
  X (SOURCE, "source: queues and connections")                   \
  X (SOURCE_THREAD, "source: what an I/O thread is kicked for")  \
  X (SOURCE_RESOLVE, "source: look-ups of names")                \
  X (RUNTIME, "runtime directory")                               \
  X (CONTROL_POOL, "control: queue of a pool")                   \
  X (CONTROL, "control: inbox and threads")                      \
  /* the library */                                              \
  X (CLIENT, "libbackfill: connections of a handle")             \
  X (ASK, "libbackfill: a question to all servers")

#endif
