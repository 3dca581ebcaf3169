/* source/lost.h - the end of a connection, and of the attempt to make one.
 *
 * On the connection's thread, with no lock held but where it is said.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_LOST_H
#define BACKFILL_SOURCE_LOST_H

#include "source/internal.h"

/* Set c->state, which only this does; it takes the source's lock. */
void conn_set_state (struct source_conn *c, enum conn_state state);
/* The same, for a caller that holds that lock. */
void conn_set_state_locked (struct source_conn *c, enum conn_state state);
/* Let go of the handle; requests stay in the lists. */
void conn_drop_handle (struct source_conn *c);
/* The connection is no more, or could not be made; c->why says why.  hangs:
 * the server is silent.  state: the source's from now on, if c is the first
 * connection. */
void conn_lost (struct source_conn *c, bool hangs, enum source_state state);

#endif
