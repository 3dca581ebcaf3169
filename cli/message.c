/* message.c - what the command says on standard error.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "cli.h"
#include "message.h"

struct cli cli;

/* The words for kinds of errors. */
static const char *
class_of (int status)
{
  switch (status) {
  case STATUS_JOB:
    return "job-failed";
  case STATUS_TIMEOUT:
    return "goes-on";
  case STATUS_NO_DISK:
    return "no-disk";
  case STATUS_UNREACHABLE:
    return "unreachable";
  case STATUS_BUSY:
    return "busy";
  case STATUS_NO_JOB:
    return "no-job";
  default:
    return "failed";
  }
}

/* Bytes that are not UTF-8 become '?'. */
static json_t *
to_json (char *text)
{
  json_t *value = json_string (text);

  if (value != NULL)
    return value;
  for (char *p = text; *p != '\0'; p++)
    if ((unsigned char)*p >= 0x80)
      *p = '?';
  return json_string (text);
}

/* {"error": {"class", "desc"[, "errno", "errno-name"]}}, a line. */
static void
complain_json (int status, int errnum, char *text)
{
  const char *name = errnum > 0 ? strerrorname_np (errnum) : NULL;
  json_t *error = json_pack ("{s:s, s:o}", "class", class_of (status), "desc",
                             to_json (text));
  json_t *object;
  CLEANUP_FREE char *line = NULL;

  if (error != NULL && name != NULL) {
    json_object_set_new (error, "errno", json_integer (errnum));
    json_object_set_new (error, "errno-name", json_string (name));
  }
  object = json_pack ("{s:o}", "error", error);
  line = object != NULL ? json_dumps (object, JSON_ENSURE_ASCII) : NULL;
  json_decref (object);
  fprintf (stderr, "%s\n", line != NULL ? line : "{\"error\": {}}");
}

static void __attribute__ ((format (printf, 3, 0)))
complain (int status, int errnum, const char *fmt, va_list ap)
{
  CLEANUP_FREE char *text = NULL;

  if (vasprintf (&text, fmt, ap) == -1)
    text = NULL;
  fflush (stdout);
  if (cli.json && text != NULL && status != STATUS_USAGE)
    complain_json (status, errnum, message_clean (text));
  else
    fprintf (stderr, "backfill: %s\n",
             text != NULL ? message_clean (text) : "out of memory");
  /* Messages of several kinds are a failure of no one kind. */
  cli.failure
      = cli.failure == 0 || cli.failure == status ? status : STATUS_FAILED;
}

void
cli_usage (const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  complain (STATUS_USAGE, 0, fmt, ap);
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
  complain (STATUS_FAILED, 0, fmt, ap);
  va_end (ap);
  return STATUS_FAILED;
}

int
cli_error_as (int status, int errnum, const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  complain (status, errnum, fmt, ap);
  va_end (ap);
  return status;
}

int
cli_failed_as (int status)
{
  int err = backfill_get_errno ();

  if (err == ENXIO && cli.socket == NULL)
    return cli_error_as (status, err,
                         "%s (-c SOCKET names a control socket that is "
                         "somewhere else)",
                         backfill_get_error ());
  return cli_error_as (status, err, "%s", backfill_get_error ());
}

int
cli_failed (void)
{
  int status = STATUS_FAILED;

  switch (backfill_get_errno ()) {
  case ENOENT:
    status = STATUS_NO_DISK;
    break;
  case ENXIO:
  case ECONNREFUSED:
  case ECONNRESET:
  case ETIMEDOUT:
    status = STATUS_UNREACHABLE;
    break;
  case EBUSY:
    status = STATUS_BUSY;
    break;
  case ESRCH:
    status = STATUS_NO_JOB;
    break;
  }
  cli_failed_as (status);
  /* finish (main.c) makes the kind of it. */
  return STATUS_FAILED;
}
