#!/bin/bash
# arrows.sh - which symbols and includes run up in the house.
#
# Reads FLOORS beside it and the objects of this build.  Prints a line for each
# arrow that runs up, or sideways, and for each module without a floor; exits
# with 1 if there is any, 77 without nm or objects.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
here=$(cd "$(dirname "$0")" && pwd)
src=${TOP_SRCDIR:-$here/../..}
build=${TOP_BUILDDIR:?}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
command -v nm > /dev/null || exit 77

floors='NR == FNR { if ($0 !~ /^#/) for (i = 1; i <= NF; i++) fl[$i] = FNR; next }'

# Symbols: "def SYMBOL MODULE" and "use SYMBOL MODULE".
for dir in common server/engine server/engine/source server server/volumes; do
  folder=
  case $dir in */source | */volumes) folder=${dir##*/}/ ;; esac
  for o in "$build/$dir"/.libs/*.o; do
    [ -e "$o" ] || exit 77
    m=${o##*/}
    m=$folder$(sed 's/^lib[a-z]*_la-//; s/\.o$//' <<< "$m")
    # One that was renamed leaves its object behind.
    [ -e "$src/$dir/${m#"$folder"}.c" ] || continue
    nm -g --defined-only "$o" | awk -v m="$m" 'NF == 3 { print "def", $3, m }'
    nm -u "$o" | awk -v m="$m" '{ print "use", $2, m }'
  done
done > "$tmp/symbols"
grep -q '^def' "$tmp/symbols" || exit 77

awk "$floors"'
  !($3 in fl) { if (!said[$3]++) print $3 " has no floor"; next }
  $1 == "def" { def[$2] = $3; next }
  { use[$2 " " $3] }
  END {
    for (u in use) {
      split (u, a, " ")
      if (!(a[1] in def) || def[a[1]] == a[2]) continue
      if (fl[def[a[1]]] >= fl[a[2]])
        print a[2] " calls up to " def[a[1]] ": " a[1]
    }
  }' "$here/FLOORS" "$tmp/symbols" > "$tmp/found"

# Includes of backfilld and of the engine and what is under it.  internal.h shows
# the disk: it includes the state of every module above it.
(cd "$src" && grep -H '^#include "' common/*.[ch] server/engine/*.[ch] \
   server/engine/source/*.[ch] server/*.[ch] server/volumes/*.[ch]) \
  | sed 's/:#include "/ /; s/".*//; s,^common/,,; s,^server/engine/,,; s,^server/,,' \
  | awk "$floors"'
      { file = $1; from = $1; to = $2; own = "internal"
        sub (/\.[ch]$/, "", from); sub (/\.h$/, "", to)
        if (to == "config" || from == own || from == to) next
        if (!(from in fl)) next
        # A header may have a floor of its own, under its module.
        if ($1 in fl) from = $1
        if ($2 in fl) to = $2
        if (!(to in fl)) { print file " includes " $2 ", which has no floor"; next }
        if (fl[to] >= fl[from]) print file " includes up: " $2 }
    ' "$here/FLOORS" - >> "$tmp/found"

# Includes between the folders: who may have headers of whom.
(cd "$src" && grep -H '^#include "' common/*.[ch] lib/*.[ch] lib/libvirt/*.[ch] \
   cli/*.[ch] plugin/*.[ch] server/*.[ch] server/volumes/*.[ch] server/control/*.[ch] \
   server/engine/*.[ch] server/engine/source/*.[ch]) \
  | sed 's/:#include "/ /; s/".*//' \
  | awk -v list="$(cd "$src" && echo common/*.h lib/*.h lib/libvirt/*.h \
       cli/*.h plugin/*.h server/*.h server/control/*.h server/engine/*.h \
       server/engine/source/*.h)" '
  function folder(p) { sub (/\/[^\/]*$/, "", p); return p }
  function base(p) { sub (/.*\//, "", p); return p }
  BEGIN {
    n = split (list, h, " ")
    may["common"] = ""
    may["lib"] = " common "
    may["lib/libvirt"] = " common lib "
    may["cli"] = " common lib "
    may["plugin"] = " common lib server/engine server/control "
    may["server"] = " common lib server/engine server/control server/volumes "
    may["server/volumes"] = " common server server/engine server/control "
    may["server/control"] = " common lib server/engine "
    may["server/engine"] = " common server/engine/source "
    may["server/engine/source"] = " common server/engine "
  }
  { f = folder($1); to = ""
    if ($2 ~ /^source\//) to = "server/engine/source"
    else if ($2 ~ /^volumes\//) to = "server/volumes"
    else if ($2 ~ /\//) next
    else {
      for (i = 1; i <= n; i++) # its own folder has it first
        if (base(h[i]) == $2 && (to == "" || folder(h[i]) == f)) to = folder(h[i])
    }
    if (to == "" || to == f) next
    if (to == "server/engine" && base($2) == "internal.h") {
      print $1 " includes the engine'\''s internal.h"; next }
    if (index (may[f], " " to " ")) {
      # Of lib, only wire.h is for the server, and backfill.h for all.
      if (to == "lib" && f ~ /^server/ && $2 != "wire.h" && $2 != "backfill.h")
        print $1 " includes " to "/" $2
      if (to == "server/volumes" && $2 != "volumes/volumes.h")
        print $1 " includes " $2 ", not volumes/volumes.h"
      if (to == "server/engine/source" && f == "server/engine" \
          && $2 != "source/source.h")
        print $1 " includes " $2 ", not source/source.h"
      next
    }
    # Who looks at a sidecar reads the file itself.
    if (f == "cli" && to == "server/engine" && $1 ~ "^cli/(check|offline|owner).c$") next
    # Of a volume without a server, `info --json` prints what a server would.
    if ($1 == "cli/offline.c" && $2 == "object.h") next
    print $1 " includes " to "/" base($2) }
' >> "$tmp/found"

sort -u "$tmp/found"
[ ! -s "$tmp/found" ]
