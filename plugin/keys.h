/* keys.h - the plugin's keys: one table (KEYS) declares name, form, whether it
 * is a disk's or the process's, and its line of help.  Inside of config.c,
 * keys.c and values.c.
 *
 * A key's string belongs to its section (config.c), and lives until
 * config_free.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_KEYS_H
#define BACKFILL_KEYS_H

#include <stdint.h>

struct disk_config;

enum scope { SCOPE_DISK, SCOPE_PROCESS };

/* id, name, value, scope, help.  `store` is the one a bare word means. */
#define KEYS(K)                                                              \
  K (STORE, "store", "PATH", SCOPE_DISK, "(required) local raw image")       \
  K (BACKING, "backing", "URI|PATH|'[ CMD ... ]'", SCOPE_DISK,               \
     "where absent data comes from: an NBD URI, a file or a command")        \
  K (NAME, "name", "NAME", SCOPE_DISK,                                       \
     "starts a disk: its name, and its export's")                            \
  K (SIZE, "size", "SIZE", SCOPE_DISK, "default: the backing store's")       \
  K (GRANULE, "granule", "SIZE", SCOPE_DISK,                                 \
     "unit of tracking, 512 to 64K, default 4K")                             \
  K (METADATA, "metadata", "PATH", SCOPE_DISK,                               \
     "sidecar, default STORE.backfill")                                      \
  K (ADOPT, "adopt", "local|absent|moved", SCOPE_DISK,                       \
     "what an existing store without a sidecar holds")                       \
  K (DISCARD, "discard-unflushed", "yes|no", SCOPE_DISK,                     \
     "open although unflushed writes are lost")                              \
  K (READONLY, "readonly", "on|off", SCOPE_DISK,                             \
     "write nothing, neither store nor sidecar")                             \
  K (IDENTITY, "identity", "content|size", SCOPE_DISK,                       \
     "what the backing store is known by, default content")                  \
  K (ALLOCATE, "allocate", "on|off|OFFSET+LENGTH", SCOPE_DISK,               \
     "start a job at start-up, default off")                                 \
  K (SPEED, "speed", "SIZE", SCOPE_DISK,                                     \
     "its limit, bytes per second, default 0: none")                         \
  K (MODE, "allocate-mode", "sparse|full", SCOPE_DISK,                       \
     "zeros as holes (default) or allocated")                                \
  K (ON_ERROR, "on-error", "report|skip", SCOPE_DISK,                        \
     "a range that cannot be read ends the job (default) or not")            \
  K (TIMEOUT, "timeout", "TIME", SCOPE_DISK,                                 \
     "how long reads wait for a lost source, default 30s")                   \
  K (RETRY, "retry", "TIME|forever", SCOPE_DISK,                             \
     "how long jobs try again, default forever")                             \
  K (FETCH, "fetch", "SIZE", SCOPE_DISK, "fetch unit, 4K to 2M, default 1M") \
  K (CONNECTIONS, "connections", "N", SCOPE_DISK,                            \
     "to the backing store, 1 to 16, default 4")                             \
  K (TRACE, "trace", "auto|off|PATH", SCOPE_DISK,                            \
     "record and replay what guests read first, default off")                \
  K (TRACE_DIR, "trace-dir", "PATH", SCOPE_DISK,                             \
     "where traces are, one for each image; trace=auto")                     \
  K (CONTROL, "control", "PATH|off", SCOPE_PROCESS,                          \
     "control socket, default in the runtime directory")                     \
  K (CONTROL_MODE, "control-mode", "OCTAL", SCOPE_PROCESS,                   \
     "its mode, default 0600")                                               \
  K (CONTROL_USER, "control-user", "USER", SCOPE_PROCESS,                    \
     "its owner, a name or number")                                          \
  K (CONTROL_GROUP, "control-group", "GROUP", SCOPE_PROCESS,                 \
     "its group, a name or number")                                          \
  K (RUNTIME_DIR, "runtime-dir", "PATH", SCOPE_PROCESS,                      \
     "default /run/backfill or $XDG_RUNTIME_DIR/backfill")                   \
  K (TOTAL_SPEED, "total-speed", "SIZE", SCOPE_PROCESS,                      \
     "limit of all jobs together, default 0: none")                          \
  K (IN_FLIGHT, "in-flight", "SIZE", SCOPE_PROCESS,                          \
     "the most that jobs may be asking for at a time, default 64M")          \
  K (COMMANDS, "commands", "on|off", SCOPE_PROCESS,                          \
     "off: a backing store [ CMD ... ] is refused, default on")

#define KEY_ID(id, name, arg, scope, help) KEY_##id,
enum key { KEYS (KEY_ID) NR_KEYS };

/* The table's rows, by enum key. */
extern const struct key_row {
  const char *name, *arg, *help;
  enum scope scope;
} keys[NR_KEYS];

/* The values of one disk's keys, or of the process's. */
struct section {
  char *value[NR_KEYS]; /* NULL: not given */
};

#define TITLE_MAX 300
/* "disk 'vda'", for messages. */
const char *disk_title (const struct section *s, char buf[TITLE_MAX])
    __attribute__ ((nonnull (1, 2)));

/* nbdkit_error with the keys that there are.  Returns -1. */
int keys_unknown (const char *key) __attribute__ ((nonnull (1)));

/* values.c.  -1 after nbdkit_error. */

/* One section to one disk_config, whose strings are the section's; what is not
 * given stays 0.  folder: where commands run. */
int value_disk (struct section *s, const char *folder, struct disk_config *d)
    __attribute__ ((nonnull (1, 3)));
/* Replace a path by the absolute one, if it is given. */
int value_absolute (struct section *s, enum key key)
    __attribute__ ((nonnull (1)));
/* A size from min to max.  *r is a uint64_t. */
int value_size (const struct section *s, enum key key, uint64_t min,
                uint64_t max, uint64_t *r) __attribute__ ((nonnull (1, 5)));
/* A limit in bytes a second, 0: none.  *r is a uint64_t. */
int value_speed (const struct section *s, enum key key, void *r)
    __attribute__ ((nonnull (1, 3)));

#endif
