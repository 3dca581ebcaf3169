/* writer.c - see writer.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>

#include "cleanup.h"
#include "clock.h"
#include "log.h"
#include "message.h"
#include "volumes/access.h"
#include "volumes/table.h"
#include "volumes/writer.h"

static void
note_failure (struct volumes *vs, uint64_t version, int err)
{
  ASSERT_HELD (&vs->lock);
  vs->failed = version;
  vs->failed_errno = err;
  vs->write_again = now_ms () + FAILED_MS;
  errno = err;
  log_error ("the ledger in %s cannot be written: %m", vs->state_dir);
}

/* A task of the crew: write the ledger until its last version is durable, or
 * cannot be written. */
static void
write_ledger (void *arg)
{
  struct volumes *vs = arg;
  LOCK_SCOPE (&vs->lock);

  while (vs->durable < vs->ledger->version) {
    CLEANUP_FREE char *text = ledger_text (vs->ledger);
    uint64_t version = vs->ledger->version;
    int r, err;

    vs->writing_since = now_ms ();
    {
      UNLOCK_SCOPE (&vs->lock);
      errno = ENOMEM;
      r = text ? ledger_write (vs->state_dir, text) : -1;
      err = errno;
    }
    if (r == 0)
      vs->durable = version;
    else {
      note_failure (vs, version, err);
      break;
    }
    table_changed (vs);
  }
  vs->writing = false;
  table_changed (vs);
}

void
writer_start (struct volumes *vs)
{
  ASSERT_HELD (&vs->lock);
  if (vs->writing || vs->durable >= vs->ledger->version)
    return;
  if (crew_run (vs->crew, write_ledger, vs) == -1) {
    note_failure (vs, vs->ledger->version, errno);
    return;
  }
  vs->writing = true;
  vs->writing_since = now_ms ();
}

int
writer_is_durable (struct volumes *vs, uint64_t version, char **error)
{
  ASSERT_HELD (&vs->lock);
  if (vs->durable >= version)
    return 1;
  if (vs->failed < version)
    writer_start (vs);
  if (vs->failed >= version)
    errno = vs->failed_errno;
  else if (vs->writing && now_ms () - vs->writing_since > PATIENCE_MS)
    errno = ETIMEDOUT;
  else
    return 0;
  message_set (error, "the ledger in %s cannot be written: %m", vs->state_dir);
  return -1;
}

static int
fail_ledger (const char *path, char **error)
{
  if (errno == EDQUOT)
    message_set (error,
                 "'%s': as many of your volumes as may be have a job in "
                 "progress: wait until one has ended",
                 path);
  else
    message_set (error, "out of memory");
  return -1;
}

int
writer_enter (struct volumes *vs, const struct control_peer *peer,
              const char *path, char **error)
{
  const struct ledger_entry *e = ledger_find (vs->ledger, path);
  bool ended = e && e->ended;
  int r, err;

  ASSERT_HELD (&vs->lock);
  e = ledger_add (vs->ledger, path, access_user (peer));
  if (!e)
    return fail_ledger (path, error);
  r = writer_is_durable (vs, e->version, error);
  if (r == 1)
    return 0;
  if (r == 0)
    return table_later (vs);
  err = errno;
  if (ended)
    ledger_end (vs->ledger, path);
  else
    ledger_remove (vs->ledger, path);
  errno = err;
  return -1;
}
