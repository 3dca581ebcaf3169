A server can be found from the moment that nbdkit returns to the shell, although
it goes on starting in the background.  (strace makes that take a second: the
daemon changes to / after its fork.)

  $ . "$TESTDIR/setup.sh"
  $ need strace
  $ strace -o /dev/null true 2>/dev/null || exit 80
  $ slowly () {
  >   strace -D -f -q -o /dev/null -e inject=chdir:delay_enter=1000000 "$@"
  > }
  $ slowly nbdkit -U disk.sock -P disk.pid backfill disk.img size=1M </dev/null >/dev/null 2>&1
  $ backfill list | mask
  NAME        SIZE  LOCAL  SOURCE  JOB  STORE
  ""         1 MiB     0%  none    -    DIR/disk.img

Its entry is a file with a few lines, in the server's own directory, named by the
store's device and inode:

  $ wait_for test -s disk.pid
  $ cd "$BACKFILL_RUNTIME_DIR"/*
  $ file=$(printf '%x-%x.volume' $(stat -c '%d %i' "$here/disk.img"))
  $ mask < "$file" | sed -e "s/$(cat "$here/disk.pid")/PID/" -e 's|/[^ ]*/|DIR/|'
  store DIR/disk.img
  control DIR/control
  pid PID
  name 
  listen *-* DIR/disk.sock (glob)
  $ cd "$here"

It goes with the server.

  $ stop disk
  $ ls "$BACKFILL_RUNTIME_DIR"

After a crash it is left behind, and nobody minds.

  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ wait_for test -s disk.pid
  $ crash disk
  $ test -e "$BACKFILL_RUNTIME_DIR"/*/"$file"
  $ backfill list
  backfill: no server of disks found in '*' (-c SOCKET names a control socket that is somewhere else) (glob)
  [1]
  $ backfill map disk.img
  backfill: no owner of 'disk.img' found: the one that had it open at '*/control' has gone; nor is there a backfilld to open it (-c SOCKET names a control socket that is somewhere else) (glob)
  [1]
