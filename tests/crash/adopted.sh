#!/bin/bash
# A store that was a volume's before, and is made a new one's with
# adopt=absent: after a power cut at once the new volume can be opened.  The
# file system is an ext4 that writes its journal late, and the cut a copy of
# its device.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154
srcdir=${srcdir:-$(dirname "$0")}
# shellcheck source=crash-lib.sh
. "$srcdir/crash-lib.sh"
crash_init fuse "$@"
[ "$CRASH_SERVER" = backfill ] || skip "there is no sidecar"
PATH=$PATH:/sbin:/usr/sbin
command -v mkfs.ext4 >/dev/null || skip "no mkfs.ext4"
command -v losetup >/dev/null || skip "no losetup"

MiB=1048576
ext=$tmp/ext
loop=

# Mount the device that is in file $1.
ext_start () {
  loop=$(losetup -f --show "$1" 2>/dev/null) || skip "no loop device"
  mount -o commit=300 "$loop" "$ext" || skip "cannot mount an ext4"
}

ext_end () {
  local code=$?

  end_process "${server_pid:-}"
  server_pid=''
  umount -l "$ext" 2>/dev/null
  [ -z "$loop" ] || losetup -d "$loop"
  loop=
  return "$code"
}
trap 'ext_end; crash_cleanup' EXIT
mkdir "$ext"
store=$ext/disk

new_disk $((4 * MiB)) --dense
truncate -s $((32 * MiB)) "$tmp/img"
mkfs.ext4 -q -E lazy_itable_init=0,nodiscard "$tmp/img" > /dev/null 2>&1 \
  || skip "cannot make an ext4"
backing_start
ext_start "$tmp/img"
server_must_start
server_stop
rm "$store.backfill"
sync
server_must_start adopt=absent
cp --sparse=always "$tmp/img" "$tmp/img.cut"
server_stop
ext_end
new_boot
ext_start "$tmp/img.cut"
server_must_start
guest <<-END
	read 0 65536
	write 0 4096
	flush
END
server_stop
say "ok"
