/* log.h - where the engine's messages go.
 *
 * The engine knows neither nbdkit nor syslog: the program that holds it sets
 * one sink, before any thread is made.  Until then messages go to stderr.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_LOG_H
#define BACKFILL_LOG_H

#include <stdarg.h>

/* ERROR: something is wrong, and somebody may have to do something.  INFO: what
 * an administrator looks for later: jobs, outages; one line each.  DEBUG: for
 * who looks into the program. */
enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

typedef void (*log_sink) (enum log_level level, const char *fmt, va_list ap)
    __attribute__ ((format (printf, 2, 0)));
void log_set_sink (log_sink sink);

/* All keep errno, and take %m.  Control characters, which names and paths may
 * have, come out as '?'. */
void log_error (const char *fmt, ...) __attribute__ ((format (printf, 1, 2)));
void log_info (const char *fmt, ...) __attribute__ ((format (printf, 1, 2)));
void log_debug (const char *fmt, ...) __attribute__ ((format (printf, 1, 2)));

#endif
