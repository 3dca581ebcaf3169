/* jobs.c - commands about a job that is there: abort, pause, resume, speed,
 * dismiss.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <inttypes.h>
#include <errno.h>

#include "cli.h"
#include "cleanup.h"

#define ABORT_TIMEOUT 60000 /* ms, for the job's record to say it has ended */

/* A job that another job has followed. */
static json_t *
past_job (struct backfill *h, const char *device, uint64_t number)
{
  json_t *query = json_pack ("{s:s*,s:I}", "device", device, "number",
                             (json_int_t)number);
  CLEANUP_FREE char *args = query ? json_dumps (query, 0) : NULL;
  CLEANUP_FREE char *reply = NULL;
  json_t *jobs, *job;

  json_decref (query);
  if (args == NULL) {
    cli_error ("out of memory");
    return NULL;
  }
  if (backfill_command (h, "query-block-jobs", args, &reply) == -1) {
    cli_failed ();
    return NULL;
  }
  jobs = json_loads (reply, 0, NULL);
  job = json_incref (json_array_get (jobs, 0));
  json_decref (jobs);
  return job;
}

json_t *
job_object (struct backfill *h, const char *disk, uint64_t number)
{
  json_t *object = disk_object (h, disk), *job;

  if (object == NULL)
    return NULL;
  job = json_object_get (object, "job");
  if (number == 0
      || (uint64_t)json_integer_value (json_object_get (job, "number"))
             == number)
    json_incref (job);
  else
    job = past_job (
        h, disk ? disk : json_string_value (json_object_get (object, "name")),
        number);
  json_decref (object);
  return job;
}

int
job_print_json (struct backfill *h, const char *disk, uint64_t number)
{
  json_t *job = job_object (h, disk, number);
  int status = job != NULL ? text_json (job) : STATUS_FAILED;

  json_decref (job);
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
  uint64_t number = text_number ("--job", s, INT64_MAX);

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
      status = job_print_json (h, disk, number);
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
    status = job_print_json (h, disk, number);
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

static void
print_speed (uint64_t speed)
{
  char buf[TEXT_MAX];

  if (speed == 0)
    printf ("no limit\n");
  else
    printf ("%s/s\n", text_bytes (buf, speed));
}

static int
print_total_speed (const char *reply)
{
  json_t *value = json_loads (reply, 0, NULL);
  json_int_t speed = json_integer_value (json_object_get (value, "speed"));
  int status = STATUS_OK;

  if (cli.json)
    status = text_json (value);
  else
    print_speed (speed > 0 ? (uint64_t)speed : 0);
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

/* Any other word is a DISK. */
static bool
is_limit (const char *word)
{
  return (word[0] >= '0' && word[0] <= '9') || strcmp (word, "none") == 0;
}

/* The limit of the job that is in progress, or was. */
static int
show_speed (struct backfill *h, const char *disk, uint64_t number)
{
  struct backfill_job_info job = { .struct_size = sizeof job };

  if (backfill_job_get_info (h, disk, number, &job) == -1)
    return cli_failed ();
  if (cli.json && job.type != BACKFILL_JOB_NONE)
    return job_print_json (h, disk, number);
  if (job.type != BACKFILL_JOB_NONE) {
    print_speed (job.speed);
    return STATUS_OK;
  }
  cli_error_as (STATUS_NO_JOB, ESRCH, "%s%s%s has no job",
                disk != NULL ? "disk '" : "the disk", disk != NULL ? disk : "",
                disk != NULL ? "'" : "");
  return STATUS_FAILED;
}

/* What speed is asked for. */
struct speed {
  bool total;
  uint64_t number;
  const char *disk, *limit; /* limit NULL: to be shown */
  uint64_t speed;
};

static void
parse_speed (int argc, char **argv, struct speed *s)
{
  static const struct option longs[] = {
    { "total", no_argument, NULL, 't' },
    { "job", required_argument, NULL, 'j' },
    { NULL, 0, NULL, 0 },
  };
  int c;

  while ((c = cli_getopt (argc, argv, longs)) != -1)
    if (c == 't')
      s->total = true;
    else if (c == 'j')
      s->number = parse_job (optarg);
  if (s->total && s->number != 0)
    cli_usage ("--total is about all jobs of the server: it does not go with "
               "--job");
  if (argc - optind > (s->total ? 1 : 2))
    cli_usage ("'speed' takes %s: '%s' is one too many",
               s->total ? "one LIMIT with --total" : "one DISK and one LIMIT",
               argv[argc - 1]);
  if (argc - optind == 2
      || (argc - optind == 1 && !s->total && !is_limit (argv[optind])))
    s->disk = argv[optind++];
  if (optind < argc) {
    s->limit = argv[optind];
    s->speed = text_speed ("LIMIT", s->limit);
  }
  s->disk = cli_find (s->disk);
}

int
cmd_speed (int argc, char **argv)
{
  struct speed s = { 0 };
  struct backfill *h;
  int status = STATUS_OK;

  parse_speed (argc, argv, &s);
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  if (s.total)
    status = total_speed (h, s.limit);
  else if (s.limit == NULL)
    status = show_speed (h, s.disk, s.number);
  else if (backfill_job_set_speed (h, s.disk, s.number, s.speed) == -1)
    status = cli_failed ();
  else if (cli.json)
    status = job_print_json (h, s.disk, s.number);
  backfill_close (h);
  return status;
}
