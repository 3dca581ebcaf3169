/* source/conn.h - the life of one connection of a source.
 *
 * Ownership and locking: source/internal.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_CONN_H
#define BACKFILL_SOURCE_CONN_H

#include "source/internal.h"

/* c is given a thread (task.thread) before c is kicked first. */
void conn_init (struct source_conn *c, struct source *src, unsigned index);
void conn_free (struct source_conn *c);

#endif
