/* backfill.h - libbackfill: drive the disks of a backfill server.
 *
 * A handle talks to the control sockets of the processes that own disks: to
 * one of them (backfill_connect ("unix:PATH")), or, made with NULL, to the
 * owner of each disk as the calls name them.
 *
 * disk      a disk's name, or the path of its store.  What holds a '/' is a
 *           path; a word without one is a name first, and a file of the
 *           current folder if no disk has that name.  NULL means the only
 *           disk there is; "" is the disk whose name is empty.
 * returns   0, or -1: then backfill_get_errno and backfill_get_error say
 *           why, for this thread, until its next call that fails.
 * sizes     and offsets are bytes, times milliseconds.
 * threads   any call from any thread on any handle, also several at once on
 *           one handle: a call that waits does not hold up the others.  Only
 *           backfill_close must be the handle's last call.
 * timeouts  a server that stops answering makes a call fail with ETIMEDOUT
 *           after 60 s, or what backfill_set_timeout says.  A call that
 *           waits for a job goes on for as long as the server answers.
 * signals   SIGPIPE is never raised.
 * jobs      belong to the server: a caller that dies or closes its handle
 *           does not end one.  Those of a disk have numbers, from 1, which go
 *           up by one; a disk has one at a time.
 *
 * Structs that the caller provides begin with struct_size, which the caller
 * sets to their sizeof; later versions only add members at the end.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_H
#define BACKFILL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct backfill;        /* a handle */
struct backfill_events; /* a subscription */

/* flags of backfill_block_allocate */
#define BACKFILL_ALLOCATE_NONBLOCK 1u /* return once the copy has started */
#define BACKFILL_ALLOCATE_SPARSE 2u   /* zeros may stay holes */

enum backfill_job_type {
  BACKFILL_JOB_NONE,      /* no job */
  BACKFILL_JOB_BOUNDED,   /* in progress */
  BACKFILL_JOB_UNBOUNDED, /* never used here */
  BACKFILL_JOB_COMPLETED,
  BACKFILL_JOB_FAILED,
  BACKFILL_JOB_CANCELLED
};

enum backfill_job_status {
  BACKFILL_STATUS_NONE,
  BACKFILL_STATUS_CREATED,
  BACKFILL_STATUS_RUNNING,
  BACKFILL_STATUS_PAUSED,  /* pause_reason says by whom */
  BACKFILL_STATUS_WAITING, /* for a lost backing store, retrying */
  BACKFILL_STATUS_ABORTING,
  BACKFILL_STATUS_CONCLUDED
};

enum backfill_pause_reason {
  BACKFILL_PAUSE_NONE,
  BACKFILL_PAUSE_USER,
  BACKFILL_PAUSE_NOSPACE /* the store is full: make room, then resume */
};

enum backfill_on_error {
  BACKFILL_ON_ERROR_REPORT, /* when the retries are used up the job fails */
  BACKFILL_ON_ERROR_SKIP    /* it goes on, and fails at its end */
};

enum backfill_state { BACKFILL_LOCAL, BACKFILL_ABSENT, BACKFILL_ZERO };

struct backfill_region {
  uint64_t offset, length;
};

/* Regions with their state; ZERO is local, and a hole in the store. */
struct backfill_state_region {
  uint64_t offset, length;
  int state; /* enum backfill_state */
};

struct backfill_job_info {
  size_t struct_size; /* set by the caller */
  int type;           /* enum backfill_job_type */
  uint64_t time_elapsed;
  uint64_t time_remaining; /* 0: not known */
  /* The job's range, whole granules.  total = processed + remaining always;
   * processed is what of it is local, whoever made it so. */
  uint64_t data_total, data_processed, data_remaining;
  uint64_t range_offset, range_length; /* as asked */
  uint64_t local_at_start;             /* of data_total */
  uint64_t bytes_read;                 /* from the backing store */
  uint64_t speed;                      /* limit, bytes/s, 0 = none */
  uint64_t current_speed;              /* bytes/s */
  uint64_t failed_ranges;              /* skipped after errors */
  int status;                          /* enum backfill_job_status */
  int pause_reason;                    /* enum backfill_pause_reason */
  int on_error;                        /* enum backfill_on_error */
  int sparse;                          /* 0 or 1 */
  int errnum;                          /* of a failed job, else 0 */
  uint64_t failed_offset;              /* first that failed, UINT64_MAX: none */
  char error[256];                     /* "": none */
  uint64_t number;                     /* of the disk's jobs, from 1; 0: not
                                          known, as of an older server */
};

/* Made by the library: read it, then backfill_free_disk_info. */
struct backfill_disk_info {
  size_t struct_size;
  char *name;
  char *store;
  char *metadata;
  char *backing;                /* NULL: there is none */
  uint64_t size, local, absent; /* local + absent = size */
  uint32_t granule;
  char *source;        /* "connected", "lost" or "none" */
  char *source_reason; /* NULL, or why it is lost */
  int complete;        /* 0 or 1: the backing store is not needed again */
  int detached;
  int read_only;
  uint64_t damaged_sectors;                /* of the sidecar, as far as seen */
  uint64_t damaged_offset, damaged_length; /* of the disk */
  char *sync_error;                        /* NULL, or the failed sync's text */
  uint64_t bytes_fetched, demand_fetches, ahead_fetches, background_fetches;
  uint64_t guest_reads, guest_writes, flushes, commits;
  struct backfill_job_info job;
  /* NULL, or why the disk's server did not answer: then only name and store
   * are known, as it has entered them in the registry, and the other texts
   * are NULL.  Only backfill_list_disks gives such. */
  char *unanswered;
  /* The boot trace: its file, NULL if none is used; what is going on, 0 or 1;
   * bytes that were fetched for it, and of these, read by the guest since. */
  char *trace_file;
  int trace_recording, trace_replaying;
  uint64_t trace_used, trace_hit;
};

/* Called with the job's present state, about twice a second, when its status
 * changes, and with its end.  A value other than 0 ends the waiting: the call
 * fails with EINTR and the job goes on. */
typedef int (*backfill_progress_fn) (void *opaque,
                                     const struct backfill_job_info *info);

struct backfill_allocate_options {
  size_t struct_size; /* set by the caller; zero the rest */
  uint64_t speed;     /* limit, bytes/s, 0 = none */
  int on_error;       /* enum backfill_on_error */
  int has_retry;      /* 1: retry is given, else 0: for ever */
  uint64_t retry;     /* how long a lost source is waited for, 0: not at all */
  backfill_progress_fn progress; /* may be NULL; not used by NONBLOCK */
  void *opaque;
  uint64_t *number; /* NULL, or set to the job's number when it has started */
};

/* Members that an event does not have are NULL or 0. */
struct backfill_event {
  size_t struct_size;
  char *event;  /* "JOB_STATUS_CHANGE" and so on: backfill-protocol(7) */
  char *disk;   /* name */
  char *status; /* JOB_STATUS_CHANGE */
  char *error, *reason, *operation, *action;
  uint64_t len, offset, speed;    /* of a job that ended */
  uint64_t seconds, microseconds; /* since 1970 */
  char *json;                     /* all of it, as it came */
  uint64_t number;                /* of the job that it is about */
};

/* uri: unix:PATH or a bare path, of a control socket that must be there now.
 * nbd:PATH: the control socket of the server that serves NBD on the unix
 * socket PATH, found in the registry of open volumes and accepted if its
 * process belongs to root, to the caller or to that socket's owner.
 * NULL: each call finds the owner of its disk in that registry
 * ($BACKFILL_RUNTIME_DIR, /run/backfill or
 * $XDG_RUNTIME_DIR/backfill), and accepts it if its process belongs to root,
 * to the caller or to the store's owner.  Without an owner it asks
 * backfilld. */
struct backfill *backfill_connect (const char *uri);
void backfill_close (struct backfill *h); /* NULL is fine */

/* Milliseconds, 0 = no limit. */
int backfill_set_timeout (struct backfill *h, unsigned milliseconds);

/* Errors of the calling thread.  The number is an errno value: ENXIO no owner
 * was found, ENOTUNIQ more than one could be meant, ENOENT no such disk,
 * EBUSY the disk has a job already, ESRCH it has none, ETIMEDOUT, EPROTO the
 * server's answer makes no sense, ECANCELED the job was aborted, else what
 * the server or the job reports.  The text is never NULL. */
int backfill_get_errno (void);
const char *backfill_get_error (void);

/* Make [offset, offset + length) local; length 0 = to the end.  Without
 * NONBLOCK it returns when the range is local, or fails with the job's error
 * (ECANCELED: someone aborted it), whatever jobs follow it.  Without SPARSE all
 * of the range is also allocated in the store. */
int backfill_block_allocate (struct backfill *h, const char *disk,
                             uint64_t offset, uint64_t length, unsigned flags);
/* The same with more to choose; options may be NULL. */
int backfill_block_allocate_options (
    struct backfill *h, const char *disk, uint64_t offset, uint64_t length,
    unsigned flags, const struct backfill_allocate_options *options);

/* The job in progress, or the last that ended: info->type tells. */
int backfill_block_get_job_info (struct backfill *h, const char *disk,
                                 struct backfill_job_info *info);

/* Returns when nothing more will be written for the job.  What it made local
 * stays so. */
int backfill_block_abort_job (struct backfill *h, const char *disk);

/* The local regions in order, with free().  *regions is NULL when there are
 * none. */
int backfill_block_get_allocation_map (struct backfill *h, const char *disk,
                                       unsigned *nregions,
                                       struct backfill_region **regions);

/* Every region of a range with its state; length 0 = to the end. */
int backfill_block_get_state_map (struct backfill *h, const char *disk,
                                  uint64_t offset, uint64_t length,
                                  unsigned *nregions,
                                  struct backfill_state_region **regions);

/* Wait for the job's end: 0 when it completed, else the job's error.  Fails
 * with ESRCH when there is no job, ETIMEDOUT after timeout ms (0 = no limit),
 * EINTR when progress (which may be NULL) says so. */
int backfill_block_wait_job (struct backfill *h, const char *disk,
                             unsigned timeout, backfill_progress_fn progress,
                             void *opaque);

int backfill_block_set_speed (struct backfill *h, const char *disk,
                              uint64_t speed);
int backfill_block_pause_job (struct backfill *h, const char *disk);
int backfill_block_resume_job (struct backfill *h, const char *disk);
/* Forget a job that has ended. */
int backfill_block_dismiss_job (struct backfill *h, const char *disk);

/* The same for the job of that number, 0 for whichever it is: they fail with
 * ESRCH when it is another's turn.  Of jobs that ended the latest are still
 * known to get_info and wait when others have followed them. */
int backfill_job_get_info (struct backfill *h, const char *disk,
                           uint64_t number, struct backfill_job_info *info);
int backfill_job_wait (struct backfill *h, const char *disk, uint64_t number,
                       unsigned timeout, backfill_progress_fn progress,
                       void *opaque);
int backfill_job_abort (struct backfill *h, const char *disk, uint64_t number);
int backfill_job_pause (struct backfill *h, const char *disk, uint64_t number);
int backfill_job_resume (struct backfill *h, const char *disk, uint64_t number);
int backfill_job_set_speed (struct backfill *h, const char *disk,
                            uint64_t number, uint64_t speed);
int backfill_job_dismiss (struct backfill *h, const char *disk,
                          uint64_t number);

/* All disks of the server, or of every owner that can be found.  The array
 * ends with a NULL. */
int backfill_list_disks (struct backfill *h, unsigned *ndisks,
                         struct backfill_disk_info ***disks);
/* Those too that backfilld has not open, but whose job is on record. */
int backfill_list_all_disks (struct backfill *h, unsigned *ndisks,
                             struct backfill_disk_info ***disks);
void backfill_free_disks (struct backfill_disk_info **disks);
int backfill_get_disk_info (struct backfill *h, const char *disk,
                            struct backfill_disk_info **info);
void backfill_free_disk_info (struct backfill_disk_info *info);

/* Have backfilld make a new volume: a store, which must not be there yet, and
 * its sidecar, with nothing local.  backing: an NBD URI or a file's path, NULL
 * for zeros; size: 0 for the backing store's; granule: 0 for the default. */
int backfill_create_volume (struct backfill *h, const char *store,
                            const char *backing, uint64_t size,
                            uint32_t granule);

/* Make durable what the guest has written. */
int backfill_disk_flush (struct backfill *h, const char *disk);
/* Let backing store and sidecar go; all of the disk must be local. */
int backfill_disk_detach (struct backfill *h, const char *disk);

/* Events from now on, of one disk, or with NULL of every disk that
 * backfill_list_disks would show.  A subscription is for one thread at a
 * time, and must be closed before its handle. */
struct backfill_events *backfill_events_open (struct backfill *h,
                                              const char *disk);
/* 1: an event, to be freed by backfill_free_event; 0: none came in time
 * (milliseconds, -1 = no limit); -1: ECONNRESET when the server has gone. */
int backfill_events_next (struct backfill_events *events, int timeout,
                          struct backfill_event **event);
void backfill_free_event (struct backfill_event *event);
void backfill_events_close (struct backfill_events *events);

/* Any command of backfill-protocol(7).  arguments: a JSON object, or NULL;
 * *reply: the JSON of what it returns, with free().  A "device" in it is
 * found as the disk of other calls is. */
int backfill_command (struct backfill *h, const char *command,
                      const char *arguments, char **reply);

/* "0.1.0" */
const char *backfill_version (void);

#ifdef __cplusplus
}
#endif

#endif
