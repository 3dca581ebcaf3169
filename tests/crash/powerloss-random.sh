#!/bin/bash
# Power cuts at random moments under a random load, two in a row; G11, G12,
# G14, G16.  Some seeds also kill and restart the server on the way.
#
#   SEED=first SEEDS=how-many ./powerloss-random.sh
#
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154,SC2034,SC2119
srcdir=${srcdir:-$(dirname "$0")}
# shellcheck source=crash-lib.sh
. "$srcdir/crash-lib.sh"
crash_init fuse "$@"

SEEDS=${SEEDS:-5}
first=$seed

# Load until the power is cut; with kills: SIGKILL and restart meanwhile.
round () {
  local kills=$1 options=()
  shift

  # A cut soon is as likely as one late: log-uniform.
  random 3 11
  random 1 $((1 << r))
  fs "writeback $((RANDOM % 3 * 30))" "cut-in $r"
  if [ "$kills" -gt 0 ]; then
    options=(--reconnect)
  fi
  load_start --ops=4000 "--connections=$((1 + RANDOM % 3))" \
    "--flush=$((1 + RANDOM % 8))" "${options[@]}"
  while load_runs && ! fs_is_dead; do
    sleep 0.0$((1 + RANDOM % 9))
    if [ "$kills" -gt 0 ] && ! fs_is_dead && [ $((RANDOM % 4)) = 0 ]; then
      kills=$((kills - 1))
      server_kill
      server_start "$@" || fs_is_dead \
        || fail "the server does not start again after SIGKILL"
    fi
  done
  server_kill
  if load_runs; then
    kill -TERM "$load_pid"
  fi
  load_wait
  power_cut
}

for ((seed = first; seed < first + SEEDS; seed++)); do
  RANDOM=$seed
  keep_run=no extra=() kills=0 sync_us=$((RANDOM % 3 * 1500))
  if [ $((RANDOM % 2)) = 0 ]; then
    keep_run=yes
  fi
  if [ $((RANDOM % 2)) = 0 ]; then
    extra=(allocate=on "speed=$((1 + RANDOM % 16))M")
  fi
  if [ $((RANDOM % 3)) = 0 ]; then
    kills=3
  fi

  # Not a whole number of granules, nor of sectors.
  new_disk $(((8 + RANDOM % 16) * 1048576 + RANDOM % 5 * 513))
  backing_start
  fs_start
  server_must_start "${extra[@]}"
  round "$kills" "${extra[@]}"

  fs_start
  server_must_start "${extra[@]}"
  verify powercut --sample=40
  round "$kills" "${extra[@]}"

  fs_start
  server_must_start "${extra[@]}"
  verify powercut --sample=60
  # What it shows it keeps, over an orderly end and another cut.
  server_stop
  fs "keep-names none" "keep * 0"
  power_cut
  fs_start
  server_must_start
  verify same
  if [ "$CRASH_SERVER" = backfill ]; then
    if [ $((RANDOM % 2)) = 0 ]; then
      must_allocate sparse
    else
      must_allocate full
    fi
    # All is local: the backing store is not needed any more.
    backing_stop
    verify same
    cli detach > "$tmp/cli.out" 2>&1 \
      || fail "detach failed: $(cat "$tmp/cli.out")"
    fs "keep * 0" "keep-names none"
    power_cut
    verify_at "$fs_in/disk" same
  else
    server_stop
    fs_stop
  fi
  say "seed $seed: ok"
done
