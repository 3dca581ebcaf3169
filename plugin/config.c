/* config.c - collects the plugin's keys, and makes the configuration of them.
 *
 * Keys come in the order of the command line.  They are only collected, as
 * strings, section by section: `name=` starts a section, one for each disk.
 * config_complete looks at them all together, so that a `name=` which comes
 * after the store can still name the only disk, and has values.c fill in struct
 * disk_config.
 *
 * A disk_config's strings are its section's: they live until config_free.
 *
 * Only called before the fork, from nbdkit's main thread: no locking.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "array.h"
#include "cleanup.h"
#include "keys.h"
#include "plugin.h"

static struct section process;
static struct section *sections;
static size_t nr_sections;
static struct plugin_config config;

static struct section *
section_add (void)
{
  if (ARRAY_ROOM (sections, nr_sections) == -1) {
    nbdkit_error ("realloc: %m");
    return NULL;
  }
  memset (&sections[nr_sections], 0, sizeof sections[0]);
  return &sections[nr_sections++];
}

/* "the process", or the disk, for messages. */
static const char *
section_title (const struct section *s, char buf[TITLE_MAX])
{
  return s == &process ? "the process" : disk_title (s, buf);
}

int
config_key (const char *key, const char *value)
{
  struct section *s;
  char title[TITLE_MAX];
  size_t i;

  for (i = 0; i < NR_KEYS; i++)
    if (strcmp (keys[i].name, key) == 0)
      break;
  if (i == NR_KEYS)
    return keys_unknown (key);

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
  char title[TITLE_MAX];
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

/* Is the value a number?  Then *r is it. */
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
parse_mode (const char *value, struct control_access *access)
{
  unsigned long n;
  char *end;

  errno = 0;
  n = strtoul (value, &end, 8);
  if (!isdigit ((unsigned char)value[0]) || *end || errno || n > 0777) {
    nbdkit_error ("control-mode=%s: give an octal mode, as in 0660", value);
    return -1;
  }
  access->has_mode = true;
  access->mode = (mode_t)n;
  return 0;
}

static int
parse_user (const char *value, struct control_access *access)
{
  const struct passwd *pw = getpwnam (value);
  unsigned id;

  if (pw)
    access->user = pw->pw_uid;
  else if (parse_id (value, &id))
    access->user = id;
  else {
    nbdkit_error ("control-user=%s: no such user", value);
    return -1;
  }
  access->has_user = true;
  return 0;
}

static int
parse_group (const char *value, struct control_access *access)
{
  const struct group *gr = getgrnam (value);
  unsigned id;

  if (gr)
    access->group = gr->gr_gid;
  else if (parse_id (value, &id))
    access->group = id;
  else {
    nbdkit_error ("control-group=%s: no such group", value);
    return -1;
  }
  access->has_group = true;
  return 0;
}

/* The keys of the control socket. */
static int
parse_control (char *const *value)
{
  if (value[KEY_CONTROL] && strcmp (value[KEY_CONTROL], "off") == 0)
    config.control_off = true;
  else if (value[KEY_CONTROL]) {
    if (value_absolute (&process, KEY_CONTROL) == -1)
      return -1;
    config.control = value[KEY_CONTROL];
  }
  if ((value[KEY_CONTROL_MODE]
       && parse_mode (value[KEY_CONTROL_MODE], &config.access) == -1)
      || (value[KEY_CONTROL_USER]
          && parse_user (value[KEY_CONTROL_USER], &config.access) == -1)
      || (value[KEY_CONTROL_GROUP]
          && parse_group (value[KEY_CONTROL_GROUP], &config.access) == -1))
    return -1;
  return 0;
}

/* The keys of the process, not of a disk. */
static int
parse_process (void)
{
  char *const *value = process.value;

  if (parse_control (value) == -1
      || value_absolute (&process, KEY_RUNTIME_DIR) == -1)
    return -1;
  config.runtime_dir = value[KEY_RUNTIME_DIR];
  if (value[KEY_COMMANDS]) {
    int r = nbdkit_parse_bool (value[KEY_COMMANDS]);

    if (r == -1)
      return -1;
    for (size_t i = 0; i < nr_sections; i++)
      config.disks[i].no_command = !r;
  }
  if (value[KEY_IN_FLIGHT]
      && value_size (&process, KEY_IN_FLIGHT, 1u << 20, UINT64_C (16) << 30,
                     &config.in_flight)
             == -1)
    return -1;
  if (value[KEY_TOTAL_SPEED]
      && value_speed (&process, KEY_TOTAL_SPEED, &config.total_speed) == -1)
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
  /* NULL if it cannot be told: then commands run in /, where nbdkit will be. */
  config.folder = get_current_dir_name ();
  for (i = 0; i < nr_sections; i++)
    if (value_disk (&sections[i], config.folder, &config.disks[i]) == -1)
      return NULL;
  if (check_distinct () == -1 || parse_process () == -1)
    return NULL;
  return &config;
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
