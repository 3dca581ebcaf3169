/* source/queue.h - the requests that wait, and which connection may have them.
 *
 * A request is in one list at a time, by its member link.  Times are ms
 * of CLOCK_MONOTONIC.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_QUEUE_H
#define BACKFILL_SOURCE_QUEUE_H

#include "source/internal.h"

/* No lock: the list belongs to the caller. */
/* After those that are early, before the others. */
void req_append_early (struct req_list *list, struct source_req *req);
/* The first, taken off; or NULL. */
struct source_req *req_pop (struct req_list *list);
/* Free what it holds for the answer to a read. */
void req_clear (struct source_req *req);

/* src->lock is held. */

/* The next request that c should send, unlinked; or NULL. */
struct source_req *source_next (struct source *src, struct source_conn *c,
                                uint64_t now);
/* A request that source_next gave c is no longer in flight on it. */
void source_is_back (struct source_conn *c, const struct source_req *req);
/* Wake or open what can work on the background requests that wait. */
void source_spread (struct source *src, uint64_t now);
/* Take the requests off the queues whose deadline passed. */
void source_expire (struct source *src, struct req_list *expired, uint64_t now);

/* How many background requests are worth having at a time. */
unsigned source_depth (struct source *src);

/* No lock is held: call done for each, with its error. */
void source_finish (struct source *src, struct req_list *list);
/* On the first thread only, no lock held. */
void source_set_state (struct source *src, enum source_state state,
                       const char *why);

#endif
