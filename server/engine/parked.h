/* parked.h - parts of writes that wait for the rest of their granule.
 *
 * A write to a part of an absent granule is a read-modify-write whose read
 * comes from the source.  It is deferred: the part is parked, without a claim,
 * while the granule is fetched.  Whoever first has a claim on the granule and
 * its bytes applies all parts of it, in the order in which they came: their
 * owners, a copier that has just committed it, or a later change.  A later
 * change of the whole granule cancels them: they count as applied just before.
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
/* Take it off the list again, failed, if nobody has applied it.  After this,
 * or when done was set, parked_result is the end of it. */
void parked_give_up (struct disk *d, struct parked *p, int err);
/* 0 or errno; *behind is set if W could not be written. */
int parked_result (struct disk *d, struct parked *p, bool *behind);

/* All parts on [g, end), which is live. */
void parked_apply (struct disk *d, uint64_t g, uint64_t end);
/* All parts on [g, end), of which a change of the whole has just been made.
 * behind: W could not be written. */
void parked_cancel (struct disk *d, uint64_t g, uint64_t end, bool behind);
/* Granule g is absent, bytes is what the source has: write it with all its
 * parts, and make it the guest's. */
void parked_merge (struct disk *d, uint64_t g, char *bytes);

#endif
