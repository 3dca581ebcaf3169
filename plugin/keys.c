/* keys.c - the rows of the table, and what shows them.  See keys.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "keys.h"
#include "plugin.h"

#define KEY_ROW(id, name, arg, scope, help) { name, arg, help, scope },
const struct key_row keys[NR_KEYS] = { KEYS (KEY_ROW) };

char config_help[NR_KEYS * 100];

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

void
config_print_keys (void)
{
  size_t i;

  for (i = 0; i < NR_KEYS; i++)
    printf ("%s%s", i ? " " : "", keys[i].name);
}

const char *
disk_title (const struct section *s, char buf[TITLE_MAX])
{
  const char *name = s->value[KEY_NAME];

  if (name == NULL || *name == '\0')
    return "the disk";
  snprintf (buf, TITLE_MAX, "disk '%s'", name);
  return buf;
}

int
keys_unknown (const char *key)
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
