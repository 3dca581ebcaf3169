What a job copies does not push out of memory what guests use: it is dropped
from the page cache once it is on the disk.

  $ case "$(stat -f -c %T .)" in ext2/ext3|xfs|btrfs) ;; *) exit 80;; esac
  $ command -v fincore >/dev/null || exit 80

  $ head -c 256M /dev/urandom > golden
  $ nbdkit -U - backfill disk.img backing="[ nbdkit file $PWD/golden ]" \
  >   control=c runtime-dir=run --run '
  >     backfill -c c allocate --wait --quiet
  >     in_memory=$(fincore --bytes --noheadings --output RES disk.img)
  >     [ $in_memory -lt $((128 << 20)) ] || echo "$in_memory bytes"' 2>log

It is all there.

  $ cmp golden disk.img
