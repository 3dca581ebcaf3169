#!/bin/sh
# run-fuzzer.sh fuzz-NAME: run a fuzzer on its corpus.  With libFuzzer it goes
# on from there, for FUZZ_TIME seconds.  What it finds worth keeping goes to
# the folder FOUND, if that is set.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -eu
fuzzer=$1
name=${fuzzer##*/fuzz-}
corpus=${srcdir:-$(dirname "$0")}/corpus-$name

UBSAN_OPTIONS=${UBSAN_OPTIONS-halt_on_error=1:print_stacktrace=1}
TSAN_OPTIONS=${TSAN_OPTIONS-halt_on_error=1}
export UBSAN_OPTIONS TSAN_OPTIONS

pid=
tmp=$(mktemp -d "${TMPDIR:-/tmp}/fuzz-XXXXXX")
clean_up () {
  status=$?
  trap - EXIT INT TERM HUP
  [ -z "$pid" ] || kill "$pid" 2>/dev/null || :
  rm -rf "$tmp"
  exit $status
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP
TMPDIR=$tmp
export TMPDIR

if [ "${FUZZERS-no}" = no ]; then
  timeout -k 10 600 "$fuzzer" "$corpus"
  exit
fi

# What reads only our own files and keys gets half the time of what meets
# strangers.
case $name in
  work | config) seconds=30 ;;
  *) seconds=60 ;;
esac
found=${FOUND-$tmp/found}
mkdir -p "$found"
"$fuzzer" -max_total_time="${FUZZ_TIME-$seconds}" -print_final_stats=1 \
  -timeout=60 -artifact_prefix="$name-" "$found" "$corpus" &
pid=$!
status=0
wait "$pid" || status=$?
pid=

# So that the log alone is enough to see it again.
if [ $status -ne 0 ]; then
  for file in "$name"-crash-* "$name"-leak-* "$name"-oom-* "$name"-timeout-*; do
    [ ! -f "$file" ] || { echo "--- $file, in base64:"; base64 "$file"; }
  done
fi
exit $status
