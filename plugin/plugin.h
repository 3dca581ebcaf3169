/* plugin.h - between config.c and the rest: config.c turns the keys of the
 * command line into this, process.c works from it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_PLUGIN_H
#define BACKFILL_PLUGIN_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include "control.h"
#include "disk.h"
#include "message.h"

/* What is said goes through here, for the names and paths that are in it: they
 * may hold anything.  The log does the same. */
static inline void plugin_error (const char *fmt, ...)
    __attribute__ ((format (printf, 1, 2)));

static inline void
plugin_error (const char *fmt, ...)
{
  char *text = NULL;
  va_list ap;

  va_start (ap, fmt);
  if (vasprintf (&text, fmt, ap) == -1)
    text = NULL;
  va_end (ap);
  nbdkit_error ("%s", text ? message_clean (text) : "out of memory");
  free (text);
}
#define nbdkit_error plugin_error

/* What the keys say.  Everything in it belongs to config.c. */
struct plugin_config {
  struct disk_config *disks; /* store is set and absolute in each */
  size_t nr_disks;           /* at least 1 */
  const char *runtime_dir;   /* NULL: the default */
  char *folder;              /* that it was started in */
  bool control_off;
  const char *control; /* NULL: a name in the runtime directory */
  struct control_access access;
  uint64_t total_speed; /* 0: no limit */
  uint64_t in_flight;   /* bytes; 0: not given */
};

/* One line for each key; it starts with `KEY=`.  Empty until it was made. */
extern char config_help[];
void config_make_help (void);

/* Take one key; -1 after nbdkit_error. */
int config_key (const char *key, const char *value)
    __attribute__ ((nonnull (1, 2)));

/* No more keys will come: NULL after nbdkit_error.  Makes paths absolute, so
 * it must run before the server changes its folder. */
struct plugin_config *config_complete (void);

/* Print "KEY KEY ..." for --dump-plugin. */
void config_print_keys (void);

void config_free (void);

#endif
