The objects that --json prints: those of the control protocol.

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill \
  >   name=vda store=a.img backing="$golden" name= store=b.img size=1000000

list is an array of disks, info one of them.

  $ wait_until_connected
  $ backfill list --json | jq -c 'map([.name, .store, .backing, .size, .granule, .local, .absent, .source, .job]) | .[]' | mask
  ["vda","DIR/a.img","nbd+unix:///?socket=DIR/golden.sock",16777216,4096,0,16777216,"connected",null]
  ["","DIR/b.img",null,1000000,4096,0,1000000,"none",null]
  $ backfill info vda --json | jq -c 'keys_unsorted'
  ["name","store","file","metadata","backing","size","granule","local","absent","source","complete","detached","read-only","stats","job"]
  $ backfill info '' --json | jq -c '.stats | keys'
  ["ahead-fetches","background-fetches","bytes-fetched","commits","demand-fetches","flushes","guest-reads","guest-writes"]

flush and detach print the disk too:

  $ backfill flush vda --json | jq -c '[.name, .stats.flushes]'
  ["vda",1]

A job object has the members of QEMU's query-block-jobs, and ours:

  $ backfill allocate vda --wait --json --offset 1M --length 100 --speed 10M --on-error skip > job
  $ jq -c '[.device, .type, .len, .offset, .busy, .paused, .ready, .speed, .["io-status"], .status, .["auto-finalize"], .["auto-dismiss"]]' job
  ["vda","allocate",4096,4096,false,false,false,10485760,"ok","concluded",true,false]
  $ jq -c '[.["job-type"], .result, .["pause-reason"], .["range-offset"], .["range-length"], .total, .processed, .remaining, .["local-at-start"], .["bytes-read"], .sparse, .["on-error"], .["failed-ranges"], .errno]' job
  ["completed","completed","none",1048576,100,4096,4096,0,0,4096,true,"skip",0,0]
  $ jq 'keys - ["device","number","type","len","offset","busy","paused","ready","speed","io-status","status","auto-finalize","auto-dismiss","job-type","result","pause-reason","range-offset","range-length","total","processed","remaining","local-at-start","time-elapsed","time-remaining","bytes-read","current-speed","sparse","on-error","failed-ranges","errno"]' job
  []
  $ backfill info vda --json | jq .job | cmp - job

What changes a job prints it:

  $ backfill allocate vda --json --speed 16k | jq -c '[.device, .status == "created" or .status == "running"]'
  ["vda",true]
  $ backfill speed vda 32k --json | jq -c '[.device, .speed]'
  ["vda",32768]
  $ backfill pause vda --json | jq -c '[.device, .status, .busy]'
  ["vda","paused",false]
  $ backfill resume vda --json | jq -c '[.device, .status, .busy]'
  ["vda","running",true]
  $ backfill abort vda --json | jq -c '[.device, .status, .result, .["io-status"]]'
  ["vda","concluded","cancelled","failed"]
  $ backfill dismiss vda --json
  {}

Also when the job failed, which the exit status says:

  $ backfill allocate vda --json --wait --speed 16k >job 2>err &
  $ wait_for sh -c 'backfill info vda --json | jq -e .job'
  $ backfill abort vda --quiet
  backfill: unrecognized option '--quiet'
  Try 'backfill abort --help'.
  [2]
  $ backfill abort vda >/dev/null
  $ wait $!
  [3]
  $ jq -r '.error | .class, .desc, .["errno-name"]' err
  job-failed
  the job of disk 'vda' was aborted; * of 16 MiB is local (glob)
  ECANCELED
  $ jq -r .result job
  cancelled

map is an array of regions:

  $ backfill allocate vda --wait --quiet --offset 4M --length 4M
  $ backfill map vda --json --offset 3M --length 6M
  [
    {"offset": 3145728, "length": 1048576, "state": "absent"},
    {"offset": 4194304, "length": 4194304, "state": "zero"},
    {"offset": 8388608, "length": 1048576, "state": "absent"}
  ]
  $ backfill map vda --json | jq 'map(.length) | add'
  16777216
  $ backfill map vda --totals --json | jq -c '.[]' | sort | cut -d, -f1
  {"state":"absent"
  {"state":"local"
  {"state":"zero"
  $ backfill map vda --totals --json | jq 'map(.length) | add'
  16777216

An empty disk has an empty map.

  $ nbdkit -U empty.sock -P empty.pid backfill empty.img size=0
  $ backfill map empty.img --json
  []
  $ backfill info empty.img --json | jq -c '[.size, .local, .absent]'
  [0,0,0]

check:

  $ backfill check a.img --json | jq -c
  {"sidecar":"a.img.backfill","size":16777216,"granule":4096,"complete":false,"header-copies":[true,true],"job-damaged":false,"damaged":[]}

quit ends the server; of several it must be named.

  $ backfill quit --json
  {"error": {"class": "failed", "desc": "there are several servers: name the socket of the one to end with -c"}}
  [1]
  $ pid=$(cat disk.pid)
  $ stop empty
  $ backfill quit --json
  {}
  $ wait_for ended $pid
  $ rm disk.pid

Errors are objects too, on standard error, a line each:

  $ backfill list --json 2>err
  [1]
  $ jq -r '.error | .class, .["errno-name"], .desc' err
  unreachable
  ENXIO
  no server of disks found in '*' (-c SOCKET names a control socket that is somewhere else) (glob)
  $ nbdkit -U odd.sock -P odd.pid backfill name=$'v\xff' store=a.img backing="$golden"
  $ backfill info vdc --json 2>&1 | jq -c '.error | [.class, .errno]'
  ["no-disk",2]
  $ backfill -c $'no\xff' info --json
  {"error": {"class": "unreachable", "desc": "control socket 'no?': No such file or directory", "errno": 2, "errno-name": "ENOENT"}}
  [1]

but wrong usage, which is for people:

  $ backfill info --json one two
  backfill: 'info' takes one DISK: 'two' is one too many
  Try 'backfill info --help'.
  [2]
