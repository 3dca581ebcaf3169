/* buffers.h - memory for what is fetched, kept for reuse by the process.
 *
 * Locking: any thread may call.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_BUFFERS_H
#define BACKFILL_BUFFERS_H

#include <stddef.h>

/* A buffer of at least size bytes; *got is its size.  NULL: no memory. */
char *buffer_get (size_t size, size_t *got);
/* Give it back; size is what buffer_get gave. */
void buffer_put (char *buf, size_t size);
/* The process has no disk any more: give memory back. */
void buffers_free (void);

#endif
