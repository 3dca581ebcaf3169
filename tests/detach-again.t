After detach there is no sidecar, and the same command line serves the image
again.

  $ . "$TESTDIR/setup.sh"
  $ need jq nbdsh setfattr
  $ make_golden
  $ serve_golden
  $ serve () { nbdkit -U disk.sock -P disk.pid backfill disk.img "$@"; }
  $ serve backing="$golden"
  $ backfill allocate --wait --quiet
  $ backfill detach --json >/dev/null
  $ write_at "$disk" 4096 'first'
  $ stop disk
  $ stop golden
  $ ls disk.img*
  disk.img
  $ serve backing="$golden"
  $ info_of '' '[.complete, .detached]'
  [true,true]
  $ read_at "$disk" 4096 5
  first (no-eol)
  $ write_at "$disk" 4096 'again'

As little is left, also after a crash, and as often as one likes:

  $ crash disk
  $ serve
  $ stop disk
  $ ls disk.img*
  disk.img
  $ serve
  $ read_at "$disk" 4096 5
  again (no-eol)
  $ stop disk

A volume whose sidecar is lost is another thing:

  $ serve_golden
  $ nbdkit -U half.sock -P half.pid backfill half.img backing="$golden"
  $ stop half
  $ mv half.img.backfill kept
  $ nbdkit -U half.sock -P half.pid backfill half.img backing="$golden"
  nbdkit: error: the store */half.img exists but has no sidecar * (glob)
  [1]

So is what was detached, once it is to be filled in again:

  $ serve adopt=absent backing="$golden"
  $ stop disk
  $ rm disk.img.backfill
  $ serve backing="$golden"
  nbdkit: error: the store */disk.img exists but has no sidecar * (glob)
  [1]

The mark is an attribute of the file.  Where it is lost adopt=local says the
same:

  $ serve adopt=local
  $ backfill detach --json >/dev/null
  $ stop disk
  $ setfattr -x user.backfill.detached disk.img
  $ serve
  nbdkit: error: the store */disk.img exists but has no sidecar * (glob)
  [1]
  $ serve adopt=local
  $ stop disk
  $ stop golden
