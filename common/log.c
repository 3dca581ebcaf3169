/* log.c - see log.h.  The sink is set once, before any thread is made, so
 * nothing is locked here.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>

#include "log.h"

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

void
log_error (const char *fmt, ...)
{
  int err = errno;
  va_list ap;

  va_start (ap, fmt);
  sink (LOG_LEVEL_ERROR, fmt, ap);
  va_end (ap);
  errno = err;
}

void
log_info (const char *fmt, ...)
{
  int err = errno;
  va_list ap;

  va_start (ap, fmt);
  sink (LOG_LEVEL_INFO, fmt, ap);
  va_end (ap);
  errno = err;
}

void
log_debug (const char *fmt, ...)
{
  int err = errno;
  va_list ap;

  va_start (ap, fmt);
  sink (LOG_LEVEL_DEBUG, fmt, ap);
  va_end (ap);
  errno = err;
}
