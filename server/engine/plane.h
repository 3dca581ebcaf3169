/* plane.h - dirty planes: the granules that a guest has changed, by rounds of
 * a migration.
 *
 * Two planes of one bit a granule: the live one, which changes mark, and the
 * frozen one, which the other side copies.  They are numbered; a change marks
 * the plane that was live when its claim began, and before the store changes.
 * planes_take freezes the live plane and waits for the claims of older
 * numbers, so the frozen plane has every change that a later read may not see.
 *
 * The file is on the runtime directory's tmpfs and mapped: marks survive the
 * process (SIGKILL), not the boot.  A page of bits is made when it is first
 * marked; where there is no room for it, the whole region of 64 MiB is marked
 * in a top level that has its room from the start.  A plane may say more than
 * changed, never less.
 *
 * Any doubt about the file makes the planes lost: all must then be compared.
 * Nothing serves by this yet.
 *
 * Shapes: offsets and lengths are bytes of the disk; plane numbers begin
 * with 1.
 *
 * Locking: marks and claims from any thread, planes_take from one at a time.
 *
 * Errors: -1 with errno; marking cannot fail.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_PLANE_H
#define BACKFILL_PLANE_H

#include <stdbool.h>
#include <stdint.h>

#include "role.h"

#define PLANE_BOOT_ID_SIZE 16

/* Whose planes they are. */
struct planes_id {
  uint8_t lineage[ROLE_ID_SIZE], mid[ROLE_ID_SIZE];
  uint8_t boot_id[PLANE_BOOT_ID_SIZE];
  uint64_t session; /* of the volume: the latest that marked */
  uint64_t generation;
  uint64_t size;
  uint32_t granule; /* planes_granule */
};

struct planes;

/* 4096 or the map's granule, doubled until a plane is 32 MiB at most. */
uint32_t planes_granule (uint64_t size, uint32_t map_granule);

/* EEXIST: there is such a file. */
struct planes *planes_create (const char *path, const struct planes_id *id)
    __attribute__ ((nonnull (1, 2)));
/* Open the file that an earlier process of this boot left.  NULL: the planes
 * are lost, and *why (a static text) says what is wrong with the file. */
struct planes *planes_open (const char *path, const struct planes_id *id,
                            const char **why)
    __attribute__ ((nonnull (1, 2, 3)));
/* The file stays. */
void planes_free (struct planes *p);
/* A new session marks from now on: after it has been recorded. */
void planes_begin_session (struct planes *p, uint64_t session)
    __attribute__ ((nonnull (1)));

/* Syncs of the store: who dies in one has lost its planes, and after one that
 * failed they are lost at the next open; until then nothing can be taken. */
void planes_sync_begin (struct planes *p) __attribute__ ((nonnull (1)));
void planes_sync_end (struct planes *p, bool failed)
    __attribute__ ((nonnull (1)));

/* A change: claim, mark, then the store, then drop. */
struct planes_claim {
  uint64_t number;
};
void planes_claim (struct planes *p, struct planes_claim *c)
    __attribute__ ((nonnull (1, 2)));
void planes_mark (struct planes *p, const struct planes_claim *c,
                  uint64_t offset, uint64_t length)
    __attribute__ ((nonnull (1, 2)));
void planes_drop (struct planes *p, struct planes_claim *c)
    __attribute__ ((nonnull (1, 2)));

/* Freeze plane n, if it is the live one: plane n - 1, which the other side has
 * durably, is dropped.  It may be asked for again until the next.  under: of
 * the first call, which freeze of the guest there is (all zeros: none); of a
 * repeated one, which there was then.  Waits until now_ms () is `until`.
 * ESTALE: it is gone; EINVAL: there is none yet; EIO: a sync has failed;
 * ETIMEDOUT: changes of it go on, ask again. */
int planes_take (struct planes *p, uint64_t n, uint8_t under[ROLE_ID_SIZE],
                 uint64_t until) __attribute__ ((nonnull (1, 3)));
uint64_t planes_live (struct planes *p) __attribute__ ((nonnull (1)));

/* The next run of plane n (live or frozen) from offset on; false: none. */
bool planes_next (struct planes *p, uint64_t n, uint64_t offset,
                  uint64_t *begin, uint64_t *end)
    __attribute__ ((nonnull (1, 4, 5)));

#endif
