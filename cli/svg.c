/* svg.c - a picture of a disk's map.
 *
 * Rows of cells, the disk from left to right and top to bottom.  A cell's
 * colour is the mixture of its bytes' states, so that one picture shows any
 * number of regions; neighbours of one colour are one rectangle, so that its
 * file stays small.  The colours are of Okabe and Ito's set, and differ in
 * brightness too: they can be told apart by everyone, and in print.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <inttypes.h>
#include <ctype.h>

#include "cli.h"
#include "cleanup.h"

#define COLUMNS 96
#define MAX_ROWS 48
#define CELL 9  /* pixels, with the gap between rows */
#define BOX 7   /* height of what is drawn of it */
#define LEFT 92 /* room for the rows' offsets */
#define TOP 84
#define RIGHT 28
#define LEGEND 90
#define MIN_WIDTH (LEFT + COLUMNS * CELL + RIGHT)

static const unsigned char colours[3][3] = {
  [BACKFILL_LOCAL] = { 0x00, 0x72, 0xb2 },  /* blue, dark */
  [BACKFILL_ABSENT] = { 0xe4, 0xe4, 0xe4 }, /* grey, light */
  [BACKFILL_ZERO] = { 0xe6, 0x9f, 0x00 },   /* orange, between */
};
#define JOB_COLOUR "#d55e00"

/* Text between tags or in an attribute; what XML cannot hold becomes '?'. */
static void
put_escaped (const char *s, FILE *fp)
{
  for (; *s != '\0'; s++)
    switch (*s) {
    case '<':
      fputs ("&lt;", fp);
      break;
    case '>':
      fputs ("&gt;", fp);
      break;
    case '&':
      fputs ("&amp;", fp);
      break;
    case '"':
      fputs ("&quot;", fp);
      break;
    default:
      if ((unsigned char)*s < 0x20 || *s == 0x7f)
        putc ('?', fp);
      /* U+FFFE and U+FFFF are no XML characters. */
      else if (strncmp (s, "\xef\xbf\xbe", 3) == 0
               || strncmp (s, "\xef\xbf\xbf", 3) == 0) {
        putc ('?', fp);
        s += 2;
      }
      else
        putc (*s, fp);
    }
}

/* "#rrggbb" of a cell, in 8 steps of each state so that runs form. */
static void
cell_colour (const struct cell *cell, char colour[8])
{
  double all = (double)cell->bytes[0] + (double)cell->bytes[1]
               + (double)cell->bytes[2];
  unsigned rgb[3] = { 0, 0, 0 }, eighths[3];

  if (all == 0) {
    snprintf (colour, 8, "#ffffff");
    return;
  }
  /* A trace of a state is shown as an eighth, never rounded away. */
  for (int s = 0; s < 3; s++) {
    eighths[s] = (unsigned)((double)cell->bytes[s] / all * 8);
    if (eighths[s] == 0 && cell->bytes[s] > 0)
      eighths[s] = 1;
  }
  /* What rounding left or took belongs to the largest. */
  {
    int largest = 0;
    unsigned others = 0;

    for (int s = 1; s < 3; s++)
      if (cell->bytes[s] > cell->bytes[largest])
        largest = s;
    for (int s = 0; s < 3; s++)
      if (s != largest)
        others += eighths[s];
    eighths[largest] = 8 - (others < 8 ? others : 8);
  }
  for (int s = 0; s < 3; s++)
    for (int i = 0; i < 3; i++)
      rgb[i] += colours[s][i] * eighths[s];
  snprintf (colour, 8, "#%02x%02x%02x", (rgb[0] / 8) & 0xff,
            (rgb[1] / 8) & 0xff, (rgb[2] / 8) & 0xff);
}

static void
put_legend_entry (FILE *fp, int x, int y, int state, const char *text)
{
  fprintf (fp,
           "<rect x=\"%d\" y=\"%d\" width=\"14\" height=\"14\" "
           "fill=\"#%02x%02x%02x\" stroke=\"#888888\"/>\n"
           "<text x=\"%d\" y=\"%d\">%s</text>\n",
           x, y, colours[state][0], colours[state][1], colours[state][2],
           x + 20, y + 12, text);
}

/* A line around the cells of [from, to): as text that is selected. */
static void
put_outline (FILE *fp, size_t from, size_t to)
{
  size_t right = LEFT + COLUMNS * CELL;
  size_t x1 = LEFT + from % COLUMNS * CELL;
  size_t x2 = LEFT + ((to - 1) % COLUMNS + 1) * CELL;
  size_t top = TOP + from / COLUMNS * CELL - 1;
  size_t bottom = TOP + (to - 1) / COLUMNS * CELL + CELL - 1;

  fprintf (fp, "<path fill=\"none\" stroke=\"" JOB_COLOUR
               "\" stroke-width=\"2\" d=\"");
  if (from / COLUMNS == (to - 1) / COLUMNS)
    fprintf (fp, "M%zu %zu H%zu V%zu H%zu Z", x1, top, x2, bottom, x1);
  /* Two rows that do not touch: two pieces. */
  else if (from / COLUMNS + 1 == (to - 1) / COLUMNS && x2 <= x1)
    fprintf (fp, "M%zu %zu H%zu V%zu H%zu Z M%d %zu H%zu V%zu H%d Z", x1, top,
             right, top + CELL, x1, LEFT, bottom - CELL, x2, bottom, LEFT);
  else
    fprintf (fp, "M%zu %zu H%zu V%zu H%zu V%zu H%d V%zu H%zu Z", x1, top, right,
             bottom - CELL, x2, bottom, LEFT, top + CELL, x1);
  fprintf (fp, "\"/>\n");
}

static void
put_cells (FILE *fp, const struct cell *cells, size_t n)
{
  for (size_t i = 0; i < n;) {
    size_t row = i / COLUMNS, run = 1;
    char colour[8], next[8];

    cell_colour (&cells[i], colour);
    while (i + run < n && (i + run) / COLUMNS == row) {
      cell_colour (&cells[i + run], next);
      if (strcmp (colour, next) != 0)
        break;
      run++;
    }
    fprintf (fp,
             "<rect x=\"%zu\" y=\"%zu\" width=\"%zu\" height=\"%d\" "
             "fill=\"%s\"/>\n",
             LEFT + (i % COLUMNS) * CELL, TOP + row * CELL, run * CELL, BOX,
             colour);
    i += run;
  }
}

static void
put_job (FILE *fp, const struct picture *p, size_t n)
{
  uint64_t from = p->job_start > p->start ? p->job_start : p->start;
  uint64_t to = p->job_end < p->end ? p->job_end : p->end;

  if (from < to)
    put_outline (fp, picture_cell (p, from, n),
                 picture_cell (p, to - 1, n) + 1);
  if (p->job_next < p->job_end && p->job_next >= p->start
      && p->job_next < p->end) {
    size_t i = picture_cell (p, p->job_next, n);
    size_t x = LEFT + (i % COLUMNS) * CELL, y = TOP + (i / COLUMNS) * CELL;

    fprintf (fp,
             "<path d=\"M%zu %zu l-5 -9 h10 z\" fill=\"" JOB_COLOUR
             "\" stroke=\"#ffffff\"><title>next for the job: offset %" PRIu64
             "</title></path>\n"
             "<rect x=\"%zu\" y=\"%zu\" width=\"%d\" height=\"%d\" "
             "fill=\"none\" stroke=\"" JOB_COLOUR "\" stroke-width=\"1.5\"/>\n",
             x + CELL / 2, y, p->job_next, x, y, CELL, BOX);
  }
}

void
picture_svg (const struct picture *p, FILE *fp)
{
  const struct backfill_disk_info *disk = p->disk;
  uint64_t span = p->end - p->start, step;
  size_t n = (size_t)COLUMNS * MAX_ROWS, rows;
  CLEANUP_FREE struct cell *cells = NULL;
  char a[TEXT_MAX], b[TEXT_MAX];
  uint64_t sums[3] = { 0 };
  size_t height;

  /* A cell is not less than a granule, but a row is always full. */
  step = span / disk->granule + (span % disk->granule != 0);
  if (step < n)
    n = step == 0 ? 0 : (size_t)step;
  rows = n == 0 ? 1 : (n + COLUMNS - 1) / COLUMNS;
  height = TOP + rows * CELL + LEGEND;
  cells = calloc (n + 1, sizeof *cells);
  if (cells == NULL) {
    cli_error ("out of memory");
    return;
  }
  if (n > 0)
    picture_cells (p, cells, n);
  for (size_t i = 0; i < n; i++)
    for (int s = 0; s < 3; s++)
      sums[s] += cells[i].bytes[s];

  fprintf (fp,
           "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
           "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" "
           "height=\"%zu\" viewBox=\"0 0 %d %zu\" font-family=\"sans-serif\" "
           "font-size=\"12\" fill=\"#222222\">\n<title>Disk ",
           MIN_WIDTH, height, MIN_WIDTH, height);
  put_escaped (text_name (disk->name), fp);
  fprintf (fp, "</title>\n"
               "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n");

  fprintf (fp, "<text x=\"16\" y=\"28\" font-size=\"18\" "
               "font-weight=\"bold\">");
  put_escaped (text_name (disk->name), fp);
  fprintf (fp, "</text>\n<text x=\"16\" y=\"48\">%s, %d%% local",
           text_bytes (a, disk->size), text_percent (disk->local, disk->size));
  if (span != disk->size)
    fprintf (fp, "; shown: %s at offset %" PRIu64, text_bytes (b, span),
             p->start);
  if (p->has_job)
    fprintf (fp, "; job %s, %d%%", text_job_status (&disk->job),
             text_percent (disk->job.data_processed, disk->job.data_total));
  fprintf (fp, "</text>\n<text x=\"16\" y=\"64\" fill=\"#666666\">");
  put_escaped (disk->store, fp);
  fprintf (fp, "</text>\n");

  if (n == 0)
    fprintf (fp,
             "<text x=\"%d\" y=\"%d\" fill=\"#666666\">nothing to show: "
             "%s</text>\n",
             LEFT, TOP + BOX,
             disk->size == 0 ? "the disk is empty" : "the range is empty");
  fprintf (fp, "<g shape-rendering=\"crispEdges\">\n");
  put_cells (fp, cells, n);
  fprintf (fp, "</g>\n");
  for (size_t row = 0; n > 0 && row < rows; row += 6) {
    uint64_t at
        = p->start + (uint64_t)((unsigned __int128)span * row * COLUMNS / n);

    fprintf (fp,
             "<text x=\"%d\" y=\"%zu\" font-size=\"9\" text-anchor=\"end\" "
             "fill=\"#666666\">%s</text>\n",
             LEFT - 6, TOP + row * CELL + BOX, text_bytes (a, at));
  }
  if (p->has_job && n > 0)
    put_job (fp, p, n);

  {
    int y = (int)(TOP + rows * CELL) + 20;
    char text[160];

    snprintf (text, sizeof text, "local %s",
              text_bytes (a, sums[BACKFILL_LOCAL]));
    put_legend_entry (fp, LEFT, y, BACKFILL_LOCAL, text);
    snprintf (text, sizeof text, "zero (local as a hole) %s",
              text_bytes (a, sums[BACKFILL_ZERO]));
    put_legend_entry (fp, LEFT + 180, y, BACKFILL_ZERO, text);
    snprintf (text, sizeof text, "absent %s",
              text_bytes (a, sums[BACKFILL_ABSENT]));
    put_legend_entry (fp, LEFT + 440, y, BACKFILL_ABSENT, text);
    if (p->has_job)
      fprintf (fp,
               "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"12\" "
               "fill=\"none\" stroke=\"" JOB_COLOUR "\" "
               "stroke-width=\"2\"/>\n<text x=\"%d\" y=\"%d\">range of the "
               "job; the triangle stands at the first absent part of it"
               "</text>\n",
               LEFT + 1, y + 25, LEFT + 20, y + 36);
    if (n > 0)
      fprintf (fp,
               "<text x=\"%d\" y=\"%d\" font-size=\"10\" "
               "fill=\"#666666\">one cell is %s, one row %s; mixed colours "
               "are mixed cells</text>\n",
               LEFT, y + (p->has_job ? 56 : 34), text_bytes (a, span / n),
               text_bytes (b, n >= COLUMNS ? (uint64_t)((unsigned __int128)span
                                                        * COLUMNS / n)
                                           : span));
  }
  fprintf (fp, "</svg>\n");
}
