/* source-identity.c - what makes a backing store the one we know.
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

#include <openssl/evp.h>

#include "bytes.h"
#include "source-internal.h"

bool
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

bool
identity_digest (uint64_t size, char *const sample[SAMPLES],
                 uint8_t digest[SOURCE_DIGEST_SIZE])
{
  EVP_MD_CTX *ctx = EVP_MD_CTX_new ();
  uint8_t head[8];
  uint64_t offset;
  uint32_t length;
  bool ok;

  if (!ctx)
    return false;
  put_le64 (head, size);
  ok = EVP_DigestInit_ex (ctx, EVP_sha256 (), NULL) == 1
       && EVP_DigestUpdate (ctx, head, sizeof head) == 1;
  for (unsigned i = 0; ok && identity_sample (size, i, &offset, &length); i++)
    ok = EVP_DigestUpdate (ctx, sample[i], length) == 1;
  ok = ok && EVP_DigestFinal_ex (ctx, digest, NULL) == 1;
  EVP_MD_CTX_free (ctx);
  return ok;
}

bool
identity_has_digest (const struct source_identity *identity)
{
  for (unsigned i = 0; i < SOURCE_DIGEST_SIZE; i++)
    if (identity->digest[i])
      return true;
  return false;
}
