/* sidecar.c - the durable metadata file.  See sidecar.h for the layout.
 *
 * The header is packed by hand, field by field, so that the format does not
 * hang on a compiler; strings and settings are records of {id, length,
 * bytes}, so that a later version can add one that this one skips.
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
#include "crc32c.h"
#include "log.h"
#include "message.h"
#include "path.h"
#include "sidecar.h"
#include "store.h"

#define FIXED_SIZE 192u
#define AREA_SIZE 24u
#define MAX_AREAS 64u

enum { AREA_MAP = 1, AREA_JOB = 2, AREA_COUNT = 3 };
/* A program that does not know the area's kind must refuse the volume. */
#define AREA_MUST_KNOW 1u

enum {
  FIELD_NAME = 1,
  FIELD_BACKING = 2,
  FIELD_WORK = 3,
  FIELD_CONTROL = 4,
  FIELD_TIMEOUT = 5,
  FIELD_RETRY = 6,
  FIELD_FETCH = 7,
  FIELD_CONNECTIONS = 8,
  FIELD_STORE = 9,
  FIELD_NONCE = 10,
  FIELD_USER = 11,
  FIELD_COMMAND_DIR = 16,
};

#define JOB_MAGIC "BKJOB\r\n\0"
#define JOB_BODY                                              \
  640u /* bytes that the record's CRC covers, itself excluded \
        */

static int
read_all (int fd, void *buf, size_t len, uint64_t offset)
{
  char *p = buf;

  while (len > 0) {
    ssize_t r = pread (fd, p, len, (off_t)offset);

    if (r == -1 && errno == EINTR)
      continue;
    if (r <= 0) {
      if (r == 0)
        errno = EILSEQ;
      return -1;
    }
    p += r;
    len -= (size_t)r;
    offset += (uint64_t)r;
  }
  return 0;
}

int
sidecar_sync (struct sidecar *sc)
{
  return store_sync_fd (sc->fd);
}

void
sidecar_unlock (struct sidecar *sc)
{
  store_unlock_fd (sc->fd);
}

int
sidecar_set (char **field, const char *value)
{
  char *copy = NULL;

  if (value && !(copy = strdup (value)))
    return -1;
  free (*field);
  *field = copy;
  return 0;
}

void
sidecar_header_clear (struct sidecar_header *h)
{
  free (h->name);
  free (h->backing);
  free (h->work);
  free (h->control);
  free (h->store);
  free (h->command_dir);
  memset (h, 0, sizeof *h);
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
  free (sc->path);
  free (sc);
}

uint32_t
sidecar_nr_sectors (const struct sidecar *sc)
{
  uint64_t granules = (sc->h.size + sc->h.granule - 1) / sc->h.granule;

  return (uint32_t)((granules + SIDECAR_BITS - 1) / SIDECAR_BITS);
}

/* Packing. */

struct packer {
  uint8_t *p;
  size_t len, cap;
  bool full;
};

static void
pack_field (struct packer *pk, uint32_t id, const void *bytes, size_t len)
{
  if (len > UINT32_MAX || pk->len + 8 + len > pk->cap) {
    pk->full = true;
    return;
  }
  put_le32 (pk->p + pk->len, id);
  put_le32 (pk->p + pk->len + 4, (uint32_t)len);
  memcpy (pk->p + pk->len + 8, bytes, len);
  pk->len += 8 + len;
}

static uint32_t
pack_string (struct packer *pk, uint32_t id, const char *s)
{
  if (!s)
    return 0;
  pack_field (pk, id, s, strlen (s));
  return 1;
}

static uint32_t
pack_number (struct packer *pk, uint32_t id, uint64_t n)
{
  uint8_t le[8];

  if (n == 0)
    return 0;
  put_le64 (le, n);
  pack_field (pk, id, le, sizeof le);
  return 1;
}

static bool
has_nonce (const struct sidecar_header *h)
{
  static const uint8_t none[SIDECAR_NONCE_SIZE];

  return memcmp (h->nonce, none, sizeof none) != 0;
}

/* buf holds SIDECAR_HEADER_SIZE bytes.  -1 with ENAMETOOLONG if the strings
 * do not fit. */
static int
pack_header (const struct sidecar_header *h, uint8_t *buf)
{
  struct packer pk
      = { .p = buf, .len = FIXED_SIZE, .cap = SIDECAR_HEADER_SIZE - 4 };
  uint32_t areas = 0, fields = 0;

  memset (buf, 0, SIDECAR_HEADER_SIZE);
  memcpy (buf, SIDECAR_MAGIC, 8);
  put_le32 (buf + 8, SIDECAR_VERSION);
  /* 16..39: compat, ro-compat and incompat features: none yet. */
  memcpy (buf + 40, h->uuid, SIDECAR_UUID_SIZE);
  put_le64 (buf + 56, h->sequence);
  put_le64 (buf + 64, h->size);
  put_le32 (buf + 72, h->granule);
  put_le32 (buf + 76, h->state);
  put_le64 (buf + 80, h->store_ino);
  put_le64 (buf + 88, h->store_btime);
  put_le32 (buf + 96, h->identity_mode);
  put_le64 (buf + 104, h->identity_size);
  memcpy (buf + 112, h->identity_digest, SIDECAR_DIGEST_SIZE);
  put_le64 (buf + 144, h->session);
  put_le32 (buf + 152, h->session_open);
  put_le32 (buf + 156, h->session_pid);
  memcpy (buf + 160, h->boot_id, SIDECAR_BOOT_ID_SIZE);

  for (int kind = AREA_MAP; kind <= AREA_COUNT; kind++) {
    uint64_t offset = kind == AREA_MAP   ? h->map_offset
                      : kind == AREA_JOB ? h->job_offset
                                         : h->count_offset;
    uint64_t length = kind == AREA_MAP   ? h->map_length
                      : kind == AREA_JOB ? h->job_length
                                         : h->count_length;

    if (length == 0)
      continue;
    put_le32 (buf + pk.len, (uint32_t)kind);
    /* Who does not know the count does not know the W that needs it. */
    put_le32 (buf + pk.len + 4, kind == AREA_COUNT ? 0 : AREA_MUST_KNOW);
    put_le64 (buf + pk.len + 8, offset);
    put_le64 (buf + pk.len + 16, length);
    pk.len += AREA_SIZE;
    areas++;
  }
  fields += pack_string (&pk, FIELD_NAME, h->name);
  fields += pack_string (&pk, FIELD_BACKING, h->backing);
  fields += pack_string (&pk, FIELD_WORK, h->work);
  fields += pack_string (&pk, FIELD_CONTROL, h->control);
  fields += pack_string (&pk, FIELD_STORE, h->store);
  if (has_nonce (h)) {
    pack_field (&pk, FIELD_NONCE, h->nonce, sizeof h->nonce);
    fields++;
  }
  fields += pack_string (&pk, FIELD_COMMAND_DIR, h->command_dir);
  fields += pack_number (&pk, FIELD_TIMEOUT, h->timeout);
  fields += pack_number (&pk, FIELD_RETRY, h->retry);
  fields += pack_number (&pk, FIELD_FETCH, h->fetch_unit);
  fields += pack_number (&pk, FIELD_CONNECTIONS, h->connections);
  fields += pack_number (&pk, FIELD_USER, h->session_user);
  if (pk.full) {
    errno = ENAMETOOLONG;
    return -1;
  }
  put_le32 (buf + 184, areas);
  put_le32 (buf + 188, fields);
  put_le32 (buf + 12, (uint32_t)(pk.len + 4));
  put_le32 (buf + pk.len, crc32c (buf, pk.len));
  return 0;
}

/* One copy is whole: magic, length, CRC.  What it says is looked at later. */
static bool
copy_is_whole (const uint8_t *buf)
{
  uint32_t len = get_le32 (buf + 12);

  return memcmp (buf, SIDECAR_MAGIC, 8) == 0 && len >= FIXED_SIZE + 4
         && len <= SIDECAR_HEADER_SIZE
         && crc32c (buf, len - 4) == get_le32 (buf + len - 4);
}

static char *
unpack_string (const uint8_t *p, uint32_t len)
{
  /* A NUL inside would cut the string in silence. */
  if (memchr (p, 0, len))
    return NULL;
  return strndup ((const char *)p, len);
}

static int
unpack_fields (const uint8_t *buf, size_t pos, size_t end, uint32_t fields,
               struct sidecar_header *h)
{
  for (uint32_t i = 0; i < fields; i++) {
    uint32_t id, len;
    const uint8_t *p;
    char **string = NULL;

    if (end - pos < 8)
      return -1;
    id = get_le32 (buf + pos);
    len = get_le32 (buf + pos + 4);
    pos += 8;
    if (len > end - pos)
      return -1;
    p = buf + pos;
    pos += len;

    switch (id) {
    case FIELD_NAME:
      string = &h->name;
      break;
    case FIELD_BACKING:
      string = &h->backing;
      break;
    case FIELD_WORK:
      string = &h->work;
      break;
    case FIELD_CONTROL:
      string = &h->control;
      break;
    case FIELD_STORE:
      string = &h->store;
      break;
    case FIELD_NONCE:
      if (len != sizeof h->nonce)
        return -1;
      memcpy (h->nonce, p, sizeof h->nonce);
      break;
    case FIELD_COMMAND_DIR:
      string = &h->command_dir;
      break;
    case FIELD_TIMEOUT:
    case FIELD_RETRY:
    case FIELD_FETCH:
    case FIELD_CONNECTIONS:
    case FIELD_USER:
      if (len != 8)
        return -1;
      if (id == FIELD_TIMEOUT)
        h->timeout = get_le64 (p);
      else if (id == FIELD_RETRY)
        h->retry = get_le64 (p);
      else if (id == FIELD_FETCH)
        h->fetch_unit = (uint32_t)get_le64 (p);
      else if (id == FIELD_USER)
        h->session_user = (uint32_t)get_le64 (p);
      else
        h->connections = (uint32_t)get_le64 (p);
      break;
    default: /* a later version's */
      break;
    }
    if (string) {
      free (*string);
      if (!(*string = unpack_string (p, len)))
        return -1;
    }
  }
  return 0;
}

static bool
apart (uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length)
{
  return a_length == 0 || b_length == 0 || a + a_length <= b
         || b + b_length <= a;
}

/* An area takes nothing of the header, nor of another. */
static bool
areas_are_apart (const struct sidecar_header *h)
{
  const uint64_t head = 2 * SIDECAR_HEADER_SIZE;

  return (h->map_length == 0 || h->map_offset % SIDECAR_SECTOR == 0)
         && apart (0, head, h->map_offset, h->map_length)
         && apart (0, head, h->job_offset, h->job_length)
         && apart (0, head, h->count_offset, h->count_length)
         && apart (h->map_offset, h->map_length, h->job_offset, h->job_length)
         && apart (h->map_offset, h->map_length, h->count_offset,
                   h->count_length)
         && apart (h->job_offset, h->job_length, h->count_offset,
                   h->count_length);
}

/* What a whole copy says.  file_size is the sidecar's own. */
static int
unpack_header (const uint8_t *buf, uint64_t file_size, const char *path,
               struct sidecar_header *h, char **error)
{
  size_t end = get_le32 (buf + 12) - 4;
  size_t pos = FIXED_SIZE;
  uint32_t areas = get_le32 (buf + 184);
  uint64_t granules;

  if (get_le32 (buf + 8) != SIDECAR_VERSION) {
    message_set (error,
                 "the sidecar %s is of version %u and this program reads "
                 "version %u: use the program that wrote it",
                 path, get_le32 (buf + 8), SIDECAR_VERSION);
    goto fail;
  }
  if (get_le64 (buf + 24) != 0 || get_le64 (buf + 32) != 0) {
    message_set (error,
                 "the sidecar %s needs features that this program does not "
                 "have (ro-compat 0x%llx, incompat 0x%llx): use a newer one",
                 path, (unsigned long long)get_le64 (buf + 24),
                 (unsigned long long)get_le64 (buf + 32));
    goto fail;
  }
  memcpy (h->uuid, buf + 40, SIDECAR_UUID_SIZE);
  h->sequence = get_le64 (buf + 56);
  h->size = get_le64 (buf + 64);
  h->granule = get_le32 (buf + 72);
  h->state = get_le32 (buf + 76);
  h->store_ino = get_le64 (buf + 80);
  h->store_btime = get_le64 (buf + 88);
  h->identity_mode = get_le32 (buf + 96);
  h->identity_size = get_le64 (buf + 104);
  memcpy (h->identity_digest, buf + 112, SIDECAR_DIGEST_SIZE);
  h->session = get_le64 (buf + 144);
  h->session_open = get_le32 (buf + 152) != 0;
  h->session_pid = get_le32 (buf + 156);
  memcpy (h->boot_id, buf + 160, SIDECAR_BOOT_ID_SIZE);

  if (!is_power_of_2 (h->granule) || h->granule < 512 || h->granule > 65536
      || h->size > SIDECAR_MAX_SIZE (h->granule)
      || h->identity_mode > SIDECAR_IDENTITY_SIZE || areas > MAX_AREAS
      || (end - pos) / AREA_SIZE < areas)
    goto nonsense;

  for (uint32_t i = 0; i < areas; i++, pos += AREA_SIZE) {
    uint32_t kind = get_le32 (buf + pos);
    uint32_t flags = get_le32 (buf + pos + 4);
    uint64_t offset = get_le64 (buf + pos + 8);
    uint64_t length = get_le64 (buf + pos + 16);

    if (offset > INT64_MAX || length > INT64_MAX)
      goto nonsense;
    if (offset + length > file_size) {
      message_set (error,
                   "the sidecar %s is cut short: it has %llu bytes and needs "
                   "%llu; restore it from a backup, or give up what is not in "
                   "the backing store by removing it and adopt=absent",
                   path, (unsigned long long)file_size,
                   (unsigned long long)(offset + length));
      goto fail;
    }
    if (kind == AREA_MAP) {
      h->map_offset = offset;
      h->map_length = length;
    }
    else if (kind == AREA_JOB) {
      h->job_offset = offset;
      h->job_length = length;
    }
    else if (kind == AREA_COUNT) {
      h->count_offset = offset;
      h->count_length = length;
    }
    else if (flags & AREA_MUST_KNOW) {
      message_set (error,
                   "the sidecar %s has an area of kind %u, which this program "
                   "does not know: use a newer one",
                   path, kind);
      goto fail;
    }
  }
  granules = (h->size + h->granule - 1) / h->granule;
  if (!(h->state & SIDECAR_COMPLETE)
      && h->map_length / SIDECAR_SECTOR
             < (granules + SIDECAR_BITS - 1) / SIDECAR_BITS)
    goto nonsense;
  if ((h->job_length != 0 && h->job_length < 2 * SIDECAR_JOB_SIZE)
      || (h->count_length != 0 && h->count_length < SIDECAR_COUNT_SIZE)
      || !areas_are_apart (h))
    goto nonsense;
  if (unpack_fields (buf, pos, end, get_le32 (buf + 188), h) == -1)
    goto nonsense;
  return 0;

nonsense:
  message_set (error,
               "the sidecar %s has a header that makes no sense: restore it "
               "from a backup, or give up what is not in the backing store by "
               "removing it and adopt=absent",
               path);
fail:
  sidecar_header_clear (h);
  errno = EINVAL;
  return -1;
}

static int
load_header (struct sidecar *sc, bool repair, char **error)
{
  CLEANUP_FREE uint8_t *buf = malloc (2 * SIDECAR_HEADER_SIZE);
  const uint8_t *best = NULL;
  bool whole[2];
  struct stat sb;

  if (!buf) {
    message_set (error, "out of memory");
    errno = ENOMEM;
    return -1;
  }
  if (fstat (sc->fd, &sb) == -1) {
    message_set (error, "%s: %m", sc->path);
    return -1;
  }
  if (!S_ISREG (sb.st_mode)) {
    message_set (error, "the sidecar %s is not a regular file", sc->path);
    errno = EINVAL;
    return -1;
  }
  if ((uint64_t)sb.st_size < 2 * SIDECAR_HEADER_SIZE) {
    message_set (error,
                 "%s is not a sidecar, or is cut short: it has %llu bytes; "
                 "name another with metadata=, or restore it from a backup",
                 sc->path, (unsigned long long)sb.st_size);
    errno = EINVAL;
    return -1;
  }
  if (read_all (sc->fd, buf, 2 * SIDECAR_HEADER_SIZE, 0) == -1) {
    message_set (error, "cannot read the sidecar %s: %m", sc->path);
    return -1;
  }
  for (int i = 0; i < 2; i++) {
    const uint8_t *copy = buf + i * SIDECAR_HEADER_SIZE;

    whole[i] = copy_is_whole (copy);
    if (whole[i] && (!best || get_le64 (copy + 56) > get_le64 (best + 56)))
      best = copy;
  }
  if (!best) {
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
  if (unpack_header (best, (uint64_t)sb.st_size, sc->path, &sc->h, error) == -1)
    return -1;

  /* One copy that is torn, damaged or behind: bring it up to the other. */
  if (repair
      && memcmp (buf, buf + SIDECAR_HEADER_SIZE, SIDECAR_HEADER_SIZE) != 0) {
    int other = best == buf ? 1 : 0;

    if (!whole[other])
      log_error ("%s: header copy %c is damaged; made again from copy %c",
                 sc->path, other ? 'B' : 'A', other ? 'A' : 'B');
    if (store_write_fd (sc->fd, best, SIDECAR_HEADER_SIZE,
                        (uint64_t)other * SIDECAR_HEADER_SIZE, 0)
            == -1
        || sidecar_sync (sc) == -1) {
      message_set (error, "cannot write the sidecar %s: %m", sc->path);
      return -1;
    }
  }
  return 0;
}

void
sidecar_copies (struct sidecar *sc, bool valid[2])
{
  CLEANUP_FREE uint8_t *buf = malloc (2 * SIDECAR_HEADER_SIZE);

  valid[0] = valid[1] = false;
  if (!buf || read_all (sc->fd, buf, 2 * SIDECAR_HEADER_SIZE, 0) == -1)
    return;
  for (int i = 0; i < 2; i++)
    valid[i] = copy_is_whole (buf + i * SIDECAR_HEADER_SIZE);
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

/* It says what the store shall read as, and which job goes on.  In a folder
 * that many may write to, anyone could lay one beside another's store. */
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
    if (lock && store_lock_fd (sc->fd, read_only) == -1) {
      message_set (error, "cannot lock the sidecar %s: %m", path);
      goto fail;
    }
    if (!lock || store_same_file (sc->fd, path)) {
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

int
sidecar_write_header (struct sidecar *sc)
{
  CLEANUP_FREE uint8_t *buf = malloc (SIDECAR_HEADER_SIZE);

  if (!buf)
    return -1;
  sc->h.sequence++;
  if (pack_header (&sc->h, buf) == -1)
    return -1;
  for (unsigned i = 0; i < 2; i++)
    if (store_write_fd (sc->fd, buf, SIDECAR_HEADER_SIZE,
                        i * SIDECAR_HEADER_SIZE, 0)
            == -1
        || sidecar_sync (sc) == -1)
      return -1;
  return 0;
}

#define WORK_PATH_MAX 512u

bool
sidecar_fits (const struct sidecar *sc)
{
  CLEANUP_FREE uint8_t *buf = malloc (SIDECAR_HEADER_SIZE);
  size_t work = sc->h.work ? strlen (sc->h.work) : 0;

  if (!buf || pack_header (&sc->h, buf) == -1)
    return false;
  return get_le32 (buf + 12) + (work < WORK_PATH_MAX ? WORK_PATH_MAX - work : 0)
         <= SIDECAR_HEADER_SIZE;
}

/* Sectors. */

static void
seal_sector (const struct sidecar *sc, uint32_t index, const uint64_t *words,
             uint8_t *sector)
{
  for (unsigned i = 0; i < SIDECAR_WORDS; i++)
    put_le64 (sector + 8 * i, words[i]);
  memcpy (sector + 496, sc->h.uuid, 8);
  put_le32 (sector + 504, index);
  put_le32 (sector + 508, crc32c (sector, 508));
}

static bool
sector_is_sealed (const struct sidecar *sc, uint32_t index,
                  const uint8_t *sector)
{
  return memcmp (sector + 496, sc->h.uuid, 8) == 0
         && get_le32 (sector + 504) == index
         && get_le32 (sector + 508) == crc32c (sector, 508);
}

int
sidecar_read_map (struct sidecar *sc, uint32_t index, unsigned count,
                  uint64_t *words, bool *bad)
{
  uint8_t buf[16 * SIDECAR_SECTOR];

  while (count > 0) {
    unsigned n = count < 16 ? count : 16;

    if (read_all (sc->fd, buf, n * SIDECAR_SECTOR,
                  sc->h.map_offset + (uint64_t)index * SIDECAR_SECTOR)
        == -1)
      return -1;
    for (unsigned i = 0; i < n; i++) {
      const uint8_t *sector = buf + i * SIDECAR_SECTOR;

      bad[i] = !sector_is_sealed (sc, index + i, sector);
      for (unsigned w = 0; w < SIDECAR_WORDS; w++)
        words[i * SIDECAR_WORDS + w] = get_le64 (sector + 8 * w);
    }
    index += n;
    count -= n;
    words += n * SIDECAR_WORDS;
    bad += n;
  }
  return 0;
}

int
sidecar_write_map (struct sidecar *sc, uint32_t index, unsigned count,
                   const uint64_t *words)
{
  uint8_t buf[16 * SIDECAR_SECTOR];

  while (count > 0) {
    unsigned n = count < 16 ? count : 16;

    for (unsigned i = 0; i < n; i++)
      seal_sector (sc, index + i, words + i * SIDECAR_WORDS,
                   buf + i * SIDECAR_SECTOR);
    if (store_write_fd (sc->fd, buf, n * SIDECAR_SECTOR,
                        sc->h.map_offset + (uint64_t)index * SIDECAR_SECTOR, 0)
        == -1)
      return -1;
    index += n;
    count -= n;
    words += n * SIDECAR_WORDS;
  }
  return 0;
}

/* Real blocks, written: a commit must never need space (G21). */
static int
write_empty_map (struct sidecar *sc)
{
  const uint32_t nr = sidecar_nr_sectors (sc);
  const uint32_t batch = 2048;
  static const uint64_t none[SIDECAR_WORDS];
  CLEANUP_FREE uint8_t *buf = malloc (batch * SIDECAR_SECTOR);

  if (!buf)
    return -1;
  for (uint32_t index = 0; index < nr; index += batch) {
    uint32_t n = nr - index < batch ? nr - index : batch;
    uint64_t at = sc->h.map_offset + (uint64_t)index * SIDECAR_SECTOR;

    for (uint32_t i = 0; i < n; i++)
      seal_sector (sc, index + i, none, buf + i * SIDECAR_SECTOR);
    if (store_write_fd (sc->fd, buf, n * SIDECAR_SECTOR, at, 0) == -1)
      return -1;
    /* Started now, so that the sync at the end finds little to do. */
    sync_file_range (sc->fd, (off_t)at, n * SIDECAR_SECTOR,
                     SYNC_FILE_RANGE_WRITE);
  }
  return 0;
}

static int
copy_header (struct sidecar_header *to, const struct sidecar_header *from)
{
  *to = *from;
  to->name = to->backing = to->work = to->control = to->store = NULL;
  to->command_dir = NULL;
  return sidecar_set (&to->name, from->name) == -1
                 || sidecar_set (&to->backing, from->backing) == -1
                 || sidecar_set (&to->work, from->work) == -1
                 || sidecar_set (&to->control, from->control) == -1
                 || sidecar_set (&to->store, from->store) == -1
                 || sidecar_set (&to->command_dir, from->command_dir) == -1
             ? -1
             : 0;
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
  if (copy_header (&sc->h, h) == -1
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

  sc->fd = store_tmpfile (path, 0600, &temp);
  if (sc->fd == -1)
    goto fail;
  if (store_lock_fd (sc->fd, false) == -1
      || store_write_fd (sc->fd, zeros, sizeof zeros, SIDECAR_JOB_OFFSET, 0)
             == -1
      || ftruncate (sc->fd, SIDECAR_MAP_OFFSET) == -1
      || (sc->h.map_length && write_empty_map (sc) == -1)
      || sidecar_write_header (sc) == -1 || fsync (sc->fd) == -1
      || store_link_fd (sc->fd, path, &temp) == -1)
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

/* The job record. */

static void
pack_job (const struct sidecar_job *job, uint64_t sequence, uint8_t *buf)
{
  memset (buf, 0, SIDECAR_JOB_SIZE);
  memcpy (buf, JOB_MAGIC, 8);
  put_le64 (buf + 8, sequence);
  put_le32 (buf + 16, job->status);
  put_le32 (buf + 20, job->result);
  put_le32 (buf + 24, job->pause);
  put_le32 (buf + 28, job->on_error);
  put_le64 (buf + 32, job->offset);
  put_le64 (buf + 40, job->length);
  put_le64 (buf + 48, job->speed);
  put_le64 (buf + 56, job->retry);
  put_le32 (buf + 64, job->full);
  put_le32 (buf + 68, (uint32_t)job->errnum);
  put_le64 (buf + 72, job->time_elapsed);
  put_le64 (buf + 80, job->bytes_read);
  put_le64 (buf + 88, job->local_at_start);
  put_le64 (buf + 96, job->nr_failed);
  put_le64 (buf + 104, job->failed_offset);
  memcpy (buf + 112, job->error, strnlen (job->error, 255));
  put_le64 (buf + 368, job->number);
  put_le32 (buf + JOB_BODY, crc32c (buf, JOB_BODY));
}

static bool
unpack_job (const uint8_t *buf, struct sidecar_job *job)
{
  if (memcmp (buf, JOB_MAGIC, 8) != 0
      || get_le32 (buf + JOB_BODY) != crc32c (buf, JOB_BODY))
    return false;
  memset (job, 0, sizeof *job);
  job->sequence = get_le64 (buf + 8);
  job->status = get_le32 (buf + 16);
  job->result = get_le32 (buf + 20);
  job->pause = get_le32 (buf + 24);
  job->on_error = get_le32 (buf + 28);
  job->offset = get_le64 (buf + 32);
  job->length = get_le64 (buf + 40);
  job->speed = get_le64 (buf + 48);
  job->retry = get_le64 (buf + 56);
  job->full = get_le32 (buf + 64);
  job->errnum = (int32_t)get_le32 (buf + 68);
  job->time_elapsed = get_le64 (buf + 72);
  job->bytes_read = get_le64 (buf + 80);
  job->local_at_start = get_le64 (buf + 88);
  job->nr_failed = get_le64 (buf + 96);
  job->failed_offset = get_le64 (buf + 104);
  memcpy (job->error, buf + 112, 255);
  job->number = get_le64 (buf + 368);
  return true;
}

static bool
all_zero (const uint8_t *p, size_t len)
{
  return len == 0 || (p[0] == 0 && memcmp (p, p + 1, len - 1) == 0);
}

int
sidecar_read_job (struct sidecar *sc, struct sidecar_job *job)
{
  CLEANUP_FREE uint8_t *buf = malloc (SIDECAR_JOB_SIZE);
  struct sidecar_job other;
  unsigned nr = 0, nr_empty = 0;
  int err = EILSEQ;

  memset (job, 0, sizeof *job);
  if (!buf)
    return -1;
  if (sc->h.job_length == 0)
    return 0;
  /* One by one: where one cannot be read the other may do. */
  for (unsigned i = 0; i < 2; i++)
    if (read_all (sc->fd, buf, SIDECAR_JOB_SIZE,
                  sc->h.job_offset + i * SIDECAR_JOB_SIZE)
        == -1)
      err = errno;
    else if (unpack_job (buf, &other)) {
      if (nr++ == 0 || other.sequence > job->sequence)
        *job = other;
    }
    else
      nr_empty += all_zero (buf, SIDECAR_JOB_SIZE);
  if (nr > 0)
    return job->status == 0 ? 0 : 1;
  if (nr_empty == 2)
    return 0;
  errno = err;
  return -1;
}

int
sidecar_write_job (struct sidecar *sc, const struct sidecar_job *job)
{
  uint8_t buf[SIDECAR_JOB_SIZE];
  uint64_t next = job->sequence + 1;

  if (sc->h.job_length == 0) {
    errno = ENODATA;
    return -1;
  }
  pack_job (job, next, buf);
  if (sc->job_fd == -1 && (sc->job_fd = store_reopen_fd (sc->fd)) == -1)
    return -1;
  return store_write_fd (sc->job_fd, buf, sizeof buf,
                         sc->h.job_offset + (next & 1) * SIDECAR_JOB_SIZE, 0);
}

void
sidecar_job_is_durable (struct sidecar_job *job)
{
  job->sequence++;
}

int
sidecar_sync_job (struct sidecar *sc)
{
  return store_sync_fd (sc->job_fd);
}

/* The count. */

int
sidecar_write_count (struct sidecar *sc, uint64_t count)
{
  uint8_t le[8];

  put_le64 (le, count);
  return store_write_fd (sc->fd, le, sizeof le, sc->h.count_offset, 0);
}

int
sidecar_read_count (struct sidecar *sc, uint64_t *count)
{
  uint8_t le[8];

  if (sc->h.count_length == 0) {
    errno = ENODATA;
    return -1;
  }
  if (read_all (sc->fd, le, sizeof le, sc->h.count_offset) == -1)
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

    /* An earlier version left the place free.  Real blocks: no count ever
     * needs room. */
    h.count_offset = SIDECAR_COUNT_OFFSET;
    h.count_length = SIDECAR_COUNT_SIZE;
    if (fstat (sc->fd, &sb) == -1)
      return -1;
    if (!areas_are_apart (&h)
        || (uint64_t)sb.st_size < h.count_offset + h.count_length) {
      errno = ENOSPC;
      return -1;
    }
    sc->h.count_offset = h.count_offset;
    sc->h.count_length = h.count_length;
    *count = 0;
  }
  /* It goes on: until the header is there the last session may have to be
   * recovered once more, and its W has this count. */
  else if (sidecar_read_count (sc, count) == -1)
    return -1;
  put_le64 (area, *count);
  return store_write_fd (sc->fd, area, sizeof area, sc->h.count_offset, 0);
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
