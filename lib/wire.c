/* wire.c - see wire.h.
 *
 * The scanner is a loop over bytes with a depth and two flags.  It keeps its
 * place between calls, so it looks at each byte once, however the stream was
 * cut into reads.  It counts { and [ alike: the parser finds, inside the frame,
 * what does not match.
 *
 * A control character that JSON has no use for (and the byte 0xff, which no
 * UTF-8 holds) drops the frame that was begun, wherever the character comes: so
 * a client gets back in step after half a message.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "wire.h"

/* A buffer that grew beyond this is given back once it is empty. */
#define KEEP_CAP 65536u

static bool
is_space (unsigned char c)
{
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool
is_break (unsigned char c)
{
  return (c < ' ' && !is_space (c)) || c == 0xff;
}

void
wire_in_init (struct wire_in *in)
{
  memset (in, 0, sizeof *in);
}

void
wire_in_free (struct wire_in *in)
{
  free (in->ptr);
  wire_in_init (in);
}

/* Drop the bytes before start. */
static void
compact (struct wire_in *in)
{
  if (in->start == 0)
    return;
  in->len -= in->start;
  in->scanned -= in->start;
  if (in->len > 0)
    memmove (in->ptr, in->ptr + in->start, in->len);
  in->start = 0;
  if (in->len == 0 && in->cap > KEEP_CAP) {
    free (in->ptr);
    in->ptr = NULL;
    in->cap = 0;
  }
}

int
wire_in_add (struct wire_in *in, const void *bytes, size_t len)
{
  if (len == 0)
    return 0;
  compact (in);
  if (len > in->cap - in->len) {
    size_t cap = in->cap < 4096 ? 4096 : in->cap;
    char *ptr;

    if (len > SIZE_MAX / 4 - in->len) {
      errno = ENOMEM;
      return -1;
    }
    while (cap - in->len < len)
      cap *= 2;
    ptr = realloc (in->ptr, cap);
    if (ptr == NULL)
      return -1;
    in->ptr = ptr;
    in->cap = cap;
  }
  memcpy (in->ptr + in->len, bytes, len);
  in->len += len;
  return 0;
}

/* Forget the frame that was begun, up to pos. */
static void
drop (struct wire_in *in, size_t pos, bool skip)
{
  in->start = in->scanned = pos;
  in->depth = 0;
  in->in_string = in->escaped = false;
  in->skipping = skip;
}

static enum wire_status
no_more (struct wire_in *in)
{
  /* Give a large buffer back as soon as nothing in it is needed. */
  if (in->start == in->len)
    compact (in);
  return WIRE_MORE;
}

/* The byte c of a string. */
static void
scan_string (struct wire_in *in, unsigned char c)
{
  if (in->escaped)
    in->escaped = false;
  else if (c == '\\')
    in->escaped = true;
  else if (c == '"')
    in->in_string = false;
}

enum wire_status
wire_in_next (struct wire_in *in, const char **frame, size_t *len)
{
  while (in->scanned < in->len) {
    size_t pos = in->scanned++;
    unsigned char c = (unsigned char)in->ptr[pos];

    if (in->skipping) {
      drop (in, pos + 1, c != '\n' && !is_break (c));
      continue;
    }
    if (in->depth == 0) {
      if (is_space (c)) {
        in->start = pos + 1;
        continue;
      }
      if (c != '{' && c != '[') {
        drop (in, pos + 1, !is_break (c));
        return WIRE_GARBAGE;
      }
      in->start = pos;
      in->depth = 1;
      continue;
    }
    if (pos - in->start >= WIRE_MAX_FRAME) {
      drop (in, pos, true);
      return WIRE_TOO_BIG;
    }
    if (is_break (c) || (in->in_string && c < ' ')) {
      drop (in, pos + 1, false);
      return WIRE_GARBAGE;
    }
    if (in->in_string) {
      scan_string (in, c);
      continue;
    }
    switch (c) {
    case '"':
      in->in_string = true;
      break;
    case '{':
    case '[':
      if (in->depth == WIRE_MAX_DEPTH) {
        drop (in, pos + 1, true);
        return WIRE_TOO_DEEP;
      }
      in->depth++;
      break;
    case '}':
    case ']':
      if (--in->depth == 0) {
        *frame = in->ptr + in->start;
        *len = pos + 1 - in->start;
        in->start = pos + 1;
        return WIRE_FRAME;
      }
      break;
    }
  }
  return no_more (in);
}

json_t *
wire_parse (const char *frame, size_t len, json_error_t *err)
{
  json_t *message = json_loadb (frame, len, JSON_REJECT_DUPLICATES, err);
  char why[sizeof err->text - sizeof "JSON parse error: " + 1];

  if (message == NULL) {
    snprintf (why, sizeof why, "%.*s", (int)sizeof why - 1, err->text);
    snprintf (err->text, sizeof err->text, "JSON parse error: %s", why);
  }
  else if (!json_is_object (message)) {
    json_decref (message);
    message = NULL;
    memset (err, 0, sizeof *err);
    strcpy (err->text, "QMP input must be a JSON object");
  }
  return message;
}

char *
wire_line (const json_t *message, size_t *len)
{
  char *text = json_dumps (message, JSON_ENSURE_ASCII);
  char *line;
  size_t n;

  if (text == NULL)
    return NULL;
  n = strlen (text);
  line = realloc (text, n + 3);
  if (line == NULL) {
    free (text);
    return NULL;
  }
  memcpy (line + n, "\r\n", 3);
  *len = n + 2;
  return line;
}

/* Length of the UTF-8 character at s, 0 if it is none. */
static size_t
utf8_length (const char *s)
{
  size_t n;

  /* The loop ends at a NUL, which is no continuation byte.  A string that
   * jansson takes is one whole character or more, so the shortest is one. */
  for (n = 1; n <= 4 && s[n - 1] != '\0'; n++) {
    json_t *j = json_stringn (s, n);

    if (j != NULL) {
      json_decref (j);
      return n;
    }
  }
  return 0;
}

json_t *
wire_text (const char *s)
{
  json_t *j = json_string (s);
  CLEANUP_FREE char *fixed = NULL;
  char *to;

  if (j != NULL)
    return j;
  to = fixed = malloc (strlen (s) * 3 + 1);
  if (fixed == NULL)
    return NULL;
  while (*s != '\0') {
    size_t n = utf8_length (s);

    if (n == 0) {
      to = stpcpy (to, "\xef\xbf\xbd");
      s++;
    }
    else {
      memcpy (to, s, n);
      to += n;
      s += n;
    }
  }
  *to = '\0';
  return json_string (fixed);
}
