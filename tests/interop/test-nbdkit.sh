#!/bin/bash
# nbdkit around the plugin: its other filters in front of a disk, and its nbd
# plugin as a disk's client and as its server.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq nbdcopy nbdinfo qemu-img qemu-io mkfs.ext4 debugfs e2fsck
filterdir=$("$nbdkit" --dump-config | sed -n 's/^filterdir=//p')

make_golden "$dir/golden" 24 "$dir/tree"
size=$(stat -c %s "$dir/golden")
serve source -r file "$dir/golden"

# --- filters that read ahead, look elsewhere, or change what may be asked ---

# through FILTER... -- KEY=VALUE...: the disk is the golden image through it.
through () {
  local f
  filters=()
  while [ "$1" != -- ]; do
    [ -e "$filterdir/nbdkit-$1-filter.so" ] || { say "no filter $1"; return; }
    filters+=("--filter=$1")
    shift
  done
  shift
  rm -f "$dir"/store* "$dir/out.img"
  disk disk "$dir/store" backing="$(uri source)" "$@"
  nbdcopy "$(uri disk)" "$dir/out.img"
  same "$dir/out.img" "$dir/golden"
  stop disk
  say "${filters[*]#--filter=}"
}
through readahead --
through scan -- scan-size=1M
through cow -- cow-on-read=true
through cache -- cache-on-read=true
through cacheextents --
through noextents nozero noparallel nocache --
through multi-conn -- multi-conn-mode=plugin
through retry --
through rate -- rate=2G
through blocksize-policy -- blocksize-minimum=512 blocksize-error-policy=error
through pause truncate -- pause-control="$dir/pause.sock"

# These keep what is written from the disk, which stays as it is.
filters=(--filter=cow)
rm -f "$dir"/store*
disk disk "$dir/store" backing="$(uri source)"
qemu-io -f raw -c 'write -P 9 0 10M' -c 'read -P 9 0 10M' "$(uri disk)" \
  > "$dir/qemu-io.log"
allocate disk
stop disk
same "$dir/store" "$dir/golden"

# This one keeps it for a while.
filters=(--filter=cache)
rm -f "$dir"/store*
disk disk "$dir/store" backing="$(uri source)" cache=writeback
qemu-io -f raw -c 'write -P 9 1000001 5M' -c flush \
  "$(uri disk)" > "$dir/qemu-io.log"
allocate disk
stop disk
cp --sparse=always "$dir/golden" "$dir/truth"
qemu-io -f raw -c 'write -P 9 1000001 5M' "$dir/truth" > "$dir/qemu-io.log"
same "$dir/store" "$dir/truth"
say "what is written through cow and cache"

# Errors in front of a disk, while a file is there: then all is well again.
filters=(--filter=error)
rm -f "$dir"/store*
disk disk "$dir/store" backing="$(uri source)" error=EIO \
  error-rate=100% error-file="$dir/faulty"
touch "$dir/faulty"
must_fail nbdcopy "$(uri disk)" "$dir/out.img"
must_fail qemu-io -f raw -c 'write 0 1M' "$(uri disk)"
must_fail qemu-io -f raw -c 'discard 0 1M' -d unmap "$(uri disk)"
rm "$dir/faulty"
nbdcopy "$(uri disk)" "$dir/out.img"
same "$dir/out.img" "$dir/golden"
stop disk
say "errors in front of a disk"

# The server ends with its last client: all is durable then, and let go.
filters=(--filter=exitlast)
rm -f "$dir"/store*
disk disk "$dir/store" backing="$(uri source)"
qemu-io -f raw -c 'write -P 9 1000001 5M' "$(uri disk)" > "$dir/qemu-io.log"
wait_for is_gone "${server[disk]}"
wait "${server[disk]}"
filters=()
backfill check "$dir/store" > "$dir/check.log"
! grep -q 'not closed' "$dir/check.log" ||
  fail "the volume was not closed: $(cat "$dir/check.log")"
disk disk "$dir/store"
allocate disk
stop disk
same "$dir/store" "$dir/truth"
say "exitlast"

# --- filters that look into a disk ---

# A file of the file system, and one behind a partition table.  (Without
# extents: the ext2 filter of nbdkit 1.32 gives the disk's as the file's.)
file=$(cd "$dir/tree" && find . -type f -size +1M | sort | sed -n 1p)
through_file () {
  rm -f "$dir"/store*
  disk disk "$dir/store" backing="$(uri "$1")" "${@:2}" ext2file="${file#.}"
  nbdcopy "$(uri disk)" "$dir/out.img"
  cmp "$dir/out.img" "$dir/tree/$file"
  # Of the rest, little was fetched.
  [ "$(member disk .absent)" -gt $((size / 4)) ] || fail "too much was fetched"
  stop disk
}
filters=(--filter=noextents --filter=ext2)
through_file source
serve parted -r partitioning "$dir/golden"
filters=(--filter=noextents --filter=ext2 --filter=partition)
through_file parted partition=1
filters=()
stop parted
say "a file in a file system in a partition"

# The ext2 filter writes, too: another's code for that file system.  It does so
# when its client has gone, but not any more when the server is to end.
gone () {
  while grep -q " 03 .*$dir/disk.sock" /proc/net/unix; do sleep 0.1; done
  sleep 2
}
filters=(--filter=noextents --filter=ext2)
rm -f "$dir"/store*
disk disk "$dir/store" backing="$(uri source)" ext2file="${file#.}"
qemu-io -f raw -c 'write -P 5 4097 100000' -c flush "$(uri disk)" \
  > "$dir/qemu-io.log"
gone
stop disk
filters=()
disk disk "$dir/store"
allocate disk
stop disk
e2fsck -fn "$dir/store" > "$dir/fsck.log" 2>&1
debugfs -R "dump ${file#.} $dir/dumped" "$dir/store" 2> "$dir/debugfs.log"
qemu-io -f raw -c 'write -P 5 4097 100000' "$dir/tree/$file" \
  > "$dir/qemu-io.log"
cmp "$dir/dumped" "$dir/tree/$file"
rm -f "$dir/dumped"
say "a file written in place"

# --- nbdkit's nbd plugin between a disk and its clients, and below it ---

rm -f "$dir"/store*
disk inner "$dir/store" backing="$(uri source)"
# The file system of one is the backing store of the next, three deep.
serve between nbd uri="$(uri inner)"
disk disk "$dir/store-2" backing="$(uri between)"
serve outer nbd socket="$dir/disk.sock" shared=true
nbdinfo --map --json "$(uri outer)" |
  jq -e --argjson size "$size" '([.[].length] | add) == $size and
    ([.[] | select(.type == 3)] | length > 0)' > /dev/null ||
  fail "status does not come through"
nbdcopy "$(uri outer)" "$dir/out.img"
same "$dir/out.img" "$dir/golden"
rm "$dir/truth"
cp --sparse=always "$dir/golden" "$dir/truth"
changes=(-c 'write -P 7 123457 70000' -c 'write -z -u 4M 3M'
  -c 'write -f -P 8 9M 1' -c 'write -z 30000001 5' -c flush)
qemu-io -f raw "${changes[@]}" "$(uri outer)" > "$dir/qemu-io.log"
qemu-io -f raw "${changes[@]}" "$dir/truth" > "$dir/qemu-io.log"
qemu-img compare -f raw -F raw "$(uri outer)" "$dir/truth" > "$dir/compare.log"
allocate disk
allocate inner
stop outer
stop disk
stop between
stop inner
same "$dir/store-2" "$dir/truth"
# A backing store is never written (G31).
same "$dir/store" "$dir/golden"
say "nbdkit's nbd plugin"
