/* test-control.c - the control socket, over disks in memory.
 *
 * Each test serves a socket in a folder of its own and speaks to it as a
 * client would: what is said, what must not be done before all is checked,
 * and what rude clients must not take from the others.  Where something must
 * happen it is waited for with a minute's patience; where something must not
 * wait, another thing is held up for good meanwhile, so no test looks at the
 * clock.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "command.h"
#include "control.h"
#include "fake-engine.h"
#include "message.h"
#include "wire.h"

#define PATIENCE 60000 /* ms */
#define MIB (UINT64_C (1) << 20)

struct box {
  char dir[64], path[128];
  struct disk *disks[2];
  struct control_config config;
  struct control *control;
  int quits;
};

/* --- the server ------------------------------------------------------- */

static void
on_event (void *opaque, const struct disk_event *event)
{
  struct box *b = opaque;

  control_event (b->control, event);
}

static void
on_quit (void *opaque)
{
  struct box *b = opaque;

  __atomic_add_fetch (&b->quits, 1, __ATOMIC_SEQ_CST);
}

static void
box_listen (struct box *b, size_t nr_disks)
{
  memset (b, 0, sizeof *b);
  strcpy (b->dir, "/tmp/test-control-XXXXXX");
  assert_non_null (mkdtemp (b->dir));
  snprintf (b->path, sizeof b->path, "%s/sock", b->dir);
  b->disks[0] = fake_disk ("vda", "/srv/a.img", 64 * MIB, false, on_event, b);
  b->disks[1] = fake_disk ("", "/srv/\xff.img", 64 * MIB, true, on_event, b);
  b->config = (struct control_config){
    .path = b->path,
    .disks = { b->disks, nr_disks },
    .quit = on_quit,
    .opaque = b,
    .program = "test-control",
  };
}

static void
box_start (struct box *b)
{
  char *error = NULL;

  b->control = control_listen (&b->config, &error);
  if (!b->control)
    fail_msg ("%s", error);
  assert_int_equal (control_start (b->control, &error), 0);
}

static void
box_open (struct box *b, size_t nr_disks)
{
  box_listen (b, nr_disks);
  box_start (b);
}

static void
box_close (struct box *b)
{
  control_free (b->control);
  assert_int_equal (access (b->path, F_OK), -1);
  fake_free (b->disks[0]);
  fake_free (b->disks[1]);
  assert_int_equal (rmdir (b->dir), 0);
}

/* --- a client --------------------------------------------------------- */

struct client {
  int fd;
  struct wire_in in;
  json_t *events; /* that came while an answer was waited for */
};

static int
try_connect (const char *path)
{
  struct sockaddr_un addr = { .sun_family = AF_UNIX };
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

  assert_int_not_equal (fd, -1);
  assert_true (strlen (path) < sizeof addr.sun_path);
  strcpy (addr.sun_path, path);
  if (connect (fd, (struct sockaddr *)&addr, sizeof addr) == 0)
    return fd;
  close (fd);
  return -1;
}

static void
client_open (struct client *cl, struct box *b)
{
  memset (cl, 0, sizeof *cl);
  wire_in_init (&cl->in);
  cl->events = json_array ();
  cl->fd = try_connect (b->path);
  assert_int_not_equal (cl->fd, -1);
}

static void
client_close (struct client *cl)
{
  close (cl->fd);
  wire_in_free (&cl->in);
  json_decref (cl->events);
}

/* All of it, as long as the server takes some within the minute. */
static void
send_bytes (struct client *cl, const char *bytes, size_t len)
{
  while (len > 0) {
    struct pollfd p = { .fd = cl->fd, .events = POLLOUT };
    ssize_t n;

    assert_int_equal (poll (&p, 1, PATIENCE), 1);
    n = send (cl->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n == -1 && errno == EAGAIN)
      continue;
    assert_true (n > 0);
    bytes += n;
    len -= (size_t)n;
  }
}

static void
send_text (struct client *cl, const char *text)
{
  send_bytes (cl, text, strlen (text));
}

/* The next message; NULL at the end. */
static json_t *
receive (struct client *cl)
{
  for (;;) {
    struct pollfd p = { .fd = cl->fd, .events = POLLIN };
    char buf[65536];
    const char *frame;
    size_t len;
    ssize_t n;

    switch (wire_in_next (&cl->in, &frame, &len)) {
    case WIRE_MORE:
      break;
    case WIRE_FRAME: {
      json_error_t err;
      json_t *message = wire_parse (frame, len, &err);

      assert_non_null (message);
      assert_true (len < WIRE_MAX_LINE - 1);
      assert_null (memchr (frame, '\n', len));
      for (size_t i = 0; i < len; i++)
        assert_true (frame[i] >= ' ' && frame[i] < 0x7f);
      return message;
    }
    default:
      fail_msg ("the server sent what is no message");
    }
    assert_int_equal (poll (&p, 1, PATIENCE), 1);
    n = recv (cl->fd, buf, sizeof buf, 0);
    if (n == 0 || (n == -1 && errno == ECONNRESET))
      return NULL;
    assert_true (n > 0);
    assert_int_equal (wire_in_add (&cl->in, buf, (size_t)n), 0);
  }
}

static void
assert_closed (struct client *cl)
{
  json_t *message;

  while ((message = receive (cl)) != NULL)
    json_decref (message);
}

/* The next that is not an event. */
static json_t *
receive_answer (struct client *cl)
{
  for (;;) {
    json_t *message = receive (cl);

    if (message == NULL)
      fail_msg ("the server has closed the connection");
    if (json_object_get (message, "event") == NULL)
      return message;
    json_array_append_new (cl->events, message);
  }
}

static json_t *
ask (struct client *cl, const char *text)
{
  send_text (cl, text);
  return receive_answer (cl);
}

static void
greet (struct client *cl, struct box *b)
{
  json_t *greeting, *answer;

  client_open (cl, b);
  greeting = receive (cl);
  assert_non_null (json_object_get (greeting, "QMP"));
  json_decref (greeting);
  answer = ask (cl, "{\"execute\":\"qmp_capabilities\"}");
  assert_true (json_is_object (json_object_get (answer, "return")));
  json_decref (answer);
}

/* What it returns, borrowed from *answer. */
static json_t *
returned (struct client *cl, const char *text, json_t **answer)
{
  json_t *value;

  *answer = ask (cl, text);
  value = json_object_get (*answer, "return");
  if (value == NULL) {
    char *s = json_dumps (*answer, 0);

    print_error ("%s\n -> %s\n", text, s);
    free (s);
  }
  assert_non_null (value);
  return value;
}

static void
ok (struct client *cl, const char *text)
{
  json_t *answer;

  returned (cl, text, &answer);
  json_decref (answer);
}

static void
fails (struct client *cl, const char *text, const char *class,
       const char *errno_name, const char *part)
{
  json_t *answer = ask (cl, text);
  json_t *error = json_object_get (answer, "error");
  const char *desc = json_string_value (json_object_get (error, "desc"));
  const char *name = json_string_value (json_object_get (error, "errno-name"));

  if (desc == NULL)
    fail_msg ("this should fail: %s", text);
  assert_string_equal (json_string_value (json_object_get (error, "class")),
                       class);
  if (strstr (desc, part) == NULL)
    fail_msg ("'%s' is not in '%s'", part, desc);
  if (errno_name)
    assert_string_equal (name, errno_name);
  else
    assert_null (name);
  json_decref (answer);
}

static json_int_t
number (const json_t *object, const char *key)
{
  const json_t *value = json_object_get (object, key);

  if (!json_is_integer (value))
    fail_msg ("no number '%s'", key);
  return json_integer_value (value);
}

static const char *
text_of (const json_t *object, const char *key)
{
  const char *s = json_string_value (json_object_get (object, key));

  if (s == NULL)
    fail_msg ("no text '%s'", key);
  return s;
}

/* The next event, which must be that; borrowed until the next. */
static json_t *
event (struct client *cl, const char *name)
{
  static json_t *message;

  json_decref (message);
  message = json_incref (json_array_get (cl->events, 0));
  if (message)
    json_array_remove (cl->events, 0);
  else
    message = receive (cl);
  assert_non_null (message);
  assert_string_equal (text_of (message, "event"), name);
  assert_true (number (json_object_get (message, "timestamp"), "seconds")
               > 1600000000);
  assert_true (number (json_object_get (message, "timestamp"), "microseconds")
               < 1000000);
  return json_object_get (message, "data");
}

static void
status_event (struct client *cl, const char *status)
{
  json_t *data = event (cl, "JOB_STATUS_CHANGE");

  assert_string_equal (text_of (data, "status"), status);
  assert_string_equal (text_of (data, "id"), "vda");
  assert_string_equal (text_of (data, "device"), "vda");
}

static void
nap (void)
{
  const struct timespec ts = { .tv_nsec = 10 * 1000 * 1000 };

  nanosleep (&ts, NULL);
}

static void
wait_blocked (unsigned n)
{
  for (int i = 0; fake_blocked () < n; i++) {
    assert_true (i < PATIENCE / 10);
    nap ();
  }
}

static unsigned
nr_descriptors (void)
{
  unsigned n = 0;

  for (int fd = 0; fd < 10000; fd++)
    n += fcntl (fd, F_GETFD) != -1;
  return n;
}

static void
wait_descriptors (unsigned n)
{
  for (int i = 0; nr_descriptors () > n; i++) {
    assert_true (i < PATIENCE / 10);
    nap ();
  }
}

/* --- what is said ----------------------------------------------------- */

static void
test_negotiation (void **state)
{
  struct box b;
  struct client cl;
  json_t *greeting, *version;

  (void)state;
  box_open (&b, 1);
  client_open (&cl, &b);
  greeting = receive (&cl);
  version = json_object_get (json_object_get (greeting, "QMP"), "version");
  assert_int_equal (number (json_object_get (version, "qemu"), "major"), 7);
  assert_non_null (strstr (text_of (version, "package"), "backfill"));
  number (json_object_get (version, "backfill"), "micro");
  assert_true (json_is_array (
      json_object_get (json_object_get (greeting, "QMP"), "capabilities")));
  json_decref (greeting);

  fails (&cl, "{\"execute\":\"query-disks\"}", "CommandNotFound", NULL,
         "Expecting capabilities negotiation with 'qmp_capabilities'");
  fails (&cl, "{\"execute\":\"nonsense\"}", "CommandNotFound", NULL,
         "Expecting capabilities");
  fails (&cl,
         "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\""
         "]}}",
         "GenericError", "EINVAL", "oob");
  /* No event before it. */
  fake_event (b.disks[0], DISK_EVENT_LOCAL, NULL);
  ok (&cl, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}");
  fails (&cl, "{\"execute\":\"qmp_capabilities\"}", "CommandNotFound", NULL,
         "already complete");
  assert_int_equal (json_array_size (cl.events), 0);
  client_close (&cl);
  box_close (&b);
}

static void
test_ids (void **state)
{
  static const char *const ids[] = { "1",
                                     "\"x\"",
                                     "null",
                                     "true",
                                     "[1, {\"a\": 2.5}]",
                                     "{}",
                                     "-9223372036854775808" };
  struct box b;
  struct client cl;
  json_t *answer;
  char text[256];
  char *big;

  (void)state;
  box_open (&b, 1);
  greet (&cl, &b);
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
    json_t *id = json_loads (ids[i], JSON_DECODE_ANY, NULL);

    snprintf (text, sizeof text, "{\"execute\": \"query-version\", \"id\": %s}",
              ids[i]);
    answer = ask (&cl, text);
    assert_non_null (json_object_get (answer, "return"));
    assert_true (json_equal (id, json_object_get (answer, "id")));
    json_decref (answer);
    snprintf (text, sizeof text, "{\"id\": %s, \"execute\": \"nonsense\"}",
              ids[i]);
    answer = ask (&cl, text);
    assert_non_null (json_object_get (answer, "error"));
    assert_true (json_equal (id, json_object_get (answer, "id")));
    json_decref (answer);
    json_decref (id);
  }
  answer = ask (&cl, "{\"execute\":\"query-version\"}");
  assert_null (json_object_get (answer, "id"));
  json_decref (answer);

  /* An id that would leave no room for the answer. */
  assert_true (asprintf (&big,
                         "{\"execute\":\"query-version\",\"id\":\"%0*d\"}",
                         70000, 0)
               > 0);
  fails (&cl, big, "GenericError", "EINVAL", "'id'");
  free (big);
  client_close (&cl);
  box_close (&b);
}

static void
test_checks (void **state)
{
  struct box b;
  struct client cl;
  unsigned changes = fake_changes ();

  (void)state;
  box_open (&b, 2);
  greet (&cl, &b);
#define BAD(text, part) fails (&cl, text, "GenericError", "EINVAL", part)
  BAD ("[]", "must be a JSON object");
  BAD ("{}", "lacks member 'execute'");
  BAD ("{\"execute\":1}", "'execute' must be a string");
  BAD ("{\"execute\":\"quit\",\"arguments\":[]}",
       "'arguments' must be an object");
  BAD ("{\"execute\":\"quit\",\"bogus\":1}",
       "QMP input member 'bogus' is unexpected");
  BAD ("{\"exec-oob\":\"quit\"}", "'exec-oob' is unexpected");
  BAD ("{\"execute\":\"quit\",\"execute\":\"quit\"}", "JSON");
  BAD ("{\"execute\":\"quit\",}", "JSON");
  BAD ("{\"execute\":\"quit\",\"arguments\":{\"now\":true}}",
       "QMP input member 'now' is unexpected");
  fails (&cl, "{\"execute\":\"block-stream\"}", "CommandNotFound", NULL,
         "The command block-stream has not been found");
#define ALLOCATE(args) \
  "{\"execute\":\"block-allocate\",\"arguments\":{" args "}}"
  BAD (ALLOCATE (""), "Parameter 'device' is missing");
  BAD (ALLOCATE ("\"device\":1"),
       "Invalid parameter type for 'device', expected: string");
  BAD (ALLOCATE ("\"device\":\"vda\",\"offset\":-1"),
       "Parameter 'offset' expects a non-negative integer");
  BAD (ALLOCATE ("\"device\":\"vda\",\"offset\":1.0"),
       "Invalid parameter type for 'offset', expected: integer");
  BAD (ALLOCATE ("\"device\":\"vda\",\"length\":true"),
       "Invalid parameter type for 'length', expected: integer");
  BAD (ALLOCATE ("\"device\":\"vda\",\"sparse\":1"),
       "Invalid parameter type for 'sparse', expected: boolean");
  BAD (ALLOCATE ("\"device\":\"vda\",\"on-error\":\"stop\""),
       "use 'report' or 'skip'");
  BAD (ALLOCATE ("\"device\":\"vda\",\"speed\":9223372036854775808"), "JSON");
  BAD (ALLOCATE ("\"device\":\"vda\",\"offset\":67108865"), "not within");
  BAD (ALLOCATE ("\"device\":\"vda\",\"offset\":1,\"length\":67108864"),
       "not within");
  BAD ("{\"execute\":\"block-job-set-speed\",\"arguments\":{\"device\":\"vda\"}"
       "}",
       "Parameter 'speed' is missing");
  BAD ("{\"execute\":\"block-job-cancel\"}", "Parameter 'device' is missing");
  BAD ("{\"execute\":\"query-allocation-map\",\"arguments\":{\"device\":"
       "\"vda\",\"max-regions\":100001}}",
       "between 1 and 100000");
  fails (&cl, ALLOCATE ("\"device\":\"vdb\""), "DeviceNotFound", "ENOENT",
         "'vdb'");
  fails (&cl,
         "{\"execute\":\"query-disks\",\"arguments\":{\"device\":\"vdb\"}}",
         "DeviceNotFound", "ENOENT", "'vdb'");
  fails (&cl,
         "{\"execute\":\"block-job-pause\",\"arguments\":{\"device\":\"vda\"}}",
         "DeviceNotActive", "ESRCH", "disk 'vda': it has no job");
  assert_int_equal (fake_changes (), changes);
  assert_int_equal (b.quits, 0);
  client_close (&cl);
  box_close (&b);
}

/* Wherever lines are broken, it is the same text. */
static void
squeeze (char *text)
{
  char *to = text;

  for (; *text != '\0'; text++)
    if (*text != '\n' && *text != ' ')
      *to++ = *text;
  *to = '\0';
}

/* The manual page has the reference as the table prints it. */
static void
check_page (char *reference)
{
  static char page[1 << 20];
  const char *top = getenv ("TOP_SRCDIR");
  char path[4096];
  FILE *fp;

  if (top == NULL) /* not run by make */
    return;
  snprintf (path, sizeof path, "%s/docs/backfill-protocol.pod", top);
  fp = fopen (path, "r");
  assert_non_null (fp);
  assert_true (fread (page, 1, sizeof page - 1, fp) > 0);
  fclose (fp);
  squeeze (page);
  squeeze (reference);
  if (strstr (page, reference) == NULL)
    fail_msg ("%s: the commands' reference is not what "
              "server/control/print-commands prints: put that in its place",
              path);
}

static void
test_table (void **state)
{
  struct box b;
  struct client cl;
  json_t *answer, *list;
  char *text = NULL;
  size_t size, n = 0;
  FILE *fp;

  (void)state;
  box_open (&b, 1);
  greet (&cl, &b);
  list = returned (&cl, "{\"execute\":\"query-commands\"}", &answer);
  for (const struct command *c = command_table; c->name; c++, n++) {
    assert_string_equal (text_of (json_array_get (list, n), "name"), c->name);
    if (n > 0)
      assert_true (strcmp (c[-1].name, c->name) < 0);
    assert_non_null (c->run);
    assert_non_null (c->help);
    assert_non_null (c->returns);
    assert_int_equal (c->args[MAX_ARGS - 1].type, ARG_END);
    for (const struct arg *a = c->args; a->type != ARG_END; a++)
      assert_non_null (a->help);
  }
  assert_int_equal (json_array_size (list), n);
  json_decref (answer);

  fp = open_memstream (&text, &size);
  command_print (fp);
  fclose (fp);
  for (const struct command *c = command_table; c->name; c++) {
    char head[64];

    snprintf (head, sizeof head, "=head2 %s\n", c->name);
    assert_non_null (strstr (text, head));
  }
  check_page (text);
  free (text);
  client_close (&cl);
  box_close (&b);
}

static void
test_disks (void **state)
{
  struct box b;
  struct client cl;
  json_t *answer, *list, *disk;

  (void)state;
  box_open (&b, 2);
  greet (&cl, &b);
  list = returned (&cl, "{\"execute\":\"query-disks\"}", &answer);
  assert_int_equal (json_array_size (list), 2);
  disk = json_array_get (list, 0);
  assert_string_equal (text_of (disk, "name"), "vda");
  assert_string_equal (text_of (disk, "store"), "/srv/a.img");
  assert_string_equal (text_of (disk, "backing"), "nbd://nowhere");
  assert_string_equal (text_of (disk, "source"), "connected");
  assert_int_equal (number (disk, "size"), 64 * MIB);
  assert_int_equal (number (disk, "local") + number (disk, "absent"), 64 * MIB);
  assert_true (json_is_null (json_object_get (disk, "job")));
  assert_null (json_object_get (disk, "damaged"));
  number (json_object_get (disk, "stats"), "commits");
  /* A path need not be UTF-8. */
  assert_string_equal (text_of (json_array_get (list, 1), "store"),
                       "/srv/\xef\xbf\xbd.img");
  json_decref (answer);

  /* By name, by store, and the name that is empty. */
  list = returned (
      &cl, "{\"execute\":\"query-disks\",\"arguments\":{\"device\":\"\"}}",
      &answer);
  assert_int_equal (json_array_size (list), 1);
  assert_string_equal (text_of (json_array_get (list, 0), "name"), "");
  json_decref (answer);
  list = returned (&cl,
                   "{\"execute\":\"query-disks\",\"arguments\":{\"device\":"
                   "\"/srv/a.img\"}}",
                   &answer);
  assert_string_equal (text_of (json_array_get (list, 0), "name"), "vda");
  json_decref (answer);

  ok (&cl, "{\"execute\":\"disk-detach\",\"arguments\":{\"device\":\"vda\"}}");
  list = returned (
      &cl, "{\"execute\":\"query-disks\",\"arguments\":{\"device\":\"vda\"}}",
      &answer);
  disk = json_array_get (list, 0);
  assert_true (json_is_null (json_object_get (disk, "backing")));
  assert_true (json_is_true (json_object_get (disk, "detached")));
  json_decref (answer);

  ok (&cl, "{\"execute\":\"set-total-speed\",\"arguments\":{\"speed\":12345}}");
  assert_int_equal (
      number (returned (&cl, "{\"execute\":\"query-total-speed\"}", &answer),
              "speed"),
      12345);
  json_decref (answer);

  fake_fail_flush (EIO);
  fails (&cl, "{\"execute\":\"disk-flush\",\"arguments\":{\"device\":\"vda\"}}",
         "GenericError", "EIO", "vda");
  fake_fail_flush (0);
  client_close (&cl);
  box_close (&b);
}

#define VDA "\"arguments\":{\"device\":\"vda\"}}"

static void
test_jobs (void **state)
{
  struct box b;
  struct client cl, listener;
  json_t *answer, *other, *list, *job, *data;

  (void)state;
  box_open (&b, 1);
  greet (&cl, &b);
  greet (&listener, &b);

  ok (&cl, ALLOCATE ("\"offset\":4096,\"length\":8192,\"speed\":7,"
                     "\"sparse\":false,\"on-error\":\"skip\""));
  status_event (&listener, "created");
  status_event (&listener, "running");
  /* They were queued for this one too, in order with the answer. */
  assert_int_equal (json_array_size (cl.events), 2);
  fails (&cl, ALLOCATE ("\"device\":\"vda\""), "GenericError", "EBUSY",
         "already has a job");

  list = returned (&cl, "{\"execute\":\"query-block-jobs\"}", &answer);
  assert_int_equal (json_array_size (list), 1);
  job = json_array_get (list, 0);
  assert_string_equal (text_of (job, "device"), "vda");
  assert_string_equal (text_of (job, "type"), "allocate");
  assert_string_equal (text_of (job, "status"), "running");
  assert_string_equal (text_of (job, "job-type"), "bounded");
  assert_string_equal (text_of (job, "result"), "none");
  assert_string_equal (text_of (job, "pause-reason"), "none");
  assert_string_equal (text_of (job, "on-error"), "skip");
  assert_string_equal (text_of (job, "io-status"), "ok");
  assert_true (json_is_false (json_object_get (job, "sparse")));
  assert_true (json_is_true (json_object_get (job, "busy")));
  assert_int_equal (number (job, "len"), 8192);
  assert_int_equal (number (job, "offset"), 0);
  assert_int_equal (number (job, "range-offset"), 4096);
  assert_int_equal (number (job, "range-length"), 8192);
  assert_int_equal (number (job, "total"), 8192);
  assert_int_equal (number (job, "remaining"), 8192);
  assert_int_equal (number (job, "speed"), 7);
  assert_int_equal (number (job, "errno"), 0);
  assert_null (json_object_get (job, "error"));
  assert_null (json_object_get (job, "failed-offset"));
  json_decref (answer);

  ok (&cl, "{\"execute\":\"block-job-pause\"," VDA);
  status_event (&listener, "paused");
  fails (&cl, "{\"execute\":\"block-job-pause\"," VDA, "GenericError",
         "EALREADY", "paused");
  ok (&cl, "{\"execute\":\"block-job-resume\"," VDA);
  status_event (&listener, "running");
  ok (&cl, "{\"execute\":\"block-job-set-speed\",\"arguments\":{\"device\":"
           "\"/srv/a.img\",\"speed\":99}}");
  fails (&cl, "{\"execute\":\"block-job-dismiss\"," VDA, "GenericError",
         "EBUSY", "not ended");
  ok (&cl, "{\"execute\":\"block-job-cancel\",\"arguments\":{\"device\":"
           "\"vda\",\"force\":true}}");
  status_event (&listener, "aborting");
  data = event (&listener, "BLOCK_JOB_CANCELLED");
  assert_string_equal (text_of (data, "type"), "allocate");
  assert_int_equal (number (data, "speed"), 99);
  status_event (&listener, "concluded");
  ok (&cl, "{\"execute\":\"block-job-dismiss\"," VDA);
  status_event (&listener, "null");
  list = returned (&cl, "{\"execute\":\"query-block-jobs\"," VDA, &answer);
  assert_int_equal (json_array_size (list), 0);
  json_decref (answer);
  fails (&cl,
         "{\"execute\":\"query-block-jobs\",\"arguments\":{\"device\":"
         "\"vdz\"}}",
         "DeviceNotFound", "ENOENT", "vdz");

  /* One that fails, and one that completes. */
  ok (&cl, ALLOCATE (""));
  status_event (&listener, "created");
  status_event (&listener, "running");
  fake_job_end (b.disks[0], JOB_RESULT_FAILED, EIO, "it broke \xff");
  data = event (&listener, "BLOCK_JOB_ERROR");
  assert_string_equal (text_of (data, "operation"), "read");
  assert_string_equal (text_of (data, "action"), "report");
  data = event (&listener, "BLOCK_JOB_COMPLETED");
  assert_int_equal (number (data, "len"), 64 * MIB);
  assert_string_equal (text_of (data, "error"), "it broke \xef\xbf\xbd");
  status_event (&listener, "concluded");
  /* Whether it can be had at once or not. */
  fake_unload (true);
  list = returned (&cl, "{\"execute\":\"query-block-jobs\"}", &answer);
  fake_unload (false);
  assert_true (json_equal (
      json_array_get (list, 0),
      json_array_get (
          returned (&cl,
                    "{\"execute\":\"query-block-jobs\",\"arguments\":{"
                    "\"device\":\"/srv/a.img\"}}",
                    &other),
          0)));
  json_decref (other);
  json_decref (answer);
  list = returned (&cl, "{\"execute\":\"query-block-jobs\"}", &answer);
  job = json_array_get (list, 0);
  assert_string_equal (text_of (job, "job-type"), "failed");
  assert_string_equal (text_of (job, "io-status"), "failed");
  assert_string_equal (text_of (job, "errno-name"), "EIO");
  assert_int_equal (number (job, "failed-offset"), 4096);
  json_decref (answer);
  ok (&cl, ALLOCATE (""));
  status_event (&listener, "created");
  status_event (&listener, "running");
  fake_job_end (b.disks[0], JOB_RESULT_COMPLETED, 0, NULL);
  data = event (&listener, "BLOCK_JOB_COMPLETED");
  assert_null (json_object_get (data, "error"));
  status_event (&listener, "concluded");

  fake_event (b.disks[0], DISK_EVENT_LOCAL, NULL);
  assert_string_equal (text_of (event (&listener, "DISK_LOCAL"), "device"),
                       "vda");
  fake_event (b.disks[0], DISK_EVENT_SOURCE_LOST, "gone");
  assert_string_equal (text_of (event (&listener, "SOURCE_LOST"), "reason"),
                       "gone");
  fake_event (b.disks[0], DISK_EVENT_SOURCE_BACK, NULL);
  event (&listener, "SOURCE_BACK");
  /* Those come from a thread of all disks: one store must not stop it. */
  assert_int_equal (fake_store_asked (), 0);
  client_close (&listener);
  client_close (&cl);
  box_close (&b);
}

/* Every other granule is local: the whole map, page by page. */
static void
walk_map (struct client *cl, const char *options, bool states)
{
  uint64_t next = 0, seen = 0;

  for (;;) {
    char text[70000];
    json_t *answer, *map, *list;

    snprintf (text, sizeof text,
              "{\"execute\":\"query-allocation-map\",\"arguments\":{"
              "\"device\":\"\",\"offset\":%" PRIu64 "%s",
              next, options);
    map = returned (cl, text, &answer);
    list = json_object_get (map, "regions");
    assert_int_equal (number (map, "size"), 64 * MIB);
    assert_int_equal (number (map, "granule"), 4096);
    for (size_t i = 0; i < json_array_size (list); i++, seen++) {
      json_t *region = json_array_get (list, i);

      assert_int_equal (number (region, "offset"),
                        seen * (states ? 4096 : 8192));
      assert_int_equal (number (region, "length"), 4096);
      if (states)
        assert_string_equal (text_of (region, "state"),
                             seen % 2 ? "absent" : "local");
      else
        assert_null (json_object_get (region, "state"));
    }
    if (json_object_get (map, "next") == NULL) {
      json_decref (answer);
      break;
    }
    assert_true ((uint64_t)number (map, "next") > next);
    next = (uint64_t)number (map, "next");
    json_decref (answer);
  }
  assert_int_equal (seen, 64 * MIB / 4096 / (states ? 1 : 2));
}

/* The same as one string. */
static void
walk_packed (struct client *cl, const char *options)
{
  uint64_t next = 0, seen = 0;
  unsigned pages = 0;

  for (;;) {
    char text[70000];
    const char *packed;
    json_t *answer, *map;

    snprintf (text, sizeof text,
              "{\"execute\":\"query-allocation-map\",\"arguments\":{"
              "\"device\":\"\",\"packed\":true,\"offset\":%" PRIu64 "%s",
              next, options);
    map = returned (cl, text, &answer);
    assert_null (json_object_get (map, "regions"));
    assert_int_equal (number (map, "size"), 64 * MIB);
    pages++;
    for (packed = text_of (map, "packed"); *packed; packed += 5, seen++)
      assert_memory_equal (packed, seen % 2 ? "a4096" : "l4096", 5);
    if (json_object_get (map, "next") == NULL) {
      json_decref (answer);
      break;
    }
    assert_int_equal (number (map, "next"), seen * 4096);
    next = seen * 4096;
    json_decref (answer);
  }
  assert_int_equal (seen, 64 * MIB / 4096);
  assert_true (pages > 1);
}

static void
test_map (void **state)
{
  struct box b;
  struct client cl;
  json_t *answer, *map, *list;
  char options[69000];

  (void)state;
  box_open (&b, 2);
  greet (&cl, &b);
  walk_map (&cl, "}}", false);
  walk_map (&cl, ",\"states\":true}}", true);
  walk_map (&cl, ",\"states\":true,\"max-regions\":7}}", true);
  /* The longest id and the largest page: still less than 256 KiB, which
   * receive checks. */
  snprintf (options, sizeof options,
            ",\"states\":true,\"max-regions\":100000},\"id\":\"%065000d\"}", 0);
  walk_map (&cl, options, true);
  walk_packed (&cl, ",\"max-regions\":9999}}");

#define MAP(args)                                                    \
  "{\"execute\":\"query-allocation-map\",\"arguments\":{\"device\":" \
  "\"vda\"," args "}}"
  map = returned (&cl, MAP ("\"states\":true"), &answer);
  list = json_object_get (map, "regions");
  assert_int_equal (json_array_size (list), 2);
  assert_null (json_object_get (map, "next"));
  json_decref (answer);
  map = returned (&cl, MAP ("\"offset\":1000,\"length\":5000"), &answer);
  list = json_object_get (map, "regions");
  assert_int_equal (json_array_size (list), 1);
  assert_int_equal (number (json_array_get (list, 0), "offset"), 1000);
  assert_int_equal (number (json_array_get (list, 0), "length"), 5000);
  json_decref (answer);
  map = returned (&cl, MAP ("\"offset\":67108864"), &answer);
  assert_int_equal (json_array_size (json_object_get (map, "regions")), 0);
  json_decref (answer);
  BAD (MAP ("\"offset\":67108865"), "past the end of disk 'vda'");
  BAD (MAP ("\"offset\":9223372036854775807,\"length\":9223372036854775807"),
       "past the end of disk 'vda'");
  BAD (MAP ("\"offset\":1,\"length\":9223372036854775807"),
       "not within disk 'vda'");
  fake_fail_regions (EIO);
  fails (&cl, MAP ("\"offset\":0"), "GenericError", "EIO", "sidecar");
  fake_fail_regions (0);
  client_close (&cl);
  box_close (&b);
}

/* --- how it is said --------------------------------------------------- */

static void
test_framing (void **state)
{
  static const char compact[] = "{\"execute\":\"query-version\",\"id\":1}"
                                "{\"execute\":\"query-disks\",\"id\":2}"
                                "{\"execute\":\"query-version\",\"id\":3}";
  struct box b;
  struct client cl;
  char *big;

  (void)state;
  box_open (&b, 1);
  greet (&cl, &b);
  /* Without newlines, all at once and byte for byte; answers in order. */
  send_text (&cl, compact);
  for (json_int_t i = 1; i <= 3; i++) {
    json_t *answer = receive_answer (&cl);

    assert_int_equal (number (answer, "id"), i);
    json_decref (answer);
  }
  for (size_t i = 0; i < sizeof compact - 1; i++)
    send_bytes (&cl, compact + i, 1);
  for (json_int_t i = 1; i <= 3; i++) {
    json_t *answer = receive_answer (&cl);

    assert_int_equal (number (answer, "id"), i);
    json_decref (answer);
  }

  /* One error each, and the connection lives on. */
  BAD ("hello, {\"execute\":\"quit\"} there\n", "JSON");
  ok (&cl, "{\"execute\":\"query-version\"}");
  BAD ("{\"execute\": \"que\xff", "JSON");
  ok (&cl, "{\"execute\":\"query-version\"}");
  BAD ("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n", "deep");
  ok (&cl, "{\"execute\":\"query-version\"}");

  /* A message as long as may be, and a longer one. */
  assert_true (
      asprintf (&big, "{\"execute\":\"query-version\"%*s}", 1048549, "")
      == 1 << 20);
  ok (&cl, big);
  free (big);
  assert_true (
      asprintf (&big, "{\"execute\":\"query-version\"%*s}\n", 1048550, "") > 0);
  BAD (big, "1 MiB");
  free (big);
  assert_true (asprintf (&big, "{\"execute\":\"%0*d\"}", 100000, 0) > 0);
  fails (&cl, big, "CommandNotFound", NULL, "not been found");
  free (big);
  assert_true (asprintf (&big, "{\"execute\":%0*d}", 100000, 0) > 0);
  BAD (big, "JSON");
  free (big);
  ok (&cl, "{\"execute\":\"query-version\"}");
  assert_int_equal (b.quits, 0);
  client_close (&cl);
  box_close (&b);
}

/* A pipe's end: everything that was sent is answered before the close. */
static void
test_half_close (void **state)
{
  struct box b;
  struct client cl;
  json_t *answer;

  (void)state;
  box_open (&b, 1);
  client_open (&cl, &b);
  send_text (&cl, "{\"execute\":\"qmp_capabilities\"}\n");
  for (int i = 0; i < 100; i++)
    send_text (&cl, i % 2 ? "{\"execute\":\"disk-flush\"}\n"
                          : "{\"execute\":\"query-version\"}\n");
  shutdown (cl.fd, SHUT_WR);
  json_decref (receive (&cl));
  for (int i = 0; i < 101; i++) {
    answer = receive (&cl);
    assert_non_null (json_object_get (answer, "return"));
    json_decref (answer);
  }
  assert_null (receive (&cl));
  client_close (&cl);
  box_close (&b);
}

/* --- what blocks, and whom -------------------------------------------- */

static void
test_slow_commands (void **state)
{
  struct box b;
  struct client slow[6], verbs[5], cl;
  unsigned changes;

  (void)state;
  box_open (&b, 1);
  greet (&cl, &b);
  ok (&cl, ALLOCATE (""));
  changes = fake_changes ();
  fake_block (true, true);
  for (int i = 0; i < 6; i++) {
    greet (&slow[i], &b);
    send_text (&slow[i], "{\"execute\":\"disk-flush\"}");
  }
  wait_blocked (4);
  /* Neither questions nor verbs wait for what is stuck in the store. */
  ok (&cl, "{\"execute\":\"query-disks\"}");
  ok (&cl, "{\"execute\":\"query-allocation-map\"}");
  ok (&cl, "{\"execute\":\"block-job-pause\"," VDA);
  for (int i = 0; i < 4; i++) {
    greet (&verbs[i], &b);
    send_text (&verbs[i], "{\"execute\":\"block-job-cancel\"," VDA);
  }
  wait_blocked (8);
  ok (&cl, "{\"execute\":\"query-block-jobs\"}");
  ok (&cl, "{\"execute\":\"query-version\"}");

  /* A client dies in the middle of its command: it is done all the same. */
  client_close (&slow[0]);
  ok (&cl, "{\"execute\":\"query-version\"}");
  fake_block (false, false);
  for (int i = 1; i < 6; i++) {
    json_decref (receive_answer (&slow[i]));
    client_close (&slow[i]);
  }
  for (int i = 0; i < 4; i++) {
    json_decref (receive_answer (&verbs[i]));
    client_close (&verbs[i]);
  }
  for (int i = 0; fake_changes () != changes + 6 + 1 + 4; i++) {
    assert_true (i < PATIENCE / 10);
    nap ();
  }
  client_close (&cl);
  box_close (&b);
}

/* --- rude clients ----------------------------------------------------- */

static void
test_reads_no_events (void **state)
{
  struct box b;
  struct client rude, cl;

  (void)state;
  box_open (&b, 1);
  greet (&rude, &b);
  greet (&cl, &b);
  /* More than the socket and the queue hold; the other reads as it goes. */
  for (int i = 0; i < 20000; i++) {
    fake_event (b.disks[0], DISK_EVENT_SOURCE_LOST, "a reason to be long");
    event (&cl, "SOURCE_LOST");
  }
  assert_closed (&rude);
  ok (&cl, "{\"execute\":\"query-version\"}");
  client_close (&rude);
  client_close (&cl);
  box_close (&b);
}

/* It sends commands for ever and never reads: it comes to a stop, soon. */
static void
test_reads_no_answers (void **state)
{
  struct box b;
  struct client rude, cl;
  size_t sent = 0;

  (void)state;
  box_open (&b, 1);
  greet (&rude, &b);
  greet (&cl, &b);
  for (;;) {
    static const char text[] = "{\"execute\":\"query-commands\"}";
    ssize_t n
        = send (rude.fd, text, sizeof text - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    struct pollfd p = { .fd = rude.fd, .events = POLLOUT };

    if (n == sizeof text - 1) {
      sent += (size_t)n;
      assert_true (sent < 16 * MIB);
      continue;
    }
    assert_true (n >= 0 || errno == EAGAIN);
    if (n > 0 || poll (&p, 1, 2000) == 0)
      break;
  }
  ok (&cl, "{\"execute\":\"query-disks\"}");
  client_close (&rude);
  client_close (&cl);
  box_close (&b);
}

/* Half a message; no negotiation; no reading.  All are closed in the end, but
 * one that is just silent. */
static void
test_timeouts (void **state)
{
  struct box b;
  struct client half, mute, deaf, silent;
  unsigned open;

  (void)state;
  box_listen (&b, 2);
  b.config.half_timeout = b.config.output_timeout = 2;
  box_start (&b);
  greet (&silent, &b);
  open = nr_descriptors ();
  client_open (&mute, &b);
  greet (&half, &b);
  send_text (&half, "{\"execute\":\"quit\"");
  greet (&deaf, &b);
  for (int i = 0; i < 20; i++)
    send_text (&deaf, "{\"execute\":\"query-allocation-map\",\"arguments\":{"
                      "\"device\":\"\",\"max-regions\":4000}}");
  assert_closed (&mute);
  assert_closed (&half);
  ok (&silent, "{\"execute\":\"query-version\"}");
  /* It may read again, but what is read ends.  Only once the server's end of
   * it is closed, as what is read gives it time. */
  wait_descriptors (open + 3);
  assert_closed (&deaf);
  ok (&silent, "{\"execute\":\"query-version\"}");
  assert_int_equal (b.quits, 0);
  client_close (&half);
  client_close (&mute);
  client_close (&deaf);
  client_close (&silent);
  box_close (&b);
}

static void
test_crowd (void **state)
{
  enum { CROWD = 500 };
  static struct client rude[CROWD];
  struct box b;
  struct client cl;
  unsigned before, seed = 1;
  struct rlimit limit;

  (void)state;
  if (getrlimit (RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 2500) {
    limit.rlim_cur = limit.rlim_max < 2500 ? limit.rlim_max : 2500;
    setrlimit (RLIMIT_NOFILE, &limit);
  }
  box_open (&b, 2);
  greet (&cl, &b);
  before = nr_descriptors ();
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < CROWD; i++) {
      char garbage[4096];

      client_open (&rude[i], &b);
      switch (i % 6) {
      case 0: /* says nothing */
        break;
      case 1: /* is gone at once */
        close (rude[i].fd);
        rude[i].fd = -1;
        break;
      case 2: /* garbage */
        for (size_t j = 0; j < sizeof garbage; j++)
          garbage[j] = (char)(rand_r (&seed) >> 8);
        send_bytes (&rude[i], garbage, sizeof garbage);
        break;
      case 3: /* half a message */
        send_text (&rude[i], "{\"execute\":\"qmp_capabilities\"}"
                             "{\"execute\":\"quit\"");
        break;
      case 4: /* never reads */
        send_text (&rude[i], "{\"execute\":\"qmp_capabilities\"}");
        for (int j = 0; j < 4; j++)
          send_text (&rude[i],
                     "{\"execute\":\"query-allocation-map\",\"arguments\":{"
                     "\"device\":\"\",\"max-regions\":4000}}");
        break;
      case 5: /* is gone with a command in flight */
        send_text (&rude[i], "{\"execute\":\"qmp_capabilities\"}"
                             "{\"execute\":\"disk-flush\",\"arguments\":{"
                             "\"device\":\"vda\"}}");
        close (rude[i].fd);
        rude[i].fd = -1;
        break;
      }
      if (i % 50 == 0)
        ok (&cl, "{\"execute\":\"query-disks\"}");
      fake_event (b.disks[0], DISK_EVENT_SOURCE_BACK, NULL);
    }
    ok (&cl, "{\"execute\":\"query-disks\"}");
    for (int i = 0; i < CROWD; i++) {
      wire_in_free (&rude[i].in);
      json_decref (rude[i].events);
      if (rude[i].fd != -1)
        close (rude[i].fd);
    }
    wait_descriptors (before);
  }
  ok (&cl, "{\"execute\":\"query-disks\"}");
  assert_int_equal (b.quits, 0);
  client_close (&cl);
  box_close (&b);
}

/* With few descriptors, a new client takes an idle one's place. */
static void
test_full (void **state)
{
  enum { CROWD = 64 };
  struct box b;
  struct client mute[CROWD], cl, other;
  struct rlimit limit, few;

  (void)state;
  box_listen (&b, 1);
  getrlimit (RLIMIT_NOFILE, &limit);
  few = limit;
  few.rlim_cur = 80; /* so 40 sessions */
  assert_int_equal (setrlimit (RLIMIT_NOFILE, &few), 0);
  box_start (&b);
  assert_int_equal (setrlimit (RLIMIT_NOFILE, &limit), 0);
  greet (&cl, &b);
  for (int i = 0; i < CROWD; i++)
    client_open (&mute[i], &b);
  greet (&other, &b);
  ok (&other, "{\"execute\":\"query-version\"}");
  /* It negotiated, so it was not in the way. */
  ok (&cl, "{\"execute\":\"query-version\"}");
  for (int i = 0; i < CROWD; i++) {
    char buf[4096];
    ssize_t n;

    while ((n = recv (mute[i].fd, buf, sizeof buf, MSG_DONTWAIT)) > 0)
      ;
    /* 40 are there: two that negotiated, and the latest. */
    assert_true (i < CROWD - 38 ? n == 0 : n == -1 && errno == EAGAIN);
    client_close (&mute[i]);
  }
  client_close (&other);

  /* All have negotiated: the one that was silent the longest goes. */
  for (int i = 0; i < 39; i++)
    greet (&mute[i], &b);
  sleep (2);
  ok (&cl, "{\"execute\":\"query-version\"}");
  greet (&other, &b);
  ok (&cl, "{\"execute\":\"query-version\"}");
  assert_closed (&mute[0]);
  for (int i = 0; i < 39; i++) {
    if (i > 0)
      ok (&mute[i], "{\"execute\":\"query-version\"}");
    client_close (&mute[i]);
  }
  client_close (&other);
  client_close (&cl);
  box_close (&b);
}

/* --- the socket's file ------------------------------------------------ */

static void
assert_refused (struct box *b, const char *part)
{
  char *error = NULL;

  assert_null (control_listen (&b->config, &error));
  if (!strstr (error, part) || !strstr (error, b->path))
    fail_msg ("'%s' or the path is not in '%s'", part, error);
  free (error);
}

static void
test_file (void **state)
{
  struct box b;
  struct stat st;
  struct client cl;
  struct sockaddr_un addr = { .sun_family = AF_UNIX };
  mode_t old = umask (0);
  char aside[256], path[300], *error = NULL;
  int fd;

  (void)state;
  /* A path that is a file is left alone. */
  box_listen (&b, 1);
  fd = open (b.path, O_CREAT | O_WRONLY, 0644);
  close (fd);
  assert_refused (&b, "no socket");
  assert_int_equal (unlink (b.path), 0);

  /* What a dead process left is replaced. */
  fd = socket (AF_UNIX, SOCK_STREAM, 0);
  strcpy (addr.sun_path, b.path);
  assert_int_equal (bind (fd, (struct sockaddr *)&addr, sizeof addr), 0);
  close (fd);
  box_start (&b);
  assert_int_equal (stat (b.path, &st), 0);
  assert_int_equal (st.st_mode & 07777, 0600);
  umask (old);

  /* A live one is not. */
  assert_refused (&b, "is being served");
  greet (&cl, &b);
  ok (&cl, "{\"execute\":\"query-version\"}");

  /* After unlisten nobody comes in, and who is in is served. */
  control_unlisten (b.control);
  assert_int_equal (access (b.path, F_OK), -1);
  ok (&cl, "{\"execute\":\"query-disks\"}");
  client_close (&cl);
  box_close (&b);

  /* Mode and group; a client may connect before the start. */
  box_listen (&b, 1);
  b.config.access.has_mode = b.config.access.has_group = true;
  b.config.access.mode = 0620;
  b.config.access.group = getegid ();
  b.control = control_listen (&b.config, &error);
  assert_non_null (b.control);
  assert_int_equal (stat (b.path, &st), 0);
  assert_int_equal (st.st_mode & 07777, 0620);
  client_open (&cl, &b);
  assert_int_equal (control_start (b.control, &error), 0);
  json_decref (receive (&cl));
  ok (&cl, "{\"execute\":\"qmp_capabilities\"}");
  client_close (&cl);

  /* Somebody else's file at the path is not taken away. */
  snprintf (aside, sizeof aside, "%s/aside", b.dir);
  assert_int_equal (rename (b.path, aside), 0);
  fd = open (b.path, O_CREAT | O_WRONLY, 0644);
  close (fd);
  control_stop (b.control);
  assert_int_equal (access (b.path, F_OK), 0);
  assert_int_equal (unlink (b.path), 0);
  assert_int_equal (unlink (aside), 0);
  box_close (&b);

  /* Never started; and a path longer than an address. */
  box_listen (&b, 1);
  b.control = control_listen (&b.config, &error);
  assert_non_null (b.control);
  box_close (&b);
  box_listen (&b, 1);
  snprintf (aside, sizeof aside, "%s/%0100d", b.dir, 0);
  assert_int_equal (mkdir (aside, 0700), 0);
  snprintf (path, sizeof path, "%s/sock", aside);
  b.config.path = path;
  box_start (&b);
  assert_int_equal (stat (path, &st), 0);
  assert_true (S_ISSOCK (st.st_mode));
  control_stop (b.control);
  assert_int_equal (rmdir (aside), 0);
  box_close (&b);
}

/* A client of another user gets no answer.  Needs root. */
static void
test_other_user (void **state)
{
  struct box b;
  struct client cl;
  pid_t pid;
  int status;

  (void)state;
  if (geteuid () != 0)
    skip ();
  box_open (&b, 1);
  assert_int_equal (chmod (b.dir, 0755), 0);
  assert_int_equal (chmod (b.path, 0666), 0);
  pid = fork ();
  if (pid == 0) {
    char byte;
    int fd;

    if (setgid (65534) == -1 || setuid (65534) == -1)
      _exit (2);
    fd = try_connect (b.path);
    _exit (fd != -1 && read (fd, &byte, 1) == 0 ? 0 : 1);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_int_equal (status, 0);
  greet (&cl, &b);
  client_close (&cl);
  box_close (&b);
}

/* --- the end ---------------------------------------------------------- */

static void
test_quit (void **state)
{
  struct box b;
  struct client cl;

  (void)state;
  box_open (&b, 1);
  greet (&cl, &b);
  ok (&cl, "{\"execute\":\"quit\"}");
  for (int i = 0; __atomic_load_n (&b.quits, __ATOMIC_SEQ_CST) == 0; i++) {
    assert_true (i < PATIENCE / 10);
    nap ();
  }
  assert_int_equal (control_stop (b.control), 0);
  assert_closed (&cl);
  /* Events may still come. */
  fake_event (b.disks[0], DISK_EVENT_LOCAL, NULL);
  assert_int_equal (control_stop (b.control), 0);
  client_close (&cl);
  box_close (&b);

  box_listen (&b, 1);
  b.config.quit = NULL;
  box_start (&b);
  greet (&cl, &b);
  fails (&cl, "{\"execute\":\"quit\"}", "GenericError", "EOPNOTSUPP", "quit");
  client_close (&cl);
  box_close (&b);
}

static void *
unblock_later (void *arg)
{
  nap ();
  nap ();
  fake_block (false, false);
  return arg;
}

/* A command that runs when the end comes is done, and its answer leaves. */
static void
test_stop_in_command (void **state)
{
  struct box b;
  struct client cl, waiting[8], gone;
  pthread_t thread;
  unsigned changes = fake_changes ();

  (void)state;
  box_open (&b, 1);
  fake_block (true, false);
  greet (&cl, &b);
  send_text (&cl, "{\"execute\":\"disk-flush\"}");
  wait_blocked (1);
  greet (&gone, &b);
  send_text (&gone, "{\"execute\":\"disk-flush\"}");
  wait_blocked (2);
  client_close (&gone);
  /* These do not all begin. */
  for (int i = 0; i < 8; i++) {
    greet (&waiting[i], &b);
    send_text (&waiting[i], "{\"execute\":\"disk-flush\"}");
  }
  wait_blocked (4);
  pthread_create (&thread, NULL, unblock_later, NULL);
  assert_int_equal (control_stop (b.control), 0);
  pthread_join (thread, NULL);
  assert_true (fake_changes () >= changes + 4);
  json_decref (receive_answer (&cl));
  assert_closed (&cl);
  client_close (&cl);
  for (int i = 0; i < 8; i++) {
    assert_closed (&waiting[i]);
    client_close (&waiting[i]);
  }
  box_close (&b);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_negotiation),
    cmocka_unit_test (test_ids),
    cmocka_unit_test (test_checks),
    cmocka_unit_test (test_table),
    cmocka_unit_test (test_disks),
    cmocka_unit_test (test_jobs),
    cmocka_unit_test (test_map),
    cmocka_unit_test (test_framing),
    cmocka_unit_test (test_half_close),
    cmocka_unit_test (test_slow_commands),
    cmocka_unit_test (test_reads_no_events),
    cmocka_unit_test (test_reads_no_answers),
    cmocka_unit_test (test_timeouts),
    cmocka_unit_test (test_crowd),
    cmocka_unit_test (test_full),
    cmocka_unit_test (test_file),
    cmocka_unit_test (test_other_user),
    cmocka_unit_test (test_quit),
    cmocka_unit_test (test_stop_in_command),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
