/* command.h - the commands: one table (table.c), from which dispatch, argument
 * checks, query-commands and the reference page all come.
 *
 * A command's life is a struct call: call_begin checks everything that can be
 * checked without a disk, call_run does it (on the thread that `where` names)
 * and gives the whole answer.  Nothing here knows of sockets or threads.
 *
 * Locking: none; a call has one user at a time.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_COMMAND_H
#define BACKFILL_COMMAND_H

#include <stdbool.h>
#include <stdio.h>

#include <jansson.h>

#include "control.h"
#include "disk.h"

enum arg_type {
  ARG_END, /* ends a list */
  ARG_DEVICE,
  ARG_TEXT,
  ARG_INTEGER, /* 0 or more, between min and max */
  ARG_BOOLEAN,
  ARG_WORD, /* one of words */
  ARG_LIST, /* of strings */
};

struct arg {
  enum arg_type type;
  bool optional;
  const char *name;
  const char *const *words; /* ends with NULL */
  json_int_t def, min, max; /* def: also 0 or 1, or an index in words; -1
                               is told from what can be given; max 0: any */
  const char *help;
};

/* The threads that run a command: no command that may block runs on the loop,
 * and a kind of command that blocks does not hold up the others. */
enum where {
  RUN_LOOP,  /* at once */
  RUN_QUERY, /* reads the state of disks */
  RUN_VERB,  /* jobs */
  RUN_SLOW,  /* waits for the store */
};
#define NR_POOLS 4 /* RUN_LOOP has one too: it parses long messages */

/* A longer `id` is refused, so that there is room for an answer. */
#define MAX_ID (64u << 10)
/* How JSON is written. */
#define DUMP_FLAGS (JSON_ENSURE_ASCII | JSON_ENCODE_ANY)

struct call {
  const struct disks *disks;
  const struct control_volumes *volumes; /* instead of disks; or NULL */
  struct control_peer peer;
  struct disk *held; /* a volume that call_free puts */
  bool negotiated;   /* set by the caller, and by qmp_capabilities */
  bool can_quit;
  bool quit; /* set by quit */
  bool wait; /* set by call_run: run the call again later */
  json_t *message;
  const struct command *command;
  json_t *id, *args; /* borrowed from message; may be NULL */
  json_t *error;     /* the error object once something is wrong */
};

#define MAX_ARGS 12
struct command {
  const char *name;
  enum where where;
  /* What "return" holds, or NULL with the call's error set. */
  json_t *(*run) (struct call *call);
  /* The same on the loop, tried first, if that needs no waiting.  It returns
   * NULL without an error where the threads of `where` have to run it. */
  json_t *(*quick) (struct call *call);
  const char *returns; /* POD */
  const char *help;    /* POD */
  struct arg args[MAX_ARGS];
};

/* In order of names; ends with a NULL name. */
extern const struct command command_table[];

/* Take a message over and check it.  A message that is NULL could not be
 * parsed, and parse_error says why.  Returns the command, or NULL: then
 * call_run only gives the error. */
const struct command *call_begin (struct call *call, json_t *message,
                                  const char *parse_error)
    __attribute__ ((nonnull (1)));

/* Run the command, free what the call holds, and return the answer as a line
 * (malloc'd, CRLF, less than WIRE_MAX_LINE bytes); NULL on ENOMEM.  Or NULL
 * with the call's `wait` set: nothing was done for good, run the call again. */
char *call_run (struct call *call, size_t *len)
    __attribute__ ((nonnull (1, 2)));

/* Try the command on the loop, at once: what "return" will hold.  NULL: nothing
 * was done, and call_run has to. */
json_t *call_try (struct call *call) __attribute__ ((nonnull (1)));
/* As call_run, with the result of call_try, which is stolen. */
char *call_answer (struct call *call, json_t *result, size_t *len)
    __attribute__ ((nonnull (1, 3)));

/* Free what a call holds, for one that will not be run. */
void call_free (struct call *call) __attribute__ ((nonnull (1)));

/* The greeting that a client gets first; NULL on ENOMEM.  process may be
 * NULL. */
json_t *command_greeting (const char *process);

/* reference.c: the reference, as POD. */
void command_print (FILE *fp) __attribute__ ((nonnull (1)));

#endif
