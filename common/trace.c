/* trace.c - what guests read in their first minutes.  See trace.h.
 *
 * Units are kept in an open-addressed table of twice TRACE_MAX_UNITS slots, so
 * a probe is short and nothing is ever moved.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "array.h"
#include "bytes.h"
#include "cleanup.h"
#include "crc32c.h"
#include "message.h"
#include "trace.h"
#include "trust.h"

#define MAGIC "backfill-trace"
#define FORMAT_VERSION 1
#define DEFAULT_DIR "/var/lib/backfill/traces"
#define RECORD 24u
#define HEADER_MAX 1024u
/* A unit that follows one of the last few ranges is joined to it: guests read
 * a few files at a time. */
#define OPEN_RANGES 8u
/* More boots than these are not counted apart: what was long ago fades. */
#define BOOTS_MAX 8u
#define MISFITS_MAX 3u
#define SLOTS (2 * TRACE_MAX_UNITS)

/* --- units --------------------------------------------------------------- */

int
trace_units_init (struct trace_units *u)
{
  memset (u, 0, sizeof *u);
  u->unit = calloc (SLOTS, sizeof *u->unit);
  u->value = calloc (SLOTS, 1);
  if (u->unit && u->value)
    return 0;
  trace_units_free (u);
  return -1;
}

void
trace_units_free (struct trace_units *u)
{
  free (u->unit);
  free (u->value);
  memset (u, 0, sizeof *u);
}

/* Where the unit is, or would be. */
static unsigned
slot_of (const struct trace_units *u, uint64_t unit)
{
  unsigned i = (unsigned)((unit * UINT64_C (0x9e3779b97f4a7c15)) >> 40) % SLOTS;

  while (u->unit[i] != 0 && u->unit[i] != unit + 1)
    i = (i + 1) % SLOTS;
  return i;
}

uint8_t *
trace_units_find (const struct trace_units *u, uint64_t unit)
{
  unsigned i = slot_of (u, unit);

  return u->unit[i] ? &u->value[i] : NULL;
}

uint8_t *
trace_units_add (struct trace_units *u, uint64_t unit, bool *is_new)
{
  unsigned i = slot_of (u, unit);

  *is_new = u->unit[i] == 0;
  if (*is_new) {
    if (u->nr == TRACE_MAX_UNITS)
      return NULL;
    u->unit[i] = unit + 1;
    u->nr++;
  }
  return &u->value[i];
}

/* --- a trace ------------------------------------------------------------- */

struct trace *
trace_new (uint64_t size, const uint8_t digest[TRACE_DIGEST_SIZE])
{
  struct trace *t = calloc (1, sizeof *t);

  if (!t)
    return NULL;
  t->size = size;
  memcpy (t->digest, digest, TRACE_DIGEST_SIZE);
  t->boots = 1;
  return t;
}

void
trace_free (struct trace *t)
{
  if (!t)
    return;
  free (t->ranges);
  free (t);
}

int
trace_append (struct trace *t, uint64_t unit, uint32_t at, uint32_t boots)
{
  uint64_t offset = unit * TRACE_UNIT;

  for (size_t i = t->nr; i > 0 && t->nr - i < OPEN_RANGES; i--) {
    struct trace_range *r = &t->ranges[i - 1];

    if (r->offset + r->length == offset && r->boots == boots
        && r->length < TRACE_RANGE_MAX) {
      r->length += TRACE_UNIT;
      return 0;
    }
  }
  if (ARRAY_ROOM (t->ranges, t->nr) == -1)
    return -1;
  t->ranges[t->nr++] = (struct trace_range){
    .offset = offset, .length = TRACE_UNIT, .at = at, .boots = boots
  };
  return 0;
}

bool
trace_is_likely (const struct trace *t, const struct trace_range *r)
{
  /* Of two boots nobody knows which was the odd one. */
  return t->boots <= 2 || r->boots * 2 > t->boots;
}

uint64_t
trace_bytes (const struct trace *t, bool likely)
{
  uint64_t sum = 0;

  for (size_t i = 0; i < t->nr; i++)
    if (!likely || trace_is_likely (t, &t->ranges[i]))
      sum += t->ranges[i].length;
  return sum;
}

bool
trace_is_of (const struct trace *t, uint64_t size,
             const uint8_t digest[TRACE_DIGEST_SIZE])
{
  return t->size == size && memcmp (t->digest, digest, TRACE_DIGEST_SIZE) == 0;
}

/* --- merging ------------------------------------------------------------- */

static struct trace *
copy_of (const struct trace *t)
{
  struct trace *c = trace_new (t->size, t->digest);

  if (!c)
    return NULL;
  c->boots = t->boots;
  c->misfits = t->misfits;
  c->ranges = malloc (t->nr * sizeof *t->ranges + 1);
  if (!c->ranges) {
    trace_free (c);
    return NULL;
  }
  if (t->nr > 0)
    memcpy (c->ranges, t->ranges, t->nr * sizeof *t->ranges);
  c->nr = t->nr;
  return c;
}

/* In how many boots of t each of its units was read; 0 of 255 is never kept. */
static int
count_units (const struct trace *t, struct trace_units *u)
{
  if (trace_units_init (u) == -1)
    return -1;
  for (size_t i = 0; i < t->nr; i++) {
    const struct trace_range *r = &t->ranges[i];
    uint64_t first = r->offset / TRACE_UNIT;

    for (uint64_t k = first; k < first + r->length / TRACE_UNIT; k++) {
      bool is_new;
      uint8_t *value = trace_units_add (u, k, &is_new);

      if (value)
        *value = (uint8_t)min_u64 (r->boots, 255);
    }
  }
  return 0;
}

static bool
fits (const struct trace *a, const struct trace_units *in_b)
{
  uint64_t likely = 0, shared = 0;

  for (size_t i = 0; i < a->nr; i++) {
    const struct trace_range *r = &a->ranges[i];
    uint64_t first = r->offset / TRACE_UNIT;

    if (!trace_is_likely (a, r))
      continue;
    for (uint64_t k = first; k < first + r->length / TRACE_UNIT; k++) {
      likely++;
      shared += trace_units_find (in_b, k) != NULL;
    }
  }
  return shared * 4 >= likely;
}

/* Add r's units to t with their boots; those of `other` are added to them, or,
 * if skip, left out as they are there already. */
static int
add_range (struct trace *t, const struct trace_range *r,
           const struct trace_units *other, bool skip, bool halve,
           unsigned *room)
{
  uint64_t first = r->offset / TRACE_UNIT;

  for (uint64_t k = first; k < first + r->length / TRACE_UNIT; k++) {
    const uint8_t *also = trace_units_find (other, k);
    uint32_t boots = r->boots;

    if (also && skip)
      continue;
    if (also)
      boots += *also;
    if (halve)
      boots /= 2;
    /* It has not been read for a long time. */
    if (boots == 0 || *room == 0)
      continue;
    --*room;
    if (trace_append (t, k, r->at, boots) == -1)
      return -1;
  }
  return 0;
}

struct trace *
trace_merge (const struct trace *a, const struct trace *b)
{
  struct trace_units in_a = { 0 }, in_b = { 0 };
  struct trace *t = NULL;
  unsigned room = TRACE_MAX_UNITS;
  bool halve = a->boots + b->boots > BOOTS_MAX, failed = false;
  size_t i = 0, k = 0;

  if (count_units (a, &in_a) == -1 || count_units (b, &in_b) == -1)
    goto out;
  if (!fits (a, &in_b)) {
    t = copy_of (a->misfits + 1 < MISFITS_MAX ? a : b);
    if (t && a->misfits + 1 < MISFITS_MAX)
      t->misfits++;
    goto out;
  }
  t = trace_new (a->size, a->digest);
  if (!t)
    goto out;
  t->boots = halve ? (a->boots + b->boots) / 2 : a->boots + b->boots;
  while (!failed && (i < a->nr || k < b->nr)) {
    bool from_a
        = k == b->nr || (i < a->nr && a->ranges[i].at <= b->ranges[k].at);

    failed
        = from_a
              ? add_range (t, &a->ranges[i++], &in_b, false, halve, &room) == -1
              : add_range (t, &b->ranges[k++], &in_a, true, halve, &room) == -1;
  }
  if (failed) {
    trace_free (t);
    t = NULL;
  }
out:
  trace_units_free (&in_a);
  trace_units_free (&in_b);
  return t;
}

/* --- the file's content -------------------------------------------------- */

void
trace_hex (const uint8_t digest[TRACE_DIGEST_SIZE], char hex[TRACE_HEX_SIZE])
{
  for (unsigned i = 0; i < TRACE_DIGEST_SIZE; i++)
    snprintf (hex + 2 * i, 3, "%02x", digest[i]);
}

void *
trace_format (const struct trace *t, size_t *len)
{
  char hex[TRACE_HEX_SIZE], head[HEADER_MAX];
  CLEANUP_FREE uint8_t *records = malloc (t->nr * RECORD + 1);
  uint8_t *all;
  int n;

  if (!records)
    return NULL;
  for (size_t i = 0; i < t->nr; i++) {
    uint8_t *p = records + i * RECORD;

    put_le64 (p, t->ranges[i].offset);
    put_le32 (p + 8, t->ranges[i].length);
    put_le32 (p + 12, t->ranges[i].at);
    put_le32 (p + 16, t->ranges[i].boots);
    put_le32 (p + 20, 0);
  }
  trace_hex (t->digest, hex);
  n = snprintf (
      head, sizeof head,
      MAGIC " %d\nsize %" PRIu64 "\nidentity sha256:%s\n"
            "granule %u\nboots %" PRIu32 "\nmisfits %" PRIu32 "\nranges %zu\n",
      FORMAT_VERSION, t->size, hex, TRACE_UNIT, t->boots, t->misfits, t->nr);
  /* The sum is of the lines before its own, and then of the records. */
  all = malloc ((size_t)n + 32 + t->nr * RECORD);
  if (!all)
    return NULL;
  memcpy (all, head, (size_t)n);
  memcpy (all + n, records, t->nr * RECORD);
  *len = (size_t)n
         + (size_t)sprintf ((char *)head, "crc32c %08" PRIx32 "\n\n",
                            crc32c (all, (size_t)n + t->nr * RECORD));
  memcpy (all + n, head, *len - (size_t)n);
  memcpy (all + *len, records, t->nr * RECORD);
  *len += t->nr * RECORD;
  return all;
}

/* What is left to be read of the lines. */
struct lines {
  const char *at, *end;
};

/* The next line must be "KEY VALUE": its value, in buf. */
static bool
line_of (struct lines *l, const char *key, char *buf, size_t size)
{
  const char *nl = memchr (l->at, '\n', (size_t)(l->end - l->at));
  size_t k = strlen (key), n;

  if (!nl || (size_t)(nl - l->at) < k + 2 || memcmp (l->at, key, k) != 0
      || l->at[k] != ' ')
    return false;
  n = (size_t)(nl - l->at) - k - 1;
  if (n >= size || memchr (l->at, '\0', (size_t)(nl - l->at)))
    return false;
  memcpy (buf, l->at + k + 1, n);
  buf[n] = '\0';
  l->at = nl + 1;
  return true;
}

static bool
number_of (struct lines *l, const char *key, uint64_t most, uint64_t *n)
{
  char buf[24], *end;

  if (!line_of (l, key, buf, sizeof buf) || !isdigit ((unsigned char)buf[0]))
    return false;
  errno = 0;
  *n = strtoull (buf, &end, 10);
  return errno == 0 && *end == '\0' && *n <= most;
}

static int
nibble (char c)
{
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                : -1;
}

static bool
digest_of (struct lines *l, uint8_t digest[TRACE_DIGEST_SIZE])
{
  static const char kind[] = "sha256:";
  char buf[sizeof kind + 2 * TRACE_DIGEST_SIZE];
  const char *hex = buf + sizeof kind - 1;

  if (!line_of (l, "identity", buf, sizeof buf)
      || strlen (buf) != sizeof buf - 1
      || memcmp (buf, kind, sizeof kind - 1) != 0)
    return false;
  for (unsigned i = 0; i < TRACE_DIGEST_SIZE; i++) {
    int hi = nibble (hex[2 * i]), lo = nibble (hex[2 * i + 1]);

    if (hi < 0 || lo < 0)
      return false;
    digest[i] = (uint8_t)(hi << 4 | lo);
  }
  return true;
}

static bool
sum_of (struct lines *l, uint32_t *sum)
{
  char buf[9];

  if (!line_of (l, "crc32c", buf, sizeof buf) || strlen (buf) != 8)
    return false;
  *sum = 0;
  for (unsigned i = 0; i < 8; i++) {
    int n = nibble (buf[i]);

    if (n < 0)
      return false;
    *sum = *sum << 4 | (uint32_t)n;
  }
  return true;
}

/* Does the sum fit the lines before its own, and the records? */
static bool
is_whole (const char *buf, size_t lines, const uint8_t *records, size_t len,
          uint32_t sum)
{
  CLEANUP_FREE char *all = malloc (lines + len + 1);

  if (!all)
    return false;
  memcpy (all, buf, lines);
  memcpy (all + lines, records, len);
  return crc32c (all, lines + len) == sum;
}

/* NULL, or what is wrong with it. */
static const char *
read_records (struct trace *t, const uint8_t *p, size_t nr)
{
  struct trace_units seen;
  const char *why = NULL;

  t->ranges = malloc (nr * sizeof *t->ranges + 1);
  if (!t->ranges)
    return "out of memory";
  if (trace_units_init (&seen) == -1)
    return "out of memory";
  for (; t->nr < nr && !why; p += RECORD) {
    struct trace_range r = { .offset = get_le64 (p),
                             .length = get_le32 (p + 8),
                             .at = get_le32 (p + 12),
                             .boots = get_le32 (p + 16) };

    if (r.offset % TRACE_UNIT || r.length % TRACE_UNIT || r.length == 0
        || r.length > TRACE_RANGE_MAX || r.offset >= t->size
        || r.length > round_up (t->size, TRACE_UNIT) - r.offset)
      why = "a range is not inside the image, or not aligned";
    else if (r.boots == 0 || r.boots > t->boots)
      why = "a range was read in more boots than there were, or in none";
    for (uint64_t k = r.offset / TRACE_UNIT;
         !why && k < (r.offset + r.length) / TRACE_UNIT; k++) {
      bool is_new;

      if (!trace_units_add (&seen, k, &is_new))
        why = "it has too many ranges";
      else if (!is_new)
        why = "two of its ranges overlap";
    }
    t->ranges[t->nr++] = r;
  }
  trace_units_free (&seen);
  return why;
}

struct trace *
trace_parse (const void *buf, size_t len, char **why)
{
  struct lines l = { buf, (const char *)buf + len };
  struct trace *t = calloc (1, sizeof *t);
  uint64_t version, unit, boots, misfits, nr;
  const char *bad = NULL;
  size_t lines;
  uint32_t sum;

  if (!t) {
    message_set (why, "out of memory");
    return NULL;
  }
  if (!number_of (&l, MAGIC, UINT64_MAX, &version))
    bad = "it is not a trace";
  else if (version != FORMAT_VERSION)
    bad = "it is of another version than this program knows";
  else if (!number_of (&l, "size", INT64_MAX - TRACE_UNIT, &t->size)
           || !digest_of (&l, t->digest)
           || !number_of (&l, "granule", UINT32_MAX, &unit)
           || unit != TRACE_UNIT || !number_of (&l, "boots", BOOTS_MAX, &boots)
           || boots == 0 || !number_of (&l, "misfits", MISFITS_MAX, &misfits)
           || !number_of (&l, "ranges", TRACE_MAX_UNITS, &nr))
    bad = "its header is damaged";
  if (!bad) {
    lines = (size_t)(l.at - (const char *)buf);
    t->boots = (uint32_t)boots;
    t->misfits = (uint32_t)misfits;
    if (!sum_of (&l, &sum) || l.at == l.end || *l.at++ != '\n')
      bad = "its header is damaged";
    else if ((uint64_t)(l.end - l.at) != nr * RECORD
             || !is_whole (buf, lines, (const uint8_t *)l.at, nr * RECORD, sum))
      bad = "it is damaged";
    else
      bad = read_records (t, (const uint8_t *)l.at, nr);
  }
  if (!bad)
    return t;
  message_set (why, "%s", bad);
  trace_free (t);
  return NULL;
}

/* --- files --------------------------------------------------------------- */

static int
open_trusted (const char *path, uid_t owner, struct stat *sb, char **error)
{
  /* O_NONBLOCK: it may be a fifo. */
  int fd
      = open (path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

  if (fd == -1 || fstat (fd, sb) == -1) {
    message_set (error, "%s: %m", path);
    goto bad;
  }
  if (!S_ISREG (sb->st_mode)) {
    message_set (error, "%s: not a file", path);
    errno = EINVAL;
    goto bad;
  }
  if (owner == TRACE_ANYBODY)
    return fd;
  if (!trust_alone (sb, owner)) {
    message_set (error,
                 "%s: belongs to, or may be written by, another user than "
                 "root, this process's or the store's: not used",
                 path);
    errno = EPERM;
    goto bad;
  }
  return fd;

bad : {
  int err = errno;

  if (fd >= 0)
    close (fd);
  errno = err;
}
  return -1;
}

struct trace *
trace_load (const char *path, uid_t owner, char **error)
{
  struct stat sb;
  CLEANUP_CLOSE int fd = open_trusted (path, owner, &sb, error);
  CLEANUP_FREE char *buf = NULL, *why = NULL;
  struct trace *t;
  size_t have = 0;

  if (fd == -1)
    return NULL;
  buf = malloc (TRACE_FILE_MAX + 1);
  if (!buf) {
    message_set (error, "%s: %m", path);
    return NULL;
  }
  while (have <= TRACE_FILE_MAX) {
    ssize_t n = read (fd, buf + have, TRACE_FILE_MAX + 1 - have);

    if (n == -1 && errno == EINTR)
      continue;
    if (n == -1) {
      message_set (error, "%s: %m", path);
      return NULL;
    }
    if (n == 0)
      break;
    have += (size_t)n;
  }
  t = have > TRACE_FILE_MAX ? NULL : trace_parse (buf, have, &why);
  if (!t) {
    bool was_trace = have == 0
                     || (have > sizeof MAGIC - 1
                         && memcmp (buf, MAGIC " ", sizeof MAGIC) == 0);

    message_set (error, "%s: %s", path, why ? why : "it is too large");
    errno = was_trace ? EBADMSG : EINVAL;
  }
  return t;
}

static int
write_all (int fd, const char *buf, size_t len)
{
  while (len > 0) {
    ssize_t n = write (fd, buf, len);

    if (n == -1 && errno == EINTR)
      continue;
    if (n == -1)
      return -1;
    buf += n;
    len -= (size_t)n;
  }
  return 0;
}

int
trace_save (const struct trace *t, const char *path, char **error)
{
  CLEANUP_FREE char *dir = strdup (path), *temp = NULL, *buf = NULL;
  CLEANUP_CLOSE int fd = -1, folder = -1;
  uint64_t random;
  size_t len;

  buf = trace_format (t, &len);
  if (!dir || !buf || getrandom (&random, sizeof random, 0) != sizeof random
      || asprintf (&temp, "%s.new-%016" PRIx64, path, random) == -1) {
    message_set (error, "%s: %m", path);
    return -1;
  }
  /* It tells what a guest has read: nobody else's business. */
  fd = open (temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd == -1) {
    message_set (error, "%s: cannot be made: %m", temp);
    return -1;
  }
  folder = open (dirname (dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (write_all (fd, buf, len) == -1 || fdatasync (fd) == -1 || folder == -1
      || rename (temp, path) == -1 || fsync (folder) == -1) {
    message_set (error, "%s: cannot be written: %m", path);
    unlink (temp);
    return -1;
  }
  return 0;
}

char *
trace_default_dir (void)
{
  const char *state = getenv ("XDG_STATE_HOME"), *home = getenv ("HOME");
  CLEANUP_FREE char *dir = NULL;
  char *traces;
  int r;

  if (geteuid () == 0) {
    mkdir ("/var/lib/backfill", 0755);
    mkdir (DEFAULT_DIR, 0700);
    return strdup (DEFAULT_DIR);
  }
  if (state && *state == '/')
    r = asprintf (&dir, "%s/backfill", state);
  else if (home && *home == '/')
    r = asprintf (&dir, "%s/.local/state/backfill", home);
  else
    return NULL;
  if (r == -1 || asprintf (&traces, "%s/traces", dir) == -1)
    return NULL;
  mkdir (dir, 0700);
  mkdir (traces, 0700);
  return traces;
}

char *
trace_name (const char *dir, uint64_t size,
            const uint8_t digest[TRACE_DIGEST_SIZE])
{
  char hex[TRACE_HEX_SIZE], *name;

  trace_hex (digest, hex);
  return asprintf (&name, "%s/%.32s-%" PRIu64 ".trace", dir, hex, size) == -1
             ? NULL
             : name;
}
