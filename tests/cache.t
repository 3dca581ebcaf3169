An NBD client's cache request makes a range local.

  $ . "$TESTDIR/setup.sh"
  $ need jq nbdsh
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img backing="$golden"
  $ nbdsh -u "$disk" -c 'print(h.can_cache())' -c 'h.cache(1024 * 1024, 2 * 1024 * 1024)'
  True
  $ backfill map | sed -n '1,/^$/p'
                offset               length  state
                     0              2097152  absent
               2097152              1048576  local
               3145728             13631488  absent
  

A range across data and holes, of odd bytes:

  $ nbdsh -u "$disk" -c 'h.cache(4 * 1024 * 1024, 4 * 1024 * 1024 - 100)'
  $ backfill map --offset 4M --length 5M | sed -n '1,/^$/p'
                offset               length  state
               4194304              4194304  zero
               8388608              1048576  absent
  

Then it is read without the backing store:

  $ crash golden
  $ nbdsh -u "$disk" -c 'print(len(h.pread(1024 * 1024, 2 * 1024 * 1024)))'
  1048576

What cannot be had is an error, after a while:

  $ stop disk
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img timeout=1
  nbdkit: error: *disk.img: going on without the backing store until it is there: * (glob)
  $ nbdsh -u "$disk" -c 'h.cache(4096, 12 * 1024 * 1024)' 2>&1 | tail -n 1
  nbdsh: * Input/output error (glob)
