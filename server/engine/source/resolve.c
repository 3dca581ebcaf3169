/* source/resolve.c - host names, looked up without blocking an I/O thread.
 *
 * libnbd looks up the host of a TCP URI with getaddrinfo, which may block for
 * as long as a name server is silent, and one I/O thread serves many disks.
 * So the name is looked up first in a thread of its own.  Only when that has
 * an answer does libnbd look it up again, which is then quick.  A URI with a
 * numeric address or a unix socket needs none of it.  (getaddrinfo_a would do
 * the same, but in threads of libc's that no sanitizer can follow.)
 *
 * The thread and whoever waits share a struct resolve; the last one frees it.
 * A thread that nobody waits for any more cannot be ended: it may even
 * outlive the plugin, so the code it returns to is pinned in memory.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <libnbd.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "cleanup.h"
#include "lock.h"
#include "log.h"
#include "source/resolve.h"

struct resolve {
  struct lock lock;
  char *host;
  unsigned refs;
  bool ended;
  int err; /* of getaddrinfo */
  int errnum;
};

static void
resolve_unref (struct resolve *r)
{
  bool last;

  {
    LOCK_SCOPE (&r->lock);
    last = --r->refs == 0;
  }
  if (last) {
    lock_destroy (&r->lock);
    free (r->host);
    free (r);
  }
}

static void *
look_up (void *arg)
{
  struct resolve *r = arg;
  struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
  int err = getaddrinfo (r->host, NULL, &hints, &list), errnum = errno;

  if (err == 0)
    freeaddrinfo (list);
  {
    LOCK_SCOPE (&r->lock);
    r->ended = true;
    r->err = err;
    r->errnum = errnum;
  }
  resolve_unref (r);
  return NULL;
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
  char *host = host_name (uri);
  struct resolve *r;
  pthread_attr_t attr;
  sigset_t all, old;
  pthread_t tid;
  int err;

  if (!host)
    return NULL;
  r = calloc (1, sizeof *r);
  if (!r) {
    free (host);
    return NULL;
  }
  r->host = host;
  r->refs = 2;
  lock_init (&r->lock, LOCK_SOURCE_RESOLVE);
  pthread_attr_init (&attr);
  pthread_attr_setdetachstate (&attr, PTHREAD_CREATE_DETACHED);
  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  err = pthread_create (&tid, &attr, look_up, r);
  pthread_sigmask (SIG_SETMASK, &old, NULL);
  pthread_attr_destroy (&attr);
  if (err) {
    r->refs = 1;
    resolve_unref (r);
    return NULL;
  }
  return r;
}

int
resolve_poll (struct resolve *r, char *why, size_t len)
{
  LOCK_SCOPE (&r->lock);
  if (!r->ended)
    return EINPROGRESS;
  if (r->err == 0)
    return 0;
  snprintf (why, len, "host \"%s\": %s", r->host,
            r->err == EAI_SYSTEM ? strerror (r->errnum)
                                 : gai_strerror (r->err));
  return EIO;
}

/* Pin the code for ever: an ended thread may still run its last instructions.
 */
static void
pin_code (void)
{
  Dl_info info;

  /* The handle is never closed, which is the point. */
  if (dladdr ((void *)look_up, &info) && info.dli_fname)
    dlopen (info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

void
resolve_end (struct resolve *r)
{
  static pthread_once_t once = PTHREAD_ONCE_INIT;

  if (!r)
    return;
  pthread_once (&once, pin_code);
  resolve_unref (r);
}
