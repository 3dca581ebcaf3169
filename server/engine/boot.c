/* boot.c - a disk's boot trace.  See boot.h.
 *
 * The trace's file belongs to the image, by size and digest of the image's
 * content.  Several disks may save at once: the last one's merge stays, and
 * what another had added in between is recorded again by the next boot.
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
#include "thread.h"
#include "trust.h"

/* The share of saving (ms) in the time that the disk's end may take: see
 * life.c. */
#define SAVE_MS 1000u

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

/* True if only root and this process's user can write to dir. */
static bool
is_own_dir (struct disk *d, const char *dir)
{
  struct stat sb;

  if (stat (dir, &sb) == -1)
    log_error ("%s: no boot traces: %s: %m", d->store_path, dir);
  else if (!S_ISDIR (sb.st_mode))
    log_error ("%s: no boot traces: %s is not a directory", d->store_path, dir);
  else if (!trust_alone (&sb, 0))
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

/* Find the trace's file, b->path.  False: there is none, and the log says
 * why. */
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

/* A trace's file, with its image and its owner: all that is needed to read and
 * write the file, and nothing of the disk. */
struct place {
  char *path, *title;
  bool is_given;
  uid_t owner;
  struct source_identity identity;
};

static bool
place_of (struct disk *d, struct place *p)
{
  *p = (struct place){ .path = strdup (d->boot.path),
                       .title = strdup (d->store_path),
                       .is_given = d->boot.is_given,
                       .owner = d->owner,
                       .identity = d->identity };
  return p->path && p->title;
}

static void
place_clear (struct place *p)
{
  free (p->path);
  free (p->title);
}

/* Read the file's trace, if it is one of that image.  *keep: the file is not
 * ours to write. */
static struct trace *
load (const struct place *p, bool *keep)
{
  CLEANUP_FREE char *error = NULL;
  struct trace *t = trace_load (p->path, p->owner, &error);
  int err = errno;

  *keep = false;
  if (t && trace_is_of (t, p->identity.size, p->identity.digest))
    return t;
  if (t)
    log_error ("%s: boot trace %s is of another image: not used", p->title,
               p->path);
  else if (err != ENOENT)
    log_error ("%s: boot trace not used: %s", p->title, error);
  /* In a directory of traces the name is ours.  A path that the user gave may
   * be another file's, a disk's for example. */
  *keep = t || err == EPERM || (p->is_given && err != ENOENT && err != EBADMSG);
  trace_free (t);
  return NULL;
}

void
boot_start (struct disk *d)
{
  struct boot *b = &d->boot;
  struct place p;
  struct trace *t = NULL;
  bool keep = true;

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
  if (place_of (d, &p))
    t = load (&p, &keep);
  place_clear (&p);
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
    recorder_note (&d->boot.recorder, offset, length, now_coarse_ms ());
  return replay_note (&d->replay, offset, length);
}

/* A thread of its own saves the trace: the directory of traces may hang, and
 * neither a checkpoint nor the disk's end is to wait for that directory. */
struct saving {
  struct lock lock; /* guards the members down to is_alone */
  pthread_cond_t changed;
  bool ended;    /* the thread is done */
  bool is_alone; /* nobody waits: the thread frees it */
  /* The thread's own: */
  struct place place;
  struct trace *now;
};

static void
saving_free (struct saving *s)
{
  place_clear (&s->place);
  trace_free (s->now);
  pthread_cond_destroy (&s->changed);
  lock_destroy (&s->lock);
  free (s);
}

static void
save (const struct place *p, const struct trace *now)
{
  CLEANUP_FREE char *error = NULL;
  struct trace *old, *all;
  bool keep;

  old = load (p, &keep);
  all = old ? trace_merge (old, now) : NULL;
  if (keep)
    log_debug ("%s: boot trace not saved", p->title);
  else if (old && !all)
    log_error ("%s: boot trace not saved: out of memory", p->title);
  else if (trace_save (all ? all : now, p->path, &error) == -1)
    log_error ("%s: boot trace not saved: %s", p->title, error);
  else
    log_debug ("%s: boot trace saved: %s", p->title, p->path);
  trace_free (all);
  trace_free (old);
}

static void *
save_thread (void *arg)
{
  struct saving *s = arg;
  bool is_alone;

  save (&s->place, s->now);
  {
    LOCK_SCOPE (&s->lock);
    s->ended = true;
    is_alone = s->is_alone;
    pthread_cond_broadcast (&s->changed);
  }
  if (is_alone)
    saving_free (s);
  return NULL;
}

/* End the recording, and begin to save it. */
static void
save_begin (struct disk *d)
{
  struct trace *now = recorder_take (&d->boot.recorder);
  struct saving *s;

  if (!now)
    return;
  s = calloc (1, sizeof *s);
  if (!s) {
    trace_free (now);
    return;
  }
  lock_init (&s->lock, LOCK_SAVING);
  cond_init (&s->changed);
  s->now = now;
  if (place_of (d, &s->place)
      && thread_start_stack (NULL, 0, save_thread, s) == 0)
    d->boot.saving = s;
  else {
    log_error ("%s: boot trace not saved: %m", d->store_path);
    saving_free (s);
  }
}

void
boot_tick (struct disk *d, uint64_t now)
{
  /* recorder_is_on does not tell: a full recorder has ended by itself. */
  if (recorder_is_over (&d->boot.recorder, now)) {
    replay_forget (&d->replay);
    save_begin (d);
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
  struct saving *s;
  bool ended;

  save_begin (d);
  s = d->boot.saving;
  if (!s)
    return;
  d->boot.saving = NULL;
  {
    uint64_t until = now_ms () + SAVE_MS;
    LOCK_SCOPE (&s->lock);

    while (!s->ended && lock_wait_ms (&s->changed, &s->lock, until))
      ;
    ended = s->ended;
    s->is_alone = !ended;
  }
  if (ended)
    saving_free (s);
  else
    log_error ("%s: the boot trace's directory does not answer: not saved",
               d->store_path);
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
