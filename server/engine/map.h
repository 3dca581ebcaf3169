/* map.h - which granules are local: the live map, and how far it is durable.
 *
 * A granule is absent, pending-copied, pending-guest or stable (its bit is in
 * S, the allocation bitmap on disk).  Live means: not absent.  Bits only go up
 * (I2).  Positions are granule numbers.
 *
 * Memory: a table with one entry per sector of S (3968 granules).  An entry
 * is a word that stands for a whole sector (not loaded, absent, stable, all
 * holes, damaged) or a page of bits.  Pages are loaded on first use and are
 * bounded in number; a page without pending bits may be dropped again.
 *
 * Reading takes no lock: bits are published with release after the data is
 * in the store (and in W), and read with acquire.
 *
 * Locking: striped mutexes (MAP_STRIPE), one stripe for the eight sectors that
 * share a 4 KiB page of W: W is written from memory under the stripe's lock.
 * Under a stripe, MAP_POOL protects the pool of pages and the list of pages
 * with pending bits.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_MAP_H
#define BACKFILL_MAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "sidecar.h"
#include "work.h"

struct map;

enum map_state { MAP_ABSENT, MAP_LIVE, MAP_DAMAGED };

enum map_mark {
  MAP_GUEST,  /* the guest wrote it: a flush must make the bit durable */
  MAP_COPIED, /* fetched: losing the bit costs a fetch */
  MAP_HOLE,   /* zeros in the source, a hole here: not even written to W */
};
/* With one of these marks: the granules' sums could not be written (errno), so
 * W must not name them. */
#define MAP_UNPROVED 8u

/* sc is used as long as the map lives; work may be NULL (read-only: nothing
 * is written).  fresh: the sidecar was just made, no bit is set.  complete:
 * everything is live and stable and S is not there. */
struct map *map_new (uint64_t size, uint32_t granule, struct sidecar *sc,
                     bool fresh, bool complete) __attribute__ ((nonnull (3)));
void map_free (struct map *m);
void map_set_work (struct map *m, struct work *work)
    __attribute__ ((nonnull (1)));

uint64_t map_nr (const struct map *m) __attribute__ ((nonnull (1)));

/* State of granule g and, in *end, where its run ends: after g, at most
 * limit. */
enum map_state map_run (struct map *m, uint64_t g, uint64_t limit,
                        uint64_t *end) __attribute__ ((nonnull (1, 4)));
/* True if all of [g, end) is in S: a write there needs no bits. */
bool map_is_stable (struct map *m, uint64_t g, uint64_t end)
    __attribute__ ((nonnull (1)));
bool map_is_live (struct map *m, uint64_t g, uint64_t end)
    __attribute__ ((nonnull (1)));
/* Bytes of [g, end) that are live; the last granule may be short. */
uint64_t map_live_bytes (struct map *m, uint64_t g, uint64_t end)
    __attribute__ ((nonnull (1)));
/* The same for a thread that must not wait.  False: the range is long, or a
 * sector of it is not in memory. */
bool map_try_live_bytes (struct map *m, uint64_t g, uint64_t end,
                         uint64_t *bytes) __attribute__ ((nonnull (1, 4)));

/* Make [g, end) live; its data is in the store already, and its sums are in W
 * (proof.h).  0; 1 when W could not be written or must not be (the bits are
 * set: a guest's write must be committed before the reply); -1 when bits could
 * not be set: EIO, their sector of S is damaged or cannot be read, or ENOMEM.
 */
int map_mark (struct map *m, uint64_t g, uint64_t end, unsigned how)
    __attribute__ ((nonnull (1)));

/* Hold [g, end) from before its sums are written to W until it is marked: a
 * commit that makes the rest of W's page durable does not punch the page
 * meanwhile.  The map uses the caller's h until map_release_sums. */
struct map_held {
  uint64_t g, end;
  LIST_ENTRY (map_held) link;
};
void map_hold_sums (struct map *m, struct map_held *h, uint64_t g, uint64_t end)
    __attribute__ ((nonnull (1, 2)));
void map_release_sums (struct map *m, struct map_held *h)
    __attribute__ ((nonnull (1, 2)));

/* Whether W names granule g, and in *end where the run of such granules ends:
 * after g, at most limit.  The holder of the claim changes the sums of a named
 * granule before its bytes; of a granule that is not named, before it is
 * marked. A stable granule is never named again. */
enum map_named { MAP_NOT_NAMED, MAP_NAMED, MAP_STABLE };
enum map_named map_named_run (struct map *m, uint64_t g, uint64_t limit,
                              uint64_t *end) __attribute__ ((nonnull (1, 4)));

/* The granules of sector index that an old W names: the guest's, and copies if
 * `copies`. */
int map_old_words (struct work *old, bool copies, uint32_t index,
                   uint64_t words[WORK_WORDS]) __attribute__ ((nonnull (1, 4)));
/* Recovery, before other threads use the map: every granule that an old W names
 * becomes pending-guest. */
int map_recover (struct map *m, struct work *old, bool copies)
    __attribute__ ((nonnull (1, 2)));

/* True if every granule is live.  Cheap when asked again and again. */
bool map_all_live (struct map *m) __attribute__ ((nonnull (1)));
/* From now on everything is live and stable. */
void map_set_complete (struct map *m) __attribute__ ((nonnull (1)));
bool map_is_complete (const struct map *m) __attribute__ ((nonnull (1)));

/* Sectors found damaged so far; the first one's range in granules. */
uint64_t map_damaged (struct map *m, uint64_t *g, uint64_t *end)
    __attribute__ ((nonnull (1, 2, 3)));

/* Commits.  One at a time, by the committer.
 *
 * map_snapshot takes what is pending now.  map_snapshot_write writes those
 * sectors as S or snapshot into the sidecar (no sync).  Then either
 * map_snapshot_publish (all durable: the bits are stable now) or
 * map_snapshot_return (they are pending again). */
struct map_snapshot;
struct map_snapshot *map_snapshot (struct map *m, bool with_holes)
    __attribute__ ((nonnull (1)));
bool map_snapshot_has_guest (const struct map_snapshot *s)
    __attribute__ ((nonnull (1)));
bool map_snapshot_is_empty (const struct map_snapshot *s)
    __attribute__ ((nonnull (1)));
int map_snapshot_write (struct map *m, struct map_snapshot *s)
    __attribute__ ((nonnull (1, 2)));
/* Both free s. */
void map_snapshot_publish (struct map *m, struct map_snapshot *s)
    __attribute__ ((nonnull (1, 2)));
void map_snapshot_return (struct map *m, struct map_snapshot *s)
    __attribute__ ((nonnull (1, 2)));
/* Whether any bit is pending. */
bool map_has_pending (struct map *m) __attribute__ ((nonnull (1)));
/* Whether W may name a granule that S has not.  W names no holes, and nothing
 * of a complete disk. */
bool map_is_in_work (struct map *m) __attribute__ ((nonnull (1)));
/* Whether a pending bit may be of a guest's change: true if one was marked
 * before the call. */
bool map_has_guest (const struct map *m) __attribute__ ((nonnull (1)));

#endif
