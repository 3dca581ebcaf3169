/* main.c - the `backfill` command: options, help, and which command to run.
 *
 * One table has every command with its help text.  The completion script asks
 * for the words of that table (--list-commands, --long-options), so that it
 * cannot grow apart from it, and for the disks (--list-disks).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ctype.h>
#include <errno.h>
#include <locale.h>

#include "cleanup.h"
#include "cli.h"

struct cli cli;

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
    "Shows the disk, its store, its backing store, its counters and its job.\n",
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
    "  --wait            wait until the job ends, showing how far it is;\n"
    "                    Ctrl-C then leaves it running\n"
    "  --progress[=FD]   the same; with FD write lines N/100 to that file\n"
    "                    descriptor, for programs\n"
    "  --quiet           show nothing but errors\n"
    "\n"
    "With --wait the exit status is 0 if the range is local, 3 if the job\n"
    "failed or was aborted.\n" SIZES,
    cmd_allocate },
  { "abort", "[DISK]", "end the job; what is local stays local",
    "Returns when the job has ended and nothing more is written for it.\n" JOB,
    cmd_abort },
  { "pause", "[DISK]", "let the job rest", "'resume' lets it go on.\n" JOB,
    cmd_pause },
  { "resume", "[DISK]", "let a paused job go on",
    "Also for a job that was paused because the store was full.\n" JOB,
    cmd_resume },
  { "speed", "[DISK] LIMIT", "limit the job's speed",
    "LIMIT is in bytes a second; 0 or none: no limit.  It holds from now on.\n"
    "\n"
    "  --total           of all jobs of the server together, instead of one\n"
    "                    disk's; without LIMIT it is shown\n"
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
  { "check", "FILE", "look for damage in a sidecar",
    "FILE is a sidecar, or a store whose sidecar is STORE.backfill.  Reads\n"
    "all of it and says what is damaged; nothing is changed.  The exit status\n"
    "is 0 if it is good.\n",
    cmd_check },
  { "create", "STORE", "make a volume that no guest has open yet",
    "Has backfilld make STORE and its sidecar, with nothing local; 'allocate'\n"
    "with its path then fills it in.\n"
    "\n"
    "  --backing URI     the backing store, an NBD URI\n"
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
      "Options:\n"
      "  -c, --control SOCKET  the server's control socket (without it the\n"
      "                        owner of the disk is looked up in\n"
      "                        $BACKFILL_RUNTIME_DIR, /run/backfill or\n"
      "                        $XDG_RUNTIME_DIR/backfill)\n"
      "      --domain DOMAIN       the disk of a libvirt domain; DISK is its "
      "target\n"
      "                        (vda), its source's name, or its store's path\n"
      "      --pool POOL --volume VOLUME\n"
      "                        the disk that is this storage volume\n"
      "      --connect URI     where libvirt is\n"
      "      --json            print JSON\n"
      "  -h, --help            show this, or the help of COMMAND\n"
      "  -V, --version         show the version\n"
      "\n"
      "Exit status: 0 done, 1 failed, 2 wrong usage, 3 the job failed or was\n"
      "aborted, 4 a server does not answer, whose disks are shown as such,\n"
      "130 interrupted.\n",
      fp);
}

static void
print_command_help (const struct command *c)
{
  printf ("Usage: backfill [-c SOCKET] %s%s%s [OPTION...]\n\n%s\n", c->name,
          c->arguments[0] != '\0' ? " " : "", c->arguments, c->help);
  printf ("Options of every command:\n"
          "  -c, --control SOCKET  the server's control socket\n"
          "      --json            print JSON\n"
          "  -h, --help            show this\n");
}

/* The long options of a help text, one a line, for the completion script. */
static void
print_long_options (const char *help)
{
  for (const char *p = strstr (help, "  --"); p != NULL;
       p = strstr (p + 1, "  --")) {
    size_t len = 4;

    while (isalnum ((unsigned char)p[len]) || p[len] == '-')
      len++;
    printf ("%.*s\n", (int)len - 2, p + 2);
  }
  printf ("--control\n--domain\n--pool\n--volume\n--connect\n--json\n--help\n");
}

static void __attribute__ ((format (printf, 1, 0)))
complain (const char *fmt, va_list ap)
{
  CLEANUP_FREE char *text = NULL;

  if (vasprintf (&text, fmt, ap) == -1)
    text = NULL;
  fflush (stdout);
  fprintf (stderr, "backfill: %s\n",
           text != NULL ? text_clean (text) : "out of memory");
}

void
cli_usage (const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  complain (fmt, ap);
  va_end (ap);
  fprintf (stderr, "Try 'backfill %s%s--help'.\n",
           cli.command != NULL ? cli.command : "",
           cli.command != NULL ? " " : "");
  exit (STATUS_USAGE);
}

int
cli_error (const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  complain (fmt, ap);
  va_end (ap);
  return STATUS_FAILED;
}

int
cli_failed (void)
{
  if (backfill_get_errno () == ENXIO && cli.socket == NULL)
    return cli_error ("%s (-c SOCKET names a control socket that is "
                      "somewhere else)",
                      backfill_get_error ());
  return cli_error ("%s", backfill_get_error ());
}

struct backfill *
cli_connect (void)
{
  struct backfill *h = backfill_connect (cli.socket);

  if (h == NULL)
    cli_failed ();
  return h;
}

static const struct command *
find_command (const char *name)
{
  for (const struct command *c = commands; c->name != NULL; c++)
    if (strcmp (c->name, name) == 0)
      return c;
  return NULL;
}

/* What has no DISK is about a whole server, or none. */
static void
check_takes_disk (void)
{
  if (strstr (find_command (cli.command)->arguments, "[DISK]") == NULL)
    cli_usage ("'%s' is not about one disk: it does not go with --domain, "
               "--volume, --pool or --connect",
               cli.command);
}

int
cli_getopt (int argc, char **argv, const struct option *longs)
{
  enum { OPT_CONTROL = 'c', OPT_JSON = 0x10000 };
  struct option all[32] = { { "control", required_argument, NULL, OPT_CONTROL },
                            { "json", no_argument, NULL, OPT_JSON },
                            LIBVIRT_OPTIONS };
  int c;

  for (size_t i = 0; longs != NULL && longs[i].name != NULL && i < 25; i++)
    all[6 + i] = longs[i];
  for (;;) {
    c = getopt_long (argc, argv, "c:", all, NULL);
    switch (c) {
    case OPT_CONTROL:
      cli.socket = optarg;
      break;
    case OPT_JSON:
      cli.json = true;
      break;
    case '?':
      fprintf (stderr, "Try 'backfill %s --help'.\n", cli.command);
      exit (STATUS_USAGE);
    default:
      if (!libvirt_option (c))
        return c;
      check_takes_disk ();
    }
  }
}

const char *
cli_find (const char *disk)
{
  return libvirt_used () ? libvirt_disk (disk) : disk;
}

const char *
cli_disk (int argc, char **argv)
{
  if (argc - optind > 1)
    cli_usage ("'%s' takes one DISK: '%s' is one too many", cli.command,
               argv[optind + 1]);
  return cli_find (optind < argc ? argv[optind] : NULL);
}

/* Output that was not written is a failure, whatever the command says. */
static int
finish (int status)
{
  if (fflush (stdout) != 0 || ferror (stdout)) {
    cli_error ("cannot write to standard output: %m");
    return status == STATUS_OK ? STATUS_FAILED : status;
  }
  return status;
}

int
main (int argc, char **argv)
{
  enum {
    OPT_JSON = 0x100,
    OPT_LONG_OPTIONS,
    OPT_SHORT_OPTIONS,
    OPT_COMMANDS,
    OPT_DISKS
  };
  static const struct option longs[] = {
    { "control", required_argument, NULL, 'c' },
    LIBVIRT_OPTIONS,
    { "json", no_argument, NULL, OPT_JSON },
    { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'V' },
    { "long-options", no_argument, NULL, OPT_LONG_OPTIONS },
    { "short-options", no_argument, NULL, OPT_SHORT_OPTIONS },
    { "list-commands", no_argument, NULL, OPT_COMMANDS },
    { "list-disks", no_argument, NULL, OPT_DISKS },
    { NULL, 0, NULL, 0 },
  };
  static char program[] = "backfill";
  const struct command *command;
  int c;

  setlocale (LC_CTYPE, "");
  argv[0] = program; /* getopt's messages begin with it */
  while ((c = getopt_long (argc, argv, "+c:hV", longs, NULL)) != -1)
    switch (c) {
    case 'c':
      cli.socket = optarg;
      break;
    case OPT_JSON:
      cli.json = true;
      break;
    case 'h':
      print_help (stdout);
      return finish (STATUS_OK);
    case 'V':
      printf ("backfill %s\n", backfill_version ());
      return finish (STATUS_OK);
    case OPT_LONG_OPTIONS:
      printf ("--control\n--domain\n--pool\n--volume\n--connect\n--json\n"
              "--help\n--version\n");
      return finish (STATUS_OK);
    case OPT_SHORT_OPTIONS:
      printf ("-c\n-h\n-V\n");
      return finish (STATUS_OK);
    case OPT_COMMANDS:
      for (const struct command *p = commands; p->name != NULL; p++)
        puts (p->name);
      return finish (STATUS_OK);
    case OPT_DISKS:
      return finish (disks_names ());
    default:
      if (libvirt_option (c))
        break;
      fprintf (stderr, "Try 'backfill --help'.\n");
      return STATUS_USAGE;
    }
  /* Of a domain the disk may come first, as in virsh. */
  if (libvirt_takes_path () && optind < argc
      && find_command (argv[optind]) == NULL) {
    libvirt_path (argv[optind++]);
    if (optind == argc)
      cli_usage ("'%s' is not a command: if it is a disk, a command must "
                 "follow",
                 argv[optind - 1]);
  }
  if (optind == argc) {
    print_help (stderr);
    return STATUS_USAGE;
  }

  if (strcmp (argv[optind], "help") == 0) {
    command = optind + 1 < argc ? find_command (argv[optind + 1]) : NULL;
    if (optind + 1 < argc && command == NULL)
      cli_usage ("'%s' is not a command", argv[optind + 1]);
    if (command != NULL)
      print_command_help (command);
    else
      print_help (stdout);
    return finish (STATUS_OK);
  }
  command = find_command (argv[optind]);
  if (command == NULL)
    cli_usage ("'%s' is not a command", argv[optind]);
  cli.command = command->name;
  argc -= optind;
  argv += optind;
  for (int i = 1; i < argc && strcmp (argv[i], "--") != 0; i++) {
    if (strcmp (argv[i], "--help") == 0 || strcmp (argv[i], "-h") == 0) {
      print_command_help (command);
      return finish (STATUS_OK);
    }
    if (strcmp (argv[i], "--long-options") == 0) {
      print_long_options (command->help);
      return finish (STATUS_OK);
    }
  }
  if (libvirt_used ())
    check_takes_disk ();
  argv[0] = program;
  optind = 0; /* glibc: start anew, also with other flags */
  return finish (command->run (argc, argv));
}
