/* main.c - the `backfill` command: help, and which command to run.
 *
 * One table has every command with its help text.  The completion script asks
 * for the words of that table (--list-commands, --long-options), so that script
 * and table cannot grow apart, and for the disks (--list-disks).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <locale.h>
#include <sys/resource.h>

#include "cli.h"

struct command {
  const char *name;
  const char *arguments;
  const char *summary;
  const char *help;
  int (*run) (int argc, char **argv);
};

#define JOB                                                                  \
  "\n"                                                                       \
  "  --job NUMBER      only the job of that number ('info' shows it), and\n" \
  "                    no other that has taken its place\n"

#define SIZES                                                            \
  "\nSizes are bytes, or take one of nbdkit's suffixes: b k M G T P E\n" \
  "(times 1024, any case) or s (sectors of 512 bytes).\n"

static const struct command commands[] = {
  { "list", "", "show all disks",
    "Shows name, size, how much is local, the state of the backing store and\n"
    "the job of every disk of the server, or without -c of every server that\n"
    "can be found.  On a terminal each disk has a bar.\n"
    "\n"
    "  --all             those too that backfilld has not open, but whose job\n"
    "                    is in progress, or has ended and was not dismissed\n",
    cmd_list },
  { "info", "[DISK]", "show all about one disk",
    "Shows the disk, its store, its backing store, its counters and its job.\n"
    "Of the path of a volume that no server has open, what its files say.\n",
    cmd_info },
  { "map", "[DISK]", "show which parts are local",
    "Prints offset, length (bytes) and state of each region, and totals:\n"
    "local   the truth is in the store\n"
    "zero    local, and without data in the store: reads as zeros\n"
    "absent  the truth is in the backing store\n"
    "\n"
    "  --offset OFFSET   where to begin (default 0)\n"
    "  --length LENGTH   how much (default: to the end)\n"
    "  --totals          only the totals\n"
    "  --ascii           one line with a bar; all disks if DISK is left out\n"
    "  --svg FILE        draw a picture into FILE (- is standard "
    "output)\n" SIZES,
    cmd_map },
  { "allocate", "[DISK]", "start a job that makes a range local",
    "Copies what is absent from the backing store, in the background.  A disk\n"
    "has one job at a time.\n"
    "\n"
    "  --offset OFFSET   where to begin (default 0)\n"
    "  --length LENGTH   how much (default: to the end)\n"
    "  --speed LIMIT     bytes a second, 0 or none: no limit (the default)\n"
    "  --sparse          zeros become holes in the store (the default)\n"
    "  --full            allocate zeros too\n"
    "  --on-error WHAT   when the backing store gives errors again and again:\n"
    "                    report (the job fails, the default) or skip (it goes\n"
    "                    on, and fails at its end)\n"
    "  --retry TIME      how long a lost backing store is waited for, in\n"
    "                    seconds or as in 500ms, 5m, 2h, forever (the "
    "default);\n"
    "                    0: not at all\n"
    "  --all             all of every disk that 'list' shows\n"
    "  --wait            wait until the job ends, showing how far it is;\n"
    "                    Ctrl-C then leaves it running\n"
    "  --progress[=FD]   the same; with FD write lines N/100 to that file\n"
    "                    descriptor, for programs\n"
    "  --quiet           show nothing but errors\n"
    "\n"
    "With --wait the exit status is 0 if the range is local, 3 if the job\n"
    "failed or was aborted.\n" SIZES,
    cmd_allocate },
  { "wait", "[DISK...]", "wait for jobs that are in progress",
    "Shows how far each is, as 'allocate --wait' does, and ends as that does;\n"
    "of a job that has ended already, too.  Ctrl-C leaves the jobs running.\n"
    "\n"
    "  --all             every job that is in progress now\n"
    "  --timeout TIME    for how long at most: seconds, or as in 500ms, 5m, "
    "2h\n"
    "  --progress=FD     write lines N/100 to that file descriptor, for "
    "programs\n"
    "  --quiet           show nothing but errors\n"
    "\n"
    "The exit status is 0 if all jobs completed, 3 if one failed or was "
    "aborted,\n"
    "5 if one still goes on.\n",
    cmd_wait },
  { "abort", "[DISK]", "end the job; what is local stays local",
    "Returns when the job has ended and nothing more is written for it.\n" JOB,
    cmd_abort },
  { "pause", "[DISK]", "let the job rest", "'resume' lets it go on.\n" JOB,
    cmd_pause },
  { "resume", "[DISK]", "let a paused job go on",
    "Also for a job that was paused because the store was full.\n" JOB,
    cmd_resume },
  { "speed", "[DISK] [LIMIT]", "limit the job's speed, or show its limit",
    "LIMIT is in bytes a second; 0 or none: no limit.  It holds from now on.\n"
    "Without LIMIT the present one is shown.\n"
    "\n"
    "  --total           of all jobs of the server together, instead of one\n"
    "                    disk's\n"
    "  --job NUMBER      only the job of that number ('info' shows it)\n" SIZES,
    cmd_speed },
  { "dismiss", "[DISK]", "forget a job that has ended",
    "Its state and error are kept until then, or until the next job.\n" JOB,
    cmd_dismiss },
  { "flush", "[DISK]", "make what was written durable",
    "As a guest's flush does.\n", cmd_flush },
  { "detach", "[DISK]", "let the backing store go for ever",
    "All of the disk must be local.  The sidecar is removed when the server\n"
    "ends: then the store is a plain raw image.\n",
    cmd_detach },
  { "watch", "[DISK]", "print events as they come",
    "One line each, until interrupted or the server ends; with --json one\n"
    "JSON object a line.  Without DISK: of all disks that 'list' shows.\n",
    cmd_watch },
  { "metrics", "", "print all disks in numbers, for monitoring",
    "In OpenMetrics, as Prometheus reads it.\n"
    "\n"
    "  --textfile FILE   write FILE instead, at once or not at all, in the "
    "text\n"
    "                    format 0.0.4 that node_exporter's collector reads\n",
    cmd_metrics },
  { "check", "FILE", "look for damage in a sidecar",
    "FILE is a sidecar, or a store whose sidecar is STORE.backfill.  Reads\n"
    "all of it and says what is damaged; nothing is changed.  The exit status\n"
    "is 0 if it is good.\n",
    cmd_check },
  { "trace", "VERB FILE...", "look at boot traces, and hand them on",
    "  trace show FILE             what guests read first\n"
    "  trace export DISK FILE      the trace that DISK's server uses\n"
    "  trace import FILE           into the directory of traces, merged with\n"
    "                              what is there\n"
    "  trace merge FILE FILE...    write the first from the others\n"
    "\n"
    "  --svg FILE        'show' as a picture, - for standard output\n"
    "  --dir DIRECTORY   the directory of traces for 'import'\n"
    "\n"
    "A trace tells what a guest has read.\n",
    cmd_trace },
  { "owner", "STORE", "say whose a disk is, as its files do",
    "STORE is a store, or its sidecar.  A disk that has moved to another "
    "host,\n"
    "or is moving, says so in its sidecar: that alone is read, and no server\n"
    "is asked.\n",
    cmd_owner },
  { "create", "STORE", "make a volume that no guest has open yet",
    "Has backfilld make STORE and its sidecar, with nothing local; 'allocate'\n"
    "with its path then fills it in.  If such a volume is there already, "
    "nothing\n"
    "is done.\n"
    "\n"
    "  --backing URI     the backing store: an NBD URI, or the path of a raw "
    "image\n"
    "  --size SIZE       of a disk of zeros, or to check the backing store's\n"
    "  --granule SIZE    the unit of tracking (default 4096)\n" SIZES,
    cmd_create },
  { "quit", "", "end the server",
    "It makes everything durable first, and ends when its clients have left.\n",
    cmd_quit },
  { NULL, NULL, NULL, NULL, NULL },
};

static void
print_help (FILE *fp)
{
  fputs ("Usage: backfill [-c SOCKET] COMMAND [DISK] [OPTION...]\n"
         "       backfill [--connect URI] --domain DOMAIN DISK COMMAND "
         "[OPTION...]\n"
         "       backfill [--connect URI] --pool POOL --volume VOLUME COMMAND\n"
         "\n"
         "Shows and drives disks that backfill serves and fills in.\n"
         "\n"
         "Commands:\n",
         fp);
  for (const struct command *c = commands; c->name != NULL; c++) {
    int n = fprintf (fp, "  %s %s", c->name, c->arguments);

    fprintf (fp, "%*s%s\n", n < 24 ? 24 - n : 1, "", c->summary);
  }
  fputs (
      "\n"
      "DISK is a disk's name or the path of its store; \"\" is the disk whose\n"
      "name is empty.  It can be left out where there is only one disk.\n"
      "\n"
      "Options:\n",
      fp);
  options_help (fp, false);
  fputs (
      "\n"
      "Exit status: 0 done, 1 failed, 2 wrong usage, 3 the job failed or was\n"
      "aborted, 4 a server does not answer, whose disks are shown as such,\n"
      "5 the job goes on, 130 interrupted.\n",
      fp);
}

static void
print_command_help (const struct command *c)
{
  printf ("Usage: backfill [-c SOCKET] %s%s%s [OPTION...]\n\n%s\n", c->name,
          c->arguments[0] != '\0' ? " " : "", c->arguments, c->help);
  printf ("Options of every command:\n");
  options_help (stdout, true);
}

static const struct command *
find_command (const char *name)
{
  for (const struct command *c = commands; c->name != NULL; c++)
    if (strcmp (c->name, name) == 0)
      return c;
  return NULL;
}

/* Output that could not be written is a failure, whatever the command's status
 * is. */
static int
finish (int status)
{
  if (fflush (stdout) != 0 || ferror (stdout)) {
    cli_error ("cannot write to standard output: %m");
    return status == STATUS_OK ? STATUS_FAILED : status;
  }
  if (status == STATUS_FAILED && cli.detailed && cli.failure >= STATUS_NO_DISK)
    return cli.failure;
  return status;
}

/* Take the options before the command.  False: end with *status. */
static bool
take_options (int argc, char **argv, int *status)
{
  *status = STATUS_OK;
  switch (options_before (argc, argv)) {
  case -1:
    return true;
  case 'h':
    print_help (stdout);
    return false;
  case 'V':
    printf ("backfill %s\n", backfill_version ());
    return false;
  case OPTION_LONG_OPTIONS:
    options_long (NULL);
    return false;
  case OPTION_SHORT_OPTIONS:
    options_short ();
    return false;
  case OPTION_COMMANDS:
    for (const struct command *p = commands; p->name != NULL; p++)
      puts (p->name);
    return false;
  case OPTION_DISKS:
    *status = disks_names ();
    return false;
  default:
    fprintf (stderr, "Try 'backfill --help'.\n");
    *status = STATUS_USAGE;
    return false;
  }
}

/* For a domain the disk may come before the command, as in virsh. */
static void
take_path (int argc, char **argv)
{
  if (!libvirt_takes_path () || optind == argc
      || find_command (argv[optind]) != NULL)
    return;
  libvirt_path (argv[optind++]);
  if (optind == argc)
    cli_usage ("'%s' is not a command: if it is a disk, a command must "
               "follow",
               argv[optind - 1]);
}

/* The command of that name; a usage error if there is none. */
static const struct command *
need_command (const char *name)
{
  const struct command *command = find_command (name);

  if (command == NULL)
    cli_usage ("'%s' is not a command", name);
  return command;
}

/* "help", "help COMMAND" */
static void
help (int argc, char **argv)
{
  if (argc > 1)
    print_command_help (need_command (argv[1]));
  else
    print_help (stdout);
}

/* Answer a question about a command, anywhere among its arguments. */
static bool
answer_about (const struct command *command, int argc, char **argv)
{
  for (int i = 1; i < argc && strcmp (argv[i], "--") != 0; i++) {
    if (strcmp (argv[i], "--help") == 0 || strcmp (argv[i], "-h") == 0) {
      print_command_help (command);
      return true;
    }
    if (strcmp (argv[i], "--long-options") == 0) {
      options_long (command->help);
      return true;
    }
  }
  return false;
}

/* Each server that is asked is a connection, and there may be more than the
 * usual 1024. */
static void
raise_files (void)
{
  struct rlimit limit;

  if (getrlimit (RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit (RLIMIT_NOFILE, &limit);
  }
}

int
main (int argc, char **argv)
{
  static char program[] = "backfill";
  const struct command *command;
  int status;

  setlocale (LC_CTYPE, "");
  raise_files ();
  argv[0] = program; /* getopt's messages begin with it */
  if (!take_options (argc, argv, &status))
    return finish (status);
  take_path (argc, argv);
  argc -= optind;
  argv += optind;
  if (argc == 0) {
    print_help (stderr);
    return STATUS_USAGE;
  }
  if (strcmp (argv[0], "help") == 0) {
    help (argc, argv);
    return finish (STATUS_OK);
  }
  command = need_command (argv[0]);
  cli.command = command->name;
  cli.takes_disk = strstr (command->arguments, "[DISK") != NULL;
  if (answer_about (command, argc, argv))
    return finish (STATUS_OK);
  options_check_disk ();
  argv[0] = program;
  optind = 0; /* glibc: start anew, also with other flags */
  return finish (command->run (argc, argv));
}
