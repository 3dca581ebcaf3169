readonly=on: exports are read-only, and nothing is written to store or sidecar.

  $ . "$TESTDIR/setup.sh"
  $ need jq nbdsh nbdinfo
  $ make_golden
  $ serve_golden

There must be a volume:

  $ nbdkit -U disk.sock backfill disk.img backing="$golden" readonly=on 2>&1 | mask
  nbdkit: error: DIR/disk.img.backfill has not been made yet, and read-only nothing is made
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img backing="$golden"
  $ backfill allocate --length 1M --wait --quiet
  $ write_at "$disk" 0 'the guest was here'
  $ stop disk
  $ sha256sum disk.img disk.img.backfill > sums

Read-only, several processes may have it open.  They are not found without -c.

  $ nbdkit -U disk.sock -P disk.pid backfill disk.img readonly=on control=control
  $ nbdkit -U two.sock -P two.pid backfill disk.img readonly=on control=off
  $ backfill list
  backfill: no server of disks found in '*' (-c SOCKET names a control socket that is somewhere else) (glob)
  [1]
  $ wait_until_connected -c control
  $ backfill -c control list | mask
  NAME        SIZE  LOCAL  SOURCE     JOB        STORE
  ""        16 MiB     6%  connected  completed  DIR/disk.img

What is local and what is absent can both be read:

  $ read_at "$disk" 0 18; echo
  the guest was here
  $ read_at "$disk" 8388608 7; echo
  2000000
  $ read_at 'nbd+unix:///?socket=two.sock' 8388608 7; echo
  2000000
  $ nbdinfo "$disk" | grep is_read_only
  \tis_read_only: true (esc)

Nothing is written, no job runs:

  $ write_at "$disk" 0 x 2>&1 | tail -n 1
  nbdsh: * Operation not permitted (glob)
  $ backfill -c control allocate
  backfill: disk '' is open read-only
  [1]
  $ backfill -c control info --json | jq -c '[.["read-only"], .local]'
  [true,1048576]

Then nobody has it open for writing.

  $ nbdkit -U three.sock backfill disk.img 2>&1 | mask
  nbdkit: error: DIR/disk.img is in use* (glob)
  $ stop disk
  $ stop two
  $ sha256sum -c sums
  disk.img: OK
  disk.img.backfill: OK

nbdkit's -r is another thing: its clients cannot write, but what is fetched is
kept, and jobs run.

  $ nbdkit -r -U disk.sock -P disk.pid backfill disk.img
  $ nbdinfo "$disk" | grep is_read_only
  \tis_read_only: true (esc)
  $ write_at "$disk" 0 x 2>&1 | tail -n 1
  nbdsh: * Operation not permitted (glob)
  $ backfill allocate --wait --quiet
  $ info_of '' '[.["read-only"], .local]'
  [false,16777216]
