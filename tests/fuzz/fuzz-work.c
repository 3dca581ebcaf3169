/* fuzz-work.c - libFuzzer: the working map's loader, and recovery from it.
 *
 * The input is the file (pieces.h).  Bits of its mode: 1 makes the header the
 * one that is looked for, so that the fuzzer gets past it; 2 lets the volume's
 * S hold some bits already; 4 looks for one of the first format.  In the other
 * the piece at 4096 is the guest's bits, at 12288 copies.
 *
 * What must hold: only a file with the right header is believed; afterwards a
 * granule is live if it was in S or is in W, and nothing else; all that W
 * named is the guest's until it is committed; then it is in S for good, and W
 * is empty.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "cleanup.h"
#include "crc32c.h"
#include "log.h"
#include "map.h"
#include "pieces.h"
#include "sidecar.h"
#include "work.h"

#define MAX_FILE (64u * PIECES_SECTOR)
#define SECTORS 10u /* of S: two pages of W; W may name more */
#define GRANULES ((SECTORS - 1) * SIDECAR_BITS + 99)
#define SIZE (GRANULES * UINT64_C (4096) - 1000)
/* Two planes of two pages, and two sums for each granule. */
#define LENGTH (5 * UINT64_C (4096) + GRANULES * 8)

enum { SEAL = 1, SOME_IN_S = 2, FIRST_FORMAT = 4 };

int LLVMFuzzerInitialize (int *argc, char ***argv);
int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

static char dir[200], work_path[256], sidecar_path[256];
static struct sidecar *sc;
static uint64_t in_s[SECTORS * SIDECAR_WORDS];
static struct work_identity id = { .uuid = "fuzzed",
                                   .session = 7,
                                   .store_dev = 8,
                                   .store_ino = 9,
                                   .store_btime = 10,
                                   .nr_sectors = SECTORS,
                                   .granule = 4096,
                                   .size = SIZE };

static void quiet (enum log_level level, const char *fmt, va_list ap)
    __attribute__ ((format (printf, 2, 0)));

static void
quiet (enum log_level level, const char *fmt, va_list ap)
{
  char text[512];

  (void)level;
  vsnprintf (text, sizeof text, fmt, ap);
}

static void
clean_up (void)
{
  sidecar_free (sc);
  unlink (work_path);
  rmdir (dir);
}

int
LLVMFuzzerInitialize (int *argc, char ***argv)
{
  struct sidecar_header h = { .size = SIZE, .granule = 4096 };
  const char *tmp = getenv ("TMPDIR");
  char *error = NULL;
  struct stat sb;
  off_t start = 0;
  int fd;

  (void)argc;
  (void)argv;
  log_set_sink (quiet);
  snprintf (dir, sizeof dir, "%s/fuzz-work-XXXXXX", tmp ? tmp : "/tmp");
  CHECK (mkdtemp (dir));
  atexit (clean_up);
  snprintf (work_path, sizeof work_path, "%s/work", dir);
  snprintf (sidecar_path, sizeof sidecar_path, "%s/sidecar", dir);
  sc = sidecar_create (sidecar_path, &h, &error);
  CHECK (sc);
  /* From here on in memory, where syncs cost nothing. */
  fd = memfd_create ("sidecar", MFD_CLOEXEC);
  CHECK (fd >= 0 && fstat (sc->fd, &sb) == 0
         && sendfile (fd, sc->fd, &start, (size_t)sb.st_size) == sb.st_size);
  sidecar_free (sc);
  unlink (sidecar_path);
  snprintf (sidecar_path, sizeof sidecar_path, "/proc/self/fd/%d", fd);
  sc = sidecar_open (sidecar_path, false, &error);
  CHECK (sc);
  for (size_t i = 0; i < SECTORS * SIDECAR_WORDS; i++)
    if (i / SIDECAR_WORDS % 3 != 0)
      in_s[i] = i / SIDECAR_WORDS % 3 == 1 ? UINT64_C (0xf0f00000ffff0001)
                                           : UINT64_MAX;
  return 0;
}

/* True if it is to be believed. */
static bool
make_file (const uint8_t *data, size_t size)
{
  static uint8_t file[MAX_FILE];
  CLEANUP_CLOSE int fd = -1;
  const bool first = size && (data[0] & FIRST_FORMAT);
  const size_t body = first ? 64 : 104, state_at = first ? 72 : 112;
  const size_t least = 4096 + SECTORS * 512;
  uint8_t header[112] = "BKWORK2\n";
  size_t length;

  memset (file, 0, sizeof file);
  length = pieces_lay (data, size, file, sizeof file);
  memcpy (header + 8, id.uuid, sizeof id.uuid);
  if (first) {
    memcpy (header, "BKWORK\r\n", 8);
    put_le64 (header + 24, id.session);
    put_le64 (header + 32, id.store_dev);
    put_le64 (header + 40, id.store_ino);
    put_le64 (header + 48, id.store_btime);
    put_le32 (header + 56, SECTORS);
  }
  else {
    header[24] = 1; /* the nonce */
    put_le64 (header + 40, id.session);
    put_le64 (header + 48, SIZE);
    put_le32 (header + 56, 4096);
    put_le32 (header + 60, SECTORS);
    put_le64 (header + 64, id.store_dev);
    put_le64 (header + 72, id.store_ino);
    put_le64 (header + 80, id.store_btime);
    /* Its sums are of no matter here, and most of it. */
    if (length > least)
      length = LENGTH;
  }
  put_le32 (header + body, crc32c (header, body));
  if (size && (data[0] & SEAL))
    memcpy (file, header, min_u64 (body + 8, length));
  fd = open (work_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  CHECK (fd >= 0 && ftruncate (fd, (off_t)length) == 0);
  /* A sector of zeros is a hole, as in a real one. */
  for (size_t at = 0; at < min_u64 (length, sizeof file); at += PIECES_SECTOR) {
    size_t n = min_u64 (PIECES_SECTOR, min_u64 (length, sizeof file) - at);

    if (file[at] != 0 || memcmp (file + at, file + at + 1, n - 1) != 0)
      CHECK (pwrite (fd, file + at, n, (off_t)at) == (ssize_t)n);
  }
  return length >= (first ? least : LENGTH)
         && memcmp (file, header, body + 8) == 0
         && (get_le32 (file + state_at) == WORK_OK
             || get_le32 (file + state_at) == WORK_SYNCING);
}

static bool
bit_of (const uint64_t *words, uint64_t g)
{
  return words[g / SIDECAR_BITS * SIDECAR_WORDS + g % SIDECAR_BITS / 64]
             >> (g % SIDECAR_BITS % 64)
         & 1;
}

/* What W holds, as recovery will have to find it. */
static void
read_all_of (struct work *w, uint64_t *in_w)
{
  uint64_t words[WORK_WORDS];
  uint32_t at, next;

  memset (in_w, 0, SECTORS * SIDECAR_WORDS * 8);
  for (at = 0; work_next (w, at, &next) && next < SECTORS; at = next + 1) {
    CHECK (next >= at);
    CHECK (map_old_words (w, true, next, words) == 0);
    memcpy (in_w + next * SIDECAR_WORDS, words, SIDECAR_WORDS * 8);
  }
}

enum state { ABSENT, PENDING, STABLE };

/* What is in W is pending, also if S showed it: from the page cache,
 * perhaps. */
static enum state
state_of (const uint64_t *s, const uint64_t *w, uint64_t g)
{
  return w && bit_of (w, g) ? PENDING : bit_of (s, g) ? STABLE : ABSENT;
}

/* Do the 64 granules from g have one state?  (Or perhaps: it is only to be
 * quick.) */
static bool
is_uniform (const uint64_t *s, const uint64_t *w, uint64_t g)
{
  size_t i = g / SIDECAR_BITS * SIDECAR_WORDS + g % SIDECAR_BITS / 64;

  return g % SIDECAR_BITS % 64 == 0 && g + 64 <= GRANULES
         && (s[i] == 0 || s[i] == UINT64_MAX)
         && (!w || w[i] == 0 || w[i] == UINT64_MAX);
}

static void
check_live (struct map *m, const uint64_t *s, const uint64_t *w)
{
  for (uint64_t g = 0, end; g < GRANULES; g = end) {
    enum state state = state_of (s, w, g);
    uint64_t stop;

    for (end = g; end < GRANULES && state_of (s, w, end) == state;)
      end += is_uniform (s, w, end) ? 64 : 1;
    CHECK (map_run (m, g, end, &stop)
               == (state == ABSENT ? MAP_ABSENT : MAP_LIVE)
           && stop == end);
    CHECK (map_is_stable (m, g, end) == (state == STABLE));
    for (uint64_t i = g; i < end && state == PENDING; i++)
      CHECK (!map_is_stable (m, i, i + 1));
  }
}

static void
commit (struct map *m, bool any)
{
  struct map_snapshot *s = map_snapshot (m, true);

  CHECK (s && map_snapshot_has_guest (s) == any
         && map_snapshot_is_empty (s) == !any);
  CHECK (map_snapshot_write (m, s) == 0 && sidecar_sync (sc) == 0);
  map_snapshot_publish (m, s);
  CHECK (!map_has_pending (m));
}

static void
recover (struct work *w, bool some)
{
  static uint64_t in_w[SECTORS * SIDECAR_WORDS], both[SECTORS * SIDECAR_WORDS];
  static const uint64_t none[SECTORS * SIDECAR_WORDS];
  const uint64_t *s = some ? in_s : none;
  struct map *m;
  bool any = false;

  for (uint32_t i = 0; i < SECTORS; i++)
    CHECK (sidecar_write_map (sc, i, 1, s + i * SIDECAR_WORDS) == 0);
  read_all_of (w, in_w);
  for (uint64_t g = 0; g < GRANULES && !any; g++)
    any = bit_of (in_w, g);
  for (size_t i = 0; i < SECTORS * SIDECAR_WORDS; i++)
    both[i] = s[i] | in_w[i];

  m = map_new (SIZE, 4096, sc, false, false);
  CHECK (m);
  map_set_work (m, w);
  CHECK (map_recover (m, w, true) == 0);
  check_live (m, s, in_w);
  CHECK (map_has_pending (m) == any);
  commit (m, any);
  check_live (m, both, NULL);
  map_free (m);

  /* Once more, from what is left in W and S. */
  read_all_of (w, in_w);
  for (uint64_t g = 0; g < GRANULES; g++)
    if (in_w[g / SIDECAR_BITS * SIDECAR_WORDS + g % SIDECAR_BITS / 64])
      CHECK (!bit_of (in_w, g));
  m = map_new (SIZE, 4096, sc, false, false);
  CHECK (m);
  check_live (m, both, NULL);
  map_free (m);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  bool good = make_file (data, size);
  const uid_t me = geteuid ();
  struct work_identity want = id;
  enum work_state state;
  struct work *w;

  /* Only that has none. */
  want.nonce[0] = !(size && (data[0] & FIRST_FORMAT));
  w = work_open (work_path, &want, &me, 1, false, &state);

  CHECK (!w == !good);
  if (!w) {
    CHECK (errno == ESTALE);
    return 0;
  }
  CHECK (state == WORK_OK || state == WORK_SYNCING);
  recover (w, data[0] & SOME_IN_S);
  work_free (w);
  return 0;
}
