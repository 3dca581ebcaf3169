/* cli.h - what the parts of the `backfill` command share.
 *
 * Each command is a function that takes its own arguments (argv[0] is not one
 * of these), uses cli_getopt for options and returns the exit status.  All
 * commands but check, owner and trace work through libbackfill only.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CLI_H
#define BACKFILL_CLI_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include <jansson.h>

#include "backfill.h"

/* Exit statuses, as backfill(1) has them. */
enum {
  STATUS_OK = 0,
  STATUS_FAILED = 1,
  STATUS_USAGE = 2,
  STATUS_JOB = 3,        /* the job failed or was aborted */
  STATUS_UNANSWERED = 4, /* of several servers some did not answer */
  STATUS_TIMEOUT = 5,    /* the job that was waited for goes on */
  /* Instead of STATUS_FAILED, with --detailed-exitcode: */
  STATUS_NO_DISK = 6,
  STATUS_UNREACHABLE = 7,
  STATUS_BUSY = 8,   /* a job is in progress already */
  STATUS_NO_JOB = 9, /* there is none that could be meant */
  STATUS_INTERRUPTED = 130,
};

struct cli {
  const char *socket;  /* -c, or NULL: by the registry */
  const char *command; /* its name */
  bool takes_disk;     /* it is about one disk */
  bool json;           /* --json */
  bool detailed;       /* --detailed-exitcode */
  int failure;         /* of what kind the messages were: STATUS_FAILED or one
                          of its details; 0: there was none */
};
extern struct cli cli;

/* The commands. */
int cmd_abort (int argc, char **argv);
int cmd_allocate (int argc, char **argv);
int cmd_check (int argc, char **argv);
int cmd_create (int argc, char **argv);
int cmd_detach (int argc, char **argv);
int cmd_dismiss (int argc, char **argv);
int cmd_flush (int argc, char **argv);
int cmd_info (int argc, char **argv);
int cmd_list (int argc, char **argv);
int cmd_map (int argc, char **argv);
int cmd_metrics (int argc, char **argv);
int cmd_owner (int argc, char **argv);
int cmd_pause (int argc, char **argv);
int cmd_quit (int argc, char **argv);
int cmd_resume (int argc, char **argv);
int cmd_speed (int argc, char **argv);
int cmd_trace (int argc, char **argv);
int cmd_wait (int argc, char **argv);
int cmd_watch (int argc, char **argv);

/* check.c */

/* The sidecar of the store, or that of this path, to look at; NULL after a
 * message. */
struct sidecar;
struct sidecar *check_find_sidecar (const char *path);

/* message.c */

/* "backfill: ...", then how to get help; exits with STATUS_USAGE. */
void cli_usage (const char *fmt, ...)
    __attribute__ ((format (printf, 1, 2), noreturn));
/* "backfill: ..."; STATUS_FAILED. */
int cli_error (const char *fmt, ...) __attribute__ ((format (printf, 1, 2)));
/* The same with libbackfill's last error, which says of what kind it is. */
int cli_failed (void);
/* The same, of another kind, which is returned. */
int cli_failed_as (int status);
/* The message of that kind and errno (0: none); the kind is returned. */
int cli_error_as (int status, int errnum, const char *fmt, ...)
    __attribute__ ((format (printf, 3, 4)));

/* options.c */

/* What options_before returns that is no letter, and not libvirt's. */
enum {
  OPTION_JSON = 0x10000,
  OPTION_DETAILED,
  OPTION_LONG_OPTIONS,
  OPTION_SHORT_OPTIONS,
  OPTION_COMMANDS,
  OPTION_DISKS,
};
/* The next option before the command that asks something; -1 at the end, '?'
 * after getopt's message.  Options that set something are taken. */
int options_before (int argc, char **argv);
/* The options of all commands, as lines of help: before the command, or those
 * that a command's help has. */
void options_help (FILE *fp, bool command);
/* For the completion script, one a line.  help: a command's, NULL: what may
 * come before a command. */
void options_long (const char *help);
void options_short (void);
/* Usage error if libvirt's options were given to a command without DISK. */
void options_check_disk (void);

/* getopt_long over a command's options plus -c, --json and libvirt's, which
 * cli_getopt handles itself; longs ends with a zero entry, or is NULL.  Returns
 * -1 at the end with optind at the first argument.  When an option is wrong the
 * process exits with STATUS_USAGE, after getopt's message. */
int cli_getopt (int argc, char **argv, const struct option *longs);

/* The one optional DISK; usage error if there is more.  NULL: left out. */
const char *cli_disk (int argc, char **argv);
/* The disk that this DISK (or NULL) means: with libvirt's options another. */
const char *cli_find (const char *disk);

/* A handle, or NULL after a message. */
struct backfill *cli_connect (void);

/* libvirt.c */

enum {
  LIBVIRT_CONNECT = 0x20000,
  LIBVIRT_DOMAIN,
  LIBVIRT_POOL,
  LIBVIRT_VOLUME
};
/* Take an option of libvirt's; false: it is another option. */
bool libvirt_option (int c);
/* An option of libvirt's was given: libvirt_disk tells which disk is meant. */
bool libvirt_used (void);
/* The DISK of a domain stands before the command. */
bool libvirt_takes_path (void);
void libvirt_path (const char *path);
/* disk: the command's DISK, or NULL.  Sets cli.socket; exits after a message
 * if there is no such disk. */
const char *libvirt_disk (const char *disk);

/* text.c */

/* A size with one of nbdkit's suffixes; exits with a usage error that names
 * what (an option, or an argument). */
uint64_t text_size (const char *what, const char *s);
/* The same of a limit in bytes a second, 0: none; and of a time in
 * milliseconds, UNITS_FOREVER without end (units.h). */
uint64_t text_speed (const char *what, const char *s);
uint64_t text_duration (const char *what, const char *s);

/* A whole number of at most max, without a suffix: no size. */
uint64_t text_number (const char *what, const char *s, uint64_t max);

#define TEXT_MAX 64
/* "1.5 GiB"; in buf, which is returned. */
const char *text_bytes (char buf[TEXT_MAX], uint64_t n);
/* "2 min 05 s" */
const char *text_time (char buf[TEXT_MAX], uint64_t ms);
/* Whole percent, rounded down: 100 is all. */
int text_percent (uint64_t part, uint64_t whole);
/* In place: no control characters, which could drive a terminal. */
char *text_clean (char *s);
/* A disk's name, "" as two quotes. */
const char *text_name (const char *name);
/* Cells that a text takes on a terminal, near enough. */
int text_width (const char *s);

bool text_terminal (FILE *fp);
/* Colours may be used on standard output. */
bool text_colour (void);
int text_columns (void);

const char *text_job_type (int type);
const char *text_job_status (const struct backfill_job_info *job);
const char *text_state (int state);

/* JSON's text to standard output, its C1 controls escaped. */
void text_print_json (const char *text);
/* Print a value for --json; STATUS_OK, or STATUS_FAILED. */
int text_json (const json_t *value);

/* disks.c */

/* The one disk of that name as query-disks has it, or NULL after a message. */
json_t *disk_object (struct backfill *h, const char *disk);

/* Notes on standard error about disks whose servers did not answer;
 * STATUS_UNANSWERED if there are such, else STATUS_OK. */
int disks_unanswered (struct backfill_disk_info **disks, unsigned n);

/* For the completion script: the names that disks have, each ended by a NUL,
 * as they are. */
int disks_names (void);

/* "size         4 KiB (4096 bytes)" */
void print_bytes (const char *label, uint64_t n);

/* offline.c */

/* After libbackfill has failed to find a server: may the disk be looked at
 * through its files? */
bool offline_may (const char *disk);
/* Print what the files of the volume say, or after all libbackfill's error. */
int offline_info (const char *store);

/* jobs.c */

/* The job of that number, or with 0 the present job, as query-disks has it;
 * NULL after a message. */
json_t *job_object (struct backfill *h, const char *disk, uint64_t number);
/* Print the same; an exit status. */
int job_print_json (struct backfill *h, const char *disk, uint64_t number);

/* progress.c */

/* How far a job is, as a command shows it that waits for the job. */
struct progress {
  const char *label; /* the disk's name, where there are several; or NULL */
  bool show;         /* on standard output */
  bool terminal;     /* as one line that is printed over */
  int fd;            /* for lines N/100; -1: none */
  int percent, status;
  int fd_percent;
  time_t when; /* of the last plain line */
  bool line;   /* the terminal's line is not ended */
  struct backfill_job_info last;
};
/* fd: for lines N/100; -1: none. */
void progress_init (struct progress *p, bool quiet, int fd);
/* Let Ctrl-C end the waiting.  known: the job is known to have started. */
void progress_interrupt (bool known);
/* A backfill_progress_fn; opaque is the struct progress. */
int progress_show (void *opaque, const struct backfill_job_info *job);
/* End the terminal's line, before anything else is printed. */
void progress_end (struct progress *p);
/* The message of a job that failed or was aborted, as `last` says; an exit
 * status. */
int progress_failed (const struct progress *p);

/* picture.c */

/* A part of the disk, its bytes by state. */
struct cell {
  uint64_t bytes[3]; /* by enum backfill_state */
};

struct picture {
  const struct backfill_disk_info *disk;
  const struct backfill_state_region *regions;
  size_t nregions;
  uint64_t start, end; /* what of the disk is shown */
  bool has_job;        /* in progress: */
  uint64_t job_start, job_end;
  uint64_t job_next; /* first absent byte of its range, or job_end */
};

/* The disk, its regions in a range (length 0: to the end), and its job, for a
 * picture of it.  Borrows both. */
void picture_init (struct picture *picture,
                   const struct backfill_disk_info *disk, uint64_t offset,
                   uint64_t length, const struct backfill_state_region *regions,
                   unsigned n);
/* Spread the regions over n cells of equal size. */
void picture_cells (const struct picture *picture, struct cell *cells,
                    size_t n);
/* Which cell a byte is in. */
size_t picture_cell (const struct picture *picture, uint64_t offset, size_t n);

/* svg.c */

void picture_svg (const struct picture *picture, FILE *fp);

#endif
