Bugs are planted on purpose, one after the other, to see whether tests see them
(`make mutants`).  That takes an hour; here only the list is looked at.

  $ . "$TOP_SRCDIR/tests/setup.sh"
  $ mutants="python3 $TOP_SRCDIR/tests/mutants/mutants.py"

Each promise of docs/promises.md has some, and its row names the tests that see
them:

  $ TOP_SRCDIR=$TOP_SRCDIR $mutants --promises "$TOP_SRCDIR/docs/promises.md"

There are enough of them:

  $ test "$($mutants --list | wc -l)" -ge 60
