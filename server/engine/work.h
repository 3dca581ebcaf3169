/* work.h - the working map W: bits that are not in the sidecar yet.
 *
 * A file in the runtime directory (a tmpfs), so that it outlives the process
 * but not the boot.  After SIGKILL it is what makes acknowledged, unflushed
 * writes read back (I5); after a power cut it is gone, as it must be.
 *
 *   0      header (4 KiB): magic, uuid, session, store's inode and birth
 *          time, number of sectors, state, CRC-32C
 *   4096   per sector of S 512 bytes: 62 words of bits, host order
 *
 * It has its full length from the start, holes that cost nothing, so that one
 * that was cut short is told from one that holds little.
 *
 * The state says "syncing" while the store is synced and something is in W that
 * this may lose.  Where nothing is, it need not be written, twice, for each
 * flush: then the first bit that is written meanwhile says so before.
 *
 * Locking: map.c writes a page of 4 KiB under that page's lock.  The state has
 * a lock of its own, a leaf that is held across its write.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_WORK_H
#define BACKFILL_WORK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define WORK_UUID_SIZE 16
#define WORK_WORDS 64u /* of one sector's 512 bytes; the last two unused */

enum work_state {
  WORK_OK = 1,
  WORK_SYNCING = 2, /* an fdatasync of the store was under way, or failed */
};

/* Whose W it is: all must match for it to be believed. */
struct work_identity {
  uint8_t uuid[WORK_UUID_SIZE];
  uint64_t session;
  uint64_t store_dev, store_ino, store_btime;
  uint32_t nr_sectors; /* of S */
};

struct work {
  int fd;
  char *path;
  struct work_identity id;
  pthread_mutex_t lock; /* the state, and the members below */
  bool quiet;           /* atomic: a sync runs or has failed, and the state does
                           not say so */
  bool said;            /* the state says "syncing" */
  bool failed;          /* and must say so for good */
};

/* Make a new one, locked.  NULL with errno. */
struct work *work_create (const char *path, const struct work_identity *id)
    __attribute__ ((nonnull (1, 2)));
/* Open an earlier session's, locked.  NULL with errno: ENOENT none, ESTALE it
 * is not the one named by id, or is damaged; EAGAIN another process has it;
 * EPERM its owner is neither us nor root. */
struct work *work_open (const char *path, const struct work_identity *id,
                        bool read_only, enum work_state *state)
    __attribute__ ((nonnull (1, 2, 4)));

/* Words [first, first + count) of sector index. */
int work_write (struct work *w, uint32_t index, unsigned first, unsigned count,
                const uint64_t *words) __attribute__ ((nonnull (1, 5)));
/* All words of one sector; a sector never written reads as zeros. */
int work_read (struct work *w, uint32_t index, uint64_t words[WORK_WORDS])
    __attribute__ ((nonnull (1, 3)));
/* Forget the eight sectors of 4 KiB page `page` (= index / 8). */
int work_punch (struct work *w, uint32_t page) __attribute__ ((nonnull (1)));
/* The first sector at or after index that may have bits; false: none. */
bool work_next (struct work *w, uint32_t index, uint32_t *next)
    __attribute__ ((nonnull (1, 3)));

/* Of a W that was found. */
int work_set_state (struct work *w, enum work_state state)
    __attribute__ ((nonnull (1)));

/* A sync of the store is about to begin: from now on whoever writes bits says
 * so. */
void work_sync_begin (struct work *w) __attribute__ ((nonnull (1)));
/* Say so now, as there are bits already. */
int work_sync_announce (struct work *w) __attribute__ ((nonnull (1)));
/* It has ended, and nothing in W depends on it any more; or work_fail was
 * called.  -1: the state still says "syncing", until the next one ends. */
int work_sync_end (struct work *w) __attribute__ ((nonnull (1)));
/* A sync has failed: the state says "syncing" from now on; -1: not yet. */
int work_fail (struct work *w) __attribute__ ((nonnull (1)));

void work_unlink (struct work *w) __attribute__ ((nonnull (1)));
void work_free (struct work *w);

#endif
