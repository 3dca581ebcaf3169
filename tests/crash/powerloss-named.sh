#!/bin/bash
# Power cuts and kills at the moments that matter, each by name.
#
#   SCENARIO=name ./powerloss-named.sh     only this one
#
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154,SC2016
srcdir=${srcdir:-$(dirname "$0")}
# shellcheck source=crash-lib.sh
. "$srcdir/crash-lib.sh"
only=${SCENARIO:-}
crash_init fuse "$@"
[ "$CRASH_SERVER" = backfill ] || skip "these scenarios are about Backfill"

MiB=1048576
fs_ctl="$mnt/.lossyfs"

# From within a guest's script: wait until lossyfs holds something up.
wait_stalled="! n=0; until grep -q '^stalled [1-9]' $fs_ctl; do n=\$((n+1)); [ \$n -lt 1200 ] || exit 1; sleep 0.05; done"

# The next sync of the store does its work, but takes until let_go to say so:
# what is written meanwhile it does not cover (see slowsync.c).
hold_sync="! : > $tmp/hold"
wait_held="! n=0; until [ -e $tmp/hold.held ]; do n=\$((n+1)); [ \$n -lt 1200 ] || exit 1; sleep 0.05; done"
let_go="! rm $tmp/hold.held"

# A disk of which the first half is random data and holes, the second half
# a hole; a volume on it that is open.
begin () {
  new_disk $((4 * MiB))
  truncate -s $((8 * MiB + 1536)) "$golden"
  backing_start
  fs_start
  server_must_start "$@"
}

# Cut so that nothing, or all, of what is volatile survives; then look.
cut_and_verify () {
  local disk=$1 sidecar=$2 names=${3:-none}

  fs "keep *.backfill $sidecar" "keep disk $disk" "keep-names $names"
  power_cut
  fs_start
  server_must_start
  verify powercut
}

# The bits of copied granules need not be durable, but one that the guest has
# changed since is its own data, also if it was local already.
copied_then_written () {
  local keep

  for keep in 0 100; do
    begin
    guest <<-END
	read 0 $MiB
	read $((5 * MiB)) $MiB
	sleep 500
	write 0 4096
	write 8292 300
	zero 16384 4096
	trim 24576 8192
	zero 32868 1000
	write $((5 * MiB)) 512
	zero $((5 * MiB + 65536)) 65536
	write 65536 4096 fua
	zero 73728 4096 fua
	flush
	END
    cut_and_verify "$keep" 0
    verify same
    server_kill
    fs_stop
  done
}

# Writes that nobody flushed may go, but only as a whole sector, and nothing
# else may change.
never_flushed () {
  local disk sidecar

  for disk in 0 50 100; do
    for sidecar in 0 100; do
      begin
      guest <<-END
	write 0 65536
	write 100000 3000
	zero 200000 50000
	trim 300000 50000
	write $((6 * MiB + 100)) 10000
	END
      cut_and_verify "$disk" "$sidecar" any
      server_kill
      fs_stop
    done
  done
}

# The commit has synced the store and written the bits; the sync of the
# sidecar does not come to its end.
between_two_syncs () {
  local keep

  for keep in 0 50 100; do
    begin
    guest <<-END
	write 0 65536
	write 100000 3000
	flush
	write 70000 10
	write 1000000 65536
	! echo 'stall fsync *.backfill 1' > $fs_ctl
	aflush
	$wait_stalled
	write 2000000 4096
	! echo 'keep *.backfill $keep' > $fs_ctl
	! echo 'keep disk 0' > $fs_ctl
	! echo cut > $fs_ctl
	wait-any
	END
    power_cut
    fs_start
    server_must_start
    verify powercut
    server_kill
    fs_stop
  done
}

# The same with SIGKILL instead of a cut: same boot, all that was answered
# is there; then flushed by the new process, and then the power goes.
killed_between_two_syncs () {
  local file hold wait go

  for file in disk sidecar; do
    during $file
    begin
    guest <<-END
	write 0 65536
	write 100000 3000
	$hold
	aflush
	$wait
	write 2000000 4096
	! kill -9 $server_pid
	$go
	wait-any
	END
    server_kill
    server_must_start
    verify sigkill
    guest <<-END
	flush
	END
    cut_and_verify 0 0
    server_kill
    fs_stop
  done
}

# Set hold, wait and go to what holds up the sync of the store or the sidecar.
during () {
  if [ "$1" = disk ]; then
    hold=$hold_sync wait=$wait_held go=$let_go
  else
    hold="! echo 'stall fsync *.backfill 1' > $fs_ctl"
    wait=$wait_stalled go="! echo release > $fs_ctl"
  fi
}

# A flush that comes while a commit runs must not join that one: its
# snapshot is older than what the flush has to cover.
flush_during_commit () {
  local file hold wait go

  for file in disk sidecar; do
    during $file
    begin
    guest <<-END
	write 0 4096
	$hold
	aflush
	$wait
	write 4096 4096
	write 100000 3000
	aflush
	sleep 300
	$go
	wait
	END
    cut_and_verify 0 0
    server_kill
    fs_stop
  done
}

# What is written while a commit syncs the store is not in its snapshot: its
# bits must not ride along (dm-clone got this wrong).
written_during_commit () {
  begin
  guest <<-END
	write 0 4096
	$hold_sync
	aflush
	$wait_held
	write 4096 4096
	write 1048576 4096
	write 100000 3000
	$let_go
	wait
	END
  cut_and_verify 0 100
  server_kill
  fs_stop
}

# The store's sync does not end: no bit may be on its way to the sidecar.
store_sync_stalled () {
  begin
  guest <<-END
	read $((2 * MiB)) 65536
	write 0 65536
	write 100000 3000
	zero 262144 65536
	! echo 'stall fsync disk 1' > $fs_ctl
	aflush
	$wait_stalled
	sleep 200
	! echo 'keep *.backfill 100' > $fs_ctl
	! echo 'keep disk 0' > $fs_ctl
	! echo cut > $fs_ctl
	wait-any
	END
  power_cut
  fs_start
  server_must_start
  verify powercut
  server_kill
  fs_stop
}

# An earlier crash left bytes in the store that no bit vouches for.  Neither
# zero nor trim nor a hole of the source may make them visible.
leftovers () {
  local what

  for what in guest sparse full; do
    begin
    guest <<-END
	write 0 $MiB
	write $((4 * MiB)) $MiB
	write $((7 * MiB)) $((MiB + 1536))
	END
    fs "keep *.backfill 0" "keep disk 100" "keep-names none"
    power_cut
    rm -rf "$tmp/leftovers"
    cp -a "$fs_in" "$tmp/leftovers"
    fs_start
    server_must_start
    verify powercut
    # That reading copied over them: once more from where the cut left it.
    server_kill
    fs_stop
    fs_in=$tmp/leftovers
    new_boot
    fs_start
    server_must_start
    case $what in
      guest)
	guest <<-END
	zero 0 65536
	zero 70000 1000
	trim 131072 65536
	trim 200000 100
	trim 262144 4096 fua
	zero 270336 4096 fua
	write $((4 * MiB + 100)) 100
	zero $((4 * MiB + 8192)) 4096
	trim $((4 * MiB + 16384)) 4096
	write $((8 * MiB)) 512
	flush
	verify
	flush
	END
	;;
      *)
	must_allocate "$what"
	;;
    esac
    verify same
    cut_and_verify 0 0
    verify same
    server_kill
    fs_stop
  done
}

# The runtime directory is on a disk and outlives the power: its working map
# tells of data that is lost, and must not be believed.
stale_working_map () {
  local disk

  keep_run=yes
  for disk in 0 50; do
    begin
    guest <<-END
	write 0 65536
	flush
	write 8192 4096
	write 100000 3000
	zero 200000 50000
	trim 300000 50000
	write $((6 * MiB + 100)) 10000
	END
    cut_and_verify "$disk" 0
    server_kill
    fs_stop
  done
  keep_run=no
}

# What a restarted server shows and a flush covers is durable, although it
# never wrote it itself (G14).
seen_and_flushed () {
  begin
  guest <<-END
	write 0 65536
	write 100000 3000
	flush
	write 50000 100000
	zero $((5 * MiB)) 65536
	trim 400000 100000
	END
  server_kill
  server_must_start
  verify sigkill
  guest <<-END
	flush
	END
  cut_and_verify 0 0
  verify same
  server_kill
  fs_stop
}

# SIGTERM makes all of it durable (G15), also without a flush.
orderly_end () {
  begin allocate=on
  "$CRASH_BIN/nbdmodel" --run "--golden=$golden" "--seed=$seed" --ops=300 \
    --flush=0 --fua=0 "$model" "$uri" > "$tmp/load.out" || fail "load failed"
  server_stop
  fs "keep * 0" "keep-names none"
  power_cut
  fs_start
  server_must_start
  verify clean
  server_kill
  fs_stop
}

# Creation, cut at each of its operations: no volume or an empty valid one,
# and the same command line makes a good one next time (G19).
creation () {
  local n tries

  for ((n = 1; n < 200; n++)); do
    for tries in 1 2 3; do
      new_disk $((MiB + 1536))
      backing_start
      seed=$((seed + 1))
      fs_start
      fs "cut-at $n"
      if server_start && ! fs_is_dead; then
        # Creation is complete: one whole volume, then no more to try.
        fs "cut-at 0"
        guest <<-END
	write 0 100
	flush
	END
        cut_and_verify 0 0
        server_kill
        fs_stop
        return
      fi
      power_cut
      fs_start
      server_must_start
      verify powercut
      guest <<-END
	write 0 100
	write 65536 65536
	flush
	END
      cut_and_verify 0 0
      server_kill
      fs_stop
    done
  done
  fail "creation takes more than 200 operations"
}

# Completion and detach, cut at each of their operations (G10): incomplete and
# served with the backing store, or complete and the raw image is the disk.
completion () {
  local n tries begun=$tmp/begun local_at all_at detached

  begin
  guest <<-END
	write 0 65536
	write $((5 * MiB + 100)) 1000
	zero 131072 65536
	read $MiB $((3 * MiB))
	flush
	write 262144 4096
	END
  server_stop
  fs_stop
  rm -rf "$begun"
  mv "$fs_in" "$begun"
  cp "$model" "$tmp/begun.model"

  # Once without a cut, to learn which operations are there to cut at.  The
  # copying itself is cut now and then, what comes after it at each.
  complete_with_cut 0
  for ((n = 1; n < all_at; n += n < local_at - 15 ? 1 + local_at / 12 : 1)); do
    complete_with_cut "$n"
  done
}

# Sets local_at, all_at, detached.
complete_with_cut () {
  seed=$((seed + 1))
  rm -rf "$tmp"/fs.*
  fs_nr=0
  fs_in=$begun
  cp "$tmp/begun.model" "$model"
  fs_start
  fs "cut-at $1"
  detached=no
  if server_start && allocate sparse; then
    [ "$1" != 0 ] || local_at=$(fs_get ops)
    if cli detach > "$tmp/cli.out" 2>&1; then
      detached=yes
    fi
  fi
  if ! fs_is_dead && [ $detached = no ]; then
    fail "allocate and detach failed: $(cat "$tmp/cli.out")"
  fi
  if ! fs_is_dead; then
    # The end takes operations too.
    kill -TERM "$server_pid"
    wait_for eval "! kill -0 $server_pid 2>/dev/null" \
      || fail "the server did not end after SIGTERM"
    wait "$server_pid"
    server_pid=''
    [ "$1" != 0 ] || all_at=$(fs_get ops)
  fi
  if ! fs_is_dead; then
    fs "keep * 0" "keep-names none"
  fi
  power_cut
  if [ $detached = yes ]; then
    verify_at "$fs_in/disk" same
  fi
  if [ -e "$fs_in/disk.backfill" ]; then
    fs_start
    server_must_start
    verify same
    server_kill
    fs_stop
  else
    verify_at "$fs_in/disk" same
  fi
}

all="copied_then_written never_flushed between_two_syncs
  killed_between_two_syncs flush_during_commit written_during_commit
  store_sync_stalled leftovers stale_working_map seen_and_flushed orderly_end creation
  completion"

first=$seed
for scenario in ${only:-$all}; do
  seed=$first
  $scenario
  say "$scenario: ok"
done
