/* metrics.c - `metrics`: all disks in numbers, for monitoring.
 *
 * One table has each metric with what it is and where it comes from; it is
 * printed metric by metric, as the formats want it.  There are two of them, and
 * no text is both: OpenMetrics on standard output, and the older text format
 * 0.0.4, which node_exporter's textfile collector reads, in a file.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "cli.h"

/* A sample: its value (thousandths if milli), and what its own label says. */
struct sample {
  uint64_t value;
  bool milli;
  const char *label;
};

struct metric {
  const char *name; /* without _total, which a counter's samples have */
  const char *unit; /* the last word of the name, or NULL */
  bool counter;
  const char *label; /* that its samples have besides the disk's, or NULL */
  const char *help;
  /* The sample number I of the disk; false: it has no such. */
  bool (*get) (const struct backfill_disk_info *d, unsigned i,
               struct sample *s);
};

static bool
answers (const struct backfill_disk_info *d)
{
  return d->unanswered == NULL;
}

/* Disks that no server has open have no counters, and no state of a source. */
static bool
has_job (const struct backfill_disk_info *d)
{
  return answers (d) && d->job.type != BACKFILL_JOB_NONE;
}

static bool
runs (const struct backfill_disk_info *d)
{
  return has_job (d) && d->job.type == BACKFILL_JOB_BOUNDED;
}

#define GET(what, condition, expression)                                  \
  static bool get_##what (const struct backfill_disk_info *d, unsigned i, \
                          struct sample *s)                               \
  {                                                                       \
    s->value = (uint64_t)(expression);                                    \
    return i == 0 && (condition);                                         \
  }

GET (up, true, answers (d))
GET (size, answers (d), d->size)
GET (local, answers (d), d->local)
GET (absent, answers (d), d->absent)
GET (complete, answers (d), d->complete != 0)
GET (read_only, answers (d), d->read_only != 0)
GET (damaged, answers (d), d->damaged_sectors)
GET (sync_failed, answers (d), d->sync_error != NULL)
GET (fetched, answers (d), d->bytes_fetched)
GET (guest_reads, answers (d), d->guest_reads)
GET (guest_writes, answers (d), d->guest_writes)
GET (guest_flushes, answers (d), d->flushes)
GET (commits, answers (d), d->commits)
GET (trace_used, answers (d) && d->trace_file != NULL, d->trace_used)
GET (trace_hit, answers (d) && d->trace_file != NULL, d->trace_hit)
GET (job_number, has_job (d), d->job.number)
GET (job_total, has_job (d), d->job.data_total)
GET (job_processed, has_job (d), d->job.data_processed)
GET (job_read, has_job (d), d->job.bytes_read)
GET (job_failed_ranges, has_job (d), d->job.failed_ranges)
GET (job_speed, runs (d), d->job.current_speed)
GET (job_limit, runs (d), d->job.speed)
GET (job_nospace, runs (d), d->job.pause_reason == BACKFILL_PAUSE_NOSPACE)

static bool
get_job_elapsed (const struct backfill_disk_info *d, unsigned i,
                 struct sample *s)
{
  s->value = d->job.time_elapsed;
  s->milli = true;
  return i == 0 && has_job (d);
}

static bool
get_job_remaining (const struct backfill_disk_info *d, unsigned i,
                   struct sample *s)
{
  s->value = d->job.time_remaining;
  s->milli = true;
  /* 0 is not known. */
  return i == 0 && runs (d) && d->job.time_remaining != 0;
}

static bool
get_source (const struct backfill_disk_info *d, unsigned i, struct sample *s)
{
  static const char *const states[] = { "connected", "lost", "none" };

  if (i == sizeof states / sizeof states[0] || !answers (d)
      || d->source == NULL)
    return false;
  s->label = states[i];
  s->value = strcmp (d->source, states[i]) == 0;
  return true;
}

static bool
get_fetches (const struct backfill_disk_info *d, unsigned i, struct sample *s)
{
  static const char *const kinds[] = { "demand", "ahead", "background" };
  const uint64_t counts[]
      = { d->demand_fetches, d->ahead_fetches, d->background_fetches };

  if (i == sizeof kinds / sizeof kinds[0] || !answers (d))
    return false;
  s->label = kinds[i];
  s->value = counts[i];
  return true;
}

static bool
get_job_state (const struct backfill_disk_info *d, unsigned i, struct sample *s)
{
  static const struct {
    const char *name;
    int type, status; /* -1: any */
  } states[] = {
    { "created", BACKFILL_JOB_BOUNDED, BACKFILL_STATUS_CREATED },
    { "running", BACKFILL_JOB_BOUNDED, BACKFILL_STATUS_RUNNING },
    { "paused", BACKFILL_JOB_BOUNDED, BACKFILL_STATUS_PAUSED },
    { "waiting", BACKFILL_JOB_BOUNDED, BACKFILL_STATUS_WAITING },
    { "aborting", BACKFILL_JOB_BOUNDED, BACKFILL_STATUS_ABORTING },
    { "completed", BACKFILL_JOB_COMPLETED, -1 },
    { "failed", BACKFILL_JOB_FAILED, -1 },
    { "cancelled", BACKFILL_JOB_CANCELLED, -1 },
  };

  if (i == sizeof states / sizeof states[0] || !has_job (d))
    return false;
  s->label = states[i].name;
  s->value = d->job.type == states[i].type
             && (states[i].status == -1 || d->job.status == states[i].status);
  return true;
}

static const struct metric metrics[] = {
  { "backfill_disk_up", NULL, false, NULL, "Whether the disk's server answers.",
    get_up },
  { "backfill_disk_size_bytes", "bytes", false, NULL, "Size of the disk.",
    get_size },
  { "backfill_disk_local_bytes", "bytes", false, NULL,
    "How much of it is local.", get_local },
  { "backfill_disk_absent_bytes", "bytes", false, NULL,
    "How much of it is in the backing store alone.", get_absent },
  { "backfill_disk_complete", NULL, false, NULL,
    "Whether the backing store is needed no more.", get_complete },
  { "backfill_disk_read_only", NULL, false, NULL,
    "Whether it was opened read-only.", get_read_only },
  { "backfill_disk_damaged_sectors", NULL, false, NULL,
    "Damaged sectors of the sidecar that were met.", get_damaged },
  { "backfill_disk_sync_failed", NULL, false, NULL,
    "Whether a sync failed: nothing is made durable until it is opened again.",
    get_sync_failed },
  { "backfill_source_state", NULL, false, "state", "What the backing store is.",
    get_source },
  { "backfill_fetched_bytes", "bytes", true, NULL,
    "Read from the backing store.", get_fetched },
  { "backfill_fetches", NULL, true, "kind",
    "Requests to the backing store: a guest waits, ahead of it, for a job.",
    get_fetches },
  { "backfill_guest_reads", NULL, true, NULL, "Reads of the guest.",
    get_guest_reads },
  { "backfill_guest_writes", NULL, true, NULL,
    "Writes of the guest, with zeroes and trims.", get_guest_writes },
  { "backfill_guest_flushes", NULL, true, NULL, "Flushes of the guest.",
    get_guest_flushes },
  { "backfill_commits", NULL, true, NULL, "Commits of the map.", get_commits },
  { "backfill_trace_used_bytes", "bytes", true, NULL,
    "Fetched on account of the boot trace.", get_trace_used },
  { "backfill_trace_hit_bytes", "bytes", true, NULL,
    "Of these, read by the guest since.", get_trace_hit },
  { "backfill_job_state", NULL, false, "state",
    "What the disk's job does, or how it ended.", get_job_state },
  { "backfill_job_number", NULL, false, NULL, "Which of the disk's jobs it is.",
    get_job_number },
  { "backfill_job_range_bytes", "bytes", false, NULL, "What the job is for.",
    get_job_total },
  { "backfill_job_processed_bytes", "bytes", false, NULL,
    "How much of that is local.", get_job_processed },
  { "backfill_job_read_bytes", "bytes", false, NULL,
    "Read from the backing store for this job.", get_job_read },
  { "backfill_job_failed_ranges", NULL, false, NULL,
    "Granules that it skipped after errors.", get_job_failed_ranges },
  { "backfill_job_speed_bytes", "bytes", false, NULL,
    "What becomes local in a second.", get_job_speed },
  { "backfill_job_limit_bytes", "bytes", false, NULL,
    "The most that it may read in a second; 0: no limit.", get_job_limit },
  { "backfill_job_nospace", NULL, false, NULL,
    "Whether it is paused because the store is full.", get_job_nospace },
  { "backfill_job_elapsed_seconds", "seconds", false, NULL,
    "For how long it has been in progress.", get_job_elapsed },
  { "backfill_job_remaining_seconds", "seconds", false, NULL,
    "How long it will still take, where that is known.", get_job_remaining },
};

/* A label's value, quoted. */
static void
print_value (FILE *fp, const char *s)
{
  putc ('"', fp);
  for (; *s != '\0'; s++)
    if (*s == '\n')
      fputs ("\\n", fp);
    else {
      if (*s == '"' || *s == '\\')
        putc ('\\', fp);
      putc (*s, fp);
    }
  putc ('"', fp);
}

static void
print_samples (FILE *fp, const struct metric *m,
               const struct backfill_disk_info *d)
{
  struct sample s = { 0 };

  for (unsigned i = 0; m->get (d, i, &s); i++) {
    fprintf (fp, "%s%s{disk=", m->name, m->counter ? "_total" : "");
    print_value (fp, d->name);
    fputs (",store=", fp);
    print_value (fp, d->store);
    if (m->label != NULL)
      fprintf (fp, ",%s=\"%s\"", m->label, s.label);
    if (s.milli)
      fprintf (fp, "} %" PRIu64 ".%03u\n", s.value / 1000,
               (unsigned)(s.value % 1000));
    else
      fprintf (fp, "} %" PRIu64 "\n", s.value);
  }
}

static void
print_head (FILE *fp, bool open, const char *name, bool counter,
            const char *unit, const char *help)
{
  /* In the older format a counter's name is that of its samples. */
  const char *end = counter && !open ? "_total" : "";

  fprintf (fp, "# TYPE %s%s %s\n", name, end, counter ? "counter" : "gauge");
  if (open && unit != NULL)
    fprintf (fp, "# UNIT %s %s\n", name, unit);
  fprintf (fp, "# HELP %s%s %s\n", name, end, help);
}

static int
compare_disks (const void *a, const void *b)
{
  const struct backfill_disk_info *const *x = a;
  const struct backfill_disk_info *const *y = b;
  int r = strcmp ((*x)->store, (*y)->store);

  return r != 0 ? r : strcmp ((*x)->name, (*y)->name);
}

/* In order, and each once: one sample that is there twice spoils all. */
static unsigned
sort_disks (struct backfill_disk_info **disks, unsigned n)
{
  unsigned kept = 0;

  for (unsigned i = 0; i < n; i++) {
    text_clean (disks[i]->name);
    text_clean (disks[i]->store);
  }
  qsort (disks, n, sizeof *disks, compare_disks);
  for (unsigned i = 0; i < n; i++)
    if (kept == 0 || compare_disks (&disks[kept - 1], &disks[i]) != 0) {
      struct backfill_disk_info *d = disks[i];

      /* (Exchanged, so that all are still freed.) */
      disks[i] = disks[kept];
      disks[kept++] = d;
    }
  return kept;
}

/* open: in OpenMetrics, else in the text format 0.0.4. */
static void
print_metrics (FILE *fp, bool open, struct backfill_disk_info **disks,
               unsigned n)
{
  print_head (fp, open, "backfill_disks", false, NULL,
              "Disks that servers have open.");
  fprintf (fp, "backfill_disks %u\n", n);
  for (size_t i = 0; i < sizeof metrics / sizeof metrics[0]; i++) {
    const struct metric *m = &metrics[i];

    print_head (fp, open, m->name, m->counter, m->unit, m->help);
    for (unsigned j = 0; j < n; j++)
      print_samples (fp, m, disks[j]);
  }
  if (open)
    fputs ("# EOF\n", fp);
}

/* All of the file or none: readers see the last one until then. */
static int
write_textfile (const char *path, struct backfill_disk_info **disks, unsigned n)
{
  CLEANUP_FREE char *temporary = NULL;
  FILE *fp;
  int fd;

  if (asprintf (&temporary, "%s.XXXXXX", path) == -1) {
    temporary = NULL;
    return cli_error ("%s: %m", path);
  }
  fd = mkstemp (temporary);
  if (fd == -1)
    return cli_error ("'%s' cannot be written: %m", path);
  fp = fdopen (fd, "w");
  if (fp == NULL) {
    cli_error ("'%s' cannot be written: %m", path);
    close (fd);
    unlink (temporary);
    return STATUS_FAILED;
  }
  print_metrics (fp, false, disks, n);
  /* The collector is another user. */
  if (fchmod (fd, 0644) == -1 || fflush (fp) != 0 || ferror (fp)
      || rename (temporary, path) == -1) {
    cli_error ("'%s' cannot be written: %m", path);
    fclose (fp);
    unlink (temporary);
    return STATUS_FAILED;
  }
  fclose (fp);
  return STATUS_OK;
}

int
cmd_metrics (int argc, char **argv)
{
  static const struct option longs[] = {
    { "textfile", required_argument, NULL, 't' },
    { NULL, 0, NULL, 0 },
  };
  struct backfill_disk_info **disks = NULL;
  const char *textfile = NULL;
  struct backfill *h;
  unsigned n = 0, all;
  int status = STATUS_OK;

  while (cli_getopt (argc, argv, longs) != -1)
    textfile = optarg;
  if (optind < argc)
    cli_usage ("'metrics' is about all disks and takes no DISK");
  if (cli.json)
    cli_usage ("'metrics' prints OpenMetrics: 'list' takes --json");
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  /* No server is no failure: the host has no disks. */
  if (backfill_list_disks (h, &n, &disks) == -1
      && (cli.socket != NULL || backfill_get_errno () != ENXIO)) {
    status = cli_failed ();
    backfill_close (h);
    return status;
  }
  all = n;
  n = sort_disks (disks, n);
  if (textfile != NULL)
    status = write_textfile (textfile, disks, n);
  else {
    print_metrics (stdout, true, disks, n);
    if (fflush (stdout) != 0)
      status = cli_error ("standard output: %m");
  }
  if (status == STATUS_OK && disks != NULL)
    status = disks_unanswered (disks, all);
  if (disks != NULL)
    backfill_free_disks (disks);
  backfill_close (h);
  return status;
}
