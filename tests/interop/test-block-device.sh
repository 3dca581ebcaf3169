#!/bin/bash
# Block devices as stores (loop devices of 512- and 4096-byte sectors), which
# are full of what was there before: read, written, zeroed, trimmed, filled in,
# killed and restarted; and one as the backing store's file.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq losetup qemu-io qemu-img nbdcopy nbdinfo mkfs.ext4 e2fsck

make_golden "$dir/golden" 20
size=$(stat -c %s "$dir/golden")
serve source -r --filter=delay file "$dir/golden" rdelay=1ms

# make_device SECTOR [BYTES]: $loop, with rubbish all over it.
make_device () {
  rm -f "$dir/device"
  head -c "${2:-$size}" /dev/urandom > "$dir/device"
  loop=$(losetup --find --show --sector-size "$1" "$dir/device" \
    2> "$dir/losetup.err") || return 1
  undo+=("losetup -d '$loop'")
}
end_device () {
  losetup -d "$loop"
  unset 'undo[-1]'
}
make_device 512 || skip "no loop devices"

# It needs a place for its sidecar; and it is not made.
must_fail "$nbdkit" -f -U "$dir/x.sock" "$plugin" "$loop" \
  backing="$(uri source)" control=off
grep -q 'metadata=' "$dir/out" || fail "the message does not name metadata="
must_fail "$nbdkit" -f -U "$dir/x.sock" "$plugin" "$dir/nothing/there" \
  backing="$(uri source)" control=off
end_device

script () {
  cat <<'END2'
write -P 1 5000 100
write -P 2 1M 64k
write -z 3145729 70001
write -z -u 5M 1M
write -f -P 3 5500000 10
write -z -u 4095 2
write -z 513 1023
writev -P 4 7000001 512 1024 512
write -f -z 20000000 123456
write -P 5 25165824 1
flush
END2
}

for sector in 512 4096; do
  make_device $sector || {
    say "no sectors of $sector"
    continue
  }
  rm -f "$dir/sidecar"
  disk disk "$loop" metadata="$dir/sidecar" backing="$(uri source)" adopt=absent
  # Nothing of the rubbish shows.
  qemu-img compare -f raw -F raw "$(uri disk)" "$dir/golden" \
    > "$dir/compare.log"
  stop disk
  cp --sparse=always "$dir/golden" "$dir/truth"
  script | qemu-io -f raw "$dir/truth" > "$dir/qemu-io.log"

  # Once more from nothing: the guest, a job, and a kill in the middle.
  rm "$dir/sidecar"
  head -c "$size" /dev/urandom | dd of="$loop" bs=1M status=none
  disk disk "$loop" metadata="$dir/sidecar" backing="$(uri source)" adopt=absent
  script | qemu-io -f raw "$(uri disk)" > "$dir/qemu-io.log"
  cli disk allocate --speed 8M > /dev/null
  wait_for eval '[ "$(member disk .job.offset)" -gt 2000000 ]'
  crash disk
  disk disk "$loop" metadata="$dir/sidecar"
  [ "$(member disk .store)" = "$(realpath "$loop")" ] || fail "the store's path"
  qemu-img compare -f raw -F raw "$(uri disk)" "$dir/truth" \
    > "$dir/compare.log" || fail "after SIGKILL it is another"
  # A trim: old or zero, and it stays so.
  qemu-io -f raw -d unmap -c 'discard 10000000 5000000' "$(uri disk)" \
    > "$dir/qemu-io.log"
  nbdcopy "$(uri disk)" "$dir/out.img"
  finish_job disk
  # A block device knows no holes that would be zeros.
  nbdinfo --map --json "$(uri disk)" |
    /usr/bin/python3 "$here/status-check.py" "$dir/out.img"
  stop disk
  nbdcopy "$loop" "$dir/out2.img"
  same "$dir/out.img" "$dir/out2.img"
  /usr/bin/python3 - "$dir/out.img" "$dir/truth" <<'END2'
import sys
a, b = (open(n, "rb").read() for n in sys.argv[1:])
lo, hi = 10000000, 15000000
assert a[:lo] == b[:lo] and a[hi:] == b[hi:]
assert all(x in (0, y) for x, y in zip(a[lo:hi], b[lo:hi]))
END2
  e2fsck -fn "$dir/golden" > "$dir/fsck.log" 2>&1

  # It is complete: the source is not needed, and the sidecar can go.
  disk disk "$loop" metadata="$dir/sidecar"
  cli disk detach > /dev/null
  qemu-io -f raw -c 'write -P 9 0 512' "$(uri disk)" > "$dir/qemu-io.log"
  stop disk
  [ ! -e "$dir/sidecar" ] || fail "the sidecar is still there"
  [ "$(head -c 4 "$loop" | od -An -tx1 | tr -d ' ')" = 09090909 ] ||
    fail "the device has not what was written"
  end_device
  say "sectors of $sector"
done

# --- all of it allocated, and several at once, by another's link ---

make_device 512
ln -s "$loop" "$dir/link"
disk disk "$dir/link" metadata="$dir/sidecar" backing="$(uri source)" \
  adopt=absent allocate=on allocate-mode=full
must_fail "$nbdkit" -f -U "$dir/x.sock" "$plugin" "$loop" \
  metadata="$dir/other" backing="$(uri source)" adopt=absent control=off
grep -q 'in use' "$dir/out" || fail "another sidecar: $(cat "$dir/out")"
must_fail "$nbdkit" -f -U "$dir/x.sock" "$plugin" "$loop" \
  metadata="$dir/sidecar" control=off
grep -q "${server[disk]}" "$dir/out" || fail "the owner is not named: $(cat "$dir/out")"
finish_job disk
stop disk
nbdcopy "$loop" "$dir/out.img"
same "$dir/out.img" "$dir/golden"
end_device
rm "$dir/sidecar" "$dir/link"
say "by a link"

# --- a device that is larger than the disk, or smaller ---

make_device 512 $((size + (1 << 20)))
tail -c $((1 << 20)) "$loop" > "$dir/rest"
disk disk "$loop" metadata="$dir/sidecar" backing="$(uri source)" adopt=absent
[ "$(nbdinfo --size "$(uri disk)")" = "$size" ] || fail "the disk's size"
allocate disk --full
must_fail qemu-io -f raw -c "write $((size - 512)) 1024" "$(uri disk)"
stop disk
head -c "$size" "$loop" | cmp - "$dir/golden"
tail -c $((1 << 20)) "$loop" | cmp - "$dir/rest"
end_device
rm "$dir/sidecar"
make_device 512 $((size - (1 << 20)))
must_fail "$nbdkit" -f -U "$dir/x.sock" "$plugin" "$loop" \
  metadata="$dir/sidecar" backing="$(uri source)" adopt=absent control=off
grep -q "$loop" "$dir/out" && grep -q "$size" "$dir/out" ||
  fail "$(cat "$dir/out")"
[ ! -e "$dir/sidecar" ] || fail "a sidecar was made"
end_device
say "of another size"

# --- no backing store; and a device below the source ---

make_device 4096
disk disk "$loop" metadata="$dir/sidecar" size="$size" adopt=absent
nbdcopy "$(uri disk)" "$dir/out.img"
/usr/bin/python3 "$here/sparse.py" zeros "$dir/out.img" 0 "$size"
nbdcopy --flush "$dir/golden" "$(uri disk)"
[ "$(member disk .absent)" = 0 ] || fail "not all is local"
stop disk
nbdcopy "$loop" "$dir/out.img"
same "$dir/out.img" "$dir/golden"
stop source
serve source -r file "$loop"
disk disk "$dir/store" backing="$(uri source)"
allocate disk
stop disk
same "$dir/store" "$dir/golden"
stop source
end_device
say "without a backing store, and as one"
