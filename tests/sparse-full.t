A job makes holes of zeros, or allocates them.

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ make_golden
  $ serve_golden
  $ blocks () { echo $(($(stat -c '%b * %B' "$1") / 1024)) KiB; }

The golden image has 16 MiB, of that 5 MiB of data.  With --sparse, the default,
so does the store.

  $ nbdkit -U disk.sock -P disk.pid backfill \
  >   name=sparse store=sparse.img backing="$golden" \
  >   name=full store=full.img backing="$golden" \
  >   name=thick store=thick.img backing="$golden" allocate=on allocate-mode=full
  $ backfill allocate sparse --wait --quiet
  $ backfill map sparse --totals
  local                5242880   31.2%       5 MiB in 2 regions
  zero                11534336   68.8%      11 MiB in 2 regions
  absent                     0    0.0%         0 B in 0 regions
  $ blocks sparse.img
  5120 KiB

Zeros are not fetched: the backing store says where they are.

  $ info_of sparse '.job["bytes-read"]'
  5242880

With --full all of the store has blocks, so that a write that comes later cannot
fail for lack of space.

  $ backfill allocate full --full --wait --quiet
  $ blocks full.img
  16384 KiB
  $ info_of full '.job | [.sparse, .["bytes-read"]]'
  [false,5242880]
  $ backfill info full | grep zeros
    zeros      allocated

What was local as a hole is allocated too, and not fetched again:

  $ backfill allocate sparse --full --wait --quiet
  $ blocks sparse.img
  16384 KiB
  $ info_of sparse '.job["bytes-read"]'
  0

Only the range is:

  $ nbdkit -U range.sock -P range.pid backfill range.img backing="$golden"
  $ backfill allocate range.img --full --offset 4M --length 1M --wait --quiet
  $ blocks range.img
  1024 KiB

The job that the server starts has a key for it:

  $ wait_for sh -c 'backfill info thick --json | jq -e ".job.result == \"completed\""'
  $ blocks thick.img
  16384 KiB

The last of the two options counts:

  $ backfill allocate range.img --full --sparse --wait --quiet
  $ blocks range.img
  6144 KiB

All of them have the same content.

  $ stop disk
  $ stop range
  $ for image in sparse full thick range; do cmp golden.img $image.img; done
