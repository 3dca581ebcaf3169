/* values.c - what the keys of a disk say: strings to a struct disk_config.
 *
 * A table (values) has the parser and the member of each key that is one value;
 * paths and the backing store are looked at before.  Nothing here knows what a
 * sidecar says; what is not given stays "not given", and the engine finds the
 * value.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "bytes.h"
#include "cleanup.h"
#include "keys.h"
#include "plugin.h"
#include "units.h"

int
value_absolute (struct section *s, enum key key)
{
  char *path = s->value[key];

  if (path == NULL)
    return 0;
  if (*path == '\0') {
    nbdkit_error ("%s= is empty: give a path", keys[key].name);
    return -1;
  }
  s->value[key] = nbdkit_absolute_path (path);
  free (path);
  return s->value[key] ? 0 : -1;
}

static int
parse_size (const struct section *s, enum key key, void *r)
{
  const char *why;

  if (units_size (s->value[key], r, &why) == -1) {
    nbdkit_error ("%s=%s: not a size: %s", keys[key].name, s->value[key], why);
    return -1;
  }
  return 0;
}

int
value_size (const struct section *s, enum key key, uint64_t min, uint64_t max,
            uint64_t *r)
{
  if (parse_size (s, key, r) == -1)
    return -1;
  if (*r < min || *r > max) {
    nbdkit_error ("%s=%s: must be from %" PRIu64 " to %" PRIu64 " bytes",
                  keys[key].name, s->value[key], min, max);
    return -1;
  }
  return 0;
}

int
value_speed (const struct section *s, enum key key, void *r)
{
  const char *why;

  if (units_speed (s->value[key], r, &why) == -1) {
    nbdkit_error ("%s=%s: not a size: %s", keys[key].name, s->value[key], why);
    return -1;
  }
  return 0;
}

static int
parse_power (const struct section *s, enum key key, uint64_t min, uint64_t max,
             uint32_t *r)
{
  uint64_t n;

  if (parse_size (s, key, &n) == -1)
    return -1;
  if (!is_power_of_2 (n) || n < min || n > max) {
    nbdkit_error ("%s=%s: must be a power of two from %" PRIu64 " to %" PRIu64,
                  keys[key].name, s->value[key], min, max);
    return -1;
  }
  *r = n;
  return 0;
}

static int
parse_bool (const struct section *s, enum key key, void *r)
{
  int b = nbdkit_parse_bool (s->value[key]);

  if (b == -1) {
    nbdkit_error ("%s=%s: give on or off", keys[key].name, s->value[key]);
    return -1;
  }
  *(bool *)r = b;
  return 0;
}

/* The index of the value in words, which NULL ends. */
static int
parse_word (const struct section *s, enum key key, const char *const *words,
            unsigned *r)
{
  char list[128] = "";
  size_t n;

  for (*r = 0; words[*r]; ++*r) {
    if (strcmp (words[*r], s->value[key]) == 0)
      return 0;
    n = strlen (list);
    snprintf (list + n, sizeof list - n, "%s%s", n ? ", " : "", words[*r]);
  }
  nbdkit_error ("%s=%s: give one of %s", keys[key].name, s->value[key], list);
  return -1;
}

/* Milliseconds, or UNITS_FOREVER; never 0: to the engine that means something
 * else. */
static int
parse_time (const struct section *s, enum key key, uint64_t *r)
{
  const char *why;

  if (units_time (s->value[key], r, &why) == -1) {
    nbdkit_error ("%s=%s: not a time: %s", keys[key].name, s->value[key], why);
    return -1;
  }
  *r = max_u64 (*r, 1);
  return 0;
}

static int
parse_range (const struct section *s, enum key key, struct disk_config *d)
{
  const char *value = s->value[key], *plus = strchr (value, '+');
  CLEANUP_FREE char *first = NULL;
  uint64_t offset, length;
  const char *why;

  if (plus == NULL)
    return parse_bool (s, key, &d->has_allocate);

  first = strndup (value, plus - value);
  if (first == NULL) {
    nbdkit_error ("strndup: %m");
    return -1;
  }
  if (units_size (first, &offset, &why) == -1
      || units_size (plus + 1, &length, &why) == -1) {
    nbdkit_error ("allocate=%s: give on, off, or OFFSET+LENGTH as in 1G+512M: "
                  "%s",
                  value, why);
    return -1;
  }
  d->has_allocate = true;
  d->allocate.offset = offset;
  d->allocate.length = length;
  return 0;
}

/* r points to the disk_config, as a range is more than one member. */
static int
parse_allocate (const struct section *s, enum key key, void *r)
{
  struct disk_config *d = r;
  char buf[TITLE_MAX];

  if (parse_range (s, key, d) == -1)
    return -1;
  if (d->has_allocate && d->read_only) {
    nbdkit_error ("%s: allocate= writes, readonly=on forbids it: give one of "
                  "them",
                  disk_title (s, buf));
    return -1;
  }
  return 0;
}

static int
parse_granule (const struct section *s, enum key key, void *r)
{
  return parse_power (s, key, 512, 65536, r);
}

static int
parse_fetch (const struct section *s, enum key key, void *r)
{
  return parse_power (s, key, 4096, SOURCE_MAX_REQUEST, r);
}

static int
parse_adopt (const struct section *s, enum key key, void *r)
{
  static const char *const words[] = { "local", "absent", "moved", NULL };
  static const enum disk_adopt values[]
      = { DISK_ADOPT_LOCAL, DISK_ADOPT_ABSENT, DISK_ADOPT_MOVED };
  unsigned n;

  if (parse_word (s, key, words, &n) == -1)
    return -1;
  *(enum disk_adopt *)r = values[n];
  return 0;
}

/* Is it the second word of two? */
static int
parse_choice (const struct section *s, enum key key, const char *first,
              const char *second, bool *r)
{
  const char *const words[] = { first, second, NULL };
  unsigned n;

  if (parse_word (s, key, words, &n) == -1)
    return -1;
  *r = n == 1;
  return 0;
}

static int
parse_identity (const struct section *s, enum key key, void *r)
{
  return parse_choice (s, key, "content", "size", r);
}

static int
parse_mode (const struct section *s, enum key key, void *r)
{
  return parse_choice (s, key, "sparse", "full", r);
}

static int
parse_on_error (const struct section *s, enum key key, void *r)
{
  enum job_on_error *on_error = r;
  bool skip;

  if (parse_choice (s, key, "report", "skip", &skip) == -1)
    return -1;
  *on_error = skip ? JOB_ON_ERROR_SKIP : JOB_ON_ERROR_REPORT;
  return 0;
}

static int
parse_timeout (const struct section *s, enum key key, void *r)
{
  uint64_t *ms = r;

  if (parse_time (s, key, ms) == -1)
    return -1;
  if (*ms == UNITS_FOREVER) {
    nbdkit_error ("timeout=forever: a guest would hang: give a time, up to a "
                  "year");
    return -1;
  }
  return 0;
}

static int
parse_retry (const struct section *s, enum key key, void *r)
{
  uint64_t *ms = r;

  if (parse_time (s, key, ms) == -1)
    return -1;
  /* The engine's for ever. */
  if (*ms == UNITS_FOREVER)
    *ms = 0;
  return 0;
}

static int
parse_connections (const struct section *s, enum key key, void *r)
{
  unsigned *n = r;

  if (nbdkit_parse_unsigned ("connections", s->value[key], n) == -1)
    return -1;
  if (*n < 1 || *n > 16) {
    nbdkit_error ("connections=%s: give 1 to 16", s->value[key]);
    return -1;
  }
  return 0;
}

/* The keys of a disk that are a value of one kind each, in the order in which
 * they are looked at. */
#define AT(member) offsetof (struct disk_config, member)
static const struct value {
  enum key key;
  /* Write what the key's string says to *r; -1 after nbdkit_error. */
  int (*parse) (const struct section *s, enum key key, void *r);
  size_t to;    /* where *r is in the disk_config */
  size_t given; /* where the bool is that says so, 0: there is none */
} values[] = {
  { KEY_SIZE, parse_size, AT (size), AT (has_size) },
  { KEY_GRANULE, parse_granule, AT (granule), 0 },
  { KEY_FETCH, parse_fetch, AT (fetch_unit), 0 },
  { KEY_ADOPT, parse_adopt, AT (adopt), 0 },
  { KEY_DISCARD, parse_bool, AT (discard_unflushed), 0 },
  { KEY_READONLY, parse_bool, AT (read_only), 0 },
  { KEY_IDENTITY, parse_identity, AT (identity_size), AT (has_identity) },
  { KEY_ALLOCATE, parse_allocate, 0, 0 },
  { KEY_SPEED, value_speed, AT (allocate.speed), 0 },
  { KEY_MODE, parse_mode, AT (allocate.full), 0 },
  { KEY_ON_ERROR, parse_on_error, AT (allocate.on_error), 0 },
  { KEY_TIMEOUT, parse_timeout, AT (timeout), 0 },
  { KEY_RETRY, parse_retry, AT (allocate.retry), 0 },
  { KEY_CONNECTIONS, parse_connections, AT (connections), 0 },
};

static int
parse_value (const struct section *s, const struct value *v,
             struct disk_config *d)
{
  char *base = (char *)d;

  if (s->value[v->key] == NULL)
    return 0;
  if (v->parse (s, v->key, base + v->to) == -1)
    return -1;
  if (v->given)
    *(bool *)(base + v->given) = true;
  return 0;
}

/* A relative path inside the URI would mean another file after the fork, when
 * the server is in /, and after a restart, when the URI comes from the
 * sidecar.  Libnbd's three local paths are made absolute. */
static char *
absolute_uri (const char *uri)
{
  static const char *const params[]
      = { "socket=", "tls-certificates=", "tls-psk-file=" };
  const char *query = strchr (uri, '?'), *p, *q;
  CLEANUP_FREE char *cwd = NULL;
  char *out = NULL;
  size_t size, i;
  FILE *fp;

  fp = open_memstream (&out, &size);
  if (fp == NULL)
    return NULL;
  if (query == NULL)
    query = uri + strlen (uri);
  fwrite (uri, 1, query - uri, fp);
  for (p = query; *p;) {
    putc (*p++, fp); /* '?' or '&' */
    for (i = 0; i < sizeof params / sizeof params[0]; i++) {
      q = p + strlen (params[i]);
      if (strncmp (p, params[i], strlen (params[i])) != 0 || *q == '/'
          || strncasecmp (q, "%2f", 3) == 0 || *q == '\0' || *q == '&')
        continue;
      if (cwd == NULL)
        cwd = get_current_dir_name ();
      if (cwd == NULL)
        break;
      fputs (params[i], fp);
      for (const char *c = cwd; *c; c++)
        fprintf (fp,
                 isalnum ((unsigned char)*c) || strchr ("/-._~", *c) ? "%c"
                                                                     : "%%%02X",
                 (unsigned char)*c);
      putc ('/', fp);
      p = q;
    }
    q = strchrnul (p, '&');
    fwrite (p, 1, q - p, fp);
    p = q;
  }
  if (fclose (fp) != 0) {
    free (out);
    return NULL;
  }
  return out;
}

static int
parse_backing (struct section *s, const char *title)
{
  const char *value = s->value[KEY_BACKING];
  size_t len = strlen (value);
  char *uri;

  if (value[0] == '[') {
    if (len >= 5 && value[1] == ' ' && value[len - 2] == ' '
        && value[len - 1] == ']' && strspn (value + 1, " ") < len - 2)
      return 0;
    nbdkit_error ("%s: backing=%s: a command is one argument, with a space "
                  "inside each bracket: quote it, as in "
                  "backing='[ nbdkit file golden.img ]'",
                  title, value);
    return -1;
  }
  /* What has no colon cannot be a URI. */
  if (value[0] == '/' || value[0] == '.' || strchr (value, ':') == NULL)
    return value_absolute (s, KEY_BACKING);
  uri = absolute_uri (value);
  if (uri == NULL) {
    nbdkit_error ("%s: backing=%s: %m", title, value);
    return -1;
  }
  free (s->value[KEY_BACKING]);
  s->value[KEY_BACKING] = uri;
  return 0;
}

/* auto and off are words, all else is a path. */
static int
parse_trace (struct section *s, struct disk_config *d, const char *title)
{
  const char *trace = s->value[KEY_TRACE];
  bool is_word
      = trace && (strcmp (trace, "auto") == 0 || strcmp (trace, "off") == 0);

  if ((!is_word && value_absolute (s, KEY_TRACE) == -1)
      || value_absolute (s, KEY_TRACE_DIR) == -1)
    return -1;
  d->trace = s->value[KEY_TRACE];
  d->trace_dir = s->value[KEY_TRACE_DIR];
  if (d->trace_dir && d->trace && strcmp (d->trace, "auto") != 0) {
    nbdkit_error ("%s: trace=%s and trace-dir=%s: a directory is for "
                  "trace=auto: give one of them",
                  title, trace, d->trace_dir);
    return -1;
  }
  return 0;
}

int
value_disk (struct section *s, const char *folder, struct disk_config *d)
{
  char buf[TITLE_MAX];
  const char *title = disk_title (s, buf);
  char *const *value = s->value;

  /* If no name is given, the one in the sidecar holds. */
  d->name = value[KEY_NAME];
  if (d->name && (strchr (d->name, '/') != NULL || strlen (d->name) > 255)) {
    nbdkit_error ("name=%s: a name has no '/' and at most 255 bytes", d->name);
    return -1;
  }
  if (value[KEY_STORE] == NULL) {
    nbdkit_error ("%s has no store=: give the path of its local raw image",
                  title);
    return -1;
  }
  if (value_absolute (s, KEY_STORE) == -1
      || value_absolute (s, KEY_METADATA) == -1)
    return -1;
  if (parse_trace (s, d, title) == -1)
    return -1;
  d->store = value[KEY_STORE];
  d->metadata = value[KEY_METADATA];
  if (value[KEY_BACKING] && parse_backing (s, title) == -1)
    return -1;
  d->backing = value[KEY_BACKING];
  d->command_dir = folder;

  for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
    if (parse_value (s, &values[i], d) == -1)
      return -1;
  return 0;
}
