/* access.c - see access.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "message.h"
#include "path.h"
#include "volumes/access.h"

bool
access_is_canonical (const char *path)
{
  const char *p = path;

  if (*p != '/')
    return false;
  while (*p == '/') {
    size_t len = strcspn (++p, "/");

    if (len == 0 || (len == 1 && p[0] == '.')
        || (len == 2 && p[0] == '.' && p[1] == '.'))
      return false;
    p += len;
  }
  return true;
}

int
access_check_name (const char *path, char **error)
{
  if (access_is_canonical (path))
    return 0;
  message_set (error,
               "'%s' is no volume: give the path of its store, absolute and "
               "resolved",
               path);
  errno = EINVAL;
  return -1;
}

bool
access_is_ours (const struct control_peer *peer)
{
  return peer->uid == 0 || peer->uid == geteuid ();
}

uid_t
access_user (const struct control_peer *peer)
{
  return access_is_ours (peer) ? 0 : peer->uid;
}

int
access_denied (const char *path, char **error)
{
  message_set (error, "'%s' belongs to another user", path);
  errno = EPERM;
  return -1;
}

int
access_check_file (const char *path, const struct file_id *meant,
                   struct file_id is, char **error)
{
  if (!meant || file_id_equal (*meant, is))
    return 0;
  message_set (error, "'%s' is another file than the one that is meant", path);
  errno = ESTALE;
  return -1;
}

int
access_check_path (const char *path, uid_t uid, char **error)
{
  struct stat st;

  if (path_stat (path, &st) == -1) {
    if (errno == EPERM || errno == ELOOP || errno == EXDEV) {
      errno = EPERM;
      message_set (error,
                   "'%s' is not below the folders that backfilld may use, or "
                   "there is a symbolic link in it",
                   path);
    }
    else
      message_set (error, "volume '%s': %m", path);
    return -1;
  }
  if (S_ISLNK (st.st_mode)) {
    errno = EPERM;
    message_set (error, "'%s' is a symbolic link: give what it leads to", path);
    return -1;
  }
  if (uid && st.st_uid != uid)
    return access_denied (path, error);
  return 0;
}

bool
access_may_see (const struct control_peer *peer, const struct volume *v)
{
  return access_is_ours (peer) || disk_store_owner_seen (v->disk) == peer->uid;
}

unsigned
access_share_of_one (const struct volumes *vs)
{
  return vs->config.max_open >= 4 ? vs->config.max_open / 4 : 1;
}

unsigned
access_share_of_others (const struct volumes *vs)
{
  return vs->config.max_open >= 4 ? vs->config.max_open / 4 * 3 : 1;
}
