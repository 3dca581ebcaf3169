Help, versions, and wrong usage.

  $ . "$TESTDIR/setup.sh"
  $ backfill --version
  backfill [0-9]+\.[0-9]+\.[0-9]+ (re)
  $ backfill -V | cmp - <(backfill --version)

--help shows the commands, and after a command its options:

  $ backfill --help | grep -E '^(Usage|Shows|Commands|Options)'
  Usage: backfill [-c SOCKET] COMMAND [DISK] [OPTION...]
  Shows and drives disks that backfill serves and fills in.
  Commands:
  Options:
  $ backfill -h | cmp - <(backfill --help)
  $ backfill help | cmp - <(backfill --help)
  $ backfill pause --help
  Usage: backfill [-c SOCKET] pause [DISK] [OPTION...]
  
  'resume' lets it go on.
  
    --job NUMBER      only the job of that number ('info' shows it), and
                      no other that has taken its place
  
  Options of every command:
    -c, --control SOCKET  the server's control socket
        --json            print JSON
    -h, --help            show this
  $ for command in $(backfill --list-commands); do
  >   backfill $command --help | cmp - <(backfill help $command)
  >   backfill $command -h | head -n 1 | grep -q "^Usage: .* $command" || echo "no help on $command"
  > done

Nobody is asked for it:

  $ backfill allocate vda --offset nonsense --help | head -n 1
  Usage: backfill [-c SOCKET] allocate [DISK] [OPTION...]

It fits a terminal of 80 columns:

  $ for command in '' $(backfill --list-commands); do
  >   backfill $command --help | awk 'length > 79'
  > done

Nothing, or nothing that is known; the exit status is 2.

  $ backfill 2>&1 >/dev/null | head -n 1
  Usage: backfill [-c SOCKET] COMMAND [DISK] [OPTION...]
  $ backfill 2>/dev/null
  [2]
  $ backfill frob
  backfill: 'frob' is not a command
  Try 'backfill --help'.
  [2]
  $ backfill help frob
  backfill: 'frob' is not a command
  Try 'backfill --help'.
  [2]
  $ backfill --frob list
  backfill: unrecognized option '--frob'
  Try 'backfill --help'.
  [2]
  $ backfill list --frob
  backfill: unrecognized option '--frob'
  Try 'backfill list --help'.
  [2]
  $ backfill list -c
  backfill: option requires an argument -- 'c'
  Try 'backfill list --help'.
  [2]
  $ backfill allocate --wait=3
  backfill: option '--wait' doesn't allow an argument
  Try 'backfill allocate --help'.
  [2]
  $ backfill allocate --offset
  backfill: option '--offset' requires an argument
  Try 'backfill allocate --help'.
  [2]
  $ backfill pause one two
  backfill: 'pause' takes one DISK: 'two' is one too many
  Try 'backfill pause --help'.
  [2]
  $ backfill list vda
  backfill: 'list' shows all disks and takes no DISK: 'info' does
  Try 'backfill list --help'.
  [2]
  $ backfill quit vda
  backfill: 'quit' ends the whole server and takes no DISK: name its socket with -c
  Try 'backfill quit --help'.
  [2]
  $ backfill check
  backfill: 'check' needs one FILE: a store, or its sidecar
  Try 'backfill check --help'.
  [2]
  $ backfill check one two
  backfill: 'check' needs one FILE: a store, or its sidecar
  Try 'backfill check --help'.
  [2]

Options go before a command or after it, and what follows -- is no option.

  $ nbdkit -U disk.sock -P disk.pid backfill disk.img size=1M name=-d control=socket
  $ backfill --json -c socket info | head -n 2
  {
    "name": "-d",
  $ backfill info -c socket --json -- -d | head -n 2
  {
    "name": "-d",
  $ backfill info -- -d -c socket
  backfill: 'info' takes one DISK: '-c' is one too many
  Try 'backfill info --help'.
  [2]

Output that cannot be written is a failure.

  $ backfill info > /dev/full
  backfill: cannot write to standard output: No space left on device
  [1]
  $ backfill --help > /dev/full
  backfill: cannot write to standard output: No space left on device
  [1]

The exit statuses: 0 done, 1 failed, 2 wrong usage, 3 the job failed or was
aborted (see jobs.t), 130 interrupted (see interrupt.t).

  $ backfill flush
  $ backfill flush nothing
  backfill: No disk has the name or the store 'nothing': there is '-d'
  [1]
  $ backfill flush one two 2>/dev/null
  [2]

With --detailed-exitcode what failed can be told by the exit status: no such
disk, no server, a job that is in progress already, no job.

  $ backfill flush nothing --detailed-exitcode 2>/dev/null
  [6]
  $ backfill --detailed-exitcode flush ./nothing 2>/dev/null
  [6]
  $ backfill --detailed-exitcode -c no.control info 2>/dev/null
  [7]
  $ touch closed.img
  $ backfill --detailed-exitcode info ./closed.img 2>/dev/null
  [7]
  $ backfill --detailed-exitcode pause 2>/dev/null
  [9]
  $ backfill --detailed-exitcode wait 2>/dev/null
  [9]
  $ make_golden
  $ serve_golden
  $ nbdkit -U slow.sock -P slow.pid backfill name=slow store=slow.img backing="$golden"
  $ backfill allocate slow --quiet --speed 16k
  $ backfill --detailed-exitcode allocate slow 2>/dev/null
  [8]
  $ backfill allocate slow 2>/dev/null
  [1]

Disks that fail in several ways are a failure, and so is what has no such reason:

  $ backfill --detailed-exitcode wait nothing ./closed.img 2>/dev/null
  [1]
  $ backfill --detailed-exitcode info 2>/dev/null
  [1]
  $ backfill --detailed-exitcode flush slow
