/* window.h - how much of a job may be in flight: it follows bandwidth times
 * delay, as a sender's window does.
 *
 * A source that is far away is asked for more at a time.  The least time that
 * an answer took says how far away the source is.  While answers take little
 * longer than the least time, though the window was full, more bytes fit on
 * the way, and the window grows.  When answers take several times the least
 * time, they queue, and the window shrinks.
 *
 * A pure policy: no I/O, no clock.  The caller serialises the calls for one
 * window.  Sizes are bytes, times nanoseconds.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_WINDOW_H
#define BACKFILL_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#define WINDOW_MIN (UINT64_C (20) << 20)

struct window {
  uint64_t size;
  bool was_full;                  /* in this round */
  uint64_t least;                 /* that an answer took */
  uint64_t bytes, ns, nr_answers; /* of this round */
};

void window_init (struct window *w) __attribute__ ((nonnull (1)));
/* The caller would have asked for more, but the window was full. */
void window_is_full (struct window *w) __attribute__ ((nonnull (1)));
/* An answer of so many bytes took that long; most: what the window may grow
 * to. */
void window_answer (struct window *w, uint64_t bytes, uint64_t ns,
                    uint64_t most) __attribute__ ((nonnull (1)));

#endif
