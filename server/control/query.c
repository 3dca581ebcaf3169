/* query.c - the commands that ask: who serves, which commands, disks and jobs
 * there are.  See handlers.h.
 *
 * Of a volume that no process has open a question reads the files, and does not
 * open the volume.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "handlers.h"
#include "object.h"
#include "target.h"

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "0.1.0"
#endif

#define QUICK_DISKS 8 /* how many disks are asked on the loop at most */

json_t *
version (void)
{
  int major = 0, minor = 0, micro = 0;

  sscanf (PACKAGE_VERSION, "%d.%d.%d", &major, &minor, &micro);
  /* QEMU's own clients want to see a version of QEMU: one that has these
   * commands. */
  return json_pack ("{s:{s:i,s:i,s:i},s:s,s:{s:i,s:i,s:i}}", "qemu", "major", 7,
                    "minor", 2, "micro", 0, "package",
                    "backfill " PACKAGE_VERSION, "backfill", "major", major,
                    "minor", minor, "micro", micro);
}

json_t *
command_greeting (const char *process)
{
  return json_pack ("{s:{s:o,s:[],s:s*}}", "QMP", "version", version (),
                    "capabilities", "process", process);
}

json_t *
run_version (struct call *call)
{
  (void)call;
  return version ();
}

/* of: makes the object of one disk; JSON null: the disk has none. */
static json_t *
list_of (const struct disks *disks, json_t *(*of) (struct disk *disk))
{
  json_t *list = json_array ();

  for (size_t i = 0; i < disks->len; i++) {
    json_t *o = of (disks->ptr[i]);

    if (json_is_null (o))
      json_decref (o);
    else if (json_array_append_new (list, o) == -1) {
      json_decref (list);
      return NULL;
    }
  }
  return list;
}

static json_t *
job_of_disk (struct disk *disk)
{
  struct job_info info;

  job_get_info (disk, &info);
  return object_job (disk_name (disk), &info);
}

static void
drop_json (void *json)
{
  json_decref (json);
}

static void *
ask_disk (struct disk *disk)
{
  return object_disk (disk);
}

static void *
ask_job (struct disk *disk)
{
  return job_of_disk (disk);
}

/* Volumes that do not answer are in the list too, without what only they know.
 */
static json_t *
survey (struct call *call, const struct disks *disks, bool jobs)
{
  const struct control_volumes *v = call->volumes;
  json_t *list = json_array ();
  void **results = NULL;
  int r;

  r = v->survey (v->opaque, disks, jobs ? ask_job : ask_disk, drop_json,
                 &results);
  for (size_t i = 0; r == 0 && i < disks->len; i++) {
    json_t *o = results[i];

    if (o == NULL && !jobs)
      o = object_silent (disks->ptr[i]);
    if (o && !json_is_null (o))
      r = json_array_append_new (list, o);
    else
      json_decref (o);
  }
  free (results);
  if (r == 0)
    return list;
  json_decref (list);
  return NULL;
}

static json_t *
object_closed (const struct disk_peek *peek, bool jobs)
{
  return jobs ? object_job (peek->info.name, &peek->info.job)
              : object_peek (peek);
}

static json_t *
list_volumes (struct call *call, bool jobs)
{
  const struct control_volumes *v = call->volumes;
  bool all = !jobs && arg_value (call, "all");
  struct disk_peek *closed = NULL;
  struct disks disks = { 0 };
  size_t nr = 0;
  json_t *list;

  if (v->list (v->opaque, &call->peer, &disks, all ? &closed : NULL, &nr)
      == -1) {
    call_fail_volume (call, NULL);
    return NULL;
  }
  list = survey (call, &disks, jobs);
  for (size_t i = 0; i < nr; i++) {
    if (list
        && json_array_append_new (list, object_closed (&closed[i], jobs))
               == -1) {
      json_decref (list);
      list = NULL;
    }
    disk_peek_clear (&closed[i]);
  }
  free (closed);
  for (size_t i = 0; i < disks.len; i++)
    v->put (v->opaque, disks.ptr[i]);
  free (disks.ptr);
  return list;
}

/* The same, and the object of the volume. */
static int
peek_volume (struct call *call, bool jobs, json_t **list)
{
  struct disk_peek peek;
  json_t *o;
  int r = peek_device (call, &peek);

  if (r != 1)
    return r;
  *list = json_array ();
  o = object_closed (&peek, jobs);
  disk_peek_clear (&peek);
  if (json_is_null (o))
    json_decref (o);
  else if (json_array_append_new (*list, o) == -1) {
    json_decref (*list);
    *list = NULL;
  }
  return 1;
}

/* One job of one disk, by its number: in progress, or ended of late. */
static json_t *
one_job (struct call *call)
{
  uint64_t number = arg_size (call, "number");
  struct disk *disk;
  struct job_info info;
  char *error = NULL;
  json_t *list = NULL;

  if (call->volumes && arg_text (call, "device")
      && peek_volume (call, true, &list) != 0) {
    if (list == NULL
        || (uint64_t)json_integer_value (
               json_object_get (json_array_get (list, 0), "number"))
               == number)
      return list;
    json_decref (list);
  }
  disk = call_disk (call);
  if (disk == NULL)
    return NULL;
  if (job_find (disk, number, &info, &error) == -1) {
    call_fail_job (call, error);
    return NULL;
  }
  return json_pack ("[o]", object_job (disk_name (disk), &info));
}

static json_t *
list_disks (struct call *call, bool jobs)
{
  json_t *(*of) (struct disk * disk) = jobs ? job_of_disk : object_disk;
  json_t *list = NULL;
  struct disk *disk;

  if (json_object_get (call->args, "device") == NULL
      && json_object_get (call->args, "file") == NULL)
    return call->volumes ? list_volumes (call, jobs)
                         : list_of (call->disks, of);
  if (call->volumes && arg_text (call, "device")
      && peek_volume (call, jobs, &list) != 0)
    return list;
  disk = call_disk (call);
  return disk ? list_of (&(struct disks){ .ptr = &disk, .len = 1 }, of) : NULL;
}

json_t *
run_disks (struct call *call)
{
  return list_disks (call, false);
}

json_t *
run_jobs (struct call *call)
{
  return arg_size (call, "number") > 0 ? one_job (call)
                                       : list_disks (call, true);
}

static json_t *
try_job_of_disk (struct disk *disk)
{
  struct job_info info;

  return job_try_get_info (disk, &info) ? object_job (disk_name (disk), &info)
                                        : NULL;
}

/* The job of that number, if it is the disk's latest. */
static json_t *
quick_job (struct call *call, const char *name)
{
  const struct disks *disks = call->disks;
  struct job_info info;

  for (size_t i = 0; name && i < disks->len; i++)
    if (strcmp (name, disk_name (disks->ptr[i])) == 0
        && job_try_get_info (disks->ptr[i], &info)
        && info.number == arg_size (call, "number") && info.status != JOB_NONE)
      return json_pack ("[o]", object_job (name, &info));
  return NULL;
}

/* Tools ask this question again and again, and the machine may be busy: the
 * loop answers it where it can. */
json_t *
quick_jobs (struct call *call)
{
  const char *name = arg_text (call, "device");
  const struct disks *disks = call->disks;

  if (call->volumes || json_object_get (call->args, "file") != NULL)
    return NULL;
  if (arg_size (call, "number") > 0)
    return quick_job (call, name);
  if (name == NULL)
    return disks->len > QUICK_DISKS ? NULL : list_of (disks, try_job_of_disk);
  for (size_t i = 0; i < disks->len; i++)
    if (strcmp (name, disk_name (disks->ptr[i])) == 0)
      return list_of (&(struct disks){ .ptr = &disks->ptr[i], .len = 1 },
                      try_job_of_disk);
  /* The name may be a store's path. */
  return NULL;
}

json_t *
run_total_speed (struct call *call)
{
  (void)call;
  return json_pack ("{s:o}", "speed", object_number (disk_get_total_speed ()));
}
