/* error.c - the last error of each thread.
 *
 * A failing call leaves a number and a text, which stay until the thread's
 * next failure; success does not clear them.  The text has a fixed buffer, so
 * that running out of memory can be told too; a longer one is cut.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdarg.h>
#include <stdio.h>
#include <errno.h>

#include "client.h"
#include "bridge.h"

static __thread int last_errno;
static __thread char last_text[4096];

int
error_set (int errnum, const char *fmt, ...)
{
  /* The arguments may point into last_text: build the new one beside it. */
  char text[sizeof last_text];
  va_list ap;

  va_start (ap, fmt);
  vsnprintf (text, sizeof text, fmt, ap);
  va_end (ap);
  snprintf (last_text, sizeof last_text, "%s", text);
  last_errno = errnum;
  errno = errnum;
  return -1;
}

int
backfill_private_error (int errnum, const char *text)
{
  return error_set (errnum, "%s", text);
}

void *
error_nomem (void)
{
  error_set (ENOMEM, "out of memory");
  return NULL;
}

int
backfill_get_errno (void)
{
  return last_errno;
}

const char *
backfill_get_error (void)
{
  return last_text;
}
