/* array.h - an array that grows by one element at a time.
 *
 *   if (ARRAY_ROOM (list->ptr, list->nr) == -1)
 *     return -1;
 *   list->ptr[list->nr++] = element;
 *
 * Room is made where the number of elements is a power of two, so no capacity
 * is kept.  The array begins as NULL, grows by this alone, and is freed by
 * free; elements may be removed.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_ARRAY_H
#define BACKFILL_ARRAY_H

#include <stdlib.h>

#define ARRAY_MIN 4u

/* Where the array is from now on; NULL with errno, and it is where it was. */
static inline void *
array_room (void *ptr, size_t nr, size_t size)
{
  if (nr != 0 && (nr < ARRAY_MIN || (nr & (nr - 1)) != 0))
    return ptr;
  return reallocarray (ptr, nr == 0 ? ARRAY_MIN : 2 * nr, size);
}

/* Room in ptr, which has nr elements, for one more: 0, or -1 with errno. */
#define ARRAY_ROOM(ptr, nr)                                           \
  ({                                                                  \
    __typeof__ (ptr) room_ = array_room ((ptr), (nr), sizeof *(ptr)); \
                                                                      \
    room_ ? ((ptr) = room_, 0) : -1;                                  \
  })

#endif
