/* disks.c - commands about disks: list, info, flush, detach, quit.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <inttypes.h>
#include <errno.h>
#include <unistd.h>

#include "cli.h"
#include "cleanup.h"

#define BAR_MAX 30

json_t *
disk_object (struct backfill *h, const char *disk)
{
  json_t *args
      = disk != NULL ? json_pack ("{s:s}", "device", disk) : json_object ();
  CLEANUP_FREE char *text
      = args != NULL ? json_dumps (args, JSON_COMPACT) : NULL;
  CLEANUP_FREE char *reply = NULL;
  json_t *disks, *object;
  int r;

  json_decref (args);
  if (text == NULL) {
    cli_error ("'%s' is not UTF-8: no disk has such a name", disk);
    return NULL;
  }
  r = backfill_command (h, "query-disks", text, &reply);
  if (r == -1) {
    cli_failed ();
    return NULL;
  }
  disks = json_loads (reply, 0, NULL);
  if (json_array_size (disks) != 1) {
    struct backfill_disk_info *info;

    /* The library says it better: its message lists the disks. */
    if (backfill_get_disk_info (h, disk, &info) == -1)
      cli_failed ();
    else {
      backfill_free_disk_info (info);
      cli_error ("the disks have just changed: try again");
    }
    json_decref (disks);
    return NULL;
  }
  object = json_incref (json_array_get (disks, 0));
  json_decref (disks);
  return object;
}

static int
print_disk_json (struct backfill *h, const char *disk)
{
  json_t *object = disk_object (h, disk);
  int status;

  if (object == NULL)
    return STATUS_FAILED;
  status = text_json (object);
  json_decref (object);
  return status;
}

/* "[#####.....]" of what is local. */
static void
print_bar (uint64_t local, uint64_t size, int width, bool colour)
{
  int full
      = size == 0 ? width : (int)((double)local / (double)size * (double)width);

  if (full == width && local < size)
    full--;
  if (colour)
    fputs ("[\033[34m", stdout);
  else
    putchar ('[');
  for (int i = 0; i < width; i++) {
    if (colour && i == full)
      fputs ("\033[0;2m", stdout);
    putchar (i < full ? '#' : '.');
  }
  fputs (colour ? "\033[0m]" : "]", stdout);
}

static void
job_summary (char *buf, size_t size, const struct backfill_job_info *job)
{
  if (job->type == BACKFILL_JOB_NONE)
    snprintf (buf, size, "-");
  else if (job->type == BACKFILL_JOB_COMPLETED)
    snprintf (buf, size, "completed");
  else {
    const char *status = text_job_status (job);

    snprintf (buf, size, "%.*s %d%%", (int)strcspn (status, ":"), status,
              text_percent (job->data_processed, job->data_total));
  }
}

static void
print_padded (const char *s, int width)
{
  printf ("%s%*s  ", s, width - text_width (s) > 0 ? width - text_width (s) : 0,
          "");
}

/* How wide the columns of a list are. */
struct columns {
  int name, source, job;
  int bar; /* 0: none */
};

/* Measure the columns, and clean the disks' texts. */
static void
measure (struct backfill_disk_info **disks, unsigned n, struct columns *c)
{
  char job[96] = "not answering";

  *c = (struct columns){ .name = 4, .source = 6, .job = 3 };
  for (unsigned i = 0; i < n; i++) {
    struct backfill_disk_info *d = disks[i];
    int w;

    text_clean (d->name);
    text_clean (d->store);
    w = text_width (text_name (d->name));
    c->name = w > c->name ? w : c->name;
    if (d->unanswered == NULL) {
      w = text_width (text_clean (d->source));
      c->source = w > c->source ? w : c->source;
      job_summary (job, sizeof job, &d->job);
    }
    else
      snprintf (job, sizeof job, "not answering");
    w = text_width (job);
    c->job = w > c->job ? w : c->job;
  }
  if (!text_terminal (stdout))
    return;
  /* What the other columns leave; the store's path may wrap. */
  c->bar = text_columns () - c->name - c->source - c->job - 40;
  c->bar = c->bar > BAR_MAX ? BAR_MAX : c->bar < 10 ? 10 : c->bar;
}

static void
print_row (const struct backfill_disk_info *d, const struct columns *c)
{
  char buf[TEXT_MAX], job[96];

  print_padded (text_name (d->name), c->name);
  if (d->unanswered != NULL) {
    print_padded ("         -", 10);
    if (c->bar > 0)
      print_padded ("", c->bar + 2);
    print_padded ("    -", 5);
    print_padded ("-", c->source);
    print_padded ("not answering", c->job);
    printf ("%s\n", d->store);
    return;
  }
  printf ("%10s  ", text_bytes (buf, d->size));
  if (c->bar > 0) {
    print_bar (d->local, d->size, c->bar, text_colour ());
    printf ("  ");
  }
  printf ("%4d%%  ", text_percent (d->local, d->size));
  print_padded (d->source, c->source);
  job_summary (job, sizeof job, &d->job);
  print_padded (job, c->job);
  printf ("%s\n", d->store);
}

static void
print_list (struct backfill_disk_info **disks, unsigned n)
{
  struct columns c;

  measure (disks, n, &c);
  print_padded ("NAME", c.name);
  print_padded ("      SIZE", 10);
  if (c.bar > 0)
    print_padded ("", c.bar + 2);
  print_padded ("LOCAL", 5);
  print_padded ("SOURCE", c.source);
  print_padded ("JOB", c.job);
  printf ("STORE\n");
  for (unsigned i = 0; i < n; i++)
    print_row (disks[i], &c);
}

/* Print a note for each reason, once. */
static int
note_unanswered (const char *const *reasons, size_t n)
{
  int status = STATUS_OK;

  for (size_t i = 0; i < n; i++) {
    CLEANUP_FREE char *text = NULL;
    size_t j;

    if (reasons[i] == NULL)
      continue;
    status = STATUS_UNANSWERED;
    for (j = 0; j < i; j++)
      if (reasons[j] != NULL && strcmp (reasons[i], reasons[j]) == 0)
        break;
    if (j == i && (text = strdup (reasons[i])) != NULL)
      cli_error ("%s", text_clean (text));
  }
  return status;
}

int
disks_unanswered (struct backfill_disk_info **disks, unsigned n)
{
  CLEANUP_FREE const char **reasons = calloc (n + 1, sizeof *reasons);

  for (unsigned i = 0; reasons != NULL && i < n; i++)
    reasons[i] = disks[i]->unanswered;
  return reasons != NULL ? note_unanswered (reasons, n) : STATUS_FAILED;
}

static int
print_list_json (const json_t *rows)
{
  size_t n = json_array_size (rows);
  CLEANUP_FREE const char **reasons = calloc (n + 1, sizeof *reasons);
  int status = text_json (rows);

  for (size_t i = 0; reasons != NULL && i < n; i++)
    reasons[i] = json_string_value (
        json_object_get (json_array_get (rows, i), "unanswered"));
  if (status != STATUS_OK || reasons == NULL)
    return STATUS_FAILED;
  return note_unanswered (reasons, n);
}

int
cmd_list (int argc, char **argv)
{
  static const struct option longs[] = {
    { "all", no_argument, NULL, 'a' },
    { NULL, 0, NULL, 0 },
  };
  struct backfill_disk_info **disks;
  struct backfill *h;
  unsigned n;
  int status = STATUS_OK;

  bool all = false;

  while (cli_getopt (argc, argv, longs) != -1)
    all = true;
  if (optind < argc)
    cli_usage ("'list' shows all disks and takes no DISK: 'info' does");
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  if (cli.json) {
    CLEANUP_FREE char *reply = NULL;

    if (backfill_command (h, "query-disks", all ? "{\"all\":true}" : NULL,
                          &reply)
        == -1)
      status = cli_failed ();
    else {
      json_t *value = json_loads (reply, 0, NULL);

      status = print_list_json (value);
      json_decref (value);
    }
  }
  else if ((all ? backfill_list_all_disks : backfill_list_disks) (h, &n, &disks)
           == -1)
    status = cli_failed ();
  else {
    print_list (disks, n);
    status = disks_unanswered (disks, n);
    backfill_free_disks (disks);
  }
  backfill_close (h);
  return status;
}

int
disks_names (void)
{
  struct backfill_disk_info **disks;
  struct backfill *h = cli_connect ();
  unsigned n;

  if (h == NULL)
    return STATUS_FAILED;
  if (backfill_list_disks (h, &n, &disks) == -1) {
    backfill_close (h);
    return cli_failed ();
  }
  for (unsigned i = 0; i < n; i++)
    if (disks[i]->name[0] != '\0')
      fwrite (disks[i]->name, 1, strlen (disks[i]->name) + 1, stdout);
  backfill_free_disks (disks);
  backfill_close (h);
  return STATUS_OK;
}

void
print_bytes (const char *label, uint64_t n)
{
  char buf[TEXT_MAX];

  if (n < 1024)
    printf ("%-13s%" PRIu64 " bytes\n", label, n);
  else
    printf ("%-13s%s (%" PRIu64 " bytes)\n", label, text_bytes (buf, n), n);
}

static void
print_job (struct backfill_job_info *job)
{
  char a[TEXT_MAX], b[TEXT_MAX];

  if (job->type == BACKFILL_JOB_NONE) {
    printf ("job          none\n");
    return;
  }
  printf ("job          %s\n", text_job_status (job));
  if (job->number != 0)
    printf ("  number     %" PRIu64 "\n", job->number);
  printf ("  range      %s at offset %" PRIu64 "\n",
          job->range_length == 0 ? "all" : text_bytes (a, job->range_length),
          job->range_offset);
  printf ("  local      %s of %s (%d%%)\n", text_bytes (a, job->data_processed),
          text_bytes (b, job->data_total),
          text_percent (job->data_processed, job->data_total));
  printf ("  elapsed    %s\n", text_time (a, job->time_elapsed));
  if (job->time_remaining != 0)
    printf ("  left       about %s\n", text_time (a, job->time_remaining));
  /* The recent speed of a job that rests says nothing. */
  if (job->status == BACKFILL_STATUS_RUNNING)
    printf ("  speed      %s/s\n", text_bytes (a, job->current_speed));
  if (job->type == BACKFILL_JOB_BOUNDED && job->speed != 0)
    printf ("  limit      %s/s\n", text_bytes (a, job->speed));
  printf ("  fetched    %s\n", text_bytes (a, job->bytes_read));
  printf ("  zeros      %s\n", job->sparse ? "as holes" : "allocated");
  if (job->failed_ranges != 0)
    printf ("  skipped    %" PRIu64 " %s\n", job->failed_ranges,
            job->failed_ranges == 1 ? "granule" : "granules");
  if (job->error[0] != '\0' || job->errnum != 0)
    printf ("  error      %s\n", job->error[0] != '\0'
                                     ? text_clean (job->error)
                                     : strerror (job->errnum));
  if (job->failed_offset != UINT64_MAX)
    printf ("  failed at  %" PRIu64 "\n", job->failed_offset);
}

static void
print_info (struct backfill_disk_info *d)
{
  char buf[TEXT_MAX];

  printf ("name         %s\n", text_name (text_clean (d->name)));
  printf ("store        %s\n", text_clean (d->store));
  if (d->metadata != NULL)
    printf ("sidecar      %s\n", text_clean (d->metadata));
  printf ("backing      %s\n",
          d->backing != NULL ? text_clean (d->backing) : "none");
  printf ("source       %s", text_clean (d->source));
  if (d->source_reason != NULL)
    printf (": %s", text_clean (d->source_reason));
  printf ("\n");
  print_bytes ("size", d->size);
  print_bytes ("granule", d->granule);
  print_bytes ("local", d->local);
  print_bytes ("absent", d->absent);
  printf ("filled       %d%%%s%s\n", text_percent (d->local, d->size),
          d->detached   ? ", detached"
          : d->complete ? ", needs its backing store no more"
                        : "",
          d->read_only ? ", read-only" : "");
  if (d->damaged_sectors != 0)
    printf ("DAMAGED      %" PRIu64
            " %s of the sidecar: I/O to %s at offset %" PRIu64 " fails%s\n",
            d->damaged_sectors, d->damaged_sectors == 1 ? "sector" : "sectors",
            text_bytes (buf, d->damaged_length), d->damaged_offset,
            d->damaged_sectors == 1
                ? ""
                : ", and to others ('backfill check' lists them)");
  if (d->sync_error != NULL)
    printf ("SYNC FAILED  %s: nothing is made durable until the disk is "
            "opened again\n",
            text_clean (d->sync_error));
  printf ("fetched      %s; requests: %" PRIu64 " for the guest, %" PRIu64
          " ahead of it, %" PRIu64 " for jobs\n",
          text_bytes (buf, d->bytes_fetched), d->demand_fetches,
          d->ahead_fetches, d->background_fetches);
  if (d->trace_file != NULL) {
    char hit[TEXT_MAX];

    printf ("trace        %s; fetched: %s, of which read: %s%s%s\n",
            text_clean (d->trace_file), text_bytes (buf, d->trace_used),
            text_bytes (hit, d->trace_hit),
            d->trace_replaying ? "; replaying" : "",
            d->trace_recording ? "; recording" : "");
  }
  printf ("guest        reads: %" PRIu64 ", writes: %" PRIu64
          ", flushes: %" PRIu64 "\n",
          d->guest_reads, d->guest_writes, d->flushes);
  printf ("commits      %" PRIu64 "\n", d->commits);
  print_job (&d->job);
}

int
cmd_info (int argc, char **argv)
{
  struct backfill_disk_info *info;
  struct backfill *h;
  const char *disk;
  int status = STATUS_OK;

  cli_getopt (argc, argv, NULL);
  disk = cli_disk (argc, argv);
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  if (backfill_get_disk_info (h, disk, &info) == -1)
    status = offline_may (disk) ? offline_info (disk) : cli_failed ();
  else {
    if (cli.json)
      status = print_disk_json (h, disk);
    else
      print_info (info);
    backfill_free_disk_info (info);
  }
  backfill_close (h);
  return status;
}

int
cmd_flush (int argc, char **argv)
{
  struct backfill *h;
  const char *disk;
  int status = STATUS_OK;

  cli_getopt (argc, argv, NULL);
  disk = cli_disk (argc, argv);
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  if (backfill_disk_flush (h, disk) == -1)
    status = cli_failed ();
  else if (cli.json)
    status = print_disk_json (h, disk);
  backfill_close (h);
  return status;
}

/* A volume as create is asked for it. */
struct wanted {
  const char *store, *backing; /* backing NULL: zeros */
  uint64_t size, granule;      /* 0: whatever is usual */
};

static void
parse_wanted (int argc, char **argv, struct wanted *w)
{
  enum { OPT_BACKING = 1, OPT_SIZE, OPT_GRANULE };
  static const struct option longs[] = {
    { "backing", required_argument, NULL, OPT_BACKING },
    { "size", required_argument, NULL, OPT_SIZE },
    { "granule", required_argument, NULL, OPT_GRANULE },
    { NULL, 0, NULL, 0 },
  };
  bool has_size = false;
  int c;

  while ((c = cli_getopt (argc, argv, longs)) != -1)
    switch (c) {
    case OPT_BACKING:
      w->backing = optarg;
      break;
    case OPT_SIZE:
      w->size = text_size ("--size", optarg);
      has_size = true;
      break;
    case OPT_GRANULE:
      w->granule = text_size ("--granule", optarg);
      break;
    }
  w->store = cli_disk (argc, argv);
  if (w->store == NULL)
    cli_usage ("'create' needs the path of the new STORE");
  if (w->backing == NULL && !has_size)
    cli_usage ("'create' needs --backing URI|PATH, or --size SIZE for a disk "
               "of zeros");
  if (w->granule > 65536)
    cli_usage ("--granule: 65536 is the most");
}

/* Is that what was said?  A file's path was made absolute. */
static bool
is_backing (const char *backing, const char *said)
{
  CLEANUP_FREE char *cwd = get_current_dir_name ();
  size_t len = cwd != NULL ? strlen (cwd) : 0;

  return strcmp (backing, said) == 0
         || (len > 0 && strncmp (backing, cwd, len) == 0 && backing[len] == '/'
             && strcmp (backing + len + 1, said) == 0);
}

/* There is a file already: the volume that is wanted, so that nothing is left
 * to be done?  The messages are for a volume that is another. */
static int
compare_wanted (struct backfill *h, const struct wanted *w)
{
  CLEANUP_FREE char *why = strdup (backfill_get_error ()), *sidecar = NULL;
  struct backfill_disk_info *d;
  int status = STATUS_OK;

  /* Without a sidecar it is an image that somebody else has made.  Looked at
   * first: a question may make backfilld open the image, with a sidecar. */
  if (asprintf (&sidecar, "%s.backfill", w->store) == -1) {
    sidecar = NULL;
    return cli_error ("out of memory");
  }
  if (access (sidecar, F_OK) == -1 && errno == ENOENT)
    return cli_error ("'%s' is there already, and is a plain image", w->store);
  if (backfill_get_disk_info (h, w->store, &d) == -1)
    return cli_error ("%s, and cannot be compared with what is to be made: %s",
                      why != NULL ? why : w->store, backfill_get_error ());
  if (w->backing == NULL && d->backing != NULL)
    status = cli_error ("'%s' is there already, with the backing store %s",
                        w->store, d->backing);
  else if (w->backing != NULL
           && (d->backing == NULL || !is_backing (d->backing, w->backing)))
    status = cli_error ("'%s' is there already, and its backing store is %s, "
                        "not %s",
                        w->store, d->backing != NULL ? d->backing : "none",
                        w->backing);
  else if (w->size != 0 && d->size != w->size)
    status = cli_error ("'%s' is there already, with %" PRIu64
                        " bytes, not %" PRIu64,
                        w->store, d->size, w->size);
  else if (w->granule != 0 && d->granule != w->granule)
    status = cli_error ("'%s' is there already, with a granule of %" PRIu32
                        " bytes, not %" PRIu64,
                        w->store, d->granule, w->granule);
  backfill_free_disk_info (d);
  return status;
}

int
cmd_create (int argc, char **argv)
{
  struct wanted w = { 0 };
  struct backfill *h;
  bool made = false;
  int status = STATUS_OK;

  parse_wanted (argc, argv, &w);
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  if (backfill_create_volume (h, w.store, w.backing, w.size,
                              (uint32_t)w.granule)
      == 0)
    made = true;
  else
    status = backfill_get_errno () == EEXIST ? compare_wanted (h, &w)
                                             : cli_failed ();
  if (status == STATUS_OK && cli.json)
    status = print_disk_json (h, w.store);
  else if (status == STATUS_OK)
    printf (made ? "made: 'backfill allocate' fills it in\n"
                 : "it is there already\n");
  backfill_close (h);
  return status;
}

int
cmd_detach (int argc, char **argv)
{
  struct backfill *h;
  const char *disk;
  int status = STATUS_OK;

  cli_getopt (argc, argv, NULL);
  disk = cli_disk (argc, argv);
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  if (backfill_disk_detach (h, disk) == -1)
    status = cli_failed ();
  else if (cli.json)
    status = print_disk_json (h, disk);
  else
    printf ("detached: the store is a plain raw image when its server has "
            "ended\n");
  backfill_close (h);
  return status;
}

int
cmd_quit (int argc, char **argv)
{
  CLEANUP_FREE char *reply = NULL;
  struct backfill *h;
  int status = STATUS_OK;

  cli_getopt (argc, argv, NULL);
  if (optind < argc)
    cli_usage ("'quit' ends the whole server and takes no DISK: name its "
               "socket with -c");
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  if (backfill_command (h, "quit", NULL, &reply) == -1) {
    if (backfill_get_errno () == ENOTUNIQ)
      status = cli_error ("there are several servers: name the socket of the "
                          "one to end with -c");
    else
      status = cli_failed ();
  }
  else if (cli.json)
    printf ("{}\n");
  backfill_close (h);
  return status;
}
