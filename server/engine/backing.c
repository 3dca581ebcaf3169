/* backing.c - see backing.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backing.h"
#include "internal.h"

/* A server that is there answers in this time; one that is not must not keep
 * a guest from its local data (G33). */
#define REOPEN_PROBE_MS 2000u

/* "[ CMD ARG ... ]": words, with '...' and "..." for those with spaces. */
static int
parse_command (struct disk *d, const char *text, char **error)
{
  size_t len = strlen (text), nr = 0;
  const char *end = text + len;

  d->argv = calloc (len + 1, sizeof *d->argv);
  if (!d->argv)
    goto nomem;
  while (end > text && isspace ((unsigned char)end[-1]))
    end--;
  if (end - text < 2 || end[-1] != ']') {
    message_set (error, "backing=%s: the closing ] is missing", text);
    errno = EINVAL;
    return -1;
  }
  end--;
  for (const char *p = text + 1; p < end;) {
    char *word, *w, quote = 0;

    if (isspace ((unsigned char)*p)) {
      p++;
      continue;
    }
    word = w = calloc (1, (size_t)(end - p) + 1);
    if (!word)
      goto nomem;
    d->argv[nr++] = word;
    for (; p < end && (quote || !isspace ((unsigned char)*p)); p++)
      if (quote ? *p == quote : (*p == '\'' || *p == '"'))
        quote = quote ? 0 : *p;
      else
        *w++ = *p;
    if (quote) {
      message_set (error, "backing=%s: a %c is not closed", text, quote);
      errno = EINVAL;
      return -1;
    }
  }
  if (nr > 0)
    return 0;
  message_set (error, "backing=%s: there is no command in the brackets", text);
  errno = EINVAL;
  return -1;

nomem:
  message_set (error, "out of memory");
  errno = ENOMEM;
  return -1;
}

struct source_config
backing_settings (struct disk *d)
{
  return (struct source_config){
    .uri = d->argv ? NULL : d->backing,
    .argv = (const char *const *)d->argv,
    .socket_dir = d->runtime_dir,
    .command_dir = d->command_dir,
    .connections = d->connections,
    .timeout = (unsigned)min_u64 (d->timeout, 3600000),
    .identity_mode = d->identity_mode,
    .has_user = d->backing_by_other,
    .user = d->backing_user,
  };
}

/* For a volume that is being made: the source must be there. */
int
backing_probe_new (struct disk *d, const struct disk_config *cfg, char **error)
{
  struct source_config sc = backing_settings (d);

  if (source_probe_keep (&sc, &d->identity, &d->kept, error) == -1)
    return -1;
  d->has_identity = true;
  if (cfg->has_size && cfg->size != d->identity.size) {
    message_set (error,
                 "size=%llu but the backing store %s has %llu bytes: leave "
                 "size= out",
                 (unsigned long long)cfg->size, d->backing,
                 (unsigned long long)d->identity.size);
    errno = EINVAL;
    return -1;
  }
  d->size = d->identity.size;
  return 0;
}

/* For a volume that exists: another backing store is refused, one that does not
 * answer is not. */
int
backing_probe_again (struct disk *d, char **error)
{
  struct source_config sc = backing_settings (d);
  struct source_identity now;
  CLEANUP_FREE char *why = NULL;
  static const uint8_t none[SOURCE_DIGEST_SIZE];

  sc.timeout = (unsigned)min_u64 (sc.timeout, REOPEN_PROBE_MS);
  if (source_probe_keep (&sc, &now, &d->kept, &why) == -1) {
    log_error ("%s: going on without the backing store until it is there: %s",
               d->store_path, why);
    return 0;
  }
  if (now.size != d->size) {
    message_set (error,
                 "the backing store %s has %llu bytes, but %s was made for "
                 "one of %llu: it is not the one this volume knows; name the "
                 "right one with backing=",
                 d->backing, (unsigned long long)now.size, d->store_path,
                 (unsigned long long)d->size);
    errno = EINVAL;
    return -1;
  }
  if (d->identity_mode != SOURCE_IDENTITY_CONTENT)
    return 0;
  if (memcmp (d->identity.digest, none, sizeof none) == 0) {
    /* The record has no digest: the digest of now is taken. */
    d->identity = now;
    return 0;
  }
  if (memcmp (now.digest, d->identity.digest, sizeof none) == 0)
    return 0;
  message_set (error,
               "the backing store %s has other content than the one %s was "
               "made for; name the right one with backing=, or say "
               "identity=size if it may change",
               d->backing, d->store_path);
  errno = EINVAL;
  return -1;
}

/* The directory to record: only a command needs one. */
const char *
backing_command_dir (const struct disk *d)
{
  return d->backing && d->backing[0] == '[' ? d->command_dir : NULL;
}

void
backing_record (struct disk *d, struct sidecar_header *h)
{
  h->identity_mode = !d->backing ? SIDECAR_IDENTITY_NONE
                     : d->identity_mode == SOURCE_IDENTITY_SIZE
                         ? SIDECAR_IDENTITY_SIZE
                         : SIDECAR_IDENTITY_CONTENT;
  h->identity_size = d->identity.size;
  memcpy (h->identity_digest, d->identity.digest, SIDECAR_DIGEST_SIZE);
}

/* A command that the sidecar or the caller names, as argv. */
int
backing_take_command (struct disk *d, const struct disk_config *cfg,
                      char **error)
{
  if (d->argv || !d->backing || d->backing[0] != '[')
    return 0;
  if (!cfg->no_command && d->backing_by_other) {
    message_set (error,
                 "the sidecar %s belongs to user %lu, or others may write to "
                 "it, and the backing store that it names is a command, which "
                 "is not run for another user: say backing= if you trust it "
                 "(backfill info shows it)",
                 d->metadata, (unsigned long)d->backing_user);
    errno = EPERM;
    return -1;
  }
  if (!cfg->no_command)
    return parse_command (d, d->backing, error);
  message_set (error,
               "the backing store of %s is a command, which is not run here: "
               "serve it yourself, and name its NBD URI",
               d->store_path);
  errno = EPERM;
  return -1;
}
