/* map.c - the map command: text, totals, JSON, and bars.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <inttypes.h>
#include <errno.h>

#include "cli.h"
#include "cleanup.h"

/* ms for each answer when many servers are asked: one may never give it. */
#define MAP_TIMEOUT 10000
#define MAP_LOST 20 /* seconds, for all servers that do not answer */

#define MIN_BAR 20

/* What is to be shown, and how. */
struct view {
  uint64_t offset, length;
  bool totals, ascii;
  const char *svg; /* file */
};

struct totals {
  uint64_t bytes[3], regions[3]; /* by enum backfill_state */
};

/* The order in which states are shown. */
static const int state_order[]
    = { BACKFILL_LOCAL, BACKFILL_ZERO, BACKFILL_ABSENT };

static void
count (const struct backfill_state_region *regions, unsigned n,
       struct totals *totals)
{
  memset (totals, 0, sizeof *totals);
  for (unsigned i = 0; i < n; i++) {
    totals->bytes[regions[i].state] += regions[i].length;
    totals->regions[regions[i].state]++;
  }
}

static void
print_totals (const struct totals *totals)
{
  uint64_t all = totals->bytes[0] + totals->bytes[1] + totals->bytes[2];
  char buf[TEXT_MAX];

  for (int i = 0; i < 3; i++) {
    int state = state_order[i];

    printf ("%-7s %20" PRIu64 "  %5.1f%%  %10s in %" PRIu64 " %s\n",
            text_state (state), totals->bytes[state],
            all == 0 ? 0.0 : (double)totals->bytes[state] / (double)all * 100,
            text_bytes (buf, totals->bytes[state]), totals->regions[state],
            totals->regions[state] == 1 ? "region" : "regions");
  }
}

static void
print_totals_json (const struct totals *totals)
{
  printf ("[\n");
  for (int i = 0; i < 3; i++) {
    int state = state_order[i];

    printf ("  {\"state\": \"%s\", \"length\": %" PRIu64
            ", \"regions\": %" PRIu64 "}%s\n",
            text_state (state), totals->bytes[state], totals->regions[state],
            i < 2 ? "," : "");
  }
  printf ("]\n");
}

static void
print_map (const struct backfill_state_region *regions, unsigned n)
{
  struct totals totals;

  printf ("%20s %20s  %s\n", "offset", "length", "state");
  for (unsigned i = 0; i < n; i++)
    printf ("%20" PRIu64 " %20" PRIu64 "  %s\n", regions[i].offset,
            regions[i].length, text_state (regions[i].state));
  printf ("\n");
  count (regions, n, &totals);
  print_totals (&totals);
}

static void
print_map_json (const struct backfill_state_region *regions, unsigned n)
{
  printf ("[");
  for (unsigned i = 0; i < n; i++)
    printf ("%s\n  {\"offset\": %" PRIu64 ", \"length\": %" PRIu64
            ", \"state\": \"%s\"}",
            i > 0 ? "," : "", regions[i].offset, regions[i].length,
            text_state (regions[i].state));
  printf (n > 0 ? "\n]\n" : "]\n");
}

static char
cell_letter (const struct cell *cell)
{
  if (cell->bytes[BACKFILL_ABSENT] > 0)
    return cell->bytes[BACKFILL_LOCAL] + cell->bytes[BACKFILL_ZERO] > 0 ? '+'
                                                                        : '.';
  return cell->bytes[BACKFILL_LOCAL] >= cell->bytes[BACKFILL_ZERO] ? '#' : '-';
}

static const char *
letter_colour (char letter)
{
  switch (letter) {
  case '#':
    return "\033[34m"; /* blue */
  case '+':
    return "\033[36m"; /* cyan */
  case '-':
    return "\033[33m"; /* yellow */
  case '>':
    return "\033[1;31m";
  default:
    return "\033[2m";
  }
}

static void
print_letter (char letter, bool colour, char *last)
{
  if (colour && letter != *last)
    printf ("\033[0m%s", letter_colour (letter));
  putchar (letter);
  *last = letter;
}

/* A line of --ascii in the making. */
struct line {
  struct backfill_state_region *regions;
  struct picture picture;
  char tail[256]; /* percent, job */
};

static void
line_init (struct line *line)
{
  const struct picture *picture = &line->picture;
  const struct backfill_job_info *job = &picture->disk->job;
  uint64_t span = picture->end - picture->start;
  char size[TEXT_MAX], job_text[96] = "";
  struct totals totals;

  count (picture->regions, (unsigned)picture->nregions, &totals);
  if (picture->has_job)
    snprintf (job_text, sizeof job_text, ", job %d%%",
              text_percent (job->data_processed, job->data_total));
  snprintf (line->tail, sizeof line->tail, "%3d%% of %s%s",
            text_percent (span - totals.bytes[BACKFILL_ABSENT], span),
            text_bytes (size, span), job_text);
}

/* Print name, bar, percent and job. */
static int
line_print (const struct line *line, int name_width, int width)
{
  const struct picture *picture = &line->picture;
  const char *name = text_name (picture->disk->name);
  uint64_t span = picture->end - picture->start;
  CLEANUP_FREE struct cell *cells = NULL;
  bool colour = text_colour ();
  size_t at = SIZE_MAX, n = (size_t)width;
  char last = '\0';

  if (span < n)
    n = (size_t)span;
  cells = calloc (n + 1, sizeof *cells);
  if (cells == NULL)
    return cli_error ("out of memory");
  if (n > 0)
    picture_cells (picture, cells, n);
  if (picture->has_job && picture->job_next < picture->job_end
      && picture->job_next >= picture->start
      && picture->job_next < picture->end)
    at = picture_cell (picture, picture->job_next, n);

  printf ("%s%*s [", name, name_width - text_width (name), "");
  for (size_t i = 0; i < n; i++)
    print_letter (i == at ? '>' : cell_letter (&cells[i]), colour, &last);
  printf ("%s]%*s %s\n", colour ? "\033[0m" : "", width - (int)n, "",
          line->tail);
  return STATUS_OK;
}

/* Print the lines, with bars of one length. */
static int
print_lines (struct line *lines, unsigned n)
{
  int name_width = 2, tail_width = 0, width, status = STATUS_OK;

  for (unsigned i = 0; i < n; i++) {
    int w = text_width (text_name (lines[i].picture.disk->name));

    name_width = w > name_width ? w : name_width;
    w = (int)strlen (lines[i].tail);
    tail_width = w > tail_width ? w : tail_width;
  }
  width = text_columns () - name_width - tail_width - 5;
  width = width < MIN_BAR ? MIN_BAR : width;
  for (unsigned i = 0; status == STATUS_OK && i < n; i++)
    status = line_print (&lines[i], name_width, width);
  if (status == STATUS_OK && text_terminal (stdout))
    printf ("# local  - zero  . absent  + partly local  > next for the job\n");
  return status;
}

static time_t
seconds (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return ts.tv_sec;
}

/* Get one disk, or all; ended by a NULL, as the library's list is. */
static int
find_disks (struct backfill *h, const char *disk,
            struct backfill_disk_info ***disks, unsigned *n)
{
  if (disk == NULL) {
    if (backfill_list_disks (h, n, disks) == -1)
      return cli_failed ();
    backfill_set_timeout (h, MAP_TIMEOUT);
    return STATUS_OK;
  }
  *disks = calloc (2, sizeof **disks);
  if (*disks == NULL)
    return cli_error ("out of memory");
  *n = 1;
  if (backfill_get_disk_info (h, disk, &(*disks)[0]) == 0)
    return STATUS_OK;
  free (*disks);
  return cli_failed ();
}

/* Make the lines of the disks that have a map; disk: the only disk, or NULL.  A
 * disk whose map cannot be had loses its own line alone: STATUS_UNANSWERED. */
static int
make_lines (struct backfill *h, const char *disk, const struct view *v,
            struct backfill_disk_info **disks, unsigned n, struct line *lines,
            unsigned *shown)
{
  int status = STATUS_OK;
  time_t lost = 0; /* seconds spent on disks that have no map */

  for (unsigned i = 0; i < n; i++) {
    const char *which = disk;
    struct line *line = &lines[*shown];
    unsigned nregions;
    time_t start = seconds ();

    if (disks[i]->unanswered != NULL)
      continue;
    if (lost >= MAP_LOST) {
      cli_error ("%u disks are left out, as others do not answer: name one",
                 n - i);
      return STATUS_UNANSWERED;
    }
    /* Two servers may use the same name; one server does not, twice. */
    if (which == NULL)
      which = cli.socket != NULL ? disks[i]->name : disks[i]->store;
    if (backfill_block_get_state_map (h, which, v->offset, v->length, &nregions,
                                      &line->regions)
        == -1) {
      status = cli_failed ();
      if (disk != NULL)
        return status;
      lost += seconds () - start;
      status = STATUS_UNANSWERED;
      continue;
    }
    text_clean (disks[i]->name);
    picture_init (&line->picture, disks[i], v->offset, v->length, line->regions,
                  nregions);
    line_init (line);
    (*shown)++;
  }
  return status;
}

static int
print_ascii (struct backfill *h, const char *disk, const struct view *v)
{
  struct backfill_disk_info **disks;
  CLEANUP_FREE struct line *lines = NULL;
  unsigned n, shown = 0;
  int made, status = find_disks (h, disk, &disks, &n);

  if (status != STATUS_OK)
    return status;
  lines = calloc (n + 1, sizeof *lines);
  if (lines == NULL) {
    backfill_free_disks (disks);
    return cli_error ("out of memory");
  }
  made = make_lines (h, disk, v, disks, n, lines, &shown);
  status = made == STATUS_FAILED ? made : print_lines (lines, shown);
  if (status == STATUS_OK)
    status = disks_unanswered (disks, n);
  if (status == STATUS_OK)
    status = made;
  for (unsigned i = 0; i < n; i++)
    free (lines[i].regions);
  backfill_free_disks (disks);
  return status;
}

static int
write_svg (const struct picture *picture, const char *file)
{
  bool standard = strcmp (file, "-") == 0;
  FILE *fp = standard ? stdout : fopen (file, "w");

  if (fp == NULL)
    return cli_error ("cannot write '%s': %m", file);
  picture_svg (picture, fp);
  if (standard)
    return STATUS_OK; /* checked at the end of the program */
  /* A write that failed before fails again, and then errno says why. */
  if (fflush (fp) != 0 || ferror (fp)) {
    int status = cli_error ("cannot write '%s': %m", file);

    fclose (fp);
    return status;
  }
  if (fclose (fp) != 0)
    return cli_error ("cannot write '%s': %m", file);
  return STATUS_OK;
}

static void
parse_view (int argc, char **argv, struct view *v)
{
  enum { OFFSET = 0x100, LENGTH, TOTALS, ASCII, SVG };
  static const struct option longs[] = {
    { "offset", required_argument, NULL, OFFSET },
    { "length", required_argument, NULL, LENGTH },
    { "totals", no_argument, NULL, TOTALS },
    { "ascii", no_argument, NULL, ASCII },
    { "svg", required_argument, NULL, SVG },
    { NULL, 0, NULL, 0 },
  };
  int c;

  while ((c = cli_getopt (argc, argv, longs)) != -1)
    switch (c) {
    case OFFSET:
      v->offset = text_size ("--offset", optarg);
      break;
    case LENGTH:
      v->length = text_size ("--length", optarg);
      if (v->length == 0)
        cli_usage ("--length: leave it out to see all to the end");
      break;
    case TOTALS:
      v->totals = true;
      break;
    case ASCII:
      v->ascii = true;
      break;
    case SVG:
      v->svg = optarg;
      break;
    }
}

static void
check_view (const struct view *v)
{
  if (v->ascii + v->totals + (v->svg != NULL) > 1)
    cli_usage ("--ascii, --svg and --totals are three ways to show a map: "
               "choose one");
  if (cli.json && (v->ascii || v->svg != NULL))
    cli_usage ("a picture cannot be had as JSON");
}

static void
show_totals (const struct backfill_state_region *regions, unsigned n)
{
  struct totals sums;

  count (regions, n, &sums);
  if (cli.json)
    print_totals_json (&sums);
  else
    print_totals (&sums);
}

/* Show the map of one disk, not as a bar. */
static int
show_map (struct backfill *h, const char *disk, const struct view *v)
{
  CLEANUP_FREE struct backfill_state_region *regions = NULL;
  struct backfill_disk_info *info = NULL;
  int status = STATUS_OK;
  unsigned n;

  if ((v->svg != NULL && backfill_get_disk_info (h, disk, &info) == -1)
      || backfill_block_get_state_map (h, disk, v->offset, v->length, &n,
                                       &regions)
             == -1)
    status = cli_failed ();
  else if (v->svg != NULL) {
    struct picture picture;

    picture_init (&picture, info, v->offset, v->length, regions, n);
    status = write_svg (&picture, v->svg);
  }
  else if (v->totals)
    show_totals (regions, n);
  else if (cli.json)
    print_map_json (regions, n);
  else
    print_map (regions, n);
  backfill_free_disk_info (info);
  return status;
}

int
cmd_map (int argc, char **argv)
{
  struct view view = { 0 };
  struct backfill *h;
  const char *disk;
  int status;

  parse_view (argc, argv, &view);
  disk = cli_disk (argc, argv);
  check_view (&view);
  h = cli_connect ();
  if (h == NULL)
    return STATUS_FAILED;
  status
      = view.ascii ? print_ascii (h, disk, &view) : show_map (h, disk, &view);
  backfill_close (h);
  return status;
}
