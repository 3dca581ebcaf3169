/* reply.c - JSON answers into the structs of backfill.h.
 *
 * The server is not trusted to keep its own protocol.  Type and range of every
 * member that is taken are checked, and sums that must hold.  A page of a map
 * must go forward.  So nothing that a server says makes a caller loop, overrun
 * or report nonsense.  Members that are not known are skipped: a newer server
 * may send more.
 *
 * Locking: none; pure functions.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <limits.h>

#include "client.h"
#include "array.h"

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

/* --- tables of members ------------------------------------------------ */

/* A member of an object, and where it goes in a struct. */
struct field {
  const char *member; /* NULL ends a table */
  enum {
    UINT,            /* uint64_t */
    OPTIONAL_UINT,   /* the same; absent: left as it is */
    BOOL,            /* int */
    STRING,          /* char *, malloc'd */
    OPTIONAL_STRING, /* the same; absent or null: NULL */
    WORD,            /* int: its position in words */
  } kind;
  size_t offset; /* in the struct */
  const char *const *words;
};

static int
take_field (const json_t *object, const char *what, const struct field *f,
            void *to)
{
  const char *member = f->member;

  switch (f->kind) {
  case UINT:
    return get_uint (object, what, member, to);
  case OPTIONAL_UINT:
    return get_optional_uint (object, what, member, to);
  case BOOL: {
    const json_t *value = json_object_get (object, member);

    if (!json_is_boolean (value))
      return bad_member (what, member);
    *(int *)to = json_is_true (value);
    return 0;
  }
  case STRING:
    if (!json_is_string (json_object_get (object, member)))
      return bad_member (what, member);
    return get_optional_string (object, what, member, to);
  case OPTIONAL_STRING:
    return get_optional_string (object, what, member, to);
  case WORD:
    return get_word (object, what, member, f->words, to);
  }
  return bad_member (what, member);
}

static int
take_fields (const json_t *object, const char *what, const struct field *f,
             void *to)
{
  for (; f->member != NULL; f++)
    if (take_field (object, what, f, (char *)to + f->offset) == -1)
      return -1;
  return 0;
}

static void
free_fields (const struct field *f, void *from)
{
  for (; f->member != NULL; f++)
    if (f->kind == STRING || f->kind == OPTIONAL_STRING)
      free (*(char **)((char *)from + f->offset));
}

/* --- jobs ------------------------------------------------------------- */

#define JOB(member) offsetof (struct backfill_job_info, member)

static const struct field job_fields[] = {
  { "job-type", WORD, JOB (type), type_words },
  { "status", WORD, JOB (status), status_words },
  { "pause-reason", WORD, JOB (pause_reason), pause_words },
  { "on-error", WORD, JOB (on_error), on_error_words },
  { "sparse", BOOL, JOB (sparse), NULL },
  { "time-elapsed", UINT, JOB (time_elapsed), NULL },
  { "time-remaining", UINT, JOB (time_remaining), NULL },
  { "total", UINT, JOB (data_total), NULL },
  { "processed", UINT, JOB (data_processed), NULL },
  { "remaining", UINT, JOB (data_remaining), NULL },
  { "range-offset", UINT, JOB (range_offset), NULL },
  { "range-length", UINT, JOB (range_length), NULL },
  { "local-at-start", UINT, JOB (local_at_start), NULL },
  { "bytes-read", UINT, JOB (bytes_read), NULL },
  { "speed", UINT, JOB (speed), NULL },
  { "current-speed", UINT, JOB (current_speed), NULL },
  { "failed-ranges", UINT, JOB (failed_ranges), NULL },
  { "number", OPTIONAL_UINT, JOB (number), NULL },
  { "failed-offset", OPTIONAL_UINT, JOB (failed_offset), NULL },
  { NULL, UINT, 0, NULL },
};

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

  if (take_fields (value, what, job_fields, info) == -1
      || get_optional_uint (value, what, "errno", &n) == -1)
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

/* --- disks ------------------------------------------------------------ */

#define DISK(member) offsetof (struct backfill_disk_info, member)

/* What also a disk has whose server did not answer. */
static const struct field entry_fields[] = {
  { "name", STRING, DISK (name), NULL },
  { "store", STRING, DISK (store), NULL },
  { "unanswered", OPTIONAL_STRING, DISK (unanswered), NULL },
  { NULL, UINT, 0, NULL },
};

static const struct field disk_fields[] = {
  { "metadata", OPTIONAL_STRING, DISK (metadata), NULL },
  { "backing", OPTIONAL_STRING, DISK (backing), NULL },
  { "size", UINT, DISK (size), NULL },
  { "local", UINT, DISK (local), NULL },
  { "absent", UINT, DISK (absent), NULL },
  { "source", STRING, DISK (source), NULL },
  { "source-reason", OPTIONAL_STRING, DISK (source_reason), NULL },
  { "complete", BOOL, DISK (complete), NULL },
  { "detached", BOOL, DISK (detached), NULL },
  { "read-only", BOOL, DISK (read_only), NULL },
  { "sync-error", OPTIONAL_STRING, DISK (sync_error), NULL },
  { NULL, UINT, 0, NULL },
};

static const struct field damage_fields[] = {
  { "sectors", UINT, DISK (damaged_sectors), NULL },
  { "offset", UINT, DISK (damaged_offset), NULL },
  { "length", UINT, DISK (damaged_length), NULL },
  { NULL, UINT, 0, NULL },
};

static const struct field stats_fields[] = {
  { "bytes-fetched", OPTIONAL_UINT, DISK (bytes_fetched), NULL },
  { "demand-fetches", OPTIONAL_UINT, DISK (demand_fetches), NULL },
  { "ahead-fetches", OPTIONAL_UINT, DISK (ahead_fetches), NULL },
  { "background-fetches", OPTIONAL_UINT, DISK (background_fetches), NULL },
  { "guest-reads", OPTIONAL_UINT, DISK (guest_reads), NULL },
  { "guest-writes", OPTIONAL_UINT, DISK (guest_writes), NULL },
  { "flushes", OPTIONAL_UINT, DISK (flushes), NULL },
  { "commits", OPTIONAL_UINT, DISK (commits), NULL },
  { NULL, UINT, 0, NULL },
};

static const struct field trace_fields[] = {
  { "file", STRING, DISK (trace_file), NULL },
  { "recording", BOOL, DISK (trace_recording), NULL },
  { "replaying", BOOL, DISK (trace_replaying), NULL },
  { "used", UINT, DISK (trace_used), NULL },
  { "hit", UINT, DISK (trace_hit), NULL },
  { NULL, UINT, 0, NULL },
};

void
backfill_free_disk_info (struct backfill_disk_info *info)
{
  if (info == NULL)
    return;
  free_fields (entry_fields, info);
  free_fields (disk_fields, info);
  free_fields (trace_fields, info);
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

/* 0, or -1: of a disk whose server answered. */
static int
take_disk (const json_t *value, struct backfill_disk_info *info)
{
  static const char what[] = "a disk";
  const json_t *damaged = json_object_get (value, "damaged");
  const json_t *trace = json_object_get (value, "trace");
  uint64_t granule;

  if (take_fields (value, what, disk_fields, info) == -1
      || get_uint (value, what, "granule", &granule) == -1
      || reply_job (json_object_get (value, "job"), &info->job) == -1)
    return -1;
  if (granule == 0 || granule > UINT32_MAX)
    return bad_member (what, "granule");
  info->granule = (uint32_t)granule;
  if (info->local + info->absent != info->size)
    return error_set (EPROTO,
                      "the server's answer makes no sense: a disk's local "
                      "and absent bytes are not its size");
  if (damaged != NULL && !json_is_null (damaged)
      && take_fields (damaged, "damage", damage_fields, info) == -1)
    return -1;
  if (trace != NULL && !json_is_null (trace)
      && take_fields (trace, "a boot trace", trace_fields, info) == -1)
    return -1;
  return take_fields (json_object_get (value, "stats"), "stats", stats_fields,
                      info);
}

struct backfill_disk_info *
reply_disk (const json_t *value)
{
  struct backfill_disk_info *info = calloc (1, sizeof *info);

  if (info == NULL)
    return error_nomem ();
  info->struct_size = sizeof *info;
  if (take_fields (value, "a disk", entry_fields, info) == 0
      && (info->unanswered != NULL || take_disk (value, info) == 0))
    return info;
  backfill_free_disk_info (info);
  return NULL;
}

/* --- events ----------------------------------------------------------- */

#define EVENT(member) offsetof (struct backfill_event, member)

static const struct field event_fields[] = {
  { "event", STRING, EVENT (event), NULL },
  { NULL, UINT, 0, NULL },
};

static const struct field data_fields[] = {
  { "device", OPTIONAL_STRING, EVENT (disk), NULL },
  { "status", OPTIONAL_STRING, EVENT (status), NULL },
  { "error", OPTIONAL_STRING, EVENT (error), NULL },
  { "reason", OPTIONAL_STRING, EVENT (reason), NULL },
  { "operation", OPTIONAL_STRING, EVENT (operation), NULL },
  { "action", OPTIONAL_STRING, EVENT (action), NULL },
  { "len", OPTIONAL_UINT, EVENT (len), NULL },
  { "offset", OPTIONAL_UINT, EVENT (offset), NULL },
  { "speed", OPTIONAL_UINT, EVENT (speed), NULL },
  { "number", OPTIONAL_UINT, EVENT (number), NULL },
  { NULL, UINT, 0, NULL },
};

static const struct field stamp_fields[] = {
  { "seconds", OPTIONAL_UINT, EVENT (seconds), NULL },
  { "microseconds", OPTIONAL_UINT, EVENT (microseconds), NULL },
  { NULL, UINT, 0, NULL },
};

void
backfill_free_event (struct backfill_event *event)
{
  if (event == NULL)
    return;
  free_fields (event_fields, event);
  free_fields (data_fields, event);
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
  if (take_fields (value, what, event_fields, ev) == -1
      || take_fields (data, what, data_fields, ev) == -1
      /* QEMU's events about jobs say "id". */
      || (ev->disk == NULL
          && get_optional_string (data, what, "id", &ev->disk) == -1)
      || take_fields (stamp, what, stamp_fields, ev) == -1)
    goto error;
  ev->json = json_dumps (value, JSON_COMPACT);
  if (ev->json != NULL)
    return ev;
  error_nomem ();

error:
  backfill_free_event (ev);
  return NULL;
}

/* --- maps ------------------------------------------------------------- */

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
  if (ARRAY_ROOM (list->ptr, list->len) == -1) {
    error_nomem ();
    return -1;
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

/* Append regions of a letter and a length each, one after the other.  *end is
 * where the first region begins, and becomes where the last ends. */
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
    /* A region is inside the disk, and not empty. */
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
    /* Regions are in order, apart, inside the disk, and not empty. */
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
  /* Each page must go forward, or reading the map would never end. */
  if (*next != UINT64_MAX && (*next <= from || *next < end || *next > *size))
    return bad_member (what, "next");
  return 0;
}
