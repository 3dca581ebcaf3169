The manual pages agree with the programs.

  $ . "$TESTDIR/setup.sh"
  $ need jq
  $ docs=$TOP_SRCDIR/docs
  $ section () { # PAGE TITLE: that =head1 section
  >   awk -v title="=head1 $2" '/^=head1/ { on = $0 == title } on' "$docs/$1.pod"
  > }
  $ subsection () { # PAGE TITLE: the =head2 section whose title begins so
  >   awk -v title="=head2 $2" '
  >     /^=head[12]/ { on = $0 == title || index($0, title " ") == 1 } on' "$docs/$1.pod"
  > }

backfill(1): each command is in the synopsis and has a section, and no other.

  $ backfill --list-commands | sort > commands
  $ section backfill SYNOPSIS | sed -nE 's/^ backfill (\[-c SOCKET\] )?([a-z]+) ?.*/\2/p' |
  >   grep -v '^help$' | sort -u | diff commands -
  $ section backfill COMMANDS | sed -n 's/^=head2 \([a-z]*\).*/\1/p' |
  >   grep -v '^help$' | sort -u | diff commands -

The options of its --help are in its synopsis and in its section:

  $ backfill flush --long-options > common
  $ section backfill SYNOPSIS | awk '
  >   /^ backfill/ { command = $2 == "[-c" ? $4 : $2 }
  >   command !~ /^[a-z]/ { next }
  >   { n = split($0, words, /[^a-z-]+/)
  >     for (i = 1; i <= n; i++) if (words[i] ~ /^--/) print command, words[i] }' | sort -u > synopsis
  $ for command in $(cat commands); do
  >   backfill $command --long-options | grep -vxFf common | sed "s/^/$command /"
  > done | sort -u > options
  $ diff synopsis options
  $ while read -r command option; do
  >   subsection backfill $command | grep -qE "B<$option(=>|>)" ||
  >     echo "no $option in the section $command"
  > done < options
  $ for option in $(backfill --long-options; backfill --short-options); do
  >   section backfill OPTIONS | grep -q "^=item B<$option>" || echo "no $option"
  > done

and nothing else is:

  $ { cut -d' ' -f2 options; backfill --long-options; } | sort -u > known
  $ { section backfill OPTIONS; section backfill COMMANDS; } |
  >   grep -oE 'B<--[a-z-]+' | cut -c 3- | sort -u | diff - known

nbdkit-backfill-plugin(1): each key has an item, and no other (see plugin-keys.t).

  $ nbdkit --dump-plugin backfill | sed -n 's/^backfill_keys=//p' | tr ' ' '\n' | sort > keys
  $ section nbdkit-backfill-plugin KEYS |
  >   sed -nE 's/^=item (\[)?B<([a-z-]+)=.*/\2/p' | sort -u | diff keys -

backfill-protocol(7): the section about the commands is what the program prints
from its table of commands, word by word.

  $ section backfill-protocol COMMANDS | tail -n +3 > manual
  $ "$TOP_BUILDDIR/server/control/print-commands" | diff manual -

It is the list that the server gives:

  $ need socat
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill control=control disk.img backing="$golden"
  $ printf '{"execute": "qmp_capabilities"}{"execute": "query-commands"}' |
  >   socat -t 60 - UNIX-CONNECT:control | jq -r '.return | arrays | .[].name' > names
  $ sed -n 's/^=head2 //p' manual | diff names -

Each member of its objects is explained:

  $ backfill allocate --offset 5M --wait --quiet
  $ section backfill-protocol OBJECTS > objects
  $ for member in $(backfill info --json | jq -r 'keys[], (.job, .stats | keys[])'); do
  >   grep -q "C<$member>" objects || echo "nothing about $member"
  > done

and so is each event:

  $ sed -n 's/.*what = "\([A-Z_]*\)";/\1/p' "$TOP_SRCDIR/server/control/object.c" | sort > events
  $ section backfill-protocol EVENTS | sed -n 's/^=item \([A-Z_]*\)$/\1/p' | sort | diff events -

docs/internals.md has the lock order as the code has it:

  $ sed -nE 's/^  X \([A-Z_]+, "(.*)"\).*/    \1/p' "$TOP_SRCDIR/common/lock-ranks.h" > ranks
  $ test -s ranks
  $ awk '/^## / { on = $0 == "## Locks" } on && /^    /' "$docs/internals.md" | diff ranks -

All pages come out of the formatter without a complaint, in lines that a terminal
has room for.  (The programs in section 3 are wider, as they are indented.)

  $ command -v groff >/dev/null || exit 80
  $ for page in "$TOP_BUILDDIR"/docs/*.[1-8]; do
  >   groff -man -Tutf8 -ww -W break -rLL=80n -P-c "$page" 2>complaints | sed 's/.\x08//g; s/\xe2\x80\xa2/*/g' |
  >     awk -v page="$(basename "$page")" 'page !~ /3$/ && length > 80 { print page ": " $0 }'
  >   cat complaints
  > done
