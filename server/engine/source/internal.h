/* source/internal.h - what the files of the source share.
 *
 *   source.c           the API: queues, states, start and stop
 *   pool.c             the I/O threads
 *   conn.c             one connection: its life, and the requests on it
 *   identity.c         what makes the identity, and its check
 *   command.c          the command of the bracket form
 *   resolve.c          host names, looked up without blocking a thread
 *
 * Ownership: a struct source_conn belongs to one I/O thread from source_start
 * to source_stop; only that thread touches its handle, watchers and lists.
 * What other threads look at (the queues, the state, the counts of what is in
 * flight, a request's state) is under src->lock.  The first connection
 * belongs to the pool's first thread, and is the only one that changes the
 * source's state or starts its command, so both have one order.
 *
 * Lock order: src->lock, then io_thread.lock.  Both are leaves for everybody
 * else: no callback is made with one held.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_INTERNAL_H
#define BACKFILL_SOURCE_INTERNAL_H

#include <ev.h>
#include <inttypes.h>
#include <libnbd.h>
#include <netdb.h>
#include <pthread.h>
#include <sys/types.h>
#include <time.h>

#include "source/source.h"

#define MAX_CONNECTIONS 16
#define DEFAULT_TIMEOUT 30000
#define REFUSED_RETRY 1000
#define NR_PRIOS 3

/* In flight on one connection.  A server of nbdkit's kind works on 16
 * requests of a connection at a time. */
#define DEMAND_CAP 16
#define AHEAD_CAP 8
#define AHEAD_BYTES (4u << 20)
#define BACKGROUND_CAP 16
#define BACKGROUND_ALWAYS 8 /* whatever their size */
#define BACKGROUND_BYTES (4u << 20)
/* The same on a connection that carries demand, too. */
#define SHARED_CAP 4
#define SHARED_BYTES (2u << 20)

#define SAMPLES 16
#define SAMPLE_SIZE 4096

/* Values of source_req.state; a zeroed request is idle. */
enum { REQ_IDLE, REQ_WAITING, REQ_SENT, REQ_CANCELLED /* sent */ };

struct source_piece {
  uint64_t start, end;
};

struct req_list {
  struct source_req *head, *tail;
};

void req_append (struct req_list *list, struct source_req *req);
void req_prepend (struct req_list *list, struct source_req *req);
void req_remove (struct req_list *list, struct source_req *req);
struct source_req *req_pop (struct req_list *list);
/* Free what it holds for the answer to a read. */
void req_clear (struct source_req *req);

/* pool.c */

struct io_thread {
  pthread_t tid;
  bool background; /* has no connection that carries demand */
  struct ev_loop *loop;
  ev_async wake;
  ev_prepare before_sleep;
  pthread_mutex_t lock;
  /* under lock: connections that have something to look at */
  struct source_conn *kicked, **kicked_end;
  bool quit;

  /* the thread's own */
  struct lingering *lingering;
  unsigned nr_lingering;
  bool quitting;
  ev_timer last_wait;
};

struct io_pool {
  unsigned nr;
  struct io_thread thread[];
};

struct io_pool *io_pool_new (unsigned nr_threads);
void io_pool_free (struct io_pool *pool);
/* On that thread: take over a socket whose handle is closed, and close it
 * once the server has sent what it still had to answer. */
void io_thread_linger (struct io_thread *t, int fd);

/* conn.c */

enum conn_state {
  CONN_CLOSED, /* or waiting to be opened again */
  CONN_RESOLVING,
  CONN_CONNECTING, /* and negotiating */
  CONN_VERIFYING,
  CONN_UP,
};

struct verify;

struct source_conn {
  struct source *src;
  unsigned index; /* 0: the demand connection */
  struct io_thread *thread;

  /* under thread->lock */
  struct source_conn *next_kicked;
  bool kicked, stopped;

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

void conn_init (struct source_conn *c, struct source *src, unsigned index);
void conn_free (struct source_conn *c);
/* Make its thread look at it.  Any thread; may be called with src->lock. */
void conn_kick (struct source_conn *c);
/* On its thread: it has been kicked for the last time.  It may have been
 * again since its thread took it to look at it. */
void conn_unkick (struct source_conn *c);
/* On its thread: it was kicked. */
void conn_look (struct source_conn *c);

/* Send it, or the next part of it. */
void conn_send (struct source_conn *c, struct source_req *req, uint64_t now);

/* identity.c */

/* Ask for the samples of a source of that size.  False: out of memory. */
bool verify_begin (struct source_conn *c, uint64_t size, uint64_t now);
bool verify_is_answered (const struct source_conn *c);
/* Once answered: 0 if it is the source we know; EAGAIN if that could not be
 * told, or EPERM if it is not, with c->why. */
int verify_result (struct source_conn *c);
void verify_free (struct source_conn *c);

/* command.c */

struct command {
  char **argv;
  char *name;        /* for messages */
  char *dir;         /* where it runs; NULL: / */
  char *socket_path; /* NULL: over its stdin and stdout */
  pid_t pid;         /* 0: not running */
  bool started;      /* at least once */
  bool gone;         /* it has ended by itself, and nobody was told */
  int status;        /* then: as waitpid gave it */
  struct ev_loop *loop;
  ev_timer look; /* for processes that have ended */
  /* What it says. */
  ev_io says;
  char line[512];
  size_t len;
  char last[160]; /* its last line */
  /* ended, but not yet waited for */
  struct {
    pid_t pid;
    uint64_t kill_at;
  } ended[8];
};

struct command *command_new (const char *const *argv, const char *socket_dir,
                             const char *dir);
/* Its process must have been stopped. */
void command_free (struct command *cmd);
bool command_is_single (const struct command *cmd);
/* A connected socket, or -1 with a message in why.  start: run the command if
 * it does not run, with loop, that of the thread, to look after it. */
int command_connect (struct command *cmd, struct ev_loop *loop, bool start,
                     char *why, size_t len);
/* On that thread: look after it no more. */
void command_unwatch (struct command *cmd);
/* Did the process end just now, by itself?  Then why says how. */
bool command_ended (struct command *cmd, char *why, size_t len);
/* Let the running process go: it hangs, or serves nobody any more. */
void command_end (struct command *cmd, bool hangs);
/* End it all, within 800 ms. */
void command_stop (struct command *cmd);

/* resolve.c */

/* A look-up of the URI's host name, or NULL where none is needed. */
struct resolve *resolve_begin (const char *uri);
/* EINPROGRESS, 0 once there is an answer, else a message in why. */
int resolve_poll (struct resolve *r, char *why, size_t len);
void resolve_end (struct resolve *r);

/* source.c */

struct source {
  char *name; /* the URI or the command, for messages */
  char *uri;
  char *ca_file; /* NULL: the URI names no folder of certificates */
  struct command *command;
  unsigned timeout, silence, refused_retry;
  enum source_identity_mode identity_mode;
  void (*state_changed) (void *opaque, enum source_state state,
                         const char *why);
  void *opaque;
  bool probing; /* for source_probe: one attempt, with all the time */
  bool keeping; /* the first connection is to outlive its thread */
  /* That handle; or one from before the start, for the first connection. */
  struct nbd_handle *kept;

  pthread_mutex_t lock;
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

  unsigned demand;     /* atomic */
  uint64_t bytes_read; /* atomic */

  unsigned nr_conns;
  struct source_conn conn[MAX_CONNECTIONS];
};

static inline uint64_t
now_in_ms (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* All that follow: src->lock is held. */

/* The next request that c should send, unlinked; or NULL. */
struct source_req *source_next (struct source *src, struct source_conn *c,
                                uint64_t now);
/* Wake or open what can work on the background requests that wait. */
void source_spread (struct source *src, uint64_t now);
/* Take the requests off the queues whose deadline passed. */
void source_expire (struct source *src, struct req_list *expired, uint64_t now);

/* No lock is held: call done for each, with its error. */
void source_finish (struct source *src, struct req_list *list);
/* On the first thread only, no lock held. */
void source_set_state (struct source *src, enum source_state state,
                       const char *why);

#endif
