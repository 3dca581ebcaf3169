A job is paused, resumed and aborted while it runs, and remembered after.

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img backing="$golden"

Without a job there is nothing to do to it:

  $ for verb in abort pause resume dismiss 'speed 1M'; do backfill $verb; done
  backfill: disk '' has no job in progress
  backfill: disk '' has no job in progress
  backfill: disk '' has no job in progress
  backfill: disk '' has no job
  backfill: disk '' has no job in progress
  [1]

A paused job rests until it is resumed.

  $ backfill allocate --quiet --speed 256k
  $ wait_for sh -c 'backfill info --json | jq -e ".job.processed > 65536"'
  $ backfill pause
  $ info_of '' '.job | [.status, .paused, .["pause-reason"]]'
  ["paused",true,"user"]
  $ backfill pause
  backfill: the job of disk '' is already paused
  [1]
  $ sleep 0.5
  $ before=$(info_of '' .job.processed)
  $ sleep 1
  $ test "$(info_of '' .job.processed)" -eq "$before"
  $ backfill resume
  $ wait_for sh -c 'backfill info --json | jq -e ".job.processed > '$before'"'
  $ backfill resume
  backfill: the job of disk '' is not paused
  [1]

One in progress is not dismissed:

  $ backfill dismiss
  backfill: the job of disk '' has not ended: abort it first
  [1]

abort ends it, and says how much is local, which stays local.  Who waited for it
has the exit status 3.

  $ backfill abort
  aborted: * of 16 MiB is local (glob)
  $ backfill allocate --speed 256k --wait >out 2>err &
  $ wait_for grep -q % out
  $ backfill abort
  aborted: * of 16 MiB is local (glob)
  $ wait $!
  [3]
  $ cat err
  backfill: the job of disk '' was aborted; * of 16 MiB is local (glob)
  $ tail -n 1 out | mask
  *%  * of 16 MiB  aborted in TIME (glob)
  $ backfill abort
  backfill: disk '' has no job in progress
  [1]

Its record stays, with the truth about the range, whoever makes more of it
local, until it is dismissed or followed by another job:

  $ info_of '' '.job | [.status, .result, .["errno-name"]]'
  ["concluded","cancelled","ECANCELED"]
  $ before=$(info_of '' .job.processed)
  $ read_at "$disk" 8388608 1
  2 (no-eol)
  $ wait_for sh -c 'backfill info --json | jq -e ".job.processed > '$before'"'
  $ info_of '' '.job | .processed + .remaining == .total'
  true
  $ backfill info | sed -n '/^job/,/^  local/p'
  job          aborted
    number     2
    range      16 MiB at offset 0
    local      * of 16 MiB (*%) (glob)
  $ backfill dismiss
  $ backfill info | grep ^job
  job          none
  $ backfill dismiss
  backfill: disk '' has no job
  [1]

What is paused can be aborted too, and dismissed at once:

  $ backfill allocate --quiet --speed 256k
  $ backfill pause
  $ backfill --json abort | jq -c '[.status, .result]'
  ["concluded","cancelled"]
  $ backfill dismiss --json
  {}

A job that fails says why, and where.  This backing store gives errors in its
second half:

  $ stop disk
  $ stop golden
  $ nbdkit -r -U golden.sock -P golden.pid eval get_size='echo 1M' \
  >   pread='[ $(($3 + $4)) -le 524288 ] && head -c $3 /dev/zero | tr "\0" x && exit
  >          echo EIO "the disk is worn" >&2; exit 1'
  $ nbdkit -U disk.sock -P disk.pid backfill bad.img backing="$golden"  identity=size
  $ backfill allocate --wait >out
  backfill: the job of disk '' failed: cannot read the backing store at offset 524288: Input/output error; 512 KiB of 1 MiB is local
  [3]
  $ tail -n 1 out | mask
   50%  512 KiB of 1 MiB  failed in TIME
  $ info_of '' '.job | [.result, .["errno-name"], .["failed-offset"], .remaining]'
  ["failed","EIO",524288,524288]
  $ backfill info | grep -E '^  (error|failed)'
    error      cannot read the backing store at offset 524288: Input/output error
    failed at  524288
  $ backfill list | mask
  NAME        SIZE  LOCAL  SOURCE     JOB         STORE
  ""         1 MiB    50%  connected  failed 50%  DIR/bad.img
