/* jobs.c - commands about jobs: allocate, abort, pause, resume, speed,
 * dismiss.
 *
 * A job belongs to the server.  While allocate waits for a job, Ctrl-C ends the
 * waiting only: the handler says so and leaves at once, since all that this
 * process holds is a connection.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <inttypes.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "cleanup.h"
#include "units.h"

#define ABORT_TIMEOUT 60000 /* ms, for the job's record to say it has ended */

/* How the waiting is shown. */
struct progress {
  bool show;     /* on standard output */
  bool terminal; /* as one line that is printed over */
  int fd;        /* N/100 lines, -1 none */
  int percent, status;
  int fd_percent;
  time_t when; /* of the last plain line */
  bool line;   /* the terminal's line is not ended */
  struct backfill_job_info last;
};

/* For the handler: 1 when the job is known to be in progress. */
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
static void
catch_interrupt (void)
{
  struct sigaction sa = { .sa_handler = interrupted }, old;

  if (sigaction (SIGINT, NULL, &old) == 0 && old.sa_handler == SIG_IGN)
    return;
  sigaction (SIGINT, &sa, NULL);
}

/* "12%  1 GiB of 8 GiB  70 MiB/s  2 min left" */
static void
status_text (const struct progress *p, const struct backfill_job_info *job,
             char *text, size_t size)
{
  char a[TEXT_MAX], b[TEXT_MAX];
  size_t len = (size_t)snprintf (text, size, "%3d%%  %s of %s", p->percent,
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

static int
show_progress (void *opaque, const struct backfill_job_info *job)
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

static void
end_line (struct progress *p)
{
  if (p->line)
    printf ("\n");
  p->line = false;
  line_open = 0;
}

/* Print a job that another job has followed. */
static int
print_past_job (struct backfill *h, const char *device, uint64_t number)
{
  json_t *query = json_pack ("{s:s*,s:I}", "device", device, "number",
                             (json_int_t)number);
  CLEANUP_FREE char *args = query ? json_dumps (query, 0) : NULL;
  CLEANUP_FREE char *reply = NULL;
  json_t *jobs;
  int status;

  json_decref (query);
  if (args == NULL)
    return cli_error ("out of memory");
  if (backfill_command (h, "query-block-jobs", args, &reply) == -1)
    return cli_failed ();
  jobs = json_loads (reply, 0, NULL);
  status = text_json (json_array_get (jobs, 0));
  json_decref (jobs);
  return status;
}

/* Print the job of that number, or with 0 the present job. */
static int
print_job_json (struct backfill *h, const char *disk, uint64_t number)
{
  json_t *object = disk_object (h, disk), *job;
  int status;

  if (object == NULL)
    return STATUS_FAILED;
  job = json_object_get (object, "job");
  if (number == 0
      || (uint64_t)json_integer_value (json_object_get (job, "number"))
             == number)
    status = text_json (job);
  else
    status = print_past_job (
        h, disk ? disk : json_string_value (json_object_get (object, "name")),
        number);
  json_decref (object);
  return status;
}

/* "; 3.2 GiB of 10 GiB is local" */
static int
job_failed (const struct backfill_job_info *job)
{
  char text[4096], a[TEXT_MAX], b[TEXT_MAX];

  snprintf (text, sizeof text, "%s", backfill_get_error ());
  cli_error ("%s; %s of %s is local", text_clean (text),
             text_bytes (a, job->data_processed),
             text_bytes (b, job->data_total));
  return STATUS_JOB;
}

static uint64_t
parse_number (const char *what, const char *s, uint64_t max)
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

/* What allocate was asked for. */
struct request {
  uint64_t offset, length;
  unsigned flags;
  struct backfill_allocate_options options;
  bool wait, quiet;
  struct progress progress;
};

static int
parse_on_error (const char *word)
{
  if (strcmp (word, "report") == 0)
    return BACKFILL_ON_ERROR_REPORT;
  if (strcmp (word, "skip") == 0)
    return BACKFILL_ON_ERROR_SKIP;
  cli_usage ("--on-error: '%s' is neither report nor skip", word);
}

static void
parse_retry (struct backfill_allocate_options *options, const char *time)
{
  options->retry = text_duration ("--retry", time);
  options->has_retry = options->retry != UNITS_FOREVER;
  if (!options->has_retry)
    options->retry = 0;
}

static int
parse_fd (const char *text)
{
  int fd = (int)parse_number ("--progress", text, INT_MAX);

  if (fcntl (fd, F_GETFD) == -1)
    cli_usage ("--progress: file descriptor %d is not open", fd);
  return fd;
}

enum {
  OPT_OFFSET = 0x100,
  OPT_LENGTH,
  OPT_SPEED,
  OPT_SPARSE,
  OPT_FULL,
  OPT_ON_ERROR,
  OPT_RETRY,
  OPT_WAIT,
  OPT_PROGRESS,
  OPT_QUIET,
};
static const struct option allocate_options[] = {
  { "offset", required_argument, NULL, OPT_OFFSET },
  { "length", required_argument, NULL, OPT_LENGTH },
  { "speed", required_argument, NULL, OPT_SPEED },
  { "sparse", no_argument, NULL, OPT_SPARSE },
  { "full", no_argument, NULL, OPT_FULL },
  { "on-error", required_argument, NULL, OPT_ON_ERROR },
  { "retry", required_argument, NULL, OPT_RETRY },
  { "wait", no_argument, NULL, OPT_WAIT },
  { "progress", optional_argument, NULL, OPT_PROGRESS },
  { "quiet", no_argument, NULL, OPT_QUIET },
  { NULL, 0, NULL, 0 },
};

static void
parse_request (int argc, char **argv, struct request *r)
{
  int c;

  while ((c = cli_getopt (argc, argv, allocate_options)) != -1)
    switch (c) {
    case OPT_OFFSET:
      r->offset = text_size ("--offset", optarg);
      break;
    case OPT_LENGTH:
      r->length = text_size ("--length", optarg);
      /* In the protocol 0 means all, which no user means by 0. */
      if (r->length == 0)
        cli_usage ("--length: leave it out to allocate to the end");
      break;
    case OPT_SPEED:
      r->options.speed = text_speed ("--speed", optarg);
      break;
    case OPT_SPARSE:
      r->flags |= BACKFILL_ALLOCATE_SPARSE;
      break;
    case OPT_FULL:
      r->flags &= ~BACKFILL_ALLOCATE_SPARSE;
      break;
    case OPT_ON_ERROR:
      r->options.on_error = parse_on_error (optarg);
      break;
    case OPT_RETRY:
      parse_retry (&r->options, optarg);
      break;
    case OPT_WAIT:
      r->wait = true;
      break;
    case OPT_PROGRESS:
      r->wait = true;
      if (optarg != NULL)
        r->progress.fd = parse_fd (optarg);
      break;
    case OPT_QUIET:
      r->quiet = true;
      break;
    }
}

/* Set how the job's end is waited for, or that it is not. */
static void
prepare_wait (struct request *r)
{
  struct progress *p = &r->progress;

  if (!r->wait) {
    r->flags |= BACKFILL_ALLOCATE_NONBLOCK;
    return;
  }
  if (p->fd >= 0)
    signal (SIGPIPE, SIG_IGN);
  catch_interrupt ();
  r->options.progress = show_progress;
  r->options.opaque = p;
}

int
cmd_allocate (int argc, char **argv)
{
  struct request request = {
    .flags = BACKFILL_ALLOCATE_SPARSE,
    .options = { .struct_size = sizeof request.options },
    .progress = { .fd = -1, .fd_percent = -1, .percent = -1 },
  };
  struct progress *progress = &request.progress;
  uint64_t number = 0;
  struct backfill *h;
  const char *disk;
  int r, status = STATUS_OK;

  parse_request (argc, argv, &request);
  request.options.number = &number;
  disk = cli_disk (argc, argv);
  progress->show = !request.quiet && !cli.json && progress->fd != STDOUT_FILENO;
  progress->terminal = text_terminal (stdout);

  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  prepare_wait (&request);
  r = backfill_block_allocate_options (h, disk, request.offset, request.length,
                                       request.flags, &request.options);
  end_line (progress);
  if (r == -1) {
    if (progress->last.type == BACKFILL_JOB_FAILED
        || progress->last.type == BACKFILL_JOB_CANCELLED)
      status = job_failed (&progress->last);
    else
      status = cli_failed ();
  }
  if (cli.json && (r == 0 || status == STATUS_JOB)) {
    int printed = print_job_json (h, disk, number);

    status = status == STATUS_OK ? printed : status;
  }
  else if (r == 0 && !request.wait && !request.quiet)
    printf ("started: 'backfill info' shows how far it is\n");
  backfill_close (h);
  return status;
}

static int
keep_info (void *opaque, const struct backfill_job_info *job)
{
  memcpy (opaque, job, sizeof *job);
  return 0;
}

static const struct option job_options[] = {
  { "job", required_argument, NULL, 'j' },
  { NULL, 0, NULL, 0 },
};

static uint64_t
parse_job (const char *s)
{
  uint64_t number = parse_number ("--job", s, INT64_MAX);

  if (number == 0)
    cli_usage ("--job: jobs have numbers from 1: leave it out for the disk's "
               "job, whichever it is");
  return number;
}

/* Take the options of a command about a job: the number of the job that is
 * meant, 0 for whichever job it is. */
static uint64_t
get_job_number (int argc, char **argv)
{
  uint64_t number = 0;
  int c;

  while ((c = cli_getopt (argc, argv, job_options)) != -1)
    if (c == 'j')
      number = parse_job (optarg);
  return number;
}

int
cmd_abort (int argc, char **argv)
{
  struct backfill_job_info job = { .struct_size = sizeof job };
  uint64_t number = get_job_number (argc, argv);
  char a[TEXT_MAX], b[TEXT_MAX];
  struct backfill *h;
  const char *disk;
  int r, status = STATUS_OK;

  disk = cli_disk (argc, argv);
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  /* Abort the job that is there now, and not a job that follows it. */
  if (number == 0 && backfill_block_get_job_info (h, disk, &job) == 0
      && job.type == BACKFILL_JOB_BOUNDED)
    number = job.number;
  memset (&job, 0, sizeof job);
  if (backfill_job_abort (h, disk, number) == -1)
    status = cli_failed ();
  else {
    /* The job may have ended by itself just before; then that is said. */
    r = backfill_job_wait (h, disk, number, ABORT_TIMEOUT, keep_info, &job);
    if (r == -1 && job.type != BACKFILL_JOB_CANCELLED
        && job.type != BACKFILL_JOB_FAILED && backfill_get_errno () != ESRCH)
      status = cli_failed ();
    else if (cli.json)
      status = print_job_json (h, disk, number);
    else if (job.type != BACKFILL_JOB_NONE)
      printf ("%s: %s of %s is local\n", text_job_type (job.type),
              text_bytes (a, job.data_processed),
              text_bytes (b, job.data_total));
  }
  backfill_close (h);
  return status;
}

/* A command that takes a disk and the number of a job. */
static int
simple (int argc, char **argv,
        int (*call) (struct backfill *h, const char *disk, uint64_t number),
        bool job_left)
{
  uint64_t number = get_job_number (argc, argv);
  struct backfill *h;
  const char *disk;
  int status = STATUS_OK;

  disk = cli_disk (argc, argv);
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  if (call (h, disk, number) == -1)
    status = cli_failed ();
  else if (cli.json && job_left)
    status = print_job_json (h, disk, number);
  else if (cli.json)
    printf ("{}\n");
  backfill_close (h);
  return status;
}

int
cmd_pause (int argc, char **argv)
{
  return simple (argc, argv, backfill_job_pause, true);
}

int
cmd_resume (int argc, char **argv)
{
  return simple (argc, argv, backfill_job_resume, true);
}

int
cmd_dismiss (int argc, char **argv)
{
  return simple (argc, argv, backfill_job_dismiss, false);
}

static int
print_total_speed (const char *reply)
{
  json_t *value = json_loads (reply, 0, NULL);
  json_int_t speed = json_integer_value (json_object_get (value, "speed"));
  char buf[TEXT_MAX];
  int status = STATUS_OK;

  if (cli.json)
    status = text_json (value);
  else if (speed <= 0)
    printf ("no limit\n");
  else
    printf ("%s/s\n", text_bytes (buf, (uint64_t)speed));
  json_decref (value);
  return status;
}

/* limit: NULL to show it. */
static int
total_speed (struct backfill *h, const char *limit)
{
  CLEANUP_FREE char *set = NULL, *reply = NULL, *args = NULL;
  int r = 0;

  if (limit != NULL) {
    if (asprintf (&args, "{\"speed\": %" PRIu64 "}",
                  text_speed ("LIMIT", limit))
        == -1)
      return cli_error ("out of memory");
    r = backfill_command (h, "set-total-speed", args, &set);
  }
  if (r == 0 && (limit == NULL || cli.json))
    r = backfill_command (h, "query-total-speed", NULL, &reply);
  if (r == 0)
    return reply != NULL ? print_total_speed (reply) : STATUS_OK;
  if (backfill_get_errno () == ENOTUNIQ)
    return cli_error ("there are several servers: name the socket of one "
                      "with -c");
  return cli_failed ();
}

int
cmd_speed (int argc, char **argv)
{
  static const struct option longs[] = {
    { "total", no_argument, NULL, 't' },
    { "job", required_argument, NULL, 'j' },
    { NULL, 0, NULL, 0 },
  };
  const char *disk = NULL, *limit = NULL;
  bool total = false;
  uint64_t speed = 0, number = 0;
  struct backfill *h;
  int c, status = STATUS_OK;

  while ((c = cli_getopt (argc, argv, longs)) != -1)
    if (c == 't')
      total = true;
    else if (c == 'j')
      number = parse_job (optarg);
  if (total && number != 0)
    cli_usage ("--total is about all jobs of the server: it does not go with "
               "--job");
  if (argc - optind > (total ? 1 : 2))
    cli_usage ("'speed' takes %s: '%s' is one too many",
               total ? "one LIMIT with --total" : "one DISK and one LIMIT",
               argv[argc - 1]);
  if (optind == argc && !total)
    cli_usage ("'speed' needs a LIMIT, in bytes a second (0: none)");
  if (argc - optind == 2)
    disk = argv[optind++];
  if (optind < argc) {
    limit = argv[optind];
    speed = text_speed ("LIMIT", limit);
  }
  disk = cli_find (disk);

  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  if (total)
    status = total_speed (h, limit);
  else if (backfill_job_set_speed (h, disk, number, speed) == -1)
    status = cli_failed ();
  else if (cli.json)
    status = print_job_json (h, disk, number);
  backfill_close (h);
  return status;
}
