/* units.c - see units.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <ctype.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "units.h"

#define YEAR_MS (UINT64_C (365) * 86400 * 1000)

/* The digits at *p, which is moved past them.  False: they are too many. */
static bool
take_number (const char **p, uint64_t *n)
{
  *n = 0;
  for (; isdigit ((unsigned char)**p); (*p)++)
    if (__builtin_mul_overflow (*n, 10, n)
        || __builtin_add_overflow (*n, (uint64_t)(**p - '0'), n))
      return false;
  return true;
}

int
units_size (const char *text, uint64_t *r, const char **why)
{
  static const char letters[] = "bkmgtpe";
  uint64_t n, scale = 1;
  const char *p = text;

  if (*p == '-') {
    *why = "it is negative";
    return -1;
  }
  if (!isdigit ((unsigned char)*p)) {
    *why = "it is not a number";
    return -1;
  }
  if (!take_number (&p, &n)) {
    *why = "it is too large";
    return -1;
  }
  if (*p == '.' || *p == ',') {
    *why = "only whole numbers can be used: for 1.5G write 1536M";
    return -1;
  }
  if (*p != '\0') {
    const char *letter = strchr (letters, tolower ((unsigned char)*p));

    if (letter != NULL)
      scale = UINT64_C (1) << (10 * (letter - letters));
    else if (tolower ((unsigned char)*p) == 's')
      scale = 512;
    else {
      *why = "it does not end in one of the suffixes b k M G T P E "
             "(times 1024) or s (512-byte sectors)";
      return -1;
    }
    if (p[1] != '\0') {
      *why = "there is something after its suffix (b, k, M, G, T, P, E or s, "
             "one letter)";
      return -1;
    }
  }
  if (__builtin_mul_overflow (n, scale, &n) || n > INT64_MAX) {
    *why = "it is too large";
    return -1;
  }
  *r = n;
  return 0;
}

int
units_speed (const char *text, uint64_t *r, const char **why)
{
  if (strcmp (text, "none") != 0)
    return units_size (text, r, why);
  *r = 0;
  return 0;
}

int
units_time (const char *text, uint64_t *r, const char **why)
{
  static const struct {
    const char *suffix;
    uint64_t ms;
  } units[] = {
    { "", 1000 },   { "ms", 1 },      { "s", 1000 },
    { "m", 60000 }, { "h", 3600000 }, { "d", 86400000 },
  };
  const char *p = text;
  uint64_t n;

  if (strcmp (text, "forever") == 0) {
    *r = UNITS_FOREVER;
    return 0;
  }
  if (isdigit ((unsigned char)*p) && take_number (&p, &n))
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
      if (strcmp (p, units[i].suffix) == 0 && n <= YEAR_MS / units[i].ms) {
        *r = n * units[i].ms;
        return 0;
      }
  *why = "give seconds, or a whole number with ms, s, m, h or d, up to a year";
  return -1;
}
