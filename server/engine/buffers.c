/* buffers.c - see buffers.h.
 *
 * A fresh megabyte costs 256 page faults: so buffers of three sizes are kept
 * when they are given back, up to a bound that grows with the number of running
 * jobs, as each has a request in flight.  They are mapped and not malloc'd, so
 * that a buffer that is not kept goes back to the system.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "buffers.h"
#include "bytes.h"
#include "lock.h"
#include "share.h"

#define POOL_CLASSES 3u
#define POOL_BYTES (UINT64_C (12) << 20)
#define POOL_KEEP 96u /* of one size */

static struct {
  struct lock lock;
  void *kept[POOL_CLASSES][POOL_KEEP];
  unsigned nr[POOL_CLASSES];
  uint64_t bytes;
} pool = { .lock = LOCK_INITIALIZER (LOCK_BUFFERS) };

static const size_t pool_size[POOL_CLASSES]
    = { 256u << 10, 1u << 20, 2u << 20 };

static void *
pool_take (unsigned c)
{
  ASSERT_HELD (&pool.lock);
  pool.bytes -= pool_size[c];
  return pool.kept[c][--pool.nr[c]];
}

/* Is there room for one more buffer of class c?
 * Buffers of other sizes, which an earlier job used, are given up for it. */
static bool
pool_has_room (unsigned c)
{
  /* Each of many jobs has a request in flight. */
  uint64_t limit = POOL_BYTES + (uint64_t)jobs_running () * pool_size[1];

  ASSERT_HELD (&pool.lock);
  for (unsigned i = 0; i < POOL_CLASSES; i++)
    while (i != c && pool.nr[i] > 0 && pool.bytes + pool_size[c] > limit)
      munmap (pool_take (i), pool_size[i]);
  /* More jobs ran when these were kept. */
  while (pool.nr[c] > 0 && pool.bytes > limit)
    munmap (pool_take (c), pool_size[c]);
  return pool.nr[c] < POOL_KEEP && pool.bytes + pool_size[c] <= limit;
}

char *
buffer_get (size_t size, size_t *got)
{
  unsigned c = 0;

  if (size <= 64u << 10) {
    *got = size;
    return malloc (size);
  }
  while (c < POOL_CLASSES - 1 && pool_size[c] < size)
    c++;
  *got = max_u64 (size, pool_size[c]);
  if (*got == pool_size[c]) {
    LOCK_SCOPE (&pool.lock);
    if (pool.nr[c] > 0)
      return pool_take (c);
  }
  if (*got == pool_size[c]) {
    void *p = mmap (NULL, *got, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
  }
  return malloc (*got);
}

void
buffer_put (char *buf, size_t size)
{
  for (unsigned c = 0; c < POOL_CLASSES; c++)
    if (size == pool_size[c]) {
      {
        LOCK_SCOPE (&pool.lock);
        if (pool_has_room (c)) {
          pool.bytes += size;
          pool.kept[c][pool.nr[c]++] = buf;
          return;
        }
      }
      munmap (buf, size);
      return;
    }
  free (buf);
}

void
buffers_free (void)
{
  LOCK_SCOPE (&pool.lock);
  for (unsigned c = 0; c < POOL_CLASSES; c++)
    while (pool.nr[c] > 0)
      munmap (pool_take (c), pool_size[c]);
}
