#!/bin/bash
# Block status is true (G7): in every state that a disk can be in, what nbdcopy
# and qemu-img make of it by following its status is the truth, and what it
# calls zero is zero.
#
# Copying changes what is local: so each state is made once, and each client
# is given a copy of it.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq qemu-io qemu-img nbdinfo nbdcopy mkfs.ext4

make_golden "$dir/golden" 24
# A size that is no multiple of anything.
truncate -s +777 "$dir/golden"
printf 'the end' | dd of="$dir/golden" bs=1 conv=notrunc status=none \
  seek="$(($(stat -c %s "$dir/golden") - 7))"
size=$(stat -c %s "$dir/golden")
serve source -r file "$dir/golden"
serve source-noextents -r --filter=noextents file "$dir/golden"
mkdir "$dir/made" "$dir/copy"

# What a guest does; the same goes to the truth.  (Data is where the file
# system's beginning is.)
script () {
  cat <<'END2'
write -P 1 5000 100
write -P 2 1M 64k
write -z 3145729 70001
write -z -u 5M 1M
write -P 3 5500000 10
write -z -u 4095 2
write -P 0 8M 128k
discard 10M 1M
flush
END2
}

# make STATE: the volume in $dir/made, its content in $dir/truth.
make () {
  local s=source pid
  rm -f "$dir/made"/*
  cp --sparse=always "$dir/golden" "$dir/truth"
  case $1 in *-noextents) s=source-noextents ;; esac
  disk make "$dir/made/disk" backing="$(uri $s)"
  case $1 in
    absent*) ;;
    partly*)
      allocate make --offset 3000001 --length 7M
      allocate make --offset 20M --length 1
      ;;
    written*)
      script | qemu-io -f raw -d unmap "$(uri make)" > "$dir/qemu-io.log"
      ;;
    local) allocate make ;;
    full) allocate make --full ;;
    local-written)
      allocate make
      script | qemu-io -f raw -d unmap "$(uri make)" > "$dir/qemu-io.log"
      ;;
    *) fail "$1?" ;;
  esac
  case $1 in
    *written*)
      # (What a trim leaves is zero, where all of a granule is trimmed.)
      script | sed 's/^discard/write -z -u/' |
        qemu-io -f raw "$dir/truth" > "$dir/qemu-io.log"
      ;;
  esac
  stop make
}

# with_copy COMMAND...: on a copy of what was made, as `copy`.
with_copy () {
  rm -f "$dir/copy"/*
  cp --sparse=always "$dir/made"/* "$dir/copy/"
  disk copy "$dir/copy/disk"
  "$@"
  stop copy
}

by_nbdcopy () {
  rm -f "$dir/out.img"
  nbdcopy "$@" "$(uri copy)" "$dir/out.img"
  same "$dir/out.img" "$dir/truth"
}

by_qemu_img () {
  rm -f "$dir/out.img"
  qemu-img convert "$@" -f raw -O raw "$(uri copy)" "$dir/out.img"
  # What it writes is rounded up to sectors.
  truncate -s "$size" "$dir/out.img"
  same "$dir/out.img" "$dir/truth"
}

by_map () {
  nbdinfo --map --json "$(uri copy)" > "$dir/map.json"
  /usr/bin/python3 "$here/status-check.py" "$dir/truth" < "$dir/map.json"
  qemu-img map --output=json -f raw "$(uri copy)" > "$dir/map2.json"
  /usr/bin/python3 "$here/status-check.py" "$dir/truth" < "$dir/map2.json"
  # What is a hole in the source must not all be hidden as data.
  [ "$(jq '[.[] | select(.type >= 2).length] | add // 0' "$dir/map.json")" \
    -ge "$1" ] || fail "no zeros are reported"
}

# The job changes what is local while the client asks and reads.
during_job () {
  cli copy allocate --speed "$1" > /dev/null
  shift
  "$@"
  cli copy abort > /dev/null 2>&1 || true
}

for state in absent partly written absent-noextents partly-noextents \
    written-noextents local full local-written; do
  make $state
  # The image is at least a quarter holes, all of which the source knows.
  zeros=8000000
  case $state in *-noextents | full) zeros=0 ;; esac
  with_copy by_map $zeros
  with_copy by_nbdcopy
  with_copy by_nbdcopy --connections=4 --threads=4 --request-size=65536
  with_copy by_qemu_img
  with_copy by_qemu_img -W -m 16
  case $state in
    partly* | written*)
      with_copy during_job 8M by_nbdcopy
      with_copy during_job 0 by_nbdcopy --connections=1 --synchronous
      with_copy during_job 16M by_qemu_img
      with_copy during_job 0 by_map 0
      ;;
  esac
  say "$state: true"
done

# The source goes: what cannot be known is never called zero, and what is
# local is as true as before.
make partly
rm -f "$dir/copy"/*
cp --sparse=always "$dir/made"/* "$dir/copy/"
disk copy "$dir/copy/disk" timeout=1
crash source
nbdinfo --map --json "$(uri copy)" > "$dir/map.json"
/usr/bin/python3 "$here/status-check.py" "$dir/truth" < "$dir/map.json"
serve source -r file "$dir/golden"
by_nbdcopy
stop copy
say "without a source: true"
