/* progress.c - how far a job is, shown while a command waits for the job.
 *
 * A job belongs to the server.  Ctrl-C ends the waiting only: the handler says
 * so and leaves at once, since all that this process holds is a connection.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

#define LABEL_MAX 200 /* bytes of a disk's name that are shown */

void
progress_init (struct progress *p, bool quiet, int fd)
{
  *p = (struct progress){
    .show = !quiet && !cli.json && fd != STDOUT_FILENO,
    .terminal = text_terminal (stdout),
    .fd = fd,
    .percent = -1,
    .fd_percent = -1,
  };
  /* A reader of fd that has gone does not end the command. */
  if (fd >= 0)
    signal (SIGPIPE, SIG_IGN);
}

/* For the handler: 1 when the job is known to have started. */
static volatile sig_atomic_t job_started;
static volatile sig_atomic_t line_open;

static void
interrupted (int sig)
{
  static const char newline[] = "\n";
  static const char goes_on[]
      = "backfill: interrupted: the job goes on ('backfill abort' ends it)\n";
  static const char unknown[] = "backfill: interrupted: the job may have been "
                                "started ('backfill info' tells)\n";
  ssize_t r = 0;

  (void)sig;
  if (line_open)
    r = write (STDOUT_FILENO, newline, sizeof newline - 1);
  if (job_started)
    r = write (STDERR_FILENO, goes_on, sizeof goes_on - 1);
  else
    r = write (STDERR_FILENO, unknown, sizeof unknown - 1);
  (void)r;
  _exit (STATUS_INTERRUPTED);
}

/* A SIGINT that is ignored stays so, as for a shell's background command. */
void
progress_interrupt (bool known)
{
  struct sigaction sa = { .sa_handler = interrupted }, old;

  job_started = known;
  if (sigaction (SIGINT, NULL, &old) == 0 && old.sa_handler == SIG_IGN)
    return;
  sigaction (SIGINT, &sa, NULL);
}

/* "vda: 12%  1 GiB of 8 GiB  70 MiB/s  2 min left" */
static void
status_text (const struct progress *p, const struct backfill_job_info *job,
             char *text, size_t size)
{
  char a[TEXT_MAX], b[TEXT_MAX];
  size_t len = (size_t)snprintf (text, size, "%.*s%s%3d%%  %s of %s", LABEL_MAX,
                                 p->label != NULL ? p->label : "",
                                 p->label != NULL ? ": " : "", p->percent,
                                 text_bytes (a, job->data_processed),
                                 text_bytes (b, job->data_total));

  if (job->type != BACKFILL_JOB_BOUNDED)
    snprintf (text + len, size - len, "  %s in %s", text_job_type (job->type),
              text_time (a, job->time_elapsed));
  else if (job->status == BACKFILL_STATUS_RUNNING) {
    /* Speed and time left are not known at the beginning. */
    if (job->current_speed != 0)
      len += (size_t)snprintf (text + len, size - len, "  %s/s",
                               text_bytes (a, job->current_speed));
    if (job->time_remaining != 0)
      snprintf (text + len, size - len, "  %s left",
                text_time (a, job->time_remaining));
  }
  else
    snprintf (text + len, size - len, "  %s", text_job_status (job));
}

/* Print over the terminal's line: a bar if there is room for one, then the
 * text. Spaces wipe what was longer before. */
static void
print_over (struct progress *p, const char *text)
{
  int columns = text_columns () - 1;
  int bar = columns - (int)strlen (text) - 4;

  printf ("\r");
  if (bar >= 10) {
    int full;

    bar = bar > 40 ? 40 : bar;
    full = p->percent * bar / 100;
    printf ("[");
    for (int i = 0; i < bar; i++)
      putchar (i < full ? '#' : '.');
    printf ("] ");
    columns -= bar + 3;
  }
  printf ("%-*.*s", columns, columns, text);
  p->line = true;
  line_open = 1;
}

static void
print_status (struct progress *p, const struct backfill_job_info *job)
{
  char text[512];

  status_text (p, job, text, sizeof text);
  if (p->terminal)
    print_over (p, text);
  else
    printf ("%s\n", text);
  fflush (stdout);
}

int
progress_show (void *opaque, const struct backfill_job_info *job)
{
  struct progress *p = opaque;
  bool ended = job->type != BACKFILL_JOB_BOUNDED;
  int percent = text_percent (job->data_processed, job->data_total);
  bool news;

  job_started = 1;
  /* 100 is only for a job that has ended: the last commit takes time. */
  if (percent == 100 && job->type != BACKFILL_JOB_COMPLETED)
    percent = 99;
  p->last = *job;

  if (p->fd >= 0 && percent != p->fd_percent) {
    p->fd_percent = percent;
    /* A reader that has gone does not stop a job. */
    if (dprintf (p->fd, "%d/100\n", percent) < 0)
      p->fd = -1;
  }
  if (!p->show)
    return 0;
  news = percent != p->percent || job->status != p->status;
  if (p->terminal || ended || job->status != p->status
      || (news && time (NULL) != p->when)) {
    p->percent = percent;
    p->status = job->status;
    p->when = time (NULL);
    print_status (p, job);
  }
  return 0;
}

void
progress_end (struct progress *p)
{
  if (p->line)
    printf ("\n");
  p->line = false;
  line_open = 0;
}

/* "; 3.2 GiB of 10 GiB is local" */
int
progress_failed (const struct progress *p)
{
  const struct backfill_job_info *job = &p->last;
  char text[4096], a[TEXT_MAX], b[TEXT_MAX];

  snprintf (text, sizeof text, "%s", backfill_get_error ());
  cli_error_as (STATUS_JOB, backfill_get_errno (), "%s; %s of %s is local",
                text_clean (text), text_bytes (a, job->data_processed),
                text_bytes (b, job->data_total));
  return STATUS_JOB;
}
