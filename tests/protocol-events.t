Events go to every client that has ended the negotiation.

  $ . "$TESTDIR/setup.sh"
  $ need jq socat
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill control=control disk.img \
  >   backing="$golden" name=vda
  $ tell () { printf '%s' '{"execute": "qmp_capabilities"}' "$@"; }

Two clients that listen, as long as this shell holds the fifo open:

  $ mkfifo hold
  $ exec 8<>hold
  $ listen () { exec 8<&-; { tell; cat hold; } | socat - UNIX-CONNECT:control; }
  $ listen >one 2>one.err &
  $ listen >two 2>two.err &
  $ wait_for grep return one
  $ wait_for grep return two
  $ tell '{"execute": "block-allocate", "arguments": {"length": 4096, "speed": 1000000}}' |
  >   socat -t 60 - UNIX-CONNECT:control > three
  $ wait_for grep BLOCK_JOB_COMPLETED one
  $ wait_for grep BLOCK_JOB_COMPLETED two
  $ jq -c 'select(.event) | [.event, .data]' one
  ["JOB_STATUS_CHANGE",{"id":"vda","status":"created","number":1,"device":"vda"}]
  ["JOB_STATUS_CHANGE",{"id":"vda","status":"running","number":1,"device":"vda"}]
  ["JOB_STATUS_CHANGE",{"id":"vda","status":"concluded","number":1,"device":"vda"}]
  ["BLOCK_JOB_COMPLETED",{"type":"allocate","len":4096,"offset":4096,"speed":1000000,"number":1,"device":"vda"}]
  $ diff one two

They have the time:

  $ jq -s 'map(select(.event)) | all(.timestamp.seconds > 1600000000 and .timestamp.microseconds < 1000000)' one
  true

A job that is aborted, and dismissed:

  $ tell '{"execute": "block-allocate", "arguments": {"speed": 16384}}' |
  >   socat -t 60 - UNIX-CONNECT:control > three
  $ wait_for sh -c '[ "$(grep -c running one)" = 2 ]'
  $ tell '{"execute": "block-job-pause", "arguments": {"device": "vda"}}' \
  >   '{"execute": "block-job-cancel", "arguments": {"device": "vda"}}' \
  >   '{"execute": "block-job-dismiss", "arguments": {"device": "vda"}}' |
  >   socat -t 60 - UNIX-CONNECT:control > three
  $ wait_for grep null one
  $ jq -c 'select(.event) | [.event, .data.status]' one | tail -n +5
  ["JOB_STATUS_CHANGE","created"]
  ["JOB_STATUS_CHANGE","running"]
  ["JOB_STATUS_CHANGE","paused"]
  ["JOB_STATUS_CHANGE","aborting"]
  ["JOB_STATUS_CHANGE","concluded"]
  ["BLOCK_JOB_CANCELLED",null]
  ["JOB_STATUS_CHANGE","null"]

All of the disk is local:

  $ backfill allocate --wait --quiet
  $ wait_for grep DISK_LOCAL one
  $ jq -c 'select(.event == "DISK_LOCAL").data' one
  {"device":"vda"}

No events before the negotiation has ended:

  $ mkfifo now
  $ { read -r < now; tell; } 2>late.err | socat -t 60 - UNIX-CONNECT:control >late 2>&1 &
  $ wait_for grep QMP late
  $ backfill allocate --offset 1M --length 1 --wait --quiet
  $ echo > now
  $ wait $!
  $ jq -c keys late
  ["QMP"]
  ["return"]
  $ exec 8<&-
