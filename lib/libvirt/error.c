/* error.c - errors of libbackfill-libvirt.
 *
 * Errors are libbackfill's errors of the thread.  Where libvirt failed, its
 * message is in the text, and libvirt's own error is left as it is: so no code
 * may call libvirt between a failure and find_error_libvirt.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <libvirt/virterror.h>

#include "cleanup.h"
#include "find.h"
#include "bridge.h"

int
find_error (int errnum, const char *fmt, ...)
{
  CLEANUP_FREE char *text = NULL;
  va_list ap;
  int r;

  va_start (ap, fmt);
  r = vasprintf (&text, fmt, ap);
  va_end (ap);
  if (r == -1) {
    text = NULL;
    return find_nomem ();
  }
  return backfill_private_error (errnum, text);
}

int
find_nomem (void)
{
  return backfill_private_error (ENOMEM, "out of memory");
}

int
find_error_of (const char *fmt, ...)
{
  int errnum = backfill_get_errno ();
  CLEANUP_FREE char *what = NULL;
  va_list ap;
  int r;

  va_start (ap, fmt);
  r = vasprintf (&what, fmt, ap);
  va_end (ap);
  if (r == -1) {
    what = NULL;
    return find_nomem ();
  }
  return find_error (errnum, "%s: %s", what, backfill_get_error ());
}

static int
errno_of (int code)
{
  switch (code) {
  case VIR_ERR_INVALID_CONN:
  case VIR_ERR_INVALID_DOMAIN:
  case VIR_ERR_INVALID_STORAGE_POOL:
  case VIR_ERR_INVALID_STORAGE_VOL:
  case VIR_ERR_INVALID_ARG:
    return EINVAL;
  case VIR_ERR_NO_DOMAIN:
  case VIR_ERR_NO_STORAGE_POOL:
  case VIR_ERR_NO_STORAGE_VOL:
    return ENOENT;
  case VIR_ERR_OPERATION_DENIED:
  case VIR_ERR_ACCESS_DENIED:
  case VIR_ERR_AUTH_FAILED:
    return EACCES;
  case VIR_ERR_NO_CONNECT:
    return ENOTCONN;
  case VIR_ERR_NO_MEMORY:
    return ENOMEM;
  default:
    return EIO;
  }
}

int
find_error_libvirt (const char *fmt, ...)
{
  const virError *err = virGetLastError ();
  CLEANUP_FREE char *what = NULL;
  va_list ap;
  int r;

  va_start (ap, fmt);
  r = vasprintf (&what, fmt, ap);
  va_end (ap);
  if (r == -1) {
    what = NULL;
    return find_nomem ();
  }
  return find_error (errno_of (err != NULL ? err->code : 0),
                     "%s: libvirt says: %s", what, virGetLastErrorMessage ());
}
