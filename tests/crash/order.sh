#!/bin/bash
# Data is durable before its bit is written, and the bit before the flush is
# answered (I1), read from lossyfs's log of what really happened.
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

# One write and one flush: exactly these steps, in this order.
scenario=single
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
steps=$(awk '$3 == "mark" { on = $4 == "begin"; next }
             on && $3 != "fsync-begin" && !/^#/ {
               step = $3 " " $4
               if (step != last) print step
               last = step }' "$fs_log" | paste -sd,)
want='write disk,fsync disk,write disk.backfill,fsync disk.backfill'
[ "$steps" = "$want" ] || fail "steps of write and flush: $steps; must be: $want"
server_stop
"$CRASH_BIN/ordercheck" "$fs_log" disk disk.backfill 4096 \
  "$golden" \
  || fail "out of order"
fs_stop

# Overwriting what is stable already needs no metadata at all.
fs_start
server_must_start
guest <<-END
	sleep 300
	! echo 'mark begin' > $fs_ctl
	write $MiB 4096
	flush
	! echo 'mark end' > $fs_ctl
	END
steps=$(awk '$3 == "mark" { on = $4 == "begin"; next }
             on && $3 != "fsync-begin" && !/^#/ {
               step = $3 " " $4
               if (step != last) print step
               last = step }' "$fs_log" | paste -sd,)
want='write disk,fsync disk'
[ "$steps" = "$want" ] || fail "steps of a second write: $steps; must be: $want"
server_stop
fs_stop
say "single: ok"

# The same under load, with syncs that take long.
scenario=load
for ((seed = first; seed < first + ${SEEDS:-3}; seed++)); do
  RANDOM=$seed
  new_disk $((16 * MiB))
  backing_start
  fs_start
  sync_us=$((1000 + RANDOM % 10000))
  server_must_start allocate=on speed=8M
  load_start --ops=2000 --connections=3 --flush=6
  load_wait || fail "the server failed under load: $(cat "$tmp/load.err")"
  guest <<-END
	flush
	! echo 'mark synced' > $fs_ctl
	END
  server_stop
  "$CRASH_BIN/ordercheck" "$fs_log" disk disk.backfill 4096 \
  "$golden" \
    || fail "out of order"
  fs_stop
done
sync_us=0
say "load: ok"

# And as a guest sees it: all bits that were written survive, no data that
# was not synced does.
scenario=worst-cut
for ((seed = first; seed < first + ${SEEDS:-3}; seed++)); do
  RANDOM=$seed
  new_disk $((8 * MiB))
  backing_start
  fs_start
  sync_us=$((RANDOM % 5000))
  server_must_start allocate=on speed=4M
  random 1 1500
  fs "keep *.backfill 100" "keep disk 0" "cut-in $r"
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
say "worst-cut: ok"
