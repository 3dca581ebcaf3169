/* watch.c - print events as they come.
 *
 * Each line is written out at once, so that a program behind a pipe sees it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <string.h>
#include <inttypes.h>
#include <time.h>

#include "cli.h"

static void
print_event (struct backfill_event *ev)
{
  time_t seconds = (time_t)ev->seconds;
  char when[64] = "", a[TEXT_MAX], b[TEXT_MAX];
  struct tm tm;

  if (localtime_r (&seconds, &tm) != NULL)
    strftime (when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
  printf ("%s.%03u  %s  ", when, (unsigned)(ev->microseconds / 1000 % 1000),
          strncmp (ev->event, "SERVER_", 7) == 0
              ? "-"
              : text_name (text_clean (ev->disk)));
  text_clean (ev->event);
  text_clean (ev->status);
  text_clean (ev->error);
  text_clean (ev->reason);
  if (strcmp (ev->event, "JOB_STATUS_CHANGE") == 0 && ev->status != NULL)
    printf ("job %s\n",
            strcmp (ev->status, "null") == 0 ? "dismissed" : ev->status);
  else if (strcmp (ev->event, "BLOCK_JOB_COMPLETED") == 0)
    printf ("job %s%s: %s of %s is local\n",
            ev->error != NULL ? "failed: " : "completed",
            ev->error != NULL ? ev->error : "", text_bytes (a, ev->offset),
            text_bytes (b, ev->len));
  else if (strcmp (ev->event, "BLOCK_JOB_CANCELLED") == 0)
    printf ("job aborted: %s of %s is local\n", text_bytes (a, ev->offset),
            text_bytes (b, ev->len));
  else if (strcmp (ev->event, "BLOCK_JOB_ERROR") == 0)
    printf ("job %s error%s\n",
            ev->operation != NULL ? text_clean (ev->operation) : "I/O",
            ev->action == NULL                   ? ""
            : strcmp (ev->action, "stop") == 0   ? ": paused"
            : strcmp (ev->action, "ignore") == 0 ? ": skipped"
                                                 : "");
  else if (strcmp (ev->event, "DISK_LOCAL") == 0)
    printf ("all of the disk is local\n");
  else if (strcmp (ev->event, "SOURCE_LOST") == 0)
    printf ("backing store lost%s%s\n", ev->reason != NULL ? ": " : "",
            ev->reason != NULL ? ev->reason : "");
  else if (strcmp (ev->event, "SOURCE_BACK") == 0)
    printf ("backing store back\n");
  else if (strcmp (ev->event, "SERVER_FOUND") == 0)
    printf ("server found: %s\n", ev->reason);
  else if (strcmp (ev->event, "SERVER_LOST") == 0)
    printf ("server gone: %s\n", ev->reason);
  else if (strcmp (ev->event, "SERVER_UNANSWERED") == 0)
    printf ("server does not answer: %s\n", ev->reason);
  else
    printf ("%s\n", ev->event);
}

int
cmd_watch (int argc, char **argv)
{
  struct backfill_events *events;
  struct backfill *h;
  const char *disk;
  int status = STATUS_OK;

  cli_getopt (argc, argv, NULL);
  disk = cli_disk (argc, argv);
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  events = backfill_events_open (h, disk);
  if (events == NULL) {
    backfill_close (h);
    return cli_failed ();
  }
  for (;;) {
    struct backfill_event *ev;

    if (backfill_events_next (events, -1, &ev) != 1) {
      status = cli_failed ();
      break;
    }
    if (cli.json) {
      text_print_json (ev->json);
      putchar ('\n');
    }
    else
      print_event (ev);
    backfill_free_event (ev);
    if (fflush (stdout) != 0)
      break; /* said at the end of the program */
  }
  backfill_events_close (events);
  backfill_close (h);
  return status;
}
