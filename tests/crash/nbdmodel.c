/* nbdmodel.c - a client that knows what it may read back after a crash.
 *
 *   nbdmodel --make-golden=FILE --size=BYTES [--seed=N] [--dense]
 *   nbdmodel --run    [--golden=FILE] [options] MODEL URI
 *   nbdmodel --script [--golden=FILE] MODEL URI    commands on stdin
 *   nbdmodel --verify [--mode=M] [--sample=PERCENT] MODEL URI-or-FILE
 *
 * --run sends a random (seeded) load; --script what it is told; both check
 * every read.  MODEL is a log of what was asked and answered, written as it
 * goes: whoever dies, this file and the golden image (what the disk held
 * before anything was written) say what each sector may hold.  --verify
 * replays it, reads the disk twice, and checks.  Its modes:
 *
 *   powercut  the last flushed value, or one written later (G12)
 *   sigkill   what was acknowledged last, flushed or not (G13)
 *   clean     the server ended in order, then the power was cut (G15)
 *   same      nothing happened since the last command
 *
 * What a sector shows after a crash it must show from then on: reads narrow
 * the model down, also at run time where the answer was open (trim: old or
 * zero; failed or overlapping writes).
 *
 * The model: per 512-byte sector a short list of versions.  A version is
 * alive (a read may return it) until an operation that was issued after its
 * own answer is answered; it may survive a power cut until a flush that was
 * issued after that is answered.  Time is the number of the event.  Data
 * written carries its sector number and the operation's number, so that
 * foreign, stale and torn sectors are told apart.  Writes that cover part of
 * a sector are kept apart from others on that sector; whole-sector ones may
 * overlap in flight.
 *
 * Exit code: 0 all as permitted; 1 a violation, described on stderr; 2 wrong
 * usage or no connection; 3 the server went away or failed a request
 * (--run without --reconnect).
 *
 * One thread; libnbd calls back from nbd_aio_notify_* only.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <libnbd.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"

#define SECTOR 512u
#define MAGIC UINT64_C (0x6c65646f6d64626e) /* "nbdmodel" */
#define MAX_DEPTH 64
#define MAX_HANDLES 8
#define MAX_REQUEST (2u << 20)
#define PASS_CHUNK (256u << 10)

enum { EXIT_VIOLATION = 1, EXIT_USAGE = 2, EXIT_LOST = 3 };

enum kind { GOLDEN, ZERO, PATTERN, MIX };
struct version {
  enum kind kind;
  bool durable_ok;
  uint64_t op;    /* who made it; for PATTERN also its number */
  uint64_t acked; /* 0: in flight */
  uint64_t dead;  /* 0: alive */
  uint8_t *mix;
};
struct sector {
  struct version *v; /* none: golden, never touched */
  unsigned nr;
  bool listed; /* in touched */
};

enum op_kind { OP_READ, OP_WRITE, OP_ZERO, OP_TRIM, OP_FLUSH };
static const char op_letters[] = "rwztf";
struct op {
  uint64_t id, issued;
  enum op_kind kind;
  uint64_t offset, length;
  bool fua, used, done;
  int err;
  unsigned handle;
  uint8_t *buf;
};

static uint64_t now = 1, next_id = 1, cut_time, violations, nr_sessions;
static uint64_t size, nr_sectors, data_seed;
static struct sector *sectors;
static uint32_t *touched;
static size_t nr_touched;
static const uint8_t *golden;
static FILE *model;
static struct op ops[MAX_DEPTH];
static unsigned nr_inflight;
static uint64_t rng_state;
static volatile sig_atomic_t stop_asked;
static uint64_t counts[5], nr_errors;

/* options */
static uint64_t opt_seed = 1, opt_ops, opt_seconds, opt_golden_size;
static unsigned opt_depth = 16, opt_connections = 2, opt_sample = 100,
                opt_flush = 4, opt_fua = 6;
static bool opt_dense, opt_reconnect, opt_keep_going, opt_no_overlap,
    opt_no_trim;
static const char *opt_golden, *opt_mode = "powercut", *uri;

static struct nbd_handle *handles[MAX_HANDLES];
static bool can_trim, can_zero, can_fua;

static void __attribute__ ((format (printf, 2, 3), noreturn))
die (int code, const char *fmt, ...)
{
  va_list ap;

  fputs ("nbdmodel: ", stderr);
  va_start (ap, fmt);
  vfprintf (stderr, fmt, ap);
  va_end (ap);
  fputc ('\n', stderr);
  exit (code);
}

static void *
xrealloc (void *p, size_t n)
{
  p = realloc (p, n ? n : 1);
  if (!p)
    die (EXIT_USAGE, "out of memory");
  return p;
}

static uint64_t
mix64 (uint64_t z)
{
  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static uint64_t
rnd (void)
{
  return mix64 (rng_state += UINT64_C (0x9e3779b97f4a7c15));
}

static uint64_t
below (uint64_t n)
{
  return n ? rnd () % n : 0;
}

static bool
chance (unsigned percent)
{
  return below (100) < percent;
}

static uint64_t
min64 (uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

/* --- contents --- */

static size_t
sector_len (uint64_t s)
{
  return (size_t)min64 (SECTOR, size - s * SECTOR);
}

static void
make_pattern (uint8_t *buf, uint64_t s, uint64_t op)
{
  uint64_t w[SECTOR / 8] = { MAGIC, s, op };

  for (unsigned i = 3; i < SECTOR / 8; i++)
    w[i] = mix64 (data_seed ^ s * UINT64_C (0x9e3779b97f4a7c15)
                  ^ op * UINT64_C (0xd1342543de82ef95) ^ i);
  memcpy (buf, w, SECTOR);
}

static void
content (uint8_t *buf, uint64_t s, const struct version *v)
{
  memset (buf, 0, SECTOR);
  switch (v->kind) {
  case GOLDEN:
    memcpy (buf, golden + s * SECTOR, sector_len (s));
    break;
  case ZERO:
    break;
  case PATTERN:
    make_pattern (buf, s, v->op);
    break;
  case MIX:
    memcpy (buf, v->mix, SECTOR);
    break;
  }
}

static uint64_t
hash (const uint8_t *buf, size_t n)
{
  uint64_t h = UINT64_C (0xcbf29ce484222325);

  for (size_t i = 0; i < n; i++)
    h = (h ^ buf[i]) * UINT64_C (0x100000001b3);
  return mix64 (h);
}

/* In words, what a sector's bytes are. */
static void
describe (char *out, size_t n, uint64_t s, const uint8_t *buf)
{
  uint8_t want[SECTOR];
  size_t len = sector_len (s), same = 0;
  uint64_t w[3];
  bool zero = true;

  for (size_t i = 0; i < len; i++)
    zero = zero && buf[i] == 0;
  memcpy (w, buf, len < sizeof w ? 0 : sizeof w);
  if (memcmp (buf, golden + s * SECTOR, len) == 0)
    snprintf (out, n, "the golden image's bytes%s", zero ? " (zeros)" : "");
  else if (zero)
    snprintf (out, n, "zeros");
  else if (len == SECTOR && w[0] == MAGIC) {
    make_pattern (want, w[1], w[2]);
    while (same < SECTOR && want[same] == buf[same])
      same++;
    snprintf (out, n, "operation %" PRIu64 "'s data%s%s", w[2],
              w[1] != s ? " FOR ANOTHER SECTOR" : "",
              same < SECTOR ? ", torn" : "");
    if (w[1] != s || same < SECTOR)
      snprintf (out + strlen (out), n - strlen (out),
                " (sector %" PRIu64 ", whole up to byte %zu)", w[1], same);
  }
  else {
    uint64_t other = nr_sectors;

    for (uint64_t i = 0; i < nr_sectors && other == nr_sectors; i++)
      if (sector_len (i) >= len && memcmp (buf, golden + i * SECTOR, len) == 0)
        other = i;
    if (other < nr_sectors)
      snprintf (out, n, "the golden image's bytes OF SECTOR %" PRIu64, other);
    else
      snprintf (out, n, "a mixture: %02x %02x %02x %02x ...", buf[0], buf[1],
                buf[2], buf[3]);
  }
}

/* --- the model --- */

static void
need_versions (uint64_t s)
{
  struct sector *sec = &sectors[s];

  if (sec->nr)
    return;
  sec->v = xrealloc (NULL, sizeof *sec->v);
  sec->v[0]
      = (struct version){ .kind = GOLDEN, .durable_ok = true, .acked = 1 };
  sec->nr = 1;
}

static void
list_sector (uint64_t s)
{
  if (sectors[s].listed)
    return;
  sectors[s].listed = true;
  touched[nr_touched++] = (uint32_t)s;
}

static struct version *
add_version (uint64_t s, enum kind kind, uint64_t op)
{
  struct sector *sec = &sectors[s];

  sec->v = xrealloc (sec->v, (sec->nr + 1) * sizeof *sec->v);
  sec->v[sec->nr]
      = (struct version){ .kind = kind, .durable_ok = true, .op = op };
  list_sector (s);
  return &sec->v[sec->nr++];
}

static void
drop_version (struct sector *sec, unsigned i)
{
  free (sec->v[i].mix);
  sec->v[i] = sec->v[--sec->nr];
}

static bool
covers (const struct op *op, uint64_t s)
{
  return op->offset <= s * SECTOR
         && op->offset + op->length >= s * SECTOR + sector_len (s);
}

static uint64_t
last_sector (const struct op *op)
{
  return (op->offset + op->length - 1) / SECTOR;
}

/* Bring a partly covered sector's bytes up to date in buf. */
static void
merge (uint8_t *buf, uint64_t s, const struct op *op)
{
  uint8_t data[SECTOR] = { 0 };
  uint64_t start = s * SECTOR > op->offset ? s * SECTOR : op->offset;
  uint64_t stop = min64 ((s + 1) * SECTOR, op->offset + op->length);

  if (op->kind == OP_WRITE)
    make_pattern (data, s, op->id);
  memcpy (buf + start % SECTOR, data + start % SECTOR, stop - start);
}

/* Each record starts with the time, so that replayed times are the same
 * although reads are not in the log. */
static void __attribute__ ((format (printf, 1, 2)))
log_line (const char *fmt, ...)
{
  va_list ap;

  if (!model)
    return;
  fprintf (model, "%" PRIu64 " ", now);
  va_start (ap, fmt);
  vfprintf (model, fmt, ap);
  va_end (ap);
  if (fflush (model) != 0)
    die (EXIT_USAGE, "cannot write the model: %s", strerror (errno));
}

static void
model_issue (struct op *op)
{
  op->issued = ++now;
  if (op->kind == OP_READ)
    return;
  log_line ("i %" PRIu64 " %c %" PRIu64 " %" PRIu64 " %d\n", op->id,
            op_letters[op->kind], op->offset, op->length, op->fua);
  if (op->kind == OP_FLUSH)
    return;
  for (uint64_t s = op->offset / SECTOR; s <= last_sector (op); s++) {
    need_versions (s);
    if (covers (op, s))
      add_version (s, op->kind == OP_WRITE ? PATTERN : ZERO, op->id);
    else {
      unsigned nr = sectors[s].nr;

      for (unsigned i = 0; i < nr; i++)
        if (!sectors[s].v[i].dead) {
          uint8_t *buf = xrealloc (NULL, SECTOR);

          content (buf, s, &sectors[s].v[i]);
          merge (buf, s, op);
          add_version (s, MIX, op->id)->mix = buf;
        }
    }
  }
}

static uint64_t
oldest_inflight (void)
{
  uint64_t t = UINT64_MAX;

  for (unsigned i = 0; i < MAX_DEPTH; i++)
    if (ops[i].used && !ops[i].done && ops[i].issued < t)
      t = ops[i].issued;
  return t;
}

/* What a flush that was issued at that time, and answered, rules out. */
static void
model_flushed (uint64_t issued)
{
  uint64_t oldest = min64 (oldest_inflight (), issued);
  size_t keep = 0;

  for (size_t t = 0; t < nr_touched; t++) {
    struct sector *sec = &sectors[touched[t]];

    for (unsigned i = sec->nr; i-- > 0;) {
      struct version *v = &sec->v[i];

      if (v->dead && v->dead < issued)
        v->durable_ok = false;
      if (!v->durable_ok && v->dead && v->dead < oldest)
        drop_version (sec, i);
    }
    if (sec->nr > 1)
      touched[keep++] = touched[t];
    else
      sec->listed = false;
  }
  nr_touched = keep;
}

static void
model_ack (struct op *op, int err)
{
  now++;
  if (op->kind == OP_READ)
    return;
  log_line ("a %" PRIu64 " %d\n", op->id, err);
  if (op->kind == OP_FLUSH) {
    if (!err)
      model_flushed (op->issued);
    return;
  }
  for (uint64_t s = op->offset / SECTOR; s <= last_sector (op); s++) {
    struct sector *sec = &sectors[s];

    for (unsigned i = 0; i < sec->nr; i++) {
      struct version *v = &sec->v[i];

      if (v->op == op->id)
        v->acked = now;
      else if (!err && op->kind != OP_TRIM && v->acked
               && v->acked < op->issued) {
        if (!v->dead)
          v->dead = now;
        if (op->fua)
          v->durable_ok = false;
      }
    }
  }
}

/* A read that was issued at that time returned a sector with this hash:
 * other answers are ruled out from now on. */
static void
model_pin (uint64_t s, uint64_t h, uint64_t issued, bool from_log)
{
  struct sector *sec = &sectors[s];
  bool match[64] = { false }, found = false, others = false, kept = false;
  uint8_t buf[SECTOR];

  if (sec->nr < 2 || sec->nr > 64)
    return;
  for (unsigned i = 0; i < sec->nr; i++) {
    struct version *v = &sec->v[i];

    content (buf, s, v);
    match[i] = hash (buf, sector_len (s)) == h;
    if (!v->acked || v->acked >= issued)
      continue;
    if (match[i] && !v->dead) {
      found = true;
      /* What was there right after a power cut is on the disk; what was
       * written since may not be. */
      kept = kept || v->acked <= cut_time;
    }
    else if (!match[i])
      others = others || !v->dead;
  }
  for (unsigned i = 0; i < sec->nr; i++)
    others = others
             || (kept && !match[i] && sec->v[i].acked
                 && sec->v[i].acked <= cut_time && sec->v[i].durable_ok);
  if (!found || !others)
    return;
  now++;
  if (!from_log)
    log_line ("p %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", s, h, issued);
  for (unsigned i = 0; i < sec->nr; i++) {
    struct version *v = &sec->v[i];

    if (match[i] || !v->acked || v->acked >= issued)
      continue;
    if (!v->dead)
      v->dead = now;
    if (kept && v->acked <= cut_time)
      v->durable_ok = false;
  }
}

static void
model_cut (bool from_log)
{
  cut_time = ++now;
  if (!from_log)
    log_line ("c\n");
  for (size_t t = 0; t < nr_touched; t++) {
    struct sector *sec = &sectors[touched[t]];

    for (unsigned i = sec->nr; i-- > 0;) {
      struct version *v = &sec->v[i];

      if (!v->durable_ok)
        drop_version (sec, i);
      else {
        v->dead = 0;
        v->acked = cut_time;
      }
    }
  }
}

/* All was made durable. */
static void
model_clean (bool from_log)
{
  now++;
  if (!from_log)
    log_line ("f\n");
  model_flushed (now);
}

static void
report (uint64_t s, size_t from, const uint8_t *buf, size_t len,
        uint64_t issued, const char *what)
{
  struct sector *sec = &sectors[s];
  char text[256] = "(part of a sector)";
  uint8_t want[SECTOR];

  if (++violations > 20)
    return;
  if (from == 0 && len == sector_len (s))
    describe (text, sizeof text, s, buf);
  fprintf (stderr,
           "nbdmodel: VIOLATION: %s: sector %" PRIu64 " (offset %" PRIu64
           ", granule %" PRIu64 ") reads as %s\n",
           what, s, s * SECTOR, s * SECTOR / 4096, text);
  if (sec->nr == 0)
    fprintf (stderr, "  permitted: the golden image's bytes\n");
  for (unsigned i = 0; i < sec->nr; i++) {
    struct version *v = &sec->v[i];

    content (want, s, v);
    describe (text, sizeof text, s, want);
    fprintf (stderr, "  %s: %s (operation %" PRIu64 "%s)\n",
             !v->dead || v->dead > issued ? "permitted" : "too old  ", text,
             v->op, v->acked ? "" : ", not answered");
  }
}

/* A sector that was being written while it was read may show a part of the
 * old and a part of the new: Linux copies page by page, without a lock. */
static bool
is_read_while_written (const struct sector *sec, uint64_t s, size_t from,
                       size_t len, const uint8_t *p, uint64_t issued)
{
  uint8_t want[SECTOR];
  bool ok[SECTOR] = { false }, written = false;

  for (unsigned i = 0; i < sec->nr; i++) {
    const struct version *v = &sec->v[i];

    if (v->dead && v->dead < issued)
      continue;
    written = written || !v->acked || v->acked > issued;
    content (want, s, v);
    for (size_t b = 0; b < len; b++)
      ok[b] = ok[b] || want[from + b] == p[b];
  }
  return written && memchr (ok, 0, len) == NULL;
}

/* Check what a read that was issued at that time returned. */
static void
check_read (uint64_t offset, uint64_t length, const uint8_t *buf,
            uint64_t issued, const char *what)
{
  uint64_t pos = offset;

  while (pos < offset + length) {
    uint64_t s = pos / SECTOR;
    size_t from = pos % SECTOR;
    size_t len = (size_t)min64 (sector_len (s) - from, offset + length - pos);
    struct sector *sec = &sectors[s];
    const uint8_t *p = buf + (pos - offset);
    bool ok = false;

    if (sec->nr == 0)
      ok = memcmp (p, golden + pos, len) == 0;
    for (unsigned i = 0; i < sec->nr && !ok; i++) {
      struct version *v = &sec->v[i];
      uint8_t want[SECTOR];

      if (v->dead && v->dead < issued)
        continue;
      content (want, s, v);
      ok = memcmp (p, want + from, len) == 0;
    }
    if (!ok && is_read_while_written (sec, s, from, len, p, issued))
      ;
    else if (!ok)
      report (s, from, p, len, issued, what);
    else if (sec->nr > 1 && from == 0 && len == sector_len (s))
      model_pin (s, hash (p, len), issued, false);
    pos += len;
  }
}

/* --- the model's file --- */

static struct op *
find_op (uint64_t id)
{
  for (unsigned i = 0; i < MAX_DEPTH; i++)
    if (ops[i].used && ops[i].id == id)
      return &ops[i];
  return NULL;
}

static struct op *
new_op (void)
{
  for (unsigned i = 0; i < MAX_DEPTH; i++)
    if (!ops[i].used) {
      memset (&ops[i], 0, sizeof ops[i]);
      ops[i].used = true;
      nr_inflight++;
      return &ops[i];
    }
  die (EXIT_USAGE, "too many requests in flight");
}

static void
end_op (struct op *op)
{
  free (op->buf);
  op->buf = NULL;
  op->used = false;
  nr_inflight--;
}

static void
fail_all_inflight (void)
{
  for (unsigned i = 0; i < MAX_DEPTH; i++)
    if (ops[i].used) {
      if (!ops[i].done)
        model_ack (&ops[i], ENOTCONN);
      end_op (&ops[i]);
    }
}

static void
map_golden (const char *path)
{
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  struct stat st;
  void *p;

  if (fd == -1 || fstat (fd, &st) == -1)
    die (EXIT_USAGE, "%s: %s", path, strerror (errno));
  size = (uint64_t)st.st_size;
  nr_sectors = (size + SECTOR - 1) / SECTOR;
  p = mmap (NULL, size, PROT_READ, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED)
    die (EXIT_USAGE, "%s: %s", path, strerror (errno));
  golden = p;
  close (fd);
  sectors = calloc (nr_sectors, sizeof *sectors);
  touched = calloc (nr_sectors, sizeof *touched);
  if (!sectors || !touched)
    die (EXIT_USAGE, "out of memory");
}

static void
replay (FILE *fp, const char *path)
{
  char line[4096];
  unsigned long nr = 1;

  while (fgets (line, sizeof line, fp)) {
    uint64_t t, id, offset, length;
    struct op *op;
    char letter, *rest;
    int n;

    nr++;
    if (!strchr (line, '\n'))
      break; /* torn by our own end */
    t = strtoull (line, &rest, 10);
    if (t <= now || *rest++ != ' ')
      goto bad;
    now = t - 1;
    switch (*rest) {
    case 'i':
      if (sscanf (rest, "i %" SCNu64 " %c %" SCNu64 " %" SCNu64 " %d", &id,
                  &letter, &offset, &length, &n)
              != 5
          || !strchr (op_letters, letter))
        goto bad;
      op = new_op ();
      op->id = id;
      op->kind = (enum op_kind) (strchr (op_letters, letter) - op_letters);
      op->offset = offset;
      op->length = length;
      op->fua = n;
      model_issue (op);
      next_id = id + 1;
      break;
    case 'a':
      if (sscanf (rest, "a %" SCNu64 " %d", &id, &n) != 2
          || !(op = find_op (id)))
        goto bad;
      op->done = true;
      model_ack (op, n);
      end_op (op);
      break;
    case 'p':
      if (sscanf (rest, "p %" SCNu64 " %" SCNu64 " %" SCNu64, &id, &offset,
                  &length)
              != 3
          || id >= nr_sectors)
        goto bad;
      model_pin (id, offset, length, true);
      break;
    case 'c':
      model_cut (true);
      break;
    case 'f':
      model_clean (true);
      break;
    case 's':
      now++;
      nr_sessions++;
      break;
    default:
      goto bad;
    }
    continue;
  bad:
    die (EXIT_USAGE, "%s: line %lu is damaged: %s", path, nr, line);
  }
}

static void
open_model (const char *path)
{
  FILE *fp = fopen (path, "r");
  char line[4096];

  if (fp) {
    char *p;

    if (!fgets (line, sizeof line, fp)
        || sscanf (line, "nbdmodel %" SCNu64, &data_seed) != 1
        || !(p = strchr (line, '/')))
      die (EXIT_USAGE, "%s is not a model", path);
    p[strcspn (p, "\n")] = '\0';
    map_golden (p);
    replay (fp, path);
    fclose (fp);
  }
  else {
    CLEANUP_FREE char *full = NULL;

    if (!opt_golden || !(full = realpath (opt_golden, NULL)))
      die (EXIT_USAGE, "a new model needs --golden=FILE");
    data_seed = opt_seed;
    map_golden (full);
    snprintf (line, sizeof line, "nbdmodel %" PRIu64 " %s\n", data_seed, full);
    fp = fopen (path, "w");
    if (!fp || fputs (line, fp) == EOF || fclose (fp) != 0)
      die (EXIT_USAGE, "%s: %s", path, strerror (errno));
  }
  model = fopen (path, "a");
  if (!model)
    die (EXIT_USAGE, "%s: %s", path, strerror (errno));
  /* What was in flight when our predecessor ended. */
  fail_all_inflight ();
  now++;
  nr_sessions++;
  log_line ("s\n");
}

/* --- the server --- */

static bool
connect_one (unsigned i)
{
  handles[i] = nbd_create ();
  if (!handles[i])
    die (EXIT_USAGE, "%s", nbd_get_error ());
  if (nbd_connect_uri (handles[i], uri) == -1) {
    nbd_close (handles[i]);
    handles[i] = NULL;
    return false;
  }
  return true;
}

static bool closing;

static void
close_all (void)
{
  closing = true;
  for (unsigned i = 0; i < MAX_HANDLES; i++) {
    nbd_close (handles[i]);
    handles[i] = NULL;
  }
  closing = false;
}

/* Connect all, trying for so many seconds. */
static void
connect_all (unsigned seconds)
{
  struct timespec pause = { .tv_nsec = 50000000 };
  time_t until = time (NULL) + seconds;
  unsigned i = 0;

  for (;;) {
    while (i < opt_connections && connect_one (i))
      i++;
    if (i == opt_connections)
      break;
    if (stop_asked)
      exit (EXIT_LOST);
    if (time (NULL) >= until)
      die (EXIT_USAGE, "cannot connect to %s: %s", uri, nbd_get_error ());
    nanosleep (&pause, NULL);
  }
  if (nbd_get_size (handles[0]) != (int64_t)size)
    die (EXIT_VIOLATION,
         "VIOLATION: the disk has %" PRIi64 " bytes, the golden image %" PRIu64,
         nbd_get_size (handles[0]), size);
  can_trim = nbd_can_trim (handles[0]) == 1 && !opt_no_trim;
  can_zero = nbd_can_zero (handles[0]) == 1;
  can_fua = nbd_can_fua (handles[0]) == 1;
}

static int
completed (void *opaque, int *error)
{
  struct op *op = opaque;

  /* A newer libnbd calls this for what is in flight when a handle is closed:
   * that has been failed already. */
  if (closing)
    return 1;
  alarm (120);
  op->err = *error;
  op->done = true;
  model_ack (op, op->err);
  if (op->kind == OP_READ && !op->err)
    check_read (op->offset, op->length, op->buf, op->issued, "read");
  return 1;
}

/* Send a request; its end is seen by poll_once. */
static void
submit (struct op *op)
{
  struct nbd_handle *h = handles[op->handle];
  nbd_completion_callback cb = { .callback = completed, .user_data = op };
  uint32_t flags = op->fua ? LIBNBD_CMD_FLAG_FUA : 0;
  int64_t r = -1;

  alarm (120);
  op->id = next_id++;
  if (op->kind == OP_READ || op->kind == OP_WRITE)
    op->buf = xrealloc (NULL, op->length);
  if (op->kind == OP_WRITE)
    for (uint64_t pos = op->offset; pos < op->offset + op->length;) {
      uint8_t data[SECTOR];
      size_t n = (size_t)min64 (SECTOR - pos % SECTOR,
                                op->offset + op->length - pos);

      make_pattern (data, pos / SECTOR, op->id);
      memcpy (op->buf + (pos - op->offset), data + pos % SECTOR, n);
      pos += n;
    }
  model_issue (op);
  counts[op->kind]++;
  switch (op->kind) {
  case OP_READ:
    r = nbd_aio_pread (h, op->buf, op->length, op->offset, cb, 0);
    break;
  case OP_WRITE:
    r = nbd_aio_pwrite (h, op->buf, op->length, op->offset, cb, flags);
    break;
  case OP_ZERO:
    r = nbd_aio_zero (h, op->length, op->offset, cb, flags);
    break;
  case OP_TRIM:
    r = nbd_aio_trim (h, op->length, op->offset, cb, flags);
    break;
  case OP_FLUSH:
    r = nbd_aio_flush (h, cb, 0);
    break;
  }
  if (r == -1) {
    op->err = nbd_get_errno () ? nbd_get_errno () : EIO;
    op->done = true;
    model_ack (op, op->err);
  }
}

static bool
is_lost (unsigned i)
{
  return !handles[i] || nbd_aio_is_dead (handles[i])
         || nbd_aio_is_closed (handles[i]);
}

static bool
any_lost (void)
{
  for (unsigned i = 0; i < opt_connections; i++)
    if (is_lost (i))
      return true;
  return false;
}

/* Wait for something to happen, at most so long. */
static void
poll_once (int ms)
{
  struct pollfd fds[MAX_HANDLES];
  unsigned which[MAX_HANDLES], n = 0;

  for (unsigned i = 0; i < opt_connections; i++) {
    unsigned dir;

    if (is_lost (i))
      continue;
    dir = nbd_aio_get_direction (handles[i]);
    fds[n].fd = nbd_aio_get_fd (handles[i]);
    fds[n].events = (short)((dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0)
                            | (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
    fds[n].revents = 0;
    which[n++] = i;
  }
  if (n == 0 || poll (fds, n, ms) <= 0)
    return;
  for (unsigned i = 0; i < n; i++) {
    struct nbd_handle *h = handles[which[i]];
    unsigned dir = nbd_aio_get_direction (h);

    if ((fds[i].revents & (POLLIN | POLLHUP | POLLERR))
        && (dir & LIBNBD_AIO_DIRECTION_READ))
      nbd_aio_notify_read (h);
    else if ((fds[i].revents & POLLOUT) && (dir & LIBNBD_AIO_DIRECTION_WRITE))
      nbd_aio_notify_write (h);
  }
}

/* --- the random load --- */

static bool
is_partial (const struct op *op)
{
  return op->offset % SECTOR != 0
         || ((op->offset + op->length) % SECTOR != 0
             && op->offset + op->length != size);
}

/* May this one be in flight together with those that are? */
static bool
conflicts (const struct op *new)
{
  if (new->kind == OP_READ || new->kind == OP_FLUSH)
    return false;
  /* Each partial operation makes a version out of each that is alive. */
  if (is_partial (new)
      && (sectors[new->offset / SECTOR].nr > 24
          || sectors[last_sector (new)].nr > 24))
    return true;
  for (unsigned i = 0; i < MAX_DEPTH; i++) {
    const struct op *op = &ops[i];

    if (!op->used || op == new || op->done || op->kind == OP_READ
        || op->kind == OP_FLUSH)
      continue;
    if (op->offset / SECTOR > last_sector (new)
        || new->offset / SECTOR > last_sector (op))
      continue;
    if (opt_no_overlap || is_partial (op) || is_partial (new))
      return true;
  }
  return false;
}

static uint64_t
choose_offset (void)
{
  uint64_t window = 256u << 10;

  if (chance (20))
    return below (size);
  if (chance (5))
    return size - 1 - below (min64 (size, 3 * 4096));
  /* A few hot places that depend on the model's seed only. */
  return min64 (mix64 (data_seed + below (6)) % size / 4096 * 4096
                    + below (window),
                size - 1);
}

static void
choose (struct op *op)
{
  unsigned what = (unsigned)below (100);
  uint64_t align, most;

  op->handle = (unsigned)below (opt_connections);
  if (what < opt_flush) {
    op->kind = OP_FLUSH;
    return;
  }
  what = (unsigned)below (100);
  op->kind = what < 48               ? OP_WRITE
             : what < 58 && can_zero ? OP_ZERO
             : what < 68 && can_trim ? OP_TRIM
                                     : OP_READ;
  switch (below (8)) {
  case 0:
    align = 1, most = 700;
    break;
  case 1:
    align = 1, most = 20000;
    break;
  case 2:
  case 3:
    align = 512, most = 8192;
    break;
  case 4:
    align = 65536, most = 4 * 65536;
    break;
  case 5:
    align = 4096, most = op->kind == OP_WRITE ? 1 << 18 : 1 << 20;
    break;
  default:
    align = 4096, most = 32768;
  }
  op->offset = choose_offset () / align * align;
  op->length = (below (most) / align + 1) * align;
  op->length = min64 (op->length, size - op->offset);
  op->fua = op->kind != OP_READ && can_fua && chance (opt_fua);
}

static void
asked_to_stop (int sig)
{
  (void)sig;
  stop_asked = 1;
}

static void
took_too_long (int sig)
{
  static const char text[] = "nbdmodel: no answer in 120 s\n";

  (void)sig;
  if (write (STDERR_FILENO, text, sizeof text - 1) == -1)
    _exit (EXIT_USAGE);
  _exit (EXIT_VIOLATION);
}

static int
run (void)
{
  time_t until = time (NULL) + (time_t)opt_seconds;
  uint64_t sent = 0;
  bool lost = false, stopping = false;

  connect_all (60);
  for (;;) {
    for (unsigned i = 0; i < MAX_DEPTH; i++)
      if (ops[i].used && ops[i].done) {
        if (ops[i].err) {
          if (nr_errors++ == 0)
            fprintf (stderr,
                     "nbdmodel: first failure: %c %" PRIu64 " %" PRIu64
                     ": %s\n",
                     op_letters[ops[i].kind], ops[i].offset, ops[i].length,
                     strerror (ops[i].err));
          lost = lost || !opt_keep_going;
        }
        end_op (&ops[i]);
      }
    if (any_lost ()) {
      if (!opt_reconnect || stop_asked) {
        lost = true;
        break;
      }
      fail_all_inflight ();
      close_all ();
      connect_all (60);
      lost = false;
    }
    /* A server that is being killed may fail a request before it goes. */
    stopping = stop_asked || violations || (opt_ops && sent >= opt_ops)
               || (opt_seconds && time (NULL) >= until)
               || (lost && !opt_reconnect);
    if (stopping && nr_inflight == 0)
      break;
    /* Depth changes, so that some flushes find nothing else in flight. */
    while (!stopping && nr_inflight < opt_depth
           && (nr_inflight == 0 || chance (90))) {
      struct op *op = new_op ();

      do
        choose (op);
      while (conflicts (op));
      submit (op);
      sent++;
    }
    poll_once (1000);
  }
  alarm (0);
  fail_all_inflight ();
  close_all ();
  printf ("nbdmodel: %" PRIu64 " reads, %" PRIu64 " writes, %" PRIu64
          " zeroes, %" PRIu64 " trims, %" PRIu64 " flushes, %" PRIu64
          " failed\n",
          counts[OP_READ], counts[OP_WRITE], counts[OP_ZERO], counts[OP_TRIM],
          counts[OP_FLUSH], nr_errors);
  return violations ? EXIT_VIOLATION : lost ? EXIT_LOST : 0;
}

/* --- verify --- */

static void
verify_pass (int fd, const char *what)
{
  CLEANUP_FREE uint8_t *buf = xrealloc (NULL, PASS_CHUNK);
  uint64_t was = rng_state;

  /* Both passes look at the same places. */
  for (uint64_t pos = 0; pos < size; pos += PASS_CHUNK) {
    uint64_t n = min64 (PASS_CHUNK, size - pos), issued = ++now;

    if (!chance (opt_sample))
      continue;
    alarm (120);
    if (fd >= 0) {
      for (uint64_t got = 0; got < n;) {
        ssize_t r = pread (fd, buf + got, n - got, (off_t)(pos + got));

        if (r <= 0)
          die (EXIT_VIOLATION, "VIOLATION: the file is cut at %" PRIu64 ": %s",
               pos + got, r ? strerror (errno) : "end of file");
        got += (uint64_t)r;
      }
    }
    else if (nbd_pread (handles[0], buf, n, pos, 0) == -1)
      die (EXIT_VIOLATION,
           "VIOLATION: %s: %" PRIu64 " bytes at %" PRIu64 " cannot be read: %s",
           what, n, pos, nbd_get_error ());
    check_read (pos, n, buf, issued, what);
  }
  rng_state = was;
}

static int
verify (void)
{
  CLEANUP_CLOSE int fd = -1;

  if (strstr (uri, "://"))
    connect_all (60);
  else {
    struct stat st;

    fd = open (uri, O_RDONLY | O_CLOEXEC);
    if (fd == -1 || fstat (fd, &st) == -1)
      die (EXIT_USAGE, "%s: %s", uri, strerror (errno));
    if ((uint64_t)st.st_size != size)
      die (EXIT_VIOLATION,
           "VIOLATION: the file has %" PRIu64
           " bytes, the golden image %" PRIu64,
           (uint64_t)st.st_size, size);
  }
  if (strcmp (opt_mode, "clean") == 0)
    model_clean (false);
  if (strcmp (opt_mode, "clean") == 0 || strcmp (opt_mode, "powercut") == 0)
    model_cut (false);
  else if (strcmp (opt_mode, "sigkill") != 0 && strcmp (opt_mode, "same") != 0)
    die (EXIT_USAGE, "--mode is powercut, sigkill, clean or same");
  verify_pass (fd, "first reading");
  verify_pass (fd, "second reading");
  close_all ();
  if (violations)
    fprintf (stderr, "nbdmodel: %" PRIu64 " violations\n", violations);
  return violations ? EXIT_VIOLATION : 0;
}

/* --- script --- */

static void
drain (void)
{
  while (nr_inflight) {
    if (any_lost ())
      fail_all_inflight ();
    else
      poll_once (1000);
    for (unsigned i = 0; i < MAX_DEPTH; i++)
      if (ops[i].used && ops[i].done) {
        if (ops[i].err)
          die (EXIT_VIOLATION, "%c %" PRIu64 " %" PRIu64 " failed: %s",
               op_letters[ops[i].kind], ops[i].offset, ops[i].length,
               strerror (ops[i].err));
        end_op (&ops[i]);
      }
  }
}

/* Requests in flight when the server is cut down may fail. */
static void
drain_any (void)
{
  while (nr_inflight) {
    if (any_lost ()) {
      fail_all_inflight ();
      return;
    }
    poll_once (1000);
    for (unsigned i = 0; i < MAX_DEPTH; i++)
      if (ops[i].used && ops[i].done)
        end_op (&ops[i]);
  }
}

/* [may|fail] [a]write OFFSET LENGTH [fua] ... */
static void
script_op (char **word, unsigned n, const char *line)
{
  static const char *const names[]
      = { "read", "write", "zero", "trim", "flush" };
  bool may = false, must_fail = false, async = false, found = false;
  struct op *op;
  int err;

  if (n && strcmp (word[0], "may") == 0)
    may = true, word++, n--;
  else if (n && strcmp (word[0], "fail") == 0)
    must_fail = true, word++, n--;
  op = new_op ();
  for (unsigned k = 0; n && k < 5; k++)
    if (strcmp (word[0], names[k]) == 0
        || (word[0][0] == 'a' && strcmp (word[0] + 1, names[k]) == 0)) {
      async = strcmp (word[0], names[k]) != 0;
      op->kind = (enum op_kind)k;
      found = true;
    }
  if (!found || (op->kind == OP_FLUSH ? n > 1 : n < 3))
    die (EXIT_USAGE, "script: %s?", line);
  if (op->kind != OP_FLUSH) {
    op->offset = strtoull (word[1], NULL, 0);
    op->length = strtoull (word[2], NULL, 0);
    op->fua = n > 3 && strcmp (word[3], "fua") == 0;
    if (op->length == 0 || op->length > size || op->offset > size - op->length)
      die (EXIT_USAGE, "script: %s: not within the disk", line);
    if (conflicts (op))
      die (EXIT_USAGE, "script: %s: overlaps a part of a sector in flight",
           line);
  }
  /* The second connection, if there is one, takes the asynchronous ones. */
  op->handle = async && opt_connections > 1 ? 1 : 0;
  submit (op);
  if (async)
    return;
  while (!op->done && !is_lost (op->handle))
    poll_once (1000);
  if (!op->done) {
    op->done = true;
    op->err = ENOTCONN;
    model_ack (op, ENOTCONN);
  }
  err = op->err;
  end_op (op);
  if (err && !may && !must_fail)
    die (EXIT_VIOLATION, "%s: failed: %s", line, strerror (err));
  if (!err && must_fail)
    die (EXIT_VIOLATION, "VIOLATION: %s: succeeded, but must not", line);
}

static int
script (void)
{
  char *line = NULL;
  size_t cap = 0;

  connect_all (60);
  while (getline (&line, &cap, stdin) != -1) {
    char *p = line + strspn (line, " \t"), *word[8], *save = NULL;
    CLEANUP_FREE char *copy = NULL;
    unsigned n = 0;

    alarm (120);
    p[strcspn (p, "\n")] = '\0';
    if (*p == '\0' || *p == '#')
      continue;
    if (*p == '!') {
      if (system (p + 1) != 0)
        die (EXIT_VIOLATION, "script: failed: %s", p + 1);
      continue;
    }
    copy = strdup (p);
    for (char *q = strtok_r (copy, " \t", &save); q && n < 8;
         q = strtok_r (NULL, " \t", &save))
      word[n++] = q;
    if (strcmp (word[0], "wait") == 0)
      drain ();
    else if (strcmp (word[0], "wait-any") == 0)
      drain_any ();
    else if (strcmp (word[0], "sleep") == 0 && n == 2) {
      long ms = atol (word[1]);
      struct timespec ts, until;

      clock_gettime (CLOCK_MONOTONIC, &until);
      until.tv_sec += ms / 1000;
      until.tv_nsec += ms % 1000 * 1000000;
      /* Requests that were sent must be on their way meanwhile. */
      do {
        poll_once (10);
        clock_gettime (CLOCK_MONOTONIC, &ts);
        if (nr_inflight == 0) {
          struct timespec pause = { .tv_nsec = 5000000 };

          nanosleep (&pause, NULL);
        }
      } while ((ts.tv_sec - until.tv_sec) * 1000
                   + (ts.tv_nsec - until.tv_nsec) / 1000000
               < 0);
    }
    else if (strcmp (word[0], "reconnect") == 0) {
      fail_all_inflight ();
      close_all ();
      connect_all (60);
    }
    else if (strcmp (word[0], "verify") == 0) {
      drain ();
      verify_pass (-1, "verify");
    }
    else
      script_op (word, n, p);
    if (violations)
      break;
  }
  free (line);
  fail_all_inflight ();
  close_all ();
  return violations ? EXIT_VIOLATION : 0;
}

/* --- golden image --- */

static int
make_golden (const char *path)
{
  int fd = open (path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0644);
  uint64_t pos = 0;

  size = opt_golden_size;
  data_seed = opt_seed ^ UINT64_C (0x676f6c64656e);
  rng_state = opt_seed;
  if (fd == -1 || ftruncate (fd, (off_t)size) == -1)
    die (EXIT_USAGE, "%s: %s", path, strerror (errno));
  /* Runs of data, of holes and of written zeros, some not whole granules. */
  while (pos < size) {
    uint64_t align = chance (70) ? 4096 : 512;
    uint64_t n = (below (chance (30) ? 1 << 20 : 1 << 16) / align + 1) * align;
    unsigned what = opt_dense ? 0 : (unsigned)below (10);

    n = min64 (n, size - pos);
    for (uint64_t end = pos + n; pos < end && what < 7;) {
      uint8_t buf[SECTOR] = { 0 };
      size_t len = (size_t)min64 (SECTOR, end - pos);

      if (what < 6) {
        make_pattern (buf, pos / SECTOR, 0);
        memcpy (buf, "golden..", 8);
      }
      if (pwrite (fd, buf, len, (off_t)pos) != (ssize_t)len)
        die (EXIT_USAGE, "%s: %s", path, strerror (errno));
      pos += len;
      n -= len;
    }
    pos += n;
  }
  if (close (fd) == -1)
    die (EXIT_USAGE, "%s: %s", path, strerror (errno));
  return 0;
}

static void __attribute__ ((noreturn)) usage (void)
{
  fprintf (
      stderr,
      "usage: nbdmodel --make-golden=FILE --size=BYTES [--seed=N] [--dense]\n"
      "       nbdmodel --run [--golden=FILE] [--seed=N] [--ops=N]\n"
      "                [--seconds=N] [--connections=N] [--depth=N]\n"
      "                [--flush=PERCENT] [--fua=PERCENT] [--reconnect]\n"
      "                [--keep-going] [--no-overlap] [--no-trim] MODEL URI\n"
      "       nbdmodel --script [--golden=FILE] MODEL URI\n"
      "       nbdmodel --verify [--mode=powercut|sigkill|clean|same]\n"
      "                [--sample=PERCENT] [--seed=N] MODEL URI-or-FILE\n");
  exit (EXIT_USAGE);
}

int
main (int argc, char *argv[])
{
  enum {
    RUN = 256,
    SCRIPT,
    VERIFY,
    MAKE,
    GOLD,
    SIZE,
    SEED,
    OPS,
    SECONDS,
    CONNECTIONS,
    DEPTH,
    FLUSH,
    FUA,
    RECONNECT,
    KEEP_GOING,
    NO_OVERLAP,
    NO_TRIM,
    MODE,
    SAMPLE,
    DENSE
  };
  static const struct option options[] = {
    { "run", 0, NULL, RUN },
    { "script", 0, NULL, SCRIPT },
    { "verify", 0, NULL, VERIFY },
    { "make-golden", 1, NULL, MAKE },
    { "golden", 1, NULL, GOLD },
    { "size", 1, NULL, SIZE },
    { "seed", 1, NULL, SEED },
    { "ops", 1, NULL, OPS },
    { "seconds", 1, NULL, SECONDS },
    { "connections", 1, NULL, CONNECTIONS },
    { "depth", 1, NULL, DEPTH },
    { "flush", 1, NULL, FLUSH },
    { "fua", 1, NULL, FUA },
    { "reconnect", 0, NULL, RECONNECT },
    { "keep-going", 0, NULL, KEEP_GOING },
    { "no-overlap", 0, NULL, NO_OVERLAP },
    { "no-trim", 0, NULL, NO_TRIM },
    { "mode", 1, NULL, MODE },
    { "sample", 1, NULL, SAMPLE },
    { "dense", 0, NULL, DENSE },
    { NULL, 0, NULL, 0 },
  };
  const char *make = NULL;
  int c, what = 0, r;

  while ((c = getopt_long (argc, argv, "", options, NULL)) != -1)
    switch (c) {
    case RUN:
    case SCRIPT:
    case VERIFY:
      what = c;
      break;
    case MAKE:
      make = optarg;
      break;
    case GOLD:
      opt_golden = optarg;
      break;
    case SIZE:
      opt_golden_size = strtoull (optarg, NULL, 0);
      break;
    case SEED:
      opt_seed = strtoull (optarg, NULL, 10);
      break;
    case OPS:
      opt_ops = strtoull (optarg, NULL, 10);
      break;
    case SECONDS:
      opt_seconds = strtoull (optarg, NULL, 10);
      break;
    case CONNECTIONS:
      opt_connections = (unsigned)atoi (optarg);
      break;
    case DEPTH:
      opt_depth = (unsigned)atoi (optarg);
      break;
    case FLUSH:
      opt_flush = (unsigned)atoi (optarg);
      break;
    case FUA:
      opt_fua = (unsigned)atoi (optarg);
      break;
    case RECONNECT:
      opt_reconnect = true;
      break;
    case KEEP_GOING:
      opt_keep_going = true;
      break;
    case NO_OVERLAP:
      opt_no_overlap = true;
      break;
    case NO_TRIM:
      opt_no_trim = true;
      break;
    case DENSE:
      opt_dense = true;
      break;
    case MODE:
      opt_mode = optarg;
      break;
    case SAMPLE:
      opt_sample = (unsigned)atoi (optarg);
      break;
    default:
      usage ();
    }
  if (make) {
    if (argc != optind || opt_golden_size == 0)
      usage ();
    return make_golden (make);
  }
  if (argc - optind != 2 || !what || opt_connections < 1
      || opt_connections > MAX_HANDLES || opt_depth < 1
      || opt_depth > MAX_DEPTH)
    usage ();
  uri = argv[optind + 1];
  signal (SIGTERM, asked_to_stop);
  signal (SIGALRM, took_too_long);
  open_model (argv[optind]);
  rng_state = mix64 (opt_seed) + nr_sessions;
  r = what == RUN ? run () : what == SCRIPT ? script () : verify ();
  if (fclose (model) != 0)
    die (EXIT_USAGE, "cannot write the model: %s", strerror (errno));
  return r;
}
