/* ability.h - what the file system under a file can do.
 *
 * It is found out, not assumed, for each store when it is opened: by trials on
 * a scratch file beside it, and by the file system's type where a trial cannot
 * tell.  The rest is learnt from the first use on the store itself.
 *
 * SEEK_DATA and SEEK_HOLE are believed of few file systems: one whose dirty
 * pages look like holes (FUSE with a write-back cache; OpenZFS 2.1.4 to 2.2.1),
 * or that stands for another one, would have us take data for zeros.  FILE
 * SYSTEMS in docs/nbdkit-backfill-plugin.pod says what is done where.
 *
 * Locking: none needed.  States are read and written relaxed-atomically; a
 * lost update costs one more attempt.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_ABILITY_H
#define BACKFILL_ABILITY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum ability {
  ABILITY_PUNCH,      /* fallocate: a hole */
  ABILITY_ZERO_RANGE, /* fallocate: zeros with their blocks */
  ABILITY_ALLOCATE,   /* fallocate: blocks for what is a hole */
  ABILITY_ZEROOUT,    /* BLKZEROOUT, of a block device */
  ABILITY_DSYNC,      /* a write with RWF_DSYNC */
  ABILITY_SYNC_RANGE, /* sync_file_range */
  NR_ABILITIES,
};

enum ability_state {
  ABILITY_UNKNOWN,
  ABILITY_TRIED, /* it works on a scratch file */
  ABILITY_SEEN,  /* it has worked on this very file */
  ABILITY_MISSING,
};

struct abilities {
  _Atomic uint8_t state[NR_ABILITIES]; /* enum ability_state */
  bool tells_holes; /* SEEK_DATA and SEEK_HOLE may be believed */
  bool is_remote;   /* another machine's, or a program's */
  /* Bytes, a power of two.  fallocate is to be asked for whole ones of these
   * only: e2fsprogs' fuse2fs leaves the rest of a block as it is, which the
   * kernel's page cache shows as zeros until the file is opened anew. */
  uint32_t block;
};

/* What is known from the type of the file system that fd is on. */
void ability_look (struct abilities *a, int fd) __attribute__ ((nonnull (1)));
/* Try what can be tried on fd, a new, empty, regular file of the same file
 * system that nobody else has. */
void ability_try (struct abilities *a, int fd) __attribute__ ((nonnull (1)));

bool ability_is_missing (const struct abilities *a, enum ability what)
    __attribute__ ((nonnull (1)));
/* The ability is known to work. */
bool ability_is_there (const struct abilities *a, enum ability what)
    __attribute__ ((nonnull (1)));
/* An attempt on the file itself ended with err, 0 or errno.  True: this file
 * cannot do that, and it is to be done in another way. */
bool ability_note (struct abilities *a, enum ability what, int err)
    __attribute__ ((nonnull (1)));

/* Does errno say, or may it say, that a call is not to be had there? */
bool ability_is_lack (int err);

#endif
