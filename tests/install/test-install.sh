#!/bin/bash
# make install into a DESTDIR: all is there, works from there, and is all
# that make uninstall has to take away.  (scripts/test does the same with a
# prefix of its own, and the release archive.)
# SPDX-License-Identifier: LGPL-2.1-or-later
set -eu
# What is linked with a sanitizer's runtime is not for others.
[ "${SANITIZER:-no}" = no ] || { echo "not with sanitizers"; exit 77; }
dest=$(mktemp -d /tmp/bid-XXXXXX)
trap 'rm -rf "$dest"' EXIT
umask 022
here=$(cd "$(dirname "$0")" && pwd)

install_build () {
  (unset MAKEFLAGS MFLAGS MAKELEVEL
   make -s -C "$TOP_BUILDDIR" "$1" DESTDIR="$dest") > "$dest.log" 2>&1 ||
    { cat "$dest.log"; rm "$dest.log"; exit 1; }
  rm "$dest.log"
}

install_build install
bash "$here/check-installed.sh" "$dest" "$PREFIX"
install_build uninstall
left=$(find "$dest" ! -type d)
[ -z "$left" ] || { echo "uninstall leaves $left"; exit 1; }
echo "uninstalled"
