/* test-lib.c - libbackfill against a control server that the test plays.
 *
 * The server is a thread that answers each command with the next line of a
 * script, so that every answer, event and its order is the test's choice.
 * What the server cannot choose (timeouts, a dead peer, threads) is tested
 * over the same thread.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <inttypes.h>
#include <errno.h>
#include <pthread.h>
#include <poll.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <jansson.h>

#include "backfill.h"
#include "wire.h"

#define DISK(name, store)                                              \
  "{\"name\":\"" name "\",\"store\":\"" store "\",\"metadata\":\"m\"," \
  "\"backing\":null,\"size\":8192,\"granule\":4096,\"local\":4096,"    \
  "\"absent\":4096,\"source\":\"none\",\"complete\":false,"            \
  "\"detached\":false,\"read-only\":false,\"stats\":{},\"job\":null}"
#define JOB(type, status, done, left, more)                                  \
  "{\"device\":\"vda\",\"job-type\":\"" type "\",\"status\":\"" status "\"," \
  "\"pause-reason\":\"none\",\"on-error\":\"report\",\"sparse\":true,"       \
  "\"time-elapsed\":5,\"time-remaining\":7,\"total\":8192,"                  \
  "\"processed\":" done ",\"remaining\":" left ",\"range-offset\":0,"        \
  "\"range-length\":8192,\"local-at-start\":0,\"bytes-read\":1,"             \
  "\"speed\":2,\"current-speed\":3,\"failed-ranges\":0" more "}"
#define EVENT(name, data)                                          \
  "{\"event\":\"" name "\",\"data\":{\"device\":\"vda\"" data "}," \
  "\"timestamp\":{\"seconds\":1,\"microseconds\":2}}"

/* What the server does when it gets a command: '=' is the rest of the string
 * as what it returns, '!' as an error object, '*' an event before the
 * answer; '?' is as '=', with the id of another command.  "hang" and "close"
 * are what they say; "late" waits until the test lets it go on. */
struct step {
  const char *command; /* that it must be */
  const char *does[4];
};

struct server {
  char dir[64], path[100];
  int listener;
  const struct step *steps;
  atomic_size_t at;       /* next step, over all connections */
  const struct step *any; /* answers to anything, when there are no steps */
  atomic_int connections;
  atomic_bool go_on; /* what is late */
  atomic_bool stop;
  pthread_t thread;
};

struct session {
  struct server *server;
  int fd;
};

static void
put (int fd, const char *s)
{
  size_t len = strlen (s);

  while (len > 0) {
    ssize_t n = send (fd, s, len, MSG_NOSIGNAL);

    if (n <= 0)
      return;
    s += n;
    len -= (size_t)n;
  }
}

/* Events until nobody takes them, or for longer than a client may wait.  Many
 * at a time, so that there are always some to be read. */
static bool
flood (int fd)
{
  static const char event[]
      = "{\"event\":\"X\",\"data\":{},\"timestamp\":{\"seconds\":1,"
        "\"microseconds\":2}}\r\n";
  const size_t len = sizeof event - 1;
  char *many = malloc (1000 * len);
  time_t end = time (NULL) + 20;

  assert_non_null (many);
  for (size_t i = 0; i < 1000; i++)
    memcpy (many + i * len, event, len);
  while (time (NULL) < end)
    if (send (fd, many, 1000 * len, MSG_NOSIGNAL) == -1)
      break;
  free (many);
  return false;
}

static bool
answer (struct server *server, int fd, json_t *message)
{
  const char *name = json_string_value (json_object_get (message, "execute"));
  char *id = json_dumps (json_object_get (message, "id"), JSON_ENCODE_ANY);
  const struct step *step = server->any;
  char head[64];
  bool alive = true;

  assert_non_null (name);
  snprintf (head, sizeof head, ",\"id\":%s}\r\n", id);
  free (id);
  if (strcmp (name, "qmp_capabilities") == 0) {
    put (fd, "{\"return\":{}");
    put (fd, head);
    return true;
  }
  if (step == NULL) {
    step = &server->steps[atomic_fetch_add (&server->at, 1)];
    if (step->command == NULL || strcmp (step->command, name) != 0) {
      fprintf (stderr, "unexpected command: %s\n", name);
      abort ();
    }
  }
  for (size_t i = 0; i < 4 && step->does[i] != NULL && alive; i++) {
    const char *what = step->does[i];

    if (*what == '*') {
      put (fd, what + 1);
      put (fd, "\r\n");
    }
    else if (*what == '?') {
      put (fd, "{\"return\":");
      put (fd, what + 1);
      put (fd, ",\"id\":1000}\r\n");
    }
    else if (*what == '=' || *what == '!') {
      put (fd, *what == '=' ? "{\"return\":" : "{\"error\":");
      put (fd, what + 1);
      put (fd, head);
    }
    else if (strcmp (what, "close") == 0)
      alive = false;
    else if (strcmp (what, "late") == 0)
      while (!atomic_load (&server->go_on))
        usleep (1000);
    else if (strcmp (what, "flood") == 0)
      alive = flood (fd);
    else
      assert_string_equal (what, "hang");
  }
  return alive;
}

static void *
serve (void *opaque)
{
  struct session *session = opaque;
  struct server *server = session->server;
  struct wire_in in;
  bool alive = true;

  wire_in_init (&in);
  put (session->fd, "{\"QMP\":{\"version\":{},\"capabilities\":[]}}\r\n");
  while (alive && !atomic_load (&server->stop)) {
    struct pollfd pfd = { .fd = session->fd, .events = POLLIN };
    char buf[4096];
    const char *frame;
    size_t len;
    ssize_t n;

    if (poll (&pfd, 1, 20) <= 0)
      continue;
    n = recv (session->fd, buf, sizeof buf, 0);
    if (n <= 0)
      break;
    assert_int_equal (wire_in_add (&in, buf, (size_t)n), 0);
    while (alive && wire_in_next (&in, &frame, &len) == WIRE_FRAME) {
      json_error_t err;
      json_t *message = wire_parse (frame, len, &err);

      assert_non_null (message);
      alive = answer (server, session->fd, message);
      json_decref (message);
    }
  }
  close (session->fd);
  wire_in_free (&in);
  free (session);
  atomic_fetch_sub (&server->connections, 1);
  return NULL;
}

static void *
listen_thread (void *opaque)
{
  struct server *server = opaque;

  while (!atomic_load (&server->stop)) {
    struct pollfd pfd = { .fd = server->listener, .events = POLLIN };
    struct session *session;
    pthread_attr_t attr;
    pthread_t thread;

    if (poll (&pfd, 1, 20) <= 0)
      continue;
    session = malloc (sizeof *session);
    assert_non_null (session);
    session->server = server;
    session->fd = accept (server->listener, NULL, NULL);
    assert_true (session->fd >= 0);
    atomic_fetch_add (&server->connections, 1);
    pthread_attr_init (&attr);
    pthread_attr_setdetachstate (&attr, PTHREAD_CREATE_DETACHED);
    assert_int_equal (pthread_create (&thread, &attr, serve, session), 0);
    pthread_attr_destroy (&attr);
  }
  return NULL;
}

static void
start (struct server *server, const struct step *steps, const struct step *any)
{
  struct sockaddr_un addr = { .sun_family = AF_UNIX };

  memset (server, 0, sizeof *server);
  snprintf (server->dir, sizeof server->dir, "/tmp/test-lib-XXXXXX");
  assert_non_null (mkdtemp (server->dir));
  snprintf (server->path, sizeof server->path, "%s/s", server->dir);
  snprintf (addr.sun_path, sizeof addr.sun_path, "%s", server->path);
  server->listener = socket (AF_UNIX, SOCK_STREAM, 0);
  assert_int_equal (
      bind (server->listener, (struct sockaddr *)&addr, sizeof addr), 0);
  assert_int_equal (listen (server->listener, 16), 0);
  server->steps = steps;
  server->any = any;
  assert_int_equal (
      pthread_create (&server->thread, NULL, listen_thread, server), 0);
}

static void
stop (struct server *server)
{
  atomic_store (&server->stop, true);
  pthread_join (server->thread, NULL);
  while (atomic_load (&server->connections) > 0)
    usleep (1000);
  close (server->listener);
  unlink (server->path);
  rmdir (server->dir);
}

/* The script was used up, no more and no less. */
static void
stop_at_end (struct server *server)
{
  assert_null (server->steps[atomic_load (&server->at)].command);
  stop (server);
}

static void
test_connect (void **state)
{
  struct server server;
  struct backfill *h;
  char uri[160];

  (void)state;
  start (&server, NULL, NULL);
  snprintf (uri, sizeof uri, "unix:%s", server.path);
  h = backfill_connect (uri);
  assert_non_null (h);
  backfill_close (h);
  h = backfill_connect (server.path);
  assert_non_null (h);
  backfill_close (h);

  assert_null (backfill_connect ("/nonexistent/socket"));
  assert_int_equal (backfill_get_errno (), ENOENT);
  assert_non_null (strstr (backfill_get_error (), "/nonexistent/socket"));
  assert_null (backfill_connect ("tcp://localhost"));
  assert_int_equal (backfill_get_errno (), EINVAL);
  assert_null (backfill_connect ("unix:"));
  assert_int_equal (backfill_get_errno (), EINVAL);
  backfill_close (NULL);
  stop (&server);
}

/* A folder deeper than any sockaddr_un can name. */
static void
test_long_path (void **state)
{
  static const char part[]
      = "/a-folder-with-a-long-name-a-folder-with-a-long-name";
  struct server server;
  char path[1024], next[2048];
  struct backfill *h;
  int depth;

  (void)state;
  start (&server, NULL, NULL);
  snprintf (path, sizeof path, "%s", server.dir);
  for (depth = 0; depth < 5; depth++) {
    strcat (path, part);
    assert_int_equal (mkdir (path, 0700), 0);
  }
  snprintf (next, sizeof next, "%s/s", path);
  assert_int_equal (link (server.path, next), 0);
  h = backfill_connect (next);
  assert_non_null (h);
  backfill_close (h);
  unlink (next);
  for (; depth > 0; depth--) {
    rmdir (path);
    *strrchr (path, '/') = '\0';
  }
  stop (&server);
}

static void
test_list (void **state)
{
  static const struct step steps[] = {
    { "query-disks", { "=[" DISK ("vda", "/a") "," DISK ("", "/b") "]" } },
    { "query-disks", { "=[]" } },
    { "query-disks", { "=[" DISK ("vda", "/a") "]" } },
    { "query-disks", { "=[" DISK ("vda", "/a") "," DISK ("", "/b") "]" } },
    { "query-disks", { "=[{\"name\":\"vda\"}]" } },
    { "query-disks", { "={}" } },
    { NULL, { NULL } },
  };
  struct backfill_disk_info **disks, *info;
  struct server server;
  struct backfill *h;
  unsigned n;

  (void)state;
  start (&server, steps, NULL);
  h = backfill_connect (server.path);
  assert_non_null (h);
  assert_int_equal (backfill_list_disks (h, &n, &disks), 0);
  assert_int_equal (n, 2);
  assert_string_equal (disks[0]->name, "vda");
  assert_string_equal (disks[1]->store, "/b");
  assert_null (disks[0]->backing);
  assert_int_equal (disks[0]->size, 8192);
  assert_int_equal (disks[0]->job.type, BACKFILL_JOB_NONE);
  assert_null (disks[2]);
  backfill_free_disks (disks);
  assert_int_equal (backfill_list_disks (h, &n, &disks), 0);
  assert_int_equal (n, 0);
  backfill_free_disks (disks);
  assert_int_equal (backfill_get_disk_info (h, "vda", &info), 0);
  assert_int_equal (info->granule, 4096);
  backfill_free_disk_info (info);
  /* No disk named, and two there: both are listed. */
  assert_int_equal (backfill_get_disk_info (h, NULL, &info), -1);
  assert_int_equal (backfill_get_errno (), ENOTUNIQ);
  assert_non_null (strstr (backfill_get_error (), "'vda', ''"));
  assert_int_equal (backfill_list_disks (h, &n, &disks), -1);
  assert_int_equal (backfill_get_errno (), EPROTO);
  assert_int_equal (backfill_list_disks (h, &n, &disks), -1);
  assert_int_equal (backfill_get_errno (), EPROTO);
  backfill_close (h);
  stop_at_end (&server);
}

static void
test_job_info (void **state)
{
  static const struct step steps[] = {
    { "query-block-jobs",
      { "=[" JOB (
          "failed", "concluded", "4096", "4096",
          ",\"errno\":5,\"error\":\"why\",\"failed-offset\":4096") "]" } },
    { "query-block-jobs", { "=[]" } },
    { "query-block-jobs",
      { "=[" JOB ("bounded", "running", "4096", "4096", "") "]" } },
    { "query-block-jobs",
      { "=[" JOB ("bounded", "running", "4096", "4097", "") "]" } },
    { "query-block-jobs",
      { "=[" JOB ("bounded", "running", "-1", "8193", "") "]" } },
    { "query-block-jobs",
      { "!{\"class\":\"DeviceNotFound\",\"desc\":\"no such disk\"}" } },
    { "query-block-jobs",
      { "!{\"class\":\"GenericError\",\"desc\":\"x\",\"errno\":28}" } },
    { NULL, { NULL } },
  };
  struct {
    struct backfill_job_info info;
    char later[64];
  } future;
  struct backfill_job_info info = { .struct_size = sizeof info };
  struct server server;
  struct backfill *h;

  (void)state;
  start (&server, steps, NULL);
  h = backfill_connect (server.path);
  assert_int_equal (backfill_block_get_job_info (h, "vda", &info), 0);
  assert_int_equal (info.type, BACKFILL_JOB_FAILED);
  assert_int_equal (info.errnum, 5);
  assert_string_equal (info.error, "why");
  assert_int_equal (info.failed_offset, 4096);
  assert_int_equal (info.data_total, 8192);
  assert_int_equal (info.struct_size, sizeof info);

  /* A program made for a later library: what we do not know is 0. */
  memset (&future, 0xaa, sizeof future);
  future.info.struct_size = sizeof future;
  assert_int_equal (backfill_block_get_job_info (h, "vda", &future.info), 0);
  assert_int_equal (future.info.type, BACKFILL_JOB_NONE);
  assert_int_equal (future.info.failed_offset, UINT64_MAX);
  for (size_t i = 0; i < sizeof future.later; i++)
    assert_int_equal (future.later[i], 0);

  /* One made for an older: nothing behind its struct is touched. */
  memset (&info, 0xaa, sizeof info);
  info.struct_size = offsetof (struct backfill_job_info, range_offset);
  assert_int_equal (backfill_block_get_job_info (h, "vda", &info), 0);
  assert_int_equal (info.data_remaining, 4096);
  assert_int_equal (info.range_offset, UINT64_C (0xaaaaaaaaaaaaaaaa));

  info.struct_size = 0;
  assert_int_equal (backfill_block_get_job_info (h, "vda", &info), -1);
  assert_int_equal (backfill_get_errno (), EINVAL);
  info.struct_size = SIZE_MAX;
  assert_int_equal (backfill_block_get_job_info (h, "vda", &info), -1);
  info.struct_size = sizeof info;
  for (int i = 0; i < 2; i++) {
    assert_int_equal (backfill_block_get_job_info (h, "vda", &info), -1);
    assert_int_equal (backfill_get_errno (), EPROTO);
  }
  assert_int_equal (backfill_block_get_job_info (h, "vda", &info), -1);
  assert_int_equal (backfill_get_errno (), ENOENT);
  assert_string_equal (backfill_get_error (), "no such disk");
  assert_int_equal (backfill_block_get_job_info (h, "vda", &info), -1);
  assert_int_equal (backfill_get_errno (), ENOSPC);
  backfill_close (h);
  stop_at_end (&server);
}

struct seen {
  int calls, last_type, stop;
};

static int
progress (void *opaque, const struct backfill_job_info *info)
{
  struct seen *seen = opaque;

  assert_int_equal (info->data_processed + info->data_remaining,
                    info->data_total);
  seen->calls++;
  seen->last_type = info->type;
  return seen->stop;
}

static void
test_allocate (void **state)
{
  static const struct step steps[] = {
    /* flags */
    { "block-allocate", { "={}" } },
    /* Blocking: events before the answer, an older job's end among them. */
    { "query-disks",
      { "*" EVENT ("BLOCK_JOB_COMPLETED", ",\"error\":\"older\""),
        "=[" DISK ("vda", "/a") "]" } },
    { "block-allocate",
      { "*" EVENT ("JOB_STATUS_CHANGE", ",\"status\":\"created\""), "={}" } },
    { "query-block-jobs",
      { "=[" JOB ("bounded", "running", "4096", "4096", "") "]",
        "*" EVENT ("BLOCK_JOB_COMPLETED", ",\"len\":8192,\"offset\":8192") } },
    { "query-block-jobs",
      { "=[" JOB ("completed", "concluded", "8192", "0", "") "]" } },
    /* It fails, and its record is gone before anyone can ask. */
    { "query-disks", { "=[" DISK ("vda", "/a") "]" } },
    { "block-allocate",
      { "*" EVENT ("BLOCK_JOB_COMPLETED",
                   ",\"len\":8192,\"offset\":1,\"error\":\"bad disk\""),
        "={}" } },
    { "query-block-jobs", { "=[]" } },
    /* Aborted by another. */
    { "query-disks", { "=[" DISK ("vda", "/a") "]" } },
    { "block-allocate", { "={}" } },
    { "query-block-jobs",
      { "=[" JOB ("cancelled", "concluded", "1", "8191", "") "]" } },
    /* Failed, with its own number. */
    { "query-disks", { "=[" DISK ("vda", "/a") "]" } },
    { "block-allocate", { "={}" } },
    { "query-block-jobs",
      { "=[" JOB ("failed", "concluded", "1", "8191",
                  ",\"errno\":28,\"error\":\"full\"") "]" } },
    /* The server goes away while it runs. */
    { "query-disks", { "=[" DISK ("vda", "/a") "]" } },
    { "block-allocate", { "={}", "close" } },
    /* Refused. */
    { "query-disks", { "=[" DISK ("vda", "/a") "]" } },
    { "block-allocate",
      { "!{\"class\":\"GenericError\",\"desc\":\"busy\",\"errno\":16}" } },
    { NULL, { NULL } },
  };
  struct backfill_allocate_options options = { .struct_size = sizeof options };
  struct seen seen = { 0 };
  struct server server;
  struct backfill *h;

  (void)state;
  start (&server, steps, NULL);
  h = backfill_connect (server.path);
  assert_int_equal (
      backfill_block_allocate (h, "vda", 0, 0, BACKFILL_ALLOCATE_NONBLOCK), 0);
  options.progress = progress;
  options.opaque = &seen;
  assert_int_equal (
      backfill_block_allocate_options (h, "vda", 0, 0, 0, &options), 0);
  assert_true (seen.calls >= 1);
  assert_int_equal (seen.last_type, BACKFILL_JOB_COMPLETED);

  assert_int_equal (
      backfill_block_allocate_options (h, "vda", 0, 0, 0, &options), -1);
  assert_int_equal (backfill_get_errno (), EIO);
  assert_non_null (strstr (backfill_get_error (), "bad disk"));
  assert_int_equal (seen.last_type, BACKFILL_JOB_FAILED);

  assert_int_equal (backfill_block_allocate (h, "vda", 0, 0, 0), -1);
  assert_int_equal (backfill_get_errno (), ECANCELED);
  assert_int_equal (backfill_block_allocate (h, "vda", 0, 0, 0), -1);
  assert_int_equal (backfill_get_errno (), ENOSPC);
  assert_non_null (strstr (backfill_get_error (), "full"));
  assert_int_equal (backfill_block_allocate (h, "vda", 0, 0, 0), -1);
  assert_int_equal (backfill_get_errno (), ECONNRESET);
  assert_int_equal (backfill_block_allocate (h, "vda", 0, 0, 0), -1);
  assert_int_equal (backfill_get_errno (), EBUSY);

  /* Refused before anything is sent. */
  assert_int_equal (backfill_block_allocate (h, "vda", 0, 0, 64), -1);
  assert_int_equal (backfill_get_errno (), EINVAL);
  assert_int_equal (backfill_block_allocate (h, "vda", UINT64_MAX, 0, 0), -1);
  assert_int_equal (backfill_get_errno (), EINVAL);
  options.struct_size = 1;
  assert_int_equal (
      backfill_block_allocate_options (h, "vda", 0, 0, 0, &options), -1);
  assert_int_equal (backfill_get_errno (), EINVAL);
  backfill_close (h);
  stop_at_end (&server);
}

static void
test_wait (void **state)
{
  static const struct step steps[] = {
    { "query-disks", { "=[" DISK ("vda", "/a") "]" } },
    { "query-block-jobs", { "=[]" } },
    { "query-disks", { "=[" DISK ("vda", "/a") "]" } },
    { "query-block-jobs",
      { "=[" JOB ("bounded", "running", "4096", "4096", "") "]" } },
    { "query-disks", { "=[" DISK ("vda", "/a") "]" } },
    { "query-block-jobs",
      { "=[" JOB ("bounded", "running", "4096", "4096", "") "]" } },
    { "query-block-jobs",
      { "=[" JOB ("bounded", "running", "4096", "4096", "") "]" } },
    { NULL, { NULL } },
  };
  struct seen seen = { .stop = 1 };
  struct server server;
  struct backfill *h;

  (void)state;
  start (&server, steps, NULL);
  h = backfill_connect (server.path);
  assert_int_equal (backfill_block_wait_job (h, "vda", 0, NULL, NULL), -1);
  assert_int_equal (backfill_get_errno (), ESRCH);
  assert_int_equal (backfill_block_wait_job (h, "vda", 0, progress, &seen), -1);
  assert_int_equal (backfill_get_errno (), EINTR);
  assert_int_equal (seen.calls, 1);
  assert_int_equal (backfill_block_wait_job (h, "vda", 1, NULL, NULL), -1);
  assert_int_equal (backfill_get_errno (), ETIMEDOUT);
  /* How often it asked in that time is its own affair. */
  backfill_close (h);
  stop (&server);
}

static void
test_map (void **state)
{
  static const struct step steps[] = {
    /* Two pages; a region goes on over the edge. */
    { "query-allocation-map",
      { "={\"regions\":[{\"offset\":0,\"length\":512},"
        "{\"offset\":1024,\"length\":1024}],\"next\":2048,\"size\":8192,"
        "\"granule\":512}" } },
    { "query-allocation-map",
      { "={\"regions\":[{\"offset\":2048,\"length\":512}],\"size\":8192,"
        "\"granule\":512}" } },
    /* The same as strings. */
    { "query-allocation-map",
      { "={\"packed\":\"l512a512l1024\",\"next\":2048,\"size\":8192,"
        "\"granule\":512}" } },
    { "query-allocation-map",
      { "={\"packed\":\"l512a5632\",\"size\":8192,\"granule\":512}" } },
    { "query-allocation-map",
      { "={\"regions\":[],\"size\":0,\"granule\":512}" } },
    { "query-allocation-map",
      { "={\"packed\":\"\",\"size\":0,\"granule\":512}" } },
    { "query-allocation-map",
      { "={\"regions\":[{\"offset\":0,\"length\":4096,\"state\":\"zero\"},"
        "{\"offset\":4096,\"length\":4096,\"state\":\"absent\"}],"
        "\"size\":8192,\"granule\":512}" } },
    { "query-allocation-map",
      { "={\"packed\":\"z4096a4096\",\"size\":8192,\"granule\":512}" } },
    /* A page that does not go forward, one out of the disk, one backwards. */
    { "query-allocation-map",
      { "={\"regions\":[],\"next\":0,\"size\":8192,\"granule\":512}" } },
    { "query-allocation-map",
      { "={\"regions\":[{\"offset\":4096,\"length\":9223372036854775807}],"
        "\"size\":8192,\"granule\":512}" } },
    { "query-allocation-map",
      { "={\"regions\":[{\"offset\":4096,\"length\":512},"
        "{\"offset\":0,\"length\":512}],\"size\":8192,\"granule\":512}" } },
    /* Strings that are none. */
    { "query-allocation-map",
      { "={\"packed\":\"l8704\",\"size\":8192,\"granule\":512}" } },
    { "query-allocation-map",
      { "={\"packed\":\"l18446744073709551617\",\"size\":8192,"
        "\"granule\":512}" } },
    { "query-allocation-map",
      { "={\"packed\":\"l512a\",\"size\":8192,\"granule\":512}" } },
    { "query-allocation-map",
      { "={\"packed\":\"512\",\"size\":8192,\"granule\":512}" } },
    { "query-allocation-map",
      { "={\"packed\":\"l512\",\"next\":256,\"size\":8192,"
        "\"granule\":512}" } },
    { NULL, { NULL } },
  };
  struct backfill_state_region *states;
  struct backfill_region *regions;
  struct server server;
  struct backfill *h;
  unsigned n;

  (void)state;
  start (&server, steps, NULL);
  h = backfill_connect (server.path);
  for (int i = 0; i < 2; i++) {
    assert_int_equal (
        backfill_block_get_allocation_map (h, "vda", &n, &regions), 0);
    assert_int_equal (n, 2);
    assert_int_equal (regions[0].length, 512);
    assert_int_equal (regions[1].offset, 1024);
    assert_int_equal (regions[1].length, 1536);
    free (regions);
  }
  for (int i = 0; i < 2; i++) {
    assert_int_equal (
        backfill_block_get_allocation_map (h, "vda", &n, &regions), 0);
    assert_int_equal (n, 0);
    assert_null (regions);
  }
  for (int i = 0; i < 2; i++) {
    assert_int_equal (
        backfill_block_get_state_map (h, "vda", 0, 0, &n, &states), 0);
    assert_int_equal (n, 2);
    assert_int_equal (states[0].state, BACKFILL_ZERO);
    assert_int_equal (states[1].offset, 4096);
    assert_int_equal (states[1].state, BACKFILL_ABSENT);
    free (states);
  }
  for (int i = 0; i < 8; i++) {
    assert_int_equal (
        backfill_block_get_allocation_map (h, "vda", &n, &regions), -1);
    assert_int_equal (backfill_get_errno (), EPROTO);
  }
  backfill_close (h);
  stop_at_end (&server);
}

static void
test_hang (void **state)
{
  static const struct step steps[] = {
    { "query-disks", { "hang" } },
    { "query-disks", { "close" } },
    /* The same handle, after both: a new connection each time. */
    { "query-disks", { "=[]", "close" } },
    { "query-disks", { "=[]" } },
    { NULL, { NULL } },
  };
  struct backfill_disk_info **disks;
  struct server server;
  struct backfill *h;
  unsigned n;

  (void)state;
  start (&server, steps, NULL);
  h = backfill_connect (server.path);
  assert_int_equal (backfill_set_timeout (h, 200), 0);
  assert_int_equal (backfill_list_disks (h, &n, &disks), -1);
  assert_int_equal (backfill_get_errno (), ETIMEDOUT);
  assert_non_null (strstr (backfill_get_error (), server.path));
  assert_int_equal (backfill_set_timeout (h, 60000), 0);
  assert_int_equal (backfill_list_disks (h, &n, &disks), -1);
  assert_int_equal (backfill_get_errno (), ECONNRESET);
  for (int i = 0; i < 2; i++) {
    int connections;

    assert_int_equal (backfill_list_disks (h, &n, &disks), 0);
    backfill_free_disks (disks);
    /* Let the close come through, or it could look like a lost answer. */
    do {
      connections = atomic_load (&server.connections);
      usleep (1000);
    } while (i == 0 && connections > 1);
    usleep (i == 0 ? 50000 : 0);
  }
  backfill_close (h);
  stop_at_end (&server);
}

/* What answers another command is the answer of none: it is an error, also
 * when it would do. */
static void
test_other_answer (void **state)
{
  static const struct step steps[] = {
    { "query-disks", { "?[]" } },
    { "query-disks", { "=[]" } },
    { NULL, { NULL } },
  };
  struct backfill_disk_info **disks;
  struct server server;
  struct backfill *h;
  unsigned n;

  (void)state;
  start (&server, steps, NULL);
  h = backfill_connect (server.path);
  assert_int_equal (backfill_list_disks (h, &n, &disks), -1);
  assert_int_equal (backfill_get_errno (), EPROTO);
  assert_non_null (strstr (backfill_get_error (), "was not asked"));
  assert_int_equal (backfill_list_disks (h, &n, &disks), 0);
  backfill_free_disks (disks);
  backfill_close (h);
  stop_at_end (&server);
}

/* An answer that came too late is not the next command's: that goes over
 * another connection. */
static void
test_late_answer (void **state)
{
  static const struct step steps[] = {
    { "query-disks", { "late", "=[" DISK ("vda", "/a") "]" } },
    { "query-disks", { "=[]" } },
    { NULL, { NULL } },
  };
  struct backfill_disk_info **disks;
  struct server server;
  struct backfill *h;
  unsigned n;

  (void)state;
  start (&server, steps, NULL);
  h = backfill_connect (server.path);
  assert_int_equal (backfill_set_timeout (h, 200), 0);
  assert_int_equal (backfill_list_disks (h, &n, &disks), -1);
  assert_int_equal (backfill_get_errno (), ETIMEDOUT);
  atomic_store (&server.go_on, true);
  assert_int_equal (backfill_set_timeout (h, 60000), 0);
  assert_int_equal (backfill_list_disks (h, &n, &disks), 0);
  assert_int_equal (n, 0);
  backfill_free_disks (disks);
  backfill_close (h);
  stop_at_end (&server);
}

/* Linked with --wrap: a flood is as fast as its reader.  However little of the
 * processor the server has, there is something to be read. */
int __real_poll (struct pollfd *fds, nfds_t n, int timeout);
int __wrap_poll (struct pollfd *fds, nfds_t n, int timeout);
static atomic_bool flooded;

int
__wrap_poll (struct pollfd *fds, nfds_t n, int timeout)
{
  return __real_poll (fds, n,
                      timeout == 0 && atomic_load (&flooded) ? 60000 : timeout);
}

/* Events are no answer, however many come. */
static void
test_flood (void **state)
{
  static const struct step steps[] = {
    { "query-disks", { "flood" } },
    { NULL, { NULL } },
  };
  struct backfill_disk_info **disks;
  struct server server;
  struct backfill *h;
  unsigned n;

  (void)state;
  start (&server, steps, NULL);
  h = backfill_connect (server.path);
  assert_int_equal (backfill_set_timeout (h, 300), 0);
  atomic_store (&flooded, true);
  assert_int_equal (backfill_list_disks (h, &n, &disks), -1);
  atomic_store (&flooded, false);
  assert_int_equal (backfill_get_errno (), ETIMEDOUT);
  backfill_close (h);
  stop_at_end (&server);
}

static void
test_events (void **state)
{
  static const struct step steps[] = {
    { "query-disks",
      { "*{\"event\":\"DISK_LOCAL\",\"data\":{\"device\":\"other\"},"
        "\"timestamp\":{\"seconds\":1,\"microseconds\":2}}",
        "*" EVENT ("JOB_STATUS_CHANGE", ",\"status\":\"running\""),
        "=[" DISK ("vda", "/a") "]", "close" } },
    { NULL, { NULL } },
  };
  struct backfill_events *events;
  struct backfill_event *ev;
  struct server server;
  struct backfill *h;

  (void)state;
  start (&server, steps, NULL);
  h = backfill_connect (server.path);
  events = backfill_events_open (h, "vda");
  assert_non_null (events);
  assert_int_equal (backfill_events_next (events, 60000, &ev), 1);
  assert_string_equal (ev->event, "JOB_STATUS_CHANGE");
  assert_string_equal (ev->disk, "vda");
  assert_string_equal (ev->status, "running");
  assert_int_equal (ev->microseconds, 2);
  assert_non_null (strstr (ev->json, "timestamp"));
  backfill_free_event (ev);
  assert_int_equal (backfill_events_next (events, 60000, &ev), -1);
  assert_int_equal (backfill_get_errno (), ECONNRESET);
  backfill_events_close (events);

  events = backfill_events_open (h, NULL);
  assert_non_null (events);
  assert_int_equal (backfill_events_next (events, 1, &ev), 0);
  backfill_events_close (events);
  backfill_close (h);
  stop_at_end (&server);
}

static void
test_command (void **state)
{
  static const struct step steps[] = {
    { "query-version", { "={\"package\":\"x\"}" } },
    { "block-job-cancel", { "={}" } },
    { NULL, { NULL } },
  };
  struct server server;
  struct backfill *h;
  char *reply;

  (void)state;
  start (&server, steps, NULL);
  h = backfill_connect (server.path);
  assert_int_equal (backfill_command (h, "query-version", NULL, &reply), 0);
  assert_string_equal (reply, "{\"package\":\"x\"}");
  free (reply);
  assert_int_equal (
      backfill_command (h, "block-job-cancel", "{\"device\": \"vda\"}", &reply),
      0);
  free (reply);
  assert_int_equal (backfill_command (h, "x", "[1]", &reply), -1);
  assert_int_equal (backfill_get_errno (), EINVAL);
  assert_int_equal (backfill_command (h, "x", "{", &reply), -1);
  assert_int_equal (backfill_get_errno (), EINVAL);
  assert_null (reply);
  backfill_close (h);
  stop_at_end (&server);
}

struct worker {
  struct backfill *h;
  int number;
};

static void *
work (void *opaque)
{
  struct worker *worker = opaque;
  struct backfill_job_info info = { .struct_size = sizeof info };
  char name[32];

  for (int i = 0; i < 50; i++) {
    assert_int_equal (backfill_block_get_job_info (worker->h, "vda", &info), 0);
    assert_int_equal (info.type, BACKFILL_JOB_BOUNDED);
    /* Each thread has its own last error. */
    snprintf (name, sizeof name, "/nonexistent/%d", worker->number);
    assert_null (backfill_connect (name));
    usleep (100);
    assert_non_null (strstr (backfill_get_error (), name));
  }
  return NULL;
}

static void *
wait_for_end (void *opaque)
{
  struct seen seen = { 0 };

  (void)seen;
  assert_int_equal (backfill_block_wait_job (opaque, "vda", 0, NULL, NULL), -1);
  assert_int_equal (backfill_get_errno (), ECONNRESET);
  return NULL;
}

/* Calls of several threads on one handle, while one of them waits. */
static void
test_threads (void **state)
{
  static const struct step any = {
    NULL,
    { "=[" JOB ("bounded", "running", "4096", "4096", ",\"name\":\"vda\"") "]" }
  };
  struct worker workers[4];
  pthread_t threads[4], waiter;
  struct server server;
  struct backfill *h;

  (void)state;
  start (&server, NULL, &any);
  h = backfill_connect (server.path);
  assert_non_null (h);
  assert_int_equal (pthread_create (&waiter, NULL, wait_for_end, h), 0);
  for (int i = 0; i < 4; i++) {
    workers[i].h = h;
    workers[i].number = i;
    assert_int_equal (pthread_create (&threads[i], NULL, work, &workers[i]), 0);
  }
  for (int i = 0; i < 4; i++)
    pthread_join (threads[i], NULL);
  /* Its end is the server's. */
  stop (&server);
  pthread_join (waiter, NULL);
  backfill_close (h);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_connect),      cmocka_unit_test (test_long_path),
    cmocka_unit_test (test_list),         cmocka_unit_test (test_job_info),
    cmocka_unit_test (test_allocate),     cmocka_unit_test (test_wait),
    cmocka_unit_test (test_map),          cmocka_unit_test (test_hang),
    cmocka_unit_test (test_flood),        cmocka_unit_test (test_events),
    cmocka_unit_test (test_command),      cmocka_unit_test (test_threads),
    cmocka_unit_test (test_other_answer), cmocka_unit_test (test_late_answer),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
