/* test-role.c - the record of a migration: what may follow what, and what each
 * role lets happen to its volume.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include "box.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc32c.h"
#include "role.h"

#define MIB (UINT64_C (1) << 20)

static struct box box;
static struct disk_config config;

static int
setup (void **state)
{
  (void)state;
  box_make (&box);
  config = box_config (&box);
  config.has_size = true;
  config.size = 4 * MIB;
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  box_drop (&box);
  return 0;
}

static char host[] = "hostb", peer[] = "hostb.example.org",
            planes[] = "/run/planes";

/* A whole record of that kind, of migration and freeze 1. */
static struct role
a_role (enum role_kind kind)
{
  struct role r = { .kind = kind, .host = host, .peer = peer };

  if (kind == ROLE_NONE)
    return (struct role){ 0 };
  r.lineage[0] = r.mid[0] = 1;
  r.epoch.number = 7;
  r.freeze[0] = kind == ROLE_PREPARED || kind == ROLE_GIVEN
                || kind == ROLE_OWNER || kind == ROLE_BACK;
  return r;
}

static bool
follows (const struct role *was, const struct role *next)
{
  const char *why = NULL;
  bool yes = role_may_follow (was, next, &why);

  assert_true (yes || why);
  return yes;
}

/* Which epoch the step needs: 0 none at all; 1 the same, 2 the next, 3 any. */
static const uint8_t table[NR_ROLES][NR_ROLES] = {
  [ROLE_NONE] = { [ROLE_SENDING] = 3, [ROLE_INCOMING] = 3 },
  [ROLE_SENDING] = { [ROLE_SENDING] = 1, [ROLE_GIVEN] = 2, [ROLE_NONE] = 3 },
  [ROLE_GIVEN] = { [ROLE_GIVEN] = 1, [ROLE_OWNER] = 2 },
  [ROLE_INCOMING]
  = { [ROLE_INCOMING] = 1, [ROLE_PREPARED] = 2, [ROLE_ABORTED] = 1 },
  [ROLE_PREPARED]
  = { [ROLE_INCOMING] = 3, [ROLE_OWNER] = 1, [ROLE_ABORTED] = 1 },
  [ROLE_OWNER] = { [ROLE_OWNER] = 1, [ROLE_BACK] = 2 },
  [ROLE_ABORTED] = { [ROLE_ABORTED] = 1 },
  [ROLE_BACK] = { [ROLE_BACK] = 1 },
};

static void
nothing_follows_but_what_may (void **state)
{
  (void)state;
  for (enum role_kind from = 0; from < NR_ROLES; from++)
    for (enum role_kind to = 0; to < NR_ROLES; to++) {
      struct role was = a_role (from), next = a_role (to);
      uint8_t step = table[from][to];

      for (int more = -1; more <= 2; more++) {
        next.epoch.number = was.epoch.number + (uint64_t)(int64_t)more;
        if (to == ROLE_NONE)
          next.epoch.number = 0;
        /* A new one is of another migration. */
        next.mid[0] = from == ROLE_NONE && to != ROLE_NONE ? 2 : next.mid[0];
        if (from == ROLE_NONE)
          next.epoch.number = 1;
        assert_int_equal (follows (&was, &next),
                          step == 3 || (step == 1 && more == 0)
                              || (step == 2 && more == 1));
      }
    }
}

static void
each_step_is_of_one_migration (void **state)
{
  (void)state;
  for (enum role_kind from = ROLE_OWNER; from < NR_ROLES; from++)
    for (enum role_kind to = ROLE_OWNER; to < NR_ROLES; to++) {
      struct role was = a_role (from), next = a_role (to);

      next.epoch.number += table[from][to] == 2;
      if (table[from][to] == 0)
        continue;
      assert_true (follows (&was, &next));
      next.mid[5] = 1;
      assert_false (follows (&was, &next));
      next.mid[5] = 0;
      next.lineage[5] = 1;
      assert_false (follows (&was, &next));
      next.lineage[5] = 0;
      if (was.freeze[0] && next.freeze[0]) {
        next.freeze[5] = 1;
        assert_false (follows (&was, &next));
      }
    }
}

static void
what_is_recorded_stays (void **state)
{
  struct role was = a_role (ROLE_OWNER), next = a_role (ROLE_OWNER);

  (void)state;
  next.flags = ROLE_LATCHED;
  assert_true (follows (&was, &next));
  was.flags = ROLE_LATCHED;
  next.flags = 0;
  assert_false (follows (&was, &next));
  next = a_role (ROLE_BACK);
  next.epoch.number++;
  assert_false (follows (&was, &next));
  was.flags = 0;
  assert_true (follows (&was, &next));
  was = next = a_role (ROLE_GIVEN);
  was.flags = ROLE_HEARD;
  assert_false (follows (&was, &next));
}

/* What the other side does not know yet is not forgotten. */
static void
kept_until_it_is_heard (void **state)
{
  static const enum role_kind ends[] = { ROLE_GIVEN, ROLE_ABORTED, ROLE_BACK };
  struct role was, next;

  (void)state;
  for (size_t i = 0; i < 3; i++) {
    was = a_role (ends[i]);
    next = a_role (ROLE_INCOMING);
    next.mid[0] = 2;
    assert_false (follows (&was, &next));
    was.flags = ROLE_HEARD;
    assert_true (follows (&was, &next));
    next.mid[0] = 1;
    assert_false (follows (&was, &next));
    next = a_role (ROLE_NONE);
    assert_false (follows (&was, &next));
  }
  was = a_role (ROLE_OWNER);
  assert_false (follows (&was, &next));
  was.flags = ROLE_HEARD;
  assert_true (follows (&was, &next));
}

static void
records_are_whole (void **state)
{
  char *long_name = malloc (ROLE_STRING + 2);
  struct role r;

  (void)state;
  memset (long_name, 'x', ROLE_STRING + 1);
  long_name[ROLE_STRING + 1] = 0;
  for (enum role_kind kind = ROLE_OWNER; kind < NR_ROLES; kind++) {
    r = a_role (kind);
    assert_true (role_is_whole (&r));
    r.mid[0] = 0;
    assert_false (role_is_whole (&r));
    r = a_role (kind);
    r.lineage[0] = 0;
    assert_false (role_is_whole (&r));
    r = a_role (kind);
    r.epoch.number = 0;
    assert_false (role_is_whole (&r));
    r = a_role (kind);
    r.freeze[0] = !r.freeze[0];
    assert_false (role_is_whole (&r));
    r = a_role (kind);
    r.host = NULL;
    assert_false (role_is_whole (&r));
    r.host = long_name;
    assert_false (role_is_whole (&r));
    r.host = host;
    r.peer = long_name;
    assert_false (role_is_whole (&r));
    r.peer = NULL;
    assert_true (role_is_whole (&r));
    r.flags = ROLE_LATCHED;
    assert_int_equal (role_is_whole (&r), kind == ROLE_OWNER);
    r.flags = 0;
    r.planes = planes;
    assert_int_equal (role_is_whole (&r), kind == ROLE_SENDING);
  }
  free (long_name);
}

static void
the_higher_epoch_stays (void **state)
{
  const struct role_epoch a = { 2, 5 }, b = { 2, 6 }, c = { 3, 1 };

  (void)state;
  assert_true (role_epoch_compare (&a, &b) < 0);
  assert_true (role_epoch_compare (&c, &b) > 0);
  assert_int_equal (role_epoch_compare (&c, &c), 0);
}

/* In the volume's header. */

/* Write the record, whatever it was before. */
static void
put_role (enum role_kind kind, uint32_t state)
{
  char *error = NULL;
  struct sidecar *sc = sidecar_open (box.metadata, false, &error);
  struct role r = a_role (kind);

  assert_non_null (sc);
  if (kind == ROLE_SENDING)
    r.planes = planes;
  assert_int_equal (role_copy (&sc->h.role, &r), 0);
  sc->h.state |= state;
  assert_int_equal (sidecar_write_header (sc), 0);
  sidecar_free (sc);
}

static void
the_header_keeps_it (void **state)
{
  struct role want;
  struct sidecar *sc;

  (void)state;
  box_close (box_open (&box, &config));
  for (enum role_kind kind = ROLE_OWNER; kind < NR_ROLES; kind++) {
    put_role (kind, 0);
    sc = box_peek (&box);
    want = a_role (kind);
    assert_int_equal (sc->h.role.kind, kind);
    assert_memory_equal (sc->h.role.mid, want.mid, ROLE_ID_SIZE);
    assert_memory_equal (sc->h.role.freeze, want.freeze, ROLE_ID_SIZE);
    assert_memory_equal (sc->h.role.lineage, want.lineage, ROLE_ID_SIZE);
    assert_int_equal (sc->h.role.epoch.number, 7);
    assert_string_equal (sc->h.role.host, host);
    assert_string_equal (sc->h.role.peer, peer);
    assert_int_equal (sc->h.role.planes != NULL, kind == ROLE_SENDING);
    sidecar_free (sc);
  }
}

/* Bytes of both header copies, with a right CRC. */
static void
poke (size_t at, uint8_t byte)
{
  int fd = open (box.metadata, O_RDWR);
  static uint8_t buf[SIDECAR_HEADER_SIZE];
  uint32_t len, crc;

  assert_true (fd >= 0);
  for (off_t copy = 0; copy < 2; copy++) {
    off_t offset = copy * (off_t)sizeof buf;

    assert_int_equal (pread (fd, buf, sizeof buf, offset), sizeof buf);
    buf[at] = byte;
    memcpy (&len, buf + 12, 4);
    crc = crc32c (buf, len - 4);
    memcpy (buf + len - 4, &crc, 4);
    assert_int_equal (pwrite (fd, buf, sizeof buf, offset), sizeof buf);
  }
  close (fd);
}

/* Where the record is in the header. */
static size_t
find_record (void)
{
  static const uint8_t head[8] = { 17, 0, 0, 0, ROLE_RECORD, 0, 0, 0 };
  static uint8_t buf[SIDECAR_HEADER_SIZE];
  int fd = open (box.metadata, O_RDONLY);
  uint8_t *p;

  assert_int_equal (pread (fd, buf, sizeof buf, 0), sizeof buf);
  close (fd);
  p = memmem (buf, sizeof buf, head, sizeof head);
  assert_non_null (p);
  return (size_t)(p - buf) + sizeof head;
}

/* Older programs see the feature bit; a record without it, or it without a
 * record, is not guessed at, nor is what a newer one wrote. */
static void
bit_and_record_belong_together (void **state)
{
  (void)state;
  box_close (box_open (&box, &config));
  poke (32, 1);
  box_refused (&box, &config, EINVAL, "role", "makes no sense");
  poke (32, 2);
  box_refused (&box, &config, EINVAL, "incompat 0x2", "newer");
  poke (32, 0);
  put_role (ROLE_SENDING, 0);
  poke (32, 0);
  box_refused (&box, &config, EINVAL, "role", "makes no sense");
  poke (32, 3);
  box_refused (&box, &config, EINVAL, "incompat 0x3", "newer");
  poke (32, 1);
  poke (find_record (), NR_ROLES);
  box_refused (&box, &config, EINVAL, "role", "newer");
  poke (find_record (), ROLE_SENDING);
  poke (find_record () + 4, 4);
  box_refused (&box, &config, EINVAL, "role", "newer");
  poke (find_record () + 4, 0);
  box_close (box_open (&box, &config));
}

static void
served_by_owner_and_sender_only (void **state)
{
  (void)state;
  box_close (box_open (&box, &config));
  for (enum role_kind kind = ROLE_OWNER; kind < NR_ROLES; kind++)
    for (int read_only = 0; read_only < 2; read_only++) {
      put_role (kind, 0);
      config.read_only = read_only;
      if (kind == ROLE_OWNER || kind == ROLE_SENDING)
        box_close (box_open (&box, &config));
      else
        box_refused (&box, &config, EINVAL, "hostb (hostb.example.org)",
                     kind == ROLE_PREPARED ? "nowhere" : "serve it there");
    }
}

/* A refusal changes nothing, and no adopt= gets past it, with or without the
 * store. */
static void
what_was_given_is_adopted_by_nobody (void **state)
{
  static const enum disk_adopt ways[]
      = { DISK_ADOPT_NONE, DISK_ADOPT_LOCAL, DISK_ADOPT_PLAIN,
          DISK_ADOPT_ABSENT, DISK_ADOPT_MOVED };
  char elsewhere[200];
  struct stat sb;

  (void)state;
  box_close (box_open (&box, &config));
  put_role (ROLE_GIVEN, 0);
  for (int store = 1; store >= 0; store--) {
    if (!store)
      assert_int_equal (unlink (box.store), 0);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
      config.adopt = ways[i];
      config.metadata = box.metadata;
      box_refused (&box, &config, EINVAL, "was given to hostb", "there");
      snprintf (elsewhere, sizeof elsewhere, "%s/elsewhere", box.dir);
      config.metadata = elsewhere;
      box_refused (&box, &config, EINVAL, "was given to hostb", "metadata=");
      assert_int_equal (stat (elsewhere, &sb), -1);
    }
    assert_int_equal (stat (box.store, &sb), store ? 0 : -1);
    assert_int_equal (stat (box.metadata, &sb), 0);
  }
}

/* Nobody writes planes here, or holds a guest's first change back. */
static void
a_session_says_what_it_does_not_do (void **state)
{
  struct sidecar *sc;
  struct disk *d;

  (void)state;
  box_close (box_open (&box, &config));
  put_role (ROLE_SENDING, 0);
  d = box_open (&box, &config);
  sc = box_peek (&box);
  assert_int_equal (sc->h.role.kind, ROLE_SENDING);
  assert_null (sc->h.role.planes);
  sidecar_free (sc);
  box_close (d);
  put_role (ROLE_OWNER, 0);
  d = box_open (&box, &config);
  sc = box_peek (&box);
  assert_int_equal (sc->h.role.flags, ROLE_LATCHED);
  sidecar_free (sc);
  box_close (d);
}

/* What is being sent does not become complete, and with a role nothing is
 * detached: its sidecar has to stay. */
static void
nothing_ends_while_it_moves (void **state)
{
  struct sidecar *sc;
  struct disk *d;
  char *error = NULL;

  (void)state;
  box_close (box_open (&box, &config));
  put_role (ROLE_SENDING, 0);
  d = box_open (&box, &config);
  fill_bytes (d, 0, config.size, 1, 0);
  assert_int_equal (disk_flush (d), 0);
  assert_int_equal (commit_run (d, COMMIT_CHECKPOINT | COMMIT_HOLES), 0);
  assert_false (map_is_complete (d->map));
  assert_true (map_all_live (d->map));
  assert_int_equal (disk_detach (d, &error), -1);
  assert_int_equal (errno, EBUSY);
  assert_non_null (strstr (error, "is being sent to hostb"));
  free (error);
  error = NULL;
  box_close (d);
  sc = box_peek (&box);
  assert_int_equal (sc->h.state, 0);
  assert_int_equal (sc->h.role.kind, ROLE_SENDING);
  sidecar_free (sc);
  put_role (ROLE_OWNER, 0);
  d = box_open (&box, &config);
  assert_int_equal (commit_run (d, COMMIT_CHECKPOINT | COMMIT_HOLES), 0);
  assert_true (map_is_complete (d->map));
  assert_int_equal (disk_detach (d, &error), -1);
  assert_non_null (strstr (error, "after a migration with hostb"));
  free (error);
  box_close (d);
  sc = box_peek (&box);
  assert_int_equal (sc->h.state, SIDECAR_COMPLETE);
  sidecar_free (sc);
}

/* The header has room for any W's path besides, or nothing is begun. */
static void
too_long_names_change_nothing (void **state)
{
  char *error = NULL;
  struct sidecar *sc;
  struct role r = a_role (ROLE_SENDING);

  (void)state;
  box_close (box_open (&box, &config));
  sc = sidecar_open (box.metadata, false, &error);
  assert_non_null (sc);
  sc->h.backing = malloc (15000);
  memset (sc->h.backing, 'b', 14999);
  sc->h.backing[14999] = 0;
  assert_true (sidecar_fits (sc));
  r.host = malloc (ROLE_STRING + 1);
  memset (r.host, 'h', ROLE_STRING);
  r.host[ROLE_STRING] = 0;
  assert_int_equal (sidecar_set_role (sc, &r, &error), -1);
  assert_int_equal (errno, EINVAL);
  assert_non_null (strstr (error, "too long"));
  free (error);
  free (r.host);
  assert_true (sidecar_serves (sc));
  assert_int_equal (sc->h.role.kind, ROLE_NONE);
  assert_int_equal (sidecar_write_header (sc), 0);
  sidecar_free (sc);
}

/* What the other host calls itself drives no terminal. */
static void
names_are_cleaned (void **state)
{
  struct role r = a_role (ROLE_GIVEN);
  char text[ROLE_TEXT];
  char *says = NULL;

  (void)state;
  r.host = (char *)"h\033[2J\n\377";
  r.peer = (char *)"\nuser root";
  assert_string_equal (role_peer (&r, text), "h?[2J?? (?user root)");
  role_explain (&r, "disk", &says);
  assert_null (strchr (says, '\n'));
  free (says);
}

int
main (void)
{
#define BOX(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (nothing_follows_but_what_may),
    cmocka_unit_test (each_step_is_of_one_migration),
    cmocka_unit_test (what_is_recorded_stays),
    cmocka_unit_test (kept_until_it_is_heard),
    cmocka_unit_test (records_are_whole),
    cmocka_unit_test (the_higher_epoch_stays),
    cmocka_unit_test (names_are_cleaned),
    BOX (the_header_keeps_it),
    BOX (bit_and_record_belong_together),
    BOX (served_by_owner_and_sender_only),
    BOX (what_was_given_is_adopted_by_nobody),
    BOX (a_session_says_what_it_does_not_do),
    BOX (nothing_ends_while_it_moves),
    BOX (too_long_names_change_nothing),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
