/* image.h - is a file a disk image of a format that is not raw?
 *
 * Such a file's bytes are not the disk's.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_IMAGE_H
#define BACKFILL_IMAGE_H

#include <stddef.h>

/* What of a file's beginning is looked at. */
#define IMAGE_HEAD 512

/* The format by its first bytes, as QEMU calls it (static); NULL: none that is
 * known, so that it may be raw. */
const char *image_format (const void *head, size_t len)
    __attribute__ ((nonnull (1)));
/* The same of the file at path; NULL also if it cannot be read. */
const char *image_format_of (const char *path) __attribute__ ((nonnull (1)));

#endif
