SPDX-License-Identifier: LGPL-2.1-or-later

owner says whose a disk is, from its files alone, and a server serves no disk
that is owned elsewhere.

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ role () { /usr/bin/python3 "$TOP_SRCDIR/tests/lib/setrole.py" disk.img.backfill "$@"; }
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img size=4M
  $ backfill owner disk.img | sed "s/process [0-9]*.*,/process PID,/"
  sidecar      disk.img.backfill
  owner        here
  role         none
  open         by process PID, or it was killed
  disk.img takes part in no migration: serve it here
  $ backfill owner disk.img --json | jq -c "[.owner, .role, .migration, .open]"
  ["here","none",null,true]
  $ stop disk

It was given to another host. Who serves it here is told so:

  $ role given hostb hostb.example.org
  $ backfill owner disk.img
  sidecar      disk.img.backfill
  owner        there
  role         given
  peer         hostb (hostb.example.org)
  migration    101112131415161718191a1b1c1d1e1f
  lineage      000102030405060708090a0b0c0d0e0f
  epoch        3 (0123456789abcdef)
  open         no
  disk.img was given to hostb (hostb.example.org) (migration 101112131415161718191a1b1c1d1e1f): serve it there, and keep its sidecar here, which says so
  $ backfill owner disk.img.backfill --json | jq -c "[.owner, .role, .migration.host, .migration.peer, .migration.epoch]"
  ["there","given","hostb","hostb.example.org",{"number":3,"random":"0123456789abcdef"}]
  $ before=$(sha256sum disk.img disk.img.backfill)
  $ nbdkit -U disk.sock backfill disk.img
  nbdkit: error: */disk.img was given to hostb (hostb.example.org) (migration *): serve it there, and keep its sidecar here, which says so (glob)
  [1]
  $ nbdkit -U disk.sock -r backfill disk.img
  nbdkit: error: */disk.img was given to hostb *: serve it there, * (glob)
  [1]
  $ nbdkit -U disk.sock backfill disk.img adopt=moved
  nbdkit: error: */disk.img was given to hostb *: serve it there, * (glob)
  [1]

Nor does another sidecar make another disk of it, or the same command line a new
one where the store is gone:

  $ nbdkit -U disk.sock backfill disk.img adopt=local metadata=other
  nbdkit: error: */disk.img was given to hostb * (by its sidecar */disk.img.backfill, whatever metadata= says) (glob)
  [1]
  $ test "$before" = "$(sha256sum disk.img disk.img.backfill)"
  $ mv disk.img away
  $ nbdkit -U disk.sock backfill disk.img size=4M
  nbdkit: error: */disk.img was given to hostb *: serve it there, * (glob)
  [1]
  $ nbdkit -U disk.sock backfill disk.img size=4M metadata=other
  nbdkit: error: */disk.img was given to hostb * (glob)
  [1]
  $ ls disk.img other 2>/dev/null
  [2]
  $ backfill owner disk.img | grep owner
  owner        there
  $ mv away disk.img

Every role:

  $ for r in owner sending given incoming prepared aborted back; do
  >   role $r
  >   backfill owner disk.img --json | jq -r '"\(.role): \(.owner)"'
  > done
  owner: here
  sending: here
  given: there
  incoming: there
  prepared: unknown
  aborted: there
  back: there
  $ for r in incoming prepared aborted back; do
  >   role $r
  >   nbdkit -U disk.sock backfill disk.img 2>&1 | sed 's/.*disk.img/disk.img/; s/ (migration [^)]*)//'
  > done
  disk.img is being received from hostb, and is not whole here: serve it there
  disk.img has been received from hostb, which may have given it since: ask 'backfill owner' there, and serve it nowhere until that is known
  disk.img was being received from hostb until that was given up, and is not whole here: serve it there
  disk.img was given back to hostb: serve it there, and keep its sidecar here, which says so

What is being sent is served, but keeps its sidecar:

  $ role sending
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ backfill allocate --wait --quiet
  $ backfill detach
  backfill: */disk.img is owned here, and is being sent to hostb (migration *): serve it here, and nowhere else; it cannot be detached before that has ended (glob)
  [1]
  $ stop disk
  $ backfill check disk.img
  disk.img.backfill: disk of 4 MiB, granule 4096, sending in a migration
  no damage
  $ backfill check disk.img --json | jq -r .role
  sending

A guest that was served after the disk came here may have changed it:

  $ role owner
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img
  $ stop disk
  $ backfill owner disk.img | grep changed
  changed      by a guest here: it cannot be given back

What the other host calls itself drives no terminal:

  $ role given "$(printf 'h\033[2J\nx')"
  $ backfill owner disk.img | grep peer
  peer         h?[2J?x

No sidecar, and wrong usage:

  $ backfill owner nothing
  backfill: cannot open the sidecar nothing: No such file or directory; and there is no nothing.backfill
  [1]
  $ backfill owner
  backfill: 'owner' needs one STORE, or its sidecar
  Try 'backfill owner --help'.
  [2]
