The C files are formatted as .clang-format says.

  $ command -v clang-format >/dev/null || exit 80

(Not with a clang-format that formats otherwise.)

  $ "$TOP_SRCDIR/scripts/format" --check >/dev/null 2>&1; [ $? -ne 77 ] || exit 80
  $ cd "$TOP_SRCDIR"
  $ scripts/format --check

It says so if one is not:

  $ cd "$CRAMTMP"
  $ mkdir -p tree/scripts tree/cli
  $ cp "$TOP_SRCDIR/scripts/format" tree/scripts/
  $ cp "$TOP_SRCDIR/.clang-format" tree/
  $ echo 'int  main( void ){return 0;}' > tree/cli/main.c
  $ tree/scripts/format --check 2>/dev/null
  [123]
  $ tree/scripts/format
  $ tree/scripts/format --check
  $ cat tree/cli/main.c
  int
  main (void)
  {
    return 0;
  }
