/* plugin.c - the nbdkit face: callbacks to disk_*().
 *
 * process.c has start and end, export.c what a client can open.  A connection's
 * handle is only a reference to an export of a disk that lives as long as the
 * process: clients open and close often, and nothing here connects, allocates
 * or blocks for them.
 *
 * Threads: every callback may run in parallel with itself; the engine does the
 * locking.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <syslog.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "bytes.h"
#include "disk.h"
#include "export.h"
#include "process.h"
#include "log.h"
#include "plugin.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

/* Longest request that clients are asked to send: that of QEMU.  A worker of
 * nbdkit keeps its largest buffer, so this bounds memory per connection, too.
 */
#define MAX_REQUEST (UINT32_C (32) << 20)

/* Most extents in one answer: the client asks again for the rest. */
#define MAX_EXTENTS 65536

/* nbdkit -D backfill.requests=1: a debug line for each request. */
int backfill_debug_requests;

static pid_t loaded_pid;

static void
log_to_nbdkit (enum log_level level, const char *fmt, va_list ap)
{
  if (level == LOG_LEVEL_ERROR)
    nbdkit_verror (fmt, ap);
  else if (level == LOG_LEVEL_DEBUG)
    nbdkit_vdebug (fmt, ap);
  else if (getpid () != loaded_pid)
    /* nbdkit's calls are for errors and for debugging; this is neither.  In the
     * background nbdkit's errors go to syslog, and standard error to nobody. */
    vsyslog (LOG_DAEMON | LOG_INFO, fmt, ap);
  else {
    int err = errno;

    flockfile (stderr);
    fputs ("nbdkit: backfill: ", stderr);
    errno = err;
    vfprintf (stderr, fmt, ap);
    putc ('\n', stderr);
    funlockfile (stderr);
  }
}

static void
backfill_load (void)
{
  loaded_pid = getpid ();
  log_set_sink (log_to_nbdkit);
  config_make_help ();
}

static void
backfill_dump_plugin (void)
{
  printf ("backfill_version=%s\n", PACKAGE_VERSION);
  printf ("backfill_keys=");
  config_print_keys ();
  printf ("\nbackfill_exports=NAME NAME/map\n");
  printf ("backfill_max_request=%" PRIu32 "\n", MAX_REQUEST);
}

/* --- connections ------------------------------------------------------ */

static const char *
backfill_export_description (void *handle)
{
  const struct export *e = handle;

  return e->map ? "allocation map: data is local, a hole is absent" : NULL;
}

static int64_t
backfill_get_size (void *handle)
{
  const struct export *e = handle;

  return disk_size (e->disk);
}

/* Any alignment is served, so the minimum is 1: a larger one would have QEMU
 * read, change and write back, and lose zeroes and trims.  Preferred is what a
 * write can do without fetching its granule's rest; the fetch unit would be
 * too much for random readers of local data, and demand is widened anyway. */
static int
backfill_block_size (void *handle, uint32_t *minimum, uint32_t *preferred,
                     uint32_t *maximum)
{
  const struct export *e = handle;

  *minimum = 1;
  *preferred = max_u64 (4096, disk_granule (e->disk));
  *maximum = MAX_REQUEST;
  return 0;
}

static int
backfill_can_write (void *handle)
{
  const struct export *e = handle;

  return !e->read_only;
}

/* All connections share one disk object, and a flush on any commits all that
 * was written on others. */
static int
backfill_can_multi_conn (void *handle)
{
  (void)handle;
  return 1;
}

static int
backfill_can_fua (void *handle)
{
  (void)handle;
  return NBDKIT_FUA_NATIVE;
}

static int
backfill_can_cache (void *handle)
{
  const struct export *e = handle;

  return e->map || disk_read_only (e->disk) ? NBDKIT_CACHE_NONE
                                            : NBDKIT_CACHE_NATIVE;
}

static int
backfill_yes (void *handle)
{
  (void)handle;
  return 1;
}

static int
backfill_is_rotational (void *handle)
{
  (void)handle;
  return 0;
}

/* --- requests --------------------------------------------------------- */

/* Nbdkit turns an errno that it does not know into EINVAL, which a guest takes
 * for its own mistake; and ENOTSUP for anything but a fast zero makes nbdkit
 * zero the wrong place, or abort.  So both become EIO. */
static int
result (int r, bool fast_zero)
{
  if (r != -1)
    return 0;
  switch (errno) {
  case EPERM:
  case EROFS:
  case EIO:
  case ENOMEM:
  case ENOSPC:
  case EFBIG:
  case EDQUOT:
  case ESHUTDOWN:
    break;
  case ENOTSUP:
    if (!fast_zero)
      errno = EIO;
    break;
  default:
    errno = EIO;
  }
  return -1;
}

static unsigned
disk_flags (uint32_t flags)
{
  return (flags & NBDKIT_FLAG_FUA ? DISK_FUA : 0)
         | (flags & NBDKIT_FLAG_MAY_TRIM ? DISK_MAY_TRIM : 0)
         | (flags & NBDKIT_FLAG_FAST_ZERO ? DISK_FAST_ZERO : 0);
}

static void
debug_request (const char *what, const struct export *e, uint32_t count,
               uint64_t offset, uint32_t flags)
{
  if (__builtin_expect (backfill_debug_requests, 0))
    nbdkit_debug (
        "%s%s: %s count=%" PRIu32 " offset=%" PRIu64 " flags=%" PRIx32,
        disk_name (e->disk), e->map ? "/map" : "", what, count, offset, flags);
}

static int
backfill_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
                uint32_t flags)
{
  const struct export *e = handle;

  debug_request ("pread", e, count, offset, flags);
  if (e->map) {
    memset (buf, 0, count);
    return 0;
  }
  return result (disk_pread (e->disk, buf, count, offset), false);
}

static int
backfill_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset,
                 uint32_t flags)
{
  const struct export *e = handle;

  debug_request ("pwrite", e, count, offset, flags);
  return result (disk_pwrite (e->disk, buf, count, offset, disk_flags (flags)),
                 false);
}

static int
backfill_zero (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  const struct export *e = handle;

  debug_request ("zero", e, count, offset, flags);
  return result (disk_zero (e->disk, count, offset, disk_flags (flags)),
                 flags & NBDKIT_FLAG_FAST_ZERO);
}

static int
backfill_trim (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  const struct export *e = handle;

  debug_request ("trim", e, count, offset, flags);
  return result (disk_trim (e->disk, count, offset, disk_flags (flags)), false);
}

static int
backfill_flush (void *handle, uint32_t flags)
{
  const struct export *e = handle;

  debug_request ("flush", e, 0, 0, flags);
  return e->map ? 0 : result (disk_flush (e->disk), false);
}

static int
backfill_cache (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  const struct export *e = handle;

  debug_request ("cache", e, count, offset, flags);
  return result (disk_cache (e->disk, count, offset), false);
}

/* A block status answer that is being made. */
struct answer {
  struct nbdkit_extents *extents;
  uint64_t end;
  unsigned left; /* extents that may still be added */
  bool failed;
};

/* Extents are clamped to the request: one that is longer than 4 GiB aborts
 * this nbdkit. */
static int
add_extent (void *opaque, uint64_t offset, uint64_t length, unsigned flags)
{
  struct answer *a = opaque;
  uint32_t type = 0;

  if (offset >= a->end)
    return 1;
  if (flags & DISK_EXTENT_HOLE)
    type |= NBDKIT_EXTENT_HOLE;
  if (flags & DISK_EXTENT_ZERO)
    type |= NBDKIT_EXTENT_ZERO;
  if (nbdkit_add_extent (a->extents, offset, min_u64 (length, a->end - offset),
                         type)
      == -1) {
    a->failed = true;
    return 1;
  }
  return --a->left == 0;
}

static int
add_region (void *opaque, uint64_t offset, uint64_t length,
            enum disk_region_state state)
{
  return add_extent (opaque, offset, length,
                     state == DISK_ABSENT ? DISK_EXTENT_HOLE : 0);
}

static int
backfill_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                  struct nbdkit_extents *extents)
{
  const struct export *e = handle;
  struct answer a = {
    .extents = extents,
    .end = offset + count,
    .left = flags & NBDKIT_FLAG_REQ_ONE ? 1 : MAX_EXTENTS,
  };
  int r;

  debug_request ("extents", e, count, offset, flags);
  r = e->map ? disk_regions (e->disk, count, offset, false, add_region, &a)
             : disk_extents (e->disk, count, offset, add_extent, &a);
  return result (a.failed ? -1 : r, false);
}

static struct nbdkit_plugin plugin = {
  .name = "backfill",
  .longname = "nbdkit backfill plugin",
  .version = PACKAGE_VERSION,
  .description = "Serve a disk at once from a local raw image and a backing "
                 "store, and fill it in afterwards.",

  .load = backfill_load,
  .unload = process_unload,
  .dump_plugin = backfill_dump_plugin,

  .config = config_key,
  .config_complete = process_config_complete,
  .config_help = config_help,
  .magic_config_key = "store",

  .get_ready = process_get_ready,
  .after_fork = process_after_fork,
  .cleanup = process_cleanup,

  .list_exports = export_list,
  .default_export = export_default,
  .export_description = backfill_export_description,
  .open = export_open,

  .get_size = backfill_get_size,
  .block_size = backfill_block_size,
  .can_write = backfill_can_write,
  .can_multi_conn = backfill_can_multi_conn,
  .can_fua = backfill_can_fua,
  .can_cache = backfill_can_cache,
  .can_flush = backfill_yes,
  .can_trim = backfill_yes,
  .can_zero = backfill_yes,
  .can_fast_zero = backfill_yes,
  .can_extents = backfill_yes,
  .is_rotational = backfill_is_rotational,

  .pread = backfill_pread,
  .pwrite = backfill_pwrite,
  .zero = backfill_zero,
  .trim = backfill_trim,
  .flush = backfill_flush,
  .cache = backfill_cache,
  .extents = backfill_extents,

  .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN (plugin)
