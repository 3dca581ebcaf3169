/* trace.h - what guests read in their first minutes: ranges in order.
 *
 * A trace belongs to an image (size and digest of its content, as a source's
 * identity), not to where the image is.  It is a hint and no more: whoever
 * replays one reads the image's bytes in another order.
 *
 * Shapes: ranges are aligned to `unit` bytes, but may end past the image's end;
 * no unit is in two of them; `at` is milliseconds after the first read, and
 * ranges are in its order; `boots` says in how many of the trace's boots the
 * range was read.  A trace has at most TRACE_MAX_UNITS units.
 *
 * The file: text lines up to an empty one, then 24 bytes a range,
 * little-endian: offset (64 bits), length (32), at (32), boots (32), 0 (32).
 * backfill-format(5) has the lines.  What is read may be an enemy's: every
 * member is checked, and nothing is made larger than TRACE_FILE_MAX says.
 *
 * Merging: boots are counted for each unit, and trace_is_likely says which
 * ranges are worth replaying, so that one odd boot does not spoil a trace.  One
 * that shares less than a quarter of the trace's likely units is not taken in,
 * until three in a row are such: then the trace begins anew with the last.
 *
 * Errors: NULL or -1 with *error (malloc'd).  No locks: one thread a trace.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_TRACE_H
#define BACKFILL_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TRACE_DIGEST_SIZE 32u
#define TRACE_UNIT 65536u
#define TRACE_MAX_UNITS 8192u
#define TRACE_RANGE_MAX (1u << 20) /* bytes of one range */
#define TRACE_FILE_MAX (4096u + TRACE_MAX_UNITS * 24u)

struct trace_range {
  uint64_t offset;
  uint32_t length; /* bytes */
  uint32_t at;     /* ms */
  uint32_t boots;
};

struct trace {
  uint64_t size; /* of the image */
  uint8_t digest[TRACE_DIGEST_SIZE];
  uint32_t boots;   /* that are in it */
  uint32_t misfits; /* in a row, that were not taken in */
  struct trace_range *ranges;
  size_t nr;
};

/* A set of units, each with a byte of the caller's.  Zeroed before use. */
struct trace_units {
  uint64_t *unit; /* number + 1; 0: free */
  uint8_t *value;
  unsigned nr, shift;
};
/* Room for TRACE_MAX_UNITS.  0, or -1: no memory. */
int trace_units_init (struct trace_units *u) __attribute__ ((nonnull (1)));
void trace_units_free (struct trace_units *u) __attribute__ ((nonnull (1)));
/* The byte of a unit; NULL if it is not there. */
uint8_t *trace_units_find (const struct trace_units *u, uint64_t unit)
    __attribute__ ((nonnull (1)));
/* The same, added with 0 if it is not there; NULL: full. */
uint8_t *trace_units_add (struct trace_units *u, uint64_t unit, bool *is_new)
    __attribute__ ((nonnull (1, 3)));

/* The trace of one boot that has read nothing. */
struct trace *trace_new (uint64_t size, const uint8_t digest[TRACE_DIGEST_SIZE])
    __attribute__ ((nonnull (2)));
void trace_free (struct trace *t); /* NULL is fine */
/* A unit that was read, which is not in it: joined to the last range where it
 * follows.  0, or -1: no memory. */
int trace_append (struct trace *t, uint64_t unit, uint32_t at, uint32_t boots)
    __attribute__ ((nonnull (1)));
uint64_t trace_bytes (const struct trace *t, bool likely)
    __attribute__ ((nonnull (1)));
bool trace_is_likely (const struct trace *t, const struct trace_range *r)
    __attribute__ ((nonnull (1, 2)));

/* Read a file's content.  *why says what is wrong with it. */
struct trace *trace_parse (const void *buf, size_t len, char **why)
    __attribute__ ((nonnull (1, 3)));
/* The file's content, malloc'd, *len bytes.  NULL: no memory. */
void *trace_format (const struct trace *t, size_t *len)
    __attribute__ ((nonnull (1, 2)));

/* Two of the same image as one: a has the history, b what is new.  NULL: no
 * memory. */
struct trace *trace_merge (const struct trace *a, const struct trace *b)
    __attribute__ ((nonnull (1, 2)));
/* The digest as text. */
#define TRACE_HEX_SIZE (2 * TRACE_DIGEST_SIZE + 1)
void trace_hex (const uint8_t digest[TRACE_DIGEST_SIZE],
                char hex[TRACE_HEX_SIZE]) __attribute__ ((nonnull (1, 2)));
/* Is it about that image? */
bool trace_is_of (const struct trace *t, uint64_t size,
                  const uint8_t digest[TRACE_DIGEST_SIZE])
    __attribute__ ((nonnull (1, 3)));

/* For trace_load: whoever has named the file may name anybody's. */
#define TRACE_ANYBODY ((uid_t)-1)

/* Files.  A trace is believed if it is root's, ours or `owner`'s, and nobody
 * else may write to it.  NULL with errno and *error.  ENOENT: there is none;
 * EBADMSG: it is a trace that is damaged, or empty; EINVAL: it is something
 * else. */
struct trace *trace_load (const char *path, uid_t owner, char **error)
    __attribute__ ((nonnull (1, 3)));
/* Write it beside and rename it, durably.  0, or -1. */
int trace_save (const struct trace *t, const char *path, char **error)
    __attribute__ ((nonnull (1, 2, 3)));
/* The directory of traces that is used if none is named, made if it can be;
 * malloc'd.  NULL: there is none. */
char *trace_default_dir (void);
/* The name of an image's trace in a folder of traces, malloc'd. */
char *trace_name (const char *dir, uint64_t size,
                  const uint8_t digest[TRACE_DIGEST_SIZE])
    __attribute__ ((nonnull (1, 3)));

#endif
