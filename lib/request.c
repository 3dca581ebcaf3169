/* request.c - what the calls about disks and jobs send.
 *
 * Locking: client.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <inttypes.h>
#include <errno.h>

#include "client.h"
#include "cleanup.h"

int
request_check_size (const char *what, uint64_t n)
{
  if (n > INT64_MAX)
    return error_set (EINVAL, "the %s is more than any disk can hold", what);
  return 0;
}

int
request_number (uint64_t number, json_t **args)
{
  *args = NULL;
  if (number == 0)
    return 0;
  if (number > INT64_MAX)
    return error_set (ESRCH, "no job has the number %" PRIu64, number);
  *args = json_pack ("{s:I}", "number", (json_int_t)number);
  if (*args == NULL)
    error_nomem ();
  return *args == NULL ? -1 : 0;
}

int
request_simple (struct backfill *h, const char *disk, const char *command,
                json_t *arguments)
{
  int64_t deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL;
  struct conn *conn = route_disk (h, disk, false, &device, deadline);
  json_t *reply = NULL;

  if (conn == NULL) {
    json_decref (arguments);
    return -1;
  }
  /* Commands of QEMU's that need a device have no "only one" default. */
  if (device == NULL)
    device = route_disk_name (conn, NULL, deadline);
  if (device == NULL)
    json_decref (arguments);
  else
    reply = handle_execute (conn, device, command, arguments, deadline);
  handle_give (h, conn);
  if (reply == NULL)
    return -1;
  json_decref (reply);
  return 0;
}
