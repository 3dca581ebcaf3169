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

  for (a = vs->away; a; a = a->next)
    if (strcmp (a->path, path) == 0)
      break;
  return a;
}

/* The entry of path, made if there is none; NULL on ENOMEM. */
struct away *
away_note (struct volumes *vs, const char *path)
{
  struct away *a = away_find (vs, path);

  if (a)
    return a;
  a = calloc (1, sizeof *a);
  if (!a || !(a->path = strdup (path))) {
    free (a);
    return NULL;
  }
  a->next = vs->away;
  vs->away = a;
  vs->nr_away++;
  return a;
}

void
away_forget (struct volumes *vs, const char *path)
{
  for (struct away **p = &vs->away; *p; p = &(*p)->next)
    if (strcmp ((*p)->path, path) == 0) {
      struct away *a = *p;

      *p = a->next;
      vs->nr_away--;
      free (a->path);
      free (a);
      return;
    }
}

/* Entries that say nothing any more.  The lock is held. */
void
away_forget_old (struct volumes *vs)
{
  uint64_t now = now_ms ();
  struct away *next;

  for (struct away *a = vs->away; a; a = next) {
    next = a->next;
    if (now >= a->until && !ledger_has (vs->ledger, a->path))
      away_forget (vs, a->path);
  }
}
