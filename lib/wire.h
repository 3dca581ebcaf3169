/* wire.h - message framing of the control protocol, for both sides.
 *
 * The stream is a sequence of JSON objects (QMP's framing): no newline need
 * end one.  A frame is found by counting braces and brackets outside strings,
 * with caps on size and depth, before anything is parsed: so a parser never
 * sees more than WIRE_MAX_FRAME bytes or WIRE_MAX_DEPTH levels.
 *
 * Source of the rules: QEMU's qmp-spec; docs/backfill-protocol.pod.
 * Locking: none, one owner.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_WIRE_H
#define BACKFILL_WIRE_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#define WIRE_MAX_FRAME (1u << 20) /* bytes a peer may send in one message */
#define WIRE_MAX_DEPTH 32u
#define WIRE_MAX_LINE (256u << 10) /* bytes in one message that we send */

enum wire_status {
  WIRE_MORE,  /* no whole frame yet */
  WIRE_FRAME, /* frame and length are set */
  WIRE_TOO_BIG,
  WIRE_TOO_DEEP,
  WIRE_GARBAGE, /* a byte that cannot begin a message */
};

/* Input buffer and scanner in one. */
struct wire_in {
  char *ptr;
  size_t len, cap; /* bytes held, allocated */
  size_t start;    /* where the frame that is being read begins */
  size_t scanned;  /* bytes already looked at */
  unsigned depth;
  bool in_string, escaped;
  bool skipping; /* after an error: dropping input to the next resync */
};

void wire_in_init (struct wire_in *in) __attribute__ ((nonnull (1)));
void wire_in_free (struct wire_in *in) __attribute__ ((nonnull (1)));

/* Add bytes.  0 or -1 (ENOMEM).  Never holds more than WIRE_MAX_FRAME plus
 * one call's bytes: call wire_in_next until WIRE_MORE after each. */
int wire_in_add (struct wire_in *in, const void *bytes, size_t len)
    __attribute__ ((nonnull (1, 2)));

/* Next frame.  On WIRE_FRAME, *frame points into the buffer, valid until the
 * next call.  The errors are reported once each; the scanner then drops input
 * up to a newline or control character (QMP's resync) and goes on. */
enum wire_status wire_in_next (struct wire_in *in, const char **frame,
                               size_t *len) __attribute__ ((nonnull (1, 2, 3)));

/* Parse a frame: an object, or NULL with text set (static or in err). */
json_t *wire_parse (const char *frame, size_t len, json_error_t *err)
    __attribute__ ((nonnull (1, 3)));

/* One line of ASCII JSON with CRLF, malloc'd; NULL on ENOMEM. */
char *wire_line (const json_t *message, size_t *len)
    __attribute__ ((nonnull (1, 2)));

/* Any bytes as a JSON string: what is not UTF-8 becomes U+FFFD. */
json_t *wire_text (const char *s) __attribute__ ((nonnull (1)));

#endif
