/* pace.h - when the pump of a job may go on, and when it may send a request.
 *
 * A request is sent when the job has room for it, a lane (lane.h), and what the
 * speed limits allow; while a guest is active a job has few requests in flight,
 * with time between.
 *
 * Locking: only the pump's thread calls these.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_PACE_H
#define BACKFILL_PACE_H

#include "job-internal.h"

enum turn { GO, LEAVE };

/* What keeps the pump from going on; several may hold at once. */
enum halt {
  HALT_END = 1,     /* stopped, aborted or failed: the pump ends */
  HALT_PAUSE = 2,   /* by the user, or as the store is full */
  HALT_SOURCE = 4,  /* the source is lost */
  HALT_FAILURE = 8, /* a request has failed: see handle_failure */
};

/* The caller holds job.lock: */

/* Why the pump is not to go on: a set of enum halt.  Only the pump sets errnum,
 * and the pump leaves then. */
unsigned pace_why_halt (struct disk *d);
/* Wait until no request is in flight, or one of these halts holds. */
void pace_wait_answers (struct disk *d, unsigned halts);

/* The caller does not: */

/* Wait until the pump may go on, not before `not_before` (ms).  It may go on
 * without a source, if nothing of it is needed any more. */
enum turn pace_wait_turn (struct disk *d, uint64_t not_before);
/* Wait for room, a lane, and what the speed limits allow.  False: something
 * keeps the pump from going on. */
bool pace_wait_room (struct disk *d, uint64_t bytes);
/* A guest waits, or was there a moment ago. */
bool pace_guest_is_active (struct disk *d);
/* Is the source connected, or is there none? */
bool pace_source_is_up (struct disk *d);
/* Is all of the job's range local?  No range changes while its pump runs. */
bool pace_is_local (struct disk *d);

#endif
