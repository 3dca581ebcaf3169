/* host.c - is the hypervisor of a connection this machine?
 *
 * What libvirt says of a domain is about libvirt's own host: a path in the
 * domain's XML may well exist here too, and be something else.  So a connection
 * that goes over the network is refused, even to a machine of our name.  So is
 * a connection whose URI looks local, but whose hypervisor gives another host's
 * name: a socket may have been forwarded.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include <libvirt/virterror.h>
#include <libxml/parser.h>
#include <libxml/uri.h>

#include "cleanup.h"
#include "find.h"

/* driver[+transport]://[user@][server][:port]/... */
static bool
is_local_uri (const char *text)
{
  xmlURIPtr uri = xmlParseURI (text);
  const char *plus;
  bool local;

  if (uri == NULL)
    return false;
  plus = uri->scheme != NULL ? strchr (uri->scheme, '+') : NULL;
  local = (uri->server == NULL || uri->server[0] == '\0')
          && (plus == NULL || strcmp (plus, "+unix") == 0);
  xmlFreeURI (uri);
  return local;
}

/* Compared up to the first dot: one of the names may lack its domain. */
static bool
is_same_name (const char *a, const char *b)
{
  size_t n = strcspn (a, ".");

  return n > 0 && n == strcspn (b, ".") && strncasecmp (a, b, n) == 0;
}

/* libvirt tells the name that the resolver has for the host. */
static bool
is_our_name (const char *name)
{
  struct addrinfo hints = { .ai_flags = AI_CANONNAME }, *info;
  char ours[256];
  bool same;

  if (gethostname (ours, sizeof ours) == -1)
    return true;
  ours[sizeof ours - 1] = '\0';
  if (is_same_name (name, ours))
    return true;
  if (getaddrinfo (ours, NULL, &hints, &info) != 0)
    return false;
  same = info->ai_canonname != NULL && is_same_name (name, info->ai_canonname);
  freeaddrinfo (info);
  return same;
}

static void
initialize (void)
{
  virInitialize ();
  xmlInitParser ();
}

void
host_initialize (void)
{
  static pthread_once_t once = PTHREAD_ONCE_INIT;

  pthread_once (&once, initialize);
}

int
host_check (virConnectPtr conn)
{
  CLEANUP_FREE char *uri = NULL;
  CLEANUP_FREE char *name = NULL;

  uri = virConnectGetURI (conn);
  if (uri == NULL)
    return find_error_libvirt ("this connection's URI");
  if (!is_local_uri (uri))
    return find_error (EREMOTE,
                       "'%s' is a remote connection, and a disk's control "
                       "socket can only be reached on its own host: do this "
                       "there",
                       uri);
  /* A driver that does not know its host is none that goes over a network. */
  name = virConnectGetHostname (conn);
  if (name != NULL && !is_our_name (name))
    return find_error (EREMOTE,
                       "'%s' leads to another host, '%s', and a disk's "
                       "control socket can only be reached there",
                       uri, name);
  return 0;
}
