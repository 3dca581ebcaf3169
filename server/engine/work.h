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
 * Locking: none here.  map.c writes a page of 4 KiB under that page's lock,
 * the committer alone changes the state.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_WORK_H
#define BACKFILL_WORK_H

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

int work_set_state (struct work *w, enum work_state state)
    __attribute__ ((nonnull (1)));

void work_unlink (struct work *w) __attribute__ ((nonnull (1)));
void work_free (struct work *w);

#endif
