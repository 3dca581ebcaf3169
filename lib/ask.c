/* ask.c - all servers that can be found, asked at once.
 *
 * Each server has the same time from the start, and what one server does costs
 * the others nothing: a server that hangs, ends, or talks nonsense is given
 * back as one that did not answer.  A thread asks one server after the other,
 * and there are enough threads that each waits for one server only.  A thread
 * may be stuck without end in a look at a store (of another user, whose word
 * for the store is checked).  Such a thread is left behind, and the last who
 * uses the question frees the question.
 *
 * Another user is heard about his own stores alone: of his entries those are
 * taken whose store is there, is the file that the entry says, and is his; of
 * his answer, disks whose store is his (trust.h).
 *
 * Locking: the question's own lock; the threads touch nothing of a handle.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <signal.h>
#include <time.h>
#include <sys/stat.h>

#include "client.h"
#include "array.h"
#include "cleanup.h"
#include "thread.h"

#define MAX_THREADS 256
#define STACK_SIZE (512u << 10)
/* ms beyond the deadline that a thread may need to say that its time is over.
 */
#define GRACE 100
/* Threads that wait for one other user's servers: that user cannot keep all
 * threads from the servers of others. */
#define MAX_FOREIGN_THREADS 64
/* How many servers of one other user are looked at: those of all guests belong
 * to QEMU's user. */
#define MAX_FOREIGN 512

struct one {
  struct server server; /* a copy: the thread's until `done` */
  bool started, done;
  size_t first_of_user; /* index of the first server of its user */
  unsigned running;     /* of the first of a user: how many are being asked */
};

struct question {
  struct lock lock; /* guards refs, left, over, and of each of ones what follows
                       its server */
  pthread_cond_t changed;
  unsigned refs;
  size_t left;
  bool over; /* nobody waits any more */
  struct one *ones;
  size_t n;
  bool events;
  const char *command; /* static, or NULL: only connect */
  int64_t deadline;
};

/* --- servers ---------------------------------------------------------- */

static void
server_free (struct server *s)
{
  for (size_t i = 0; i < s->nr; i++)
    entry_free (&s->entries[i]);
  free (s->entries);
  free (s->socket);
  free (s->why);
  json_decref (s->reply);
  conn_close (s->conn);
  memset (s, 0, sizeof *s);
}

void
servers_release (struct backfill *h, struct servers *list)
{
  for (size_t i = 0; i < list->len; i++) {
    handle_give (h, list->ptr[i].conn);
    list->ptr[i].conn = NULL;
    server_free (&list->ptr[i]);
  }
  free (list->ptr);
  *list = (struct servers){ 0 };
}

static int
copy_entry (struct entry *to, const struct entry *from)
{
  *to = (struct entry){ .file = from->file,
                        .author = from->author,
                        .pid = from->pid };
  to->store = strdup (from->store);
  to->name = strdup (from->name);
  to->process = strdup (from->process);
  if (to->store != NULL && to->name != NULL && to->process != NULL)
    return 0;
  entry_free (to);
  return -1;
}

static int
copy_server (struct server *to, const struct server *from)
{
  *to = (struct server){ .trust = from->trust };
  to->socket = strdup (from->socket);
  to->entries = calloc (from->nr + 1, sizeof *to->entries);
  if (to->socket == NULL || to->entries == NULL)
    return -1;
  for (; to->nr < from->nr; to->nr++)
    if (copy_entry (&to->entries[to->nr], &from->entries[to->nr]) == -1)
      return -1;
  if (to->nr > 0)
    to->trust = entry_trust (&to->entries[0]);
  return 0;
}

static bool
is_known (const struct known *known, const char *process)
{
  for (size_t i = 0; known != NULL && i < known->nconns; i++)
    if (known->conns[i]->process != NULL
        && strcmp (known->conns[i]->process, process) == 0)
      return true;
  for (size_t i = 0; known != NULL && i < known->nprocesses; i++)
    if (strcmp (known->processes[i], process) == 0)
      return true;
  return false;
}

/* Every server of the registry, with its entries. */
static int
find_servers (const struct known *known, struct servers *list)
{
  struct entries entries;

  if (registry_list (&entries) == -1)
    return -1;
  list->ptr = calloc (entries.len + 1, sizeof *list->ptr);
  if (list->ptr == NULL)
    goto nomem;
  for (size_t i = 0; i < entries.len; i++) {
    struct entry *e = &entries.ptr[i];
    struct server *s = NULL;
    unsigned foreign = 0;

    if (is_known (known, e->process))
      continue;
    for (size_t j = 0; s == NULL && j < list->len; j++) {
      const struct entry *first = list->ptr[j].entries;

      foreign += first->author == e->author;
      if (first->author == e->author && strcmp (first->process, e->process) == 0
          && strcmp (list->ptr[j].socket, e->control) == 0)
        s = &list->ptr[j];
    }
    if (s == NULL) {
      if (!trust_about (e->author, NULL) && foreign >= MAX_FOREIGN)
        continue;
      s = &list->ptr[list->len];
      s->socket = strdup (e->control);
      if (s->socket == NULL)
        goto nomem;
      list->len++;
    }
    if (ARRAY_ROOM (s->entries, s->nr) == -1)
      goto nomem;
    s->entries[s->nr++] = *e;
    *e = (struct entry){ 0 };
    s->trust = entry_trust (&s->entries[0]);
  }
  entries_free (&entries);
  return 0;

nomem:
  entries_free (&entries);
  error_nomem ();
  return -1;
}

/* --- one server, on a thread ------------------------------------------ */

static void
set_why (struct server *s)
{
  s->err = backfill_get_errno ();
  s->why = strdup (backfill_get_error ());
}

/* Drop what another user's entries say of stores that are not that user's.
 * False: no entry is left. */
static bool
hear_entries (struct server *s)
{
  size_t kept = 0;

  for (size_t i = 0; i < s->nr; i++)
    if (entry_speaks (&s->entries[i])) {
      struct entry e = s->entries[i];

      s->entries[i] = s->entries[kept];
      s->entries[kept++] = e;
    }
  while (s->nr > kept)
    entry_free (&s->entries[--s->nr]);
  if (kept > 0)
    s->trust = entry_trust (&s->entries[0]);
  return kept > 0;
}

static void
hear_answer (struct server *s)
{
  for (size_t i = json_array_size (s->reply); i-- > 0;) {
    const char *store = json_string_value (
        json_object_get (json_array_get (s->reply, i), "store"));
    struct stat sb;

    if (store == NULL || store[0] != '/' || stat (store, &sb) == -1
        || !trust_about (s->trust.uid, &sb))
      json_array_remove (s->reply, i);
  }
}

/* Check the answer now, so that no nonsense is taken for a disk later. */
static int
check_answer (const struct server *s, const char *command)
{
  if (!json_is_array (s->reply))
    return error_set (EPROTO, "the server at '%s' did not answer with a list",
                      s->socket);
  for (size_t i = 0; i < json_array_size (s->reply); i++) {
    const json_t *value = json_array_get (s->reply, i);

    if (strcmp (command, "query-disks") == 0) {
      struct backfill_disk_info *info = reply_disk (value);
      bool good = info != NULL && info->unanswered == NULL;

      if (info != NULL && !good)
        error_set (EPROTO, "the server at '%s' says that it does not answer",
                   s->socket);
      backfill_free_disk_info (info);
      if (!good)
        return -1;
    }
    else {
      struct backfill_job_info info;

      if (reply_job (value, &info) == -1)
        return -1;
    }
  }
  return 0;
}

static void
ask_one (struct server *s, bool events, const char *command, int64_t deadline)
{
  bool foreign
      = s->trust.whom == TRUST_AUTHOR && !trust_about (s->trust.uid, NULL);

  if (foreign && !hear_entries (s)) {
    error_set (ESRCH, "the server at '%s' has no store that is its user's",
               s->socket);
    goto error;
  }
  if (s->conn == NULL)
    s->conn = conn_open (s->socket, &s->trust, events, deadline);
  if (s->conn == NULL || conn_check (s->conn, &s->trust) == -1)
    goto error;
  if (command == NULL)
    return;
  s->reply = conn_execute (s->conn, command, NULL, deadline);
  if (s->reply == NULL)
    goto error;
  if (foreign)
    hear_answer (s);
  if (check_answer (s, command) == 0)
    return;

error:
  set_why (s);
  json_decref (s->reply);
  s->reply = NULL;
  conn_close (s->conn);
  s->conn = NULL;
}

/* --- all of them ------------------------------------------------------ */

/* Lets the lock go, which is held. */
static void
put_question (struct question *q)
{
  bool last = --q->refs == 0;

  ASSERT_HELD (&q->lock);
  lock_drop (&q->lock);
  if (!last)
    return;
  for (size_t i = 0; i < q->n; i++)
    server_free (&q->ones[i].server);
  free (q->ones);
  lock_destroy (&q->lock);
  pthread_cond_destroy (&q->changed);
  free (q);
}

static void
find_users (struct question *q)
{
  for (size_t i = 0; i < q->n; i++) {
    size_t k = 0;

    while (q->ones[k].server.trust.uid != q->ones[i].server.trust.uid)
      k++;
    q->ones[i].first_of_user = k;
  }
}

/* The next one to ask.  NULL: there is none, or the thread that is done with
 * another of that user's takes it. */
static struct one *
next_one (struct question *q)
{
  ASSERT_HELD (&q->lock);
  for (size_t i = 0; !q->over && i < q->n; i++) {
    struct one *one = &q->ones[i], *first = &q->ones[one->first_of_user];

    if (one->started
        || (first->running >= MAX_FOREIGN_THREADS
            && !trust_about (one->server.trust.uid, NULL)))
      continue;
    one->started = true;
    first->running++;
    return one;
  }
  return NULL;
}

static void *
ask_some (void *arg)
{
  struct question *q = arg;
  struct one *one;

  lock_take (&q->lock);
  while ((one = next_one (q)) != NULL) {
    {
      UNLOCK_SCOPE (&q->lock);
      ask_one (&one->server, q->events, q->command, q->deadline);
    }
    one->done = true;
    q->ones[one->first_of_user].running--;
    q->left--;
    pthread_cond_signal (&q->changed);
  }
  put_question (q);
  return NULL;
}

static struct question *
new_question (const struct servers *list)
{
  struct question *q = calloc (1, sizeof *q);

  if (q == NULL)
    return error_nomem ();
  lock_init (&q->lock, LOCK_ASK);
  cond_init (&q->changed);
  q->refs = 1;
  q->ones = calloc (list->len, sizeof *q->ones);
  for (; q->ones != NULL && q->n < list->len; q->n++)
    if (copy_server (&q->ones[q->n].server, &list->ptr[q->n]) == -1) {
      server_free (&q->ones[q->n].server);
      break;
    }
  if (q->n < list->len) {
    lock_take (&q->lock);
    put_question (q);
    return error_nomem ();
  }
  q->left = q->n;
  find_users (q);
  return q;
}

/* False: not a single thread could be started. */
static bool
start_threads (struct question *q)
{
  unsigned n = q->n < MAX_THREADS ? (unsigned)q->n : MAX_THREADS, started = 0;

  json_object_seed (0);
  LOCK_SCOPE (&q->lock);
  for (; started < n; started++) {
    q->refs++;
    if (thread_start_stack (NULL, STACK_SIZE, ask_some, q) == -1) {
      q->refs--;
      break;
    }
  }
  return started > 0;
}

static void
wait_for_answers (struct question *q)
{
  uint64_t until = (uint64_t)q->deadline + GRACE;

  while (q->left > 0 && lock_wait_ms (&q->changed, &q->lock, until))
    ;
}

static int
ask_all (struct backfill *h, struct servers *list, bool events,
         const char *command, int64_t deadline)
{
  struct question *q = new_question (list);
  int64_t latest = time_now () + QUESTION_TIMEOUT;

  if (q == NULL)
    return -1;
  q->events = events;
  q->command = command;
  q->deadline = deadline < latest ? deadline : latest;
  for (size_t i = 0; !events && i < q->n; i++)
    q->ones[i].server.conn = handle_take_idle (h, q->ones[i].server.socket);
  if (q->n > 0 && !start_threads (q)) {
    {
      LOCK_SCOPE (&q->lock);
      q->refs++;
    }
    ask_some (q);
  }
  lock_take (&q->lock);
  wait_for_answers (q);
  q->over = true;
  for (size_t i = 0; i < q->n; i++) {
    struct server *s = &list->ptr[i];

    if (q->ones[i].done) {
      struct server was = *s;

      *s = q->ones[i].server;
      q->ones[i].server = was;
      continue;
    }
    s->err = ETIMEDOUT;
    if (asprintf (&s->why,
                  "the server at '%s', or a store of its, does not "
                  "answer",
                  s->socket)
        == -1)
      s->why = NULL;
    /* No thread has seen another user's stores. */
    while (!trust_about (s->trust.uid, NULL) && s->nr > 0)
      entry_free (&s->entries[--s->nr]);
  }
  put_question (q);
  return 0;
}

static bool
has_gone (const struct server *s)
{
  return s->conn == NULL
         && (s->err == ENOENT || s->err == ECONNREFUSED || s->err == ESRCH
             || s->err == ECONNRESET);
}

int
servers_ask (struct backfill *h, bool events, const char *command,
             const struct known *known, struct servers *list, int64_t deadline)
{
  char where[2048];
  size_t kept = 0;

  *list = (struct servers){ 0 };
  if (h->socket != NULL) {
    struct server *s = calloc (1, sizeof *s);

    if (s == NULL) {
      error_nomem ();
      return -1;
    }
    list->ptr = s;
    list->len = 1;
    s->trust = h->trust;
    s->socket = strdup (h->socket);
    s->conn = handle_take (h, h->socket, &h->trust, events, deadline);
    if (s->conn != NULL && command != NULL) {
      s->reply = conn_execute (s->conn, command, NULL, deadline);
      if (s->reply == NULL || check_answer (s, command) == -1)
        goto error;
    }
    if (s->socket == NULL)
      error_nomem ();
    if (s->socket == NULL || s->conn == NULL)
      goto error;
    return 0;
  }

  if (find_servers (known, list) == -1
      || ask_all (h, list, events, command, deadline) == -1)
    goto error;
  /* Entries of processes that have ended are not worth a word. */
  for (size_t i = 0; i < list->len; i++)
    if (has_gone (&list->ptr[i]))
      server_free (&list->ptr[i]);
    else if (kept++ < i) {
      list->ptr[kept - 1] = list->ptr[i];
      memset (&list->ptr[i], 0, sizeof *list->ptr);
    }
  list->len = kept;
  if (kept > 0)
    return 0;
  error_set (ENXIO, "no server of disks found in %s",
             registry_dirs (where, sizeof where));

error : {
  int err = backfill_get_errno ();
  CLEANUP_FREE char *text = strdup (backfill_get_error ());

  servers_release (h, list);
  return error_set (err, "%s", text != NULL ? text : "out of memory");
}
}

json_t *
servers_answers (const struct servers *list)
{
  json_auto_t *all = json_array ();

  if (all == NULL)
    return error_nomem ();
  for (size_t i = 0; i < list->len; i++)
    if (list->ptr[i].reply != NULL
        && json_array_extend (all, list->ptr[i].reply) == -1)
      return error_nomem ();
  return json_incref (all);
}
