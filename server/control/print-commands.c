/* print-commands.c - print the reference of the commands, as POD, from the
 * table that the server works from: for docs/backfill-protocol.pod.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <stdio.h>

#include "command.h"

int
main (void)
{
  command_print (stdout);
  return fclose (stdout) == 0 ? 0 : 1;
}
