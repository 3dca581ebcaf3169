/* source/resolve.h - host names, looked up without blocking an I/O thread.
 *
 * A look-up runs on a thread of its own; the connection polls.  Errors are
 * messages in why.  Locking: one lock of the module's own; lock order:
 * common/lock-ranks.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_RESOLVE_H
#define BACKFILL_SOURCE_RESOLVE_H

#include <stddef.h>

struct resolve;

/* A look-up of the URI's host name, or NULL where none is needed. */
struct resolve *resolve_begin (const char *uri);
/* EINPROGRESS, 0 once there is an answer, else a message in why. */
int resolve_poll (struct resolve *r, char *why, size_t len);
void resolve_end (struct resolve *r);

#endif
