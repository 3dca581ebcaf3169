/* object.c - the engine's structs as the protocol's JSON objects.
 *
 * Every function gives NULL when memory is out and nothing else: names,
 * paths and messages are bytes that need not be UTF-8, so they all go through
 * object_text.  Members are those of QEMU's query-block-jobs where it has
 * them, and ours.
 *
 * Locking: none.  object_event is called under the engine's locks and calls
 * only what the engine allows there.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "object.h"
#include "wire.h"

json_t *
object_text (const char *s)
{
  return wire_text (s);
}

json_t *
object_number (uint64_t n)
{
  return json_integer (n > INT64_MAX ? INT64_MAX : (json_int_t)n);
}

int
object_set (json_t *object, const char *key, json_t *value)
{
  return json_object_set_new_nocheck (object, key, value);
}

json_t *
object_error (const char *class, int errnum, const char *fmt, ...)
{
  CLEANUP_FREE char *text = NULL;
  json_t *o = json_object ();
  const char *name = errnum > 0 ? strerrorname_np (errnum) : NULL;
  va_list ap;
  int r;

  va_start (ap, fmt);
  r = vasprintf (&text, fmt, ap);
  va_end (ap);
  if (r == -1)
    text = NULL;
  r = object_set (o, "class", object_text (class))
      | object_set (o, "desc", object_text (text ? text : "out of memory"));
  if (errnum > 0)
    r |= object_set (o, "errno", json_integer (errnum));
  if (name)
    r |= object_set (o, "errno-name", object_text (name));
  if (r == 0)
    return o;
  json_decref (o);
  return NULL;
}

static const char *
error_name (int errnum)
{
  const char *text = strerrordesc_np (errnum);

  return text ? text : "unknown error";
}

static json_t *
errno_text (int errnum)
{
  return object_text (error_name (errnum));
}

static const char *
io_status (const struct job_info *info)
{
  if (info->pause == JOB_PAUSE_NOSPACE || info->errnum == ENOSPC)
    return "nospace";
  return info->errnum ? "failed" : "ok";
}

static const char *
job_type (const struct job_info *info)
{
  if (info->result != JOB_RESULT_NONE)
    return job_result_name (info->result);
  return "bounded";
}

static const char *
pause_reason (const struct job_info *info)
{
  switch (info->pause) {
  case JOB_PAUSE_NONE:
    break;
  case JOB_PAUSE_USER:
    return "user";
  case JOB_PAUSE_NOSPACE:
    return "nospace";
  }
  return "none";
}

static int
set_error_members (json_t *o, const struct job_info *info)
{
  const char *name = info->errnum ? strerrorname_np (info->errnum) : NULL;
  int r = object_set (o, "errno", json_integer (info->errnum));

  if (name)
    r |= object_set (o, "errno-name", object_text (name));
  if (info->error[0] != '\0')
    r |= object_set (o, "error", object_text (info->error));
  if (info->failed_offset != UINT64_MAX)
    r |= object_set (o, "failed-offset", object_number (info->failed_offset));
  return r;
}

json_t *
object_job (const char *name, const struct job_info *info)
{
  json_t *o;
  int r;

  if (info->status == JOB_NONE)
    return json_null ();
  o = json_object ();
  r = object_set (o, "device", object_text (name))
      | object_set (o, "number", object_number (info->number))
      | object_set (o, "type", json_string ("allocate"))
      | object_set (o, "len", object_number (info->total))
      | object_set (o, "offset", object_number (info->processed))
      | object_set (o, "busy", json_boolean (info->status == JOB_RUNNING))
      | object_set (o, "paused", json_boolean (info->status == JOB_PAUSED))
      | object_set (o, "ready", json_false ())
      | object_set (o, "speed", object_number (info->options.speed))
      | object_set (o, "io-status", json_string (io_status (info)))
      | object_set (o, "status", json_string (job_status_name (info->status)))
      | object_set (o, "auto-finalize", json_true ())
      | object_set (o, "auto-dismiss", json_false ())
      | object_set (o, "job-type", json_string (job_type (info)))
      | object_set (o, "result", json_string (job_result_name (info->result)))
      | object_set (o, "pause-reason", json_string (pause_reason (info)))
      | object_set (o, "range-offset", object_number (info->options.offset))
      | object_set (o, "range-length", object_number (info->options.length))
      | object_set (o, "total", object_number (info->total))
      | object_set (o, "processed", object_number (info->processed))
      | object_set (o, "remaining", object_number (info->remaining))
      | object_set (o, "local-at-start", object_number (info->local_at_start))
      | object_set (o, "time-elapsed", object_number (info->time_elapsed))
      | object_set (o, "time-remaining", object_number (info->time_remaining))
      | object_set (o, "bytes-read", object_number (info->bytes_read))
      | object_set (o, "current-speed", object_number (info->current_speed))
      | object_set (o, "sparse", json_boolean (!info->options.full))
      | object_set (o, "on-error",
                    json_string (info->options.on_error == JOB_ON_ERROR_SKIP
                                     ? "skip"
                                     : "report"))
      | object_set (o, "failed-ranges", object_number (info->nr_failed))
      | set_error_members (o, info);
  if (r == 0)
    return o;
  json_decref (o);
  return NULL;
}

/* To a client a source that is not connected is lost, with a reason. */
static const char *
source_word (enum source_state state)
{
  switch (state) {
  case SOURCE_NONE:
    return "none";
  case SOURCE_CONNECTED:
    return "connected";
  case SOURCE_CONNECTING:
  case SOURCE_LOST:
  case SOURCE_REFUSED:
    break;
  }
  return "lost";
}

/* A source that is lost has a reason, even where the engine noted none. */
static const char *
source_reason (const struct disk_info *info)
{
  if (info->source_reason[0] != '\0')
    return info->source_reason;
  if (info->source == SOURCE_CONNECTING)
    return "connecting for the first time";
  return strcmp (source_word (info->source), "lost") == 0 ? "not known" : "";
}

static json_t *
stats (const struct disk_info *info)
{
  return json_pack (
      "{s:o*,s:o*,s:o*,s:o*,s:o*,s:o*,s:o*,s:o*}", "bytes-fetched",
      object_number (info->bytes_fetched), "demand-fetches",
      object_number (info->demand_fetches), "ahead-fetches",
      object_number (info->ahead_fetches), "background-fetches",
      object_number (info->background_fetches), "guest-reads",
      object_number (info->guest_reads), "guest-writes",
      object_number (info->guest_writes), "flushes",
      object_number (info->flushes), "commits", object_number (info->commits));
}

static json_t *
trace (const struct disk_trace_info *t)
{
  return json_pack ("{s:o*,s:b,s:b,s:o*,s:o*}", "file", object_text (t->path),
                    "recording", t->recording, "replaying", t->replaying,
                    "used", object_number (t->used), "hit",
                    object_number (t->hit));
}

/* error: text, or NULL. */
static json_t *
object_info (const struct disk_info *info, struct file_id file,
             const char *error)
{
  char text[FILE_ID_MAX];
  json_t *o = json_object ();
  int r;

  r = object_set (o, "name", object_text (info->name))
      | object_set (o, "store", object_text (info->store))
      | object_set (o, "file", json_string (file_id_text (file, text)))
      | object_set (o, "metadata",
                    object_text (info->metadata ? info->metadata : ""))
      | object_set (o, "backing",
                    info->backing ? object_text (info->backing) : json_null ())
      | object_set (o, "size", object_number (info->size))
      | object_set (o, "granule", object_number (info->granule))
      | object_set (o, "local", object_number (info->local))
      | object_set (o, "absent", object_number (info->absent))
      | object_set (o, "source", json_string (source_word (info->source)))
      | object_set (o, "complete", json_boolean (info->complete))
      | object_set (o, "detached", json_boolean (info->detached))
      | object_set (o, "read-only", json_boolean (info->read_only))
      | object_set (o, "stats", stats (info))
      | object_set (o, "job", object_job (info->name, &info->job));
  if (*source_reason (info) != '\0')
    r |= object_set (o, "source-reason", object_text (source_reason (info)));
  if (info->nr_damaged)
    r |= object_set (o, "damaged",
                     json_pack ("{s:o*,s:o*,s:o*}", "sectors",
                                object_number (info->nr_damaged), "offset",
                                object_number (info->damaged_offset), "length",
                                object_number (info->damaged_length)));
  if (info->trace.path)
    r |= object_set (o, "trace", trace (&info->trace));
  if (info->sync_error)
    r |= object_set (o, "sync-error", errno_text (info->sync_error));
  if (error)
    r |= object_set (o, "error", object_text (error));
  if (r == 0)
    return o;
  json_decref (o);
  return NULL;
}

json_t *
object_disk (struct disk *disk)
{
  struct disk_info info;
  int err = 0;

  /* Where disk_get_info fails, info holds what could be had, and the answer is
   * given all the same. */
  memset (&info, 0, sizeof info);
  info.job.failed_offset = UINT64_MAX;
  if (disk_get_info (disk, &info) == -1)
    err = errno;
  if (info.name == NULL)
    info.name = disk_name (disk);
  if (info.store == NULL)
    info.store = disk_store_path (disk);
  if (info.size == 0) {
    info.size = disk_size (disk);
    info.granule = disk_granule (disk);
    info.absent = info.size - info.local;
  }
  return object_info (&info, disk_file (disk), err ? error_name (err) : NULL);
}

/* In the form that the library has for disks of a server that does not answer.
 */
static json_t *
unanswered (const char *store, struct file_id file, const char *why)
{
  char text[FILE_ID_MAX];
  json_t *o = json_object ();
  int r = object_set (o, "name", object_text (store))
          | object_set (o, "store", object_text (store))
          | object_set (o, "file", json_string (file_id_text (file, text)))
          | object_set (o, "unanswered", object_text (why));

  if (r == 0)
    return o;
  json_decref (o);
  return NULL;
}

json_t *
object_silent (struct disk *disk)
{
  return unanswered (disk_store_path (disk), disk_file (disk),
                     "its store does not answer");
}

json_t *
object_peek (const struct disk_peek *peek)
{
  json_t *o = peek->error
                  ? unanswered (peek->info.store, peek->file, peek->error)
                  : object_info (&peek->info, peek->file, NULL);

  if (o && object_set (o, "open", json_false ()) == 0)
    return o;
  json_decref (o);
  return NULL;
}

static int
set_job_end (json_t *data, const struct job_info *info)
{
  return object_set (data, "type", json_string ("allocate"))
         | object_set (data, "len", object_number (info->total))
         | object_set (data, "offset", object_number (info->processed))
         | object_set (data, "speed", object_number (info->options.speed));
}

/* The event's name, and into data what depends on its kind.  NULL: it has no
 * name.  *failed: memory is out. */
static const char *
set_event_data (json_t *data, const struct disk_event *event, int *failed)
{
  const char *what = NULL;
  int r = 0;

  switch (event->type) {
  case DISK_EVENT_JOB_STATUS:
    what = "JOB_STATUS_CHANGE";
    r = object_set (data, "id", object_text (disk_name (event->disk)))
        | object_set (data, "status",
                      json_string (event->status == JOB_NONE
                                       ? "null"
                                       : job_status_name (event->status)));
    break;
  case DISK_EVENT_JOB_COMPLETED:
    what = "BLOCK_JOB_COMPLETED";
    r = set_job_end (data, &event->job);
    if (event->job.error[0] != '\0')
      r |= object_set (data, "error", object_text (event->job.error));
    else if (event->job.errnum)
      r |= object_set (data, "error", errno_text (event->job.errnum));
    break;
  case DISK_EVENT_JOB_CANCELLED:
    what = "BLOCK_JOB_CANCELLED";
    r = set_job_end (data, &event->job);
    break;
  case DISK_EVENT_JOB_ERROR:
    what = "BLOCK_JOB_ERROR";
    r = object_set (data, "operation",
                    object_text (event->operation ? event->operation : "read"))
        | object_set (data, "action",
                      object_text (event->action ? event->action : "report"));
    break;
  case DISK_EVENT_LOCAL:
    what = "DISK_LOCAL";
    break;
  case DISK_EVENT_SOURCE_LOST:
    what = "SOURCE_LOST";
    r = object_set (data, "reason",
                    object_text (event->reason ? event->reason : "not known"));
    break;
  case DISK_EVENT_SOURCE_BACK:
    what = "SOURCE_BACK";
    break;
  }
  *failed = r;
  return what;
}

json_t *
object_event (const struct disk_event *event)
{
  json_t *data = json_object (), *o;
  struct timespec now;
  int r;
  const char *what = set_event_data (data, event, &r);

  if (what == NULL) {
    json_decref (data);
    return NULL;
  }
  if (event->job.number > 0)
    r |= object_set (data, "number", object_number (event->job.number));
  r |= object_set (data, "device", object_text (disk_name (event->disk)));

  clock_gettime (CLOCK_REALTIME, &now);
  o = json_object ();
  r |= object_set (o, "event", json_string (what))
       | object_set (o, "data", data)
       | object_set (o, "timestamp",
                     json_pack ("{s:I,s:I}", "seconds", (json_int_t)now.tv_sec,
                                "microseconds",
                                (json_int_t)now.tv_nsec / 1000));
  if (r == 0)
    return o;
  json_decref (o);
  return NULL;
}
