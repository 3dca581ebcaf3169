/* replay.c - the main program of the fuzzers where there is no libFuzzer: runs
 * each file of the folders and files named once.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cleanup.h"

/* Not every fuzzer has one. */
int LLVMFuzzerInitialize (int *argc, char ***argv) __attribute__ ((weak));
int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

static unsigned nr;

static void
run_file (const char *path)
{
  FILE *fp = fopen (path, "re");
  CLEANUP_FREE uint8_t *data = NULL;
  size_t size = 0, n;

  if (!fp) {
    perror (path);
    exit (1);
  }
  /* Exactly as large as it is, so that a read past its end shows. */
  do {
    data = realloc (data, size + 4096);
    if (!data)
      abort ();
    n = fread (data + size, 1, 4096, fp);
    size += n;
  } while (n > 0);
  fclose (fp);
  data = realloc (data, size ? size : 1);
  fprintf (stderr, "%s: %zu bytes\n", path, size);
  LLVMFuzzerTestOneInput (data, size);
  nr++;
}

static void
run_folder (const char *path)
{
  struct dirent **names;
  int n = scandir (path, &names, NULL, alphasort);

  for (int i = 0; i < n; i++) {
    CLEANUP_FREE char *full = NULL;

    if (names[i]->d_name[0] != '.'
        && asprintf (&full, "%s/%s", path, names[i]->d_name) > 0)
      run_file (full);
    free (names[i]);
  }
  if (n >= 0)
    free (names);
}

int
main (int argc, char **argv)
{
  struct stat sb;

  if (LLVMFuzzerInitialize)
    LLVMFuzzerInitialize (&argc, &argv);
  for (int i = 1; i < argc; i++)
    if (stat (argv[i], &sb) == 0 && S_ISDIR (sb.st_mode))
      run_folder (argv[i]);
    else
      run_file (argv[i]);
  fprintf (stderr, "%u inputs\n", nr);
  return nr > 0 ? 0 : 1;
}
