/* handlers.h - the handlers of the commands, and the table that lists them.
 *
 * A handler returns what "return" will hold, or NULL: with the call's error,
 * with the call's `wait` (nothing was done for good: run the call again), or
 * with neither if memory is short.  A quick_ handler runs on the loop, waits
 * for nothing, and returns NULL if it cannot tell.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CONTROL_HANDLERS_H
#define BACKFILL_CONTROL_HANDLERS_H

#include "command.h"

/* table.c */
/* NULL: there is no command of that name. */
const struct command *command_find (const char *name)
    __attribute__ ((nonnull (1)));
json_t *run_commands (struct call *call);

/* query.c: questions. */
json_t *run_version (struct call *call);
json_t *run_disks (struct call *call);
json_t *run_jobs (struct call *call);
json_t *run_total_speed (struct call *call);
json_t *quick_jobs (struct call *call);

/* map-page.c */
json_t *run_map (struct call *call);

/* command.c: what changes something. */
json_t *run_capabilities (struct call *call);
json_t *run_allocate (struct call *call);
json_t *run_set_speed (struct call *call);
json_t *run_pause (struct call *call);
json_t *run_resume (struct call *call);
json_t *run_cancel (struct call *call);
json_t *run_dismiss (struct call *call);
json_t *run_detach (struct call *call);
json_t *run_flush (struct call *call);
json_t *run_create (struct call *call);
json_t *run_release (struct call *call);
json_t *run_take (struct call *call);
json_t *run_set_total_speed (struct call *call);
json_t *run_quit (struct call *call);

#endif
