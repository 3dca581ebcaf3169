/* process.h - nbdkit's callbacks from the keys to the end of the process.
 *
 * Nbdkit's main thread calls them, in this order.  -1 after nbdkit_error.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_PROCESS_H
#define BACKFILL_PROCESS_H

int process_config_complete (void);
/* Open the disks, and listen on the control socket. */
int process_get_ready (void);
/* Begin their sessions, and start threads. */
int process_after_fork (void);
/* Called when no connection is left: end the threads, free the disks. */
void process_cleanup (void);
/* Free the rest.  Nbdkit calls this also if it did not come to serve. */
void process_unload (void);

#endif
