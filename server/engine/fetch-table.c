/* fetch-table.c - see fetch-table.h.
 *
 * The table is a list: a disk has a few dozen fetches in flight.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "buffers.h"
#include "fetch-table.h"
#include "internal.h"

void
fetch_table_init (struct fetch_table *t)
{
  lock_init (&t->lock, LOCK_FETCHES);
  TAILQ_INIT (&t->list);
}

void
fetch_table_destroy (struct fetch_table *t)
{
  assert (TAILQ_EMPTY (&t->list));
  assert (t->backlog == 0);
  lock_destroy (&t->lock);
}

uint64_t
fetch_backlog (struct disk *d)
{
  return atomic_load_explicit (&d->fetch.backlog, memory_order_relaxed);
}

void
fetch_unref (struct fetch *f)
{
  struct fetch_table *t = &f->disk->fetch;

  ASSERT_HELD (&t->lock);
  assert (f->refs > 0);
  if (--f->refs > 0)
    return;
  assert (fetch_has_ended (f));
  if (f->buf) {
    uint64_t before = atomic_fetch_sub_explicit (&t->backlog, f->buf_size,
                                                 memory_order_relaxed);

    assert (before >= f->buf_size);
    (void)before;
    buffer_put (f->buf, f->buf_size);
  }
  pthread_cond_destroy (&f->changed);
  free (f);
}

#define FROM(state) (1u << FETCH_##state)

/* For each state: those from which it is entered. */
static const unsigned entered_from[] = {
  [FETCH_ASKED] = 0,
  [FETCH_HERE] = FROM (ASKED),
  [FETCH_COMMITTING] = FROM (HERE),
  [FETCH_KEPT] = FROM (COMMITTING),
  [FETCH_PASSED] = FROM (ASKED) | FROM (HERE) | FROM (COMMITTING),
  [FETCH_FAILED] = FROM (ASKED),
};

void
fetch_enter_state (struct fetch *f, enum fetch_state state)
{
  ASSERT_HELD (&f->disk->fetch.lock);
  assert (entered_from[state] & (1u << f->state));
  f->state = state;
  if (fetch_has_ended (f))
    TAILQ_REMOVE (&f->disk->fetch.list, f, link);
  /* Nobody waits for the beginning of the commit. */
  if (state != FETCH_COMMITTING)
    pthread_cond_broadcast (&f->changed);
}

struct fetch *
fetch_table_find (struct disk *d, uint64_t offset)
{
  struct fetch *f;

  ASSERT_HELD (&d->fetch.lock);
  TAILQ_FOREACH (f, &d->fetch.list, link)
    if (f->end > offset)
      break;
  return f;
}

struct fetch *
fetch_table_add (struct disk *d, uint64_t offset, uint64_t end, bool zero)
{
  struct fetch *f = calloc (1, sizeof *f);
  struct fetch *next;

  ASSERT_HELD (&d->fetch.lock);
  if (!f)
    return NULL;
  f->disk = d;
  f->offset = offset;
  f->end = end;
  f->refs = 1;
  f->zero = zero;
  if (zero)
    f->state = FETCH_HERE;
  else {
    f->buf = buffer_get (end - offset, &f->buf_size);
    if (!f->buf) {
      free (f);
      return NULL;
    }
    atomic_fetch_add_explicit (&d->fetch.backlog, f->buf_size,
                               memory_order_relaxed);
  }
  cond_init (&f->changed);

  TAILQ_FOREACH (next, &d->fetch.list, link)
    if (next->offset >= offset)
      break;
  if (next) {
    assert (end <= next->offset);
    TAILQ_INSERT_BEFORE (next, f, link);
  }
  else
    TAILQ_INSERT_TAIL (&d->fetch.list, f, link);
  return f;
}

void
fetch_kick (struct disk *d, uint64_t offset)
{
  LOCK_SCOPE (&d->fetch.lock);
  struct fetch *f = fetch_table_find (d, offset);

  if (f && f->offset <= offset)
    pthread_cond_broadcast (&f->changed);
}

void
fetch_wake_all (struct disk *d)
{
  struct fetch *f;
  LOCK_SCOPE (&d->fetch.lock);

  TAILQ_FOREACH (f, &d->fetch.list, link)
    pthread_cond_broadcast (&f->changed);
}

bool
fetch_table_is_empty (struct disk *d)
{
  LOCK_SCOPE (&d->fetch.lock);
  return TAILQ_EMPTY (&d->fetch.list);
}

void
fetch_on_end (struct disk *d, fetch_ended_fn ended)
{
  d->fetch.ended = ended;
}

void
fetch_set_full (struct disk *d, uint64_t offset, uint64_t end)
{
  LOCK_SCOPE (&d->fetch.lock);
  d->fetch.full_offset = offset;
  d->fetch.full_end = end;
}

bool
fetch_wants_full (struct disk *d, uint64_t offset)
{
  LOCK_SCOPE (&d->fetch.lock);
  return offset >= d->fetch.full_offset && offset < d->fetch.full_end;
}
