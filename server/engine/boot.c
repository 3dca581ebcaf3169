/* boot.c - a disk's boot trace.  See boot.h.
 *
 * The file belongs to the image, by size and digest of its content.  Several
 * disks may save at once: the last one's merge stays, and what another had
 * added in between is recorded again by the next boot.
 *
 * A directory of traces counts if nobody but root and the process's user can
 * write there, a trace by its owner (trace_load).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot.h"
#include "internal.h"
#include "log.h"

void
boot_init (struct disk *d)
{
  recorder_init (&d->boot.recorder);
  replay_init (&d->replay);
}

void
boot_destroy (struct disk *d)
{
  recorder_destroy (&d->boot.recorder);
  replay_destroy (&d->replay);
  free (d->boot.dir);
  free (d->boot.path);
}

/* Only we and root may say what is in it. */
static bool
is_own_dir (struct disk *d, const char *dir)
{
  struct stat sb;

  if (stat (dir, &sb) == -1)
    log_error ("%s: no boot traces: %s: %m", d->store_path, dir);
  else if (!S_ISDIR (sb.st_mode))
    log_error ("%s: no boot traces: %s is not a directory", d->store_path, dir);
  else if ((sb.st_uid != 0 && sb.st_uid != geteuid ())
           || (sb.st_mode & (S_IWGRP | S_IWOTH)))
    log_error ("%s: no boot traces: others than root and this process's user "
               "may write to %s",
               d->store_path, dir);
  else
    return true;
  return false;
}

int
boot_configure (struct disk *d, const struct disk_config *cfg)
{
  const char *trace = cfg->trace ? cfg->trace : cfg->trace_dir ? "auto" : "off";
  struct boot *b = &d->boot;

  b->is_used = strcmp (trace, "off") != 0 && !d->read_only;
  if (!b->is_used)
    return 0;
  b->is_given = strcmp (trace, "auto") != 0;
  if (b->is_given)
    return (b->path = strdup (trace)) ? 0 : -1;
  if (cfg->trace_dir)
    return (b->dir = strdup (cfg->trace_dir)) ? 0 : -1;
  return 0;
}

static bool
has_digest (const struct disk *d)
{
  return d->has_identity && d->identity_mode == SOURCE_IDENTITY_CONTENT
         && !is_all_zero ((const char *)d->identity.digest,
                          sizeof d->identity.digest);
}

/* Which file it is.  False, and said: none. */
static bool
find_path (struct disk *d)
{
  struct boot *b = &d->boot;

  if (b->path)
    return true;
  if (!b->dir)
    b->dir = trace_default_dir ();
  if (!b->dir)
    log_error ("%s: no boot traces: there is no directory for them; name one "
               "with trace-dir=",
               d->store_path);
  else if (is_own_dir (d, b->dir))
    b->path = trace_name (b->dir, d->identity.size, d->identity.digest);
  return b->path != NULL;
}

/* The file's trace, if it is one of our image.  *keep: the file is not ours to
 * write. */
static struct trace *
load (struct disk *d, bool *keep)
{
  CLEANUP_FREE char *error = NULL;
  struct trace *t = trace_load (d->boot.path, d->owner, &error);
  int err = errno;

  *keep = false;
  if (t && trace_is_of (t, d->identity.size, d->identity.digest))
    return t;
  if (t)
    log_error ("%s: boot trace %s is of another image: not used", d->store_path,
               d->boot.path);
  else if (err != ENOENT)
    log_error ("%s: boot trace not used: %s", d->store_path, error);
  /* In a directory of traces the name is ours.  A path that was given may be
   * another file's: that of a disk, say. */
  *keep = t || err == EPERM
          || (d->boot.is_given && err != ENOENT && err != EBADMSG);
  trace_free (t);
  return NULL;
}

void
boot_start (struct disk *d)
{
  struct boot *b = &d->boot;
  struct trace *t;
  bool keep;

  if (!b->is_used)
    return;
  if (d->no_source || !has_digest (d)) {
    log_debug ("%s: no boot traces: the backing store's content is not known "
               "by a digest",
               d->store_path);
    return;
  }
  if (!find_path (d))
    return;
  t = load (d, &keep);
  if (t && !map_is_complete (d->map))
    replay_start (d, t);
  else
    trace_free (t);
  if (!keep)
    recorder_start (&b->recorder, d->identity.size, d->identity.digest);
}

bool
boot_note (struct disk *d, uint64_t offset, uint64_t length)
{
  if (recorder_is_on (&d->boot.recorder))
    recorder_note (&d->boot.recorder, offset, length, now_ms ());
  return replay_note (&d->replay, offset, length);
}

static void
save (struct disk *d)
{
  struct trace *now = recorder_take (&d->boot.recorder), *old, *all = NULL;
  CLEANUP_FREE char *error = NULL;
  bool keep;

  if (!now)
    return;
  old = load (d, &keep);
  if (!keep) {
    all = old ? trace_merge (old, now) : NULL;
    if (old && !all)
      log_error ("%s: boot trace not saved: out of memory", d->store_path);
    else if (trace_save (all ? all : now, d->boot.path, &error) == -1)
      log_error ("%s: boot trace not saved: %s", d->store_path, error);
    else
      log_debug ("%s: boot trace saved: %s", d->store_path, d->boot.path);
  }
  trace_free (all);
  trace_free (old);
  trace_free (now);
}

void
boot_tick (struct disk *d, uint64_t now)
{
  /* Not recorder_is_on: it may have ended of itself, full. */
  if (recorder_is_over (&d->boot.recorder, now)) {
    replay_forget (&d->replay);
    save (d);
  }
}

bool
boot_stop (struct disk *d, uint64_t until)
{
  return replay_stop (d, until);
}

void
boot_end (struct disk *d)
{
  save (d);
}

void
boot_get_info (struct disk *d, struct disk_trace_info *info)
{
  struct replay_info r;

  replay_get_info (&d->replay, &r);
  info->path = d->boot.path;
  info->recording = recorder_is_on (&d->boot.recorder);
  info->replaying = r.active;
  info->used = r.used;
  info->hit = r.hit;
}
