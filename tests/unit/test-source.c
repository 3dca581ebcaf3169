/* test-source.c - the source against real servers.
 *
 * Servers are nbdkit (and qemu-nbd where it is installed) on unix sockets in
 * a directory of this run; each dies with this process.  nbdkit's pattern
 * plugin serves every offset as its own big-endian number, which tells which
 * bytes a read has got.
 *
 * Waits poll with a limit of a minute: nothing here depends on a machine's
 * speed but the two assertions that something ends soon.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "child.h"
#include "log.h"
#include "source/source.h"

#define LIMIT_MS 60000
#define MAX_WORDS 24

static char dir[] = "/tmp/test-source-XXXXXX";
static char *sock_path, *uri;
static const char *nbdkit = "nbdkit";

static uint64_t
now_in_ms (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void
nap (unsigned ms)
{
  struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

  nanosleep (&ts, NULL);
}

#define WAIT_FOR(condition)                           \
  do {                                                \
    uint64_t wait_until = now_in_ms () + LIMIT_MS;    \
    while (!(condition)) {                            \
      if (now_in_ms () > wait_until)                  \
        fail_msg ("waited too long for " #condition); \
      nap (5);                                        \
    }                                                 \
  } while (0)

/* Servers. */

static pid_t
spawn (const char *const *argv)
{
  pid_t pid = child_fork ();

  if (pid == 0) {
    unsetenv ("LD_PRELOAD");
    execvp (argv[0], (char *const *)argv);
    _exit (127);
  }
  assert_true (pid > 0);
  return pid;
}

/* nbdkit on sock_path with those arguments, NULL at the end. */
static pid_t
serve (const char *first, ...)
{
  const char *argv[MAX_WORDS + 8] = { nbdkit, "-f", "-U", sock_path, first };
  unsigned n = 5;
  va_list ap;
  pid_t pid;

  va_start (ap, first);
  while ((argv[n] = va_arg (ap, const char *)))
    assert_true (++n < MAX_WORDS);
  va_end (ap);
  unlink (sock_path);
  pid = spawn (argv);
  WAIT_FOR (child_listens (sock_path));
  return pid;
}

static void
end_server (pid_t pid)
{
  kill (pid, SIGKILL);
  assert_int_equal (waitpid (pid, NULL, 0), pid);
}

/* SIGSTOP, and it is known to have stopped. */
static void
stop_server (pid_t pid)
{
  int status;

  kill (pid, SIGSTOP);
  assert_int_equal (waitpid (pid, &status, WUNTRACED), pid);
  assert_true (WIFSTOPPED (status));
}

/* A source, and what its callback was told. */

struct seen {
  pthread_mutex_t lock;
  unsigned nr[SOURCE_REFUSED + 1];
  char why[400];
};

static void
changed (void *opaque, enum source_state state, const char *why)
{
  struct seen *seen = opaque;

  pthread_mutex_lock (&seen->lock);
  seen->nr[state]++;
  snprintf (seen->why, sizeof seen->why, "%s", why);
  pthread_mutex_unlock (&seen->lock);
}

static unsigned
times (struct seen *seen, enum source_state state)
{
  unsigned n;

  pthread_mutex_lock (&seen->lock);
  n = seen->nr[state];
  pthread_mutex_unlock (&seen->lock);
  return n;
}

static struct seen *
new_seen (void)
{
  struct seen *seen = calloc (1, sizeof *seen);

  assert_non_null (seen);
  pthread_mutex_init (&seen->lock, NULL);
  return seen;
}

static struct source *
new_source (struct source_config config)
{
  struct source *src;

  if (!config.argv && !config.uri)
    config.uri = uri;
  if (!config.connections)
    config.connections = 4;
  if (!config.timeout)
    config.timeout = 30000;
  config.socket_dir = dir;
  src = source_new (&config);
  assert_non_null (src);
  return src;
}

#define SOURCE(...) new_source ((struct source_config){ __VA_ARGS__ })

/* Requests. */

struct wait {
  struct source_req req;
  pthread_mutex_t lock;
  pthread_cond_t cond;
  bool ended;
  unsigned nr_done;
  int error;
  struct source_extent extent[64];
  size_t nr_extents;
};

static void
done (struct source_req *req, int error)
{
  struct wait *w = req->opaque;

  pthread_mutex_lock (&w->lock);
  w->ended = true;
  w->nr_done++;
  w->error = error;
  w->nr_extents = req->nr_extents < 64 ? req->nr_extents : 64;
  if (!error && !req->buf)
    memcpy (w->extent, req->extents, w->nr_extents * sizeof w->extent[0]);
  pthread_cond_broadcast (&w->cond);
  pthread_mutex_unlock (&w->lock);
}

static struct wait *
new_wait (uint64_t offset, uint32_t length, enum source_prio prio, bool read)
{
  struct wait *w = calloc (1, sizeof *w);

  assert_non_null (w);
  pthread_mutex_init (&w->lock, NULL);
  pthread_cond_init (&w->cond, NULL);
  w->req.offset = offset;
  w->req.length = length;
  w->req.prio = prio;
  w->req.done = done;
  w->req.opaque = w;
  if (read) {
    w->req.buf = malloc (length);
    assert_non_null (w->req.buf);
    memset (w->req.buf, 0xEE, length);
  }
  return w;
}

static bool
has_ended (struct wait *w)
{
  bool ended;

  pthread_mutex_lock (&w->lock);
  ended = w->ended;
  pthread_mutex_unlock (&w->lock);
  return ended;
}

static int
result (struct wait *w)
{
  struct timespec until;
  int err = 0;

  clock_gettime (CLOCK_REALTIME, &until);
  until.tv_sec += LIMIT_MS / 1000;
  pthread_mutex_lock (&w->lock);
  while (!w->ended && err == 0)
    err = pthread_cond_timedwait (&w->cond, &w->lock, &until);
  pthread_mutex_unlock (&w->lock);
  assert_int_equal (err, 0);
  return w->error;
}

static void
free_wait (struct wait *w)
{
  assert_int_equal (w->nr_done, 1);
  pthread_mutex_destroy (&w->lock);
  pthread_cond_destroy (&w->cond);
  free (w->req.buf);
  free (w);
}

static int
finish (struct wait *w)
{
  int err = result (w);

  free_wait (w);
  return err;
}

static bool
is_pattern (const uint8_t *p, uint64_t offset, uint32_t length)
{
  for (uint32_t i = 0; i < length; i++) {
    uint64_t at = offset + i;

    if (p[i] != (uint8_t)((at & ~UINT64_C (7)) >> (56 - 8 * (at & 7))))
      return false;
  }
  return true;
}

static void
check_read (struct source *src, uint64_t offset, uint32_t length,
            enum source_prio prio)
{
  struct wait *w = new_wait (offset, length, prio, true);

  source_submit (src, &w->req);
  assert_int_equal (result (w), 0);
  assert_true (is_pattern (w->req.buf, offset, length));
  free_wait (w);
}

static int
try_read (struct source *src, uint64_t offset, uint32_t length)
{
  struct wait *w = new_wait (offset, length, SOURCE_DEMAND, true);

  source_submit (src, &w->req);
  return finish (w);
}

static void
wait_state (struct source *src, enum source_state state)
{
  WAIT_FOR (source_get_state (src) == state);
}

/* Tests. */

static void
test_read (void **arg)
{
  pid_t pid = serve ("pattern", "16M", NULL);
  struct source *src = SOURCE (.uri = uri);

  (void)arg;
  assert_int_equal (source_get_state (src), SOURCE_CONNECTING);
  assert_int_equal (source_start (src, NULL), 0);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  check_read (src, 1, 1, SOURCE_DEMAND);
  check_read (src, 513, 1234567, SOURCE_AHEAD);
  check_read (src, 0, SOURCE_MAX_REQUEST, SOURCE_BACKGROUND);
  check_read (src, (16 << 20) - 7, 7, SOURCE_BACKGROUND);
  assert_int_equal (source_get_state (src), SOURCE_CONNECTED);
  assert_int_equal (source_bytes_read (src),
                    4096 + 1 + 1234567 + SOURCE_MAX_REQUEST + 7);
  assert_int_equal (source_demand_waiting (src), 0);
  assert_true (source_background_depth (src) >= 1);
  /* Past the end. */
  assert_int_equal (try_read (src, (16 << 20) - 1, 2), EIO);
  check_read (src, 99, 99, SOURCE_DEMAND);
  source_free (src);
  end_server (pid);
}

static void
test_many_connections (void **arg)
{
  pid_t pid = serve ("pattern", "64M", NULL);
  struct source *src = SOURCE (.uri = uri, .connections = 4);
  struct wait *w[128];

  (void)arg;
  assert_int_equal (source_start (src, NULL), 0);
  /* More than one connection takes, so that others are opened. */
  for (unsigned i = 0; i < 128; i++) {
    w[i] = new_wait (i * (512u << 10), 512 << 10, SOURCE_BACKGROUND, true);
    source_submit (src, &w[i]->req);
  }
  for (unsigned i = 0; i < 128; i++) {
    assert_int_equal (result (w[i]), 0);
    assert_true (is_pattern (w[i]->req.buf, i * (512u << 10), 512 << 10));
    free_wait (w[i]);
  }
  assert_true (source_background_depth (src) > 4);
  source_free (src);
  end_server (pid);
}

static char *
make_sparse_file (void)
{
  char *path, data[65536];
  int fd;

  memset (data, 'x', sizeof data);
  assert_true (asprintf (&path, "%s/sparse.img", dir) > 0);
  fd = open (path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  assert_true (fd >= 0);
  assert_int_equal (ftruncate (fd, 4 << 20), 0);
  assert_int_equal (pwrite (fd, data, sizeof data, 1 << 20), sizeof data);
  close (fd);
  return path;
}

static void
test_status (void **arg)
{
  char *path = make_sparse_file ();
  pid_t pid = serve ("file", path, NULL);
  struct source *src = SOURCE (.uri = uri);
  struct wait *w;
  uint64_t total = 0;

  (void)arg;
  assert_int_equal (source_start (src, NULL), 0);
  wait_state (src, SOURCE_CONNECTED);
  assert_true (source_can_status (src));
  w = new_wait (4096, (4 << 20) - 8192, SOURCE_AHEAD, false);
  source_submit (src, &w->req);
  assert_int_equal (result (w), 0);
  assert_int_equal (w->nr_extents, 3);
  assert_int_equal (w->extent[0].length, (1 << 20) - 4096);
  assert_int_equal (w->extent[0].flags, 3);
  assert_int_equal (w->extent[1].length, 65536);
  assert_int_equal (w->extent[1].flags, 0);
  for (size_t i = 0; i < w->nr_extents; i++)
    total += w->extent[i].length;
  assert_int_equal (total, (4 << 20) - 8192);
  free_wait (w);
  source_free (src);
  end_server (pid);

  /* A server that does not tell: all is data. */
  pid = serve ("--no-sr", "file", path, NULL);
  src = SOURCE (.uri = uri);
  assert_int_equal (source_start (src, NULL), 0);
  wait_state (src, SOURCE_CONNECTED);
  assert_false (source_can_status (src));
  w = new_wait (0, 4 << 20, SOURCE_AHEAD, false);
  source_submit (src, &w->req);
  assert_int_equal (result (w), 0);
  assert_int_equal (w->nr_extents, 1);
  assert_int_equal (w->extent[0].length, 4 << 20);
  assert_int_equal (w->extent[0].flags, 0);
  free_wait (w);
  /* And simple replies are read, too. */
  assert_int_equal (try_read (src, 12345, 54321), 0);
  source_free (src);
  end_server (pid);
  free (path);
}

/* The server's block sizes bind it, not those who ask. */
static void
test_block_sizes (void **arg)
{
  pid_t pid
      = serve ("--filter=blocksize-policy", "pattern", "8M",
               "blocksize-error-policy=error", "blocksize-minimum=4096",
               "blocksize-preferred=4096", "blocksize-maximum=65536", NULL);
  struct source *src = SOURCE (.uri = uri);
  struct wait *w;

  (void)arg;
  assert_int_equal (source_start (src, NULL), 0);
  check_read (src, 1, 1, SOURCE_DEMAND);
  check_read (src, 4095, 8194, SOURCE_DEMAND);
  check_read (src, 777, SOURCE_MAX_REQUEST, SOURCE_BACKGROUND);
  check_read (src, 1 << 20, SOURCE_MAX_REQUEST, SOURCE_BACKGROUND);
  w = new_wait (100, 200, SOURCE_AHEAD, false);
  source_submit (src, &w->req);
  assert_int_equal (result (w), 0);
  assert_int_equal (w->nr_extents, 1);
  assert_int_equal (w->extent[0].length, 200);
  free_wait (w);
  source_free (src);
  end_server (pid);
}

static void
test_error (void **arg)
{
  char *trigger, *word;
  struct source *src = SOURCE (.uri = uri);
  pid_t pid;
  int fd;

  (void)arg;
  assert_true (asprintf (&trigger, "%s/trigger", dir) > 0);
  assert_true (asprintf (&word, "error-pread-file=%s", trigger) > 0);
  pid = serve ("--filter=error", "pattern", "1M", "error-pread=ENOSPC",
               "error-pread-rate=100%", word, NULL);
  assert_int_equal (source_start (src, NULL), 0);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  fd = open (trigger, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  assert_true (fd >= 0);
  close (fd);
  assert_int_equal (try_read (src, 0, 4096), EIO);
  /* An answer, if a bad one: the connection is as good as before. */
  assert_int_equal (source_get_state (src), SOURCE_CONNECTED);
  unlink (trigger);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  source_free (src);
  end_server (pid);
  free (word);
  free (trigger);
}

/* A server that dies with requests in flight, and another in its place. */
static void
test_replay (void **arg)
{
  pid_t pid = serve ("--filter=delay", "pattern", "16M", "rdelay=3600", NULL);
  struct seen *seen = new_seen ();
  struct source *src = SOURCE (.identity_mode = SOURCE_IDENTITY_SIZE,
                               .state_changed = changed, .opaque = seen);
  struct wait *w[20];

  (void)arg;
  assert_int_equal (source_start (src, NULL), 0);
  for (unsigned i = 0; i < 20; i++) {
    w[i] = new_wait (i * 65536u, 65536, i % 3, true);
    source_submit (src, &w[i]->req);
  }
  wait_state (src, SOURCE_CONNECTED);
  nap (100);
  assert_int_equal (source_demand_waiting (src), 7);
  end_server (pid);
  wait_state (src, SOURCE_LOST);
  nap (200);
  for (unsigned i = 0; i < 20; i++)
    assert_false (has_ended (w[i]));
  pid = serve ("pattern", "16M", NULL);
  for (unsigned i = 0; i < 20; i++) {
    assert_int_equal (result (w[i]), 0);
    assert_true (is_pattern (w[i]->req.buf, i * 65536u, 65536));
    free_wait (w[i]);
  }
  assert_int_equal (source_get_state (src), SOURCE_CONNECTED);
  assert_int_equal (source_demand_waiting (src), 0);
  assert_true (times (seen, SOURCE_LOST) >= 1);
  assert_true (times (seen, SOURCE_CONNECTED) >= 2);
  source_free (src);
  end_server (pid);
  free (seen);
}

/* A server that stops answering, and goes on. */
static void
test_hung (void **arg)
{
  pid_t pid = serve ("pattern", "16M", NULL);
  struct source *src = SOURCE (.timeout = 600);
  struct wait *demand, *background;
  char why[400];

  (void)arg;
  assert_int_equal (source_start (src, NULL), 0);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  check_read (src, 0, 4096, SOURCE_BACKGROUND);
  stop_server (pid);
  /* Only the background connections have anything to wait for: it is
   * noticed all the same. */
  background = new_wait (4096, 4096, SOURCE_BACKGROUND, true);
  source_submit (src, &background->req);
  wait_state (src, SOURCE_LOST);
  source_get_reason (src, why, sizeof why);
  assert_non_null (strstr (why, "no answer"));
  assert_non_null (strstr (why, uri));
  demand = new_wait (8192, 4096, SOURCE_DEMAND, true);
  source_submit (src, &demand->req);
  nap (200);
  assert_false (has_ended (background));
  assert_false (has_ended (demand));
  kill (pid, SIGCONT);
  assert_int_equal (result (demand), 0);
  assert_int_equal (result (background), 0);
  assert_true (is_pattern (demand->req.buf, 8192, 4096));
  assert_true (is_pattern (background->req.buf, 4096, 4096));
  source_get_reason (src, why, sizeof why);
  assert_string_equal (why, "");
  free_wait (demand);
  free_wait (background);
  source_free (src);
  end_server (pid);
}

/* A server slower than what passes for silence at first still answers. */
static void
test_slow (void **arg)
{
  pid_t pid = serve ("--filter=delay", "pattern", "1M", "rdelay=300ms", NULL);
  struct source *src
      = SOURCE (.timeout = 600, .identity_mode = SOURCE_IDENTITY_SIZE);

  (void)arg;
  assert_int_equal (source_start (src, NULL), 0);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  source_free (src);
  end_server (pid);
}

static void
test_deadline (void **arg)
{
  struct source *src = SOURCE (.identity_mode = SOURCE_IDENTITY_SIZE);
  struct wait *w, *other;
  pid_t pid;

  (void)arg;
  /* Nobody to send it to. */
  unlink (sock_path);
  assert_int_equal (source_start (src, NULL), 0);
  w = new_wait (0, 4096, SOURCE_DEMAND, true);
  w->req.deadline = now_in_ms () + 50;
  source_submit (src, &w->req);
  assert_int_equal (finish (w), ETIMEDOUT);
  w = new_wait (0, 4096, SOURCE_BACKGROUND, true);
  w->req.deadline = now_in_ms () + 50;
  source_submit (src, &w->req);
  assert_int_equal (finish (w), ETIMEDOUT);

  /* Sent, and not answered. */
  pid = serve ("--filter=delay", "pattern", "1M", "rdelay=3600", NULL);
  wait_state (src, SOURCE_CONNECTED);
  w = new_wait (0, 4096, SOURCE_DEMAND, true);
  w->req.deadline = now_in_ms () + 500;
  other = new_wait (4096, 4096, SOURCE_DEMAND, true);
  source_submit (src, &w->req);
  source_submit (src, &other->req);
  assert_int_equal (result (w), ETIMEDOUT);
  for (unsigned i = 0; i < 4096; i++)
    assert_int_equal (((uint8_t *)w->req.buf)[i], 0xEE);
  free_wait (w);
  assert_false (has_ended (other));
  end_server (pid);
  pid = serve ("pattern", "1M", NULL);
  assert_int_equal (result (other), 0);
  assert_true (is_pattern (other->req.buf, 4096, 4096));
  free_wait (other);
  source_free (src);
  end_server (pid);
}

static void
test_cancel (void **arg)
{
  pid_t pid = serve ("--filter=delay", "pattern", "1M", "rdelay=3600", NULL);
  struct source *src = SOURCE (.identity_mode = SOURCE_IDENTITY_SIZE);
  struct wait *waiting, *sent;

  (void)arg;
  waiting = new_wait (0, 4096, SOURCE_BACKGROUND, true);
  source_submit (src, &waiting->req);
  assert_true (source_cancel (src, &waiting->req));
  assert_true (has_ended (waiting));
  assert_int_equal (waiting->error, ECANCELED);
  assert_false (source_cancel (src, &waiting->req));
  free_wait (waiting);

  assert_int_equal (source_start (src, NULL), 0);
  wait_state (src, SOURCE_CONNECTED);
  sent = new_wait (0, 4096, SOURCE_DEMAND, true);
  source_submit (src, &sent->req);
  nap (300);
  assert_false (source_cancel (src, &sent->req));
  assert_false (has_ended (sent));
  /* It ends with its connection, and is not asked again. */
  end_server (pid);
  assert_int_equal (finish (sent), ECANCELED);
  source_free (src);
}

/* Another disk in the known one's place (I9). */
static void
test_refused_size (void **arg)
{
  struct seen *seen = new_seen ();
  struct source *src
      = SOURCE (.refused_retry = 50, .state_changed = changed, .opaque = seen);
  struct source_identity identity;
  struct source_config config = { .uri = uri, .timeout = 30000 };
  char *error = NULL, why[400];
  pid_t pid = serve ("pattern", "16M", NULL);

  (void)arg;
  assert_int_equal (source_probe (&config, &identity, &error), 0);
  assert_int_equal (identity.size, 16 << 20);
  end_server (pid);
  pid = serve ("pattern", "8M", NULL);
  assert_int_equal (source_start (src, &identity), 0);
  assert_int_equal (try_read (src, 0, 4096), EIO);
  assert_int_equal (source_get_state (src), SOURCE_REFUSED);
  source_get_reason (src, why, sizeof why);
  assert_non_null (strstr (why, "8388608"));
  assert_non_null (strstr (why, "16777216"));
  assert_int_equal (try_read (src, 0, 4096), EIO);
  end_server (pid);
  pid = serve ("pattern", "16M", NULL);
  wait_state (src, SOURCE_CONNECTED);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  assert_true (times (seen, SOURCE_REFUSED) >= 1);
  source_free (src);
  end_server (pid);
  free (seen);
}

static void
test_refused_content (void **arg)
{
  struct source *src = SOURCE (.refused_retry = 50);
  pid_t pid = serve ("pattern", "16M", NULL);
  struct wait *w;
  char why[400];

  (void)arg;
  assert_int_equal (source_start (src, NULL), 0);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  check_read (src, 0, 4096, SOURCE_BACKGROUND);
  end_server (pid);
  wait_state (src, SOURCE_LOST);
  /* Asked while it is away: not a byte may come from the wrong one. */
  w = new_wait (0, 4096, SOURCE_BACKGROUND, true);
  source_submit (src, &w->req);
  pid = serve ("memory", "16M", NULL);
  assert_int_equal (finish (w), EIO);
  wait_state (src, SOURCE_REFUSED);
  source_get_reason (src, why, sizeof why);
  assert_non_null (strstr (why, "content"));
  assert_int_equal (try_read (src, 0, 4096), EIO);
  end_server (pid);
  pid = serve ("pattern", "16M", NULL);
  wait_state (src, SOURCE_CONNECTED);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  source_free (src);
  end_server (pid);
}

/* Digests are of the content alone, and kept for years. */
static void
test_identity (void **arg)
{
  static const char *const sizes[]
      = { "0", "1", "4095", "65536", "65537", "1000001", "6E" };
  struct source_config config = { .uri = uri, .timeout = 30000 };
  struct source_identity one, two, zero = { 0 };
  char *error = NULL;

  (void)arg;
  for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    pid_t pid = serve ("pattern", sizes[i], NULL);
    struct source *src = SOURCE (.uri = uri);

    assert_int_equal (source_probe (&config, &one, &error), 0);
    assert_int_equal (source_probe (&config, &two, &error), 0);
    assert_memory_equal (&one, &two, sizeof one);
    assert_memory_not_equal (one.digest, zero.digest, sizeof one.digest);
    assert_int_equal (source_start (src, &one), 0);
    wait_state (src, SOURCE_CONNECTED);
    source_free (src);
    end_server (pid);
  }
  {
    pid_t pid = serve ("pattern", "1M", NULL);

    config.identity_mode = SOURCE_IDENTITY_SIZE;
    assert_int_equal (source_probe (&config, &one, &error), 0);
    assert_int_equal (one.size, 1 << 20);
    assert_memory_equal (one.digest, zero.digest, sizeof one.digest);
    end_server (pid);
  }
}

/* The probe's connection is the first one; one that has died meanwhile is
 * replaced, and nobody is told that anything was lost. */
static void
test_kept (void **arg)
{
  struct source_config config = { .uri = uri, .timeout = 30000 };
  struct source_identity identity;
  char *error = NULL;

  (void)arg;
  for (unsigned dead = 0; dead < 2; dead++) {
    pid_t pid = serve ("pattern", "1M", NULL);
    struct seen *seen = new_seen ();
    struct source *src = SOURCE (.state_changed = changed, .opaque = seen);
    struct source_kept *kept, *unused;

    assert_int_equal (source_probe_keep (&config, &identity, &kept, &error), 0);
    assert_int_equal (source_probe_keep (&config, &identity, &unused, &error),
                      0);
    assert_non_null (kept);
    source_kept_free (unused);
    if (dead) {
      end_server (pid);
      pid = serve ("pattern", "1M", NULL);
    }
    source_keep (src, kept);
    assert_int_equal (source_start (src, &identity), 0);
    wait_state (src, SOURCE_CONNECTED);
    check_read (src, 0, 4096, SOURCE_DEMAND);
    assert_int_equal (times (seen, SOURCE_LOST), 0);
    source_free (src);
    /* One that is never started has it to close. */
    src = SOURCE (.uri = uri);
    assert_int_equal (source_probe_keep (&config, &identity, &kept, &error), 0);
    source_keep (src, kept);
    source_free (src);
    end_server (pid);
    pthread_mutex_destroy (&seen->lock);
    free (seen);
  }
}

static void
read_all_ways (struct source *src)
{
  struct wait *w[24];

  assert_int_equal (source_start (src, NULL), 0);
  for (unsigned i = 0; i < 24; i++) {
    w[i] = new_wait (i * 65536u, 65536, i % 3, true);
    source_submit (src, &w[i]->req);
  }
  for (unsigned i = 0; i < 24; i++) {
    assert_int_equal (result (w[i]), 0);
    assert_true (is_pattern (w[i]->req.buf, i * 65536u, 65536));
    free_wait (w[i]);
  }
  wait_state (src, SOURCE_CONNECTED);
}

static void
test_single_connection (void **arg)
{
  struct source *src;
  pid_t pid;

  (void)arg;
  /* One that says so. */
  pid = serve ("--filter=multi-conn", "pattern", "16M",
               "multi-conn-mode=disable", NULL);
  src = SOURCE (.connections = 4);
  read_all_ways (src);
  assert_int_equal (source_background_depth (src), 4);
  source_free (src);
  end_server (pid);
  /* One that says otherwise, and refuses. */
  pid = serve ("--filter=limit", "pattern", "16M", "limit=1", NULL);
  src = SOURCE (.connections = 4);
  read_all_ways (src);
  source_free (src);
  end_server (pid);
  /* And one connection by our own choice. */
  pid = serve ("pattern", "16M", NULL);
  src = SOURCE (.connections = 1);
  read_all_ways (src);
  source_free (src);
  end_server (pid);
}

/* Demand does not wait behind what background has piled up. */
static void
test_demand_first (void **arg)
{
  pid_t pid = serve ("--filter=delay", "pattern", "64M", "rdelay=100ms", NULL);
  struct source *src = SOURCE (.connections = 1);
  struct wait *w[100], *demand;
  unsigned ended = 0;

  (void)arg;
  assert_int_equal (source_start (src, NULL), 0);
  wait_state (src, SOURCE_CONNECTED);
  for (unsigned i = 0; i < 100; i++) {
    w[i] = new_wait (i * 4096u, 4096, SOURCE_BACKGROUND, true);
    source_submit (src, &w[i]->req);
  }
  demand = new_wait (1 << 20, 4096, SOURCE_DEMAND, true);
  source_submit (src, &demand->req);
  assert_int_equal (finish (demand), 0);
  for (unsigned i = 0; i < 100; i++)
    ended += has_ended (w[i]);
  assert_true (ended < 50);
  source_stop (src);
  for (unsigned i = 0; i < 100; i++) {
    assert_true (has_ended (w[i]));
    free_wait (w[i]);
  }
  source_free (src);
  end_server (pid);
}

/* The command's processes: children of ours that are not servers. */
static pid_t
child_of_ours (void)
{
  char path[64];
  pid_t pid = 0;
  long n;
  FILE *f;

  for (unsigned i = 0; i < 16 && !pid; i++) {
    snprintf (path, sizeof path, "pgrep -P %ld nbdkit", (long)getpid ());
    f = popen (path, "r");
    assert_non_null (f);
    if (fscanf (f, "%ld", &n) == 1)
      pid = (pid_t)n;
    pclose (f);
    if (!pid)
      nap (20);
  }
  return pid;
}

static unsigned
nr_sockets (void)
{
  char *command;
  unsigned n = 0;
  FILE *f;

  assert_true (asprintf (&command, "ls %s | grep -c 'source-'", dir) > 0);
  f = popen (command, "r");
  assert_non_null (f);
  assert_int_equal (fscanf (f, "%u", &n), 1);
  pclose (f);
  free (command);
  return n;
}

static void
check_command (const char *const *argv, bool kills)
{
  struct source_config config
      = { .argv = argv, .socket_dir = dir, .timeout = 30000 };
  struct source_identity identity;
  struct source *src = SOURCE (.argv = argv);
  char *error = NULL;
  pid_t pid;

  assert_int_equal (source_probe (&config, &identity, &error), 0);
  assert_int_equal (identity.size, 16 << 20);
  assert_int_equal (nr_sockets (), 0);
  read_all_ways (src);
  if (kills) {
    pid = child_of_ours ();
    assert_true (pid > 0);
    kill (pid, SIGKILL);
    WAIT_FOR (child_of_ours () != pid);
    check_read (src, 0, 4096, SOURCE_DEMAND);
    /* One that hangs is replaced. */
    pid = child_of_ours ();
    assert_true (pid > 0);
    source_free (src);
    assert_int_equal (kill (pid, 0), -1);
    src = SOURCE (.argv = argv, .timeout = 900);
    assert_int_equal (source_start (src, NULL), 0);
    check_read (src, 0, 4096, SOURCE_DEMAND);
    pid = child_of_ours ();
    assert_true (pid > 0);
    kill (pid, SIGSTOP);
    check_read (src, 4096, 4096, SOURCE_DEMAND);
    pid = child_of_ours ();
    assert_true (pid > 0);
    kill (pid, SIGSTOP);
  }
  source_free (src);
  assert_int_equal (nr_sockets (), 0);
}

static void
test_command (void **arg)
{
  const char *activated[] = { nbdkit, "pattern", "16M", NULL };
  const char *single[] = { nbdkit, "-s", "pattern", "16M", NULL };

  (void)arg;
  check_command (activated, true);
  check_command (single, true);
}

static void
test_command_qemu (void **arg)
{
  const char *argv[] = { "qemu-nbd", "-r", "-f", "raw", NULL, NULL };
  char *path;
  uint64_t word[8192];
  int fd;

  (void)arg;
  if (system ("qemu-nbd --version >/dev/null 2>&1") != 0)
    skip ();
  assert_true (asprintf (&path, "%s/qemu.img", dir) > 0);
  fd = open (path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  assert_true (fd >= 0);
  for (uint64_t at = 0; at < 16 << 20; at += sizeof word) {
    for (unsigned i = 0; i < 8192; i++)
      word[i] = htobe64 (at + 8 * i);
    assert_int_equal (pwrite (fd, word, sizeof word, (off_t)at), sizeof word);
  }
  close (fd);
  argv[4] = path;
  check_command (argv, false);
  free (path);
}

static void
test_command_fails (void **arg)
{
  const char *missing[] = { "/nonexistent/server", NULL };
  const char *quits[] = { "sh", "-c", "exit 3", NULL };
  struct source_config config
      = { .argv = missing, .socket_dir = dir, .timeout = 30000 };
  struct source_identity identity;
  char *error = NULL;

  (void)arg;
  assert_int_equal (source_probe (&config, &identity, &error), -1);
  assert_non_null (strstr (error, "/nonexistent/server"));
  assert_non_null (strstr (error, "not found"));
  config.argv = quits;
  assert_int_equal (source_probe (&config, &identity, &error), -1);
  assert_non_null (strstr (error, "status 3"));
  free (error);
  assert_int_equal (nr_sockets (), 0);
}

/* A server that accepts, and says nothing. */
static int
mute_server (void)
{
  struct sockaddr_un addr = { .sun_family = AF_UNIX };
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

  unlink (sock_path);
  snprintf (addr.sun_path, sizeof addr.sun_path, "%s", sock_path);
  assert_int_equal (bind (fd, (struct sockaddr *)&addr, sizeof addr), 0);
  assert_int_equal (listen (fd, 100), 0);
  return fd;
}

static void
test_probe (void **arg)
{
  struct source_config config = { .uri = uri, .timeout = 300 };
  struct source_identity identity;
  char *error = NULL;
  uint64_t start;
  int fd;

  (void)arg;
  unlink (sock_path);
  assert_int_equal (source_probe (&config, &identity, &error), -1);
  assert_non_null (strstr (error, uri));
  assert_non_null (strstr (error, "No such file"));
  fd = mute_server ();
  start = now_in_ms ();
  assert_int_equal (source_probe (&config, &identity, &error), -1);
  assert_true (now_in_ms () - start < 10000);
  assert_non_null (strstr (error, uri));
  close (fd);
  config.uri = "no uri at all";
  assert_int_equal (source_probe (&config, &identity, &error), -1);
  assert_non_null (strstr (error, "no uri at all"));
  free (error);
}

static void
check_stop (struct source *src)
{
  struct wait *w[60];
  uint64_t start;

  for (unsigned i = 0; i < 60; i++) {
    w[i] = new_wait (i * 4096u, 4096, i % 3, true);
    source_submit (src, &w[i]->req);
  }
  nap (100);
  start = now_in_ms ();
  source_stop (src);
  assert_true (now_in_ms () - start < 5000);
  for (unsigned i = 0; i < 60; i++) {
    assert_true (has_ended (w[i]));
    assert_int_equal (w[i]->error, ESHUTDOWN);
    free_wait (w[i]);
  }
  assert_int_equal (try_read (src, 0, 4096), ESHUTDOWN);
  assert_int_equal (source_demand_waiting (src), 0);
  assert_int_equal (source_get_state (src), SOURCE_NONE);
  source_stop (src);
  source_free (src);
}

static void
test_stop (void **arg)
{
  struct source *src;
  pid_t pid;
  int fd;

  (void)arg;
  /* Never started. */
  check_stop (SOURCE (.uri = uri));
  /* Nobody there. */
  unlink (sock_path);
  src = SOURCE (.uri = uri);
  assert_int_equal (source_start (src, NULL), 0);
  check_stop (src);
  /* Hangs in the handshake. */
  fd = mute_server ();
  src = SOURCE (.uri = uri);
  assert_int_equal (source_start (src, NULL), 0);
  check_stop (src);
  close (fd);
  /* Hangs with requests. */
  pid = serve ("pattern", "16M", NULL);
  src = SOURCE (.uri = uri);
  assert_int_equal (source_start (src, NULL), 0);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  check_read (src, 0, 4096, SOURCE_BACKGROUND);
  stop_server (pid);
  check_stop (src);
  end_server (pid);
}

/* The mute server gives way to a real one. */
static void
test_mute (void **arg)
{
  struct source *src = SOURCE (.timeout = 1000);
  int fd = mute_server ();
  pid_t pid;

  (void)arg;
  assert_int_equal (source_start (src, NULL), 0);
  wait_state (src, SOURCE_LOST);
  pid = serve ("pattern", "1M", NULL);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  close (fd);
  source_free (src);
  end_server (pid);
}

/* A server that breaks off while it answers what proves its identity: the
 * connection's end brings an answer along, as one request has been told of an
 * error but not of its end.  One thread, some connections. */

#define NR_BROKEN 4u
#define BROKEN_SIZE (UINT64_C (1) << 20)

struct option_reply {
  uint64_t magic;
  uint32_t option, type, length;
  /* of NBD_INFO_EXPORT */
  uint16_t info;
  uint64_t size;
  uint16_t flags;
} __attribute__ ((packed));

#define OPTION_ACK 1u
#define OPTION_INFO 3u
#define OPTION_UNSUPPORTED 0x80000001u
#define OPTION_GO 7u
#define OPTION_STRUCTURED_REPLY 8u

static bool
get_bytes (int fd, void *buf, size_t len)
{
  return len == 0 || recv (fd, buf, len, MSG_WAITALL) == (ssize_t)len;
}

static bool
put_bytes (int fd, const void *buf, size_t len)
{
  return send (fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool
put_option (int fd, uint32_t option, uint32_t type)
{
  struct option_reply reply = { .magic = htobe64 (0x3e889045565a9),
                                .option = option,
                                .type = htobe32 (type),
                                .size = htobe64 (BROKEN_SIZE),
                                .flags = htobe16 (0x101) };

  if (type == OPTION_INFO)
    reply.length = htobe32 (12);
  return put_bytes (fd, &reply, type == OPTION_INFO ? sizeof reply : 20);
}

static bool
shake_hands (int fd)
{
  const struct {
    uint64_t magic, option;
    uint16_t flags;
  } __attribute__ ((packed)) hello
      = { htobe64 (0x4e42444d41474943), htobe64 (0x49484156454f5054),
          htobe16 (3) };
  uint32_t flags, head[4];
  char data[4096];

  if (!put_bytes (fd, &hello, sizeof hello) || !get_bytes (fd, &flags, 4))
    return false;
  for (;;) {
    uint32_t option, type = OPTION_UNSUPPORTED;

    if (!get_bytes (fd, head, sizeof head) || be32toh (head[3]) > sizeof data
        || !get_bytes (fd, data, be32toh (head[3])))
      return false;
    option = be32toh (head[2]);
    if (option == OPTION_GO && !put_option (fd, head[2], OPTION_INFO))
      return false;
    if (option == OPTION_GO || option == OPTION_STRUCTURED_REPLY)
      type = OPTION_ACK;
    if (!put_option (fd, head[2], type))
      return false;
    if (option == OPTION_GO)
      return true;
  }
}

static void *
broken_server (void *arg)
{
  int listener = *(int *)arg;
  uintptr_t asked = 0;

  for (unsigned n = 0; n < NR_BROKEN; n++) {
    int fd = accept (listener, NULL, NULL);
    struct {
      uint32_t magic;
      uint16_t flags, type;
      uint64_t handle, offset;
      uint32_t count;
    } __attribute__ ((packed)) request;
    struct {
      uint32_t magic;
      uint16_t flags, type;
      uint64_t handle;
      uint32_t length, error;
      uint16_t text;
    } __attribute__ ((packed)) chunk = { .magic = htobe32 (0x668e33ef),
                                         .type = htobe16 (0x8001),
                                         .length = htobe32 (6),
                                         .error = htobe32 (EIO) };

    if (shake_hands (fd) && get_bytes (fd, &request, sizeof request)) {
      asked++;
      chunk.handle = request.handle;
      put_bytes (fd, &chunk, sizeof chunk);
    }
    close (fd);
  }
  return (void *)asked;
}

static void
test_breaks_off (void **arg)
{
  struct source *src = SOURCE (.timeout = 5000);
  int fd = mute_server ();
  pthread_t thread;
  void *asked;
  pid_t pid;

  (void)arg;
  assert_int_equal (pthread_create (&thread, NULL, broken_server, &fd), 0);
  assert_int_equal (source_start (src, NULL), 0);
  pthread_join (thread, &asked);
  assert_int_equal ((uintptr_t)asked, NR_BROKEN);
  close (fd);
  pid = serve ("pattern", "1M", NULL);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  source_free (src);
  end_server (pid);
}

/* The server's connections end at the moment that the source is stopped. */

static struct {
  pthread_mutex_t lock;
  int fd[64];
  unsigned nr;
} greeted = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void *
greeting_server (void *arg)
{
  int listener = *(int *)arg, fd;

  while ((fd = accept (listener, NULL, NULL)) >= 0) {
    bool ok = shake_hands (fd);

    pthread_mutex_lock (&greeted.lock);
    if (ok && greeted.nr < 64)
      greeted.fd[greeted.nr++] = fd;
    else
      close (fd);
    pthread_mutex_unlock (&greeted.lock);
  }
  return NULL;
}

static unsigned
nr_greeted (void)
{
  unsigned n;

  pthread_mutex_lock (&greeted.lock);
  n = greeted.nr;
  pthread_mutex_unlock (&greeted.lock);
  return n;
}

static void *
hang_up (void *arg)
{
  for (volatile uintptr_t i = (uintptr_t)arg; i > 0; i--)
    ;
  pthread_mutex_lock (&greeted.lock);
  for (unsigned i = greeted.nr; i-- > 0;)
    shutdown (greeted.fd[i], SHUT_RDWR);
  pthread_mutex_unlock (&greeted.lock);
  return NULL;
}

static void
test_stop_and_end (void **arg)
{
  int listener = mute_server ();
  pthread_t server, thread;

  (void)arg;
  assert_int_equal (pthread_create (&server, NULL, greeting_server, &listener),
                    0);
  for (unsigned n = 0; n < 300; n++) {
    struct source *src = SOURCE (.identity_mode = SOURCE_IDENTITY_SIZE);
    struct wait *w[12];
    volatile unsigned spin = n * 79 % 40000;

    assert_int_equal (source_start (src, NULL), 0);
    for (unsigned i = 0; i < 12; i++) {
      w[i] = new_wait (i * 4096u, 4096, SOURCE_BACKGROUND, true);
      source_submit (src, &w[i]->req);
    }
    WAIT_FOR (nr_greeted () >= 2);
    assert_int_equal (pthread_create (&thread, NULL, hang_up,
                                      (void *)(uintptr_t)(n * 61 % 20000)),
                      0);
    while (spin > 0)
      spin--;
    source_stop (src);
    for (unsigned i = 0; i < 12; i++) {
      assert_true (has_ended (w[i]));
      free_wait (w[i]);
    }
    source_free (src);
    pthread_join (thread, NULL);
    pthread_mutex_lock (&greeted.lock);
    while (greeted.nr > 0)
      close (greeted.fd[--greeted.nr]);
    pthread_mutex_unlock (&greeted.lock);
  }
  shutdown (listener, SHUT_RDWR);
  pthread_join (server, NULL);
  close (listener);
}

static void
test_tcp_name (void **arg)
{
  struct source *src;
  const char *argv[]
      = { nbdkit, "-f", "-i", "127.0.0.1", "-p", NULL, "pattern", "1M", NULL };
  char port[16], *name;
  unsigned number = 20000 + (unsigned)getpid () % 10000;
  pid_t pid;

  (void)arg;
  snprintf (port, sizeof port, "%u", number);
  argv[5] = port;
  pid = spawn (argv);
  assert_true (asprintf (&name, "nbd://localhost:%u/", number) > 0);
  src = SOURCE (.uri = name);
  assert_int_equal (source_start (src, NULL), 0);
  check_read (src, 0, 4096, SOURCE_DEMAND);
  source_free (src);
  free (name);
  end_server (pid);
  src = SOURCE (.uri = "nbd://no-such-host.invalid/");
  assert_int_equal (source_start (src, NULL), 0);
  wait_state (src, SOURCE_LOST);
  source_free (src);
}

static void
test_tls (void **arg)
{
  static const char key[]
      = "alice:d543770c15ad93d76443fb56f501a31969235f47e999720ae8d2336f6a13fcbc"
        "\n";
  enum source_identity_mode mode;
  char *psk, *word, *tls_uri;
  int fd;
  pid_t pid;

  (void)arg;
  assert_true (asprintf (&psk, "%s/keys.psk", dir) > 0);
  assert_true (asprintf (&word, "--tls-psk=%s", psk) > 0);
  assert_true (asprintf (&tls_uri,
                         "nbds+unix://alice@/?socket=%s&tls-psk-file=%s",
                         sock_path, psk)
               > 0);
  fd = open (psk, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  assert_int_equal (write (fd, key, sizeof key - 1), sizeof key - 1);
  close (fd);
  pid = serve ("--tls=require", word, "pattern", "16M", NULL);
  for (mode = SOURCE_IDENTITY_CONTENT; mode <= SOURCE_IDENTITY_SIZE; mode++) {
    struct source *src = SOURCE (.uri = tls_uri, .identity_mode = mode);

    assert_int_equal (source_start (src, NULL), 0);
    wait_state (src, SOURCE_CONNECTED);
    /* Whatever TLS has to say unasked has been said. */
    nap (200);
    check_read (src, 0, 4096, SOURCE_DEMAND);
    for (unsigned i = 0; i < 20; i++)
      check_read (src, i * 4096u, SOURCE_MAX_REQUEST, i % 3);
    source_free (src);
  }
  end_server (pid);
  free (tls_uri);
  free (word);
  free (psk);
}

/* 32 threads that read, give up and give deadlines, while the server comes
 * and goes. */

#define HAMMER_SIZE (16u << 20)

static struct {
  struct source *src;
  bool stop;
  unsigned reads; /* that got their data */
} hammer;

static void *
hammer_thread (void *arg)
{
  unsigned seed = (unsigned)(uintptr_t)arg;

  while (!__atomic_load_n (&hammer.stop, __ATOMIC_ACQUIRE)) {
    uint32_t length = 1 + (uint32_t)rand_r (&seed) % 65536;
    uint64_t offset = (uint64_t)rand_r (&seed) % (HAMMER_SIZE - length);
    unsigned dice = (unsigned)rand_r (&seed) % 16;
    struct wait *w = new_wait (offset, length, dice % 3, dice != 15);
    int err;

    if (dice == 14)
      w->req.deadline = now_in_ms () + (uint64_t)rand_r (&seed) % 50;
    source_submit (hammer.src, &w->req);
    if (dice == 13)
      source_cancel (hammer.src, &w->req);
    err = result (w);
    if (err == 0 && dice != 15) {
      if (!is_pattern (w->req.buf, offset, length))
        abort ();
      __atomic_add_fetch (&hammer.reads, 1, __ATOMIC_RELAXED);
    }
    else if (err != 0 && !(err == ECANCELED && dice == 13)
             && !(err == ETIMEDOUT && dice == 14) && err != ESHUTDOWN)
      abort ();
    free_wait (w);
    source_get_state (hammer.src);
    source_background_depth (hammer.src);
  }
  return NULL;
}

static void
test_hammer (void **arg)
{
  pthread_t tid[32];
  unsigned before;
  pid_t pid = serve ("pattern", "16M", NULL);

  (void)arg;
  memset (&hammer, 0, sizeof hammer);
  hammer.src = SOURCE (.connections = 4);
  assert_int_equal (source_start (hammer.src, NULL), 0);
  for (unsigned i = 0; i < 32; i++)
    assert_int_equal (pthread_create (&tid[i], NULL, hammer_thread,
                                      (void *)(uintptr_t)(i + 1)),
                      0);
  for (unsigned round = 0; round < 5; round++) {
    before = __atomic_load_n (&hammer.reads, __ATOMIC_RELAXED);
    WAIT_FOR (__atomic_load_n (&hammer.reads, __ATOMIC_RELAXED)
              >= before + 500);
    end_server (pid);
    nap (100);
    pid = serve ("pattern", "16M", NULL);
  }
  /* Stopped under their hands. */
  source_stop (hammer.src);
  nap (50);
  __atomic_store_n (&hammer.stop, true, __ATOMIC_RELEASE);
  for (unsigned i = 0; i < 32; i++)
    pthread_join (tid[i], NULL);
  assert_int_equal (source_demand_waiting (hammer.src), 0);
  source_free (hammer.src);
  end_server (pid);
}

/* Submitting from done, which is how the engine goes on. */

struct chain {
  struct wait *w;
  struct source *src;
  unsigned left;
};

static void
chain_done (struct source_req *req, int error)
{
  struct chain *chain = req->opaque;

  if (error == 0 && --chain->left > 0) {
    req->offset += 4096;
    source_submit (chain->src, req);
    return;
  }
  req->opaque = chain->w;
  done (req, error);
}

static void
test_chain (void **arg)
{
  pid_t pid = serve ("pattern", "16M", NULL);
  struct source *src = SOURCE (.uri = uri);
  struct chain chain = { .src = src, .left = 1000 };

  (void)arg;
  assert_int_equal (source_start (src, NULL), 0);
  chain.w = new_wait (0, 4096, SOURCE_BACKGROUND, true);
  chain.w->req.done = chain_done;
  chain.w->req.opaque = &chain;
  source_submit (src, &chain.w->req);
  assert_int_equal (result (chain.w), 0);
  assert_true (is_pattern (chain.w->req.buf, 999 * 4096, 4096));
  free_wait (chain.w);
  source_free (src);
  end_server (pid);
}

static uint64_t
cpu_in_ms (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_PROCESS_CPUTIME_ID, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* The deadline of a request that was answered in time passes: nobody has
 * anything to do then. */
static void
test_idle (void **arg)
{
  pid_t pid = serve ("pattern", "size=1M", NULL);
  struct source *src = SOURCE ();
  uint64_t before;

  (void)arg;
  assert_int_equal (source_start (src, NULL), 0);
  WAIT_FOR (source_get_state (src) == SOURCE_CONNECTED);
  for (;;) {
    struct wait *w = new_wait (0, 4096, SOURCE_DEMAND, true);
    uint64_t deadline = now_in_ms () + 200;

    w->req.deadline = deadline;
    source_submit (src, &w->req);
    /* On a very slow machine: again. */
    if (finish (w) == 0 && now_in_ms () < deadline)
      break;
  }
  nap (300);
  before = cpu_in_ms ();
  nap (600);
  assert_in_range (cpu_in_ms () - before, 0, 60);
  source_free (src);
  end_server (pid);
}

static void
no_debug (enum log_level level, const char *fmt, va_list ap)
{
  if (level == LOG_LEVEL_ERROR || getenv ("TEST_SOURCE_DEBUG")) {
    vfprintf (stderr, fmt, ap);
    fputc ('\n', stderr);
  }
}

static int
set_up (void **arg)
{
  (void)arg;
  if (getenv ("NBDKIT") && *getenv ("NBDKIT"))
    nbdkit = getenv ("NBDKIT");
  log_set_sink (no_debug);
  if (!mkdtemp (dir) || asprintf (&sock_path, "%s/sock", dir) == -1
      || asprintf (&uri, "nbd+unix:///?socket=%s", sock_path) == -1)
    return -1;
  return source_pool_start (0);
}

static int
tear_down (void **arg)
{
  char *command;

  (void)arg;
  source_pool_stop ();
  if (asprintf (&command, "rm -rf %s", dir) == -1 || system (command) != 0)
    return -1;
  free (command);
  free (sock_path);
  free (uri);
  return 0;
}

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_read),
    cmocka_unit_test (test_many_connections),
    cmocka_unit_test (test_status),
    cmocka_unit_test (test_block_sizes),
    cmocka_unit_test (test_error),
    cmocka_unit_test (test_replay),
    cmocka_unit_test (test_hung),
    cmocka_unit_test (test_slow),
    cmocka_unit_test (test_deadline),
    cmocka_unit_test (test_cancel),
    cmocka_unit_test (test_refused_size),
    cmocka_unit_test (test_refused_content),
    cmocka_unit_test (test_identity),
    cmocka_unit_test (test_kept),
    cmocka_unit_test (test_single_connection),
    cmocka_unit_test (test_demand_first),
    cmocka_unit_test (test_command),
    cmocka_unit_test (test_command_qemu),
    cmocka_unit_test (test_command_fails),
    cmocka_unit_test (test_probe),
    cmocka_unit_test (test_stop),
    cmocka_unit_test (test_mute),
    cmocka_unit_test (test_breaks_off),
    cmocka_unit_test (test_stop_and_end),
    cmocka_unit_test (test_tcp_name),
    cmocka_unit_test (test_tls),
    cmocka_unit_test (test_chain),
    cmocka_unit_test (test_hammer),
    cmocka_unit_test (test_idle),
  };

  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests (tests, set_up, tear_down);
}
