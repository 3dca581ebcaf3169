/* looks.h - looks: questions about a path that change nothing.
 *
 * Whose is the store, has it a sidecar, has somebody got it open, what does
 * the sidecar say?  A task of the crew asks, as the path's file system may
 * hang.  The answers are kept for LINGER_MS, per path and user.
 *
 * Locking: the caller of each function holds vs->lock.  A look that is not
 * busy may be read until vs->lock is given up.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_VOLUMES_LOOKS_H
#define BACKFILL_VOLUMES_LOOKS_H

#include "control.h"
#include "volumes/internal.h"

struct look {
  struct volumes *vs;
  LIST_ENTRY (look) next;
  char *path;
  uid_t uid;       /* for whom: 0 sees all */
  bool deep;       /* it asks how much is local, too */
  bool busy;       /* a crew thread has it */
  uint64_t since;  /* when it was last begun, */
  uint64_t ended;  /* and when that was answered */
  uint64_t serial; /* of the command that it was begun for; 0: for none */
  struct disk_peek peek;
  int err; /* 0, or why peek holds nothing */
  char *error;
};

/* What is known of path for that user, asked no earlier than `since` (ms), and
 * no earlier than for the command of that serial.  NULL: it is being asked, or
 * has to wait for the user's share. */
struct look *look_at (struct volumes *vs, const char *path, uid_t uid,
                      bool deep, uint64_t since, uint64_t serial)
    __attribute__ ((nonnull (1, 2)));
/* The same for a command: 0 and *l, whose err is to be looked at; or -1 with
 * errno (EINPROGRESS: come again) and *error. */
int look_for (struct volumes *vs, const struct control_peer *peer,
              const char *path, bool deep, struct look **l, char **error)
    __attribute__ ((nonnull (1, 2, 3, 5, 6)));
/* Always -1, with the look's errno and error. */
int look_fail (const struct look *l, char **error)
    __attribute__ ((nonnull (1, 2)));

/* The last look at path for that user, done or not; NULL: there is none. */
struct look *look_last (struct volumes *vs, const char *path, uid_t uid)
    __attribute__ ((nonnull (1, 2)));

/* A copy of what a look found, to be cleared.  0, or -1 with ENOMEM. */
int look_copy (struct disk_peek *to, const struct disk_peek *from)
    __attribute__ ((nonnull (1, 2)));

/* Forget the answers that are too old to be asked for. */
void look_forget_old (struct volumes *vs) __attribute__ ((nonnull (1)));
/* Take the look out of the list, and free it. */
void look_free (struct look *l) __attribute__ ((nonnull (1)));

#endif
