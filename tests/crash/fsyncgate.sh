#!/bin/bash
# A failed fdatasync is final (G24): that flush fails, and all later ones,
# although the kernel would call them good; reads go on.  After the volume is
# opened again nothing that was acknowledged is missing, and the next flush
# is true.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154
srcdir=${srcdir:-$(dirname "$0")}
# shellcheck source=crash-lib.sh
. "$srcdir/crash-lib.sh"
crash_init fuse "$@"
[ "$CRASH_SERVER" = backfill ] || skip "nbdkit's file plugin does not promise it"

MiB=1048576
fs_ctl="$mnt/.lossyfs"
first=$seed

for scenario in ${SCENARIO:-store-killed store-ended sidecar-killed \
                            sidecar-ended fua}; do
  for ((seed = first; seed < first + ${SEEDS:-2}; seed++)); do
    case $scenario in
      sidecar-*) file='*.backfill' ;;
      *) file=disk ;;
    esac
    how=flush
    # What is overwritten in place leaves no trace in any map, so that
    # nothing knows after a failed sync that it was not written.  A scenario
    # of its own, which is not run unless named.
    stable='# nothing that was durable is written again'
    if [ "$scenario" = stable-killed ]; then
      stable='write 4096 8192'
    fi
    if [ "$scenario" = fua ]; then
      how="write 600000 4096 fua"
    fi
    # Two sectors of S: what is written after the failure must not bring the
    # bits of before along.
    new_disk $((20 * MiB + 1536))
    backing_start
    fs_start
    server_must_start
    guest <<-END
	write 0 65536
	write 100000 3000
	flush
	read $((2 * MiB)) 65536
	write 200000 65536
	$stable
	zero 300000 30000
	write $((2 * MiB)) 4096
	! echo 'fail fsync $file 1 EIO' > $fs_ctl
	fail $how
	! grep -q '^failed 1' $fs_ctl
	fail flush
	write $((17 * MiB)) 5000
	fail flush
	verify
	fail flush
	END
    # In the order in which an operator would do it; either way the last
    # commit cannot be good.
    if [ "${scenario#*-}" = ended ]; then
      kill -TERM "$server_pid"
      wait_for eval "! kill -0 $server_pid 2>/dev/null" \
        || fail "the server did not end after SIGTERM"
      wait "$server_pid"
      server_pid=''
    else
      server_kill
    fi
    server_must_start
    verify sigkill
    guest <<-END
	flush
	verify
	END
    # Nothing the first process lost is in the cache any more.
    server_kill
    fs evict
    server_must_start
    verify same
    fs "keep * 0" "keep-names none"
    power_cut
    fs_start
    server_must_start
    verify powercut
    server_kill
    fs_stop
  done
  say "$scenario: ok"
done
