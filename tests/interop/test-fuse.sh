#!/bin/bash
# nbdfuse shows a disk as a file, and the kernel's own ext4 and loop device
# are its user: files are read and written in it while the disk is filled in,
# the file system is whole afterwards, and every file is what it should be.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq nbdfuse fusermount3 losetup mkfs.ext4 e2fsck cmp
[ -r /dev/fuse ] || skip "no /dev/fuse"

make_golden "$dir/golden" 64 "$dir/tree"
size=$(stat -c %s "$dir/golden")
serve source -r --filter=delay file "$dir/golden" rdelay=2ms
disk disk "$dir/store" backing="$(uri source)"

# --- as a file ---

mkdir "$dir/fuse"
nbdfuse "$dir/fuse/disk" --unix "$dir/disk.sock" 2> "$dir/nbdfuse.err" &
fuse=$!
pids+=($fuse)
undo+=("fusermount3 -uz '$dir/fuse'")
wait_for eval "[ -e '$dir/fuse/disk' ] || is_gone $fuse"
! is_gone $fuse || skip "nbdfuse cannot mount: $(cat "$dir/nbdfuse.err")"
[ "$(stat -c %s "$dir/fuse/disk")" = "$size" ] || fail "the file's size"
# Some of it is read, odd places are written; what was there is put back.
dd if="$dir/fuse/disk" of="$dir/part" bs=100001 skip=7 count=30 status=none
cmp -i $((7 * 100001)):0 -n $((30 * 100001)) "$dir/golden" "$dir/part"
printf 'in the middle of it' |
  dd of="$dir/fuse/disk" bs=1 seek=20000001 conv=notrunc,fsync status=none
[ "$(dd if="$dir/fuse/disk" bs=1 skip=20000001 count=19 status=none)" = \
  'in the middle of it' ] || fail "what was written does not read back"
dd if="$dir/golden" of="$dir/fuse/disk" bs=1 skip=20000001 seek=20000001 \
  count=19 conv=notrunc,fsync status=none
say "a file"

# --- and as the disk of a file system ---

loop=$(losetup --find --show "$dir/fuse/disk" 2> "$dir/losetup.err") || {
  say "no loop device, the file system is left out"
  exit 0
}
undo+=("losetup -d '$loop'")
mkdir "$dir/mnt"
mount -t ext4 "$loop" "$dir/mnt" 2> "$dir/mount.err" || {
  say "cannot mount, the file system is left out"
  exit 0
}
undo+=("umount -l '$dir/mnt'")
# Read some files before the job begins, and write while it runs.
diff -r "$dir/tree/usr/include" "$dir/mnt/usr/include" 2> /dev/null ||
  diff -r "$dir/tree/usr/bin" "$dir/mnt/usr/bin"
cli disk allocate --speed 16M > /dev/null
mkdir "$dir/mnt/new" "$dir/made"
/usr/bin/python3 - "$dir/made" "$dir/mnt/new" <<'END2'
import os
import random
import sys

rng = random.Random(5)
for i in range(120):
    data = rng.randbytes(rng.choice((1, 700, 5000, 60000, 400000)))
    for folder in sys.argv[1:]:
        with open("%s/%03d" % (folder, i), "wb") as f:
            f.write(data)
            if i % 10 == 0:
                f.flush()
                os.fsync(f.fileno())
    # Some are changed and some go again.
    if i % 7 == 3:
        for folder in sys.argv[1:]:
            with open("%s/%03d" % (folder, i - 1), "r+b") as f:
                f.seek(len(data) // 3)
                f.write(b"changed")
    if i % 7 == 6:
        for folder in sys.argv[1:]:
            os.unlink("%s/%03d" % (folder, i - 4))
END2
removed=$(find "$dir/mnt/usr" -type f | sort | sed -n 1,40p)
for f in $removed; do
  rm "$f"
  rm "$dir/tree/${f#"$dir/mnt/"}"
done
sync -f "$dir/mnt"
finish_job disk
diff -r "$dir/made" "$dir/mnt/new"
umount "$dir/mnt"
losetup -d "$loop"
# It would be busy for as long as the kernel lets the device go.
wait_for fusermount3 -u "$dir/fuse" 2> "$dir/umount.err"
wait_for is_gone $fuse
undo=()
stop disk
stop source
say "a file system: written while it was filled in"

# The raw image on its own.
e2fsck -fn "$dir/store" > "$dir/fsck.log" 2>&1 || fail "e2fsck finds errors"
loop=$(losetup --find --show --read-only "$dir/store")
undo+=("losetup -d '$loop'")
mount -t ext4 -o ro,noload "$loop" "$dir/mnt"
undo+=("umount -l '$dir/mnt'")
diff -r "$dir/made" "$dir/mnt/new"
diff -r "$dir/tree/usr" "$dir/mnt/usr"
umount "$dir/mnt"
losetup -d "$loop"
undo=()
say "the raw image: whole, and each file as it should be"
