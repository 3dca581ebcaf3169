#!/bin/bash
# Golden images from real files, and a huge one that is nearly empty, become
# local to the byte: holes stay holes, zeros are not read, what the guest
# writes meanwhile stays.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq qemu-io qemu-img nbdinfo mkfs.ext4 e2fsck

allocated () {
  echo $(($(stat -c '%b * %B' "${1-$dir/store}")))
}

# Holes are not only said to be there: no more space is used than the source
# uses, but for some of the file system's own.
less_space () {
  local a b
  a=$(allocated "$dir/store")
  b=$(allocated "$dir/golden")
  [ "$a" -le $((b + b / 50 + (1 << 20))) ] ||
    fail "the store uses $a bytes, the image $b"
}

# --- an ext4 of 200 MiB of real files, with a guest that writes ---

make_golden "$dir/golden" 200
say "golden image: $(du -h --apparent-size "$dir/golden" | cut -f1)," \
  "$(du -h "$dir/golden" | cut -f1) of data"
serve source -r --filter=stats file "$dir/golden" statsfile="$dir/source.stats"
disk disk "$dir/store" backing="$(uri source)"
must_fail "$nbdkit" -f -U "$dir/second.sock" "$plugin" "$dir/store" control=off
grep -q "${server[disk]}" "$dir/out" || fail "the owner is not named: $(cat "$dir/out")"
allocate disk
[ "$(member disk .absent)" = 0 ] || fail "not all is local"
same "$dir/store" "$dir/golden"
no_more_data "$dir/store" "$dir/golden"
say "allocated: equal, with its holes"
stop disk
less_space
stop source

# Only data was read from the source, and each byte once (and 64 KiB of
# samples to know the image by: at the probe, and on each of the four
# connections).  "read: 100 ops, 1.5 s, 100.00 MiB, 70 MiB/s op, ...".
read=$(sed -n 's/^read: [^,]* ops, [^,]* s, \([0-9.]* [KMG]iB\),.*/\1/p' \
         "$dir/source.stats")
data=$(data_bytes "$dir/golden")
awk -v r="$read" -v d="$data" 'BEGIN {
    split (r, n, " ")
    bytes = n[1] * (n[2] == "KiB" ? 2 ^ 10 : n[2] == "MiB" ? 2 ^ 20 : 2 ^ 30)
    exit ! (bytes > d / 2 && bytes <= d + 5 * 65536 + d / 1e4) }' ||
  fail "$read were read from the source for $data bytes of data"

# The same again while a guest writes; the truth is kept beside it in a copy
# of the golden image, by the same client.
rm "$dir/store" "$dir/store.backfill"
cp --sparse=always "$dir/golden" "$dir/truth"
serve source -r file "$dir/golden"
disk disk "$dir/store" backing="$(uri source)"
cli disk allocate --speed 40M > /dev/null
/usr/bin/python3 - 7 "$(stat -c %s "$dir/golden")" > "$dir/script" <<'PY'
import random, sys
rng, size = random.Random(int(sys.argv[1])), int(sys.argv[2])
for i in range(250):
    n = rng.choice((512, 1536, 4096, 9000, 65536, 300000))
    at = rng.randrange(size - n)
    kind = rng.choice(("write -q -P %d" % rng.randrange(1, 256),) * 3 +
                      ("write -q -z", "write -q -z -u"))
    print("%s %d %d" % (kind, at, n))
print("flush")
PY
qemu-io -f raw "$(uri disk)" < "$dir/script" > "$dir/qemu-io.log"
qemu-io -f raw "$dir/truth" < "$dir/script" > "$dir/qemu-io.log"
finish_job disk
stop disk
stop source
same "$dir/store" "$dir/truth"
say "allocated under a guest that writes: source and its writes"
rm -f "$dir"/store* "$dir/truth" "$dir/golden"

# --- all of it allocated ---

make_golden "$dir/golden" 24
truncate -s +1000 "$dir/golden"
size=$(stat -c %s "$dir/golden")
# First the other way: data that turns out to be zeros becomes holes, also when
# the source does not tell.
serve source -r --filter=noextents file "$dir/golden"
disk disk "$dir/store" backing="$(uri source)"
allocate disk
stop disk
stop source
same "$dir/store" "$dir/golden"
less_space
rm "$dir"/store*
serve source -r file "$dir/golden"
disk disk "$dir/store" backing="$(uri source)"
allocate disk --full
same "$dir/store" "$dir/golden"
[ "$(allocated)" -ge "$size" ] || fail "--full left holes: $(allocated) of $size"
stop disk
rm "$dir"/store*
# What is local as holes is allocated too; and a range only where it is.
disk disk "$dir/store" backing="$(uri source)"
allocate disk
[ "$(allocated)" -lt "$size" ] || fail "the image has no holes to keep"
before=$(allocated)
allocate disk --full --offset 1M --length 1M
[ "$(allocated)" -le $((before + 1048576 + 65536)) ] ||
  fail "--full allocated more than its range"
allocate disk --full
stop disk
stop source
[ "$(allocated)" -ge "$size" ] || fail "--full left holes"
same "$dir/store" "$dir/golden"
e2fsck -fn "$dir/store" > "$dir/fsck.log" 2>&1
say "--full: equal, and all of it allocated"
rm -f "$dir"/store* "$dir/golden"

# --- 8 TiB with 1 GiB in it ---

# The file system may not take such files, or not that much.
free=$(($(stat -f -c '%a * %S' "$dir")))
bytes=$((1 << 30))
[ "$free" -gt $((4 << 30)) ] || bytes=$((256 << 20))
if ! truncate -s 8T "$dir/golden" 2> /dev/null; then
  say "8 TiB: no such file can be made here, left out"
  exit 0
fi
/usr/bin/python3 "$here/sparse.py" scatter "$dir/golden" "$bytes" 8
serve source -r file "$dir/golden"
disk disk "$dir/store" backing="$(uri source)"
# Requests for the status of 4 GiB, and answers longer than that, on a disk
# that is all absent, with clients' own ways to ask.
nbdinfo --map --totals "$(uri disk)" > "$dir/totals"
total=$(awk '{ n += $1 } END { printf "%.0f", n }' "$dir/totals")
[ "$total" = $((8 << 40)) ] || fail "the map has $total bytes"
nbdinfo --map "$(uri disk map)" > "$dir/map"
echo '0 8796093022208 1 hole' | diff -w - "$dir/map"
qemu-img map --output=json -f raw "$(uri disk)" > "$dir/map.json"
jq -e '[.[].length] | add == 8796093022208' "$dir/map.json" > /dev/null
say "8 TiB: maps"
# A guest in the middle of it.
qemu-io -f raw -d unmap -c 'write -P 77 4398046511105 100' \
  -c 'write -z -u 5T 1G' -c 'discard 6T 1G' \
  -c 'read -P 0 7T 4096' "$(uri disk)" > "$dir/qemu-io.log"
qemu-io -f raw -c 'write -P 77 4398046511105 100' \
  -c 'write -z -u 5T 1G' -c 'write -z -u 6T 1G' \
  "$dir/golden" > "$dir/qemu-io.log"
allocate disk
[ "$(member disk .absent)" = 0 ] || fail "not all is local"
nbdinfo --map --totals "$(uri disk)" > "$dir/totals"
nbdinfo --map "$(uri disk map)" > "$dir/map"
echo '0 8796093022208 0 data' | diff -w - "$dir/map"
! is_gone "${server[disk]}" || fail "nbdkit is gone"
stop disk
stop source
say "8 TiB: allocated, $(du -h "$dir/store" | cut -f1) of" \
  "$(du -h "$dir/golden" | cut -f1)"
same "$dir/store" "$dir/golden"
no_more_data "$dir/store" "$dir/golden"
less_space
say "8 TiB: equal, with its holes"
