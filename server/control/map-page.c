/* map-page.c - query-block-allocated: a disk's map, a page at a time.
 *
 * An answer has to fit in a message, so a page ends at MAX_PAGE bytes, or at as
 * many regions as the client wants, and says where the next one begins.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "handlers.h"
#include "object.h"
#include "target.h"
#include "wire.h"

#define MAX_PAGE (WIRE_MAX_LINE - MAX_ID - 4096) /* regions in one answer */

/* A page of the map in the making. */
struct page {
  json_t *regions; /* array, or NULL: */
  char *packed;
  size_t nr, max, bytes;
  bool states, more, failed;
  uint64_t next; /* if more */
};

/* A letter and a length: a million regions as objects would be seconds of JSON
 * at both ends. */
static int
pack_region (void *opaque, uint64_t offset, uint64_t length,
             enum disk_region_state state)
{
  static const char letters[]
      = { [DISK_LOCAL] = 'l', [DISK_ABSENT] = 'a', [DISK_ZERO] = 'z' };
  struct page *page = opaque;
  char digits[20], *p = digits + sizeof digits;

  do
    *--p = (char)('0' + length % 10);
  while (length /= 10);
  if (page->nr == page->max || MAX_PAGE - page->bytes < 1 + sizeof digits) {
    page->next = offset;
    page->more = true;
    return 1;
  }
  page->nr++;
  page->packed[page->bytes++] = letters[state];
  memcpy (page->packed + page->bytes, p, (size_t)(digits + sizeof digits - p));
  page->bytes += (size_t)(digits + sizeof digits - p);
  return 0;
}

static int
add_region (void *opaque, uint64_t offset, uint64_t length,
            enum disk_region_state state)
{
  static const char *const names[] = {
    [DISK_LOCAL] = "local",
    [DISK_ABSENT] = "absent",
    [DISK_ZERO] = "zero",
  };
  struct page *page = opaque;
  json_t *region;
  size_t bytes;

  if (!page->states && state == DISK_ABSENT)
    return 0;
  region = json_pack ("{s:o*,s:o*}", "offset", object_number (offset), "length",
                      object_number (length));
  if (page->states && region
      && object_set (region, "state", json_string (names[state])) == -1) {
    json_decref (region);
    region = NULL;
  }
  if (region == NULL) {
    page->failed = true;
    return 1;
  }
  bytes = json_dumpb (region, NULL, 0, DUMP_FLAGS) + 2; /* and ", " */
  if (json_array_size (page->regions) == page->max
      || bytes > MAX_PAGE - page->bytes) {
    page->next = offset;
    page->more = true;
    json_decref (region);
    return 1;
  }
  page->bytes += bytes;
  page->failed = json_array_append_new (page->regions, region) == -1;
  return page->failed;
}

/* The disk whose map is asked for: open, or as it looks in its files. */
struct mapped {
  struct disk *disk; /* NULL: */
  const struct disk_peek *peek;
  const char *name;
  uint64_t size;
};

/* 0, or -1 with the call's error: the range is not within the disk. */
static int
check_range (struct call *call, const struct mapped *m, uint64_t offset,
             uint64_t length)
{
  if (offset > m->size)
    CALL_FAIL (call, "GenericError", EINVAL,
               "Offset %" PRIu64
               " is past the end of disk '%s', which has %" PRIu64 " bytes",
               offset, m->name, m->size);
  else if (length > m->size - offset)
    CALL_FAIL (call, "GenericError", EINVAL,
               "The range %" PRIu64 "+%" PRIu64
               " is not within disk '%s', which "
               "has %" PRIu64 " bytes",
               offset, length, m->name, m->size);
  else
    return 0;
  return -1;
}

/* Put the regions of a range, which is not empty, in the page.  -1 with the
 * call's error. */
static int
fill_page (struct call *call, const struct mapped *m, uint64_t offset,
           uint64_t length, struct page *page)
{
  disk_region_fn add = page->packed ? pack_region : add_region;
  int err;

  if ((m->disk ? disk_regions (m->disk, length, offset, page->states, add, page)
               : disk_peek_regions (m->peek, length, offset, page->states, add,
                                    page))
      != -1)
    return 0;
  err = errno;
  CALL_FAIL (call, "GenericError", err,
             "The map of disk '%s' cannot be read: %s%s", m->name,
             strerrordesc_np (err),
             err == EIO ? ": part of its sidecar is damaged, query-disks shows "
                          "which; the map of other ranges can be had"
                        : "");
  return -1;
}

/* What the command returns; the page's regions are taken. */
static json_t *
page_object (const struct mapped *m, struct page *page)
{
  json_t *o;

  if (page->packed)
    page->regions = json_stringn_nocheck (page->packed, page->bytes);
  o = json_pack (
      "{s:o,s:o*,s:o*}", page->packed ? "packed" : "regions", page->regions,
      "size", object_number (m->size), "granule",
      object_number (m->disk ? disk_granule (m->disk) : m->peek->info.granule));
  page->regions = NULL;
  if (page->more && o
      && object_set (o, "next", object_number (page->next)) == -1) {
    json_decref (o);
    return NULL;
  }
  return o;
}

json_t *
run_map (struct call *call)
{
  uint64_t offset = arg_size (call, "offset");
  uint64_t length = arg_size (call, "length");
  struct page page = {
    .max = arg_size (call, "max-regions"),
    .states = arg_value (call, "states"),
  };
  __attribute__ ((cleanup (disk_peek_clear))) struct disk_peek peek = { 0 };
  int peeked = peek_device (call, &peek), r = 0;
  struct mapped m = { .disk = peeked ? NULL : call_disk (call), .peek = &peek };
  json_t *o = NULL;

  if (call->error || (m.disk == NULL && peeked != 1))
    return NULL;
  m.name = m.disk ? disk_name (m.disk) : peek.info.name;
  m.size = m.disk ? disk_size (m.disk) : peek.info.size;
  if (check_range (call, &m, offset, length) == -1)
    return NULL;
  if (length == 0)
    length = m.size - offset;
  if (arg_value (call, "packed"))
    page.packed = malloc (MAX_PAGE);
  else
    page.regions = json_array ();
  if (page.packed == NULL && page.regions == NULL)
    return NULL;
  if (length > 0)
    r = fill_page (call, &m, offset, length, &page);
  if (r == 0 && !page.failed)
    o = page_object (&m, &page);
  free (page.packed);
  json_decref (page.regions);
  return o;
}
