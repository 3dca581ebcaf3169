/* store.h - the local raw image: a file or block device.
 *
 * Mechanism only: bytes in, bytes out, holes, durability.  It knows nothing
 * of maps or sources.  One file is never accessed both direct and buffered:
 * all I/O is buffered.  What its file system can do is in ability.h.
 *
 * Ownership: store_open and store_create hand out a locked store; store_free
 * unlocks it.  The lock is an open-file-description write lock on the whole
 * file (so QEMU's own image locks are refused too, I8).
 *
 * Errors: -1 with errno; functions with `error` set a malloc'd message that
 * names the path and says what to do.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_STORE_H
#define BACKFILL_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "ability.h"
#include "touched.h"
#include "trust.h"

struct store {
  int fd;
  /* Another description of the same file, for what must not take a failed
   * write's error away from the next store_sync: each description is told
   * of it once.  The same as fd where there can be none. */
  int aux_fd;
  int drop_fd;  /* one more, for writeback.c alone; -1: none */
  int dsync_fd; /* and one for store_pwrite_dsync; -1: none */
  /* And one for store_sync: on some file systems a write is told of an
   * earlier one's failure.  The same as fd where there can be none. */
  int sync_fd;
  char *path;
  char *temp;    /* its name until store_link, where it needs one */
  uint64_t size; /* of the file or device */
  bool is_block;
  bool read_only;
  dev_t dev; /* of the file; of a block device its own number */
  ino_t ino;
  uid_t uid; /* its owner */
  gid_t gid;
  uint64_t btime;      /* birth time, ns since the epoch, 0 = not known */
  uint32_t block_size; /* alignment that zeroing needs, power of two */
  struct abilities able;
  struct touched touched; /* of a store that we have made, where holes are not
                             told */
};

/* Open and lock.  errno ENOENT when there is none, EAGAIN when another
 * process has it. */
struct store *store_open (const char *path, bool read_only, char **error)
    __attribute__ ((nonnull (1, 3)));
/* The same, if it is that user's (NULL: anybody's; else EPERM), and that file
 * (NULL: any; else ESTALE), by its descriptor and before it is locked. */
struct store *store_open_of (const char *path, bool read_only,
                             const uid_t *owner, const struct file_id *file,
                             char **error) __attribute__ ((nonnull (1, 5)));

/* Make a sparse file of size bytes, locked and durable, that has no name
 * yet; store_link gives it one (EEXIST if something is there by now). */
struct store *store_create (const char *path, uint64_t size, char **error)
    __attribute__ ((nonnull (1, 3)));
int store_link (struct store *st, char **error)
    __attribute__ ((nonnull (1, 2)));

/* Let others have it.  The descriptors stay open until store_free, so that a
 * late user of one never meets another file. */
void store_unlock (struct store *st) __attribute__ ((nonnull (1)));
/* The volume's uuid as an attribute of the file, so that another volume's
 * sidecar is told apart.  get: 1 and uuid, or 0: there is none. */
int store_get_uuid (struct store *st, uint8_t uuid[16])
    __attribute__ ((nonnull (1, 2)));
int store_get_uuid_fd (int fd, uint8_t uuid[16]) __attribute__ ((nonnull (2)));
void store_set_uuid (struct store *st, const uint8_t *uuid)
    __attribute__ ((nonnull (1)));
/* The mark of a store that was detached: all of it is the truth, and it needs
 * no sidecar.  set: -1 with errno where there are no attributes. */
bool store_is_detached (struct store *st) __attribute__ ((nonnull (1)));
int store_set_detached (struct store *st, bool detached)
    __attribute__ ((nonnull (1)));
void store_free (struct store *st);
/* Make a regular file larger, durably. */
int store_grow (struct store *st, uint64_t size) __attribute__ ((nonnull (1)));

int store_pread (struct store *st, void *buf, uint64_t count, uint64_t offset)
    __attribute__ ((nonnull (1, 2)));
/* The first run of [offset, end) that the page cache holds, or all of it where
 * that cannot be told: *start == end if there is none. */
void store_next_cached (struct store *st, uint64_t offset, uint64_t end,
                        uint64_t *start, uint64_t *stop)
    __attribute__ ((nonnull (1, 4, 5)));
int store_pwrite (struct store *st, const void *buf, uint64_t count,
                  uint64_t offset) __attribute__ ((nonnull (1, 2)));
/* What is in the range already, durable when it returns 0: a failure is one of
 * the sync.  1: this store cannot do that. */
int store_pwrite_dsync (struct store *st, const void *buf, uint64_t count,
                        uint64_t offset) __attribute__ ((nonnull (1, 2)));

/* Afterwards the range reads as zeros, whatever was there.  punch: as a hole
 * if that can be had, else what is zeros already is left as it is; not punch:
 * as allocated zeros if that can be had.  Nobody else may change the range
 * meanwhile, as it may have to be read. */
int store_zero (struct store *st, uint64_t count, uint64_t offset, bool punch)
    __attribute__ ((nonnull (1)));
/* The same for a range that is nobody's data, but may have leftovers in it: for
 * as little as can be.  full: all of it has its blocks then. */
int store_clear (struct store *st, uint64_t count, uint64_t offset, bool full)
    __attribute__ ((nonnull (1)));
/* Zeros may have to be written, or read, so a long range may take long. */
bool store_zero_is_slow (struct store *st) __attribute__ ((nonnull (1)));
/* True if store_zero is quick for this range (no zeros written). */
bool store_fast_zero (struct store *st, uint64_t count, uint64_t offset,
                      bool punch) __attribute__ ((nonnull (1)));

/* Allocate what is a hole, without changing what it reads as.  Nobody else may
 * change the range meanwhile. */
int store_preallocate (struct store *st, uint64_t count, uint64_t offset)
    __attribute__ ((nonnull (1)));
/* Zeros have to be written for it. */
bool store_preallocate_is_slow (struct store *st) __attribute__ ((nonnull (1)));

/* The first run of data in [offset, end): *start, *stop.  *start == end when
 * all of it is a hole, which reads as zeros and has no dirty page.  Where holes
 * cannot be told, or not be believed, all is data but what a store that we made
 * was never written to. */
int store_next_data (struct store *st, uint64_t offset, uint64_t end,
                     uint64_t *start, uint64_t *stop)
    __attribute__ ((nonnull (1, 4, 5)));

/* All of it reads as zeros (holes are not read). */
bool store_is_zero (struct store *st) __attribute__ ((nonnull (1)));

int store_sync (struct store *st) __attribute__ ((nonnull (1)));

/* Whose it is now: it may have been given to another since it was opened. */
uid_t store_owner (const struct store *st) __attribute__ ((nonnull (1)));

#endif
