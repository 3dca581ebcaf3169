/* source/internal.h - what the files of the source share.
 *
 * From the top down; each includes only headers of those below it:
 *
 *   source.c           the API: start, submit, cancel, stop
 *   conn.c             one connection's events
 *   handshake.c        how it is made, until it carries requests
 *   lost.c             how it ends
 *   read.c             the requests on its handle
 *   local.c            a file of this host: its threads, instead of all these
 *   queue.c            the requests that wait, and who may have them
 *   identity.c         the samples that make the identity, and their check
 *   command.c          the command of the bracket form
 *   resolve.c          host names, looked up without blocking a thread
 *   pool.c             the I/O threads
 *
 * Ownership: a struct source_conn belongs to one I/O thread from source_start
 * to source_stop; only that thread touches its handle, watchers and lists.
 * What other threads look at (the queues, the state, the counts of what is in
 * flight, a request's state) is under src->lock.  The first connection
 * belongs to the pool's first thread, and is the only one that changes the
 * source's state or starts its command, so both have one order.
 *
 * Lock order: common/lock-ranks.h.  No callback is made with src->lock or
 * io_thread.lock held.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_INTERNAL_H
#define BACKFILL_SOURCE_INTERNAL_H

#include <ev.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "clock.h"
#include "lock.h"
#include "source/pool.h"
#include "source/source.h"
#include "trust.h"

#define MAX_CONNECTIONS 16
#define NR_PRIOS 3

/* Values of source_req.state; a zeroed request is idle. */
enum { REQ_IDLE, REQ_WAITING, REQ_SENT, REQ_CANCELLED /* sent */ };

struct source_piece {
  uint64_t start, end;
};

TAILQ_HEAD (req_list, source_req);

#define BACKOFF_MIN 50 /* ms, of the attempts to connect */

enum conn_state {
  CONN_CLOSED, /* or waiting to be opened again */
  CONN_RESOLVING,
  CONN_CONNECTING, /* and negotiating */
  CONN_VERIFYING,
  CONN_UP,
};

struct verify;
struct resolve;
struct local;

struct source_conn {
  struct source *src;
  unsigned index; /* 0: the demand connection */
  struct io_task task;

  /* under src->lock; written by the thread */
  enum conn_state state;
  unsigned nr_sent[NR_PRIOS];
  uint64_t bytes_sent[NR_PRIOS];
  bool want_open;  /* a background connection that is asked for */
  bool want_probe; /* is the server still there? */

  /* the thread's own */
  struct nbd_handle *h;
  ev_io io;
  ev_timer timer;
  uint64_t timer_at;
  struct req_list sent, answered;
  struct req_list finished; /* done is still to be called, with error */
  struct verify *verify;
  struct resolve *resolve;
  bool dead;    /* the handle can do no more */
  bool closing; /* nbd_close runs */
  bool muted;   /* TLS has something to read that is no answer */
  bool adopted; /* the handle is one that was kept */
  bool can_status;
  uint64_t block_min, block_max;
  uint64_t progress_at;  /* last sign of life, while something is sent */
  uint64_t patience;     /* silence that ends the connection */
  uint64_t opened_at;    /* this attempt */
  uint64_t attempt_time; /* how long it may take */
  uint64_t give_up_at;   /* or at least: look at it again */
  uint64_t retry_at;
  uint64_t backoff;
  uint64_t next_deadline; /* no later than the first of those sent; 0 none */
  struct source_req probe;
  char *probe_buf;
  char why[400];
};

struct source {
  char *name; /* the URI or the command, for messages */
  char *uri;
  char *ca_file; /* NULL: the URI names no folder of certificates */
  struct trust_rights *rights; /* to connect with; NULL: our own */
  struct command *command;
  struct local *local; /* a file of this host; then there are no connections */
  unsigned timeout, silence, refused_retry;
  enum source_identity_mode identity_mode;
  void (*state_changed) (void *opaque, enum source_state state,
                         const char *why);
  void *opaque;
  bool probing; /* for source_probe: one attempt, with all the time */
  bool keeping; /* the first connection is to outlive its thread */
  /* That handle; or one from before the start, for the first connection. */
  struct nbd_handle *kept;

  struct lock lock;
  pthread_cond_t changed;
  bool started, stopping;
  unsigned nr_stopped, nr_ended; /* connections */
  unsigned in_cancel;            /* callbacks that source_cancel is making */
  enum source_state state;
  char reason[800];
  bool known; /* identity is what to expect */
  bool can_status, multi_conn;
  struct source_identity identity;
  struct req_list waiting[NR_PRIOS];
  uint64_t next_deadline; /* no later than the first of those waiting */
  uint64_t demand_at;     /* last demand request, ms */
  uint64_t refused_until; /* no further connection is tried before */
  uint64_t refused_backoff;
  uint32_t background_size; /* of late */

  _Atomic unsigned demand;
  _Atomic uint64_t bytes_read;

  unsigned nr_conns;
  struct source_conn conn[MAX_CONNECTIONS];
};

#endif
