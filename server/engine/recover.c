/* recover.c - see recover.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commit.h"
#include "entry.h"
#include "internal.h"
#include "match.h"
#include "path.h"
#include "proof.h"
#include "recover.h"

#define REWRITE_SIZE (UINT64_C (1) << 20)

struct work_identity
recover_identity (struct disk *d, uint64_t session)
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
  uint64_t offset; /* where it failed */
};

static int
rewrite_failed (struct rewriting *rw, uint64_t offset)
{
  rw->offset = offset;
  rw->store = true;
  return -1;
}

/* Write the cached run [offset, end) again, at most REWRITE_SIZE. */
static int
rewrite_run (struct disk *d, struct rewriting *rw, uint64_t offset,
             uint64_t end)
{
  uint64_t n = end - offset;

  if (store_pread (d->store, rw->buf, n, offset) == -1) {
    if (rw->failed)
      return rewrite_failed (rw, offset);
    /* A granule that cannot be read is not in the cache; its neighbours may
     * be. */
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

/* Write pending granules again, so that the sync that follows covers them.  If
 * a sync failed or was cut short, bytes that the page cache shows may never
 * have reached the disk, and the kernel may have marked their pages clean.
 * Holes have no pages to lose.  Where no sync is known to have failed, only
 * what the page cache holds is written: the disk has the rest anyway. */
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

/* True if a copied granule is what W says, and is now written again.  The
 * compared bytes are the written ones, as a page may leave the cache in
 * between. */
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

/* Write what W names again, and sync.  copies: also the granules that W names
 * as copies, as if a guest had written them. */
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

/* The users whose W is believed.  W's bits are about this store alone, so the
 * store's owner is one, and so are root and this process's user.  The user whom
 * the session record names is another, as the store may have had another owner
 * then: libvirt gives an image back to root after the guest's end.  Only users
 * who may write S itself can write the record, and only they know the nonce:
 * nobody else can make a W that passes for the right one, and they have no need
 * to. */
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

/* Look for W by its name, in the directories of processes in our runtime
 * directory: the record's path may be of another mount, or of another name of
 * that directory. */
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

  /* The author of an untrusted sidecar must not choose the file that we
   * open. */
  if (path_is_confined () || !match_is_trusted (d->sc, NULL))
    return find_work (d, id, &owners, state);
  w = work_open (h->work, id, owners.uid, owners.nr, d->read_only, state);
  err = errno;
  if (!w && (err == ENOENT || err == ENOTDIR || err == EACCES)
      && !(w = find_work (d, id, &owners, state)))
    errno = errno == ENOENT ? err : errno;
  return w;
}

/* True if W was made for this very file, and not for one that ours is a copy
 * of, or was before it came here. */
bool
recover_is_made_for (const struct work_identity *id, const struct disk *d)
{
  return id->store_dev == d->store->dev && id->store_ino == d->store->ino
         && id->store_btime == d->store->btime;
}

/* 1: W belongs to the store's bytes; 0: W does not, and is given up (discard);
 * -1 with *error. */
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

/* The W of an open session of this boot.  NULL: no W is needed (*error NULL),
 * or W cannot be had (*error says why).  *useless: a W that is not to be
 * believed, to be removed when there is a new session. */
struct work *
recover_open_work (struct disk *d, const struct disk_config *cfg,
                   const uint8_t *boot_id, enum work_state *state,
                   struct work **useless, char **error)
{
  struct sidecar_header *h = &d->sc->h;
  struct work_identity id = recover_identity (d, h->session);
  struct work *old;

  if (!h->session_open || !h->work)
    return NULL;
  old = find_old_work (d, &id, state);
  if ((h->state & SIDECAR_COMPLETE)
      || memcmp (boot_id, h->boot_id, SIDECAR_BOOT_ID_SIZE) != 0) {
    /* A complete volume needs no W; or the power was cut since, and a W that is
     * still there (a runtime directory on a disk) vouches for bytes that may be
     * gone. */
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
  if (errno == EAGAIN && recover_is_made_for (&id, d)) {
    match_name_owner (d, error);
    return NULL;
  }
  if (cfg->discard_unflushed) {
    log_error ("%s: the working map %s cannot be used (%m); writes that were "
               "not flushed are given up, as asked",
               d->store_path, h->work);
    return NULL;
  }
  if (errno == EACCES) {
    /* Nothing is lost, so discard-unflushed= is not offered. */
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

/* True if the store has failed, and waiting will not help. */
static bool
is_broken (const struct rewriting *rw, int err)
{
  return rw->store && err != ENOMEM && err != ENOSPC && err != EDQUOT;
}

/* Write again the granules of *old that a sync may have lost.  Copies, which
 * can be fetched again, are believed where no sync can have lost them; else the
 * copies that W's sums prove are written again.  *old is NULL afterwards if W
 * is given up. */
static int
rewrite_work (struct disk *d, const struct disk_config *cfg, struct work **old,
              enum work_state state, struct rewriting *rw, char **error)
{
  bool broken;

  /* The kernel tells of a failed sync once: by W's state whoever opens the
   * volume next knows of it, too. */
  if (work_set_state (*old, WORK_SYNCING) == -1) {
    message_set (error, "cannot write the working map %s: %m", (*old)->path);
    return -1;
  }
  if (state == WORK_SYNCING) {
    /* The page cache may show bytes of S that were never written: S is read
     * from the disk.  W's granules are written again anyway. */
    sidecar_sync (d->sc);
    posix_fadvise (d->sc->fd, 0, 0, POSIX_FADV_DONTNEED);
  }
  /* Granules are written again also where no sync is known to have failed: a
   * copier may have died just when the kernel told it of a failure, and the
   * kernel tells nobody else. */
  if (rewrite_pending (d, *old, state == WORK_OK, rw) == 0)
    return 0;
  broken = is_broken (rw, errno);
  if (!cfg->discard_unflushed || !broken) {
    message_set (error,
                 "%s: cannot write again, at offset %llu or after, what a "
                 "failed sync may have lost: %m.  %s",
                 d->store_path, (unsigned long long)rw->offset,
                 broken ? "Mend the disk, or say discard-unflushed=yes to go "
                          "on with what was flushed"
                        : "Open it again when that can be had");
    return -1;
  }
  log_error ("%s: cannot write again, at offset %llu or after, what a "
             "failed sync may have lost (%m); writes that were not "
             "flushed are given up, as asked",
             d->store_path, (unsigned long long)rw->offset);
  /* The rewritten bytes are given up, too, so a failure of this sync is no
   * news. */
  store_sync (d->store);
  *old = NULL;
  return 0;
}

int
recover_volume (struct disk *d, const struct disk_config *cfg, struct work *old,
                enum work_state state, char **error)
{
  struct rewriting rw = { .failed = state == WORK_SYNCING };
  int err;

  if (old && !d->read_only
      && rewrite_work (d, cfg, &old, state, &rw, error) == -1)
    return -1;
  if (old
      && map_recover (d->map, old, state == WORK_OK || !d->read_only) == -1) {
    message_set (error, "cannot read the working map %s: %m", old->path);
    return -1;
  }
  if (d->read_only)
    return 0;
  /* Bytes that are shown from the page cache must be durable before a flush
   * that covers them can be answered (G14). */
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
  /* W does not name overwritten granules that S had already.  Bytes of them
   * that a failed sync lost must not be shown from the page cache, as a later
   * flush would not bring them to the disk (G14).  Nobody knows whether a sync
   * failed just when the last owner died.  But where there was no room to write
   * W's granules again, the page cache may be the last to have them, and is
   * kept. */
  if (d->sc->h.session_open && !rw.left)
    posix_fadvise (d->store->fd, 0, 0, POSIX_FADV_DONTNEED);
  return 0;
}
