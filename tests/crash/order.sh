#!/bin/bash
# Data is durable before its bit is written, and the bit before the flush is
# answered (I1), read from lossyfs's log of what really happened.
#
#   SCENARIO=name SEED=first SEEDS=how-many ./order.sh
#
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154
srcdir=${srcdir:-$(dirname "$0")}
# shellcheck source=crash-lib.sh
. "$srcdir/crash-lib.sh"
crash_init fuse "$@"
[ "$CRASH_SERVER" = backfill ] || skip "there is no sidecar"

MiB=1048576
fs_ctl="$mnt/.lossyfs"
first=$seed
SEEDS=${SEEDS:-3}

# must_step STEPS: what was done between the marks, runs of one kind as one.
must_step () {
  local steps

  steps=$(awk '$3 == "mark" { on = $4 == "begin"; next }
               on && $3 != "fsync-begin" && !/^#/ {
                 step = $3 " " $4
                 if (step != last) print step
                 last = step }' "$fs_log" | paste -sd,)
  [ "$steps" = "$1" ] || fail "the steps were: $steps; must be: $1"
}

in_order () {
  "$CRASH_BIN/ordercheck" "$fs_log" disk disk.backfill 4096 "$golden" \
    || fail "out of order"
}

# One write and one flush: exactly these steps, in this order.  Overwriting
# what is stable already needs no metadata at all.
single () {
  new_disk $((8 * MiB))
  backing_start
  fs_start
  server_must_start
  guest <<-END
	write 65536 4096
	flush
	sleep 300
	! echo 'mark begin' > $fs_ctl
	write $MiB 4096
	flush
	! echo 'mark synced' > $fs_ctl
	! echo 'mark end' > $fs_ctl
	END
  must_step 'write disk,fsync disk,write disk.backfill,fsync disk.backfill'
  server_stop
  in_order
  fs_stop

  fs_start
  server_must_start
  guest <<-END
	sleep 300
	! echo 'mark begin' > $fs_ctl
	write $MiB 4096
	flush
	! echo 'mark end' > $fs_ctl
	END
  must_step 'write disk,fsync disk'
  server_stop
  fs_stop
}

# The same under load, with syncs that take long.
load () {
  for ((seed = first; seed < first + SEEDS; seed++)); do
    RANDOM=$seed
    new_disk $((16 * MiB))
    backing_start
    fs_start
    sync_us=$((1000 + RANDOM % 10000))
    server_must_start allocate=on speed=8M
    load_start --ops=2000 --connections=3 --flush=6
    load_wait || fail "the server failed under load: $(cat "$tmp/load.err")"
    server_stop
    in_order
    fs_stop
  done
}

# And as a guest sees it: all bits that were written survive, no data that
# was not synced does.
worst_cut () {
  for ((seed = first; seed < first + SEEDS; seed++)); do
    RANDOM=$seed
    new_disk $((8 * MiB))
    backing_start
    fs_start
    sync_us=$((RANDOM % 5000))
    server_must_start allocate=on speed=4M
    fs "keep *.backfill 100" "keep disk 0"
    # Just before the store is synced is where bits that came too early show.
    case $((seed % 3)) in
      0) random 1 1500; fs "cut-in $r" ;;
      1) random 1 10; fs "cut-before fsync disk $r" ;;
      2) random 1 10; fs "cut-before fsync *.backfill $r" ;;
    esac
    load_start --ops=4000 --connections=2
    while load_runs && ! fs_is_dead; do
      sleep 0.05
    done
    server_kill
    load_wait
    power_cut
    fs_start
    server_must_start
    verify powercut
    server_kill
    fs_stop
  done
}

for scenario in ${SCENARIO:-single load worst_cut}; do
  seed=$first sync_us=0
  $scenario
  say "$scenario: ok"
done
