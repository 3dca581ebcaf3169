#!/bin/bash
# A write that the kernel could not bring to the disk is only in the page cache:
# nothing is dropped from there once one has failed, and the failure is final.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -u
work=$(mktemp -d /tmp/bdrop-XXXXXX) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP

strace -f -o "$work/probe" true 2>/dev/null || {
  echo "strace does not work here"
  exit 77
}

fail () {
  echo "FAIL: $*"
  exit 1
}

# run INJECT: copy a disk, with the calls of each thread in $work/trace.
# shellcheck disable=SC2016
run () {
  rm -rf "$work"/disk* "$work/run"
  "$TOP_BUILDDIR/run" strace -f -qq -e signal=none \
    -e trace=sync_file_range,fadvise64,fdatasync ${1:+-e "inject=$1"} \
    -o "$work/trace" "${NBDKIT:-nbdkit}" -U - "$BACKFILL_PLUGIN" \
    "$work/disk" backing="[ ${NBDKIT:-nbdkit} file $work/golden ]" \
    control="$work/c" runtime-dir="$work/run" --run '
      backfill -c "'"$work"'/c" allocate --wait --quiet
      backfill -c "'"$work"'/c" flush' > "$work/log" 2>&1
  status=$?
}

head -c 160M /dev/urandom > "$work/golden"

run ""
[ $status -eq 0 ] || fail "a copy without errors: $(cat "$work/log")"
grep -q 'fadvise64(.*DONTNEED) = 0' "$work/trace" ||
  fail "nothing was dropped at all"

# What the disk has taken it may still lose with its own cache: only when it
# was synced after that it is dropped.
awk '
     /sync_file_range\(.*WAIT_AFTER/ {
       split ($0, a, /[(,] */); k = a[3] "+" a[4]
       if (!(k in waited)) waited[k] = NR }
     /fdatasync.*= 0/ { synced = NR }
     /fadvise64\(.*DONTNEED/ {
       split ($0, a, /[(,] */); k = a[3] "+" a[4]
       if (a[4] > 0) {
         n++
         if (!(k in waited) || waited[k] > synced) { print; bad = 1 } } }
     END { exit bad || n < 8 }' "$work/trace" ||
  fail "dropped from memory before the disk had it for good"

# failing INJECT: the copy fails, and no thread drops anything after its call
# failed.
failing () {
  run "$1"
  grep -q INJECTED "$work/trace" || fail "$1: no call failed"
  [ $status -ne 0 ] || fail "$1: a flush after a failed write succeeded"
  awk '/INJECTED/ { failed[$1] = 1 }
       /fadvise64/ && failed[$1] { print; bad = 1 }
       END { exit bad }' "$work/trace" ||
    fail "$1: dropped from memory what may not be on the disk"
}

# Each thread's 50th call and all that follow fail.
failing sync_file_range:error=EIO:when=50+
# A description is told of a failure once, and not always as EIO: a disk says
# ENODATA, a path to one ENOLINK, a server ESTALE.
failing sync_file_range:error=ENODATA:when=50
failing sync_file_range:error=ESTALE:when=51
failing sync_file_range:error=ENOLINK:when=52
echo "ok"
