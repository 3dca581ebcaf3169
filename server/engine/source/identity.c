/* source/identity.c - what makes a backing store the one we know (I9).
 *
 * The digest is SHA-256 over the size (64 bits, little-endian) and up to 16
 * samples of 4 KiB.  A disk of up to 64 KiB is taken whole.  On a larger one
 * the samples start at multiples of 4 KiB, evenly spread from the first byte
 * to the last, and the last is cut at the end.  The places never change:
 * digests are kept in sidecars.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "source/identity.h"

#define SAMPLES 16
#define SAMPLE_SIZE 4096

struct verify {
  uint64_t size;
  unsigned nr, left; /* samples, and those that are not answered */
  bool failed;
  uint64_t failed_at;
  struct source_req req[SAMPLES];
  char data[SAMPLES][SAMPLE_SIZE];
};

/* The place of a sample; false if there are fewer than that. */
static bool
identity_sample (uint64_t size, unsigned i, uint64_t *offset, uint32_t *length)
{
  if (size <= SAMPLES * SAMPLE_SIZE)
    *offset = (uint64_t)i * SAMPLE_SIZE;
  else if (i == SAMPLES - 1)
    *offset = round_down (size - 1, SAMPLE_SIZE);
  else
    *offset = round_down ((size - 1) / (SAMPLES - 1) * i, SAMPLE_SIZE);
  if (i >= SAMPLES || *offset >= size)
    return false;
  *length = (uint32_t)min_u64 (SAMPLE_SIZE, size - *offset);
  return true;
}

static bool
identity_digest (const struct verify *v, uint8_t digest[SOURCE_DIGEST_SIZE])
{
  EVP_MD_CTX *ctx = EVP_MD_CTX_new ();
  uint8_t head[8];
  uint64_t offset;
  uint32_t length;
  bool ok;

  if (!ctx)
    return false;
  put_le64 (head, v->size);
  ok = EVP_DigestInit_ex (ctx, EVP_sha256 (), NULL) == 1
       && EVP_DigestUpdate (ctx, head, sizeof head) == 1;
  for (unsigned i = 0; ok && identity_sample (v->size, i, &offset, &length);
       i++)
    ok = EVP_DigestUpdate (ctx, v->data[i], length) == 1;
  ok = ok && EVP_DigestFinal_ex (ctx, digest, NULL) == 1;
  EVP_MD_CTX_free (ctx);
  return ok;
}

static bool
identity_has_digest (const struct source_identity *identity)
{
  for (unsigned i = 0; i < SOURCE_DIGEST_SIZE; i++)
    if (identity->digest[i])
      return true;
  return false;
}

static void
sample_done (struct source_req *req, int error)
{
  struct verify *v = req->opaque;

  if (error && !v->failed) {
    v->failed = true;
    v->failed_at = req->offset;
  }
  v->left--;
}

struct verify *
verify_new (uint64_t size)
{
  struct verify *v = calloc (1, sizeof *v);

  if (!v)
    return NULL;
  v->size = size;
  for (; v->nr < SAMPLES; v->nr++) {
    struct source_req *req = &v->req[v->nr];

    if (!identity_sample (size, v->nr, &req->offset, &req->length))
      break;
    req->buf = v->data[v->nr];
    req->at = req->offset;
    req->internal = true;
    req->done = sample_done;
    req->opaque = v;
  }
  v->left = v->nr;
  return v;
}

struct source_req *
verify_request (struct verify *v, unsigned i)
{
  return i < v->nr ? &v->req[i] : NULL;
}

bool
verify_is_answered (const struct verify *v)
{
  return v->left == 0;
}

int
verify_digest (const struct verify *v, uint8_t digest[SOURCE_DIGEST_SIZE],
               char *why, size_t len)
{
  if (v->failed) {
    snprintf (why, len,
              "a sample of its content, at offset %" PRIu64
              ", cannot be read (identity=size does without them)",
              v->failed_at);
    return EAGAIN;
  }
  if (identity_digest (v, digest))
    return 0;
  snprintf (why, len, "libcrypto failed to make a digest");
  return EAGAIN;
}

bool
identity_take_or_match (struct source_identity *identity,
                        const uint8_t digest[SOURCE_DIGEST_SIZE])
{
  if (!identity_has_digest (identity))
    memcpy (identity->digest, digest, SOURCE_DIGEST_SIZE);
  return memcmp (digest, identity->digest, SOURCE_DIGEST_SIZE) == 0;
}

void
verify_free (struct verify *v)
{
  free (v);
}
