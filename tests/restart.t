A restart needs only the path of the store: everything else is in the sidecar.

  $ . "$TESTDIR/setup.sh"
  $ need jq nbdsh
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img backing="$golden" \
  >   granule=8K fetch=64K timeout=7 connections=2
  $ write_at "$disk" 5000 'written by the guest'

A job is in progress when the server ends in good order.

  $ backfill allocate --offset 1M --length 8M --speed 256k
  started: 'backfill info' shows how far it is
  $ wait_for sh -c 'backfill info --json | jq -e ".job.processed > 65536"'
  $ stop disk
  $ backfill list
  backfill: no server of disks found in '*' (-c SOCKET names a control socket that is somewhere else) (glob)
  [1]

The next one goes on with it: the same range, limit and counters, and what was
local is local.

  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ info_of '' '[.backing, .granule, .local > 65536]' | mask
  ["nbd+unix:///?socket=DIR/golden.sock",8192,true]
  $ wait_for job_is '' running
  $ info_of '' '.job | [.status, .["range-offset", "range-length"], .speed]'
  ["running",1048576,8388608,262144]
  $ info_of '' '.job | [.processed > 65536, .["bytes-read"] > 0, .["time-elapsed"] > 0]'
  [true,true,true]
  $ read_at "$disk" 5000 20
  written by the guest (no-eol)

A paused job is still paused after a restart.

  $ backfill pause
  $ stop disk
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ info_of '' '.job | [.status, .["pause-reason"]]'
  ["paused","user"]

After a crash the same: what was acknowledged is there, flushed or not, and the
job goes on.

  $ backfill resume
  $ write_at "$disk" 10000 'never flushed'
  $ crash disk
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ read_at "$disk" 10000 13
  never flushed (no-eol)
  $ wait_for job_is '' running
  $ info_of '' .job.status
  "running"

A job that has ended is remembered until it is dismissed or followed by another.

  $ backfill abort
  aborted: * of 8 MiB is local (glob)
  $ stop disk
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ info_of '' '.job | [.status, .result, .["errno-name"], .processed > 65536]'
  ["concluded","cancelled","ECANCELED",true]
  $ backfill dismiss
  $ stop disk
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ info_of '' .job
  null

A disk's name is remembered too, unless another is given.

  $ stop disk
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img name=system
  $ stop disk
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ info_of system .name
  "system"

Two disks of one name cannot be in one process, also if that is remembered:

  $ nbdkit -U two.sock -P two.pid backfill other.img size=1M name=system
  $ stop disk
  $ stop two
  $ nbdkit -U two.sock -P two.pid backfill other.img name=system store=disk.img 2>&1 | mask
  nbdkit: error: DIR/other.img and DIR/disk.img are both named 'system' (a name is remembered): give each its own name=
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img name=

The first command line works every time after, too; what it gives again must fit.

  $ stop disk
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img backing="$golden" \
  >   granule=8K fetch=64K timeout=7 connections=2
  $ stop disk
  $ nbdkit -U disk.sock backfill disk.img granule=4K 2>&1 | mask
  nbdkit: error: granule=4096 but DIR/disk.img was made with 8192: leave granule= out
  $ nbdkit -U disk.sock backfill disk.img size=1G 2>&1 | mask
  nbdkit: error: size=1073741824 but the disk DIR/disk.img has 16777216: leave size= out
