/* message.h - error messages that travel up to whoever can show them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_MESSAGE_H
#define BACKFILL_MESSAGE_H

/* Set *error to a malloc'd text, freeing what was there.  Takes %m and keeps
 * errno.  Never leaves it NULL: out of memory gives a copy of a short text,
 * or aborts. */
void message_set (char **error, const char *fmt, ...)
    __attribute__ ((format (printf, 2, 3), nonnull (1, 2)));

/* In place: what could drive a terminal, begin a new line in a log, or is not
 * UTF-8 becomes '?'.  Names and paths are other people's.  Returns text, which
 * may be NULL. */
char *message_clean (char *text);

#endif
