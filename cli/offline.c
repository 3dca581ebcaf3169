/* offline.c - `backfill info` of a volume that no server has open.
 *
 * The volume is looked at through its files alone, with the engine's own
 * reading code, which believes a sidecar of root, of the store's owner and of
 * the caller (trust.h).  Nothing is locked or changed.  What a killed server
 * left in its working map is not counted: the next server that opens the volume
 * takes it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "cli.h"
#include "disk.h"
#include "object.h"

static void
print_text (const char *label, const char *text)
{
  CLEANUP_FREE char *copy = strdup (text != NULL ? text : "none");

  printf ("%-13s%s\n", label, copy != NULL ? text_clean (copy) : "");
}

static void
print_job (const struct job_info *job)
{
  char a[TEXT_MAX], b[TEXT_MAX], error[sizeof job->error];

  if (job->status == JOB_NONE) {
    printf ("job          none\n");
    return;
  }
  printf ("job          %s\n",
          job->result != JOB_RESULT_NONE ? job_result_name (job->result)
          : job->status == JOB_PAUSED    ? "paused"
                                         : "goes on when the volume is opened");
  printf ("  number     %" PRIu64 "\n", job->number);
  printf ("  range      %s at offset %" PRIu64 "\n",
          text_bytes (a, job->options.length), job->options.offset);
  printf ("  local      %s of %s (%d%%)\n", text_bytes (a, job->processed),
          text_bytes (b, job->total),
          text_percent (job->processed, job->total));
  snprintf (error, sizeof error, "%s", job->error);
  if (error[0] != '\0')
    printf ("  error      %s\n", text_clean (error));
}

static void
print_peek (const struct disk_peek *peek)
{
  const struct disk_info *d = &peek->info;

  print_text ("store", d->store);
  print_text ("sidecar", d->metadata);
  print_text ("backing", d->backing);
  printf ("open         %s\n", peek->in_use
                                   ? "by another process, which was not found"
                                   : "no: this is what its files say");
  print_bytes ("size", d->size);
  print_bytes ("granule", d->granule);
  print_bytes ("local", d->local);
  print_bytes ("absent", d->absent);
  printf ("filled       %d%%%s\n", text_percent (d->local, d->size),
          d->detached   ? ", detached"
          : d->complete ? ", needs its backing store no more"
                        : "");
  print_job (&d->job);
}

static int
print_json (const struct disk_peek *peek)
{
  json_t *object = object_peek (peek);
  int status;

  if (object == NULL)
    return cli_error ("out of memory");
  if (peek->in_use)
    object_set (object, "open", json_true ());
  status = text_json (object);
  json_decref (object);
  return status;
}

bool
offline_may (const char *disk)
{
  return disk != NULL && disk[0] != '\0' && cli.socket == NULL
         && backfill_get_errno () == ENXIO && access (disk, F_OK) == 0;
}

int
offline_info (const char *store)
{
  __attribute__ ((cleanup (disk_peek_clear))) struct disk_peek peek = { 0 };
  CLEANUP_FREE char *real = realpath (store, NULL), *error = NULL;
  int status;

  if (real == NULL)
    return cli_failed ();
  if (disk_peek (real, true, &peek, &error) == -1) {
    status = cli_error ("%s", error != NULL ? error : strerror (errno));
    return status;
  }
  /* No volume: then it is the error that there is no server. */
  if (!peek.has_sidecar)
    return cli_failed ();
  if (cli.json)
    return print_json (&peek);
  print_peek (&peek);
  return STATUS_OK;
}
