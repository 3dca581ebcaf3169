#!/bin/bash
# SIGKILL of the server at random moments under load, on the same boot: every
# acknowledged write reads back (G13), what was local stays local, the job
# goes on to its end.
#
#   SEED=first SEEDS=how-many KILLS=each ./sigkill.sh
#
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154
srcdir=${srcdir:-$(dirname "$0")}
# shellcheck source=crash-lib.sh
. "$srcdir/crash-lib.sh"
crash_init nofuse "$@"

SEEDS=${SEEDS:-2}
KILLS=${KILLS:-8}
first=$seed
store=$tmp/fs.0/disk

# The member local of the one disk, in bytes.
local_bytes () {
  cli info --json 2> "$tmp/cli.err" \
    | tr ',{}' '\n\n\n' | sed -n 's/^ *"local": *\([0-9]*\).*/\1/p' | head -n 1
}

for ((seed = first; seed < first + SEEDS; seed++)); do
  RANDOM=$seed
  # Without holes: those are local as soon as the source has told of them,
  # which need not outlive the process.
  new_disk $((16 * 1048576 + RANDOM % 5 * 513)) --dense
  size=$(stat -c %s "$golden")
  backing_start
  was=0
  job=()
  if [ "$CRASH_SERVER" = backfill ] && [ $((seed % 2)) = 1 ]; then
    job=(allocate=on "speed=1M")
  fi
  server_must_start "${job[@]}"
  load_start --reconnect --seconds=600 "--connections=$((1 + RANDOM % 3))" \
    "--flush=$((RANDOM % 4))"
  for ((k = 0; k < KILLS; k++)); do
    sleep "$((RANDOM % 2)).$((RANDOM % 10))"
    load_runs || break
    if [ "$CRASH_SERVER" = backfill ]; then
      was=$(local_bytes)
    fi
    server_kill
    server_must_start "${job[@]}"
    if [ "$CRASH_SERVER" = backfill ]; then
      is=$(local_bytes)
      if [ -z "$was" ] || [ -z "$is" ] || [ "$is" -lt "$was" ]; then
        fail "local before SIGKILL: '$was' bytes, after: '$is'"
      fi
    fi
  done
  load_runs || { load_wait; fail "the load ended early"; }
  sleep 0.3
  server_kill
  kill -TERM "$load_pid"
  load_wait
  server_must_start "${job[@]}"
  verify sigkill
  server_kill
  server_must_start "${job[@]}"
  verify same
  if [ "$CRASH_SERVER" = backfill ]; then
    # The job that was begun before the first kill still runs, or has ended;
    # there is none where none was.
    if [ ${#job[@]} -gt 0 ]; then
      cli speed 0 > "$tmp/cli.out" 2>&1 || true
      wait_for eval '[ "$(local_bytes)" = "$size" ]' \
        || fail "the job did not go on to its end: $(local_bytes) bytes local"
    else
      must_allocate sparse
    fi
  fi
  server_stop
  verify_at "$store" same
  say "seed $seed: ok"
done
