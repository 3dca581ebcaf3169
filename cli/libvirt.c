/* libvirt.c - disks of libvirt's domains, and volumes: --domain, --volume.
 *
 * libbackfill-libvirt knows how such disks are found.  The command loads that
 * library when it is needed, and does not link it: so the command has nothing
 * of libvirt in it, starts as fast as without, and is the same on hosts that do
 * not have libvirt.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "libvirt/lookup.h"

static struct lookup lookup;

bool
libvirt_option (int c)
{
  switch (c) {
  case LIBVIRT_CONNECT:
    lookup.connect = optarg;
    return true;
  case LIBVIRT_DOMAIN:
    lookup.domain = optarg;
    return true;
  case LIBVIRT_POOL:
    lookup.pool = optarg;
    return true;
  case LIBVIRT_VOLUME:
    lookup.volume = optarg;
    return true;
  default:
    return false;
  }
}

bool
libvirt_used (void)
{
  return lookup.connect != NULL || lookup.domain != NULL || lookup.pool != NULL
         || lookup.volume != NULL;
}

void
libvirt_path (const char *path)
{
  lookup.path = path;
}

bool
libvirt_takes_path (void)
{
  return lookup.domain != NULL;
}

static void
check_usage (const char *disk)
{
  if (cli.socket != NULL)
    cli_usage ("-c names the server, and so do --domain and --volume: choose "
               "one");
  if (lookup.domain != NULL && (lookup.pool != NULL || lookup.volume != NULL))
    cli_usage ("--domain is for a disk of a guest, --volume for a storage "
               "volume: choose one");
  if (lookup.domain == NULL && lookup.volume == NULL)
    cli_usage (lookup.pool != NULL
                   ? "--pool: --volume has to say which of its volumes"
                   : "--connect needs --domain or --volume");
  if (disk != NULL && lookup.volume != NULL)
    cli_usage ("--volume names the disk: '%s' is one too many", disk);
  if (disk != NULL && lookup.path != NULL)
    cli_usage ("the disk is '%s': '%s' is one too many", lookup.path, disk);
}

const char *
libvirt_disk (const char *disk)
{
  char *uri = NULL, *name = NULL;
  lookup_fn find = NULL;
  void *library;

  check_usage (disk);
  if (disk != NULL)
    lookup.path = disk;
  library = dlopen (LOOKUP_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (library != NULL)
    find = (lookup_fn)dlsym (library, LOOKUP_FUNCTION);
  if (find == NULL)
    exit (cli_error ("--domain and --volume need libbackfill-libvirt, which "
                     "is not here: %s",
                     dlerror ()));
  if (find (&lookup, &uri, &name) == -1)
    exit (cli_failed ());
  /* Both strings stay until the end of the process, and so does the library. */
  cli.socket = uri;
  return name;
}
