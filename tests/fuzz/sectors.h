/* sectors.h - what each sector of a disk may hold: the truth of model.c.
 *
 * The disk is sectors of 512 bytes.  Each has a few versions: what the backing
 * store holds, and what changes made of it.  A version may be read until a
 * change that was issued after its own answer is answered, or until a read
 * that began after its answer showed another one.  A change that failed or
 * was never answered is one more version, and takes none away.
 *
 * Changes of whole sectors may overlap in flight.  A change of a part of a
 * sector has that sector to itself, as the model has to know what is around
 * the part: reserve, read it, then issue.
 *
 * All of it is in shared memory, so that it outlives the process that it
 * judges.  Time is the number of the event.
 *
 * Locking: one mutex, shared by processes.  Who holds it (sectors_lock) may
 * kill the others without leaving half a change of the model.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_TESTS_SECTORS_H
#define BACKFILL_TESTS_SECTORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECTOR UINT64_C (512)
#define SECTORS_THREADS 16u

enum change { CHANGE_WRITE, CHANGE_ZERO, CHANGE_TRIM };

struct sectors;

/* golden: what the disk holds before anything is changed. */
struct sectors *sectors_new (const uint8_t *golden, uint64_t size);
void sectors_free (struct sectors *m);

void sectors_lock (struct sectors *m);
void sectors_unlock (struct sectors *m);
/* All processes that used it are dead: what is in flight stays open, and the
 * lock is new. */
void sectors_crash (struct sectors *m);

/* What golden holds where there is data. */
void sectors_golden (uint8_t *buf, uint64_t sector);

/* One change, from reserve to answer. */
struct sectors_op {
  enum change kind;
  uint64_t offset, length;
  uint64_t number; /* names its data */
  uint64_t issued;
};

/* False: it would meet another that has a sector to itself, or needs one that
 * another has in flight. */
bool sectors_reserve (struct sectors *m, struct sectors_op *op,
                      enum change kind, uint64_t offset, uint64_t length);
/* The sectors of which it changes a part: at most two. */
unsigned sectors_parts (const struct sectors *m, const struct sectors_op *op,
                        uint64_t sector[2]);
/* Now it is asked for.  part: what those sectors hold.  buf: what is to be
 * written (of a write). */
void sectors_issue (struct sectors *m, struct sectors_op *op,
                    uint8_t part[2][SECTOR], uint8_t *buf);
void sectors_answer (struct sectors *m, const struct sectors_op *op, bool ok);

/* A read, by thread number `who`; begin gives its time. */
uint64_t sectors_read_begin (struct sectors *m, unsigned who);
/* What it brought; NULL: it failed.  False, with why: that is not possible. */
bool sectors_read_end (struct sectors *m, unsigned who, uint64_t offset,
                       uint64_t length, const uint8_t *buf, char why[300]);
/* Were there only zeros in the range, as of a read that was begun then? */
bool sectors_may_be_zero (struct sectors *m, uint64_t since, uint64_t offset,
                          uint64_t length);
/* Was the range never changed? */
bool sectors_is_golden (struct sectors *m, uint64_t offset, uint64_t length);

#endif
