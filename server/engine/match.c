/* match.c - see match.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "internal.h"
#include "match.h"
#include "path.h"
#include "runtime.h"

/* The longest timeout that is taken from a sidecar. */
#define MAX_TIMEOUT_MS (UINT64_C (365) * 24 * 3600 * 1000)
#define MAX_CONNECTIONS 16u

/* True if the sidecar may name commands that we run and files that we open:
 * root or this process's user owns it, and nobody else could write to it.
 * *author: the sidecar's owner; author may be NULL. */
bool
match_is_trusted (const struct sidecar *sc, uid_t *author)
{
  struct stat sb = { .st_uid = (uid_t)-1 };
  bool known = fstat (sc->fd, &sb) == 0;

  if (author)
    *author = sb.st_uid;
  return known && (sb.st_mode & 022) == 0 && trust_about (sb.st_uid, NULL);
}

/* Name the process that has the volume.  The lock cannot tell.  The session
 * record can (I8), if d->metadata is that process's sidecar: it is not where
 * the store was reached by a hard link, or metadata= names another.  Then the
 * registry may know. */
void
match_name_owner (struct disk *d, char **error)
{
  CLEANUP_FREE char *ignored = NULL;
  CLEANUP_FREE char *control = NULL;
  struct sidecar *sc = sidecar_peek (d->metadata, &ignored);
  long pid = 0;
  struct stat sb;

  /* An untrusted sidecar's socket is nothing to send anybody to. */
  if (sc && sc->h.session_open && sc->h.session_pid
      && match_is_trusted (sc, NULL)) {
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

int
match_role (struct disk *d, char **error)
{
  if (sidecar_serves (d->sc))
    return 0;
  role_explain (&d->sc->h.role, d->store_path, error);
  errno = EINVAL;
  return -1;
}

/* Store and sidecar are there: check that they belong together. */
int
match_store (struct disk *d, const struct disk_config *cfg, char **error)
{
  struct sidecar_header *h = &d->sc->h;
  struct store *st = d->store;
  bool same_file, same_name;
  uint8_t uuid[SIDECAR_UUID_SIZE];
  CLEANUP_FREE char *was = h->store ? path_last_name (h->store) : NULL;
  CLEANUP_FREE char *is = path_last_name (d->store_path);

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
    /* The uuid on the store's file says which volume the file is of. */
    bool ours = memcmp (uuid, h->uuid, sizeof uuid) == 0;

    same_file = same_file && ours;
    same_name = ours;
  }
  /* A volume that is still being made has nothing local: only a file of
   * somebody else must not be taken for its store. */
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

/* True if name= may have this value. */
static bool
is_name (const char *name)
{
  for (const char *p = name; *p; p++)
    if ((unsigned char)*p < ' ' || *p == 0x7f)
      return false;
  return strchr (name, '/') == NULL && strlen (name) <= 255;
}

/* Refuse options of the command line that contradict this volume. */
static int
check_config (struct disk *d, const struct disk_config *cfg, char **error)
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
  return 0;

bad:
  errno = EINVAL;
  return -1;
}

/* Take recorded limits only within what the keys allow: another user may have
 * written anything there. */
static void
take_limits (struct disk *d, const struct disk_config *cfg)
{
  const struct sidecar_header *h = &d->sc->h;

  if (!cfg->timeout && h->timeout)
    d->timeout = min_u64 (h->timeout, MAX_TIMEOUT_MS);
  if (!cfg->fetch_unit && is_power_of_2 (h->fetch_unit) && h->fetch_unit >= 4096
      && h->fetch_unit <= SOURCE_MAX_REQUEST)
    d->fetch_unit = h->fetch_unit;
  if (!cfg->connections && h->connections && h->connections <= MAX_CONNECTIONS)
    d->connections = h->connections;
}

int
match_config (struct disk *d, const struct disk_config *cfg, char **error)
{
  struct sidecar_header *h = &d->sc->h;

  if (check_config (d, cfg, error) == -1)
    return -1;
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
    d->backing_by_other = !match_is_trusted (d->sc, &d->backing_user);
    /* The command's relative paths start at the directory where it was
     * given. */
    if (h->command_dir && sidecar_set (&d->command_dir, h->command_dir) == -1) {
      message_set (error, "out of memory");
      return -1;
    }
  }
  take_limits (d, cfg);
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
}
