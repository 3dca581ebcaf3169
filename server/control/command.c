/* command.c - the commands that do something: negotiate, start and steer jobs,
 * flush, detach, make and move volumes, quit.  See handlers.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "args.h"
#include "bytes.h"
#include "handlers.h"
#include "object.h"
#include "target.h"

/* With volumes there may be clients of several users.  What concerns the whole
 * process is for root and the process's own user alone. */
static bool
may_rule (struct call *call)
{
  uid_t uid = call->peer.uid;

  if (call->volumes == NULL || uid == 0 || uid == geteuid ())
    return true;
  CALL_FAIL (call, "GenericError", EPERM,
             "The command %s is for root and backfilld's own user",
             call->command->name);
  return false;
}

static json_t *
done (struct call *call)
{
  return call->error ? NULL : json_object ();
}

json_t *
run_capabilities (struct call *call)
{
  const json_t *first
      = json_array_get (json_object_get (call->args, "enable"), 0);

  /* The greeting offers no capability. */
  if (first != NULL && !json_is_string (first))
    CALL_FAIL (call, "GenericError", EINVAL,
               "Invalid parameter type for 'enable[0]', expected: string");
  else if (first != NULL)
    CALL_FAIL (call, "GenericError", EINVAL,
               "Parameter 'enable': capability '%.64s' is not offered",
               json_string_value (first));
  else
    call->negotiated = true;
  return done (call);
}

/* The protocol's 0 is "not at all"; the engine's 0 is for ever. */
static uint64_t
retry_of (const struct call *call)
{
  json_int_t ms = arg_value (call, "retry");

  return ms == -1 ? 0 : max_u64 ((uint64_t)ms, 1);
}

json_t *
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
    call_fail_job (call, error);
  return call->error ? NULL
                     : json_pack ("{s:o}", "number", object_number (number));
}

json_t *
run_set_speed (struct call *call)
{
  struct disk *disk = call_disk (call);
  char *error = NULL;

  if (disk
      && job_set_speed (disk, arg_size (call, "number"),
                        arg_size (call, "speed"), &error)
             == -1)
    call_fail_job (call, error);
  return done (call);
}

static json_t *
run_verb (struct call *call,
          int (*verb) (struct disk *disk, uint64_t number, char **error))
{
  struct disk *disk = call_disk (call);
  char *error = NULL;

  if (disk && verb (disk, arg_size (call, "number"), &error) == -1)
    call_fail_job (call, error);
  return done (call);
}

json_t *
run_pause (struct call *call)
{
  return run_verb (call, job_pause);
}

json_t *
run_resume (struct call *call)
{
  return run_verb (call, job_resume);
}

json_t *
run_cancel (struct call *call)
{
  return run_verb (call, job_abort);
}

json_t *
run_dismiss (struct call *call)
{
  const struct control_volumes *v = call->volumes;
  char *error = NULL;
  int r;

  if (v && arg_text (call, "device")) {
    r = v->forget (v->opaque, &call->peer, arg_text (call, "device"), &error);
    if (r == -1)
      call_fail_volume (call, error);
    if (r != 0)
      return call->wait ? NULL : done (call);
  }
  return run_verb (call, job_dismiss);
}

json_t *
run_detach (struct call *call)
{
  struct disk *disk = call_disk (call);
  char *error = NULL;

  if (disk && disk_detach (disk, &error) == -1)
    call_fail_job (call, error);
  return done (call);
}

json_t *
run_flush (struct call *call)
{
  struct disk *disk = call_disk (call);

  if (disk && disk_flush (disk) == -1) {
    int err = errno;

    CALL_FAIL (call, "GenericError", err, "Disk '%s' cannot be flushed: %s",
               disk_name (disk), strerrordesc_np (err));
  }
  return done (call);
}

json_t *
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
    CALL_FAIL (call, "GenericError", EOPNOTSUPP,
               "The disks of this process are fixed: backfilld makes volumes");
  else if (v->create (v->opaque, &call->peer, &config, &error) == -1)
    call_fail_volume (call, error);
  return done (call);
}

/* disk-release and disk-take: backfilld's alone.  A plugin keeps its disks. */
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
    CALL_FAIL (
        call, "GenericError", EOPNOTSUPP,
        "The disks of this process are fixed: only backfilld lets a volume "
        "go, or takes one");
  else if (move (call->volumes->opaque, &call->peer, arg_text (call, "device"),
                 file, &error)
           == -1)
    call_fail_volume (call, error);
  return done (call);
}

json_t *
run_release (struct call *call)
{
  return run_move (call, call->volumes ? call->volumes->release : NULL);
}

json_t *
run_take (struct call *call)
{
  return run_move (call, call->volumes ? call->volumes->take : NULL);
}

json_t *
run_set_total_speed (struct call *call)
{
  const struct control_volumes *v = call->volumes;
  uint64_t speed = arg_size (call, "speed");
  char *error = NULL;

  if (!may_rule (call))
    return NULL;
  if (!v)
    disk_set_total_speed (speed);
  else if (v->set_total_speed (v->opaque, &call->peer, speed, &error) == -1)
    call_fail_volume (call, error);
  return call->wait ? NULL : done (call);
}

json_t *
run_quit (struct call *call)
{
  if (!may_rule (call))
    return NULL;
  if (call->can_quit)
    call->quit = true;
  else
    CALL_FAIL (call, "GenericError", EOPNOTSUPP, "This program does not quit");
  return done (call);
}
