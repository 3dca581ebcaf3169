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
  /* A further open file description of the same file.  The kernel tells each
   * description of a failed write once, so a call on aux_fd takes no error away
   * from the next store_sync.  Equal to fd where the file cannot be opened
   * again. */
  int aux_fd;
  int drop_fd;  /* a further one, for writeback.c alone; -1: none */
  int dsync_fd; /* a further one, for store_pwrite_dsync; -1: none */
  /* A further description for store_sync: on some file systems a write on fd is
   * told of an earlier write's failure, and would take the error from a sync on
   * fd.  Equal to fd where the file cannot be opened again. */
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
  struct touched touched; /* of a store that store_create made, where the file
                             system tells no holes */
};

/* Open and lock.  errno ENOENT when there is none, EAGAIN when another
 * process has it. */
struct store *store_open (const char *path, bool read_only, char **error)
    __attribute__ ((nonnull (1, 3)));
/* store_open of a file that belongs to *owner (NULL: to anybody; else EPERM)
 * and is *file (NULL: any; else ESTALE).  Both are checked by the descriptor,
 * before the lock. */
struct store *store_open_of (const char *path, bool read_only,
                             const uid_t *owner, const struct file_id *file,
                             char **error) __attribute__ ((nonnull (1, 5)));

/* Make a sparse file of size bytes, locked and durable, that has no name
 * yet; store_link gives it one (EEXIST if something is there by now). */
struct store *store_create (const char *path, uint64_t size, char **error)
    __attribute__ ((nonnull (1, 3)));
int store_link (struct store *st, char **error)
    __attribute__ ((nonnull (1, 2)));

/* Release the lock.  The descriptors stay open until store_free, so that a
 * thread that still uses one never meets another file. */
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
/* *start, *stop: the first run of [offset, end) that the page cache holds;
 * *start == end: there is none.  Pages that mincore cannot tell count as
 * held. */
void store_next_cached (struct store *st, uint64_t offset, uint64_t end,
                        uint64_t *start, uint64_t *stop)
    __attribute__ ((nonnull (1, 4, 5)));
int store_pwrite (struct store *st, const void *buf, uint64_t count,
                  uint64_t offset) __attribute__ ((nonnull (1, 2)));
/* Write again the bytes that the range already holds.  0: they are durable.
 * -1: counts as a failed sync.  1: this store has no durable writes
 * (RWF_DSYNC). */
int store_pwrite_dsync (struct store *st, const void *buf, uint64_t count,
                        uint64_t offset) __attribute__ ((nonnull (1, 2)));

/* Make the range read as zeros.  punch: as a hole where the store can punch
 * one; elsewhere blocks of zeros are left as they are.  Not punch: as allocated
 * zeros where the store can have them.  Nobody else may change the range
 * meanwhile, as store_zero may have to read it. */
int store_zero (struct store *st, uint64_t count, uint64_t offset, bool punch)
    __attribute__ ((nonnull (1)));
/* As store_zero, for a range that is nobody's data but may have leftovers in
 * it; holes are left alone.  full: the whole range has its blocks
 * afterwards. */
int store_clear (struct store *st, uint64_t count, uint64_t offset, bool full)
    __attribute__ ((nonnull (1)));
/* True if store_zero may have to write or read zeros, so that a long range
 * takes long. */
bool store_zero_is_slow (struct store *st) __attribute__ ((nonnull (1)));
/* True if store_zero is quick for this range (no zeros written). */
bool store_fast_zero (struct store *st, uint64_t count, uint64_t offset,
                      bool punch) __attribute__ ((nonnull (1)));

/* Allocate the range's holes; the range reads as before.  Nobody else may
 * change the range meanwhile. */
int store_preallocate (struct store *st, uint64_t count, uint64_t offset)
    __attribute__ ((nonnull (1)));
/* True if store_preallocate has to write zeros. */
bool store_preallocate_is_slow (struct store *st) __attribute__ ((nonnull (1)));

/* *start, *stop: the first run of data in [offset, end).  *start == end: the
 * whole range is a hole, which reads as zeros and has no dirty page.  Where the
 * file system tells no holes, or cannot be believed, all counts as data except
 * what `touched` says was never written. */
int store_next_data (struct store *st, uint64_t offset, uint64_t end,
                     uint64_t *start, uint64_t *stop)
    __attribute__ ((nonnull (1, 4, 5)));

/* True if all of the store reads as zeros (holes are not read). */
bool store_is_zero (struct store *st) __attribute__ ((nonnull (1)));

int store_sync (struct store *st) __attribute__ ((nonnull (1)));

/* The file's owner now: the file may have been given to another user since it
 * was opened. */
uid_t store_owner (const struct store *st) __attribute__ ((nonnull (1)));

#endif
