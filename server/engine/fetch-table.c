/* fetch-table.c - see fetch-table.h.
 *
 * The table is a list: a disk has a few dozen fetches in flight.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdlib.h>

#include "buffers.h"
#include "fetch-table.h"
#include "internal.h"

void
fetch_table_init (struct fetch_table *t)
{
  pthread_mutex_init (&t->lock, NULL);
}

void
fetch_table_destroy (struct fetch_table *t)
{
  pthread_mutex_destroy (&t->lock);
}

uint64_t
fetch_backlog (struct disk *d)
{
  return counted (&d->fetch.backlog);
}

/* fetch_table.lock is held in these four. */

void
fetch_unref (struct fetch *f)
{
  if (--f->refs > 0)
    return;
  if (f->buf) {
    buffer_put (f->buf, f->buf_size);
    __atomic_sub_fetch (&f->disk->fetch.backlog, f->buf_size, __ATOMIC_RELAXED);
  }
  pthread_cond_destroy (&f->changed);
  free (f);
}

void
fetch_table_remove (struct fetch *f)
{
  if (!f->in_table)
    return;
  if (f->prev)
    f->prev->next = f->next;
  else
    f->disk->fetch.first = f->next;
  if (f->next)
    f->next->prev = f->prev;
  f->in_table = false;
}

struct fetch *
fetch_table_find (struct disk *d, uint64_t offset)
{
  struct fetch *f = d->fetch.first;

  while (f && f->end <= offset)
    f = f->next;
  return f;
}

struct fetch *
fetch_table_add (struct disk *d, uint64_t offset, uint64_t end, bool zero)
{
  struct fetch *f = calloc (1, sizeof *f);
  struct fetch *next, *prev = NULL;

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
    count (&d->fetch.backlog, f->buf_size);
  }
  cond_init (&f->changed);

  for (next = d->fetch.first; next && next->offset < offset; next = next->next)
    prev = next;
  f->prev = prev;
  f->next = next;
  if (prev)
    prev->next = f;
  else
    d->fetch.first = f;
  if (next)
    next->prev = f;
  f->in_table = true;
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
  LOCK_SCOPE (&d->fetch.lock);
  for (struct fetch *f = d->fetch.first; f; f = f->next)
    pthread_cond_broadcast (&f->changed);
}

bool
fetch_table_is_empty (struct disk *d)
{
  LOCK_SCOPE (&d->fetch.lock);
  return d->fetch.first == NULL;
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
