Ctrl-C while allocate waits ends the waiting only: the job goes on, and that is
said.

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img backing="$golden"

  $ set -m
  $ backfill allocate --wait --speed 256k >out 2>err </dev/null &
  $ wait_for grep -q % out
  $ kill -INT $!
  $ wait $!
  [130]
  $ cat err
  backfill: interrupted: the job goes on ('backfill abort' ends it)
  $ wait_for job_is '' running
  $ info_of '' .job.status
  "running"
  $ before=$(info_of '' .job.processed)
  $ wait_for sh -c 'backfill info --json | jq -e ".job.processed > '$before'"'

The same if the command is killed, or its terminal goes:

  $ backfill abort
  aborted: * (glob)
  $ backfill allocate --wait --speed 256k >out2 2>err </dev/null &
  $ wait_for grep -q % out2
  $ kill -KILL $! && wait $! 2>/dev/null
  [137]
  $ wait_for job_is '' running
  $ info_of '' .job.status
  "running"
  $ backfill abort
  aborted: * (glob)

In the background of a shell without job control Ctrl-C is not for it:

  $ set +m
  $ backfill allocate --wait --speed 1M >out3 2>err </dev/null &
  $ wait_for grep -q % out3
  $ kill -INT $!
  $ backfill speed none
  $ wait $!
  $ tail -n 1 out3 | mask
  100%  16 MiB of 16 MiB  completed in TIME

When the server ends, who waits is told so.  Its job goes on when the disk is
served again.

  $ nbdkit -U two.sock -P two.pid backfill two.img backing="$golden"
  $ backfill allocate two.img --wait --speed 256k >out4 2>err </dev/null &
  $ wait_for grep -q % out4
  $ stop two
  $ wait $!
  [1]
  $ mask < err
  backfill: * the job goes on while its disk is served (glob)
  $ nbdkit -U two.sock -P two.pid backfill two.img
  $ wait_for job_is two.img running
  $ info_of two.img .job.status
  "running"
