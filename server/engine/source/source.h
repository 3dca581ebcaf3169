/* source.h - the backing store: a pool of NBD connections that reads.
 *
 * A struct source is one backing store of one disk, addressed by NBD URI,
 * by a command that is run over socket activation, or by the absolute path of a
 * raw file or block device of this host (source/local.h).  It is only ever read
 * (G31).  Requests go in from any thread and complete on an I/O thread.
 *
 * Shapes: offsets and lengths are bytes; times are milliseconds.
 *
 * Threads: a fixed process-wide pool of I/O threads, each a libev loop that
 * owns libnbd handles of any sources.  source_pool_start makes them, after
 * the fork; they block all signals.  The first thread owns the connections
 * for demand, the others those for background, so that a guest's read never
 * queues behind background data in a socket.
 *
 * Locking: lock order: common/lock-ranks.h.  source.c makes no callback with
 * a lock of its own held, and a callback may take any engine lock.  A callback
 * must not block on I/O.
 *
 * Errors: errno values, positive; 0 is success.  Every failure of the remote
 * is EIO, except ESHUTDOWN (the source was stopped), ECANCELED (see
 * source_cancel) and ETIMEDOUT (a request's own deadline passed).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_H
#define BACKFILL_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

struct source;

/* Longest single request: servers may refuse more (qemu-nbd drops the
 * connection over 32 MiB), and a short one lets demand overtake. */
#define SOURCE_MAX_REQUEST (UINT32_C (2) << 20)

#define SOURCE_DIGEST_SIZE 32

enum source_prio {
  SOURCE_DEMAND,     /* a guest waits */
  SOURCE_AHEAD,      /* near demand, nobody waits: after all demand */
  SOURCE_BACKGROUND, /* a job's */
};

enum source_state {
  SOURCE_NONE,       /* no backing store */
  SOURCE_CONNECTING, /* first connection under way, nothing known yet */
  SOURCE_CONNECTED,
  SOURCE_LOST,    /* connections died or hang; being made again */
  SOURCE_REFUSED, /* answers, but is not the source we know (I9) */
};

/* What makes a backing store the one we know (I9). */
enum source_identity_mode {
  SOURCE_IDENTITY_CONTENT, /* size and digest of 16 samples of 4 KiB */
  SOURCE_IDENTITY_SIZE,    /* size only: a source that changes */
};
struct source_identity {
  uint64_t size;
  uint8_t digest[SOURCE_DIGEST_SIZE]; /* all zero: none taken */
};

struct source_config {
  const char *uri;         /* NBD URI, absolute path, or NULL */
  const char *const *argv; /* bracket form: command, NULL-ended; or NULL */
  const char *socket_dir;  /* where the command's socket may be made */
  const char *command_dir; /* where it runs; NULL: / */
  unsigned connections;    /* most connections (of a file: readers), 1..16 */
  unsigned timeout;        /* ms until a silent server counts as lost */
  unsigned refused_retry;  /* ms until a refused server is asked again; 0 is
                              a second */
  enum source_identity_mode identity_mode;
  /* Another user has named the URI: it is reached with his rights alone. */
  bool has_user;
  uid_t user;
  /* Called from an I/O thread at each change of state, no lock held. */
  void (*state_changed) (void *opaque, enum source_state state,
                         const char *why);
  void *opaque;
};

/* One extent of block status: flags are LIBNBD_STATE_HOLE (1) and
 * LIBNBD_STATE_ZERO (2). */
struct source_extent {
  uint64_t length;
  uint32_t flags;
};

/* One request, zeroed before its first use.  The caller owns it and keeps it,
 * and buf, in place until done was called, which happens exactly once for each
 * accepted request. The caller sets the first block of members; the second is
 * source.c's. */
struct source_req {
  uint64_t offset;
  uint32_t length; /* read: 1..SOURCE_MAX_REQUEST; status: any */
  enum source_prio prio;
  uint64_t deadline; /* ms on CLOCK_MONOTONIC, 0 = none: a request
                        that was not answered by then ends with
                        ETIMEDOUT (a lost source replays until then) */
  bool early;        /* of the background: before all that is not */
  void *buf;         /* read: length bytes; NULL asks block status */
  void (*done) (struct source_req *req, int error);
  void *opaque;

  /* Block status answer, valid during done when error is 0: ascending from
   * offset, cut to [offset, offset+length), at least one entry. */
  const struct source_extent *extents;
  size_t nr_extents;

  /* private to source*.c */
  TAILQ_ENTRY (source_req) link;
  struct source_conn *conn; /* where it was sent */
  int state, error;
  bool internal;          /* not asked for by anybody outside */
  bool asked_again;       /* as the first answer was none */
  enum source_prio queue; /* prio, as it was when it was submitted */
  uint64_t sent_at;
  uint64_t at, part_end;       /* read: the part now asked for */
  uint64_t cmd_start, cmd_end; /* the same, on the server's block bounds */
  uint64_t seen, received;     /* end of what came in order; bytes in all */
  struct source_piece *pieces; /* what came after that, in any order */
  size_t nr_pieces;
  char *bounce; /* where it is not buf that is read into */
  struct source_extent *answer;
  size_t answer_size;
};

/* Has src connections that carry no demand, or may src open some? */
bool source_has_background (struct source *src) __attribute__ ((nonnull (1)));

/* Blocking, before any thread exists: connect, ask size and identity, close.
 * identity->digest is left zero when mode is SOURCE_IDENTITY_SIZE.  Returns 0,
 * or -1 with *error a malloc'd message that names the URI or command. */
int source_probe (const struct source_config *config,
                  struct source_identity *identity, char **error)
    __attribute__ ((nonnull (1, 2, 3)));

/* The same, but the connection is left open: *kept, for source_keep, or NULL if
 * there is none to keep (a command's is not: it is run again).  A server may
 * serve one client, once.  It has no thread, so it may cross a fork; on the
 * other side nothing is to be done about it. */
struct source_kept;
int source_probe_keep (const struct source_config *config,
                       struct source_identity *identity,
                       struct source_kept **kept, char **error)
    __attribute__ ((nonnull (1, 2, 3, 4)));
void source_kept_free (struct source_kept *kept); /* NULL is fine */

/* The pool.  nr_threads 0: two.  Returns 0 or -1 (errno). */
int source_pool_start (unsigned nr_threads);
void source_pool_stop (void);

/* Make a source.  Nothing is connected until source_start, which needs the
 * pool.  Strings are copied.  NULL with errno on failure. */
struct source *source_new (const struct source_config *config)
    __attribute__ ((nonnull (1)));

/* Before source_start: its first connection, which is taken over; NULL: none.
 * One that is dead by then is replaced, as any that is lost, without a word. */
void source_keep (struct source *src, struct source_kept *kept)
    __attribute__ ((nonnull (1)));

/* Connect, in the background.  expect NULL: take the first connection's
 * identity as true.  Otherwise a server of another size (or content) is
 * refused: SOURCE_REFUSED, requests end with EIO, and it is tried again. */
int source_start (struct source *src, const struct source_identity *expect)
    __attribute__ ((nonnull (1)));

/* Submit req, from any thread.  Never blocks.  done may run before this
 * returns. A request for which no connection is up waits until its deadline; a
 * connection's death replays what was in flight. */
void source_submit (struct source *src, struct source_req *req)
    __attribute__ ((nonnull (1, 2)));

/* Give up a request: if it was not sent yet, done is called with ECANCELED
 * before this returns.  Otherwise it runs on: done comes when the answer,
 * the connection's end or the stop does.  Returns true if it was dropped. */
bool source_cancel (struct source *src, struct source_req *req)
    __attribute__ ((nonnull (1, 2)));

enum source_state source_get_state (struct source *src)
    __attribute__ ((nonnull (1)));

/* Why the state is not connected: copied to buf, "" if there is no reason. */
void source_get_reason (struct source *src, char *buf, size_t len)
    __attribute__ ((nonnull (1, 2)));

/* True once connected if the server gives block status. */
bool source_can_status (struct source *src) __attribute__ ((nonnull (1)));

/* How many background requests may usefully be in flight now, all
 * connections together: callers keep to it.  At least 1. */
unsigned source_background_depth (struct source *src)
    __attribute__ ((nonnull (1)));

/* Number of demand requests sent or waiting: background yields to them. */
unsigned source_demand_waiting (struct source *src)
    __attribute__ ((nonnull (1)));

/* Bytes of read data received since the start (for counters). */
uint64_t source_bytes_read (struct source *src) __attribute__ ((nonnull (1)));

/* End every request (ESHUTDOWN), close all handles without waiting for the
 * server, end the command.  After it returns no callback runs or will run.
 * Not from an I/O thread. */
void source_stop (struct source *src) __attribute__ ((nonnull (1)));
void source_free (struct source *src);

#endif
