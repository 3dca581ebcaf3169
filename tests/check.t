check reads a whole sidecar and says what is damaged.

  $ . "$TESTDIR/setup.sh"
  $ need jq nbdsh
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img size=100M

A good one, given as the store or as the sidecar.  The volume may be open:

  $ backfill check disk.img
  disk.img.backfill: disk of 100 MiB, granule 4096, open or not closed
  no damage
  $ stop disk
  $ backfill check disk.img.backfill
  disk.img.backfill: disk of 100 MiB, granule 4096
  no damage

It changes nothing:

  $ before=$(sha256sum disk.img.backfill)
  $ backfill check disk.img >/dev/null
  $ test "$before" = "$(sha256sum disk.img.backfill)"

None there, or something else:

  $ backfill check nothing
  backfill: cannot open the sidecar nothing: No such file or directory; and there is no nothing.backfill
  [1]
  $ backfill check disk.backfill
  backfill: cannot open the sidecar disk.backfill: No such file or directory
  [1]
  $ seq 100000 > numbers
  $ backfill check numbers
  backfill: numbers is not a sidecar *; and there is no numbers.backfill (glob)
  [1]
  $ backfill check .
  backfill: the sidecar . is not a regular file; and there is no ..backfill
  [1]

Damage.  The third sector of the map is that of the disk's bytes from 31 MiB on.

  $ damage () { # FILE OFFSET: a byte there is another
  >   byte=$(dd if="$1" bs=1 skip="$2" count=1 status=none | od -An -tu1)
  >   printf "\\x$(printf %x $((byte ^ 1)))" |
  >     dd of="$1" bs=1 seek="$2" conv=notrunc status=none
  > }
  $ cp disk.img.backfill good
  $ damage disk.img.backfill $((65536 + 2 * 512))
  $ backfill check disk.img
  disk.img.backfill: disk of 100 MiB, granule 4096
  map sector 2 is damaged: the disk's bytes 32505856+16252928 cannot be read or written
  damaged: 1 of 7 sectors; restore the sidecar from a backup
  [1]
  $ backfill check disk.img --json | jq -c .damaged
  [{"sector":2,"offset":32505856,"length":16252928}]

The server serves the rest, and info tells:

  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ write_at "$disk" 0 fine
  $ write_at "$disk" 33000000 'damaged here' 2>&1 | tail -n 1
  nbdsh: * Input/output error (glob)
  $ backfill info | grep DAMAGED
  DAMAGED      1 sector of the sidecar: I/O to 15.5 MiB at offset 32505856 fails
  $ stop disk

One copy of the header: the other is used, and the next open mends it.

  $ cp good disk.img.backfill
  $ damage disk.img.backfill 100
  $ backfill check disk.img
  disk.img.backfill: disk of 100 MiB, granule 4096
  header copy A is damaged: made again at the next open
  [1]
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  nbdkit: error: *disk.img.backfill: header copy A is damaged; made again from copy B (glob)
  $ stop disk
  $ backfill check disk.img
  disk.img.backfill: disk of 100 MiB, granule 4096
  no damage

Both: nobody can say what they held.

  $ damage disk.img.backfill 100
  $ damage disk.img.backfill 16484
  $ backfill check disk.img
  backfill: both copies of the header of the sidecar disk.img.backfill are damaged: * (glob)
  [1]

The job record:

  $ cp good disk.img.backfill
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ backfill allocate --wait --quiet --length 1M
  $ stop disk
  $ damage disk.img.backfill 32800
  $ damage disk.img.backfill 36900
  $ backfill check disk.img
  disk.img.backfill: disk of 100 MiB, granule 4096
  the job record is damaged: the job is forgotten
  [1]
  $ backfill check disk.img --json | jq -c '[.["header-copies"], .["job-damaged"]]'
  [[true,true],true]

A sidecar that is cut short:

  $ cp good disk.img.backfill
  $ truncate -s 65600 disk.img.backfill
  $ backfill check disk.img
  backfill: * (glob)
  [1]

A whole map that is damaged is told in moments, whatever its size:

  $ nbdkit -U big.sock -P big.pid backfill big.img size=64G
  $ stop big
  $ dd if=/dev/zero of=big.img.backfill bs=64k seek=1 count=34 conv=notrunc status=none
  $ timeout 60 backfill check big.img | tail -n 1
  damaged: 4229 of 4229 sectors; restore the sidecar from a backup
