# setup.sh - shell functions that the cram tests share: . "$TESTDIR/setup.sh"
#
# Servers go to the background by themselves and are given -P NAME.pid and
# -U NAME.sock: what has a pid file in the test's folder is ended with the
# test.  Nothing that a test leaves in the background may hold its output.
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2034

here=$PWD
golden='nbd+unix:///?socket=golden.sock'
disk='nbd+unix:///?socket=disk.sock'

# A server that should have been refused, and so was given no pid file, ends
# with the test too.
nbdkit () {
  case " $* " in
    *" -P "* | *" -f "* | *" --run "* | *" --help "* | *" --dump-plugin "*)
      command nbdkit "$@"
      ;;
    *) command nbdkit -P "$(mktemp -u "$here/unexpected-XXXXXX.pid")" "$@" ;;
  esac
}

# need PROGRAM...: skip the test if one is missing.
need () {
  for program; do
    command -v "$program" >/dev/null || exit 80
  done
}

. "$TESTDIR/lib/wait.sh"

# ended PID: it is gone, or only not reaped yet.
ended () {
  ! grep -q '^State:[^Z]*$' "/proc/$1/status" 2>/dev/null
}

# end_server NAME SIGNAL.  (nbdkit writes its pid file after it has returned to
# the shell.)
end_server () {
  local pid
  wait_for test -s "$here/$1.pid" || return
  pid=$(cat "$here/$1.pid")
  kill "-$2" "$pid"
  wait_for ended "$pid"
  rm -f "$here/$1.pid" "$here/$1.sock"
}

# stop NAME: end the server with that pid file in good order.
stop () {
  end_server "$1" TERM
}

# crash NAME: end it as a crash does.
crash () {
  end_server "$1" KILL
}

clean_up () {
  local file
  for file in "$here"/*.pid; do
    [ ! -s "$file" ] || kill "$(cat "$file")" 2>/dev/null
  done
  for file in "$here"/*.pid; do
    [ ! -s "$file" ] || wait_for ended "$(cat "$file")" ||
      kill -KILL "$(cat "$file")"
  done
}
trap clean_up EXIT

# make_golden: golden.img, 16 MiB: 4 MiB of data, 4 MiB of hole, 1 MiB of data,
# and a hole to the end.  No two lines in it are the same.
make_golden () {
  seq 1000000 | head -c 4M > golden.img
  truncate -s 16M golden.img
  seq 2000000 9000000 | head -c 1M |
    dd of=golden.img bs=1M seek=8 conv=notrunc status=none
}

# serve_golden [OPTION...] [-- KEY=VALUE...]: that image, by nbdkit's file
# plugin.
serve_golden () {
  local options=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  [ $# -eq 0 ] || shift
  nbdkit -r -U golden.sock -P golden.pid "${options[@]}" file golden.img "$@"
}

# nbdsh with the Python that it was made for, which need not be the first.
nbdsh () {
  PATH=/usr/bin:$PATH command nbdsh "$@" </dev/null
}

# read_at URI OFFSET LENGTH: these bytes.
read_at () {
  nbdsh -u "$1" \
    -c "import sys; sys.stdout.buffer.write(h.pread($3, $2))"
}

# write_at URI OFFSET TEXT
write_at () {
  nbdsh -u "$1" -c "h.pwrite(b'$3', $2)"
}

# info_of DISK FILTER: what jq makes of `info --json`.
info_of () {
  backfill info "$1" --json | jq -c "$2"
}

# job_is DISK STATUS: its job has that status, for wait_for: one that was just
# started, or goes on after a restart, may be seen before its first step.
job_is () {
  [ "$(info_of "$1" .job.status)" = "\"$2\"" ]
}

# wait_until_connected [-c SOCKET]: to all backing stores.
wait_until_connected () {
  wait_for sh -c "backfill list --json $* > \"$here/list.json\" &&
    ! grep -q '\"source\": \"lost\"' \"$here/list.json\""
  rm -f "$here/list.json"
}

# mask: what differs from run to run.
mask () {
  sed -E -e "s|$here|DIR|g" \
    -e 's/ in [0-9].*(ms|s|min|h)$/ in TIME/' \
    -e 's/^(  elapsed +).*/\1TIME/'
}
