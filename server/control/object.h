/* object.h - the engine's structs as JSON.  NULL on ENOMEM.
 *
 * Locking: none.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_CONTROL_OBJECT_H
#define BACKFILL_CONTROL_OBJECT_H

#include <stdint.h>

#include <jansson.h>

#include "disk.h"
#include "job.h"

/* Any bytes as a JSON string: what is not UTF-8 becomes U+FFFD. */
json_t *object_text (const char *s) __attribute__ ((nonnull (1)));
/* JSON's integers are signed: a larger n is clipped to INT64_MAX. */
json_t *object_number (uint64_t n);
/* Add a member, which is stolen.  -1 if the member or the object is NULL. */
int object_set (json_t *object, const char *key, json_t *value)
    __attribute__ ((nonnull (2)));
/* {"class", "desc"[, "errno", "errno-name"]} */
json_t *object_error (const char *class, int errnum, const char *fmt, ...)
    __attribute__ ((format (printf, 3, 4), nonnull (1, 3)));
json_t *object_disk (struct disk *disk) __attribute__ ((nonnull (1)));
/* A disk that does not answer: what is known without asking the disk. */
json_t *object_silent (struct disk *disk) __attribute__ ((nonnull (1)));
/* A disk that no process has open. */
json_t *object_peek (const struct disk_peek *peek)
    __attribute__ ((nonnull (1)));
/* JSON null if there is no job. */
json_t *object_job (const char *name, const struct job_info *info)
    __attribute__ ((nonnull (1, 2)));
json_t *object_event (const struct disk_event *event)
    __attribute__ ((nonnull (1)));

#endif
