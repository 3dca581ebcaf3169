/* server.c - see server.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "server.h"

/* From nbdkit's command line. */
char *
server_user (void)
{
  CLEANUP_FREE char *text = NULL;
  char *user = NULL;
  size_t size = 0;
  FILE *fp = fopen ("/proc/self/cmdline", "re");
  bool next = false;

  for (bool first = true; fp && getdelim (&text, &size, 0, fp) > 0;
       first = false) {
    if (first)
      continue;
    if (next || strncmp (text, "--user=", 7) == 0
        || (strncmp (text, "-u", 2) == 0 && text[2])) {
      free (user);
      user = strdup (text + (next ? 0 : text[1] == '-' ? 7 : 2));
      next = false;
    }
    else if (strcmp (text, "--") == 0)
      break;
    else
      next = strcmp (text, "-u") == 0 || strcmp (text, "--user") == 0;
  }
  if (fp)
    fclose (fp);
  return user;
}

/* Pipes of which this process has both ends open, by inode. */
#define PIPES 16u
struct pipe_ends {
  ino_t ino;
  int end[2]; /* to read from, to write to; -1: not open */
};

static size_t
list_pipes (struct pipe_ends pipes[PIPES])
{
  DIR *fds = opendir ("/proc/self/fd");
  size_t nr = 0;

  for (const struct dirent *d; fds && (d = readdir (fds)) != NULL;) {
    int fd = atoi (d->d_name), mode;
    struct stat st;
    size_t i = 0;

    if (d->d_name[0] == '.' || fstat (fd, &st) == -1 || !S_ISFIFO (st.st_mode)
        || (mode = fcntl (fd, F_GETFL)) == -1)
      continue;
    while (i < nr && pipes[i].ino != st.st_ino)
      i++;
    if (i == PIPES)
      continue;
    if (i == nr)
      pipes[nr++] = (struct pipe_ends){ st.st_ino, { -1, -1 } };
    pipes[i].end[(mode & O_ACCMODE) != O_RDONLY] = fd;
  }
  if (fds)
    closedir (fds);
  return nr;
}

/* The pipes that were open in get_ready: nbdkit's quit pipe is none of them. */
static struct pipe_ends known[PIPES];
static size_t nr_known;

static bool
is_known_pipe (ino_t ino)
{
  for (size_t i = 0; i < nr_known; i++)
    if (known[i].ino == ino)
      return true;
  return false;
}

void
server_note_pipes (void)
{
  nr_known = list_pipes (known);
}

/* Nbdkit tells itself to quit through a pipe, which it makes after get_ready.
 * With --run it forks then, and parent and child share the pipe: a signal to
 * the parent wakes nbdkit_nanosleep in the child, which has no reason to quit
 * and aborts.  So the child gets a pipe of its own.  When the command has
 * ended, the parent ends the child by a signal. */
void
server_part_from_parent (void)
{
  struct pipe_ends pipes[PIPES];
  size_t nr = list_pipes (pipes);

  for (size_t i = 0; i < nr; i++) {
    int fresh[2], flags;

    if (pipes[i].end[0] == -1 || pipes[i].end[1] == -1
        || is_known_pipe (pipes[i].ino) || pipe2 (fresh, O_CLOEXEC) == -1)
      continue;
    for (int e = 0; e < 2; e++) {
      flags = fcntl (pipes[i].end[e], F_GETFL);
      if (flags != -1)
        fcntl (fresh[e], F_SETFL, flags & ~O_ACCMODE);
      dup3 (fresh[e], pipes[i].end[e], O_CLOEXEC);
      close (fresh[e]);
    }
  }
}
