/* args.h - the arguments of a command: checked against its row in the table,
 * then read by name.
 *
 * Locking: none; a call has one user at a time.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CONTROL_ARGS_H
#define BACKFILL_CONTROL_ARGS_H

#include <stdint.h>

#include "command.h"
#include "object.h"

/* Set the call's error, unless it has one. */
#define CALL_FAIL(call, ...)                      \
  do {                                            \
    if ((call)->error == NULL)                    \
      (call)->error = object_error (__VA_ARGS__); \
  } while (0)

/* Check names, types and ranges of all arguments that the client gave, and that
 * no argument is missing.  Sets the call's error. */
void args_check (struct call *call) __attribute__ ((nonnull (1)));

/* After args_check.  name is that of one of the command's arguments: another
 * name is a mistake in the program, and aborts. */

/* Integers, booleans and words (as an index): as given, else the default. */
json_int_t arg_value (const struct call *call, const char *name)
    __attribute__ ((nonnull (1, 2)));
uint64_t arg_size (const struct call *call, const char *name)
    __attribute__ ((nonnull (1, 2)));
/* NULL: the client gave no such argument. */
const char *arg_text (const struct call *call, const char *name)
    __attribute__ ((nonnull (1, 2)));

/* "integer", "boolean", "array" or "string". */
const char *arg_type_name (enum arg_type type);

#endif
