A job that the server starts: allocate= and its companions.

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill \
  >   name=all store=a.img backing="$golden" allocate=on \
  >   name=part store=b.img backing="$golden" allocate=1M+2M \
  >   name=rest store=c.img backing="$golden" allocate=8M+0 on-error=skip \
  >   name=none store=d.img backing="$golden" allocate=off \
  >   name=slow store=e.img backing="$golden" allocate=on speed=16k allocate-mode=full
  $ for disk in all part rest; do
  >   wait_for sh -c "backfill info $disk --json | jq -e '.job.result == \"completed\"'"
  >   info_of $disk '[.name, .job["range-offset", "range-length"], .absent, .job["on-error"]]'
  > done
  ["all",0,16777216,0,"report"]
  ["part",1048576,2097152,14680064,"report"]
  ["rest",8388608,8388608,8388608,"skip"]
  $ info_of none .job
  null
  $ wait_for job_is slow running
  $ info_of slow '.job | [.status, .speed, .sparse]'
  ["running",16384,false]

After a restart a job that was in progress goes on as it was, whatever the keys
say; none is started where all is local; elsewhere the record of one that ended
gives way to a new one.

  $ backfill pause slow
  $ stop disk
  $ nbdkit -U disk.sock -P disk.pid backfill \
  >   name=all store=a.img allocate=on \
  >   name=part store=b.img allocate=4M+1M \
  >   name=slow store=e.img allocate=on speed=32k
  $ info_of slow '.job | [.status, .speed]'
  ["paused",16384]
  $ info_of all '.job | [.result, .["local-at-start"]]'
  ["completed",0]
  $ wait_for sh -c 'backfill info part --json | jq -e ".job.result == \"completed\""'
  $ info_of part '.job["range-offset", "range-length"]'
  4194304
  1048576

Not within the disk:

  $ stop disk
  $ nbdkit -U disk.sock backfill d.img allocate=1G+1M 2>&1 | mask
  nbdkit: error: allocate=1073741824+1048576 is not within DIR/d.img, which has 16777216 bytes
