/* list.c - see list.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "clock.h"
#include "volumes/access.h"
#include "volumes/internal.h"
#include "volumes/list.h"
#include "volumes/looks.h"
#include "volumes/table.h"

/* The ledger's volumes that are not open here, with what is known of each
 * within SILENT_MS. */
static int
list_closed (struct volumes *vs, const struct control_peer *peer,
             struct disk_peek **closed, size_t *nr)
{
  bool patient = now_ms () - peer->since < SILENT_MS;
  struct disk_peek *ptr;
  size_t n = 0;

  ASSERT_HELD (&vs->lock);
  for (size_t i = 0; patient && i < vs->ledger->nr; i++) {
    const struct ledger_entry *e = vs->ledger->entry[i];

    if ((access_is_ours (peer) || e->uid == peer->uid)
        && !table_find (vs, e->path)
        && !look_at (vs, e->path, access_user (peer), true, peer->since,
                     peer->serial))
      n++;
  }
  if (n > 0)
    return table_later (vs);
  ptr = calloc (vs->ledger->nr + 1, sizeof *ptr);
  if (!ptr)
    return -1;
  *closed = ptr;
  for (size_t i = 0; i < vs->ledger->nr; i++) {
    const struct ledger_entry *e = vs->ledger->entry[i];
    const struct look *l;

    if ((!access_is_ours (peer) && e->uid != peer->uid)
        || table_find (vs, e->path))
      continue;
    l = look_last (vs, e->path, access_user (peer));
    if (l && !l->busy && !l->err && l->peek.has_sidecar) {
      /* The process that has it open tells of it, or has dismissed its job. */
      if (l->peek.in_use || (e->ended && l->peek.info.job.status == JOB_NONE))
        continue;
      if (look_copy (&ptr[*nr], &l->peek) == 0)
        ++*nr;
      continue;
    }
    if (l && !l->busy && l->err == EPERM && !access_is_ours (peer))
      continue;
    ptr[*nr].store = strdup (e->path);
    ptr[*nr].error = strdup (!l || l->busy ? "its store does not answer"
                             : l->error    ? l->error
                                           : "it has no sidecar");
    ptr[*nr].info.name = ptr[*nr].info.store = ptr[*nr].store;
    if (ptr[*nr].store)
      ++*nr;
  }
  return 0;
}

int
list_volumes (void *opaque, const struct control_peer *peer,
              struct disks *disks, struct disk_peek **closed, size_t *nr)
{
  struct volumes *vs = opaque;
  struct volume *v;
  LOCK_SCOPE (&vs->lock);

  if (closed && list_closed (vs, peer, closed, nr) == -1)
    return -1;
  disks->len = 0;
  disks->ptr = calloc (vs->nr_open + 1, sizeof *disks->ptr);
  if (!disks->ptr)
    return -1;
  LIST_FOREACH (v, &vs->open, next) {
    if (v->state == VOLUME_OPEN && access_may_see (peer, v)) {
      v->refs++;
      disks->ptr[disks->len++] = v->disk;
    }
  }
  return 0;
}
