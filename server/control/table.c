/* table.c - the commands: name, thread, handler, arguments and help of each.
 *
 * Dispatch, argument checks, query-commands and the reference page all come
 * from command_table.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <string.h>

#include "handlers.h"

static const char *const on_error_words[] = { "report", "skip", NULL };

/* The argument that goes with a store's path. */
#define FILE_MEANT                                                            \
  {                                                                           \
    .type = ARG_TEXT, .name = "file", .optional = true,                       \
    .help = "device and inode number of the store that is meant, DEV-INO in " \
            "hexadecimal: if the disk is another file, nothing is done"       \
  }
#define DEVICE                                                \
  { .type = ARG_DEVICE,                                       \
    .name = "device",                                         \
    .help = "the disk: its name, or the path of its store" }, \
      FILE_MEANT
#define DEVICE_OR_ONLY                                                       \
  { .type = ARG_DEVICE,                                                      \
    .name = "device",                                                        \
    .optional = true,                                                        \
    .help = "the disk: its name, or the path of its store; may be left out " \
            "if there is only one" },                                        \
      FILE_MEANT
#define DEVICE_OR_ALL                                               \
  { .type = ARG_DEVICE,                                             \
    .name = "device",                                               \
    .optional = true,                                               \
    .help = "only this disk: its name, or the path of its store" }, \
      FILE_MEANT
#define SPEED(text)                                    \
  {                                                    \
    .type = ARG_INTEGER, .name = "speed", .help = text \
  }
#define NUMBER                                                            \
  {                                                                       \
    .type = ARG_INTEGER, .optional = true, .name = "number",              \
    .help = "the number of the job that is meant; it is refused when it " \
            "is another's turn.  0 is the disk's job, whichever it is"    \
  }
#define NOTHING "an empty object"

const struct command command_table[] = {
  { "block-allocate",
    RUN_SLOW,
    run_allocate,
    NULL,
    "an object with C<number>, that of the job",
    "Start a job that makes a range of the disk local.  When this returns, "
    "the job is recorded durably, and is resumed after a restart.  The range "
    "is widened to whole granules.  A disk has one job at a time.  Events "
    "about the job may come before the answer.",
    { DEVICE_OR_ONLY,
      { ARG_INTEGER, true, "offset", .help = "first byte" },
      { ARG_INTEGER, true, "length",
        .help = "bytes, 0 for all to the end of the disk" },
      { ARG_INTEGER, true, "speed",
        .help = "limit in bytes per second, 0 for none" },
      { ARG_BOOLEAN, true, "sparse", .def = 1,
        .help = "whether zeros may stay holes in the store; else all of the "
                "range is allocated there" },
      { ARG_WORD, true, "on-error", .words = on_error_words,
        .help = "what happens to a range that cannot be read: the job fails "
                "(report), or goes on and fails at its end (skip)" },
      { ARG_INTEGER, true, "retry", .def = -1,
        .help = "milliseconds for which a lost backing store is waited for; 0 "
                "is not at all.  Without it that is for ever" } } },
  { "block-job-cancel",
    RUN_VERB,
    run_cancel,
    NULL,
    NOTHING,
    "End the disk's job.  When this returns, which takes 2 seconds at most, "
    "nothing more is written for it.  What it made local stays local.",
    { DEVICE,
      NUMBER,
      { ARG_BOOLEAN, true, "force",
        .help = "taken as QEMU has it, and without effect" } } },
  { "block-job-dismiss",
    RUN_VERB,
    run_dismiss,
    NULL,
    NOTHING,
    "Forget the disk's job, which must have ended.  Backfilld also forgets "
    "one in progress if the volume's store is gone.",
    { DEVICE, NUMBER } },
  { "block-job-pause",
    RUN_VERB,
    run_pause,
    NULL,
    NOTHING,
    "Pause the disk's job.  It stays paused over a restart.",
    { DEVICE, NUMBER } },
  { "block-job-resume",
    RUN_VERB,
    run_resume,
    NULL,
    NOTHING,
    "Let the disk's job go on: one paused by block-job-pause, or because the "
    "store was full.",
    { DEVICE, NUMBER } },
  { "block-job-set-speed",
    RUN_VERB,
    run_set_speed,
    NULL,
    NOTHING,
    "Change the limit of the disk's job.",
    { DEVICE, NUMBER, SPEED ("limit in bytes per second, 0 for none") } },
  { "disk-create",
    RUN_SLOW,
    run_create,
    NULL,
    NOTHING,
    "Make a new volume: a store and its sidecar, with nothing local yet.  "
    "Only backfilld does this, for root and its own user.",
    { { .type = ARG_DEVICE,
        .name = "device",
        .help = "the path of the store, which must not be there yet" },
      { ARG_TEXT, true, "backing",
        .help = "the backing store, an NBD URI or the absolute path of a "
                "raw image; it must be there now.  "
                "Without one the disk is zeros" },
      { ARG_INTEGER, true, "size",
        .help = "bytes; by default those of the backing store" },
      { ARG_INTEGER, true, "granule", .def = 4096, .min = 512, .max = 65536,
        .help = "a power of two" } } },
  { "disk-detach",
    RUN_SLOW,
    run_detach,
    NULL,
    NOTHING,
    "Let the backing store and the sidecar go.  All of the disk must be "
    "local.",
    { DEVICE_OR_ONLY } },
  { "disk-flush",
    RUN_SLOW,
    run_flush,
    NULL,
    NOTHING,
    "Make durable what was written to the disk, as a guest's flush does.",
    { DEVICE_OR_ONLY } },
  { "disk-release",
    RUN_SLOW,
    run_release,
    NULL,
    NOTHING,
    "Let a volume go, for another process that is about to open it: its job "
    "stops at a checkpoint, and whoever opens the volume goes on with it.  "
    "It is not opened again for a grace period, nor while it is in use.  "
    "Only backfilld does this.",
    { DEVICE } },
  { "disk-take",
    RUN_SLOW,
    run_take,
    NULL,
    NOTHING,
    "Go on with a volume's job when nobody has had the volume open for a "
    "grace period.  Only backfilld does this.",
    { DEVICE } },
  { "qmp_capabilities",
    RUN_LOOP,
    run_capabilities,
    NULL,
    NOTHING,
    "End the negotiation.  Must be the first command.",
    { { ARG_LIST, true, "enable",
        .help = "capabilities to enable; none is offered" } } },
  { "query-allocation-map",
    RUN_QUERY,
    run_map,
    NULL,
    "an object: C<regions> (a list of objects with C<offset>, C<length> and, "
    "if asked for, C<state>: C<local>, C<absent> or C<zero>, which is local "
    "without data in the store), or C<packed> in its place, C<size> and "
    "C<granule> of the disk, and C<next>, the offset from which to ask for the "
    "rest, if there is more",
    "Which ranges of the disk are local, in order, and as long as they can "
    "be.",
    { DEVICE_OR_ONLY,
      { ARG_INTEGER, true, "offset", .help = "first byte" },
      { ARG_INTEGER, true, "length",
        .help = "bytes, 0 for all to the end of the disk" },
      { ARG_INTEGER, true, "max-regions", .def = 1000, .min = 1, .max = 100000,
        .help = "how many regions may be in the answer" },
      { ARG_BOOLEAN, true, "states",
        .help = "give all regions with their state, not only those that are "
                "local" },
      { ARG_BOOLEAN, true, "packed",
        .help = "give all regions as one string, C<packed>: one after the "
                "other from C<offset> on, each a letter (C<l> local, C<a> "
                "absent, C<z> zero, which is told from local only with "
                "C<states>) and its length" } } },
  { "query-block-jobs",
    RUN_QUERY,
    run_jobs,
    quick_jobs,
    "a list of job objects",
    "The jobs in progress, and those that ended and were neither dismissed "
    "nor followed by another.",
    { DEVICE_OR_ALL,
      { ARG_INTEGER, true, "number",
        .help = "only the job of the disk that has this number: in progress, "
                "or one of the 16 latest that this process knows to have "
                "ended, also when others followed it" } } },
  { "query-commands",
    RUN_LOOP,
    run_commands,
    NULL,
    "a list of objects with a C<name>, in order",
    "The commands.",
    { { .type = ARG_END } } },
  { "query-disks",
    RUN_QUERY,
    run_disks,
    NULL,
    "a list of disk objects",
    "The disks of this process and their jobs.",
    { DEVICE_OR_ALL,
      { ARG_BOOLEAN, true, "all",
        .help = "those too that backfilld has not open, but whose job is in "
                "progress, or has ended and was not dismissed" } } },
  { "query-total-speed",
    RUN_LOOP,
    run_total_speed,
    NULL,
    "an object with C<speed>, bytes per second, 0 if there is no limit",
    "The limit of all jobs of this process together.",
    { { .type = ARG_END } } },
  { "query-version",
    RUN_LOOP,
    run_version,
    NULL,
    "an object with C<backfill> (C<major>, C<minor>, C<micro>), C<package>, "
    "and C<qemu>: the version of QEMU whose commands these are like",
    "The version, as the greeting has it.",
    { { .type = ARG_END } } },
  { "quit",
    RUN_LOOP,
    run_quit,
    NULL,
    NOTHING,
    "Shut the process down, after this was answered.  Backfilld does it for "
    "root and its own user.",
    { { .type = ARG_END } } },
  { "set-total-speed",
    RUN_VERB,
    run_set_total_speed,
    NULL,
    NOTHING,
    "Limit all jobs of this process together.  Backfilld does it for root and "
    "its own user, and remembers it over a restart.",
    { SPEED ("limit in bytes per second, 0 for none") } },
  { .name = NULL },
};

const struct command *
command_find (const char *name)
{
  for (const struct command *c = command_table; c->name; c++)
    if (strcmp (c->name, name) == 0)
      return c;
  return NULL;
}

json_t *
run_commands (struct call *call)
{
  json_t *list = json_array ();

  (void)call;
  for (const struct command *c = command_table; c->name; c++)
    if (json_array_append_new (list, json_pack ("{s:s}", "name", c->name))
        == -1) {
      json_decref (list);
      return NULL;
    }
  return list;
}
