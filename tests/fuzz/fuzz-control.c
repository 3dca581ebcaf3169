/* fuzz-control.c - libFuzzer: the control server against anything a client
 * may send: frames, JSON, the table of commands, over disks in memory.
 *
 * The first byte says in which pieces the rest comes.  What must hold: the
 * same messages come out however the stream is cut; each gets one answer,
 * which is one line of ASCII JSON within the limit, with a result or an error
 * of a known class, and with the id that was sent.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "fake-engine.h"
#include "wire.h"

#define CHECK(condition) \
  do                     \
    if (!(condition))    \
      abort ();          \
  while (0)

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

static void
check_error (const json_t *error)
{
  static const char *const classes[] = { "GenericError", "CommandNotFound",
                                         "DeviceNotActive", "DeviceNotFound" };
  const char *class = json_string_value (json_object_get (error, "class"));

  CHECK (class && json_string_value (json_object_get (error, "desc")));
  for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++)
    if (strcmp (class, classes[i]) == 0)
      return;
  abort ();
}

static void
check_answer (char *line, size_t len, const json_t *id)
{
  json_t *answer, *error;

  CHECK (line && len < WIRE_MAX_LINE && strlen (line) == len);
  CHECK (strcmp (line + len - 2, "\r\n") == 0);
  for (size_t i = 0; i < len - 2; i++)
    CHECK ((uint8_t)line[i] >= ' ' && (uint8_t)line[i] < 0x80);
  answer = json_loadb (line, len, JSON_REJECT_DUPLICATES, NULL);
  CHECK (answer);
  error = json_object_get (answer, "error");
  if (error)
    check_error (error);
  CHECK (!error != !json_object_get (answer, "return"));
  /* A real number is echoed with the digits that make it the same again. */
  if (id && json_object_get (answer, "id"))
    CHECK (json_equal (id, json_object_get (answer, "id")));
  json_decref (answer);
  free (line);
}

static bool
take (const struct disks *disks, bool negotiated, enum wire_status status,
      const char *frame, size_t len)
{
  struct call call
      = { .disks = disks, .negotiated = negotiated, .can_quit = true };
  json_t *message = NULL, *id;
  json_error_t err = { .text = "no frame" };
  size_t line_len = 0;
  char *line;

  if (status == WIRE_FRAME)
    message = wire_parse (frame, len, &err);
  CHECK (message || err.text[0] != '\0');
  call_begin (&call, message, err.text);
  id = json_incref (call.id);
  line = call_run (&call, &line_len);
  check_answer (line, line_len, id);
  json_decref (id);
  return call.negotiated;
}

/* A hash of what came out, to compare. */
static uint64_t
run (const struct disks *disks, const uint8_t *data, size_t size, size_t piece,
     bool act)
{
  bool negotiated = false;
  uint64_t hash = 14695981039346656037u;
  struct wire_in in;

  wire_in_init (&in);
  while (size > 0) {
    size_t n = size < piece ? size : piece;
    enum wire_status status;
    const char *frame = NULL;
    size_t len = 0;

    CHECK (wire_in_add (&in, data, n) == 0);
    data += n;
    size -= n;
    while ((status = wire_in_next (&in, &frame, &len)) != WIRE_MORE) {
      if (status != WIRE_FRAME)
        len = 0;
      hash = (hash ^ status) * 1099511628211u;
      for (size_t i = 0; i < len; i++)
        hash = (hash ^ (uint8_t)frame[i]) * 1099511628211u;
      CHECK (len <= WIRE_MAX_FRAME);
      if (act)
        negotiated = take (disks, negotiated, status, frame, len);
    }
    CHECK (in.start <= in.scanned && in.scanned <= in.len && in.len <= in.cap
           && in.depth <= WIRE_MAX_DEPTH);
  }
  wire_in_free (&in);
  return hash;
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct disk *two[2];
  struct disks disks = { two, 2 };
  size_t piece;

  if (size == 0)
    return 0;
  two[0] = fake_disk ("vda", "/srv/a.img", 1 << 20, false, NULL, NULL);
  two[1] = fake_disk ("", "/srv/\xff.img", 1 << 20, true, NULL, NULL);
  disks.len = data[0] & 0x80 ? 1 : 2;
  piece = (size_t)(data[0] & 0x7f) + 1;
  data++;
  size--;
  CHECK (run (&disks, data, size, piece, true)
         == run (&disks, data, size, size + 1, false));
  fake_free (two[0]);
  fake_free (two[1]);
  return 0;
}
