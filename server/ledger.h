/* ledger.h - what backfilld must know after a restart, on disk: the volumes
 * whose jobs it goes on with; the volumes whose jobs have ended, which are
 * listed until they are dismissed; and the speed limit of all jobs.
 *
 * A file `jobs.json` in the state directory: {"version": 1, "volumes":
 * [PATH, ...], "ended": [PATH, ...], "users": {PATH: UID}, "missing":
 * {PATH: SECONDS}, "total-speed": N, "speed-option": N}; all but the first two
 * may be missing.  ledger_write replaces the file whole and durably: after a
 * crash it is the old one or the new one.  The jobs themselves are in the
 * volumes' sidecars: an entry for a volume without a job is harmless.
 *
 * A file `lock` there keeps a second daemon from the same directory.
 *
 * Changes are made in memory, and counted in `version`.  ledger_text and
 * ledger_write bring them to the disk.
 *
 * Locking: the caller locks (backfilld: vs->lock), but for ledger_write, which
 * may hang and uses no struct ledger.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_LEDGER_H
#define BACKFILL_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Entries of one user other than root and the daemon's, and of all of these
 * users together. */
#define LEDGER_USER_MAX 256u
#define LEDGER_OTHERS_MAX 4096u
/* Entries that have ended and are kept for each user; the oldest go first. */
#define LEDGER_ENDED_MAX 128u

struct ledger_entry {
  char *path;
  uid_t uid;        /* whose share it uses: 0 for root and the daemon's */
  bool ended;       /* its job has ended, and is only listed */
  int64_t missing;  /* since when the store is not there, wall clock s; 0: it
                       is there */
  uint64_t version; /* of the ledger, when the entry was added */
};

struct ledger {
  char *dir;
  int lock_fd;
  struct ledger_entry **entry;
  size_t nr;
  bool has_speed;
  uint64_t total_speed, speed_option;
  uint64_t speed_version;
  uint64_t version; /* counts changes */
};

/* NULL with *error set (malloc'd).  A file that is missing is an empty one;
 * one that cannot be understood is an error, and so is another process that
 * uses the directory. */
struct ledger *ledger_open (const char *dir, char **error)
    __attribute__ ((nonnull (1, 2)));
void ledger_free (struct ledger *ledger);

/* NULL: there is none. */
struct ledger_entry *ledger_find (const struct ledger *ledger, const char *path)
    __attribute__ ((nonnull (1, 2)));
/* Is there an entry of path, with a job to go on with? */
bool ledger_has (const struct ledger *ledger, const char *path)
    __attribute__ ((nonnull (1, 2)));

/* Add an entry, or mark the one that is there as in progress.  NULL with errno:
 * ENOMEM, or EDQUOT if the user's share is used up. */
struct ledger_entry *ledger_add (struct ledger *ledger, const char *path,
                                 uid_t uid) __attribute__ ((nonnull (1, 2)));
/* Mark the job of path as ended. */
void ledger_end (struct ledger *ledger, const char *path)
    __attribute__ ((nonnull (1, 2)));
void ledger_remove (struct ledger *ledger, const char *path)
    __attribute__ ((nonnull (1, 2)));
void ledger_set_missing (struct ledger *ledger, struct ledger_entry *entry,
                         int64_t since) __attribute__ ((nonnull (1, 2)));
/* Note the speed limit, which holds until the daemon is started with another
 * `option`. */
void ledger_set_speed (struct ledger *ledger, uint64_t speed, uint64_t option)
    __attribute__ ((nonnull (1)));

/* All of it as the file has it, malloc'd; NULL on ENOMEM. */
char *ledger_text (const struct ledger *ledger) __attribute__ ((nonnull (1)));
/* Durable when it returns 0; -1 with errno.  One at a time. */
int ledger_write (const char *dir, const char *text)
    __attribute__ ((nonnull (1, 2)));

#endif
