/* volume.c - a storage volume's disk: whoever owns the file at its path.
 *
 * libbackfill finds by that path who has the volume open: the server of a
 * guest, or backfilld, or nobody.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>

#include "cleanup.h"
#include "find.h"

int
find_volume (virStorageVolPtr volume, struct found *found)
{
  CLEANUP_FREE char *path = NULL;
  virConnectPtr conn;
  const char *name;

  host_initialize ();
  conn = virStorageVolGetConnect (volume);
  if (conn == NULL)
    return find_error_libvirt ("the storage volume");
  name = virStorageVolGetName (volume);
  if (host_check (conn) == -1)
    return -1;
  path = virStorageVolGetPath (volume);
  if (path == NULL)
    return find_error_libvirt ("the path of volume '%s'", name);
  /* Network pools give something like pool/image. */
  if (path[0] != '/')
    return find_error (ENOTSUP,
                       "volume '%s' ('%s') is not a file or device of this "
                       "host",
                       name, path);
  found->h = backfill_connect (NULL);
  if (found->h == NULL)
    return find_error_of ("volume '%s'", name);
  found->disk = path;
  path = NULL;
  return 0;
}
