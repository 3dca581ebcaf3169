Which disk, and which server: a disk is named, or left out where there is one.

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ make_golden
  $ serve_golden
  $ mkdir images
  $ name () { backfill info "$@" --json | jq -c '[.name, .store]' | mask; }

One server with several disks, each with its own store and backing store; the
one whose name is empty is "".

  $ nbdkit -U one.sock -P one.pid backfill control=one.control \
  >   name=vda store=images/a.img backing="$golden" \
  >   name=vdb store=images/b.img backing='[ nbdkit -r -f pattern 1M ]' \
  >   name= store=c.img size=1M
  $ wait_until_connected
  $ backfill list | mask
  NAME        SIZE  LOCAL  SOURCE     JOB  STORE
  vda       16 MiB     0%  connected  -    DIR/images/a.img
  vdb        1 MiB     0%  connected  -    DIR/images/b.img
  ""         1 MiB     0%  none       -    DIR/c.img

By name:

  $ name vda
  ["vda","DIR/images/a.img"]
  $ name ''
  ["","DIR/c.img"]

By the path of its store, as it was given, in full, or by a link; by a file of
this folder:

  $ name images/b.img
  ["vdb","DIR/images/b.img"]
  $ name "$PWD/images/../images/b.img"
  ["vdb","DIR/images/b.img"]
  $ ln -s images/a.img link
  $ name link
  ["vda","DIR/images/a.img"]
  $ name c.img
  ["","DIR/c.img"]

A name goes before a file; a path is meant by what holds a slash.

  $ ln -s images/b.img vda
  $ name vda
  ["vda","DIR/images/a.img"]
  $ name ./vda
  ["vdb","DIR/images/b.img"]

Left out, with several:

  $ for command in info map allocate abort pause resume 'speed 1M' dismiss flush detach; do
  >   backfill $command
  > done 2>&1 | sort | uniq -c | sed 's/^ *//'
  10 backfill: name the disk: there are 'vda', 'vdb', ''

No such disk:

  $ backfill info vdc
  backfill: No disk has the name or the store 'vdc': there are 'vda', 'vdb', ''
  [1]
  $ backfill allocate ./vdc
  backfill: disk './vdc': No such file or directory
  [1]
  $ backfill info images/a.img.backfill
  backfill: no owner of 'images/a.img.backfill' found: there is no *.volume of one who may be believed in '*'; nor is there a backfilld to open it (-c SOCKET names a control socket that is somewhere else) (glob)
  [1]

Jobs of several disks run at once.

  $ backfill allocate vda --quiet --speed 16k
  $ backfill allocate vdb --quiet --speed 16k
  $ wait_for job_is vda running
  $ wait_for job_is vdb running
  $ backfill list --json | jq -c '.[] | [.name, .job.status]'
  ["vda","running"]
  ["vdb","running"]
  ["",null]
  $ backfill abort vda >/dev/null
  $ backfill abort vdb >/dev/null

With -c, before the command or after it, the server at that socket is asked:

  $ backfill -c one.control list | wc -l
  4
  $ backfill list --control=unix:one.control | wc -l
  4
  $ name -c one.control images/b.img
  ["vdb","DIR/images/b.img"]
  $ backfill -c no.control list
  backfill: control socket 'no.control': No such file or directory
  [1]
  $ backfill -c c.img list
  backfill: control socket 'c.img': Connection refused: nothing is serving it
  [1]
  $ backfill -c golden.sock list
  backfill: the server at 'golden.sock' does not speak backfill's protocol
  [1]
  $ backfill -c tcp://host list
  backfill: 'tcp://host': only unix:PATH, nbd:PATH, or a path, can be used
  [1]
  $ backfill -c '' list
  backfill: the path of the control socket is empty
  [1]

A second server.  Without -c, disks of both are found, as long as what was said
means only one of them.

  $ nbdkit -U two.sock -P two.pid backfill control=two.control \
  >   name=vda store=other.img size=1M name=vdz store=z.img size=1M
  $ backfill list | sed 1d | cut -c 1-3 | sort
  "" 
  vda
  vda
  vdb
  vdz
  $ name vdz
  ["vdz","DIR/z.img"]
  $ name other.img
  ["vda","DIR/other.img"]
  $ backfill info vda 2>&1 | tr ',:' '\n\n' | mask | sort
   'vda' on DIR/one.control
   'vda' on DIR/two.control
   give the path of the one's store
   or its control socket
   several disks are named 'vda'
  backfill
  $ name -c two.control vda
  ["vda","DIR/other.img"]
  $ backfill info vdc 2>&1 | cut -d: -f1-3
  backfill: no disk is named 'vdc': there are '*' (glob)
  $ backfill info
  backfill: name the disk: there are '*' on *.control, * (glob)
  [1]
  $ backfill speed --total
  backfill: there are several servers: name the socket of one with -c
  [1]
  $ backfill quit
  backfill: there are several servers: name the socket of the one to end with -c
  [1]

With none:

  $ stop one
  $ stop two
  $ backfill list 2>&1 | sed "s|$BACKFILL_RUNTIME_DIR|RUN|"
  backfill: no server of disks found in 'RUN' (-c SOCKET names a control socket that is somewhere else)
  $ backfill allocate c.img 2>&1 | sed "s|$BACKFILL_RUNTIME_DIR|RUN|"
  backfill: no owner of 'c.img' found: there is no *.volume of one who may be believed in 'RUN'; nor is there a backfilld to open it (-c SOCKET names a control socket that is somewhere else) (glob)

A server with one disk: it can be left out whatever its name.

  $ nbdkit -U one.sock -P one.pid backfill c.img name=system
  $ name
  ["system","DIR/c.img"]
  $ backfill flush
