/* trust.h - who may be believed, and about what.  The one place that says so.
 *
 * Users share a machine, and the runtime directory (and often the folders of
 * stores) belongs to all of them.  The rule, which backfill-security(7) tells
 * the user:
 *
 * 1. What a file or a server says about a store is believed only if its
 *    author may speak for that store: root may for any, we ourselves may, and
 *    the store's owner may (trust_about).  The store is the one that was really
 *    looked at (fstat, or stat of what the user named), not one that the
 *    author names.
 * 2. A name in a folder that others write to means nothing.  Whoever wants to
 *    be found has a directory of his own there; its owner is its author
 *    (trust_open_dir), and a file in it counts if it is his, too
 *    (trust_open_file).  What is opened is asked by descriptor.
 * 3. Who answers on a socket must be the author who named it (trust_peer).
 * 4. A command names its store by device and inode (struct file_id), and the
 *    server does nothing if that is not what it has open.
 * 5. What another user names and we go to for him is reached with his rights,
 *    not with ours (struct trust_rights): else he could have us bring him what
 *    is not his to read.
 *
 * Errors: -1 with errno; EPERM where somebody may not be believed.  No locks,
 * no state.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_TRUST_H
#define BACKFILL_TRUST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* Which file it is, whatever it is called now.  Of a block device its own
 * number, and 0: it may have several names. */
struct file_id {
  uint64_t dev, ino;
};
#define FILE_ID_MAX 40
struct file_id file_id (const struct stat *sb) __attribute__ ((nonnull (1)));
bool file_id_equal (struct file_id a, struct file_id b);
/* "DEV-INO", hexadecimal; returns buf. */
const char *file_id_text (struct file_id id, char buf[FILE_ID_MAX]);
/* The same read back: false if text is anything else. */
bool file_id_parse (const char *text, struct file_id *id)
    __attribute__ ((nonnull (1, 2)));

/* May author be believed about this store?  NULL: one that we cannot see. */
bool trust_about (uid_t author, const struct stat *store);

/* Is what sb shows root's, ours or that other user's, and can nobody but its
 * owner write to it? */
bool trust_alone (const struct stat *sb, uid_t other)
    __attribute__ ((nonnull (1)));

/* Open the directory `name` in base (a descriptor), without following a link:
 * what is in it is by *author.  EPERM if others than him may write to it. */
int trust_open_dir (int base, const char *name, uid_t *author)
    __attribute__ ((nonnull (2, 3)));
/* Open a regular file in such a directory for reading, never waiting.  EPERM
 * if it is not its author's. */
int trust_open_file (int dir, const char *name, uid_t author)
    __attribute__ ((nonnull (2)));

/* Who is at the other end of a unix socket: of one that we connected, the
 * process that listens.  *pid is 0 where it cannot be seen from here; may be
 * NULL. */
int trust_peer (int fd, uid_t *uid, pid_t *pid) __attribute__ ((nonnull (2)));

/* What a user may do.  Looking him up (groups) may take as long as the name
 * service likes.  NULL with errno. */
struct trust_rights;
struct trust_rights *trust_rights_of (uid_t uid);
void trust_rights_free (struct trust_rights *rights); /* NULL is fine */
uid_t trust_rights_user (const struct trust_rights *rights)
    __attribute__ ((nonnull (1)));

/* This thread, and no other, has them from here to trust_resume; NULL: it keeps
 * its own.  EPERM if they cannot be had: only root has everybody's. */
struct trust_was {
  const struct trust_rights *rights; /* NULL: nothing was changed */
  uid_t uid;
  gid_t gid;
};
int trust_assume (const struct trust_rights *rights, struct trust_was *was)
    __attribute__ ((nonnull (2)));
/* Leaves errno alone. */
void trust_resume (const struct trust_was *was) __attribute__ ((nonnull (1)));

#endif
