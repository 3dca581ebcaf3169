#!/bin/bash
# Disks of no bytes, of one, and of sizes that are multiples of nothing; with
# granules from 512 bytes to 64 KiB; with a backing store and without.  Each is
# written to its last byte, killed, read by several clients, filled in, and
# becomes a raw image.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq nbdcopy nbdinfo qemu-img qemu-io
need_nbdsh

# look TRUTH: what clients see of the disk.
look () {
  local size
  size=$(stat -c %s "$1")
  [ "$(nbdinfo --size "$(uri disk)")" = "$size" ] || fail "the size"
  nbdinfo --json "$(uri disk)" | jq -e .exports > /dev/null
  nbdinfo --map --json "$(uri disk)" > "$dir/map.json"
  [ "$size" -eq 0 ] ||
    /usr/bin/python3 "$here/status-check.py" "$1" < "$dir/map.json"
  nbdinfo --map --json "$(uri disk map)" |
    jq -e --argjson size "$size" '[.[].length] | (add // 0) == $size' \
    > /dev/null || fail "the map's size"
  nbdcopy "$(uri disk)" "$dir/out.img"
  cmp "$dir/out.img" "$1"
  qemu-img convert -f raw -O raw "$(uri disk)" "$dir/out.img"
  # QEMU rounds up to sectors.
  truncate -s "$size" "$dir/out.img"
  cmp "$dir/out.img" "$1"
  member disk '.local + .absent' | grep -qx "$size" || fail "local and absent"
  cli disk map --json |
    jq -e --argjson size "$size" '[.[].length] | (add // 0) == $size' \
    > /dev/null || fail "the command's map"
}

# change TRUTH: odd places, the first and the last byte; the same to the file.
change () {
  cat > "$dir/change.py" <<'END2'
import os
f = open(os.environ["TRUTH"], "r+b")
size = h.get_size()


def write(data, at):
    h.pwrite(data, at)
    f.seek(at)
    f.write(data)


def zero(n, at):
    h.zero(n, at)
    f.seek(at)
    f.write(bytes(n))


assert (size == 0) == (f.seek(0, 2) == 0)
if size > 0:
    write(b"L", size - 1)
    zero(1, 0)
    write(b"F", 0)
if size > 1:
    zero(size // 2, size // 3)
    write(b"odd"[:size], max(min(700, size - 3), 0))
    n = min(5000, size)
    write(bytes(range(1, 251)) * 20 if n == 5000 else b"x" * n, size - n)
    h.trim(1, 0)
    assert h.pread(1, 0) in (b"F", b"\0", b"x", bytes([1]))
    write(b"F", 0)
h.flush()
f.close()
END2
  TRUTH=$1 nbdsh -u "$(uri disk)" -c "$(cat "$dir/change.py")"
}

# life NAME TRUTH [KEY=VALUE ...]
life () {
  local name=$1 truth=$2
  shift 2
  rm -f "$dir"/store*
  disk disk "$dir/store" "$@"
  change "$truth"
  crash disk
  disk disk "$dir/store"
  look "$truth"
  allocate disk
  [ "$(member disk .absent)" = 0 ] || fail "not all is local"
  [ "$(member disk .job.result)" = completed ] || fail "the job"
  look "$truth"
  allocate disk --full
  change "$truth"
  cli disk detach > /dev/null
  stop disk
  cmp "$dir/store" "$truth"
  [ ! -e "$dir/store.backfill" ] || fail "the sidecar is still there"
  say "$name"
}

for size in 0 1 511 513 4097 70001; do
  head -c "$size" /dev/urandom > "$dir/golden"
  serve source -r file "$dir/golden"
  for granule in 512 4096 65536; do
    case $size-$granule in
      # One granule is enough for those that have only one anyway.
      0-512 | 0-65536 | 1-512 | 511-65536 | 513-65536) continue ;;
    esac
    cp "$dir/golden" "$dir/truth"
    life "$size bytes, granules of $granule" "$dir/truth" \
      backing="$(uri source)" granule=$granule
  done
  stop source
  rm -f "$dir/truth"
  truncate -s "$size" "$dir/truth"
  life "$size bytes of zeros" "$dir/truth" size="$size"
done

# A size that is given must be the backing store's; so must a granule be one.
head -c 70001 /dev/urandom > "$dir/golden"
serve source -r file "$dir/golden"
rm -f "$dir"/store*
must_fail "$nbdkit" -f -U "$dir/x.sock" "$plugin" "$dir/store" \
  backing="$(uri source)" size=70000 control=off
must_fail "$nbdkit" -f -U "$dir/x.sock" "$plugin" "$dir/store" \
  backing="$(uri source)" granule=128K control=off
[ ! -e "$dir/store" ] || fail "a store was made"
stop source
