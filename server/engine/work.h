/* work.h - the working map W: bits that are not in the sidecar yet, and what
 * proves them.
 *
 * A file in the runtime directory (a tmpfs), so that it outlives the process
 * but not the boot.  After SIGKILL, acknowledged writes that were not flushed
 * read back because W names them (I5); after a power cut W is gone, as it must
 * be.
 *
 *   0      header (4 KiB): magic, whose it is, CRC-32C, state, count
 *   4096   per sector of S 512 bytes: 62 words of bits, host order: granules
 *          that the guest has written.  Then the same of copies
 *   then   per unit of the disk 8 bytes: sums of what it was and will be
 *
 * W has its full length from the start, in holes that cost nothing: a W that
 * was cut short is told from a W that names little.
 *
 * A unit is what one write changes at once or not at all, whenever the process
 * is killed: a part of a page.  Each unit of a granule that W names has one of
 * its two sums in the store: so a W that belongs to a later state of the store
 * than the one that is there is told from its own.  How they are kept so is in
 * proof.c, as is what the count is for.
 *
 * The state says "syncing" while the store is synced and W names something that
 * a failed sync may lose.  A sync that begins while W names nothing leaves the
 * state alone, which saves two writes a flush; the thread that writes the first
 * bit during such a sync writes the state before the bit.
 *
 * Locking: map.c writes the bits of a page of 4 KiB under that page's stripe.
 * The sums of a granule belong to the holder of its claim.  WORK protects the
 * state, WORK_COUNT the count; each is held across its write to W.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_WORK_H
#define BACKFILL_WORK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lock.h"

#define WORK_UUID_SIZE 16
#define WORK_NONCE_SIZE 16
#define WORK_WORDS 64u /* of one sector's 512 bytes; the last two unused */
#define WORK_UNIT_MAX 4096u

enum work_state {
  WORK_OK = 1,
  WORK_SYNCING = 2, /* an fdatasync of the store was under way, or failed */
};

/* Whose W it is.  All but the store's file must match for it to be believed:
 * the file is what it was then. */
struct work_identity {
  uint8_t uuid[WORK_UUID_SIZE];
  uint8_t nonce[WORK_NONCE_SIZE]; /* the session's; all zero: it had none, and
                                     its W is of version 1 */
  uint64_t session;
  uint64_t store_dev, store_ino, store_btime;
  uint32_t nr_sectors; /* of S */
  uint32_t granule;
  uint64_t size; /* of the disk */
};

/* Of one unit: what it was, and what it will be or is. */
struct work_sums {
  uint32_t was, will;
};

/* Bits of one sector. */
enum work_plane { WORK_GUEST, WORK_COPIES, WORK_PLANES };

struct work {
  int fd;
  char *path;
  struct work_identity id;
  uint32_t unit;     /* bytes */
  bool first_format; /* no copies told apart, no sums */
  bool tells_holes;  /* SEEK_DATA may be believed */
  struct lock count_lock;
  uint64_t count;
  struct lock lock;        /* the state, and the members below */
  atomic_bool unannounced; /* a sync runs or has failed, and the state does not
                              say so */
  bool announced;          /* the state says "syncing" */
  bool failed;             /* and must say so for good */
};

/* Make a new one, locked.  NULL with errno. */
struct work *work_create (const char *path, const struct work_identity *id)
    __attribute__ ((nonnull (1, 2)));
/* Open an earlier session's, locked, if it belongs to one of the nr owners; id
 * then says which store it was made for.  NULL with errno: ENOENT none, ESTALE
 * it is not the one named by id, or is damaged; EAGAIN another process has it
 * (id as above); EPERM it belongs to somebody else. */
struct work *work_open (const char *path, struct work_identity *id,
                        const uid_t *owners, unsigned nr, bool read_only,
                        enum work_state *state)
    __attribute__ ((nonnull (1, 2, 3, 6)));

/* Words [first, first + count) of sector index. */
int work_write (struct work *w, enum work_plane plane, uint32_t index,
                unsigned first, unsigned count, const uint64_t *words)
    __attribute__ ((nonnull (1, 6)));
/* All words of one sector; a sector never written reads as zeros. */
int work_read (struct work *w, enum work_plane plane, uint32_t index,
               uint64_t words[WORK_WORDS]) __attribute__ ((nonnull (1, 4)));
/* Of units [first, first + nr). */
int work_write_sums (struct work *w, uint64_t first, unsigned nr,
                     const struct work_sums *sums)
    __attribute__ ((nonnull (1, 4)));
int work_read_sums (struct work *w, uint64_t first, unsigned nr,
                    struct work_sums *sums) __attribute__ ((nonnull (1, 4)));
/* Forget the eight sectors of the 4 KiB page `page` (= index / 8). */
int work_punch (struct work *w, uint32_t page) __attribute__ ((nonnull (1)));
/* The first sector at or after index that may have bits; false: none. */
bool work_next (struct work *w, uint32_t index, uint32_t *next)
    __attribute__ ((nonnull (1, 3)));

/* For a W left by an earlier process. */
int work_set_state (struct work *w, enum work_state state)
    __attribute__ ((nonnull (1)));

/* Begin to count at that number: before the first change. */
int work_begin_count (struct work *w, uint64_t count)
    __attribute__ ((nonnull (1)));
/* Count one up, first in `elsewhere` (which gets the new count), then here.
 * -1 with errno: it may have been counted there, and not here. */
int work_count (struct work *w, int (*elsewhere) (void *opaque, uint64_t count),
                void *opaque) __attribute__ ((nonnull (1, 2)));

/* A sync of the store is about to begin: from now on the thread that writes a
 * bit announces it first. */
void work_sync_begin (struct work *w) __attribute__ ((nonnull (1)));
/* Write "syncing" to the state now, as W names bits already. */
int work_sync_announce (struct work *w) __attribute__ ((nonnull (1)));
/* The sync has ended, and nothing in W depends on it any more; or work_fail was
 * called.  -1: the state still says "syncing", until the next sync ends. */
int work_sync_end (struct work *w) __attribute__ ((nonnull (1)));
/* A sync has failed: the state says "syncing" from now on; -1: not yet. */
int work_fail (struct work *w) __attribute__ ((nonnull (1)));

/* Remove the file; where its folder is another user's, empty it. */
void work_unlink (struct work *w) __attribute__ ((nonnull (1)));
void work_free (struct work *w);

#endif
