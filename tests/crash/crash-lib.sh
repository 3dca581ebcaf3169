# crash-lib.sh - what the crash tests share.  Sourced by bash scripts.
#
# A test has: a golden image served read-only by an nbdkit of its own (the
# backing store), a lossyfs whose power can be cut, the server under test
# with its store there, and nbdmodel as the guest.
#
# CRASH_SERVER=file serves a copy of the golden image with nbdkit's file
# plugin instead: its flushes are known to be good, so it tests the tools.
# CRASH_FILTERS adds nbdkit options before the plugin's name and CRASH_ARGS
# after its own, to see that errors are caught.
# CRASH_KEEP=1 keeps the folder of a test that failed.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2034,SC2119,SC2120

set -u

CRASH_BIN=${CRASH_BIN:-.}
CRASH_BIN=$(cd "$CRASH_BIN" && pwd) || exit 1
CRASH_SERVER=${CRASH_SERVER:-backfill}
CRASH_FILTERS=${CRASH_FILTERS:-}
CRASH_ARGS=${CRASH_ARGS:-}
NBDKIT=${NBDKIT:-nbdkit}
seed=${SEED:-1}
scenario=
test_name=$(basename "$0" .sh)

say () {
  echo "$test_name: $*"
}

skip () {
  say "skipped: $*"
  exit 77
}

# The test failed: say what, where, and with which seed to see it again.
fail () {
  say "FAILED: $* (seed $seed${scenario:+, scenario $scenario})" >&2
  if [ -s "$tmp/server.err" ]; then
    echo "--- what the server said last:" >&2
    tail -n 15 "$tmp/server.err" >&2
  fi
  if [ -n "${fs_log:-}" ] && [ -s "$fs_log" ]; then
    echo "--- what lossyfs saw last:" >&2
    grep -v ' [0-9a-f]\{64\}' "$fs_log" | tail -n 15 >&2
  fi
  say "run it again: SEED=$seed${scenario:+ SCENARIO=$scenario} SEEDS=1 $0" >&2
  failed=1
  exit 1
}

# Kill a process of ours and wait for it.
end_process () {
  local pid=$1 signal=${2:-KILL}

  [ -n "$pid" ] || return 0
  kill "-$signal" "$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
}

crash_cleanup () {
  local code=$?

  trap - EXIT
  end_process "${load_pid:-}"
  end_process "${server_pid:-}"
  end_process "${backing_pid:-}"
  if [ -n "${fs_pid:-}" ]; then
    umount -l "$mnt" 2>/dev/null || fusermount3 -uz "$mnt" 2>/dev/null
    end_process "$fs_pid"
  fi
  if [ -n "${CRASH_KEEP:-}" ] && [ "${failed:-0}" = 1 ]; then
    say "kept: $tmp" >&2
  else
    rm -rf "$tmp"
  fi
  exit "$code"
}

# Go into a mount namespace of our own, where the boot id can be changed and
# where mounts do not outlive us.  $1 = fuse or nofuse.
crash_init () {
  local kind=$1
  shift

  command -v "$NBDKIT" >/dev/null || skip "no nbdkit"
  [ -x "$CRASH_BIN/nbdmodel" ] || skip "nbdmodel was not built (libnbd?)"
  if [ "$CRASH_SERVER" = backfill ] && [ -z "${NBDKIT_RUN:-}" ]; then
    skip "NBDKIT_RUN must be the build tree's run script"
  fi
  if [ "$kind" = fuse ] && [ -z "${CRASH_NS:-}" ]; then
    [ -x "$CRASH_BIN/lossyfs" ] || skip "lossyfs was not built (fuse3?)"
    [ -r /dev/fuse ] || skip "no /dev/fuse"
    local how=-m
    [ "$(id -u)" = 0 ] || how=-rm
    unshare $how --propagation private true 2>/dev/null \
      || skip "no private mount namespace to be had (unshare $how)"
    export CRASH_NS=1 CRASH_BIN CRASH_SERVER CRASH_FILTERS CRASH_ARGS
    exec unshare $how --propagation private "$BASH" "$0" "$@"
  fi

  tmp=$(mktemp -d "${TMPDIR:-/tmp}/crash.XXXXXX") || exit 1
  trap crash_cleanup EXIT
  trap 'exit 1' INT TERM
  mnt=$tmp/mnt
  store=$mnt/disk
  golden=$tmp/golden
  model=$tmp/model
  control=$tmp/control.sock
  uri="nbd+unix:///?socket=$tmp/nbd.sock"
  backing_uri="nbd+unix:///?socket=$tmp/backing.sock"
  fs_nr=0
  fs_pid='' server_pid='' backing_pid='' load_pid=''
  mkdir "$mnt" "$tmp/run"
  : > "$tmp/server.err"
  slowsync=$CRASH_BIN/.libs/slowsync.so
  [ -e "$slowsync" ] || slowsync=$CRASH_BIN/slowsync.so
  [ -e "$slowsync" ] || skip "slowsync was not built"
  if [ "$kind" = fuse ]; then
    cat /proc/sys/kernel/random/uuid > "$tmp/boot_id"
    mount --bind "$tmp/boot_id" /proc/sys/kernel/random/boot_id 2>/dev/null \
      || skip "the boot id cannot be changed here"
  fi
}

# A new round with a new golden image: new_disk BYTES [OPTION].  fs_in is what
# the next fs_start starts from.
new_disk () {
  rm -rf "$tmp"/fs.* "$tmp/run" "$model" "$golden"
  mkdir "$tmp/run"
  "$CRASH_BIN/nbdmodel" "--make-golden=$golden" "--size=$1" "--seed=$seed" \
    ${2:+"$2"} || fail "cannot make the golden image"
  fs_in=$tmp/fs.0
  fs_nr=0
  mkdir "$fs_in"
  if [ "$CRASH_SERVER" = file ]; then
    cp --sparse=always "$golden" "$fs_in/disk"
  fi
}

. "$(dirname "${BASH_SOURCE[0]}")/../lib/wait.sh"

# Any filters for the backing store: backing_start [OPTION ...], their
# settings in backing_args.
backing_start () {
  backing_options=("$@")
  end_process "$backing_pid"
  rm -f "$tmp/backing.sock" "$tmp/backing.pid"
  # shellcheck disable=SC2086
  "$NBDKIT" -f -r -U "$tmp/backing.sock" -P "$tmp/backing.pid" "$@" \
    file "$golden" ${backing_args:-} 2> "$tmp/backing.err" &
  backing_pid=$!
  wait_for test -s "$tmp/backing.pid" || fail "the backing store did not start"
}

# nbdkit 1.32.5 may abort when a client is killed in mid-reply ("sock >= 0"):
# that is not what is tested here.
backing_check () {
  if [ -n "$backing_pid" ] && ! kill -0 "$backing_pid" 2> /dev/null; then
    backing_pid=''
    backing_start "${backing_options[@]}"
  fi
}

backing_stop () {
  end_process "$backing_pid"
  backing_pid=''
}

# --- lossyfs ---

fs_start () {
  fs_nr=$((fs_nr + 1))
  fs_out=$tmp/fs.$fs_nr
  fs_log=$tmp/fs.$fs_nr.log
  "$CRASH_BIN/lossyfs" -s "$((seed * 1000 + fs_nr))" -l "$fs_log" \
    -x '*.backfill' "$fs_in" "$fs_out" "$mnt" 2> "$tmp/fs.err" &
  fs_pid=$!
  wait_for test -e "$mnt/.lossyfs" || skip "cannot mount a FUSE file system"
}

# Several commands, one argument each.
fs () {
  printf '%s\n' "$@" > "$mnt/.lossyfs" || fail "lossyfs: $*: $(cat "$tmp/fs.err")"
}

fs_get () {
  awk -v k="$1" '$1 == k { print $2 }' "$mnt/.lossyfs"
}

fs_is () {
  [ "$(fs_get "$1")" = "$2" ]
}

fs_is_dead () {
  fs_is dead 1
}

# The same, also where there is no lossyfs.
fs_is_gone () {
  [ -n "$fs_pid" ] && fs_is_dead
}

# Unmount: after a cut with what survived, else with what is visible.
fs_stop () {
  wait_for umount "$mnt" 2>/dev/null \
    || fail "lossyfs cannot be unmounted: somebody has files open"
  wait "$fs_pid" || fail "lossyfs: $(cat "$tmp/fs.err")"
  fs_pid=''
  fs_in=$fs_out
}

new_boot () {
  cat /proc/sys/kernel/random/uuid > "$tmp/boot_id"
  # A tmpfs is empty after a power cut; where the runtime directory is on a
  # disk what it holds is stale, and must not be believed.
  if [ "${keep_run:-no}" = no ]; then
    rm -rf "$tmp/run"
    mkdir "$tmp/run"
  fi
}

# The power goes: now, if it has not already.  fs_start and server_start
# are what happens next.
power_cut () {
  fs cut
  server_kill
  fs_stop
  new_boot
}

# --- the server under test ---

# server_start [KEY=VALUE ...]: returns 1 if it ended at once.
server_start () {
  backing_check
  rm -f "$tmp/nbd.sock" "$tmp/nbd.pid"
  rm -f "$tmp/hold" "$tmp/hold.held"
  : > "$tmp/server.err"
  if [ "$CRASH_SERVER" = backfill ]; then
    # shellcheck disable=SC2086
    LD_PRELOAD="${LD_PRELOAD:+$LD_PRELOAD:}$slowsync" \
      SLOWSYNC_FILE="$store" SLOWSYNC_HOLD="$tmp/hold" \
      SLOWSYNC_US="${sync_us:-0}" "$NBDKIT_RUN" "$NBDKIT" -f -U "$tmp/nbd.sock" -P "$tmp/nbd.pid" \
      $CRASH_FILTERS backfill "$store" "backing=$backing_uri" \
      "runtime-dir=$tmp/run" "control=$control" "$@" $CRASH_ARGS \
      2> "$tmp/server.err" &
  else
    # shellcheck disable=SC2086
    "$NBDKIT" -f -U "$tmp/nbd.sock" -P "$tmp/nbd.pid" $CRASH_FILTERS \
      file "$store" $CRASH_ARGS 2> "$tmp/server.err" &
  fi
  server_pid=$!
  while [ ! -s "$tmp/nbd.pid" ]; do
    if ! kill -0 "$server_pid" 2>/dev/null; then
      wait "$server_pid"
      server_pid=''
      return 1
    fi
    sleep 0.02
  done
}

# The same, where anything but success is the failure of the test.
server_must_start () {
  server_start "$@" || fail "the server does not start"
}

server_kill () {
  end_process "$server_pid"
  server_pid=''
}

# An orderly end, in 60 s.
server_stop () {
  local pid=$server_pid

  kill -TERM "$pid"
  wait_for eval "! kill -0 $pid 2>/dev/null" \
    || fail "the server did not end after SIGTERM"
  wait "$pid" || fail "the server's exit code after SIGTERM is $?"
  server_pid=''
}

cli () {
  "$NBDKIT_RUN" backfill -c "$control" "$@"
}

# Make the whole disk local: allocate sparse|full.  A job that a restart
# resumed may be in the way; it is let run to its end first.
allocate () {
  local i

  for ((i = 0; i < 240; i++)); do
    cli allocate "--$1" --wait > "$tmp/cli.out" 2>&1 && return 0
    grep -q 'job' "$tmp/cli.out" && ! fs_is_gone || break
    cli speed 0 > /dev/null 2>&1
    sleep 0.25
  done
  return 1
}

must_allocate () {
  allocate "$1" || fail "allocate --$1 --wait failed: $(cat "$tmp/cli.out")"
}

# --- the guest ---

# verify MODE [OPTION ...]: what the server shows, against the model.
verify () {
  verify_at "$uri" "$@"
}

verify_at () {
  local where=$1 mode=$2
  shift 2

  "$CRASH_BIN/nbdmodel" --verify "--mode=$mode" "--seed=$seed" "$@" \
    "--golden=$golden" "$model" "$where" \
    || fail "what ${where##*/} holds is not as permitted (--mode=$mode)"
}

# Run a script (on stdin) as the guest.
guest () {
  "$CRASH_BIN/nbdmodel" --script "--golden=$golden" "--seed=$seed" \
    "$model" "$uri" > "$tmp/guest.out" \
    || fail "the guest's script failed"
}

# Load in the background: load_start [OPTION ...]; then load_wait.
load_start () {
  "$CRASH_BIN/nbdmodel" --run "--golden=$golden" "--seed=$seed" "$@" \
    "$model" "$uri" > "$tmp/load.out" 2> "$tmp/load.err" &
  load_pid=$!
}

load_runs () {
  [ -n "$load_pid" ] && kill -0 "$load_pid" 2>/dev/null
}

# 0: it ended its work; 3: the server went; anything else fails the test.
load_wait () {
  local code

  wait "$load_pid"
  code=$?
  load_pid=''
  # The power was cut, or it was told to end, before it had begun.
  if [ "$code" = 143 ] || { [ "$code" = 2 ] && fs_is_dead; }; then
    code=0
  fi
  if [ "$code" != 0 ] && [ "$code" != 3 ]; then
    cat "$tmp/load.err" >&2
    fail "the guest's load found a violation or could not run (exit $code)"
  fi
  return "$code"
}

# Set r to a number from the seed: random MIN MAX.  Never in a subshell:
# RANDOM does not follow its seed there.
random () {
  r=$(($1 + (RANDOM * 32768 + RANDOM) % ($2 - $1 + 1)))
}
