/* export.c - see export.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "cleanup.h"
#include "export.h"
#include "plugin.h"

enum { EXPORT_MAP = 1, EXPORT_READ_ONLY = 2, EXPORTS_PER_DISK = 4 };

static const struct disks no_disks;
static const struct disks *disks = &no_disks; /* process.c's */
static struct export *exports; /* EXPORTS_PER_DISK for each disk */

int
exports_make (const struct disks *all, size_t max)
{
  disks = all;
  exports = calloc (max * EXPORTS_PER_DISK, sizeof *exports);
  return exports ? 0 : -1;
}

void
exports_add (size_t i)
{
  struct disk *disk = disks->ptr[i];

  for (size_t j = 0; j < EXPORTS_PER_DISK; j++) {
    struct export *e = &exports[i * EXPORTS_PER_DISK + j];

    e->disk = disk;
    e->map = j & EXPORT_MAP;
    e->read_only = e->map || (j & EXPORT_READ_ONLY) || disk_read_only (disk);
  }
}

void
exports_free (void)
{
  free (exports);
  exports = NULL;
}

static struct disk *
find_disk (const char *name, size_t len)
{
  size_t i;

  for (i = 0; i < disks->len; i++) {
    const char *n = disk_name (disks->ptr[i]);

    if (strlen (n) == len && memcmp (n, name, len) == 0)
      return disks->ptr[i];
  }
  return NULL;
}

/* The disk that "" means, or NULL. */
static struct disk *
default_disk (void)
{
  return disks->len == 1 ? disks->ptr[0] : find_disk ("", 0);
}

static char *
names_of_disks (void)
{
  char *list = NULL;
  size_t size, i;
  FILE *fp = open_memstream (&list, &size);

  if (fp == NULL)
    return NULL;
  for (i = 0; i < disks->len; i++)
    fprintf (fp, "%s'%s'", i ? ", " : "", disk_name (disks->ptr[i]));
  if (fclose (fp) != 0) {
    free (list);
    return NULL;
  }
  return list;
}

void *
export_open (int readonly)
{
  const char *name = nbdkit_export_name ();
  CLEANUP_FREE char *list = NULL;
  struct disk *disk;
  size_t len, i;
  bool map;

  if (name == NULL) /* a filter opens the plugin outside a connection */
    name = "";
  len = strlen (name);
  map = len >= 4 && strcmp (name + len - 4, "/map") == 0;
  if (map)
    len -= 4;
  /* The URI nbd://host/map asks for "map": a URI drops one slash. */
  else if (strcmp (name, "map") == 0 && find_disk (name, len) == NULL) {
    map = true;
    len = 0;
  }
  disk = len ? find_disk (name, len) : default_disk ();
  if (disk == NULL) {
    list = names_of_disks ();
    nbdkit_error ("no disk '%s': there are %s; the export NAME is a disk, "
                  "NAME/map its allocation map",
                  name, list ? list : "others");
    return NULL;
  }
  for (i = 0; disks->ptr[i] != disk; i++)
    ;
  return &exports[i * EXPORTS_PER_DISK + (map ? EXPORT_MAP : 0)
                  + (readonly ? EXPORT_READ_ONLY : 0)];
}

int
export_list (int readonly, int is_tls, struct nbdkit_exports *list)
{
  CLEANUP_FREE char *name = NULL;
  size_t i;

  (void)readonly;
  (void)is_tls;
  for (i = 0; i < disks->len; i++) {
    free (name);
    name = NULL;
    if (asprintf (&name, "%s/map", disk_name (disks->ptr[i])) == -1) {
      name = NULL;
      nbdkit_error ("asprintf: %m");
      return -1;
    }
    if (nbdkit_add_export (list, disk_name (disks->ptr[i]), NULL) == -1
        || nbdkit_add_export (list, name, NULL) == -1)
      return -1;
  }
  return 0;
}

const char *
export_default (int readonly, int is_tls)
{
  struct disk *disk = default_disk ();

  (void)readonly;
  (void)is_tls;
  /* If there is no default, "" goes to .open, whose error lists the names. */
  return disk ? disk_name (disk) : "";
}
