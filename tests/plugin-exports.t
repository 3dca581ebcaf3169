Exports: a disk is NAME, its allocation map NAME/map.

  $ nbdkit -U - backfill name=vda store=a.img size=1M name=vdb store=b.img \
  >   size=2M granule=64K control=off runtime-dir=run --run '
  >     u () { echo "nbd+unix:///$1?socket=$unixsocket"; }
  >     nbdinfo --list "$(u)" | grep -E "export=|export-size|read_only|minimum|preferred|maximum" |
  >       sed -E "/block_size/s/ \(.*\)//"
  >     nbdinfo --size "$(u vda)"
  >     nbdinfo --size "$(u vdb/map)"
  >     echo "-- the map is read-only, all absent, zeros"
  >     nbdinfo --map "$(u vda/map)"
  >     nbdcopy "$(u vda/map)" - | tr -d "\0" | wc -c
  >     nbdinfo --size "$(u zz)" 2>/dev/null || echo "there is no zz"
  >     nbdinfo --size "$(u)" 2>&1 | grep "^nbdkit" | uniq
  >     ' 2>log
  export="vda":
  \texport-size: 1048576 (1M) (esc)
  \tis_read_only: false (esc)
  \tblock_size_minimum: 1 (esc)
  \tblock_size_preferred: 4096 (esc)
  \tblock_size_maximum: 33554432 (esc)
  export="vda/map":
  \texport-size: 1048576 (1M) (esc)
  \tis_read_only: true (esc)
  \tblock_size_minimum: 1 (esc)
  \tblock_size_preferred: 4096 (esc)
  \tblock_size_maximum: 33554432 (esc)
  export="vdb":
  \texport-size: 2097152 (2M) (esc)
  \tis_read_only: false (esc)
  \tblock_size_minimum: 1 (esc)
  \tblock_size_preferred: 65536 (esc)
  \tblock_size_maximum: 33554432 (esc)
  export="vdb/map":
  \texport-size: 2097152 (2M) (esc)
  \tis_read_only: true (esc)
  \tblock_size_minimum: 1 (esc)
  \tblock_size_preferred: 65536 (esc)
  \tblock_size_maximum: 33554432 (esc)
  1048576
  2097152
  -- the map is read-only, all absent, zeros
           0     1048576    1  hole
  0
  there is no zz

The default export does not exist among several named disks, and the log says
which there are:

  $ grep -m 1 "no disk ''" log
  nbdkit: backfill[*]: error: no disk '': there are 'vda', 'vdb'; the export NAME is a disk, NAME/map its allocation map (glob)

The disk named "" has the map /map, which a URI may also call map; -r makes
exports read-only.  Without a backing store zeros are local once they were
read, as nbdinfo does:

  $ nbdkit -r -U - backfill c.img size=64K control=off runtime-dir=run --run '
  >     u () { echo "nbd+unix:///$1?socket=$unixsocket"; }
  >     nbdinfo "$(u)" | grep read_only
  >     nbdinfo --map "$(u map)"
  >     nbdinfo --map "$(u /map)"' 2>/dev/null
  \tis_read_only: true (esc)
           0       65536    0  data
           0       65536    0  data

A name is remembered, and counts as one that is given:

  $ nbdkit -U - backfill e.img name=x size=64K control=off runtime-dir=run \
  >     --run true 2>/dev/null
  $ nbdkit -U - backfill store=e.img name=x store=f.img size=64K control=off \
  >     runtime-dir=run --run true 2>&1 | grep -o "are both named 'x'"
  are both named 'x'
