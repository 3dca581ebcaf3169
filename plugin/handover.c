/* handover.c - see handover.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include <jansson.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "backfill.h"
#include "cleanup.h"
#include "handover.h"
#include "plugin.h"

/* Milliseconds: for backfilld to close a volume, and to note one. */
#define RELEASE_TIMEOUT 20000
#define OFFER_TIMEOUT 1000
/* Tries, with pauses of 100 ms, until the volume of an owner that died is free;
 * and of an owner that the registry does not name. */
#define LOST_TRIES 50u
#define NOBODY_TRIES 5u
/* How often the volume may be let go, and another process have it first. */
#define RELEASE_TRIES 100u

/* A command to the owner of a store, or to backfilld if it has none. */
static int
ask_owner (const char *command, const char *store, unsigned timeout)
{
  struct backfill *h = backfill_connect (NULL);
  CLEANUP_FREE char *reply = NULL;
  CLEANUP_FREE char *arguments = NULL;
  json_t *o = json_pack ("{s:s}", "device", store);
  int r = -1;

  if (o)
    arguments = json_dumps (o, 0);
  json_decref (o);
  if (h && arguments) {
    backfill_set_timeout (h, timeout);
    r = backfill_command (h, command, arguments, &reply);
  }
  backfill_close (h);
  return r;
}

/* Does the error say that the volume's owner did not refuse, but is gone, or
 * going?  Then the volume is free soon. */
static bool
is_lost (int err)
{
  return err == ENXIO || err == ECONNRESET || err == EPIPE || err == ENOTCONN
         || err == ECONNREFUSED || err == ECONNABORTED || err == ENOENT
         || err == ESHUTDOWN;
}

/* backfilld lets the volume go for this process; any other owner refuses.  If
 * the owner dies meanwhile, or is started again and opens the volume first,
 * this process asks again. */
struct disk *
handover_open (const struct disk_config *dc, char **error)
{
  const struct timespec pause = { .tv_nsec = 100 * 1000 * 1000 };
  bool asked = false;
  unsigned lost = 0;

  for (unsigned tries = 0;; tries++) {
    struct disk *disk = disk_open (dc, error);
    int err;

    if (disk || errno != EBUSY || tries == RELEASE_TRIES)
      return disk;
    if (ask_owner ("disk-release", dc->store, RELEASE_TIMEOUT) == 0) {
      nbdkit_debug ("%s: backfilld let it go", dc->store);
      asked = true;
    }
    else {
      err = backfill_get_errno ();
      nbdkit_debug ("%s: its owner does not let it go: %s", dc->store,
                    backfill_get_error ());
      /* ENXIO: the owner is not in the registry, and may stay: fewer tries. */
      asked = asked || err != ENXIO;
      if (!is_lost (err) || ++lost > (asked ? LOST_TRIES : NOBODY_TRIES)) {
        errno = EBUSY;
        return NULL;
      }
      nanosleep (&pause, NULL);
    }
    free (*error);
    *error = NULL;
  }
}

void
handover_offer (struct disk *disk)
{
  enum job_status status = job_get_status (disk);

  if (status == JOB_NONE || status == JOB_CONCLUDED || disk_read_only (disk))
    return;
  if (ask_owner ("disk-take", disk_store_path (disk), OFFER_TIMEOUT) == -1)
    nbdkit_debug ("%s: nobody goes on with its job: %s", disk_store_path (disk),
                  backfill_get_error ());
}
