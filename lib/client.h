/* client.h - the inside of libbackfill.
 *
 * registry  whose control socket serves a disk
 * conn      one connection to a control socket: framing, requests, events
 * reply     JSON answers into the structs of backfill.h
 * handle    the public handle: idle connections, and calls over them
 * route     which server a disk is on
 * ask       all servers at once
 * request   what the calls about disks and jobs send
 * wait      wait for a job's end
 * job, allocate, disks, map, events, command   the public calls
 *
 * Locking: a call takes a connection out of its handle and is the connection's
 * only user until the call puts it back.  The handle's lock guards the list of
 * idle connections and the timeout, and is never held across I/O.  So a thread
 * that waits for a job does not hold up a thread that aborts the job.
 *
 * Errors: a function that fails has called error_set, and returns -1 or NULL.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CLIENT_H
#define BACKFILL_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include <jansson.h>

#include "backfill.h"
#include "entry.h"
#include "lock.h"
#include "wire.h"

/* error.c */

/* Remember an error for this thread, and set errno to its number.  %m in fmt is
 * the errno from before the call.  Returns -1. */
int error_set (int errnum, const char *fmt, ...)
    __attribute__ ((format (printf, 2, 3), nonnull (2)));
/* error_set (ENOMEM); returns NULL. */
void *error_nomem (void);

/* conn.c */

#define DEADLINE_NEVER INT64_MAX
/* Milliseconds of CLOCK_MONOTONIC. */
int64_t time_now (void);
/* timeout ms from now, 0 = never. */
int64_t time_deadline (unsigned timeout);

struct conn {
  int fd;
  char *path; /* the socket's, for messages and for reuse */
  uid_t peer; /* SO_PEERCRED */
  struct wire_in in;
  json_int_t last_id;
  json_t *events;    /* array, oldest first; NULL: events are dropped */
  bool broken;       /* out of step with the server: only good to close */
  bool no_such_disk; /* the last command failed with DeviceNotFound */
  char *process;     /* that the greeting names: struct trust; NULL: none */
  /* The store that the present call is about, if it was named by a path: goes
   * with every device that is sent (handle_execute). */
  bool has_file;
  struct file_id file;
  SLIST_ENTRY (conn) entry; /* in the handle's list of idle ones */
};

/* Connect, look who is there, read the greeting, negotiate.  events: keep
 * events. Fails as conn_check does, and then before anything is waited for. */
struct trust;
struct conn *conn_open (const char *path, const struct trust *trust,
                        bool events, int64_t deadline)
    __attribute__ ((nonnull (1, 2)));
/* The same over a socket that is connected already.  conn_adopt takes fd over,
 * also when it fails. */
struct conn *conn_adopt (int fd, const char *path, const struct trust *trust,
                         bool events, int64_t deadline)
    __attribute__ ((nonnull (2, 3)));
void conn_close (struct conn *conn);
/* Is the right process at the other end?  0, or -1: EPERM, or ESRCH if another
 * process has taken the place of the one that is meant, which has gone. */
int conn_check (const struct conn *conn, const struct trust *trust)
    __attribute__ ((nonnull (1, 2)));

/* False if the server has closed the connection, or said something unasked. */
bool conn_usable (struct conn *conn) __attribute__ ((nonnull (1)));

/* Send a command (arguments may be NULL, not stolen) and wait for its
 * answer: what it returns, a new reference, or NULL. */
json_t *conn_execute (struct conn *conn, const char *command, json_t *arguments,
                      int64_t deadline) __attribute__ ((nonnull (1, 2)));

/* The oldest event that has come, without waiting; NULL: none has (conn->broken
 * tells that there will be none, with the error set). */
json_t *conn_event (struct conn *conn) __attribute__ ((nonnull (1)));

/* Wait until there may be something to read, a signal comes, or the
 * deadline. */
void conn_poll (struct conn **conns, size_t n, int64_t deadline)
    __attribute__ ((nonnull (1)));

/* reply.c: every member that is taken is checked; EPROTO. */

int reply_job (const json_t *value, struct backfill_job_info *info)
    __attribute__ ((nonnull (2)));
/* The number of a job that has started: 0 if an older server gives none. */
int reply_number (const json_t *value, uint64_t *number)
    __attribute__ ((nonnull (2)));
struct backfill_disk_info *reply_disk (const json_t *value);
struct backfill_event *reply_event (const json_t *value);

/* A page of a map is appended; regions that touch are joined (with the same
 * state, if they have any). */
struct region_list {
  struct backfill_state_region *ptr;
  size_t len;
};
/* *next is UINT64_MAX after the last page.  from: what was asked for. */
int reply_regions (const json_t *value, bool states, uint64_t from,
                   struct region_list *list, uint64_t *next, uint64_t *size)
    __attribute__ ((nonnull (4, 5, 6)));

/* registry.c */

/* Who may be at the other end of a control socket. */
struct trust {
  enum {
    TRUST_US,      /* root and the caller: a socket of a name that is known */
    TRUST_OWNER,   /* and uid, the store's owner */
    TRUST_AUTHOR,  /* uid, who entered the socket in the registry, or root */
    TRUST_ANYBODY, /* the caller named the socket */
  } whom;
  uid_t uid;
  /* AUTHOR: the name of the directory with the entry.  Another process of that
   * author, at a path that was used again, is not meant. */
  const char *process;
};
/* Who should answer for an entry, whose strings it borrows. */
struct trust entry_trust (const struct entry *entry)
    __attribute__ ((nonnull (1)));

/* Entries with a control socket. */
struct entries {
  struct entry *ptr;
  size_t len;
};
void entries_free (struct entries *entries) __attribute__ ((nonnull (1)));

/* The entries of the store at path, of all who may speak for that store: where
 * there are several, most are of servers that died.  0; 1: there are none
 * (ENXIO, whose text says where was looked); -1: another error. */
int registry_find (const char *path, const struct stat *store,
                   struct entries *entries) __attribute__ ((nonnull (1, 2, 3)));

/* Where backfilld may listen, which opens volumes that nobody has open: the
 * i-th place, malloc'd; NULL after the last (or ENOMEM). */
char *registry_daemon (unsigned i);

/* All entries of all users: entry_speaks has not been asked. */
int registry_list (struct entries *entries) __attribute__ ((nonnull (1)));
/* The entries of the process that listens on the socket file at path.  That
 * file's owner is trusted here, and not the owner of a store that an entry
 * names. */
int registry_find_listener (const char *path, struct entries *entries)
    __attribute__ ((nonnull (1, 2)));
/* "/run/backfill" or such, for messages: in buf. */
const char *registry_dirs (char *buf, size_t size)
    __attribute__ ((nonnull (1)));

/* handle.c */

struct backfill {
  struct lock lock; /* guards idle, nidle, timeout */
  SLIST_HEAD (, conn) idle;
  unsigned nidle;
  unsigned timeout;   /* ms, 0 = none */
  char *socket;       /* NULL: by the registry */
  struct trust trust; /* who may serve socket */
  char *process;      /* trust's */
};

/* A connection, an idle one or a new one; the caller gives it back.  ESRCH:
 * another process has taken the place of the one that is meant, which has
 * gone. */
struct conn *handle_take (struct backfill *h, const char *socket,
                          const struct trust *trust, bool events,
                          int64_t deadline) __attribute__ ((nonnull (1, 2, 3)));
void handle_give (struct backfill *h, struct conn *conn)
    __attribute__ ((nonnull (1)));
int64_t handle_deadline (struct backfill *h) __attribute__ ((nonnull (1)));

/* An idle connection that is fit for use, or NULL. */
struct conn *handle_take_idle (struct backfill *h, const char *socket)
    __attribute__ ((nonnull (1, 2)));

/* Send {"device": device, arguments...} over a connection of that route.
 * arguments may be NULL, and are stolen; so may device. */
json_t *handle_execute (struct conn *conn, const char *device,
                        const char *command, json_t *arguments,
                        int64_t deadline) __attribute__ ((nonnull (1, 3)));

/* Both of these, and give the connection back. */
json_t *handle_call (struct backfill *h, const char *disk, const char *command,
                     json_t *arguments) __attribute__ ((nonnull (1, 3)));

/* A handle over a connected socket, for tests: it cannot connect again. */
struct backfill *handle_adopt (int fd, unsigned timeout);

/* route.c */

/* A connection to a disk's server, and what that server calls the disk: *device
 * is malloc'd, NULL for the server's only disk.  The caller gives the
 * connection back. */
struct conn *route_disk (struct backfill *h, const char *disk, bool events,
                         char **device, int64_t deadline)
    __attribute__ ((nonnull (1, 4)));

/* backfilld, for the store at path; *device is malloc'd: the path with its
 * folder resolved.  NULL with ENXIO if none answers. */
struct conn *route_daemon (struct backfill *h, const char *path, bool events,
                           char **device, int64_t deadline)
    __attribute__ ((nonnull (1, 2, 4)));
/* The disk argument is a path, not a name. */
bool route_is_path (const char *disk) __attribute__ ((nonnull (1)));

/* The name (malloc'd) of the disk of a route. */
char *route_disk_name (struct conn *conn, const char *device, int64_t deadline)
    __attribute__ ((nonnull (1)));

/* request.c: what the calls about disks and jobs send. */

/* A caller's struct_size above this is not a size, but never set. */
#define MAX_STRUCT_SIZE 65536

/* A size must fit into JSON's integers: EINVAL. */
int request_check_size (const char *what, uint64_t n)
    __attribute__ ((nonnull (1)));
/* *args: {"number": number}; NULL for 0, whichever job it is. */
int request_number (uint64_t number, json_t **args)
    __attribute__ ((nonnull (2)));
/* A command about one disk that returns nothing.  arguments may be NULL, and
 * are stolen. */
int request_simple (struct backfill *h, const char *disk, const char *command,
                    json_t *arguments) __attribute__ ((nonnull (1, 3)));

/* job.c */

/* What the job of a disk looks like now: that of the number, or with 0 the
 * present one. */
int job_query (struct conn *conn, const char *device, uint64_t number,
               int64_t deadline, struct backfill_job_info *info)
    __attribute__ ((nonnull (1, 5)));

/* wait.c */

/* A call that waits for a job's end. */
struct job_wait {
  struct backfill *h;
  const char *disk;  /* as the caller named it */
  struct conn *conn; /* keeps events; another when the disk's server is */
  char *name;        /* what that server calls the disk; malloc'd */
  uint64_t number;   /* 0: the job that is there, whose number it becomes */
  int64_t until;     /* of the waiting, not of the requests */
  backfill_progress_fn progress; /* or NULL */
  void *opaque;
};
/* conn (NULL, if the disk's next server was not found) and name stay the
 * caller's to release. */
int job_wait (struct job_wait *w) __attribute__ ((nonnull (1)));

/* disks.c */

/* The answers of all servers to query-disks or query-block-jobs, in one array.
 * Disks of servers that do not answer are in it with "unanswered"; jobs of such
 * are not. */
json_t *disks_ask (struct backfill *h, const char *command)
    __attribute__ ((nonnull (1, 2)));
/* Those of query-disks, and the volumes that backfilld has not open. */
json_t *disks_ask_all (struct backfill *h) __attribute__ ((nonnull (1)));

/* ask.c */

/* ms in which every server that is asked a question must have answered. */
#define QUESTION_TIMEOUT 2000

/* One server, and what came of asking it. */
struct server {
  char *socket;
  struct trust trust;
  struct entry *entries; /* those of its disks that are believed; none of a
                            handle's own socket */
  size_t nr;
  struct conn *conn; /* NULL: it did not answer; err and why */
  json_t *reply;     /* to the command: an array, and checked */
  int err;
  char *why;
};
struct servers {
  struct server *ptr;
  size_t len;
};
/* Servers of the registry that are left out. */
struct known {
  struct conn *const *conns; /* connected already */
  size_t nconns;
  char *const *processes; /* by their names, too */
  size_t nprocesses;
};
/* Connect to every server that is found (or the handle's one socket) and send
 * a command that returns an array, or none (NULL; static).  known may be NULL.
 * -1: there is none that lives, ENXIO; or the handle's one did not answer. */
int servers_ask (struct backfill *h, bool events, const char *command,
                 const struct known *known, struct servers *servers,
                 int64_t deadline) __attribute__ ((nonnull (1, 5)));
void servers_release (struct backfill *h, struct servers *servers)
    __attribute__ ((nonnull (1, 2)));
/* All that was answered, in one array. */
json_t *servers_answers (const struct servers *servers)
    __attribute__ ((nonnull (1)));

#endif
