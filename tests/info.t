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

Without a server the volume's files say it: the sidecar is read, and nothing is
changed.

  $ nbdkit -U off.sock -P off.pid backfill off.img backing="$golden"
  $ backfill allocate off.img --wait --quiet --length 4M
  $ backfill info off.img --json | jq '{size, granule, local, absent, complete, file, metadata}' > served
  $ stop off
  $ sha256sum off.img.backfill > before
  $ backfill info off.img | mask
  store        DIR/off.img
  sidecar      DIR/off.img.backfill
  backing      nbd+unix:///?socket=DIR/golden.sock
  open         no: this is what its files say
  size         16 MiB (16777216 bytes)
  granule      4 KiB (4096 bytes)
  local        4 MiB (4194304 bytes)
  absent       12 MiB (12582912 bytes)
  filled       25%
  job          completed
    number     1
    range      4 MiB at offset 0
    local      4 MiB of 4 MiB (100%)
  $ backfill info off.img --json | jq -c '[.open, .source, .job.result]'
  [false,"none","completed"]
  $ backfill info off.img --json | jq '{size, granule, local, absent, complete, file, metadata}' | diff served -
  $ sha256sum -c --quiet before

A job that was not through goes on when the volume is opened:

  $ nbdkit -U off.sock -P off.pid backfill off.img backing="$golden"
  $ backfill allocate off.img --quiet --offset 8M --speed 16k
  $ stop off
  $ backfill info off.img | grep '^job'
  job          goes on when the volume is opened

One that a server has open which is not in the registry:

  $ nbdkit -U off.sock -P off.pid backfill off.img backing="$golden" runtime-dir="$PWD"
  $ backfill info off.img | grep '^open'
  open         by another process, which was not found
  $ backfill info off.img --json | jq .open
  true
  $ stop off

What is no volume is none, and a sidecar that another user has put there is not
believed:

  $ backfill info golden.img 2>&1 | cut -d: -f1-2
  backfill: no owner of 'golden.img' found
  $ foreign () {
  >   if [ "$(id -u)" = 0 ]; then
  >     chown 65534 off.img.backfill; backfill info off.img
  >   else
  >     echo "backfill: the sidecar $PWD/off.img.backfill belongs to another user" >&2; return 1
  >   fi
  > }
  $ foreign 2>&1 | mask
  backfill: the sidecar DIR/off.img.backfill belongs to another user
