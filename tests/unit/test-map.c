/* test-map.c - the map and what it leaves in the sidecar and in W.
 *
 * Each test makes a volume's two metadata files in a folder of its own, as
 * volume.c would, and checks the promises of map.h: what is marked is live at
 * once, what a commit wrote is what the sidecar holds, and what W holds is
 * what a killed process had acknowledged.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "map.h"
#include "sidecar.h"
#include "work.h"

#define GRANULE 4096u

struct box {
  char dir[64], sidecar[128], work[128];
  struct sidecar *sc;
  struct work *w;
  struct work_identity id;
  struct map *m;
};

static void
make (struct box *b, uint64_t size)
{
  struct sidecar_header h
      = { .size = size, .granule = GRANULE, .name = (char *)"t" };
  char *error = NULL;

  memset (b, 0, sizeof *b);
  strcpy (b->dir, "/tmp/test-map-XXXXXX");
  assert_non_null (mkdtemp (b->dir));
  snprintf (b->sidecar, sizeof b->sidecar, "%s/x.backfill", b->dir);
  snprintf (b->work, sizeof b->work, "%s/x.work", b->dir);
  b->sc = sidecar_create (b->sidecar, &h, &error);
  if (!b->sc)
    fail_msg ("%s", error);
  memcpy (b->id.uuid, b->sc->h.uuid, sizeof b->id.uuid);
  b->id.session = 1;
  b->id.nonce[0] = 1;
  b->id.granule = GRANULE;
  b->id.size = size;
  b->id.nr_sectors = sidecar_nr_sectors (b->sc);
  b->w = work_create (b->work, &b->id);
  assert_non_null (b->w);
  b->m = map_new (size, GRANULE, b->sc, true, false);
  assert_non_null (b->m);
  map_set_work (b->m, b->w);
}

/* As after SIGKILL: files stay, memory goes. */
static void
reopen (struct box *b, bool recover)
{
  char *error = NULL;
  uint64_t size = b->sc->h.size;
  const uid_t me = geteuid ();
  enum work_state state;
  struct work *old;

  map_free (b->m);
  work_free (b->w);
  sidecar_free (b->sc);
  b->sc = sidecar_open (b->sidecar, false, &error);
  if (!b->sc)
    fail_msg ("%s", error);
  b->m = map_new (size, GRANULE, b->sc, false, false);
  old = work_open (b->work, &b->id, &me, 1, false, &state);
  assert_non_null (old);
  if (recover)
    assert_int_equal (map_recover (b->m, old, true), 0);
  b->w = old;
}

static void
drop (struct box *b)
{
  map_free (b->m);
  work_free (b->w);
  sidecar_free (b->sc);
  unlink (b->sidecar);
  unlink (b->work);
  rmdir (b->dir);
}

static bool
live (struct box *b, uint64_t g)
{
  return map_is_live (b->m, g, g + 1);
}

static bool
stable (struct box *b, uint64_t g)
{
  return map_is_stable (b->m, g, g + 1);
}

static void
commit (struct box *b, bool holes)
{
  struct map_snapshot *s = map_snapshot (b->m, holes);

  assert_non_null (s);
  assert_int_equal (map_snapshot_write (b->m, s), 0);
  assert_int_equal (sidecar_sync (b->sc), 0);
  map_snapshot_publish (b->m, s);
}

static void
fresh_is_absent (void **state)
{
  struct box b;
  uint64_t end;

  (void)state;
  make (&b, 1u << 30);
  assert_int_equal (map_run (b.m, 0, map_nr (b.m), &end), MAP_ABSENT);
  assert_int_equal (end, (1u << 30) / GRANULE);
  assert_int_equal (map_live_bytes (b.m, 0, map_nr (b.m)), 0);
  assert_false (map_has_pending (b.m));
  drop (&b);
}

static void
marks_are_live_at_once (void **state)
{
  struct box b;
  uint64_t end;

  (void)state;
  make (&b, 1u << 30);
  /* Across two sectors of S, at odd places. */
  assert_int_equal (map_mark (b.m, 3900, 4100, MAP_GUEST), 0);
  assert_int_equal (map_run (b.m, 0, map_nr (b.m), &end), MAP_ABSENT);
  assert_int_equal (end, 3900);
  assert_int_equal (map_run (b.m, 3900, map_nr (b.m), &end), MAP_LIVE);
  assert_int_equal (end, 4100);
  assert_int_equal (map_run (b.m, 4000, 4050, &end), MAP_LIVE);
  assert_int_equal (end, 4050);
  assert_false (map_is_stable (b.m, 3900, 3901));
  assert_int_equal (map_live_bytes (b.m, 0, map_nr (b.m)), 200 * GRANULE);
  assert_int_equal (map_live_bytes (b.m, 3950, 4000), 50 * GRANULE);
  drop (&b);
}

static void
last_granule_is_short (void **state)
{
  struct box b;

  (void)state;
  make (&b, 10 * GRANULE + 1);
  assert_int_equal (map_nr (b.m), 11);
  assert_int_equal (map_mark (b.m, 10, 11, MAP_GUEST), 0);
  assert_int_equal (map_live_bytes (b.m, 0, 11), 1);
  assert_false (map_all_live (b.m));
  assert_int_equal (map_mark (b.m, 0, 10, MAP_COPIED), 0);
  assert_int_equal (map_live_bytes (b.m, 0, 11), 10 * GRANULE + 1);
  assert_true (map_all_live (b.m));
  commit (&b, false);
  assert_true (map_is_stable (b.m, 0, 11));
  drop (&b);
}

/* Who must not wait is told so, until somebody else has read it. */
static void
live_bytes_without_waiting (void **state)
{
  struct box b;
  uint64_t bytes, nr;

  (void)state;
  make (&b, (UINT64_C (1) << 30) + 1);
  nr = map_nr (b.m);
  assert_int_equal (map_mark (b.m, 100, 200, MAP_COPIED), 0);
  assert_int_equal (map_mark (b.m, nr - 1, nr, MAP_COPIED), 0);
  commit (&b, true);
  reopen (&b, false);
  assert_false (map_try_live_bytes (b.m, 0, nr, &bytes));
  assert_int_equal (map_live_bytes (b.m, 0, 1000), 100 * GRANULE);
  assert_true (map_try_live_bytes (b.m, 150, 1000, &bytes));
  assert_int_equal (bytes, 50 * GRANULE);
  assert_false (map_try_live_bytes (b.m, 0, nr, &bytes));
  assert_int_equal (map_live_bytes (b.m, 0, nr), 100 * GRANULE + 1);
  assert_true (map_try_live_bytes (b.m, 0, nr, &bytes));
  assert_int_equal (bytes, 100 * GRANULE + 1);
  drop (&b);
}

/* The two-phase rule: what is marked after the snapshot is not in S. */
static void
commit_is_two_phase (void **state)
{
  struct box b;
  struct map_snapshot *s;

  (void)state;
  make (&b, 1u << 30);
  map_mark (b.m, 5, 6, MAP_GUEST);
  s = map_snapshot (b.m, false);
  assert_true (map_snapshot_has_guest (s));
  map_mark (b.m, 7, 8, MAP_GUEST);
  assert_int_equal (map_snapshot_write (b.m, s), 0);
  map_snapshot_publish (b.m, s);
  assert_true (stable (&b, 5));
  assert_false (stable (&b, 7));
  assert_true (map_has_pending (b.m));

  /* A power cut now: only S counts. */
  reopen (&b, false);
  assert_true (live (&b, 5));
  assert_false (live (&b, 7));
  drop (&b);
}

static void
sigkill_keeps_all_marks (void **state)
{
  struct box b;
  struct map_snapshot *s;

  (void)state;
  make (&b, UINT64_C (8) << 30);
  map_mark (b.m, 100, 200, MAP_GUEST);
  map_mark (b.m, 50000, 50001, MAP_COPIED);
  commit (&b, false);
  map_mark (b.m, 150, 250, MAP_GUEST);
  map_mark (b.m, 1000000, 1000001, MAP_COPIED);
  reopen (&b, true);
  assert_true (map_is_live (b.m, 100, 250));
  assert_false (live (&b, 250));
  assert_true (live (&b, 50000));
  assert_true (live (&b, 1000000));
  /* All that W held is the guest's until it is in S. */
  s = map_snapshot (b.m, false);
  assert_true (map_snapshot_has_guest (s));
  map_snapshot_return (b.m, s);
  assert_true (map_has_pending (b.m));
  drop (&b);
}

/* A commit whose sidecar sync failed: S shows the bits, from the page cache,
 * but they may never have been written.  Whoever opens the volume next must
 * write them again, not take them for durable. */
static void
recovery_distrusts_s (void **state)
{
  struct box b;
  struct map_snapshot *s;

  (void)state;
  make (&b, 1u << 30);
  map_mark (b.m, 0, SIDECAR_BITS, MAP_GUEST);
  map_mark (b.m, 5000, 5001, MAP_GUEST);
  s = map_snapshot (b.m, false);
  assert_int_equal (map_snapshot_write (b.m, s), 0);
  map_snapshot_return (b.m, s);
  reopen (&b, true);
  assert_true (map_is_live (b.m, 0, SIDECAR_BITS));
  assert_true (live (&b, 5000));
  assert_false (stable (&b, 0));
  assert_false (stable (&b, 5000));
  s = map_snapshot (b.m, false);
  assert_true (map_snapshot_has_guest (s));
  assert_int_equal (map_snapshot_write (b.m, s), 0);
  map_snapshot_publish (b.m, s);
  assert_true (map_is_stable (b.m, 0, SIDECAR_BITS));
  assert_true (stable (&b, 5000));
  drop (&b);
}

/* Each commit writes what is new in a sector, and what S has of it. */
static void
commits_add_up (void **state)
{
  struct box b;

  (void)state;
  make (&b, 1u << 30);
  for (uint64_t g = 3; g < 300; g += 60) {
    map_mark (b.m, g, g + 2, MAP_GUEST);
    commit (&b, false);
  }
  reopen (&b, false);
  for (uint64_t g = 0; g < 400; g++)
    assert_int_equal (live (&b, g), g < 300 && g % 60 >= 3 && g % 60 < 5);
  drop (&b);
}

/* A copied granule that the guest overwrites before it is in S. */
static void
overwritten_copy_is_the_guests (void **state)
{
  struct box b;
  struct map_snapshot *s;

  (void)state;
  make (&b, 1u << 30);
  map_mark (b.m, 9, 10, MAP_COPIED);
  s = map_snapshot (b.m, false);
  assert_false (map_snapshot_has_guest (s));
  map_snapshot_return (b.m, s);
  map_mark (b.m, 9, 10, MAP_GUEST);
  s = map_snapshot (b.m, false);
  assert_true (map_snapshot_has_guest (s));
  map_snapshot_return (b.m, s);
  /* Returned is pending again. */
  s = map_snapshot (b.m, false);
  assert_true (map_snapshot_has_guest (s));
  assert_int_equal (map_snapshot_write (b.m, s), 0);
  map_snapshot_publish (b.m, s);
  assert_true (stable (&b, 9));
  drop (&b);
}

/* Linked with --wrap=realloc. */
void *__real_realloc (void *ptr, size_t size);
void *__wrap_realloc (void *ptr, size_t size);
static bool no_memory;

void *
__wrap_realloc (void *ptr, size_t size)
{
  if (!no_memory)
    return __real_realloc (ptr, size);
  errno = ENOMEM;
  return NULL;
}

/* A commit that failed gives back what it took, with no memory to be had and
 * with as much pending that came meanwhile: else a later flush would not know
 * of writes that it has to make durable. */
static void
returning_a_snapshot_cannot_fail (void **state)
{
  const uint64_t nr = 500;
  struct map_snapshot *s;
  struct box b;

  (void)state;
  make (&b, 2 * nr * SIDECAR_BITS * GRANULE);
  for (uint64_t i = 0; i < nr; i++)
    assert_int_equal (map_mark (b.m, 2 * i * SIDECAR_BITS,
                                2 * i * SIDECAR_BITS + 1, MAP_GUEST),
                      0);
  s = map_snapshot (b.m, false);
  assert_non_null (s);
  for (uint64_t i = 0; i < nr; i++)
    assert_int_equal (map_mark (b.m, (2 * i + 1) * SIDECAR_BITS,
                                (2 * i + 1) * SIDECAR_BITS + 1, MAP_GUEST),
                      0);
  no_memory = true;
  map_snapshot_return (b.m, s);
  no_memory = false;
  commit (&b, false);
  for (uint64_t i = 0; i < 2 * nr; i++)
    assert_true (stable (&b, i * SIDECAR_BITS));
  reopen (&b, false);
  for (uint64_t i = 0; i < 2 * nr; i++)
    assert_true (live (&b, i * SIDECAR_BITS));
  drop (&b);
}

/* More pages than are kept in memory, all of them pending: none may be let go
 * before it is in S. */
static void
pending_pages_stay (void **state)
{
  const uint64_t nr = 20000;
  struct box b;

  (void)state;
  make (&b, nr * SIDECAR_BITS * GRANULE);
  for (uint64_t i = 0; i < nr; i++)
    assert_int_equal (map_mark (b.m, i * SIDECAR_BITS + i % 1000,
                                i * SIDECAR_BITS + i % 1000 + 3, MAP_GUEST),
                      0);
  for (uint64_t i = 0; i < nr; i++)
    assert_true (map_is_live (b.m, i * SIDECAR_BITS + i % 1000,
                              i * SIDECAR_BITS + i % 1000 + 3));
  commit (&b, false);
  reopen (&b, false);
  for (uint64_t i = 0; i < nr; i++) {
    assert_true (map_is_live (b.m, i * SIDECAR_BITS + i % 1000,
                              i * SIDECAR_BITS + i % 1000 + 3));
    assert_false (live (&b, i * SIDECAR_BITS + i % 1000 + 3));
  }
  drop (&b);
}

/* Two sectors share a page of W: what one of them has pending must outlive
 * the commit of the other. */
static void
w_keeps_a_neighbours_pending (void **state)
{
  struct map_snapshot *s;
  struct box b;

  (void)state;
  make (&b, 4 * SIDECAR_BITS * GRANULE);
  map_mark (b.m, 0, 1, MAP_GUEST);
  s = map_snapshot (b.m, false);
  map_mark (b.m, SIDECAR_BITS, SIDECAR_BITS + 1, MAP_GUEST);
  assert_int_equal (map_snapshot_write (b.m, s), 0);
  map_snapshot_publish (b.m, s);
  reopen (&b, true);
  assert_true (live (&b, 0));
  assert_true (live (&b, SIDECAR_BITS));
  drop (&b);
}

/* The same for each of the eight in a page, and for those of the next ones. */
static void
w_keeps_what_any_of_a_page_has_pending (void **state)
{
  (void)state;
  for (uint64_t i = 0; i < 24; i++) {
    const uint64_t first = 8 * SIDECAR_BITS, g = i * SIDECAR_BITS + i;
    struct map_snapshot *s;
    struct box b;

    make (&b, 24 * SIDECAR_BITS * GRANULE);
    map_mark (b.m, first + 99, first + 100, MAP_GUEST);
    s = map_snapshot (b.m, false);
    map_mark (b.m, g, g + 1, MAP_GUEST);
    assert_int_equal (map_snapshot_write (b.m, s), 0);
    map_snapshot_publish (b.m, s);
    reopen (&b, true);
    assert_true (live (&b, first + 99));
    if (!live (&b, g))
      fail_msg ("what sector %d has pending has left W", (int)i);
    drop (&b);
  }
}

/* Linked with --wrap=pthread_mutex_lock: what may come in between. */
int __real_pthread_mutex_lock (pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock (pthread_mutex_t *mutex);
static void (*between) (struct box *b);
static struct box *between_box;
static unsigned between_at; /* before that many locks more */

int
__wrap_pthread_mutex_lock (pthread_mutex_t *mutex)
{
  if (between && between_at-- == 0) {
    void (*f) (struct box * b) = between;

    between = NULL;
    f (between_box);
  }
  return __real_pthread_mutex_lock (mutex);
}

static void *
commit_thread (void *b)
{
  commit (b, false);
  return NULL;
}

/* On a thread of its own: this one is about to take a lock. */
static void
commit_between (struct box *b)
{
  pthread_t thread;

  assert_int_equal (pthread_create (&thread, NULL, commit_thread, b), 0);
  assert_int_equal (pthread_join (thread, NULL), 0);
}

/* A commit that comes anywhere in a guest's mark has its bits, or leaves them,
 * and says so, to the next one. */
static void
marks_are_never_between_commits (void **state)
{
  struct box b;

  (void)state;
  make (&b, 100 * SIDECAR_BITS * GRANULE);
  between_box = &b;
  for (unsigned i = 0; i < 10; i++) {
    const uint64_t g = i * SIDECAR_BITS;

    between_at = i;
    between = commit_between;
    assert_int_equal (map_mark (b.m, g, g + 1, MAP_GUEST), 0);
    between = NULL;
    assert_true (stable (&b, g) || map_has_guest (b.m));
    commit (&b, false);
    assert_true (stable (&b, g));
  }
  drop (&b);
}

static void
holes_wait_for_a_checkpoint (void **state)
{
  struct box b;
  uint64_t nr;

  (void)state;
  make (&b, UINT64_C (4) << 30);
  nr = map_nr (b.m);
  assert_int_equal (map_mark (b.m, 0, nr, MAP_HOLE), 0);
  assert_true (map_all_live (b.m));
  assert_int_equal (map_live_bytes (b.m, 0, nr), UINT64_C (4) << 30);
  assert_false (map_is_stable (b.m, 0, 1));
  /* The guest writes into one. */
  assert_int_equal (map_mark (b.m, 4000, 4001, MAP_GUEST), 0);
  assert_true (map_is_live (b.m, 0, nr));
  commit (&b, false);
  assert_true (stable (&b, 4000));
  assert_false (stable (&b, 0));
  commit (&b, true);
  assert_true (map_is_stable (b.m, 0, nr));
  reopen (&b, false);
  assert_true (map_is_live (b.m, 0, nr));
  drop (&b);
}

static void
committed_pages_leave_w (void **state)
{
  struct box b;
  uint64_t words[WORK_WORDS];
  uint32_t next;

  (void)state;
  make (&b, UINT64_C (4) << 30);
  map_mark (b.m, 0, 10, MAP_GUEST);
  assert_int_equal (work_read (b.w, WORK_GUEST, 0, words), 0);
  assert_int_equal (words[0], 0x3ff);
  commit (&b, false);
  assert_int_equal (work_read (b.w, WORK_GUEST, 0, words), 0);
  assert_int_equal (words[0], 0);
  assert_false (work_next (b.w, 0, &next));
  drop (&b);
}

static void
flip (const char *path, off_t at)
{
  int fd = open (path, O_RDWR);
  char c;

  assert_int_equal (pread (fd, &c, 1, at), 1);
  c = (char)(c ^ 4);
  assert_int_equal (pwrite (fd, &c, 1, at), 1);
  close (fd);
}

static void
damage_is_neither_absent_nor_local (void **state)
{
  struct box b;
  uint64_t g, end;

  (void)state;
  make (&b, UINT64_C (1) << 30);
  map_mark (b.m, 0, 10, MAP_GUEST);
  commit (&b, false);
  flip (b.sidecar, SIDECAR_MAP_OFFSET + 3);
  reopen (&b, false);
  assert_int_equal (map_run (b.m, 0, map_nr (b.m), &end), MAP_DAMAGED);
  assert_int_equal (end, SIDECAR_BITS);
  assert_int_equal (map_run (b.m, SIDECAR_BITS, map_nr (b.m), &end),
                    MAP_ABSENT);
  errno = 0;
  assert_int_equal (map_mark (b.m, 5, 6, MAP_GUEST), -1);
  assert_int_equal (errno, EIO);
  assert_int_equal (map_damaged (b.m, &g, &end), 1);
  assert_int_equal (g, 0);
  assert_int_equal (end, SIDECAR_BITS);
  assert_false (map_all_live (b.m));
  commit (&b, true);
  /* Never rewritten. */
  reopen (&b, false);
  assert_int_equal (map_run (b.m, 0, 1, &end), MAP_DAMAGED);
  drop (&b);
}

static void
full_w_asks_for_a_commit (void **state)
{
  struct box b;
  int full;

  (void)state;
  make (&b, UINT64_C (1) << 30);
  full = open ("/dev/full", O_RDWR);
  assert_true (full >= 0);
  close (b.w->fd);
  b.w->fd = full;
  assert_int_equal (map_mark (b.m, 0, 1, MAP_GUEST), 1);
  assert_true (live (&b, 0));
  /* Also the next write to the very same granule: W still lacks it. */
  assert_int_equal (map_mark (b.m, 0, 1, MAP_GUEST), 1);
  commit (&b, false);
  assert_true (stable (&b, 0));
  assert_int_equal (map_mark (b.m, 0, 1, MAP_GUEST), 0);
  drop (&b);
}

/* Thousands of half-filled sectors: pages are dropped and come back. */
static void
clean_pages_come_back (void **state)
{
  struct box b;
  const uint64_t sectors = 20000;

  (void)state;
  make (&b, sectors * SIDECAR_BITS * GRANULE);
  for (uint64_t i = 0; i < sectors; i++) {
    assert_int_equal (map_mark (b.m, i * SIDECAR_BITS + i % 3000,
                                i * SIDECAR_BITS + i % 3000 + 7, MAP_GUEST),
                      0);
    if (i % 500 == 499)
      commit (&b, false);
  }
  for (uint64_t i = 0; i < sectors; i++) {
    uint64_t g = i * SIDECAR_BITS + i % 3000;

    assert_true (map_is_stable (b.m, g, g + 7));
    assert_false (live (&b, g + 7));
  }
  assert_int_equal (map_live_bytes (b.m, 0, map_nr (b.m)),
                    sectors * 7 * GRANULE);
  drop (&b);
}

/* Readers without locks, markers, and commits that collapse pages. */

struct race {
  struct box *b;
  uint64_t marked; /* all below is live, atomic */
  bool stop;
};

static void *
race_reader (void *arg)
{
  struct race *r = arg;

  while (!__atomic_load_n (&r->stop, __ATOMIC_ACQUIRE)) {
    uint64_t upto = __atomic_load_n (&r->marked, __ATOMIC_ACQUIRE);

    if (upto > 0 && !map_is_live (r->b->m, upto > 5000 ? upto - 5000 : 0, upto))
      return (void *)"a granule that was live is not any more";
    /* Every second one of the far half stays absent. */
    if (map_is_live (r->b->m, 300001, 300002))
      return (void *)"an absent granule became live";
  }
  return NULL;
}

static void *
race_committer (void *arg)
{
  struct race *r = arg;

  while (!__atomic_load_n (&r->stop, __ATOMIC_ACQUIRE)) {
    struct map_snapshot *s = map_snapshot (r->b->m, true);

    if (!s || map_snapshot_write (r->b->m, s) == -1)
      return (void *)"commit failed";
    map_snapshot_publish (r->b->m, s);
  }
  return NULL;
}

static void
readers_never_see_a_bit_go_down (void **state)
{
  struct box b;
  struct race r = { .b = &b };
  pthread_t t[3];
  void *why;

  (void)state;
  make (&b, UINT64_C (2) << 30);
  map_mark (b.m, 300000, 300001, MAP_GUEST);
  pthread_create (&t[0], NULL, race_reader, &r);
  pthread_create (&t[1], NULL, race_reader, &r);
  pthread_create (&t[2], NULL, race_committer, &r);
  for (uint64_t g = 0; g < 250000;) {
    uint64_t n = 1 + g % 97;

    assert_int_equal (map_mark (b.m, g, g + n,
                                g % 3 == 0   ? MAP_GUEST
                                : g % 3 == 1 ? MAP_COPIED
                                             : MAP_HOLE),
                      0);
    g += n;
    __atomic_store_n (&r.marked, g, __ATOMIC_RELEASE);
  }
  __atomic_store_n (&r.stop, true, __ATOMIC_RELEASE);
  for (int i = 0; i < 3; i++) {
    pthread_join (t[i], &why);
    if (why)
      fail_msg ("%s", (const char *)why);
  }
  commit (&b, true);
  reopen (&b, false);
  assert_true (map_is_live (b.m, 0, 250000));
  drop (&b);
}

/* A page that goes from one sector to the next while a reader is in it.  The
 * reader is stopped wherever it is, by a signal, until that has happened. */

static bool stopped, goes_on; /* atomic */

static void
stop_here (int sig)
{
  const struct timespec ts = { .tv_nsec = 10000 };

  (void)sig;
  __atomic_store_n (&stopped, true, __ATOMIC_RELEASE);
  while (!__atomic_load_n (&goes_on, __ATOMIC_ACQUIRE))
    nanosleep (&ts, NULL);
  __atomic_store_n (&stopped, false, __ATOMIC_RELEASE);
}

static void *
page_reader (void *arg)
{
  struct race *r = arg;
  const char *why = NULL;

  while (!__atomic_load_n (&r->stop, __ATOMIC_ACQUIRE)) {
    uint64_t g = __atomic_load_n (&r->marked, __ATOMIC_ACQUIRE);

    if (!map_is_live (r->b->m, g, g + SIDECAR_BITS - 1))
      why = "another sector's bits were taken for this one's";
  }
  return (void *)why;
}

static void
wait_stopped (bool is)
{
  while (__atomic_load_n (&stopped, __ATOMIC_ACQUIRE) != is)
    sched_yield ();
}

static void
a_page_is_of_one_sector (void **state)
{
  struct sigaction sa = { .sa_handler = stop_here };
  const uint64_t rounds = 1000;
  struct box b;
  struct race r = { .b = &b };
  pthread_t reader;
  void *why;

  (void)state;
  sigaction (SIGUSR1, &sa, NULL);
  make (&b, (rounds + 1) * SIDECAR_BITS * GRANULE);
  map_mark (b.m, 0, SIDECAR_BITS - 1, MAP_COPIED);
  pthread_create (&reader, NULL, page_reader, &r);
  for (uint64_t i = 1; i < rounds; i++) {
    const uint64_t g = i * SIDECAR_BITS;

    __atomic_store_n (&goes_on, false, __ATOMIC_RELEASE);
    pthread_kill (reader, SIGUSR1);
    wait_stopped (true);
    /* All of the sector is stable: its page is free. */
    map_mark (b.m, g - 1, g, MAP_COPIED);
    map_snapshot_publish (b.m, map_snapshot (b.m, false));
    /* And taken again. */
    map_mark (b.m, g + SIDECAR_BITS - 2, g + SIDECAR_BITS - 1, MAP_COPIED);
    __atomic_store_n (&goes_on, true, __ATOMIC_RELEASE);
    wait_stopped (false);
    for (int n = (int)(i % 7); n > 0; n--)
      sched_yield ();
    map_mark (b.m, g, g + SIDECAR_BITS - 1, MAP_COPIED);
    __atomic_store_n (&r.marked, g, __ATOMIC_RELEASE);
  }
  __atomic_store_n (&r.stop, true, __ATOMIC_RELEASE);
  pthread_join (reader, &why);
  if (why)
    fail_msg ("%s", (const char *)why);
  drop (&b);
}

/* A run has at least the granule that was asked for, also if that one becomes
 * live while it is looked at. */
static void *
race_marker (void *arg)
{
  struct race *r = arg;

  for (uint64_t g = 0; g < map_nr (r->b->m); g++) {
    if (map_mark (r->b->m, g, g + 1, MAP_HOLE) != 0)
      break;
    __atomic_store_n (&r->marked, g + 1, __ATOMIC_RELEASE);
  }
  __atomic_store_n (&r->stop, true, __ATOMIC_RELEASE);
  return NULL;
}

static void
a_run_is_never_empty (void **state)
{
  struct box b;
  pthread_t t;

  (void)state;
  make (&b, UINT64_C (8) << 30);
  for (unsigned n = 0; n < 4; n++) {
    struct race r = { .b = &b };
    uint64_t empty = 0;

    map_free (b.m);
    b.m = map_new (b.sc->h.size, GRANULE, b.sc, true, false);
    assert_int_equal (pthread_create (&t, NULL, race_marker, &r), 0);
    while (!__atomic_load_n (&r.stop, __ATOMIC_ACQUIRE)) {
      uint64_t g = __atomic_load_n (&r.marked, __ATOMIC_ACQUIRE), end;

      if (g < map_nr (b.m)) {
        map_run (b.m, g, map_nr (b.m), &end);
        empty += end <= g;
      }
    }
    pthread_join (t, NULL);
    assert_int_equal (__atomic_load_n (&r.marked, __ATOMIC_ACQUIRE),
                      map_nr (b.m));
    assert_int_equal (empty, 0);
  }
  drop (&b);
}

/* What is counted never goes down while the last granule, of which the disk
 * has a part, becomes live (I7). */

static void *
race_counter (void *arg)
{
  struct race *r = arg;
  uint64_t last = 0;

  while (!__atomic_load_n (&r->stop, __ATOMIC_ACQUIRE)) {
    uint64_t now = map_live_bytes (r->b->m, 0, map_nr (r->b->m));

    __atomic_store_n (&r->marked, now, __ATOMIC_RELEASE);
    if (now < last)
      return (void *)"fewer bytes are live than before";
    last = now;
  }
  return NULL;
}

static void
counting_never_goes_back (void **state)
{
  struct box b;

  (void)state;
  make (&b, SIDECAR_BITS * GRANULE - 1000);
  for (unsigned i = 0; i < 300; i++) {
    struct race r = { .b = &b };
    pthread_t t;
    void *why;

    map_free (b.m);
    b.m = map_new (SIDECAR_BITS * GRANULE - 1000, GRANULE, b.sc, true, false);
    assert_non_null (b.m);
    map_mark (b.m, 0, 1, MAP_COPIED);
    pthread_create (&t, NULL, race_counter, &r);
    while (__atomic_load_n (&r.marked, __ATOMIC_ACQUIRE) == 0)
      sched_yield ();
    map_mark (b.m, SIDECAR_BITS - 1, SIDECAR_BITS, MAP_COPIED);
    while (__atomic_load_n (&r.marked, __ATOMIC_ACQUIRE) == GRANULE)
      sched_yield ();
    __atomic_store_n (&r.stop, true, __ATOMIC_RELEASE);
    pthread_join (t, &why);
    if (why)
      fail_msg ("%s (try %u)", (const char *)why, i);
    assert_int_equal (map_live_bytes (b.m, 0, map_nr (b.m)),
                      2 * GRANULE - 1000);
  }
  drop (&b);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (fresh_is_absent),
    cmocka_unit_test (marks_are_live_at_once),
    cmocka_unit_test (last_granule_is_short),
    cmocka_unit_test (live_bytes_without_waiting),
    cmocka_unit_test (commit_is_two_phase),
    cmocka_unit_test (sigkill_keeps_all_marks),
    cmocka_unit_test (recovery_distrusts_s),
    cmocka_unit_test (commits_add_up),
    cmocka_unit_test (overwritten_copy_is_the_guests),
    cmocka_unit_test (returning_a_snapshot_cannot_fail),
    cmocka_unit_test (pending_pages_stay),
    cmocka_unit_test (w_keeps_a_neighbours_pending),
    cmocka_unit_test (w_keeps_what_any_of_a_page_has_pending),
    cmocka_unit_test (marks_are_never_between_commits),
    cmocka_unit_test (holes_wait_for_a_checkpoint),
    cmocka_unit_test (committed_pages_leave_w),
    cmocka_unit_test (damage_is_neither_absent_nor_local),
    cmocka_unit_test (full_w_asks_for_a_commit),
    cmocka_unit_test (clean_pages_come_back),
    cmocka_unit_test (readers_never_see_a_bit_go_down),
    cmocka_unit_test (a_page_is_of_one_sector),
    cmocka_unit_test (counting_never_goes_back),
    cmocka_unit_test (a_run_is_never_empty),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
