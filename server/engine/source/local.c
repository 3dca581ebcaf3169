/* source/local.c - a backing store that is a file or block device of this host.
 *
 * The keeper, one thread, opens the file, compares size and samples with those
 * of the source that we know (I9), and is the only one that changes the
 * source's state.  It ends requests whose deadline passes while they wait.  The
 * readers take requests from the source's queues, demand first, and leave one
 * of them free of background, so that a guest's read never waits for a job's.
 *
 * What is open stays open: a file that was deleted or got another under its
 * name goes on to be read.  A read that fails, or that finds the file shorter
 * or written to, has the keeper open it anew by its name; until then it is
 * lost, and the requests wait as they do for a server that is gone.
 *
 * The file is never written.  As QEMU's readers do, we lock "may be read" and
 * "may be neither written nor resized by others" on it, as long as it is open,
 * and do not open one that somebody writes to.
 *
 * A reader that hangs in a read (a network file system whose server is away)
 * cannot be called back: the request ends when the kernel says so.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ability.h"
#include "bytes.h"
#include "cleanup.h"
#include "image.h"
#include "log.h"
#include "probe.h"
#include "sidecar.h"
#include "source/identity.h"
#include "source/local.h"
#include "source/queue.h"
#include "store.h"
#include "thread.h"

#define MAX_READERS MAX_CONNECTIONS
#define BACKOFF_MAX 1000 /* ms */
#define MAX_EXTENTS 1024u

/* The result of a request that found the file changed: the request is put back.
 */
#define LOST (-1)

/* QEMU's lock bytes: 100 + i says "I use permission i", 200 + i "others may
 * not use it". */
enum { CONSISTENT_READ = 0, WRITE = 1, RESIZE = 3 };
#define USED(i) (100 + (i))
#define UNSHARED(i) (200 + (i))

struct local {
  struct source *src;

  /* Under src->lock. */
  pthread_cond_t work; /* for the readers */
  pthread_cond_t keep; /* for the keeper */
  int fd;              /* -1: closed; the keeper's to change while up is
                          false and nobody reads */
  bool up;             /* the readers may take requests */
  bool tells_holes;
  bool is_watched;        /* mtime says whether it was written to */
  struct timespec mtime;  /* before its identity was looked at */
  unsigned nr_reading;    /* requests that are being read */
  unsigned nr_background; /* of them a job's */
  unsigned nr_running;    /* threads */
  uint64_t keeper_until;  /* when the keeper wakes by itself, 0: never */
  const char *lost_why;   /* static */

  unsigned nr_readers, nr_started;
  pthread_t keeper, reader[MAX_READERS];
};

bool
local_is_path (const char *backing)
{
  return backing[0] == '/';
}

/* Opening. */

/* Of another user's file: with his rights, and not through /proc's links to
 * what this process has open, which would pass by the folders he may not
 * enter. */
static int
open_by_name (const struct source *src, int flags)
{
  struct open_how how
      = { .flags = (uint64_t)flags, .resolve = RESOLVE_NO_MAGICLINKS };

  return src->rights
             ? (int)syscall (SYS_openat2, AT_FDCWD, src->uri, &how, sizeof how)
             : open (src->uri, flags);
}

/* What it is is seen before it is opened: to open a fifo waits, and to open a
 * device may move a tape. */
static int
open_file (const struct source *src, struct stat *sb, char *why, size_t len)
{
  CLEANUP_CLOSE int named = -1;
  struct trust_was was;
  char self[64];
  int fd = -1, err = 0;

  if (trust_assume (src->rights, &was) == -1)
    err = errno;
  else {
    named = open_by_name (src, O_PATH | O_CLOEXEC);
    if (named == -1 || fstat (named, sb) == -1)
      err = errno;
    else if (!S_ISREG (sb->st_mode) && !S_ISBLK (sb->st_mode))
      err = S_ISDIR (sb->st_mode) ? EISDIR : ENOTBLK;
    else {
      snprintf (self, sizeof self, "/proc/self/fd/%d", named);
      fd = open (self, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
      if (fd == -1)
        err = errno;
    }
    trust_resume (&was);
  }
  if (err == ENOENT)
    snprintf (why, len,
              "there is no such file: name a raw image or a block "
              "device of this host, or an NBD URI");
  else if (err == EISDIR)
    snprintf (why, len, "it is a directory: name the raw image in it");
  else if (err == ENOTBLK)
    snprintf (why, len,
              "it is neither a regular file nor a block device; of a "
              "server's socket give the NBD URI "
              "nbd+unix:///?socket=PATH");
  else if (err && src->rights)
    snprintf (why, len,
              "it cannot be opened for reading: %s (as user %lu, who owns the "
              "sidecar that names it; with backing= it is opened as ours)",
              strerror (err), (unsigned long)trust_rights_user (src->rights));
  else if (err)
    snprintf (why, len, "it cannot be opened for reading: %s", strerror (err));
  return fd;
}

/* Other readers get in beside us, writers do not. */
static bool
lock_file (int fd, char *why, size_t len)
{
  static const short ours[]
      = { USED (CONSISTENT_READ), UNSHARED (WRITE), UNSHARED (RESIZE) };
  static const short theirs[]
      = { USED (WRITE), USED (RESIZE), UNSHARED (CONSISTENT_READ) };

  for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++) {
    struct flock fl = {
      .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = ours[i], .l_len = 1
    };

    if (fcntl (fd, F_OFD_SETLK, &fl) == 0)
      continue;
    /* A file system without locks has none of others, either. */
    if (errno != EAGAIN && errno != EACCES)
      return true;
    goto taken;
  }
  for (size_t i = 0; i < sizeof theirs / sizeof theirs[0]; i++) {
    struct flock fl = {
      .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = theirs[i], .l_len = 1
    };

    if (fcntl (fd, F_OFD_GETLK, &fl) == 0 && fl.l_type != F_UNLCK)
      goto taken;
  }
  return true;

taken:
  snprintf (why, len,
            "another process has it open for writing (QEMU's locks, "
            "or a volume's store): end that first");
  return false;
}

static int
read_all (int fd, void *buf, uint32_t length, uint64_t offset)
{
  for (uint32_t done = 0; done < length;) {
    ssize_t n
        = pread (fd, (char *)buf + done, length - done, (off_t)(offset + done));

    if (n == -1 && errno == EINTR)
      continue;
    if (n <= 0)
      return n == 0 || errno == ESTALE || errno == ENXIO || errno == ENODEV
                 ? LOST
                 : EIO;
    done += (uint32_t)n;
  }
  return 0;
}

/* Is the file the source that we know?  Otherwise why says what the file is. */
static enum source_state
identify (struct source *src, int fd, uint64_t size, char *why, size_t len)
{
  uint8_t digest[SOURCE_DIGEST_SIZE];
  struct source_req *req;
  struct verify *v;
  bool same;
  int r;

  {
    LOCK_SCOPE (&src->lock);
    if (!src->known)
      src->identity.size = size;
    else if (src->identity.size != size) {
      snprintf (why, len,
                "it is not the backing store this volume knows: its size is "
                "%" PRIu64 " bytes, not %" PRIu64,
                size, src->identity.size);
      return SOURCE_REFUSED;
    }
    if (src->identity_mode == SOURCE_IDENTITY_SIZE) {
      src->known = true;
      return SOURCE_CONNECTED;
    }
  }
  v = verify_new (size);
  if (!v) {
    snprintf (why, len, "out of memory");
    return SOURCE_LOST;
  }
  for (unsigned i = 0; (req = verify_request (v, i)); i++)
    req->done (req, read_all (fd, req->buf, req->length, req->offset));
  r = verify_digest (v, digest, why, len);
  verify_free (v);
  if (r != 0)
    return SOURCE_LOST;
  LOCK_SCOPE (&src->lock);
  same = identity_take_or_match (&src->identity, digest);
  src->known = true;
  if (same)
    return SOURCE_CONNECTED;
  snprintf (why, len,
            "it is not the backing store this volume knows: its size "
            "is the same, but its content differs");
  return SOURCE_REFUSED;
}

/* A volume's store has holes where its own source has data. */
static bool
is_partial (struct source *src, int fd)
{
  uint8_t uuid[16];
  struct sidecar *sc = NULL;
  CLEANUP_FREE char *path = NULL;
  CLEANUP_FREE char *ignored = NULL;
  struct trust_was was;
  bool complete;

  if (!store_get_uuid_fd (fd, uuid))
    return false;
  if (asprintf (&path, "%s.backfill", src->uri) == -1) {
    path = NULL;
    return true;
  }
  if (trust_assume (src->rights, &was) == -1)
    return true;
  sc = sidecar_peek (path, &ignored);
  trust_resume (&was);
  complete = sc && (sc->h.state & SIDECAR_COMPLETE)
             && memcmp (sc->h.uuid, uuid, sizeof uuid) == 0;
  sidecar_free (sc);
  return !complete;
}

/* Are its bytes the disk's?  Of a source that is known they are. */
static bool
is_raw (struct source *src, int fd, char *why, size_t len)
{
  char head[IMAGE_HEAD];
  const char *format;
  ssize_t n;

  {
    LOCK_SCOPE (&src->lock);
    if (src->known)
      return true;
  }
  if (is_partial (src, fd)) {
    snprintf (why, len,
              "it is a volume's store, in which not all is local: name the "
              "NBD URI of that volume's server, or have it filled in first "
              "(backfill allocate)");
    return false;
  }
  n = pread (fd, head, sizeof head, 0);
  format = n > 0 ? image_format (head, (size_t)n) : NULL;
  if (!format)
    return true;
  snprintf (why, len,
            "it is a %s image, whose bytes are not the disk's: have it served, "
            "as in backing='[ qemu-nbd -r -t -f %s %s ]'",
            format, format, src->uri);
  return false;
}

/* Open it and look at it: *fd is -1 unless it is the source. */
static enum source_state
attempt (struct local *l, int *fd, char *why, size_t len)
{
  struct source *src = l->src;
  enum source_state state = SOURCE_LOST;
  struct abilities able;
  struct stat sb;
  off_t size;

  *fd = open_file (src, &sb, why, len);
  if (*fd == -1)
    return SOURCE_LOST;
  size = lseek (*fd, 0, SEEK_END);
  if (size == -1)
    snprintf (why, len, "its size cannot be told: %s", strerror (errno));
  else if (lock_file (*fd, why, len) && is_raw (src, *fd, why, len))
    state = identify (src, *fd, (uint64_t)size, why, len);
  if (state != SOURCE_CONNECTED) {
    close (*fd);
    *fd = -1;
    return state;
  }
  ability_look (&able, *fd);
  l->tells_holes = S_ISREG (sb.st_mode) && able.tells_holes;
  l->is_watched
      = S_ISREG (sb.st_mode) && src->identity_mode == SOURCE_IDENTITY_CONTENT;
  l->mtime = sb.st_mtim;
  return state;
}

/* Reading. */

/* Where the next data, or the next hole, begins, at most end; -1: not known. */
static int64_t
seek (int fd, uint64_t offset, int whence, uint64_t end)
{
  off_t r = lseek (fd, (off_t)offset, whence);

  if (r == -1)
    return errno == ENXIO && whence == SEEK_DATA ? (int64_t)end : -1;
  return (int64_t)min_u64 ((uint64_t)r, end);
}

/* Bytes of unknown kind count as data.  Beyond the end of a file that was cut
 * short there is a hole, too, which must not become zeros; so the file's size
 * is asked after all else. */
static int
read_status (int fd, struct source_req *req)
{
  off_t size;
  uint64_t at = req->offset, end = at + req->length;
  size_t room = 0;

  while (at < end && req->answer_size < MAX_EXTENTS) {
    int64_t data = seek (fd, at, SEEK_DATA, end), next = data;
    bool hole = data > (int64_t)at;

    if (!hole)
      next = data == -1 ? -1 : seek (fd, at, SEEK_HOLE, end);
    if (next <= (int64_t)at)
      next = (int64_t)end;
    if (req->answer_size == room) {
      struct source_extent *e;

      room = room ? 2 * room : 16;
      e = realloc (req->answer, room * sizeof *e);
      if (!e)
        return EIO;
      req->answer = e;
    }
    req->answer[req->answer_size++] = (struct source_extent){
      (uint64_t)next - at, hole ? LIBNBD_STATE_HOLE | LIBNBD_STATE_ZERO : 0
    };
    at = (uint64_t)next;
  }
  size = lseek (fd, 0, SEEK_END);
  return size == -1 || (uint64_t)size < at ? LOST : 0;
}

/* Was it written to since its content was compared?  Asked after each read, so
 * that bytes of another image written over it are not taken for its own. */
static bool
has_changed (const struct local *l, int fd)
{
  struct stat sb;

  return l->is_watched
         && (fstat (fd, &sb) == -1 || sb.st_mtim.tv_sec != l->mtime.tv_sec
             || sb.st_mtim.tv_nsec != l->mtime.tv_nsec);
}

static struct source_req *
next_request (struct local *l)
{
  struct source *src = l->src;
  struct source_req *req = NULL;

  ASSERT_HELD (&src->lock);
  if (!l->up)
    return NULL;
  for (unsigned i = 0; i < NR_PRIOS && !req; i++)
    if (i != SOURCE_BACKGROUND || l->nr_background + 1 < l->nr_readers)
      req = TAILQ_FIRST (&src->waiting[i]);
  if (!req)
    return NULL;
  TAILQ_REMOVE (&src->waiting[req->queue], req, link);
  req->state = REQ_SENT;
  l->nr_reading++;
  if (req->queue == SOURCE_BACKGROUND)
    l->nr_background++;
  return req;
}

/* The file is not what it was.  True: the request waits again. */
static bool
put_back (struct source *src, struct source_req *req)
{
  ASSERT_HELD (&src->lock);
  if (src->stopping)
    req->error = ESHUTDOWN;
  else if (req->state == REQ_CANCELLED)
    req->error = ECANCELED;
  else {
    req->state = REQ_WAITING;
    free (req->answer);
    req->answer = NULL;
    req->answer_size = 0;
    if (req->deadline
        && (!src->next_deadline || req->deadline < src->next_deadline))
      src->next_deadline = req->deadline;
    TAILQ_INSERT_HEAD (&src->waiting[req->queue], req, link);
    return true;
  }
  return false;
}

static void
serve (struct local *l, struct source_req *req)
{
  struct req_list list = TAILQ_HEAD_INITIALIZER (list);
  struct source *src = l->src;
  bool waits = false;
  int fd = l->fd, error;

  error = req->buf ? read_all (fd, req->buf, req->length, req->offset)
                   : read_status (fd, req);
  if (error == 0 && has_changed (l, fd))
    error = LOST;
  if (req->buf && error == 0)
    atomic_fetch_add_explicit (&src->bytes_read, req->length,
                               memory_order_relaxed);
  {
    LOCK_SCOPE (&src->lock);

    l->nr_reading--;
    if (req->queue == SOURCE_BACKGROUND)
      l->nr_background--;
    if (error) {
      /* An error may be of one sector, or of a disk that was pulled out. */
      l->lost_why = error == LOST ? "it has been changed, or is gone"
                                  : "it cannot be read";
      l->up = false;
    }
    if (!l->up || src->stopping)
      pthread_cond_signal (&l->keep);
    if (error == LOST)
      waits = put_back (src, req);
    else
      req->error = error;
    if (!waits) {
      req->state = REQ_IDLE;
      TAILQ_INSERT_TAIL (&list, req, link);
    }
  }
  source_finish (src, &list);
}

static void
thread_ends (struct local *l)
{
  LOCK_SCOPE (&l->src->lock);
  l->nr_running--;
  pthread_cond_broadcast (&l->src->changed);
}

static void *
read_requests (void *arg)
{
  struct local *l = arg;
  struct source *src = l->src;

  for (;;) {
    struct source_req *req = NULL;

    {
      LOCK_SCOPE (&src->lock);
      while (!src->stopping && !(req = next_request (l)))
        lock_wait (&l->work, &src->lock);
    }
    if (!req)
      break;
    serve (l, req);
  }
  thread_ends (l);
  return NULL;
}

/* The keeper. */

/* No reader reads from it. */
static void
let_go (struct local *l)
{
  int fd;

  {
    LOCK_SCOPE (&l->src->lock);
    while (l->nr_reading > 0)
      lock_wait (&l->keep, &l->src->lock);
    fd = l->fd;
    l->fd = -1;
  }
  if (fd >= 0)
    close (fd);
}

/* True: it can be read. */
static bool
open_again (struct local *l, bool was_up, enum source_state *state)
{
  struct source *src = l->src;
  char why[sizeof src->reason / 2] = "";
  int fd;

  /* One bad sector is not a loss: if the file is there, and is the right one,
   * the state does not change. */
  let_go (l);
  *state = attempt (l, &fd, why, sizeof why);
  if (*state != SOURCE_CONNECTED) {
    if (was_up) {
      PROBE (source_lost, src->name, 0, true);
      log_debug ("%s: %s; opened again: %s", src->name, l->lost_why, why);
    }
    source_set_state (src, *state, why);
    return false;
  }
  PROBE (source_connected, src->name, 0);
  {
    LOCK_SCOPE (&src->lock);
    l->fd = fd;
    l->up = true;
    src->can_status = l->tells_holes;
    pthread_cond_broadcast (&l->work);
  }
  source_set_state (src, SOURCE_CONNECTED, "");
  return true;
}

/* Until there is something to do: requests have expired, or (*down) the file is
 * to be opened.  False: stop. */
static bool
keeper_waits (struct local *l, uint64_t retry_at, struct req_list *expired,
              bool *down)
{
  struct source *src = l->src;
  LOCK_SCOPE (&src->lock);

  while (!src->stopping) {
    uint64_t now = now_ms (), until;

    source_expire (src, expired, now);
    *down = !l->up && now >= retry_at;
    if (*down || !TAILQ_EMPTY (expired))
      return true;
    until = src->next_deadline;
    if (!l->up && (!until || retry_at < until))
      until = retry_at;
    l->keeper_until = until;
    if (until)
      lock_wait_ms (&l->keep, &src->lock, until);
    else
      lock_wait (&l->keep, &src->lock);
  }
  return false;
}

static void *
keep (void *arg)
{
  struct local *l = arg;
  struct source *src = l->src;
  struct req_list list = TAILQ_HEAD_INITIALIZER (list);
  uint64_t retry_at = 0, backoff = BACKOFF_MIN;
  enum source_state state = SOURCE_CONNECTING;
  bool down = false;

  while (keeper_waits (l, retry_at, &list, &down)) {
    source_finish (src, &list);
    if (!down)
      continue;
    if (open_again (l, state == SOURCE_CONNECTED, &state)) {
      /* A keeper that fails again at once must not keep a processor busy. */
      backoff = BACKOFF_MIN;
      retry_at = now_ms () + BACKOFF_MIN;
    }
    else if (state == SOURCE_REFUSED)
      retry_at = now_ms () + src->refused_retry;
    else {
      retry_at = now_ms () + backoff;
      backoff = min_u64 (backoff * 2, BACKOFF_MAX);
    }
  }
  let_go (l);
  {
    struct source_req *req;
    LOCK_SCOPE (&src->lock);

    for (unsigned i = 0; i < NR_PRIOS; i++)
      while ((req = req_pop (&src->waiting[i]))) {
        req->state = REQ_IDLE;
        req->error = ESHUTDOWN;
        TAILQ_INSERT_TAIL (&list, req, link);
      }
  }
  source_finish (src, &list);
  thread_ends (l);
  return NULL;
}

/* Start and end. */

struct local *
local_new (struct source *src, unsigned nr_readers)
{
  struct local *l = calloc (1, sizeof *l);

  if (!l)
    return NULL;
  l->src = src;
  l->fd = -1;
  l->nr_readers = (unsigned)min_u64 (max_u64 (nr_readers, 2), MAX_READERS);
  cond_init (&l->work);
  cond_init (&l->keep);
  return l;
}

void
local_free (struct local *l)
{
  if (!l)
    return;
  if (l->nr_started > l->nr_readers)
    pthread_join (l->keeper, NULL);
  for (unsigned i = 0; i < min_u64 (l->nr_started, l->nr_readers); i++)
    pthread_join (l->reader[i], NULL);
  pthread_cond_destroy (&l->work);
  pthread_cond_destroy (&l->keep);
  free (l);
}

/* The keeper starts last: until the keeper runs, the file is not up, and the
 * readers wait. */
int
local_start (struct local *l)
{
  LOCK_SCOPE (&l->src->lock);

  for (; l->nr_started <= l->nr_readers; l->nr_started++) {
    bool last = l->nr_started == l->nr_readers;

    if (thread_start (last ? &l->keeper : &l->reader[l->nr_started],
                      last ? keep : read_requests, l)
        == 0) {
      l->nr_running++;
      continue;
    }
    l->src->stopping = true;
    l->src->started = false;
    local_wake (l);
    return -1;
  }
  return 0;
}

void
local_wake (struct local *l)
{
  ASSERT_HELD (&l->src->lock);
  if (l->src->stopping)
    pthread_cond_broadcast (&l->work);
  else if (l->up)
    pthread_cond_signal (&l->work);
  /* The keeper ends requests whose deadline passes. */
  if (l->src->stopping
      || (l->src->next_deadline
          && (!l->keeper_until || l->src->next_deadline < l->keeper_until)))
    pthread_cond_signal (&l->keep);
}

bool
local_is_running (const struct local *l)
{
  return l->nr_running > 0;
}

unsigned
local_depth (const struct local *l)
{
  return 2 * (l->nr_readers - 1);
}
