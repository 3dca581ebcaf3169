/* survey.c - see survey.h.
 *
 * A crew thread asks one disk after the other.  When one does not answer
 * within SILENT_MS the thread is left behind with it, and another thread goes
 * on with the next disk.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdlib.h>

#include "cleanup.h"
#include "clock.h"
#include "log.h"
#include "volumes/close.h"
#include "volumes/internal.h"
#include "volumes/survey.h"
#include "volumes/table.h"

/* A list that a crew thread asks.  vs->lock guards it. */
struct survey {
  struct volumes *vs;
  struct disks disks; /* each counted in its volume's refs, by the command */
  void **results;
  void *(*ask) (struct disk *disk);
  void (*drop) (void *result);
  size_t next;    /* the disk that is being asked, */
  uint64_t since; /* and since when */
  bool ended;
  /* Not NULL: the command has left, and disks and results are gone.  The volume
   * that is being asked, counted in its refs; the thread frees the survey. */
  struct volume *left;
};

/* A task of the crew. */
static void
survey_task (void *arg)
{
  struct survey *s = arg;
  struct volumes *vs = s->vs;
  LOCK_SCOPE (&vs->lock);

  while (!s->left && s->next < s->disks.len) {
    struct disk *disk = s->disks.ptr[s->next];
    const struct volume *v = table_of_disk (vs, disk);
    void *result = NULL;

    s->since = now_ms ();
    if (v && !v->silent) {
      UNLOCK_SCOPE (&vs->lock);
      result = s->ask (disk);
    }
    if (!s->left)
      s->results[s->next++] = result;
    else if (result)
      s->drop (result);
  }
  if (s->left) {
    s->left->silent = false;
    close_put (vs, s->left);
    free (s);
    return;
  }
  s->ended = true;
  pthread_cond_broadcast (&vs->changed);
}

/* Ask from disk number *at on.  0: all have been asked; 1: a disk does not
 * answer, *at is the next; -1: there is no thread. */
static int
survey_from (struct volumes *vs, const struct survey *like, size_t *at)
{
  struct survey *s = malloc (sizeof *s);
  struct volume *v;

  ASSERT_HELD (&vs->lock);
  if (!s)
    return -1;
  *s = *like;
  s->next = *at;
  s->since = now_ms ();
  if (crew_run (vs->crew, survey_task, s) == -1) {
    free (s);
    return -1;
  }
  while (!s->ended && now_ms () - s->since < SILENT_MS)
    table_wait (vs, s->since + SILENT_MS);
  if (s->ended) {
    free (s);
    return 0;
  }
  v = table_of_disk (vs, s->disks.ptr[s->next]);
  v->silent = true;
  v->refs++;
  log_debug ("%s: does not answer", v->path);
  *at = s->next + 1;
  s->left = v;
  return 1;
}

int
survey_run (void *opaque, const struct disks *disks,
            void *(*ask) (struct disk *disk), void (*drop) (void *result),
            void ***results)
{
  struct volumes *vs = opaque;
  const struct survey like = {
    .vs = vs,
    .disks = *disks,
    .results = calloc (disks->len + 1, sizeof **results),
    .ask = ask,
    .drop = drop,
  };
  size_t at = 0;
  int r = 1;

  *results = like.results;
  if (!*results)
    return -1;
  LOCK_SCOPE (&vs->lock);
  while (r == 1 && at < disks->len)
    r = survey_from (vs, &like, &at);
  return r == -1 ? -1 : 0;
}
