/* lossyfs.c - a file system with a volatile write cache, to cut the power of.
 *
 *   lossyfs [-s SEED] [-l LOG] [-x FILE] [-d US] IN OUT MOUNTPOINT
 *
 * A flat FUSE file system that starts as a copy of the regular files in IN.
 * Everything is visible at once, but becomes durable only by fsync or
 * fdatasync of the file, or, for a name, of the folder.  At a power cut a
 * random (seeded) subset of what is not durable yet survives, by 512-byte
 * sectors and by names; the result is written to OUT and from then on every
 * operation gets EIO.  Unmounted without a cut, OUT gets what is visible (a
 * clean shutdown).  OUT can be the next run's IN; inode numbers are kept over
 * that in OUT/.lossyfs-inodes.
 *
 * Files are opened direct, so that the kernel's page cache hides nothing:
 * every write, also one with RWF_DSYNC, arrives here, sync_file_range does
 * not, MAP_SHARED is refused, and O_TMPFILE answers EOPNOTSUPP.  Locks are
 * kept by the kernel.
 *
 * It is controlled through the file MOUNTPOINT/.lossyfs: one command a line,
 * see commands[] at the end.  Reading it shows counters.  SIGUSR1 also cuts.
 *
 * Each file is two memfds, what is visible and what is durable, and a bitmap
 * of the sectors that differ ("dirty").  An fsync takes the dirty sectors at
 * its start; while it is held up (stall, -d) later writes are not covered by
 * it, and a second fsync of the same file takes over what the first has not
 * finished.  A failed fsync leaves the sectors clean: each was written or
 * lost, at random, and no later fsync cares (what Linux does).
 *
 * One mutex guards everything; it is dropped only while an operation is
 * stalled.  Inodes are never freed: a run is short.  Left out: folders, mode
 * and time stamps' own durability, extended attributes, symbolic links.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#define FUSE_USE_VERSION 314
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <fuse_lowlevel.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define SECTOR 512u
#define BLOCK 4096u
#define CTL_INO 2u
#define FIRST_INO 11u
#define CTL_NAME ".lossyfs"
#define INODES_NAME ".lossyfs-inodes"

enum op {
  OP_WRITE,
  OP_FALLOCATE,
  OP_TRUNCATE,
  OP_CREATE,
  OP_LINK,
  OP_RENAME,
  OP_UNLINK,
  OP_FSYNC,
  OP_FSYNCDIR,
  OP_READ,
  NR_OPS
};
static const char *const op_names[NR_OPS]
    = { "write",  "fallocate", "truncate", "create",   "link",
        "rename", "unlink",    "fsync",    "fsyncdir", "read" };

struct bits {
  uint64_t *w;
  size_t nr; /* words */
};

/* The sectors that an fsync in progress has taken. */
struct snap {
  struct bits bits;
  struct snap *next;
};

struct inode {
  uint64_t ino;
  char *name; /* the last it was given: for the log and the rules */
  int vfd, dfd;
  uint64_t vsize, dsize;
  struct bits dirty, alloc;
  struct bits lost; /* clean by a failed fsync, and not durable */
  struct snap *snaps;
  uint64_t nr_alloc; /* blocks in alloc */
  mode_t mode;
  uid_t uid;
  gid_t gid;
  struct timespec mtime;
};

struct entry {
  char *name;
  struct inode *inode;
};
struct table {
  struct entry *e;
  size_t nr;
};

/* A change of a name that no fsync of the folder has covered yet. */
struct change {
  enum op op;
  char *from, *to;
  struct inode *inode;
};

enum action { ACT_FAIL, ACT_CUT_BEFORE, ACT_CUT_AFTER, ACT_STALL };
struct rule {
  enum action action;
  enum op op;
  char *pattern;
  uint64_t nth, count; /* fires for the nth and the count-1 after it */
  int arg;             /* errno or ms, 0 = until released */
  struct rule *next;
};

struct keep {
  char *pattern;
  int percent;
  struct keep *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static struct inode **inodes;
static size_t nr_inodes;
static struct table visible, durable;
static struct change *changes;
static size_t nr_changes;
static struct rule *rules;
static struct keep *keeps;
static const char *keep_names = "any";
static bool dead, written_out;
static uint64_t nr_ops, cut_at, op_counts[NR_OPS], stalled, release_count,
    nr_failed;
static bool have_space;
static uint64_t space;
static unsigned writeback; /* per mille of the operations */
static useconds_t sync_delay;
static uint64_t rng_state;
static FILE *log_file;
static const char *out_dir;
static const char *dump_pattern;

static void __attribute__ ((format (printf, 1, 2), noreturn))
die (const char *fmt, ...)
{
  va_list ap;

  fputs ("lossyfs: ", stderr);
  va_start (ap, fmt);
  vfprintf (stderr, fmt, ap);
  va_end (ap);
  fputc ('\n', stderr);
  exit (1);
}

static void *
xrealloc (void *p, size_t n)
{
  p = realloc (p, n ? n : 1);
  if (!p)
    die ("out of memory");
  return p;
}

static char *
xstrdup (const char *s)
{
  char *r = strdup (s);

  if (!r)
    die ("out of memory");
  return r;
}

static uint64_t
rnd (void)
{
  uint64_t z = (rng_state += UINT64_C (0x9e3779b97f4a7c15));

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static bool
chance (unsigned n, unsigned of)
{
  return rnd () % of < n;
}

/* --- bitmaps --- */

static void
bits_reserve (struct bits *b, uint64_t bit)
{
  size_t need = bit / 64 + 1;

  if (need > b->nr) {
    need += need / 2;
    b->w = xrealloc (b->w, need * sizeof *b->w);
    memset (b->w + b->nr, 0, (need - b->nr) * sizeof *b->w);
    b->nr = need;
  }
}

static bool
bits_test (const struct bits *b, uint64_t bit)
{
  return bit / 64 < b->nr && (b->w[bit / 64] >> (bit % 64) & 1);
}

static void
bits_set (struct bits *b, uint64_t bit)
{
  bits_reserve (b, bit);
  b->w[bit / 64] |= UINT64_C (1) << (bit % 64);
}

static void
bits_clear (struct bits *b, uint64_t bit)
{
  if (bit / 64 < b->nr)
    b->w[bit / 64] &= ~(UINT64_C (1) << (bit % 64));
}

/* The first set bit at or after bit; UINT64_MAX if there is none. */
static uint64_t
bits_next (const struct bits *b, uint64_t bit)
{
  while (bit / 64 < b->nr) {
    uint64_t w = b->w[bit / 64] >> (bit % 64);

    if (w)
      return bit + (uint64_t)__builtin_ctzll (w);
    bit = (bit / 64 + 1) * 64;
  }
  return UINT64_MAX;
}

static uint64_t
bits_end_of_run (const struct bits *b, uint64_t bit)
{
  while (bits_test (b, bit))
    bit++;
  return bit;
}

static void
bits_or (struct bits *to, const struct bits *from)
{
  if (from->nr)
    bits_reserve (to, from->nr * 64 - 1);
  for (size_t i = 0; i < from->nr; i++)
    to->w[i] |= from->w[i];
}

static void
bits_zap (struct bits *b)
{
  if (b->nr)
    memset (b->w, 0, b->nr * sizeof *b->w);
}

static uint64_t
bits_count (const struct bits *b)
{
  uint64_t n = 0;

  for (size_t i = 0; i < b->nr; i++)
    n += (uint64_t)__builtin_popcountll (b->w[i]);
  return n;
}

/* --- files --- */

static struct inode *
inode_new (uint64_t ino, const char *name, mode_t mode, uid_t uid, gid_t gid)
{
  struct inode *in = calloc (1, sizeof *in);

  if (!in)
    die ("out of memory");
  if (ino == 0) {
    ino = FIRST_INO;
    for (size_t i = 0; i < nr_inodes; i++)
      if (inodes[i]->ino >= ino)
        ino = inodes[i]->ino + 1;
  }
  in->ino = ino;
  in->name = xstrdup (name);
  in->mode = mode;
  in->uid = uid;
  in->gid = gid;
  clock_gettime (CLOCK_REALTIME, &in->mtime);
  in->vfd = memfd_create ("visible", MFD_CLOEXEC);
  in->dfd = memfd_create ("durable", MFD_CLOEXEC);
  if (in->vfd == -1 || in->dfd == -1)
    die ("memfd_create: %s", strerror (errno));
  inodes = xrealloc (inodes, (nr_inodes + 1) * sizeof *inodes);
  inodes[nr_inodes++] = in;
  return in;
}

static struct inode *
inode_find (uint64_t ino)
{
  for (size_t i = 0; i < nr_inodes; i++)
    if (inodes[i]->ino == ino)
      return inodes[i];
  return NULL;
}

static void
inode_rename (struct inode *in, const char *name)
{
  char *copy = xstrdup (name);

  free (in->name);
  in->name = copy;
}

static void
punch (int fd, uint64_t offset, uint64_t length)
{
  if (length
      && fallocate (fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (off_t)offset, (off_t)length)
             == -1)
    die ("cannot punch a memfd: %s", strerror (errno));
}

static void
set_size (int fd, uint64_t size)
{
  if (ftruncate (fd, (off_t)size) == -1)
    die ("cannot set a memfd's size: %s", strerror (errno));
}

/* Copy a range between files, holes as holes. */
static void
copy_range (int from, int to, uint64_t offset, uint64_t end)
{
  static char buf[1 << 16];

  while (offset < end) {
    off_t data = lseek (from, (off_t)offset, SEEK_DATA);
    uint64_t start = data == -1 ? end : (uint64_t)data;
    uint64_t stop;

    if (data == -1 && errno != ENXIO)
      die ("SEEK_DATA: %s", strerror (errno));
    if (start > end)
      start = end;
    punch (to, offset, start - offset);
    if (start == end)
      break;
    stop = (uint64_t)lseek (from, (off_t)start, SEEK_HOLE);
    if (stop > end)
      stop = end;
    for (offset = start; offset < stop;) {
      size_t n = stop - offset < sizeof buf ? stop - offset : sizeof buf;
      ssize_t r = pread (from, buf, n, (off_t)offset);

      if (r <= 0 || pwrite (to, buf, (size_t)r, (off_t)offset) != r)
        die ("cannot copy: %s", strerror (errno));
      offset += (uint64_t)r;
    }
  }
}

/* Make sectors [s, e) durable as they are visible now. */
static void
persist (struct inode *in, uint64_t s, uint64_t e)
{
  uint64_t offset = s * SECTOR, end = e * SECTOR;
  uint64_t stop = end < in->vsize ? end : in->vsize;

  if (offset < stop)
    copy_range (in->vfd, in->dfd, offset, stop);
  if (end > stop)
    punch (in->dfd, stop > offset ? stop : offset,
           end - (stop > offset ? stop : offset));
}

static void
grow_durable (struct inode *in, uint64_t size)
{
  if (size > in->dsize) {
    in->dsize = size;
    set_size (in->dfd, size);
  }
}

static void
mark_dirty (struct inode *in, uint64_t offset, uint64_t length)
{
  for (uint64_t s = offset / SECTOR; s * SECTOR < offset + length; s++) {
    bits_set (&in->dirty, s);
    bits_clear (&in->lost, s);
  }
  clock_gettime (CLOCK_REALTIME, &in->mtime);
}

/* How many more bytes of blocks the range would take. */
static uint64_t
space_needed (const struct inode *in, uint64_t offset, uint64_t length)
{
  uint64_t n = 0;

  for (uint64_t b = offset / BLOCK; b * BLOCK < offset + length; b++)
    n += !bits_test (&in->alloc, b);
  return n * BLOCK;
}

static void
take_space (struct inode *in, uint64_t offset, uint64_t length)
{
  uint64_t need = space_needed (in, offset, length);

  for (uint64_t b = offset / BLOCK; b * BLOCK < offset + length; b++)
    bits_set (&in->alloc, b);
  in->nr_alloc += need / BLOCK;
  if (have_space)
    space -= need;
}

static void
give_space (struct inode *in, uint64_t offset, uint64_t length)
{
  uint64_t b = (offset + BLOCK - 1) / BLOCK;

  for (; (b + 1) * BLOCK <= offset + length && b / 64 < in->alloc.nr; b++)
    if (bits_test (&in->alloc, b)) {
      bits_clear (&in->alloc, b);
      in->nr_alloc--;
      if (have_space)
        space += BLOCK;
    }
}

static void
truncate_visible (struct inode *in, uint64_t size)
{
  if (size < in->vsize) {
    mark_dirty (in, size, in->vsize - size);
    give_space (in, size, (in->vsize | (BLOCK - 1)) + 1 - size);
  }
  set_size (in->vfd, size);
  in->vsize = size;
}

/* --- names --- */

static struct entry *
table_find (struct table *t, const char *name)
{
  for (size_t i = 0; i < t->nr; i++)
    if (strcmp (t->e[i].name, name) == 0)
      return &t->e[i];
  return NULL;
}

static void
table_set (struct table *t, const char *name, struct inode *in)
{
  struct entry *e = table_find (t, name);

  if (e) {
    e->inode = in;
    return;
  }
  t->e = xrealloc (t->e, (t->nr + 1) * sizeof *t->e);
  t->e[t->nr].name = xstrdup (name);
  t->e[t->nr++].inode = in;
}

static void
table_remove (struct table *t, const char *name)
{
  struct entry *e = table_find (t, name);

  if (!e)
    return;
  free (e->name);
  *e = t->e[--t->nr];
}

static unsigned
count_links (const struct table *t, const struct inode *in)
{
  unsigned n = 0;

  for (size_t i = 0; i < t->nr; i++)
    n += t->e[i].inode == in;
  return n;
}

static void
apply_change (struct table *t, const struct change *c)
{
  struct entry *e;

  if (c->from) {
    e = table_find (t, c->from);
    if (e && e->inode == c->inode)
      table_remove (t, c->from);
  }
  if (c->to)
    table_set (t, c->to, c->inode);
}

static void
change_names (enum op op, const char *from, const char *to, struct inode *in)
{
  struct change *c;

  changes = xrealloc (changes, (nr_changes + 1) * sizeof *changes);
  c = &changes[nr_changes++];
  c->op = op;
  c->from = from ? xstrdup (from) : NULL;
  c->to = to ? xstrdup (to) : NULL;
  c->inode = in;
  apply_change (&visible, c);
}

static void
forget_changes (size_t n)
{
  for (size_t i = 0; i < n; i++) {
    free (changes[i].from);
    free (changes[i].to);
  }
  memmove (changes, changes + n, (nr_changes - n) * sizeof *changes);
  nr_changes -= n;
}

/* --- log --- */

/* NUMBER TIME OPERATION FILE OFFSET LENGTH ERRNO [BYTES-IN-HEX], in the order
 * in which things took effect. */
static void
log_data (const char *what, const char *name, uint64_t offset, uint64_t length,
          int err, const char *data)
{
  struct timespec ts;

  if (!log_file)
    return;
  clock_gettime (CLOCK_MONOTONIC, &ts);
  fprintf (log_file, "%" PRIu64 " %lld.%06ld %s %s %" PRIu64 " %" PRIu64 " %d",
           nr_ops, (long long)ts.tv_sec, ts.tv_nsec / 1000, what, name, offset,
           length, err);
  if (data && dump_pattern && fnmatch (dump_pattern, name, 0) == 0) {
    putc (' ', log_file);
    for (uint64_t i = 0; i < length; i++)
      fprintf (log_file, "%02x", (unsigned char)data[i]);
  }
  putc ('\n', log_file);
  fflush (log_file);
}

static void
log_op (const char *what, const char *name, uint64_t offset, uint64_t length,
        int err)
{
  log_data (what, name, offset, length, err, NULL);
}

/* --- the power cut --- */

static void
write_out (const struct table *t, bool use_visible)
{
  char path[4096];
  FILE *fp;

  snprintf (path, sizeof path, "%s/%s", out_dir, INODES_NAME);
  fp = fopen (path, "w");
  if (!fp)
    die ("%s: %s", path, strerror (errno));
  for (size_t i = 0; i < t->nr; i++) {
    struct inode *in = t->e[i].inode;
    uint64_t size = use_visible ? in->vsize : in->dsize;
    const char *first = NULL;
    int fd;

    for (size_t j = 0; j < i && !first; j++)
      if (t->e[j].inode == in)
        first = t->e[j].name;
    fprintf (fp, "%" PRIu64 " %s\n", in->ino, t->e[i].name);
    snprintf (path, sizeof path, "%s/%s", out_dir, t->e[i].name);
    if (first) {
      char other[4096];

      snprintf (other, sizeof other, "%s/%s", out_dir, first);
      if (link (other, path) == -1)
        die ("%s: %s", path, strerror (errno));
      continue;
    }
    fd = open (path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd == -1 || ftruncate (fd, (off_t)size) == -1)
      die ("%s: %s", path, strerror (errno));
    copy_range (use_visible ? in->vfd : in->dfd, fd, 0, size);
    if (fchmod (fd, in->mode & 07777) == -1 || close (fd) == -1)
      die ("%s: %s", path, strerror (errno));
  }
  if (fclose (fp) != 0)
    die ("%s: %s", path, strerror (errno));
  written_out = true;
}

static int
keep_percent (const struct inode *in)
{
  static const int some[] = { 0, 0, 6, 50, 94, 100, 100 };

  for (struct keep *k = keeps; k; k = k->next)
    if (fnmatch (k->pattern, in->name, 0) == 0)
      return k->percent;
  return some[rnd () % 7];
}

static void
cut_file (struct inode *in)
{
  static const unsigned units[] = { 1, 1, 8, 64 };
  struct bits torn = { 0 };
  int percent = keep_percent (in);
  unsigned unit = units[rnd () % 4];
  uint64_t s = 0, kept = 0, all;

  bits_or (&torn, &in->dirty);
  for (struct snap *sn = in->snaps; sn; sn = sn->next)
    bits_or (&torn, &sn->bits);
  all = bits_count (&torn);

  if (in->vsize != in->dsize
      && (percent == 100 || (percent != 0 && chance (1, 2)))) {
    in->dsize = in->vsize;
    set_size (in->dfd, in->dsize);
  }
  while ((s = bits_next (&torn, s)) != UINT64_MAX) {
    uint64_t stop = (s / unit + 1) * unit;
    bool survives = chance ((unsigned)percent, 100);

    for (; s < stop; s++)
      if (survives && bits_test (&torn, s) && s * SECTOR < in->dsize) {
        persist (in, s, s + 1);
        kept++;
      }
  }
  /* A sector past the end that survived is not part of the file. */
  set_size (in->dfd, in->dsize);
  if (log_file)
    fprintf (log_file,
             "# cut %s: %" PRIu64 " of %" PRIu64
             " sectors survive (%d %%, unit %u), size %" PRIu64 "\n",
             in->name, kept, all, percent, unit, in->dsize);
  free (torn.w);
}

static void
power_cut (void)
{
  size_t upto = nr_changes;
  bool subset = false;

  if (dead)
    return;
  dead = true;
  for (size_t i = 0; i < nr_inodes; i++)
    cut_file (inodes[i]);

  if (strcmp (keep_names, "none") == 0)
    upto = 0;
  else if (strcmp (keep_names, "any") == 0)
    switch (rnd () % 4) {
    case 0:
      upto = 0;
      break;
    case 1:
      break;
    case 2:
      upto = rnd () % (nr_changes + 1);
      break;
    default:
      subset = true;
    }
  for (size_t i = 0; i < upto; i++)
    if (!subset || chance (1, 2)) {
      apply_change (&durable, &changes[i]);
      if (log_file)
        fprintf (log_file, "# cut: %s %s %s survives\n",
                 op_names[changes[i].op],
                 changes[i].from ? changes[i].from : "-",
                 changes[i].to ? changes[i].to : "-");
    }
  write_out (&durable, false);
  if (log_file) {
    fprintf (log_file, "# cut after %" PRIu64 " operations\n", nr_ops);
    fflush (log_file);
  }
  pthread_cond_broadcast (&released);
}

/* --- what happens at each operation --- */

/* The disk writes some dirty sectors back on its own. */
static void
write_back_some (void)
{
  struct inode *in;
  uint64_t s, e;

  if (nr_inodes == 0)
    return;
  in = inodes[rnd () % nr_inodes];
  if (in->dirty.nr == 0)
    return;
  s = bits_next (&in->dirty, rnd () % (in->dirty.nr * 64));
  if (s == UINT64_MAX)
    s = bits_next (&in->dirty, 0);
  if (s == UINT64_MAX)
    return;
  e = bits_end_of_run (&in->dirty, s);
  if (e > s + 64)
    e = s + 1 + rnd () % 64;
  if (s * SECTOR >= in->vsize)
    return;
  grow_durable (in, e * SECTOR < in->vsize ? e * SECTOR : in->vsize);
  persist (in, s, e);
  for (; s < e; s++)
    bits_clear (&in->dirty, s);
}

/* Wait with the lock dropped. */
static void
stall (int ms)
{
  struct timespec until;
  uint64_t was = release_count;

  clock_gettime (CLOCK_REALTIME, &until);
  until.tv_sec += ms / 1000;
  until.tv_nsec += ms % 1000 * 1000000L;
  if (until.tv_nsec >= 1000000000L) {
    until.tv_sec++;
    until.tv_nsec -= 1000000000L;
  }
  stalled++;
  while (!dead && release_count == was) {
    if (ms == 0)
      pthread_cond_wait (&released, &lock);
    else if (pthread_cond_timedwait (&released, &lock, &until) == ETIMEDOUT)
      break;
  }
  stalled--;
}

struct verdict {
  int err;      /* answer this and do nothing */
  bool cut;     /* do it, cut the power, answer EIO */
  int stall_ms; /* -1: do not stall */
};

/* Called at the start of each operation, with the lock held. */
static struct verdict
judge (enum op op, const char *name)
{
  struct verdict v = { .stall_ms = -1 };

  if (dead) {
    v.err = EIO;
    return v;
  }
  op_counts[op]++;
  if (op != OP_READ) {
    nr_ops++;
    if (writeback && chance (writeback, 1000))
      write_back_some ();
    if (cut_at && nr_ops >= cut_at) {
      /* The one that the cut hits has happened, or not. */
      if (chance (1, 2))
        v.cut = true;
      else {
        power_cut ();
        v.err = EIO;
      }
      return v;
    }
  }
  for (struct rule *r = rules; r; r = r->next) {
    if (r->op != op || r->count == 0 || fnmatch (r->pattern, name, 0) != 0)
      continue;
    if (r->nth > 1) {
      r->nth--;
      continue;
    }
    if (r->count != UINT64_MAX)
      r->count--;
    switch (r->action) {
    case ACT_FAIL:
      v.err = r->arg;
      nr_failed++;
      break;
    case ACT_CUT_BEFORE:
      power_cut ();
      v.err = EIO;
      break;
    case ACT_CUT_AFTER:
      v.cut = true;
      break;
    case ACT_STALL:
      v.stall_ms = r->arg;
      break;
    }
    break;
  }
  return v;
}

/* judge() for all but fsync: a stall comes before the operation. */
static struct verdict
enter (enum op op, const char *name)
{
  struct verdict v = judge (op, name);

  if (!v.err && v.stall_ms >= 0) {
    stall (v.stall_ms);
    if (dead)
      v.err = EIO;
  }
  return v;
}

/* At the end of each operation: its answer. */
static int
leave (struct verdict v)
{
  if (v.cut)
    power_cut ();
  return dead ? EIO : 0;
}

/* Returns the errno to answer. */
static int
sync_file (struct inode *in)
{
  struct verdict v = judge (OP_FSYNC, in->name);
  struct snap sn = { 0 };
  uint64_t size, s = 0;

  if (v.err && v.err != EIO) {
    log_op ("fsync", in->name, 0, 0, v.err);
    return v.err;
  }
  if (dead)
    return EIO;

  bits_or (&sn.bits, &in->dirty);
  bits_zap (&in->dirty);
  for (struct snap *other = in->snaps; other; other = other->next)
    bits_or (&sn.bits, &other->bits);
  sn.next = in->snaps;
  in->snaps = &sn;
  size = in->vsize;
  log_op ("fsync-begin", in->name, 0, bits_count (&sn.bits), 0);
  if (v.stall_ms >= 0)
    stall (v.stall_ms);
  else if (sync_delay)
    stall ((int)(sync_delay / 1000) + 1);

  for (struct snap **p = &in->snaps; *p; p = &(*p)->next)
    if (*p == &sn) {
      *p = sn.next;
      break;
    }
  if (!dead) {
    if (!v.err) {
      in->dsize = size;
      set_size (in->dfd, size);
    }
    while ((s = bits_next (&sn.bits, s)) != UINT64_MAX) {
      uint64_t e = bits_end_of_run (&sn.bits, s);

      if (!v.err) {
        persist (in, s, e);
        s = e;
      }
      else
        for (; s < e; s++) {
          if (s * SECTOR < in->dsize && chance (1, 2))
            persist (in, s, s + 1);
          else if (!bits_test (&in->dirty, s))
            bits_set (&in->lost, s);
        }
    }
    /* Punching past the end does not change the size, but writing may. */
    set_size (in->dfd, in->dsize);
  }
  free (sn.bits.w);
  log_op ("fsync", in->name, 0, 0, v.err ? v.err : dead ? EIO : 0);
  if (v.err)
    return v.err;
  return leave (v);
}

/* --- FUSE --- */

static void
fill_stat (const struct inode *in, struct stat *st)
{
  memset (st, 0, sizeof *st);
  st->st_ino = in->ino;
  st->st_mode = S_IFREG | in->mode;
  st->st_nlink = count_links (&visible, in);
  st->st_uid = in->uid;
  st->st_gid = in->gid;
  st->st_size = (off_t)in->vsize;
  st->st_blksize = BLOCK;
  st->st_blocks = (blkcnt_t)(in->nr_alloc * (BLOCK / 512));
  st->st_mtim = st->st_ctim = st->st_atim = in->mtime;
}

static int
stat_ino (fuse_ino_t ino, struct stat *st)
{
  struct inode *in;

  if (ino == FUSE_ROOT_ID || ino == CTL_INO) {
    memset (st, 0, sizeof *st);
    st->st_ino = ino;
    st->st_mode = ino == CTL_INO ? S_IFREG | 0600 : S_IFDIR | 0755;
    st->st_nlink = ino == CTL_INO ? 1 : 2;
    st->st_uid = getuid ();
    st->st_gid = getgid ();
    return 0;
  }
  in = inode_find (ino);
  if (!in)
    return ENOENT;
  fill_stat (in, st);
  return 0;
}

static void
reply_entry (fuse_req_t req, uint64_t ino)
{
  struct fuse_entry_param e = { .ino = ino };

  stat_ino (ino, &e.attr);
  fuse_reply_entry (req, &e);
}

static void
fs_lookup (fuse_req_t req, fuse_ino_t parent, const char *name)
{
  struct entry *e;

  (void)parent;
  pthread_mutex_lock (&lock);
  e = table_find (&visible, name);
  if (strcmp (name, CTL_NAME) == 0)
    reply_entry (req, CTL_INO);
  else if (dead)
    fuse_reply_err (req, EIO);
  else if (!e)
    fuse_reply_err (req, ENOENT);
  else
    reply_entry (req, e->inode->ino);
  pthread_mutex_unlock (&lock);
}

static void
fs_getattr (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
  struct stat st;
  int err;

  (void)fi;
  pthread_mutex_lock (&lock);
  err = dead && ino != CTL_INO && ino != FUSE_ROOT_ID ? EIO
                                                      : stat_ino (ino, &st);
  if (err)
    fuse_reply_err (req, err);
  else
    fuse_reply_attr (req, &st, 0);
  pthread_mutex_unlock (&lock);
}

static void
fs_setattr (fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
            struct fuse_file_info *fi)
{
  struct inode *in;
  struct stat st;
  int err = 0;

  (void)fi;
  pthread_mutex_lock (&lock);
  in = inode_find (ino);
  if (!in && ino != CTL_INO)
    err = EPERM;
  else if (in && dead)
    err = EIO;
  if (in && !err) {
    if (to_set & FUSE_SET_ATTR_MODE)
      in->mode = attr->st_mode & 07777;
    if (to_set & FUSE_SET_ATTR_UID)
      in->uid = attr->st_uid;
    if (to_set & FUSE_SET_ATTR_GID)
      in->gid = attr->st_gid;
    if (to_set & FUSE_SET_ATTR_SIZE) {
      struct verdict v = enter (OP_TRUNCATE, in->name);

      err = v.err;
      if (!err) {
        truncate_visible (in, (uint64_t)attr->st_size);
        err = leave (v);
      }
      log_op ("truncate", in->name, 0, (uint64_t)attr->st_size, err);
    }
  }
  if (!err)
    err = stat_ino (ino, &st);
  if (err)
    fuse_reply_err (req, err);
  else
    fuse_reply_attr (req, &st, 0);
  pthread_mutex_unlock (&lock);
}

static void
fs_create (fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
           struct fuse_file_info *fi)
{
  const struct fuse_ctx *ctx = fuse_req_ctx (req);
  struct fuse_entry_param e = { 0 };
  struct entry *old;
  struct inode *in = NULL;
  struct verdict v;
  int err = 0;

  (void)parent;
  pthread_mutex_lock (&lock);
  old = table_find (&visible, name);
  if (old) {
    if (dead)
      err = EIO;
    else if (fi->flags & O_EXCL)
      err = EEXIST;
    else
      in = old->inode;
  }
  else {
    v = enter (OP_CREATE, name);
    err = v.err;
    if (!err) {
      in = inode_new (0, name, mode & 07777, ctx->uid, ctx->gid);
      change_names (OP_CREATE, NULL, name, in);
      err = leave (v);
    }
    log_op ("create", name, 0, 0, err);
  }
  if (err)
    fuse_reply_err (req, err);
  else {
    e.ino = in->ino;
    fill_stat (in, &e.attr);
    fi->direct_io = 1;
    fuse_reply_create (req, &e, fi);
  }
  pthread_mutex_unlock (&lock);
}

static void
fs_link (fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
  struct inode *in;
  struct verdict v;
  int err;

  (void)parent;
  pthread_mutex_lock (&lock);
  in = inode_find (ino);
  if (!in)
    err = EPERM;
  else if (table_find (&visible, name))
    err = dead ? EIO : EEXIST;
  else {
    v = enter (OP_LINK, name);
    err = v.err;
    if (!err) {
      inode_rename (in, name);
      change_names (OP_LINK, NULL, name, in);
      err = leave (v);
    }
    log_op ("link", name, 0, 0, err);
  }
  if (err)
    fuse_reply_err (req, err);
  else
    reply_entry (req, ino);
  pthread_mutex_unlock (&lock);
}

static void
fs_rename (fuse_req_t req, fuse_ino_t parent, const char *name,
           fuse_ino_t newparent, const char *newname, unsigned flags)
{
  struct entry *e;
  struct verdict v;
  int err;

  (void)parent;
  (void)newparent;
  pthread_mutex_lock (&lock);
  v = enter (OP_RENAME, name);
  err = v.err;
  if (!err) {
    e = table_find (&visible, name);
    if (!e)
      err = ENOENT;
    else if (flags & ~1u) /* RENAME_NOREPLACE only */
      err = EINVAL;
    else if ((flags & 1u) && table_find (&visible, newname))
      err = EEXIST;
    else {
      struct inode *in = e->inode;

      inode_rename (in, newname);
      change_names (OP_RENAME, name, newname, in);
      err = leave (v);
    }
  }
  log_op ("rename", name, 0, 0, err);
  fuse_reply_err (req, err);
  pthread_mutex_unlock (&lock);
}

static void
fs_unlink (fuse_req_t req, fuse_ino_t parent, const char *name)
{
  struct entry *e;
  struct verdict v;
  int err;

  (void)parent;
  pthread_mutex_lock (&lock);
  v = enter (OP_UNLINK, name);
  err = v.err;
  if (!err) {
    e = table_find (&visible, name);
    if (!e)
      err = ENOENT;
    else {
      change_names (OP_UNLINK, name, NULL, e->inode);
      err = leave (v);
    }
  }
  log_op ("unlink", name, 0, 0, err);
  fuse_reply_err (req, err);
  pthread_mutex_unlock (&lock);
}

static void
fs_open (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
  pthread_mutex_lock (&lock);
  if (dead && ino != CTL_INO)
    fuse_reply_err (req, EIO);
  else {
    fi->direct_io = 1;
    fuse_reply_open (req, fi);
  }
  pthread_mutex_unlock (&lock);
}

static void show_status (fuse_req_t req, size_t size, off_t off);
static int run_command (char *line);

static void
fs_read (fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
         struct fuse_file_info *fi)
{
  struct inode *in;
  struct verdict v;
  char *buf;
  ssize_t r;

  (void)fi;
  pthread_mutex_lock (&lock);
  in = inode_find (ino);
  if (!in) {
    show_status (req, size, off);
    pthread_mutex_unlock (&lock);
    return;
  }
  v = enter (OP_READ, in->name);
  if (v.err) {
    fuse_reply_err (req, v.err);
    pthread_mutex_unlock (&lock);
    return;
  }
  buf = xrealloc (NULL, size);
  r = pread (in->vfd, buf, size, off);
  if (r == -1)
    fuse_reply_err (req, errno);
  else
    fuse_reply_buf (req, buf, (size_t)r);
  free (buf);
  pthread_mutex_unlock (&lock);
}

static void
fs_write (fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size,
          off_t off, struct fuse_file_info *fi)
{
  uint64_t offset = (uint64_t)off;
  struct inode *in;
  struct verdict v;
  bool dsync = (fi->flags & O_DSYNC) != 0;
  int err = 0;

  pthread_mutex_lock (&lock);
  in = inode_find (ino);
  if (!in) {
    char *copy = strndup (buf, size);
    char *save = NULL;

    for (char *line = copy ? strtok_r (copy, "\n", &save) : NULL; line && !err;
         line = strtok_r (NULL, "\n", &save))
      err = run_command (line);
    free (copy);
    if (err)
      fuse_reply_err (req, err);
    else
      fuse_reply_write (req, size);
    pthread_mutex_unlock (&lock);
    return;
  }
  v = enter (OP_WRITE, in->name);
  err = v.err;
  if (!err && have_space && space_needed (in, offset, size) > space)
    err = ENOSPC;
  if (!err) {
    if (pwrite (in->vfd, buf, size, off) != (ssize_t)size)
      die ("cannot write a memfd: %s", strerror (errno));
    if (offset + size > in->vsize)
      in->vsize = offset + size;
    take_space (in, offset, size);
    mark_dirty (in, offset, size);
    err = leave (v);
  }
  log_data ("write", in->name, offset, size, err, buf);
  if (!err && dsync)
    err = sync_file (in);
  if (err)
    fuse_reply_err (req, err);
  else
    fuse_reply_write (req, size);
  pthread_mutex_unlock (&lock);
}

static void
fs_fallocate (fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
              struct fuse_file_info *fi)
{
  uint64_t offset = (uint64_t)off, length = (uint64_t)len;
  const int what = mode & ~FALLOC_FL_KEEP_SIZE;
  const char *name = what == FALLOC_FL_PUNCH_HOLE   ? "punch"
                     : what == FALLOC_FL_ZERO_RANGE ? "zero-range"
                                                    : "fallocate";
  struct inode *in;
  struct verdict v;
  int err;

  (void)fi;
  pthread_mutex_lock (&lock);
  in = inode_find (ino);
  if (!in) {
    fuse_reply_err (req, EPERM);
    pthread_mutex_unlock (&lock);
    return;
  }
  v = enter (OP_FALLOCATE, in->name);
  err = v.err;
  if (!err && what != 0 && what != FALLOC_FL_PUNCH_HOLE
      && what != FALLOC_FL_ZERO_RANGE)
    err = EOPNOTSUPP;
  if (!err && what != FALLOC_FL_PUNCH_HOLE && have_space
      && space_needed (in, offset, length) > space)
    err = ENOSPC;
  if (!err) {
    uint64_t end = offset + length;

    if (!(mode & FALLOC_FL_KEEP_SIZE) && end > in->vsize)
      truncate_visible (in, end);
    if (what != 0) {
      uint64_t stop = end < in->vsize ? end : in->vsize;

      if (offset < stop) {
        punch (in->vfd, offset, stop - offset);
        mark_dirty (in, offset, stop - offset);
      }
    }
    if (what == FALLOC_FL_PUNCH_HOLE)
      give_space (in, offset, length);
    else
      take_space (in, offset, length);
    err = leave (v);
  }
  log_op (name, in->name, offset, length, err);
  fuse_reply_err (req, err);
  pthread_mutex_unlock (&lock);
}

static void
fs_lseek (fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
          struct fuse_file_info *fi)
{
  struct inode *in;
  off_t r;

  (void)fi;
  pthread_mutex_lock (&lock);
  in = inode_find (ino);
  if (!in || dead)
    fuse_reply_err (req, EIO);
  else {
    r = lseek (in->vfd, off, whence);
    if (r == -1)
      fuse_reply_err (req, errno);
    else
      fuse_reply_lseek (req, r);
  }
  pthread_mutex_unlock (&lock);
}

static void
fs_fsync (fuse_req_t req, fuse_ino_t ino, int datasync,
          struct fuse_file_info *fi)
{
  struct inode *in;

  (void)datasync;
  (void)fi;
  pthread_mutex_lock (&lock);
  in = inode_find (ino);
  fuse_reply_err (req, in ? sync_file (in) : 0);
  pthread_mutex_unlock (&lock);
}

static void
fs_fsyncdir (fuse_req_t req, fuse_ino_t ino, int datasync,
             struct fuse_file_info *fi)
{
  struct verdict v;
  int err;

  (void)ino;
  (void)datasync;
  (void)fi;
  pthread_mutex_lock (&lock);
  v = enter (OP_FSYNCDIR, "/");
  err = v.err;
  if (!err) {
    for (size_t i = 0; i < nr_changes; i++)
      apply_change (&durable, &changes[i]);
    forget_changes (nr_changes);
    err = leave (v);
  }
  log_op ("fsyncdir", "/", 0, 0, err);
  fuse_reply_err (req, err);
  pthread_mutex_unlock (&lock);
}

static void
fs_opendir (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
  (void)ino;
  fuse_reply_open (req, fi);
}

static void
fs_readdir (fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
            struct fuse_file_info *fi)
{
  char *buf = xrealloc (NULL, size);
  size_t used = 0;

  (void)ino;
  (void)fi;
  pthread_mutex_lock (&lock);
  for (size_t i = (size_t)off; i < visible.nr; i++) {
    struct stat st;
    size_t n;

    fill_stat (visible.e[i].inode, &st);
    n = fuse_add_direntry (req, buf + used, size - used, visible.e[i].name, &st,
                           (off_t)i + 1);
    if (n > size - used)
      break;
    used += n;
  }
  fuse_reply_buf (req, buf, used);
  pthread_mutex_unlock (&lock);
  free (buf);
}

static void
fs_statfs (fuse_req_t req, fuse_ino_t ino)
{
  struct statvfs sv = {
    .f_bsize = BLOCK, .f_frsize = BLOCK, .f_blocks = 1u << 24, .f_namemax = 255
  };

  (void)ino;
  pthread_mutex_lock (&lock);
  sv.f_bfree = sv.f_bavail = have_space ? space / BLOCK : 1u << 23;
  fuse_reply_statfs (req, &sv);
  pthread_mutex_unlock (&lock);
}

static const struct fuse_lowlevel_ops ops = {
  .lookup = fs_lookup,
  .getattr = fs_getattr,
  .setattr = fs_setattr,
  .create = fs_create,
  .link = fs_link,
  .rename = fs_rename,
  .unlink = fs_unlink,
  .open = fs_open,
  .read = fs_read,
  .write = fs_write,
  .fallocate = fs_fallocate,
  .lseek = fs_lseek,
  .fsync = fs_fsync,
  .opendir = fs_opendir,
  .readdir = fs_readdir,
  .fsyncdir = fs_fsyncdir,
  .statfs = fs_statfs,
};

/* --- the control file --- */

static void
show_status (fuse_req_t req, size_t size, off_t off)
{
  char buf[8192];
  int n;

  n = snprintf (buf, sizeof buf,
                "ops %" PRIu64 "\ndead %d\nstalled %" PRIu64 "\nfailed %" PRIu64
                "\n",
                nr_ops, dead, stalled, nr_failed);
  for (unsigned i = 0; i < NR_OPS; i++)
    n += snprintf (buf + n, sizeof buf - (size_t)n, "%s %" PRIu64 "\n",
                   op_names[i], op_counts[i]);
  for (size_t i = 0; i < nr_inodes && (size_t)n < sizeof buf - 1024; i++)
    n += snprintf (buf + n, sizeof buf - (size_t)n,
                   "dirty %.255s %" PRIu64 "\n", inodes[i]->name,
                   bits_count (&inodes[i]->dirty));
  if (off >= n)
    fuse_reply_buf (req, NULL, 0);
  else
    fuse_reply_buf (req, buf + off,
                    (size_t)(n - off) < size ? (size_t)(n - off) : size);
}

static int
parse_op (const char *s)
{
  for (int i = 0; i < NR_OPS; i++)
    if (strcmp (s, op_names[i]) == 0)
      return i;
  return -1;
}

static int
parse_errno (const char *s)
{
  return strcmp (s, "EIO") == 0      ? EIO
         : strcmp (s, "ENOSPC") == 0 ? ENOSPC
         : strcmp (s, "EDQUOT") == 0 ? EDQUOT
                                     : 0;
}

/* ACTION OP PATTERN NTH [ARG [COUNT]] */
static int
add_rule (enum action action, char **arg, int nr)
{
  struct rule *r;
  int op = nr > 1 ? parse_op (arg[1]) : -1;

  if (op == -1 || nr < 4)
    return EINVAL;
  r = calloc (1, sizeof *r);
  if (!r)
    return ENOMEM;
  r->action = action;
  r->op = (enum op)op;
  r->pattern = xstrdup (arg[2]);
  r->nth = strtoull (arg[3], NULL, 10);
  r->count = 1;
  if (action == ACT_FAIL) {
    r->arg = nr > 4 ? parse_errno (arg[4]) : EIO;
    if (nr > 5)
      r->count = strcmp (arg[5], "all") == 0 ? UINT64_MAX
                                             : strtoull (arg[5], NULL, 10);
  }
  else if (action == ACT_STALL && nr > 4)
    r->arg = atoi (arg[4]);
  r->next = rules;
  rules = r;
  return 0;
}

static int
cmd_cut (char **arg, int nr)
{
  (void)arg;
  (void)nr;
  power_cut ();
  return 0;
}

static int
cmd_cut_at (char **arg, int nr)
{
  if (nr != 2)
    return EINVAL;
  cut_at = strtoull (arg[1], NULL, 10);
  return 0;
}

static int
cmd_cut_in (char **arg, int nr)
{
  if (nr != 2)
    return EINVAL;
  cut_at = nr_ops + strtoull (arg[1], NULL, 10);
  return 0;
}

static int
cmd_cut_before (char **arg, int nr)
{
  return add_rule (ACT_CUT_BEFORE, arg, nr);
}

static int
cmd_cut_after (char **arg, int nr)
{
  return add_rule (ACT_CUT_AFTER, arg, nr);
}

static int
cmd_fail (char **arg, int nr)
{
  return add_rule (ACT_FAIL, arg, nr);
}

static int
cmd_stall (char **arg, int nr)
{
  return add_rule (ACT_STALL, arg, nr);
}

static int
cmd_release (char **arg, int nr)
{
  (void)arg;
  (void)nr;
  release_count++;
  pthread_cond_broadcast (&released);
  return 0;
}

static int
cmd_clear (char **arg, int nr)
{
  (void)arg;
  (void)nr;
  for (struct rule *r = rules; r; r = r->next)
    r->count = 0;
  return 0;
}

static int
cmd_keep (char **arg, int nr)
{
  struct keep *k;

  if (nr != 3)
    return EINVAL;
  k = calloc (1, sizeof *k);
  if (!k)
    return ENOMEM;
  k->pattern = xstrdup (arg[1]);
  k->percent = atoi (arg[2]);
  k->next = keeps;
  keeps = k;
  return 0;
}

static int
cmd_keep_names (char **arg, int nr)
{
  if (nr != 2)
    return EINVAL;
  keep_names = xstrdup (arg[1]);
  return 0;
}

static int
cmd_space (char **arg, int nr)
{
  have_space = nr == 2;
  if (have_space)
    space = strtoull (arg[1], NULL, 10);
  return 0;
}

static int
cmd_writeback (char **arg, int nr)
{
  if (nr != 2)
    return EINVAL;
  writeback = (unsigned)atoi (arg[1]);
  return 0;
}

static int
cmd_sync_delay (char **arg, int nr)
{
  if (nr != 2)
    return EINVAL;
  sync_delay = (useconds_t)atoi (arg[1]);
  return 0;
}

static int
cmd_evict (char **arg, int nr)
{
  (void)arg;
  (void)nr;
  /* Only bits that are set are found, and clearing one makes no new ones. */
  for (size_t i = 0; i < nr_inodes; i++) {
    struct inode *in = inodes[i];
    uint64_t s = 0;

    for (; (s = bits_next (&in->lost, s)) != UINT64_MAX; s++) {
      uint64_t end = (s + 1) * SECTOR;

      bits_clear (&in->lost, s);
      copy_range (in->dfd, in->vfd, s * SECTOR,
                  end < in->dsize ? end : in->dsize);
    }
  }
  return 0;
}

static int
cmd_mark (char **arg, int nr)
{
  log_op ("mark", nr > 1 ? arg[1] : "-", 0, 0, 0);
  return 0;
}

static const struct command {
  const char *name;
  int (*run) (char **arg, int nr);
  const char *help;
} commands[] = {
  { "cut", cmd_cut, "cut the power now" },
  { "cut-at", cmd_cut_at, "N: at the N-th changing operation (0: not)" },
  { "cut-in", cmd_cut_in, "N: the same, counted from now" },
  { "cut-before", cmd_cut_before, "OP FILE N: before the N-th OP on FILE" },
  { "cut-after", cmd_cut_after, "OP FILE N: after it, before its answer" },
  { "fail", cmd_fail, "OP FILE N [EIO|ENOSPC|EDQUOT [COUNT|all]]" },
  { "stall", cmd_stall, "OP FILE N [MS]: hold up, default until released" },
  { "release", cmd_release, "let go what is stalled" },
  { "clear", cmd_clear, "forget cut-before, cut-after, fail and stall" },
  { "keep", cmd_keep, "FILE PERCENT: what of it survives a cut" },
  { "keep-names", cmd_keep_names, "none|all|any: which changes survive" },
  { "space", cmd_space, "[BYTES]: ENOSPC after so many new bytes" },
  { "writeback", cmd_writeback, "N: per mille of operations" },
  { "sync-delay", cmd_sync_delay, "US: each fsync takes so long" },
  { "evict", cmd_evict, "drop what failed fsyncs lost from the cache" },
  { "mark", cmd_mark, "WORD: into the log" },
};

static int
run_command (char *line)
{
  char *arg[8], *save = NULL;
  int nr = 0;

  for (char *p = strtok_r (line, " \t\r", &save); p && nr < 8;
       p = strtok_r (NULL, " \t\r", &save))
    arg[nr++] = p;
  if (nr == 0)
    return 0;
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    if (strcmp (arg[0], commands[i].name) == 0) {
      int err = commands[i].run (arg, nr);

      if (err)
        fprintf (stderr, "lossyfs: %s: %s; usage: %s %s\n", arg[0],
                 strerror (err), arg[0], commands[i].help);
      return err;
    }
  fprintf (stderr, "lossyfs: unknown command %s\n", arg[0]);
  return EINVAL;
}

/* --- start and end --- */

static void
import (const char *dir)
{
  char path[4096], name[256];
  uint64_t ino;
  DIR *d = opendir (dir);
  FILE *fp;

  if (!d)
    die ("%s: %s", dir, strerror (errno));
  snprintf (path, sizeof path, "%s/%s", dir, INODES_NAME);
  fp = fopen (path, "r");
  for (struct dirent *de; (de = readdir (d));) {
    struct stat st;
    struct inode *in;
    int fd;

    snprintf (path, sizeof path, "%s/%s", dir, de->d_name);
    if (strcmp (de->d_name, INODES_NAME) == 0 || stat (path, &st) == -1
        || !S_ISREG (st.st_mode))
      continue;
    fd = open (path, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
      die ("%s: %s", path, strerror (errno));
    ino = 0;
    if (fp) {
      uint64_t n;

      rewind (fp);
      while (fscanf (fp, "%" SCNu64 " %255s", &n, name) == 2)
        if (strcmp (name, de->d_name) == 0)
          ino = n;
    }
    in = ino ? inode_find (ino) : NULL;
    if (!in) {
      in = inode_new (ino, de->d_name, st.st_mode & 07777, st.st_uid,
                      st.st_gid);
      in->vsize = in->dsize = (uint64_t)st.st_size;
      set_size (in->vfd, in->vsize);
      set_size (in->dfd, in->dsize);
      copy_range (fd, in->vfd, 0, in->vsize);
      copy_range (fd, in->dfd, 0, in->dsize);
      for (off_t at = 0; (at = lseek (in->vfd, at, SEEK_DATA)) != -1;) {
        off_t stop = lseek (in->vfd, at, SEEK_HOLE);

        take_space (in, (uint64_t)at, (uint64_t)(stop - at));
        at = stop;
      }
    }
    table_set (&visible, de->d_name, in);
    table_set (&durable, de->d_name, in);
    close (fd);
  }
  if (fp)
    fclose (fp);
  closedir (d);
}

static void *
signal_thread (void *arg)
{
  sigset_t *set = arg;
  int sig;

  for (;;)
    if (sigwait (set, &sig) == 0) {
      pthread_mutex_lock (&lock);
      power_cut ();
      pthread_mutex_unlock (&lock);
    }
  return NULL;
}

static void __attribute__ ((noreturn)) usage (void)
{
  fprintf (stderr,
           "usage: lossyfs [-s SEED] [-l LOG] [-x FILE] [-d US] IN OUT "
           "MOUNTPOINT\n"
           "  -x FILE: what is written to FILE (a pattern) goes to the log\n"
           "commands for MOUNTPOINT/%s:\n",
           CTL_NAME);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    fprintf (stderr, "  %-12s %s\n", commands[i].name, commands[i].help);
  exit (2);
}

int
main (int argc, char *argv[])
{
  char *fuse_argv[] = { argv[0], (char *)"-o", (char *)"fsname=lossyfs", NULL };
  struct fuse_args args = FUSE_ARGS_INIT (3, fuse_argv);
  struct fuse_loop_config *config;
  struct fuse_session *se;
  pthread_t thread;
  sigset_t set;
  int c, r;

  while ((c = getopt (argc, argv, "s:l:d:x:")) != -1)
    switch (c) {
    case 's':
      rng_state = strtoull (optarg, NULL, 10);
      break;
    case 'd':
      sync_delay = (useconds_t)atoi (optarg);
      break;
    case 'x':
      dump_pattern = optarg;
      break;
    case 'l':
      log_file = fopen (optarg, "a");
      if (!log_file)
        die ("%s: %s", optarg, strerror (errno));
      break;
    default:
      usage ();
    }
  if (argc - optind != 3)
    usage ();
  out_dir = argv[optind + 1];
  if (mkdir (out_dir, 0700) == -1)
    die ("%s: %s (OUT must not exist)", out_dir, strerror (errno));
  import (argv[optind]);

  sigemptyset (&set);
  sigaddset (&set, SIGUSR1);
  pthread_sigmask (SIG_BLOCK, &set, NULL);
  if (pthread_create (&thread, NULL, signal_thread, &set) != 0)
    die ("pthread_create failed");

  se = fuse_session_new (&args, &ops, sizeof ops, NULL);
  if (!se || fuse_set_signal_handlers (se) != 0
      || fuse_session_mount (se, argv[optind + 2]) != 0)
    die ("cannot mount %s", argv[optind + 2]);
  config = fuse_loop_cfg_create ();
  if (!config)
    die ("out of memory");
  fuse_loop_cfg_set_clone_fd (config, 0);
  /* Each stalled operation keeps a thread. */
  fuse_loop_cfg_set_max_threads (config, 64);
  r = fuse_session_loop_mt (se, config);
  fuse_loop_cfg_destroy (config);
  fuse_session_unmount (se);
  fuse_remove_signal_handlers (se);
  fuse_session_destroy (se);

  pthread_mutex_lock (&lock);
  if (!written_out)
    write_out (&visible, true);
  if (log_file)
    fclose (log_file);
  pthread_mutex_unlock (&lock);
  return r < 0 ? 1 : 0;
}
