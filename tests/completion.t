Completion for bash.

  $ . "$TESTDIR/setup.sh"
  $ nbdkit -U disk.sock -P disk.pid backfill \
  >   name=vda store=a.img size=1M name=vdb store=b.img size=1M control=control
  $ complete_line () { # WORD...: what the last one can become
  >   bash --norc -c '
  >     compopt () { :; }
  >     . "$TOP_SRCDIR/cli/completion.bash"
  >     COMP_WORDS=(backfill "$@")
  >     COMP_CWORD=$#
  >     COMPREPLY=()
  >     _backfill
  >     printf "%s\n" "${COMPREPLY[@]}" | sort' complete "$@"
  > }
  $ bash --norc -c '. "$TOP_SRCDIR/cli/completion.bash"; complete -p backfill'
  complete -F _backfill backfill

Commands, all of them:

  $ complete_line '' | diff - <(backfill --list-commands | sort)
  $ complete_line pa
  pause
  $ complete_line help fl
  flush

Options of the program and of a command:

  $ complete_line --ver
  --version
  $ complete_line map -- | diff - <(backfill map --long-options | sort)
  $ complete_line map --a
  --ascii
  $ complete_line allocate --s
  --sparse
  --speed
  $ complete_line allocate --on-error ''
  report
  skip

Disks of the server, and files:

  $ complete_line info vd
  vda
  vdb
  $ complete_line -c control info b
  b.img
  b.img.backfill
  $ complete_line check a.img.b
  a.img.backfill
  $ complete_line -c contr
  control
  $ complete_line allocate --speed 1
  
