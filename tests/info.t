info shows all about one disk.

  $ . "$TESTDIR/setup.sh"
  $ need jq nbdsh
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img backing="$golden"
  $ wait_until_connected
  $ backfill info | mask
  name         ""
  store        DIR/disk.img
  sidecar      DIR/disk.img.backfill
  backing      nbd+unix:///?socket=DIR/golden.sock
  source       connected
  size         16 MiB (16777216 bytes)
  granule      4 KiB (4096 bytes)
  local        0 bytes
  absent       16 MiB (16777216 bytes)
  filled       0%
  fetched      0 B; requests: 0 for the guest, 0 ahead of it, 0 for jobs
  guest        reads: 0, writes: 0, flushes: 0
  commits      1
  job          none

A job in progress:

  $ write_at "$disk" 0 "$(printf %4096s x)"
  $ backfill flush
  $ backfill allocate --quiet --speed 64k --offset 1M --length 3M
  $ wait_for sh -c 'backfill info --json | jq -e ".job[\"time-remaining\"] > 0"'
  $ backfill info | sed -n '/^guest/,$p'
  guest        reads: 0, writes: 1, flushes: 1
  commits      * (glob)
  job          running
    number     1
    range      3 MiB at offset 1048576
    local      * of 3 MiB (*%) (glob)
    elapsed    * (glob)
    left       about * (glob)
    speed      * KiB/s (glob)
    limit      64 KiB/s
    fetched    * KiB (glob)
    zeros      as holes
  $ backfill pause
  $ backfill info | sed -n '/^job/,$p'
  job          paused
    number     1
    range      3 MiB at offset 1048576
    local      * of 3 MiB (*%) (glob)
    elapsed    * (glob)
    limit      64 KiB/s
    fetched    * KiB (glob)
    zeros      as holes

When the backing store is gone, and why:

  $ crash golden
  $ backfill resume
  $ backfill speed 0
  $ wait_for sh -c 'backfill info | grep "source  *lost:"'
  $ backfill info | grep -E '^(source|job)' | mask
  source       lost: * (glob)
  job          waiting for the backing store
  $ serve_golden
  $ wait_for sh -c 'backfill info --json | jq -e ".job.result == \"completed\""'
  $ backfill info | grep -E '^(source|job)'
  source       connected
  job          completed

When all is local:

  $ backfill allocate --wait --quiet
  $ wait_for sh -c 'backfill info | grep "source  *none"'
  $ backfill info | grep -E '^(source|local|absent|filled)'
  source       none
  local        16 MiB (16777216 bytes)
  absent       0 bytes
  filled       100%, needs its backing store no more
