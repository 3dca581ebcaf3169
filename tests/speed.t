Limits of a job's speed, from the start, changed while it runs, and of all jobs
together.  (That they hold is measured elsewhere: here a slow job is still in
progress and a fast one ends.)

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill \
  >   name=a store=a.img backing="$golden" allocate=on speed=16k \
  >   name=b store=b.img backing="$golden" total-speed=32M

One can be given when the server starts:

  $ wait_for job_is a running
  $ info_of a '.job | [.status, .speed]'
  ["running",16384]

It holds over any second, but for one request; so this job, of 5 MiB of data, is
not done in a few:

  $ sleep 2
  $ info_of a '.job | [.status, .processed < 200000]'
  ["running",true]

It is changed while the job runs, and "none" is no limit:

  $ backfill speed a 1M
  $ info_of a .job.speed
  1048576
  $ backfill info a | grep limit
    limit      1 MiB/s
  $ backfill speed a none
  $ info_of a .job.speed
  0
  $ wait_for sh -c 'backfill info a --json | jq -e ".job.result == \"completed\""'

Without LIMIT it is shown, also of a job that has ended:

  $ backfill speed a
  no limit
  $ backfill speed b
  backfill: disk 'b' has no job
  [1]
  $ backfill --detailed-exitcode speed b --json
  {"error": {"class": "no-job", "desc": "disk 'b' has no job", "errno": 3, "errno-name": "ESRCH"}}
  [9]

Or with the command that starts the job:

  $ backfill allocate b --quiet --speed 16k
  $ info_of b .job.speed
  16384
  $ backfill speed b
  16 KiB/s
  $ backfill speed ./b.img
  16 KiB/s
  $ backfill speed b --json | jq -c '[.device, .speed]'
  ["b",16384]
  $ backfill speed b --job 7
  backfill: * (glob)
  [1]

A limit can be lower than the smallest request; the job still goes on.

  $ backfill speed b 1
  $ backfill --json speed b 2k | jq -c '[.device, .speed]'
  ["b",2048]

The total of all jobs:

  $ backfill speed --total
  32 MiB/s
  $ backfill speed --total 1M
  $ backfill speed --total --json
  {
    "speed": 1048576
  }
  $ backfill speed --total none
  $ backfill speed --total
  no limit
  $ backfill speed --total 32k
  $ backfill speed b none
  $ sleep 2
  $ info_of b '.job | [.status, .processed < 400000]'
  ["running",true]
  $ backfill speed --total 0
  $ wait_for sh -c 'backfill info b --json | jq -e ".job.result == \"completed\""'

Wrong:

  $ backfill speed
  backfill: name the disk: there are 'a', 'b'
  [1]
  $ backfill speed 1M
  backfill: name the disk: there are 'a', 'b'
  [1]
  $ backfill speed fast
  backfill: No disk has the name or the store 'fast': there are 'a', 'b'
  [1]
  $ backfill speed a fast
  backfill: LIMIT: 'fast' is not a size: it is not a number
  Try 'backfill speed --help'.
  [2]
  $ backfill speed a 1M fast
  backfill: 'speed' takes one DISK and one LIMIT: 'fast' is one too many
  Try 'backfill speed --help'.
  [2]
  $ backfill speed --total a 1M
  backfill: 'speed' takes one LIMIT with --total: '1M' is one too many
  Try 'backfill speed --help'.
  [2]
