/* away.c - see away.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "volumes/away.h"

struct away *
away_find (struct volumes *vs, const char *path)
{
  struct away *a;

  ASSERT_HELD (&vs->lock);
  LIST_FOREACH (a, &vs->away, next)
    if (strcmp (a->path, path) == 0)
      break;
  return a;
}

struct away *
away_note (struct volumes *vs, const char *path)
{
  struct away *a = away_find (vs, path);

  ASSERT_HELD (&vs->lock);
  if (a)
    return a;
  a = calloc (1, sizeof *a);
  if (!a || !(a->path = strdup (path))) {
    free (a);
    return NULL;
  }
  LIST_INSERT_HEAD (&vs->away, a, next);
  vs->nr_away++;
  return a;
}

void
away_forget (struct volumes *vs, const char *path)
{
  struct away *a = away_find (vs, path);

  ASSERT_HELD (&vs->lock);
  if (!a)
    return;
  LIST_REMOVE (a, next);
  vs->nr_away--;
  free (a->path);
  free (a);
}

void
away_forget_old (struct volumes *vs)
{
  uint64_t now = now_ms ();
  struct away *next;

  ASSERT_HELD (&vs->lock);
  for (struct away *a = LIST_FIRST (&vs->away); a; a = next) {
    next = LIST_NEXT (a, next);
    if (now >= a->until && !ledger_has (vs->ledger, a->path))
      away_forget (vs, a->path);
  }
}
