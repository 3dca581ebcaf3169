/* message.c - what the command says on standard error.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "cleanup.h"
#include "cli.h"
#include "message.h"

struct cli cli;

static void __attribute__ ((format (printf, 1, 0)))
complain (const char *fmt, va_list ap)
{
  CLEANUP_FREE char *text = NULL;

  if (vasprintf (&text, fmt, ap) == -1)
    text = NULL;
  fflush (stdout);
  fprintf (stderr, "backfill: %s\n",
           text != NULL ? message_clean (text) : "out of memory");
}

void
cli_usage (const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  complain (fmt, ap);
  va_end (ap);
  fprintf (stderr, "Try 'backfill %s%s--help'.\n",
           cli.command != NULL ? cli.command : "",
           cli.command != NULL ? " " : "");
  exit (STATUS_USAGE);
}

int
cli_error (const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  complain (fmt, ap);
  va_end (ap);
  return STATUS_FAILED;
}

int
cli_failed (void)
{
  if (backfill_get_errno () == ENXIO && cli.socket == NULL)
    return cli_error ("%s (-c SOCKET names a control socket that is "
                      "somewhere else)",
                      backfill_get_error ());
  return cli_error ("%s", backfill_get_error ());
}
