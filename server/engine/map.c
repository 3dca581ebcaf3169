/* map.c - the live map and its durable part.  See map.h.
 *
 * A table entry is a small number that stands for a whole sector, or a
 * pointer to a page of bits.  An entry goes from not-loaded to one of the
 * others under its stripe's lock; a page becomes STABLE when all of it is
 * durable; a clean page may go back to not-loaded.  A reader that holds no
 * lock looks at the page's generation before and after, as pages are reused.
 *
 * A bit goes up in this order: data in the store (caller), bit in W, bit in
 * live.  stable only changes in map_snapshot_publish, after the sidecar was
 * synced: so S or snapshot is what the sidecar holds, whatever was marked
 * meanwhile.
 *
 * Bits past the last granule are always set in a page, and ignored when they
 * come from the sidecar.
 *
 * One file, although long: table, pages and snapshot are one lock-free
 * structure, and the order of their writes can only be judged together.
 *
 * Left out: when to commit (commit.c), what a bit means for I/O (disk.c).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "array.h"
#include "bytes.h"
#include "cleanup.h"
#include "lock.h"
#include "log.h"
#include "map.h"

#define BITS SIDECAR_BITS
#define WORDS SIDECAR_WORDS
#define GROUP 8u /* sectors that share a 4 KiB page of W */
#define STRIPES 64u
#define PENDING_MIN 64u
/* Clean pages are dropped beyond this many: about 25 MiB a disk. */
#define MAX_PAGES 16384u
/* Sectors that map_try_live_bytes counts at most: a quarter of a millisecond.
 */
#define TRY_SECTORS 1024u

/* Table entries below FIRST_PAGE stand for a whole sector. */
enum { UNLOADED, ABSENT, STABLE, HOLE, DAMAGED, FIRST_PAGE };

/* 64 bits of a page.  The holder of the page's stripe changes it; anybody reads
 * it. */
typedef _Atomic uint64_t word;

struct page {
  word live[WORDS], stable[WORDS];
  word named[WORDS];     /* W has their bits */
  uint64_t guest[WORDS]; /* under the stripe's lock alone */
  _Atomic uint32_t gen;  /* changes when the page is taken from its sector */
  uint32_t index;        /* sector; UINT32_MAX: free.  Under the pool lock */
  bool in_pending;
  struct page *next_free;
};

struct run {
  uint32_t first, end; /* sectors */
};

struct runs {
  struct run *ptr;
  size_t len;
};

struct map {
  uint64_t size, nr; /* bytes, granules */
  uint32_t granule, shift;
  uint32_t nr_sectors;
  struct sidecar *sc;
  struct work *work;
  atomic_bool complete;
  atomic_bool w_fails;   /* W cannot be written, and the log says so */
  atomic_bool has_guest; /* a commit that only flushes has something to do */

  _Atomic uintptr_t *table; /* changed under the stripe's lock */
  size_t table_len;
  struct lock stripe[STRIPES];

  struct lock pool_lock; /* of the members below */
  struct page **pages;
  size_t nr_pages, hand;
  struct page *free_pages;
  uint32_t *pending;
  size_t nr_pending, cap_pending;
  size_t pending_reserve;      /* room in it for what a commit has taken */
  LIST_HEAD (, map_held) held; /* ranges whose sums wait for their bits */
  struct runs holes;           /* HOLE sectors that are not in the sidecar */
  uint64_t nr_damaged, damaged_g, damaged_end;

  _Atomic uint32_t first_absent; /* hint: all sectors before it are live */
};

struct snap_page {
  uint32_t index;
  bool guest;
  uint64_t snap[WORDS], full[WORDS]; /* what is new; S or new */
};

struct map_snapshot {
  struct snap_page *page;
  size_t nr_pages;
  struct runs holes;   /* taken */
  struct runs written; /* of them, those that went to the sidecar */
  bool guest;
};

static inline uintptr_t
entry_get (const struct map *m, uint32_t index)
{
  return atomic_load_explicit (&m->table[index], memory_order_acquire);
}

static inline void
entry_set (struct map *m, uint32_t index, uintptr_t value)
{
  atomic_store_explicit (&m->table[index], value, memory_order_release);
}

/* For who does not hold the stripe. */
static inline uint64_t
word_get (const word *w)
{
  return atomic_load_explicit (w, memory_order_acquire);
}

/* For the holder of the stripe: nobody else changes it. */
static inline uint64_t
word_own (const word *w)
{
  return atomic_load_explicit (w, memory_order_relaxed);
}

static inline void
word_set (word *w, uint64_t value)
{
  atomic_store_explicit (w, value, memory_order_release);
}

static inline struct lock *
stripe_of (struct map *m, uint32_t index)
{
  return &m->stripe[(index / GROUP) % STRIPES];
}

static inline uint32_t
sector_bits (const struct map *m, uint32_t index)
{
  return (uint32_t)min_u64 (BITS, m->nr - (uint64_t)index * BITS);
}

/* Bits [a, b) of word w. */
static inline uint64_t
mask_of (unsigned w, uint32_t a, uint32_t b)
{
  uint32_t lo = w * 64, hi = lo + 64;
  uint64_t mask = ~UINT64_C (0);

  if (b <= lo || a >= hi)
    return 0;
  if (a > lo)
    mask &= ~UINT64_C (0) << (a - lo);
  if (b < hi)
    mask &= ~UINT64_C (0) >> (hi - b);
  return mask;
}

static int
runs_add (struct runs *r, uint32_t first, uint32_t end)
{
  if (r->len > 0 && r->ptr[r->len - 1].end == first) {
    r->ptr[r->len - 1].end = end;
    return 0;
  }
  if (ARRAY_ROOM (r->ptr, r->len) == -1)
    return -1;
  r->ptr[r->len++] = (struct run){ first, end };
  return 0;
}

struct map *
map_new (uint64_t size, uint32_t granule, struct sidecar *sc, bool fresh,
         bool complete)
{
  struct map *m = calloc (1, sizeof *m);

  if (!m)
    return NULL;
  m->size = size;
  m->granule = granule;
  m->shift = (uint32_t)__builtin_ctz (granule);
  m->nr = (size + granule - 1) / granule;
  m->nr_sectors = (uint32_t)((m->nr + BITS - 1) / BITS);
  m->sc = sc;
  m->complete = complete;
  /* Zero pages until touched: UNLOADED is 0. */
  m->table_len = (m->nr_sectors + 1) * sizeof *m->table;
  m->table = mmap (NULL, m->table_len, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (m->table == MAP_FAILED) {
    free (m);
    return NULL;
  }
  if (fresh)
    for (uint32_t i = 0; i < m->nr_sectors; i++)
      entry_set (m, i, ABSENT);
  for (unsigned i = 0; i < STRIPES; i++)
    lock_init (&m->stripe[i], LOCK_MAP_STRIPE);
  lock_init (&m->pool_lock, LOCK_MAP_POOL);
  return m;
}

void
map_free (struct map *m)
{
  if (!m)
    return;
  assert (LIST_EMPTY (&m->held));
  for (size_t i = 0; i < m->nr_pages; i++)
    free (m->pages[i]);
  for (unsigned i = 0; i < STRIPES; i++)
    lock_destroy (&m->stripe[i]);
  lock_destroy (&m->pool_lock);
  munmap (m->table, m->table_len);
  free (m->pages);
  free (m->pending);
  free (m->holes.ptr);
  free (m);
}

void
map_set_work (struct map *m, struct work *work)
{
  m->work = work;
}

uint64_t
map_nr (const struct map *m)
{
  return m->nr;
}

/* Pages. */

static bool
page_is_clean (const struct page *p)
{
  if (p->in_pending)
    return false;
  for (unsigned w = 0; w < WORDS; w++)
    if (word_own (&p->live[w]) != word_own (&p->stable[w]))
      return false;
  return true;
}

/* Take a page from its sector.  The caller holds the sector's stripe. */
static void
page_release (struct map *m, struct page *p)
{
  assert (p->index != UINT32_MAX);
  ASSERT_HELD (stripe_of (m, p->index));
  LOCK_SCOPE (&m->pool_lock);
  atomic_fetch_add_explicit (&p->gen, 1, memory_order_acq_rel);
  p->index = UINT32_MAX;
  p->in_pending = false;
  p->next_free = m->free_pages;
  m->free_pages = p;
}

/* The page of the pool that the hand points to, and its sector; UINT32_MAX: it
 * is free. */
static uint32_t
next_page (struct map *m, struct page **p)
{
  LOCK_SCOPE (&m->pool_lock);

  if (m->hand >= m->nr_pages)
    m->hand = 0;
  *p = m->pages[m->hand++];
  return (*p)->index;
}

/* Drop one clean page of another stripe than the one that the caller holds. */
static void
evict_one (struct map *m, const struct lock *held)
{
  for (unsigned probes = 0; probes < 64; probes++) {
    struct page *p;
    uint32_t index = next_page (m, &p);
    struct lock *stripe;
    bool dropped = false;

    if (index == UINT32_MAX)
      continue;
    stripe = stripe_of (m, index);
    if (stripe == held || !lock_try (stripe))
      continue;
    if (entry_get (m, index) == (uintptr_t)p && page_is_clean (p)) {
      entry_set (m, index, UNLOADED);
      page_release (m, p);
      dropped = true;
    }
    lock_drop (stripe);
    if (dropped)
      return;
  }
}

/* A page for sector index: nothing in it is live but what is past the end.  The
 * caller holds the sector's stripe and publishes the page.  NULL with ENOMEM.
 */
static struct page *
page_new (struct map *m, uint32_t index)
{
  struct page *p;
  uint32_t bits = sector_bits (m, index);
  bool full;

  ASSERT_HELD (stripe_of (m, index));
  {
    LOCK_SCOPE (&m->pool_lock);
    full = !m->free_pages && m->nr_pages >= MAX_PAGES;
  }
  if (full)
    evict_one (m, stripe_of (m, index));

  {
    LOCK_SCOPE (&m->pool_lock);
    p = m->free_pages;
    if (p)
      m->free_pages = p->next_free;
    else {
      if (ARRAY_ROOM (m->pages, m->nr_pages) == -1)
        return NULL;
      p = calloc (1, sizeof *p);
      if (!p)
        return NULL;
      m->pages[m->nr_pages++] = p;
    }
    p->index = index;
    p->in_pending = false;
  }
  /* A reader may still look at a reused page.  It finds the generation changed
   * afterwards; until then it needs whole words. */
  for (unsigned w = 0; w < WORDS; w++) {
    uint64_t past = ~mask_of (w, 0, bits);

    word_set (&p->live[w], past);
    word_set (&p->stable[w], past);
    word_set (&p->named[w], 0);
    p->guest[w] = 0;
  }
  return p;
}

static void
note_damage (struct map *m, uint32_t index)
{
  LOCK_SCOPE (&m->pool_lock);
  uint64_t g = (uint64_t)index * BITS;

  if (m->nr_damaged++ == 0) {
    m->damaged_g = g;
    m->damaged_end = g + sector_bits (m, index);
  }
}

/* Read sector index from the sidecar, and make entries of those sectors of its
 * group that are uniform.  The caller holds the stripe.  -1: the sidecar cannot
 * be read, or ENOMEM. */
static int
load_locked (struct map *m, uint32_t index)
{
  uint32_t first = index - index % GROUP;
  unsigned count = (unsigned)min_u64 (GROUP, m->nr_sectors - first);
  uint64_t words[GROUP * WORDS];
  bool bad[GROUP];

  ASSERT_HELD (stripe_of (m, index));
  if (sidecar_read_map (m->sc, first, count, words, bad) == -1) {
    log_error ("cannot read the map in the sidecar %s: %m", m->sc->path);
    errno = EIO;
    return -1;
  }
  for (unsigned i = 0; i < count; i++) {
    const uint64_t *from = words + i * WORDS;
    uint32_t bits = sector_bits (m, first + i);
    bool none = true, all = true;
    struct page *p;

    if (entry_get (m, first + i) != UNLOADED)
      continue;
    if (bad[i]) {
      note_damage (m, first + i);
      log_error ("%s: sector %u of the map is damaged: the disk's bytes "
                 "%llu+%llu cannot be read or written",
                 m->sc->path, first + i,
                 (unsigned long long)(first + i) * BITS * m->granule,
                 (unsigned long long)bits * m->granule);
      entry_set (m, first + i, DAMAGED);
      continue;
    }
    for (unsigned w = 0; w < WORDS; w++) {
      uint64_t mask = mask_of (w, 0, bits);

      none &= (from[w] & mask) == 0;
      all &= (from[w] & mask) == mask;
    }
    if (none || all) {
      entry_set (m, first + i, none ? ABSENT : STABLE);
      continue;
    }
    if (first + i != index)
      continue;
    p = page_new (m, index);
    if (!p) {
      errno = ENOMEM;
      return -1;
    }
    for (unsigned w = 0; w < WORDS; w++) {
      uint64_t v = from[w] | ~mask_of (w, 0, bits);

      word_set (&p->live[w], v);
      word_set (&p->stable[w], v);
    }
    entry_set (m, index, (uintptr_t)p);
  }
  return 0;
}

/* The entry, loaded; UNLOADED if the sidecar cannot be read. */
static uintptr_t
entry_load (struct map *m, uint32_t index)
{
  uintptr_t e = entry_get (m, index);

  if (e != UNLOADED)
    return e;
  LOCK_SCOPE (stripe_of (m, index));
  e = entry_get (m, index);
  if (e == UNLOADED && load_locked (m, index) == 0)
    e = entry_get (m, index);
  return e;
}

/* For a reader without a lock, which looks at a page between page_begin and
 * page_still.  True: p was the sector's page all along.  The words were loaded
 * with acquire, so the generation is loaded after them. */
static inline bool
page_still (const struct page *p, uint32_t gen)
{
  return atomic_load_explicit (&p->gen, memory_order_acquire) == gen;
}

static inline bool
page_begin (const struct map *m, uint32_t index, uintptr_t e, uint32_t *gen)
{
  *gen = atomic_load_explicit (&((const struct page *)e)->gen,
                               memory_order_acquire);
  return entry_get (m, index) == e;
}

/* v is word w.  Its first bit at or after a that is not `set`; UINT32_MAX:
 * none.
 */
static inline uint32_t
first_in_word (uint64_t v, unsigned w, uint32_t a, bool set)
{
  if (set)
    v = ~v;
  v &= ~UINT64_C (0) << (a % 64);
  return v ? w * 64 + (uint32_t)__builtin_ctzll (v) : UINT32_MAX;
}

/* First bit in [a, b) that is not `set`, else b. */
static uint32_t
run_of (const word *words, uint32_t a, uint32_t b, bool set)
{
  uint32_t at = UINT32_MAX;

  for (; a < b && at == UINT32_MAX; a = (a / 64 + 1) * 64)
    at = first_in_word (word_get (&words[a / 64]), a / 64, a, set);
  return at < b ? at : b;
}

/* The same of words that nobody shares. */
static uint32_t
run_of_own (const uint64_t *words, uint32_t a, uint32_t b, bool set)
{
  uint32_t at = UINT32_MAX;

  for (; a < b && at == UINT32_MAX; a = (a / 64 + 1) * 64)
    at = first_in_word (words[a / 64], a / 64, a, set);
  return at < b ? at : b;
}

/* State of bit a of a sector, and where its run ends, at most b. */
static enum map_state
sector_run (struct map *m, uint32_t index, uint32_t a, uint32_t b,
            uint32_t *end)
{
  for (;;) {
    uintptr_t e = entry_load (m, index);
    const struct page *p = (const struct page *)e;
    uint32_t gen;
    bool set;

    *end = b;
    if (e == UNLOADED || e == DAMAGED)
      return MAP_DAMAGED;
    if (e < FIRST_PAGE)
      return e == ABSENT ? MAP_ABSENT : MAP_LIVE;
    if (!page_begin (m, index, e, &gen))
      continue;
    set = word_get (&p->live[a / 64]) >> (a % 64) & 1;
    /* The run is looked for after bit a: a second look at bit a could find it
     * set by now, and the run would be empty. */
    *end = run_of (p->live, a + 1, b, set);
    if (page_still (p, gen))
      return set ? MAP_LIVE : MAP_ABSENT;
  }
}

enum map_state
map_run (struct map *m, uint64_t g, uint64_t limit, uint64_t *end)
{
  enum map_state state = MAP_LIVE;
  uint64_t at = g;

  if (map_is_complete (m)) {
    *end = limit;
    return MAP_LIVE;
  }
  while (at < limit) {
    uint32_t index = (uint32_t)(at / BITS);
    uint32_t a = (uint32_t)(at % BITS);
    uint32_t b = (uint32_t)min_u64 (BITS, limit - at + a);
    uint32_t stop;
    enum map_state s = sector_run (m, index, a, b, &stop);

    if (at == g)
      state = s;
    else if (s != state)
      break;
    at += stop - a;
    if (stop < b)
      break;
  }
  *end = at;
  return state;
}

bool
map_is_live (struct map *m, uint64_t g, uint64_t end)
{
  uint64_t stop;

  return map_run (m, g, end, &stop) == MAP_LIVE && stop >= end;
}

bool
map_is_stable (struct map *m, uint64_t g, uint64_t end)
{
  if (map_is_complete (m))
    return true;
  while (g < end) {
    uint32_t index = (uint32_t)(g / BITS);
    uint32_t a = (uint32_t)(g % BITS);
    uint32_t b = (uint32_t)min_u64 (BITS, end - g + a);
    uintptr_t e = entry_load (m, index);
    const struct page *p = (const struct page *)e;
    uint32_t gen;

    if (e < FIRST_PAGE && e != STABLE)
      return false;
    if (e >= FIRST_PAGE) {
      if (!page_begin (m, index, e, &gen))
        continue;
      if (run_of (p->stable, a, b, true) < b)
        return false;
      if (!page_still (p, gen))
        continue;
    }
    g += b - a;
  }
  return true;
}

/* As map_named_run, of bit a of a sector. */
static enum map_named
sector_named (struct map *m, uint32_t index, uint32_t a, uint32_t b,
              uint32_t *end)
{
  for (;;) {
    uintptr_t e = entry_load (m, index);
    const struct page *p = (const struct page *)e;
    bool stable, named;
    uint32_t gen;

    *end = b;
    if (e < FIRST_PAGE)
      return e == STABLE ? MAP_STABLE : MAP_NOT_NAMED;
    if (!page_begin (m, index, e, &gen))
      continue;
    stable = word_get (&p->stable[a / 64]) >> (a % 64) & 1;
    named = word_get (&p->named[a / 64]) >> (a % 64) & 1;
    *end = run_of (p->stable, a + 1, b, stable);
    if (!stable)
      *end = run_of (p->named, a + 1, *end, named);
    if (page_still (p, gen))
      return stable ? MAP_STABLE : named ? MAP_NAMED : MAP_NOT_NAMED;
  }
}

enum map_named
map_named_run (struct map *m, uint64_t g, uint64_t limit, uint64_t *end)
{
  uint32_t a = (uint32_t)(g % BITS), stop;
  enum map_named named;

  *end = limit;
  if (map_is_complete (m))
    return MAP_STABLE;
  named = sector_named (m, (uint32_t)(g / BITS), a,
                        (uint32_t)min_u64 (BITS, limit - g + a), &stop);
  *end = g + stop - a;
  return named;
}

/* Add the live granules of [a, b) of a sector.  False: load is false, and the
 * sector would have to be read from the sidecar first. */
static bool
sector_count (struct map *m, uint32_t index, uint32_t a, uint32_t b, bool load,
              uint64_t *granules)
{
  for (;;) {
    uintptr_t e = load ? entry_load (m, index) : entry_get (m, index);
    const struct page *p = (const struct page *)e;
    uint64_t n = 0;
    uint32_t gen;

    if (e == UNLOADED && !load)
      return false;
    if (e < FIRST_PAGE) {
      *granules += e == STABLE || e == HOLE ? b - a : 0;
      return true;
    }
    if (!page_begin (m, index, e, &gen))
      continue;
    for (unsigned w = a / 64; w < (b + 63) / 64; w++)
      n += (unsigned)__builtin_popcountll (word_get (&p->live[w])
                                           & mask_of (w, a, b));
    if (page_still (p, gen)) {
      *granules += n;
      return true;
    }
  }
}

/* Skip the sectors from index on that are uniform, and add their live granules;
 * returns where they end.  A huge disk is mostly such sectors, and is counted
 * several times a second. */
static uint32_t
whole_sectors (const struct map *m, uint32_t index, uint32_t end,
               uint64_t *granules)
{
  for (; index < end; index++) {
    uintptr_t e = entry_get (m, index);

    if (e == UNLOADED || e >= FIRST_PAGE)
      break;
    *granules += e == STABLE || e == HOLE ? BITS : 0;
  }
  return index;
}

static bool
live_bytes (struct map *m, uint64_t g, uint64_t end, bool load, uint64_t *bytes)
{
  uint64_t past = (m->nr << m->shift) - m->size;
  uint64_t granules = 0, at = g, last = end, tail = 0;

  *bytes = 0;
  if (g >= end)
    return true;
  if (map_is_complete (m)) {
    *bytes = ((end - g) << m->shift) - (end == m->nr ? past : 0);
    return true;
  }
  /* Each granule is looked at once: if the last one, which is short, were
   * looked at twice, the sum could go back while it becomes live. */
  if (past && end == m->nr)
    last--;
  while (at < last) {
    uint32_t index = (uint32_t)(at / BITS), a = (uint32_t)(at % BITS);
    uint32_t b = (uint32_t)min_u64 (BITS, last - at + a);

    if (a == 0) {
      uint32_t next
          = whole_sectors (m, index, (uint32_t)(last / BITS), &granules);

      if (next > index) {
        at = (uint64_t)next * BITS;
        continue;
      }
    }
    if (!sector_count (m, index, a, b, load, &granules))
      return false;
    at += b - a;
  }
  if (last < end
      && !sector_count (m, (uint32_t)(last / BITS), (uint32_t)(last % BITS),
                        (uint32_t)(last % BITS) + 1, load, &tail))
    return false;
  *bytes = granules << m->shift;
  if (tail)
    *bytes += m->granule - past;
  return true;
}

uint64_t
map_live_bytes (struct map *m, uint64_t g, uint64_t end)
{
  uint64_t bytes;

  live_bytes (m, g, end, true, &bytes);
  return bytes;
}

bool
map_try_live_bytes (struct map *m, uint64_t g, uint64_t end, uint64_t *bytes)
{
  if (end > g && (end - g) / BITS > TRY_SECTORS)
    return false;
  return live_bytes (m, g, end, false, bytes);
}

/* Marking. */

void
map_hold_sums (struct map *m, struct map_held *h, uint64_t g, uint64_t end)
{
  const uint64_t group = (uint64_t)GROUP * BITS;

  h->g = g;
  h->end = end;
  {
    LOCK_SCOPE (&m->pool_lock);
    LIST_INSERT_HEAD (&m->held, h, link);
  }
  /* A commit that found the group clean before h was listed punches it with the
   * stripe held: wait for that. */
  for (uint64_t at = g / group; at * group < end; at++) {
    LOCK_SCOPE (stripe_of (m, (uint32_t)(at * GROUP)));
  }
}

void
map_release_sums (struct map *m, struct map_held *h)
{
  LOCK_SCOPE (&m->pool_lock);
  LIST_REMOVE (h, link);
}

static int
pending_add (struct map *m, uint32_t index)
{
  ASSERT_HELD (&m->pool_lock);
  if (m->nr_pending + m->pending_reserve == m->cap_pending) {
    size_t cap = m->cap_pending ? 2 * m->cap_pending : PENDING_MIN;
    uint32_t *p = realloc (m->pending, cap * sizeof *p);

    if (!p)
      return -1;
    m->pending = p;
    m->cap_pending = cap;
  }
  m->pending[m->nr_pending++] = index;
  return 0;
}

static void
pending_unreserve (struct map *m)
{
  LOCK_SCOPE (&m->pool_lock);
  m->pending_reserve = 0;
}

/* List the page for the next snapshot. */
static int
page_pending (struct map *m, struct page *p)
{
  ASSERT_HELD (stripe_of (m, p->index));
  if (p->in_pending)
    return 0;
  LOCK_SCOPE (&m->pool_lock);
  if (pending_add (m, p->index) == -1)
    return -1;
  p->in_pending = true;
  return 0;
}

/* The words [first, end) that a plane of W shows when the bits of `more` are
 * named too.  The caller holds the stripe. */
static void
work_words (const struct page *p, enum work_plane plane, unsigned first,
            unsigned end, const uint64_t *more, uint64_t *words)
{
  for (unsigned w = first; w < end; w++) {
    uint64_t named
        = (word_own (&p->named[w]) | more[w]) & ~word_own (&p->stable[w]);

    words[w] = plane == WORK_GUEST ? named & p->guest[w] : named & ~p->guest[w];
  }
}

static int
say_behind (struct map *m)
{
  if (!atomic_exchange_explicit (&m->w_fails, true, memory_order_relaxed))
    log_error ("cannot write the working map %s: %m; writes are made durable "
               "one by one until it can",
               m->work->path);
  return 1;
}

/* Have W name bits [a, b) of a page.  Those that are the guest's are in
 * p->guest already.  The caller holds the stripe.  0; 1: W does not name them.
 */
static int
name_bits (struct map *m, struct page *p, uint32_t a, uint32_t b, unsigned how)
{
  unsigned first = a / 64, end = (b + 63) / 64;
  uint64_t more[WORDS] = { 0 }, words[WORDS] = { 0 }, copies = 0;
  bool guest = (how & ~MAP_UNPROVED) == MAP_GUEST;
  int r;

  if (how == MAP_HOLE || !m->work)
    return 0;
  if (how & MAP_UNPROVED)
    return guest ? say_behind (m) : 1;
  for (unsigned w = first; w < end; w++) {
    more[w] = mask_of (w, a, b);
    copies |= word_own (&p->named[w]) & more[w];
  }
  work_words (p, guest ? WORK_GUEST : WORK_COPIES, first, end, more, words);
  r = work_write (m->work, guest ? WORK_GUEST : WORK_COPIES, p->index, first,
                  end - first, words + first);
  /* Copies that are the guest's now leave the plane of copies.  Meanwhile both
   * planes name them. */
  if (r == 0 && guest && copies) {
    work_words (p, WORK_COPIES, first, end, more, words);
    (void)work_write (m->work, WORK_COPIES, p->index, first, end - first,
                      words + first);
  }
  if (r == -1)
    return guest ? say_behind (m) : 1;
  if (guest)
    atomic_store_explicit (&m->w_fails, false, memory_order_relaxed);
  for (unsigned w = first; w < end; w++)
    word_set (&p->named[w],
              word_own (&p->named[w]) | (more[w] & ~word_own (&p->stable[w])));
  return 0;
}

/* Mark bits [a, b) of a page. */
static int
mark_page (struct map *m, struct page *p, uint32_t a, uint32_t b, unsigned how)
{
  unsigned first = a / 64, end = (b + 63) / 64;
  bool guest = (how & ~MAP_UNPROVED) == MAP_GUEST;
  bool news = false, unnamed = false;
  int r;

  ASSERT_HELD (stripe_of (m, p->index));
  for (unsigned w = first; w < end; w++) {
    uint64_t mask = mask_of (w, a, b);

    news |= (guest ? mask & ~word_own (&p->stable[w]) & ~p->guest[w]
                   : mask & ~word_own (&p->live[w]))
            != 0;
    unnamed
        |= (mask & ~word_own (&p->stable[w]) & ~word_own (&p->named[w])) != 0;
  }
  /* Bits that W does not name yet, as it could not be written, are tried again.
   */
  if (!news && !(guest && unnamed && m->work))
    return 0;
  if (page_pending (m, p) == -1)
    return -1;

  /* p->guest first: it says to which plane of W a bit belongs. */
  for (unsigned w = first; guest && w < end; w++)
    p->guest[w] |= mask_of (w, a, b) & ~word_own (&p->stable[w]);
  r = name_bits (m, p, a, b, how);
  for (unsigned w = first; w < end; w++)
    word_set (&p->live[w], word_own (&p->live[w]) | mask_of (w, a, b));
  /* Last, when the page is listed and shows the bits: a snapshot that clears
   * has_guest after this has the bits. */
  if (guest)
    atomic_store (&m->has_guest, true);
  return guest ? r : 0;
}

static int
mark_sector (struct map *m, uint32_t index, uint32_t a, uint32_t b,
             unsigned how)
{
  LOCK_SCOPE (stripe_of (m, index));
  uintptr_t e = entry_get (m, index);
  struct page *p;

  if (e == UNLOADED) {
    if (load_locked (m, index) == -1)
      return -1;
    e = entry_get (m, index);
  }
  switch (e) {
  case DAMAGED:
    errno = EIO;
    return -1;
  case STABLE:
    return 0;
  case HOLE:
    if ((how & ~MAP_UNPROVED) != MAP_GUEST)
      return 0;
    p = page_new (m, index);
    if (!p)
      return -1;
    for (unsigned w = 0; w < WORDS; w++)
      word_set (&p->live[w], ~UINT64_C (0));
    /* The page is listed before it replaces HOLE: a page that no snapshot finds
     * would be all that is left of the hole. */
    if (page_pending (m, p) == -1) {
      page_release (m, p);
      return -1;
    }
    entry_set (m, index, (uintptr_t)p);
    break;
  case ABSENT:
    if (how == MAP_HOLE && a == 0 && b == sector_bits (m, index)) {
      {
        LOCK_SCOPE (&m->pool_lock);
        if (runs_add (&m->holes, index, index + 1) == -1)
          return -1;
      }
      entry_set (m, index, HOLE);
      return 0;
    }
    p = page_new (m, index);
    if (!p)
      return -1;
    entry_set (m, index, (uintptr_t)p);
    break;
  default:
    p = (struct page *)e;
  }
  return mark_page (m, p, a, b, how);
}

int
map_mark (struct map *m, uint64_t g, uint64_t end, unsigned how)
{
  int err = 0, behind = 0;

  if (map_is_complete (m))
    return 0;
  while (g < end) {
    uint32_t a = (uint32_t)(g % BITS);
    uint32_t b = (uint32_t)min_u64 (BITS, end - g + a);
    int r = mark_sector (m, (uint32_t)(g / BITS), a, b, how);

    if (r == -1)
      err = errno;
    else if (r == 1)
      behind = 1;
    g += b - a;
  }
  if (err == 0)
    return behind;
  errno = err;
  return -1;
}

/* Make bits [a, b) of a sector pending, whatever S shows of them: S may show
 * from the page cache what a failed sync never wrote. */
static int
recover_bits (struct map *m, uint32_t index, uint32_t a, uint32_t b)
{
  LOCK_SCOPE (stripe_of (m, index));
  uintptr_t e = entry_get (m, index);
  struct page *p = (struct page *)e;

  if (e == UNLOADED) {
    if (load_locked (m, index) == -1)
      return -1;
    e = entry_get (m, index);
    p = (struct page *)e;
  }
  /* Reads and writes of the sector are refused, and the log names it. */
  if (e == DAMAGED)
    return 0;
  if (e < FIRST_PAGE) {
    p = page_new (m, index);
    if (!p)
      return -1;
    for (unsigned w = 0; e == STABLE && w < WORDS; w++) {
      word_set (&p->live[w], ~UINT64_C (0));
      word_set (&p->stable[w], ~UINT64_C (0));
    }
    entry_set (m, index, (uintptr_t)p);
  }
  for (unsigned w = a / 64; w < (b + 63) / 64; w++) {
    uint64_t mask = mask_of (w, a, b);

    word_set (&p->stable[w], word_own (&p->stable[w]) & ~mask);
    p->guest[w] |= mask;
    word_set (&p->live[w], word_own (&p->live[w]) | mask);
  }
  if (page_pending (m, p) == -1)
    return -1;
  atomic_store (&m->has_guest, true);
  return 0;
}

int
map_old_words (struct work *old, bool copies, uint32_t index,
               uint64_t words[WORK_WORDS])
{
  uint64_t more[WORK_WORDS];

  if (work_read (old, WORK_GUEST, index, words) == -1)
    return -1;
  if (!copies)
    return 0;
  if (work_read (old, WORK_COPIES, index, more) == -1)
    return -1;
  for (unsigned w = 0; w < WORK_WORDS; w++)
    words[w] |= more[w];
  return 0;
}

int
map_recover (struct map *m, struct work *old, bool copies)
{
  uint64_t words[WORK_WORDS];

  for (uint32_t i = 0; work_next (old, i, &i) && i < m->nr_sectors; i++) {
    uint32_t bits = sector_bits (m, i);

    if (map_old_words (old, copies, i, words) == -1)
      return -1;
    for (uint32_t a = 0; a < bits;) {
      uint32_t start = run_of_own (words, a, bits, false);

      if (start >= bits)
        break;
      a = run_of_own (words, start, bits, true);
      /* A failure here refuses the volume, as W alone knows of these bits. */
      if (recover_bits (m, i, start, a) == -1)
        return -1;
    }
  }
  return 0;
}

/* Complete. */

bool
map_is_complete (const struct map *m)
{
  return atomic_load_explicit (&m->complete, memory_order_acquire);
}

void
map_set_complete (struct map *m)
{
  atomic_store_explicit (&m->complete, true, memory_order_release);
}

bool
map_all_live (struct map *m)
{
  uint32_t i = atomic_load_explicit (&m->first_absent, memory_order_acquire);

  if (map_is_complete (m))
    return true;
  while (i < m->nr_sectors) {
    uint32_t bits = sector_bits (m, i), end;

    if (sector_run (m, i, 0, bits, &end) != MAP_LIVE || end < bits)
      break;
    i++;
  }
  atomic_store_explicit (&m->first_absent, i, memory_order_release);
  return i == m->nr_sectors;
}

uint64_t
map_damaged (struct map *m, uint64_t *g, uint64_t *end)
{
  LOCK_SCOPE (&m->pool_lock);
  *g = m->damaged_g;
  *end = m->damaged_end;
  return m->nr_damaged;
}

/* Commits. */

bool
map_has_pending (struct map *m)
{
  LOCK_SCOPE (&m->pool_lock);
  return m->nr_pending > 0 || m->holes.len > 0;
}

bool
map_is_in_work (struct map *m)
{
  LOCK_SCOPE (&m->pool_lock);
  return m->nr_pending > 0 && !map_is_complete (m);
}

bool
map_has_guest (const struct map *m)
{
  return atomic_load (&m->has_guest);
}

struct map_snapshot *
map_snapshot (struct map *m, bool with_holes)
{
  struct map_snapshot *s = calloc (1, sizeof *s);
  CLEANUP_FREE uint32_t *list = NULL;
  uint32_t *fresh;
  size_t nr;

  if (!s)
    return NULL;
  {
    LOCK_SCOPE (&m->pool_lock);
    nr = m->nr_pending;
    s->page = malloc ((nr + 1) * sizeof *s->page);
    /* With room for all pages of this snapshot: map_snapshot_return must not
     * fail to list them, as a later flush would not know of them. */
    fresh = malloc ((nr + PENDING_MIN) * sizeof *fresh);
    if (!s->page || !fresh) {
      free (fresh);
      free (s->page);
      free (s);
      return NULL;
    }
    atomic_store (&m->has_guest, false);
    list = m->pending;
    m->pending = fresh;
    m->nr_pending = 0;
    m->cap_pending = nr + PENDING_MIN;
    m->pending_reserve = nr;
    if (with_holes) {
      s->holes = m->holes;
      m->holes = (struct runs){ 0 };
    }
  }
  for (size_t i = 0; i < nr; i++) {
    struct snap_page *sp = &s->page[s->nr_pages];
    LOCK_SCOPE (stripe_of (m, list[i]));
    uintptr_t e = entry_get (m, list[i]);
    struct page *p = (struct page *)e;
    bool any = false;

    /* The sector may have become STABLE since it was listed. */
    if (e < FIRST_PAGE || !p->in_pending)
      continue;
    p->in_pending = false;
    sp->index = list[i];
    sp->guest = false;
    for (unsigned w = 0; w < WORDS; w++) {
      sp->snap[w] = word_own (&p->live[w]) & ~word_own (&p->stable[w]);
      sp->full[w] = word_own (&p->live[w]) | word_own (&p->stable[w]);
      any |= sp->snap[w] != 0;
      sp->guest |= (p->guest[w] & sp->snap[w]) != 0;
    }
    if (any) {
      s->guest |= sp->guest;
      s->nr_pages++;
    }
  }
  return s;
}

bool
map_snapshot_has_guest (const struct map_snapshot *s)
{
  return s->guest;
}

bool
map_snapshot_is_empty (const struct map_snapshot *s)
{
  return s->nr_pages == 0 && s->holes.len == 0;
}

static int
compare_pages (const void *a, const void *b)
{
  const struct snap_page *pa = a, *pb = b;

  return pa->index < pb->index ? -1 : pa->index > pb->index;
}

int
map_snapshot_write (struct map *m, struct map_snapshot *s)
{
  uint64_t batch[16 * WORDS];

  qsort (s->page, s->nr_pages, sizeof *s->page, compare_pages);
  for (size_t i = 0; i < s->nr_pages;) {
    unsigned n = 0;

    while (n < 16 && i + n < s->nr_pages
           && s->page[i + n].index == s->page[i].index + n) {
      memcpy (batch + n * WORDS, s->page[i + n].full, WORDS * 8);
      n++;
    }
    if (sidecar_write_map (m->sc, s->page[i].index, n, batch) == -1)
      return -1;
    i += n;
  }

  memset (batch, 0xff, sizeof batch);
  for (size_t r = 0; r < s->holes.len; r++)
    for (uint32_t i = s->holes.ptr[r].first; i < s->holes.ptr[r].end;) {
      unsigned n = 0;

      /* A hole that the guest has written to since is a page now, and its bits
       * wait for the next commit. */
      while (n < 16 && i + n < s->holes.ptr[r].end
             && entry_get (m, i + n) == HOLE)
        n++;
      if (n == 0) {
        i++;
        continue;
      }
      if (sidecar_write_map (m->sc, i, n, batch) == -1
          || runs_add (&s->written, i, i + n) == -1)
        return -1;
      i += n;
    }
  return 0;
}

static void
snapshot_free (struct map_snapshot *s)
{
  free (s->page);
  free (s->holes.ptr);
  free (s->written.ptr);
  free (s);
}

/* Whether W's page of the group names nothing that is not in S, and no range of
 * it is held (map_hold_sums).  A held range is marked soon, and punched after
 * the commit that takes its bits. */
static bool
group_is_clean (struct map *m, uint32_t first)
{
  const uint64_t g = (uint64_t)first * BITS, end = g + (uint64_t)GROUP * BITS;

  ASSERT_HELD (stripe_of (m, first));
  {
    LOCK_SCOPE (&m->pool_lock);
    const struct map_held *h;

    LIST_FOREACH (h, &m->held, link)
      if (h->g < end && g < h->end)
        return false;
  }
  for (uint32_t i = first; i < first + GROUP && i < m->nr_sectors; i++) {
    uintptr_t e = entry_get (m, i);
    const struct page *p = (const struct page *)e;

    if (e < FIRST_PAGE)
      continue;
    for (unsigned w = 0; w < WORDS; w++)
      if (word_own (&p->live[w]) & ~word_own (&p->stable[w]))
        return false;
  }
  return true;
}

/* Have W name the snapshot's bits no more.  This comes before they show as
 * stable: the bytes of a stable granule are changed without its sums.  The
 * caller holds the stripe. */
static int
unname_bits (struct map *m, struct page *p, const uint64_t *snap)
{
  static const uint64_t none[WORDS];
  uint64_t words[WORDS];
  bool any[WORK_PLANES] = { false };

  for (unsigned w = 0; w < WORDS; w++) {
    uint64_t named
        = word_own (&p->named[w]) & snap[w] & ~word_own (&p->stable[w]);

    any[WORK_GUEST] |= (named & p->guest[w]) != 0;
    any[WORK_COPIES] |= (named & ~p->guest[w]) != 0;
  }
  for (unsigned plane = 0; m->work && plane < WORK_PLANES; plane++) {
    if (!any[plane])
      continue;
    work_words (p, (enum work_plane)plane, 0, WORDS, none, words);
    for (unsigned w = 0; w < WORDS; w++)
      words[w] &= ~snap[w];
    if (work_write (m->work, (enum work_plane)plane, p->index, 0, WORDS, words)
        == -1)
      return -1;
  }
  return 0;
}

/* List a page of the snapshot for the next one.  The snapshot has reserved the
 * room. */
static void
pend_again (struct map *m, struct page *p)
{
  int r;

  ASSERT_HELD (stripe_of (m, p->index));
  if (p->in_pending)
    return;
  LOCK_SCOPE (&m->pool_lock);
  assert (m->pending_reserve > 0);
  m->pending_reserve--;
  r = pending_add (m, p->index);
  assert (r == 0);
  (void)r;
  p->in_pending = true;
}

/* Show the snapshot's bits as stable: S has them now. */
static void
publish_bits (struct map *m, const struct snap_page *sp)
{
  uintptr_t e = entry_get (m, sp->index);
  struct page *p = (struct page *)e;
  bool all = true;

  ASSERT_HELD (stripe_of (m, sp->index));
  if (e < FIRST_PAGE)
    return;
  if (unname_bits (m, p, sp->snap) == -1) {
    pend_again (m, p);
    if (sp->guest)
      atomic_store (&m->has_guest, true);
    return;
  }
  for (unsigned w = 0; w < WORDS; w++) {
    /* Bits of `live` only go up (I2), so those of the snapshot are live. */
    assert ((sp->snap[w] & ~word_own (&p->live[w])) == 0);
    p->guest[w] &= ~sp->snap[w];
    word_set (&p->stable[w], word_own (&p->stable[w]) | sp->snap[w]);
    word_set (&p->named[w], word_own (&p->named[w]) & ~sp->snap[w]);
    all &= word_own (&p->stable[w]) == ~UINT64_C (0);
  }
  if (all) {
    entry_set (m, sp->index, STABLE);
    page_release (m, p);
  }
}

void
map_snapshot_publish (struct map *m, struct map_snapshot *s)
{
  for (size_t i = 0; i < s->nr_pages; i++) {
    uint32_t index = s->page[i].index;
    uint32_t group = index / GROUP;
    LOCK_SCOPE (stripe_of (m, index));

    publish_bits (m, &s->page[i]);
    /* Pages are in order: punch once, after the last of its group. */
    if (m->work
        && (i + 1 == s->nr_pages || s->page[i + 1].index / GROUP != group)
        && group_is_clean (m, group * GROUP))
      work_punch (m->work, group);
  }
  for (size_t r = 0; r < s->written.len; r++)
    for (uint32_t i = s->written.ptr[r].first; i < s->written.ptr[r].end; i++) {
      LOCK_SCOPE (stripe_of (m, i));
      /* A hole that the guest has written to since is a page, and pending. */
      if (entry_get (m, i) == HOLE)
        entry_set (m, i, STABLE);
    }
  pending_unreserve (m);
  snapshot_free (s);
}

void
map_snapshot_return (struct map *m, struct map_snapshot *s)
{
  for (size_t i = 0; i < s->nr_pages; i++) {
    uint32_t index = s->page[i].index;
    LOCK_SCOPE (stripe_of (m, index));
    struct page *p = (struct page *)entry_get (m, index);

    if ((uintptr_t)p >= FIRST_PAGE)
      pend_again (m, p);
  }
  pending_unreserve (m);
  for (size_t r = 0; r < s->holes.len; r++) {
    LOCK_SCOPE (&m->pool_lock);
    /* Without memory these holes are found again after a restart. */
    (void)runs_add (&m->holes, s->holes.ptr[r].first, s->holes.ptr[r].end);
  }
  if (s->guest)
    atomic_store (&m->has_guest, true);
  snapshot_free (s);
}
