scripts/quickstart, the README's first command, here with the build that is being
tested: it shows the main job, and leaves nothing behind.

  $ for program in mkfs.ext4 nbdcopy; do
  >   PATH=$PATH:/usr/sbin:/sbin command -v $program >/dev/null || exit 80
  > done
  $ mkdir tmp
  $ TMPDIR=$PWD/tmp "$TOP_SRCDIR/scripts/quickstart" --build "$TOP_BUILDDIR" > out 2>&1
  $ grep -E '^[0-9]\.|^(hello|equal|detached|Done)' out
  2. A golden image: ext4, made from files on this machine
  3. It is served by another nbdkit, 5 ms away
  4. Backfill serves a disk from it, at once; nothing is local yet
  5. A guest's first read: a file of that filesystem, by libnbd's nbdcopy
  hello.txt is right: 1288895 bytes, * ms after the question (glob)
  6. What is local now: what was read, and a little around it
  7. Fill in the rest
  8. All is local
  9. Let the backing store go: a plain raw image is left, equal to golden.img
  detached: the store is a plain raw image when its server has ended
  equal, and no sidecar is left
  Done.  Try it: */run nbdkit backfill --help (glob)
  $ grep -c '^100%' out
  1
  $ ls tmp

Interrupted, it leaves nothing either:

  $ set -m
  $ TMPDIR=$PWD/tmp "$TOP_SRCDIR/scripts/quickstart" --build "$TOP_BUILDDIR" > out 2>&1 </dev/null &
  $ for _ in $(seq 6000); do grep -q "^5" out && break; sleep 0.1; done
  $ servers=$(cat tmp/*/*.pid)
  $ kill -INT -- -$!
  $ wait $!
  [130]
  $ ls tmp
  $ for pid in $servers; do
  >   ! grep -q '^State:[^Z]*$' /proc/$pid/status 2>/dev/null || echo "$pid is left"
  > done

Wrong usage:

  $ "$TOP_SRCDIR/scripts/quickstart" --help
  usage: */quickstart [--build FOLDER] (glob)
  [2]
