/* parked.h - parts of writes that wait for the rest of their granule.
 *
 * A write to a part of an absent granule is a read-modify-write whose read
 * comes from the source.  The write is deferred: the part is parked, without a
 * claim (range lock), while the granule is fetched.  The first thread that has
 * a claim on the granule and the granule's bytes applies all its parts, in the
 * order in which they came.  That thread is an owner of a part, a copier that
 * has just committed the granule, or a later change.  A later change of the
 * whole granule cancels its parts: they count as applied just before.
 *
 * Ownership: a part is on its owner's stack; once done is set the owner may be
 * gone, and nobody else looks at it.
 *
 * Locking: parts of granule g change only under a claim on g, which all calls
 * but park need; the list has a lock (park_lock) that is not held across I/O.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_PARKED_H
#define BACKFILL_PARKED_H

#include <stdatomic.h>

#include "internal.h"

struct parked {
  struct parked *next;
  uint64_t g;
  uint64_t offset, length; /* bytes of the disk, inside g */
  const char *buf;         /* NULL: zeros */
  atomic_bool done;
  bool listed;
  bool behind; /* W could not be written: commit before the reply */
  int error;
};

/* The list, and its lock. */
void parked_init (struct disk *d);
void parked_destroy (struct disk *d);

void park (struct disk *d, struct parked *p);
/* Take p off the list as failed with err, unless p has been applied.  After
 * this call, or once done is set, the owner calls parked_result last. */
void parked_give_up (struct disk *d, struct parked *p, int err);
/* 0 or errno; *behind is set if W could not be written. */
int parked_result (struct disk *d, struct parked *p, bool *behind);

/* All parts on [g, end), which is live. */
void parked_apply (struct disk *d, uint64_t g, uint64_t end);
/* All parts on [g, end), of which a change of the whole has just been made.
 * behind: W could not be written. */
void parked_cancel (struct disk *d, uint64_t g, uint64_t end, bool behind);
/* Granule g is absent, bytes are the source's: write the granule with all its
 * parts, and make the granule the guest's. */
void parked_merge (struct disk *d, uint64_t g, char *bytes);

#endif
