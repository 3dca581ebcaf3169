SPDX-License-Identifier: LGPL-2.1-or-later

No module of common/ and the engine calls or includes one of its own floor or
above (house/FLOORS), and no folder includes a header that is not for it:

  $ bash "$TOP_SRCDIR/tests/house/arrows.sh"

An arrow that runs up is named: with the floors upside down, each does.

  $ mkdir house
  $ cp "$TOP_SRCDIR/tests/house/arrows.sh" house
  $ tac "$TOP_SRCDIR/tests/house/FLOORS" > house/FLOORS
  $ bash house/arrows.sh > found
  [1]
  $ grep -Fx 'life calls up to commit: commit_run' found
  life calls up to commit: commit_run
  $ grep -Fx 'life.c includes up: volume.h' found
  life.c includes up: volume.h
