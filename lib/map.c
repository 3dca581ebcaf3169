/* map.c - the allocation map, put together from pages.
 *
 * A page is what the server puts in one message.  The map may change between
 * two pages.  Each page is true for the moment at which it was asked for.
 * Regions that touch across pages are joined.
 *
 * Locking: client.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdlib.h>
#include <errno.h>

#include "client.h"
#include "cleanup.h"

/* More than fit in a message: the server stops where a page is full. */
#define PAGE_REGIONS 100000

static int
get_pages (struct backfill *h, const char *disk, uint64_t offset,
           uint64_t length, bool states, struct region_list *list)
{
  int64_t deadline = handle_deadline (h);
  CLEANUP_FREE char *device = NULL;
  uint64_t from = offset, next, size;
  struct conn *conn;
  int r = -1;

  if (offset > INT64_MAX || length > INT64_MAX - offset)
    return error_set (EINVAL, "the range is more than any disk can hold");
  conn = route_disk (h, disk, false, &device, deadline);
  if (conn == NULL)
    return -1;
  if (device == NULL) /* the only disk, or an error that lists them */
    device = route_disk_name (conn, NULL, deadline);
  if (device == NULL) {
    handle_give (h, conn);
    return -1;
  }
  do {
    json_t *args, *page;

    args = json_pack (
        "{s:I, s:I, s:i, s:b, s:b}", "offset", (json_int_t)from, "length",
        (json_int_t)(length == 0 ? 0 : offset + length - from), "max-regions",
        PAGE_REGIONS, "states", states, "packed", 1);
    if (args == NULL) {
      r = error_set (ENOMEM, "out of memory");
      break;
    }
    page
        = handle_execute (conn, device, "query-allocation-map", args, deadline);
    if (page == NULL) {
      r = -1;
      break;
    }
    r = reply_regions (page, states, from, list, &next, &size);
    json_decref (page);
    from = next;
    deadline = handle_deadline (h);
  } while (r == 0 && next < size && (length == 0 || next < offset + length));
  handle_give (h, conn);
  return r;
}

int
backfill_block_get_state_map (struct backfill *h, const char *disk,
                              uint64_t offset, uint64_t length,
                              unsigned *nregions,
                              struct backfill_state_region **regions)
{
  struct region_list list = { 0 };

  if (get_pages (h, disk, offset, length, true, &list) == -1) {
    free (list.ptr);
    return -1;
  }
  *nregions = (unsigned)list.len;
  *regions = list.ptr;
  return 0;
}

int
backfill_block_get_allocation_map (struct backfill *h, const char *disk,
                                   unsigned *nregions,
                                   struct backfill_region **regions)
{
  struct region_list list = { 0 };
  struct backfill_region *ptr = NULL;

  if (get_pages (h, disk, 0, 0, false, &list) == -1) {
    free (list.ptr);
    return -1;
  }
  if (list.len > 0) {
    ptr = calloc (list.len, sizeof *ptr);
    if (ptr == NULL) {
      free (list.ptr);
      error_nomem ();
      return -1;
    }
    for (size_t i = 0; i < list.len; i++) {
      ptr[i].offset = list.ptr[i].offset;
      ptr[i].length = list.ptr[i].length;
    }
  }
  free (list.ptr);
  *nregions = (unsigned)list.len;
  *regions = ptr;
  return 0;
}
