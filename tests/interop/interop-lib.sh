# interop-lib.sh - what the tests with foreign clients and servers share.
# Sourced by bash scripts.
#
# Each has a folder of its own, $dir.  `serve NAME ...` starts an nbdkit whose
# socket is $dir/NAME.sock, `disk NAME STORE ...` one with the plugin, whose
# control socket is $dir/NAME.control.  All of them, and whatever else is in
# `pids`, are ended when the script ends.
#
# A command that fails ends the test and is named.  INTEROP_KEEP=1 keeps the
# folder.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2034

set -eE -o pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
nbdkit=${NBDKIT:-nbdkit}
plugin=${BACKFILL_PLUGIN:?run this with ./run}
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C

skip () {
  echo "skipped: $*"
  exit 77
}

fail () {
  echo "FAILED: $*" >&2
  exit 1
}

say () {
  printf '%3ds  %s\n' "$SECONDS" "$*"
}

# need COMMAND...: skip if one is not there.
need () {
  local c
  for c; do
    command -v "$c" > /dev/null || skip "no $c"
  done
}

need "$nbdkit"
# The plugin of a sanitizer build needs its runtime in nbdkit.
preload=
case ${SANITIZER:-no} in
  *address*) preload=$(${CC:-gcc} -print-file-name=libasan.so) ;;
  *thread*) preload=$(${CC:-gcc} -print-file-name=libtsan.so) ;;
esac
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}

# The NBD bindings belong to the system's own Python.
need_nbdsh () {
  /usr/bin/python3 -c 'import nbd' 2> /dev/null || skip "no python3-libnbd"
}
nbdsh () {
  /usr/bin/python3 -m nbd "$@"
}

dir=$(mktemp -d "${TMPDIR:-/tmp}/bfi-XXXXXX")
export BACKFILL_RUNTIME_DIR=$dir/run
mkdir "$BACKFILL_RUNTIME_DIR"
declare -A server=()
pids=()
undo=()
filters=()

clean_up () {
  local status=$? i log
  trap - EXIT ERR
  set +eE
  for ((i = ${#undo[@]} - 1; i >= 0; i--)); do
    eval "${undo[i]}" > /dev/null 2>&1
  done
  for i in "${server[@]}" "${pids[@]}"; do
    kill -KILL "$i" 2> /dev/null
    wait "$i" 2> /dev/null
  done
  if [ $status -ne 0 ] && [ $status -ne 77 ]; then
    for log in "$dir"/*.err "$dir"/*.log; do
      [ -s "$log" ] && echo "--- ${log##*/}:" &&
        sed 's/qemu-io> //g; /^$/d; /aborting sleep/d' "$log" | tail -n 30
    done >&2
  fi
  if [ -n "${INTEROP_KEEP:-}" ]; then
    echo "kept: $dir"
  else
    rm -rf "$dir"
  fi
  exit $status
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP
trap 'echo "FAILED at line $LINENO: $BASH_COMMAND" >&2' ERR

. "$here/../lib/wait.sh"

is_gone () {
  ! kill -0 "$1" 2> /dev/null
}

# must_fail PROGRAM...: of itself, in time.  Its output is in $dir/out.
must_fail () {
  local status=0
  timeout -k 5 120 "$@" > "$dir/out" 2>&1 || status=$?
  case $status in
    0 | 124 | 137) fail "this should have failed: $*" ;;
  esac
}

# serve NAME [nbdkit option, plugin and arguments]
serve () {
  local name=$1
  shift
  rm -f "$dir/$name.sock" "$dir/$name.pid"
  ${preload:+env LD_PRELOAD=$preload} \
    "$nbdkit" -f -U "$dir/$name.sock" -P "$dir/$name.pid" "$@" \
    2>> "$dir/$name.err" &
  server[$name]=$!
  wait_for eval "[ -s '$dir/$name.pid' ] || is_gone ${server[$name]}"
  ! is_gone "${server[$name]}" || fail "nbdkit $* did not start"
}

# disk NAME STORE [KEY=VALUE ...]; the array `filters` goes before the plugin.
disk () {
  local name=$1
  shift
  serve "$name" "${filters[@]}" "$plugin" "$@" "control=$dir/$name.control"
}

# cli NAME COMMAND...: the command, on that server.
cli () {
  local name=$1
  shift
  backfill -c "$dir/$name.control" "$@"
}

# allocate NAME [OPTION ...]: and wait.
allocate () {
  local name=$1
  shift
  cli "$name" allocate --quiet --wait "$@"
}

# stop NAME: an orderly end, which must be one.
stop () {
  local pid=${server[$1]} status=0
  unset "server[$1]"
  # If we fail below it is still ended.
  pids+=("$pid")
  kill -TERM "$pid"
  wait_for is_gone "$pid"
  wait "$pid" || status=$?
  [ $status -eq 0 ] || fail "$1 ended with status $status"
}

# crash NAME: SIGKILL.
crash () {
  local pid=${server[$1]}
  unset "server[$1]"
  kill -KILL "$pid"
  wait "$pid" 2> /dev/null || true
}

# finish_job NAME: let it run at full speed, to its end.
finish_job () {
  # It may have ended by now.
  cli "$1" speed 0 > /dev/null 2>&1 || true
  wait_for eval "[ \"\$(member $1 .job.status)\" = concluded ]"
  [ "$(member "$1" .job.result)" = completed ] ||
    fail "the job did not complete: $(member "$1" -c .job)"
}

# uri NAME [EXPORT]
uri () {
  echo "nbd+unix:///${2-}?socket=$dir/$1.sock"
}

# member NAME MEMBER: of the disk's JSON object, in jq's words.
member () {
  cli "$1" info --json | jq -r "${@:2}"
}

# same A B: the two files hold the same.  Both may be large and sparse.
same () {
  /usr/bin/python3 "$here/sparse.py" same "$1" "$2" ||
    fail "${1##*/} and ${2##*/} differ"
}

# no_more_data A B [GRANULE]: where B has a hole of whole granules, A has one.
no_more_data () {
  /usr/bin/python3 "$here/sparse.py" within "$@" ||
    fail "${1##*/} has data where ${2##*/} has a hole"
}

# data_bytes FILE: without its holes.
data_bytes () {
  /usr/bin/python3 "$here/sparse.py" data "$1"
}

# make_tree FOLDER MIB: real files of this machine, about so much.
make_tree () {
  mkdir -p "$1"
  # What cannot be read, or goes away meanwhile, is left out.
  find /usr/share /usr/include /usr/lib /usr/bin -xdev -type f \
    -size -8M -readable -print0 2> /dev/null | sort -z |
    /usr/bin/python3 "$here/sparse.py" tree "$1" "$2"
}

# make_golden IMAGE MIB [FOLDER]: an ext4 file system with that much of real
# files in it, and a third more of free space.
make_golden () {
  local tree=${3:-$dir/tree}
  need mkfs.ext4
  make_tree "$tree" "$2"
  truncate -s "$(($2 * 4 / 3 + 32))M" "$1"
  mkfs.ext4 -q -F -L golden -d "$tree" "$1" > "$dir/mkfs.log" 2>&1
  [ -n "${3-}" ] || rm -rf "$tree"
}
