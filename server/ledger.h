/* ledger.h - what backfilld must not forget, on disk: the volumes whose jobs
 * it looks after, so that it goes on with them after a restart; those whose
 * jobs have ended, so that they can be told of until they are dismissed; and
 * the limit of all jobs.
 *
 * A file `jobs.json` in the state directory: {"version": 1, "volumes":
 * [PATH, ...], "ended": [PATH, ...], "users": {PATH: UID}, "missing":
 * {PATH: SECONDS}, "total-speed": N, "speed-option": N}; all but the first two
 * may be missing.  It is replaced whole and durably, so that it is old or new.
 * The jobs themselves are in the volumes' sidecars: an entry for a volume that
 * has none any more is harmless.
 *
 * A file `lock` there keeps a second daemon from the same directory.
 *
 * Memory and file are two things: changes are made in memory, at once, and
 * counted; ledger_text and ledger_write bring them to the disk, the latter
 * without the caller's lock.
 *
 * Locking: the caller's; ledger_write needs none.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_LEDGER_H
#define BACKFILL_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Of one user, if it is another than root and our own, and of all of them. */
#define LEDGER_USER_MAX 256u
#define LEDGER_OTHERS_MAX 4096u
/* Ended ones that are kept for each user; the oldest go first. */
#define LEDGER_ENDED_MAX 128u

struct ledger_entry {
  char *path;
  uid_t uid;        /* for whom it is kept: 0 for root and our own */
  bool ended;       /* no job to go on with, one to be told of */
  int64_t missing;  /* the store was not there: since, wall clock s; 0 */
  uint64_t version; /* the ledger's, when it was added */
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
/* Is there, and has a job to go on with? */
bool ledger_has (const struct ledger *ledger, const char *path)
    __attribute__ ((nonnull (1, 2)));

/* Add it, or make it one whose job is in progress.  NULL with errno: ENOMEM,
 * EDQUOT for the user's share. */
struct ledger_entry *ledger_add (struct ledger *ledger, const char *path,
                                 uid_t uid) __attribute__ ((nonnull (1, 2)));
/* Its job has ended. */
void ledger_end (struct ledger *ledger, const char *path)
    __attribute__ ((nonnull (1, 2)));
void ledger_remove (struct ledger *ledger, const char *path)
    __attribute__ ((nonnull (1, 2)));
void ledger_set_missing (struct ledger *ledger, struct ledger_entry *entry,
                         int64_t since) __attribute__ ((nonnull (1, 2)));
/* What holds until the daemon is started with another option. */
void ledger_set_speed (struct ledger *ledger, uint64_t speed, uint64_t option)
    __attribute__ ((nonnull (1)));

/* All of it as the file has it, malloc'd; NULL on ENOMEM. */
char *ledger_text (const struct ledger *ledger) __attribute__ ((nonnull (1)));
/* Durable when it returns 0; -1 with errno.  One at a time. */
int ledger_write (const char *dir, const char *text)
    __attribute__ ((nonnull (1, 2)));

#endif
