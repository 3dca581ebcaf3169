/* disk.h - one virtual disk: policy.  The engine's face to plugin, control
 * and backfilld; with job.h it is all that they see.
 *
 * A disk joins a store (local raw image), a map (what of it is local), and a
 * source (where the rest comes from).  It splits each guest operation into
 * local and absent runs.
 *
 * Life: disk_open (before the fork: files, locks, recovery, probe of the
 * source; no threads), disk_start (after the fork: threads, connections, the
 * resumed job), guest operations from any thread, disk_gate (later calls get
 * ESHUTDOWN, waiters for the source are failed, all is committed, the
 * session is closed and the volume unlocked), disk_free.
 *
 * Shapes: offsets and lengths are bytes.  Strings handed out belong to the
 * disk and live as long as it.
 *
 * Lock order, and what is held across I/O: common/lock-ranks.h.  An event
 * callback runs with the disk's job lock held at most, and must not call back
 * into the engine.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_DISK_H
#define BACKFILL_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "job.h"
#include "source/source.h"
#include "trust.h"

struct disk;

enum disk_adopt {
  DISK_ADOPT_NONE,
  DISK_ADOPT_LOCAL,  /* the store's bytes are all the truth already */
  DISK_ADOPT_PLAIN,  /* the same, but only if it looks like a raw image that
                        is no volume's */
  DISK_ADOPT_ABSENT, /* none of them is */
  DISK_ADOPT_MOVED,  /* store and sidecar were copied here together */
};

enum disk_event_type {
  DISK_EVENT_JOB_STATUS,    /* JOB_STATUS_CHANGE: status */
  DISK_EVENT_JOB_COMPLETED, /* BLOCK_JOB_COMPLETED; info.error if it failed */
  DISK_EVENT_JOB_CANCELLED,
  DISK_EVENT_JOB_ERROR, /* BLOCK_JOB_ERROR: operation, action */
  DISK_EVENT_LOCAL,     /* all of the disk is local, durably */
  DISK_EVENT_SOURCE_LOST,
  DISK_EVENT_SOURCE_BACK,
};

struct disk_event {
  enum disk_event_type type;
  struct disk *disk;
  enum job_status status; /* JOB_STATUS */
  struct job_info job;    /* JOB_COMPLETED, JOB_CANCELLED, JOB_ERROR */
  const char *operation;  /* JOB_ERROR: "read" or "write" */
  const char *action;     /* JOB_ERROR: "report", "ignore" or "stop" */
  const char *reason;     /* SOURCE_LOST */
};
typedef void (*disk_event_fn) (void *opaque, const struct disk_event *ev);

/* All strings are copied.  NULL, 0 or false mean "not given": then the
 * sidecar's value holds, else the default. */
struct disk_config {
  const char *name;   /* "" if NULL; no '/' */
  bool store_is_name; /* it is called by its store's path, and the
                         name that the sidecar holds stays */
  bool no_command;    /* a backing store "[ CMD ... ]" is refused */
  bool has_owner;     /* the store must be this user's, else EPERM: found
                         out by its descriptor before anything is done */
  uid_t owner;
  bool has_file; /* so must it be that file, else ESTALE */
  struct file_id file;
  const char *store;       /* absolute path */
  const char *metadata;    /* sidecar; NULL: STORE.backfill */
  const char *backing;     /* NBD URI, or "[ CMD ARG ... ]" */
  const char *command_dir; /* absolute: where such a command runs that is
                              given here, or whose folder is not recorded */
  bool has_size;
  uint64_t size;
  uint32_t granule;
  enum disk_adopt adopt;
  bool read_only; /* nbdkit -r: nothing is written */
  bool discard_unflushed;
  bool identity_size; /* identity=size */
  bool has_identity;
  const char *runtime_dir; /* NULL: runtime_default_dir (); this process's
                              own directory in it is used (runtime.h) */
  const char *control;     /* control socket's path, for the record */
  bool session_later;      /* the session begins with disk_start: whoever ends
                              before leaves the volume as it was */
  bool user_later;      /* before that the process changes its user: what files
                           it has are made then (disk_change_user) */
  unsigned connections; /* 0: 4 */
  uint64_t timeout;     /* ms; 0: 30,000 */
  uint32_t fetch_unit;  /* bytes; 0: 1 MiB */
  const char *trace; /* boot trace: "auto", "off" or a file's path; NULL: off,
                        or auto if there is a directory */
  const char *trace_dir; /* for "auto"; NULL: the default */
  bool has_allocate;     /* start a job, if none is being resumed */
  struct job_options allocate;
  disk_event_fn event; /* may be NULL */
  void *event_opaque;
};

/* NULL with *error set (malloc'd): it names the thing and what to do. */
struct disk *disk_open (const struct disk_config *config, char **error)
    __attribute__ ((nonnull (1, 2)));

/* A volume that disk_open has made now belongs to that user.  False: it does
 * not, as it was there before, or cannot. */
bool disk_give (struct disk *disk, uid_t uid, gid_t gid)
    __attribute__ ((nonnull (1)));

/* If the process changes its user, as whom it starts and ends the disk: then
 * before disk_start.  The runtime directory is another then, and perhaps the
 * control socket's path (NULL: none). */
int disk_change_user (struct disk *disk, const char *control, char **error)
    __attribute__ ((nonnull (1, 3)));

/* Threads and connections; the process-wide pools must run (disk_pools).
 * Returns 0 or -1 with *error. */
int disk_start (struct disk *disk, char **error)
    __attribute__ ((nonnull (1, 2)));

/* Start and stop what all disks of a process share: the source's I/O
 * threads. */
int disk_pools_start (void);
void disk_pools_stop (void);

/* The process-wide limit of all jobs together, bytes/s, 0 = none. */
void disk_set_total_speed (uint64_t speed);
uint64_t disk_get_total_speed (void);
/* The most bytes that all jobs together may have asked for and not put into
 * their stores yet; the default is 64 MiB. */
void disk_set_in_flight (uint64_t bytes);
/* How many jobs of the process may run at once, 0 = any number; the others
 * wait for their turn, oldest first (status created).  One that is paused, or
 * whose source is lost, lets another run meanwhile. */
void disk_set_max_jobs (unsigned max);

/* Guest operations.  0, or -1 with errno: EIO, ENOSPC, EROFS, ESHUTDOWN,
 * ENOTSUP (fast zero only).  Ranges are within the disk (the caller checked)
 * and count is not 0. */
#define DISK_FUA 1u
#define DISK_MAY_TRIM 2u
#define DISK_FAST_ZERO 4u
int disk_pread (struct disk *disk, void *buf, uint64_t count, uint64_t offset)
    __attribute__ ((nonnull (1, 2)));
int disk_pwrite (struct disk *disk, const void *buf, uint64_t count,
                 uint64_t offset, unsigned flags)
    __attribute__ ((nonnull (1, 2)));
int disk_zero (struct disk *disk, uint64_t count, uint64_t offset,
               unsigned flags) __attribute__ ((nonnull (1)));
int disk_trim (struct disk *disk, uint64_t count, uint64_t offset,
               unsigned flags) __attribute__ ((nonnull (1)));
int disk_flush (struct disk *disk) __attribute__ ((nonnull (1)));
/* Make local: returns when it is, or EIO. */
int disk_cache (struct disk *disk, uint64_t count, uint64_t offset)
    __attribute__ ((nonnull (1)));

#define DISK_EXTENT_HOLE 1u /* as NBD's base:allocation */
#define DISK_EXTENT_ZERO 2u
/* Call fn for successive extents from offset, all inside the range, until
 * the range ends or fn returns non-zero (then that ends it: return 0).  At
 * least one.  The guest's view. */
typedef int (*disk_extent_fn) (void *opaque, uint64_t offset, uint64_t length,
                               unsigned flags);
int disk_extents (struct disk *disk, uint64_t count, uint64_t offset,
                  disk_extent_fn fn, void *opaque)
    __attribute__ ((nonnull (1, 4)));

/* What the map command shows. */
enum disk_region_state { DISK_LOCAL, DISK_ABSENT, DISK_ZERO };
typedef int (*disk_region_fn) (void *opaque, uint64_t offset, uint64_t length,
                               enum disk_region_state state);
/* Successive maximal regions of the range; fn's non-zero return ends it.
 * zero = local as a hole in the store (only if want_zero, else local).
 * -1 with EIO if a part of the sidecar is damaged. */
int disk_regions (struct disk *disk, uint64_t count, uint64_t offset,
                  bool want_zero, disk_region_fn fn, void *opaque)
    __attribute__ ((nonnull (1, 5)));

/* A boot trace (boot.h). */
struct disk_trace_info {
  const char *path; /* NULL: none is used */
  bool recording, replaying;
  uint64_t used, hit; /* bytes: fetched for the replay; of these, those read
                         by the guest since */
};

struct disk_info {
  const char *name, *store, *metadata;
  const char *backing; /* NULL: none */
  uint64_t size;
  uint32_t granule;
  uint64_t local, absent; /* bytes; local + absent = size */
  bool complete;          /* durably: needs no backing store again */
  bool detached;
  bool read_only;
  enum source_state source;
  char source_reason[256];
  uint64_t nr_damaged;     /* damaged sidecar sectors seen so far */
  uint64_t damaged_offset; /* first of them, as disk bytes */
  uint64_t damaged_length;
  int sync_error; /* errno of the failed sync, 0 = none (G24) */
  /* counters since start */
  uint64_t bytes_fetched, demand_fetches, ahead_fetches, background_fetches;
  uint64_t guest_reads, guest_writes, flushes, commits;
  struct job_info job;
  struct disk_trace_info trace;
};
/* May read the whole sidecar the first time: not on an event loop. */
int disk_get_info (struct disk *disk, struct disk_info *info)
    __attribute__ ((nonnull (1, 2)));

/* A volume that is not open here, as its files show it, for who only wants
 * to know.  Nothing is locked; see peek.c. */
struct disk_peek {
  struct disk_info info; /* if it has a sidecar; without counters */
  bool has_sidecar;
  bool is_plain;       /* a raw image without one: all of it is local */
  bool in_use;         /* another process has it open */
  uid_t owner;         /* of the store */
  struct file_id file; /* which file it is */
  char *store, *metadata, *backing; /* what info's strings are */
  char *error; /* why no more is known; set by whoever has asked */
};
/* map: count how much is local, which reads the whole sidecar.  -1 with errno
 * and *error. */
int disk_peek (const char *store, bool map, struct disk_peek *peek,
               char **error) __attribute__ ((nonnull (1, 3, 4)));
/* As disk_regions, of what was peeked at and known (has_sidecar or is_plain);
 * ESTALE if that is something else by now. */
int disk_peek_regions (const struct disk_peek *peek, uint64_t count,
                       uint64_t offset, bool want_zero, disk_region_fn fn,
                       void *opaque) __attribute__ ((nonnull (1, 5)));
void disk_peek_clear (struct disk_peek *peek) __attribute__ ((nonnull (1)));

const char *disk_name (struct disk *disk) __attribute__ ((nonnull (1)));
const char *disk_store_path (struct disk *disk) __attribute__ ((nonnull (1)));
uint64_t disk_size (struct disk *disk) __attribute__ ((nonnull (1)));
uint32_t disk_granule (struct disk *disk) __attribute__ ((nonnull (1)));
uint32_t disk_fetch_unit (struct disk *disk) __attribute__ ((nonnull (1)));
bool disk_read_only (struct disk *disk) __attribute__ ((nonnull (1)));
/* Which file its store is. */
struct file_id disk_file (struct disk *disk) __attribute__ ((nonnull (1)));
/* The user who owns the store now. */
uid_t disk_store_owner (struct disk *disk) __attribute__ ((nonnull (1)));
/* The same, as of a moment ago: without asking the store, which may not
 * answer. */
uid_t disk_store_owner_seen (struct disk *disk) __attribute__ ((nonnull (1)));

/* Let the backing store and the sidecar go: only when all is local (else -1,
 * EBUSY).  Returns 0 or -1 with errno and *error. */
int disk_detach (struct disk *disk, char **error)
    __attribute__ ((nonnull (1, 2)));

/* Close the gate, drain, commit, end the session, unlock: bounded.  May be
 * called again.  Returns 0, or -1 with errno: the last commit failed, or has
 * not ended in time (ETIMEDOUT). */
int disk_gate (struct disk *disk) __attribute__ ((nonnull (1)));
/* After disk_gate: nothing uses the disk any more, so that it may be freed
 * though the pools run.  False if the store does not answer: then neither it
 * nor what its threads use may be freed, until the process ends. */
bool disk_is_idle (struct disk *disk) __attribute__ ((nonnull (1)));
void disk_free (struct disk *disk);

/* The disks of a process, for control and the plugin.  Fixed after start. */
struct disks {
  struct disk **ptr;
  size_t len;
};
/* NULL if there is none of that name or store path (as given or resolved). */
struct disk *disks_find (const struct disks *disks, const char *name)
    __attribute__ ((nonnull (1, 2)));

#endif
