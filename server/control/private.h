/* private.h - what the files of the control socket share.
 *
 * listener.c  the socket's file, and accepting clients
 * control.c   the loop thread, its inbox, start and end
 * pool.c      threads that run commands
 * session.c   one client: reading, answering, limits
 * event.c     the engine's events into the inbox
 * command.c, object.c   see command.h
 *
 * One thread, the loop's, owns all sessions: nothing about them is locked.
 * Other threads only put items in the inbox (answers, events) and take
 * requests from a pool.  Locks: `lock` and each pool's; neither is held while
 * anything else is locked or called.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CONTROL_PRIVATE_H
#define BACKFILL_CONTROL_PRIVATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <ev.h>

#include "command.h"
#include "control.h"
#include "wire.h"

#define MAX_SESSIONS   4096u
#define MAX_EVENTS     (1u << 20)   /* bytes that a client has not read */
#define MAX_HELD       (256u << 20) /* bytes held for all clients together */
#define MAX_HELD_ONE   (64u << 10)  /* for one, when that is reached */
#define MAX_INLINE     (16u << 10)  /* longer messages are not parsed here */
#define HALF_TIMEOUT   30.0         /* s: half a message, or no negotiation */
#define OUTPUT_TIMEOUT 30.0         /* s: an answer is not being read */
#define STOP_TIMEOUT   5            /* s: for the commands that run */

struct line; /* bytes to send */
struct session;

/* A command, or a message still to be parsed, on its way through a pool. */
struct request {
  struct request *next;
  struct session *session; /* the loop's; not to be looked into */
  struct call call;
  char *text; /* not parsed yet */
  size_t text_len;
  char *answer; /* a line, NULL on ENOMEM */
  size_t answer_len;
};

/* What other threads tell the loop, in order. */
struct item {
  struct item *next;
  struct request *request; /* done with, or NULL: an event */
  char *text;              /* the event's line */
  size_t len;
};

struct pool {
  struct control *control;
  pthread_mutex_t lock; /* guards first, tail, stop */
  pthread_cond_t cond;
  struct request *first, **tail;
  bool stop;
  unsigned nr_threads;
  pthread_t threads[4];
};

struct control {
  char *path, *program;
  struct control_config config;

  /* The socket's file, so that only our own is taken away. */
  int fd;
  dev_t dev;
  ino_t ino;

  pthread_mutex_t lock; /* guards from here ... */
  pthread_cond_t ended; /* a thread has ended */
  struct item *first, **tail;
  size_t event_bytes;
  bool overflow;         /* an event was lost */
  bool started, listed;  /* the file is there */
  bool unlisten, finish; /* what the loop is told */
  unsigned nr_alive;     /* threads of the pools */
  unsigned nr_negotiated;
  int stop_result; /* ... to here */
  pthread_mutex_t stop_lock; /* one stop at a time; taken before lock */
  bool stopped;

  struct pool pools[NR_POOLS];
  pthread_t thread;
  pid_t pid; /* that started the threads */

  /* The loop's own. */
  struct ev_loop *loop;
  ev_io accept_io;
  ev_timer accept_timer, sweep_timer;
  ev_async async;
  struct session *sessions, **last_session; /* oldest first */
  unsigned nr_sessions, max_sessions;
  size_t held; /* bytes in all sessions */
};

/* listener.c: on the loop. */
void listener_start (struct control *c);
void listener_stop (struct control *c);

/* control.c */
/* Any thread.  False: it is not running, and the item is the caller's. */
bool inbox_put (struct control *c, struct item *item);

/* pool.c */
int pool_start (struct pool *pool, struct control *c, unsigned nr_threads);
void pool_put (struct pool *pool, struct request *request);
/* Tell the threads to end after what they do now; requests that did not
 * begin are given to drop. */
void pool_stop (struct pool *pool, void (*drop) (struct request *request));
void pool_free (struct pool *pool);

/* session.c: on the loop. */
void session_new (struct control *c, int fd);
void session_close (struct session *s);
void session_done (struct session *s, struct request *request);
void session_sweep (struct control *c);
/* Close the one that will be missed least; false if there is none. */
bool session_evict (struct control *c, bool negotiated);
/* Take an event over and queue it for all; -1 on ENOMEM. */
int session_events (struct control *c, char *text, size_t len);
void session_flush_all (struct control *c);
void request_free (struct request *request);

#endif
