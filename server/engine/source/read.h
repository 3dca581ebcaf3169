/* source/read.h - requests on a libnbd handle: sent, answered, put together.
 *
 * All calls are made on the connection's thread, without src->lock.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_READ_H
#define BACKFILL_SOURCE_READ_H

#include "source/internal.h"

/* Send req, or its next part.  req is in c->sent until req is answered; where
 * the handle turns out dead, req stays in c->sent. */
void read_send (struct source_conn *c, struct source_req *req, uint64_t now);
/* Move the requests that the server answered to c->finished, or ask on. */
void read_take_answers (struct source_conn *c, uint64_t now);
/* Put into c->why, if that is empty, why libnbd failed just now. */
void read_note_error (struct source_conn *c);

#endif
