#!/bin/bash
# qemu-storage-daemon between a disk and its guest, as live migration of
# storage uses it: it exports the disk again, streams it into a qcow2 image,
# and mirrors it to a file, while a guest writes and while the disk itself is
# being filled in.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq qemu-storage-daemon qemu-img qemu-io mkfs.ext4

make_golden "$dir/golden" 32
size=$(stat -c %s "$dir/golden")
serve source -r --filter=delay file "$dir/golden" rdelay=1ms

# daemon BLOCKDEV...: exports the node `top` as "guest".
daemon () {
  local b args=()
  rm -f "$dir/qsd.sock" "$dir/qmp.sock"
  for b; do
    args+=(--blockdev "$b")
  done
  qemu-storage-daemon "${args[@]}" \
    --nbd-server "addr.type=unix,addr.path=$dir/qsd.sock" \
    --export type=nbd,id=e0,node-name=top,name=guest,writable=on \
    --chardev "socket,id=c0,path=$dir/qmp.sock,server=on,wait=off" \
    --monitor chardev=c0 2> "$dir/qsd.err" &
  qsd=$!
  pids+=($qsd)
  wait_for eval "[ -S '$dir/qsd.sock' ] || is_gone $qsd"
  ! is_gone $qsd || fail "qemu-storage-daemon does not start"
}
end_daemon () {
  kill -TERM $qsd
  wait $qsd || fail "qemu-storage-daemon failed"
}
nbd="driver=nbd,node-name=disk,server.type=unix,server.path=$dir/disk.sock"
nbd="$nbd,discard=unmap,detect-zeroes=unmap"
guest="nbd+unix:///guest?socket=$dir/qsd.sock"

# job COMMAND ARGUMENTS: from its start to its end, the guest writing.
job () {
  PYTHONPATH=$here /usr/bin/python3 - "$dir/qmp.sock" "$1" "$2" "$guest" \
    "$dir/truth" <<'END2'
import json
import random
import subprocess
import sys

import stream

path, command, arguments, guest, truth = sys.argv[1:]
q = stream.Stream(path)
rng = random.Random(3)
size = 30 << 20


def write(commands):
    for image in (guest, truth):
        subprocess.run(["qemu-io", "-f", "raw", "-d", "unmap", *commands,
                        image], check=True, stdout=subprocess.DEVNULL)


def some():
    out = []
    for _ in range(40):
        n = rng.choice((512, 4096, 5000, 70000))
        what = rng.choice(("write -P %d" % rng.randrange(1, 256), "write -z",
                           "write -z -u", "write -f -P 9"))
        out += ["-c", "%s %d %d" % (what, rng.randrange(size), n)]
    return out


q.run(command, job_id="j", auto_dismiss=False,
      **json.loads(arguments))
write(some())
write(some())
if command == "blockdev-mirror":
    q.wait("BLOCK_JOB_READY", device="j")
    write(some())
    q.run("job-complete", id="j")
elif command == "block-stream":
    try:
        q.run("block-job-set-speed", device="j", speed=0)
    except stream.QmpError:
        print("it has ended already")
q.wait("JOB_STATUS_CHANGE", id="j", status="concluded")
[j] = q.run("query-jobs")
assert "error" not in j, j
q.run("job-dismiss", id="j")
write(some())
END2
}

fresh () {
  rm -f "$dir"/store* "$dir/truth"
  cp --sparse=always "$dir/golden" "$dir/truth"
  disk disk "$dir/store" backing="$(uri source)"
}

# --- mirror the disk to a raw file, and go on there ---

fresh
truncate -s "$size" "$dir/target"
daemon "$nbd" driver=raw,node-name=top,file=disk \
  "driver=file,node-name=target,filename=$dir/target"
cli disk allocate --speed 16M > /dev/null
job blockdev-mirror '{"device": "top", "target": "target", "sync": "full"}'
end_daemon
same "$dir/target" "$dir/truth"
finish_job disk
stop disk
say "blockdev-mirror"

# --- a qcow2 image over it, streamed until it needs the disk no more ---

fresh
qemu-img create -q -f qcow2 "$dir/over.qcow2" "$size"
daemon "$nbd" "driver=file,node-name=of,filename=$dir/over.qcow2" \
  driver=qcow2,node-name=top,file=of,backing=disk
job block-stream '{"device": "top", "speed": 16777216}'
end_daemon
stop disk
qemu-img compare -f qcow2 -F raw "$dir/over.qcow2" "$dir/truth" \
  > "$dir/compare.log" || fail "what was streamed is not the disk"
# Nothing of it was written to the disk.
disk disk "$dir/store"
allocate disk
stop disk
same "$dir/store" "$dir/golden"
say "block-stream"

# --- what a snapshot over the disk gathered goes down into it ---

fresh
qemu-img create -q -f qcow2 "$dir/over.qcow2" "$size"
daemon "$nbd" "driver=file,node-name=of,filename=$dir/over.qcow2" \
  driver=qcow2,node-name=top,file=of,backing=disk
qemu-io -f raw -c 'write -P 44 1M 3M' -c 'write -P 45 9000001 5' "$guest" \
  > "$dir/qemu-io.log"
qemu-io -f raw -c 'write -P 44 1M 3M' -c 'write -P 45 9000001 5' \
  "$dir/truth" > "$dir/qemu-io.log"
PYTHONPATH=$here /usr/bin/python3 - "$dir/qmp.sock" <<'END2'
import sys
import stream
q = stream.Stream(sys.argv[1])
q.run("block-commit", job_id="j", device="top", auto_dismiss=False)
q.wait("BLOCK_JOB_READY", device="j")
# The export is on the image that goes away.
q.run("block-export-del", id="e0", mode="hard")
q.wait("BLOCK_EXPORT_DELETED", id="e0")
q.run("job-complete", id="j")
q.wait("JOB_STATUS_CHANGE", id="j", status="concluded")
[j] = q.run("query-jobs")
assert "error" not in j, j
END2
end_daemon
allocate disk
stop disk
same "$dir/store" "$dir/truth"
say "block-commit into it"
