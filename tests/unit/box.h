/* box.h - a volume in a folder of its own, for tests of the engine's policy.
 *
 * The program is linked with --wrap for the calls below, so that a test sees
 * what is done to the volume's files, in which order, and can hold a call up
 * or make it fail.
 *
 * A disk that was opened, but not started, has no threads: disk_free without
 * disk_gate then is the process's death.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_TESTS_BOX_H
#define BACKFILL_TESTS_BOX_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <sys/types.h>

#include "internal.h"

struct box {
  char dir[64], store[128], metadata[160], run[128], golden[128], sock[128],
      uri[200], log[128];
  pid_t server;
};

void box_make (struct box *b);
void box_drop (struct box *b);
/* A box with a disk of that size without a backing store, not started, whose
 * calls are recorded; and the end of both. */
struct disk *box_disk (struct box *b, uint64_t size);
void box_drop_disk (struct box *b, struct disk *d);

/* Of a disk of that size without a backing store. */
struct disk_config box_config (const struct box *b);
struct disk *box_open (const struct box *b, const struct disk_config *c);
/* The same, with its threads: the pools run. */
struct disk *box_start (const struct box *b, const struct disk_config *c);
/* It must not open: errno, and two words of the message. */
void box_refused (const struct box *b, const struct disk_config *c, int err,
                  const char *word1, const char *word2);
void box_close (struct disk *d);

/* golden is a file of that size; pieces of data (byte i is i % 251 + 1) and
 * holes of that length by turns, data first. */
void box_golden (const struct box *b, uint64_t size, uint64_t piece);
uint8_t box_golden_byte (uint64_t offset);
/* nbdkit serves it on sock, with those further arguments, NULL at the end:
 * filters, the plugin, its keys. */
void box_serve (struct box *b, const char *first, ...)
    __attribute__ ((sentinel));
void box_end_server (struct box *b);
/* "KEY=VALUE", malloc'd. */
char *box_key (const char *key, const char *value);

/* How the disk reads: all of [offset, offset+length) is that byte. */
void expect_bytes (struct disk *d, uint64_t offset, uint64_t length, int byte);
void fill_bytes (struct disk *d, uint64_t offset, uint64_t length, int byte,
                 unsigned flags);
bool is_local (struct disk *d, uint64_t offset, uint64_t length);
/* As map_mark, of what the store holds there, with the sums of that in W. */
int box_mark (struct disk *d, uint64_t g, uint64_t end, unsigned how);
/* The header as anybody may read it. */
struct sidecar *box_peek (const struct box *b);
/* Whether S holds the granule's bit. */
bool box_in_s (const struct box *b, uint64_t g);
/* How many files of that suffix the runtime directory has. */
unsigned box_count (const struct box *b, const char *suffix);

/* What was done to which file. */

enum call { CALL_WRITE, CALL_SYNC, CALL_DSYNC, NR_CALLS };
enum file { FILE_OTHER, FILE_STORE, FILE_SIDECAR, FILE_WORK };

/* From now on calls are recorded.  Files are known by their inode, so this
 * may come before they are made. */
void calls_record (const struct box *b);
/* "ws ss wm sm ...": call (write, sync, dsync) and file (store, metadata,
 * work), equal ones in a row as one; malloc'd; starts over. */
char *calls_take (void);
unsigned calls_count (enum call call, enum file file);
/* The next such call does its work and then waits for calls_let_go. */
void calls_hold (enum call call, enum file file);
void calls_wait_held (void);
void calls_let_go (void);
/* The same, and the call says that it failed. */
void calls_let_go_failed (int err);
/* Such calls fail from now on: 0 ends it. */
void calls_fail (enum call call, enum file file, int err);
/* Of the next write of more than that many bytes to that file only so many are
 * done; each write of it after that fails, until calls_fail. */
void calls_cut (enum file file, size_t bytes, int err);
/* The process ends before the nth such call from now on, as by SIGKILL: call it
 * in a child. */
void calls_die (unsigned n);
void calls_stop (void);

void wait_until (bool (*condition) (void *), void *opaque);
void nap_ms (unsigned ms);

#endif
