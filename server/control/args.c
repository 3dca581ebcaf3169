/* args.c - the arguments of a command: their types, and what a client gave.
 *
 * What is allowed comes from the command's row in command_table.  See args.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cleanup.h"

static const struct arg *
find_arg (const struct command *command, const char *name)
{
  for (const struct arg *a = command->args; a->type != ARG_END; a++)
    if (strcmp (a->name, name) == 0)
      return a;
  return NULL;
}

/* Integers, booleans and words (as an index): as given, else the default. */
json_int_t
arg_value (const struct call *call, const char *name)
{
  const struct arg *a = find_arg (call->command, name);
  const json_t *value = json_object_get (call->args, name);

  if (a == NULL)
    abort ();
  if (json_is_integer (value))
    return json_integer_value (value);
  if (json_is_boolean (value))
    return json_is_true (value);
  if (json_is_string (value))
    for (json_int_t i = 0; a->words[i] != NULL; i++)
      if (strcmp (a->words[i], json_string_value (value)) == 0)
        return i;
  return a->def;
}

uint64_t
arg_size (const struct call *call, const char *name)
{
  return (uint64_t)arg_value (call, name);
}

const char *
arg_type_name (enum arg_type type)
{
  switch (type) {
  case ARG_INTEGER:
    return "integer";
  case ARG_BOOLEAN:
    return "boolean";
  case ARG_LIST:
    return "array";
  case ARG_DEVICE:
  case ARG_TEXT:
  case ARG_WORD:
  case ARG_END:
    break;
  }
  return "string";
}

static bool
has_type (const json_t *value, enum arg_type type)
{
  switch (type) {
  case ARG_INTEGER:
    return json_is_integer (value);
  case ARG_BOOLEAN:
    return json_is_boolean (value);
  case ARG_LIST:
    return json_is_array (value);
  case ARG_DEVICE:
  case ARG_TEXT:
  case ARG_WORD:
    return json_is_string (value);
  case ARG_END:
    break;
  }
  return false;
}

/* "'report' or 'skip'" */
static char *
list_words (const char *const *words)
{
  char *list = NULL;
  size_t size;
  FILE *fp = open_memstream (&list, &size);

  if (fp == NULL)
    return NULL;
  for (size_t i = 0; words[i] != NULL; i++)
    fprintf (fp, "%s'%s'", i ? " or " : "", words[i]);
  if (fclose (fp) == 0)
    return list;
  free (list);
  return NULL;
}

static void
check_value (struct call *call, const struct arg *a, const json_t *value)
{
  json_int_t n = json_integer_value (value);

  if (!has_type (value, a->type)) {
    CALL_FAIL (call, "GenericError", EINVAL,
               "Invalid parameter type for '%s', expected: %s", a->name,
               arg_type_name (a->type));
    return;
  }
  if (a->type == ARG_INTEGER) {
    if (a->max && (n < a->min || n > a->max))
      CALL_FAIL (call, "GenericError", EINVAL,
                 "Parameter '%s' expects a value between %lld and %lld",
                 a->name, (long long)a->min, (long long)a->max);
    else if (n < 0)
      CALL_FAIL (call, "GenericError", EINVAL,
                 "Parameter '%s' expects a non-negative integer", a->name);
  }
  if (a->type == ARG_WORD) {
    CLEANUP_FREE char *list = NULL;

    for (size_t i = 0; a->words[i] != NULL; i++)
      if (strcmp (a->words[i], json_string_value (value)) == 0)
        return;
    list = list_words (a->words);
    CALL_FAIL (call, "GenericError", EINVAL,
               "Parameter '%s' does not accept value '%.64s': use %s", a->name,
               json_string_value (value), list ? list : "another");
  }
}

void
args_check (struct call *call)
{
  const struct command *command = call->command;
  const char *key;
  json_t *value;

  json_object_foreach (call->args, key, value) {
    const struct arg *a = find_arg (command, key);

    if (a == NULL)
      CALL_FAIL (call, "GenericError", EINVAL,
                 "QMP input member '%.64s' is unexpected", key);
    else
      check_value (call, a, value);
  }
  for (const struct arg *a = command->args; a->type != ARG_END; a++)
    if (!a->optional && json_object_get (call->args, a->name) == NULL)
      CALL_FAIL (call, "GenericError", EINVAL, "Parameter '%s' is missing",
                 a->name);
}

const char *
arg_text (const struct call *call, const char *name)
{
  return json_string_value (json_object_get (call->args, name));
}
