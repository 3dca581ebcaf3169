/* config.c - the plugin's keys.
 *
 * One table (KEYS) declares every key: its name, whether it is a disk's or
 * the process's, and its line of help.  Keys come in the order of the command
 * line.  They are only collected, as strings, section by section: `name=`
 * starts a section, one for each disk.  config_complete looks at them all
 * together, so that a `name=` which comes after the store can still name the
 * only disk, and fills in struct disk_config.
 *
 * A disk_config's strings are its section's: they live until config_free.
 * Nothing here knows what a sidecar says; what is not given stays "not
 * given", and the engine finds the value.
 *
 * Only called before the fork, from nbdkit's main thread: no locking.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "bytes.h"
#include "cleanup.h"
#include "image.h"
#include "plugin.h"
#include "units.h"

enum scope { SCOPE_DISK, SCOPE_PROCESS };

/* id, name, value, scope, help.  `store` is the one a bare word means. */
#define KEYS(K)                                                              \
  K (STORE, "store", "PATH", SCOPE_DISK, "(required) local raw image")       \
  K (BACKING, "backing", "URI|'[ CMD ... ]'", SCOPE_DISK,                    \
     "where absent data comes from: an NBD URI or a command")                \
  K (NAME, "name", "NAME", SCOPE_DISK,                                       \
     "starts a disk: its name, and its export's")                            \
  K (SIZE, "size", "SIZE", SCOPE_DISK, "default: the backing store's")       \
  K (GRANULE, "granule", "SIZE", SCOPE_DISK,                                 \
     "unit of tracking, 512 to 64K, default 4K")                             \
  K (METADATA, "metadata", "PATH", SCOPE_DISK,                               \
     "sidecar, default STORE.backfill")                                      \
  K (ADOPT, "adopt", "local|absent|moved", SCOPE_DISK,                       \
     "what an existing store without a sidecar holds")                       \
  K (DISCARD, "discard-unflushed", "yes|no", SCOPE_DISK,                     \
     "open although unflushed writes are lost")                              \
  K (READONLY, "readonly", "on|off", SCOPE_DISK,                             \
     "write nothing, neither store nor sidecar")                             \
  K (IDENTITY, "identity", "content|size", SCOPE_DISK,                       \
     "what the backing store is known by, default content")                  \
  K (ALLOCATE, "allocate", "on|off|OFFSET+LENGTH", SCOPE_DISK,               \
     "start a job at start-up, default off")                                 \
  K (SPEED, "speed", "SIZE", SCOPE_DISK,                                     \
     "its limit, bytes per second, default 0: none")                         \
  K (MODE, "allocate-mode", "sparse|full", SCOPE_DISK,                       \
     "zeros as holes (default) or allocated")                                \
  K (ON_ERROR, "on-error", "report|skip", SCOPE_DISK,                        \
     "a range that cannot be read ends the job (default) or not")            \
  K (TIMEOUT, "timeout", "TIME", SCOPE_DISK,                                 \
     "how long reads wait for a lost source, default 30s")                   \
  K (RETRY, "retry", "TIME|forever", SCOPE_DISK,                             \
     "how long jobs try again, default forever")                             \
  K (FETCH, "fetch", "SIZE", SCOPE_DISK, "fetch unit, 4K to 2M, default 1M") \
  K (CONNECTIONS, "connections", "N", SCOPE_DISK,                            \
     "to the backing store, 1 to 16, default 4")                             \
  K (CONTROL, "control", "PATH|off", SCOPE_PROCESS,                          \
     "control socket, default in the runtime directory")                     \
  K (CONTROL_MODE, "control-mode", "OCTAL", SCOPE_PROCESS,                   \
     "its mode, default 0600")                                               \
  K (CONTROL_USER, "control-user", "USER", SCOPE_PROCESS,                    \
     "its owner, a name or number")                                          \
  K (CONTROL_GROUP, "control-group", "GROUP", SCOPE_PROCESS,                 \
     "its group, a name or number")                                          \
  K (RUNTIME_DIR, "runtime-dir", "PATH", SCOPE_PROCESS,                      \
     "default /run/backfill or $XDG_RUNTIME_DIR/backfill")                   \
  K (TOTAL_SPEED, "total-speed", "SIZE", SCOPE_PROCESS,                      \
     "limit of all jobs together, default 0: none")                          \
  K (COMMANDS, "commands", "on|off", SCOPE_PROCESS,                          \
     "off: a backing store [ CMD ... ] is refused, default on")

#define KEY_ID(id, name, arg, scope, help) KEY_##id,
enum key { KEYS (KEY_ID) NR_KEYS };

#define KEY_ROW(id, name, arg, scope, help) { name, arg, help, scope },
static const struct {
  const char *name, *arg, *help;
  enum scope scope;
} keys[NR_KEYS] = { KEYS (KEY_ROW) };

char config_help[NR_KEYS * 100];

/* The values of one disk's keys, or of the process's. */
struct section {
  char *value[NR_KEYS]; /* NULL: not given */
};

static struct section process;
static struct section *sections;
static size_t nr_sections;
static struct plugin_config config;

static struct section *
section_add (void)
{
  struct section *p
      = realloc (sections, (nr_sections + 1) * sizeof (struct section));

  if (p == NULL) {
    nbdkit_error ("realloc: %m");
    return NULL;
  }
  sections = p;
  p += nr_sections++;
  memset (p, 0, sizeof *p);
  return p;
}

void
config_make_help (void)
{
  char left[100];
  size_t n = 0, i;

  for (i = 0; i < NR_KEYS; i++) {
    snprintf (left, sizeof left, "%s=%s", keys[i].name, keys[i].arg);
    n += snprintf (config_help + n, sizeof config_help - n, "%-30s %s\n", left,
                   keys[i].help);
  }
}

/* "disk 'vda'", for messages. */
static const char *
section_title (const struct section *s, char buf[300])
{
  const char *name = s->value[KEY_NAME];

  if (s == &process)
    return "the process";
  if (name == NULL || *name == '\0')
    return "the disk";
  snprintf (buf, 300, "disk '%s'", name);
  return buf;
}

static int
unknown_key (const char *key)
{
  char list[2][1024] = { "", "" };
  size_t i;

  for (i = 0; i < NR_KEYS; i++) {
    char *p = list[keys[i].scope];
    size_t n = strlen (p);

    snprintf (p + n, sizeof list[0] - n, "%s%s", n ? " " : "", keys[i].name);
  }
  nbdkit_error ("unknown key '%s': a disk has the keys %s; the process has %s",
                key, list[SCOPE_DISK], list[SCOPE_PROCESS]);
  return -1;
}

int
config_key (const char *key, const char *value)
{
  struct section *s;
  char title[300];
  size_t i;

  for (i = 0; i < NR_KEYS; i++)
    if (strcmp (keys[i].name, key) == 0)
      break;
  if (i == NR_KEYS)
    return unknown_key (key);

  if (i == KEY_BACKING && strcmp (value, "[") == 0) {
    nbdkit_error ("backing=[ came without its command: quote the whole, as "
                  "in backing='[ nbdkit file golden.img ]'");
    return -1;
  }

  if (keys[i].scope == SCOPE_PROCESS)
    s = &process;
  else if (nr_sections == 0 || i == KEY_NAME)
    s = section_add ();
  else
    s = &sections[nr_sections - 1];
  if (s == NULL)
    return -1;

  if (s->value[i] != NULL) {
    nbdkit_error ("%s=%s: %s has %s=%s already%s", key, value,
                  section_title (s, title), key, s->value[i],
                  s == &process ? ""
                                : "; to start another disk, put name= "
                                  "before its keys");
    return -1;
  }
  s->value[i] = strdup (value);
  if (s->value[i] == NULL) {
    nbdkit_error ("strdup: %m");
    return -1;
  }
  return 0;
}

/* `STORE backing=URI name=vda` says one disk, not two: a section that has a
 * name and no store belongs to a nameless one before it. */
static int
merge_sections (void)
{
  struct section *s, *next;
  char title[300];
  size_t i, j;

  for (i = 0; i + 1 < nr_sections;) {
    s = &sections[i];
    next = s + 1;
    if (s->value[KEY_NAME] != NULL || next->value[KEY_STORE] != NULL) {
      i++;
      continue;
    }
    for (j = 0; j < NR_KEYS; j++) {
      if (next->value[j] == NULL)
        continue;
      if (s->value[j] != NULL) {
        nbdkit_error ("%s has no store= (and %s= is given twice, if it is to "
                      "be the disk before it)",
                      section_title (next, title), keys[j].name);
        return -1;
      }
      s->value[j] = next->value[j];
      next->value[j] = NULL;
    }
    memmove (next, next + 1, (nr_sections - i - 2) * sizeof (struct section));
    nr_sections--;
  }
  return 0;
}

/* Replace a path by the absolute one. */
static int
make_absolute (struct section *s, enum key key)
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
parse_size (const struct section *s, enum key key, uint64_t *r)
{
  const char *why;

  if (units_size (s->value[key], r, &why) == -1) {
    nbdkit_error ("%s=%s: not a size: %s", keys[key].name, s->value[key], why);
    return -1;
  }
  return 0;
}

/* A limit in bytes a second, 0: none. */
static int
parse_speed (const struct section *s, enum key key, uint64_t *r)
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
parse_bool (const struct section *s, enum key key, bool *r)
{
  int b = nbdkit_parse_bool (s->value[key]);

  if (b == -1) {
    nbdkit_error ("%s=%s: give on or off", keys[key].name, s->value[key]);
    return -1;
  }
  *r = b;
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
parse_allocate (const struct section *s, struct disk_config *d)
{
  const char *value = s->value[KEY_ALLOCATE], *plus = strchr (value, '+');
  CLEANUP_FREE char *first = NULL;
  uint64_t offset, length;
  const char *why;

  if (plus == NULL)
    return parse_bool (s, KEY_ALLOCATE, &d->has_allocate);

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

/* The command that serves this file, for a message: nbdkit's file plugin serves
 * a file's bytes, which are not the disk's where it is a qcow2 image. */
static void
print_command_for (char *buf, size_t size, const char *path)
{
  const char *format = image_format_of (path), *dot = strrchr (path, '.');

  /* Not there, or not to be read by us. */
  if (format == NULL && dot != NULL && strcmp (dot, ".qcow2") == 0
      && access (path, R_OK) == -1)
    format = "qcow2";
  if (format != NULL)
    snprintf (buf, size, "[ qemu-nbd -r -t -f %s %s ]", format, path);
  else
    snprintf (buf, size, "[ nbdkit file %s ]", *path ? path : "PATH");
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
  if (strstr (value, ":") == NULL) {
    char command[4096];

    print_command_for (command, sizeof command, value);
    nbdkit_error ("%s: backing=%s is not an NBD URI: give one as in "
                  "nbd://host/export or nbd+unix:///?socket=PATH, or a "
                  "command as in '%s'",
                  title, value, command);
    return -1;
  }
  uri = absolute_uri (value);
  if (uri == NULL) {
    nbdkit_error ("%s: backing=%s: %m", title, value);
    return -1;
  }
  free (s->value[KEY_BACKING]);
  s->value[KEY_BACKING] = uri;
  return 0;
}

/* One section to one disk_config; whatever is not given stays 0. */
static int
parse_disk (struct section *s, struct disk_config *d)
{
  static const char *const adopts[] = { "local", "absent", "moved", NULL };
  static const char *const modes[] = { "sparse", "full", NULL };
  static const char *const errors[] = { "report", "skip", NULL };
  static const char *const identities[] = { "content", "size", NULL };
  char buf[300];
  const char *title = section_title (s, buf);
  char *const *value = s->value;
  unsigned n;

  /* Without one the recorded name holds. */
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
  if (make_absolute (s, KEY_STORE) == -1
      || make_absolute (s, KEY_METADATA) == -1)
    return -1;
  d->store = value[KEY_STORE];
  d->metadata = value[KEY_METADATA];
  if (value[KEY_BACKING] && parse_backing (s, title) == -1)
    return -1;
  d->backing = value[KEY_BACKING];
  d->command_dir = config.folder;

  if (value[KEY_SIZE]) {
    if (parse_size (s, KEY_SIZE, &d->size) == -1)
      return -1;
    d->has_size = true;
  }
  if (value[KEY_GRANULE]
      && parse_power (s, KEY_GRANULE, 512, 65536, &d->granule) == -1)
    return -1;
  if (value[KEY_FETCH]
      && parse_power (s, KEY_FETCH, 4096, SOURCE_MAX_REQUEST, &d->fetch_unit)
             == -1)
    return -1;

  if (value[KEY_ADOPT]) {
    if (parse_word (s, KEY_ADOPT, adopts, &n) == -1)
      return -1;
    d->adopt = (enum disk_adopt[]){ DISK_ADOPT_LOCAL, DISK_ADOPT_ABSENT,
                                    DISK_ADOPT_MOVED }[n];
  }
  if (value[KEY_DISCARD]
      && parse_bool (s, KEY_DISCARD, &d->discard_unflushed) == -1)
    return -1;
  if (value[KEY_READONLY] && parse_bool (s, KEY_READONLY, &d->read_only) == -1)
    return -1;
  if (value[KEY_IDENTITY]) {
    if (parse_word (s, KEY_IDENTITY, identities, &n) == -1)
      return -1;
    d->has_identity = true;
    d->identity_size = n == 1;
  }

  if (value[KEY_ALLOCATE] && parse_allocate (s, d) == -1)
    return -1;
  if (d->has_allocate && d->read_only) {
    nbdkit_error ("%s: allocate= writes, readonly=on forbids it: give one of "
                  "them",
                  title);
    return -1;
  }
  if (value[KEY_SPEED] && parse_speed (s, KEY_SPEED, &d->allocate.speed) == -1)
    return -1;
  if (value[KEY_MODE]) {
    if (parse_word (s, KEY_MODE, modes, &n) == -1)
      return -1;
    d->allocate.full = n == 1;
  }
  if (value[KEY_ON_ERROR]) {
    if (parse_word (s, KEY_ON_ERROR, errors, &n) == -1)
      return -1;
    d->allocate.on_error = n ? JOB_ON_ERROR_SKIP : JOB_ON_ERROR_REPORT;
  }
  if (value[KEY_TIMEOUT]) {
    if (parse_time (s, KEY_TIMEOUT, &d->timeout) == -1)
      return -1;
    if (d->timeout == UNITS_FOREVER) {
      nbdkit_error ("timeout=forever: a guest would hang: give a time, up to a "
                    "year");
      return -1;
    }
  }
  if (value[KEY_RETRY]) {
    if (parse_time (s, KEY_RETRY, &d->allocate.retry) == -1)
      return -1;
    /* The engine's for ever. */
    if (d->allocate.retry == UNITS_FOREVER)
      d->allocate.retry = 0;
  }
  if (value[KEY_CONNECTIONS]) {
    if (nbdkit_parse_unsigned ("connections", value[KEY_CONNECTIONS],
                               &d->connections)
        == -1)
      return -1;
    if (d->connections < 1 || d->connections > 16) {
      nbdkit_error ("connections=%s: give 1 to 16", value[KEY_CONNECTIONS]);
      return -1;
    }
  }
  return 0;
}

static const char *
shown_name (size_t i)
{
  return config.disks[i].name ? config.disks[i].name : "";
}

static int
check_distinct (void)
{
  size_t i, j;

  for (i = 0; i < nr_sections; i++)
    for (j = 0; j < i; j++) {
      if (strcmp (shown_name (i), shown_name (j)) == 0) {
        nbdkit_error ("two disks are named '%s': give each its own name=",
                      shown_name (i));
        return -1;
      }
      if (strcmp (config.disks[i].store, config.disks[j].store) == 0) {
        nbdkit_error ("disks '%s' and '%s' have the same store, %s",
                      shown_name (j), shown_name (i), config.disks[i].store);
        return -1;
      }
    }
  return 0;
}

/* A number as it stands; *r is left alone if it is none. */
static bool
parse_id (const char *value, unsigned *r)
{
  unsigned long n;
  char *end;

  if (!isdigit ((unsigned char)value[0]))
    return false;
  errno = 0;
  n = strtoul (value, &end, 10);
  if (*end || errno || n >= UINT_MAX)
    return false;
  *r = n;
  return true;
}

static int
parse_process (void)
{
  char *const *value = process.value;
  unsigned id;

  if (value[KEY_CONTROL]) {
    if (strcmp (value[KEY_CONTROL], "off") == 0)
      config.control_off = true;
    else {
      if (make_absolute (&process, KEY_CONTROL) == -1)
        return -1;
      config.control = value[KEY_CONTROL];
    }
  }
  if (value[KEY_CONTROL_MODE]) {
    unsigned long n;
    char *end;

    errno = 0;
    n = strtoul (value[KEY_CONTROL_MODE], &end, 8);
    if (!isdigit ((unsigned char)value[KEY_CONTROL_MODE][0]) || *end || errno
        || n > 0777) {
      nbdkit_error ("control-mode=%s: give an octal mode, as in 0660",
                    value[KEY_CONTROL_MODE]);
      return -1;
    }
    config.has_control_mode = true;
    config.control_mode = n;
  }
  if (value[KEY_CONTROL_USER]) {
    const struct passwd *pw = getpwnam (value[KEY_CONTROL_USER]);

    if (pw)
      config.control_user = pw->pw_uid;
    else if (parse_id (value[KEY_CONTROL_USER], &id))
      config.control_user = id;
    else {
      nbdkit_error ("control-user=%s: no such user", value[KEY_CONTROL_USER]);
      return -1;
    }
    config.has_control_user = true;
  }
  if (value[KEY_CONTROL_GROUP]) {
    const struct group *gr = getgrnam (value[KEY_CONTROL_GROUP]);

    if (gr)
      config.control_group = gr->gr_gid;
    else if (parse_id (value[KEY_CONTROL_GROUP], &id))
      config.control_group = id;
    else {
      nbdkit_error ("control-group=%s: no such group",
                    value[KEY_CONTROL_GROUP]);
      return -1;
    }
    config.has_control_group = true;
  }
  if (make_absolute (&process, KEY_RUNTIME_DIR) == -1)
    return -1;
  config.runtime_dir = value[KEY_RUNTIME_DIR];
  if (value[KEY_COMMANDS]) {
    int r = nbdkit_parse_bool (value[KEY_COMMANDS]);

    if (r == -1)
      return -1;
    for (size_t i = 0; i < nr_sections; i++)
      config.disks[i].no_command = !r;
  }
  if (value[KEY_TOTAL_SPEED]
      && parse_speed (&process, KEY_TOTAL_SPEED, &config.total_speed) == -1)
    return -1;
  return 0;
}

struct plugin_config *
config_complete (void)
{
  size_t i;

  if (nr_sections == 0) {
    nbdkit_error ("no disk: give the path of its local raw image, as in "
                  "nbdkit backfill disk.img backing=nbd://host");
    return NULL;
  }
  if (merge_sections () == -1)
    return NULL;
  config.disks = calloc (nr_sections, sizeof (struct disk_config));
  if (config.disks == NULL) {
    nbdkit_error ("calloc: %m");
    return NULL;
  }
  config.nr_disks = nr_sections;
  /* If it cannot be told: /, where nbdkit will be. */
  config.folder = get_current_dir_name ();
  for (i = 0; i < nr_sections; i++)
    if (parse_disk (&sections[i], &config.disks[i]) == -1)
      return NULL;
  if (check_distinct () == -1 || parse_process () == -1)
    return NULL;
  return &config;
}

void
config_print_keys (void)
{
  size_t i;

  for (i = 0; i < NR_KEYS; i++)
    printf ("%s%s", i ? " " : "", keys[i].name);
}

void
config_free (void)
{
  size_t i, j;

  for (j = 0; j < NR_KEYS; j++) {
    free (process.value[j]);
    for (i = 0; i < nr_sections; i++)
      free (sections[i].value[j]);
  }
  free (sections);
  free (config.disks);
  free (config.folder);
  sections = NULL;
  nr_sections = 0;
  memset (&process, 0, sizeof process);
  memset (&config, 0, sizeof config);
}
