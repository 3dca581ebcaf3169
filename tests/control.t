The control socket: where it is, whose it is, and none.

  $ . "$TESTDIR/setup.sh"
  $ need jq socat

By default it is in the server's own directory in the runtime directory, where
the command finds it, for the server's user only.  The directory has another
name at each start, so that nobody can take it beforehand.

  $ nbdkit -U disk.sock -P disk.pid backfill disk.img size=1M
  $ cd "$BACKFILL_RUNTIME_DIR"
  $ stat -c '%F, mode %a' */control
  socket, mode 600
  $ ls */control > "$here/before"
  $ cd "$here"
  $ backfill -c "$BACKFILL_RUNTIME_DIR/$(cat before)" info | grep name
  name         ""

It goes with the server.  What a crash leaves goes with the next server.

  $ stop disk
  $ ls "$BACKFILL_RUNTIME_DIR"
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ crash disk
  $ (cd "$BACKFILL_RUNTIME_DIR"; ls */control) > before
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ (cd "$BACKFILL_RUNTIME_DIR"; ls */control) > after
  $ cat before after | sort -u | wc -l
  2
  $ wc -l < after
  1
  $ backfill list | wc -l
  2
  $ stop disk

control= says another place, control-mode= and its kin who may use it.

  $ nbdkit -U disk.sock -P disk.pid backfill disk.img \
  >   control=here control-mode=0660 control-group=0
  $ stat -c '%F, mode %a, group %g' here
  socket, mode 660, group 0
  $ backfill list | wc -l
  2
  $ backfill -c here list | wc -l
  2

It is never taken from a server that is there, nor is another file replaced:

  $ nbdkit -U two.sock backfill two.img size=1M control=here 2>&1 | mask
  nbdkit: error: control socket 'DIR/here' is being served by process *: end that, or choose another path (glob)
  $ echo text > file
  $ nbdkit -U two.sock backfill two.img size=1M control=file 2>&1 | mask
  nbdkit: error: control socket 'DIR/file': * (glob)
  $ cat file
  text
  $ backfill -c here list | wc -l
  2
  $ stop disk

With control=off there is none:

  $ nbdkit -U disk.sock -P disk.pid backfill disk.img control=off
  $ ls "$BACKFILL_RUNTIME_DIR"/* | grep control
  [1]
  $ backfill list
  backfill: no server of disks found in '*' (-c SOCKET names a control socket that is somewhere else) (glob)
  [1]
  $ backfill info disk.img | grep ^open
  open         by another process, which was not found

A second server of a disk is refused, with its owner's number.

  $ wait_for test -s disk.pid
  $ nbdkit -U two.sock backfill disk.img 2>&1 | mask | sed "s/$(cat disk.pid)/PID/"
  nbdkit: error: DIR/disk.img is in use by process PID* (glob)
  $ stop disk

The runtime directory can be another.  It is made; the command has to be told.

  $ nbdkit -U disk.sock -P disk.pid backfill disk.img runtime-dir=runtime
  $ ls runtime/* | sed 's/.*\.//' | sort
  control
  lock
  volume
  work
  $ backfill list 2>/dev/null
  [1]
  $ BACKFILL_RUNTIME_DIR=$PWD/runtime backfill list | wc -l
  2
  $ backfill -c runtime/*/control list | wc -l
  2
