/* sectors.c - see sectors.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mutex.h"
#include "bytes.h"
#include "cleanup.h"
#include "sectors.h"

#define VERSIONS 14u
#define SLOTS 32768u /* contents of sectors that were changed in part */
#define MAGIC UINT64_C (0x73726f7463657362)

enum kind { GOLDEN, ZEROS, PATTERN, MIXED };

struct version {
  uint8_t kind;
  uint32_t slot;   /* MIXED */
  uint64_t number; /* of the change that made it */
  uint64_t acked;  /* 0: in flight */
  uint64_t dead;   /* 0: alive */
};

struct sector {
  struct version v[VERSIONS];
  uint8_t nr;
  uint8_t in_flight; /* changes */
  bool owned;        /* by one change of a part of it */
};

struct ev {
  char what;
  uint64_t now, number, a, b, x;
};
#define NEV (1u << 20)
struct sectors {
  uint64_t nev;
  struct ev ev[NEV];
  pthread_mutex_t lock;
  uint64_t size, nr, bytes;
  uint64_t now, number;
  uint64_t reading[SECTORS_THREADS]; /* since; 0: not */
  const uint8_t *golden;
  uint32_t nr_free;
  uint32_t free_slot[SLOTS];
  uint8_t slot[SLOTS][SECTOR];
  struct sector sector[];
};

static uint64_t
mix (uint64_t z)
{
  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* Every word of it tells sector and change. */
static void
pattern (uint8_t *buf, uint64_t s, uint64_t number)
{
  uint64_t w[SECTOR / 8] = { MAGIC, s, number };

  for (unsigned i = 3; i < SECTOR / 8; i++)
    w[i] = mix (s * UINT64_C (0x9e3779b97f4a7c15)
                ^ number * UINT64_C (0xd1342543de82ef95) ^ i);
  memcpy (buf, w, SECTOR);
}

void
sectors_golden (uint8_t *buf, uint64_t sector)
{
  pattern (buf, sector, 0);
}

static void
new_lock (struct sectors *m)
{
  pthread_mutexattr_t attr;

  pthread_mutexattr_init (&attr);
  pthread_mutexattr_setpshared (&attr, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init (&m->lock, &attr);
  pthread_mutexattr_destroy (&attr);
}

struct sectors *
sectors_new (const uint8_t *golden, uint64_t size)
{
  uint64_t nr = (size + SECTOR - 1) / SECTOR;
  uint64_t bytes = sizeof (struct sectors) + nr * sizeof (struct sector);
  struct sectors *m = mmap (NULL, bytes, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);

  if (m == MAP_FAILED)
    return NULL;
  new_lock (m);
  m->size = size;
  m->nr = nr;
  m->bytes = bytes;
  m->now = 1;
  m->golden = golden;
  while (m->nr_free < SLOTS) {
    m->free_slot[m->nr_free] = SLOTS - 1 - m->nr_free;
    m->nr_free++;
  }
  for (uint64_t s = 0; s < nr; s++) {
    m->sector[s].v[0] = (struct version){ .kind = GOLDEN, .acked = 1 };
    m->sector[s].nr = 1;
  }
  return m;
}

void
sectors_free (struct sectors *m)
{
  munmap (m, m->bytes);
}

void
sectors_lock (struct sectors *m)
{
  pthread_mutex_lock (&m->lock);
}

void
sectors_unlock (struct sectors *m)
{
  pthread_mutex_unlock (&m->lock);
}

/* All below: the lock is held. */

static void
E (struct sectors *m, char what, uint64_t number, uint64_t a, uint64_t b,
   uint64_t x)
{
  m->ev[m->nev++ % NEV] = (struct ev){ what, m->now, number, a, b, x };
}
static uint64_t
length_of (const struct sectors *m, uint64_t s)
{
  return min_u64 (SECTOR, m->size - s * SECTOR);
}

static void
content (const struct sectors *m, uint64_t s, const struct version *v,
         uint8_t *buf)
{
  memset (buf, 0, SECTOR);
  switch (v->kind) {
  case GOLDEN:
    memcpy (buf, m->golden + s * SECTOR, length_of (m, s));
    break;
  case ZEROS:
    break;
  case PATTERN:
    pattern (buf, s, v->number);
    break;
  case MIXED:
    memcpy (buf, m->slot[v->slot], SECTOR);
    break;
  }
}

/* Versions that no read, running or to come, may show. */
static void
forget (struct sectors *m, struct sector *sec)
{
  uint64_t oldest = m->now;
  unsigned kept = 0;

  for (unsigned i = 0; i < SECTORS_THREADS; i++)
    if (m->reading[i])
      oldest = min_u64 (oldest, m->reading[i]);
  for (unsigned i = 0; i < sec->nr; i++) {
    struct version *v = &sec->v[i];

    if (v->dead && v->dead <= oldest) {
      if (v->kind == MIXED)
        m->free_slot[m->nr_free++] = v->slot;
    }
    else
      sec->v[kept++] = *v;
  }
  sec->nr = (uint8_t)kept;
}

static bool
is_part (const struct sectors *m, uint64_t offset, uint64_t end, uint64_t s)
{
  return offset > s * SECTOR || end < s * SECTOR + length_of (m, s);
}

static void
range_of (const struct sectors_op *op, uint64_t *first, uint64_t *last)
{
  *first = op->offset / SECTOR;
  *last = (op->offset + op->length - 1) / SECTOR;
}

unsigned
sectors_parts (const struct sectors *m, const struct sectors_op *op,
               uint64_t sector[2])
{
  uint64_t first, last;
  unsigned n = 0;

  range_of (op, &first, &last);
  if (is_part (m, op->offset, op->offset + op->length, first))
    sector[n++] = first;
  if (last != first && is_part (m, op->offset, op->offset + op->length, last))
    sector[n++] = last;
  return n;
}

bool
sectors_reserve (struct sectors *m, struct sectors_op *op, enum change kind,
                 uint64_t offset, uint64_t length)
{
  uint64_t first, last, part[2];
  unsigned parts;
  MUTEX_SCOPE (&m->lock);

  *op = (struct sectors_op){ .kind = kind, .offset = offset, .length = length };
  range_of (op, &first, &last);
  parts = sectors_parts (m, op, part);
  if (m->nr_free < 2)
    return false;
  for (uint64_t s = first; s <= last; s++) {
    struct sector *sec = &m->sector[s];

    forget (m, sec);
    /* Those that are reserved but not issued yet are going to add theirs. */
    if (sec->owned || sec->nr + sec->in_flight >= VERSIONS)
      return false;
  }
  for (unsigned i = 0; i < parts; i++)
    if (m->sector[part[i]].in_flight > 0)
      return false;
  for (unsigned i = 0; i < parts; i++)
    m->sector[part[i]].owned = true;
  for (uint64_t s = first; s <= last; s++)
    m->sector[s].in_flight++;
  return true;
}

/* What this change leaves in a sector of which it changes a part. */
static void
overlay (const struct sectors *m, const struct sectors_op *op, uint64_t s,
         const uint8_t *old, uint8_t *buf)
{
  uint64_t from = max_u64 (op->offset, s * SECTOR);
  uint64_t to
      = min_u64 (op->offset + op->length, s * SECTOR + length_of (m, s));
  uint8_t data[SECTOR] = { 0 };

  if (op->kind == CHANGE_WRITE)
    pattern (data, s, op->number);
  memcpy (buf, old, SECTOR);
  memcpy (buf + (from - s * SECTOR), data + (from - s * SECTOR), to - from);
}

void
sectors_issue (struct sectors *m, struct sectors_op *op,
               uint8_t part[2][SECTOR], uint8_t *buf)
{
  uint64_t first, last, parts[2];
  unsigned nr_parts;
  MUTEX_SCOPE (&m->lock);

  op->number = ++m->number;
  op->issued = ++m->now;
  range_of (op, &first, &last);
  nr_parts = sectors_parts (m, op, parts);
  E (m, "wzt"[op->kind], op -> number, op -> offset,
     op -> offset + op -> length, 0);
  for (uint64_t s = first; s <= last; s++) {
    struct sector *sec = &m->sector[s];
    struct version *v = &sec->v[sec->nr++];
    unsigned i;

    *v = (struct version){ .number = op->number };
    for (i = 0; i < nr_parts && parts[i] != s;)
      i++;
    if (i < nr_parts) {
      v->kind = MIXED;
      v->slot = m->free_slot[--m->nr_free];
      overlay (m, op, s, part[i], m->slot[v->slot]);
    }
    else
      v->kind = op->kind == CHANGE_WRITE ? PATTERN : ZEROS;
    if (op->kind == CHANGE_WRITE) {
      uint64_t from = max_u64 (op->offset, s * SECTOR);
      uint64_t to = min_u64 (op->offset + op->length, (s + 1) * SECTOR);
      uint8_t data[SECTOR];

      pattern (data, s, op->number);
      memcpy (buf + (from - op->offset), data + (from - s * SECTOR), to - from);
    }
  }
}

static void
sector_answer (struct sectors *m, uint64_t s, const struct sectors_op *op,
               bool ok)
{
  struct sector *sec = &m->sector[s];

  for (unsigned i = 0; i < sec->nr; i++) {
    struct version *v = &sec->v[i];

    if (v->number == op->number && v->acked == 0)
      v->acked = m->now;
    /* After a trim it may be the old or zeros. */
    else if (ok && op->kind != CHANGE_TRIM && v->acked && v->acked < op->issued
             && !v->dead) {
      E (m, 'K', v->number, s * 512, s * 512 + 512, op->number);
      v->dead = m->now;
    }
  }
  sec->in_flight--;
}

void
sectors_answer (struct sectors *m, const struct sectors_op *op, bool ok)
{
  uint64_t first, last, parts[2];
  unsigned nr_parts;
  MUTEX_SCOPE (&m->lock);

  m->now++;
  range_of (op, &first, &last);
  nr_parts = sectors_parts (m, op, parts);
  E (m, ok ? 'a' : 'x', op->number, op->offset, op->offset + op->length, 0);
  for (uint64_t s = first; s <= last; s++)
    sector_answer (m, s, op, ok);
  for (unsigned i = 0; i < nr_parts; i++)
    m->sector[parts[i]].owned = false;
}

void
sectors_crash (struct sectors *m)
{
  new_lock (m);
  m->now++;
  memset (m->reading, 0, sizeof m->reading);
  for (uint64_t s = 0; s < m->nr; s++) {
    struct sector *sec = &m->sector[s];

    if (sec->in_flight == 0)
      continue;
    for (unsigned i = 0; i < sec->nr; i++)
      if (sec->v[i].acked == 0)
        sec->v[i].acked = m->now;
    sec->in_flight = 0;
    sec->owned = false;
  }
}

/* Reading. */

uint64_t
sectors_read_begin (struct sectors *m, unsigned who)
{
  MUTEX_SCOPE (&m->lock);

  return m->reading[who] = ++m->now;
}

static bool
may_show (const struct version *v, uint64_t since)
{
  return v->dead == 0 || v->dead > since;
}

/* A read and a write of the same bytes at the same time: the kernel copies
 * them without a common lock, so the read may show a part of each. */
static bool
may_be_torn (const struct sectors *m, uint64_t s, uint64_t since, unsigned a,
             unsigned b, const uint8_t *is)
{
  const struct sector *sec = &m->sector[s];
  bool found[SECTOR] = { false }, overlapped = false;

  for (unsigned i = 0; i < sec->nr; i++) {
    uint8_t want[SECTOR];

    if (!may_show (&sec->v[i], since))
      continue;
    overlapped |= sec->v[i].acked == 0 || sec->v[i].acked > since;
    content (m, s, &sec->v[i], want);
    for (unsigned j = a; j < b; j++)
      found[j] |= want[j] == is[j - a];
  }
  for (unsigned j = a; j < b; j++)
    if (!found[j])
      return false;
  return overlapped;
}

static void
explain (const struct sectors *m, uint64_t s, uint64_t since, unsigned a,
         const uint8_t *is, unsigned len, char why[300])
{
  const struct sector *sec = &m->sector[s];
  char is_what[100] = "something else", may[120] = "";
  uint64_t w[3];
  size_t n = 0;

  if (is[0] == 0 && memcmp (is, is + 1, len - 1) == 0)
    strcpy (is_what, "zeros");
  else if (a == 0 && len >= sizeof w) {
    memcpy (w, is, sizeof w);
    if (w[0] == MAGIC)
      snprintf (is_what, sizeof is_what,
                "data of sector %" PRIu64 ", change %" PRIu64, w[1], w[2]);
  }
  for (unsigned i = 0; i < sec->nr && n < sizeof may; i++)
    if (may_show (&sec->v[i], since))
      n += (size_t)snprintf (may + n, sizeof may - n, " %s:%" PRIu64 "%s",
                             (const char *[]){ "golden", "zeros", "data",
                                               "mixed" }[sec->v[i].kind],
                             sec->v[i].number, sec->v[i].acked ? "" : "?");
  fprintf (stderr, "now %lu since %lu infl %d own %d nr %d\n", m->now, since,
           sec->in_flight, sec->owned, sec->nr);
  for (unsigned i = 0; i < sec->nr; i++)
    fprintf (stderr, "  kind %d num %lu acked %lu dead %lu\n", sec->v[i].kind,
             sec->v[i].number, sec->v[i].acked, sec->v[i].dead);
  for (uint64_t i = m->nev > NEV ? m->nev - NEV : 0; i < m->nev; i++) {
    const struct ev *e = &m->ev[i % NEV];
    if (e->a < (s + 1) * 512 && e->b > s * 512)
      fprintf (stderr, "%lu %c %lu %lu+%lu since/by %lu\n", e->now, e->what,
               e->number, e->a, e->b - e->a, e->x);
  }
  snprintf (why, 300, "sector %" PRIu64 " from byte %u shows %s; it may show%s",
            s, a, is_what, may);
}

/* Bytes [a, b) of sector s. */
static bool
sector_read (struct sectors *m, uint64_t s, uint64_t since, unsigned a,
             unsigned b, const uint8_t *is, char why[300])
{
  struct sector *sec = &m->sector[s];
  bool match[VERSIONS] = { false }, any = false;

  for (unsigned i = 0; i < sec->nr; i++) {
    uint8_t want[SECTOR];

    if (!may_show (&sec->v[i], since))
      continue;
    content (m, s, &sec->v[i], want);
    match[i] = memcmp (want + a, is, b - a) == 0;
    any |= match[i];
  }
  if (!any) {
    if (may_be_torn (m, s, since, a, b, is))
      return true;
    explain (m, s, since, a, is, b - a, why);
    return false;
  }
  /* What had been answered before this read began and is not shown any more
   * has been replaced for good. */
  for (unsigned i = 0; i < sec->nr; i++) {
    struct version *v = &sec->v[i];

    if (!match[i] && v->acked && v->acked < since && !v->dead) {
      E (m, 'k', v->number, s * 512, s * 512 + 512, since);
      v->dead = m->now;
    }
  }
  return true;
}

bool
sectors_read_end (struct sectors *m, unsigned who, uint64_t offset,
                  uint64_t length, const uint8_t *buf, char why[300])
{
  MUTEX_SCOPE (&m->lock);
  uint64_t since = m->reading[who];
  bool ok = true;

  m->now++;
  E (m, 'r', who, offset, offset + length, since);
  for (uint64_t at = offset; buf && at < offset + length && ok;) {
    uint64_t s = at / SECTOR;
    uint64_t end = min_u64 (offset + length, (s + 1) * SECTOR);

    ok = sector_read (m, s, since, (unsigned)(at % SECTOR),
                      (unsigned)(end - s * SECTOR), buf + (at - offset), why);
    at = end;
  }
  m->reading[who] = 0;
  return ok;
}

bool
sectors_may_be_zero (struct sectors *m, uint64_t since, uint64_t offset,
                     uint64_t length)
{
  static const uint8_t zeros[SECTOR];
  MUTEX_SCOPE (&m->lock);

  for (uint64_t at = offset; at < offset + length;) {
    uint64_t s = at / SECTOR;
    uint64_t end = min_u64 (offset + length, (s + 1) * SECTOR);
    const struct sector *sec = &m->sector[s];
    bool may = false;

    for (unsigned i = 0; i < sec->nr && !may; i++) {
      uint8_t want[SECTOR];

      if (!may_show (&sec->v[i], since))
        continue;
      content (m, s, &sec->v[i], want);
      may = memcmp (want + at % SECTOR, zeros, end - at) == 0;
    }
    if (!may)
      return false;
    at = end;
  }
  return true;
}

bool
sectors_is_golden (struct sectors *m, uint64_t offset, uint64_t length)
{
  MUTEX_SCOPE (&m->lock);

  for (uint64_t s = offset / SECTOR; s * SECTOR < offset + length; s++)
    if (m->sector[s].nr != 1 || m->sector[s].v[0].kind != GOLDEN)
      return false;
  return true;
}
