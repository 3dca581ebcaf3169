#!/bin/bash
# A write that comes while its granule is being fetched is not lost (I3, G4):
# the recipe that makes nbdkit's cow and others lose data.  The backing store
# takes 2 s for each read; half a second after a read was sent, the guest
# writes, zeroes and trims the same place.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154
srcdir=${srcdir:-$(dirname "$0")}
# shellcheck source=crash-lib.sh
. "$srcdir/crash-lib.sh"
crash_init nofuse "$@"

MiB=1048576
store=$tmp/fs.0/disk

# $1: by whom the fetch is: a read of the guest, or a job.
for scenario in ${SCENARIO:-read job}; do
  # All data: holes are not fetched.
  new_disk $((4 * MiB + 1536)) --dense
  backing_args="delay-read=2"
  backing_start --filter=delay
  if [ "$scenario" = job ]; then
    server_must_start allocate=on
    fetch="# the job fetches"
  else
    server_must_start
    fetch="aread 0 4096
	aread 65536 65536
	aread 131072 4096
	aread $MiB 262144
	aread $((4 * MiB)) 1536"
  fi
  guest <<-END
	$fetch
	sleep 500
	awrite 0 4096
	awrite 65536 512
	awrite 70000 300
	awrite 73728 8192
	azero 81920 4096
	azero 90000 1000
	atrim 98304 4096
	atrim 104448 512
	awrite 131072 1
	awrite 131584 100000
	azero $MiB 131072
	awrite $((MiB + 131072)) 131072
	atrim $((2 * MiB)) $MiB
	awrite $((4 * MiB + 1000)) 536
	wait
	verify
	sleep 2500
	verify
	END
  if [ "$CRASH_SERVER" = backfill ]; then
    must_allocate sparse
  fi
  verify same
  server_stop
  if [ "$CRASH_SERVER" = backfill ]; then
    verify_at "$store" same
  fi
  say "$scenario: ok"
done
