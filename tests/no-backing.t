Without a backing store a disk is zeros, until the guest writes: a thin disk.

  $ . "$TESTDIR/setup.sh"
  $ need jq nbdsh nbdinfo

Its size must be said the first time.

  $ nbdkit -U disk.sock backfill disk.img 2>&1 | mask
  nbdkit: error: DIR/disk.img does not exist, and there is neither backing=URI to fill it from nor size= to make an empty disk
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img size=1000001
  $ backfill info | grep -E '^(backing|source|size|absent)'
  backing      none
  source       none
  size         976.6 KiB (1000001 bytes)
  absent       976.6 KiB (1000001 bytes)
  $ nbdinfo --size "$disk"
  1000001
  $ read_at "$disk" 999990 11 | od -An -tx1
   00 00 00 00 00 00 00 00 00 00 00
  $ write_at "$disk" 999998 end
  $ read_at "$disk" 999990 11 | od -An -c
    \0  \0  \0  \0  \0  \0  \0  \0   e   n   d

Allocation makes the zeros local, which takes no time, or allocates them:

  $ backfill allocate --wait --quiet
  $ backfill map --totals | cut -c 1-28
  local                    577
  zero                  999424
  absent                     0
  $ backfill allocate --full --wait --quiet
  $ test "$(stat -c '%b' disk.img)" -ge $((1000001 / 512))
  $ stop disk

Later starts need nothing more, and it can be given no backing store then.

  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ stop disk
  $ nbdkit -U two.sock -P two.pid backfill two.img size=1M
  $ stop two
  $ nbdkit -U two.sock backfill two.img backing=nbd://localhost 2>&1 | mask
  nbdkit: error: DIR/two.img was made without a backing store, and what is absent there reads as zeros: leave backing= out

Disks of a byte and of nothing:

  $ nbdkit -U disk.sock -P disk.pid backfill name=one store=one.img size=1 \
  >   name=none store=none.img size=0
  $ write_at 'nbd+unix:///one?socket=disk.sock' 0 x
  $ read_at 'nbd+unix:///one?socket=disk.sock' 0 1
  x (no-eol)
  $ nbdinfo --size 'nbd+unix:///none?socket=disk.sock'
  0
  $ backfill allocate none --wait | tail -n 1 | mask
  100%  0 B of 0 B  completed in TIME
  $ backfill map one | sed -n 2p
                     0                    1  local
