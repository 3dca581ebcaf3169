/* sidecar.c - the durable metadata file: open, create, the header's two
 * copies, the session's count.  See sidecar.h for the layout.
 *
 * Left out: locking between threads, and every decision about what a header
 * means (volume.c).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"
#include "cleanup.h"
#include "log.h"
#include "message.h"
#include "path.h"
#include "sidecar-internal.h"

int
sidecar_sync (struct sidecar *sc)
{
  return file_sync (sc->fd);
}

void
sidecar_unlock (struct sidecar *sc)
{
  file_unlock (sc->fd);
}

void
sidecar_free (struct sidecar *sc)
{
  if (!sc)
    return;
  if (sc->job_fd >= 0)
    close (sc->job_fd);
  if (sc->fd >= 0)
    close (sc->fd);
  sidecar_header_clear (&sc->h);
  role_clear (&sc->was);
  free (sc->path);
  free (sc);
}

/* Read both copies into buf, and the size of the file. */
static int
read_copies (struct sidecar *sc, uint8_t *buf, uint64_t *size, char **error)
{
  struct stat sb;

  if (fstat (sc->fd, &sb) == -1) {
    message_set (error, "%s: %m", sc->path);
    return -1;
  }
  if (!S_ISREG (sb.st_mode)) {
    message_set (error, "the sidecar %s is not a regular file", sc->path);
    errno = EINVAL;
    return -1;
  }
  *size = (uint64_t)sb.st_size;
  if (*size < 2 * SIDECAR_HEADER_SIZE) {
    message_set (error,
                 "%s is not a sidecar, or is cut short: it has %llu bytes; "
                 "name another with metadata=, or restore it from a backup",
                 sc->path, (unsigned long long)*size);
    errno = EINVAL;
    return -1;
  }
  if (sidecar_pread (sc, buf, 2 * SIDECAR_HEADER_SIZE, 0) == -1) {
    message_set (error, "cannot read the sidecar %s: %m", sc->path);
    return -1;
  }
  return 0;
}

/* The whole copy that was written last, 0 or 1; -1: none is whole. */
static int
latest_copy (const uint8_t *buf, bool whole[2])
{
  const uint8_t *a = buf, *b = buf + SIDECAR_HEADER_SIZE;

  whole[0] = sidecar_header_is_whole (a);
  whole[1] = sidecar_header_is_whole (b);
  if (whole[0] && whole[1])
    return sidecar_header_sequence (b) > sidecar_header_sequence (a) ? 1 : 0;
  return whole[0] ? 0 : whole[1] ? 1 : -1;
}

static int
no_copy_is_whole (struct sidecar *sc, const uint8_t *buf, char **error)
{
  bool magic = memcmp (buf, SIDECAR_MAGIC, 8) == 0
               || memcmp (buf + SIDECAR_HEADER_SIZE, SIDECAR_MAGIC, 8) == 0;

  message_set (error,
               magic ? "both copies of the header of the sidecar %s are "
                       "damaged: restore it from a backup, or give up what "
                       "is not in the backing store by removing it and "
                       "adopt=absent"
                     : "%s is not a sidecar (metadata= can name another)",
               sc->path);
  errno = EINVAL;
  return -1;
}

static int
write_copy (struct sidecar *sc, const uint8_t *copy, int i)
{
  return file_write (sc->fd, copy, SIDECAR_HEADER_SIZE,
                     (uint64_t)i * SIDECAR_HEADER_SIZE, 0)
                     == -1
                 || sidecar_sync (sc) == -1
             ? -1
             : 0;
}

/* Write the best copy to both places.  The best copy's own place comes first:
 * only the page cache may have that copy, as its process was killed or its sync
 * failed.  Then the other copy, which may be torn, damaged or behind, is all
 * that the disk has. */
static int
make_alike (struct sidecar *sc, const uint8_t *buf, int best,
            const bool whole[2], char **error)
{
  const uint8_t *copy = buf + (size_t)best * SIDECAR_HEADER_SIZE;
  int other = !best;

  if (!whole[other])
    log_error ("%s: header copy %c is damaged; made again from copy %c",
               sc->path, other ? 'B' : 'A', other ? 'A' : 'B');
  if (write_copy (sc, copy, best) == 0 && write_copy (sc, copy, other) == 0)
    return 0;
  message_set (error, "cannot write the sidecar %s: %m", sc->path);
  return -1;
}

static int
load_header (struct sidecar *sc, bool repair, char **error)
{
  CLEANUP_FREE uint8_t *buf = malloc (2 * SIDECAR_HEADER_SIZE);
  uint64_t size;
  bool whole[2];
  int best;

  if (!buf) {
    message_set (error, "out of memory");
    errno = ENOMEM;
    return -1;
  }
  if (read_copies (sc, buf, &size, error) == -1)
    return -1;
  best = latest_copy (buf, whole);
  if (best == -1)
    return no_copy_is_whole (sc, buf, error);
  if (sidecar_header_unpack (buf + (size_t)best * SIDECAR_HEADER_SIZE, size,
                             sc->path, &sc->h, error)
      == -1)
    return -1;
  /* A program acts on a role that it reads here, so a header with a role is
   * made durable first. */
  if (!repair
      || (sc->h.role.kind == ROLE_NONE
          && memcmp (buf, buf + SIDECAR_HEADER_SIZE, SIDECAR_HEADER_SIZE)
                 == 0)) {
    sc->loose = true;
    return 0;
  }
  return make_alike (sc, buf, best, whole, error);
}

void
sidecar_copies (struct sidecar *sc, bool valid[2])
{
  CLEANUP_FREE uint8_t *buf = malloc (2 * SIDECAR_HEADER_SIZE);

  valid[0] = valid[1] = false;
  if (!buf || sidecar_pread (sc, buf, 2 * SIDECAR_HEADER_SIZE, 0) == -1)
    return;
  for (int i = 0; i < 2; i++)
    valid[i] = sidecar_header_is_whole (buf + i * SIDECAR_HEADER_SIZE);
}

static struct sidecar *
sidecar_alloc (const char *path, bool read_only, char **error)
{
  struct sidecar *sc = calloc (1, sizeof *sc);

  if (sc) {
    sc->fd = sc->job_fd = -1;
    sc->read_only = read_only;
    sc->path = strdup (path);
    if (sc->path)
      return sc;
    free (sc);
  }
  message_set (error, "out of memory");
  errno = ENOMEM;
  return NULL;
}

/* The sidecar says what the store shall read as, and which job goes on.  In a
 * directory that many may write to, anyone could lay a sidecar beside another
 * user's store. */
static int
check_owner (const struct sidecar *sc, const uid_t *owner, char **error)
{
  struct stat sb;

  if (!owner)
    return 0;
  if (fstat (sc->fd, &sb) == -1) {
    message_set (error, "%s: %m", sc->path);
    return -1;
  }
  if (sb.st_uid == 0 || sb.st_uid == geteuid () || sb.st_uid == *owner)
    return 0;
  message_set (error,
               "the sidecar %s belongs to user %lu, not to the owner of the "
               "store: give it to that one, if you trust what it says",
               sc->path, (unsigned long)sb.st_uid);
  errno = EPERM;
  return -1;
}

static struct sidecar *
open_file (const char *path, bool read_only, bool lock, const uid_t *owner,
           char **error)
{
  struct sidecar *sc = sidecar_alloc (path, read_only, error);
  int err;

  if (!sc)
    return NULL;
  for (int tries = 0; tries < 10; tries++) {
    sc->fd
        = path_open_file (path, (read_only ? O_RDONLY : O_RDWR) | O_NONBLOCK);
    if (sc->fd == -1 && errno == EINVAL) {
      message_set (error, "the sidecar %s is not a regular file", path);
      goto fail;
    }
    if (sc->fd == -1) {
      message_set (error, "cannot open the sidecar %s: %m", path);
      goto fail;
    }
    if (check_owner (sc, owner, error) == -1)
      goto fail;
    if (lock && file_lock (sc->fd, read_only) == -1) {
      message_set (error, "cannot lock the sidecar %s: %m", path);
      goto fail;
    }
    if (!lock || file_is_at (sc->fd, path)) {
      struct stat sb;

      if (fstat (sc->fd, &sb) == 0 && S_ISREG (sb.st_mode) && sb.st_size == 0) {
        message_set (error,
                     "the sidecar %s is empty: its making was cut short, or it "
                     "was damaged; remove it if it may be made anew",
                     path);
        errno = EINVAL;
        goto fail;
      }
      if (load_header (sc, lock && !read_only, error) == -1)
        goto fail;
      return sc;
    }
    close (sc->fd);
    sc->fd = -1;
  }
  message_set (error, "the sidecar %s keeps being replaced while it is opened",
               path);
  errno = EAGAIN;

fail:
  err = errno;
  sidecar_free (sc);
  errno = err;
  return NULL;
}

struct sidecar *
sidecar_open (const char *path, bool read_only, char **error)
{
  return open_file (path, read_only, true, NULL, error);
}

struct sidecar *
sidecar_open_of (const char *path, bool read_only, const uid_t *owner,
                 char **error)
{
  return open_file (path, read_only, true, owner, error);
}

struct sidecar *
sidecar_peek (const char *path, char **error)
{
  return open_file (path, true, false, NULL, error);
}

/* Make both copies durable before the first write after an open.  The copies
 * read alike, but one may be in the page cache only, as its sync failed or its
 * process was killed.  Writing the same bytes again harms neither copy on the
 * disk. */
static int
make_firm (struct sidecar *sc)
{
  CLEANUP_FREE uint8_t *buf = malloc (2 * SIDECAR_HEADER_SIZE);

  if (!buf || sidecar_pread (sc, buf, 2 * SIDECAR_HEADER_SIZE, 0) == -1
      || file_write (sc->fd, buf, 2 * SIDECAR_HEADER_SIZE, 0, 0) == -1
      || sidecar_sync (sc) == -1)
    return -1;
  sc->loose = false;
  return 0;
}

static int
write_copies (struct sidecar *sc)
{
  CLEANUP_FREE uint8_t *buf = malloc (SIDECAR_HEADER_SIZE);
  const int first = sc->first, second = !first;

  if (!buf || (sc->loose && make_firm (sc) == -1))
    return -1;
  sc->h.sequence++;
  if (sidecar_header_pack (&sc->h, buf) == -1
      || write_copy (sc, buf, first) == -1)
    return -1;
  /* The first copy counts from here on.  Until the second copy is durable, too,
   * the first must not be written over. */
  sc->first = second;
  if (write_copy (sc, buf, second) == -1)
    return -1;
  sc->first = 0;
  return 0;
}

int
sidecar_write_header (struct sidecar *sc)
{
  if (!sc->unsure)
    return write_copies (sc);
  errno = EBUSY;
  return -1;
}

int
sidecar_set_role (struct sidecar *sc, const struct role *next, char **error)
{
  const char *why = "the volume was detached";

  if (!sc->unsure && role_copy (&sc->was, &sc->h.role) == -1) {
    message_set (error, "out of memory");
    return -1;
  }
  if ((sc->h.state & SIDECAR_DETACHED)
      || !role_may_follow (&sc->was, next, &why)) {
    message_set (error,
                 "the sidecar %s: the role '%s' in a migration cannot become "
                 "'%s': %s",
                 sc->path, role_name (sc->was.kind), role_name (next->kind),
                 why);
    errno = EINVAL;
    return -1;
  }
  if (role_copy (&sc->h.role, next) == -1) {
    message_set (error, "out of memory");
    return -1;
  }
  if (!sc->unsure && !sidecar_fits (sc)) {
    message_set (error,
                 "the names of the other side are too long for the "
                 "sidecar %s",
                 sc->path);
    role_clear (&sc->h.role);
    sc->h.role = sc->was;
    sc->was = (struct role){ 0 };
    errno = EINVAL;
    return -1;
  }
  sc->unsure = true;
  if (write_copies (sc) == -1) {
    message_set (error,
                 "cannot write the sidecar %s: %m; nobody is served until it "
                 "can be written",
                 sc->path);
    return -1;
  }
  sc->unsure = false;
  return 0;
}

bool
sidecar_serves (const struct sidecar *sc)
{
  return !sc->unsure && role_serves (&sc->h.role);
}

#define WORK_PATH_MAX 512u

bool
sidecar_fits (const struct sidecar *sc)
{
  CLEANUP_FREE uint8_t *buf = malloc (SIDECAR_HEADER_SIZE);
  size_t work = sc->h.work ? strlen (sc->h.work) : 0;

  if (!buf || sidecar_header_pack (&sc->h, buf) == -1)
    return false;
  return get_le32 (buf + 12) + (work < WORK_PATH_MAX ? WORK_PATH_MAX - work : 0)
         <= SIDECAR_HEADER_SIZE;
}

struct sidecar *
sidecar_create (const char *path, const struct sidecar_header *h, char **error)
{
  struct sidecar *sc = sidecar_alloc (path, false, error);
  static const uint8_t zeros[2 * SIDECAR_JOB_SIZE + SIDECAR_COUNT_SIZE];
  char *temp = NULL;
  int err;

  if (!sc)
    return NULL;
  if (sidecar_header_copy (&sc->h, h) == -1
      || getrandom (sc->h.uuid, SIDECAR_UUID_SIZE, 0) != SIDECAR_UUID_SIZE)
    goto fail;
  sc->h.sequence = 0;
  sc->h.job_offset = SIDECAR_JOB_OFFSET;
  sc->h.job_length = 2 * SIDECAR_JOB_SIZE;
  sc->h.count_offset = SIDECAR_COUNT_OFFSET;
  sc->h.count_length = SIDECAR_COUNT_SIZE;
  sc->h.map_offset = SIDECAR_MAP_OFFSET;
  sc->h.map_length = 0;
  if (!(h->state & SIDECAR_COMPLETE))
    sc->h.map_length = (uint64_t)sidecar_nr_sectors (sc) * SIDECAR_SECTOR;

  sc->fd = file_make (path, 0600, &temp);
  if (sc->fd == -1)
    goto fail;
  if (file_lock (sc->fd, false) == -1
      || file_write (sc->fd, zeros, sizeof zeros, SIDECAR_JOB_OFFSET, 0) == -1
      || ftruncate (sc->fd, SIDECAR_MAP_OFFSET) == -1
      || (sc->h.map_length && sidecar_write_empty_map (sc) == -1)
      || sidecar_write_header (sc) == -1 || fsync (sc->fd) == -1
      || file_link (sc->fd, path, &temp) == -1)
    goto fail;
  return sc;

fail:
  err = errno;
  message_set (error, "cannot make the sidecar %s: %m", path);
  if (temp) {
    path_unlink (temp);
    free (temp);
  }
  sidecar_free (sc);
  errno = err;
  return NULL;
}

/* The count. */

int
sidecar_write_count (struct sidecar *sc, uint64_t count)
{
  uint8_t le[8];

  put_le64 (le, count);
  return file_write (sc->fd, le, sizeof le, sc->h.count_offset, 0);
}

int
sidecar_read_count (struct sidecar *sc, uint64_t *count)
{
  uint8_t le[8];

  if (sc->h.count_length == 0) {
    errno = ENODATA;
    return -1;
  }
  if (sidecar_pread (sc, le, sizeof le, sc->h.count_offset) == -1)
    return -1;
  *count = get_le64 (le);
  return 0;
}

int
sidecar_begin_count (struct sidecar *sc, uint64_t *count)
{
  uint8_t area[SIDECAR_COUNT_SIZE] = { 0 };

  if (sc->h.count_length == 0) {
    struct sidecar_header h = sc->h;
    struct stat sb;

    /* An earlier version left the count's area free.  The area gets real
     * blocks, so that no later count needs room. */
    h.count_offset = SIDECAR_COUNT_OFFSET;
    h.count_length = SIDECAR_COUNT_SIZE;
    if (fstat (sc->fd, &sb) == -1)
      return -1;
    if (!sidecar_header_areas_are_apart (&h)
        || (uint64_t)sb.st_size < h.count_offset + h.count_length) {
      errno = ENOSPC;
      return -1;
    }
    sc->h.count_offset = h.count_offset;
    sc->h.count_length = h.count_length;
    *count = 0;
  }
  /* The count goes on: until the new header is durable the last session may
   * have to be recovered once more, and that session's W has this count. */
  else if (sidecar_read_count (sc, count) == -1)
    return -1;
  put_le64 (area, *count);
  return file_write (sc->fd, area, sizeof area, sc->h.count_offset, 0);
}

int
sidecar_strip (struct sidecar *sc)
{
  sc->h.map_length = 0;
  sc->h.job_length = 0;
  sc->h.count_length = 0;
  if (sidecar_write_header (sc) == -1)
    return -1;
  return ftruncate (sc->fd, 2 * SIDECAR_HEADER_SIZE) == -1 ? -1
                                                           : fsync (sc->fd);
}
