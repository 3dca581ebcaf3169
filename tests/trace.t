Boot traces, as an operator has them: what one guest reads first is recorded, the
next guest has it fetched, and a fleet shares it.

  $ . "$TESTDIR/setup.sh"
  $ make_golden
  $ serve_golden
  $ mkdir -m 700 traces
  $ read_at() {
  >   /usr/bin/python3 -c 'import nbd, sys
  > h = nbd.NBD()
  > h.connect_unix(sys.argv[1])
  > for at in sys.argv[2:]:
  >     h.pread(4096, int(at) << 20)
  > h.shutdown()' "$@"
  > }
  $ nbdkit -U a.sock -P a.pid backfill a.img name=vda backing="$golden" trace-dir=traces
  $ read_at a.sock 5 1 9
  $ backfill info vda | grep ^trace | mask
  trace        DIR/traces/*.trace; fetched: 0 B, of which read: 0 B; recording (glob)
  $ stop a
  $ ls traces | sed 's/[0-9a-f]\{32\}/HEX/'
  HEX-16777216.trace

The next guest:

  $ nbdkit -U b.sock -P b.pid backfill b.img name=vdb backing="$golden" trace-dir=traces
  $ wait_for sh -c 'backfill info vdb | grep -q "^trace.*fetched: 192 KiB"'
  $ read_at b.sock 5 1
  $ backfill info vdb | grep -o 'fetched: 192.*'
  fetched: 192 KiB, of which read: 128 KiB; recording

What it is, and handed on:

  $ backfill trace export vdb exported
  $ backfill trace show exported | sed 's/sha256:.*/sha256:HEX/; s/^ *[0-9]* *\([0-9]* *65536\)/MS \1/'
  image        16777216 bytes, sha256:HEX
  boots        1
  read         192 KiB
  replayed     192 KiB
  
          MS          OFFSET     LENGTH  BOOTS
  MS 5242880      65536      1
  MS 1048576      65536      1
  MS 9437184      65536      1
  $ backfill trace show exported --json | jq -c '[.size, .boots, .read, (.ranges | length)]'
  [16777216,1,196608,3]
  $ backfill trace show exported --svg - | python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.stdin.buffer)'
  $ stop b
  $ mkdir -m 700 others
  $ backfill trace import exported --dir others | sed 's/[0-9a-f]\{32\}/HEX/'
  others/HEX-16777216.trace
  $ backfill trace merge both exported traces/*.trace
  $ backfill trace show both | head -n 3 | tail -n 2
  boots        3
  read         192 KiB

Wrong input:

  $ backfill trace
  backfill: 'trace' needs one of show, export, import and merge
  Try 'backfill trace --help'.
  [2]
  $ backfill trace frob x
  backfill: 'trace frob': give one of show, export, import and merge
  Try 'backfill trace --help'.
  [2]
  $ backfill trace show nothing
  backfill: nothing: No such file or directory
  [1]
  $ echo nonsense > bad
  $ backfill trace show bad
  backfill: bad: it is not a trace
  [1]
  $ backfill trace import bad --dir others
  backfill: bad: it is not a trace
  [1]
  $ backfill trace merge x exported bad
  backfill: bad: it is not a trace
  [1]
  $ test -e x
  [1]
  $ backfill trace import exported --dir nowhere
  backfill: nowhere/*: cannot be made: No such file or directory (glob)
  [1]
  $ backfill trace merge x exported --svg y
  backfill: --svg is for 'trace show'
  Try 'backfill trace --help'.
  [2]
