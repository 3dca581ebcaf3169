/* keeper.h - the keeper: the thread that closes idle volumes, takes back lent
 * ones and goes on with the ledger's jobs.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_KEEPER_H
#define BACKFILL_VOLUMES_KEEPER_H

#include "volumes/internal.h"

/* 0, or -1 with errno. */
int keeper_start (struct volumes *vs) __attribute__ ((nonnull (1)));
/* Wait for its end, after vs->stop was set and vs->changed signalled. */
void keeper_stop (struct volumes *vs) __attribute__ ((nonnull (1)));

#endif
