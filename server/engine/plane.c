/* plane.c - see plane.h.
 *
 * The file, in the byte order of the machine but for its first fields:
 *
 *   0       header: id, CRC; then words that change: live, dropped, session,
 *           state
 *   4096    top level of plane 0, then of plane 1: a bit for each 64 MiB
 *   ...     bits of plane 0, then of plane 1
 *
 * Plane n is that of index n mod 2.  The frozen plane is live - 1, unless
 * dropped says that this plane is gone.  Each step of a flip is one store to a
 * mapped word.  A process that is killed between two steps leaves a plane that
 * was dropped, and perhaps not cleared: the next flip does both again.
 *
 * planes_claim counts the claim under its number's index, and then looks again
 * whether that number is still live.  So a thread that has flipped, and then
 * sees no claim of the old number, knows that no claim will mark that plane.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"
#include "crc32c.h"
#include "lock.h"
#include "plane.h"
#include "thread.h"

#define MAGIC "BKPLANE\n"
#define PAGE UINT64_C (4096)
#define REGION (UINT64_C (64) << 20)
#define PLANE_MAX (UINT64_C (32) << 20)
#define ID_SIZE 96u /* bytes that the CRC covers */

enum { STATE_OK = 1, STATE_SYNCING = 2, STATE_FAILED = 3 };

/* What changes, mapped. */
struct words {
  uint64_t live, dropped, session, state;
};
#define WORDS_OFFSET 128u

struct planes {
  int fd;
  struct planes_id id;
  uint64_t top_size, plane_size; /* bytes of one, whole pages */
  uint8_t *map;
  uint64_t map_size;
  struct words *words;
  uint64_t *top[2], *bits[2];
  uint8_t *has[2];    /* atomic, a byte for each page of bits: it has room */
  unsigned inside[2]; /* atomic: claims */
  bool waiting;       /* atomic: somebody waits for them */
  struct lock lock;   /* pages that are made, and who waits */
  pthread_cond_t left;
  unsigned syncs;              /* atomic */
  uint8_t under[ROLE_ID_SIZE]; /* the freeze in which `frozen` was */
};

static uint64_t
load (const uint64_t *word)
{
  return __atomic_load_n (word, __ATOMIC_SEQ_CST);
}

static void
set (uint64_t *word, uint64_t value)
{
  __atomic_store_n (word, value, __ATOMIC_SEQ_CST);
}

static bool
get_bit (const uint64_t *bits, uint64_t i)
{
  return load (&bits[i / 64]) >> (i % 64) & 1;
}

static void
set_bit (uint64_t *bits, uint64_t i)
{
  uint64_t bit = UINT64_C (1) << (i % 64);

  /* A cache line that is not written stays everybody's. */
  if (!(load (&bits[i / 64]) & bit))
    __atomic_or_fetch (&bits[i / 64], bit, __ATOMIC_SEQ_CST);
}

uint32_t
planes_granule (uint64_t size, uint32_t map_granule)
{
  uint32_t granule = map_granule > 4096 ? map_granule : 4096;

  while (size / granule / 8 > PLANE_MAX && granule < UINT32_C (1) << 31)
    granule *= 2;
  return granule;
}

/* The file. */

static void
pack_id (const struct planes_id *id, uint8_t buf[ID_SIZE])
{
  memset (buf, 0, ID_SIZE);
  memcpy (buf, MAGIC, 8);
  memcpy (buf + 8, id->lineage, ROLE_ID_SIZE);
  memcpy (buf + 24, id->mid, ROLE_ID_SIZE);
  memcpy (buf + 40, id->boot_id, PLANE_BOOT_ID_SIZE);
  put_le64 (buf + 56, id->generation);
  put_le64 (buf + 64, id->size);
  put_le32 (buf + 72, id->granule);
  put_le32 (buf + ID_SIZE - 4, crc32c (buf, ID_SIZE - 4));
}

static uint64_t
whole_pages (uint64_t nr_bits)
{
  return round_up (nr_bits / 8 + 8, PAGE);
}

static struct planes *
planes_alloc (const struct planes_id *id)
{
  struct planes *p = calloc (1, sizeof *p);

  if (!p)
    return NULL;
  p->fd = -1;
  p->id = *id;
  p->map = MAP_FAILED;
  lock_init (&p->lock, LOCK_PLANES);
  cond_init (&p->left);
  p->top_size = whole_pages (id->size / REGION + 1);
  p->plane_size = whole_pages (id->size / id->granule + 1);
  p->map_size = PAGE + 2 * p->top_size + 2 * p->plane_size;
  for (unsigned i = 0; i < 2; i++)
    if (!(p->has[i] = calloc (p->plane_size / PAGE, 1))) {
      planes_free (p);
      errno = ENOMEM;
      return NULL;
    }
  return p;
}

void
planes_free (struct planes *p)
{
  if (!p)
    return;
  if (p->map != MAP_FAILED)
    munmap (p->map, p->map_size);
  if (p->fd >= 0)
    close (p->fd);
  free (p->has[0]);
  free (p->has[1]);
  lock_destroy (&p->lock);
  pthread_cond_destroy (&p->left);
  free (p);
}

static uint64_t
bits_offset (const struct planes *p, unsigned i)
{
  return PAGE + 2 * p->top_size + i * p->plane_size;
}

static int
map_file (struct planes *p)
{
  p->map
      = mmap (NULL, p->map_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
  if (p->map == MAP_FAILED)
    return -1;
  p->words = (struct words *)(void *)(p->map + WORDS_OFFSET);
  for (unsigned i = 0; i < 2; i++) {
    p->top[i] = (uint64_t *)(void *)(p->map + PAGE + i * p->top_size);
    p->bits[i] = (uint64_t *)(void *)(p->map + bits_offset (p, i));
  }
  return 0;
}

struct planes *
planes_create (const char *path, const struct planes_id *id)
{
  struct planes *p = planes_alloc (id);
  int err;

  if (!p)
    return NULL;
  p->fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (p->fd == -1) {
    err = errno;
    planes_free (p);
    errno = err;
    return NULL;
  }
  if (ftruncate (p->fd, (off_t)p->map_size) == -1
      || fallocate (p->fd, 0, 0, (off_t)(PAGE + 2 * p->top_size)) == -1
      || map_file (p) == -1) {
    err = errno;
    unlink (path);
    planes_free (p);
    errno = err;
    return NULL;
  }
  set (&p->words->live, 1);
  set (&p->words->dropped, 0);
  set (&p->words->session, id->session);
  set (&p->words->state, STATE_OK);
  /* The id comes last: a file without an id belongs to no volume. */
  pack_id (id, p->map);
  return p;
}

/* Drop all that the plane of that index has. */
static void
clear_plane (struct planes *p, unsigned i)
{
  memset (p->top[i], 0, p->top_size);
  if (fallocate (p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                 (off_t)bits_offset (p, i), (off_t)p->plane_size)
      == 0) {
    memset (p->has[i], 0, p->plane_size / PAGE);
    return;
  }
  for (uint64_t page = 0; page < p->plane_size / PAGE; page++)
    if (p->has[i][page])
      memset ((uint8_t *)p->bits[i] + page * PAGE, 0, PAGE);
}

/* Set has[i][page] for each page that the file has. */
static int
find_pages (struct planes *p, unsigned i)
{
  off_t at = (off_t)bits_offset (p, i);
  const off_t begin = at, limit = at + (off_t)p->plane_size;

  while (at < limit) {
    off_t data = lseek (p->fd, at, SEEK_DATA), end;

    if (data == -1 && errno == ENXIO)
      return 0;
    if (data == -1 || (end = lseek (p->fd, data, SEEK_HOLE)) == -1)
      return -1;
    for (at = data; at < end && at < limit; at += (off_t)PAGE)
      p->has[i][(at - begin) / (off_t)PAGE] = 1;
    at = end;
  }
  return 0;
}

static const char *
what_is_wrong (struct planes *p, const struct planes_id *id)
{
  uint8_t want[ID_SIZE], is[ID_SIZE];
  struct stat sb;
  uint64_t live;

  if (fstat (p->fd, &sb) == -1 || !S_ISREG (sb.st_mode)
      || (sb.st_uid != 0 && sb.st_uid != geteuid ()) || (sb.st_mode & 022))
    return "the file is not ours";
  if ((uint64_t)sb.st_size != p->map_size
      || pread (p->fd, is, sizeof is, 0) != (ssize_t)sizeof is)
    return "the file has another size";
  pack_id (id, want);
  if (memcmp (is, want, sizeof is) != 0)
    return "the file is of another disk, migration, boot or generation";
  if (map_file (p) == -1)
    return "the file cannot be mapped";
  if (load (&p->words->session) != id->session)
    return "the file is not of the last session";
  if (load (&p->words->state) != STATE_OK)
    return "a sync of the store failed, or ran when its server died";
  live = load (&p->words->live);
  if (live == 0 || load (&p->words->dropped) >= live
      || live - load (&p->words->dropped) > 2)
    return "the file makes no sense";
  if (find_pages (p, 0) == -1 || find_pages (p, 1) == -1)
    return "the file cannot be read";
  return NULL;
}

struct planes *
planes_open (const char *path, const struct planes_id *id, const char **why)
{
  struct planes *p = planes_alloc (id);

  *why = "out of memory";
  if (!p)
    return NULL;
  p->fd = open (path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  *why = p->fd == -1 ? "the file is gone, or cannot be opened"
                     : what_is_wrong (p, id);
  if (*why) {
    planes_free (p);
    return NULL;
  }
  return p;
}

void
planes_begin_session (struct planes *p, uint64_t session)
{
  set (&p->words->session, session);
}

void
planes_sync_begin (struct planes *p)
{
  LOCK_SCOPE (&p->lock);
  if (p->syncs++ == 0 && load (&p->words->state) == STATE_OK)
    set (&p->words->state, STATE_SYNCING);
}

void
planes_sync_end (struct planes *p, bool failed)
{
  LOCK_SCOPE (&p->lock);
  if (failed)
    set (&p->words->state, STATE_FAILED);
  if (--p->syncs == 0 && load (&p->words->state) == STATE_SYNCING)
    set (&p->words->state, STATE_OK);
}

/* Changes. */

static void
leave (struct planes *p, uint64_t number)
{
  if (__atomic_sub_fetch (&p->inside[number & 1], 1, __ATOMIC_SEQ_CST) == 0
      && __atomic_load_n (&p->waiting, __ATOMIC_SEQ_CST)) {
    LOCK_SCOPE (&p->lock);
    pthread_cond_broadcast (&p->left);
  }
}

void
planes_claim (struct planes *p, struct planes_claim *c)
{
  for (;;) {
    c->number = load (&p->words->live);
    __atomic_add_fetch (&p->inside[c->number & 1], 1, __ATOMIC_SEQ_CST);
    if (load (&p->words->live) == c->number)
      return;
    leave (p, c->number);
  }
}

void
planes_drop (struct planes *p, struct planes_claim *c)
{
  leave (p, c->number);
  c->number = 0;
}

/* True if the file has, or now gets, room for that page of bits. */
static bool
make_page (struct planes *p, unsigned i, uint64_t page)
{
  bool made;

  if (__atomic_load_n (&p->has[i][page], __ATOMIC_ACQUIRE))
    return true;
  LOCK_SCOPE (&p->lock);
  made = p->has[i][page]
         || fallocate (p->fd, 0, (off_t)(bits_offset (p, i) + page * PAGE),
                       (off_t)PAGE)
                == 0;
  if (made)
    __atomic_store_n (&p->has[i][page], 1, __ATOMIC_RELEASE);
  return made;
}

void
planes_mark (struct planes *p, const struct planes_claim *c, uint64_t offset,
             uint64_t length)
{
  const unsigned i = c->number & 1;
  const uint64_t granule = p->id.granule;
  uint64_t g = offset / granule;
  const uint64_t end = length == 0 ? g : (offset + length - 1) / granule + 1;

  for (; g < end; g++)
    if (make_page (p, i, g / 8 / PAGE))
      set_bit (p->bits[i], g);
    else
      /* A granule may be larger than a region. */
      for (uint64_t at = g * granule / REGION;
           at <= ((g + 1) * granule - 1) / REGION && at * REGION < p->id.size;
           at++)
        set_bit (p->top[i], at);
}

/* Rounds. */

static uint64_t
frozen (struct planes *p)
{
  uint64_t n = load (&p->words->live) - 1;

  return n > load (&p->words->dropped) ? n : 0;
}

uint64_t
planes_live (struct planes *p)
{
  return load (&p->words->live);
}

static int
wait_for_older (struct planes *p, uint64_t n, uint64_t until)
{
  int r = 0;

  LOCK_SCOPE (&p->lock);
  __atomic_store_n (&p->waiting, true, __ATOMIC_SEQ_CST);
  while (r == 0 && __atomic_load_n (&p->inside[n & 1], __ATOMIC_SEQ_CST) > 0)
    if (!lock_wait_ms (&p->left, &p->lock, until)) {
      errno = ETIMEDOUT;
      r = -1;
    }
  __atomic_store_n (&p->waiting, false, __ATOMIC_SEQ_CST);
  return r;
}

int
planes_take (struct planes *p, uint64_t n, uint8_t under[ROLE_ID_SIZE],
             uint64_t until)
{
  const uint64_t live = load (&p->words->live);

  if (load (&p->words->state) == STATE_FAILED) {
    errno = EIO;
    return -1;
  }
  if (n == 0 || n > live) {
    errno = EINVAL;
    return -1;
  }
  if (n < live && n != frozen (p)) {
    errno = ESTALE;
    return -1;
  }
  if (n == live) {
    /* Claims of the plane before were waited for when it was taken, if it was
     * answered at all. */
    if (wait_for_older (p, n - 1, until) == -1)
      return -1;
    set (&p->words->dropped, n - 1);
    clear_plane (p, (n - 1) & 1);
    memcpy (p->under, under, ROLE_ID_SIZE);
    set (&p->words->live, n + 1);
  }
  memcpy (under, p->under, ROLE_ID_SIZE);
  return wait_for_older (p, n, until);
}

static bool
is_dirty (struct planes *p, unsigned i, uint64_t g)
{
  const uint64_t granule = p->id.granule;

  if (__atomic_load_n (&p->has[i][g / 8 / PAGE], __ATOMIC_ACQUIRE)
      && get_bit (p->bits[i], g))
    return true;
  for (uint64_t at = g * granule / REGION; at * REGION < (g + 1) * granule;
       at++)
    if (get_bit (p->top[i], at))
      return true;
  return false;
}

/* From g on to the next granule that may be dirty: steps over pages that are
 * not there. */
static uint64_t
skip_clean (struct planes *p, unsigned i, uint64_t g, uint64_t nr)
{
  const uint64_t in_page = 8 * PAGE;

  while (g < nr && !is_dirty (p, i, g)) {
    uint64_t region_end
        = ((g * p->id.granule / REGION + 1) * REGION) / p->id.granule;
    uint64_t page_end = (g / in_page + 1) * in_page;

    if (!__atomic_load_n (&p->has[i][g / in_page], __ATOMIC_ACQUIRE))
      g = max_u64 (min_u64 (region_end, page_end), g + 1);
    else if (g % 64 == 0 && load (&p->bits[i][g / 64]) == 0)
      g = max_u64 (min_u64 (region_end, g + 64), g + 1);
    else
      g++;
  }
  return min_u64 (g, nr);
}

bool
planes_next (struct planes *p, uint64_t n, uint64_t offset, uint64_t *begin,
             uint64_t *end)
{
  const uint64_t granule = p->id.granule;
  const uint64_t nr = (p->id.size + granule - 1) / granule;
  const unsigned i = n & 1;
  uint64_t g = skip_clean (p, i, offset / granule, nr);

  if (offset >= p->id.size || g == nr)
    return false;
  *begin = max_u64 (g * granule, offset);
  while (g < nr && is_dirty (p, i, g))
    g++;
  *end = min_u64 (g * granule, p->id.size);
  return true;
}
