allocate returns at once, or waits and shows how far the job is.

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img backing="$golden"

It returns once the job has started; the job belongs to the server.

  $ backfill allocate --offset 1M --speed 64k
  started: 'backfill info' shows how far it is
  $ wait_for job_is '' running
  $ info_of '' '.job | [.status, .["job-type"], .["range-offset"]]'
  ["running","bounded",1048576]

A disk has one job at a time.  A second is refused, and the first is named:

  $ backfill allocate
  backfill: disk '' already has a job in progress: allocate 1048576+15728640 (running)
  [1]
  $ backfill allocate --wait
  backfill: disk '' already has a job in progress: allocate 1048576+15728640 (running)
  [1]
  $ backfill abort | mask
  aborted: * of 15 MiB is local (glob)

--quiet shows nothing:

  $ backfill allocate --quiet --speed 64k
  $ backfill --json abort | jq -c '[.result, .["errno-name"]]'
  ["cancelled","ECANCELED"]

With --wait it returns when the range is local.  Into a pipe or a file it writes
lines, one when something has changed: percent, bytes, and when they are known
rate and time left.

  $ backfill allocate --offset 0 --length 2M --speed 1M --wait > out
  $ grep -cP '\r|\x1b' out
  0
  [1]
  $ head -n -1 out |
  >   grep -vE '^ *[0-9]+%  [0-9.]+ (B|[KM]iB) of 2 MiB(  [0-9.]+ [KM]iB/s)?(  [0-9]+ m?s left|  starting)?$'
  [1]
  $ tail -n 1 out | mask
  100%  2 MiB of 2 MiB  completed in TIME
  $ info_of '' .job.remaining
  0

--progress is the same:

  $ backfill allocate --length 1M --progress | tail -n 1 | mask
  100%  1 MiB of 1 MiB  completed in TIME

--progress=FD writes lines N/100 to a file descriptor, for programs.  They go
up, and 100 is only written when the job has completed.

  $ backfill allocate --offset 2M --length 2M --speed 1M --progress=7 7>fd >out
  $ grep -vcE '^[0-9]+/100$' fd
  0
  [1]
  $ sort -n -u fd | cmp - fd
  $ tail -n 1 fd
  100/100
  $ tail -n 1 out | mask
  100%  2 MiB of 2 MiB  completed in TIME
  $ backfill allocate --length 1M --progress=7 --quiet 7>fd

Into standard output, nothing else goes there:

  $ backfill allocate --length 1M --progress=1 | tail -n 1
  100/100

A program that stops reading does not stop the job:

  $ backfill allocate --offset 8M --length 1M --speed 512k --progress=7 --quiet 7> >(read -r)
  $ info_of '' .job.result
  "completed"

With --json the job object is all that is printed, at the end:

  $ backfill allocate --wait --json | jq -c '[.device, .result, .len, .offset]'
  ["","completed",16777216,16777216]

Wrong usage:

  $ backfill allocate --progress=77
  backfill: --progress: file descriptor 77 is not open
  Try 'backfill allocate --help'.
  [2]
  $ backfill allocate --progress=x
  backfill: --progress: 'x' is not a whole number
  Try 'backfill allocate --help'.
  [2]
  $ backfill allocate --on-error stop
  backfill: --on-error: 'stop' is neither report nor skip
  Try 'backfill allocate --help'.
  [2]
  $ backfill allocate --retry 5x
  backfill: --retry: '5x' is not a time: give seconds, or a whole number with ms, s, m, h or d, up to a year
  Try 'backfill allocate --help'.
  [2]
