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
  

Names are other people's, of disks and of domains.  They are never run, neither
now nor when the line is.

  $ mkdir bin empty
  $ printf '%s\n' '#!/bin/sh' "printf '%s\n' 'dom 1' '\$(touch ran)' '\`touch ran\`' 'do\"m'" > bin/virsh
  $ chmod +x bin/virsh
  $ nbdkit -U odd.sock -P odd.pid backfill \
  >   'name=$(touch ran)' store=1.img size=1M 'name=`touch ran`' store=2.img size=1M \
  >   'name=vd c' store=3.img size=1M "name=vd'd" store=4.img size=1M \
  >   "name=vd
  > \$(touch ran)" store=5.img size=1M 'name=${x[$(touch ran)]}' store=6.img size=1M
  $ cd empty
  $ complete_line info '' > ../words; cat ../words
  $'vd\n$(touch ran)'
  \$\(touch\ ran\)
  \$\{x\[\$\(touch\ ran\)\]\}
  \`touch\ ran\`
  vd\ c
  vd\'d
  vda
  vdb
  $ while IFS= read -r word; do
  >   bash --norc -c "backfill info $word" < /dev/null
  > done < ../words | mask | grep ^store
  store        DIR/5.img
  store        DIR/1.img
  store        DIR/6.img
  store        DIR/2.img
  store        DIR/3.img
  store        DIR/4.img
  store        DIR/a.img
  store        DIR/b.img
  $ complete_line info 'vd\ '
  vd\ c
  $ complete_line info '"vd '
  vd c
  $ complete_line info "'\$"
  $(touch ran)
  ${x[$(touch ran)]}
  $ complete_line '$(touch ran)' --vers
  
  $ PATH=$here/bin:$PATH complete_line --domain ''
  \$\(touch\ ran\)
  \`touch\ ran\`
  do\"m
  dom\ 1
  $ PATH=$here/bin:$PATH complete_line --domain 'dom'
  dom\ 1
  $ cd ..
  $ find . -name ran
