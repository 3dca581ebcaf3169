/* source/identity.h - what makes a backing store the one we know (I9).
 *
 * A struct verify is the requests for the samples of one connection, and their
 * answers.  Whoever has the connection sends them; nothing here knows of
 * connections.  Single-threaded: it belongs to its connection's thread.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_IDENTITY_H
#define BACKFILL_SOURCE_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "source/source.h"

struct verify;

/* For a source of that size in bytes.  NULL: out of memory. */
struct verify *verify_new (uint64_t size);
/* The i-th request to be sent, NULL after the last.  They belong to it. */
struct source_req *verify_request (struct verify *v, unsigned i);
bool verify_is_answered (const struct verify *v);
/* Once answered: 0 with the digest; EAGAIN with a message in why if there is
 * none. */
int verify_digest (const struct verify *v, uint8_t digest[SOURCE_DIGEST_SIZE],
                   char *why, size_t len);
/* Is it the source that identity says?  One without a digest takes this one. */
bool identity_take_or_match (struct source_identity *identity,
                             const uint8_t digest[SOURCE_DIGEST_SIZE]);
void verify_free (struct verify *v); /* NULL is fine */

#endif
