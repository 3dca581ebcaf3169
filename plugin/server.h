/* server.h - what nbdkit does not tell its plugins, and has to be found out.
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

/* In get_ready: the pipes that are open now are not nbdkit's own. */
void server_note_pipes (void);

/* In after_fork, if this is another process than get_ready's. */
void server_part_from_parent (void);

#endif
