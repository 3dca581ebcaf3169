The plugin's keys: what is wrong is said before anything is made or served.
(Quit is how nbdkit ends its --run; its own line about that is dropped.)

  $ try () {
  >   nbdkit -U - backfill "$@" control=off runtime-dir=run --run true 2>&1 |
  >     sed -e '/aborting sleep/d' -e "s|$PWD|DIR|g" \
  >       -e 's/size string: \(.*\)/size string (\1)/' # newer nbdkit
  > }

No disk, or no store:

  $ try
  nbdkit: error: no disk: give the path of its local raw image, as in nbdkit backfill disk.img backing=nbd://host
  $ try size=1M
  nbdkit: error: the disk has no store=: give the path of its local raw image
  $ try name=vda name=vdb store=b.img size=1M
  nbdkit: error: disk 'vda' has no store=: give the path of its local raw image
  $ try store=
  nbdkit: error: store= is empty: give a path

Unknown and repeated keys:

  $ try a.img sice=1M
  nbdkit: error: unknown key 'sice': a disk has the keys store backing name size granule metadata adopt discard-unflushed readonly identity allocate speed allocate-mode on-error timeout retry fetch connections trace trace-dir; the process has control control-mode control-user control-group runtime-dir total-speed in-flight commands
  $ try a.img size=1M size=2M
  nbdkit: error: size=2M: the disk has size=1M already; to start another disk, put name= before its keys
  $ try a.img b.img
  nbdkit: error: store=b.img: the disk has store=a.img already; to start another disk, put name= before its keys

Names:

  $ try name=a/b store=a.img
  nbdkit: error: name=a/b: a name has no '/' and at most 255 bytes
  $ try name=a store=a.img size=1M name=a store=b.img size=1M
  nbdkit: error: two disks are named 'a': give each its own name=
  $ try name=a store=a.img size=1M name=b store=a.img
  nbdkit: error: disks 'a' and 'b' have the same store, DIR/a.img

Values:

  $ try a.img size=1M granule=3000
  nbdkit: error: granule=3000: must be a power of two from 512 to 65536
  $ try a.img size=1M fetch=4M
  nbdkit: error: fetch=4M: must be a power of two from 4096 to 2097152
  $ try a.img size=1M adopt=all
  nbdkit: error: adopt=all: give one of local, absent, moved
  $ try a.img size=1M allocate-mode=thick
  nbdkit: error: allocate-mode=thick: give one of sparse, full
  $ try a.img size=1M on-error=stop
  nbdkit: error: on-error=stop: give one of report, skip
  $ try a.img size=1M identity=name
  nbdkit: error: identity=name: give one of content, size
  $ try a.img size=1M timeout=5x
  nbdkit: error: timeout=5x: not a time: give seconds, or a whole number with ms, s, m, h or d, up to a year
  $ try a.img size=1M retry=-1
  nbdkit: error: retry=-1: not a time: give seconds, or a whole number with ms, s, m, h or d, up to a year
  $ try a.img size=1M timeout=forever
  nbdkit: error: timeout=forever: a guest would hang: give a time, up to a year
  $ try a.img size=1M speed=1.5G
  nbdkit: error: speed=1.5G: not a size: only whole numbers can be used: for 1.5G write 1536M
  $ try a.img size=1M connections=17
  nbdkit: error: connections=17: give 1 to 16
  $ try a.img size=1M control-mode=999
  nbdkit: error: control-mode=999: give an octal mode, as in 0660
  $ try a.img size=1M control-user=no-such-user
  nbdkit: error: control-user=no-such-user: no such user
  $ try a.img size=1M readonly=on allocate=on
  nbdkit: error: the disk: allocate= writes, readonly=on forbids it: give one of them
  $ try a.img size=1M allocate=1M+all
  nbdkit: error: allocate=1M+all: give on, off, or OFFSET+LENGTH as in 1G+512M: it is not a number

Backing stores:

  $ try a.img backing=golden.img
  nbdkit: error: cannot use backing store */golden.img: there is no such file: name a raw image or a block device of this host, or an NBD URI (glob)
  $ printf 'QFI\373' > other
  $ try a.img backing=other
  nbdkit: error: cannot use backing store */other: it is a qcow2 image, whose bytes are not the disk's: have it served, as in backing='[ qemu-nbd -r -t -f qcow2 */other ]' (glob)
  $ try a.img backing=.
  nbdkit: error: cannot use backing store *: it is a directory: name the raw image in it (glob)
  $ try other size=1M
  nbdkit: error: */other is a qcow2 image: only raw images can be volumes; name another store, and serve this one as its backing store, as in backing='[ qemu-nbd -r -t -f qcow2 */other ]' (glob)
  $ rm -r other run
  $ try a.img backing=[ nbdkit file golden.img ]
  nbdkit: error: backing=[ came without its command: quote the whole, as in backing='[ nbdkit file golden.img ]'
  $ try a.img 'backing=[nbdkit file golden.img]'
  nbdkit: error: the disk: backing=[nbdkit file golden.img]: a command is one argument, with a space inside each bracket: quote it, as in backing='[ nbdkit file golden.img ]'

None of these made anything:

  $ ls

Each key has a line of help that starts with it, and an item in the manual:

  $ keys=$(nbdkit --dump-plugin backfill | sed -n 's/^backfill_keys=//p')
  $ nbdkit backfill --help > help
  $ for key in $keys; do
  >   grep -q "^$key=" help || echo "no help on $key="
  >   grep -Eq "^=item (\[)?B<$key=" "$TOP_SRCDIR/docs/nbdkit-backfill-plugin.pod" ||
  >     echo "nothing on $key= in the manual"
  > done

A name may come after the store if there is only one disk, and relative paths
of the command line are the caller's:

  $ nbdkit -U - backfill sub.img size=4096 name=vda control=off runtime-dir=run \
  >   --run 'nbdinfo --size "nbd+unix:///vda?socket=$unixsocket" &&
  >          nbdinfo --size "nbd+unix:///?socket=$unixsocket"' 2>/dev/null
  4096
  4096
  $ ls -d sub.img run
  run
  sub.img
