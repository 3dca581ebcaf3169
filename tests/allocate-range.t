allocate makes a range local: any bytes, widened to granules.

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img backing="$golden"
  $ regions () { backfill map | sed -n -e '/^$/q' -e '2,$p'; }
  $ try () { backfill allocate --wait --quiet "$@"; }

One byte:

  $ try --offset 5000 --length 1
  $ regions
                     0                 4096  absent
                  4096                 4096  local
                  8192             16769024  absent

The last byte of one granule and the first of the next:

  $ try --offset 16383 --length 2
  $ regions
                     0                 4096  absent
                  4096                 4096  local
                  8192                 4096  absent
                 12288                 8192  local
                 20480             16756736  absent

Sizes take the suffixes that nbdkit takes, in either case:

  $ try --offset 128s --length 4096b
  $ try --offset 72K --length 4k
  $ try --offset 1M --length 1m
  $ regions | tail -n 6
                 65536                 4096  local
                 69632                 4096  absent
                 73728                 4096  local
                 77824               970752  absent
               1048576              1048576  local
               2097152             14680064  absent

What is local already is not fetched again; ranges may overlap.

  $ try --offset 512k --length 2M
  $ info_of '' '.job | [.["range-offset"], .total, .["local-at-start"], .["bytes-read"]]'
  [524288,2097152,1048576,1048576]

The job's counters are of its range:

  $ info_of '' '.job | [.processed, .remaining, .processed + .remaining == .total]'
  [2097152,0,true]

Without --length, to the end:

  $ try --offset 9M
  $ regions | tail -n 1
               9437184              7340032  zero

Nothing is left to do at the very end of the disk:

  $ try --offset 16M
  $ info_of '' '.job | [.result, .total]'
  ["completed",0]

nor at that of one which ends within a granule:

  $ nbdkit -r -U odd.sock -P odd.pid memory 10000
  $ nbdkit -U odd-disk.sock -P odd-disk.pid backfill odd.img name=odd \
  >   backing="nbd+unix:///?socket=$PWD/odd.sock"
  $ backfill allocate odd --wait --quiet --offset 10000
  $ info_of odd '[.local, (.job | .result, .total, .processed)]'
  [0,"completed",0,0]
  $ backfill allocate odd --wait --quiet --offset 9999
  $ info_of odd '[.local, (.job | .result, .total, .processed)]'
  [1808,"completed",1808,1808]
  $ stop odd-disk
  $ stop odd

Not within the disk:

  $ backfill allocate --offset 16M --length 1
  backfill: the range 16777216+1 is not within disk '', which has 16777216 bytes
  [1]
  $ backfill allocate --offset 1k --length 16M
  backfill: the range 1024+16777216 is not within disk '', which has 16777216 bytes
  [1]
  $ backfill allocate --offset 1E
  backfill: offset 1152921504606846976 is past the end of disk '', which has 16777216 bytes
  [1]

Not a size, or not what anyone means by it:

  $ for size in 1.5G 1,5G -1 0x10 ten 10kB 10x '' 99999999999999999999 16E; do
  >   backfill allocate --offset "$size" 2>&1 | head -n 1
  > done
  backfill: --offset: '1.5G' is not a size: only whole numbers can be used: for 1.5G write 1536M
  backfill: --offset: '1,5G' is not a size: only whole numbers can be used: for 1.5G write 1536M
  backfill: --offset: '-1' is not a size: it is negative
  backfill: --offset: '0x10' is not a size: it does not end in one of the suffixes b k M G T P E (times 1024) or s (512-byte sectors)
  backfill: --offset: 'ten' is not a size: it is not a number
  backfill: --offset: '10kB' is not a size: there is something after its suffix (b, k, M, G, T, P, E or s, one letter)
  backfill: --offset: '10x' is not a size: it does not end in one of the suffixes b k M G T P E (times 1024) or s (512-byte sectors)
  backfill: --offset: '' is not a size: it is not a number
  backfill: --offset: '99999999999999999999' is not a size: it is too large
  backfill: --offset: '16E' is not a size: it is too large
  $ backfill allocate --length 0
  backfill: --length: leave it out to allocate to the end
  Try 'backfill allocate --help'.
  [2]

None of these started a job:

  $ info_of '' '.job | [.result, .total]'
  ["completed",0]

What was fetched is what is there:

  $ stop disk
  $ cmp -i 512k -n 2M golden.img disk.img
