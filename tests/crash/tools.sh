#!/bin/bash
# The crash tests' tools, tested: nbdkit's file plugin, whose flush is known
# to be good, passes; servers that break one promise are caught.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154
srcdir=${srcdir:-$(dirname "$0")}
CRASH_SERVER=file
# shellcheck source=crash-lib.sh
. "$srcdir/crash-lib.sh"
crash_init fuse "$@"

MiB=1048576
fs_ctl="$mnt/.lossyfs"

# One write, flushed, and a cut that keeps nothing volatile.  $1 is what the
# verifier must say: 0 permitted, 1 caught.
one_cut () {
  local want=$1 code

  new_disk $((4 * MiB + 100))
  fs_start
  server_must_start
  guest <<-END
	write 0 65536
	write 100000 3000 fua
	may zero 200704 8192
	write 300000 10
	flush
	write 500000 1000
	END
  fs "keep * 0" "keep-names none"
  power_cut
  "$CRASH_BIN/nbdmodel" --verify "$model" "$fs_in/disk" 2> "$tmp/verify.err"
  code=$?
  [ "$code" = "$want" ] \
    || fail "verify's exit code is $code, must be $want: $(cat "$tmp/verify.err")"
}

scenario=flush-kept
one_cut 0

scenario=flush-dropped
CRASH_FILTERS=--filter=fua CRASH_ARGS=fuamode=discard
one_cut 1
grep -q "VIOLATION.*golden" "$tmp/verify.err" || fail "wrong words"

scenario=nothing-kept
CRASH_FILTERS=--filter=cow CRASH_ARGS=
one_cut 1
CRASH_FILTERS=

# What a file holds, changed behind the model's back: must_catch WORDS.
must_catch () {
  "$CRASH_BIN/nbdmodel" --verify --mode=same "$model" "$fs_in/disk" \
    2> "$tmp/verify.err" && fail "not caught"
  grep -q "$1" "$tmp/verify.err" \
    || fail "caught, but with other words: $(cat "$tmp/verify.err")"
}

for scenario in foreign torn stale zeros short; do
  new_disk $((MiB + 100))
  fs_start
  server_must_start
  guest <<-END
	write 0 65536
	flush
	! cp $store $tmp/stale
	write 4096 4096
	flush
	END
  server_stop
  fs_stop
  verify_at "$fs_in/disk" same
  disk=$fs_in/disk
  case $scenario in
    foreign)
      dd if="$disk" of="$disk" bs=512 skip=3 seek=5 count=1 conv=notrunc status=none
      must_catch 'sector 5 .*FOR ANOTHER SECTOR'
      ;;
    torn)
      dd if="$tmp/stale" of="$disk" bs=256 skip=19 seek=19 count=1 conv=notrunc status=none
      must_catch 'sector 9 .*torn .*up to byte 256'
      ;;
    stale)
      dd if="$tmp/stale" of="$disk" bs=512 skip=9 seek=9 count=1 conv=notrunc status=none
      must_catch "sector 9 .*operation 1's data"
      ;;
    zeros)
      dd if=/dev/zero of="$disk" bs=512 seek=9 count=1 conv=notrunc status=none
      must_catch 'sector 9 .*zeros'
      ;;
    short)
      truncate -s -1 "$disk"
      must_catch 'has .* bytes'
      ;;
  esac
done

# A read that is not what the model permits is caught at run time too, and
# trim's answer is held to once it was seen.
scenario=trim-pinned
new_disk $((MiB))
fs_start
server_must_start
guest <<-END
	write 0 4096
	trim 0 4096
	read 0 4096
	flush
	END
server_stop
fs_stop
cp "$golden" "$fs_in/disk.new"
dd if="$fs_in/disk" of="$fs_in/disk.new" conv=notrunc status=none
verify_at "$fs_in/disk.new" powercut
dd if="$golden" of="$fs_in/disk.new" bs=512 count=1 conv=notrunc status=none
cmp -s -n 512 "$golden" /dev/zero || {
  "$CRASH_BIN/nbdmodel" --verify "$model" "$fs_in/disk.new" 2> "$tmp/verify.err" \
    && fail "the bytes of before a flushed trim were not caught"
}

# What was written since a power cut and read is not durable by that: the next
# cut may take it away again.
scenario=read-not-durable
new_disk $((MiB)) --dense
fs_start
server_must_start
guest <<-END
	write 0 4096
	END
fs "keep * 0"
power_cut
fs_start
server_must_start
verify powercut --sample=0
guest <<-END
	write 0 4096
	read 0 4096
	END
fs "keep * 0"
power_cut
verify_at "$fs_in/disk" powercut

# lossyfs: a failed fsync leaves the pages clean and loses some of them.
scenario=failed-fsync
new_disk $((4 * MiB))
fs_start
server_must_start
guest <<-END
	write 0 65536
	flush
	write 0 $MiB
	! echo 'fail fsync disk 1 EIO' > $fs_ctl
	fail flush
	flush
	END
fs "keep * 100"
power_cut
"$CRASH_BIN/nbdmodel" --verify "$model" "$fs_in/disk" 2> "$tmp/verify.err" \
  && fail "a flush after a failed one is true, but must not be"

# A stalled fsync covers what was written before it, and no more.
scenario=stalled-fsync
new_disk $((4 * MiB))
fs_start
server_must_start
guest <<-END
	write 0 4096
	! echo 'stall fsync disk 1 1000' > $fs_ctl
	aflush
	sleep 200
	write 4096 4096
	wait
	END
fs "keep * 0"
power_cut
verify_at "$fs_in/disk" powercut
cmp -s -i 4096 -n 4096 "$golden" "$fs_in/disk" \
  || fail "what was written during an fsync is durable by it"

# Space runs out, and comes back by punching.
scenario=no-space
new_disk $((4 * MiB)) --dense
: > "$fs_in/disk"
truncate -s $((4 * MiB)) "$fs_in/disk"
rm "$golden"
truncate -s $((4 * MiB)) "$golden"
fs_start
server_must_start
fs "space 65536"
guest <<-END
	write 0 65536
	fail write 65536 4096
	write 0 4096
	trim 0 4096
	write 65536 4096
	fail write 131072 4096
	END
server_stop
fs_stop

# SIGKILL is harmless to the file plugin, and to the model.
scenario=reconnect
new_disk $((4 * MiB))
fs_start
server_must_start
load_start --reconnect --seconds=600
for _ in 1 2 3; do
  sleep 0.3
  server_kill
  server_must_start
done
kill -TERM "$load_pid"
load_wait
verify sigkill
server_stop
fs_stop
say "ok"
