/* disks.c - the calls about disks: of one, and of all.
 *
 * Locking: client.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>

#include "client.h"
#include "cleanup.h"

#define DAEMON_TIMEOUT 5000 /* ms for the greeting of backfilld */

/* What "query-disks" has for the disks of a server that did not answer. */
static int
append_unanswered (json_t *all, const struct server *s)
{
  for (size_t i = 0; i < s->nr; i++) {
    const struct entry *e = &s->entries[i];
    char id[FILE_ID_MAX];
    json_t *row = json_pack ("{s:o, s:o, s:s, s:o}", "name",
                             wire_text (e->name), "store", wire_text (e->store),
                             "file", file_id_text (e->file, id), "unanswered",
                             wire_text (s->why != NULL ? s->why : ""));

    if (row == NULL || json_array_append_new (all, row) == -1)
      return -1;
  }
  return 0;
}

json_t *
disks_ask (struct backfill *h, const char *command)
{
  bool disks = strcmp (command, "query-disks") == 0;
  json_auto_t *all = NULL;
  struct servers servers;
  const struct server *bad = NULL;

  if (servers_ask (h, false, disks ? "query-disks" : "query-block-jobs", NULL,
                   &servers, handle_deadline (h))
      == -1)
    return NULL;
  all = servers_answers (&servers);
  for (size_t i = 0; all != NULL && i < servers.len; i++) {
    const struct server *s = &servers.ptr[i];

    if (s->conn == NULL)
      bad = s;
    if (s->conn == NULL && disks && append_unanswered (all, s) == -1) {
      json_decref (all);
      all = error_nomem ();
    }
  }
  /* Nothing that could be given: then the reason. */
  if (bad != NULL && all != NULL && json_array_size (all) == 0) {
    json_decref (all);
    all = NULL;
    error_set (bad->err, "%s", bad->why != NULL ? bad->why : bad->socket);
  }
  servers_release (h, &servers);
  return json_incref (all);
}

static int
give_disks (json_t *all, unsigned *ndisks, struct backfill_disk_info ***disks)
{
  struct backfill_disk_info **infos;
  size_t n = json_array_size (all);

  if (all == NULL)
    return -1;
  infos = calloc (n + 1, sizeof *infos);
  if (infos == NULL) {
    error_nomem ();
    return -1;
  }
  for (size_t i = 0; i < n; i++) {
    infos[i] = reply_disk (json_array_get (all, i));
    if (infos[i] == NULL) {
      backfill_free_disks (infos);
      return -1;
    }
  }
  *ndisks = (unsigned)n;
  *disks = infos;
  return 0;
}

int
backfill_list_disks (struct backfill *h, unsigned *ndisks,
                     struct backfill_disk_info ***disks)
{
  json_auto_t *all = disks_ask (h, "query-disks");

  return give_disks (all, ndisks, disks);
}

/* Add what backfilld knows of volumes that it has not open.  Another user's
 * daemon is not believed. */
static int
append_closed (struct backfill *h, json_t *all, struct conn *conn)
{
  json_auto_t *rows
      = handle_execute (conn, NULL, "query-disks",
                        json_pack ("{s:b}", "all", 1), handle_deadline (h));
  json_t *row;
  size_t i;

  /* One that cannot tell has nothing to add. */
  if (rows == NULL)
    return 0;
  json_array_foreach (rows, i, row)
    if (json_is_false (json_object_get (row, "open"))
        && json_array_append (all, row) == -1) {
      error_nomem ();
      return -1;
    }
  return 0;
}

json_t *
disks_ask_all (struct backfill *h)
{
  const struct trust trust = { 0 };
  json_t *all = disks_ask (h, "query-disks");
  char *socket;

  if (all == NULL && backfill_get_errno () == ENXIO)
    all = json_array ();
  if (all == NULL)
    return NULL;
  for (unsigned i = 0; (socket = registry_daemon (i)) != NULL; i++) {
    struct conn *conn
        = handle_take (h, socket, &trust, false, time_now () + DAEMON_TIMEOUT);
    int r = conn != NULL ? append_closed (h, all, conn) : 0;

    free (socket);
    handle_give (h, conn);
    if (r == -1) {
      json_decref (all);
      return NULL;
    }
  }
  return all;
}

int
backfill_list_all_disks (struct backfill *h, unsigned *ndisks,
                         struct backfill_disk_info ***disks)
{
  json_auto_t *all = h->socket == NULL
                         ? disks_ask_all (h)
                         : handle_call (h, NULL, "query-disks",
                                        json_pack ("{s:b}", "all", 1));

  return give_disks (all, ndisks, disks);
}

int
backfill_get_disk_info (struct backfill *h, const char *disk,
                        struct backfill_disk_info **info)
{
  json_auto_t *disks = handle_call (h, disk, "query-disks", NULL);

  if (disks == NULL)
    return -1;
  if (!json_is_array (disks) || json_array_size (disks) == 0)
    return error_set (EPROTO, "the server did not answer with a disk");
  if (json_array_size (disks) > 1) {
    char names[2048] = "";

    for (size_t i = 0; i < json_array_size (disks); i++) {
      const char *name = json_string_value (
          json_object_get (json_array_get (disks, i), "name"));
      size_t len = strlen (names);

      snprintf (names + len, sizeof names - len, "%s'%s'", i > 0 ? ", " : "",
                name != NULL ? name : "?");
    }
    return error_set (ENOTUNIQ, "name the disk: there are %s", names);
  }
  *info = reply_disk (json_array_get (disks, 0));
  return *info == NULL ? -1 : 0;
}

int
backfill_disk_flush (struct backfill *h, const char *disk)
{
  return request_simple (h, disk, "disk-flush", NULL);
}

int
backfill_disk_detach (struct backfill *h, const char *disk)
{
  return request_simple (h, disk, "disk-detach", NULL);
}

/* A file is named by its path, and a server has another current folder.  What
 * has a colon is an NBD URI.  malloc'd; NULL with errno. */
static char *
absolute_backing (const char *backing)
{
  CLEANUP_FREE char *cwd = NULL;
  char *path;

  if (backing[0] == '/' || backing[0] == '[' || backing[0] == '\0'
      || (backing[0] != '.' && strchr (backing, ':') != NULL))
    return strdup (backing);
  cwd = get_current_dir_name ();
  return cwd == NULL || asprintf (&path, "%s/%s", cwd, backing) == -1 ? NULL
                                                                      : path;
}

int
backfill_create_volume (struct backfill *h, const char *store,
                        const char *backing, uint64_t size, uint32_t granule)
{
  int64_t deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL;
  CLEANUP_FREE char *source = NULL;
  struct conn *conn;
  json_t *args, *reply;

  if (request_check_size ("size", size) == -1)
    return -1;
  if (backing != NULL && (source = absolute_backing (backing)) == NULL)
    return error_set (errno, "the current folder's name");
  args = json_object ();
  if (args == NULL
      || (backing != NULL
          && json_object_set_new (args, "backing", json_string (source)) == -1)
      || (size > 0
          && json_object_set_new (args, "size", json_integer ((json_int_t)size))
                 == -1)
      || (granule > 0
          && json_object_set_new (args, "granule", json_integer (granule))
                 == -1)) {
    json_decref (args);
    return error_set (EINVAL, "the backing store's name is not UTF-8");
  }
  conn = h->socket != NULL ? route_disk (h, store, false, &device, deadline)
                           : route_daemon (h, store, false, &device, deadline);
  if (conn == NULL) {
    json_decref (args);
    return -1;
  }
  reply = handle_execute (conn, device, "disk-create", args, deadline);
  handle_give (h, conn);
  if (reply == NULL)
    return -1;
  json_decref (reply);
  return 0;
}
