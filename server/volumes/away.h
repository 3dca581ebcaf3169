/* away.h - volumes that are not to be opened for now: lent to another owner,
 * or not there.
 *
 * An entry is made when a volume is let go (commands.c) and for each volume of
 * the ledger that is not open here (keeper.c).  It ends when the volume is
 * opened, or when neither the ledger nor a time to wait speaks for it.
 *
 * Locking: the caller of each function holds vs->lock.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_AWAY_H
#define BACKFILL_VOLUMES_AWAY_H

#include "volumes/internal.h"

#define MAX_AWAY 4096u
/* The `until` of a volume that is still being closed for another owner. */
#define AWAY_CLOSING UINT64_MAX

struct away {
  LIST_ENTRY (away) next;
  char *path;
  uint64_t until;      /* let go for another owner: not opened before */
  uint64_t free_since; /* nobody has had it open since; 0: somebody has, as
                          far as is known */
  uint64_t look_at;    /* when the keeper looks next */
  uint64_t pause;      /* ms between looks for a store that is not there */
  uint64_t asked_at;   /* when the keeper asked for the look that it awaits;
                          0: it awaits none */
  bool told;           /* the log says that the store is not there */
};

/* The entry of path; NULL: there is none. */
struct away *away_find (struct volumes *vs, const char *path)
    __attribute__ ((nonnull (1, 2)));
/* The entry of path, made if there is none; NULL on ENOMEM. */
struct away *away_note (struct volumes *vs, const char *path)
    __attribute__ ((nonnull (1, 2)));
void away_forget (struct volumes *vs, const char *path)
    __attribute__ ((nonnull (1, 2)));
/* Forget the entries that nothing speaks for any more. */
void away_forget_old (struct volumes *vs) __attribute__ ((nonnull (1)));

#endif
