#!/bin/bash
# Backing stores that nobody here wrote: qemu-nbd and qemu-storage-daemon with
# qcow2 images, nbd-server, and nbdkit in its less usual manners; some of them
# run by the plugin itself.  Of each: read on demand, written to in the middle
# of granules, filled in; and never written (G31).
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq nbdcopy nbdinfo qemu-img qemu-io qemu-nbd mkfs.ext4

make_golden "$dir/golden" 12
size=$(stat -c %s "$dir/golden")
cp --sparse=always "$dir/golden" "$dir/truth"
changes=(-c 'write -P 5 20000001 3000' -c 'write -P 6 4095 2'
  -c 'write -z 5000000 70001' -c 'write -P 7 30000000 1')
qemu-io -f raw "${changes[@]}" "$dir/truth" > "$dir/qemu-io.log"

# over NAME BACKING [KEY=VALUE ...]
over () {
  local name=$1
  shift
  rm -f "$dir"/store* "$dir/out.img"
  disk disk "$dir/store" backing="$@"
  [ "$(nbdinfo --size "$(uri disk)")" = "$size" ] || fail "$name: the size"
  qemu-io -f raw -c 'read 1234567 1000' "${changes[@]}" "$(uri disk)" \
    > "$dir/qemu-io.log"
  nbdcopy "$(uri disk)" "$dir/out.img"
  same "$dir/out.img" "$dir/truth"
  nbdinfo --map --json "$(uri disk)" |
    /usr/bin/python3 "$here/status-check.py" "$dir/truth"
  allocate disk
  stop disk
  same "$dir/store" "$dir/truth"
  # Again, from nothing, by a job alone.
  rm -f "$dir"/store*
  disk disk "$dir/store" backing="$@"
  allocate disk
  stop disk
  same "$dir/store" "$dir/golden"
  say "$name"
}

# until_socket NAME PID
until_socket () {
  wait_for eval "[ -S '$dir/$1.sock' ] || is_gone $2"
  ! is_gone "$2" || fail "the server did not start"
}

end () {
  kill -TERM "$1"
  wait "$1" 2> /dev/null || true
}

# --- QEMU ---

qemu-img convert -q -f raw -O qcow2 -c "$dir/golden" "$dir/golden.qcow2"
sum=$(sha256sum < "$dir/golden.qcow2")
qemu-nbd -k "$dir/qn.sock" -f qcow2 -r -t -e 8 "$dir/golden.qcow2" \
  2> "$dir/qemu-nbd.err" &
qn=$!
pids+=($qn)
until_socket qn $qn
over 'qemu-nbd, a compressed qcow2 image' "nbd+unix:///?socket=$dir/qn.sock"
end $qn
rm -f "$dir/qn.sock"
# It takes one client only, as is its default: then one has to do.
qemu-nbd -k "$dir/qn.sock" -f qcow2 -r -t "$dir/golden.qcow2" \
  2> "$dir/qemu-nbd.err" &
qn=$!
pids+=($qn)
until_socket qn $qn
over 'qemu-nbd for one client' "nbd+unix:///?socket=$dir/qn.sock"
end $qn
over 'qemu-nbd, run by the plugin' \
  "[ qemu-nbd -r -f qcow2 -e 4 $dir/golden.qcow2 ]"

if command -v qemu-storage-daemon > /dev/null; then
  # A chain of images: half of it is in the one above.
  head -c 20000256 "$dir/golden" > "$dir/first"
  truncate -s "$size" "$dir/first"
  qemu-img create -q -f qcow2 -F raw -b "$dir/first" "$dir/second.qcow2"
  qemu-img rebase -q -u -F raw -b "$dir/golden" "$dir/second.qcow2"
  qemu-img rebase -q -F raw -b "$dir/first" "$dir/second.qcow2"
  qemu-storage-daemon \
    --blockdev "driver=file,node-name=f1,filename=$dir/first,read-only=on" \
    --blockdev driver=raw,node-name=r1,file=f1,read-only=on \
    --blockdev "driver=file,node-name=f2,filename=$dir/second.qcow2" \
    --blockdev driver=qcow2,node-name=q2,file=f2,backing=r1 \
    --nbd-server "addr.type=unix,addr.path=$dir/qsd.sock" \
    --export type=nbd,id=e0,node-name=q2,name=golden,allocation-depth=on \
    2> "$dir/qsd.err" &
  qsd=$!
  pids+=($qsd)
  until_socket qsd $qsd
  over 'qemu-storage-daemon, a chain of images' \
    "nbd+unix:///golden?socket=$dir/qsd.sock"
  end $qsd
  rm -f "$dir/first" "$dir/second.qcow2"
fi
[ "$(sha256sum < "$dir/golden.qcow2")" = "$sum" ] ||
  fail "the backing store was written"

# --- nbd-server ---

if command -v nbd-server > /dev/null; then
  # Without structured replies and block status.  It listens on TCP.
  for port in $(shuf -i 20000-40000 -n 20); do
    cat > "$dir/nbd-server.conf" <<END2
[generic]
listenaddr = 127.0.0.1
port = $port
allowlist = true
[golden]
exportname = $dir/golden
readonly = true
multiconn = true
END2
    nbd-server -C "$dir/nbd-server.conf" -p "$dir/nbd-server.pid" \
      > "$dir/nbd-server.log" 2>&1 || true
    for ((i = 0; i < 50; i++)); do
      if nbdinfo --size "nbd://127.0.0.1:$port/golden" \
          > "$dir/size" 2> /dev/null; then
        break 2
      fi
      sleep 0.1
    done
    port=
  done
  [ -n "$port" ] || fail "nbd-server does not start"
  # It is not our child.
  wait_for test -s "$dir/nbd-server.pid"
  ns=$(cat "$dir/nbd-server.pid")
  pids+=("$ns")
  over 'nbd-server over TCP' "nbd://127.0.0.1:$port/golden"
  end "$ns"
fi

# --- nbdkit ---

qemu-img convert -q -f raw -O raw "$dir/golden" "$dir/compare"
k () {
  serve source -r "$@"
}
k --no-sr file "$dir/golden"
over 'no structured replies' "$(uri source)"
stop source
k --oldstyle file "$dir/golden"
over 'the old handshake' "$(uri source)"
stop source
k --filter=noparallel --filter=multi-conn file "$dir/golden" \
  multi-conn-mode=disable serialize=connections
over 'one connection only' "$(uri source)"
stop source
k --filter=blocksize-policy file "$dir/golden" blocksize-minimum=4096 \
  blocksize-preferred=64K blocksize-maximum=128K blocksize-error-policy=error
over 'requests of 4K to 128K' "$(uri source)"
over 'the same with a granule of 512' "$(uri source)" granule=512
over 'the same with a granule of 64K' "$(uri source)" granule=64K
stop source
k --filter=blocksize-policy file "$dir/golden" blocksize-minimum=64K \
  blocksize-preferred=64K blocksize-maximum=64K blocksize-error-policy=error
over 'requests of 64K' "$(uri source)"
stop source
k --filter=nocache --filter=noextents --filter=log file "$dir/golden" \
  logfile="$dir/requests"
over 'no block status' "$(uri source)"
# Nothing but what reads was ever asked for.
! grep -E ' (Write|Zero|Trim|Flush) ' "$dir/requests" ||
  fail "the backing store was asked to write"
stop source
over 'nbdkit on its standard input, run by the plugin' \
  "[ $nbdkit -s -r file $dir/golden ]"
over 'nbdkit with a socket, run by the plugin' \
  "[ $nbdkit -f -r --filter=delay file \"$dir/golden\" rdelay=1ms ]"
same "$dir/compare" "$dir/golden"
