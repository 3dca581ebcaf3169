/* create.c - see create.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backing.h"
#include "create.h"
#include "image.h"
#include "internal.h"

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
  h.command_dir = (char *)backing_command_dir (d);
  h.store = d->store_path;
  backing_record (d, &h);
  bool marked = store_is_detached (st) && !(state & SIDECAR_DETACHED);

  /* The uuid of an earlier volume could outlive ours in a power cut, and the
   * new sidecar would not match the store.  Nor may a store that needs its
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
  /* Root made the sidecar beside another user's store: the store's owner needs
   * it. */
  if (geteuid () == 0 && (st->uid != 0 || st->gid != getegid ())
      && fchown (d->sc->fd, st->uid, st->gid) == -1)
    log_error ("%s: cannot be given to the owner of %s: %m", d->metadata,
               d->store_path);
  return 0;
}

static int
choose_size (struct disk *d, const struct disk_config *cfg, char **error)
{
  if (d->backing)
    return backing_probe_new (d, cfg, error);
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

/* Make store and sidecar: neither is there. */
int
create_volume (struct disk *d, const struct disk_config *cfg, char **error)
{
  if (choose_size (d, cfg, error) == -1 || check_size (d, error) == -1)
    return -1;
  d->store = store_create (d->store_path, d->size, error);
  if (!d->store)
    return -1;
  if (make_sidecar (d, d->store, SIDECAR_CREATING, error) == -1)
    return -1;
  return store_link (d->store, error);
}

/* Finish a volume whose sidecar is there, and whose store is not. */
int
create_finish (struct disk *d, char **error)
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

/* True if the store is a raw image, and no volume's file.  A volume's store,
 * whose sidecar is elsewhere or lost, must not count as all local: its holes
 * would read as the truth. */
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

/* A sidecar that metadata= passes by may say whose the disk is: a disk with a
 * role in a migration is not made again here, and its store is not taken for
 * another disk. */
int
create_is_free (struct disk *d, char **error)
{
  CLEANUP_FREE char *beside = NULL;
  CLEANUP_FREE char *ignored = NULL;
  CLEANUP_FREE char *says = NULL;
  struct sidecar *sc;

  if (asprintf (&beside, "%s.backfill", d->store_path) == -1) {
    beside = NULL;
    message_set (error, "out of memory");
    errno = ENOMEM;
    return -1;
  }
  if (strcmp (beside, d->metadata) == 0)
    return 0;
  sc = sidecar_peek (beside, &ignored);
  if (sc && sc->h.role.kind != ROLE_NONE) {
    role_explain (&sc->h.role, d->store_path, &says);
    message_set (error, "%s (by its sidecar %s, whatever metadata= says)", says,
                 beside);
    sidecar_free (sc);
    errno = EINVAL;
    return -1;
  }
  sidecar_free (sc);
  return 0;
}

/* Make a sidecar that counts all of the store as local. */
static int
adopt_local (struct disk *d, const struct disk_config *cfg, uint32_t state,
             char **error)
{
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
}

/* Make a sidecar that counts all of the store as absent. */
static int
adopt_absent (struct disk *d, const struct disk_config *cfg, char **error)
{
  if (!d->backing && !cfg->has_size)
    d->size = d->store->size;
  else if (choose_size (d, cfg, error) == -1)
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
}

/* The caller has not said what the store's bytes are.  For an image of another
 * format the message does not offer adopt=, which would make a disk of the
 * image's bytes, or overwrite them. */
static int
refuse_unadopted (struct disk *d, char **error)
{
  char head[IMAGE_HEAD];
  size_t len = min_u64 (d->store->size, sizeof head);
  const char *format = len > 0 && store_pread (d->store, head, len, 0) == 0
                           ? image_format (head, len)
                           : NULL;

  if (format)
    message_set (error,
                 "%s is a %s image: only raw images can be volumes; name "
                 "another store, and serve this one as its backing store, as "
                 "in backing='[ qemu-nbd -r -t -f %s %s ]'",
                 d->store_path, format, format, d->store_path);
  else
    message_set (error,
                 "the store %s exists but has no sidecar %s: say adopt=local "
                 "if everything in it is the truth already, adopt=absent to "
                 "start over it, or name another store",
                 d->store_path, d->metadata);
  errno = EEXIST;
  return -1;
}
int
create_adopt (struct disk *d, const struct disk_config *cfg, char **error)
{
  uint32_t state = SIDECAR_COMPLETE;
  enum disk_adopt adopt = cfg->adopt;

  /* After a detach the same command line opens the store, and leaves as little
   * behind. */
  if (adopt == DISK_ADOPT_NONE && store_is_detached (d->store)) {
    state |= SIDECAR_DETACHED;
    adopt = DISK_ADOPT_PLAIN;
  }
  switch (adopt) {
  case DISK_ADOPT_PLAIN:
    if (!is_plain (d, error))
      return -1;
    d->was_plain = !store_is_detached (d->store);
    return adopt_local (d, cfg, state, error);
  case DISK_ADOPT_LOCAL:
    return adopt_local (d, cfg, state, error);
  case DISK_ADOPT_ABSENT:
    return adopt_absent (d, cfg, error);
  case DISK_ADOPT_NONE:
  case DISK_ADOPT_MOVED:
    break;
  }
  return refuse_unadopted (d, error);
}
