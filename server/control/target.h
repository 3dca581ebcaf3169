/* target.h - the disk that a command is about: found by its `device`, checked
 * by its `file`, and held until the call is over.
 *
 * All run on the thread that runs the command: they may wait for the store.
 * What fails has set the call's error, or its `wait`.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CONTROL_TARGET_H
#define BACKFILL_CONTROL_TARGET_H

#include "command.h"

/* The disk that `device` names, or the only one; and that `file` is.  NULL with
 * the call's error. */
struct disk *call_disk (struct call *call) __attribute__ ((nonnull (1)));
/* As call_disk, for another use than a query. */
struct disk *call_disk_for (struct call *call, enum control_use use)
    __attribute__ ((nonnull (1)));
/* Put the volume that the call holds, if it holds one. */
void call_put_volume (struct call *call) __attribute__ ((nonnull (1)));

/* 1: no process has the volume that `device` names open, and *peek tells how
 * the volume looks in its files.  0: call_disk_for has to hold it.  -1 with the
 * call's error. */
int peek_device (struct call *call, struct disk_peek *peek)
    __attribute__ ((nonnull (1, 2)));

/* The file that the client means, in `file`.  NULL: the client did not say
 * which; or, with the call's error, what it said names no file. */
const struct file_id *arg_file (struct call *call, struct file_id *file)
    __attribute__ ((nonnull (1, 2)));

/* Set the call's error after a function of the volumes, or of a job, has failed
 * with errno.  They take the message that it left. */
void call_fail_volume (struct call *call, char *error)
    __attribute__ ((nonnull (1)));
void call_fail_job (struct call *call, char *error)
    __attribute__ ((nonnull (1)));

#endif
