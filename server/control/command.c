/* command.c - see command.h.
 *
 * Checks come in this order, all before any side effect: JSON, members of the
 * message, negotiation, the command's name, its arguments' names, types and
 * ranges; then, on the thread that runs it, the disk; then what the engine
 * itself refuses.
 *
 * What a client sent is never put whole into a message, and an `id` that
 * would not leave room for an answer is refused: an answer always fits in a
 * line (WIRE_MAX_LINE).
 *
 * Left out: QMP's out-of-band execution.  Commands of one client run one
 * after the other.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bytes.h"
#include "cleanup.h"
#include "command.h"
#include "wire.h"

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "0.1.0"
#endif

#define MAX_ID (64u << 10)
#define MAX_PAGE (WIRE_MAX_LINE - MAX_ID - 4096) /* regions in one answer */
#define QUICK_DISKS 8
#define DUMP_FLAGS (JSON_ENSURE_ASCII | JSON_ENCODE_ANY)

/* Set the call's error, unless there is one. */
#define FAIL(call, ...)                           \
  do {                                            \
    if ((call)->error == NULL)                    \
      (call)->error = object_error (__VA_ARGS__); \
  } while (0)

/* --- arguments -------------------------------------------------------- */

static const struct arg *
find_arg (const struct command *command, const char *name)
{
  for (const struct arg *a = command->args; a->type != ARG_END; a++)
    if (strcmp (a->name, name) == 0)
      return a;
  return NULL;
}

/* Integers, booleans and words (as an index): as given, else the default. */
static json_int_t
arg_value (const struct call *call, const char *name)
{
  const struct arg *a = find_arg (call->command, name);
  const json_t *value = json_object_get (call->args, name);

  if (a == NULL)
    abort ();
  if (json_is_integer (value))
    return json_integer_value (value);
  if (json_is_boolean (value))
    return json_is_true (value);
  if (json_is_string (value))
    for (json_int_t i = 0; a->words[i] != NULL; i++)
      if (strcmp (a->words[i], json_string_value (value)) == 0)
        return i;
  return a->def;
}

static uint64_t
arg_size (const struct call *call, const char *name)
{
  return (uint64_t)arg_value (call, name);
}

static const char *
type_name (enum arg_type type)
{
  switch (type) {
  case ARG_INTEGER:
    return "integer";
  case ARG_BOOLEAN:
    return "boolean";
  case ARG_LIST:
    return "array";
  case ARG_DEVICE:
  case ARG_TEXT:
  case ARG_WORD:
  case ARG_END:
    break;
  }
  return "string";
}

static bool
has_type (const json_t *value, enum arg_type type)
{
  switch (type) {
  case ARG_INTEGER:
    return json_is_integer (value);
  case ARG_BOOLEAN:
    return json_is_boolean (value);
  case ARG_LIST:
    return json_is_array (value);
  case ARG_DEVICE:
  case ARG_TEXT:
  case ARG_WORD:
    return json_is_string (value);
  case ARG_END:
    break;
  }
  return false;
}

/* "'report' or 'skip'" */
static char *
list_words (const char *const *words)
{
  char *list = NULL;
  size_t size;
  FILE *fp = open_memstream (&list, &size);

  if (fp == NULL)
    return NULL;
  for (size_t i = 0; words[i] != NULL; i++)
    fprintf (fp, "%s'%s'", i ? " or " : "", words[i]);
  if (fclose (fp) == 0)
    return list;
  free (list);
  return NULL;
}

static void
check_value (struct call *call, const struct arg *a, const json_t *value)
{
  json_int_t n = json_integer_value (value);

  if (!has_type (value, a->type)) {
    FAIL (call, "GenericError", EINVAL,
          "Invalid parameter type for '%s', expected: %s", a->name,
          type_name (a->type));
    return;
  }
  if (a->type == ARG_INTEGER) {
    if (a->max && (n < a->min || n > a->max))
      FAIL (call, "GenericError", EINVAL,
            "Parameter '%s' expects a value between %lld and %lld", a->name,
            (long long)a->min, (long long)a->max);
    else if (n < 0)
      FAIL (call, "GenericError", EINVAL,
            "Parameter '%s' expects a non-negative integer", a->name);
  }
  if (a->type == ARG_WORD) {
    CLEANUP_FREE char *list = NULL;

    for (size_t i = 0; a->words[i] != NULL; i++)
      if (strcmp (a->words[i], json_string_value (value)) == 0)
        return;
    list = list_words (a->words);
    FAIL (call, "GenericError", EINVAL,
          "Parameter '%s' does not accept value '%.64s': use %s", a->name,
          json_string_value (value), list ? list : "another");
  }
}

static void
check_args (struct call *call)
{
  const struct command *command = call->command;
  const char *key;
  json_t *value;

  json_object_foreach (call->args, key, value) {
    const struct arg *a = find_arg (command, key);

    if (a == NULL)
      FAIL (call, "GenericError", EINVAL,
            "QMP input member '%.64s' is unexpected", key);
    else
      check_value (call, a, value);
  }
  for (const struct arg *a = command->args; a->type != ARG_END; a++)
    if (!a->optional && json_object_get (call->args, a->name) == NULL)
      FAIL (call, "GenericError", EINVAL, "Parameter '%s' is missing", a->name);
}

static const char *
arg_text (const struct call *call, const char *name)
{
  return json_string_value (json_object_get (call->args, name));
}

/* After a function of the volumes failed; takes its message. */
static void
fail_volume (struct call *call, char *error)
{
  int err = errno;

  if (err == EINPROGRESS && error == NULL) {
    call->wait = true;
    return;
  }
  FAIL (call,
        err == ENOENT   ? "DeviceNotFound"
        : err == ESTALE ? "FileMismatch"
                        : "GenericError",
        err, "%s", error ? error : strerrordesc_np (err));
  free (error);
}

/* The file that the client means: NULL if it did not say. */
static const struct file_id *
arg_file (struct call *call, struct file_id *file)
{
  const char *text = arg_text (call, "file");

  if (text == NULL)
    return NULL;
  if (!file_id_parse (text, file))
    FAIL (call, "GenericError", EINVAL,
          "Parameter 'file' expects device and inode number as DEV-INO, "
          "hexadecimal");
  return file;
}

/* NULL with the call's error if the disk's store is not the file that the
 * client means. */
static struct disk *
check_file (struct call *call, struct disk *disk)
{
  char is[FILE_ID_MAX], meant[FILE_ID_MAX];
  struct file_id file;

  if (disk == NULL || arg_file (call, &file) == NULL
      || file_id_equal (file, disk_file (disk)))
    return disk;
  FAIL (call, "FileMismatch", ESTALE,
        "Disk '%.256s' is another file (%s) than the one that is meant (%s)",
        disk_name (disk), file_id_text (disk_file (disk), is),
        file_id_text (file, meant));
  return NULL;
}

/* The volume that `device` names, held until the call is over. */
static struct disk *
hold_volume (struct call *call, enum control_use use)
{
  const struct control_volumes *v = call->volumes;
  const char *path = arg_text (call, "device");
  const struct file_id *file;
  struct file_id meant;
  char *error = NULL;

  if (path == NULL) {
    FAIL (call, "GenericError", EINVAL,
          "Parameter 'device' is missing: give the path of the volume's "
          "store");
    return NULL;
  }
  file = arg_file (call, &meant);
  if (call->error)
    return NULL;
  call->held = v->get (v->opaque, &call->peer, path, file, use, &error);
  if (call->held == NULL)
    fail_volume (call, error);
  return call->held;
}

static void
put_volume (struct call *call)
{
  if (call->held)
    call->volumes->put (call->volumes->opaque, call->held);
  call->held = NULL;
}

#define NAMES_MAX 1024

/* "'vda', 'vdb'": what a client could have named. */
static const char *
list_names (const struct disks *disks, char buf[NAMES_MAX])
{
  size_t n = 0;

  buf[0] = '\0';
  for (size_t i = 0; i < disks->len; i++) {
    const char *name = disk_name (disks->ptr[i]);

    /* Room for its quotes and for what says that there are more. */
    if (n + strlen (name) + 16 > NAMES_MAX) {
      snprintf (buf + n, NAMES_MAX - n, ", ...");
      break;
    }
    n += (size_t)snprintf (buf + n, NAMES_MAX - n, "%s'%s'", i ? ", " : "",
                           name);
  }
  return buf;
}

static struct disk *
find_disk (struct call *call, enum control_use use)
{
  const char *name = arg_text (call, "device");
  char names[NAMES_MAX];
  struct disk *disk;

  if (call->volumes)
    return hold_volume (call, use);
  if (name == NULL) {
    if (call->disks->len == 1)
      return call->disks->ptr[0];
    FAIL (call, "GenericError", EINVAL,
          "Parameter 'device' is missing: there are the disks %s",
          list_names (call->disks, names));
    return NULL;
  }
  disk = disks_find (call->disks, name);
  if (disk == NULL)
    FAIL (call, "DeviceNotFound", ENOENT,
          "No disk has the name or the store '%.256s': there %s %s", name,
          call->disks->len == 1 ? "is" : "are",
          list_names (call->disks, names));
  return disk;
}

/* The disk that `device` names, or the only one; and that `file` is. */
static struct disk *
call_disk_for (struct call *call, enum control_use use)
{
  return check_file (call, find_disk (call, use));
}

static struct disk *
call_disk (struct call *call)
{
  return call_disk_for (call, CONTROL_QUERY);
}

/* After a job function failed; takes its message. */
static void
fail_job (struct call *call, char *error)
{
  int err = errno;

  FAIL (call, err == ESRCH ? "DeviceNotActive" : "GenericError", err, "%s",
        error ? error : strerrordesc_np (err));
  free (error);
}

/* With volumes there may be clients of several users, and what is of the
 * process is not theirs. */
static bool
may_rule (struct call *call)
{
  uid_t uid = call->peer.uid;

  if (call->volumes == NULL || uid == 0 || uid == geteuid ())
    return true;
  FAIL (call, "GenericError", EPERM,
        "The command %s is for root and backfilld's own user",
        call->command->name);
  return false;
}

static json_t *
done (struct call *call)
{
  return call->error ? NULL : json_object ();
}

/* --- commands --------------------------------------------------------- */

static json_t *
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

static json_t *
run_capabilities (struct call *call)
{
  const json_t *first
      = json_array_get (json_object_get (call->args, "enable"), 0);

  /* None is offered. */
  if (first != NULL && !json_is_string (first))
    FAIL (call, "GenericError", EINVAL,
          "Invalid parameter type for 'enable[0]', expected: string");
  else if (first != NULL)
    FAIL (call, "GenericError", EINVAL,
          "Parameter 'enable': capability '%.64s' is not offered",
          json_string_value (first));
  else
    call->negotiated = true;
  return done (call);
}

static json_t *
run_version (struct call *call)
{
  (void)call;
  return version ();
}

static json_t *
run_commands (struct call *call)
{
  json_t *list = json_array ();

  (void)call;
  for (const struct command *c = command_table; c->name; c++)
    if (json_array_append_new (list, json_pack ("{s:s}", "name", c->name))
        == -1) {
      json_decref (list);
      return NULL;
    }
  return list;
}

/* of: the object of one disk, JSON null for none. */
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

/* Those that do not answer are there too, without what only they know. */
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
    fail_volume (call, NULL);
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

/* 1: nobody has the volume that `device` names open, and this is how it
 * looks.  0: it is to be held.  -1 with the call's error. */
static int
peek_device (struct call *call, struct disk_peek *peek)
{
  const struct control_volumes *v = call->volumes;
  const char *path = arg_text (call, "device");
  struct file_id meant;
  const struct file_id *file;
  char *error = NULL;
  int r;

  if (v == NULL || path == NULL)
    return 0;
  file = arg_file (call, &meant);
  if (call->error)
    return -1;
  r = v->peek (v->opaque, &call->peer, path, file, peek, &error);
  if (r == -1)
    fail_volume (call, error);
  return r;
}

/* The same, and its object. */
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
    fail_job (call, error);
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

static json_t *
run_disks (struct call *call)
{
  return list_disks (call, false);
}

static json_t *
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

/* The one of that number, if it is the latest. */
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

/* Tools ask for this again and again, and the machine may be busy. */
static json_t *
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
  /* It may be a store's path. */
  return NULL;
}

/* To the engine 0 is for ever. */
static uint64_t
retry_of (const struct call *call)
{
  json_int_t ms = arg_value (call, "retry");

  return ms == -1 ? 0 : max_u64 ((uint64_t)ms, 1);
}

static json_t *
run_allocate (struct call *call)
{
  const struct job_options options = {
    .offset = arg_size (call, "offset"),
    .length = arg_size (call, "length"),
    .speed = arg_size (call, "speed"),
    .full = !arg_value (call, "sparse"),
    .on_error
    = arg_value (call, "on-error") ? JOB_ON_ERROR_SKIP : JOB_ON_ERROR_REPORT,
    .retry = retry_of (call),
  };
  struct disk *disk = call_disk_for (call, CONTROL_JOB);
  char *error = NULL;
  uint64_t number = 0;

  if (disk && job_start (disk, &options, &number, &error) == -1)
    fail_job (call, error);
  return call->error ? NULL
                     : json_pack ("{s:o}", "number", object_number (number));
}

static json_t *
run_set_speed (struct call *call)
{
  struct disk *disk = call_disk (call);
  char *error = NULL;

  if (disk
      && job_set_speed (disk, arg_size (call, "number"),
                        arg_size (call, "speed"), &error)
             == -1)
    fail_job (call, error);
  return done (call);
}

static json_t *
run_verb (struct call *call,
          int (*verb) (struct disk *disk, uint64_t number, char **error))
{
  struct disk *disk = call_disk (call);
  char *error = NULL;

  if (disk && verb (disk, arg_size (call, "number"), &error) == -1)
    fail_job (call, error);
  return done (call);
}

static json_t *
run_pause (struct call *call)
{
  return run_verb (call, job_pause);
}

static json_t *
run_resume (struct call *call)
{
  return run_verb (call, job_resume);
}

static json_t *
run_cancel (struct call *call)
{
  return run_verb (call, job_abort);
}

static json_t *
run_dismiss (struct call *call)
{
  const struct control_volumes *v = call->volumes;
  char *error = NULL;
  int r;

  if (v && arg_text (call, "device")) {
    r = v->forget (v->opaque, &call->peer, arg_text (call, "device"), &error);
    if (r == -1)
      fail_volume (call, error);
    if (r != 0)
      return call->wait ? NULL : done (call);
  }
  return run_verb (call, job_dismiss);
}

static json_t *
run_detach (struct call *call)
{
  struct disk *disk = call_disk (call);
  char *error = NULL;

  if (disk && disk_detach (disk, &error) == -1)
    fail_job (call, error);
  return done (call);
}

static json_t *
run_flush (struct call *call)
{
  struct disk *disk = call_disk (call);

  if (disk && disk_flush (disk) == -1) {
    int err = errno;

    FAIL (call, "GenericError", err, "Disk '%s' cannot be flushed: %s",
          disk_name (disk), strerrordesc_np (err));
  }
  return done (call);
}

static json_t *
run_create (struct call *call)
{
  const struct control_volumes *v = call->volumes;
  const struct disk_config config = {
    .store = arg_text (call, "device"),
    .backing = arg_text (call, "backing"),
    .has_size = json_object_get (call->args, "size") != NULL,
    .size = arg_size (call, "size"),
    .granule = (uint32_t)arg_value (call, "granule"),
  };
  char *error = NULL;

  if (v == NULL)
    FAIL (call, "GenericError", EOPNOTSUPP,
          "The disks of this process are fixed: backfilld makes volumes");
  else if (v->create (v->opaque, &call->peer, &config, &error) == -1)
    fail_volume (call, error);
  return done (call);
}

/* disk-release and disk-take; other owners keep what they have. */
static json_t *
run_move (struct call *call,
          int (*move) (void *opaque, const struct control_peer *peer,
                       const char *path, const struct file_id *file,
                       char **error))
{
  struct file_id meant;
  const struct file_id *file = arg_file (call, &meant);
  char *error = NULL;

  if (call->error)
    return NULL;
  if (move == NULL)
    FAIL (call, "GenericError", EOPNOTSUPP,
          "The disks of this process are fixed: only backfilld lets a volume "
          "go, or takes one");
  else if (move (call->volumes->opaque, &call->peer, arg_text (call, "device"),
                 file, &error)
           == -1)
    fail_volume (call, error);
  return done (call);
}

static json_t *
run_release (struct call *call)
{
  return run_move (call, call->volumes ? call->volumes->release : NULL);
}

static json_t *
run_take (struct call *call)
{
  return run_move (call, call->volumes ? call->volumes->take : NULL);
}

static json_t *
run_total_speed (struct call *call)
{
  (void)call;
  return json_pack ("{s:o}", "speed", object_number (disk_get_total_speed ()));
}

static json_t *
run_set_total_speed (struct call *call)
{
  const struct control_volumes *v = call->volumes;
  uint64_t speed = arg_size (call, "speed");
  char *error = NULL;

  if (!may_rule (call))
    return NULL;
  disk_set_total_speed (speed);
  if (v && v->set_total_speed (v->opaque, &call->peer, speed, &error) == -1)
    fail_volume (call, error);
  return call->wait ? NULL : done (call);
}

static json_t *
run_quit (struct call *call)
{
  if (!may_rule (call))
    return NULL;
  if (call->can_quit)
    call->quit = true;
  else
    FAIL (call, "GenericError", EOPNOTSUPP, "This program does not quit");
  return done (call);
}

/* A page of the map in the making. */
struct page {
  json_t *regions; /* array, or NULL: */
  char *packed;
  size_t nr, max, bytes;
  bool states, more, failed;
  uint64_t next; /* if more */
};

/* A million regions as objects would be seconds of JSON at both ends. */
static int
pack_region (void *opaque, uint64_t offset, uint64_t length,
             enum disk_region_state state)
{
  static const char letters[]
      = { [DISK_LOCAL] = 'l', [DISK_ABSENT] = 'a', [DISK_ZERO] = 'z' };
  struct page *page = opaque;
  char digits[20], *p = digits + sizeof digits;

  do
    *--p = (char)('0' + length % 10);
  while (length /= 10);
  if (page->nr == page->max || MAX_PAGE - page->bytes < 1 + sizeof digits) {
    page->next = offset;
    page->more = true;
    return 1;
  }
  page->nr++;
  page->packed[page->bytes++] = letters[state];
  memcpy (page->packed + page->bytes, p, (size_t)(digits + sizeof digits - p));
  page->bytes += (size_t)(digits + sizeof digits - p);
  return 0;
}

static int
add_region (void *opaque, uint64_t offset, uint64_t length,
            enum disk_region_state state)
{
  static const char *const names[] = {
    [DISK_LOCAL] = "local",
    [DISK_ABSENT] = "absent",
    [DISK_ZERO] = "zero",
  };
  struct page *page = opaque;
  json_t *region;
  size_t bytes;

  if (!page->states && state == DISK_ABSENT)
    return 0;
  region = json_pack ("{s:o*,s:o*}", "offset", object_number (offset), "length",
                      object_number (length));
  if (page->states && region
      && object_set (region, "state", json_string (names[state])) == -1) {
    json_decref (region);
    region = NULL;
  }
  if (region == NULL) {
    page->failed = true;
    return 1;
  }
  bytes = json_dumpb (region, NULL, 0, DUMP_FLAGS) + 2; /* and ", " */
  if (json_array_size (page->regions) == page->max
      || bytes > MAX_PAGE - page->bytes) {
    page->next = offset;
    page->more = true;
    json_decref (region);
    return 1;
  }
  page->bytes += bytes;
  page->failed = json_array_append_new (page->regions, region) == -1;
  return page->failed;
}

static json_t *
run_map (struct call *call)
{
  uint64_t offset = arg_size (call, "offset");
  uint64_t length = arg_size (call, "length");
  struct page page = {
    .max = arg_size (call, "max-regions"),
    .states = arg_value (call, "states"),
  };
  bool packed = arg_value (call, "packed");
  __attribute__ ((cleanup (disk_peek_clear))) struct disk_peek peek = { 0 };
  int peeked = peek_device (call, &peek), r = 0;
  struct disk *disk = peeked ? NULL : call_disk (call);
  const char *name = disk ? disk_name (disk) : peek.info.name;
  json_t *o;
  uint64_t size;

  if (call->error || (disk == NULL && peeked != 1))
    return NULL;
  size = disk ? disk_size (disk) : peek.info.size;
  if (offset > size) {
    FAIL (call, "GenericError", EINVAL,
          "Offset %" PRIu64 " is past the end of disk '%s', which has %" PRIu64
          " bytes",
          offset, name, size);
    return NULL;
  }
  if (length > size - offset) {
    FAIL (call, "GenericError", EINVAL,
          "The range %" PRIu64 "+%" PRIu64 " is not within disk '%s', which "
          "has %" PRIu64 " bytes",
          offset, length, name, size);
    return NULL;
  }
  if (length == 0)
    length = size - offset;
  if (packed)
    page.packed = malloc (MAX_PAGE);
  else
    page.regions = json_array ();
  if (page.packed == NULL && page.regions == NULL)
    return NULL;
  if (length > 0)
    r = disk ? disk_regions (disk, length, offset, page.states,
                             packed ? pack_region : add_region, &page)
             : disk_peek_regions (&peek, length, offset, page.states,
                                  packed ? pack_region : add_region, &page);
  if (r == -1) {
    int err = errno;

    FAIL (call, "GenericError", err,
          "The map of disk '%s' cannot be read: %s%s", name,
          strerrordesc_np (err),
          err == EIO ? ": part of its sidecar is damaged, query-disks shows "
                       "which; the map of other ranges can be had"
                     : "");
  }
  if (r == -1 || page.failed) {
    free (page.packed);
    json_decref (page.regions);
    return NULL;
  }
  if (packed) {
    page.regions = json_stringn_nocheck (page.packed, page.bytes);
    free (page.packed);
  }
  o = json_pack (
      "{s:o,s:o*,s:o*}", packed ? "packed" : "regions", page.regions, "size",
      object_number (size), "granule",
      object_number (disk ? disk_granule (disk) : peek.info.granule));
  if (page.more && o
      && object_set (o, "next", object_number (page.next)) == -1) {
    json_decref (o);
    return NULL;
  }
  return o;
}

/* --- the table -------------------------------------------------------- */

static const char *const on_error_words[] = { "report", "skip", NULL };

/* What goes with a path. */
#define FILE_MEANT                                                            \
  {                                                                           \
    .type = ARG_TEXT, .name = "file", .optional = true,                       \
    .help = "device and inode number of the store that is meant, DEV-INO in " \
            "hexadecimal: if the disk is another file, nothing is done"       \
  }
#define DEVICE                                                \
  { .type = ARG_DEVICE,                                       \
    .name = "device",                                         \
    .help = "the disk: its name, or the path of its store" }, \
      FILE_MEANT
#define DEVICE_OR_ONLY                                                       \
  { .type = ARG_DEVICE,                                                      \
    .name = "device",                                                        \
    .optional = true,                                                        \
    .help = "the disk: its name, or the path of its store; may be left out " \
            "if there is only one" },                                        \
      FILE_MEANT
#define DEVICE_OR_ALL                                               \
  { .type = ARG_DEVICE,                                             \
    .name = "device",                                               \
    .optional = true,                                               \
    .help = "only this disk: its name, or the path of its store" }, \
      FILE_MEANT
#define SPEED(text)                                    \
  {                                                    \
    .type = ARG_INTEGER, .name = "speed", .help = text \
  }
#define NUMBER                                                            \
  {                                                                       \
    .type = ARG_INTEGER, .optional = true, .name = "number",              \
    .help = "the number of the job that is meant; it is refused when it " \
            "is another's turn.  0 is the disk's job, whichever it is"    \
  }
#define NOTHING "an empty object"

const struct command command_table[] = {
  { "block-allocate",
    RUN_SLOW,
    run_allocate,
    NULL,
    "an object with C<number>, that of the job",
    "Start a job that makes a range of the disk local.  When this returns, "
    "the job is recorded durably, and is resumed after a restart.  The range "
    "is widened to whole granules.  A disk has one job at a time.  Events "
    "about the job may come before the answer.",
    { DEVICE_OR_ONLY,
      { ARG_INTEGER, true, "offset", .help = "first byte" },
      { ARG_INTEGER, true, "length",
        .help = "bytes, 0 for all to the end of the disk" },
      { ARG_INTEGER, true, "speed",
        .help = "limit in bytes per second, 0 for none" },
      { ARG_BOOLEAN, true, "sparse", .def = 1,
        .help = "whether zeros may stay holes in the store; else all of the "
                "range is allocated there" },
      { ARG_WORD, true, "on-error", .words = on_error_words,
        .help = "what happens to a range that cannot be read: the job fails "
                "(report), or goes on and fails at its end (skip)" },
      { ARG_INTEGER, true, "retry", .def = -1,
        .help = "milliseconds for which a lost backing store is waited for; 0 "
                "is not at all.  Without it that is for ever" } } },
  { "block-job-cancel",
    RUN_VERB,
    run_cancel,
    NULL,
    NOTHING,
    "End the disk's job.  When this returns, which takes 2 seconds at most, "
    "nothing more is written for it.  What it made local stays local.",
    { DEVICE,
      NUMBER,
      { ARG_BOOLEAN, true, "force",
        .help = "taken as QEMU has it, and without effect" } } },
  { "block-job-dismiss",
    RUN_VERB,
    run_dismiss,
    NULL,
    NOTHING,
    "Forget the disk's job, which must have ended.  Backfilld also forgets "
    "one in progress if the volume's store is gone.",
    { DEVICE, NUMBER } },
  { "block-job-pause",
    RUN_VERB,
    run_pause,
    NULL,
    NOTHING,
    "Pause the disk's job.  It stays paused over a restart.",
    { DEVICE, NUMBER } },
  { "block-job-resume",
    RUN_VERB,
    run_resume,
    NULL,
    NOTHING,
    "Let the disk's job go on: one paused by block-job-pause, or because the "
    "store was full.",
    { DEVICE, NUMBER } },
  { "block-job-set-speed",
    RUN_VERB,
    run_set_speed,
    NULL,
    NOTHING,
    "Change the limit of the disk's job.",
    { DEVICE, NUMBER, SPEED ("limit in bytes per second, 0 for none") } },
  { "disk-create",
    RUN_SLOW,
    run_create,
    NULL,
    NOTHING,
    "Make a new volume: a store and its sidecar, with nothing local yet.  "
    "Only backfilld does this, for root and its own user.",
    { { .type = ARG_DEVICE,
        .name = "device",
        .help = "the path of the store, which must not be there yet" },
      { ARG_TEXT, true, "backing",
        .help = "the backing store, an NBD URI; it must be there now.  "
                "Without one the disk is zeros" },
      { ARG_INTEGER, true, "size",
        .help = "bytes; by default those of the backing store" },
      { ARG_INTEGER, true, "granule", .def = 4096, .min = 512, .max = 65536,
        .help = "a power of two" } } },
  { "disk-detach",
    RUN_SLOW,
    run_detach,
    NULL,
    NOTHING,
    "Let the backing store and the sidecar go.  All of the disk must be "
    "local.",
    { DEVICE_OR_ONLY } },
  { "disk-flush",
    RUN_SLOW,
    run_flush,
    NULL,
    NOTHING,
    "Make durable what was written to the disk, as a guest's flush does.",
    { DEVICE_OR_ONLY } },
  { "disk-release",
    RUN_SLOW,
    run_release,
    NULL,
    NOTHING,
    "Let a volume go, for another process that is about to open it: its job "
    "stops at a checkpoint, and whoever opens the volume goes on with it.  "
    "It is not opened again for a grace period, nor while it is in use.  "
    "Only backfilld does this.",
    { DEVICE } },
  { "disk-take",
    RUN_SLOW,
    run_take,
    NULL,
    NOTHING,
    "Go on with a volume's job when nobody has had the volume open for a "
    "grace period.  Only backfilld does this.",
    { DEVICE } },
  { "qmp_capabilities",
    RUN_LOOP,
    run_capabilities,
    NULL,
    NOTHING,
    "End the negotiation.  Must be the first command.",
    { { ARG_LIST, true, "enable",
        .help = "capabilities to enable; none is offered" } } },
  { "query-allocation-map",
    RUN_QUERY,
    run_map,
    NULL,
    "an object: C<regions> (a list of objects with C<offset>, C<length> and, "
    "if asked for, C<state>: C<local>, C<absent> or C<zero>, which is local "
    "without data in the store), or C<packed> in its place, C<size> and "
    "C<granule> of the disk, and C<next>, the offset from which to ask for the "
    "rest, if there is more",
    "Which ranges of the disk are local, in order, and as long as they can "
    "be.",
    { DEVICE_OR_ONLY,
      { ARG_INTEGER, true, "offset", .help = "first byte" },
      { ARG_INTEGER, true, "length",
        .help = "bytes, 0 for all to the end of the disk" },
      { ARG_INTEGER, true, "max-regions", .def = 1000, .min = 1, .max = 100000,
        .help = "how many regions may be in the answer" },
      { ARG_BOOLEAN, true, "states",
        .help = "give all regions with their state, not only those that are "
                "local" },
      { ARG_BOOLEAN, true, "packed",
        .help = "give all regions as one string, C<packed>: one after the "
                "other from C<offset> on, each a letter (C<l> local, C<a> "
                "absent, C<z> zero, which is told from local only with "
                "C<states>) and its length" } } },
  { "query-block-jobs",
    RUN_QUERY,
    run_jobs,
    quick_jobs,
    "a list of job objects",
    "The jobs in progress, and those that ended and were neither dismissed "
    "nor followed by another.",
    { DEVICE_OR_ALL,
      { ARG_INTEGER, true, "number",
        .help = "only the job of the disk that has this number: in progress, "
                "or one of the 16 latest that this process knows to have "
                "ended, also when others followed it" } } },
  { "query-commands",
    RUN_LOOP,
    run_commands,
    NULL,
    "a list of objects with a C<name>, in order",
    "The commands.",
    { { .type = ARG_END } } },
  { "query-disks",
    RUN_QUERY,
    run_disks,
    NULL,
    "a list of disk objects",
    "The disks of this process and their jobs.",
    { DEVICE_OR_ALL,
      { ARG_BOOLEAN, true, "all",
        .help = "those too that backfilld has not open, but whose job is in "
                "progress, or has ended and was not dismissed" } } },
  { "query-total-speed",
    RUN_LOOP,
    run_total_speed,
    NULL,
    "an object with C<speed>, bytes per second, 0 if there is no limit",
    "The limit of all jobs of this process together.",
    { { .type = ARG_END } } },
  { "query-version",
    RUN_LOOP,
    run_version,
    NULL,
    "an object with C<backfill> (C<major>, C<minor>, C<micro>), C<package>, "
    "and C<qemu>: the version of QEMU whose commands these are like",
    "The version, as the greeting has it.",
    { { .type = ARG_END } } },
  { "quit",
    RUN_LOOP,
    run_quit,
    NULL,
    NOTHING,
    "Shut the process down, after this was answered.  Backfilld does it for "
    "root and its own user.",
    { { .type = ARG_END } } },
  { "set-total-speed",
    RUN_VERB,
    run_set_total_speed,
    NULL,
    NOTHING,
    "Limit all jobs of this process together.  Backfilld does it for root and "
    "its own user, and remembers it over a restart.",
    { SPEED ("limit in bytes per second, 0 for none") } },
  { .name = NULL },
};

/* --- calls ------------------------------------------------------------ */

static const struct command *
find_command (const char *name)
{
  for (const struct command *c = command_table; c->name; c++)
    if (strcmp (c->name, name) == 0)
      return c;
  return NULL;
}

static void
check_members (struct call *call)
{
  const char *key;
  json_t *value;

  json_object_foreach (call->message, key, value) {
    if (strcmp (key, "execute") == 0) {
      if (!json_is_string (value))
        FAIL (call, "GenericError", EINVAL,
              "QMP input member 'execute' must be a string");
    }
    else if (strcmp (key, "arguments") == 0) {
      if (!json_is_object (value))
        FAIL (call, "GenericError", EINVAL,
              "QMP input member 'arguments' must be an object");
      else
        call->args = value;
    }
    else if (strcmp (key, "id") != 0)
      FAIL (call, "GenericError", EINVAL,
            "QMP input member '%.64s' is unexpected", key);
  }
  if (json_object_get (call->message, "execute") == NULL)
    FAIL (call, "GenericError", EINVAL, "QMP input lacks member 'execute'");
}

const struct command *
call_begin (struct call *call, json_t *message, const char *parse_error)
{
  const struct command *command;
  const char *name;

  call->message = message;
  if (message == NULL) {
    FAIL (call, "GenericError", EINVAL, "%s",
          parse_error ? parse_error : "not a message");
    return NULL;
  }
  call->id = json_object_get (message, "id");
  if (call->id && json_dumpb (call->id, NULL, 0, DUMP_FLAGS) > MAX_ID) {
    call->id = NULL;
    FAIL (call, "GenericError", EINVAL,
          "QMP input member 'id' is longer than %u bytes", MAX_ID);
    return NULL;
  }
  check_members (call);
  if (call->error)
    return NULL;

  name = json_string_value (json_object_get (message, "execute"));
  command = find_command (name);
  if (!call->negotiated && (!command || command->run != run_capabilities))
    FAIL (call, "CommandNotFound", 0,
          "Expecting capabilities negotiation with 'qmp_capabilities'");
  else if (!command)
    FAIL (call, "CommandNotFound", 0, "The command %.64s has not been found",
          name);
  else if (call->negotiated && command->run == run_capabilities)
    FAIL (call, "CommandNotFound", 0,
          "Capabilities negotiation is already complete, command ignored");
  if (call->error)
    return NULL;

  call->command = command;
  check_args (call);
  return call->error ? NULL : command;
}

void
call_free (struct call *call)
{
  put_volume (call);
  json_decref (call->message);
  json_decref (call->error);
  call->message = call->id = call->args = call->error = NULL;
}

/* {key: value[, "id": id]} as a line; value is stolen. */
static char *
answer (const struct call *call, const char *key, json_t *value, size_t *len)
{
  json_t *o = json_object ();
  char *line = NULL;

  if (object_set (o, key, value) == 0
      && (call->id == NULL
          || object_set (o, "id", json_incref (call->id)) == 0))
    line = wire_line (o, len);
  json_decref (o);
  return line;
}

char *
call_answer (struct call *call, json_t *result, size_t *len)
{
  char *line = NULL;

  if (result != NULL) {
    line = answer (call, "return", result, len);
    if (line && *len >= WIRE_MAX_LINE) {
      FAIL (call, "GenericError", EMSGSIZE,
            "The answer does not fit in a message: ask for one disk at a "
            "time, with 'device'");
      free (line);
      line = NULL;
    }
  }
  if (line == NULL && call->error != NULL)
    line = answer (call, "error", json_incref (call->error), len);
  call_free (call);
  return line;
}

char *
call_run (struct call *call, size_t *len)
{
  json_t *result = NULL;

  call->wait = false;
  if (call->error == NULL && call->command != NULL) {
    result = call->command->run (call);
    if (call->wait) {
      json_decref (result);
      put_volume (call);
      return NULL;
    }
    if (result == NULL)
      FAIL (call, "GenericError", ENOMEM, "out of memory");
  }
  return call_answer (call, result, len);
}

json_t *
call_try (struct call *call)
{
  return call->command->quick ? call->command->quick (call) : NULL;
}

/* --- the reference ---------------------------------------------------- */

#define LINE_WIDTH 78

/* A paragraph, in lines. */
static void
print_filled (FILE *fp, const char *text)
{
  size_t column = 0;

  while (*text != '\0') {
    size_t word, blanks;

    blanks = strspn (text, " ");
    word = strcspn (text + blanks, " ");
    if (column > 0 && column + blanks + word > LINE_WIDTH) {
      fputc ('\n', fp);
      column = 0;
    }
    if (column == 0) {
      text += blanks;
      blanks = 0;
    }
    fprintf (fp, "%.*s", (int)(blanks + word), text);
    column += blanks + word;
    text += blanks + word;
  }
  fprintf (fp, "\n\n");
}

static void
describe_arg (FILE *fp, const struct arg *a)
{
  fprintf (fp, "B<%s> (%s", a->name, type_name (a->type));
  if (a->optional)
    fprintf (fp, ", optional");
  if (a->type == ARG_WORD) {
    for (size_t i = 0; a->words[i] != NULL; i++)
      fprintf (fp, "%s C<%s>", i ? " or" : ":", a->words[i]);
    fprintf (fp, ", default C<%s>", a->words[a->def]);
  }
  if (a->optional && a->type == ARG_INTEGER && a->def >= 0)
    fprintf (fp, ", default %lld", (long long)a->def);
  if (a->optional && a->type == ARG_BOOLEAN)
    fprintf (fp, ", default %s", a->def ? "true" : "false");
  if (a->max)
    fprintf (fp, ", %lld to %lld", (long long)a->min, (long long)a->max);
  fprintf (fp, "): %c%s.", a->help[0] & ~0x20, a->help + 1);
}

/* An argument is a paragraph, not an =item: many have the same name, which
 * podchecker takes amiss. */
void
command_print (FILE *fp)
{
  for (const struct command *c = command_table; c->name; c++) {
    fprintf (fp, "=head2 %s\n\n", c->name);
    print_filled (fp, c->help);
    for (const struct arg *a = c->args; a->type != ARG_END; a++) {
      CLEANUP_FREE char *text = NULL;
      size_t size;
      FILE *mem = open_memstream (&text, &size);

      if (mem == NULL)
        abort ();
      describe_arg (mem, a);
      if (fclose (mem) != 0)
        abort ();
      print_filled (fp, text);
    }
    {
      CLEANUP_FREE char *text = NULL;

      if (asprintf (&text, "Returns %s.", c->returns) == -1)
        abort ();
      print_filled (fp, text);
    }
  }
}
