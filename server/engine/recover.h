/* recover.h - what a killed process left in W: find it, prove it, take it over.
 *
 * Locking: single-threaded, while the volume is opened; store and sidecar are
 * locked, and an old W is locked while it is open.
 *
 * Errors: -1 with errno and *error.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_RECOVER_H
#define BACKFILL_RECOVER_H

#include <stdbool.h>
#include <stdint.h>

#include "work.h"

struct disk;
struct disk_config;

/* The identity that the W of that session has. */
struct work_identity recover_identity (struct disk *d, uint64_t session);
/* True if W was made for this very file, and not for one that ours is a copy
 * of, or was before it came here. */
bool recover_is_made_for (const struct work_identity *id, const struct disk *d);
/* The W of an open session of this boot.  NULL: no W is needed (*error NULL),
 * or W cannot be had (*error says why).  *useless: a W that is not to be
 * believed, to be removed when there is a new session. */
struct work *recover_open_work (struct disk *d, const struct disk_config *cfg,
                                const uint8_t *boot_id, enum work_state *state,
                                struct work **useless, char **error);
/* Take the bits of old (NULL: there is none) into the map, write again what a
 * sync may have lost, and make all that is shown durable.  A recovery that is
 * cut short can be done again, any number of times (G16). */
int recover_volume (struct disk *d, const struct disk_config *cfg,
                    struct work *old, enum work_state state, char **error);

#endif
