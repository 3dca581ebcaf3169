/* address.c - see address.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "address.h"
#include "cleanup.h"

int
address_in (struct sockaddr_un *addr, int dir, const char *name)
{
  int n;

  memset (addr, 0, sizeof *addr);
  addr->sun_family = AF_UNIX;
  n = snprintf (addr->sun_path, sizeof addr->sun_path, "/proc/self/fd/%d/%s",
                dir, name);
  if (n > 0 && (size_t)n < sizeof addr->sun_path)
    return 0;
  errno = ENAMETOOLONG;
  return -1;
}

int
address_of (struct sockaddr_un *addr, const char *path, int *dir)
{
  CLEANUP_FREE char *folder = NULL;
  const char *slash;

  *dir = -1;
  memset (addr, 0, sizeof *addr);
  addr->sun_family = AF_UNIX;
  if (strlen (path) < sizeof addr->sun_path) {
    memcpy (addr->sun_path, path, strlen (path) + 1);
    return 0;
  }
  slash = strrchr (path, '/');
  if (slash == NULL) {
    errno = ENAMETOOLONG;
    return -1;
  }
  folder = strndup (path, (size_t)(slash - path) + 1);
  if (folder == NULL)
    return -1;
  *dir = open (folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (*dir == -1)
    return -1;
  return address_in (addr, *dir, slash + 1);
}
