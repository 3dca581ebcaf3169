/* bridge.h - what libbackfill exports for libbackfill-libvirt only.
 *
 * Its version node is LIBBACKFILL_PRIVATE: both libraries come from one build,
 * and what is here may change with any.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_BRIDGE_H
#define BACKFILL_BRIDGE_H

/* Set this thread's error.  Returns -1. */
int backfill_private_error (int errnum, const char *text)
    __attribute__ ((nonnull (2)));

#endif
