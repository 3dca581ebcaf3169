#!/bin/sh
# run-cram.sh TEST.t: run one cram test; 77 if it was skipped.
#
# The test runs from a copy, because cram writes beside it and the source may
# be read-only.  First in its PATH is an `nbdkit` that takes `backfill` as the
# plugin of this build (in valgrind, if BACKFILL_VALGRIND is set: then any
# complaint fails the test), and a runtime directory of its own.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -eu

# (Not CRAM: cram itself takes options from that.)
: "${CRAM_PROGRAM=$(command -v cram3 || command -v cram || :)}"
: "${NBDKIT=$(command -v nbdkit || :)}"
if [ -z "$CRAM_PROGRAM" ]; then
  echo "cram is missing: apt-get install python3-cram"
  exit 77
fi
if [ -z "$NBDKIT" ]; then
  echo "nbdkit is missing: apt-get install nbdkit"
  exit 77
fi
: "${BACKFILL_PLUGIN:?run this with ./run}"

work=$(mktemp -d /tmp/bf-XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
mkdir "$work/bin" "$work/t" "$work/t/lib" "$work/run" "$work/valgrind"
dir=$(dirname "$1")
for file in "$1" "$dir"/*.sh "$dir"/*.py; do
  [ ! -f "$file" ] || cp "$file" "$work/t/"
done
cp "$dir"/lib/*.sh "$work/t/lib/"

preload=
case "${SANITIZER-no}" in
  *address*) preload=$(${CC:-gcc} -print-file-name=libasan.so) ;;
  *thread*) preload=$(${CC:-gcc} -print-file-name=libtsan.so) ;;
esac
prefix=
if [ -n "${BACKFILL_VALGRIND-}" ]; then
  prefix="valgrind -q --trace-children=no --log-file=$work/valgrind/%p"
fi
cat > "$work/bin/nbdkit" <<END
#!/bin/sh
n=\$#
while [ "\$n" -gt 0 ]; do
  a=\$1
  shift
  [ "\$a" != backfill ] || a=\$BACKFILL_PLUGIN
  set -- "\$@" "\$a"
  n=\$((n - 1))
done
${preload:+LD_PRELOAD=$preload; ASAN_OPTIONS=detect_leaks=0; export LD_PRELOAD ASAN_OPTIONS}
exec $prefix $NBDKIT "\$@"
END
chmod +x "$work/bin/nbdkit"

PATH=$work/bin:$PATH
BACKFILL_RUNTIME_DIR=$work/run
# Freed and new memory is not zeros: what leans on that shows.
GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.perturb=165}
TMPDIR=$work
export PATH BACKFILL_RUNTIME_DIR GLIBC_TUNABLES TMPDIR

status=0
timeout -k 10 "${CRAM_TIMEOUT:-600}" "$CRAM_PROGRAM" --shell=/bin/bash \
  "$work/t/$(basename "$1")" > "$work/out" 2>&1 < /dev/null || status=$?
cat "$work/out"

for log in "$work"/valgrind/*; do
  if [ -s "$log" ]; then
    cat "$log"
    status=1
  fi
done

# Cram counts a skipped test and exits with 0.
if [ $status -eq 0 ] && grep -q ', 1 skipped, 0 failed' "$work/out"; then
  exit 77
fi
exit $status
