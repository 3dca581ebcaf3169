/* boot.h - a disk's boot trace: which file it is, when it is recorded, replayed
 * and saved.
 *
 * A trace is a hint.  Whatever is wrong with it costs a message and the hint,
 * never the disk: no function here fails.
 *
 * Locking: boot_note from any thread with no lock held; boot_start from the
 * thread that opens the disk, boot_tick from the housekeeper, boot_stop from
 * the gate.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_BOOT_H
#define BACKFILL_BOOT_H

#include <stdbool.h>
#include <stdint.h>

#include "recorder.h"
#include "replay.h"

struct disk;
struct disk_config;
struct disk_trace_info;

struct boot {
  bool is_used;
  bool is_given; /* path is the user's */
  char *dir;     /* as given; NULL: path is given, or the default is used */
  char *path;    /* of the trace; NULL: not known yet, or none is used */
  struct recorder recorder;
  struct saving *saving; /* by a thread of its own, NULL: not yet */
};

void boot_init (struct disk *d);
void boot_destroy (struct disk *d);

/* Take what the keys say.  0, or -1: no memory. */
int boot_configure (struct disk *d, const struct disk_config *cfg);
/* Load the trace, begin to replay it, and record the next. */
void boot_start (struct disk *d);
/* A guest reads the range, length not 0.  True: read-ahead is not needed. */
bool boot_note (struct disk *d, uint64_t offset, uint64_t length);
/* Begin to save the recording, once it is over. */
void boot_tick (struct disk *d, uint64_t now);
/* End the replay.  False: the replay's thread has not ended by `until` (ms),
 * and boot_stop is to be called again. */
bool boot_stop (struct disk *d, uint64_t until);
/* End the recording and save it, for a second at most.  The housekeeper has
 * ended before. */
void boot_end (struct disk *d);
void boot_get_info (struct disk *d, struct disk_trace_info *info);

#endif
