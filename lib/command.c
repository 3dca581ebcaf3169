/* command.c - any command of the protocol, as it is written.
 *
 * What asks all servers elsewhere in the library does so here: query-disks and
 * query-block-jobs without a device.
 *
 * Locking: client.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <errno.h>

#include "client.h"
#include "cleanup.h"

int
backfill_command (struct backfill *h, const char *command,
                  const char *arguments, char **reply)
{
  CLEANUP_FREE char *device = NULL;
  json_auto_t *value = NULL;
  json_t *args = NULL;

  *reply = NULL;
  if (arguments != NULL) {
    json_error_t err;
    json_t *disk;

    args = json_loads (arguments, JSON_REJECT_DUPLICATES, &err);
    if (!json_is_object (args)) {
      json_decref (args);
      return error_set (EINVAL,
                        "the arguments of '%s' are not a JSON object: %s",
                        command, arguments);
    }
    /* Of any other type it goes through as it is, for the server to refuse. */
    disk = json_object_get (args, "device");
    if (json_is_string (disk)) {
      device = strdup (json_string_value (disk));
      json_object_del (args, "device");
      if (device == NULL) {
        json_decref (args);
        error_nomem ();
        return -1;
      }
    }
  }
  if (device == NULL && h->socket == NULL && json_object_size (args) == 1
      && json_is_true (json_object_get (args, "all"))
      && strcmp (command, "query-disks") == 0) {
    json_decref (args);
    value = disks_ask_all (h);
  }
  else if (device == NULL && json_object_size (args) == 0
           && (strcmp (command, "query-disks") == 0
               || strcmp (command, "query-block-jobs") == 0)) {
    json_decref (args);
    value = disks_ask (h, command);
  }
  else
    value = handle_call (h, device, command, args);
  if (value == NULL)
    return -1;
  *reply = json_dumps (value, JSON_COMPACT | JSON_ENCODE_ANY);
  if (*reply == NULL)
    error_nomem ();
  return *reply == NULL ? -1 : 0;
}
