/* domain.c - which server has a domain's disk, and what it calls it.
 *
 * All is in the domain's XML, parsed once for each call:
 *
 *   <disk>     has an NBD source, or a <backingStore> below it has.  The name
 * of the source is the export, that is the disk.  The registry of open volumes
 * has the NBD sockets of each server, and so tells the control socket
 * (backfill_connect ("nbd:PATH")). <metadata> may name the control socket
 * instead, with <disks xmlns='urn:backfill:1.0'> <disk target='vda'
 * control='PATH' name='NAME'/>
 *
 * The server is asked for its disks before anything is done, so that a name
 * that the server does not have is found here.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <libxml/parser.h>
#include <libxml/tree.h>

#include "cleanup.h"
#include "find.h"

#define METADATA_URI "urn:backfill:1.0"
/* A server of many that hangs must not cost the whole call. */
#define PROBE_TIMEOUT 5000

static void
cleanup_xml_free (xmlChar **s)
{
  xmlFree (*s);
}
#define CLEANUP_XML __attribute__ ((cleanup (cleanup_xml_free)))

static void
cleanup_xml_doc (xmlDocPtr *doc)
{
  xmlFreeDoc (*doc);
}

struct config {
  virDomainPtr handle;
  const char *domain; /* its name */
  xmlNodePtr root;
};

/* --- XML -------------------------------------------------------------- */

/* An element of that name and namespace (NULL: none), node or a later sibling.
 */
static xmlNodePtr
element (xmlNodePtr node, const char *name, const char *ns)
{
  for (; node != NULL; node = node->next)
    if (node->type == XML_ELEMENT_NODE
        && strcmp ((const char *)node->name, name) == 0
        && (ns == NULL ? node->ns == NULL
                       : node->ns != NULL
                             && strcmp ((const char *)node->ns->href, ns) == 0))
      return node;
  return NULL;
}

static xmlNodePtr
child (xmlNodePtr node, const char *name)
{
  return node != NULL ? element (node->children, name, NULL) : NULL;
}

static xmlChar *
attribute (xmlNodePtr node, const char *name)
{
  return node != NULL ? xmlGetNoNsProp (node, (const xmlChar *)name) : NULL;
}

static bool
has_value (xmlNodePtr node, const char *name, const char *value)
{
  CLEANUP_XML xmlChar *s = attribute (node, name);

  return s != NULL && strcmp ((const char *)s, value) == 0;
}

static xmlNodePtr
first_disk (const struct config *config)
{
  xmlNodePtr devices = child (config->root, "devices");

  return devices != NULL ? element (devices->children, "disk", NULL) : NULL;
}

static xmlNodePtr
next_disk (xmlNodePtr disk)
{
  return element (disk->next, "disk", NULL);
}

/* The NBD source of a disk, at the top or below, or NULL. */
static xmlNodePtr
nbd_source (xmlNodePtr disk)
{
  for (xmlNodePtr node = disk; node != NULL;
       node = child (node, "backingStore")) {
    xmlNodePtr source = child (node, "source");

    if (has_value (source, "protocol", "nbd"))
      return source;
  }
  return NULL;
}

/* What the metadata says of a target, or NULL. */
static xmlNodePtr
override (const struct config *config, const xmlChar *target)
{
  xmlNodePtr metadata = child (config->root, "metadata");
  xmlNodePtr disks = metadata != NULL
                         ? element (metadata->children, "disks", METADATA_URI)
                         : NULL;
  xmlNodePtr disk
      = disks != NULL ? element (disks->children, "disk", METADATA_URI) : NULL;

  for (; disk != NULL; disk = element (disk->next, "disk", METADATA_URI))
    if (has_value (disk, "target", (const char *)target))
      return disk;
  return NULL;
}

/* --- one disk --------------------------------------------------------- */

/* The disk of that name among those of the server.  "" may also mean the
 * server's only disk, as for NBD clients. */
static int
choose_disk (struct found *found, const char *name, struct stat *store)
{
  struct backfill_disk_info **disks;
  unsigned n, which;
  int r = 0;

  if (backfill_list_disks (found->h, &n, &disks) == -1)
    return -1;
  for (which = 0; which < n; which++)
    if (strcmp (disks[which]->name, name) == 0)
      break;
  if (which == n && n == 1 && name[0] == '\0')
    which = 0;
  if (which < n) {
    if (store != NULL && stat (disks[which]->store, store) == -1)
      memset (store, 0, sizeof *store);
    found->disk = strdup (disks[which]->name);
    if (found->disk == NULL)
      r = find_nomem ();
  }
  else {
    CLEANUP_FREE char *names = NULL;
    size_t size;
    FILE *fp = open_memstream (&names, &size);

    for (unsigned i = 0; fp != NULL && i < n; i++)
      fprintf (fp, "%s'%s'", i > 0 ? ", " : "", disks[i]->name);
    if (fp == NULL || fclose (fp) != 0)
      r = find_nomem ();
    else
      r = find_error (ENOENT, "its server has no disk named '%s': there are %s",
                      name, names);
  }
  backfill_free_disks (disks);
  return r;
}

/* Where the control socket of a disk is: *uri for backfill_connect.  NULL: the
 * disk is found by its store's path, which is *name then. */
static int
locate (const struct config *config, xmlNodePtr disk, const xmlChar *target,
        char **uri, char **name)
{
  xmlNodePtr source = nbd_source (disk), host = child (source, "host");
  xmlNodePtr mine = override (config, target);
  CLEANUP_XML xmlChar *control = attribute (mine, "control");
  CLEANUP_XML xmlChar *store = attribute (mine, "store");
  CLEANUP_XML xmlChar *named = attribute (mine, "name");
  CLEANUP_XML xmlChar *export = attribute (source, "name");
  CLEANUP_XML xmlChar *type = attribute (disk, "type");
  CLEANUP_XML xmlChar *socket = attribute (host, "socket");
  const char *chosen = named != NULL    ? (const char *)named
                       : export != NULL ? (const char *)export
                                        : "";
  bool by_path = false;
  int r = 0;

  *uri = *name = NULL;
  if (control != NULL)
    r = asprintf (uri, "unix:%s", control);
  else if (source != NULL && has_value (host, "transport", "unix")
           && socket != NULL)
    r = asprintf (uri, "nbd:%s", socket);
  else if (store != NULL)
    by_path = true; /* found by the store's inode, whoever serves it */
  else if (source == NULL)
    return find_error (ENOTSUP,
                       "disk '%s' of domain '%s' is not served over NBD (its "
                       "type is '%s'), so it is not one of backfill's",
                       target, config->domain, type != NULL ? type : target);
  else
    return find_error (ENOTSUP,
                       "disk '%s' of domain '%s' is served over NBD, but not "
                       "on a unix socket: say in the domain's metadata which "
                       "control socket its server has (backfill-libvirt(7))",
                       target, config->domain);
  if (r == -1) {
    *uri = NULL;
    return find_nomem ();
  }
  *name = strdup (by_path ? (const char *)store : chosen);
  if (*name == NULL) {
    free (*uri);
    *uri = NULL;
    return find_nomem ();
  }
  return 0;
}

static int
open_disk (const struct config *config, xmlNodePtr disk, unsigned timeout,
           struct stat *store, struct found *found)
{
  CLEANUP_XML xmlChar *target = attribute (child (disk, "target"), "dev");
  CLEANUP_FREE char *name = NULL;

  if (target == NULL)
    return find_error (EPROTO, "a disk of domain '%s' has no target",
                       config->domain);
  if (locate (config, disk, target, &found->uri, &name) == -1)
    return -1;
  found->h = backfill_connect (found->uri);
  if (found->h != NULL && found->uri == NULL) {
    found->disk = name;
    name = NULL;
    if (store != NULL && stat (found->disk, store) == -1)
      memset (store, 0, sizeof *store);
    return 0;
  }
  if (found->h != NULL && timeout != 0)
    backfill_set_timeout (found->h, timeout);
  if (found->h == NULL || choose_disk (found, name, store) == -1) {
    find_error_of ("disk '%s' of domain '%s'", target, config->domain);
    found_free (found);
    return -1;
  }
  return 0;
}

/* --- which disk ------------------------------------------------------- */

/* "vda, vdb": what the caller could have said. */
static char *
targets (const struct config *config)
{
  char *list = NULL;
  size_t size;
  FILE *fp = open_memstream (&list, &size);
  bool any = false;

  if (fp == NULL)
    return NULL;
  for (xmlNodePtr d = first_disk (config); d != NULL; d = next_disk (d)) {
    CLEANUP_XML xmlChar *target = attribute (child (d, "target"), "dev");

    if (target != NULL)
      fprintf (fp, "%s%s", any ? ", " : "", target);
    any = any || target != NULL;
  }
  if (!any)
    fprintf (fp, "none");
  if (fclose (fp) != 0) {
    free (list);
    return NULL;
  }
  return list;
}

/* Is a name that libvirt's tools show for this disk's source? */
static bool
is_source (xmlNodePtr disk, const char *path)
{
  static const char *const names[] = { "file", "dev", "name", "dir", "volume" };
  xmlNodePtr sources[2] = { child (disk, "source"), nbd_source (disk) };

  for (size_t i = 0; i < 2; i++)
    for (size_t j = 0; j < sizeof names / sizeof names[0]; j++)
      if (has_value (sources[i], names[j], path))
        return true;
  return false;
}

/* Only the disks' servers know what their stores are. */
static int
find_store (const struct config *config, const char *path, struct found *found)
{
  CLEANUP_FREE char *list = targets (config);
  CLEANUP_FREE char *why = NULL;
  struct stat wanted, store;
  virDomainBlockInfo unused;

  if (strchr (path, '/') != NULL && stat (path, &wanted) == 0)
    for (xmlNodePtr d = first_disk (config); d != NULL; d = next_disk (d)) {
      if (open_disk (config, d, PROBE_TIMEOUT, &store, found) == -1) {
        /* Not to be kept quiet, as this server may have the disk. */
        if (backfill_get_errno () != ENOTSUP) {
          free (why);
          why = strdup (backfill_get_error ());
        }
        continue;
      }
      if (store.st_dev == wanted.st_dev && store.st_ino == wanted.st_ino)
        return 0;
      found_free (found);
    }
  /* libvirt's error of this thread becomes that which its own calls give for
   * such a path. */
  virDomainGetBlockInfo (config->handle, path, &unused, 0);
  return find_error (
      ENOENT, "domain '%s' has no disk '%s': its disks are %s%s%s",
      config->domain, path, list != NULL ? list : "not known",
      why != NULL ? "; not asked: " : "", why != NULL ? why : "");
}

static int
find_path (const struct config *config, const char *path, struct found *found)
{
  xmlNodePtr match = NULL;

  for (xmlNodePtr d = first_disk (config); d != NULL; d = next_disk (d))
    if (has_value (child (d, "target"), "dev", path))
      return open_disk (config, d, 0, NULL, found);

  if (path[0] != '\0')
    for (xmlNodePtr d = first_disk (config); d != NULL; d = next_disk (d))
      if (is_source (d, path)) {
        if (match != NULL) {
          CLEANUP_FREE char *list = targets (config);

          return find_error (ENOTUNIQ,
                             "domain '%s' has several disks whose source is "
                             "'%s': name one by its target: %s",
                             config->domain, path,
                             list != NULL ? list : "not known");
        }
        match = d;
      }
  if (match != NULL)
    return open_disk (config, match, 0, NULL, found);
  return find_store (config, path, found);
}

/* The only disk that may be meant. */
static int
find_only (const struct config *config, struct found *found)
{
  CLEANUP_FREE char *list = targets (config);
  xmlNodePtr only = NULL;
  unsigned n = 0;

  for (xmlNodePtr d = first_disk (config); d != NULL; d = next_disk (d)) {
    CLEANUP_XML xmlChar *target = attribute (child (d, "target"), "dev");

    if (target == NULL
        || (nbd_source (d) == NULL && override (config, target) == NULL))
      continue;
    only = d;
    n++;
  }
  if (n == 1)
    return open_disk (config, only, 0, NULL, found);
  return find_error (n == 0 ? ENOTSUP : ENOTUNIQ,
                     n == 0 ? "domain '%s' has no disk that is served over "
                              "NBD: its disks are %s"
                            : "name the disk of domain '%s': there are %s",
                     config->domain, list != NULL ? list : "not known");
}

int
find_domain_disk (virDomainPtr domain, const char *path, struct found *found)
{
  __attribute__ ((cleanup (cleanup_xml_doc))) xmlDocPtr doc = NULL;
  CLEANUP_FREE char *xml = NULL;
  struct config config;
  virConnectPtr conn;
  int r;

  host_initialize ();
  conn = virDomainGetConnect (domain);
  if (conn == NULL)
    return find_error_libvirt ("the domain");
  if (host_check (conn) == -1)
    return -1;
  config.handle = domain;
  config.domain = virDomainGetName (domain);
  r = virDomainIsActive (domain);
  if (r == -1)
    return find_error_libvirt ("domain '%s'", config.domain);
  if (r == 0)
    return find_error (EHOSTDOWN,
                       "domain '%s' is not running: its disks are in use only "
                       "while it is; name the volume, or the store's path",
                       config.domain);
  xml = virDomainGetXMLDesc (domain, 0);
  if (xml == NULL)
    return find_error_libvirt ("domain '%s'", config.domain);
  doc = xmlReadMemory (xml, (int)strlen (xml), "domain.xml", NULL,
                       XML_PARSE_NONET | XML_PARSE_NOERROR
                           | XML_PARSE_NOWARNING);
  config.root = doc != NULL ? xmlDocGetRootElement (doc) : NULL;
  if (config.root == NULL)
    return find_error (EPROTO, "the XML of domain '%s' cannot be parsed",
                       config.domain);
  return path != NULL ? find_path (&config, path, found)
                      : find_only (&config, found);
}
