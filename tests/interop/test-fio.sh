#!/bin/bash
# fio's NBD engine, with verify: block sizes that are multiples of nothing,
# several jobs that write side by side in the same granules, trims; through
# the plugin alone and through nbdkit's filters, while the rest of the disk is
# being filled in.  Afterwards what fio did not touch is as in the source.
#
#   STACK=blocksize test-fio.sh     only that one
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq fio nbdcopy mkfs.ext4
fio --enghelp=nbd > /dev/null 2>&1 || skip "fio without its NBD engine"

make_golden "$dir/golden" 48
size=$(stat -c %s "$dir/golden")
serve source -r --filter=delay file "$dir/golden" rdelay=1ms

cat > "$dir/fio.job" <<'END2'
[global]
ioengine=nbd
uri=${URI}
verify_fatal=1
verify_backlog=64
randrepeat=1
bs_unaligned

[mixed]
# Writes that overlap in flight end up in any order: wait for them.  (What is
# verified at once is the greatest common divisor of the two, sizes are any.)
rw=randwrite
bsrange=500-70000
norandommap
serialize_overlap=1
iodepth=8
offset=1m
size=4m
io_size=6m
verify=crc32c

[aligned]
rw=randrw
bs=4k
iodepth=16
offset=8m
size=3m
verify=crc32c

[sequential]
rw=write
bs=100000
iodepth=4
offset=16m
size=4000000
fsync=8
verify=crc32c

# Four that share every granule: each writes pieces of its own.
[side1]
rw=write:4500
bs=1500
iodepth=8
offset=24m
size=900000
io_size=225000
verify=crc32c
[side2]
rw=write:4500
bs=1500
iodepth=8
offset=25167324
size=900000
io_size=225000
verify=crc32c
[side3]
rw=write:4500
bs=1500
iodepth=8
offset=25168824
size=900000
io_size=225000
verify=crc32c
[side4]
rw=write:4500
bs=1500
iodepth=1
offset=25170324
size=900000
io_size=225000
verify=crc32c

[trim]
rw=randtrim
bsrange=1k-64k
iodepth=8
offset=32m
size=2m

[trimwrite]
rw=randtrimwrite
bs=8k
iodepth=8
offset=36m
size=2m
verify=crc32c
END2

# What of the image the jobs above touch, in MiB, and what is trimmed only.
cat > "$dir/check.py" <<'END2'
import sys
store, golden = (open(n, "rb").read() for n in sys.argv[1:])
M = 1 << 20
touched = [(1 * M, 5 * M), (8 * M, 11 * M), (16 * M, 20 * M),
           (24 * M, 24 * M + 900000), (32 * M, 34 * M), (36 * M, 38 * M)]
at = 0
for start, end in touched + [(len(golden), None)]:
    if store[at:start] != golden[at:start]:
        i = next(i for i in range(at, start) if store[i] != golden[i])
        sys.exit("byte %d is not the source's, and nobody wrote it" % i)
    at = end
for i in range(32 * M, 34 * M):
    if store[i] and store[i] != golden[i]:
        sys.exit("trimmed byte %d is neither old nor zero" % i)
END2

started () {
  :
}

# stack NAME [nbdkit option ...] -- [KEY=VALUE ...]
stack () {
  local name=$1
  shift
  [ "${STACK:-$name}" = "$name" ] || return 0
  filters=()
  while [ "$1" != -- ]; do
    filters+=("$1")
    shift
  done
  shift
  rm -f "$dir"/store*
  disk disk "$dir/store" backing="$(uri source)" "$@"
  started
  cli disk allocate --speed 8M > /dev/null
  URI=$(uri disk) fio --output="$dir/fio.out" "$dir/fio.job" \
    2> "$dir/fio.log" ||
    fail "$name: $(grep -E 'error|verify' "$dir/fio.out" "$dir/fio.log")"
  # Did it verify at all?
  [ "$(grep -c ' read: IOPS' "$dir/fio.out")" -ge 7 ] || fail "nothing was read"
  finish_job disk
  stop disk
  /usr/bin/python3 "$dir/check.py" "$dir/store" "$dir/golden" ||
    fail "$name: see above"
  say "$name"
}

stack plain -- 
stack 'granule of 512' -- granule=512
stack 'granule of 64K' -- granule=64K
stack blocksize --filter=blocksize -- \
  minblock=4096 maxdata=65536 maxlen=1M
stack delay --filter=delay -- rdelay=1ms wdelay=1ms delay-trim=1ms
stack 'errors that are retried' --filter=retry-request --filter=error -- \
  retry-request-retries=50 retry-request-delay=1 error-rate=0.5%
stack stats --filter=stats -- statsfile="$dir/stats"
stack log --filter=log -- logfile="$dir/requests"
stack 'all at once' --filter=stats --filter=log --filter=retry-request \
  --filter=error --filter=delay --filter=blocksize --filter=fua -- \
  statsfile="$dir/stats" logfile="$dir/requests" retry-request-retries=50 \
  retry-request-delay=1 error-rate=0.3% wdelay=1ms \
  maxdata=32768 fuamode=force
# A source that fails now and then: a guest's request that needs it may fail,
# and is good when it is asked again.
stop source
serve source -r --filter=error file "$dir/golden" error-pread-rate=5% \
  error-pread-file="$dir/faulty"
started () {
  touch "$dir/faulty"
}
stack 'a source with errors' --filter=retry-request -- \
  retry-request-retries=50 retry-request-delay=1
[ "$(grep -c injecting "$dir/source.err")" -ge 1 ] || fail "there was no error"
