/* commands.h - what the control socket's commands do to the table of volumes.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_COMMANDS_H
#define BACKFILL_VOLUMES_COMMANDS_H

#include "volumes/internal.h"

/* The functions of struct control_volumes (control.h), which takes vs->lock
 * in each. */
void commands_init (struct volumes *vs) __attribute__ ((nonnull (1)));

#endif
