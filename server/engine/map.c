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
 * Left out: when to commit (commit.c), what a bit means for I/O (disk.c).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bytes.h"
#include "cleanup.h"
#include "log.h"
#include "map.h"

#define BITS SIDECAR_BITS
#define WORDS SIDECAR_WORDS
#define GROUP 8u /* sectors that share a 4 KiB page of W */
#define STRIPES 64u
#define PENDING_MIN 64u
/* Clean pages are dropped beyond this many: about 25 MiB a disk. */
#define MAX_PAGES 16384u
/* What may be counted without waiting: a quarter of a millisecond. */
#define TRY_SECTORS 1024u

/* Table entries below FIRST_PAGE stand for a whole sector. */
enum { UNLOADED, ABSENT, STABLE, HOLE, DAMAGED, FIRST_PAGE };

struct page {
  uint64_t live[WORDS], stable[WORDS], guest[WORDS];
  uint64_t named[WORDS]; /* W has their bits */
  uint32_t gen;          /* changes when the page is taken from its sector */
  uint32_t index;        /* sector; UINT32_MAX: free */
  bool in_pending;
  struct page *next_free;
};

struct run {
  uint32_t first, end; /* sectors */
};

struct runs {
  struct run *ptr;
  size_t len, cap;
};

struct map {
  uint64_t size, nr; /* bytes, granules */
  uint32_t granule, shift;
  uint32_t nr_sectors;
  struct sidecar *sc;
  struct work *work;
  bool complete;
  bool w_fails;   /* atomic: said so */
  bool has_guest; /* atomic: a commit that only flushes has something to do */

  uintptr_t *table; /* atomic; changed under the stripe's lock */
  size_t table_len;
  pthread_mutex_t stripe[STRIPES];

  pthread_mutex_t pool_lock; /* leaf: the members below */
  struct page **pages;
  size_t nr_pages, cap_pages, hand;
  struct page *free_pages;
  uint32_t *pending;
  size_t nr_pending, cap_pending;
  size_t pending_reserve; /* room in it for what a commit has taken */
  struct map_held *held;  /* ranges whose sums wait for their bits */
  struct runs holes;      /* HOLE sectors that are not in the sidecar */
  uint64_t nr_damaged, damaged_g, damaged_end;

  uint32_t first_absent; /* atomic hint: all before are live */
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
  return __atomic_load_n (&m->table[index], __ATOMIC_ACQUIRE);
}

static inline void
entry_set (struct map *m, uint32_t index, uintptr_t value)
{
  __atomic_store_n (&m->table[index], value, __ATOMIC_RELEASE);
}

static inline uint64_t
word_get (const uint64_t *w)
{
  return __atomic_load_n (w, __ATOMIC_ACQUIRE);
}

static inline void
word_set (uint64_t *w, uint64_t value)
{
  __atomic_store_n (w, value, __ATOMIC_RELEASE);
}

static inline pthread_mutex_t *
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
  if (r->len == r->cap) {
    size_t cap = r->cap ? 2 * r->cap : 16;
    struct run *p = realloc (r->ptr, cap * sizeof *p);

    if (!p)
      return -1;
    r->ptr = p;
    r->cap = cap;
  }
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
      m->table[i] = ABSENT;
  for (unsigned i = 0; i < STRIPES; i++)
    pthread_mutex_init (&m->stripe[i], NULL);
  pthread_mutex_init (&m->pool_lock, NULL);
  return m;
}

void
map_free (struct map *m)
{
  if (!m)
    return;
  for (size_t i = 0; i < m->nr_pages; i++)
    free (m->pages[i]);
  for (unsigned i = 0; i < STRIPES; i++)
    pthread_mutex_destroy (&m->stripe[i]);
  pthread_mutex_destroy (&m->pool_lock);
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
    if (p->live[w] != p->stable[w])
      return false;
  return true;
}

/* Take a page from its sector.  The sector's stripe is held. */
static void
page_release (struct map *m, struct page *p)
{
  LOCK_SCOPE (&m->pool_lock);
  __atomic_add_fetch (&p->gen, 1, __ATOMIC_ACQ_REL);
  p->index = UINT32_MAX;
  p->in_pending = false;
  p->next_free = m->free_pages;
  m->free_pages = p;
}

/* Drop one clean page of another stripe than the one that is held. */
static void
evict_one (struct map *m, const pthread_mutex_t *held)
{
  for (unsigned probes = 0; probes < 64; probes++) {
    struct page *p;
    uint32_t index;
    pthread_mutex_t *stripe;

    pthread_mutex_lock (&m->pool_lock);
    if (m->hand >= m->nr_pages)
      m->hand = 0;
    p = m->pages[m->hand++];
    index = p->index;
    pthread_mutex_unlock (&m->pool_lock);

    if (index == UINT32_MAX)
      continue;
    stripe = stripe_of (m, index);
    if (stripe == held || pthread_mutex_trylock (stripe) != 0)
      continue;
    if (entry_get (m, index) == (uintptr_t)p && page_is_clean (p)) {
      entry_set (m, index, UNLOADED);
      page_release (m, p);
      pthread_mutex_unlock (stripe);
      return;
    }
    pthread_mutex_unlock (stripe);
  }
}

/* A page for sector index, whose stripe is held: nothing live but what is
 * past the end.  NULL with ENOMEM.  The caller publishes it. */
static struct page *
page_new (struct map *m, uint32_t index)
{
  struct page *p;
  uint32_t bits = sector_bits (m, index);
  size_t nr;

  pthread_mutex_lock (&m->pool_lock);
  nr = m->free_pages ? 0 : m->nr_pages;
  pthread_mutex_unlock (&m->pool_lock);
  if (nr >= MAX_PAGES)
    evict_one (m, stripe_of (m, index));

  {
    LOCK_SCOPE (&m->pool_lock);
    p = m->free_pages;
    if (p)
      m->free_pages = p->next_free;
    else {
      if (m->nr_pages == m->cap_pages) {
        size_t cap = m->cap_pages ? 2 * m->cap_pages : 64;
        struct page **a = realloc (m->pages, cap * sizeof *a);

        if (!a)
          return NULL;
        m->pages = a;
        m->cap_pages = cap;
      }
      p = calloc (1, sizeof *p);
      if (!p)
        return NULL;
      m->pages[m->nr_pages++] = p;
    }
    p->index = index;
    p->in_pending = false;
  }
  /* A reader may still look at a reused page: it finds the generation
   * changed, but the words must be written atomically. */
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

/* Read sector index, and what of its group is uniform with it.  The stripe
 * is held.  -1: the sidecar cannot be read. */
static int
load_locked (struct map *m, uint32_t index)
{
  uint32_t first = index - index % GROUP;
  unsigned count = (unsigned)min_u64 (GROUP, m->nr_sectors - first);
  uint64_t words[GROUP * WORDS];
  bool bad[GROUP];

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

/* Without a lock: was p, with generation gen, the sector's page all along?
 * The words were loaded with acquire, so this load comes after them. */
static inline bool
page_still (const struct page *p, uint32_t gen)
{
  return __atomic_load_n (&p->gen, __ATOMIC_ACQUIRE) == gen;
}

static inline bool
page_begin (const struct map *m, uint32_t index, uintptr_t e, uint32_t *gen)
{
  *gen = __atomic_load_n (&((const struct page *)e)->gen, __ATOMIC_ACQUIRE);
  return entry_get (m, index) == e;
}

/* First bit in [a, b) that is not `set`, else b. */
static uint32_t
run_of (const uint64_t *words, uint32_t a, uint32_t b, bool set)
{
  while (a < b) {
    unsigned w = a / 64;
    uint64_t v = word_get (&words[w]);

    if (set)
      v = ~v;
    v &= ~UINT64_C (0) << (a % 64);
    if (v) {
      uint32_t at = w * 64 + (uint32_t)__builtin_ctzll (v);

      return at < b ? at : b;
    }
    a = (w + 1) * 64;
  }
  return b;
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
    /* Bit a was looked at: another look at it could find it set by now, and
     * the run would be empty. */
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

  if (__atomic_load_n (&m->complete, __ATOMIC_ACQUIRE)) {
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
  if (__atomic_load_n (&m->complete, __ATOMIC_ACQUIRE))
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

/* What is live of a sector.  False: it would have to be read first. */
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

/* The same of those that are one thing from index on; where they end.  A huge
 * disk is mostly such, and is counted several times a second. */
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
  /* Each granule is looked at once, or what is reported could go back while
   * the last one, which is short, becomes live. */
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
    h->next = m->held;
    h->back = &m->held;
    if (h->next)
      h->next->back = &h->next;
    m->held = h;
  }
  /* A commit that has looked before this may be about to punch. */
  for (uint64_t at = g / group; at * group < end; at++) {
    LOCK_SCOPE (stripe_of (m, (uint32_t)(at * GROUP)));
  }
}

void
map_release_sums (struct map *m, struct map_held *h)
{
  LOCK_SCOPE (&m->pool_lock);
  *h->back = h->next;
  if (h->next)
    h->next->back = h->back;
}

/* The pool lock is held. */
static int
pending_add (struct map *m, uint32_t index)
{
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

/* The stripe is held. */
static int
page_pending (struct map *m, struct page *p)
{
  if (p->in_pending)
    return 0;
  LOCK_SCOPE (&m->pool_lock);
  if (pending_add (m, p->index) == -1)
    return -1;
  p->in_pending = true;
  return 0;
}

/* The stripe is held.  Bits of words [first, end) that W is to show, of one
 * plane, if more were named. */
static void
work_words (const struct page *p, enum work_plane plane, unsigned first,
            unsigned end, const uint64_t *more, uint64_t *words)
{
  for (unsigned w = first; w < end; w++) {
    uint64_t named = (p->named[w] | more[w]) & ~p->stable[w];

    words[w] = plane == WORK_GUEST ? named & p->guest[w] : named & ~p->guest[w];
  }
}

static int
say_behind (struct map *m)
{
  if (!__atomic_exchange_n (&m->w_fails, true, __ATOMIC_RELAXED))
    log_error ("cannot write the working map %s: %m; writes are made durable "
               "one by one until it can",
               m->work->path);
  return 1;
}

/* Bits [a, b) of a page, which are live or guest already if they are new.  The
 * stripe is held.  0; 1: W does not name them. */
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
    copies |= p->named[w] & more[w];
  }
  work_words (p, guest ? WORK_GUEST : WORK_COPIES, first, end, more, words);
  r = work_write (m->work, guest ? WORK_GUEST : WORK_COPIES, p->index, first,
                  end - first, words + first);
  /* Those that were copies and are the guest's now: in both meanwhile. */
  if (r == 0 && guest && copies) {
    work_words (p, WORK_COPIES, first, end, more, words);
    (void)work_write (m->work, WORK_COPIES, p->index, first, end - first,
                      words + first);
  }
  if (r == -1)
    return guest ? say_behind (m) : 1;
  if (guest)
    __atomic_store_n (&m->w_fails, false, __ATOMIC_RELAXED);
  for (unsigned w = first; w < end; w++)
    word_set (&p->named[w], p->named[w] | (more[w] & ~p->stable[w]));
  return 0;
}

/* Bits [a, b) of a page.  The stripe is held. */
static int
mark_page (struct map *m, struct page *p, uint32_t a, uint32_t b, unsigned how)
{
  unsigned first = a / 64, end = (b + 63) / 64;
  bool guest = (how & ~MAP_UNPROVED) == MAP_GUEST;
  bool news = false, unnamed = false;
  int r;

  for (unsigned w = first; w < end; w++) {
    uint64_t mask = mask_of (w, a, b);

    news |= (guest ? mask & ~p->stable[w] & ~p->guest[w] : mask & ~p->live[w])
            != 0;
    unnamed |= (mask & ~p->stable[w] & ~p->named[w]) != 0;
  }
  /* One that W could not be told of is tried again. */
  if (!news && !(guest && unnamed && m->work))
    return 0;
  if (page_pending (m, p) == -1)
    return -1;

  /* guest first, as it says to which plane of W they belong. */
  for (unsigned w = first; guest && w < end; w++)
    p->guest[w] |= mask_of (w, a, b) & ~p->stable[w];
  r = name_bits (m, p, a, b, how);
  for (unsigned w = first; w < end; w++)
    word_set (&p->live[w], p->live[w] | mask_of (w, a, b));
  /* Now that it is listed and shows the bits: a snapshot that is taken before
   * this has them, or leaves this as it is. */
  if (guest)
    __atomic_store_n (&m->has_guest, true, __ATOMIC_SEQ_CST);
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
    /* A page that nobody lists would be all that is left of the hole. */
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

/* Bits [a, b) of a sector are pending, whatever S shows: it may show from the
 * page cache what a failed sync never wrote. */
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
  /* The range is refused anyway, and named. */
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

    word_set (&p->stable[w], p->stable[w] & ~mask);
    p->guest[w] |= mask;
    word_set (&p->live[w], p->live[w] | mask);
  }
  if (page_pending (m, p) == -1)
    return -1;
  __atomic_store_n (&m->has_guest, true, __ATOMIC_SEQ_CST);
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
      uint32_t start = run_of (words, a, bits, false);

      if (start >= bits)
        break;
      a = run_of (words, start, bits, true);
      /* What cannot be taken over must not be given up: W is all that knows
       * of it. */
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
  return __atomic_load_n (&m->complete, __ATOMIC_ACQUIRE);
}

void
map_set_complete (struct map *m)
{
  __atomic_store_n (&m->complete, true, __ATOMIC_RELEASE);
}

bool
map_all_live (struct map *m)
{
  uint32_t i = __atomic_load_n (&m->first_absent, __ATOMIC_ACQUIRE);

  if (map_is_complete (m))
    return true;
  while (i < m->nr_sectors) {
    uint32_t bits = sector_bits (m, i), end;

    if (sector_run (m, i, 0, bits, &end) != MAP_LIVE || end < bits)
      break;
    i++;
  }
  __atomic_store_n (&m->first_absent, i, __ATOMIC_RELEASE);
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
  return __atomic_load_n (&m->has_guest, __ATOMIC_SEQ_CST);
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
    /* With room for all of them: to put them back must never fail, as a later
     * flush would not know of them. */
    fresh = malloc ((nr + PENDING_MIN) * sizeof *fresh);
    if (!s->page || !fresh) {
      free (fresh);
      free (s->page);
      free (s);
      return NULL;
    }
    __atomic_store_n (&m->has_guest, false, __ATOMIC_SEQ_CST);
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

    /* A listed page may have become all stable meanwhile. */
    if (e < FIRST_PAGE || !p->in_pending)
      continue;
    p->in_pending = false;
    sp->index = list[i];
    sp->guest = false;
    for (unsigned w = 0; w < WORDS; w++) {
      sp->snap[w] = p->live[w] & ~p->stable[w];
      sp->full[w] = p->live[w] | p->stable[w];
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

      /* One that the guest has written to since is a page now, and waits for
       * the next commit with its bits. */
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

/* The group's stripe is held.  What is held is marked soon, and punched after
 * the commit that takes it. */
static bool
group_is_clean (struct map *m, uint32_t first)
{
  const uint64_t g = (uint64_t)first * BITS, end = g + (uint64_t)GROUP * BITS;

  {
    LOCK_SCOPE (&m->pool_lock);
    for (const struct map_held *h = m->held; h; h = h->next)
      if (h->g < end && g < h->end)
        return false;
  }
  for (uint32_t i = first; i < first + GROUP && i < m->nr_sectors; i++) {
    uintptr_t e = entry_get (m, i);
    const struct page *p = (const struct page *)e;

    if (e < FIRST_PAGE)
      continue;
    for (unsigned w = 0; w < WORDS; w++)
      if (p->live[w] & ~p->stable[w])
        return false;
  }
  return true;
}

/* The stripe is held.  W names these bits no more: before anyone sees that they
 * are stable, and changes their bytes without their sums. */
static int
unname_bits (struct map *m, struct page *p, const uint64_t *snap)
{
  static const uint64_t none[WORDS];
  uint64_t words[WORDS];
  bool any[WORK_PLANES] = { false };

  for (unsigned w = 0; w < WORDS; w++) {
    uint64_t named = p->named[w] & snap[w] & ~p->stable[w];

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

/* The stripe is held.  It waits for the next commit, with what the last one
 * took.  Room is reserved. */
static void
pend_again (struct map *m, struct page *p)
{
  if (p->in_pending)
    return;
  LOCK_SCOPE (&m->pool_lock);
  m->pending_reserve--;
  (void)pending_add (m, p->index);
  p->in_pending = true;
}

/* The stripe is held.  Bits that S holds now. */
static void
publish_bits (struct map *m, const struct snap_page *sp)
{
  uintptr_t e = entry_get (m, sp->index);
  struct page *p = (struct page *)e;
  bool all = true;

  if (e < FIRST_PAGE)
    return;
  if (unname_bits (m, p, sp->snap) == -1) {
    pend_again (m, p);
    if (sp->guest)
      __atomic_store_n (&m->has_guest, true, __ATOMIC_SEQ_CST);
    return;
  }
  for (unsigned w = 0; w < WORDS; w++) {
    p->guest[w] &= ~sp->snap[w];
    word_set (&p->stable[w], p->stable[w] | sp->snap[w]);
    word_set (&p->named[w], p->named[w] & ~sp->snap[w]);
    all &= p->stable[w] == ~UINT64_C (0);
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
      /* One that the guest has written to since is in W, and stays pending. */
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
    /* Out of memory here only means that those holes are found again. */
    (void)runs_add (&m->holes, s->holes.ptr[r].first, s->holes.ptr[r].end);
  }
  if (s->guest)
    __atomic_store_n (&m->has_guest, true, __ATOMIC_SEQ_CST);
  snapshot_free (s);
}
