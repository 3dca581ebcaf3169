/* source.c - the backing store: the API, start and stop.
 *
 * Further connections are opened one at a time, when those there are full
 * and background still waits, if the server says that it may be connected to
 * several times.  One that is refused is not tried again for a while.
 *
 * See source/internal.h for the files and the locking.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "cleanup.h"
#include "log.h"
#include "message.h"
#include "source/command.h"
#include "source/conn.h"
#include "source/local.h"
#include "source/queue.h"
#include "thread.h"

#define DEFAULT_TIMEOUT 30000
#define REFUSED_RETRY 1000

static struct {
  struct lock lock;
  struct io_pool *pool;
  unsigned users;
  unsigned serial; /* spreads the sources' connections over the threads */
} process = { .lock = LOCK_INITIALIZER (LOCK_SOURCE_PROCESS) };

/* tls-certificates=FOLDER of an NBD URI: FOLDER/ca-cert.pem, malloc'd.  NULL:
 * there is none, or a pre-shared key goes before it; or memory is short. */
static char *
ca_file_of (const char *uri)
{
  static const char param[] = "tls-certificates=";
  const char *p = strchr (uri, '?');
  CLEANUP_FREE char *dir = NULL;
  char *path, *w;

  if (strncmp (uri, "nbds", 4) != 0 || !p || strstr (p, "tls-psk-file="))
    return NULL;
  do
    if (strncmp (++p, param, sizeof param - 1) == 0) {
      p += sizeof param - 1;
      dir = w = malloc (strlen (p) + 1);
      if (!dir)
        return NULL;
      for (; *p && *p != '&' && *p != '#'; p++) {
        unsigned char c;

        if (*p == '%' && isxdigit ((unsigned char)p[1])
            && sscanf (p + 1, "%2hhx", &c) == 1
            && isxdigit ((unsigned char)p[2])) {
          *w++ = (char)c;
          p += 2;
        }
        else
          *w++ = *p;
      }
      *w = '\0';
      return asprintf (&path, "%s/ca-cert.pem", dir) == -1 ? NULL : path;
    }
  while ((p = strchr (p, '&')));
  return NULL;
}

/* The API. */

int
source_pool_start (unsigned nr_threads)
{
  LOCK_SCOPE (&process.lock);
  if (!process.pool && !(process.pool = io_pool_new (nr_threads)))
    return -1;
  process.users++;
  return 0;
}

void
source_pool_stop (void)
{
  LOCK_SCOPE (&process.lock);
  if (process.users == 0 || --process.users > 0)
    return;
  io_pool_free (process.pool);
  process.pool = NULL;
}

struct source *
source_new (const struct source_config *config)
{
  struct source *src;
  bool needs_rights = false; /* TCP without keys asks nobody who he is */

  if (!config->uri == !config->argv) {
    errno = EINVAL;
    return NULL;
  }
  src = calloc (1, sizeof *src);
  if (!src)
    return NULL;
  src->timeout = config->timeout ? config->timeout : DEFAULT_TIMEOUT;
  src->silence = (unsigned)min_u64 (max_u64 (src->timeout / 3, 200), 10000);
  src->refused_retry
      = config->refused_retry ? config->refused_retry : REFUSED_RETRY;
  src->identity_mode = config->identity_mode;
  src->state_changed = config->state_changed;
  src->opaque = config->opaque;
  src->state = SOURCE_CONNECTING;
  src->nr_conns
      = (unsigned)min_u64 (max_u64 (config->connections, 1), MAX_CONNECTIONS);
  if (config->uri) {
    src->uri = strdup (config->uri);
    src->name = strdup (config->uri);
    src->ca_file = ca_file_of (config->uri);
    needs_rights = config->has_user && strncmp (config->uri, "nbd://", 6) != 0;
    if (needs_rights)
      src->rights = trust_rights_of (config->user);
  }
  else {
    src->command
        = command_new (config->argv, config->socket_dir, config->command_dir);
    src->name = src->command ? strdup (src->command->name) : NULL;
  }
  if (src->uri && local_is_path (src->uri)) {
    src->local = local_new (src, src->nr_conns);
    src->nr_conns = 0;
  }
  if (!src->name || (!src->uri && !src->command)
      || (needs_rights && !src->rights)
      || (src->nr_conns == 0 && !src->local)) {
    int err = errno;

    local_free (src->local);

    trust_rights_free (src->rights);
    command_free (src->command);
    free (src->ca_file);
    free (src->uri);
    free (src->name);
    free (src);
    errno = err;
    return NULL;
  }
  lock_init (&src->lock, LOCK_SOURCE);
  cond_init (&src->changed);
  for (unsigned i = 0; i < NR_PRIOS; i++)
    TAILQ_INIT (&src->waiting[i]);
  for (unsigned i = 0; i < src->nr_conns; i++)
    conn_init (&src->conn[i], src, i);
  return src;
}

static int
start_on (struct source *src, struct io_pool *pool, unsigned serial,
          const struct source_identity *expect)
{
  for (unsigned i = 0; i < src->nr_conns; i++)
    src->conn[i].task.thread
        = &pool->thread[i == 0 || pool->nr == 1
                            ? 0
                            : 1 + (serial + i - 1) % (pool->nr - 1)];
  {
    LOCK_SCOPE (&src->lock);
    if (src->started || src->stopping)
      return 0;
    if (expect) {
      src->identity = *expect;
      src->known = true;
    }
    src->started = true;
    if (!src->local)
      io_task_kick (&src->conn[0].task);
  }
  return src->local ? local_start (src->local) : 0;
}

int
source_start (struct source *src, const struct source_identity *expect)
{
  struct io_pool *pool;
  unsigned serial;

  {
    LOCK_SCOPE (&process.lock);
    pool = process.pool;
    serial = process.serial++;
  }
  if (!pool) {
    errno = EINVAL;
    return -1;
  }
  return start_on (src, pool, serial, expect);
}

bool
source_has_background (struct source *src)
{
  LOCK_SCOPE (&src->lock);

  return src->local || (src->multi_conn && src->nr_conns > 1);
}

void
source_submit (struct source *src, struct source_req *req)
{
  uint64_t now = now_ms ();
  bool stopping;

  {
    LOCK_SCOPE (&src->lock);

    stopping = src->stopping;
    if (!stopping) {
      req->extents = NULL;
      req->nr_extents = 0;
      req->answer = NULL;
      req->answer_size = 0;
      req->bounce = NULL;
      req->pieces = NULL;
      req->nr_pieces = 0;
      req->at = req->offset;
      req->asked_again = false;
      req->internal = false;
      req->queue = req->prio;
      req->state = REQ_WAITING;
      if (req->early)
        req_append_early (&src->waiting[req->queue], req);
      else
        TAILQ_INSERT_TAIL (&src->waiting[req->queue], req, link);
      if (req->deadline
          && (!src->next_deadline || req->deadline < src->next_deadline))
        src->next_deadline = req->deadline;
      if (req->queue == SOURCE_DEMAND) {
        atomic_fetch_add_explicit (&src->demand, 1, memory_order_relaxed);
        src->demand_at = now;
      }
      if (req->queue == SOURCE_BACKGROUND) {
        src->background_size
            = src->background_size ? (
                  uint32_t)(((uint64_t)src->background_size * 7 + req->length)
                            / 8)
                                   : req->length;
        if (!src->local)
          source_spread (src, now);
      }
      if (src->local)
        local_wake (src->local);
      /* The first connection also looks after deadlines and refusals. */
      else if (src->started
               && (req->queue != SOURCE_BACKGROUND || req->deadline
                   || src->state == SOURCE_REFUSED))
        io_task_kick (&src->conn[0].task);
    }
  }
  if (stopping) {
    req->extents = NULL;
    req->nr_extents = 0;
    req->done (req, ESHUTDOWN);
  }
}

bool
source_cancel (struct source *src, struct source_req *req)
{
  struct req_list list = TAILQ_HEAD_INITIALIZER (list);

  {
    LOCK_SCOPE (&src->lock);

    if (req->state == REQ_SENT)
      req->state = REQ_CANCELLED;
    if (req->state != REQ_WAITING)
      return false;
    TAILQ_REMOVE (&src->waiting[req->queue], req, link);
    req->state = REQ_IDLE;
    req->error = ECANCELED;
    TAILQ_INSERT_TAIL (&list, req, link);
    src->in_cancel++;
  }
  source_finish (src, &list);
  LOCK_SCOPE (&src->lock);
  src->in_cancel--;
  pthread_cond_broadcast (&src->changed);
  return true;
}

enum source_state
source_get_state (struct source *src)
{
  LOCK_SCOPE (&src->lock);
  return src->state;
}

void
source_get_reason (struct source *src, char *buf, size_t len)
{
  LOCK_SCOPE (&src->lock);
  snprintf (buf, len, "%s", src->reason);
}

bool
source_can_status (struct source *src)
{
  LOCK_SCOPE (&src->lock);
  return src->can_status;
}

unsigned
source_background_depth (struct source *src)
{
  LOCK_SCOPE (&src->lock);
  return src->local ? local_depth (src->local) : source_depth (src);
}

unsigned
source_demand_waiting (struct source *src)
{
  return atomic_load_explicit (&src->demand, memory_order_relaxed);
}

uint64_t
source_bytes_read (struct source *src)
{
  return atomic_load_explicit (&src->bytes_read, memory_order_relaxed);
}

void
source_stop (struct source *src)
{
  struct req_list list = TAILQ_HEAD_INITIALIZER (list);
  struct source_req *req;
  bool first;

  {
    LOCK_SCOPE (&src->lock);

    first = !src->stopping;
    src->stopping = true;
    src->state = SOURCE_NONE;
    src->reason[0] = '\0';
    for (unsigned i = 0; first && src->started && i < src->nr_conns; i++)
      io_task_kick (&src->conn[i].task);
    if (src->local)
      local_wake (src->local);
    /* Never started: there is no thread to do it. */
    for (unsigned i = 0; !src->started && i < NR_PRIOS; i++)
      while ((req = req_pop (&src->waiting[i]))) {
        req->state = REQ_IDLE;
        req->error = ESHUTDOWN;
        TAILQ_INSERT_TAIL (&list, req, link);
      }
  }
  source_finish (src, &list);
  {
    LOCK_SCOPE (&src->lock);
    while ((src->started && src->nr_ended < src->nr_conns)
           || (src->local && local_is_running (src->local))
           || src->in_cancel > 0)
      lock_wait (&src->changed, &src->lock);
  }
  if (first && src->command)
    command_stop (src->command);
}

void
source_free (struct source *src)
{
  if (!src)
    return;
  source_stop (src);
  nbd_close (src->kept);
  local_free (src->local);
  for (unsigned i = 0; i < src->nr_conns; i++)
    conn_free (&src->conn[i]);
  pthread_cond_destroy (&src->changed);
  lock_destroy (&src->lock);
  trust_rights_free (src->rights);
  command_free (src->command);
  free (src->ca_file);
  free (src->uri);
  free (src->name);
  free (src);
}

/* A handle with nothing under way on it. */
struct source_kept {
  struct nbd_handle *h;
};

void
source_kept_free (struct source_kept *kept)
{
  if (!kept)
    return;
  nbd_close (kept->h);
  free (kept);
}

void
source_keep (struct source *src, struct source_kept *kept)
{
  if (!kept)
    return;
  src->kept = kept->h;
  free (kept);
}

/* Wait for the first answer, or until then (ms). */
static int
await_identity (struct source *src, uint64_t until,
                struct source_identity *identity, char **error)
{
  LOCK_SCOPE (&src->lock);

  while (src->state == SOURCE_CONNECTING
         && lock_wait_ms (&src->changed, &src->lock, until))
    ;
  if (src->state == SOURCE_CONNECTED) {
    *identity = src->identity;
    return 0;
  }
  if (src->state == SOURCE_CONNECTING)
    message_set (error,
                 "backing store %s: no answer within %u.%u seconds; check "
                 "backing= and that the server runs",
                 src->name, src->timeout / 1000, src->timeout % 1000 / 100);
  else if (src->local)
    message_set (error, "cannot use backing store %s",
                 src->reason[0] ? src->reason : src->name);
  else
    message_set (error,
                 "cannot use backing store %s; check backing= and that the "
                 "server runs",
                 src->reason[0] ? src->reason : src->name);
  return -1;
}

/* The connection's thread gives the handle away when it is told to stop. */
static struct source_kept *
stop_and_keep (struct source *src)
{
  struct source_kept *kept = calloc (1, sizeof *kept);

  if (!kept)
    return NULL;
  source_stop (src);
  kept->h = src->kept;
  src->kept = NULL;
  if (kept->h)
    return kept;
  free (kept);
  return NULL;
}

static int
probe (const struct source_config *config, struct source_identity *identity,
       struct source_kept **kept, char **error)
{
  struct source_config copy = *config;
  struct source *src = NULL;
  struct io_pool *pool;
  uint64_t until;
  int r = -1;

  memset (identity, 0, sizeof *identity);
  copy.connections = 1;
  copy.state_changed = NULL;
  /* A thread of its own: it, and all that it held, is gone on return. */
  pool = io_pool_new (1);
  if (!pool || !(src = source_new (&copy))) {
    message_set (error, "backing store %s: %m",
                 config->uri ? config->uri : "command");
    goto out;
  }
  src->probing = true;
  src->keeping = kept && !src->command && !src->local;
  src->conn[0].attempt_time = src->timeout;
  src->conn[0].patience = src->timeout;
  until = now_ms () + src->timeout;
  if (start_on (src, pool, 0, NULL) == -1)
    message_set (error, "backing store %s: %m", src->name);
  else
    r = await_identity (src, until, identity, error);
out:
  if (r == 0 && src->keeping)
    *kept = stop_and_keep (src);
  source_free (src);
  io_pool_free (pool);
  return r;
}

int
source_probe (const struct source_config *config,
              struct source_identity *identity, char **error)
{
  return probe (config, identity, NULL, error);
}

int
source_probe_keep (const struct source_config *config,
                   struct source_identity *identity, struct source_kept **kept,
                   char **error)
{
  *kept = NULL;
  return probe (config, identity, kept, error);
}
