/* volume.c - opening and closing a volume: store and sidecar as one.
 *
 * What open does, in this order: lock the store, lock the sidecar (or make
 * what is missing), see that they belong together and to this command line,
 * see that the backing store is the one we know, recover what a killed
 * process left in W, sync both files, and make the record of a new session
 * durable.  Only then may a reply be given.
 *
 * Making a volume: the sidecar first, whole and durable, marked "creating"
 * with the inode of a store that has no name yet; then the store's name; then
 * the mark is cleared.  A power cut leaves nothing, or what the next open
 * finishes (G19).
 *
 * Does a sidecar belong to the store beside it?  The volume's uuid, an
 * attribute of the store's file, tells; where there is none either the inode or
 * the file's name must match: a volume may be copied, restored or renamed, but
 * another volume's sidecar is refused.
 *
 * Locking: single-threaded but for volume_set_complete and disk_detach, which
 * take header_lock.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "entry.h"
#include "image.h"
#include "internal.h"
#include "path.h"
#include "proof.h"
#include "runtime.h"

#define BOOT_ID_FILE "/proc/sys/kernel/random/boot_id"
/* A server that is there answers in this time; one that is not must not keep
 * a guest from its local data (G33). */
#define REOPEN_PROBE_MS 2000u
/* Of what a sidecar remembers. */
#define MAX_TIMEOUT_MS (UINT64_C (365) * 24 * 3600 * 1000)
#define MAX_CONNECTIONS 16u
#define REWRITE_SIZE (UINT64_C (1) << 20)

static int
read_boot_id (uint8_t id[SIDECAR_BOOT_ID_SIZE], char **error)
{
  char text[64] = "";
  CLEANUP_CLOSE int fd = open (BOOT_ID_FILE, O_RDONLY | O_CLOEXEC);
  unsigned nibbles = 0;

  if (fd == -1 || read (fd, text, sizeof text - 1) == -1) {
    message_set (error, "cannot read %s: %m", BOOT_ID_FILE);
    return -1;
  }
  memset (id, 0, SIDECAR_BOOT_ID_SIZE);
  for (const char *p = text; *p && nibbles < 2 * SIDECAR_BOOT_ID_SIZE; p++) {
    int c = tolower ((unsigned char)*p);

    if (!isxdigit (c))
      continue;
    c = isdigit (c) ? c - '0' : c - 'a' + 10;
    id[nibbles / 2] = (uint8_t)(id[nibbles / 2] << 4 | c);
    nibbles++;
  }
  if (nibbles == 2 * SIDECAR_BOOT_ID_SIZE)
    return 0;
  message_set (error, "%s holds no boot id", BOOT_ID_FILE);
  errno = EINVAL;
  return -1;
}

static char *
file_name (const char *path)
{
  const char *slash = strrchr (path, '/');

  return strdup (slash ? slash + 1 : path);
}

/* The path with its folder resolved; what it names need not be there. */
static char *
resolve (const char *path)
{
  CLEANUP_FREE char *copy = NULL;
  CLEANUP_FREE char *dir = NULL;
  CLEANUP_FREE char *name = NULL;
  char *real;

  /* Such a path is resolved already, and has no links when it is opened: to
   * follow one that is there by now would lead elsewhere. */
  if (path_is_confined ())
    return strdup (path);
  real = realpath (path, NULL);
  if (real || errno != ENOENT)
    return real;
  copy = strdup (path);
  name = file_name (path);
  if (!copy || !name || !(dir = realpath (dirname (copy), NULL)))
    return NULL;
  if (asprintf (&real, "%s/%s", strcmp (dir, "/") ? dir : "", name) == -1)
    return NULL;
  return real;
}

/* "[ CMD ARG ... ]": words, with '...' and "..." for those with spaces. */
static int
parse_command (struct disk *d, const char *text, char **error)
{
  size_t len = strlen (text), nr = 0;
  const char *end = text + len;

  d->argv = calloc (len + 1, sizeof *d->argv);
  if (!d->argv)
    goto nomem;
  while (end > text && isspace ((unsigned char)end[-1]))
    end--;
  if (end - text < 2 || end[-1] != ']') {
    message_set (error, "backing=%s: the closing ] is missing", text);
    errno = EINVAL;
    return -1;
  }
  end--;
  for (const char *p = text + 1; p < end;) {
    char *word, *w, quote = 0;

    if (isspace ((unsigned char)*p)) {
      p++;
      continue;
    }
    word = w = calloc (1, (size_t)(end - p) + 1);
    if (!word)
      goto nomem;
    d->argv[nr++] = word;
    for (; p < end && (quote || !isspace ((unsigned char)*p)); p++)
      if (quote ? *p == quote : (*p == '\'' || *p == '"'))
        quote = quote ? 0 : *p;
      else
        *w++ = *p;
    if (quote) {
      message_set (error, "backing=%s: a %c is not closed", text, quote);
      errno = EINVAL;
      return -1;
    }
  }
  if (nr > 0)
    return 0;
  message_set (error, "backing=%s: there is no command in the brackets", text);
  errno = EINVAL;
  return -1;

nomem:
  message_set (error, "out of memory");
  errno = ENOMEM;
  return -1;
}

/* Who wrote the sidecar may have us run commands and open files: root may, and
 * we ourselves, if nobody else could write to it.  *author: whose it is; may
 * be NULL. */
static bool
is_trusted (const struct sidecar *sc, uid_t *author)
{
  struct stat sb = { .st_uid = (uid_t)-1 };
  bool known = fstat (sc->fd, &sb) == 0;

  if (author)
    *author = sb.st_uid;
  return known && (sb.st_mode & 022) == 0 && trust_about (sb.st_uid, NULL);
}

/* Who has it?  The lock cannot tell.  The session record can (I8), if its
 * sidecar is the one that we look at: not when the store was reached by a hard
 * link, or metadata= names another.  Then the registry may know. */
static void
name_owner (struct disk *d, char **error)
{
  CLEANUP_FREE char *ignored = NULL;
  CLEANUP_FREE char *control = NULL;
  struct sidecar *sc = sidecar_peek (d->metadata, &ignored);
  long pid = 0;
  struct stat sb;

  /* What another user's says of a socket is nothing to send anybody to. */
  if (sc && sc->h.session_open && sc->h.session_pid && is_trusted (sc, NULL)) {
    pid = (long)sc->h.session_pid;
    control = sc->h.control ? strdup (sc->h.control) : NULL;
  }
  else if (path_stat (d->store_path, &sb) == 0)
    runtime_lookup (d->runtime_dir, &sb, &pid, &control);
  if (pid > 0)
    message_set (error,
                 "%s is in use by process %ld%s%s: stop that first, or ask it "
                 "through its control socket",
                 d->store_path, pid, control ? ", control socket " : "",
                 control ? control : "");
  else
    message_set (error,
                 "%s is in use by another process (see lsof): a volume can be "
                 "open in one only",
                 d->store_path);
  sidecar_free (sc);
  errno = EBUSY;
}

static struct source_config
source_settings (struct disk *d)
{
  return (struct source_config){
    .uri = d->argv ? NULL : d->backing,
    .argv = (const char *const *)d->argv,
    .socket_dir = d->runtime_dir,
    .command_dir = d->command_dir,
    .connections = d->connections,
    .timeout = (unsigned)min_u64 (d->timeout, 3600000),
    .identity_mode = d->identity_mode,
    .has_user = d->backing_by_other,
    .user = d->backing_user,
  };
}

/* For a volume that is being made: the source must be there. */
static int
probe_new (struct disk *d, const struct disk_config *cfg, char **error)
{
  struct source_config sc = source_settings (d);

  if (source_probe_keep (&sc, &d->identity, &d->kept, error) == -1)
    return -1;
  d->has_identity = true;
  if (cfg->has_size && cfg->size != d->identity.size) {
    message_set (error,
                 "size=%llu but the backing store %s has %llu bytes: leave "
                 "size= out",
                 (unsigned long long)cfg->size, d->backing,
                 (unsigned long long)d->identity.size);
    errno = EINVAL;
    return -1;
  }
  d->size = d->identity.size;
  return 0;
}

/* For one that exists: another backing store is refused, none is not. */
static int
probe_again (struct disk *d, char **error)
{
  struct source_config sc = source_settings (d);
  struct source_identity now;
  CLEANUP_FREE char *why = NULL;
  static const uint8_t none[SOURCE_DIGEST_SIZE];

  sc.timeout = (unsigned)min_u64 (sc.timeout, REOPEN_PROBE_MS);
  if (source_probe_keep (&sc, &now, &d->kept, &why) == -1) {
    log_error ("%s: going on without the backing store until it is there: %s",
               d->store_path, why);
    return 0;
  }
  if (now.size != d->size) {
    message_set (error,
                 "the backing store %s has %llu bytes, but %s was made for "
                 "one of %llu: it is not the one this volume knows; name the "
                 "right one with backing=",
                 d->backing, (unsigned long long)now.size, d->store_path,
                 (unsigned long long)d->size);
    errno = EINVAL;
    return -1;
  }
  if (d->identity_mode != SOURCE_IDENTITY_CONTENT)
    return 0;
  if (memcmp (d->identity.digest, none, sizeof none) == 0) {
    /* Recorded without one: take it now. */
    d->identity = now;
    return 0;
  }
  if (memcmp (now.digest, d->identity.digest, sizeof none) == 0)
    return 0;
  message_set (error,
               "the backing store %s has other content than the one %s was "
               "made for; name the right one with backing=, or say "
               "identity=size if it may change",
               d->backing, d->store_path);
  errno = EINVAL;
  return -1;
}

/* For the record: only a command needs it. */
static const char *
command_dir (const struct disk *d)
{
  return d->backing && d->backing[0] == '[' ? d->command_dir : NULL;
}

static void
record_identity (struct disk *d, struct sidecar_header *h)
{
  h->identity_mode = !d->backing ? SIDECAR_IDENTITY_NONE
                     : d->identity_mode == SOURCE_IDENTITY_SIZE
                         ? SIDECAR_IDENTITY_SIZE
                         : SIDECAR_IDENTITY_CONTENT;
  h->identity_size = d->identity.size;
  memcpy (h->identity_digest, d->identity.digest, SIDECAR_DIGEST_SIZE);
}

/* Make the sidecar of a new volume; d->size is known, st is the store. */
static int
make_sidecar (struct disk *d, struct store *st, uint32_t state, char **error)
{
  struct sidecar_header h = { 0 };
  uint8_t uuid[SIDECAR_UUID_SIZE];

  h.size = d->size;
  h.granule = d->granule;
  h.state = state;
  h.store_ino = st->ino;
  h.store_btime = st->btime;
  h.name = d->name;
  h.backing = d->backing;
  h.command_dir = (char *)command_dir (d);
  h.store = d->store_path;
  record_identity (d, &h);
  bool marked = store_is_detached (st) && !(state & SIDECAR_DETACHED);

  /* The mark of a volume that it was before may outlive ours in a power cut:
   * then the new sidecar would not be its own.  Nor may a store that needs its
   * sidecar look like one that was detached. */
  if (marked && store_set_detached (st, false) == -1) {
    message_set (error, "cannot remove the mark of %s: %m", d->store_path);
    return -1;
  }
  if (store_get_uuid (st, uuid) || marked) {
    store_set_uuid (st, NULL);
    if (fsync (st->fd) == -1) {
      message_set (error, "cannot sync the store %s: %m", d->store_path);
      return -1;
    }
  }
  d->sc = sidecar_create (d->metadata, &h, error);
  if (!d->sc)
    return -1;
  if (!(state & SIDECAR_DETACHED))
    store_set_uuid (st, d->sc->h.uuid);
  /* Made by root beside the store of another: who may open that needs it. */
  if (geteuid () == 0 && (st->uid != 0 || st->gid != getegid ())
      && fchown (d->sc->fd, st->uid, st->gid) == -1)
    log_error ("%s: cannot be given to the owner of %s: %m", d->metadata,
               d->store_path);
  return 0;
}

static int
settle_size (struct disk *d, const struct disk_config *cfg, char **error)
{
  if (d->backing)
    return probe_new (d, cfg, error);
  if (!cfg->has_size) {
    message_set (error,
                 "%s does not exist, and there is neither backing=URI to fill "
                 "it from nor size= to make an empty disk",
                 d->store_path);
    errno = EINVAL;
    return -1;
  }
  d->size = cfg->size;
  return 0;
}

static int
check_size (struct disk *d, char **error)
{
  if (d->size <= SIDECAR_MAX_SIZE (d->granule))
    return 0;
  message_set (error,
               "a disk of %llu bytes is too large: %llu is the most with "
               "granule=%u",
               (unsigned long long)d->size,
               (unsigned long long)SIDECAR_MAX_SIZE (d->granule), d->granule);
  errno = EINVAL;
  return -1;
}

/* Neither is there. */
static int
make_volume (struct disk *d, const struct disk_config *cfg, char **error)
{
  if (settle_size (d, cfg, error) == -1 || check_size (d, error) == -1)
    return -1;
  d->store = store_create (d->store_path, d->size, error);
  if (!d->store)
    return -1;
  if (make_sidecar (d, d->store, SIDECAR_CREATING, error) == -1)
    return -1;
  return store_link (d->store, error);
}

/* The sidecar is there, its store is not. */
static int
finish_volume (struct disk *d, char **error)
{
  if (!(d->sc->h.state & SIDECAR_CREATING)) {
    message_set (error,
                 "the store %s is gone, but its sidecar %s is there: bring "
                 "the store back, or remove the sidecar to start over",
                 d->store_path, d->metadata);
    errno = ENOENT;
    return -1;
  }
  d->store = store_create (d->store_path, d->sc->h.size, error);
  if (!d->store)
    return -1;
  store_set_uuid (d->store, d->sc->h.uuid);
  d->sc->h.store_ino = d->store->ino;
  d->sc->h.store_btime = d->store->btime;
  if (sidecar_write_header (d->sc) == -1) {
    message_set (error, "cannot write the sidecar %s: %m", d->metadata);
    return -1;
  }
  return store_link (d->store, error);
}

/* Taking a volume's store, whose sidecar is elsewhere or lost, for all local
 * would show its holes as the truth. */
static bool
is_plain (struct disk *d, char **error)
{
  uint8_t uuid[16];
  char head[IMAGE_HEAD] = "";
  size_t len = min_u64 (d->store->size, sizeof head);
  const char *format;

  if (store_get_uuid (d->store, uuid))
    message_set (error,
                 "the store %s is a volume's, but its sidecar is not %s: bring "
                 "that back, or open it with nbdkit and metadata=",
                 d->store_path, d->metadata);
  else if (len > 0 && store_pread (d->store, head, len, 0) == -1) {
    message_set (error, "cannot read the store %s: %m", d->store_path);
    return false;
  }
  else if (memcmp (head, SIDECAR_MAGIC, 8) == 0)
    message_set (error, "%s is a volume's sidecar, not its store",
                 d->store_path);
  else if ((format = image_format (head, len)))
    message_set (error, "%s is a %s image: only raw images can be volumes",
                 d->store_path, format);
  else
    return true;
  errno = EINVAL;
  return false;
}

/* The store is there, a sidecar is not. */
static int
adopt_store (struct disk *d, const struct disk_config *cfg, char **error)
{
  uint32_t state = SIDECAR_COMPLETE;
  enum disk_adopt adopt = cfg->adopt;

  /* After a detach the same command line goes on, and leaves as little. */
  if (adopt == DISK_ADOPT_NONE && store_is_detached (d->store)) {
    state |= SIDECAR_DETACHED;
    adopt = DISK_ADOPT_PLAIN;
  }
  switch (adopt) {
  case DISK_ADOPT_PLAIN:
    if (!is_plain (d, error))
      return -1;
    d->was_plain = !store_is_detached (d->store);
    /* fall through */
  case DISK_ADOPT_LOCAL:
    d->size = cfg->has_size ? cfg->size : d->store->size;
    if (d->store->size < d->size
        || (!d->store->is_block && d->store->size != d->size)) {
      message_set (error, "size=%llu but the store %s has %llu bytes",
                   (unsigned long long)d->size, d->store_path,
                   (unsigned long long)d->store->size);
      errno = EINVAL;
      return -1;
    }
    if (check_size (d, error) == -1)
      return -1;
    if (store_sync (d->store) == -1) {
      message_set (error, "cannot sync the store %s: %m", d->store_path);
      return -1;
    }
    return make_sidecar (d, d->store, state, error);

  case DISK_ADOPT_ABSENT:
    if (!d->backing && !cfg->has_size)
      d->size = d->store->size;
    else if (settle_size (d, cfg, error) == -1)
      return -1;
    if (check_size (d, error) == -1)
      return -1;
    if (d->store->is_block ? d->store->size < d->size
                           : d->store->size > d->size) {
      message_set (error,
                   "the store %s has %llu bytes and the disk %llu: it is not "
                   "%s",
                   d->store_path, (unsigned long long)d->store->size,
                   (unsigned long long)d->size,
                   d->store->is_block ? "large enough"
                                      : "cut; remove it or name another");
      errno = EINVAL;
      return -1;
    }
    if (d->store->size < d->size && store_grow (d->store, d->size) == -1) {
      message_set (error, "cannot make the store %s larger: %m", d->store_path);
      return -1;
    }
    return make_sidecar (d, d->store, 0, error);

  case DISK_ADOPT_NONE:
  case DISK_ADOPT_MOVED:
    break;
  }
  /* To say adopt= would make a disk of another format's bytes, or overwrite
   * them. */
  {
    char head[IMAGE_HEAD];
    size_t len = min_u64 (d->store->size, sizeof head);
    const char *format = len > 0 && store_pread (d->store, head, len, 0) == 0
                             ? image_format (head, len)
                             : NULL;

    if (format) {
      message_set (error,
                   "%s is a %s image: only raw images can be volumes; name "
                   "another store, and serve this one as its backing store, as "
                   "in backing='[ qemu-nbd -r -t -f %s %s ]'",
                   d->store_path, format, format, d->store_path);
      errno = EEXIST;
      return -1;
    }
  }
  message_set (error,
               "the store %s exists but has no sidecar %s: say adopt=local if "
               "everything in it is the truth already, adopt=absent to start "
               "over it, or name another store",
               d->store_path, d->metadata);
  errno = EEXIST;
  return -1;
}

/* Both are there: do they belong together? */
static int
match_store (struct disk *d, const struct disk_config *cfg, char **error)
{
  struct sidecar_header *h = &d->sc->h;
  struct store *st = d->store;
  bool same_file, same_name;
  uint8_t uuid[SIDECAR_UUID_SIZE];
  CLEANUP_FREE char *was = h->store ? file_name (h->store) : NULL;
  CLEANUP_FREE char *is = file_name (d->store_path);

  if (st->is_block ? st->size < h->size : st->size != h->size) {
    message_set (error,
                 "the store %s has %llu bytes, but its sidecar %s is of a disk "
                 "of %llu: they do not belong together, or the store was cut",
                 d->store_path, (unsigned long long)st->size, d->metadata,
                 (unsigned long long)h->size);
    errno = EINVAL;
    return -1;
  }
  same_file
      = st->is_block
        || (st->ino == h->store_ino
            && (!st->btime || !h->store_btime || st->btime == h->store_btime));
  same_name = was && is && strcmp (was, is) == 0;
  if (store_get_uuid (st, uuid)) {
    /* The file itself says whose it is. */
    bool ours = memcmp (uuid, h->uuid, sizeof uuid) == 0;

    same_file = same_file && ours;
    same_name = ours;
  }
  /* Of one that was just being made nothing is local: only a file that is
   * somebody else's must not be taken for it. */
  if (h->state & SIDECAR_CREATING)
    same_file = same_file || (same_name && store_is_zero (st));
  else if (cfg->adopt == DISK_ADOPT_MOVED)
    same_name = true;
  if (!same_file && ((h->state & SIDECAR_CREATING) || !same_name)) {
    message_set (error,
                 "the sidecar %s is of another store (%s), not of %s: name "
                 "the right one with metadata=, or say adopt=moved if both "
                 "were copied here together",
                 d->metadata, h->store ? h->store : "unknown", d->store_path);
    errno = EINVAL;
    return -1;
  }
  if (!same_file)
    log_error ("%s is another file than when %s was last open: taken as a "
               "copy of it",
               d->store_path, d->metadata);
  h->store_ino = st->ino;
  h->store_btime = st->btime;
  return 0;
}

/* As name= may be. */
static bool
is_name (const char *name)
{
  for (const char *p = name; *p; p++)
    if ((unsigned char)*p < ' ' || *p == 0x7f)
      return false;
  return strchr (name, '/') == NULL && strlen (name) <= 255;
}

/* The command line against what is recorded; recorded values fill gaps. */
static int
match_config (struct disk *d, const struct disk_config *cfg, char **error)
{
  struct sidecar_header *h = &d->sc->h;

  if (cfg->granule && cfg->granule != h->granule) {
    message_set (error,
                 "granule=%u but %s was made with %u: leave granule= out",
                 cfg->granule, d->store_path, h->granule);
    goto bad;
  }
  if (cfg->has_size && cfg->size != h->size) {
    message_set (error, "size=%llu but the disk %s has %llu: leave size= out",
                 (unsigned long long)cfg->size, d->store_path,
                 (unsigned long long)h->size);
    goto bad;
  }
  if (d->backing && !h->backing && !(h->state & SIDECAR_COMPLETE)) {
    message_set (error,
                 "%s was made without a backing store, and what is absent "
                 "there reads as zeros: leave backing= out",
                 d->store_path);
    goto bad;
  }
  d->size = h->size;
  d->granule = h->granule;
  if (!cfg->name && h->name && !is_name (h->name))
    log_error ("%s: the name that its sidecar has for it is none: it is served "
               "without one",
               d->store_path);
  else if (!cfg->name && h->name) {
    free (d->name);
    d->name = strdup (h->name);
  }
  if (!d->backing && h->backing) {
    d->backing = strdup (h->backing);
    d->backing_by_other = !is_trusted (d->sc, &d->backing_user);
    /* Its relative paths are those of the folder where it was given. */
    if (h->command_dir && sidecar_set (&d->command_dir, h->command_dir) == -1) {
      message_set (error, "out of memory");
      return -1;
    }
  }
  /* As the keys may be; what somebody else wrote there may be anything. */
  if (!cfg->timeout && h->timeout)
    d->timeout = min_u64 (h->timeout, MAX_TIMEOUT_MS);
  if (!cfg->fetch_unit && is_power_of_2 (h->fetch_unit) && h->fetch_unit >= 4096
      && h->fetch_unit <= SOURCE_MAX_REQUEST)
    d->fetch_unit = h->fetch_unit;
  if (!cfg->connections && h->connections && h->connections <= MAX_CONNECTIONS)
    d->connections = h->connections;
  if (!cfg->has_identity)
    d->identity_mode = h->identity_mode == SIDECAR_IDENTITY_SIZE
                           ? SOURCE_IDENTITY_SIZE
                           : SOURCE_IDENTITY_CONTENT;
  d->has_identity = h->identity_mode != SIDECAR_IDENTITY_NONE;
  d->identity.size = h->identity_size;
  memcpy (d->identity.digest, h->identity_digest, SOURCE_DIGEST_SIZE);
  if (d->name && (d->backing || !h->backing))
    return 0;
  message_set (error, "out of memory");
  errno = ENOMEM;
  return -1;

bad:
  errno = EINVAL;
  return -1;
}

/* Recovery. */

static struct work_identity
work_identity (struct disk *d, uint64_t session)
{
  struct work_identity id = { .session = session,
                              .store_dev = d->store->dev,
                              .store_ino = d->store->ino,
                              .store_btime = d->store->btime,
                              .nr_sectors = sidecar_nr_sectors (d->sc),
                              .granule = d->granule,
                              .size = d->size };

  memcpy (id.uuid, d->sc->h.uuid, WORK_UUID_SIZE);
  memcpy (id.nonce, d->sc->h.nonce, WORK_NONCE_SIZE);
  return id;
}

struct rewriting {
  char *buf;
  bool failed;     /* a sync has failed, or was cut short */
  bool left;       /* something could not be written again */
  bool store;      /* the store failed */
  uint64_t offset; /* what it could not do without */
};

static int
rewrite_failed (struct rewriting *rw, uint64_t offset)
{
  rw->offset = offset;
  rw->store = true;
  return -1;
}

/* The cached run [offset, end), at most REWRITE_SIZE. */
static int
rewrite_run (struct disk *d, struct rewriting *rw, uint64_t offset,
             uint64_t end)
{
  uint64_t n = end - offset;

  if (store_pread (d->store, rw->buf, n, offset) == -1) {
    if (rw->failed)
      return rewrite_failed (rw, offset);
    /* What cannot be read is not in the cache; its neighbours may be. */
    for (uint64_t at = offset, stop; n > d->granule && at < end; at = stop) {
      stop = min_u64 (end, at + d->granule);
      if (rewrite_run (d, rw, at, stop) == -1)
        return -1;
    }
    return 0;
  }
  if (store_pwrite (d->store, rw->buf, n, offset) == 0)
    return 0;
  if (rw->failed || (errno != ENOSPC && errno != EDQUOT))
    return rewrite_failed (rw, offset);
  rw->left = true;
  return 0;
}

/* A sync failed, or was cut short, with these granules pending: what the page
 * cache shows may never have reached the disk, and the kernel may have marked
 * it clean.  Write it again, so that the sync that follows covers it.  Holes
 * have no pages to lose.  Where none is known to have failed: only what the
 * page cache holds, the rest is the disk's anyway. */
static int
rewrite_range (struct disk *d, struct rewriting *rw, uint64_t offset,
               uint64_t end)
{
  while (offset < end) {
    uint64_t start, stop;

    if (store_next_data (d->store, offset, end, &start, &stop) == -1)
      return rewrite_failed (rw, offset);
    for (offset = start; offset < stop;) {
      uint64_t here = offset, n = stop;

      if (!rw->failed)
        store_next_cached (d->store, offset, stop, &here, &n);
      n = min_u64 (n - here, REWRITE_SIZE);
      if (n == 0)
        break;
      if (rewrite_run (d, rw, here, here + n) == -1)
        return -1;
      offset = here + n;
    }
    offset = max_u64 (start, stop);
  }
  return 0;
}

/* A granule that was copied: is it what W says, and now on its way to the disk
 * again?  The bytes that are compared are those that are written, as a page may
 * leave the cache in between. */
static bool
rewrite_copy (struct disk *d, struct work *old, char *buf, uint64_t offset,
              uint64_t end)
{
  uint64_t start, stop;

  if (store_pread (d->store, buf, end - offset, offset) == -1
      || !proof_holds (d, old, buf, offset, end)
      || store_next_data (d->store, offset, end, &start, &stop) == -1)
    return false;
  /* A hole has no page to lose. */
  return start >= end
         || store_pwrite (d->store, buf, end - offset, offset) == 0;
}

/* W forgets the copies that a failed sync has lost, or may have: they can be
 * fetched again. */
static int
rewrite_copies (struct disk *d, struct work *old, char *buf)
{
  uint64_t words[WORK_WORDS], guest[WORK_WORDS];
  uint64_t nr = map_nr (d->map);

  for (uint32_t i = 0; work_next (old, i, &i); i++) {
    uint64_t first = (uint64_t)i * SIDECAR_BITS;
    bool lost = false;

    if (first >= nr)
      break;
    if (work_read (old, WORK_COPIES, i, words) == -1
        || work_read (old, WORK_GUEST, i, guest) == -1)
      return -1;
    for (uint32_t b = 0; b < min_u64 (SIDECAR_BITS, nr - first); b++) {
      uint64_t bit = UINT64_C (1) << (b % 64);

      if ((words[b / 64] & ~guest[b / 64] & bit)
          && !rewrite_copy (d, old, buf, granule_offset (d, first + b),
                            granule_offset (d, first + b + 1))) {
        words[b / 64] &= ~bit;
        lost = true;
      }
    }
    if (lost && work_write (old, WORK_COPIES, i, 0, SIDECAR_WORDS, words) == -1)
      return -1;
  }
  return 0;
}

/* copies: those that W names as copies, too, as if a guest had written them. */
static int
rewrite_pending (struct disk *d, struct work *old, bool copies,
                 struct rewriting *rw)
{
  CLEANUP_FREE char *buf = malloc (REWRITE_SIZE);
  uint64_t words[WORK_WORDS];
  uint64_t nr = map_nr (d->map);

  if (!buf)
    return -1;
  rw->buf = buf;
  for (uint32_t i = 0; work_next (old, i, &i); i++) {
    uint64_t first = (uint64_t)i * SIDECAR_BITS;
    uint32_t bits;

    if (first >= nr)
      break;
    bits = (uint32_t)min_u64 (SIDECAR_BITS, nr - first);
    rw->offset = granule_offset (d, first);
    if (map_old_words (old, copies, i, words) == -1)
      return -1;
    for (uint32_t b = 0, e; b < bits; b = e) {
      bool set = words[b / 64] >> (b % 64) & 1;

      for (e = b; e < bits && (words[e / 64] >> (e % 64) & 1) == set;)
        e++;
      if (set
          && rewrite_range (d, rw, granule_offset (d, first + b),
                            granule_offset (d, first + e))
                 == -1)
        return -1;
    }
  }
  if (!copies && !old->first_format && rewrite_copies (d, old, buf) == -1)
    return -1;
  /* A bad disk may tell no earlier than this. */
  return store_sync (d->store) == 0 ? 0 : rewrite_failed (rw, 0);
}

/* W's bits are about this store alone: its owner may say them, root and we
 * ourselves.  And whom the session record names, as the store may have had
 * another owner then: libvirt gives an image back to root after the guest's
 * end. The record is what those wrote who may write S itself.  Only they know
 * the nonce, too: so nobody else can make a W that passes for the right one,
 * and they have no need to. */
struct owners {
  uid_t uid[4];
  unsigned nr;
};

static struct owners
work_owners (const struct disk *d)
{
  return (struct owners){
    .uid = { 0, geteuid (), d->store->uid, d->sc->h.session_user }, .nr = 4
  };
}

static bool
is_owner (uid_t uid, const struct owners *o)
{
  for (unsigned i = 0; i < o->nr; i++)
    if (o->uid[i] == uid)
      return true;
  return false;
}

static bool
is_work_name (const char *name)
{
  size_t len = strlen (name);

  return len > 5 && name[0] != '.' && strcmp (name + len - 5, ".work") == 0;
}

/* By its name, in the directories of processes in the runtime directory that we
 * use: the record's path may be of another mount, or of another name of it. */
static struct work *
find_work (struct disk *d, struct work_identity *id,
           const struct owners *owners, enum work_state *state)
{
  const char *slash = strrchr (d->sc->h.work, '/');
  const char *name = slash ? slash + 1 : d->sc->h.work;
  CLEANUP_FREE char *base = strdup (d->runtime_dir);
  struct work *w = NULL;
  int err = ENOENT;
  DIR *dir;

  if (!base || !is_work_name (name)) {
    errno = base ? EPERM : ENOMEM;
    return NULL;
  }
  dir = opendir (dirname (base));
  for (struct dirent *e; dir && !w && (e = readdir (dir)) != NULL;) {
    CLEANUP_FREE char *path = NULL;
    CLEANUP_CLOSE int own = -1;
    uid_t author;

    if (strncmp (e->d_name, ENTRY_DIR_PREFIX, strlen (ENTRY_DIR_PREFIX)) != 0)
      continue;
    own = trust_open_dir (dirfd (dir), e->d_name, &author);
    if (own == -1 || !is_owner (author, owners))
      continue;
    if (asprintf (&path, "%s/%s/%s", base, e->d_name, name) == -1) {
      path = NULL;
      err = ENOMEM;
      break;
    }
    w = work_open (path, id, owners->uid, owners->nr, d->read_only, state);
    if (!w && errno != ENOENT)
      err = errno;
  }
  if (dir)
    closedir (dir);
  errno = err;
  return w;
}

static struct work *
find_old_work (struct disk *d, struct work_identity *id, enum work_state *state)
{
  struct sidecar_header *h = &d->sc->h;
  struct owners owners = work_owners (d);
  struct work *w;
  int err;

  /* Whoever wrote the sidecar must not have us open just anything. */
  if (path_is_confined () || !is_trusted (d->sc, NULL))
    return find_work (d, id, &owners, state);
  w = work_open (h->work, id, owners.uid, owners.nr, d->read_only, state);
  err = errno;
  if (!w && (err == ENOENT || err == ENOTDIR || err == EACCES)
      && !(w = find_work (d, id, &owners, state)))
    errno = errno == ENOENT ? err : errno;
  return w;
}

/* W was made for this very file, and not for one that ours is a copy of, or was
 * before it came here. */
static bool
is_made_for (const struct work_identity *id, const struct disk *d)
{
  return id->store_dev == d->store->dev && id->store_ino == d->store->ino
         && id->store_btime == d->store->btime;
}

/* Does it belong to these bytes? */
static int
prove_work (struct disk *d, struct work *old, enum work_state state,
            bool discard, char **error)
{
  CLEANUP_FREE char *where = NULL;
  uint64_t offset;
  int r = proof_check (d, old, state == WORK_OK, &offset);

  if (r == 1)
    return 1;
  if (r == -1) {
    message_set (error, "cannot compare the working map %s with %s: %m",
                 old->path, d->store_path);
    return -1;
  }
  if (offset != UINT64_MAX
      && asprintf (&where, " (at offset %llu)", (unsigned long long)offset)
             == -1)
    where = NULL;
  if (discard) {
    log_error (
        "%s: its working map %s belongs to another state of the files%s; "
        "writes that were not flushed then are given up, as asked",
        d->store_path, old->path, where ? where : "");
    return 0;
  }
  message_set (
      error,
      "%s was not closed, and its working map %s belongs to another state of "
      "the files%s: the store or its sidecar were restored from an earlier "
      "state, somebody else wrote to the store, or the disk has lost what was "
      "written.  Bring back both files as the server left them, or say "
      "discard-unflushed=yes to go on with what was flushed when they were "
      "saved",
      d->store_path, old->path, where ? where : "");
  errno = EINVAL;
  return -1;
}

/* The W of an open session of this boot, or NULL: none is needed (*error
 * NULL), or it cannot be had (*error says why).  *useless: one that is not to
 * be believed, to be removed when there is a new session. */
static struct work *
open_old_work (struct disk *d, const struct disk_config *cfg,
               const uint8_t *boot_id, enum work_state *state,
               struct work **useless, char **error)
{
  struct sidecar_header *h = &d->sc->h;
  struct work_identity id = work_identity (d, h->session);
  struct work *old;

  if (!h->session_open || !h->work)
    return NULL;
  old = find_old_work (d, &id, state);
  if ((h->state & SIDECAR_COMPLETE)
      || memcmp (boot_id, h->boot_id, SIDECAR_BOOT_ID_SIZE) != 0) {
    /* Not needed; or the power was cut since, and a W that is still there (a
     * runtime directory on a disk) vouches for bytes that may be gone. */
    *useless = old;
    return NULL;
  }
  if (old)
    switch (prove_work (d, old, *state, cfg->discard_unflushed, error)) {
    case 1:
      return old;
    case 0:
      *useless = old;
      return NULL;
    default:
      work_free (old);
      return NULL;
    }
  if (errno == EAGAIN && is_made_for (&id, d)) {
    name_owner (d, error);
    return NULL;
  }
  if (cfg->discard_unflushed) {
    log_error ("%s: the working map %s cannot be used (%m); writes that were "
               "not flushed are given up, as asked",
               d->store_path, h->work);
    return NULL;
  }
  if (errno == EACCES) {
    /* All is there. */
    message_set (error,
                 "%s was not closed, and its working map %s may not be read by "
                 "this user.  Nothing is lost: have root, or the file's owner, "
                 "open the volume once, or give this user the file",
                 d->store_path, h->work);
    errno = EINVAL;
    return NULL;
  }
  message_set (error,
               "%s was not closed, and its working map %s %s: acknowledged "
               "writes that were never flushed could be lost.  Bring it back, "
               "or say discard-unflushed=yes to go on with what was flushed",
               d->store_path, h->work,
               errno == ENOENT   ? "is gone"
               : errno == ESTALE ? "is not this volume's"
               : errno == EPERM  ? "belongs to another user or folder"
               : errno == EAGAIN
                   ? "is in use by a process that has the files open of "
                     "which these are a copy"
                   : "cannot be read");
  errno = EINVAL;
  return NULL;
}

/* It is the store, and waiting will not help. */
static bool
is_broken (const struct rewriting *rw, int err)
{
  return rw->store && err != ENOMEM && err != ENOSPC && err != EDQUOT;
}

static int
recover (struct disk *d, const struct disk_config *cfg, struct work *old,
         enum work_state state, char **error)
{
  struct rewriting rw = { .failed = state == WORK_SYNCING };
  int err;

  /* Copies, which can be fetched again, are believed where no sync can have
   * lost them; else those that prove themselves are written again. */
  if (old && !d->read_only) {
    /* A sync that fails here is told of once; whoever opens the volume after
     * that must know. */
    if (work_set_state (old, WORK_SYNCING) == -1) {
      message_set (error, "cannot write the working map %s: %m", old->path);
      return -1;
    }
    if (state == WORK_SYNCING) {
      /* S, too, may show what was never written: have it read from the disk.
       * What W holds is written again anyway. */
      sidecar_sync (d->sc);
      posix_fadvise (d->sc->fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    /* Also where no sync is known to have failed: a copier may have died just
     * when the kernel told it.  Then it tells nobody else. */
    if (rewrite_pending (d, old, state == WORK_OK, &rw) == -1) {
      bool broken = is_broken (&rw, errno);

      if (!cfg->discard_unflushed || !broken) {
        message_set (error,
                     "%s: cannot write again, at offset %llu or after, what a "
                     "failed sync may have lost: %m.  %s",
                     d->store_path, (unsigned long long)rw.offset,
                     broken
                         ? "Mend the disk, or say discard-unflushed=yes to go "
                           "on with what was flushed"
                         : "Open it again when that can be had");
        return -1;
      }
      log_error ("%s: cannot write again, at offset %llu or after, what a "
                 "failed sync may have lost (%m); writes that were not "
                 "flushed are given up, as asked",
                 d->store_path, (unsigned long long)rw.offset);
      /* What was written again is given up too: that it fails is known. */
      store_sync (d->store);
      old = NULL;
    }
  }
  if (old
      && map_recover (d->map, old, state == WORK_OK || !d->read_only) == -1) {
    message_set (error, "cannot read the working map %s: %m", old->path);
    return -1;
  }
  if (d->read_only)
    return 0;
  /* What is shown from the page cache must be durable before a flush can be
   * answered that covers it (G14). */
  if (sidecar_sync (d->sc) == -1) {
    message_set (error, "cannot sync the sidecar %s: %m", d->metadata);
    return -1;
  }
  err = commit_run (d, COMMIT_CHECKPOINT);
  if (err) {
    errno = err;
    message_set (error, "cannot make %s durable: %m", d->store_path);
    return -1;
  }
  /* Overwritten granules that were in S already are not in W.  What a failed
   * sync lost of them must not be shown from the page cache, as a later
   * flush would not bring it to the disk (G14).  Nobody knows whether one
   * failed just when the last owner died.  But where there was no room to
   * write W's again the cache may be the last to have them. */
  if (d->sc->h.session_open && !rw.left)
    posix_fadvise (d->store->fd, 0, 0, POSIX_FADV_DONTNEED);
  return 0;
}

/* Made by root for another's store: who may open that needs it.  If the store
 * is root's (libvirt has given it back for now) who may open the sidecar does.
 */
static void
give_work (struct disk *d)
{
  uid_t uid = d->store->uid;
  gid_t gid = d->store->gid;
  struct stat sb;

  d->work_user = geteuid ();
  if (geteuid () != 0)
    return;
  if (uid == 0 && fstat (d->sc->fd, &sb) == 0) {
    uid = sb.st_uid;
    gid = sb.st_gid;
  }
  if (uid == 0)
    return;
  if (fchown (d->work->fd, uid, gid) == 0)
    d->work_user = uid;
  else
    log_error ("%s: cannot be given to the owner of %s: %m", d->work->path,
               d->store_path);
}

/* The new session's W; there is no session yet. */
static int
make_work (struct disk *d, char **error)
{
  struct sidecar_header *h = &d->sc->h;
  struct work_identity id = work_identity (d, h->session + 1);
  CLEANUP_FREE char *path = NULL;
  uint32_t unguessable = 0;

  /* Others may write to the folder: a name that they know beforehand they
   * could take. */
  if (getrandom (d->nonce, sizeof d->nonce, 0) != sizeof d->nonce
      || getrandom (&unguessable, sizeof unguessable, 0) == -1) {
    message_set (error, "cannot get random bytes: %m");
    return -1;
  }
  memcpy (id.nonce, d->nonce, sizeof id.nonce);
  if (asprintf (&path, "%s/%llx-%llx.%llu-%08x.work", d->runtime_dir,
                (unsigned long long)d->store->dev,
                (unsigned long long)d->store->ino,
                (unsigned long long)id.session, unguessable)
      == -1) {
    path = NULL;
    message_set (error, "out of memory");
    errno = ENOMEM;
    return -1;
  }
  d->work = work_create (path, &id);
  if (!d->work) {
    message_set (error,
                 "cannot make the working map %s: %m; name another folder, "
                 "on a tmpfs, with runtime-dir=",
                 path);
    return -1;
  }
  give_work (d);
  return 0;
}

/* What a restart takes up again, into the header in memory. */
static int
remember (struct disk *d, char **error)
{
  struct sidecar_header *h = &d->sc->h;

  if (d->given.timeout)
    h->timeout = d->given.timeout;
  if (d->given.fetch_unit)
    h->fetch_unit = d->given.fetch_unit;
  if (d->given.connections)
    h->connections = d->given.connections;
  record_identity (d, h);
  if (sidecar_set (&h->control, d->control) == -1
      || (!d->given.store_is_name && sidecar_set (&h->name, d->name) == -1)
      || sidecar_set (&h->store, d->store_path) == -1
      || sidecar_set (&h->backing, d->backing) == -1
      || sidecar_set (&h->command_dir, command_dir (d)) == -1) {
    message_set (error, "out of memory");
    errno = ENOMEM;
    return -1;
  }
  if (sidecar_fits (d->sc))
    return 0;
  message_set (error,
               "the paths and backing= of %s are too long for its sidecar",
               d->store_path);
  errno = ENAMETOOLONG;
  return -1;
}

int
volume_begin (struct disk *d, char **error)
{
  struct sidecar_header *h = &d->sc->h;
  uint64_t count;

  if (d->read_only || d->begun)
    return 0;
  if (!d->work && !map_is_complete (d->map) && make_work (d, error) == -1)
    return -1;
  if (remember (d, error) == -1 || read_boot_id (h->boot_id, error) == -1)
    return -1;
  h->session++;
  h->session_open = true;
  h->session_pid = (uint32_t)getpid ();
  h->session_user = (uint32_t)d->work_user;
  h->state &= ~SIDECAR_CREATING;
  memcpy (h->nonce, d->nonce, sizeof h->nonce);
  d->recorded = true;
  if (sidecar_set (&h->work, d->work ? d->work->path : NULL) == -1
      || (d->work && sidecar_begin_count (d->sc, &count) == -1)) {
    message_set (error, "cannot write the sidecar %s: %m", d->metadata);
    return -1;
  }
  if (d->work && work_begin_count (d->work, count) == -1) {
    message_set (error, "cannot write the working map %s: %m", d->work->path);
    return -1;
  }
  if (sidecar_write_header (d->sc) == -1) {
    message_set (error, "cannot write the sidecar %s: %m", d->metadata);
    return -1;
  }
  d->begun = true;
  map_set_work (d->map, d->work);
  /* All it held is in the sidecar now, and the new session is recorded.  One
   * that was made for another file may be all that that one has. */
  if (d->old_work && is_made_for (&d->old_work->id, d))
    work_unlink (d->old_work);
  work_free (d->old_work);
  d->old_work = NULL;
  return 0;
}

/* Paths and settings before anything is opened. */
static int
take_config (struct disk *d, const struct disk_config *cfg, char **error)
{
  if (!cfg->store || !*cfg->store) {
    message_set (error, "no store is named: say store=PATH");
    errno = EINVAL;
    return -1;
  }
  d->store_path = resolve (cfg->store);
  if (!d->store_path) {
    message_set (error, "cannot use the store %s: %m", cfg->store);
    return -1;
  }
  if (cfg->metadata)
    d->metadata = strdup (cfg->metadata);
  else if (asprintf (&d->metadata, "%s.backfill", d->store_path) == -1)
    d->metadata = NULL;
  d->name = strdup (cfg->name ? cfg->name : "");
  d->backing = cfg->backing ? strdup (cfg->backing) : NULL;
  d->control = cfg->control ? strdup (cfg->control) : NULL;
  d->command_dir = cfg->command_dir ? strdup (cfg->command_dir) : NULL;
  d->runtime_dir = runtime_own_dir (cfg->runtime_dir, error);
  if (!d->runtime_dir)
    return -1;
  if (!d->metadata || !d->name || (cfg->backing && !d->backing)
      || (cfg->control && !d->control)
      || (cfg->command_dir && !d->command_dir)) {
    message_set (error, "out of memory");
    errno = ENOMEM;
    return -1;
  }
  d->read_only = cfg->read_only;
  d->granule = cfg->granule ? cfg->granule : 4096;
  if (!is_power_of_2 (d->granule) || d->granule < 512 || d->granule > 65536) {
    message_set (error, "granule=%u: must be a power of two from 512 to 65536",
                 d->granule);
    errno = EINVAL;
    return -1;
  }
  d->timeout = cfg->timeout ? cfg->timeout : 30000;
  d->connections = cfg->connections ? cfg->connections : 4;
  d->fetch_unit = cfg->fetch_unit ? cfg->fetch_unit : 1u << 20;
  d->identity_mode
      = cfg->identity_size ? SOURCE_IDENTITY_SIZE : SOURCE_IDENTITY_CONTENT;
  return 0;
}

/* A file that may be read but not written: a read-only export (G25).  (EPERM
 * where volumes are opened for others: it is not theirs at all.) */
static bool
cannot_write (int err)
{
  return err == EACCES || err == EROFS
         || (err == EPERM && !path_is_confined ());
}

/* A command that the sidecar or the caller names, as argv. */
static int
take_command (struct disk *d, const struct disk_config *cfg, char **error)
{
  if (d->argv || !d->backing || d->backing[0] != '[')
    return 0;
  if (!cfg->no_command && d->backing_by_other) {
    message_set (error,
                 "the sidecar %s belongs to user %lu, or others may write to "
                 "it, and the backing store that it names is a command, which "
                 "is not run for another user: say backing= if you trust it "
                 "(backfill info shows it)",
                 d->metadata, (unsigned long)d->backing_user);
    errno = EPERM;
    return -1;
  }
  if (!cfg->no_command)
    return parse_command (d, d->backing, error);
  message_set (error,
               "the backing store of %s is a command, which is not run here: "
               "serve it yourself, and name its NBD URI",
               d->store_path);
  errno = EPERM;
  return -1;
}

/* All that the making of the volume has come to of the store is its name. */
static bool
is_cut_short (const struct disk *d)
{
  return (d->sc->h.state & SIDECAR_CREATING) && !d->read_only
         && !d->store->is_block && d->store->size == 0 && d->sc->h.size > 0;
}

static int
open_files (struct disk *d, const struct disk_config *cfg, bool *fresh,
            char **error)
{
  const uid_t *owner = cfg->has_owner ? &cfg->owner : NULL;
  const struct file_id *file = cfg->has_file ? &cfg->file : NULL;
  uid_t sidecar_owner;
  int err;

  *fresh = false;
  d->store = store_open_of (d->store_path, d->read_only, owner, file, error);
  if (!d->store && !d->read_only && cannot_write (errno)) {
    log_error ("%s; going on read-only", *error);
    d->read_only = true;
    d->store = store_open_of (d->store_path, true, owner, file, error);
  }
  if (!d->store && errno == EAGAIN) {
    name_owner (d, error);
    return -1;
  }
  if (!d->store && (errno != ENOENT || owner || file))
    return -1;
  if (d->store && d->store->is_block && !cfg->metadata) {
    message_set (error,
                 "the store %s is a block device: say where its sidecar shall "
                 "be with metadata=PATH",
                 d->store_path);
    errno = EINVAL;
    return -1;
  }
  /* Where volumes are opened for others, whose sidecar it is counts. */
  sidecar_owner = d->store ? d->store->uid : 0;
  owner = path_is_confined () ? &sidecar_owner : NULL;
  d->sc = sidecar_open_of (d->metadata, d->read_only, owner, error);
  if (!d->sc && !d->read_only && d->store && cannot_write (errno)) {
    log_error ("%s; going on read-only", *error);
    d->read_only = true;
    store_free (d->store);
    d->store = store_open_of (d->store_path, true,
                              cfg->has_owner ? &cfg->owner : NULL, file, error);
    if (!d->store)
      return -1;
    sidecar_owner = d->store->uid;
    d->sc = sidecar_open_of (d->metadata, true, owner, error);
  }
  err = errno;
  /* With neither a store nor a byte in the sidecar there is nothing to lose. */
  if (!d->sc && err == EINVAL && !d->store && !d->read_only
      && store_remove_empty (d->metadata) == 0)
    err = ENOENT;
  if (!d->sc && err == EAGAIN) {
    name_owner (d, error);
    return -1;
  }
  if (!d->sc && err != ENOENT)
    return -1;
  if (d->read_only && (!d->sc || !d->store)) {
    message_set (error,
                 "%s has not been made yet, and read-only nothing is made",
                 d->sc ? d->store_path : d->metadata);
    errno = ENOENT;
    return -1;
  }
  if (d->sc) {
    if (d->store && !cfg->has_owner && is_cut_short (d)) {
      store_free (d->store);
      d->store = NULL;
      if (store_remove_empty (d->store_path) == -1) {
        message_set (error, "cannot make the store %s anew: %m", d->store_path);
        return -1;
      }
    }
    if (!d->store && finish_volume (d, error) == -1)
      return -1;
    if (match_store (d, cfg, error) == -1)
      return -1;
    return match_config (d, cfg, error);
  }
  *fresh = true;
  if (take_command (d, cfg, error) == -1)
    return -1;
  return d->store ? adopt_store (d, cfg, error) : make_volume (d, cfg, error);
}

int
volume_open (struct disk *d, const struct disk_config *cfg, char **error)
{
  uint8_t boot_id[SIDECAR_BOOT_ID_SIZE];
  enum work_state state = WORK_OK;
  struct work *old, *useless = NULL;
  bool fresh, complete;

  if (take_config (d, cfg, error) == -1 || read_boot_id (boot_id, error) == -1
      || open_files (d, cfg, &fresh, error) == -1)
    return -1;
  free (*error);
  *error = NULL;

  d->made = fresh;
  complete = d->sc->h.state & SIDECAR_COMPLETE;
  d->detached = d->sc->h.state & SIDECAR_DETACHED;
  d->shift = (uint32_t)__builtin_ctz (d->granule);
  d->no_source = !d->backing || complete;
  if (!complete && take_command (d, cfg, error) == -1)
    return -1;
  if (cfg->store_is_name) {
    free (d->name);
    d->name = strdup (d->store_path);
    if (!d->name) {
      message_set (error, "out of memory");
      errno = ENOMEM;
      return -1;
    }
  }
  if (!fresh && !d->no_source && probe_again (d, error) == -1)
    return -1;

  d->map = map_new (d->size, d->granule, d->sc, fresh, complete);
  if (!d->map) {
    message_set (error, "out of memory");
    errno = ENOMEM;
    return -1;
  }
  old = open_old_work (d, cfg, boot_id, &state, &useless, error);
  if (*error) {
    work_free (useless);
    return -1;
  }
  d->old_work = old ? old : useless;
  d->given.timeout = cfg->timeout;
  d->given.fetch_unit = cfg->fetch_unit;
  d->given.connections = cfg->connections;
  d->given.store_is_name = cfg->store_is_name;
  if (recover (d, cfg, old, state, error) == -1)
    return -1;
  if (d->read_only) {
    work_free (d->old_work);
    d->old_work = NULL;
    return 0;
  }
  if (!cfg->session_later)
    return volume_begin (d, error);
  /* What can go wrong then is found now. */
  if (remember (d, error) == -1)
    return -1;
  return cfg->user_later || map_is_complete (d->map) ? 0 : make_work (d, error);
}

int
volume_set_complete (struct disk *d)
{
  struct syncing s;
  int err;

  LOCK_SCOPE (&d->header_lock);
  d->sc->h.state |= SIDECAR_COMPLETE;
  sync_begin (d, &s);
  err = sidecar_write_header (d->sc) == -1 ? errno : 0;
  /* If it failed, which of the two states is on the disk is not known: both
   * are true. */
  err = sync_end (d, &s, err);
  if (err) {
    errno = err;
    return -1;
  }
  map_set_complete (d->map);
  return 0;
}

int
disk_detach (struct disk *d, char **error)
{
  struct syncing s;
  int err;

  if (d->read_only) {
    message_set (error, "%s is open read-only", d->store_path);
    errno = EROFS;
    return -1;
  }
  if (!map_is_complete (d->map) && !map_all_live (d->map)) {
    message_set (error,
                 "%s is not fully local yet: allocate the whole disk first",
                 d->store_path);
    errno = EBUSY;
    return -1;
  }
  err = commit_run (d, COMMIT_CHECKPOINT | COMMIT_HOLES);
  if (err || !map_is_complete (d->map)) {
    errno = err ? err : EBUSY;
    message_set (error, "cannot make %s durable: %m", d->store_path);
    return -1;
  }
  LOCK_SCOPE (&d->gate_lock);
  if (d->closed) {
    message_set (error, "%s is being closed", d->store_path);
    errno = ESHUTDOWN;
    return -1;
  }
  /* A job may still be ending: its record's place goes, too. */
  LOCK_SCOPE (job_verbs (d));
  LOCK_SCOPE (&d->header_lock);
  d->sc->h.state |= SIDECAR_DETACHED;
  sync_begin (d, &s);
  /* All of it is the truth, durably: its mark may say so. */
  if (!d->was_plain && store_set_detached (d->store, true) == -1)
    log_error ("%s cannot be marked as detached (%m): to serve it again say "
               "adopt=local",
               d->store_path);
  err = fsync (d->store->fd) == -1 || sidecar_strip (d->sc) == -1 ? errno : 0;
  /* Whichever step it was, the disk may have lost what it held. */
  err = sync_end (d, &s, err);
  if (err) {
    errno = err;
    d->sc->h.state &= ~SIDECAR_DETACHED;
    if (!d->was_plain)
      store_set_detached (d->store, false);
    errno = err;
    message_set (error, "cannot write the sidecar %s: %m", d->metadata);
    return -1;
  }
  store_set_uuid (d->store, NULL);
  __atomic_store_n (&d->detached, true, __ATOMIC_RELEASE);
  return 0;
}

int
volume_close (struct disk *d, bool clean)
{
  int r = 0;

  if (clean && d->begun) {
    LOCK_SCOPE (&d->header_lock);

    d->sc->h.session_open = false;
    d->sc->h.session_pid = 0;
    if (sidecar_set (&d->sc->h.work, NULL) == -1
        || sidecar_write_header (d->sc) == -1) {
      log_error ("cannot write the sidecar %s: %m", d->metadata);
      r = -1;
    }
    else {
      if (d->work)
        work_unlink (d->work);
      if ((d->sc->h.state & SIDECAR_DETACHED)
          && store_same_file (d->sc->fd, d->metadata)) {
        /* Complete and let go: what is left is a plain raw image. */
        path_unlink (d->metadata);
        store_sync_dir (d->metadata);
      }
    }
  }
  leave_registry (d);
  if (d->work && !d->recorded)
    work_unlink (d->work);
  if (d->work)
    store_unlock_fd (d->work->fd);
  sidecar_unlock (d->sc);
  store_unlock (d->store);
  return r;
}
