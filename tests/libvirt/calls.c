/* calls.c - the calls of libbackfill-libvirt, for the tests to make.
 *
 *   calls URI domain NAME PATH CALL [ARG...]
 *   calls URI volume POOL NAME CALL [ARG...]
 *       CALL: allocate OFFSET LENGTH FLAGS, info, abort, map, find, or
 *       delete (the volume's file goes, and then "info")
 *   calls URI misuse DOMAIN      pointers that are NULL
 *   calls URI threads DOMAIN PATH...   many calls at once
 *
 * Prints one JSON object.  Exit status 0; 1 when the call failed (then errno's
 * name, the text, and libvirt's code and message); 2 when the test is wrong, 3
 * when what a call gave breaks a promise.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <libvirt/virterror.h>

#include "backfill-libvirt.h"

#define CHECK(what)                                                  \
  do                                                                 \
    if (!(what)) {                                                   \
      fprintf (stderr, "calls.c:%d: not so: %s\n", __LINE__, #what); \
      exit (3);                                                      \
    }                                                                \
  while (0)

static void __attribute__ ((noreturn)) wrong (const char *what)
{
  fprintf (stderr, "calls: %s: %s\n", what, virGetLastErrorMessage ());
  exit (2);
}

static void
quiet (void *opaque, virErrorPtr error)
{
  (void)opaque;
  (void)error;
}

static int
print (json_t *object)
{
  json_dumpf (object, stdout, JSON_ENCODE_ANY);
  printf ("\n");
  json_decref (object);
  return 0;
}

static int
print_failure (void)
{
  const virError *err = virGetLastError ();

  CHECK (backfill_get_error ()[0] != '\0');
  print (json_pack (
      "{s:s, s:s, s:i, s:s}", "errno", strerrorname_np (backfill_get_errno ()),
      "text", backfill_get_error (), "libvirt", err != NULL ? err->code : 0,
      "message", err != NULL && err->message != NULL ? err->message : ""));
  return 1;
}

/* What libvirt's documentation promises of this struct. */
static void
check_info (const virDomainJobInfo *info)
{
  CHECK (info->type >= VIR_DOMAIN_JOB_NONE
         && info->type <= VIR_DOMAIN_JOB_CANCELLED
         && info->type != VIR_DOMAIN_JOB_UNBOUNDED);
  CHECK (info->dataTotal == info->dataProcessed + info->dataRemaining);
  CHECK (info->fileTotal == info->dataTotal
         && info->fileProcessed == info->dataProcessed
         && info->fileRemaining == info->dataRemaining);
  CHECK (info->memTotal == 0 && info->memProcessed == 0
         && info->memRemaining == 0);
  if (info->type != VIR_DOMAIN_JOB_BOUNDED)
    CHECK (info->timeRemaining == 0);
  if (info->type == VIR_DOMAIN_JOB_NONE)
    CHECK (info->dataTotal == 0 && info->timeElapsed == 0);
  if (info->type == VIR_DOMAIN_JOB_COMPLETED)
    CHECK (info->dataRemaining == 0);
}

static int
info_result (int r, const virDomainJobInfo *info)
{
  if (r == -1)
    return print_failure ();
  check_info (info);
  return print (json_pack ("{s:i, s:I, s:I, s:I, s:I, s:I}", "type", info->type,
                           "elapsed", (json_int_t)info->timeElapsed, "left",
                           (json_int_t)info->timeRemaining, "total",
                           (json_int_t)info->dataTotal, "processed",
                           (json_int_t)info->dataProcessed, "remaining",
                           (json_int_t)info->dataRemaining));
}

static int
map_result (int r, unsigned n, struct backfill_region *regions)
{
  json_t *array;

  if (r == -1)
    return print_failure ();
  CHECK ((n == 0) == (regions == NULL));
  array = json_array ();
  for (unsigned i = 0; i < n; i++)
    json_array_append_new (array,
                           json_pack ("[I, I]", (json_int_t)regions[i].offset,
                                      (json_int_t)regions[i].length));
  free (regions);
  return print (array);
}

static int
simple_result (int r)
{
  return r == -1 ? print_failure () : print (json_object ());
}

static int
find_result (int r, char *uri, char *disk)
{
  if (r == -1)
    return print_failure ();
  print (json_pack ("{s:s?, s:s}", "uri", uri, "disk", disk));
  free (uri);
  free (disk);
  return 0;
}

static bool
is_call (char **argv, const char *name, int nargs)
{
  int n = 0;

  while (argv[1 + n] != NULL)
    n++;
  return strcmp (argv[0], name) == 0 && n == nargs;
}

static unsigned long long
number (const char *s)
{
  return strtoull (s, NULL, 0);
}

static int
call_domain (virDomainPtr domain, const char *path, char **argv)
{
  struct backfill_region *regions = NULL;
  char *uri = NULL, *disk = NULL;
  virDomainJobInfo info;
  unsigned n = 77;
  int r;

  memset (&info, 0xff, sizeof info);
  if (is_call (argv, "allocate", 3))
    return simple_result (backfill_virDomainBlockAllocate (
        domain, path, number (argv[1]), number (argv[2]),
        (unsigned)number (argv[3])));
  if (is_call (argv, "info", 0)) {
    r = backfill_virDomainBlockGetJobInfo (domain, path, &info);
    return info_result (r, &info);
  }
  if (is_call (argv, "abort", 0))
    return simple_result (backfill_virDomainBlockAbortJob (domain, path));
  if (is_call (argv, "map", 0)) {
    r = backfill_virDomainBlockGetAllocationMap (domain, path, &n, &regions);
    return map_result (r, n, regions);
  }
  if (is_call (argv, "find", 0)) {
    r = backfill_virDomainFindDisk (domain, path, &uri, &disk);
    return find_result (r, uri, disk);
  }
  wrong (argv[0]);
}

static int
call_volume (virStorageVolPtr volume, char **argv)
{
  struct backfill_region *regions = NULL;
  char *uri = NULL, *disk = NULL;
  virDomainJobInfo info;
  unsigned n = 77;
  int r;

  memset (&info, 0xff, sizeof info);
  if (is_call (argv, "allocate", 3))
    return simple_result (backfill_virStorageVolAllocate (
        volume, number (argv[1]), number (argv[2]),
        (unsigned)number (argv[3])));
  if (is_call (argv, "delete", 0)) {
    if (virStorageVolDelete (volume, 0) == -1)
      wrong ("virStorageVolDelete");
    argv[0] = (char *)"info";
  }
  if (is_call (argv, "info", 0)) {
    r = backfill_virStorageVolGetJobInfo (volume, &info);
    return info_result (r, &info);
  }
  if (is_call (argv, "abort", 0))
    return simple_result (backfill_virStorageVolAbortJob (volume));
  if (is_call (argv, "map", 0)) {
    r = backfill_virStorageVolGetAllocationMap (volume, &n, &regions);
    return map_result (r, n, regions);
  }
  if (is_call (argv, "find", 0)) {
    r = backfill_virStorageVolFindDisk (volume, &uri, &disk);
    return find_result (r, uri, disk);
  }
  wrong (argv[0]);
}

#define REFUSED(call)                         \
  do {                                        \
    CHECK ((call) == -1);                     \
    CHECK (backfill_get_errno () == EINVAL);  \
    CHECK (backfill_get_error ()[0] != '\0'); \
  } while (0)

static int
misuse (virDomainPtr domain)
{
  struct backfill_region *regions;
  virDomainJobInfo info;
  char *s;
  unsigned n;

  REFUSED (backfill_virDomainBlockAllocate (NULL, "vda", 0, 0, 0));
  CHECK (virGetLastError () != NULL
         && virGetLastError ()->code == VIR_ERR_INVALID_DOMAIN);
  REFUSED (backfill_virDomainBlockAllocate (domain, NULL, 0, 0, 0));
  REFUSED (backfill_virDomainBlockAllocate (domain, "vda", 0, 0, 4));
  REFUSED (backfill_virDomainBlockAllocate (domain, "vda", UINT64_MAX, 0, 0));
  REFUSED (backfill_virDomainBlockAllocate (domain, "vda", 0, UINT64_MAX, 0));
  REFUSED (backfill_virDomainBlockGetJobInfo (NULL, "vda", &info));
  REFUSED (backfill_virDomainBlockGetJobInfo (domain, NULL, &info));
  REFUSED (backfill_virDomainBlockGetJobInfo (domain, "vda", NULL));
  REFUSED (backfill_virDomainBlockAbortJob (NULL, "vda"));
  REFUSED (backfill_virDomainBlockAbortJob (domain, NULL));
  REFUSED (backfill_virDomainBlockGetAllocationMap (NULL, "vda", &n, &regions));
  REFUSED (
      backfill_virDomainBlockGetAllocationMap (domain, NULL, &n, &regions));
  REFUSED (
      backfill_virDomainBlockGetAllocationMap (domain, "vda", NULL, &regions));
  REFUSED (backfill_virDomainBlockGetAllocationMap (domain, "vda", &n, NULL));
  REFUSED (backfill_virDomainFindDisk (domain, "vda", NULL, &s));
  REFUSED (backfill_virDomainFindDisk (domain, "vda", &s, NULL));
  REFUSED (backfill_virStorageVolAllocate (NULL, 0, 0, 0));
  REFUSED (backfill_virStorageVolGetJobInfo (NULL, &info));
  REFUSED (backfill_virStorageVolAbortJob (NULL));
  REFUSED (backfill_virStorageVolGetAllocationMap (NULL, &n, &regions));
  REFUSED (backfill_virStorageVolFindDisk (NULL, &s, &s));
  return print (json_object ());
}

/* --- threads ---------------------------------------------------------- */

struct work {
  pthread_t thread;
  virDomainPtr domain;
  const char *path;
};

static void *
work (void *opaque)
{
  struct work *w = opaque;

  for (unsigned i = 0; i < 25; i++) {
    struct backfill_region *regions = NULL;
    unsigned long long end = 0;
    virDomainJobInfo info;
    unsigned n;

    CHECK (backfill_virDomainBlockGetJobInfo (w->domain, w->path, &info) == 0);
    check_info (&info);
    CHECK (backfill_virDomainBlockGetAllocationMap (w->domain, w->path, &n,
                                                    &regions)
           == 0);
    for (unsigned j = 0; j < n; j++) {
      CHECK (regions[j].offset >= end && regions[j].length > 0);
      end = regions[j].offset + regions[j].length;
    }
    free (regions);
    /* Errors are each thread's own. */
    CHECK (backfill_virDomainBlockAbortJob (w->domain, w->path + 1) == -1);
    CHECK (strstr (backfill_get_error (), w->path + 1) != NULL);
  }
  return NULL;
}

static int
threads (virDomainPtr domain, char **paths)
{
  struct work works[16];
  size_t npaths = 0;

  while (paths[npaths] != NULL)
    npaths++;
  for (size_t i = 0; i < 16; i++) {
    works[i].domain = domain;
    works[i].path = paths[i % npaths];
    CHECK (pthread_create (&works[i].thread, NULL, work, &works[i]) == 0);
  }
  for (size_t i = 0; i < 16; i++)
    pthread_join (works[i].thread, NULL);
  return print (json_object ());
}

int
main (int argc, char **argv)
{
  virConnectPtr conn;
  virDomainPtr domain = NULL;
  virStorageVolPtr volume = NULL;
  int status;

  if (argc < 4) {
    fprintf (stderr, "calls: see calls.c\n");
    return 2;
  }
  virSetErrorFunc (NULL, quiet);
  conn = virConnectOpen (argv[1]);
  if (conn == NULL)
    wrong (argv[1]);
  if (strcmp (argv[2], "volume") == 0) {
    virStoragePoolPtr pool = virStoragePoolLookupByName (conn, argv[3]);

    if (argc < 6 || pool == NULL)
      wrong (argv[3]);
    volume = virStorageVolLookupByName (pool, argv[4]);
    if (volume == NULL)
      wrong (argv[4]);
    virStoragePoolFree (pool);
    status = call_volume (volume, argv + 5);
    virStorageVolFree (volume);
  }
  else {
    domain = virDomainLookupByName (conn, argv[3]);
    if (domain == NULL)
      wrong (argv[3]);
    if (strcmp (argv[2], "misuse") == 0)
      status = misuse (domain);
    else if (strcmp (argv[2], "threads") == 0 && argc > 4)
      status = threads (domain, argv + 4);
    else if (strcmp (argv[2], "domain") == 0 && argc > 5)
      status = call_domain (domain, argv[4], argv + 5);
    else
      wrong (argv[2]);
    virDomainFree (domain);
  }
  virConnectClose (conn);
  return status;
}
