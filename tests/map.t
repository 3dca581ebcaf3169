map shows which parts of a disk are local.

  $ . "$TESTDIR/setup.sh"
  $ need jq nbdinfo nbdsh
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img backing="$golden"
  $ backfill allocate --offset 2M --length 7M --wait --quiet
  $ backfill map
                offset               length  state
                     0              2097152  absent
               2097152              2097152  local
               4194304              4194304  zero
               8388608              1048576  local
               9437184              7340032  absent
  
  local                3145728   18.8%       3 MiB in 2 regions
  zero                 4194304   25.0%       4 MiB in 1 region
  absent               9437184   56.2%       9 MiB in 2 regions

A part of it, with totals of that part:

  $ backfill map --offset 3M --length 2M
                offset               length  state
               3145728              1048576  local
               4194304              1048576  zero
  
  local                1048576   50.0%       1 MiB in 1 region
  zero                 1048576   50.0%       1 MiB in 1 region
  absent                     0    0.0%         0 B in 0 regions
  $ backfill map --offset 9437183 --length 2 | head -n 3
                offset               length  state
               9437183                    1  local
               9437184                    1  absent

The totals only:

  $ backfill map --totals
  local                3145728   18.8%       3 MiB in 2 regions
  zero                 4194304   25.0%       4 MiB in 1 region
  absent               9437184   56.2%       9 MiB in 2 regions

What the guest writes, zeroes and trims is local, in whole granules.

  $ nbdsh -u "$disk" -c 'h.pwrite(b"x"*4096, 1024*1024)' \
  >   -c 'h.zero(65536, 9437184)' -c 'h.trim(65536, 10*1024*1024)'
  $ backfill map | sed -n '1,/^$/p'
                offset               length  state
                     0              1048576  absent
               1048576                 4096  local
               1052672              1044480  absent
               2097152              2097152  local
               4194304              4194304  zero
               8388608              1048576  local
               9437184                65536  zero
               9502720               983040  absent
              10485760                65536  zero
              10551296              6225920  absent
  

NBD clients see the same as block status of the disk's second export: what is
local as data, what is absent as a hole.

  $ nbdinfo --map 'nbd+unix:///map?socket=disk.sock' | awk '{ print $1, $2, $4 }'
  0 1048576 hole
  1048576 4096 data
  1052672 1044480 hole
  2097152 7405568 data
  9502720 983040 hole
  10485760 65536 data
  10551296 6225920 hole

Nothing of this made anything local.

  $ backfill map --json | jq 'map(select(.state == "absent").length) | add'
  9302016

Not within the disk:

  $ backfill map --offset 1G
  backfill: Offset 1073741824 is past the end of disk '', which has 16777216 bytes
  [1]
  $ backfill map --offset 1M --length 16M
  backfill: The range 1048576+16777216 is not within disk '', which has 16777216 bytes
  [1]
  $ backfill map --length 0
  backfill: --length: leave it out to see all to the end
  Try 'backfill map --help'.
  [2]
  $ backfill map --totals --ascii
  backfill: --ascii, --svg and --totals are three ways to show a map: choose one
  Try 'backfill map --help'.
  [2]
