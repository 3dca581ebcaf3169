/* survey.h - asks each disk of a list the same question, and waits for none
 * that does not answer.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_SURVEY_H
#define BACKFILL_VOLUMES_SURVEY_H

#include "control.h"

/* control_volumes.survey; opaque is the struct volumes.  Takes vs->lock. */
int survey_run (void *opaque, const struct disks *disks,
                void *(*ask) (struct disk *disk), void (*drop) (void *result),
                void ***results) __attribute__ ((nonnull (1, 2, 3, 4, 5)));

#endif
