/* address.h - the address of a Unix socket at a path of any length.
 *
 * sockaddr_un has room for 107 bytes.  A longer path goes through the
 * descriptor of its directory, by /proc/self/fd.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_ADDRESS_H
#define BACKFILL_ADDRESS_H

#include <sys/un.h>

/* Of the name in that directory, which must stay open while the address is
 * used.  -1 with ENAMETOOLONG. */
int address_in (struct sockaddr_un *addr, int dir, const char *name)
    __attribute__ ((nonnull (1, 3)));

/* Of a path.  *dir: to be closed when the address has been used, or -1.
 * Returns 0, or -1 with errno. */
int address_of (struct sockaddr_un *addr, const char *path, int *dir)
    __attribute__ ((nonnull (1, 2, 3)));

#endif
