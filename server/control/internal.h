/* internal.h - what the files of the control socket share.
 *
 * listener.c  the socket's file, and accepting clients
 * control.c   the loop thread, its inbox, start and end
 * pool.c      threads that run commands
 * client.c    one client: reading, answering, limits
 * event.c     the engine's events into the inbox
 * call.c      a command's message, from its first check to its answer
 * table.c     the commands (command.h); query.c, command.c and map-page.c run
 *             them (handlers.h), with args.h for what a client gave, target.h
 *             for the disk, object.h for what it gets
 *
 * One thread, the loop's, owns all clients: nothing about them is locked.
 * Other threads only put items in the inbox (answers, events) and take
 * requests from a pool.  Locks: each pool's, and in it control's `lock`
 * (lock-ranks.h); neither is held while a command runs.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CONTROL_INTERNAL_H
#define BACKFILL_CONTROL_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>
#include <sys/types.h>

#include <ev.h>

#include "command.h"
#include "control.h"
#include "lock.h"
#include "wire.h"

#define MAX_CLIENTS 4096u
#define MAX_EVENTS (1u << 20)    /* bytes that a client has not read */
#define MAX_INBOX (4u << 20)     /* bytes of events not yet queued */
#define MAX_REPLIES (64u << 10)  /* no next command while more is unread */
#define MAX_BATCH 16             /* commands at once, then others' turn */
#define MAX_HELD (256u << 20)    /* bytes held for all clients together */
#define MAX_HELD_ONE (64u << 10) /* for one, when that is reached */
#define MAX_THREADS 64u          /* of a pool */
/* Of clients, memory and threads: what another user than root and our own may
 * have, and what all of those users have together. */
#define SHARE_ONE(all) ((all) >= 4 ? (all) / 4 : 1)
#define SHARE_OTHERS(all) ((all) >= 4 ? (all) / 4 * 3 : 1)
#define TRIM_BYTES (16u << 20) /* given back to the system when freed */
#define MAX_INLINE (16u << 10) /* longer messages are not parsed here */
#define HALF_TIMEOUT 30.0      /* s, if not configured: half a message */
#define GRACE 0.25             /* s: to negotiate, when there are too many */
#define OUTPUT_TIMEOUT 30.0    /* s, if not configured: nothing is read */
#define STOP_TIMEOUT 5         /* s: for the commands that run */

struct client;
TAILQ_HEAD (clients, client);
struct request;

/* What other threads tell the loop, in order. */
struct item {
  STAILQ_ENTRY (item) entry;
  struct request *request; /* that the item is part of, done; or NULL: */
  char *text;              /* an event's line */
  size_t len;
  uid_t owner; /* of the store that the event is about */
};
STAILQ_HEAD (items, item);

/* A command, or a message still to be parsed, on its way through a pool. */
struct request {
  struct item item; /* so that giving the request back needs no memory */
  TAILQ_ENTRY (request) entry; /* in a list of its pool */
  struct client *client;       /* the loop's; not to be looked into */
  struct call call;
  bool parsing; /* not a command yet: text is to be parsed */
  char *text;
  size_t text_len;
  char *answer; /* a line, NULL on ENOMEM */
  size_t answer_len;
};
TAILQ_HEAD (requests, request);

struct pool {
  struct control *control;
  struct lock lock; /* guards from here */
  pthread_cond_t cond;
  struct requests queued;
  struct requests waiting; /* EINPROGRESS: until a kick */
  struct requests running; /* by the threads */
  uint64_t kicks;
  bool stop;
  unsigned nr_queued, nr_threads, nr_idle, nr_new, max_threads;
  pthread_t threads[MAX_THREADS];
};

/* A user who has clients. */
struct user {
  LIST_ENTRY (user) entry;
  uid_t uid;
  unsigned nr_clients; /* those that wait for their command's end, too */
  size_t held;
};

struct control {
  char *path, *program, *process;
  struct control_config config;

  /* The socket's file, so that only our own is taken away. */
  int fd;
  dev_t dev;
  ino_t ino;

  struct lock lock;     /* guards from here ... */
  pthread_cond_t ended; /* a thread has ended */
  struct items inbox;
  size_t event_bytes;     /* in inbox */
  bool overflow;          /* an event was lost */
  bool running;           /* the loop is */
  bool listed;            /* the file is there */
  bool unlisten, finish;  /* what the loop is told */
  unsigned nr_alive;      /* threads of the pools */
  unsigned nr_negotiated; /* ... to here */
  struct lock stop_lock;  /* one stop at a time */
  bool started, stopped;  /* stop_lock */
  bool abandoned;         /* stop_lock: a command still runs */

  struct pool pools[NR_POOLS];
  pthread_t thread;

  /* The loop's own. */
  struct ev_loop *loop;
  ev_io accept_io;
  ev_timer accept_timer, sweep_timer;
  int standing; /* a client that was accepted and has no room yet; or -1 */
  ev_async async;
  ev_prepare bury_prepare;
  struct clients clients; /* oldest first */
  struct clients gone;    /* closed, but a pool has their request */
  struct clients dead;    /* to be freed when nothing is on the stack */
  unsigned nr_clients, max_clients;
  LIST_HEAD (users, user) users;
  uint64_t serial;
  size_t held; /* bytes in all clients */
  size_t peak; /* of held, since memory was last given back */
};

/* listener.c: on the loop, but listener_limit, which comes before it. */
void listener_limit (struct control *c);
void listener_start (struct control *c);
void listener_stop (struct control *c);
/* Any thread: take the socket's file away if it is ours. */
void listener_unlink (struct control *c);

/* control.c */
/* Any thread.  False: the loop is not running, and the item is the caller's. */
bool inbox_put (struct control *c, struct item *item);
bool inbox_is_empty (struct control *c);

/* pool.c */
void pool_init (struct pool *pool);
void pool_destroy (struct pool *pool);
/* Make nr_threads at once, and more when all are busy, up to max_threads. */
int pool_start (struct pool *pool, struct control *c, unsigned nr_threads,
                unsigned max_threads);
/* False: the pool is being stopped, and the request is the caller's. */
bool pool_put (struct pool *pool, struct request *request);
/* Run the waiting requests again. */
void pool_kick (struct pool *pool);
/* Tell the threads to end after their present request, and forget the others.
 */
void pool_stop (struct pool *pool);

/* client.c: on the loop. */
void clients_init (struct control *c);
void client_new (struct control *c, int fd);
/* May this user have one more client?  If not, an idle client of his is closed
 * for it. */
bool clients_has_room (struct control *c, uid_t uid);
bool control_is_ours (uid_t uid);
void client_close (struct client *s, const char *why);
/* A pool has done with a request of the client. */
void client_done (struct request *request);
/* Queue an event for all clients that may see it; text is taken over. */
void clients_events (struct control *c, char *text, size_t len, uid_t owner);
/* Close a client to make room.  negotiated false: the oldest of those that did
 * not negotiate, if it had time to; true: of those that did the one that has
 * been silent longest.  False: there is none. */
bool clients_evict (struct control *c, bool negotiated);
void clients_sweep (struct control *c);
/* Close all clients that negotiated. */
void clients_drop (struct control *c, const char *why);
/* Send what can be sent without waiting, and close all clients. */
void clients_end (struct control *c);
void request_free (struct request *request);

#endif
