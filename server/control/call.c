/* call.c - a message, from its first check to its answer.  See command.h.
 *
 * Checks come in this order, all before any side effect: JSON, members of the
 * message, negotiation, the command's name, its arguments' names, types and
 * ranges; then, on the thread that runs it, the disk; then what the engine
 * itself refuses.
 *
 * What a client sent is never put whole into a message, and an `id` that
 * would not leave room for an answer is refused: an answer always fits in a
 * line (WIRE_MAX_LINE).
 *
 * Left out: QMP's out-of-band execution.  Commands of one client run one
 * after the other.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "handlers.h"
#include "object.h"
#include "target.h"
#include "wire.h"

static void
check_members (struct call *call)
{
  const char *key;
  json_t *value;

  json_object_foreach (call->message, key, value) {
    if (strcmp (key, "execute") == 0) {
      if (!json_is_string (value))
        CALL_FAIL (call, "GenericError", EINVAL,
                   "QMP input member 'execute' must be a string");
    }
    else if (strcmp (key, "arguments") == 0) {
      if (!json_is_object (value))
        CALL_FAIL (call, "GenericError", EINVAL,
                   "QMP input member 'arguments' must be an object");
      else
        call->args = value;
    }
    else if (strcmp (key, "id") != 0)
      CALL_FAIL (call, "GenericError", EINVAL,
                 "QMP input member '%.64s' is unexpected", key);
  }
  if (json_object_get (call->message, "execute") == NULL)
    CALL_FAIL (call, "GenericError", EINVAL,
               "QMP input lacks member 'execute'");
}

const struct command *
call_begin (struct call *call, json_t *message, const char *parse_error)
{
  const struct command *command;
  const char *name;

  call->message = message;
  if (message == NULL) {
    CALL_FAIL (call, "GenericError", EINVAL, "%s",
               parse_error ? parse_error : "not a message");
    return NULL;
  }
  call->id = json_object_get (message, "id");
  if (call->id && json_dumpb (call->id, NULL, 0, DUMP_FLAGS) > MAX_ID) {
    call->id = NULL;
    CALL_FAIL (call, "GenericError", EINVAL,
               "QMP input member 'id' is longer than %u bytes", MAX_ID);
    return NULL;
  }
  check_members (call);
  if (call->error)
    return NULL;

  name = json_string_value (json_object_get (message, "execute"));
  command = command_find (name);
  if (!call->negotiated && (!command || command->run != run_capabilities))
    CALL_FAIL (call, "CommandNotFound", 0,
               "Expecting capabilities negotiation with 'qmp_capabilities'");
  else if (!command)
    CALL_FAIL (call, "CommandNotFound", 0,
               "The command %.64s has not been found", name);
  else if (call->negotiated && command->run == run_capabilities)
    CALL_FAIL (call, "CommandNotFound", 0,
               "Capabilities negotiation is already complete, command ignored");
  if (call->error)
    return NULL;

  call->command = command;
  args_check (call);
  return call->error ? NULL : command;
}

void
call_free (struct call *call)
{
  call_put_volume (call);
  json_decref (call->message);
  json_decref (call->error);
  call->message = call->id = call->args = call->error = NULL;
}

/* {key: value[, "id": id]} as a line; value is stolen. */
static char *
answer (const struct call *call, const char *key, json_t *value, size_t *len)
{
  json_t *o = json_object ();
  char *line = NULL;

  if (object_set (o, key, value) == 0
      && (call->id == NULL
          || object_set (o, "id", json_incref (call->id)) == 0))
    line = wire_line (o, len);
  json_decref (o);
  return line;
}

char *
call_answer (struct call *call, json_t *result, size_t *len)
{
  char *line = NULL;

  if (result != NULL) {
    line = answer (call, "return", result, len);
    if (line && *len >= WIRE_MAX_LINE) {
      CALL_FAIL (call, "GenericError", EMSGSIZE,
                 "The answer does not fit in a message: ask for one disk at a "
                 "time, with 'device'");
      free (line);
      line = NULL;
    }
  }
  if (line == NULL && call->error != NULL)
    line = answer (call, "error", json_incref (call->error), len);
  call_free (call);
  return line;
}

char *
call_run (struct call *call, size_t *len)
{
  json_t *result = NULL;

  call->wait = false;
  if (call->error == NULL && call->command != NULL) {
    result = call->command->run (call);
    if (call->wait) {
      json_decref (result);
      call_put_volume (call);
      return NULL;
    }
    if (result == NULL)
      CALL_FAIL (call, "GenericError", ENOMEM, "out of memory");
  }
  return call_answer (call, result, len);
}

json_t *
call_try (struct call *call)
{
  return call->command->quick ? call->command->quick (call) : NULL;
}
