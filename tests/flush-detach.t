flush makes durable what the guest wrote, as its own flush does.

  $ . "$TESTDIR/setup.sh"
  $ need jq nbdsh
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img backing="$golden"
  $ write_at "$disk" 0 'written'
  $ backfill flush
  $ info_of '' '.stats | [.["guest-writes"], .flushes]'
  [1,1]

detach lets the backing store and the sidecar go.  It is refused before all of
the disk is local:

  $ backfill detach
  backfill: *disk.img is not fully local yet: allocate the whole disk first (glob)
  [1]
  $ backfill allocate --wait --quiet --length 8M
  $ backfill detach 2>/dev/null
  [1]
  $ info_of '' '[.complete, .detached]'
  [false,false]

After, it is done at once for the server, and for the files when it ends.

  $ backfill allocate --wait --quiet
  $ backfill detach
  detached: the store is a plain raw image when its server has ended
  $ backfill detach --json | jq -c '[.complete, .detached]'
  [true,true]
  $ backfill info | grep filled
  filled       100%, detached
  $ stop golden

The guest goes on meanwhile:

  $ write_at "$disk" 15000000 'after detaching'
  $ read_at "$disk" 15000000 15
  after detaching (no-eol)
  $ backfill allocate --wait | tail -n 1 | mask
  100%  16 MiB of 16 MiB  completed in TIME

After a crash it is still so: the next clean end removes the sidecar.

  $ crash disk
  $ ls disk.img*
  disk.img
  disk.img.backfill
  $ backfill check disk.img
  disk.img.backfill: disk of 16 MiB, granule 4096, complete, detached, open or not closed
  no damage
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ info_of '' '[.complete, .detached]'
  [true,true]
  $ stop disk
  $ ls disk.img*
  disk.img

What is left is the golden image, but for what the guest wrote.

  $ cmp -l golden.img disk.img | wc -l
  22

A raw image without a sidecar could be anything, so this plugin must be told what
it is.  (The store's file itself says that it was detached, see detach-again.t; a
copy does not.)

  $ cp disk.img copy.img
  $ mv copy.img disk.img
  $ nbdkit -U disk.sock backfill disk.img 2>&1 | mask
  nbdkit: error: the store DIR/disk.img exists but has no sidecar DIR/disk.img.backfill: say adopt=local if everything in it is the truth already, adopt=absent to start over it, or name another store
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img adopt=local
  $ info_of '' '[.size, .local, .complete, .source, .backing]'
  [16777216,16777216,true,"none",null]
  $ read_at "$disk" 0 7
  written (no-eol)
  $ stop disk

With adopt=absent it starts over as the backing store shows it, and what it held
is lost:

  $ rm disk.img.backfill
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img adopt=absent backing="$golden"
  $ read_at "$disk" 0 8
  1
  2
  3
  4
  $ info_of '' '.absent > 0'
  true
  $ backfill allocate --wait --quiet
  $ backfill detach --json | jq .detached
  true
  $ stop disk
  $ cmp golden.img disk.img
