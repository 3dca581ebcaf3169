#!/bin/bash
# A sync failed, and the kernel took the pages for clean: they are shown from
# the cache, but are not on the disk.  Who opens the volume next must not
# show them, as no later flush would write them (G14).
#
# lossyfs has no page cache in front of it.  So the store is on an ext4 on a
# loop device, whose file is on lossyfs.
#
#   SCENARIO=name ./failedcache.sh
#
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154
srcdir=${srcdir:-$(dirname "$0")}
# shellcheck source=crash-lib.sh
. "$srcdir/crash-lib.sh"
crash_init fuse "$@"
[ "$CRASH_SERVER" = backfill ] || skip "nbdkit's file plugin does not promise it"
PATH=$PATH:/sbin:/usr/sbin
command -v mkfs.ext4 >/dev/null || skip "no mkfs.ext4"
command -v losetup >/dev/null || skip "no losetup"

MiB=1048576
fs_ctl="$mnt/.lossyfs"
ext=$tmp/ext
loop=

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

for scenario in ${SCENARIO:-complete stable}; do
  new_disk $((4 * MiB)) --dense
  truncate -s $((32 * MiB)) "$fs_in/img"
  backing_start
  fs_start
  loop=$(losetup -f --show "$mnt/img" 2>/dev/null) || skip "no loop device"
  # Without a journal one failed write does not end it all.
  mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0,nodiscard "$loop" \
    > /dev/null 2>&1 && mount "$loop" "$ext" || skip "cannot mount an ext4"

  server_must_start
  if [ "$scenario" = complete ]; then
    must_allocate sparse
  fi
  guest <<-END
	write 0 65536
	flush
	write 8192 4096
	! echo 'fail write img 1 EIO all' > $fs_ctl
	fail flush
	! echo clear > $fs_ctl
	END
  server_kill
  server_must_start
  # Of what was never flushed it may show the old or the new, and keeps to it.
  verify powercut
  guest <<-END
	flush
	END
  server_kill
  sync "$store"
  dd if="$store" iflag=nocache count=0 status=none
  server_must_start
  verify same
  server_stop
  ext_end
  fs_stop
  say "$scenario: ok"
done
