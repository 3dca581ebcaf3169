#!/bin/bash
# qemu-img: convert from and to a disk, compare, info, map, bench, and a disk
# as the backing file of a qcow2 image that is committed into it.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq qemu-img qemu-io mkfs.ext4

make_golden "$dir/golden" 48
size=$(stat -c %s "$dir/golden")
serve source -r file "$dir/golden"

# --- from it: every way in which it asks for what is absent ---

from () {
  rm -f "$dir"/store* "$dir/out.img"
  disk disk "$dir/store" backing="$(uri source)"
  qemu-img convert -f raw "$@" "$(uri disk)" "$dir/out.img"
  qemu-img compare -f raw "$(uri disk)" "$dir/out.img" > "$dir/compare.log"
  stop disk
}
from -O raw
same "$dir/out.img" "$dir/golden"
from -O raw -W -m 16
same "$dir/out.img" "$dir/golden"
from -O raw -S 0 -m 1
same "$dir/out.img" "$dir/golden"
from -O qcow2 -c -W -m 4
qemu-img compare "$dir/out.img" "$dir/golden" > "$dir/compare.log" ||
  fail "the qcow2 image is another"
rm -f "$dir"/store*
disk disk "$dir/store" backing="$(uri source)"
qemu-img compare -f raw -F raw "$(uri disk)" "$dir/golden" > "$dir/compare.log"
qemu-img dd -f raw -O raw bs=1M skip=3 count=10 if="$(uri disk)" \
  of="$dir/out.img"
cmp -i $((3 << 20)):0 -n $((7 << 20)) "$dir/golden" "$dir/out.img"
stop disk
say "convert, compare and dd from a disk"

# --- to it ---

to () {
  rm -f "$dir"/store*
  disk disk "$dir/store" "${keys[@]}"
  qemu-img convert -n -O raw "$@" "$(uri disk)"
  qemu-img compare -F raw "${@: -1}" "$(uri disk)" > "$dir/compare.log"
  stop disk
  same "$dir/store" "$dir/golden"
}
qemu-img convert -f raw -O qcow2 "$dir/golden" "$dir/golden.qcow2"
keys=(size="$size")
to -f raw "$dir/golden"
no_more_data "$dir/store" "$dir/golden"
to -f raw -W -m 16 "$dir/golden"
to --target-is-zero -f qcow2 "$dir/golden.qcow2"
no_more_data "$dir/store" "$dir/golden"
to -t none -f qcow2 "$dir/golden.qcow2"
# Over another image: none of it shows through.
make_golden "$dir/other" 24
truncate -s "$size" "$dir/other"
serve other -r file "$dir/other"
keys=(backing="$(uri other)")
to -f raw "$dir/golden"
to -W -m 16 -f qcow2 "$dir/golden.qcow2"
stop other
rm "$dir/other" "$dir/golden.qcow2"
say "convert to a disk"

# --- what it tells ---

rm -f "$dir"/store*
disk disk name=vda store="$dir/store" backing="$(uri source)"
qemu-img info -f raw --output=json "$(uri disk vda)" |
  jq -e --argjson size "$size" '.["virtual-size"] == $size' > /dev/null
must_fail qemu-img resize -f raw "$(uri disk vda)" "$((size * 2))"
must_fail qemu-img info -f raw "$(uri disk nobody)"
qemu-img measure -f raw -O qcow2 --output=json "$(uri disk vda)" |
  jq -e '.required > 0' > /dev/null
stop disk
say "info"

# --- bench: the same writes go to a copy ---

rm -f "$dir"/store*
cp --sparse=always "$dir/golden" "$dir/truth"
disk disk "$dir/store" backing="$(uri source)"
bench () {
  qemu-img bench -f raw "$@" "$dir/truth" > "$dir/bench.log"
  qemu-img bench -f raw "$@" "$(uri disk)" > "$dir/bench.log"
}
bench -w --pattern=0x5a -c 1500 -d 16 -s 3000 -S 9000 -o 777
cli disk allocate --speed 20M > /dev/null
bench -w --pattern=0xa5 -c 300 -d 16 -s 100000 -S 150001 -o 1 \
  --flush-interval=20
bench -w --pattern=0x11 -c 200 -d 1 -s 512 -S 1000 -o 5M -t writethrough
bench -w --pattern=0x22 -c 64 -d 64 -s 1M --flush-interval=64 --no-drain
bench -c 2000 -d 32 -s 64k -S 40000
finish_job disk
stop disk
same "$dir/store" "$dir/truth"
say "bench"

# --- below a qcow2 image, which is then committed into it ---

rm -f "$dir"/store* "$dir/truth" "$dir"/*.qcow2
cp --sparse=always "$dir/golden" "$dir/truth"
disk disk "$dir/store" backing="$(uri source)"
qemu-img create -q -f qcow2 -F raw -b "$(uri disk)" "$dir/over.qcow2"
changes=(-c 'write -P 3 1M 100k' -c 'write -P 4 7000001 5'
  -c 'write -z 12M 2M' -c 'write -z -u 20M 70000')
qemu-io -f qcow2 "${changes[@]}" "$dir/over.qcow2" > "$dir/qemu-io.log"
qemu-io -f raw "${changes[@]}" "$dir/truth" > "$dir/qemu-io.log"
qemu-img compare -F raw "$dir/over.qcow2" "$dir/truth" > "$dir/compare.log"
must_fail qemu-img compare -f raw -F raw "$(uri disk)" "$dir/truth"
qemu-img commit -q "$dir/over.qcow2"
qemu-img compare -f raw -F raw "$(uri disk)" "$dir/truth" > "$dir/compare.log"
# Rebase: what differs from the raw image moves into the overlay.
qemu-img rebase -F raw -b "$dir/golden" "$dir/over.qcow2"
qemu-img compare -F raw "$dir/over.qcow2" "$dir/truth" > "$dir/compare.log"
allocate disk
stop disk
same "$dir/store" "$dir/truth"
say "a qcow2 image over a disk: commit and rebase"
