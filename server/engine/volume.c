/* volume.c - opening and closing a volume: store and sidecar as one.
 *
 * What open does, in this order: lock the store, lock the sidecar (or make
 * what is missing), see that they belong together and to this command line,
 * see that the backing store is the one we know, recover what a killed
 * process left in W, sync both files, and make the record of a new session
 * durable.  Only then may a reply be given.
 *
 * The steps are in match.c, create.c, backing.c and recover.c.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backing.h"
#include "create.h"
#include "file.h"
#include "internal.h"
#include "match.h"
#include "path.h"
#include "recover.h"
#include "runtime.h"
#include "volume.h"

#define BOOT_ID_FILE "/proc/sys/kernel/random/boot_id"
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

/* The path with its directory resolved; its last name need not be there. */
static char *
resolve (const char *path)
{
  CLEANUP_FREE char *copy = NULL;
  CLEANUP_FREE char *dir = NULL;
  CLEANUP_FREE char *name = NULL;
  char *real;

  /* A confined process's path is resolved already, and is opened without links:
   * to follow a link that is there by now would lead elsewhere. */
  if (path_is_confined ())
    return strdup (path);
  real = realpath (path, NULL);
  if (real || errno != ENOENT)
    return real;
  copy = strdup (path);
  name = path_last_name (path);
  if (!copy || !name || !(dir = realpath (dirname (copy), NULL)))
    return NULL;
  if (asprintf (&real, "%s/%s", strcmp (dir, "/") ? dir : "", name) == -1)
    return NULL;
  return real;
}

/* Root gives a W that it made for another user's store to the store's owner,
 * who may open the volume and then needs W.  If root owns the store (libvirt
 * has given it back for now), the sidecar's owner gets W. */
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

/* Make W for the new session, which has not begun yet. */
static int
make_work (struct disk *d, char **error)
{
  struct sidecar_header *h = &d->sc->h;
  struct work_identity id = recover_identity (d, h->session + 1);
  CLEANUP_FREE char *path = NULL;
  uint32_t unguessable = 0;

  /* Others may write to the directory, and could take a name that they know
   * beforehand. */
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

/* Note the settings that a restart takes up again in the header in memory. */
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
  backing_record (d, h);
  if (sidecar_set (&h->control, d->control) == -1
      || (!d->given.store_is_name && sidecar_set (&h->name, d->name) == -1)
      || sidecar_set (&h->store, d->store_path) == -1
      || sidecar_set (&h->backing, d->backing) == -1
      || sidecar_set (&h->command_dir, backing_command_dir (d)) == -1) {
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
  role_begin_session (&h->role);
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
  /* The sidecar has all that the old W held, and the new session is recorded.
   * A W that was made for another file stays: that file may have nothing
   * else. */
  if (d->old_work && recover_is_made_for (&d->old_work->id, d))
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

/* A file that may be read but not written: a read-only export (G25).  (EPERM in
 * a confined process: the file is not the user's at all.) */
static bool
cannot_write (int err)
{
  return err == EACCES || err == EROFS
         || (err == EPERM && !path_is_confined ());
}

/* True if the making of the volume was cut short, and made nothing of the store
 * but its name. */
static bool
is_cut_short (const struct disk *d)
{
  return (d->sc->h.state & SIDECAR_CREATING) && !d->read_only
         && !d->store->is_block && d->store->size == 0 && d->sc->h.size > 0;
}

/* Open the store into d->store, which stays NULL where there is none yet. */
static int
open_store (struct disk *d, const struct disk_config *cfg, char **error)
{
  const uid_t *owner = cfg->has_owner ? &cfg->owner : NULL;
  const struct file_id *file = cfg->has_file ? &cfg->file : NULL;

  d->store = store_open_of (d->store_path, d->read_only, owner, file, error);
  if (!d->store && !d->read_only && cannot_write (errno)) {
    log_error ("%s; going on read-only", *error);
    d->read_only = true;
    d->store = store_open_of (d->store_path, true, owner, file, error);
  }
  if (!d->store && errno == EAGAIN) {
    match_name_owner (d, error);
    return -1;
  }
  if (!d->store && (errno != ENOENT || owner || file))
    return -1;
  if (!d->store || !d->store->is_block || cfg->metadata)
    return 0;
  message_set (error,
               "the store %s is a block device: say where its sidecar shall "
               "be with metadata=PATH",
               d->store_path);
  errno = EINVAL;
  return -1;
}

/* Open the sidecar into d->sc, which stays NULL where there is none yet.  A
 * sidecar that may not be written makes the store read-only, too. */
static int
open_sidecar (struct disk *d, const struct disk_config *cfg, char **error)
{
  /* A confined process opens volumes for others, so the sidecar's owner
   * counts. */
  uid_t sidecar_owner = d->store ? d->store->uid : 0;
  const uid_t *owner = path_is_confined () ? &sidecar_owner : NULL;
  int err;

  d->sc = sidecar_open_of (d->metadata, d->read_only, owner, error);
  if (!d->sc && !d->read_only && d->store && cannot_write (errno)) {
    log_error ("%s; going on read-only", *error);
    d->read_only = true;
    store_free (d->store);
    d->store = store_open_of (d->store_path, true,
                              cfg->has_owner ? &cfg->owner : NULL,
                              cfg->has_file ? &cfg->file : NULL, error);
    if (!d->store)
      return -1;
    sidecar_owner = d->store->uid;
    d->sc = sidecar_open_of (d->metadata, true, owner, error);
  }
  err = errno;
  /* With neither a store nor a byte in the sidecar there is nothing to lose. */
  if (!d->sc && err == EINVAL && !d->store && !d->read_only
      && file_remove_empty (d->metadata) == 0)
    err = ENOENT;
  if (!d->sc && err == EAGAIN) {
    match_name_owner (d, error);
    return -1;
  }
  return d->sc || err == ENOENT ? 0 : -1;
}

/* With a sidecar: finish a making that was cut short, and check that store,
 * sidecar and command line belong together. */
static int
use_sidecar (struct disk *d, const struct disk_config *cfg, char **error)
{
  if (match_role (d, error) == -1)
    return -1;
  if (d->store && !cfg->has_owner && is_cut_short (d)) {
    store_free (d->store);
    d->store = NULL;
    if (file_remove_empty (d->store_path) == -1) {
      message_set (error, "cannot make the store %s anew: %m", d->store_path);
      return -1;
    }
  }
  if (!d->store && create_finish (d, error) == -1)
    return -1;
  if (match_store (d, cfg, error) == -1)
    return -1;
  return match_config (d, cfg, error);
}

/* Lock store and sidecar, and make what is missing.  *fresh: the sidecar was
 * made. */
static int
open_files (struct disk *d, const struct disk_config *cfg, bool *fresh,
            char **error)
{
  *fresh = false;
  if (open_store (d, cfg, error) == -1 || open_sidecar (d, cfg, error) == -1)
    return -1;
  if (d->read_only && (!d->sc || !d->store)) {
    message_set (error,
                 "%s has not been made yet, and read-only nothing is made",
                 d->sc ? d->store_path : d->metadata);
    errno = ENOENT;
    return -1;
  }
  if (d->sc)
    return use_sidecar (d, cfg, error);
  *fresh = true;
  if (create_is_free (d, error) == -1)
    return -1;
  if (backing_take_command (d, cfg, error) == -1)
    return -1;
  return d->store ? create_adopt (d, cfg, error)
                  : create_volume (d, cfg, error);
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
  if (!complete && backing_take_command (d, cfg, error) == -1)
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
  if (!fresh && !d->no_source && backing_probe_again (d, error) == -1)
    return -1;

  d->map = map_new (d->size, d->granule, d->sc, fresh, complete);
  if (!d->map) {
    message_set (error, "out of memory");
    errno = ENOMEM;
    return -1;
  }
  old = recover_open_work (d, cfg, boot_id, &state, &useless, error);
  if (*error) {
    work_free (useless);
    return -1;
  }
  d->old_work = old ? old : useless;
  d->given.timeout = cfg->timeout;
  d->given.fetch_unit = cfg->fetch_unit;
  d->given.connections = cfg->connections;
  d->given.store_is_name = cfg->store_is_name;
  if (recover_volume (d, cfg, old, state, error) == -1)
    return -1;
  if (d->read_only) {
    work_free (d->old_work);
    d->old_work = NULL;
    return 0;
  }
  if (!cfg->session_later)
    return volume_begin (d, error);
  /* The session begins later; errors that it would meet then are found now. */
  if (remember (d, error) == -1)
    return -1;
  return cfg->user_later || map_is_complete (d->map) ? 0 : make_work (d, error);
}

static struct file_id
file_of (const struct disk *d)
{
  return (struct file_id){ .dev = d->store->dev, .ino = d->store->ino };
}

void
volume_register (struct disk *d)
{
  if (d->read_only)
    return;
  if (runtime_register (d->runtime_dir, file_of (d), d->store_path, d->control,
                        d->name)
      == -1)
    log_error ("cannot enter %s in %s: %m; tools must be told its control "
               "socket",
               d->store_path, d->runtime_dir);
  else
    d->registered = true;
}

void
volume_unregister (struct disk *d)
{
  if (d->registered)
    runtime_unregister (d->runtime_dir, file_of (d));
  d->registered = false;
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
          && file_is_at (d->sc->fd, d->metadata)) {
        /* The volume is complete and detached: a plain raw image is left. */
        path_unlink (d->metadata);
        file_sync_dir (d->metadata);
      }
    }
  }
  volume_unregister (d);
  if (d->work && !d->recorded)
    work_unlink (d->work);
  if (d->work)
    file_unlock (d->work->fd);
  sidecar_unlock (d->sc);
  store_unlock (d->store);
  return r;
}

void
volume_init (struct disk *d)
{
  lock_init (&d->header_lock, LOCK_HEADER);
}

void
volume_destroy (struct disk *d)
{
  if (d->work && !d->recorded)
    work_unlink (d->work);
  work_free (d->work);
  work_free (d->old_work);
  sidecar_free (d->sc);
  store_free (d->store);
  lock_destroy (&d->header_lock);
  if (d->argv)
    for (char **p = d->argv; *p; p++)
      free (*p);
  free (d->argv);
  free (d->command_dir);
  free (d->name);
  free (d->store_path);
  free (d->metadata);
  free (d->backing);
  free (d->runtime_dir);
  free (d->control);
}
