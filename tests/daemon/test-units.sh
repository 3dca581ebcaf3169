#!/bin/bash
# The systemd units: understood, hardened, and the socket that systemd makes
# is the one that is served.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -eu
command -v systemd-analyze >/dev/null || { echo "no systemd"; exit 77; }
top_tmp=$(mktemp -d /tmp/bu-XXXXXX)
tmp=$top_tmp
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || :; rm -rf "$top_tmp"' EXIT

units=$TOP_SRCDIR/server/systemd
daemon=$(command -v backfilld)
# (At a path that systemd finds executable; libtool's wrapper is that, too.)
sed "s,@sbindir@/backfilld,$daemon," "$units/backfilld.service.in" \
  > "$tmp/backfilld.service"
cp "$units/backfilld.socket" "$tmp/"
said=$(systemd-analyze verify --man=no "$tmp/backfilld.service" \
         "$tmp/backfilld.socket" 2>&1) || { echo "$said"; exit 1; }
if grep -E "backfilld\.(service|socket)" <<< "$said"; then
  exit 1
fi
# 10 is no protection at all; 2.5 is what a daemon that must write other
# users' files can have.
systemd-analyze security --offline=true --threshold=25 \
  "$tmp/backfilld.service" > "$tmp/security" 2>&1 ||
  { cat "$tmp/security"; exit 1; }
tail -n 1 "$tmp/security" | cat
systemd-tmpfiles --dry-run --create "$units/backfill.conf" >/dev/null 2>&1 ||
  systemd-tmpfiles --create --root="$tmp" "$units/backfill.conf"

activate=$(command -v systemd-socket-activate) || {
  echo "no systemd-socket-activate"
  exit 0
}
tmp=$tmp/w
mkdir -p "$tmp/vols" "$tmp/run" "$tmp/state"
export BACKFILL_RUNTIME_DIR=$tmp/run
"$activate" -l "$tmp/run/backfilld.sock" -E LD_LIBRARY_PATH -E PATH \
  -E BACKFILL_RUNTIME_DIR \
  "$daemon" --runtime-dir="$tmp/run" --state-dir="$tmp/state" --idle=1 \
  "$tmp/vols" > "$tmp/log" 2>&1 < /dev/null &
pid=$!
for _ in $(seq 100); do
  [ ! -S "$tmp/run/backfilld.sock" ] || break
  sleep 0.1
done
backfill create "$tmp/vols/a.img" --size 1M
backfill allocate "$tmp/vols/a.img" --full --wait
[ "$(stat -c %b "$tmp/vols/a.img")" -ge 2048 ]
kill "$pid"
status=0
wait "$pid" || status=$?
pid=
cat "$tmp/log"
# It was systemd's, and stays.
[ -S "$tmp/run/backfilld.sock" ]
[ "$status" -eq 0 ]
echo "socket activation works"
