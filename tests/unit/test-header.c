/* test-header.c - the header's two copies while writes and syncs of them fail,
 * are torn, or are the last thing before a power cut.
 *
 * The calls are wrapped: beside the file, which is what the process sees, there
 * is the disk, which holds what a power cut leaves.  A source gives its disk
 * away, perhaps takes another try, and ends its session, with up to two faults
 * at any of the calls; then it is killed, or the power is cut.  After that it
 * is opened again, acts on what it reads, and the power is cut once more.
 *
 * The rule: what was told is never taken back, what nobody was told is decided
 * once, and while that is open nobody is served (M8, M24).
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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "log.h"
#include "sidecar.h"

#define COPY SIDECAR_HEADER_SIZE
/* Strings make the header longer than this, so that half of it is nothing. */
#define HALF 4096u

static char dir[64], path[128];
static uint8_t start[2 * COPY]; /* sending, durable in both */

/* What the disk has, and what the kernel will still write there. */
static uint8_t disk[2 * COPY];
static bool dirty[2];

/* Faults.  The calls on the header are counted while armed. */
enum fault {
  NO_FAULT,
  FAILS,      /* nothing was done */
  HALF_FAILS, /* half of it was */
  DONE_FAILS, /* all of it was; of a sync: but it is told as failed */
  FORGOTTEN,  /* of a sync: the kernel calls it clean, the disk has none */
  CUT,        /* the power is gone before it */
  NR_FAULTS
};
static struct {
  bool armed, dead;
  unsigned nr; /* of calls */
  struct {
    unsigned at;
    enum fault fault;
  } plan[2];
} world;

int __wrap_fdatasync (int fd);
ssize_t __real_pwrite (int fd, const void *buf, size_t n, off_t offset);
ssize_t __wrap_pwrite (int fd, const void *buf, size_t n, off_t offset);
ssize_t __real_pwritev2 (int fd, const struct iovec *iov, int n, off_t offset,
                         int flags);
ssize_t __wrap_pwritev2 (int fd, const struct iovec *iov, int n, off_t offset,
                         int flags);

static enum fault
next_fault (void)
{
  unsigned nr = ++world.nr;

  if (world.dead)
    return CUT;
  for (unsigned i = 0; i < 2; i++)
    if (world.plan[i].fault != NO_FAULT && world.plan[i].at == nr) {
      world.dead = world.plan[i].fault == CUT;
      return world.plan[i].fault;
    }
  return NO_FAULT;
}

/* The file to the disk: len bytes of a copy. */
static void
write_back (int fd, unsigned copy, size_t len)
{
  assert_int_equal (pread (fd, disk + copy * COPY, len, copy * COPY), len);
}

ssize_t
__wrap_pwrite (int fd, const void *buf, size_t n, off_t offset)
{
  unsigned copy = offset >= COPY;
  enum fault fault;

  if (!world.armed || offset >= 2 * COPY)
    return __real_pwrite (fd, buf, n, offset);
  fault = next_fault ();
  if (fault == HALF_FAILS)
    assert_int_equal (__real_pwrite (fd, buf, HALF, offset), HALF);
  else if (fault == NO_FAULT || fault == DONE_FAILS)
    assert_int_equal (__real_pwrite (fd, buf, n, offset), n);
  if (fault == NO_FAULT || fault == DONE_FAILS || fault == HALF_FAILS)
    dirty[copy] = dirty[n > COPY || copy] = true;
  errno = EIO;
  return fault == NO_FAULT ? (ssize_t)n : -1;
}

ssize_t
__wrap_pwritev2 (int fd, const struct iovec *iov, int n, off_t offset,
                 int flags)
{
  return __real_pwritev2 (fd, iov, n, offset, flags);
}

int
__wrap_fdatasync (int fd)
{
  enum fault fault;

  /* Nothing here needs a real one. */
  if (!world.armed)
    return 0;
  fault = next_fault ();
  for (unsigned copy = 0; copy < 2; copy++)
    if (dirty[copy] && fault != FAILS && fault != CUT) {
      if (fault != FORGOTTEN)
        write_back (fd, copy, fault == HALF_FAILS ? HALF : COPY);
      dirty[copy] = false;
    }
  errno = EIO;
  return fault == NO_FAULT ? 0 : -1;
}

/* How it ends. */
enum end { KILLED, CUT_BEFORE, CUT_WRITTEN, CUT_TORN, NR_ENDS };

static void
end_with (enum end end)
{
  int fd = open (path, O_RDWR);

  assert_true (fd >= 0);
  if (world.dead && end == KILLED)
    end = CUT_BEFORE;
  if (end != KILLED) {
    for (unsigned copy = 0; copy < 2; copy++)
      if (dirty[copy] && end != CUT_BEFORE)
        write_back (fd, copy, end == CUT_TORN ? HALF : COPY);
    assert_int_equal (__real_pwrite (fd, disk, sizeof disk, 0), sizeof disk);
    dirty[0] = dirty[1] = false;
  }
  world.dead = false;
  close (fd);
}

static void
role_of (struct role *role, enum role_kind kind)
{
  static char host[] = "hostb";

  *role = (struct role){ .kind = kind, .host = host };
  role->lineage[0] = role->mid[0] = 1;
  role->epoch.number = kind == ROLE_GIVEN ? 2 : 1;
  role->freeze[0] = kind == ROLE_GIVEN;
}

static int
set_role (struct sidecar *sc, enum role_kind kind)
{
  char *error = NULL;
  struct role role;
  int r;

  role_of (&role, kind);
  r = sidecar_set_role (sc, &role, &error);
  assert_int_equal (r == 0, error == NULL);
  assert_int_not_equal (errno, EINVAL);
  free (error);
  return r;
}

static struct sidecar *
reopen (void)
{
  char *error = NULL;
  struct sidecar *sc = sidecar_open (path, false, &error);

  free (error);
  return sc;
}

/* What S does with its disk; *told: what anybody has been told of its role, or
 * may have seen of it. */
static void
live (struct sidecar *sc, enum role_kind again, enum role_kind *told)
{
  *told = ROLE_NONE;
  if (set_role (sc, ROLE_GIVEN) == 0)
    *told = ROLE_GIVEN;
  else if (!world.dead) {
    assert_true (sc->unsure);
    assert_false (sidecar_serves (sc));
    errno = 0;
    assert_int_equal (sidecar_write_header (sc), -1);
    assert_int_equal (errno, EBUSY);
    if (set_role (sc, again) == 0)
      *told = again;
  }
  if (*told != ROLE_NONE) {
    assert_int_equal (sidecar_serves (sc), *told == ROLE_SENDING);
    sc->h.session_open = false;
    sidecar_write_header (sc);
  }
}

static unsigned nr_runs;
static char what[200]; /* this one is, for whoever has to find out */

/* Start anew, with the plan of faults. */
static struct sidecar *
begin (enum role_kind again, enum end end, enum end last)
{
  struct sidecar *sc;
  int fd = open (path, O_RDWR);

  nr_runs++;
  snprintf (what, sizeof what,
            "call %u fault %u, call %u fault %u, again %s, end %u, last %u",
            world.plan[0].at, world.plan[0].fault, world.plan[1].at,
            world.plan[1].fault, role_name (again), end, last);
  world.armed = world.dead = false;
  memcpy (disk, start, sizeof disk);
  dirty[0] = dirty[1] = false;
  assert_int_equal (__real_pwrite (fd, start, sizeof start, 0), sizeof start);
  close (fd);
  sc = reopen ();
  assert_non_null (sc);
  world.nr = 0;
  world.armed = true;
  return sc;
}

/* Opened again: it may fail; then nobody is served, and somebody tries again.
 */
static struct sidecar *
begin_again (enum end end, enum end last)
{
  struct sidecar *sc;

  end_with (end);
  sc = reopen ();
  if (!sc) {
    end_with (last);
    memset (world.plan, 0, sizeof world.plan);
    sc = reopen ();
  }
  if (!sc)
    fail_msg ("cannot be opened: %s", what);
  return sc;
}

static void
run_role (enum role_kind again, enum end end, enum end last)
{
  enum role_kind told, read;
  struct sidecar *sc = begin (again, end, last);

  live (sc, again, &told);
  sidecar_free (sc);
  sc = begin_again (end, last);
  read = sc->h.role.kind;
  if (told != ROLE_NONE && read != told)
    fail_msg ("told %s, read %s: %s", role_name (told), role_name (read), what);
  assert_true (read == ROLE_SENDING || read == ROLE_GIVEN);
  assert_int_equal (sidecar_serves (sc), read == ROLE_SENDING);
  /* That was acted upon.  A session begins, while the power goes. */
  if (read == ROLE_SENDING) {
    sc->h.session++;
    sidecar_write_header (sc);
  }
  sidecar_free (sc);
  end_with (last);
  memset (world.plan, 0, sizeof world.plan);
  sc = reopen ();
  if (!sc || sc->h.role.kind != read)
    fail_msg ("read %s, then %s: %s", role_name (read),
              sc ? role_name (sc->h.role.kind) : "nothing", what);
  sidecar_free (sc);
  world.armed = false;
}

/* An ordinary volume's sessions. */
static void
run_sessions (enum role_kind ignored, enum end end, enum end last)
{
  struct sidecar *sc = begin (ignored, end, last);
  uint64_t told = sc->h.session, read;

  for (unsigned i = 0; i < 2; i++) {
    sc->h.session++;
    if (sidecar_write_header (sc) == 0)
      told = sc->h.session;
  }
  sidecar_free (sc);
  sc = begin_again (end, last);
  read = sc->h.session;
  if (read < told)
    fail_msg ("told %d, read %d: %s", (int)told, (int)read, what);
  /* As an open does before it records a session. */
  if (sidecar_sync (sc) == 0) {
    sc->h.session++;
    sidecar_write_header (sc);
  }
  sidecar_free (sc);
  end_with (last);
  memset (world.plan, 0, sizeof world.plan);
  sc = reopen ();
  if (!sc || sc->h.session < told)
    fail_msg ("told %d, then %d: %s", (int)told, sc ? (int)sc->h.session : -1,
              what);
  sidecar_free (sc);
  world.armed = false;
}

/* Giving takes four calls, another try, the session's end and the next open
 * four each, as many its beginning, and two go before an open's first write. */
#define NR_CALLS 22u

static void
plan (unsigned i, unsigned at, enum fault fault)
{
  world.plan[i].at = at;
  world.plan[i].fault = fault;
}

static void
no_log (enum log_level level, const char *fmt, va_list ap)
{
  (void)level;
  (void)fmt;
  (void)ap;
}

static void
every_pair_of_faults (void (*run) (enum role_kind again, enum end end,
                                   enum end last),
                      unsigned nr_rest)
{
  log_set_sink (no_log);
  nr_runs = 0;
  for (unsigned a = 1; a <= NR_CALLS; a++)
    for (enum fault f = FAILS; f < NR_FAULTS; f++)
      for (unsigned b = a; b <= NR_CALLS; b++)
        for (enum fault g = FAILS; g < NR_FAULTS; g++)
          for (unsigned rest = 0; rest < nr_rest; rest++) {
            if (b == a && g != FAILS)
              continue;
            plan (0, a, f);
            plan (1, b, b == a ? NO_FAULT : g);
            run (rest < NR_ENDS ? ROLE_GIVEN : ROLE_SENDING, rest % NR_ENDS,
                 1 + (a + b + rest) % (NR_ENDS - 1));
          }
  print_message ("%u runs\n", nr_runs);
}

static void
given_once_is_given (void **state)
{
  (void)state;
  every_pair_of_faults (run_role, 2 * NR_ENDS);
}

/* Of an ordinary volume: a copy that counts is there whatever is cut, and
 * whatever the kernel forgets after a sync that failed. */
static void
one_copy_counts (void **state)
{
  (void)state;
  every_pair_of_faults (run_sessions, NR_ENDS);
}

static void
take_start (void)
{
  int fd = open (path, O_RDONLY);

  assert_int_equal (pread (fd, start, sizeof start, 0), sizeof start);
  close (fd);
}

/* start: what a volume has durably, in a role or in none. */
static void
make_start (enum role_kind kind)
{
  struct sidecar_header h = { .size = 1 << 20, .granule = 4096, .session = 1 };
  struct sidecar *sc;
  char *error = NULL;

  h.backing = malloc (2 * HALF);
  memset (h.backing, 'b', 2 * HALF - 1);
  h.backing[2 * HALF - 1] = 0;
  world.armed = false;
  sc = sidecar_create (path, &h, &error);
  free (h.backing);
  assert_non_null (sc);
  if (kind != ROLE_NONE)
    assert_int_equal (set_role (sc, kind), 0);
  sidecar_free (sc);
  take_start ();
}

/* The page cache has sending in both copies, but the kernel has forgotten one
 * that it could not write, and there the disk still has given.  Who opens it
 * serves the guest: that must not be given away then by a cut of the next
 * write. */
static void
what_is_read_is_made_durable (void **state)
{
  static uint8_t given[COPY];
  struct sidecar *sc;
  struct role sending;
  int fd;

  (void)state;
  log_set_sink (no_log);
  sc = reopen ();
  assert_non_null (sc);
  assert_int_equal (set_role (sc, ROLE_GIVEN), 0);
  fd = open (path, O_RDONLY);
  assert_int_equal (pread (fd, given, sizeof given, 0), sizeof given);
  close (fd);
  role_of (&sending, ROLE_SENDING);
  assert_int_equal (role_copy (&sc->h.role, &sending), 0);
  assert_int_equal (sidecar_write_header (sc), 0);
  sidecar_free (sc);
  take_start ();
  for (unsigned stale = 0; stale < 2; stale++)
    for (unsigned at = 1; at <= 8; at++)
      for (enum end end = CUT_BEFORE; end < NR_ENDS; end++) {
        plan (0, at, CUT);
        plan (1, 0, NO_FAULT);
        sc = begin (ROLE_SENDING, end, end);
        sidecar_free (sc);
        memcpy (disk + stale * COPY, given, COPY);
        world.nr = 0;
        sc = reopen ();
        if (!sc)
          continue; /* cut before anybody was served */
        assert_true (sidecar_serves (sc));
        sc->h.session++;
        sidecar_write_header (sc);
        sidecar_free (sc);
        end_with (end);
        memset (world.plan, 0, sizeof world.plan);
        sc = reopen ();
        assert_non_null (sc);
        assert_true (sidecar_serves (sc));
        sidecar_free (sc);
      }
}

static int
setup (void **state)
{
  (void)state;
  strcpy (dir, "/tmp/test-header-XXXXXX");
  if (!mkdtemp (dir))
    return -1;
  snprintf (path, sizeof path, "%s/s", dir);
  return 0;
}

static int
setup_sending (void **state)
{
  if (setup (state) == -1)
    return -1;
  make_start (ROLE_SENDING);
  return 0;
}

static int
setup_ordinary (void **state)
{
  if (setup (state) == -1)
    return -1;
  make_start (ROLE_NONE);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  unlink (path);
  return rmdir (dir);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown (given_once_is_given, setup_sending,
                                     teardown),
    cmocka_unit_test_setup_teardown (what_is_read_is_made_durable,
                                     setup_sending, teardown),
    cmocka_unit_test_setup_teardown (one_copy_counts, setup_ordinary, teardown),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
