wait waits for jobs that are in progress, whoever started them; allocate --all
starts one for each disk.

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill \
  >   name=a store=a.img backing="$golden" name=b store=b.img backing="$golden" \
  >   name=zeros store=zeros.img size=1M

Without a job there is nothing to wait for:

  $ backfill wait a
  backfill: disk 'a' has no job
  [1]

It shows what allocate --wait shows, and ends as that does:

  $ backfill allocate a --quiet --length 4M --speed 2M
  $ backfill wait a | tail -n 1 | mask
  100%  4 MiB of 4 MiB  completed in TIME

also when the job has ended already, until it is dismissed:

  $ backfill wait a | mask
  100%  4 MiB of 4 MiB  completed in TIME
  $ backfill dismiss a
  $ backfill wait a
  backfill: disk 'a' has no job
  [1]

The exit status is 3 when the job failed or was aborted,

  $ backfill allocate a --quiet --offset 8M --speed 64k
  $ backfill wait a --quiet 2>err &
  $ wait_for job_is a running
  $ sleep 0.5
  $ backfill abort a >/dev/null
  $ wait $!
  [3]
  $ cat err
  backfill: the job of disk 'a' was aborted; * of 8 MiB is local (glob)

and 5 when it still goes on after --timeout:

  $ backfill allocate a --quiet --offset 8M --speed 16k
  $ backfill wait a --quiet --timeout 200ms
  backfill: the job of disk 'a' is still in progress
  [5]
  $ backfill wait a --quiet --timeout 0
  backfill: the job of disk 'a' is still in progress
  [5]

Several: each line says whose it is.  All are waited for, and the worst counts.

  $ backfill allocate b --quiet --length 1M
  $ backfill abort a >/dev/null
  $ backfill wait a b 2>err | mask
  a: *  aborted in TIME (glob)
  b: 100%  1 MiB of 1 MiB  completed in TIME
  $ backfill wait b a --quiet
  backfill: the job of disk 'a' was aborted; * of 8 MiB is local (glob)
  [3]
  $ backfill wait b nothing --quiet
  backfill: No disk has the name or the store 'nothing': there are 'a', 'b', 'zeros'
  [1]

--progress=FD is for programs:

  $ backfill wait b --progress=7 --quiet 7>fd; cat fd
  100/100

allocate --all starts a job for each disk that is not local.  One that has a job
already keeps it.

  $ backfill allocate a --quiet --speed 16k
  $ backfill allocate --all
  a: in progress already
  b: started
  zeros: started
  $ backfill wait --all > out &
  $ wait_for test -s out
  $ backfill speed a none
  $ wait $!
  $ grep -c 'completed in' out
  [123] (re)
  $ backfill wait a b --json | jq -c '.[] | [.device, .result, .remaining]'
  ["a","completed",0]
  ["b","completed",0]

When all is local there is nothing to do:

  $ backfill allocate --all --wait
  $ info_of zeros .job.number
  1

but with --full, which waits for all of them here:

  $ backfill allocate --all --full --wait --json | jq -c '.[] | [.device, .result, .sparse]'
  ["a","completed",false]
  ["b","completed",false]
  ["zeros","completed",false]
  $ backfill wait --all

Ctrl-C leaves the job running (interrupt.t has the same of allocate):

  $ backfill dismiss a
  $ nbdkit -U slow.sock -P slow.pid backfill slow.img backing="$golden"
  $ backfill allocate slow.img --quiet --speed 16k
  $ (trap - INT; exec backfill wait slow.img --quiet) 2>err & pid=$!
  $ sleep 0.5
  $ kill -INT $pid
  $ wait $pid
  [130]
  $ cat err
  backfill: interrupted: the job goes on ('backfill abort' ends it)
  $ backfill abort slow.img >/dev/null

Wrong usage:

  $ backfill wait --all a
  backfill: --all is about all disks: 'a' is one too many
  Try 'backfill wait --help'.
  [2]
  $ backfill wait a b --progress=1
  backfill: --progress=FD is about one job: name one DISK
  Try 'backfill wait --help'.
  [2]
  $ backfill allocate --all --length 1M
  backfill: --all is about whole disks: it does not go with --offset or --length
  Try 'backfill allocate --help'.
  [2]
  $ backfill wait --timeout soon
  backfill: --timeout: 'soon' is not a time: give seconds, or a whole number with ms, s, m, h or d, up to a year
  Try 'backfill wait --help'.
  [2]
