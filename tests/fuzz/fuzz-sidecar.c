/* fuzz-sidecar.c - libFuzzer: the sidecar's loader against any file.
 *
 * The input is the file (pieces.h).  Bits of its mode: 1 seals the header
 * copies, 2 the job records, 4 the sectors of S but those whose CRC is all
 * ones: so that the fuzzer gets past the CRCs; 8 opens it read-only.
 *
 * What must hold of a file that was accepted: what it says is within its
 * bounds, `backfill check` gets through, the map shows exactly the bits that
 * sealed sectors hold and calls the others damaged, header and job record
 * survive being written, and bits that are committed survive a restart
 * together with those that were there.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/mman.h>

#include "cleanup.h"
#include "cli.h"
#include "crc32c.h"
#include "log.h"
#include "map.h"
#include "pieces.h"
#include "sidecar.h"

#define MAX_FILE (384u * PIECES_SECTOR) /* 256 sectors of S */
#define JOB_BODY 640u

enum { SEAL_HEADER = 1, SEAL_JOB = 2, SEAL_MAP = 4, READ_ONLY = 8 };

int LLVMFuzzerInitialize (int *argc, char ***argv);
int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

static char path[32];
static int fd;
static uint8_t file[MAX_FILE];

/* What cli/check.c needs of the command's main program. */
struct cli cli = { .command = "check", .json = true };

int
cli_getopt (int argc, char **argv, const struct option *longs)
{
  (void)argc;
  (void)argv;
  (void)longs;
  optind = 0;
  return -1;
}

int
cli_error (const char *fmt, ...)
{
  (void)fmt;
  return STATUS_FAILED;
}

void
cli_usage (const char *fmt, ...)
{
  (void)fmt;
  abort ();
}

/* check.c waits between its looks at a sector that may be half written: here
 * nobody writes.  (Linked with --wrap.) */
int __wrap_nanosleep (const struct timespec *ts, struct timespec *left);

int
__wrap_nanosleep (const struct timespec *ts, struct timespec *left)
{
  (void)ts;
  (void)left;
  return 0;
}

static void quiet (enum log_level level, const char *fmt, va_list ap)
    __attribute__ ((format (printf, 2, 0)));

static void
quiet (enum log_level level, const char *fmt, va_list ap)
{
  char text[512];

  (void)level;
  vsnprintf (text, sizeof text, fmt, ap);
}

int
LLVMFuzzerInitialize (int *argc, char ***argv)
{
  (void)argc;
  (void)argv;
  log_set_sink (quiet);
  fd = memfd_create ("sidecar", MFD_CLOEXEC);
  CHECK (fd >= 0);
  snprintf (path, sizeof path, "/proc/self/fd/%d", fd);
  /* `check` prints. */
  CHECK (freopen ("/dev/null", "w", stdout));
  return 0;
}

static void
seal (uint8_t *p, size_t len)
{
  put_le32 (p + len, crc32c (p, len));
}

/* With CRCs as they should be the loader itself tells where job record and S
 * are. */
static void
seal_areas (unsigned mode, size_t length)
{
  char *error = NULL;
  struct sidecar *sc;

  CHECK (pwrite (fd, file, length, 0) == (ssize_t)length);
  sc = sidecar_peek (path, &error);
  free (error);
  if (!sc)
    return;
  if ((mode & SEAL_JOB) && sc->h.job_length)
    for (unsigned i = 0; i < 2; i++)
      seal (file + sc->h.job_offset + i * SIDECAR_JOB_SIZE, JOB_BODY);
  if (mode & SEAL_MAP)
    for (uint32_t i = 0; i < sc->h.map_length / SIDECAR_SECTOR; i++) {
      uint8_t *sector = file + sc->h.map_offset + i * SIDECAR_SECTOR;

      if (get_le32 (sector + 508) == UINT32_MAX)
        continue;
      memcpy (sector + 496, sc->h.uuid, 8);
      put_le32 (sector + 504, i);
      seal (sector, 508);
    }
  sidecar_free (sc);
  CHECK (pwrite (fd, file, length, 0) == (ssize_t)length);
}

static void
make_file (const uint8_t *data, size_t size)
{
  unsigned mode = size ? data[0] : 0;
  size_t length;

  memset (file, 0, sizeof file);
  length = pieces_lay (data, size, file, sizeof file);
  if (mode & SEAL_HEADER)
    for (unsigned i = 0; i < 2 && length >= 2 * SIDECAR_HEADER_SIZE; i++) {
      uint8_t *copy = file + i * SIDECAR_HEADER_SIZE;
      uint32_t len = get_le32 (copy + 12);

      if (len >= 4 && len <= SIDECAR_HEADER_SIZE)
        seal (copy, len - 4);
    }
  CHECK (ftruncate (fd, 0) == 0 && ftruncate (fd, (off_t)length) == 0);
  seal_areas (mode, length);
}

static struct sidecar *
open_again (struct sidecar *sc)
{
  char *error = NULL;

  sidecar_free (sc);
  sc = sidecar_open (path, false, &error);
  CHECK (sc && !error);
  return sc;
}

/* One area: inside the file, and none of the header's bytes. */
static void
check_area (uint64_t offset, uint64_t length, uint64_t file_size)
{
  CHECK (length == 0
         || (offset >= 2 * SIDECAR_HEADER_SIZE && offset <= file_size
             && length <= file_size - offset));
}

static void
check_header (const struct sidecar_header *h)
{
  uint64_t size = (uint64_t)lseek (fd, 0, SEEK_END);

  CHECK (is_power_of_2 (h->granule) && h->granule >= 512
         && h->granule <= 65536);
  CHECK (h->size <= SIDECAR_MAX_SIZE (h->granule));
  CHECK (h->identity_mode <= SIDECAR_IDENTITY_SIZE);
  check_area (h->map_offset, h->map_length, size);
  check_area (h->job_offset, h->job_length, size);
  CHECK (h->map_length == 0 || h->job_length == 0
         || h->map_offset >= h->job_offset + h->job_length
         || h->job_offset >= h->map_offset + h->map_length);
}

static bool
same_string (const char *a, const char *b)
{
  return a == b || (a && b && strcmp (a, b) == 0);
}

/* What a header says of a migration is as a program may act on it. */
static void
check_role (const struct sidecar_header *h)
{
  char text[ROLE_TEXT];
  char *says = NULL;

  CHECK (h->role.kind < NR_ROLES && role_is_whole (&h->role));
  CHECK (h->role.kind == ROLE_NONE || !(h->state & SIDECAR_DETACHED));
  role_peer (&h->role, text);
  role_explain (&h->role, "disk", &says);
  CHECK (says && !strpbrk (says, "\n\033"));
  free (says);
}

static struct sidecar *
check_header_survives (struct sidecar *sc)
{
  struct sidecar_header was, *is;
  uint8_t role[2][ROLE_RECORD];
  bool valid[2];

  CHECK (sidecar_header_copy (&was, &sc->h) == 0);
  CHECK (sidecar_write_header (sc) == 0);
  sidecar_copies (sc, valid);
  CHECK (valid[0] && valid[1]);
  sc = open_again (sc);
  is = &sc->h;
  CHECK (is->sequence == was.sequence + 1 && is->size == was.size
         && is->granule == was.granule && is->state == was.state
         && is->session == was.session && is->session_open == was.session_open
         && is->session_pid == was.session_pid
         && is->identity_mode == was.identity_mode
         && is->map_length == was.map_length && is->job_length == was.job_length
         && is->timeout == was.timeout && is->retry == was.retry
         && is->fetch_unit == was.fetch_unit
         && is->connections == was.connections);
  CHECK (memcmp (is->uuid, was.uuid, sizeof was.uuid) == 0);
  CHECK (same_string (is->name, was.name)
         && same_string (is->backing, was.backing)
         && same_string (is->work, was.work)
         && same_string (is->control, was.control)
         && same_string (is->store, was.store)
         && same_string (is->command_dir, was.command_dir));
  role_pack (&is->role, role[0]);
  role_pack (&was.role, role[1]);
  CHECK (memcmp (role[0], role[1], ROLE_RECORD) == 0);
  CHECK (same_string (is->role.host, was.role.host)
         && same_string (is->role.peer, was.role.peer)
         && same_string (is->role.planes, was.role.planes));
  sidecar_header_clear (&was);
  return sc;
}

static void
check_job (struct sidecar *sc, bool writable)
{
  struct sidecar_job job, back;
  int r = sidecar_read_job (sc, &job);

  CHECK (r != -1 || errno == EILSEQ);
  if (r == 1)
    CHECK (job.status != 0 && memchr (job.error, 0, sizeof job.error));
  if (!writable)
    return;
  if (r == -1)
    memset (&job, 0, sizeof job);
  /* The last number there can be: nothing comes after it. */
  if (job.sequence == UINT64_MAX)
    return;
  job.status = 3;
  job.failed_offset++;
  if (sidecar_write_job (sc, &job) == -1) {
    CHECK (errno == ENODATA && sc->h.job_length == 0);
    return;
  }
  if (r == -1)
    return; /* what is left of the other may have any number */
  sidecar_job_is_durable (&job);
  CHECK (sidecar_read_job (sc, &back) == 1);
  CHECK (back.sequence == job.sequence && back.status == 3
         && back.number == job.number && back.offset == job.offset
         && back.failed_offset == job.failed_offset
         && strcmp (back.error, job.error) == 0);
}

/* The map, by what the sectors say. */

struct bits {
  uint64_t words[256 * SIDECAR_WORDS];
  bool bad[256];
};

static bool
bit_of (const struct bits *b, uint64_t g)
{
  const uint64_t *w = b->words + g / SIDECAR_BITS * SIDECAR_WORDS;

  return w[g % SIDECAR_BITS / 64] >> (g % 64) & 1;
}

static enum map_state
state_of (const struct bits *b, uint64_t g)
{
  if (b->bad[g / SIDECAR_BITS])
    return MAP_DAMAGED;
  return bit_of (b, g) ? MAP_LIVE : MAP_ABSENT;
}

static void
read_bits (struct sidecar *sc, struct bits *b)
{
  uint32_t nr = sidecar_nr_sectors (sc);

  CHECK (nr <= 256);
  CHECK (sidecar_read_map (sc, 0, nr, b->words, b->bad) == 0);
}

static void
check_map (struct map *m, const struct sidecar *sc, const struct bits *b)
{
  uint64_t nr = map_nr (m), live = 0, bytes = 0, damaged = 0, g, end;

  for (g = 0; g < nr; g = end) {
    enum map_state state = map_run (m, g, nr, &end);

    CHECK (end > g && end <= nr);
    for (uint64_t i = g; i < end; i++)
      CHECK (state_of (b, i) == state);
    if (end < nr)
      CHECK (state_of (b, end) != state);
    CHECK (map_is_live (m, g, end) == (state == MAP_LIVE));
    CHECK (map_is_stable (m, g, end) == (state == MAP_LIVE));
    if (state == MAP_LIVE) {
      live += end - g;
      bytes += min_u64 (end * sc->h.granule, sc->h.size) - g * sc->h.granule;
    }
  }
  for (uint64_t s = 0; s * SIDECAR_BITS < nr; s++)
    damaged += b->bad[s];
  CHECK (map_damaged (m, &g, &end) == damaged);
  CHECK (map_all_live (m) == (live == nr));
  CHECK (map_live_bytes (m, 0, nr) == bytes);
  CHECK (!map_has_pending (m));
}

/* Marks that the input chooses; the sectors then hold them too. */
static void
mark (struct map *m, struct bits *b, const uint8_t *data, size_t size)
{
  uint64_t nr = map_nr (m);

  for (size_t i = 0; i + 4 <= size && i < 64; i += 4) {
    uint64_t g = get_le32 (data + i) % nr;
    uint64_t end = min_u64 (nr, g + 1 + data[i] * 16u);
    bool damage = false;

    for (uint64_t at = g; at < end; at++)
      if (b->bad[at / SIDECAR_BITS])
        damage = true;
      else
        b->words[at / SIDECAR_BITS * SIDECAR_WORDS + at % SIDECAR_BITS / 64]
            |= UINT64_C (1) << (at % SIDECAR_BITS % 64);
    CHECK (map_mark (m, g, end, (enum map_mark) (data[i + 3] % 3))
           == (damage ? -1 : 0));
    CHECK (!damage || errno == EIO);
  }
}

static void
commit (struct map *m, struct sidecar *sc)
{
  struct map_snapshot *s = map_snapshot (m, true);

  CHECK (s && map_snapshot_write (m, s) == 0 && sidecar_sync (sc) == 0);
  map_snapshot_publish (m, s);
  CHECK (!map_has_pending (m));
}

static struct map *
new_map (struct sidecar *sc)
{
  struct map *m = map_new (sc->h.size, sc->h.granule, sc, false,
                           sc->h.state & SIDECAR_COMPLETE);

  CHECK (m);
  return m;
}

static struct sidecar *
check_bits (struct sidecar *sc, bool writable, const uint8_t *data, size_t size)
{
  static struct bits b;
  struct map *m = new_map (sc);
  uint64_t nr = map_nr (m), end;

  if (sc->h.state & SIDECAR_COMPLETE) {
    CHECK (nr == 0 || map_run (m, 0, nr, &end) == MAP_LIVE);
    CHECK (map_is_stable (m, 0, nr));
    CHECK (map_live_bytes (m, 0, nr) == sc->h.size);
    map_free (m);
    return sc;
  }
  read_bits (sc, &b);
  check_map (m, sc, &b);
  if (writable && nr > 0) {
    mark (m, &b, data, size);
    commit (m, sc);
    check_map (m, sc, &b);
    map_free (m);
    sc = open_again (sc);
    m = new_map (sc);
    check_map (m, sc, &b);
  }
  map_free (m);
  return sc;
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  bool read_only = size && (data[0] & READ_ONLY);
  char *argv[] = { path, NULL };
  char *error = NULL;
  struct sidecar *sc;

  make_file (data, size);
  cmd_check (1, argv);
  sc = sidecar_open (path, read_only, &error);
  CHECK (!sc == !!error);
  free (error);
  if (!sc)
    return 0;
  check_header (&sc->h);
  check_role (&sc->h);
  if (!read_only && sc->h.sequence < UINT64_MAX)
    sc = check_header_survives (sc);
  check_job (sc, !read_only);
  sc = check_bits (sc, !read_only, data, size);
  sidecar_free (sc);
  return 0;
}
