/* internal.h - the table of volumes and its entries, for the files of this
 * folder.
 *
 * Locking: vs->lock guards the table, the looks, the entries of those away and
 * the ledger in memory.  No thread holds it while it waits for a path, an
 * open, a sync or a lock that is held across one.  It is outside of all locks
 * of the engine and of the control socket: functions that are called with it
 * held are disk_name, job_get_status and the like, and `kick`.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_INTERNAL_H
#define BACKFILL_VOLUMES_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "control.h"
#include "crew.h"
#include "disk.h"
#include "ledger.h"
#include "lock.h"
#include "volumes/volumes.h"

#define TICK_MS 250u       /* between two rounds of the keeper */
#define RELEASE_MS 5000u   /* for the commands on a volume that is let go */
#define FAILED_MS 30000u   /* until what failed is tried again */
#define HELD_MS 1000u      /* until the keeper looks at a lent volume again */
#define PATIENCE_MS 30000u /* a command's, with what does not answer */
#define LINGER_MS 5000u    /* how long a result may be asked for */
#define SILENT_MS 1000u    /* for a volume to answer in a list */
#define MAX_COMMANDS 8u    /* on one volume at a time */

enum volume_state {
  VOLUME_OPENING, /* a crew thread opens it */
  VOLUME_OPEN,
  VOLUME_LEAVING, /* open, and closed as soon as no command uses it */
  VOLUME_CLOSING, /* a crew thread closes it */
  VOLUME_FAILED,  /* it is not open; err and error say why */
};

struct volume {
  struct volumes *vs;
  LIST_ENTRY (volume) next;
  char *path;
  uid_t uid; /* whose share it uses */
  enum volume_state state;
  uint64_t since; /* when it came into this state */

  /* For the opening. */
  struct disk_config more;
  char *backing;
  bool fresh;       /* it is being made */
  bool kept;        /* the keeper opens it */
  uint64_t made_by; /* serial of the command that makes it, and is counted in
                       refs until it has come for it; 0: none */

  struct disk *disk;
  unsigned refs;       /* commands that use the disk */
  bool used;           /* a command has had it */
  bool silent;         /* it did not answer in a list, and does not yet */
  uint64_t idle_since; /* when it was last asked for; lists do not count */
  bool plain;          /* it had no sidecar when it was opened: it is left
                          without, if it has no job */
  uint64_t leave_by;   /* until then it is VOLUME_LEAVING, then open again */
  uint64_t refused_at; /* when that last happened */

  int err; /* VOLUME_FAILED: why */
  char *error;
};

struct look;
struct away;

struct volumes {
  struct volumes_config config;
  char *runtime_dir, *control, *state_dir;
  struct control_volumes commands;
  struct crew *crew;

  struct lock lock; /* guards from here to result */
  pthread_cond_t changed;
  LIST_HEAD (, volume) open;
  unsigned nr_open; /* those of `open` that are not VOLUME_FAILED */
  LIST_HEAD (, look) looks;
  LIST_HEAD (, away) away;
  unsigned nr_away;
  struct ledger *ledger;
  uint64_t durable;       /* the ledger's version that is on the disk */
  uint64_t failed;        /* the version that could last not be written, */
  int failed_errno;       /* why, */
  uint64_t write_again;   /* and when the keeper tries again */
  uint64_t writing_since; /* when the present write was begun */
  bool writing;           /* a crew thread writes the ledger */
  uint64_t speed_serial;  /* of the command that set the limit last */
  bool waiting;           /* a command has returned table_later */
  bool stop;
  int result; /* of volumes_stop: -1 if a volume could not be made durable */

  pthread_t keeper;
  bool keeping;
};

static inline bool
has_job (struct disk *disk)
{
  enum job_status status = job_get_status (disk);

  return status != JOB_NONE && status != JOB_CONCLUDED;
}

#endif
