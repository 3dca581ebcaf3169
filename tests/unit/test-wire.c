/* test-wire.c - framing: whatever the stream is cut into, the same messages
 * and errors come out, and what is held stays bounded.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

/* What came out, as text: each frame, and ! with a letter for an error. */
struct seen {
  char text[4096];
};

static void
take (struct wire_in *in, struct seen *seen)
{
  for (;;) {
    const char *frame;
    size_t len, used = strlen (seen->text);
    char *to = seen->text + used;
    size_t room = sizeof seen->text - used;

    switch (wire_in_next (in, &frame, &len)) {
    case WIRE_MORE:
      return;
    case WIRE_FRAME:
      snprintf (to, room, "%.*s;", (int)len, frame);
      break;
    case WIRE_TOO_BIG:
      snprintf (to, room, "!B;");
      break;
    case WIRE_TOO_DEEP:
      snprintf (to, room, "!D;");
      break;
    case WIRE_GARBAGE:
      snprintf (to, room, "!G;");
      break;
    }
  }
}

static void
check_n (const char *input, size_t len, const char *expected)
{
  static const size_t pieces[] = { 1, 2, 3, 7, 4096 };

  for (size_t p = 0; p < sizeof pieces / sizeof pieces[0]; p++) {
    struct wire_in in;
    struct seen seen = { "" };

    wire_in_init (&in);
    for (size_t i = 0; i < len; i += pieces[p]) {
      size_t n = len - i < pieces[p] ? len - i : pieces[p];

      assert_int_equal (wire_in_add (&in, input + i, n), 0);
      take (&in, &seen);
    }
    assert_string_equal (seen.text, expected);
    wire_in_free (&in);
  }
}

static void
check (const char *input, const char *expected)
{
  check_n (input, strlen (input), expected);
}

static void
test_frames (void **state)
{
  (void)state;
  check ("", "");
  check (" \r\n\t", "");
  check ("{}", "{};");
  check ("{}{}\r\n{}", "{};{};{};");
  check ("{\"a\": \"}{\"}", "{\"a\": \"}{\"};");
  check ("{\"a\\\"}\": [1, {}]}{}", "{\"a\\\"}\": [1, {}]};{};");
  check ("{\"a\": \"\\\\\"}{}", "{\"a\": \"\\\\\"};{};");
  check ("{\n\"a\":\r\n1}", "{\n\"a\":\r\n1};");
  /* Not an object, but a frame: the parser says what is wrong. */
  check ("[1, 2]{}", "[1, 2];{};");
  check ("{]{}", "{];{};");
  check ("{\"a\": [", "");
  check ("{\"a\": \"\x7f\"}", "{\"a\": \"\x7f\"};");
}

static void
test_garbage (void **state)
{
  (void)state;
  check ("hello {}\n{}", "!G;{};");
  check ("}\n}\n{}", "!G;!G;{};");
  check ("\"{}\"\n{}", "!G;{};");
  check ("'{}", "!G;");
  /* A control character drops what was begun. */
  check ("{\"a\": \x03{}", "!G;{};");
  check ("{\"a\": \"\n{}", "!G;{};");
  check ("{\"a\": \xff{}", "!G;{};");
  check_n ("{\"a\": \"b\0{}", 11, "!G;{};");
  check ("\xff{}", "!G;{};");
}

static void
test_depth (void **state)
{
  char deep[256];

  (void)state;
  memset (deep, '[', 32);
  memset (deep + 32, ']', 32);
  deep[64] = '\0';
  {
    char expected[sizeof deep + 2];

    snprintf (expected, sizeof expected, "%s;", deep);
    check (deep, expected);
  }
  memset (deep, '[', 33);
  memset (deep + 33, ']', 33);
  strcpy (deep + 66, "{}\n{}");
  check (deep, "!D;{};");
}

/* Feed len bytes of a message that opens with {" and does not end. */
static void
feed_long (struct wire_in *in, size_t len, struct seen *seen)
{
  char chunk[65536];
  bool first = true;

  while (len > 0) {
    size_t n = len < sizeof chunk ? len : sizeof chunk;

    memset (chunk, 'x', n);
    if (first)
      memcpy (chunk, "{\"", 2);
    first = false;
    assert_int_equal (wire_in_add (in, chunk, n), 0);
    take (in, seen);
    assert_true (in->len <= WIRE_MAX_FRAME + sizeof chunk);
    len -= n;
  }
}

static void
test_size (void **state)
{
  struct wire_in in;
  struct seen seen = { "" };
  const char *frame;
  size_t len;
  char *text;

  (void)state;
  /* The longest that may be. */
  wire_in_init (&in);
  text = malloc (WIRE_MAX_FRAME);
  assert_non_null (text);
  memset (text, ' ', WIRE_MAX_FRAME);
  text[0] = '{';
  text[WIRE_MAX_FRAME - 1] = '}';
  assert_int_equal (wire_in_add (&in, text, WIRE_MAX_FRAME), 0);
  assert_int_equal (wire_in_next (&in, &frame, &len), WIRE_FRAME);
  assert_int_equal (len, WIRE_MAX_FRAME);
  assert_int_equal (wire_in_next (&in, &frame, &len), WIRE_MORE);
  /* Its memory comes back. */
  assert_true (in.cap <= 65536);
  wire_in_free (&in);
  free (text);

  /* One byte more; and much more: one error, and then the next. */
  wire_in_init (&in);
  feed_long (&in, WIRE_MAX_FRAME + 1, &seen);
  assert_string_equal (seen.text, "!B;");
  assert_int_equal (wire_in_add (&in, "\n{}", 3), 0);
  take (&in, &seen);
  assert_string_equal (seen.text, "!B;{};");
  seen.text[0] = '\0';
  feed_long (&in, 10 * WIRE_MAX_FRAME, &seen);
  assert_string_equal (seen.text, "!B;");
  assert_true (in.cap <= 65536);
  assert_int_equal (wire_in_add (&in, "\n{}", 3), 0);
  take (&in, &seen);
  assert_string_equal (seen.text, "!B;{};");
  wire_in_free (&in);
}

static json_t *
parse (const char *text, char *why)
{
  json_error_t err;
  json_t *message = wire_parse (text, strlen (text), &err);

  strcpy (why, message ? "" : err.text);
  return message;
}

static void
test_parse (void **state)
{
  static const char *const bad[] = {
    "{]",
    "[1, 2]",
    "{\"a\": 1, \"a\": 2}",
    "{\"a\": 01}",
    "{'a': 1}",
    "{\"a\": 18446744073709551616}",
    "{\"a\": \"\xc0\xaf\"}",
    "{\"a\": \"\\ud800\"}",
    "{\"a\": \"\\u0000\"}",
    "{\"a\": NaN}",
    "{\"a\": 1}}",
  };
  char why[JSON_ERROR_TEXT_LENGTH];
  json_t *message;

  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    assert_null (parse (bad[i], why));
    assert_int_not_equal (strlen (why), 0);
  }
  assert_null (parse ("[]", why));
  assert_string_equal (why, "QMP input must be a JSON object");
  message = parse ("{\"a\": 9223372036854775807}", why);
  assert_non_null (message);
  assert_true (json_integer_value (json_object_get (message, "a"))
               == INT64_MAX);
  json_decref (message);
}

static void
test_line (void **state)
{
  json_t *message
      = json_pack ("{s:s,s:i}", "a", "\n\xc3\xa9\xf0\x9f\x98\x80", "b", 1);
  size_t len;
  char *line = wire_line (message, &len);

  (void)state;
  assert_non_null (line);
  assert_string_equal (line,
                       "{\"a\": \"\\n\\u00E9\\uD83D\\uDE00\", \"b\": 1}\r\n");
  assert_int_equal (len, strlen (line));
  free (line);
  json_decref (message);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_frames), cmocka_unit_test (test_garbage),
    cmocka_unit_test (test_depth),  cmocka_unit_test (test_size),
    cmocka_unit_test (test_parse),  cmocka_unit_test (test_line),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
