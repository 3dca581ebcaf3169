/* child.h - servers that a C test starts: they do not outlive it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CHILD_H
#define BACKFILL_CHILD_H

#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* As fork().  The kernel kills the child when the thread that called this
 * ends, however that ends.  The child has no signal blocked. */
static inline pid_t
child_fork (void)
{
  pid_t parent = getpid (), pid = fork ();

  if (pid == 0) {
    sigset_t none;

    sigemptyset (&none);
    sigprocmask (SIG_SETMASK, &none, NULL);
    if (prctl (PR_SET_PDEATHSIG, SIGKILL) == -1 || getppid () != parent)
      _exit (126);
  }
  return pid;
}

/* A server listens at that unix socket. */
static inline bool
child_listens (const char *path)
{
  struct sockaddr_un addr = { .sun_family = AF_UNIX };
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool yes;

  if (strlen (path) >= sizeof addr.sun_path)
    abort ();
  strcpy (addr.sun_path, path);
  yes = connect (fd, (struct sockaddr *)&addr, sizeof addr) == 0;
  close (fd);
  return yes;
}

#endif /* BACKFILL_CHILD_H */
