watch prints events as they come.

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill \
  >   name=vda store=a.img backing="$golden" name=vdb store=b.img backing="$golden"
  $ backfill watch > all 2>all.err & all=$!
  $ backfill watch vda --json > vda.json & vda=$!

There is no telling from here that they listen, but by an event that they see:

  $ listen () {
  >   backfill allocate vda --offset 1M --length 1 --quiet --wait
  >   backfill dismiss vda 2>/dev/null
  >   test -s all && test -s vda.json
  > }
  $ wait_for listen
  $ backfill allocate vda --offset 2M --length 5000 --quiet --wait
  $ wait_for grep '8 KiB of 8 KiB' all
  $ backfill dismiss vda
  $ wait_for sh -c 'tail -n 1 all | grep dismissed'
  $ seen () { sed -E 's/^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}\.[0-9]{3}  //'; }
  $ tail -n 5 all | seen
  vda  job created
  vda  job running
  vda  job concluded
  vda  job completed: 8 KiB of 8 KiB is local
  vda  job dismissed

A job that is paused, and aborted:

  $ lines=$(wc -l < all)
  $ backfill allocate vdb --quiet --speed 16k
  $ wait_for job_is vdb running
  $ backfill pause vdb
  $ backfill resume vdb
  $ backfill abort vdb >/dev/null
  $ wait_for grep 'vdb  job aborted' all
  $ tail -n +$((lines + 1)) all | seen
  vdb  job created
  vdb  job running
  vdb  job paused
  vdb  job running
  vdb  job aborting
  vdb  job concluded
  vdb  job aborted: * of 16 MiB is local (glob)

The backing store goes and comes back:

  $ crash golden
  $ backfill allocate vdb --quiet
  $ wait_for grep 'vda  backing store lost' all
  $ wait_for grep 'vdb  backing store lost' all
  $ serve_golden
  $ wait_for grep 'vdb  backing store back' all

All is local:

  $ wait_for grep 'vdb  all of the disk is local' all
  $ grep vdb all | tail -n 3 | seen
  vdb  job concluded
  vdb  job completed: 16 MiB of 16 MiB is local
  vdb  all of the disk is local

With --json each event is an object on a line, as the server sent it; with DISK
only that one's.

  $ wait_for grep SOURCE_LOST vda.json
  $ jq -c 'select(.event == "JOB_STATUS_CHANGE").data | del(.number)' vda.json | tail -n 1
  {"id":"vda","status":"null","device":"vda"}
  $ jq -r .data.device vda.json | uniq
  vda
  $ jq -c 'select(.event == "BLOCK_JOB_COMPLETED" and .data.len == 8192) |
  >   (.data | del(.number)), (.timestamp | keys)' vda.json
  {"type":"allocate","len":8192,"offset":8192,"speed":0,"device":"vda"}
  ["microseconds","seconds"]
  $ grep -m 1 SOURCE_LOST vda.json | jq -c '.data | keys'
  ["device","reason"]

It ends when it is interrupted, or with the server, and then says so.

  $ kill $vda
  $ wait $vda 2>/dev/null
  [143]
  $ backfill watch vda > one 2> err & one=$!
  $ listens () { backfill flush vda && backfill allocate vda --offset 1M --length 1 --quiet && test -s one; }
  $ wait_for listens
  $ stop disk
  $ wait $one
  [1]
  $ cat err
  backfill: the server at '*/control' closed the connection (glob)
  $ wait $all
  [1]

Of a disk that is not there:

  $ nbdkit -U disk.sock -P disk.pid backfill a.img
  $ backfill watch nothing
  backfill: No disk has the name or the store 'nothing': there is 'vda'
  [1]
