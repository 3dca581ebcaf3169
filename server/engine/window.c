/* window.c - see window.h.
 *
 * A round is as many bytes as the window has.  The least time is forgotten
 * every ROUNDS rounds, as the way to the source may change.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <string.h>

#include "bytes.h"
#include "window.h"

/* Answers that take more than QUEUEING times the least time queue; answers that
 * take less than FREE times the least time do not queue. */
#define QUEUEING 4u
#define FREE 2u
/* With WINDOW_MIN a nearer source can bring 1 GiB/s.  More in flight would only
 * leave the processor's cache: 0.63 s instead of 0.56 s for 768 MiB at 1 ms. */
#define FAR UINT64_C (20000000)

void
window_init (struct window *w)
{
  memset (w, 0, sizeof *w);
  w->size = WINDOW_MIN;
  w->least = UINT64_MAX;
}

void
window_is_full (struct window *w)
{
  w->was_full = true;
}

static void
end_round (struct window *w, uint64_t most)
{
  uint64_t average = w->ns / w->nr_answers;

  if (w->was_full && w->least >= FAR && average < FREE * w->least)
    w->size = min_u64 (w->size + w->size / 2, max_u64 (most, WINDOW_MIN));
  else if (average > QUEUEING * w->least)
    w->size = max_u64 (w->size - w->size / 8, WINDOW_MIN);
  w->size = min_u64 (w->size, max_u64 (most, WINDOW_MIN));
  w->was_full = false;
  w->bytes = w->ns = w->nr_answers = 0;
}

void
window_answer (struct window *w, uint64_t bytes, uint64_t ns, uint64_t most)
{
  w->least = min_u64 (w->least, max_u64 (ns, 1));
  w->bytes += bytes;
  w->ns += ns;
  w->nr_answers++;
  if (w->bytes >= w->size)
    end_round (w, most);
}
