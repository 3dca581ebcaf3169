/* sidecar.h - the durable metadata file beside the store.
 *
 * It holds the volume's identity, the session record, the stable map S and
 * the job record.  Only pwrite changes it, never a mapping: the kernel could
 * write a mapped page back before the data it vouches for (I1).
 *
 * Layout, little-endian (docs/backfill-format.pod is the full text):
 *
 *   0       header copy A (16 KiB)     32768  job record copy 0 (4 KiB)
 *   16384   header copy B (16 KiB)     36864  job record copy 1
 *                                      40960  count (4 KiB)
 *   65536   S: sealed sectors of 512 bytes, one per 3968 granules:
 *           496 bytes of bits, low half of the uuid, index, CRC-32C
 *
 * Every change of the header writes one copy, syncs, writes the other and
 * syncs: a torn copy leaves the state before, and damage to one copy later
 * leaves the state after.
 *
 * sidecar-header.h packs the header, sidecar-map.c has the sectors of S,
 * sidecar-job.c the job record.
 *
 * Locking: the caller sees to it that one thread at a time changes the header
 * or the job record.  Sectors may be read and written from any thread, but
 * one sector by one at a time.
 *
 * Errors: -1 with errno; functions with `error` name the file and what to do.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SIDECAR_H
#define BACKFILL_SIDECAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "sidecar-header.h"

struct sidecar {
  int fd;
  /* A further open file description, for the job record.  The kernel tells each
   * description of a failed write once: a sync of the record must not take that
   * error from a commit's sync. */
  int job_fd;
  char *path;
  bool read_only;
  /* The header copy, 0 or 1, that is written first; the other copy holds the
   * header that counts. */
  int first;
  /* The copies read alike, but one may be in the page cache only. */
  bool loose;
  /* A role was written, and which role the disk has is not known: no guest may
   * be served until sidecar_set_role has succeeded.  was: the role before. */
  bool unsure;
  struct role was;
  struct sidecar_header h;
};

/* The job record: what a restart needs to go on, and what is kept of an
 * ended job.  status and result are job.h's. */
struct sidecar_job {
  uint64_t sequence; /* of the last durable record */
  uint32_t status, result, pause, on_error;
  uint64_t offset, length, speed, retry;
  uint32_t full;
  int32_t errnum;
  uint64_t time_elapsed, bytes_read, local_at_start, nr_failed, failed_offset;
  char error[256];
  uint64_t number; /* of the job, from 1; 0: an older program's */
};

/* Open, lock and read a sidecar.  NULL with *error; errno ENOENT: there is
 * none, EAGAIN: another process has it, EINVAL: not usable (the message says
 * why). */
struct sidecar *sidecar_open (const char *path, bool read_only, char **error)
    __attribute__ ((nonnull (1, 3)));
/* sidecar_open of a file that belongs to *owner (NULL: to anybody), to root or
 * to this process's user; else EPERM.  The owner is checked by the descriptor,
 * before the lock. */
struct sidecar *sidecar_open_of (const char *path, bool read_only,
                                 const uid_t *owner, char **error)
    __attribute__ ((nonnull (1, 4)));
/* Open and read a sidecar without a lock, for callers that only say whose it
 * is, and for check.  sidecar_peek never repairs a copy. */
struct sidecar *sidecar_peek (const char *path, char **error)
    __attribute__ ((nonnull (1, 2)));

/* Make one: header from *h (strings are copied; uuid, sequence and areas are
 * set here), all sectors sealed with no bit set unless state says complete,
 * everything durable, then the name, by link: EEXIST if there is one by now.
 * Locked. */
struct sidecar *sidecar_create (const char *path,
                                const struct sidecar_header *h, char **error)
    __attribute__ ((nonnull (1, 2, 3)));

/* Make sc->h durable in both copies.  The header counts when the first copy is
 * durable; after a failure the next write begins with the copy that does not
 * hold the header that counts.  EBUSY while the role is unsure. */
int sidecar_write_header (struct sidecar *sc) __attribute__ ((nonnull (1)));

/* Change the role, durably in both copies, if it may follow (role.h): else -1
 * with EINVAL and nothing is changed.  Any other failure leaves unsure which of
 * the two roles the disk has: the caller then calls sidecar_set_role again,
 * with either role, until it succeeds. */
int sidecar_set_role (struct sidecar *sc, const struct role *next, char **error)
    __attribute__ ((nonnull (1, 2, 3)));
/* True if a guest may be served: the role allows it, and is not unsure. */
bool sidecar_serves (const struct sidecar *sc) __attribute__ ((nonnull (1)));

/* True if sc->h, with a path of W, can be written; false: its strings are too
 * long. */
bool sidecar_fits (const struct sidecar *sc) __attribute__ ((nonnull (1)));

/* Sectors [index, index + count) of S into or from words: count times
 * SIDECAR_WORDS, host order.  Read: bad[i] is set for a sector whose seal is
 * broken, its words are then undefined; -1 for an I/O error.  Write seals
 * and writes; the sync is the caller's. */
int sidecar_read_map (struct sidecar *sc, uint32_t index, unsigned count,
                      uint64_t *words, bool *bad)
    __attribute__ ((nonnull (1, 4, 5)));
int sidecar_write_map (struct sidecar *sc, uint32_t index, unsigned count,
                       const uint64_t *words) __attribute__ ((nonnull (1, 4)));
uint32_t sidecar_nr_sectors (const struct sidecar *sc)
    __attribute__ ((nonnull (1)));

int sidecar_sync (struct sidecar *sc) __attribute__ ((nonnull (1)));

/* Returns 1 and the record, 0 if there is none (job->number is that of the
 * last there was), -1 if both are damaged (EILSEQ) or cannot be read. */
int sidecar_read_job (struct sidecar *sc, struct sidecar_job *job)
    __attribute__ ((nonnull (1, 2)));
/* Write the record into the slot that does not hold the last durable record,
 * whatever became of the writes since.  After a sidecar_sync_job without an
 * error the caller has sidecar_job_is_durable count job->sequence up. */
int sidecar_write_job (struct sidecar *sc, const struct sidecar_job *job)
    __attribute__ ((nonnull (1, 2)));
int sidecar_sync_job (struct sidecar *sc) __attribute__ ((nonnull (1)));
void sidecar_job_is_durable (struct sidecar_job *job)
    __attribute__ ((nonnull (1)));

/* The session's count (proof.c).  No sync: only the process may die under it.
 * Read: -1 with ENODATA where there is no room for one. */
int sidecar_write_count (struct sidecar *sc, uint64_t count)
    __attribute__ ((nonnull (1)));
int sidecar_read_count (struct sidecar *sc, uint64_t *count)
    __attribute__ ((nonnull (1, 2)));
/* Write the count's area; where an earlier version made the sidecar, make room
 * for the area, with 0 in it.  The area is durable with the next header.
 * *count: its value. */
int sidecar_begin_count (struct sidecar *sc, uint64_t *count)
    __attribute__ ((nonnull (1, 2)));

/* Drop all areas but the header, durably.  The state must be complete,
 * durably. */
int sidecar_strip (struct sidecar *sc) __attribute__ ((nonnull (1)));

void sidecar_free (struct sidecar *sc);
void sidecar_unlock (struct sidecar *sc) __attribute__ ((nonnull (1)));

/* The condition of both header copies, for check: true = valid. */
void sidecar_copies (struct sidecar *sc, bool valid[2])
    __attribute__ ((nonnull (1, 2)));

#endif
