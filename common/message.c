/* message.c - see message.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

void
message_set (char **error, const char *fmt, ...)
{
  int err = errno;
  char *text = NULL;
  va_list ap;

  va_start (ap, fmt);
  if (vasprintf (&text, fmt, ap) == -1)
    text = strdup ("out of memory");
  va_end (ap);
  if (!text)
    abort ();
  free (*error);
  *error = text;
  errno = err;
}

/* Bytes of the UTF-8 character at p; 0: it is none. */
static size_t
utf8_length (const unsigned char *p)
{
  size_t n = p[0] >= 0xf0 && p[0] < 0xf5   ? 4
             : p[0] >= 0xe0 && p[0] < 0xf0 ? 3
             : p[0] >= 0xc2 && p[0] < 0xe0 ? 2
                                           : 0;

  for (size_t i = 1; i < n; i++)
    if ((p[i] & 0xc0) != 0x80)
      return 0;
  return n;
}

char *
message_clean (char *text)
{
  unsigned char *p = (unsigned char *)text;

  while (p && *p) {
    size_t n = *p < 0x80 ? 1 : utf8_length (p);

    /* C1 controls are U+0080 to U+009F; U+2028 and U+2029 end lines, too. */
    if (n == 0 || *p < 0x20 || *p == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0)
        || (p[0] == 0xe2 && p[1] == 0x80 && (p[2] & 0xfe) == 0xa8))
      for (size_t i = 0; i < (n ? n : 1); i++)
        p[i] = '?';
    p += n ? n : 1;
  }
  return text;
}
