/* options.c - what every command takes: the options that are not its own, its
 * DISK, and a connection to the server.
 *
 * One table has those options: help, getopt and the completion script's words
 * come from that table.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* Where an option may stand. */
enum {
  BEFORE = 1, /* the command */
  AFTER = 2,
};

static const struct global {
  const char *name;
  int c; /* also the option's letter, if it has one */
  int argument;
  int places;
  const char *help;         /* lines; NULL: not shown to people */
  const char *command_help; /* lines, in the help of a command; may be NULL */
} globals[] = {
  { "control", 'c', required_argument, BEFORE | AFTER,
    "  -c, --control SOCKET  the server's control socket (without it the\n"
    "                        owner of the disk is looked up in\n"
    "                        $BACKFILL_RUNTIME_DIR, /run/backfill or\n"
    "                        $XDG_RUNTIME_DIR/backfill)\n",
    "  -c, --control SOCKET  the server's control socket\n" },
  { "domain", LIBVIRT_DOMAIN, required_argument, BEFORE | AFTER,
    "      --domain DOMAIN       the disk of a libvirt domain; DISK is its "
    "target\n"
    "                        (vda), its source's name, or its store's path\n",
    NULL },
  { "pool", LIBVIRT_POOL, required_argument, BEFORE | AFTER,
    "      --pool POOL --volume VOLUME\n"
    "                        the disk that is this storage volume\n",
    NULL },
  { "volume", LIBVIRT_VOLUME, required_argument, BEFORE | AFTER,
    "" /* with --pool */, NULL },
  { "connect", LIBVIRT_CONNECT, required_argument, BEFORE | AFTER,
    "      --connect URI     where libvirt is\n", NULL },
  { "json", OPTION_JSON, no_argument, BEFORE | AFTER,
    "      --json            print JSON\n",
    "      --json            print JSON\n" },
  { "detailed-exitcode", OPTION_DETAILED, no_argument, BEFORE | AFTER,
    "      --detailed-exitcode   fail with 6 (no such disk), 7 (no server), 8 "
    "(a "
    "job\n"
    "                        is in progress already) or 9 (no job) instead of "
    "1\n",
    NULL },
  { "help", 'h', no_argument, BEFORE | AFTER,
    "  -h, --help            show this, or the help of COMMAND\n",
    "  -h, --help            show this\n" },
  { "version", 'V', no_argument, BEFORE,
    "  -V, --version         show the version\n", NULL },
  /* The completion script's. */
  { "long-options", OPTION_LONG_OPTIONS, no_argument, BEFORE, NULL, NULL },
  { "short-options", OPTION_SHORT_OPTIONS, no_argument, BEFORE, NULL, NULL },
  { "list-commands", OPTION_COMMANDS, no_argument, BEFORE, NULL, NULL },
  { "list-disks", OPTION_DISKS, no_argument, BEFORE, NULL, NULL },
};
#define NR_GLOBALS (sizeof globals / sizeof globals[0])
#define MAX_OPTIONS (NR_GLOBALS + 25) /* with a command's own */

void
options_help (FILE *fp, bool command)
{
  for (size_t i = 0; i < NR_GLOBALS; i++) {
    const char *help = command ? globals[i].command_help : globals[i].help;

    if (help != NULL)
      fputs (help, fp);
  }
}

/* The long options of a help text, one a line. */
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
}

void
options_long (const char *help)
{
  if (help != NULL)
    print_long_options (help);
  for (size_t i = 0; i < NR_GLOBALS; i++)
    if (globals[i].help != NULL
        && (help == NULL || (globals[i].places & AFTER)))
      printf ("--%s\n", globals[i].name);
}

void
options_short (void)
{
  for (size_t i = 0; i < NR_GLOBALS; i++)
    if (globals[i].c < 0x80)
      printf ("-%c\n", globals[i].c);
}

static struct option
to_option (const struct global *g)
{
  return (struct option){ g->name, g->argument, NULL, g->c };
}

/* Take an option that sets something.  False: it is another option. */
static bool
take_global (int c)
{
  switch (c) {
  case 'c':
    cli.socket = optarg;
    return true;
  case OPTION_JSON:
    cli.json = true;
    return true;
  case OPTION_DETAILED:
    cli.detailed = true;
    return true;
  default:
    return libvirt_option (c);
  }
}

int
options_before (int argc, char **argv)
{
  struct option longs[NR_GLOBALS + 1] = { 0 };
  int c;

  for (size_t i = 0; i < NR_GLOBALS; i++)
    longs[i] = to_option (&globals[i]);
  do
    c = getopt_long (argc, argv, "+c:hV", longs, NULL);
  while (take_global (c));
  return c;
}

void
options_check_disk (void)
{
  if (libvirt_used () && !cli.takes_disk)
    cli_usage ("'%s' is not about one disk: it does not go with --domain, "
               "--volume, --pool or --connect",
               cli.command);
}

int
cli_getopt (int argc, char **argv, const struct option *longs)
{
  struct option all[MAX_OPTIONS + 1] = { 0 };
  size_t n = 0;
  int c;

  /* main has looked for -h before the command runs. */
  for (size_t i = 0; i < NR_GLOBALS; i++)
    if ((globals[i].places & AFTER) && globals[i].c != 'h')
      all[n++] = to_option (&globals[i]);
  for (size_t i = 0; longs && longs[i].name && n < MAX_OPTIONS; i++)
    all[n++] = longs[i];
  do {
    c = getopt_long (argc, argv, "c:", all, NULL);
    if (c == '?') {
      fprintf (stderr, "Try 'backfill %s --help'.\n", cli.command);
      exit (STATUS_USAGE);
    }
  } while (take_global (c));
  /* A command without DISK is about a whole server, or none. */
  options_check_disk ();
  return c;
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

struct backfill *
cli_connect (void)
{
  struct backfill *h = backfill_connect (cli.socket);

  /* The socket's file may be missing: no disk is, then. */
  if (h == NULL && backfill_get_errno () == ENOENT)
    cli_failed_as (STATUS_UNREACHABLE);
  else if (h == NULL)
    cli_failed ();
  return h;
}
