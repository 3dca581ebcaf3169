/* sidecar-header.c - the sidecar's header, packed and unpacked.
 *
 * The fixed fields are packed one by one, so that the format does not hang on a
 * compiler.  Areas and records come from two tables, `areas` and `records`: a
 * new one is one row.  A program skips a record that it does not know, so a
 * later version can add one; it refuses an area that it does not know, unless
 * the area's flags allow it.
 *
 * Left out: what a header means (volume.c, match.c).
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"
#include "message.h"
#include "sidecar-header.h"

/* The fixed fields end here, and areas begin. */
#define FIXED_SIZE 192u
#define AREA_SIZE 24u
#define MAX_AREAS 64u
#define RECORD_SIZE 8u /* of its id and length */
#define CRC_SIZE 4u

/* Incompat features: older programs refuse a volume that has one. */
#define FEATURE_ROLE 1u
#define KNOWN_FEATURES FEATURE_ROLE

/* Places of fixed fields that more than one function uses. */
#define AT_VERSION 8u
#define AT_LENGTH 12u
#define AT_RO_COMPAT 24u
#define AT_INCOMPAT 32u
#define AT_SEQUENCE 56u
#define AT_NR_AREAS 184u
#define AT_NR_RECORDS 188u

/* A program that does not know the area's kind must refuse the volume. */
#define AREA_MUST_KNOW 1u

#define MEMBER(m) offsetof (struct sidecar_header, m)
#define NR_OF(table) (sizeof (table) / sizeof (table)[0])

struct area {
  uint32_t kind, flags;
  size_t offset, length; /* members of the header */
  uint64_t min;          /* a shorter one is refused */
};

static const struct area areas[] = {
  { 1, AREA_MUST_KNOW, MEMBER (map_offset), MEMBER (map_length), 0 },
  { 2, AREA_MUST_KNOW, MEMBER (job_offset), MEMBER (job_length),
    2 * SIDECAR_JOB_SIZE },
  /* A program that does not know the count does not know the W that needs it.
   */
  { 3, 0, MEMBER (count_offset), MEMBER (count_length), SIDECAR_COUNT_SIZE },
};

/* Kinds of records.  Numbers are 8 bytes in the file. */
enum kind { STRING, NONCE, NUMBER32, NUMBER64, ROLE };

struct record {
  uint32_t id;
  enum kind kind;
  size_t member;
};

/* In the order in which they are packed. */
static const struct record records[] = {
  { 1, STRING, MEMBER (name) },
  { 2, STRING, MEMBER (backing) },
  { 3, STRING, MEMBER (work) },
  { 4, STRING, MEMBER (control) },
  { 9, STRING, MEMBER (store) },
  { 10, NONCE, MEMBER (nonce) },
  { 16, STRING, MEMBER (command_dir) },
  { 5, NUMBER64, MEMBER (timeout) },
  { 6, NUMBER64, MEMBER (retry) },
  { 7, NUMBER32, MEMBER (fetch_unit) },
  { 8, NUMBER32, MEMBER (connections) },
  { 11, NUMBER32, MEMBER (session_user) },
  { 17, ROLE, MEMBER (role) },
  { 18, STRING, MEMBER (role.host) },
  { 19, STRING, MEMBER (role.peer) },
  { 20, STRING, MEMBER (role.planes) },
};

/* Members of a header by their offset. */

static void *
member (struct sidecar_header *h, size_t offset)
{
  return (char *)h + offset;
}

static const void *
const_member (const struct sidecar_header *h, size_t offset)
{
  return (const char *)h + offset;
}

static uint64_t
number (const struct sidecar_header *h, size_t offset)
{
  return *(const uint64_t *)const_member (h, offset);
}

static char **
string (struct sidecar_header *h, const struct record *r)
{
  return member (h, r->member);
}

/* Strings. */

int
sidecar_set (char **field, const char *value)
{
  char *copy = NULL;

  if (value && !(copy = strdup (value)))
    return -1;
  free (*field);
  *field = copy;
  return 0;
}

void
sidecar_header_clear (struct sidecar_header *h)
{
  for (size_t i = 0; i < NR_OF (records); i++)
    if (records[i].kind == STRING)
      free (*string (h, &records[i]));
  memset (h, 0, sizeof *h);
}

int
sidecar_header_copy (struct sidecar_header *to,
                     const struct sidecar_header *from)
{
  int r = 0;

  *to = *from;
  for (size_t i = 0; i < NR_OF (records); i++)
    if (records[i].kind == STRING) {
      char **s = string (to, &records[i]);

      if (*s && !(*s = strdup (*s)))
        r = -1;
    }
  return r;
}

/* Packing. */

struct packer {
  uint8_t *p;
  size_t len, cap;
  bool full;
};

static void
pack_record (struct packer *pk, uint32_t id, const void *bytes, size_t len)
{
  if (len > UINT32_MAX || pk->len + RECORD_SIZE + len > pk->cap) {
    pk->full = true;
    return;
  }
  put_le32 (pk->p + pk->len, id);
  put_le32 (pk->p + pk->len + 4, (uint32_t)len);
  memcpy (pk->p + pk->len + RECORD_SIZE, bytes, len);
  pk->len += RECORD_SIZE + len;
}

static bool
has_nonce (const struct sidecar_header *h)
{
  return !is_all_zero ((const char *)h->nonce, sizeof h->nonce);
}

static bool
pack_number (struct packer *pk, uint32_t id, uint64_t n)
{
  uint8_t le[8];

  if (n == 0)
    return false;
  put_le64 (le, n);
  pack_record (pk, id, le, sizeof le);
  return true;
}

/* Pack the record, if the header has it. */
static bool
pack_member (struct packer *pk, const struct sidecar_header *h,
             const struct record *r)
{
  const void *m = const_member (h, r->member);
  uint8_t packed[ROLE_RECORD];
  const char *s;

  switch (r->kind) {
  case STRING:
    if (!(s = *(char *const *)m))
      return false;
    pack_record (pk, r->id, s, strlen (s));
    return true;
  case NONCE:
    if (!has_nonce (h))
      return false;
    pack_record (pk, r->id, h->nonce, sizeof h->nonce);
    return true;
  case NUMBER32:
    return pack_number (pk, r->id, *(const uint32_t *)m);
  case NUMBER64:
    return pack_number (pk, r->id, *(const uint64_t *)m);
  case ROLE:
    if (h->role.kind == ROLE_NONE)
      return false;
    role_pack (&h->role, packed);
    pack_record (pk, r->id, packed, sizeof packed);
    return true;
  }
  return false;
}

static void
pack_fixed (const struct sidecar_header *h, uint8_t *buf)
{
  memset (buf, 0, SIDECAR_HEADER_SIZE);
  memcpy (buf, SIDECAR_MAGIC, 8);
  put_le32 (buf + AT_VERSION, SIDECAR_VERSION);
  /* 16..31: compat and ro-compat features: none yet. */
  put_le64 (buf + AT_INCOMPAT, h->role.kind == ROLE_NONE ? 0 : FEATURE_ROLE);
  memcpy (buf + 40, h->uuid, SIDECAR_UUID_SIZE);
  put_le64 (buf + AT_SEQUENCE, h->sequence);
  put_le64 (buf + 64, h->size);
  put_le32 (buf + 72, h->granule);
  put_le32 (buf + 76, h->state);
  put_le64 (buf + 80, h->store_ino);
  put_le64 (buf + 88, h->store_btime);
  put_le32 (buf + 96, h->identity_mode);
  put_le64 (buf + 104, h->identity_size);
  memcpy (buf + 112, h->identity_digest, SIDECAR_DIGEST_SIZE);
  put_le64 (buf + 144, h->session);
  put_le32 (buf + 152, h->session_open);
  put_le32 (buf + 156, h->session_pid);
  memcpy (buf + 160, h->boot_id, SIDECAR_BOOT_ID_SIZE);
}

static uint32_t
pack_areas (struct packer *pk, const struct sidecar_header *h)
{
  uint32_t nr = 0;

  for (size_t i = 0; i < NR_OF (areas); i++) {
    uint64_t length = number (h, areas[i].length);
    uint8_t *p = pk->p + pk->len;

    if (length == 0)
      continue;
    put_le32 (p, areas[i].kind);
    put_le32 (p + 4, areas[i].flags);
    put_le64 (p + 8, number (h, areas[i].offset));
    put_le64 (p + 16, length);
    pk->len += AREA_SIZE;
    nr++;
  }
  return nr;
}

int
sidecar_header_pack (const struct sidecar_header *h, uint8_t *buf)
{
  struct packer pk
      = { .p = buf, .len = FIXED_SIZE, .cap = SIDECAR_HEADER_SIZE - CRC_SIZE };
  uint32_t nr_records = 0;

  pack_fixed (h, buf);
  put_le32 (buf + AT_NR_AREAS, pack_areas (&pk, h));
  for (size_t i = 0; i < NR_OF (records); i++)
    nr_records += pack_member (&pk, h, &records[i]);
  put_le32 (buf + AT_NR_RECORDS, nr_records);
  if (pk.full) {
    errno = ENAMETOOLONG;
    return -1;
  }
  put_le32 (buf + AT_LENGTH, (uint32_t)(pk.len + CRC_SIZE));
  put_le32 (buf + pk.len, crc32c (buf, pk.len));
  return 0;
}

/* Unpacking. */

bool
sidecar_header_is_whole (const uint8_t *buf)
{
  uint32_t len = get_le32 (buf + AT_LENGTH);

  return memcmp (buf, SIDECAR_MAGIC, 8) == 0 && len >= FIXED_SIZE + CRC_SIZE
         && len <= SIDECAR_HEADER_SIZE
         && crc32c (buf, len - CRC_SIZE) == get_le32 (buf + len - CRC_SIZE);
}

uint64_t
sidecar_header_sequence (const uint8_t *buf)
{
  return get_le64 (buf + AT_SEQUENCE);
}

uint64_t
sidecar_header_nr_sectors (const struct sidecar_header *h)
{
  uint64_t granules = (h->size + h->granule - 1) / h->granule;

  return (granules + SIDECAR_BITS - 1) / SIDECAR_BITS;
}

static bool
apart (uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length)
{
  return a_length == 0 || b_length == 0 || a + a_length <= b
         || b + b_length <= a;
}

bool
sidecar_header_areas_are_apart (const struct sidecar_header *h)
{
  for (size_t i = 0; i < NR_OF (areas); i++) {
    uint64_t offset = number (h, areas[i].offset);
    uint64_t length = number (h, areas[i].length);

    if (!apart (0, 2 * SIDECAR_HEADER_SIZE, offset, length))
      return false;
    for (size_t j = 0; j < i; j++)
      if (!apart (number (h, areas[j].offset), number (h, areas[j].length),
                  offset, length))
        return false;
  }
  return h->map_length == 0 || h->map_offset % SIDECAR_SECTOR == 0;
}

/* Refuse a version or a feature that this program does not know. */
static int
check_version (const uint8_t *buf, const char *path, char **error)
{
  if (get_le32 (buf + AT_VERSION) != SIDECAR_VERSION) {
    message_set (error,
                 "the sidecar %s is of version %u and this program reads "
                 "version %u: use the program that wrote it",
                 path, get_le32 (buf + AT_VERSION), SIDECAR_VERSION);
    return -1;
  }
  if (get_le64 (buf + AT_RO_COMPAT) != 0
      || (get_le64 (buf + AT_INCOMPAT) & ~(uint64_t)KNOWN_FEATURES)) {
    message_set (error,
                 "the sidecar %s needs features that this program does not "
                 "have (ro-compat 0x%llx, incompat 0x%llx): use a newer one",
                 path, (unsigned long long)get_le64 (buf + AT_RO_COMPAT),
                 (unsigned long long)get_le64 (buf + AT_INCOMPAT));
    return -1;
  }
  return 0;
}

static int
makes_no_sense (const char *path, char **error)
{
  message_set (error,
               "the sidecar %s has a header that makes no sense: restore it "
               "from a backup, or give up what is not in the backing store by "
               "removing it and adopt=absent",
               path);
  return -1;
}

static void
unpack_fixed (const uint8_t *buf, struct sidecar_header *h)
{
  memcpy (h->uuid, buf + 40, SIDECAR_UUID_SIZE);
  h->sequence = get_le64 (buf + AT_SEQUENCE);
  h->size = get_le64 (buf + 64);
  h->granule = get_le32 (buf + 72);
  h->state = get_le32 (buf + 76);
  h->store_ino = get_le64 (buf + 80);
  h->store_btime = get_le64 (buf + 88);
  h->identity_mode = get_le32 (buf + 96);
  h->identity_size = get_le64 (buf + 104);
  memcpy (h->identity_digest, buf + 112, SIDECAR_DIGEST_SIZE);
  h->session = get_le64 (buf + 144);
  h->session_open = get_le32 (buf + 152) != 0;
  h->session_pid = get_le32 (buf + 156);
  memcpy (h->boot_id, buf + 160, SIDECAR_BOOT_ID_SIZE);
}

static bool
fixed_make_sense (const struct sidecar_header *h)
{
  return is_power_of_2 (h->granule) && h->granule >= 512 && h->granule <= 65536
         && h->size <= SIDECAR_MAX_SIZE (h->granule)
         && h->identity_mode <= SIDECAR_IDENTITY_SIZE;
}

static int
unpack_area (const uint8_t *p, uint64_t file_size, const char *path,
             struct sidecar_header *h, char **error)
{
  uint32_t kind = get_le32 (p);
  uint64_t offset = get_le64 (p + 8);
  uint64_t length = get_le64 (p + 16);

  if (offset > INT64_MAX || length > INT64_MAX)
    return makes_no_sense (path, error);
  if (offset + length > file_size) {
    message_set (error,
                 "the sidecar %s is cut short: it has %llu bytes and needs "
                 "%llu; restore it from a backup, or give up what is not in "
                 "the backing store by removing it and adopt=absent",
                 path, (unsigned long long)file_size,
                 (unsigned long long)(offset + length));
    return -1;
  }
  for (size_t i = 0; i < NR_OF (areas); i++)
    if (areas[i].kind == kind) {
      *(uint64_t *)member (h, areas[i].offset) = offset;
      *(uint64_t *)member (h, areas[i].length) = length;
      return 0;
    }
  if (get_le32 (p + 4) & AREA_MUST_KNOW) {
    message_set (error,
                 "the sidecar %s has an area of kind %u, which this program "
                 "does not know: use a newer one",
                 path, kind);
    return -1;
  }
  return 0;
}

static bool
areas_make_sense (const struct sidecar_header *h)
{
  if (!(h->state & SIDECAR_COMPLETE)
      && h->map_length / SIDECAR_SECTOR < sidecar_header_nr_sectors (h))
    return false;
  for (size_t i = 0; i < NR_OF (areas); i++) {
    uint64_t length = number (h, areas[i].length);

    if (length != 0 && length < areas[i].min)
      return false;
  }
  return sidecar_header_areas_are_apart (h);
}

/* A NUL inside would cut the string in silence. */
static int
unpack_string (const uint8_t *p, uint32_t len, char **field)
{
  free (*field);
  *field = memchr (p, 0, len) ? NULL : strndup ((const char *)p, len);
  return *field ? 0 : -1;
}

static int
unpack_member (const struct record *r, const uint8_t *p, uint32_t len,
               struct sidecar_header *h)
{
  void *m = member (h, r->member);

  switch (r->kind) {
  case STRING:
    return unpack_string (p, len, m);
  case NONCE:
    if (len != sizeof h->nonce)
      return -1;
    memcpy (m, p, len);
    return 0;
  case NUMBER32:
  case NUMBER64:
    if (len != 8)
      return -1;
    if (r->kind == NUMBER32)
      *(uint32_t *)m = (uint32_t)get_le64 (p);
    else
      *(uint64_t *)m = get_le64 (p);
    return 0;
  case ROLE:
    /* check_role refuses a role that is left unknown here. */
    if (len != ROLE_RECORD || role_unpack (m, p) == -1)
      h->role.kind = NR_ROLES;
    return 0;
  }
  return -1;
}

/* Unpack nr records in [pos, end) of buf.  Records of a later version are
 * skipped. */
static int
unpack_records (const uint8_t *buf, size_t pos, size_t end, uint32_t nr,
                struct sidecar_header *h)
{
  while (nr-- > 0) {
    uint32_t id, len;

    if (end - pos < RECORD_SIZE)
      return -1;
    id = get_le32 (buf + pos);
    len = get_le32 (buf + pos + 4);
    pos += RECORD_SIZE;
    if (len > end - pos)
      return -1;
    for (size_t i = 0; i < NR_OF (records); i++)
      if (records[i].id == id
          && unpack_member (&records[i], buf + pos, len, h) == -1)
        return -1;
    pos += len;
  }
  return 0;
}

/* Refuse a role that is unknown or makes no sense: who owns the disk must not
 * be guessed. */
static int
check_role (const uint8_t *buf, const char *path, struct sidecar_header *h,
            char **error)
{
  bool named = get_le64 (buf + AT_INCOMPAT) & FEATURE_ROLE;

  if (h->role.kind == NR_ROLES) {
    message_set (error,
                 "the sidecar %s has a role in a migration that this program "
                 "does not know: use a newer one",
                 path);
    return -1;
  }
  if (named == (h->role.kind != ROLE_NONE) && role_is_whole (&h->role)
      && (!named || !(h->state & SIDECAR_DETACHED)))
    return 0;
  message_set (error,
               "the sidecar %s has a role in a migration that makes no sense: "
               "restore it from a backup, and serve the disk nowhere until it "
               "is known who owns it",
               path);
  return -1;
}

static int
unpack_all (const uint8_t *buf, uint64_t file_size, const char *path,
            struct sidecar_header *h, char **error)
{
  const size_t end = get_le32 (buf + AT_LENGTH) - CRC_SIZE;
  const uint32_t nr_areas = get_le32 (buf + AT_NR_AREAS);
  size_t pos = FIXED_SIZE;

  if (check_version (buf, path, error) == -1)
    return -1;
  unpack_fixed (buf, h);
  if (!fixed_make_sense (h) || nr_areas > MAX_AREAS
      || (end - pos) / AREA_SIZE < nr_areas)
    return makes_no_sense (path, error);
  for (uint32_t i = 0; i < nr_areas; i++, pos += AREA_SIZE)
    if (unpack_area (buf + pos, file_size, path, h, error) == -1)
      return -1;
  if (!areas_make_sense (h)
      || unpack_records (buf, pos, end, get_le32 (buf + AT_NR_RECORDS), h)
             == -1)
    return makes_no_sense (path, error);
  return check_role (buf, path, h, error);
}

int
sidecar_header_unpack (const uint8_t *buf, uint64_t file_size, const char *path,
                       struct sidecar_header *h, char **error)
{
  if (unpack_all (buf, file_size, path, h, error) == 0)
    return 0;
  sidecar_header_clear (h);
  errno = EINVAL;
  return -1;
}
