#!/bin/bash
# libnbd's tools: nbdcopy to and from a disk, several ways and connections;
# nbdinfo of disk, map and list; nbdsh.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq nbdcopy nbdinfo mkfs.ext4
need_nbdsh

make_golden "$dir/golden" 48
size=$(stat -c %s "$dir/golden")
allocated () {
  echo $(($(stat -c '%b * %B' "$1")))
}

# --- onto a disk that has no backing store ---

fill () {
  rm -f "$dir"/store*
  disk disk "$dir/store" size="$size"
  nbdcopy "$@" "$dir/golden" "$(uri disk)"
  stop disk
  same "$dir/store" "$dir/golden"
}
fill --flush
no_more_data "$dir/store" "$dir/golden"
fill --flush --connections=1
fill --flush --connections=8 --threads=2 --request-size=32768
fill --destination-is-zero --request-size=2097152
no_more_data "$dir/store" "$dir/golden"
fill --synchronous --no-extents
# Without holes: zeros are asked for with NO_HOLE.
fill --flush --allocated
[ "$(allocated "$dir/store")" -ge "$size" ] || fail "--allocated left holes"
say "nbdcopy to a disk"

# --- onto one that has another image behind it, not local yet ---

make_golden "$dir/other" 24
truncate -s "$size" "$dir/other"
serve source -r file "$dir/other"
for how in --flush --allocated --connections=1; do
  rm -f "$dir"/store*
  disk disk "$dir/store" backing="$(uri source)"
  allocate disk --offset 1000001 --length 5M
  nbdcopy $how "$dir/golden" "$(uri disk)"
  # All of it was written, so all is local and nothing is left to fetch.
  [ "$(member disk .absent)" = 0 ] || fail "not all is local after $how"
  stop disk
  same "$dir/store" "$dir/golden"
done
stop source
say "nbdcopy over another image"

# --- from a disk, and from one of ours to another ---

serve source -r file "$dir/golden"
rm -f "$dir"/store*
# Several exports: nbdcopy takes the one that it is told.
disk disk name=vda store="$dir/store" backing="$(uri source)" \
  name=vdb store="$dir/store-b" size="$size"
nbdcopy --connections=4 --flush "$(uri disk vda)" "$(uri disk vdb)"
nbdcopy --connections=2 "$(uri disk vdb)" - > "$dir/out.img"
same "$dir/out.img" "$dir/golden"
nbdcopy --allocated "$(uri disk vda)" "$dir/out2.img"
same "$dir/out2.img" "$dir/golden"
rm "$dir"/out*.img
say "nbdcopy from disk to disk"

nbdinfo --list "$(uri disk)" > "$dir/list"
grep '^export=' "$dir/list" | cut -d'"' -f2 | sort | xargs > "$dir/names"
echo 'vda vda/map vdb vdb/map' | diff "$dir/names" -
nbdinfo --json "$(uri disk vda)" > "$dir/info.json"
jq -e --argjson size "$size" '.exports[0] | .["export-size"] == $size and
  .can_multi_conn and .can_flush and .can_fua and .can_trim and .can_zero and
  .can_fast_zero and .can_cache and .can_df and (.is_read_only | not) and
  .block_size_minimum == 1 and .block_size_preferred == 4096 and
  .block_size_maximum == 33554432' "$dir/info.json" > /dev/null
nbdinfo --json "$(uri disk vda/map)" |
  jq -e --argjson size "$size" '.exports[0] | .["export-size"] == $size and
    .is_read_only and .can_multi_conn' > /dev/null
nbdinfo --is read-only "$(uri disk vda/map)"
nbdinfo --can write "$(uri disk vda)"
must_fail nbdinfo --can write "$(uri disk vda/map)"
# "" is nobody when there are several.
must_fail nbdinfo --size "$(uri disk)"
stop disk
say "nbdinfo"

# --- the map export, while it grows ---

rm -f "$dir"/store*
disk disk "$dir/store" backing="$(uri source)"
local_in_map () {
  nbdinfo --map --json "$(uri disk "$1")" |
    jq '[.[] | select(.type == 0).length] | add // 0'
}
[ "$(local_in_map map)" = 0 ] || fail "the map of a new disk is not empty"
allocate disk --offset 5M --length 3M
nbdinfo --map "$(uri disk map)" > "$dir/map"
diff -w - "$dir/map" <<END2
0 5242880 1 hole
5242880 3145728 0 data
8388608 $((size - 8388608)) 1 hole
END2
# It is the same by its other name, and as the command tells it; reading it
# fetches nothing and gives zeros.
[ "$(local_in_map %2Fmap)" = 3145728 ] || fail "/map is not map"
[ "$(member disk .local)" = 3145728 ] || fail "info disagrees with the map"
nbdcopy --no-extents "$(uri disk map)" "$dir/zeros"
/usr/bin/python3 "$here/sparse.py" zeros "$dir/zeros" 0 "$size"
[ "$(member disk .local)" = 3145728 ] || fail "reading the map has fetched"
nbdsh -u "$(uri disk)" -c 'h.pwrite(b"x" * 5000, 12 * 2**20 - 1)' \
  -c 'h.zero(2**20, 14 * 2**20)' -c 'h.trim(2**20, 16 * 2**20)' \
  -c 'h.cache(2**20, 18 * 2**20)'
backfill map -c "$dir/disk.control" --json |
  jq '[.[] | select(.state != "absent").length] | add' > "$dir/sum"
[ "$(cat "$dir/sum")" = "$(local_in_map map)" ] || fail "two maps differ"
for g in 11 12 14 16 18; do
  nbdsh --base-allocation -u "$(uri disk map)" -c "
seen = []
h.block_status(4096, $g * 2**20 + (2**20 - 4096 if $g == 11 else 0),
               lambda m, o, e, err: seen.append(e) and 0)
assert seen[0][1] == 0, seen"
done
allocate disk
[ "$(local_in_map map)" = "$size" ] || fail "not all is local"
stop disk
stop source
say "the map as an export"

# --- what a client may ask, right or wrong ---

rm -f "$dir"/store*
disk disk "$dir/store" size=1000001
nbdsh -u "$(uri disk)" -c '
import errno
h.set_strict_mode(h.get_strict_mode() & ~(nbd.STRICT_BOUNDS))
def refused(f, *numbers):
    try:
        f()
    except nbd.Error as e:
        assert e.errnum in numbers, e
    else:
        raise AssertionError("not refused")
refused(lambda: h.pread(2, 1000000), errno.EINVAL)
refused(lambda: h.pwrite(b"xx", 1000000), errno.ENOSPC)
refused(lambda: h.zero(2, 1000000), errno.ENOSPC)
refused(lambda: h.trim(2, 1000000), errno.EINVAL, errno.ENOSPC)
h.pwrite(b"z", 1000000, nbd.CMD_FLAG_FUA)
assert h.pread(3, 999998) == b"\0\0z"
h.zero(1, 1000000, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
h.trim(1, 1000000, nbd.CMD_FLAG_FUA)
assert h.pread(1, 1000000) == b"\0"
h.pwrite(b"y" * 1000001, 0)
h.zero(1000001, 0, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(1000001, 0) == bytes(1000001)
'
nbdsh -u "$(uri disk map)" -c '
h.set_strict_mode(0)
for f in (lambda: h.pwrite(b"x", 0), lambda: h.zero(1, 0),
          lambda: h.trim(1, 0)):
    try:
        f()
    except nbd.Error as e:
        assert e.errno == "EPERM", e
    else:
        raise AssertionError("the map was written to")
'
stop disk
say "requests at the end of a disk, and to the map"
