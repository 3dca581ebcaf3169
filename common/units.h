/* units.h - sizes, speeds and times as people write them: one way for the
 * plugin's keys, the command's options and backfilld's.
 *
 * size   bytes, or a whole number with one of nbdkit's suffixes: b k M G T P E
 *        (times 1024, any case), s (512 bytes); at most INT64_MAX
 * speed  a size, for each second; 0 and "none" are no limit
 * time   seconds, or a whole number with ms, s, m, h or d, at most a year; 0 is
 *        no time at all, and "forever" is without end
 *
 * Shapes: bytes and milliseconds.
 * Errors: -1, with a static text in *why, and nothing in *r.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_UNITS_H
#define BACKFILL_UNITS_H

#include <stdint.h>

#define UNITS_FOREVER UINT64_MAX

int units_size (const char *text, uint64_t *r, const char **why)
    __attribute__ ((nonnull (1, 2, 3)));
int units_speed (const char *text, uint64_t *r, const char **why)
    __attribute__ ((nonnull (1, 2, 3)));
int units_time (const char *text, uint64_t *r, const char **why)
    __attribute__ ((nonnull (1, 2, 3)));

#endif
