#!/bin/bash
# The units and drop-ins that the manual shows: systemd understands them, and
# what is killed is started again.  (check-installed.sh looks at our own units.)
# SPDX-License-Identifier: LGPL-2.1-or-later
set -eu
command -v systemd-analyze > /dev/null || { echo "no systemd"; exit 77; }
tmp=$(mktemp -d /tmp/biu-XXXXXX)
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/units"

# The blocks with a section of a unit in them, each in a file.
awk -v tmp="$tmp" '
  # Blank lines inside of a block belong to it.
  function end_of_block () {
    if (block ~ /\[(Unit|Service|Socket)\]/) {
      name = tmp (block ~ /ExecStart=/ ? "/unit" : "/dropin") ++n
      printf "%s", block > name
      close (name)
    }
    block = ""
  }
  FNR == 1 { end_of_block () }
  /^ / { block = block substr ($0, 2) "\n"; next }
  /^$/ { if (block != "") block = block "\n"; next }
  { end_of_block () }
  END { end_of_block () }' "$TOP_SRCDIR"/docs/*.pod

verify () { # UNIT
  systemd-analyze verify --man=no "$1" > "$tmp/said" 2>&1 || {
    cat "$1" "$tmp/said"
    exit 1
  }
  if grep -F "$tmp/" "$tmp/said"; then
    cat "$1"
    exit 1
  fi
}

units=0
for file in "$tmp"/unit[0-9]*; do
  [ -e "$file" ] || continue
  # nbdkit is in the PATH.
  sed 's/%i/vm1/g' "$file" > "$tmp/units/example$units.service"
  verify "$tmp/units/example$units.service"
  grep -qx 'Restart=on-failure' "$file" || { cat "$file"; exit 1; }
  units=$((units + 1))
done
for file in "$tmp"/dropin[0-9]*; do
  for unit in backfilld.service backfilld.socket; do
    # (One that can be started here.)
    sed 's,@sbindir@/backfilld,/bin/true,' \
      "$TOP_SRCDIR/server/systemd/$unit"* > "$tmp/units/$unit"
  done
  unit=backfilld.service
  ! grep -q '^\[Socket\]' "$file" || unit=backfilld.socket
  mkdir -p "$tmp/units/$unit.d"
  cp "$file" "$tmp/units/$unit.d/example.conf"
  verify "$tmp/units/$unit"
  rm -r "$tmp/units/$unit.d"
  units=$((units + 1))
done
[ "$units" -ge 2 ]
echo "$units units and drop-ins"
