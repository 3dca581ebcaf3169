/* fuzz-config.c - libFuzzer: the plugin's keys.
 *
 * The input is lines KEY=VALUE, as nbdkit's command line has them.  What must
 * hold: a value is taken or refused with a message; what comes out is within
 * the bounds that the engine was promised (disk.h, plugin.h).
 *
 * nbdkit's functions are stood in for: they belong to its server.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "bytes.h"
#include "cleanup.h"
#include "pieces.h"
#include "plugin.h"

/* The one of nbdkit is what we are here. */
#undef nbdkit_error

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

static unsigned errors;

void
nbdkit_error (const char *fmt, ...)
{
  CLEANUP_FREE char *text = NULL;
  va_list ap;

  va_start (ap, fmt);
  CHECK (vasprintf (&text, fmt, ap) >= 0);
  va_end (ap);
  errors++;
}

char *
nbdkit_absolute_path (const char *path)
{
  char *s;

  if (*path == '/')
    return strdup (path);
  CHECK (asprintf (&s, "/cwd/%s", path) >= 0);
  return s;
}

/* -1 after an error, as the real one: negative, letters, overflow. */
int64_t
nbdkit_parse_size (const char *str)
{
  static const char suffixes[] = "bkmgtpe";
  const char *suffix;
  uint64_t n;
  char *end;

  errno = 0;
  n = strtoull (str, &end, 10);
  if (end == str || errno || strchr (str, '-'))
    goto bad;
  if (*end) {
    suffix = strchr (suffixes, tolower ((unsigned char)*end));
    if (end[1] || !suffix)
      goto bad;
    for (; suffix > suffixes; suffix--)
      if (n > INT64_MAX / 1024)
        goto bad;
      else
        n *= 1024;
  }
  if (n <= INT64_MAX)
    return (int64_t)n;

bad:
  nbdkit_error ("%s", str);
  return -1;
}

int
nbdkit_parse_bool (const char *str)
{
  static const char *const words[2][5] = { { "0", "off", "no", "false", "n" },
                                           { "1", "on", "yes", "true", "y" } };

  for (int b = 0; b < 2; b++)
    for (unsigned i = 0; i < 5; i++)
      if (strcasecmp (words[b][i], str) == 0)
        return b;
  nbdkit_error ("%s", str);
  return -1;
}

int
nbdkit_parse_unsigned (const char *what, const char *str, unsigned *r)
{
  unsigned long n;
  char *end;

  errno = 0;
  n = strtoul (str, &end, 0);
  if (end == str || *end || errno || n > UINT32_MAX || strchr (str, '-')) {
    nbdkit_error ("%s: %s", what, str);
    return -1;
  }
  *r = (unsigned)n;
  return 0;
}

static void
check_disk (const struct disk_config *d)
{
  CHECK (d->store && d->store[0] == '/');
  CHECK (!d->metadata || d->metadata[0] == '/');
  CHECK (!d->name || (!strchr (d->name, '/') && strlen (d->name) <= 255));
  CHECK (!d->backing || d->backing[0] == '[' || strchr (d->backing, ':'));
  CHECK (d->has_size || d->size == 0);
  CHECK (d->size <= INT64_MAX);
  CHECK (d->granule == 0
         || (is_power_of_2 (d->granule) && d->granule >= 512
             && d->granule <= 65536));
  CHECK (d->fetch_unit == 0
         || (is_power_of_2 (d->fetch_unit) && d->fetch_unit >= 4096
             && d->fetch_unit <= SOURCE_MAX_REQUEST));
  CHECK (d->adopt >= DISK_ADOPT_NONE && d->adopt <= DISK_ADOPT_MOVED);
  CHECK (d->connections <= 16);
  /* 24 days: the sum with any clock is far from its end. */
  CHECK (d->timeout <= INT32_MAX && d->allocate.retry <= INT32_MAX);
  CHECK (d->allocate.on_error == JOB_ON_ERROR_REPORT
         || d->allocate.on_error == JOB_ON_ERROR_SKIP);
  CHECK (d->allocate.offset <= INT64_MAX && d->allocate.length <= INT64_MAX);
  CHECK (!(d->has_allocate && d->read_only));
}

static void
check_config (const struct plugin_config *c)
{
  CHECK (c->nr_disks >= 1);
  for (size_t i = 0; i < c->nr_disks; i++) {
    check_disk (&c->disks[i]);
    for (size_t j = 0; j < i; j++)
      CHECK (strcmp (c->disks[i].store, c->disks[j].store) != 0);
  }
  CHECK (!c->control || c->control[0] == '/');
  CHECK (!c->runtime_dir || c->runtime_dir[0] == '/');
  CHECK (c->access.mode <= 0777 && c->total_speed <= INT64_MAX);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  CLEANUP_FREE char *text = strndup ((const char *)data, size);
  struct plugin_config *config = NULL;
  char *line, *save = NULL;
  int r = 0;

  CHECK (text);
  if (config_help[0] == '\0')
    config_make_help ();
  errors = 0;
  for (line = strtok_r (text, "\n", &save); line && r == 0;
       line = strtok_r (NULL, "\n", &save)) {
    char *value = strchr (line, '=');

    /* A bare word is the store. */
    if (value)
      *value++ = '\0';
    r = value ? config_key (line, value) : config_key ("store", line);
    CHECK (r == (errors ? -1 : 0));
  }
  if (r == 0) {
    config = config_complete ();
    CHECK (!config == !!errors);
    if (config)
      check_config (config);
  }
  config_free ();
  return 0;
}
