/* entry.h - the registry: which process has which store open.
 *
 * A process that opens volumes has a directory of its own, p-XXXXXXXX, in the
 * runtime directory (runtime.h of the engine makes it), and in it one entry
 * for each: a file DEV-INO.volume (hexadecimal, of the store) of lines "KEY
 * VALUE", where control characters and backslashes in a VALUE are written as
 * \OOO (octal):
 *
 *   store PATH             as the process calls it
 *   control PATH           its control socket; left out if there is none
 *   pid N
 *   name NAME
 *   listen DEV-INO PATH    for each NBD socket file that it listens on
 *
 * Reading decides nothing about stores: an entry says who its author is, and
 * entry_speaks_for who may be believed (trust.h).
 *
 * Errors: -1 with errno.  No locks, no state.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_ENTRY_H
#define BACKFILL_ENTRY_H

#include <stddef.h>

#include "trust.h"

#define ENTRY_SUFFIX ".volume"
#define ENTRY_DIR_PREFIX "p-" /* of a process's own directory */

struct entry_socket {
  struct file_id file;
  char *path;
};

struct entry {
  struct file_id file;   /* the store's */
  char *store, *control; /* control: NULL if there is none */
  char *name;
  long pid;
  struct entry_socket *listen;
  size_t nr_listen;
  uid_t author;  /* from here on only when it is read: whose it is */
  char *process; /* and the name of his process's directory */
};
void entry_free (struct entry *entry) __attribute__ ((nonnull (1)));

/* Put it into the directory (a descriptor) of this process, in the place of an
 * older one, as a whole. */
int entry_write (int dir, const struct entry *entry)
    __attribute__ ((nonnull (2)));
int entry_remove (int dir, struct file_id file);

/* Call fn for the entries in a runtime directory, of one store or (NULL) of
 * all.  fn may take the strings away, setting them to NULL.  It ends when fn
 * returns anything but 0, which is returned; what is no entry is passed over.
 * ENOENT and the like if the directory cannot be read. */
typedef int (*entry_fn) (void *opaque, struct entry *entry);
int entries_scan (const char *base, const struct file_id *store, entry_fn fn,
                  void *opaque) __attribute__ ((nonnull (1, 3)));

/* May the entry's author be believed about the store that it names?  That is
 * looked at, which takes as long as its file system likes. */
bool entry_speaks (const struct entry *entry) __attribute__ ((nonnull (1)));
/* The same about the store that was asked for. */
bool entry_speaks_for (const struct entry *entry, const struct stat *store)
    __attribute__ ((nonnull (1, 2)));
bool entry_listens (const struct entry *entry, struct file_id socket)
    __attribute__ ((nonnull (1)));

#endif
