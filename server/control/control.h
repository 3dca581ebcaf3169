/* control.h - the control socket: what a program that holds disks sees of it.
 *
 * Life: control_listen (before the fork: the socket is there, errors reach
 * the user; clients that connect now wait), control_start (after it: threads),
 * control_event from any thread, control_unlisten, control_stop, control_free.
 * The disks must outlive control_stop.
 *
 * The protocol is QMP's framing and shape: backfill-protocol(7).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CONTROL_H
#define BACKFILL_CONTROL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "disk.h"

/* Who asks, as the kernel tells (SO_PEERCRED), and which command it is. */
struct control_peer {
  uid_t uid;
  gid_t gid;
  pid_t pid;
  uint64_t since;  /* CLOCK_MONOTONIC ms, when the command came */
  uint64_t serial; /* of the command, never 0 */
};

enum control_use {
  CONTROL_QUERY,
  CONTROL_JOB, /* a job is about to be started */
};

/* For a program whose disks come and go, and are called by their stores'
 * paths.  All are called from the threads that run commands, and on failure
 * return NULL or -1 with errno and *error set (malloc'd).
 *
 * file: what the client means by the path, or NULL if it did not say.  If that
 * is another file by now it fails with ESTALE, before anything is done to it.
 *
 * EINPROGRESS, without a message, is no failure: what the command needs is on
 * its way, and it is called again, with the same peer, after control_kick.  So
 * none of them waits for a path, an open or a sync. */
struct control_volumes {
  /* The disk of that path, open until it is put. */
  struct disk *(*get) (void *opaque, const struct control_peer *peer,
                       const char *path, const struct file_id *file,
                       enum control_use use, char **error);
  void (*put) (void *opaque, struct disk *disk);
  /* For a question: 1 and *peek, which the caller clears, of a volume that
   * nobody has open, and is not opened for that.  0: get it. */
  int (*peek) (void *opaque, const struct control_peer *peer, const char *path,
               const struct file_id *file, struct disk_peek *peek,
               char **error);
  /* Those that are open now and that the peer may see, each to be put;
   * disks->ptr is malloc'd.  With closed also those whose job is on record
   * and that are not open: *closed is malloc'd, each to be cleared. */
  int (*list) (void *opaque, const struct control_peer *peer,
               struct disks *disks, struct disk_peek **closed, size_t *nr);
  /* Call ask for each disk of the list, in order, until it is through; those
   * that do not answer in a second are passed over, now and as long as they
   * do not.  result: where ask's go, NULL for those; malloc'd, as many. */
  int (*survey) (void *opaque, const struct disks *disks,
                 void *(*ask) (struct disk *disk), void (*drop) (void *result),
                 void ***results);
  /* Make a new volume. */
  int (*create) (void *opaque, const struct control_peer *peer,
                 const struct disk_config *config, char **error);
  /* Close it for another owner, whom the peer is or speaks for. */
  int (*release) (void *opaque, const struct control_peer *peer,
                  const char *path, const struct file_id *file, char **error);
  /* Go on with its job once its present owner has gone. */
  int (*take) (void *opaque, const struct control_peer *peer, const char *path,
               const struct file_id *file, char **error);
  /* Forget a volume whose store is gone.  1: done; 0: it is not known, or
   * not gone. */
  int (*forget) (void *opaque, const struct control_peer *peer,
                 const char *path, char **error);
  /* Keep the limit of all jobs over a restart. */
  int (*set_total_speed) (void *opaque, const struct control_peer *peer,
                          uint64_t speed, char **error);
  void *opaque;
};

/* Who may connect.  With mode or group given, the permissions of the socket's
 * file alone say that.  Else it is root, this process's user, and `user`. */
struct control_access {
  bool has_mode, has_user, has_group;
  mode_t mode; /* of the socket's file; 0600 if not given */
  uid_t user;  /* its owner */
  gid_t group;
};

/* path, program and own_dir are copied. */
struct control_config {
  const char *path; /* of the socket; absolute if the program changes folder */
  struct control_access access;
  struct disks disks;                    /* the array is not copied */
  const struct control_volumes *volumes; /* instead of disks; or NULL */
  int socket; /* one that listens already, if has_socket: nothing is made */
  bool has_socket;
  /* The path is one that all users know and could take beforehand: root takes
   * away what is not root's there. */
  bool well_known;
  /* Called once for each quit command, from a thread that must not call
   * control_stop: it only starts the program's end.  NULL: quit is refused. */
  void (*quit) (void *opaque);
  void *opaque;
  const char *program; /* for messages */
  /* The directory of this process in the runtime directory, or NULL: the
   * greeting tells its name, so that who came by an entry in it sees that the
   * same process is there still.  Copied. */
  const char *own_dir;
  /* Seconds that a client has, 0 for the usual 30: to negotiate, or to send
   * the rest of a message; and to read its answers. */
  double half_timeout, output_timeout;
};

struct control;

/* Make the socket.  One left behind by a dead process is replaced, one that
 * is served is an error.  NULL with *error set (malloc'd). */
struct control *control_listen (const struct control_config *config,
                                char **error) __attribute__ ((nonnull (1, 2)));

/* Start serving: threads, all with every signal blocked.  0, or -1 with
 * *error. */
int control_start (struct control *control, char **error)
    __attribute__ ((nonnull (1, 2)));

/* Send an event to the clients.  From any thread and at any time between
 * listen and free; waits for nothing but a short mutex, and calls nothing of
 * the engine but disk_name and the like. */
void control_event (struct control *control, const struct disk_event *event)
    __attribute__ ((nonnull (1, 2)));

/* Something has changed that commands may wait for (EINPROGRESS).  From any
 * thread, between start and free; takes the pools' locks, and nothing else. */
void control_kick (struct control *control) __attribute__ ((nonnull (1)));

/* Take the socket's file away (if it is still ours) and accept no more
 * clients; those that are there are served.  For a program that lets its
 * volumes go before it ends: their next owner may want the same path. */
void control_unlisten (struct control *control) __attribute__ ((nonnull (1)));

/* Unlisten, let the commands that run end (5 s at most), send what is to be
 * sent without waiting, close all, end the threads.  May be called again.
 * Returns 0, or -1 if a command still runs: then the disks are in use. */
int control_stop (struct control *control) __attribute__ ((nonnull (1)));

/* Stops it first if need be; NULL is fine. */
void control_free (struct control *control);

#endif
