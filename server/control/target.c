/* target.c - the disk that a command is about.
 *
 * A process has a fixed list of disks (the plugin), or volumes that are held
 * while a command runs (backfilld).  See target.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "target.h"

void
call_fail_volume (struct call *call, char *error)
{
  int err = errno;

  if (err == EINPROGRESS && error == NULL) {
    call->wait = true;
    return;
  }
  CALL_FAIL (call,
             err == ENOENT   ? "DeviceNotFound"
             : err == ESTALE ? "FileMismatch"
                             : "GenericError",
             err, "%s", error ? error : strerrordesc_np (err));
  free (error);
}

void
call_fail_job (struct call *call, char *error)
{
  int err = errno;

  CALL_FAIL (call, err == ESRCH ? "DeviceNotActive" : "GenericError", err, "%s",
             error ? error : strerrordesc_np (err));
  free (error);
}

const struct file_id *
arg_file (struct call *call, struct file_id *file)
{
  const char *text = arg_text (call, "file");

  if (text == NULL)
    return NULL;
  if (!file_id_parse (text, file))
    CALL_FAIL (call, "GenericError", EINVAL,
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
  CALL_FAIL (
      call, "FileMismatch", ESTALE,
      "Disk '%.256s' is another file (%s) than the one that is meant (%s)",
      disk_name (disk), file_id_text (disk_file (disk), is),
      file_id_text (file, meant));
  return NULL;
}

/* Hold the volume that `device` names until the call is over. */
static struct disk *
hold_volume (struct call *call, enum control_use use)
{
  const struct control_volumes *v = call->volumes;
  const char *path = arg_text (call, "device");
  const struct file_id *file;
  struct file_id meant;
  char *error = NULL;

  if (path == NULL) {
    CALL_FAIL (call, "GenericError", EINVAL,
               "Parameter 'device' is missing: give the path of the volume's "
               "store");
    return NULL;
  }
  file = arg_file (call, &meant);
  if (call->error)
    return NULL;
  call->held = v->get (v->opaque, &call->peer, path, file, use, &error);
  if (call->held == NULL)
    call_fail_volume (call, error);
  return call->held;
}

void
call_put_volume (struct call *call)
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
    CALL_FAIL (call, "GenericError", EINVAL,
               "Parameter 'device' is missing: there are the disks %s",
               list_names (call->disks, names));
    return NULL;
  }
  disk = disks_find (call->disks, name);
  if (disk == NULL)
    CALL_FAIL (call, "DeviceNotFound", ENOENT,
               "No disk has the name or the store '%.256s': there %s %s", name,
               call->disks->len == 1 ? "is" : "are",
               list_names (call->disks, names));
  return disk;
}

struct disk *
call_disk_for (struct call *call, enum control_use use)
{
  return check_file (call, find_disk (call, use));
}

struct disk *
call_disk (struct call *call)
{
  return call_disk_for (call, CONTROL_QUERY);
}

int
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
    call_fail_volume (call, error);
  return r;
}
