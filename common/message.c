/* message.c - see message.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

void
message_set (char **error, const char *fmt, ...)
{
  int err = errno;
  char *text = NULL;
  va_list ap;

  va_start (ap, fmt);
  if (vasprintf (&text, fmt, ap) == -1)
    text = strdup ("out of memory");
  va_end (ap);
  if (!text)
    abort ();
  free (*error);
  *error = text;
  errno = err;
}
