What is shown on a terminal, and not in a pipe.

  $ . "$TESTDIR/setup.sh"
  $ need jq script
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill \
  >   name=vda store=a.img backing="$golden" name=vdb store=b.img size=1G
  $ backfill allocate vda --offset 2M --length 7M --wait --quiet

A terminal of 80 columns.  (Its ends of lines are shortened to what they are.)

  $ on_terminal () {
  >   script -qec "stty cols ${COLS-80}; $1" /dev/null </dev/null | sed 's/\r$//' | mask
  > }
  $ export TERM=xterm
  $ script -qec true /dev/null </dev/null || exit 80

list has a bar for each disk:

  $ NO_COLOR=1 on_terminal 'backfill list'
  NAME        SIZE                        LOCAL  SOURCE     JOB        STORE
  vda       16 MiB  [#######...........]    43%  connected  completed  DIR/a.img
  vdb        1 GiB  [..................]     0%  none       -          DIR/b.img
  $ NO_COLOR=1 COLS=65 on_terminal 'backfill list | cat'
  NAME        SIZE  LOCAL  SOURCE     JOB        STORE
  vda       16 MiB    43%  connected  completed  DIR/a.img
  vdb        1 GiB     0%  none       -          DIR/b.img

map --ascii says what its signs mean:

  $ NO_COLOR=1 COLS=54 on_terminal 'backfill map --ascii'
  vda [....####--------##..............]  43% of 16 MiB
  vdb [................................]   0% of 1 GiB
  # local  - zero  . absent  + partly local  > next for the job

Colours, unless NO_COLOR is set or the terminal is dumb:

  $ on_terminal 'backfill list' | grep -c $'\x1b'
  2
  $ TERM=dumb on_terminal 'backfill list; backfill map --ascii' | grep -c $'\x1b'
  0
  [1]
  $ NO_COLOR=1 on_terminal 'backfill list; backfill map --ascii' | grep -c $'\x1b'
  0
  [1]
  $ backfill map --ascii | grep -c $'\x1b'
  0
  [1]

allocate --wait writes one line over and over: a bar, percent, bytes, rate and
time left.

  $ on_terminal 'backfill allocate vda --wait --speed 512k' > out
  $ tr '\r' '\n' < out | grep -v '^$' | tail -n 1 | mask
  [###################################] 100%  16 MiB of 16 MiB  completed in * (glob)
  $ tr '\r' '\n' < out |
  >   grep -qE '^\[#*\.+\] +[0-9]+%  [0-9.]+ MiB of 16 MiB  [0-9.]+ [KM]iB/s  .* left *$'
  $ wc -l < out
  1

It is never wider than the terminal, down to one without room for a bar:

  $ tr '\r' '\n' < out | awk 'length > 79'
  $ COLS=30 on_terminal 'backfill allocate vda --wait' | tr '\r' '\n' | tail -n 1
  100%  16 MiB of 16 MiB  compl

Ctrl-C there.  (The shell below gets it too, and must live to say the status
whatever the order in which it learns of the two.)

  $ backfill allocate vdb --wait --quiet --length 512M
  $ nbdkit -U slow.sock -P slow.pid backfill slow.img backing="$golden"
  $ cat > interrupt.sh <<'END'
  > (
  >   until grep -q % out; do sleep 0.1; done
  >   printf '\003'
  >   until grep -q STATUS out; do sleep 0.1; done
  > ) | script -qefc 'trap : INT; backfill allocate slow.img --wait --speed 128k; echo STATUS $?' /dev/null > out
  > END
  $ : > out
  $ timeout 60 sh interrupt.sh </dev/null
  $ tr '\r' '\n' < out | grep -E 'interrupted|STATUS'
  backfill: interrupted: the job goes on ('backfill abort' ends it)
  STATUS 130
  $ wait_for job_is slow.img running
  $ info_of slow.img .job.status
  "running"
