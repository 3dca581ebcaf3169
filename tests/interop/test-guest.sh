#!/bin/bash
# A guest that runs from a disk whose content is still elsewhere.  QEMU (TCG)
# boots Linux with its root on the proxied disk: it sums all of its files,
# writes new ones, syncs, trims and sums again, while the disk is filled in,
# and while nbdkit is killed under it and comes back.  It notices
# nothing.  Then it boots again from the raw image alone, and finds all that
# it had.
#
# The kernel is the one in the unpacked Debian package that
# BACKFILL_GUEST_KERNEL names, or that of this machine.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq qemu-system-x86_64 mkfs.ext4 e2fsck sha256sum
busybox=$(command -v busybox) || skip "no busybox"
# It runs where there are no libraries.
! ldd "$busybox" > /dev/null 2>&1 || skip "$busybox is not static"

kernel=
for k in "${BACKFILL_GUEST_KERNEL-}"/boot/vmlinuz-* /boot/vmlinuz-*; do
  version=${k##*/vmlinuz-}
  for modules in "${k%/boot/*}"{,/usr}"/lib/modules/$version"; do
    if [ -r "$k" ] && compgen -G "$modules/kernel/drivers/block/virtio_blk.ko*" \
         > /dev/null; then
      kernel=$k
      break 2
    fi
  done
done
[ -n "$kernel" ] || skip "no kernel for the guest"

# --- its disk: a small system, and 40 MiB of real files to look after ---

tree=$dir/tree
make_tree "$tree/files" 40
mkdir -p "$tree"/{bin,sbin,dev,proc,sys,written}
cp "$busybox" "$tree/bin/busybox"
for applet in $("$busybox" --list); do
  [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
done
cat > "$tree/sbin/guest" <<'END2'
#!/bin/busybox sh
# The guest's only process.  What it prints is on the serial console.
export PATH=/bin
mount -t proc proc /proc
# No line may be torn by the kernel's own.
echo 1 > /proc/sys/kernel/printk
say () {
  echo "guest: $*"
}
fsync_file () {
  dd if=/dev/null of="$1" conv=notrunc,fsync 2> /dev/null || say BAD fsync
}
check () {
  if ! sha256sum -c "$1" > /dev/null 2> /dev/null; then
    say "BAD $2"
    sha256sum -c "$1" 2>&1 | grep -v OK | head -n 5
  else
    say "$2 $(wc -l < "$1") right"
  fi
  # What is read the next time comes from the disk.
  sync
  echo 3 > /proc/sys/vm/drop_caches
}
say up
case $(cat /proc/cmdline) in
  *task=fill*)
    check /SUMS sums
    # Written past the cache, and not synced: what is acknowledged here is in
    # nobody's memory but the server's.
    cat /ring.new > /dev/null
    say direct
    dd if=/ring.new of=/ring bs=4k conv=notrunc oflag=direct 2> /dev/null ||
      say BAD direct
    say writing
    i=0
    for f in $(awk 'NR % 3 == 1 { print $2 }' /SUMS); do
      i=$((i + 1))
      # A copy that is another file, of any length.
      { echo "number $i"; cat "$f"; } > "/written/$i" || say BAD write
      [ $((i % 8)) -ne 0 ] || fsync_file "/written/$i"
      # Some of what was there is written over in place, some is taken away.
      [ $((i % 8)) -ne 3 ] ||
        echo "over $i" | dd of="/written/$((i - 1))" bs=1 seek=3000 \
          conv=notrunc 2> /dev/null || say BAD overwrite
      [ $((i % 8)) -ne 5 ] || rm "/written/$((i - 2))"
    done
    sha256sum /written/* > /WRITTEN.new
    sed -n 's/ring.new/ring/p' /RING >> /WRITTEN.new
    mv /WRITTEN.new /WRITTEN
    sync
    say written
    fstrim / || say BAD fstrim
    check /WRITTEN again
    check /SUMS sums again
    ;;
  *)
    check /SUMS sums
    check /WRITTEN again
    ;;
esac
sync
mount -o remount,ro /
say done
poweroff -f
END2
chmod +x "$tree/sbin/guest"
(cd "$tree" && find files -type f -print0 | sort -z |
   xargs -0 sha256sum | sed 's|  files|  /files|' > SUMS)
# A name that sha256sum has to quote would not be found by the guest's.
grep -v '^\\' "$tree/SUMS" | grep -v '  .* ' > "$dir/SUMS"
cp "$dir/SUMS" "$tree/SUMS"
files=$(wc -l < "$tree/SUMS")
# These are written over, one with the other.
head -c 16M /dev/urandom > "$tree/ring"
head -c 16M /dev/urandom > "$tree/ring.new"
(cd "$tree" && sha256sum ring.new | sed 's|  |  /|' > RING)
truncate -s 160M "$dir/golden"
mkfs.ext4 -q -F -d "$tree" "$dir/golden" > "$dir/mkfs.log" 2>&1
rm -rf "$tree"

# --- what finds it: modules, then on to the disk ---

mkdir -p "$dir/initrd"/{bin,dev,proc,new,modules}
cp "$busybox" "$dir/initrd/bin/busybox"
names=
for m in crc16 mbcache jbd2 crc32c_generic libcrc32c ext4 virtio virtio_ring \
    virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
  file=$(find "$modules/kernel" -name "$m.ko*" | sed -n 1p)
  # busybox's insmod takes them as they are in memory.
  case "$file" in
    "") continue ;;
    *.xz) xz -dc "$file" ;;
    *.zst) zstd -dc "$file" ;;
    *) cat "$file" ;;
  esac > "$dir/initrd/modules/$m.ko"
  names="$names $m"
done
cat > "$dir/initrd/init" <<END2
#!/bin/busybox sh
b=/bin/busybox
\$b mount -t devtmpfs dev /dev
# Each of them, whatever the order that they need.
for pass in 1 2 3 4; do
  for m in $names; do
    \$b insmod /modules/\$m.ko 2> /dev/null
  done
done
i=0
while [ ! -b /dev/vda ] && [ \$i -lt 600 ]; do
  \$b sleep 0.1
  i=\$((i + 1))
done
\$b mount -t ext4 /dev/vda /new || echo "guest: BAD mount"
\$b mount --move /dev /new/dev
exec \$b switch_root /new /sbin/guest
END2
chmod +x "$dir/initrd/init"
(cd "$dir/initrd" && find . | "$busybox" cpio -o -H newc 2> /dev/null) \
  > "$dir/initrd.img"

# boot TASK BLOCKDEV...: in the background, console in $dir/TASK.log.
boot () {
  local task=$1
  shift
  qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none \
    -machine q35,accel=tcg -cpu max -smp 1 -m 256 \
    -serial "file:$dir/$task.log" -kernel "$kernel" -initrd "$dir/initrd.img" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check task=$task" \
    -blockdev "$1" -device virtio-blk-pci,drive=d0 2> "$dir/qemu.err" &
  qemu=$!
  pids+=($qemu)
}

# said TASK TEXT: the guest has.
said () {
  grep -q "^guest: $2" "$dir/$1.log"
}

# wait_said TASK TEXT
wait_said () {
  local i
  touch "$dir/$1.log"
  for ((i = 0; i < 2400; i++)); do
    said "$1" "$2" && return
    ! is_gone $qemu || break
    sleep 0.1
  done
  said "$1" "$2" || fail "the guest does not say '$2'"
}

# ended TASK: and nothing was wrong, with it or with its disk.
ended () {
  wait_said "$1" done
  wait_for is_gone $qemu
  wait $qemu || fail "QEMU failed"
  ! grep -E 'guest: BAD|I/O error|EXT4-fs.*(error|warning)|Buffer I/O' \
    "$dir/$1.log" || fail "the guest noticed"
}

# --- the first boot ---

serve source -r --filter=delay file "$dir/golden" rdelay=1ms
disk disk "$dir/store" backing="$(uri source)"
boot fill "{\"driver\": \"nbd\", \"node-name\": \"d0\", \"export\": \"\",
  \"server\": {\"type\": \"unix\", \"path\": \"$dir/disk.sock\"},
  \"discard\": \"unmap\", \"reconnect-delay\": 300}"
wait_said fill up
say "up, with $(member disk '.local / 1048576 | floor') MiB local"
cli disk allocate --speed 6M > /dev/null
# nbdkit is killed while files are read, and twice while they are written.
sleep 0.5
crash disk
sleep 1
disk disk "$dir/store"
[ "$(member disk .job.result)" = none ] || fail "the job does not go on"
wait_said fill direct
sleep 0.7
crash disk
disk disk "$dir/store"
wait_said fill writing
sleep 0.3
crash disk
disk disk "$dir/store"
say "killed three times"
wait_said fill written
finish_job disk
ended fill
said fill "sums $files right" || fail "not all files were summed"
[ "$(member disk .absent)" = 0 ] || fail "not all is local"
cli disk detach > /dev/null
stop disk
crash source
[ ! -e "$dir/store.backfill" ] || fail "the sidecar is still there"
say "the guest noticed nothing"

# --- the second, from the raw image ---

e2fsck -fn "$dir/store" > "$dir/fsck.log" 2>&1 || fail "e2fsck finds errors"
boot check "{\"driver\": \"raw\", \"node-name\": \"d0\",
  \"file\": {\"driver\": \"file\", \"filename\": \"$dir/store\"}}"
ended check
said check "sums $files right" || fail "not all files were summed"
said check "again $(sed -n 's/^guest: again \([0-9]*\).*/\1/p' "$dir/fill.log") right"
say "booted from the raw image: all $files files and the new ones are right"
