/* volumes.h - the volumes of backfilld: opened when asked for, closed when
 * idle, lent to other owners and taken back.
 *
 * A volume is named by the path of its store: absolute, without links, below
 * one of the folders that the process is confined to (path.h).
 *
 * Who may: root and the daemon's own user may have all volumes, and make new
 * ones.  Another user may have those whose stores he owns.  Of the volumes that
 * may be open (max_open) one other user has a quarter, and all other users
 * together three quarters.
 *
 * Life: volumes_new, control with volumes_commands (), volumes_start,
 * volumes_stop, volumes_free.  The process-wide pools of the engine must run
 * from start to stop.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_H
#define BACKFILL_VOLUMES_H

#include <stdint.h>

#include "control.h"
#include "disk.h"

struct volumes_config {
  const char *runtime_dir; /* NULL: the default */
  const char *control;     /* our socket, for the record and the registry */
  const char *state_dir;   /* of the ledger */
  unsigned max_open;       /* volumes open at once */
  uint64_t speed;          /* --speed, the limit of all jobs until a command
                              sets another */
  uint64_t idle;           /* ms without use, after which one is closed */
  uint64_t grace;          /* ms that nobody must have had a lent volume open
                              before it is taken back */
  bool commands;           /* backing stores "[ CMD ... ]" are run */
  disk_event_fn event;
  void *event_opaque;
  /* Something has changed that commands wait for.  Called with the table's lock
   * held. */
  void (*kick) (void *opaque);
  void *kick_opaque;
};

struct volumes;

/* Reads the ledger.  NULL with *error set (malloc'd). */
struct volumes *volumes_new (const struct volumes_config *config, char **error)
    __attribute__ ((nonnull (1, 2)));

/* For control_config.volumes. */
const struct control_volumes *volumes_commands (struct volumes *volumes)
    __attribute__ ((nonnull (1)));

/* Start the keeper (keeper.h). */
int volumes_start (struct volumes *volumes) __attribute__ ((nonnull (1)));

/* Close all volumes, at once, in 10 s at most, whatever hangs; what is in the
 * ledger stays there.  0; or -1: a volume could not be made durable, or is
 * still in use: then nothing may be freed. */
int volumes_stop (struct volumes *volumes) __attribute__ ((nonnull (1)));

/* NULL is fine. */
void volumes_free (struct volumes *volumes);

#endif
