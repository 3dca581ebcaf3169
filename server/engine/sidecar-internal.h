/* sidecar-internal.h - what the sidecar's files share.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_SIDECAR_INTERNAL_H
#define BACKFILL_SIDECAR_INTERNAL_H

#include <errno.h>
#include <unistd.h>

#include "sidecar.h"

/* All of it; EILSEQ where the file is shorter. */
static inline int
sidecar_pread (struct sidecar *sc, void *buf, size_t len, uint64_t offset)
{
  char *p = buf;

  while (len > 0) {
    ssize_t r = pread (sc->fd, p, len, (off_t)offset);

    if (r == -1 && errno == EINTR)
      continue;
    if (r <= 0) {
      if (r == 0)
        errno = EILSEQ;
      return -1;
    }
    p += r;
    len -= (size_t)r;
    offset += (uint64_t)r;
  }
  return 0;
}

/* Write all of S with no bit set, in real blocks: no commit needs room (G21).
 */
int sidecar_write_empty_map (struct sidecar *sc) __attribute__ ((nonnull (1)));

#endif
