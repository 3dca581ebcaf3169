/* server.h - finds out what nbdkit does not tell its plugins.
 *
 * Nbdkit's main thread alone calls these, before the plugin has threads.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SERVER_H
#define BACKFILL_SERVER_H

/* USER of nbdkit -u USER, malloc'd, or NULL.  Nbdkit changes its user when
 * get_ready has ended. */
char *server_user (void);

/* In get_ready: note the pipes that are open before nbdkit makes its quit pipe.
 */
void server_note_pipes (void);

/* In after_fork, if this is a child of the process that ran get_ready: stop
 * sharing nbdkit's quit pipe with the parent. */
void server_part_from_parent (void);

#endif
