/* owner.c - `backfill owner`: whose a disk is, as its sidecar says.
 *
 * It reads the sidecar alone, with the engine's own code, and asks no server:
 * it is for the moment when one of two hosts does not answer.  What the other
 * host wrote into the record is shown as message_clean leaves it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "cli.h"
#include "message.h"
#include "sidecar.h"

/* Where a guest of the disk may be served, as far as these files tell. */
static const char *
where (const struct role *role)
{
  if (role_serves (role))
    return "here";
  return role->kind == ROLE_PREPARED ? "unknown" : "there";
}

static void
print_migration (const struct role *role)
{
  char text[ROLE_TEXT];

  printf ("peer         %s\n", role_peer (role, text));
  printf ("migration    %s\n", role_id_text (role->mid, text));
  printf ("lineage      %s\n", role_id_text (role->lineage, text));
  printf ("epoch        %" PRIu64 " (%016" PRIx64 ")\n", role->epoch.number,
          role->epoch.random);
  if (role->round > 0)
    printf ("round        %" PRIu64 "\n", role->round);
  if (role->flags & ROLE_LATCHED)
    printf ("changed      by a guest here: it cannot be given back\n");
  if (role->flags & ROLE_HEARD)
    printf ("confirmed    by the other side\n");
}

static void
print (const struct sidecar *sc, const char *says)
{
  CLEANUP_FREE char *path = strdup (sc->path);
  CLEANUP_FREE char *control
      = sc->h.control != NULL ? strdup (sc->h.control) : NULL;
  const struct role *role = &sc->h.role;

  printf ("sidecar      %s\n", path != NULL ? text_clean (path) : "?");
  printf ("owner        %s\n", where (role));
  printf ("role         %s\n", role_name (role->kind));
  if (role->kind != ROLE_NONE)
    print_migration (role);
  if (sc->h.session_open)
    printf ("open         by process %" PRIu32 "%s%s, or it was killed\n",
            sc->h.session_pid, control != NULL ? ", control socket " : "",
            control != NULL ? text_clean (control) : "");
  else
    printf ("open         no\n");
  printf ("%s\n", says);
}

static json_t *
clean_string (const char *s)
{
  CLEANUP_FREE char *copy = s != NULL ? strdup (s) : NULL;

  return copy != NULL ? json_string (message_clean (copy)) : json_null ();
}

static json_t *
json_migration (const struct role *role)
{
  char mid[ROLE_ID_TEXT], lineage[ROLE_ID_TEXT], random[17];

  if (role->kind == ROLE_NONE)
    return json_null ();
  snprintf (random, sizeof random, "%016" PRIx64, role->epoch.random);
  return json_pack (
      "{s:s, s:s, s:o, s:o, s:{s:I, s:s}, s:I, s:b, s:b}", "id",
      role_id_text (role->mid, mid), "lineage",
      role_id_text (role->lineage, lineage), "host", clean_string (role->host),
      "peer", clean_string (role->peer), "epoch", "number",
      (json_int_t)role->epoch.number, "random", random, "round",
      (json_int_t)role->round, "changed", (role->flags & ROLE_LATCHED) != 0,
      "confirmed", (role->flags & ROLE_HEARD) != 0);
}

static int
print_json (const struct sidecar *sc, const char *says)
{
  const struct role *role = &sc->h.role;
  CLEANUP_FREE char *text = strdup (says);
  json_t *value = json_pack (
      "{s:o, s:s, s:s, s:o, s:b, s:o, s:o, s:s}", "sidecar",
      clean_string (sc->path), "owner", where (role), "role",
      role_name (role->kind), "migration", json_migration (role), "open",
      sc->h.session_open, "pid",
      sc->h.session_open ? json_integer (sc->h.session_pid) : json_null (),
      "control",
      sc->h.session_open ? clean_string (sc->h.control) : json_null (), "text",
      text != NULL ? message_clean (text) : "");
  int status = text_json (value);

  json_decref (value);
  return status;
}

int
cmd_owner (int argc, char **argv)
{
  CLEANUP_FREE char *says = NULL;
  CLEANUP_FREE char *store = NULL;
  struct sidecar *sc;
  int status = STATUS_OK;

  if (cli_getopt (argc, argv, NULL) != -1)
    return STATUS_USAGE;
  if (argc - optind != 1)
    cli_usage ("'owner' needs one STORE, or its sidecar");
  sc = check_find_sidecar (argv[optind]);
  if (sc == NULL)
    return STATUS_FAILED;
  store = strdup (argv[optind]);
  role_explain (&sc->h.role, store != NULL ? text_clean (store) : "the disk",
                &says);
  if (cli.json)
    status = print_json (sc, says);
  else
    print (sc, says);
  sidecar_free (sc);
  return status;
}
