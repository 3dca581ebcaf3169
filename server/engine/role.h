/* role.h - whose a disk is while it moves from one host to another.
 *
 * A volume that takes part in a migration has a record in its sidecar's header,
 * which says whose turn it is.  The source of the migration has OWNER (or no
 * record), SENDING, GIVEN; the destination INCOMING, PREPARED, OWNER, or
 * ABORTED, BACK.  A guest is served where there is no record, in OWNER and in
 * SENDING, and nowhere else: by writing GIVEN the source alone decides, and the
 * destination becomes OWNER only by having that of its own migration and
 * freeze.
 *
 * This module is the record alone: its members, its packing, the steps from one
 * role to the next, and what each role allows.  The sidecar writes it
 * (sidecar_set_role). A record counts as long as it is there, and an older
 * program refuses the volume; it goes when both sides know how the migration
 * has ended.
 *
 * Shapes: strings are malloc'd, NULL if there is none, at most ROLE_STRING
 * bytes. They are another host's: show them by role_peer.
 *
 * Locking: none; a record is its holder's.
 *
 * Errors: functions with `why` set it to a static text.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_ROLE_H
#define BACKFILL_ROLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum role_kind {
  ROLE_NONE, /* no record: an ordinary volume */
  ROLE_OWNER,
  ROLE_SENDING,
  ROLE_GIVEN,
  ROLE_INCOMING,
  ROLE_PREPARED,
  ROLE_ABORTED,
  ROLE_BACK,
  NR_ROLES
};

/* role.flags */
#define ROLE_LATCHED 1u /* OWNER: a guest may have changed the disk here */
#define ROLE_HEARD 2u   /* the other side has said that it knows this */
#define ROLE_ALL_FLAGS 3u

#define ROLE_ID_SIZE 16
#define ROLE_STRING 1024u
/* Bytes of the packed record, without its strings. */
#define ROLE_RECORD 104u

/* Of two owners who meet the one with the lower epoch stops. */
struct role_epoch {
  uint64_t number, random;
};

struct role {
  enum role_kind kind;
  uint32_t flags;
  uint8_t lineage[ROLE_ID_SIZE]; /* the disk's, the same on all hosts */
  uint8_t mid[ROLE_ID_SIZE];     /* the migration's */
  uint8_t freeze[ROLE_ID_SIZE];  /* PREPARED, GIVEN, OWNER, BACK: which one */
  struct role_epoch epoch;
  /* Of the source's planes; INCOMING and what follows. */
  uint64_t generation, round;
  char *host;   /* the other side's */
  char *peer;   /* the name in its certificate */
  char *planes; /* SENDING: the file of dirty planes; NULL: all must be compared
                 */
};

void role_clear (struct role *role) __attribute__ ((nonnull (1)));
/* 0, or -1 with ENOMEM; *to is cleared first. */
int role_copy (struct role *to, const struct role *from)
    __attribute__ ((nonnull (1, 2)));

/* "sending"; "none". */
const char *role_name (enum role_kind kind);

/* The numbers of a record with a kind, from and to bytes. */
void role_pack (const struct role *role, uint8_t buf[ROLE_RECORD])
    __attribute__ ((nonnull (1, 2)));
/* -1: there is a kind or a flag that this program does not know. */
int role_unpack (struct role *role, const uint8_t buf[ROLE_RECORD])
    __attribute__ ((nonnull (1, 2)));
/* Has the record all that its kind needs, and no string that is too long? */
bool role_is_whole (const struct role *role) __attribute__ ((nonnull (1)));

/* May next be written over was?  Else *why. */
bool role_may_follow (const struct role *was, const struct role *next,
                      const char **why) __attribute__ ((nonnull (1, 2, 3)));

/* What a role allows. */
bool role_serves (const struct role *role) __attribute__ ((nonnull (1)));
bool role_completes (const struct role *role) __attribute__ ((nonnull (1)));
bool role_detaches (const struct role *role) __attribute__ ((nonnull (1)));

/* A session begins, of a program that marks no planes and holds no change back:
 * the record says so from then on. */
void role_begin_session (struct role *role) __attribute__ ((nonnull (1)));

/* <0, 0, >0 as a is lower, the same or higher. */
int role_epoch_compare (const struct role_epoch *a, const struct role_epoch *b)
    __attribute__ ((nonnull (1, 2)));

/* Enough for any peer's names, and for an id. */
#define ROLE_TEXT (2 * ROLE_STRING + 16)
#define ROLE_ID_TEXT (2 * ROLE_ID_SIZE + 1)
/* "HOST (NAME)", fit to be shown; returns buf. */
char *role_peer (const struct role *role, char buf[ROLE_TEXT])
    __attribute__ ((nonnull (1, 2)));
char *role_id_text (const uint8_t id[ROLE_ID_SIZE], char buf[ROLE_ID_TEXT])
    __attribute__ ((nonnull (1, 2)));

/* *text becomes what the role means for the disk in this store, and what to do
 * (message_set). */
void role_explain (const struct role *role, const char *store, char **text)
    __attribute__ ((nonnull (1, 2, 3)));

#endif
