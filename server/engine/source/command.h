/* source/command.h - a backing store that is a command: [ nbdkit ... ].
 *
 * Shapes: times in ms of CLOCK_MONOTONIC.  A struct command belongs to one
 * source; all calls but command_new and command_free are made on the pool's
 * first thread, which alone starts and ends its process.  No locks.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SOURCE_COMMAND_H
#define BACKFILL_SOURCE_COMMAND_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

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
/* On the thread of cmd->loop: stop watching the process. */
void command_unwatch (struct command *cmd);
/* Did the process end just now, by itself?  Then why says how. */
bool command_ended (struct command *cmd, char *why, size_t len);
/* Let the running process go: it hangs, or serves nobody any more. */
void command_end (struct command *cmd, bool hangs);
/* End all processes of cmd, within 800 ms. */
void command_stop (struct command *cmd);

#endif
