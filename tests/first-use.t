A disk from its first use to the plain raw image that is left.

  $ . "$TESTDIR/setup.sh"
  $ need nbdsh nbdcopy jq

Somewhere there is a golden image, served by any NBD server:

  $ make_golden
  $ nbdkit -r -U golden.sock -P golden.pid file golden.img

A disk is served from it at once.  The store, a local raw image, is made:
sparse, and as large as the golden image.

  $ nbdkit -U disk.sock -P disk.pid backfill disk.img \
  >   backing='nbd+unix:///?socket=golden.sock'
  $ stat -c '%n has %s bytes, %b blocks' disk.img
  disk.img has 16777216 bytes, 0 blocks
  $ wait_until_connected
  $ backfill list | mask
  NAME        SIZE  LOCAL  SOURCE     JOB  STORE
  ""        16 MiB     0%  connected  -    DIR/disk.img
  $ backfill map
                offset               length  state
                     0             16777216  absent
  
  local                      0    0.0%         0 B in 0 regions
  zero                       0    0.0%         0 B in 0 regions
  absent              16777216  100.0%      16 MiB in 1 region

The guest reads what is in the golden image, and that is kept.  What it writes
stays in the store.

  $ read_at "$disk" 0 8
  1
  2
  3
  4
  $ wait_for sh -c 'backfill info --json | jq -e ".local > 0"'
  $ write_at "$disk" 8388608 'the guest was here'
  $ read_at "$disk" 8388608 33
  the guest was here00002
  2000003
  2 (no-eol)

A job in the background fetches the rest.  When it is done, all is local, and
the golden image's holes are holes again.

  $ backfill allocate --wait | tail -n 1 | mask
  100%  16 MiB of 16 MiB  completed in TIME
  $ backfill map
                offset               length  state
                     0              4194304  local
               4194304              4194304  zero
               8388608              1048576  local
               9437184              7340032  zero
  
  local                5242880   31.2%       5 MiB in 2 regions
  zero                11534336   68.8%      11 MiB in 2 regions
  absent                     0    0.0%         0 B in 0 regions

The backing store is not needed any more, and can go.

  $ wait_for sh -c 'backfill list | grep -q none'
  $ backfill list | mask
  NAME        SIZE  LOCAL  SOURCE  JOB        STORE
  ""        16 MiB   100%  none    completed  DIR/disk.img
  $ stop golden
  $ read_at "$disk" 9000000 7
  2076424 (no-eol)

Nor is the sidecar: it is unlinked when the server ends, and a plain raw image
is left.  It is equal to the golden one but for what the guest wrote.

  $ ls
  disk.img
  disk.img.backfill
  disk.pid
  disk.sock
  golden.img
  $ backfill detach
  detached: the store is a plain raw image when its server has ended
  $ stop disk
  $ ls
  disk.img
  golden.img
  $ cmp -l golden.img disk.img | wc -l
  18
  $ dd if=disk.img bs=1M skip=8 count=1 status=none | head -n 1
  the guest was here00002

The golden image was only read.

  $ seq 1000000 | head -c 4M | cmp -n 4M - golden.img
