/* allocate.c - start jobs, and wait for jobs: allocate, wait.
 *
 * Of several disks each job is known by its number before the first is waited
 * for: a job that follows it is not waited for.  Jobs run at the same time, and
 * are waited for one after the other.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "array.h"
#include "cleanup.h"
#include "cli.h"
#include "clock.h"
#include "units.h"

/* What the options of allocate, and of wait, ask for. */
struct request {
  uint64_t offset, length;
  unsigned flags;
  struct backfill_allocate_options options;
  bool all, wait, quiet;
  int fd;           /* of --progress; -1: none */
  uint64_t timeout; /* ms, UNITS_FOREVER: without end */
};

/* Jobs that a command is about. */
struct jobs {
  struct {
    char *disk; /* for the library; NULL: the only disk */
    char *label;
    uint64_t number; /* 0: not known, as of an older server */
  } * ptr;
  size_t n;
};

static void
jobs_free (struct jobs *jobs)
{
  for (size_t i = 0; i < jobs->n; i++) {
    free (jobs->ptr[i].disk);
    free (jobs->ptr[i].label);
  }
  free (jobs->ptr);
}

static int
jobs_add (struct jobs *jobs, const char *disk, const char *label,
          uint64_t number)
{
  char *disk_copy = disk != NULL ? strdup (disk) : NULL;
  char *label_copy = label != NULL ? strdup (label) : NULL;

  if ((disk != NULL && disk_copy == NULL)
      || (label != NULL && label_copy == NULL)
      || ARRAY_ROOM (jobs->ptr, jobs->n) == -1) {
    free (disk_copy);
    free (label_copy);
    return cli_error ("out of memory");
  }
  if (label_copy != NULL)
    text_clean (label_copy);
  jobs->ptr[jobs->n].disk = disk_copy;
  jobs->ptr[jobs->n].label = label_copy;
  jobs->ptr[jobs->n++].number = number;
  return STATUS_OK;
}

/* The worse of two exit statuses: what failed, a job that failed, a job that
 * goes on, a server that did not answer. */
static int
worse (int a, int b)
{
  static const int order[]
      = { STATUS_FAILED, STATUS_JOB, STATUS_TIMEOUT, STATUS_UNANSWERED };

  for (size_t i = 0; i < sizeof order / sizeof order[0]; i++)
    if (a == order[i] || b == order[i])
      return order[i];
  return STATUS_OK;
}

/* --- options ---------------------------------------------------------- */

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
  int fd = (int)text_number ("--progress", text, INT_MAX);

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
  OPT_ALL,
  OPT_TIMEOUT,
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
  { "all", no_argument, NULL, OPT_ALL },
  { NULL, 0, NULL, 0 },
};
static const struct option wait_options[] = {
  { "all", no_argument, NULL, OPT_ALL },
  { "timeout", required_argument, NULL, OPT_TIMEOUT },
  { "progress", required_argument, NULL, OPT_PROGRESS },
  { "quiet", no_argument, NULL, OPT_QUIET },
  { NULL, 0, NULL, 0 },
};

static void
take_option (int c, struct request *r)
{
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
      r->fd = parse_fd (optarg);
    break;
  case OPT_QUIET:
    r->quiet = true;
    break;
  case OPT_ALL:
    r->all = true;
    break;
  case OPT_TIMEOUT:
    r->timeout = text_duration ("--timeout", optarg);
    break;
  }
}

/* --all names the disks, and --progress=FD is about one job. */
static void
check_all (int argc, char **argv, const struct request *r)
{
  if (!r->all)
    return;
  if (optind < argc)
    cli_usage ("--all is about all disks: '%s' is one too many", argv[optind]);
  if (libvirt_used ())
    cli_usage ("--all is about all disks: it does not go with --domain or "
               "--volume");
  if (r->offset != 0 || r->length != 0)
    cli_usage ("--all is about whole disks: it does not go with --offset or "
               "--length");
  if (r->fd >= 0)
    cli_usage ("--progress=FD is about one job: it does not go with --all");
}

/* --- waiting ---------------------------------------------------------- */

/* ms for the library, where 0 is no limit. */
static unsigned
time_left (uint64_t until)
{
  uint64_t now = now_ms ();

  if (until == UNITS_FOREVER)
    return 0;
  if (until <= now)
    return 1;
  return until - now < UINT_MAX ? (unsigned)(until - now) : UINT_MAX;
}

static int
wait_one (struct backfill *h, const struct jobs *jobs, size_t i,
          const struct request *r, uint64_t until)
{
  struct progress p;
  int result;

  progress_init (&p, r->quiet, r->fd);
  if (jobs->n > 1)
    p.label = text_name (jobs->ptr[i].label);
  result = backfill_job_wait (h, jobs->ptr[i].disk, jobs->ptr[i].number,
                              time_left (until), progress_show, &p);
  progress_end (&p);
  if (result == 0)
    return STATUS_OK;
  if (p.last.type == BACKFILL_JOB_FAILED
      || p.last.type == BACKFILL_JOB_CANCELLED)
    return progress_failed (&p);
  if (backfill_get_errno () == ETIMEDOUT && until != UNITS_FOREVER
      && now_ms () >= until)
    return cli_failed_as (STATUS_TIMEOUT);
  return cli_failed ();
}

/* Wait for all of them, whatever comes of the first. */
static int
wait_all (struct backfill *h, const struct jobs *jobs, const struct request *r)
{
  uint64_t until
      = r->timeout == UNITS_FOREVER ? UNITS_FOREVER : now_ms () + r->timeout;
  int status = STATUS_OK;

  progress_interrupt (true);
  for (size_t i = 0; i < jobs->n; i++)
    status = worse (status, wait_one (h, jobs, i, r, until));
  return status;
}

/* An array of their job objects. */
static int
print_jobs_json (struct backfill *h, const struct jobs *jobs)
{
  json_t *array = json_array ();
  int status = STATUS_OK;

  for (size_t i = 0; i < jobs->n; i++) {
    json_t *job = job_object (h, jobs->ptr[i].disk, jobs->ptr[i].number);

    if (job == NULL || json_array_append_new (array, job) == -1)
      status = STATUS_FAILED;
  }
  status = worse (status, text_json (array));
  json_decref (array);
  return status;
}

/* --- allocate --------------------------------------------------------- */

static int
allocate_one (struct backfill *h, const char *disk, struct request *r)
{
  struct progress progress;
  uint64_t number = 0;
  int result, status = STATUS_OK;

  progress_init (&progress, r->quiet, r->fd);
  r->options.number = &number;
  if (r->wait) {
    progress_interrupt (false);
    r->options.progress = progress_show;
    r->options.opaque = &progress;
  }
  else
    r->flags |= BACKFILL_ALLOCATE_NONBLOCK;
  result = backfill_block_allocate_options (h, disk, r->offset, r->length,
                                            r->flags, &r->options);
  progress_end (&progress);
  if (result == -1) {
    if (progress.last.type == BACKFILL_JOB_FAILED
        || progress.last.type == BACKFILL_JOB_CANCELLED)
      status = progress_failed (&progress);
    else
      status = cli_failed ();
  }
  if (cli.json && (result == 0 || status == STATUS_JOB)) {
    int printed = job_print_json (h, disk, number);

    status = status == STATUS_OK ? printed : status;
  }
  else if (result == 0 && !r->wait && !r->quiet)
    printf ("started: 'backfill info' shows how far it is\n");
  return status;
}

/* Start the job of one disk of all.  A job that is in progress there is as
 * good. */
static int
start_one (struct backfill *h, const struct backfill_disk_info *disk,
           struct request *r, struct jobs *jobs)
{
  struct backfill_job_info job = { .struct_size = sizeof job };
  /* Two servers may use the same name; one server does not, twice. */
  const char *which = cli.socket != NULL ? disk->name : disk->store;
  const char *what = "started";
  uint64_t number = 0;
  int status;

  r->options.number = &number;
  if (disk->absent == 0 && (r->flags & BACKFILL_ALLOCATE_SPARSE) != 0)
    return STATUS_OK;
  if (backfill_block_allocate_options (
          h, which, 0, 0, r->flags | BACKFILL_ALLOCATE_NONBLOCK, &r->options)
      == -1) {
    if (backfill_get_errno () != EBUSY)
      return cli_failed ();
    if (backfill_block_get_job_info (h, which, &job) == -1)
      return cli_failed ();
    number = job.number;
    what = "in progress already";
  }
  status = jobs_add (jobs, which, disk->name, number);
  if (status == STATUS_OK && !r->wait && !r->quiet && !cli.json)
    printf ("%s: %s\n", text_name (jobs->ptr[jobs->n - 1].label), what);
  return status;
}

static int
allocate_all (struct backfill *h, struct request *r)
{
  struct backfill_disk_info **disks;
  struct jobs jobs = { 0 };
  int status;
  unsigned n;

  if (backfill_list_disks (h, &n, &disks) == -1)
    return cli_failed ();
  status = disks_unanswered (disks, n);
  for (unsigned i = 0; i < n; i++)
    if (disks[i]->unanswered == NULL)
      status = worse (status, start_one (h, disks[i], r, &jobs));
  if (r->wait)
    status = worse (status, wait_all (h, &jobs, r));
  if (cli.json)
    status = worse (status, print_jobs_json (h, &jobs));
  backfill_free_disks (disks);
  jobs_free (&jobs);
  return status;
}

int
cmd_allocate (int argc, char **argv)
{
  struct request request = {
    .flags = BACKFILL_ALLOCATE_SPARSE,
    .options = { .struct_size = sizeof request.options },
    .fd = -1,
    .timeout = UNITS_FOREVER,
  };
  const char *disk = NULL;
  struct backfill *h;
  int c, status;

  while ((c = cli_getopt (argc, argv, allocate_options)) != -1)
    take_option (c, &request);
  check_all (argc, argv, &request);
  if (!request.all)
    disk = cli_disk (argc, argv);
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  status = request.all ? allocate_all (h, &request)
                       : allocate_one (h, disk, &request);
  backfill_close (h);
  return status;
}

/* --- wait ------------------------------------------------------------- */

/* The job that is there now, and not one that follows it. */
static int
find_one (struct backfill *h, const char *disk, struct jobs *jobs)
{
  struct backfill_job_info job = { .struct_size = sizeof job };

  if (backfill_block_get_job_info (h, disk, &job) == -1)
    return cli_failed ();
  return jobs_add (jobs, disk, disk, job.number);
}

/* All that are in progress. */
static int
find_all (struct backfill *h, struct jobs *jobs)
{
  struct backfill_disk_info **disks;
  int status;
  unsigned n;

  if (backfill_list_disks (h, &n, &disks) == -1)
    return cli_failed ();
  status = disks_unanswered (disks, n);
  for (unsigned i = 0; i < n; i++) {
    const struct backfill_disk_info *d = disks[i];

    if (d->unanswered == NULL && d->job.type == BACKFILL_JOB_BOUNDED)
      status = worse (status,
                      jobs_add (jobs, cli.socket != NULL ? d->name : d->store,
                                d->name, d->job.number));
  }
  backfill_free_disks (disks);
  return status;
}

int
cmd_wait (int argc, char **argv)
{
  struct request request = { .fd = -1, .timeout = UNITS_FOREVER };
  struct jobs jobs = { 0 };
  struct backfill *h;
  int c, status = STATUS_OK;

  while ((c = cli_getopt (argc, argv, wait_options)) != -1)
    take_option (c, &request);
  check_all (argc, argv, &request);
  if (argc - optind > 1) {
    if (libvirt_used ())
      cli_usage ("'wait' takes one DISK with --domain or --volume: '%s' is one "
                 "too many",
                 argv[optind + 1]);
    if (request.fd >= 0)
      cli_usage ("--progress=FD is about one job: name one DISK");
  }
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  if (request.all)
    status = find_all (h, &jobs);
  else if (argc - optind < 2)
    status
        = find_one (h, cli_find (optind < argc ? argv[optind] : NULL), &jobs);
  else
    for (int i = optind; i < argc; i++)
      status = worse (status, find_one (h, argv[i], &jobs));
  status = worse (status, wait_all (h, &jobs, &request));
  if (cli.json)
    status = worse (status, print_jobs_json (h, &jobs));
  backfill_close (h);
  jobs_free (&jobs);
  return status;
}
