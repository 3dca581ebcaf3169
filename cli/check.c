/* check.c - `backfill check`: read a whole sidecar and say what is damaged.
 *
 * The command works on the files alone, with the engine's own reading code, and
 * never changes the files.  The volume may be in use meanwhile: a sector that
 * is being written is looked at again.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "array.h"
#include "cleanup.h"
#include "cli.h"
#include "sidecar.h"

#define BATCH 256u
/* The server writes sectors in place.  A sector whose seal is broken may be
 * half of a write that is going on, and is looked at again. */
#define LOOKS 4
#define BETWEEN_NS 20000000

/* Sectors whose seal is broken, in order. */
struct damage {
  uint32_t *sector;
  size_t nr;
};

static int
add_damage (struct damage *damage, uint32_t index)
{
  if (ARRAY_ROOM (damage->sector, damage->nr) == -1)
    return -1;
  damage->sector[damage->nr++] = index;
  return 0;
}

static int
scan (struct sidecar *sc, struct damage *damage)
{
  uint32_t nr = sidecar_nr_sectors (sc);
  CLEANUP_FREE uint64_t *words = calloc (BATCH * SIDECAR_WORDS, 8);
  bool bad[BATCH];

  if (!words) {
    errno = ENOMEM;
    return -1;
  }
  for (uint32_t at = 0; at < nr; at += BATCH) {
    unsigned n = nr - at < BATCH ? nr - at : BATCH;

    if (sidecar_read_map (sc, at, n, words, bad) == -1)
      return -1;
    for (unsigned i = 0; i < n; i++)
      if (bad[i] && add_damage (damage, at + i) == -1)
        return -1;
  }
  /* One pause for all such sectors, not one for each. */
  for (unsigned look = 1; look < LOOKS && damage->nr > 0; look++) {
    struct timespec ts = { .tv_nsec = BETWEEN_NS };
    size_t left = 0;

    nanosleep (&ts, NULL);
    for (size_t i = 0; i < damage->nr; i++)
      if (sidecar_read_map (sc, damage->sector[i], 1, words, bad) == -1
          || bad[0])
        damage->sector[left++] = damage->sector[i];
    damage->nr = left;
  }
  return 0;
}

/* A list of {"sector", "offset", "length"}. */
static json_t *
list_damage (const struct sidecar *sc, const struct damage *damage)
{
  const uint64_t span = (uint64_t)SIDECAR_BITS * sc->h.granule;
  json_t *list = json_array ();

  for (size_t i = 0; i < damage->nr; i++) {
    uint64_t offset = damage->sector[i] * span;
    uint64_t length = offset + span > sc->h.size ? sc->h.size - offset : span;

    json_array_append_new (list, json_pack ("{s:I, s:I, s:I}", "sector",
                                            (json_int_t)damage->sector[i],
                                            "offset", (json_int_t)offset,
                                            "length", (json_int_t)length));
  }
  return list;
}

static void
print (const struct sidecar *sc, const bool copies[2], bool job_damaged,
       const json_t *list)
{
  CLEANUP_FREE char *path = strdup (sc->path);
  char buf[TEXT_MAX];
  size_t i;
  json_t *v;

  printf ("%s: disk of %s, granule %" PRIu32 "%s%s%s",
          path != NULL ? text_clean (path) : "?", text_bytes (buf, sc->h.size),
          sc->h.granule, sc->h.state & SIDECAR_COMPLETE ? ", complete" : "",
          sc->h.state & SIDECAR_DETACHED ? ", detached" : "",
          sc->h.session_open ? ", open or not closed" : "");
  if (sc->h.role.kind != ROLE_NONE)
    printf (", %s in a migration", role_name (sc->h.role.kind));
  printf ("\n");
  for (i = 0; i < 2; i++)
    if (!copies[i])
      printf ("header copy %c is damaged: made again at the next open\n",
              i ? 'B' : 'A');
  if (job_damaged)
    printf ("the job record is damaged: the job is forgotten\n");
  json_array_foreach (list, i, v) {
    printf ("map sector %" JSON_INTEGER_FORMAT
            " is damaged: the disk's bytes %" JSON_INTEGER_FORMAT
            "+%" JSON_INTEGER_FORMAT " cannot be read or written\n",
            json_integer_value (json_object_get (v, "sector")),
            json_integer_value (json_object_get (v, "offset")),
            json_integer_value (json_object_get (v, "length")));
  }
  if (json_array_size (list) > 0)
    printf ("damaged: %zu of %" PRIu32
            " sectors; restore the sidecar from a backup\n",
            json_array_size (list), sidecar_nr_sectors (sc));
  else if (copies[0] && copies[1] && !job_damaged)
    printf ("no damage\n");
}

struct sidecar *
check_find_sidecar (const char *path)
{
  CLEANUP_FREE char *beside = NULL;
  CLEANUP_FREE char *error = NULL;
  size_t len = strlen (path);
  struct sidecar *sc;
  bool is_store;

  /* Users name a store more often than its sidecar. */
  if (asprintf (&beside, "%s.backfill", path) == -1) {
    beside = NULL;
    cli_error ("out of memory");
    return NULL;
  }
  is_store = access (beside, F_OK) == 0;
  sc = sidecar_peek (is_store ? beside : path, &error);
  if (sc)
    return sc;
  if (is_store || (len > 9 && strcmp (path + len - 9, ".backfill") == 0))
    cli_error ("%s", error);
  else
    cli_error ("%s; and there is no %s", error, beside);
  return NULL;
}

int
cmd_check (int argc, char **argv)
{
  struct damage damage = { 0 };
  struct sidecar_job job;
  struct sidecar *sc;
  bool copies[2], job_damaged;
  json_t *list;
  int status = STATUS_FAILED;

  if (cli_getopt (argc, argv, NULL) != -1)
    return STATUS_USAGE;
  if (argc - optind != 1)
    cli_usage ("'check' needs one FILE: a store, or its sidecar");
  sc = check_find_sidecar (argv[optind]);
  if (!sc)
    return STATUS_FAILED;
  sidecar_copies (sc, copies);
  job_damaged = sidecar_read_job (sc, &job) == -1;
  if (sc->h.map_length && !(sc->h.state & SIDECAR_COMPLETE)
      && scan (sc, &damage) == -1) {
    cli_error ("cannot read %s: %s", sc->path, strerror (errno));
    free (damage.sector);
    sidecar_free (sc);
    return STATUS_FAILED;
  }
  list = list_damage (sc, &damage);
  if (!cli.json) {
    print (sc, copies, job_damaged, list);
    status = STATUS_OK;
  }
  else {
    json_t *value = json_pack (
        "{s:s, s:I, s:I, s:b, s:[b, b], s:b, s:O}", "sidecar", sc->path, "size",
        (json_int_t)sc->h.size, "granule", (json_int_t)sc->h.granule,
        "complete", (sc->h.state & SIDECAR_COMPLETE) != 0, "header-copies",
        copies[0], copies[1], "job-damaged", job_damaged, "damaged", list);

    if (sc->h.role.kind != ROLE_NONE)
      json_object_set_new (value, "role",
                           json_string (role_name (sc->h.role.kind)));
    status = text_json (value);
    json_decref (value);
  }
  if (damage.nr > 0 || !copies[0] || !copies[1] || job_damaged)
    status = STATUS_FAILED;
  json_decref (list);
  free (damage.sector);
  sidecar_free (sc);
  return status;
}
