/* entry.c - see entry.h.
 *
 * An entry is written under another name and renamed, so that nobody reads
 * half of one.  A line that is not understood, or one key twice, makes it no
 * entry at all.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "array.h"
#include "cleanup.h"
#include "entry.h"

#define MAX_ENTRY 65536
#define TEMP_NAME "entry.new"

static void
cleanup_closedir (DIR **dir)
{
  if (*dir)
    closedir (*dir);
}
#define CLEANUP_CLOSEDIR __attribute__ ((cleanup (cleanup_closedir)))

void
entry_free (struct entry *e)
{
  free (e->store);
  free (e->control);
  free (e->name);
  free (e->process);
  for (size_t i = 0; i < e->nr_listen; i++)
    free (e->listen[i].path);
  free (e->listen);
  *e = (struct entry){ 0 };
}

/* --- the text --------------------------------------------------------- */

static void
put_value (FILE *fp, const char *s)
{
  for (; *s; s++) {
    unsigned char c = (unsigned char)*s;

    if (c < 0x20 || c == 0x7f || c == '\\')
      fprintf (fp, "\\%03o", c);
    else
      putc (c, fp);
  }
  putc ('\n', fp);
}

/* A malloc'd copy with its escapes undone; NULL with errno. */
static char *
get_value (const char *s)
{
  CLEANUP_FREE char *copy = malloc (strlen (s) + 1);
  char *to = copy;

  if (!copy)
    return NULL;
  while (*s) {
    unsigned c = (unsigned char)*s++;

    if (c == '\\') {
      c = 0;
      for (int i = 0; i < 3; i++) {
        if (*s < '0' || *s > '7')
          goto invalid;
        c = c * 8 + (unsigned)(*s++ - '0');
      }
      if (c == 0 || c > 255)
        goto invalid;
    }
    else if (c < 0x20)
      goto invalid;
    *to++ = (char)c;
  }
  *to = '\0';
  to = copy;
  copy = NULL;
  return to;

invalid:
  errno = EINVAL;
  return NULL;
}

static int
set_once (char **field, const char *value)
{
  if (*field) {
    errno = EINVAL;
    return -1;
  }
  *field = get_value (value);
  return *field ? 0 : -1;
}

static int
add_socket (struct entry *e, char *value)
{
  char *path = strchr (value, ' ');
  struct entry_socket socket = { .path = NULL };

  if (path)
    *path++ = '\0';
  if (!path || !file_id_parse (value, &socket.file)) {
    errno = EINVAL;
    return -1;
  }
  if (ARRAY_ROOM (e->listen, e->nr_listen) == -1)
    return -1;
  socket.path = get_value (path);
  if (!socket.path)
    return -1;
  e->listen[e->nr_listen++] = socket;
  return 0;
}

static int
parse_line (struct entry *e, char *line)
{
  char *value = strchr (line, ' ');

  if (value) {
    *value++ = '\0';
    if (strcmp (line, "store") == 0)
      return set_once (&e->store, value);
    if (strcmp (line, "control") == 0)
      return set_once (&e->control, value);
    if (strcmp (line, "name") == 0)
      return set_once (&e->name, value);
    if (strcmp (line, "listen") == 0)
      return add_socket (e, value);
    if (strcmp (line, "pid") == 0 && e->pid == 0) {
      char *end;

      e->pid = strtol (value, &end, 10);
      if (*end == '\0' && e->pid > 0)
        return 0;
    }
  }
  errno = EINVAL;
  return -1;
}

static int
parse (struct entry *e, char *text)
{
  while (*text) {
    char *end = strchr (text, '\n');

    if (!end)
      break; /* cut off */
    *end = '\0';
    if (parse_line (e, text) == -1)
      return -1;
    text = end + 1;
  }
  if (*text == '\0' && e->store && e->store[0] == '/' && e->name && e->pid)
    return 0;
  errno = EINVAL;
  return -1;
}

/* --- files ------------------------------------------------------------ */

static const char *
file_name (struct file_id file, char buf[FILE_ID_MAX + 16])
{
  char id[FILE_ID_MAX];

  snprintf (buf, FILE_ID_MAX + 16, "%s" ENTRY_SUFFIX, file_id_text (file, id));
  return buf;
}

int
entry_write (int dir, const struct entry *e)
{
  CLEANUP_FREE char *text = NULL;
  char name[FILE_ID_MAX + 16], id[FILE_ID_MAX];
  CLEANUP_CLOSE int fd = -1;
  size_t len;
  FILE *fp = open_memstream (&text, &len);

  if (!fp)
    return -1;
  fputs ("store ", fp);
  put_value (fp, e->store);
  if (e->control) {
    fputs ("control ", fp);
    put_value (fp, e->control);
  }
  fprintf (fp, "pid %ld\nname ", e->pid);
  put_value (fp, e->name);
  for (size_t i = 0; i < e->nr_listen; i++) {
    fprintf (fp, "listen %s ", file_id_text (e->listen[i].file, id));
    put_value (fp, e->listen[i].path);
  }
  if (fclose (fp) != 0)
    return -1;
  if (len > MAX_ENTRY) {
    errno = ENAMETOOLONG;
    return -1;
  }
  unlinkat (dir, TEMP_NAME, 0);
  fd = openat (dir, TEMP_NAME,
               O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd == -1)
    return -1;
  errno = 0;
  if (fchmod (fd, 0644) == -1 || write (fd, text, len) != (ssize_t)len
      || renameat (dir, TEMP_NAME, dir, file_name (e->file, name)) == -1) {
    int err = errno ? errno : ENOSPC;

    unlinkat (dir, TEMP_NAME, 0);
    errno = err;
    return -1;
  }
  return 0;
}

int
entry_remove (int dir, struct file_id file)
{
  char name[FILE_ID_MAX + 16];

  return unlinkat (dir, file_name (file, name), 0);
}

/* -1: it is none. */
static int
read_entry (int dir, struct file_id file, uid_t author, const char *process,
            struct entry *e)
{
  char name[FILE_ID_MAX + 16];
  CLEANUP_CLOSE int fd = trust_open_file (dir, file_name (file, name), author);
  CLEANUP_FREE char *text = NULL;
  size_t len = 0;
  ssize_t n = 0;

  *e = (struct entry){ .file = file, .author = author };
  if (fd == -1)
    return -1;
  text = malloc (MAX_ENTRY + 1);
  e->process = strdup (process);
  if (text && e->process) {
    while (len < MAX_ENTRY && (n = read (fd, text + len, MAX_ENTRY - len)) > 0)
      len += (size_t)n;
    text[len] = '\0';
    /* (A NUL in it ends it too early, and a cut line is none.) */
    if (n == 0 && strlen (text) == len && parse (e, text) == 0)
      return 0;
  }
  entry_free (e);
  return -1;
}

/* All entries of one process's directory. */
static int
scan_process (int fd, uid_t author, const char *process, entry_fn fn,
              void *opaque)
{
  CLEANUP_CLOSEDIR DIR *dir = fdopendir (fd);
  const struct dirent *d;
  int r = 0;

  if (!dir) {
    close (fd);
    return 0;
  }
  while (r == 0 && (d = readdir (dir)) != NULL) {
    size_t len = strlen (d->d_name), cut = strlen (ENTRY_SUFFIX);
    char id[FILE_ID_MAX];
    struct file_id file;
    struct entry e;

    if (len <= cut || len - cut >= sizeof id
        || strcmp (d->d_name + len - cut, ENTRY_SUFFIX) != 0)
      continue;
    memcpy (id, d->d_name, len - cut);
    id[len - cut] = '\0';
    if (!file_id_parse (id, &file)
        || read_entry (dirfd (dir), file, author, process, &e) == -1)
      continue;
    r = fn (opaque, &e);
    entry_free (&e);
  }
  return r;
}

int
entries_scan (const char *base, const struct file_id *store, entry_fn fn,
              void *opaque)
{
  CLEANUP_CLOSEDIR DIR *dir = opendir (base);
  const struct dirent *d;
  int r = 0;

  if (!dir)
    return -1;
  while (r == 0 && (d = readdir (dir)) != NULL) {
    struct entry e;
    uid_t author;
    int fd;

    if (strncmp (d->d_name, ENTRY_DIR_PREFIX, strlen (ENTRY_DIR_PREFIX)) != 0)
      continue;
    fd = trust_open_dir (dirfd (dir), d->d_name, &author);
    if (fd == -1)
      continue;
    if (!store) {
      r = scan_process (fd, author, d->d_name, fn, opaque);
      continue;
    }
    if (read_entry (fd, *store, author, d->d_name, &e) == 0) {
      r = fn (opaque, &e);
      entry_free (&e);
    }
    close (fd);
  }
  return r;
}

/* --- belief ----------------------------------------------------------- */

bool
entry_speaks (const struct entry *e)
{
  struct stat sb;

  return trust_about (e->author, NULL)
         || (stat (e->store, &sb) == 0 && entry_speaks_for (e, &sb));
}

bool
entry_speaks_for (const struct entry *e, const struct stat *store)
{
  return file_id_equal (e->file, file_id (store))
         && trust_about (e->author, store);
}

bool
entry_listens (const struct entry *e, struct file_id socket)
{
  for (size_t i = 0; i < e->nr_listen; i++)
    if (file_id_equal (e->listen[i].file, socket))
      return true;
  return false;
}
