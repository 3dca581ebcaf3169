/* lookup.c - see lookup.h.
 *
 * Connections are read-only, as only libvirt's knowledge is needed.  libvirt's
 * habit of printing errors is switched off, since backfill(1) prints them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <libvirt/virterror.h>

#include "cleanup.h"
#include "find.h"
#include "lookup.h"

static void
say_nothing (void *opaque, virErrorPtr error)
{
  (void)opaque;
  (void)error;
}

/* In virsh's order. */
static virDomainPtr
lookup_domain (virConnectPtr conn, const char *name)
{
  virDomainPtr domain = NULL;
  char *end;
  long id = strtol (name, &end, 10);

  if (end != name && *end == '\0' && id >= 0 && id <= 0x7fffffff)
    domain = virDomainLookupByID (conn, (int)id);
  if (domain == NULL && strlen (name) == VIR_UUID_STRING_BUFLEN - 1)
    domain = virDomainLookupByUUIDString (conn, name);
  if (domain == NULL)
    domain = virDomainLookupByName (conn, name);
  if (domain == NULL)
    find_error_libvirt ("domain '%s'", name);
  return domain;
}

static virStorageVolPtr
lookup_volume (virConnectPtr conn, const char *pool, const char *name)
{
  virStorageVolPtr volume = NULL;
  virStoragePoolPtr p = NULL;

  if (pool == NULL) {
    volume = virStorageVolLookupByKey (conn, name);
    if (volume == NULL)
      volume = virStorageVolLookupByPath (conn, name);
    if (volume == NULL)
      find_error_libvirt ("volume '%s' (without its pool, give its path)",
                          name);
    return volume;
  }
  if (strlen (pool) == VIR_UUID_STRING_BUFLEN - 1)
    p = virStoragePoolLookupByUUIDString (conn, pool);
  if (p == NULL)
    p = virStoragePoolLookupByName (conn, pool);
  if (p == NULL) {
    find_error_libvirt ("pool '%s'", pool);
    return NULL;
  }
  volume = virStorageVolLookupByName (p, name);
  if (volume == NULL)
    find_error_libvirt ("volume '%s' of pool '%s'", name, pool);
  virStoragePoolFree (p);
  return volume;
}

int
backfill_private_lookup (const struct lookup *lookup, char **uri, char **disk)
{
  struct found found = { 0 };
  virConnectPtr conn;
  int r = -1;

  virSetErrorFunc (NULL, say_nothing);
  conn = virConnectOpenReadOnly (lookup->connect);
  if (conn == NULL)
    return find_error_libvirt ("connecting to '%s'", lookup->connect != NULL
                                                         ? lookup->connect
                                                         : "libvirt");
  if (lookup->domain != NULL) {
    virDomainPtr domain = lookup_domain (conn, lookup->domain);

    if (domain != NULL) {
      r = find_domain_disk (domain, lookup->path, &found);
      virDomainFree (domain);
    }
  }
  else {
    virStorageVolPtr volume
        = lookup_volume (conn, lookup->pool, lookup->volume);

    if (volume != NULL) {
      r = find_volume (volume, &found);
      virStorageVolFree (volume);
    }
  }
  virConnectClose (conn);
  if (r == 0) {
    *uri = found.uri;
    *disk = found.disk;
    found.uri = found.disk = NULL;
  }
  found_free (&found);
  return r;
}
