/* reply.c - JSON answers into the structs of backfill.h.
 *
 * The server is not trusted to keep its own protocol: every member that is
 * taken is checked for type and range, sums that must hold are checked, and
 * a page of a map must go forward, so that nothing a server says can make a
 * client loop, overrun or report nonsense.  Members that are not known are
 * skipped: a newer server may send more.
 *
 * Locking: none; pure functions.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <limits.h>

#include "client.h"

static int
bad_member (const char *what, const char *member)
{
  return error_set (EPROTO,
                    "the server's answer makes no sense: %s has no proper "
                    "'%s'",
                    what, member);
}

static int
get_uint (const json_t *object, const char *what, const char *member,
          uint64_t *n)
{
  const json_t *value = json_object_get (object, member);

  if (!json_is_integer (value) || json_integer_value (value) < 0)
    return bad_member (what, member);
  *n = (uint64_t)json_integer_value (value);
  return 0;
}

/* Absent: *n is left as it is. */
static int
get_optional_uint (const json_t *object, const char *what, const char *member,
                   uint64_t *n)
{
  if (json_object_get (object, member) == NULL)
    return 0;
  return get_uint (object, what, member, n);
}

static int
get_bool (const json_t *object, const char *what, const char *member, int *b)
{
  const json_t *value = json_object_get (object, member);

  if (!json_is_boolean (value))
    return bad_member (what, member);
  *b = json_is_true (value);
  return 0;
}

/* Absent or null: *s is NULL. */
static int
get_optional_string (const json_t *object, const char *what, const char *member,
                     char **s)
{
  const json_t *value = json_object_get (object, member);

  *s = NULL;
  if (value == NULL || json_is_null (value))
    return 0;
  if (!json_is_string (value))
    return bad_member (what, member);
  *s = strdup (json_string_value (value));
  if (*s == NULL)
    error_nomem ();
  return *s == NULL ? -1 : 0;
}

static int
get_string (const json_t *object, const char *what, const char *member,
            char **s)
{
  if (!json_is_string (json_object_get (object, member)))
    return bad_member (what, member);
  return get_optional_string (object, what, member, s);
}

/* Position of a word in a list that ends with NULL; -1 if it is not there. */
static int
get_word (const json_t *object, const char *what, const char *member,
          const char *const *words, int *n)
{
  const char *s = json_string_value (json_object_get (object, member));

  if (s != NULL)
    for (int i = 0; words[i] != NULL; i++)
      if (strcmp (words[i], s) == 0) {
        *n = i;
        return 0;
      }
  return bad_member (what, member);
}

/* In the order of the enums of backfill.h. */
static const char *const type_words[] = { "none",      "bounded", "unbounded",
                                          "completed", "failed",  "cancelled",
                                          NULL };
static const char *const status_words[]
    = { "null",    "created",  "running",   "paused",
        "waiting", "aborting", "concluded", NULL };
static const char *const pause_words[] = { "none", "user", "nospace", NULL };
static const char *const on_error_words[] = { "report", "skip", NULL };
static const char *const state_words[] = { "local", "absent", "zero", NULL };

int
reply_job (const json_t *value, struct backfill_job_info *info)
{
  static const char what[] = "a job";
  const json_t *text;
  uint64_t n = 0;

  memset (info, 0, sizeof *info);
  info->struct_size = sizeof *info;
  info->failed_offset = UINT64_MAX;
  if (value == NULL || json_is_null (value))
    return 0;
  if (!json_is_object (value))
    return bad_member ("a disk", "job");

  if (get_word (value, what, "job-type", type_words, &info->type) == -1
      || get_word (value, what, "status", status_words, &info->status) == -1
      || get_word (value, what, "pause-reason", pause_words,
                   &info->pause_reason)
             == -1
      || get_word (value, what, "on-error", on_error_words, &info->on_error)
             == -1
      || get_bool (value, what, "sparse", &info->sparse) == -1
      || get_uint (value, what, "time-elapsed", &info->time_elapsed) == -1
      || get_uint (value, what, "time-remaining", &info->time_remaining) == -1
      || get_uint (value, what, "total", &info->data_total) == -1
      || get_uint (value, what, "processed", &info->data_processed) == -1
      || get_uint (value, what, "remaining", &info->data_remaining) == -1
      || get_uint (value, what, "range-offset", &info->range_offset) == -1
      || get_uint (value, what, "range-length", &info->range_length) == -1
      || get_uint (value, what, "local-at-start", &info->local_at_start) == -1
      || get_uint (value, what, "bytes-read", &info->bytes_read) == -1
      || get_uint (value, what, "speed", &info->speed) == -1
      || get_uint (value, what, "current-speed", &info->current_speed) == -1
      || get_uint (value, what, "failed-ranges", &info->failed_ranges) == -1
      || get_optional_uint (value, what, "number", &info->number) == -1
      || get_optional_uint (value, what, "errno", &n) == -1
      || get_optional_uint (value, what, "failed-offset", &info->failed_offset)
             == -1)
    return -1;
  if (n > INT_MAX)
    return bad_member (what, "errno");
  info->errnum = (int)n;
  /* Neither overflows: both come from 63-bit numbers. */
  if (info->data_processed + info->data_remaining != info->data_total)
    return error_set (EPROTO, "the server's answer makes no sense: a job's "
                              "processed and remaining bytes are not its "
                              "total");
  text = json_object_get (value, "error");
  if (text != NULL) {
    if (!json_is_string (text))
      return bad_member (what, "error");
    snprintf (info->error, sizeof info->error, "%s", json_string_value (text));
  }
  return 0;
}

int
reply_number (const json_t *value, uint64_t *number)
{
  *number = 0;
  return get_optional_uint (value, "a started job", "number", number);
}

void
backfill_free_disk_info (struct backfill_disk_info *info)
{
  if (info == NULL)
    return;
  free (info->name);
  free (info->store);
  free (info->metadata);
  free (info->backing);
  free (info->source);
  free (info->source_reason);
  free (info->sync_error);
  free (info->unanswered);
  free (info);
}

void
backfill_free_disks (struct backfill_disk_info **disks)
{
  if (disks == NULL)
    return;
  for (size_t i = 0; disks[i] != NULL; i++)
    backfill_free_disk_info (disks[i]);
  free (disks);
}

struct backfill_disk_info *
reply_disk (const json_t *value)
{
  static const char what[] = "a disk";
  struct backfill_disk_info *info = calloc (1, sizeof *info);
  const json_t *stats, *damaged;
  uint64_t granule;

  if (info == NULL)
    return error_nomem ();
  info->struct_size = sizeof *info;
  if (get_string (value, what, "name", &info->name) == -1
      || get_string (value, what, "store", &info->store) == -1
      || get_optional_string (value, what, "unanswered", &info->unanswered)
             == -1)
    goto error;
  if (info->unanswered != NULL)
    return info;
  if (get_optional_string (value, what, "metadata", &info->metadata) == -1
      || get_optional_string (value, what, "backing", &info->backing) == -1
      || get_uint (value, what, "size", &info->size) == -1
      || get_uint (value, what, "local", &info->local) == -1
      || get_uint (value, what, "absent", &info->absent) == -1
      || get_uint (value, what, "granule", &granule) == -1
      || get_string (value, what, "source", &info->source) == -1
      || get_optional_string (value, what, "source-reason",
                              &info->source_reason)
             == -1
      || get_bool (value, what, "complete", &info->complete) == -1
      || get_bool (value, what, "detached", &info->detached) == -1
      || get_bool (value, what, "read-only", &info->read_only) == -1
      || get_optional_string (value, what, "sync-error", &info->sync_error)
             == -1
      || reply_job (json_object_get (value, "job"), &info->job) == -1)
    goto error;
  if (granule == 0 || granule > UINT32_MAX) {
    bad_member (what, "granule");
    goto error;
  }
  info->granule = (uint32_t)granule;
  if (info->local + info->absent != info->size) {
    error_set (EPROTO, "the server's answer makes no sense: a disk's local "
                       "and absent bytes are not its size");
    goto error;
  }
  damaged = json_object_get (value, "damaged");
  if (damaged != NULL && !json_is_null (damaged)
      && (get_uint (damaged, "damage", "sectors", &info->damaged_sectors) == -1
          || get_uint (damaged, "damage", "offset", &info->damaged_offset) == -1
          || get_uint (damaged, "damage", "length", &info->damaged_length)
                 == -1))
    goto error;
  stats = json_object_get (value, "stats");
  if (get_optional_uint (stats, "stats", "bytes-fetched", &info->bytes_fetched)
          == -1
      || get_optional_uint (stats, "stats", "demand-fetches",
                            &info->demand_fetches)
             == -1
      || get_optional_uint (stats, "stats", "ahead-fetches",
                            &info->ahead_fetches)
             == -1
      || get_optional_uint (stats, "stats", "background-fetches",
                            &info->background_fetches)
             == -1
      || get_optional_uint (stats, "stats", "guest-reads", &info->guest_reads)
             == -1
      || get_optional_uint (stats, "stats", "guest-writes", &info->guest_writes)
             == -1
      || get_optional_uint (stats, "stats", "flushes", &info->flushes) == -1
      || get_optional_uint (stats, "stats", "commits", &info->commits) == -1)
    goto error;
  return info;

error:
  backfill_free_disk_info (info);
  return NULL;
}

void
backfill_free_event (struct backfill_event *event)
{
  if (event == NULL)
    return;
  free (event->event);
  free (event->disk);
  free (event->status);
  free (event->error);
  free (event->reason);
  free (event->operation);
  free (event->action);
  free (event->json);
  free (event);
}

struct backfill_event *
reply_event (const json_t *value)
{
  static const char what[] = "an event";
  const json_t *data = json_object_get (value, "data");
  const json_t *stamp = json_object_get (value, "timestamp");
  struct backfill_event *ev = calloc (1, sizeof *ev);

  if (ev == NULL)
    return error_nomem ();
  ev->struct_size = sizeof *ev;
  if (get_string (value, what, "event", &ev->event) == -1
      || get_optional_string (data, what, "device", &ev->disk) == -1
      || (ev->disk == NULL
          && get_optional_string (data, what, "id", &ev->disk) == -1)
      || get_optional_string (data, what, "status", &ev->status) == -1
      || get_optional_string (data, what, "error", &ev->error) == -1
      || get_optional_string (data, what, "reason", &ev->reason) == -1
      || get_optional_string (data, what, "operation", &ev->operation) == -1
      || get_optional_string (data, what, "action", &ev->action) == -1
      || get_optional_uint (data, what, "len", &ev->len) == -1
      || get_optional_uint (data, what, "offset", &ev->offset) == -1
      || get_optional_uint (data, what, "speed", &ev->speed) == -1
      || get_optional_uint (data, what, "number", &ev->number) == -1
      || get_optional_uint (stamp, what, "seconds", &ev->seconds) == -1
      || get_optional_uint (stamp, what, "microseconds", &ev->microseconds)
             == -1)
    goto error;
  ev->json = json_dumps (value, JSON_COMPACT);
  if (ev->json == NULL) {
    error_nomem ();
    goto error;
  }
  return ev;

error:
  backfill_free_event (ev);
  return NULL;
}

static int
append_region (struct region_list *list, uint64_t offset, uint64_t length,
               int state)
{
  struct backfill_state_region *last
      = list->len > 0 ? &list->ptr[list->len - 1] : NULL;

  if (last != NULL && last->state == state
      && last->offset + last->length == offset) {
    last->length += length;
    return 0;
  }
  if (list->len == UINT_MAX)
    return error_set (EOVERFLOW, "the map has too many regions to count");
  if (list->len == list->cap) {
    size_t cap = list->cap == 0 ? 1024 : list->cap * 2;
    struct backfill_state_region *ptr
        = reallocarray (list->ptr, cap, sizeof *ptr);

    if (ptr == NULL) {
      error_nomem ();
      return -1;
    }
    list->ptr = ptr;
    list->cap = cap;
  }
  list->ptr[list->len].offset = offset;
  list->ptr[list->len].length = length;
  list->ptr[list->len].state = state;
  list->len++;
  return 0;
}

static int
bad_region (size_t i)
{
  return error_set (EPROTO,
                    "the server's answer makes no sense: region %zu of its map "
                    "is out of order or out of the disk",
                    i);
}

/* A letter and a length for each region, one after the other; *end is where
 * the first begins, and where the last ends. */
static int
append_packed (const char *text, bool states, uint64_t size, uint64_t *end,
               struct region_list *list)
{
  for (size_t i = 0; *text; i++) {
    uint64_t length = 0;
    int state;

    switch (*text++) {
    case 'l':
      state = BACKFILL_LOCAL;
      break;
    case 'a':
      state = BACKFILL_ABSENT;
      break;
    case 'z':
      state = BACKFILL_ZERO;
      break;
    default:
      return bad_member ("a map", "packed");
    }
    for (; *text >= '0' && *text <= '9'; text++) {
      if (length > size / 10)
        return bad_region (i);
      length = length * 10 + (uint64_t)(*text - '0');
    }
    /* Inside the disk, and not empty. */
    if (length == 0 || *end > size || length > size - *end)
      return bad_region (i);
    if ((states || state != BACKFILL_ABSENT)
        && append_region (list, *end, length, states ? state : 0) == -1)
      return -1;
    *end += length;
  }
  return 0;
}

static int
append_regions (const json_t *regions, bool states, uint64_t size,
                uint64_t *end, struct region_list *list)
{
  for (size_t i = 0; i < json_array_size (regions); i++) {
    const json_t *region = json_array_get (regions, i);
    uint64_t offset, length;
    int state = 0;

    if (get_uint (region, "a region", "offset", &offset) == -1
        || get_uint (region, "a region", "length", &length) == -1
        || (states
            && get_word (region, "a region", "state", state_words, &state)
                   == -1))
      return -1;
    /* In order, apart, inside the disk, and not empty. */
    if (offset < *end || length == 0 || offset > size || length > size - offset)
      return bad_region (i);
    if (append_region (list, offset, length, state) == -1)
      return -1;
    *end = offset + length;
  }
  return 0;
}

int
reply_regions (const json_t *value, bool states, uint64_t from,
               struct region_list *list, uint64_t *next, uint64_t *size)
{
  static const char what[] = "a map";
  const json_t *regions = json_object_get (value, "regions");
  const char *packed = json_string_value (json_object_get (value, "packed"));
  uint64_t end = from;

  *next = UINT64_MAX;
  if (get_uint (value, what, "size", size) == -1)
    return -1;
  if (packed == NULL && !json_is_array (regions))
    return bad_member (what, "regions");
  if ((packed ? append_packed (packed, states, *size, &end, list)
              : append_regions (regions, states, *size, &end, list))
      == -1)
    return -1;
  if (get_optional_uint (value, what, "next", next) == -1)
    return -1;
  /* Each page must go forward, or reading it would never end. */
  if (*next != UINT64_MAX && (*next <= from || *next < end || *next > *size))
    return bad_member (what, "next");
  return 0;
}
