/* source/handshake.h - how a connection is made, until it carries requests.
 *
 * A connection goes from CONN_CLOSED through CONN_RESOLVING, CONN_CONNECTING
 * and CONN_VERIFYING to CONN_UP.  Each call takes it one step further, or ends
 * in conn_lost.  On the connection's thread, with no lock held.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_HANDSHAKE_H
#define BACKFILL_SOURCE_HANDSHAKE_H

#include "source/internal.h"

#define CONNECT_TIME 3000 /* ms until the server's host answers at all */

/* How long the first handshake of a connection may take. */
uint64_t handshake_time (const struct source *src);
/* Begin: from CONN_CLOSED. */
void handshake_begin (struct source_conn *c, uint64_t now);
/* Look whether the host's name has been looked up: in CONN_RESOLVING. */
void handshake_resolved (struct source_conn *c, uint64_t now);
/* The handle has negotiated: in CONN_CONNECTING. */
void handshake_negotiated (struct source_conn *c, uint64_t now);
/* All samples were answered: in CONN_VERIFYING. */
void handshake_verified (struct source_conn *c);

#endif
