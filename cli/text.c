/* text.c - numbers, names and terminals as people read and write them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <inttypes.h>
#include <ctype.h>
#include <errno.h>
#include <unistd.h>
#include <sys/ioctl.h>

#include "cleanup.h"
#include "cli.h"
#include "message.h"
#include "units.h"

uint64_t
text_size (const char *what, const char *s)
{
  const char *why;
  uint64_t n;

  if (units_size (s, &n, &why) == -1)
    cli_usage ("%s: '%s' is not a size: %s", what, s, why);
  return n;
}

uint64_t
text_speed (const char *what, const char *s)
{
  const char *why;
  uint64_t n;

  if (units_speed (s, &n, &why) == -1)
    cli_usage ("%s: '%s' is not a size: %s", what, s, why);
  return n;
}

uint64_t
text_duration (const char *what, const char *s)
{
  const char *why;
  uint64_t n;

  if (units_time (s, &n, &why) == -1)
    cli_usage ("%s: '%s' is not a time: %s", what, s, why);
  return n;
}

uint64_t
text_number (const char *what, const char *s, uint64_t max)
{
  const char *why;
  uint64_t n;

  /* No suffixes: such numbers are not sizes. */
  if (s[0] == '\0' || s[strspn (s, "0123456789")] != '\0')
    cli_usage ("%s: '%s' is not a whole number", what, s);
  if (units_size (s, &n, &why) == -1 || n > max)
    cli_usage ("%s: '%s' is too large", what, s);
  return n;
}

const char *
text_bytes (char buf[TEXT_MAX], uint64_t n)
{
  static const char *const units[]
      = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
  unsigned unit = 0;
  double value = (double)n;

  /* 1023.96 would be shown as 1024.0: that is 1 of the next. */
  while (value >= (unit == 0 ? 1024 : 1023.95) && unit < 6) {
    value /= 1024;
    unit++;
  }
  if (unit == 0)
    snprintf (buf, TEXT_MAX, "%" PRIu64 " B", n);
  else {
    int len = snprintf (buf, TEXT_MAX, "%.1f", value);

    if (len > 2 && strcmp (buf + len - 2, ".0") == 0)
      len -= 2;
    snprintf (buf + len, TEXT_MAX - (size_t)len, " %s", units[unit]);
  }
  return buf;
}

const char *
text_time (char buf[TEXT_MAX], uint64_t ms)
{
  uint64_t s = ms / 1000;

  if (ms < 1000)
    snprintf (buf, TEXT_MAX, "%" PRIu64 " ms", ms);
  else if (s < 60)
    snprintf (buf, TEXT_MAX, "%" PRIu64 " s", s);
  else if (s < 3600)
    snprintf (buf, TEXT_MAX, "%" PRIu64 " min %02" PRIu64 " s", s / 60, s % 60);
  else if (s < 86400)
    snprintf (buf, TEXT_MAX, "%" PRIu64 " h %02" PRIu64 " min", s / 3600,
              s / 60 % 60);
  else
    snprintf (buf, TEXT_MAX, "%" PRIu64 " d %02" PRIu64 " h", s / 86400,
              s / 3600 % 24);
  return buf;
}

int
text_percent (uint64_t part, uint64_t whole)
{
  int percent;

  if (part >= whole)
    return 100;
  percent = (int)((double)part / (double)whole * 100);
  return percent > 99 ? 99 : percent;
}

char *
text_clean (char *s)
{
  return message_clean (s);
}

const char *
text_name (const char *name)
{
  return name == NULL || name[0] == '\0' ? "\"\"" : name;
}

int
text_width (const char *s)
{
  int n = 0;

  for (; *s != '\0'; s++)
    n += ((unsigned char)*s & 0xc0) != 0x80;
  return n;
}

bool
text_terminal (FILE *fp)
{
  return isatty (fileno (fp));
}

bool
text_colour (void)
{
  const char *no = getenv ("NO_COLOR");
  const char *term = getenv ("TERM");

  return text_terminal (stdout) && (no == NULL || no[0] == '\0') && term != NULL
         && strcmp (term, "dumb") != 0;
}

int
text_columns (void)
{
  const char *env = getenv ("COLUMNS");
  struct winsize ws;
  int n;

  if (ioctl (STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 0)
    return ws.ws_col;
  n = env != NULL ? atoi (env) : 0;
  return n > 0 && n < 10000 ? n : 80;
}

const char *
text_job_type (int type)
{
  switch (type) {
  case BACKFILL_JOB_NONE:
    return "none";
  case BACKFILL_JOB_COMPLETED:
    return "completed";
  case BACKFILL_JOB_FAILED:
    return "failed";
  case BACKFILL_JOB_CANCELLED:
    return "aborted";
  default:
    return "in progress";
  }
}

const char *
text_job_status (const struct backfill_job_info *job)
{
  if (job->type != BACKFILL_JOB_BOUNDED)
    return text_job_type (job->type);
  switch (job->status) {
  case BACKFILL_STATUS_CREATED:
    return "starting";
  case BACKFILL_STATUS_PAUSED:
    return job->pause_reason == BACKFILL_PAUSE_NOSPACE
               ? "paused: no space left for the store"
               : "paused";
  case BACKFILL_STATUS_WAITING:
    return "waiting for the backing store";
  case BACKFILL_STATUS_ABORTING:
    return "aborting";
  default:
    return "running";
  }
}

const char *
text_state (int state)
{
  return state == BACKFILL_LOCAL    ? "local"
         : state == BACKFILL_ABSENT ? "absent"
                                    : "zero";
}

/* jansson escapes C0 controls alone.  In a string, the only place where C1
 * controls can be, these escapes mean the same. */
void
text_print_json (const char *text)
{
  for (const unsigned char *p = (const unsigned char *)text; *p; p++)
    if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
      printf ("\\u%04X", *++p);
    else if (*p == 0x7f)
      printf ("\\u%04X", *p);
    else
      putchar (*p);
}

int
text_json (const json_t *value)
{
  CLEANUP_FREE char *text
      = json_dumps (value, JSON_INDENT (2) | JSON_ENCODE_ANY);

  if (text == NULL)
    return cli_error ("out of memory");
  text_print_json (text);
  putchar ('\n');
  return STATUS_OK;
}
