The map as a picture, for people who would rather look than read.

  $ . "$TESTDIR/setup.sh"
  $ need jq python3
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill \
  >   name=vda store=a.img backing="$golden" name=b store=b.img size=1G
  $ backfill allocate vda --offset 2M --length 7M --wait --quiet

One line of a terminal for a disk: local #, zero -, absent . and + where both are
local and absent.  Its width is the terminal's, or COLUMNS.

  $ export COLUMNS=54
  $ backfill map vda --ascii
  vda [....####--------##..............]  43% of 16 MiB
  $ backfill map vda --ascii | wc -L
  53
  $ backfill map vda --ascii --offset 2176k --length 7M
  vda [#########-------------------####+]  98% of 7 MiB
  $ backfill allocate vda --offset 100k --length 4k --wait --quiet
  $ backfill map vda --ascii
  vda [+...####--------##..............]  43% of 16 MiB

Without DISK all disks are shown, one below the other:

  $ backfill map --ascii
  vda [+...####--------##..............]  43% of 16 MiB
  b   [................................]   0% of 1 GiB

A job that is in progress shows where it stands, and how far it is:

  $ backfill allocate vda --quiet --speed 16k --offset 1M --length 2M
  $ backfill pause vda
  $ COLUMNS=63 backfill map vda --ascii
  vda [+.>.####--------##..............]  43% of 16 MiB, job 5?% (glob)

A narrow terminal wraps: a bar is never too short to be one.

  $ COLUMNS=10 backfill map b --ascii
  b  [....................]   0% of 1 GiB

--svg draws a picture into a file.

  $ backfill map vda --svg a.svg
  $ cat > look.py <<'END'
  > import sys, xml.etree.ElementTree as ET
  > root = ET.parse(sys.argv[1]).getroot()
  > svg = "{http://www.w3.org/2000/svg}"
  > assert root.tag == svg + "svg", root.tag
  > width, height = (int(root.get(a)) for a in ("width", "height"))
  > for r in root.iter(svg + "rect"):
  >     if r.get("width") != "100%":
  >         x, y, w, h = (float(r.get(a)) for a in ("x", "y", "width", "height"))
  >         assert x >= 0 and y >= 0 and w > 0, r.attrib
  >         assert x + w <= width and y + h <= height, r.attrib
  > for t in root.iter(svg + "text"):
  >     print(t.text)
  > END
  $ python3 look.py a.svg </dev/null | mask
  vda
  16 MiB, *% local; job paused, *% (glob)
  DIR/a.img
  0 B
  2 MiB
  4 MiB
  6 MiB
  8 MiB
  10 MiB
  12 MiB
  14 MiB
  local, 3* MiB (*%) (glob)
  zero: local, without data, 4 MiB (25.0%)
  absent, *MiB (*%) (glob)
  range of the job; the triangle stands at the first absent part of it
  one cell is 4 KiB, one row 512 KiB; mixed colours are mixed cells

A part of the disk; into standard output:

  $ backfill map vda --offset 4M --length 1M --svg - > part.svg
  $ python3 look.py part.svg </dev/null | sed -n -e '2p;$p'
  16 MiB, 4*% local; shown: 1 MiB at offset 4194304; job paused, 5*% (glob)
  one cell is 4 KiB, one row 512 KiB; mixed colours are mixed cells

Disks of any size have a picture of about the same size, and names need not be
tame.

  $ nbdkit -U odd.sock -P odd.pid backfill \
  >   name='<&">' store='o&d.img' size=100G name=tiny store=tiny.img size=1 \
  >   name=empty store=empty.img size=0
  $ for disk in '<&">' tiny empty; do
  >   backfill map "$disk" --svg odd.svg
  >   python3 look.py odd.svg </dev/null | sed -n -e '1p;$p'
  > done
  <&">
  one cell is 32 MiB, one row 4 GiB; mixed colours are mixed cells
  tiny
  one cell is 4 KiB, one row 512 KiB; mixed colours are mixed cells
  empty
  absent, 0 B (0.0%)
  $ for disk in '<&">' tiny empty; do backfill map "$disk" --ascii; done
  <&"> [..............................]   0% of 100 GiB
  tiny [.]                                    0% of 1 B
  empty []                                  100% of 0 B

A disk without a name is known by its store's:

  $ nbdkit -U none.sock -P none.pid backfill none.img size=1M
  $ backfill map none.img --svg none.svg
  $ python3 look.py none.svg </dev/null | sed -n 1p
  none.img

Wrong:

  $ backfill map vda --svg no/such/folder.svg
  backfill: cannot write 'no/such/folder.svg': No such file or directory
  [1]
  $ backfill map vda --svg /dev/full
  backfill: cannot write '/dev/full': No space left on device
  [1]
  $ backfill map vda --svg a.svg --json
  backfill: a picture cannot be had as JSON
  Try 'backfill map --help'.
  [2]
