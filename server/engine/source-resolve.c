/* source-resolve.c - host names, looked up without blocking a thread.
 *
 * libnbd looks up the host of a TCP URI with getaddrinfo, which may block for
 * as long as a name server is silent, and one I/O thread serves many disks.
 * So the name is looked up first by getaddrinfo_a, in a thread of libc's.
 * Only when that has an answer does libnbd look it up again, which is then
 * quick.  A URI with a numeric address or a unix socket needs none of it.
 *
 * A look-up that cannot be cancelled is left to end by itself: its memory is
 * freed when a later one finds it ended.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "source-internal.h"

struct resolve {
  struct gaicb cb;
  struct gaicb *list[1];
  char *host;
  struct resolve *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct resolve *abandoned;

static void
resolve_free (struct resolve *r)
{
  if (r->cb.ar_result)
    freeaddrinfo (r->cb.ar_result);
  free (r->host);
  free (r);
}

static void
free_ended (void)
{
  LOCK_SCOPE (&lock);
  struct resolve **p = &abandoned;

  while (*p) {
    struct resolve *r = *p;

    if (gai_error (&r->cb) == EAI_INPROGRESS)
      p = &r->next;
    else {
      *p = r->next;
      resolve_free (r);
    }
  }
}

/* The host name of nbd://[user@]host[:port]/..., or NULL if there is none or
 * it is an address. */
static char *
host_name (const char *uri)
{
  const char *start, *end, *at;
  struct in_addr addr;
  char *host;

  if (strncmp (uri, "nbd://", 6) == 0)
    start = uri + 6;
  else if (strncmp (uri, "nbds://", 7) == 0)
    start = uri + 7;
  else
    return NULL;
  end = start + strcspn (start, "/?#");
  at = memchr (start, '@', (size_t)(end - start));
  if (at)
    start = at + 1;
  if (*start == '[')
    return NULL;
  end = start + strcspn (start, ":/?#");
  if (start == end)
    return NULL;
  host = strndup (start, (size_t)(end - start));
  if (host && inet_pton (AF_INET, host, &addr) == 1) {
    free (host);
    return NULL;
  }
  return host;
}

struct resolve *
resolve_begin (const char *uri)
{
  struct resolve *r;
  char *host;

  free_ended ();
  host = host_name (uri);
  if (!host)
    return NULL;
  r = calloc (1, sizeof *r);
  if (!r) {
    free (host);
    return NULL;
  }
  r->host = host;
  r->cb.ar_name = host;
  r->list[0] = &r->cb;
  if (getaddrinfo_a (GAI_NOWAIT, r->list, 1, NULL) != 0) {
    resolve_free (r);
    return NULL;
  }
  return r;
}

int
resolve_poll (struct resolve *r, char *why, size_t len)
{
  int err = gai_error (&r->cb);

  if (err == EAI_INPROGRESS)
    return EINPROGRESS;
  if (err == 0)
    return 0;
  snprintf (why, len, "host \"%s\": %s", r->host, gai_strerror (err));
  return EIO;
}

void
resolve_end (struct resolve *r)
{
  if (!r)
    return;
  if (gai_error (&r->cb) == EAI_INPROGRESS
      && gai_cancel (&r->cb) == EAI_NOTCANCELED) {
    LOCK_SCOPE (&lock);
    r->next = abandoned;
    abandoned = r;
    return;
  }
  resolve_free (r);
}
