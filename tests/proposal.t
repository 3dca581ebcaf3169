The proposal, step by step.

In 2011 somebody proposed four calls on a running guest's disk, and the same
four on a storage volume.  Here they are (docs/proposal.md has each of their
words, and where it went).  `calls` is a program of a page over libbackfill
which makes one call and prints what it gives.

  $ . "$TESTDIR/setup.sh"
  $ PATH=$TOP_BUILDDIR/tests:$PATH
  $ mkdir vols state
  $ A=$PWD/vols/a.img B=$PWD/vols/b.img

A golden image of 16 MiB with a hole in it, and two guests' disks made from it.
Their server is nbdkit; nothing of the disks is local.

  $ make_golden
  $ serve_golden --filter=error -- error-pread=EIO error-pread-rate=100% \
  >   error-pread-file=broken
  $ serve_guests () {
  >   nbdkit -U disk.sock -P disk.pid backfill \
  >     name=a store="$A" backing="$golden_here" \
  >     name=b store="$B" backing="$golden_here"
  >   wait_for calls info "$A"
  > }
  $ golden_here="nbd+unix:///?socket=$PWD/golden.sock"
  $ serve_guests
  $ calls map a
  $ calls info a
  type none
  data total 0 processed 0 remaining 0
  time elapsed 0, remaining not known

Any range: BlockAllocate (disk, path, offset, length, flags) makes
[offset, offset+length) fully allocated.  It is widened to whole granules
of 4 KiB: this is one byte.  Without a flag it blocks: when it returns, the
range is allocated.

  $ calls allocate a 9000000 1 sparse
  $ calls map a
  {8998912, 4096}

The path says which disk as well as its name does:

  $ calls allocate "$A" 0 10000 sparse
  $ calls map "$A"
  {0, 12288}
  {8998912, 4096}

Fully allocated: the blocks are there.  (4 to 8 MiB are a hole of the image.)

  $ used () { echo $(( $(stat -c %b "$1") * 512 >> 20 )) MiB; }
  $ used "$A"
  0 MiB
  $ calls allocate a 4194304 4194304
  $ used "$A"
  4 MiB

The bytes come from the backing store:

  $ cmp -n 12288 "$A" golden.img
  $ cmp -n 4096 -i 8998912 "$A" golden.img

What is not there is an error, that says why:

  $ calls allocate a 16777216 1
  -1: the range 16777216+1 is not within disk 'a', which has 16777216 bytes
  [1]
  $ calls allocate nosuch 0 0
  -1: No disk has the name or the store 'nosuch': there are 'a', 'b'
  [1]

Not blocking: with NONBLOCK it returns once the copy has started.  (A limit of
speed makes it last.)  A second copy on the same disk is refused.

  $ backfill speed --total 1M
  $ calls allocate a 0 0 nonblock sparse
  $ calls allocate a 0 4096 2>&1 | sed 's/(.*)/(STATUS)/'
  -1: disk 'a' already has a job in progress: allocate 0+16777216 (STATUS)

Two disks: each may have a copy at the same time.

  $ calls allocate b 0 0 nonblock

How the job goes: GetJobInfo.  The type is bounded while it is in progress, with
an estimate of the time that is left as soon as there is a rate.

  $ estimated () { calls info "$1" | grep 'elapsed known, remaining known'; }
  $ wait_for estimated a
  $ calls info a | grep type
  type bounded
  $ calls info b | grep type
  type bounded
  $ calls info a | sed -nE 's/(total 16777216).*/\1/p; /add up/p'
  data total 16777216

Abort: at the soonest opportunity.  The record says how much was copied, and it
stays copied.

  $ calls abort a
  $ calls info a | grep -v '^data'
  type cancelled
  time elapsed known, remaining not known
  error the job was aborted
  $ copied () { calls info "$1" | sed -nE 's/.*processed ([0-9]+).*/\1/p'; }
  $ test "$(copied a)" -gt 12288 && test "$(copied a)" -lt 16777216
  $ regions () {
  >   calls map "$1" | sed -E 's/.*, (.*)}/\1/' | paste -sd+ | bc
  > }
  $ test "$(regions a)" = "$(copied a)"
  $ calls abort a
  -1: disk 'a' has no job in progress
  [1]

The other disk's copy goes on.  Blocking: who waits for the range is told when
it is there.  (`wait` is what a blocking call does after its start.)

  $ backfill speed --total 0
  $ wait_for eval 'calls info b | grep completed'
  $ calls info b
  type completed
  data total 16777216 processed 16777216 remaining 0
  time elapsed known, remaining not known
  $ used "$B"
  16 MiB
  $ cmp "$B" golden.img

Failure part way: the call fails, and how much was copied is told.  (From here on
the backing store has only errors.)  So says GetJobInfo, later and to others,
until somebody dismisses it.

  $ touch broken
  $ calls allocate a 0 0 sparse 2>&1 | sed 's/offset [0-9]*/offset N/'
  -1: the job of disk 'a' failed: cannot read the backing store at offset N: Input/output error
  $ calls info a | grep type
  type failed
  $ before=$(copied a); test "$before" -gt 12288
  $ rm broken

Also when the guest's server is restarted:

  $ stop disk
  $ serve_guests
  $ calls info a | grep type
  type failed
  $ test "$(copied a)" = "$before"
  $ stop disk

Nobody has it open: no guest runs now.  The same calls on the same paths are the
storage volume's, and backfilld does the work.

  $ calls info "$A" 2>&1 | grep -o 'no owner of.*found\|nor is there a backfilld.*'
  no owner of '*' found (glob)
  nor is there a backfilld to open it
  $ backfilld --state-dir=state --speed=1M --grace=1 vols >daemon.log 2>&1 &
  $ echo $! > daemon.pid
  $ wait_for calls info "$A"
  $ calls info "$A" | grep type
  type failed
  $ test "$(copied "$A")" = "$before"
  $ calls allocate "$A" 0 0 nonblock sparse
  $ calls info "$A" | grep type
  type bounded
  $ test "$(regions "$A")" -ge "$before"

A guest starts in the middle of it: it has its disk at once, and its server
goes on with the same job.

  $ nbdkit -U disk.sock -P disk.pid backfill name=a store="$A" total-speed=1M
  $ wait_for calls info a
  $ calls info a | grep type
  type bounded
  $ write_at "nbd+unix:///a?socket=disk.sock" 16000000 'the guest was here'

It ends, and the job goes on without it:

  $ stop disk
  $ wait_for calls info "$A"
  $ backfill speed --total 0
  $ wait_for eval 'calls info "$A" | grep completed'
  $ calls map "$A"
  {0, 16777216}
  $ write_at "nbd+unix:///?socket=golden.sock" 0 x 2>&1 | grep -o 'Operation not permitted'
  Operation not permitted
  $ printf 'the guest was here' | dd of=golden.img bs=1 seek=16000000 conv=notrunc status=none
  $ cmp "$A" golden.img

Else zeros: a volume that never had a backing store is allocated too.

  $ truncate -s 1M vols/plain.img
  $ calls allocate "$PWD/vols/plain.img" 0 0
  $ used vols/plain.img
  1 MiB
  $ calls map "$PWD/vols/plain.img"
  {0, 1048576}
  $ stop daemon
