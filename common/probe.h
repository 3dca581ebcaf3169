/* probe.h - static tracepoints (USDT) of the provider "backfill".
 *
 * PROBE (name, argument ...) is one no-op instruction, and a note in the
 * object that says where it is and where its arguments are, so the arguments
 * should be at hand: integers and pointers.  Without <sys/sdt.h>
 * (systemtap-sdt-dev) it is nothing.  HACKING.md lists them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#ifndef BACKFILL_PROBE_H
#define BACKFILL_PROBE_H

#include "config.h"

#ifdef HAVE_SYS_SDT_H
#define SDT_USE_VARIADIC
#include <sys/sdt.h>
#define PROBE(...) STAP_PROBEV (backfill, __VA_ARGS__)
#else
static inline void
probe_none (const char *name, ...)
{
  (void)name;
}
#define PROBE(name, ...) probe_none (#name, ##__VA_ARGS__)
#endif

#endif
