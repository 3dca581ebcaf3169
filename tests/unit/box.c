/* box.c - see box.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include "mutex.h"
#include "box.h"

#include "child.h"
#include "crc32c.h"

#include <glob.h>
#include <limits.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIMIT_MS 60000u
#define MAX_WORDS 30u

void
nap_ms (unsigned ms)
{
  struct timespec ts
      = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

  nanosleep (&ts, NULL);
}

void
wait_until (bool (*condition) (void *), void *opaque)
{
  uint64_t limit = now_ms () + LIMIT_MS;

  while (!condition (opaque)) {
    if (now_ms () > limit)
      fail_msg ("waited too long");
    nap_ms (2);
  }
}

/* Files. */

void
box_make (struct box *b)
{
  memset (b, 0, sizeof *b);
  strcpy (b->dir, "/tmp/test-box-XXXXXX");
  assert_non_null (mkdtemp (b->dir));
  snprintf (b->store, sizeof b->store, "%s/disk", b->dir);
  snprintf (b->metadata, sizeof b->metadata, "%s.backfill", b->store);
  snprintf (b->run, sizeof b->run, "%s/run", b->dir);
  snprintf (b->golden, sizeof b->golden, "%s/golden", b->dir);
  snprintf (b->sock, sizeof b->sock, "%s/sock", b->dir);
  snprintf (b->log, sizeof b->log, "%s/log", b->dir);
  snprintf (b->uri, sizeof b->uri, "nbd+unix:///?socket=%s", b->sock);
  assert_int_equal (mkdir (b->run, 0700), 0);
}

static int
remove_one (const char *path, const struct stat *sb, int flag, struct FTW *ftw)
{
  (void)sb;
  (void)flag;
  (void)ftw;
  remove (path);
  return 0;
}

void
box_drop (struct box *b)
{
  calls_stop ();
  box_end_server (b);
  if (b->dir[0])
    nftw (b->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

struct disk_config
box_config (const struct box *b)
{
  return (struct disk_config){ .store = b->store, .runtime_dir = b->run };
}

struct disk *
box_open (const struct box *b, const struct disk_config *c)
{
  char *error = NULL;
  struct disk *d = disk_open (c, &error);

  (void)b;
  if (!d)
    fail_msg ("%s", error);
  assert_null (error);
  return d;
}

struct disk *
box_start (const struct box *b, const struct disk_config *c)
{
  struct disk *d = box_open (b, c);
  char *error = NULL;

  if (disk_start (d, &error) == -1)
    fail_msg ("%s", error);
  return d;
}

void
box_refused (const struct box *b, const struct disk_config *c, int err,
             const char *word1, const char *word2)
{
  char *error = NULL;
  struct disk *d;
  int is;

  (void)b;
  errno = 0;
  d = disk_open (c, &error);
  is = errno;
  if (d)
    fail_msg ("it was opened; '%s' and '%s' expected", word1, word2);
  assert_non_null (error);
  if (!strstr (error, word1) || !strstr (error, word2))
    fail_msg ("message without '%s' and '%s': %s", word1, word2, error);
  if (is != err)
    fail_msg ("errno %d, not %d: %s", is, err, error);
  free (error);
}

void
box_close (struct disk *d)
{
  assert_int_equal (disk_gate (d), 0);
  disk_free (d);
}

uint8_t
box_golden_byte (uint64_t offset)
{
  return (uint8_t)(offset % 251 + 1);
}

void
box_golden (const struct box *b, uint64_t size, uint64_t piece)
{
  CLEANUP_CLOSE int fd
      = open (b->golden, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  CLEANUP_FREE uint8_t *buf = malloc (piece);

  assert_true (fd >= 0 && buf);
  assert_int_equal (ftruncate (fd, (off_t)size), 0);
  for (uint64_t at = 0; at < size; at += 2 * piece) {
    uint64_t n = min_u64 (piece, size - at);

    for (uint64_t i = 0; i < n; i++)
      buf[i] = box_golden_byte (at + i);
    assert_int_equal (pwrite (fd, buf, n, (off_t)at), n);
  }
}

static bool
listens (void *opaque)
{
  return child_listens (opaque);
}

void
box_serve (struct box *b, const char *first, ...)
{
  const char *nbdkit = getenv ("NBDKIT");
  const char *argv[MAX_WORDS + 8];
  unsigned n = 0;
  va_list ap;

  if (!nbdkit || !*nbdkit)
    nbdkit = "nbdkit";
  argv[n++] = nbdkit;
  argv[n++] = "-f";
  argv[n++] = "-r";
  argv[n++] = "-U";
  argv[n++] = b->sock;
  argv[n++] = first;
  va_start (ap, first);
  while ((argv[n] = va_arg (ap, const char *)))
    assert_true (++n < MAX_WORDS);
  va_end (ap);
  unlink (b->sock);
  b->server = child_fork ();
  assert_true (b->server >= 0);
  if (b->server == 0) {
    unsetenv ("LD_PRELOAD");
    execvp (nbdkit, (char *const *)argv);
    _exit (127);
  }
  wait_until (listens, b->sock);
}

void
box_end_server (struct box *b)
{
  if (b->server <= 0)
    return;
  kill (b->server, SIGCONT);
  kill (b->server, SIGKILL);
  waitpid (b->server, NULL, 0);
  b->server = 0;
}

char *
box_key (const char *key, const char *value)
{
  char *s;

  assert_true (asprintf (&s, "%s=%s", key, value) > 0);
  return s;
}

/* The disk. */

void
expect_bytes (struct disk *d, uint64_t offset, uint64_t length, int byte)
{
  CLEANUP_FREE uint8_t *buf = malloc (length);

  memset (buf, 0xee, length);
  if (disk_pread (d, buf, length, offset) == -1)
    fail_msg ("read %llu+%llu: %s", (unsigned long long)offset,
              (unsigned long long)length, strerror (errno));
  for (uint64_t i = 0; i < length; i++)
    if (buf[i] != byte)
      fail_msg ("byte %llu is %u, not %d", (unsigned long long)(offset + i),
                buf[i], byte);
}

void
fill_bytes (struct disk *d, uint64_t offset, uint64_t length, int byte,
            unsigned flags)
{
  CLEANUP_FREE uint8_t *buf = malloc (length);

  memset (buf, byte, length);
  if (disk_pwrite (d, buf, length, offset, flags) == -1)
    fail_msg ("write %llu+%llu: %s", (unsigned long long)offset,
              (unsigned long long)length, strerror (errno));
}

bool
is_local (struct disk *d, uint64_t offset, uint64_t length)
{
  return map_is_live (d->map, granule_floor (d, offset),
                      granule_ceil (d, offset + length));
}

int
box_mark (struct disk *d, uint64_t g, uint64_t end, unsigned how)
{
  for (uint64_t at = g << d->shift; d->work && at < granule_offset (d, end);
       at += d->work->unit) {
    uint64_t n = min_u64 (d->work->unit, d->size - at);
    struct work_sums sums;
    uint8_t buf[WORK_UNIT_MAX];

    if (store_pread (d->store, buf, n, at) == -1)
      return -1;
    sums.was = sums.will = crc32c_pieces (buf, n);
    if (work_write_sums (d->work, at / d->work->unit, 1, &sums) == -1) {
      how |= MAP_UNPROVED;
      break;
    }
  }
  return map_mark (d->map, g, end, how);
}

struct sidecar *
box_peek (const struct box *b)
{
  char *error = NULL;
  struct sidecar *sc = sidecar_peek (b->metadata, &error);

  if (!sc)
    fail_msg ("%s", error);
  return sc;
}

bool
box_in_s (const struct box *b, uint64_t g)
{
  struct sidecar *sc = box_peek (b);
  uint64_t words[SIDECAR_WORDS];
  bool bad;

  assert_int_equal (
      sidecar_read_map (sc, (uint32_t)(g / SIDECAR_BITS), 1, words, &bad), 0);
  assert_false (bad);
  sidecar_free (sc);
  g %= SIDECAR_BITS;
  return words[g / 64] >> (g % 64) & 1;
}

unsigned
box_count (const struct box *b, const char *suffix)
{
  char pattern[PATH_MAX];
  glob_t found;
  unsigned n;

  /* In the processes' directories. */
  snprintf (pattern, sizeof pattern, "%s/*/*%s", b->run, suffix);
  n = glob (pattern, 0, NULL, &found) == 0 ? (unsigned)found.gl_pathc : 0;
  globfree (&found);
  return n;
}

/* Calls. */

#define MAX_CALLS 4096u

static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool on;
  const struct box *box;
  struct {
    enum call call;
    enum file file;
  } done[MAX_CALLS];
  unsigned nr, die;
  bool hold, held;
  enum call hold_call, fail_call;
  enum file hold_file, fail_file;
  int held_errno;
  int fail_errno;
  enum file cut_file;
  size_t cut;
  int cut_errno;
} calls = { .lock = PTHREAD_MUTEX_INITIALIZER,
            .changed = PTHREAD_COND_INITIALIZER };

static bool
is_path (const struct stat *sb, const char *path)
{
  struct stat other;

  return stat (path, &other) == 0 && other.st_dev == sb->st_dev
         && other.st_ino == sb->st_ino;
}

static enum file
file_of (int fd)
{
  char link[64], path[300];
  struct stat sb;
  ssize_t n;

  if (fstat (fd, &sb) == -1 || !S_ISREG (sb.st_mode))
    return FILE_OTHER;
  if (is_path (&sb, calls.box->store))
    return FILE_STORE;
  if (is_path (&sb, calls.box->metadata))
    return FILE_SIDECAR;
  snprintf (link, sizeof link, "/proc/self/fd/%d", fd);
  n = readlink (link, path, sizeof path - 1);
  if (n > 5 && memcmp (path + n - 5, ".work", 5) == 0)
    return FILE_WORK;
  return FILE_OTHER;
}

/* Before a call: -1 if it is to fail. */
static int
before (enum call call, int fd, off_t offset, enum file *file)
{
  MUTEX_SCOPE (&calls.lock);

  *file = FILE_OTHER;
  if (!calls.on)
    return 0;
  *file = file_of (fd);
  if (*file != FILE_OTHER && calls.die && --calls.die == 0)
    _exit (0);
  /* A full tmpfs still takes what it has a page for: W's header. */
  if (*file == FILE_WORK && offset < 4096)
    return 0;
  if (calls.fail_errno && calls.fail_call == call && calls.fail_file == *file) {
    errno = calls.fail_errno;
    return -1;
  }
  return 0;
}

/* How much of a write of n bytes is to be done. */
static size_t
cut_to (enum file file, size_t n)
{
  MUTEX_SCOPE (&calls.lock);

  if (!calls.on || calls.cut == 0 || calls.cut_file != file || n <= calls.cut)
    return n;
  n = calls.cut;
  calls.cut = 0;
  calls.fail_call = CALL_WRITE;
  calls.fail_file = file;
  calls.fail_errno = calls.cut_errno;
  return n;
}

/* -1: it is to fail after all. */
static int
after (enum call call, enum file file)
{
  int err = errno, held_errno = 0;

  if (file == FILE_OTHER)
    return 0;
  {
    MUTEX_SCOPE (&calls.lock);

    if (calls.nr < MAX_CALLS) {
      calls.done[calls.nr].call = call;
      calls.done[calls.nr].file = file;
      calls.nr++;
    }
    if (calls.hold && calls.hold_call == call && calls.hold_file == file) {
      calls.hold = false;
      calls.held = true;
      pthread_cond_broadcast (&calls.changed);
      while (calls.held)
        pthread_cond_wait (&calls.changed, &calls.lock);
      held_errno = calls.held_errno;
    }
  }
  errno = held_errno ? held_errno : err;
  return held_errno ? -1 : 0;
}

int __real_fdatasync (int fd);
int __wrap_fdatasync (int fd);
ssize_t __real_pwrite (int fd, const void *buf, size_t n, off_t offset);
ssize_t __wrap_pwrite (int fd, const void *buf, size_t n, off_t offset);
ssize_t __real_pwritev2 (int fd, const struct iovec *iov, int n, off_t offset,
                         int flags);
ssize_t __wrap_pwritev2 (int fd, const struct iovec *iov, int n, off_t offset,
                         int flags);

int
__wrap_fdatasync (int fd)
{
  enum file file;
  int r;

  if (before (CALL_SYNC, fd, 0, &file) == -1)
    return -1;
  r = __real_fdatasync (fd);
  return after (CALL_SYNC, file) == -1 ? -1 : r;
}

ssize_t
__wrap_pwrite (int fd, const void *buf, size_t n, off_t offset)
{
  enum file file;
  ssize_t r;

  if (before (CALL_WRITE, fd, offset, &file) == -1)
    return -1;
  r = __real_pwrite (fd, buf, cut_to (file, n), offset);
  return after (CALL_WRITE, file) == -1 ? -1 : r;
}

ssize_t
__wrap_pwritev2 (int fd, const struct iovec *iov, int n, off_t offset,
                 int flags)
{
  enum call call = flags & RWF_DSYNC ? CALL_DSYNC : CALL_WRITE;
  enum file file;
  ssize_t r;

  if (before (call, fd, offset, &file) == -1)
    return -1;
  r = __real_pwritev2 (fd, iov, n, offset, flags);
  return after (call, file) == -1 ? -1 : r;
}

void
calls_record (const struct box *b)
{
  MUTEX_SCOPE (&calls.lock);

  calls.on = true;
  calls.box = b;
  calls.nr = 0;
}

void
calls_die (unsigned n)
{
  MUTEX_SCOPE (&calls.lock);

  calls.die = n;
}

void
calls_stop (void)
{
  MUTEX_SCOPE (&calls.lock);

  calls.on = calls.hold = calls.held = false;
  calls.fail_errno = 0;
  calls.cut = 0;
  pthread_cond_broadcast (&calls.changed);
}

char *
calls_take (void)
{
  static const char files[] = "?smw", kinds[] = { 'w', 's', 'd' };
  MUTEX_SCOPE (&calls.lock);
  char *text = malloc (3 * calls.nr + 1), *p = text;

  assert_true (text && calls.nr < MAX_CALLS);
  for (unsigned i = 0; i < calls.nr; i++) {
    char call = kinds[calls.done[i].call], file = files[calls.done[i].file];

    if (p > text && p[-2] == call && p[-1] == file)
      continue;
    if (p > text)
      *p++ = ' ';
    *p++ = call;
    *p++ = file;
  }
  *p = '\0';
  calls.nr = 0;
  return text;
}

unsigned
calls_count (enum call call, enum file file)
{
  MUTEX_SCOPE (&calls.lock);
  unsigned n = 0;

  for (unsigned i = 0; i < calls.nr; i++)
    n += calls.done[i].call == call && calls.done[i].file == file;
  return n;
}

void
calls_hold (enum call call, enum file file)
{
  MUTEX_SCOPE (&calls.lock);

  calls.hold = true;
  calls.hold_call = call;
  calls.hold_file = file;
}

static bool
is_held (void *opaque)
{
  MUTEX_SCOPE (&calls.lock);

  (void)opaque;
  return calls.held;
}

void
calls_wait_held (void)
{
  wait_until (is_held, NULL);
}

void
calls_let_go (void)
{
  calls_let_go_failed (0);
}

void
calls_let_go_failed (int err)
{
  MUTEX_SCOPE (&calls.lock);

  calls.held = false;
  calls.held_errno = err;
  pthread_cond_broadcast (&calls.changed);
}

struct disk *
box_disk (struct box *b, uint64_t size)
{
  struct disk_config c;
  struct disk *d;

  box_make (b);
  c = box_config (b);
  c.has_size = true;
  c.size = size;
  d = box_open (b, &c);
  calls_record (b);
  return d;
}

void
box_drop_disk (struct box *b, struct disk *d)
{
  calls_stop ();
  disk_free (d);
  box_drop (b);
}

void
calls_fail (enum call call, enum file file, int err)
{
  MUTEX_SCOPE (&calls.lock);

  calls.fail_call = call;
  calls.fail_file = file;
  calls.fail_errno = err;
}

void
calls_cut (enum file file, size_t bytes, int err)
{
  MUTEX_SCOPE (&calls.lock);

  calls.cut_file = file;
  calls.cut = bytes;
  calls.cut_errno = err;
}
