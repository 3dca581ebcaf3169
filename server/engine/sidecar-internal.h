/* sidecar-internal.h - what the sidecar's files share.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SIDECAR_INTERNAL_H
#define BACKFILL_SIDECAR_INTERNAL_H

#include <errno.h>

#include "file.h"
#include "sidecar.h"

/* All of it; EILSEQ where the file is shorter. */
static inline int
sidecar_pread (struct sidecar *sc, void *buf, uint64_t count, uint64_t offset)
{
  int r = file_read (sc->fd, buf, count, offset);

  if (r == 1) {
    errno = EILSEQ;
    return -1;
  }
  return r;
}

/* Write all of S with no bit set, in real blocks: no commit needs room (G21).
 */
int sidecar_write_empty_map (struct sidecar *sc) __attribute__ ((nonnull (1)));

#endif
