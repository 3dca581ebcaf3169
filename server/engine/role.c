/* role.c - see role.h.
 *
 * The table says what may follow what, and of each step what must stay the same
 * and what must be new; a step that is not in the table is refused.
 * Values that come from the other side are looked at here only as bytes.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "message.h"
#include "role.h"

static const uint8_t no_id[ROLE_ID_SIZE];

static bool
same_id (const uint8_t *a, const uint8_t *b)
{
  return memcmp (a, b, ROLE_ID_SIZE) == 0;
}

static bool
has_id (const uint8_t *id)
{
  return !same_id (id, no_id);
}

void
role_clear (struct role *role)
{
  free (role->host);
  free (role->peer);
  free (role->planes);
  memset (role, 0, sizeof *role);
}

static int
copy_string (char **to, const char *from)
{
  *to = from ? strdup (from) : NULL;
  return from && !*to ? -1 : 0;
}

int
role_copy (struct role *to, const struct role *from)
{
  struct role copy = *from;
  int r;

  copy.host = copy.peer = copy.planes = NULL;
  r = copy_string (&copy.host, from->host)
      | copy_string (&copy.peer, from->peer)
      | copy_string (&copy.planes, from->planes);
  if (r == -1) {
    role_clear (&copy);
    errno = ENOMEM;
    return -1;
  }
  role_clear (to);
  *to = copy;
  return 0;
}

const char *
role_name (enum role_kind kind)
{
  static const char *const names[NR_ROLES] = {
    [ROLE_NONE] = "none",         [ROLE_OWNER] = "owner",
    [ROLE_SENDING] = "sending",   [ROLE_GIVEN] = "given",
    [ROLE_INCOMING] = "incoming", [ROLE_PREPARED] = "prepared",
    [ROLE_ABORTED] = "aborted",   [ROLE_BACK] = "back",
  };

  return kind < NR_ROLES ? names[kind] : "unknown";
}

/* Packing: docs/backfill-format.pod has the offsets. */

void
role_pack (const struct role *role, uint8_t buf[ROLE_RECORD])
{
  memset (buf, 0, ROLE_RECORD);
  put_le32 (buf, role->kind);
  put_le32 (buf + 4, role->flags);
  memcpy (buf + 8, role->lineage, ROLE_ID_SIZE);
  memcpy (buf + 24, role->mid, ROLE_ID_SIZE);
  memcpy (buf + 40, role->freeze, ROLE_ID_SIZE);
  put_le64 (buf + 56, role->epoch.number);
  put_le64 (buf + 64, role->epoch.random);
  put_le64 (buf + 72, role->generation);
  put_le64 (buf + 80, role->round);
}

int
role_unpack (struct role *role, const uint8_t buf[ROLE_RECORD])
{
  uint32_t kind = get_le32 (buf);

  if (kind == ROLE_NONE || kind >= NR_ROLES
      || (get_le32 (buf + 4) & ~ROLE_ALL_FLAGS))
    return -1;
  role->kind = kind;
  role->flags = get_le32 (buf + 4);
  memcpy (role->lineage, buf + 8, ROLE_ID_SIZE);
  memcpy (role->mid, buf + 24, ROLE_ID_SIZE);
  memcpy (role->freeze, buf + 40, ROLE_ID_SIZE);
  role->epoch.number = get_le64 (buf + 56);
  role->epoch.random = get_le64 (buf + 64);
  role->generation = get_le64 (buf + 72);
  role->round = get_le64 (buf + 80);
  return 0;
}

/* The kinds, as bits. */
#define IS(kind) (1u << (kind))

/* The roles whose records belong to one freeze. */
#define HAS_FREEZE \
  (IS (ROLE_PREPARED) | IS (ROLE_GIVEN) | IS (ROLE_OWNER) | IS (ROLE_BACK))
/* The roles that the other side must know of. */
#define CAN_BE_HEARD \
  (IS (ROLE_GIVEN) | IS (ROLE_OWNER) | IS (ROLE_ABORTED) | IS (ROLE_BACK))

static bool
fits (const char *s)
{
  return !s || strlen (s) <= ROLE_STRING;
}

bool
role_is_whole (const struct role *role)
{
  unsigned kind = IS (role->kind);

  if (role->kind == ROLE_NONE)
    return true;
  return has_id (role->lineage) && has_id (role->mid) && role->epoch.number > 0
         && has_id (role->freeze) == ((kind & HAS_FREEZE) != 0)
         && (!(role->flags & ROLE_LATCHED) || role->kind == ROLE_OWNER)
         && (!(role->flags & ROLE_HEARD) || (kind & CAN_BE_HEARD))
         && (!role->planes || role->kind == ROLE_SENDING) && role->host
         && fits (role->host) && fits (role->peer) && fits (role->planes);
}

/* What may follow what. */

enum epoch_step { SAME, NEXT, ANY };

static const struct step {
  enum role_kind from, to;
  bool same_mid;
  enum epoch_step epoch;
  uint32_t needs;  /* flags of the first */
  uint32_t lacks;  /* and those that it must not have */
  const char *why; /* what these mean, if they are not so */
} steps[] = {
  /* The source. */
  { ROLE_NONE, ROLE_SENDING, false, ANY, 0, 0, NULL },
  { ROLE_SENDING, ROLE_SENDING, true, SAME, 0, 0, NULL },
  { ROLE_SENDING, ROLE_GIVEN, true, NEXT, 0, 0, NULL },
  { ROLE_SENDING, ROLE_NONE, false, ANY, 0, 0, NULL }, /* cancelled */
  { ROLE_GIVEN, ROLE_GIVEN, true, SAME, 0, 0, NULL },
  { ROLE_GIVEN, ROLE_OWNER, true, NEXT, 0, 0, NULL }, /* taken back */
  /* The destination. */
  { ROLE_NONE, ROLE_INCOMING, false, ANY, 0, 0, NULL },
  { ROLE_INCOMING, ROLE_INCOMING, true, SAME, 0, 0, NULL },
  { ROLE_INCOMING, ROLE_PREPARED, true, NEXT, 0, 0, NULL },
  { ROLE_INCOMING, ROLE_ABORTED, true, SAME, 0, 0, NULL },
  { ROLE_PREPARED, ROLE_INCOMING, true, ANY, 0, 0, NULL }, /* stale */
  { ROLE_PREPARED, ROLE_OWNER, true, SAME, 0, 0, NULL },
  { ROLE_PREPARED, ROLE_ABORTED, true, SAME, 0, 0, NULL },
  { ROLE_ABORTED, ROLE_ABORTED, true, SAME, 0, 0, NULL },
  { ROLE_OWNER, ROLE_BACK, true, NEXT, 0, ROLE_LATCHED,
    "a guest may have changed the disk here" },
  { ROLE_BACK, ROLE_BACK, true, SAME, 0, 0, NULL },
  /* Both. */
  { ROLE_OWNER, ROLE_OWNER, true, SAME, 0, 0, NULL },
  /* Its end is known to both: the next one may begin. */
  { ROLE_OWNER, ROLE_NONE, false, ANY, ROLE_HEARD, 0,
    "the other side does not know yet who owns the disk" },
  { ROLE_GIVEN, ROLE_INCOMING, false, ANY, ROLE_HEARD, 0,
    "the other side has not said yet that it took the disk" },
  { ROLE_ABORTED, ROLE_INCOMING, false, ANY, ROLE_HEARD, 0,
    "the other side has not heard yet that this was given up" },
  { ROLE_BACK, ROLE_INCOMING, false, ANY, ROLE_HEARD, 0,
    "the other side has not heard yet that it has the disk back" },
};

static bool
epoch_is (const struct role *was, const struct role *next, enum epoch_step step)
{
  switch (step) {
  case SAME:
    return role_epoch_compare (&was->epoch, &next->epoch) == 0;
  case NEXT:
    return next->epoch.number == was->epoch.number + 1;
  case ANY:
    break;
  }
  return true;
}

static bool
is_allowed (const struct step *step, const struct role *was,
            const struct role *next, const char **why)
{
  const uint32_t lost = was->flags & ~next->flags;

  *why = step->why;
  if ((was->flags & step->needs) != step->needs || (was->flags & step->lacks))
    return false;
  *why = "it is not of the same disk";
  if (step->same_mid && !same_id (was->lineage, next->lineage))
    return false;
  *why = "it is of another migration";
  if (step->same_mid && !same_id (was->mid, next->mid))
    return false;
  *why = "the migration has ended before";
  if (!step->same_mid && next->kind != ROLE_NONE
      && same_id (was->mid, next->mid))
    return false;
  *why = "its epoch is wrong";
  if (!epoch_is (was, next, step->epoch))
    return false;
  /* Both records must be of one freeze, and a step within one kind keeps all
   * flags. */
  *why = "it is of another freeze";
  if (step->same_mid && has_id (was->freeze) && has_id (next->freeze)
      && !same_id (was->freeze, next->freeze))
    return false;
  *why = "it takes back what has been recorded";
  return was->kind != next->kind || lost == 0;
}

bool
role_may_follow (const struct role *was, const struct role *next,
                 const char **why)
{
  *why = "a record lacks something, or has what its role cannot have";
  if (!role_is_whole (next))
    return false;
  *why = "no such step is known";
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
    if (steps[i].from == was->kind && steps[i].to == next->kind)
      return is_allowed (&steps[i], was, next, why);
  return false;
}

/* What a role allows. */

bool
role_serves (const struct role *role)
{
  return role->kind == ROLE_NONE || role->kind == ROLE_OWNER
         || role->kind == ROLE_SENDING;
}

bool
role_completes (const struct role *role)
{
  return role->kind == ROLE_NONE || role->kind == ROLE_OWNER;
}

/* Without its sidecar the volume could not say to the other side what came of
 * the migration. */
bool
role_detaches (const struct role *role)
{
  return role->kind == ROLE_NONE;
}

void
role_begin_session (struct role *role)
{
  if (role->kind == ROLE_OWNER)
    role->flags |= ROLE_LATCHED;
  free (role->planes);
  role->planes = NULL;
}

int
role_epoch_compare (const struct role_epoch *a, const struct role_epoch *b)
{
  if (a->number != b->number)
    return a->number < b->number ? -1 : 1;
  if (a->random != b->random)
    return a->random < b->random ? -1 : 1;
  return 0;
}

/* Texts. */

char *
role_peer (const struct role *role, char buf[ROLE_TEXT])
{
  const char *host = role->host ? role->host : "an unknown host";

  if (role->peer)
    snprintf (buf, ROLE_TEXT, "%s (%s)", host, role->peer);
  else
    snprintf (buf, ROLE_TEXT, "%s", host);
  return message_clean (buf);
}

char *
role_id_text (const uint8_t id[ROLE_ID_SIZE], char buf[ROLE_ID_TEXT])
{
  for (unsigned i = 0; i < ROLE_ID_SIZE; i++)
    snprintf (buf + 2 * i, 3, "%02x", id[i]);
  return buf;
}

void
role_explain (const struct role *role, const char *store, char **text)
{
  char peer[ROLE_TEXT], mid[ROLE_ID_TEXT];

  role_peer (role, peer);
  role_id_text (role->mid, mid);
  switch (role->kind) {
#define SAY(what)                                   \
  message_set (text, "%s " what, store, peer, mid); \
  break
  case ROLE_OWNER:
    SAY ("is owned here, after a migration with %s (%s): serve it here, and "
         "nowhere else");
  case ROLE_SENDING:
    SAY ("is owned here, and is being sent to %s (migration %s): serve it "
         "here, and nowhere else");
  case ROLE_GIVEN:
    SAY ("was given to %s (migration %s): serve it there, and keep its sidecar "
         "here, which says so");
  case ROLE_INCOMING:
    SAY ("is being received from %s (migration %s), and is not whole here: "
         "serve it there");
  case ROLE_PREPARED:
    SAY ("has been received from %s (migration %s), which may have given it "
         "since: ask 'backfill owner' there, and serve it nowhere until that "
         "is known");
  case ROLE_ABORTED:
    SAY ("was being received from %s (migration %s) until that was given up, "
         "and is not whole here: serve it there");
  case ROLE_BACK:
    SAY ("was given back to %s (migration %s): serve it there, and keep its "
         "sidecar here, which says so");
#undef SAY
  case ROLE_NONE:
  case NR_ROLES:
    message_set (text, "%s takes part in no migration: serve it here", store);
    break;
  }
}
