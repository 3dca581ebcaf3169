/* log.c - see log.h.  The sink is set once, before any thread is made, so
 * nothing is locked here.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"
#include "message.h"

static void to_stderr (enum log_level level, const char *fmt, va_list ap)
    __attribute__ ((format (printf, 2, 0)));

static log_sink sink = to_stderr;

static void
to_stderr (enum log_level level, const char *fmt, va_list ap)
{
  int err = errno;

  /* One line stays one line when several threads write. */
  flockfile (stderr);
  fputs (level == LOG_LEVEL_ERROR  ? "backfill: error: "
         : level == LOG_LEVEL_INFO ? "backfill: "
                                   : "backfill: debug: ",
         stderr);
  errno = err;
  vfprintf (stderr, fmt, ap);
  putc ('\n', stderr);
  funlockfile (stderr);
}

void
log_set_sink (log_sink new_sink)
{
  sink = new_sink ? new_sink : to_stderr;
}

static void pass (enum log_level level, const char *fmt, ...)
    __attribute__ ((format (printf, 2, 3)));

static void
pass (enum log_level level, const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  sink (level, fmt, ap);
  va_end (ap);
}

static void say (enum log_level level, const char *fmt, va_list ap)
    __attribute__ ((format (printf, 2, 0)));

/* A line stays a line, whatever the names in it are. */
static void
say (enum log_level level, const char *fmt, va_list ap)
{
  int err = errno;
  char *text = NULL;

  if (vasprintf (&text, fmt, ap) == -1)
    text = NULL;
  errno = err;
  pass (level, "%s", text ? message_clean (text) : "out of memory");
  free (text);
  errno = err;
}

void
log_error (const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  say (LOG_LEVEL_ERROR, fmt, ap);
  va_end (ap);
}

void
log_info (const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  say (LOG_LEVEL_INFO, fmt, ap);
  va_end (ap);
}

void
log_debug (const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  say (LOG_LEVEL_DEBUG, fmt, ap);
  va_end (ap);
}
