/* reference.c - the reference of the commands, as POD, from the table that the
 * server works from: for docs/backfill-protocol.pod.
 *
 * A library of its own: print-commands and a test link it, servers do not.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cleanup.h"
#include "command.h"

#define LINE_WIDTH 78

/* Print a paragraph, broken into lines. */
static void
print_filled (FILE *fp, const char *text)
{
  size_t column = 0;

  while (*text != '\0') {
    size_t word, blanks;

    blanks = strspn (text, " ");
    word = strcspn (text + blanks, " ");
    if (column > 0 && column + blanks + word > LINE_WIDTH) {
      fputc ('\n', fp);
      column = 0;
    }
    if (column == 0) {
      text += blanks;
      blanks = 0;
    }
    fprintf (fp, "%.*s", (int)(blanks + word), text);
    column += blanks + word;
    text += blanks + word;
  }
  fprintf (fp, "\n\n");
}

static void
describe_arg (FILE *fp, const struct arg *a)
{
  fprintf (fp, "B<%s> (%s", a->name, arg_type_name (a->type));
  if (a->optional)
    fprintf (fp, ", optional");
  if (a->type == ARG_WORD) {
    for (size_t i = 0; a->words[i] != NULL; i++)
      fprintf (fp, "%s C<%s>", i ? " or" : ":", a->words[i]);
    fprintf (fp, ", default C<%s>", a->words[a->def]);
  }
  if (a->optional && a->type == ARG_INTEGER && a->def >= 0)
    fprintf (fp, ", default %lld", (long long)a->def);
  if (a->optional && a->type == ARG_BOOLEAN)
    fprintf (fp, ", default %s", a->def ? "true" : "false");
  if (a->max)
    fprintf (fp, ", %lld to %lld", (long long)a->min, (long long)a->max);
  fprintf (fp, "): %c%s.", a->help[0] & ~0x20, a->help + 1);
}

/* An argument is a paragraph, not an =item: many have the same name, which
 * podchecker takes amiss. */
void
command_print (FILE *fp)
{
  for (const struct command *c = command_table; c->name; c++) {
    fprintf (fp, "=head2 %s\n\n", c->name);
    print_filled (fp, c->help);
    for (const struct arg *a = c->args; a->type != ARG_END; a++) {
      CLEANUP_FREE char *text = NULL;
      size_t size;
      FILE *mem = open_memstream (&text, &size);

      if (mem == NULL)
        abort ();
      describe_arg (mem, a);
      if (fclose (mem) != 0)
        abort ();
      print_filled (fp, text);
    }
    {
      CLEANUP_FREE char *text = NULL;

      if (asprintf (&text, "Returns %s.", c->returns) == -1)
        abort ();
      print_filled (fp, text);
    }
  }
}
