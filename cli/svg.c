/* svg.c - a picture of a disk's map.
 *
 * On top a bar of the shares, for a glance.  Below rows of cells, the disk
 * from left to right and top to bottom.  A cell's size is a power of two, so
 * that rows begin at round offsets; its colour is the mixture of its bytes'
 * states, so that one picture shows any number of regions; neighbours of one
 * colour are one rectangle, so that its file stays small.  The colours are of
 * Okabe and Ito's set, and differ in brightness too: they can be told apart by
 * everyone, and in print.
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

#define COLUMNS 128 /* a power of two, as the size of a cell */
#define MAX_ROWS 48
#define WIDE 7  /* of a cell, in pixels */
#define HIGH 10 /* with the gap between rows */
#define BOX 8   /* of that what is drawn */
#define LEFT 76 /* room for the rows' offsets */
#define BAR_TOP 78
#define BAR 14
#define TOP 112
#define RIGHT 28
#define LEGEND 96
#define ROW (COLUMNS * WIDE)
#define WIDTH (LEFT + ROW + RIGHT)

static const unsigned char colours[3][3] = {
  [BACKFILL_LOCAL] = { 0x00, 0x72, 0xb2 },  /* blue, dark */
  [BACKFILL_ABSENT] = { 0xe4, 0xe4, 0xe4 }, /* grey, light */
  [BACKFILL_ZERO] = { 0xe6, 0x9f, 0x00 },   /* orange, between */
};
#define JOB_COLOUR "#222222"

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

/* "#rrggbb" of a cell, in 8 steps for each state, so that runs form. */
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

/* Draw a line around the cells of [from, to), as around selected text. */
static void
put_outline (FILE *fp, size_t from, size_t to)
{
  size_t right = LEFT + ROW;
  size_t x1 = LEFT + from % COLUMNS * WIDE;
  size_t x2 = LEFT + ((to - 1) % COLUMNS + 1) * WIDE;
  size_t top = TOP + from / COLUMNS * HIGH - 1;
  size_t bottom = TOP + (to - 1) / COLUMNS * HIGH + HIGH - 1;

  fprintf (fp, "<path fill=\"none\" stroke=\"" JOB_COLOUR
               "\" stroke-width=\"2\" d=\"");
  if (from / COLUMNS == (to - 1) / COLUMNS)
    fprintf (fp, "M%zu %zu H%zu V%zu H%zu Z", x1, top, x2, bottom, x1);
  /* Two rows that do not touch: two pieces. */
  else if (from / COLUMNS + 1 == (to - 1) / COLUMNS && x2 <= x1)
    fprintf (fp, "M%zu %zu H%zu V%zu H%zu Z M%d %zu H%zu V%zu H%d Z", x1, top,
             right, top + HIGH, x1, LEFT, bottom - HIGH, x2, bottom, LEFT);
  else
    fprintf (fp, "M%zu %zu H%zu V%zu H%zu V%zu H%d V%zu H%zu Z", x1, top, right,
             bottom - HIGH, x2, bottom, LEFT, top + HIGH, x1);
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
             LEFT + (i % COLUMNS) * WIDE, TOP + row * HIGH, run * WIDE, BOX,
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
    size_t x = LEFT + (i % COLUMNS) * WIDE, y = TOP + (i / COLUMNS) * HIGH;

    fprintf (fp,
             "<path d=\"M%zu %zu l-5 -9 h10 z\" fill=\"" JOB_COLOUR
             "\" stroke=\"#ffffff\"><title>next for the job: offset %" PRIu64
             "</title></path>\n"
             "<rect x=\"%zu\" y=\"%zu\" width=\"%d\" height=\"%d\" "
             "fill=\"none\" stroke=\"" JOB_COLOUR "\" stroke-width=\"1.5\"/>\n",
             x + WIDE / 2, y, p->job_next, x, y, WIDE, BOX);
  }
}

/* The shares of the states, side by side; a share above 0 is never invisible.
 */
static void
put_bar (FILE *fp, const uint64_t sums[3], uint64_t span)
{
  static const int order[] = { BACKFILL_LOCAL, BACKFILL_ZERO, BACKFILL_ABSENT };
  double x = LEFT;

  for (int i = 0; i < 3; i++) {
    double wide = (double)sums[order[i]] / (double)span * ROW;
    const unsigned char *c = colours[order[i]];

    if (sums[order[i]] == 0)
      continue;
    wide = wide < 1 ? 1 : wide;
    if (x + wide > LEFT + ROW || i == 2)
      wide = LEFT + ROW - x;
    fprintf (fp,
             "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\" "
             "fill=\"#%02x%02x%02x\"/>\n",
             x, BAR_TOP, wide, BAR, c[0], c[1], c[2]);
    x += wide;
  }
}

static void
put_legend (FILE *fp, const uint64_t sums[3], uint64_t span, int y)
{
  static const struct {
    int state, x;
    const char *text;
  } entries[] = {
    { BACKFILL_LOCAL, LEFT, "local" },
    { BACKFILL_ZERO, LEFT + 220, "zero: local, without data" },
    { BACKFILL_ABSENT, LEFT + 560, "absent" },
  };
  char size[TEXT_MAX], text[160];

  for (int i = 0; i < 3; i++) {
    uint64_t sum = sums[entries[i].state];

    snprintf (text, sizeof text, "%s, %s (%.1f%%)", entries[i].text,
              text_bytes (size, sum),
              span == 0 ? 0.0 : (double)sum / (double)span * 100);
    put_legend_entry (fp, entries[i].x, y, entries[i].state, text);
  }
}

/* A disk without a name is known by its store. */
static const char *
title (const struct backfill_disk_info *disk)
{
  const char *slash = strrchr (disk->store, '/');

  if (disk->name[0] != '\0')
    return disk->name;
  return slash != NULL ? slash + 1 : disk->store;
}

/* The grid of a picture. */
struct grid {
  struct picture picture; /* with its end at the last cell's */
  uint64_t cell;          /* bytes, a power of two of granules */
  size_t n, rows;         /* cells, rows of COLUMNS */
};

static void
grid_init (struct grid *grid, const struct picture *p)
{
  uint64_t span = p->end - p->start;

  grid->picture = *p;
  grid->cell = p->disk->granule;
  while (span / grid->cell > COLUMNS * MAX_ROWS - 1)
    grid->cell *= 2;
  grid->n = (size_t)(span / grid->cell + (span % grid->cell != 0));
  grid->rows = grid->n == 0 ? 1 : (grid->n + COLUMNS - 1) / COLUMNS;
  /* All cells are of one size, also the last, of which a part may be past the
   * end. */
  grid->picture.end = p->start + grid->n * grid->cell;
}

/* The document's begin, and the lines above the bar. */
static void
put_head (FILE *fp, const struct picture *p, int height)
{
  const struct backfill_disk_info *disk = p->disk;
  uint64_t span = p->end - p->start;
  char a[TEXT_MAX], b[TEXT_MAX];

  fprintf (fp,
           "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
           "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" "
           "height=\"%d\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
           "font-size=\"12\" fill=\"#222222\">\n<title>Disk ",
           WIDTH, height, WIDTH, height);
  put_escaped (title (disk), fp);
  fprintf (fp,
           "</title>\n"
           "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n"
           "<text x=\"%d\" y=\"28\" font-size=\"18\" font-weight=\"bold\">",
           LEFT);
  put_escaped (title (disk), fp);
  fprintf (fp, "</text>\n<text x=\"%d\" y=\"48\">%s, %d%% local", LEFT,
           text_bytes (a, disk->size), text_percent (disk->local, disk->size));
  if (span != disk->size)
    fprintf (fp, "; shown: %s at offset %" PRIu64, text_bytes (b, span),
             p->start);
  if (p->has_job)
    fprintf (fp, "; job %s, %d%%", text_job_status (&disk->job),
             text_percent (disk->job.data_processed, disk->job.data_total));
  fprintf (fp, "</text>\n<text x=\"%d\" y=\"64\" fill=\"#666666\">", LEFT);
  put_escaped (disk->store, fp);
  fprintf (fp, "</text>\n");
}

/* The offset of each fourth row, left of it. */
static void
put_offsets (FILE *fp, const struct grid *grid)
{
  char a[TEXT_MAX];

  for (size_t row = 0; grid->n > 0 && row < grid->rows; row += 4)
    fprintf (fp,
             "<text x=\"%d\" y=\"%zu\" font-size=\"9\" text-anchor=\"end\" "
             "fill=\"#666666\">%s</text>\n",
             LEFT - 6, TOP + row * HIGH + BOX,
             text_bytes (a, grid->picture.start + row * COLUMNS * grid->cell));
}

/* What the marks below the cells mean. */
static void
put_notes (FILE *fp, const struct grid *grid, int y)
{
  char a[TEXT_MAX], b[TEXT_MAX];

  if (grid->picture.has_job) {
    fprintf (fp,
             "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"12\" "
             "fill=\"none\" stroke=\"" JOB_COLOUR "\" "
             "stroke-width=\"2\"/>\n<text x=\"%d\" y=\"%d\">range of the "
             "job; the triangle stands at the first absent part of it"
             "</text>\n",
             LEFT + 1, y - 11, LEFT + 20, y);
    y += 22;
  }
  if (grid->n > 0)
    fprintf (fp,
             "<text x=\"%d\" y=\"%d\" font-size=\"10\" fill=\"#666666\">one "
             "cell is %s, one row %s; mixed colours are mixed cells</text>\n",
             LEFT, y, text_bytes (a, grid->cell),
             text_bytes (b, grid->cell * COLUMNS));
}

void
picture_svg (const struct picture *p, FILE *fp)
{
  CLEANUP_FREE struct cell *cells = NULL;
  uint64_t sums[3] = { 0 };
  struct grid grid;
  int bottom;

  grid_init (&grid, p);
  bottom = (int)(TOP + grid.rows * HIGH);
  cells = calloc (grid.n + 1, sizeof *cells);
  if (cells == NULL) {
    cli_error ("out of memory");
    return;
  }
  if (grid.n > 0)
    picture_cells (&grid.picture, cells, grid.n);
  for (size_t i = 0; i < grid.n; i++)
    for (int s = 0; s < 3; s++)
      sums[s] += cells[i].bytes[s];

  put_head (fp, p, bottom + LEGEND);
  if (grid.n == 0)
    fprintf (fp,
             "<text x=\"%d\" y=\"%d\" fill=\"#666666\">nothing to show: "
             "%s</text>\n",
             LEFT, TOP + BOX,
             p->disk->size == 0 ? "the disk is empty" : "the range is empty");
  else
    put_bar (fp, sums, p->end - p->start);
  fprintf (fp, "<g shape-rendering=\"crispEdges\">\n");
  put_cells (fp, cells, grid.n);
  fprintf (fp, "</g>\n");
  put_offsets (fp, &grid);
  if (p->has_job && grid.n > 0)
    put_job (fp, &grid.picture, grid.n);
  put_legend (fp, sums, p->end - p->start, bottom + 20);
  put_notes (fp, &grid, bottom + 56);
  fprintf (fp, "</svg>\n");
}
