/* ledger.h - the volumes whose jobs backfilld looks after, on disk, so that it
 * goes on with them after a restart.
 *
 * A file `jobs.json` in the state directory: {"version": 1, "volumes":
 * [PATH, ...]}.  It is replaced whole and durably, so that it is old or new.
 * The jobs themselves are in the volumes' sidecars: an entry for a volume
 * that has none any more is harmless.
 *
 * Locking: none.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_LEDGER_H
#define BACKFILL_LEDGER_H

#include <stdbool.h>
#include <stddef.h>

struct ledger {
  char *dir;
  char **path;
  size_t nr;
};

/* NULL with *error set (malloc'd).  A file that is missing is an empty one;
 * one that cannot be understood is an error. */
struct ledger *ledger_open (const char *dir, char **error)
    __attribute__ ((nonnull (1, 2)));
void ledger_free (struct ledger *ledger);

bool ledger_has (const struct ledger *ledger, const char *path)
    __attribute__ ((nonnull (1, 2)));
/* Durable when they return 0; -1 with errno, and nothing is changed. */
int ledger_add (struct ledger *ledger, const char *path)
    __attribute__ ((nonnull (1, 2)));
int ledger_remove (struct ledger *ledger, const char *path)
    __attribute__ ((nonnull (1, 2)));

#endif
