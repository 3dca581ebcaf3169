/* trace.c - `backfill trace`: look at boot traces, and hand them on.
 *
 * It works on the files alone, but for export, which asks a server where its
 * trace is.  A trace that is named may be anybody's: its content is checked.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "cli.h"
#include "trace.h"

#define PIXELS_WIDE 960
#define PIXELS_HIGH 480
#define MARGIN 40

static const char *svg, *dir;

/* NULL after a message. */
static struct trace *
load (const char *path)
{
  CLEANUP_FREE char *error = NULL;
  struct trace *t = trace_load (path, TRACE_ANYBODY, &error);

  if (!t)
    cli_error ("%s", text_clean (error));
  return t;
}

static int
save (const struct trace *t, const char *path)
{
  CLEANUP_FREE char *error = NULL;

  if (trace_save (t, path, &error) == 0)
    return STATUS_OK;
  return cli_error ("%s", text_clean (error));
}

/* --- show ---------------------------------------------------------------- */

/* From left to right in the order of reading, by bytes; the image from bottom
 * to top.  What is not replayed is grey. */
static void
draw (const struct trace *t, FILE *fp)
{
  uint64_t all = trace_bytes (t, false), before = 0;
  char size[TEXT_MAX], bytes[TEXT_MAX];

  fprintf (fp,
           "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" "
           "height=\"%d\" viewBox=\"0 0 %d %d\">\n"
           "<title>What guests of an image read first</title>\n"
           "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n"
           "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" "
           "fill=\"#f4f4f4\"/>\n",
           PIXELS_WIDE + 2 * MARGIN, PIXELS_HIGH + 2 * MARGIN,
           PIXELS_WIDE + 2 * MARGIN, PIXELS_HIGH + 2 * MARGIN, MARGIN, MARGIN,
           PIXELS_WIDE, PIXELS_HIGH);
  for (size_t i = 0; i < t->nr; i++) {
    const struct trace_range *r = &t->ranges[i];
    double x = MARGIN + (double)before / (double)all * PIXELS_WIDE;
    double wide = (double)r->length / (double)all * PIXELS_WIDE;
    double high = (double)r->length / (double)t->size * PIXELS_HIGH;
    double bottom = (double)r->offset / (double)t->size * PIXELS_HIGH;

    high = high < 2 ? 2 : high;
    fprintf (fp,
             "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" "
             "fill=\"%s\"/>\n",
             x, MARGIN + PIXELS_HIGH - bottom - high, wide < 1 ? 1 : wide, high,
             trace_is_likely (t, r) ? "#0072b2" : "#b0b0b0");
    before += r->length;
  }
  fprintf (fp,
           "<g font-family=\"sans-serif\" font-size=\"14\" fill=\"#222222\">\n"
           "<text x=\"%d\" y=\"%d\">%s read of %s, in order from left to "
           "right; boots: %" PRIu32 "</text>\n"
           "<text x=\"%d\" y=\"%d\">the image's end is at the top</text>\n"
           "</g>\n</svg>\n",
           MARGIN, MARGIN - 14, text_bytes (bytes, all),
           text_bytes (size, t->size), t->boots, MARGIN,
           PIXELS_HIGH + 2 * MARGIN - 14);
}

static int
write_svg (const struct trace *t)
{
  bool to_stdout = strcmp (svg, "-") == 0;
  FILE *fp = to_stdout ? stdout : fopen (svg, "w");
  bool failed;

  if (fp == NULL)
    return cli_error ("%s: %s", svg, strerror (errno));
  draw (t, fp);
  if (to_stdout)
    return STATUS_OK;
  failed = ferror (fp) != 0;
  if (fclose (fp) != 0 || failed)
    return cli_error ("%s: %s", svg, strerror (errno ? errno : EIO));
  return STATUS_OK;
}

static int
show_json (const struct trace *t)
{
  char hex[TRACE_HEX_SIZE];
  json_t *ranges = json_array (), *value;
  int status;

  trace_hex (t->digest, hex);
  for (size_t i = 0; i < t->nr; i++) {
    const struct trace_range *r = &t->ranges[i];

    json_array_append_new (ranges, json_pack ("{s:I,s:I,s:I,s:I,s:b}", "offset",
                                              (json_int_t)r->offset, "length",
                                              (json_int_t)r->length, "at",
                                              (json_int_t)r->at, "boots",
                                              (json_int_t)r->boots, "replayed",
                                              trace_is_likely (t, r)));
  }
  value = json_pack ("{s:I,s:s,s:I,s:I,s:I,s:o*}", "size", (json_int_t)t->size,
                     "identity", hex, "boots", (json_int_t)t->boots, "read",
                     (json_int_t)trace_bytes (t, false), "replayed",
                     (json_int_t)trace_bytes (t, true), "ranges", ranges);
  status = text_json (value);
  json_decref (value);
  return status;
}

static int
show (const struct trace *t)
{
  char hex[TRACE_HEX_SIZE], buf[TEXT_MAX];

  trace_hex (t->digest, hex);
  printf ("image        %" PRIu64 " bytes, sha256:%s\n", t->size, hex);
  printf ("boots        %" PRIu32 "\n", t->boots);
  printf ("read         %s\n", text_bytes (buf, trace_bytes (t, false)));
  printf ("replayed     %s\n", text_bytes (buf, trace_bytes (t, true)));
  printf ("\n%10s %15s %10s %6s\n", "MS", "OFFSET", "LENGTH", "BOOTS");
  for (size_t i = 0; i < t->nr; i++)
    printf ("%10" PRIu32 " %15" PRIu64 " %10" PRIu32 " %6" PRIu32 "\n",
            t->ranges[i].at, t->ranges[i].offset, t->ranges[i].length,
            t->ranges[i].boots);
  return STATUS_OK;
}

static int
trace_show (int argc, char **argv)
{
  struct trace *t;
  int status;

  if (argc != 1)
    cli_usage ("'trace show' needs one FILE");
  t = load (argv[0]);
  if (t == NULL)
    return STATUS_FAILED;
  status = svg != NULL ? write_svg (t) : cli.json ? show_json (t) : show (t);
  trace_free (t);
  return status;
}

/* --- handing on ---------------------------------------------------------- */

static int
trace_export (int argc, char **argv)
{
  struct backfill_disk_info *info;
  struct backfill *h;
  struct trace *t;
  int status = STATUS_FAILED;

  if (argc != 2)
    cli_usage ("'trace export' needs a DISK and a FILE");
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  if (backfill_get_disk_info (h, cli_find (argv[0]), &info) == -1)
    status = cli_failed ();
  else {
    if (info->trace_file == NULL)
      cli_error ("%s has no boot trace: its server was not started with "
                 "trace= or trace-dir=",
                 text_clean (argv[0]));
    else if ((t = load (info->trace_file)) != NULL) {
      status = save (t, argv[1]);
      trace_free (t);
    }
    backfill_free_disk_info (info);
  }
  backfill_close (h);
  return status;
}

/* The first file's history and what the others add to it; NULL after a
 * message. */
static struct trace *
merged (int argc, char **argv)
{
  struct trace *all = load (argv[0]);

  for (int i = 1; all != NULL && i < argc; i++) {
    struct trace *next = load (argv[i]), *both = NULL;

    if (next != NULL && !trace_is_of (next, all->size, all->digest))
      cli_error ("%s and %s are of different images", argv[0], argv[i]);
    else if (next != NULL) {
      both = trace_merge (all, next);
      if (both == NULL)
        cli_error ("%s", strerror (ENOMEM));
      else if (both->misfits > all->misfits)
        fprintf (stderr,
                 "backfill: %s shares little with those before: left out\n",
                 text_clean (argv[i]));
    }
    trace_free (next);
    trace_free (all);
    all = both;
  }
  return all;
}

static int
trace_merge_files (int argc, char **argv)
{
  struct trace *t;
  int status;

  if (argc < 2)
    cli_usage ("'trace merge' needs a FILE to write, and those to merge");
  t = merged (argc - 1, argv + 1);
  if (t == NULL)
    return STATUS_FAILED;
  status = save (t, argv[0]);
  trace_free (t);
  return status;
}

static int
trace_import (int argc, char **argv)
{
  CLEANUP_FREE char *folder = NULL, *path = NULL;
  struct trace *t;
  int status = STATUS_FAILED;

  if (argc != 1)
    cli_usage ("'trace import' needs one FILE");
  t = load (argv[0]);
  if (t == NULL)
    return STATUS_FAILED;
  folder = dir != NULL ? strdup (dir) : trace_default_dir ();
  path = folder != NULL ? trace_name (folder, t->size, t->digest) : NULL;
  if (path == NULL)
    cli_error ("there is no directory of traces: name one with --dir");
  else {
    CLEANUP_FREE char *error = NULL;
    struct trace *old = trace_load (path, TRACE_ANYBODY, &error);

    /* What is there is kept, and what is damaged goes. */
    if (old != NULL) {
      struct trace *both = trace_merge (old, t);

      if (both != NULL) {
        trace_free (t);
        t = both;
      }
      trace_free (old);
    }
    status = save (t, path);
    if (status == STATUS_OK)
      printf ("%s\n", text_clean (path));
  }
  trace_free (t);
  return status;
}

int
cmd_trace (int argc, char **argv)
{
  static const struct option longs[] = {
    { "svg", required_argument, NULL, 's' },
    { "dir", required_argument, NULL, 'd' },
    { NULL, 0, NULL, 0 },
  };
  static const struct {
    const char *name;
    int (*run) (int argc, char **argv);
  } verbs[] = {
    { "show", trace_show },
    { "export", trace_export },
    { "import", trace_import },
    { "merge", trace_merge_files },
  };
  int c;

  while ((c = cli_getopt (argc, argv, longs)) != -1)
    switch (c) {
    case 's':
      svg = optarg;
      break;
    case 'd':
      dir = optarg;
      break;
    default:
      return STATUS_USAGE;
    }
  if (optind == argc)
    cli_usage ("'trace' needs one of show, export, import and merge");
  for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
    if (strcmp (argv[optind], verbs[i].name) == 0) {
      if (svg != NULL && verbs[i].run != trace_show)
        cli_usage ("--svg is for 'trace show'");
      if (dir != NULL && verbs[i].run != trace_import)
        cli_usage ("--dir is for 'trace import'");
      return verbs[i].run (argc - optind - 1, argv + optind + 1);
    }
  cli_usage ("'trace %s': give one of show, export, import and merge",
             argv[optind]);
}
